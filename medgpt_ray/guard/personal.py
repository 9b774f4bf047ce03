"""Personal data out of what is logged, in English and Chinese; doses and findings stay.

By form (addresses of mail, telephone, identity and card numbers) and by what introduces it ("my
name is", 姓名, MRN). A name that nothing introduces is not found: keep logs closed all the same.
"""

import re

import phonenumbers

_DIGIT = r"(?<![\d.A-Za-z])"
_END = r"(?![\d.]*\d|[A-Za-z])"
_NUMBER = r"(?:[ -]?(?:numbers?|no\.?|nr\.?|id|code))?(?: ?(?:is|:|#|：|为|是)){0,2} ?[(（【\[]?"
_CODE = r"[A-Za-z]{0,5}[ -]?\d[A-Za-z\d]*(?:[ -]{1,2}[A-Za-z]{0,3}\d[A-Za-z\d]*){0,5}"
"""A number with letters, groups and hyphens."""

_WORD = r"[A-ZÀ-Þ][\w'’]+(?:-[A-ZÀ-Þ][\w'’]+)?"
_PARTICLES = r"(?:van|von|de|del|der|den|di|da|la|le|el|bin|ibn|al)"
_NAME = (
    rf"(?:{_PARTICLES} ){{0,2}}{_WORD}"
    rf"(?:,? (?:{_WORD}|[A-Z]\b\.?|{_PARTICLES}(?: {_PARTICLES})?(?= [A-Z]))){{0,3}}"
)
"""Capitalised words with initials and particles, "SURNAME, Given" too."""
_NO_NAME = (
    r"(?!(?:A|An|The|This|That|My|His|Her|I|I'm|It|He|She|We|They|You|Yes|No|Not|None|Nil|Hello"
    r"|Hi|Hey"
    r"|Good|Thanks?|Please|Ok|Okay|Well|What|How|Why|When|Where|Which|Who|Is|Are|Can|Could|Should"
    r"|Do"
    r"|Does|Will|In|On|At|If|And|But|For|Since|After|Male|Female|Man|Woman|Boy|Girl|Adult|Elderly"
    r"|Alert|Stable|Denies|Reports|States|Presents|Presented|Admitted|Complains|Has|Had|Was|Known"
    r"|Unknown|Anonymous|Age|Aged|Google|Scholl|Pepper|Atkins|Sebi|Oz|Bean|Clean|Martens"
    r"|Breast|Lung|Diabetes|Hypertension|Asthma|Cancer|Aspirin|Atrial|Acute|Chronic"
    r"|Patients?|Doctor|Nurse|Mum|Mom|Dad|Type|Stage|Grade|Group|Ward|Day|Week|HIV|COVID)\b)"
)
_NAMED = rf"{_NO_NAME}{_NAME}"
_THINGS = (
    r"(?<!drug )(?<!brand )(?<!generic )(?<!product )(?<!medication )(?<!medicine )(?<!test )"
    r"(?<!procedure )(?<!gene )(?<!disease )(?<!file )(?<!trade )(?<!chemical )(?<!common )"
    r"(?<!device )(?<!company )(?<!hospital )(?<!study )(?<!project )(?<!model )(?<!code )"
)
_LABELS = (
    r"(?:surname|forename|full name|patient(?:'s)? name|(?:first|last|middle|given|family"
    r"|maiden) name"
    r"|pt|patient|attending|next of kin|emergency contact|mother|father|spouse|husband|wife"
    r"|guardian|carer|caregiver|(?:electronically |digitally )?signed(?: by)?|dictated by|seen by"
    r"|reviewed by"
    r"|attn|re)"
)
_RELATIVES = (
    r"(?:husband|wife|son|daughter|mother|father|mum|mom|dad|brother|sister|partner|baby|child"
    r"|grandson|granddaughter|grandmother|grandfather|aunt|uncle|friend|neighbou?r|boyfriend"
    r"|girlfriend)"
)
_CLOSINGS = r"(?:regards|wishes|sincerely|faithfully|truly|cheers|thanks|thank you|yours|love|best)"

_HAN = r"[\u4e00-\u9fff]"
_NO_HAN_NAME = (
    r"(?!高(?:血|热|烧|龄|尿|脂|钾|钠|钙|危|度|级|年)|黄(?:疸|染|斑|体|金|色)|白(?:带|癜|细|血|蛋"
    r"|内|天|色)|胡(?:话|言)|严重|苏醒"
    r"|金(?:葡|黄|属)|于(?:今|昨|是|\d)|史(?:女|：)|江南|石膏|谢谢|马上|许多|任何|曾经|方便|万一"
    r"|顾问|周[末围身一二三四五六日]|夏天"
    r"|陈旧|雷诺|孟鲁|田间|张力|左[侧手腿胸肩眼耳]|主任|方案|余下|范围|程度|武汉|汤药|戴|温[度热]"
    r"|毛[囊细]|钱|尹|段时"
    r"|石[头灰]|易[感怒]|常[见规年]|全|水[肿痘]|明[显天确]"
    r"|申请|何[时种处]|向[右左上下医]|时[常有]|皮[疹肤]|安[静全]|平[时卧素]|于|成[人年]|路[过上])"
)
_SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈"
    "姚卢姜崔钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔汤"
    "温施牛樊葛邢齐乔伍庞庄聂章鲁岳翟殷詹申欧耿焦俞左柳甘祝尚符舒阮柯纪梅童凌裴霍涂苗谷冉游靳柴蒙鲍华喻祁蒲滕屈饶牟艾尤穆"
    "卓柏瞿桂佟闵苟邬卞姬仇栾隋沙寇桑甄仲虞明佘苑迟邝褚娄窦戚岑景费晏"
)
_SURNAME = rf"(?:欧阳|司马|上官|诸葛|尉迟|皇甫|东方|公孙|慕容|令狐|司徒|夏侯|端木|[{_SURNAMES}])"
_HAN_TITLES = r"(?:女士|先生|小姐|医生|医师|大夫|主任|教授|护士|院长|老师|阿姨|叔叔|奶奶|爷爷|同志)"
_HAN_NAME = rf"{_NO_HAN_NAME}{_SURNAME}(?: ?{_HAN}){{1,2}}"
_HAN_AFTER = (
    rf"(?=[^\u4e00-\u9fff]|$|{_HAN_TITLES}|因|主诉|诉|今|昨|于|在|现|自|已|曾|有|无|突|出现|来|入"
    rf"|出|反复|近|男|女|的|和|与|及"
    r"|说|是|咳|血|头|腹|胸|发|体|年|岁|我|他|她|最|刚|前|服|住|从|被|就|到)"
)
_FOREIGN_HAN = rf"{_HAN}{{1,8}}(?:·{_HAN}{{1,8}}){{1,3}}"
_HAN_LABELS = (
    r"(?:姓名|大名|名字(?:是|叫)?|申请人|收件人|护士长|麻醉医师|患者名?|患儿|病人|家属|联系人"
    r"|(?:主治|主管|报告|审核|送检|申请|经治"
    r"|接诊)?(?:医师|医生|护士)(?:签名|签字)?|签名|签字"
    r"|本人|父亲|母亲|丈夫|妻子|配偶|监护人)"
)
_CALLED = (
    r"(?:我|名|儿子|女儿|孩子|宝宝|老婆|老公|妻子|丈夫|爸爸?|妈妈?|爷爷|奶奶|弟弟|妹妹|哥哥|姐姐"
    r"|他|她|本人|病人|患者|字|人)叫"
)
_DATE = (
    r"(?:\d{1,4}[-/. ]\d{1,2}[-/. ]\d{1,4}|\d{1,2}[- ][A-Za-z]{3,9}\.?,?[- ]\d{2,4}"
    r"|[A-Za-z]{3}-\d{1,2}-\d{4}|[A-Z][a-z]{2,8}\.? \d{1,2}(?:st|nd|rd|th)?,? \d{4}"
    r"|(?:the )?\d{1,2}(?:st|nd|rd|th)?(?: of)? [A-Z][a-z]{2,8}(?:,? \d{4})?"
    r"|\d{8}|(?:19|20)\d{2})(?![\d-])"
)
_HAN_DATE = (
    r"(?:(?:19|20)?\d{2} ?[年./-] ?\d{1,2}(?: ?[月./-](?: ?\d{1,2}日?)?)?|\d{1,2}月\d{1,2}日"
    r"|(?:19|20)\d{6}"
    r"|(?:19|20)\d{2}年?)"
)
_STREETS = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Court|Ct|Boulevard|Blvd|Way|Close|Place|Pl"
    r"|Terrace|Square|Crescent|Parkway|Highway|Broadway|Row|Gardens|Mews)\b\.?"
)
_POSTCODE = r"(?:[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}|[A-Z]{2} \d{5}(?:-\d{4})?|\d{5}(?:-\d{4})?)\b"
_TOWN = (
    r"(?:,? (?:NW|NE|SW|SE|N|S|E|W)\b)?"
    rf"(?:,? (?:{_WORD}|[A-Z]{{2}}|Apt\.? \w+|Unit \w+|Flat \w+)){{0,4}}"
)


def _under(keys: str) -> str:
    """What JSON or Python has under one of `keys`, quoted or a number; JSON in a string of JSON
    has a backslash before its quotes."""
    return (
        rf"(?P<keep>[\"'](?i:{keys})\\{{0,7}}[\"']\s*:\s*(?:\[\s*)?(?P<quote>\\{{0,7}}[\"'])?)"
        r"(?(quote)(?:(?!(?<!\\)(?P=quote))(?s:.))+|\d[\d./-]{3,})"
    )


PATTERNS: dict[str, tuple[str, ...]] = {
    "email": (
        r"(?<![\w.+-])[\w.+-]{1,64}(?:@| ?[(\[] ?at ?[)\]] ?)[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}",
    ),
    "identity": (
        rf"{_DIGIT}\d{{6}}[- ]?(?:19|20)\d{{2}}(?:0[1-9]"
        rf"|1[0-2])\d{{2}}[- ]?\d{{3}}[\dXx](?![\dA-Za-z])",
        rf"{_DIGIT}\d{{3}}-\d{{2}}-\d{{4}}{_END}",
        _under(
            r"ssn|passport(?:[_ -]?(?:number|no))?|national[_ -]?id"
            r"|id[_ -]?(?:card|number|no)|身份证号?码?|护照号?码?"
        ),
        rf"(?i:(?P<keep>\b(?:ssn|social security){_NUMBER}))\d[\d -]{{2,10}}\d",
        rf"(?i:(?P<keep>\b(?:passport|driver'?s licen[cs]e|driving licen[cs]e|ni|national insurance"
        rf"|iban){_NUMBER}))(?=[^\n,;]{{0,8}}\d){_CODE}(?: [A-Z]\b)?",
        r"(?P<keep>(?:护照|身份证|社保|医保|通行证|军官证|驾驶证)(?:后四位)?(?:号码?|卡号?"
        r"|编号)?[:：为是 ]{0,3})[A-Z]{0,2}\d[\d-]{3,19}[Xx]?",
    ),
    "record": (
        _under(
            r"mrn|(?:patient|record|insurance|member)[_ -]?(?:id|number|no)|(?:病历|住院|门诊)号"
        ),
        rf"(?i:(?P<keep>\b(?:mrn|medical record|patient id|insurance id){_NUMBER}))"
        rf"(?=[^\n,;]{{0,8}}\d){_CODE}",
        rf"(?i:(?P<keep>\b(?:medical record|patient|nhs|hospital|chart|case|record|accession|member"
        rf"|policy|medicare|medicaid|insurance|subscriber|group)"
        rf" ?(?:numbers?|no\.?|nr\.?|id|#)(?: ?(?:is|:|#))? ?[(\[]?))(?=[^\n,;]{{0,8}}\d){_CODE}",
        rf"(?i:(?P<keep>\bnhs{_NUMBER}))\d{{3}} ?\d{{3}} ?\d{{4}}",
        r"(?P<keep>(?:病历|住院|门诊|就诊卡?|病案|检查|登记|保单|保险单|档案|床位?"
        r"|(?<![A-Za-z])ID)(?:编?号)?码?(?:[:：为是 ]{0,3}[(（【\[]?))"
        r"[A-Za-z]{0,6}[ -]?\d[\d-]{2,16}",
    ),
    "account": (r"(?P<keep>(?:微信号?|QQ号?)[:：是 ]{0,2})[A-Za-z\d][\w-]{4,19}",),
    "card": (
        rf"(?i:(?P<keep>\b(?:card|account|visa|mastercard)\b[^\d\n]{{0,12}}|(?:卡号|账号"
        rf"|银行卡)[^\d\n]{{0,4}}))"
        rf"\d{{4}}(?:[ -]?\d{{2,4}}){{2,4}}{_END}",
        rf"{_DIGIT}\d{{4}}([ -])\d{{4}}\1\d{{4}}\1\d{{1,7}}(?:\1\d{{1,4}})?{_END}(?! ?(?:copies"
        rf"|cfu|iu|拷贝))",
        rf"{_DIGIT}(?:\d{{16,19}}|3[47]\d{{13}}){_END}(?! ?(?:copies|cfu|iu|拷贝))",
    ),
    "phone": (
        _under(
            r"(?:(?:home|cell|mobile|contact)[_ -]?)?(?:tele)?phone(?:[_ -]?(?:number|no))?|mobile"
            r"|(?:联系)?电话|手机号?码?"
        ),
        rf"{_DIGIT}(?:\+?86[ -]?)?1[3-9]\d(?:[ -]?\d{{4}}){{2}}{_END}(?! ?(?:copies|cfu|iu|拷贝))",
        rf"{_DIGIT}0\d{{2,3}}[ -]?\d{{7,8}}{_END}",
        r"(?<![\w.+])\+\d{1,3}(?:[ -/]{0,3}\(?\d{1,4}\)?){2,5}(?!\d)",
        rf"(?<![\w.])(?:\(\d{{3}}\) ?|\d{{3}}([-. ]))\d{{3}}(?:\1|-)\d{{4}}{_END}(?! ?(?:mg|g|ml"
        rf"|mcg)\b)",
        rf"(?i:(?P<keep>\b(?:(?:tele)?(?:phone|fon)|mobile|cell|tel|fax|call(?: me)?(?: at| on)?"
        rf"|ring(?: me)?(?: at| on)?|text(?: me)?(?: at| on)?)\b\.?{_NUMBER}))"
        r"\(?\d[\d ()/-]{5,18}\d",
        r"(?P<keep>(?:电话|手机|联系方式|座机|传真"
        r"|致电)号?码?[:：为是 ]{0,3})[(（]?\d[\d ()（）-]{5,16}\d",
        r"(?P<keep>(?:电话|手机)号?码?[:：为是 ]{0,3})[零〇一二三四五六七八九幺]{7,11}",
    ),
    "birth date": (
        rf"(?i:(?P<keep>(?:\bborn(?: on| in)?|\b(?:date|year) of birth|\bd\.?o\.?b\b\.?"
        rf"|\bbirth ?date"
        rf"|\bbirthday(?: is)?)\W{{0,3}}(?:\(?[dmy/]+\)?\W{{1,2}})?(?:is )?(?:on )?)){_DATE}",
        rf"(?P<keep>(?:出生(?:日期|年月日?|于)?|生日|生于)[:：为是于 ]{{0,3}}){_HAN_DATE}",
        r"(?:\d{2,4}年(?:\d{1,2}月)?(?:\d{1,2}日)?)(?=出?生)",
        _under(r"dob|birth[_ -]?da(?:te|y)|date[_ -]?of[_ -]?birth|出生(?:日期|年月日?)?|生日"),
    ),
    "name": (
        rf"(?P<keep>\b(?i:my name(?:['’]s| is)|i['’]m called|i am called|call me) ){_NAMED}",
        r"(?P<keep>\b(?i:my name(?:['’]s| is)) )"
        r"(?!(?:on|in|not|the|a|an|it|too|very|hard|spelled|wrong)\b)[a-z'’-]{2,}"
        r"(?: (?!(?:and|but|i|im|from|with|here|calling|who|aged?)\b)[\w'’-]{2,})?",
        rf"(?P<keep>\b(?i:(?:{_THINGS}name|{_LABELS})(?::| -| is:?) ?)){_NAMED}(?=[ ,;.\n(/]|$)",
        rf"(?P<keep>\b(?i:patient|pt|seen by|signed by|signed|reviewed by|dictated by) )"
        rf"{_NO_NAME}{_WORD} {_NAME}",
        _under(
            r"(?:(?:patient|full|first|middle|last|given|family|maiden|user|contact)[_ -]?)*name"
            r"|surname|forename|patient|family|given|(?:患者|病人|联系人|家属)?姓名|联系人|患者|病人"
        ),
        rf"(?P<keep>\b(?:Mrs?|MRS?|Ms|Miss|Mx|Dr|DR|Prof|Professor|Doctor|Nurse)\b\.? ?){_NAMED}",
        rf"(?P<keep>\b(?:I am|I['’]m|This is|this is) ){_NO_NAME}{_WORD} {_WORD}"
        r"(?=[.,;!\n]|$| and\b| from\b| calling\b| here\b| speaking\b)(?! (?i:disease|syndrome))",
        rf"(?P<keep>\b(?i:my|his|her|our"
        rf"|patient['’]s) (?i:{_RELATIVES}),? ){_NO_NAME}[A-Z][a-z]+(?: {_WORD})?",
        rf"(?P<keep>\b(?i:{_CLOSINGS})[,.!]?\s{{1,3}}){_NAMED}(?=\s*(?:$|\n))",
        rf"\b{_NO_NAME}(?:{_WORD}|[A-Z]\.)(?: (?:{_WORD}|[A-Z]\.)){{1,3}}"
        r"(?=,? (?:MD|M\.D\.|RN|DO|PhD|FRCP|MBBS|PA-C)\b)",
        rf"(?P<keep>{_HAN_LABELS}[:：] ?)(?:{_HAN_NAME}(?!{_HAN})|{_HAN_NAME}{_HAN_AFTER}"
        rf"|{_FOREIGN_HAN}|{_NAMED})",
        rf"(?P<keep>{_HAN_LABELS}[:：为是 ]{{0,2}})(?:{_FOREIGN_HAN}|{_HAN_NAME}{_HAN_AFTER})",
        rf"(?P<keep>{_CALLED})(?:{_HAN_NAME}{_HAN_AFTER}|[小阿]{_HAN}{{1,2}}{_HAN_AFTER}"
        rf"|{_FOREIGN_HAN}|{_NAMED})",
        rf"(?P<keep>我姓)(?:{_SURNAME}|{_HAN}(?!{_HAN}))",
        rf"(?P<keep>(?:姓名|联系人|签名|签字|申请人|收件人|家属|{_HAN}{{2}}医[师生])[:：] ?)"
        rf"(?!无|不详|未知|待|同|建议|良好|已|未){_HAN}{{2,4}}(?!{_HAN})",
        rf"(?P<keep>我?(?:爸爸?|妈妈?|儿子|女儿|老婆|老公|父亲|母亲|爷爷"
        rf"|奶奶)){_HAN_NAME}{_HAN_AFTER}",
        rf"(?P<keep>(?:^|[，。；\n])我是){_NO_HAN_NAME}{_SURNAME}{_HAN}{{1,2}}(?=[，。,；;（( \n]"
        rf"|$)",
        rf"(?<![由对关处等基属位其])(?<![谢主副]){_NO_HAN_NAME}{_SURNAME}{_HAN}{{0,2}}?(?={_HAN_TITLES})",
        rf"(?P<keep>敬礼\s{{1,3}}){_HAN_NAME}(?=\s*(?:$|\n))",
        rf"(?P<keep>(?:爸爸?|妈妈?|儿子|女儿|老婆|老公|父亲|母亲|丈夫|妻子|爷爷"
        rf"|奶奶)[（(，])({_HAN_NAME})(?=[，,）)])",
        rf"(?P<keep>(?i:\bname): ?){_HAN_NAME}(?!{_HAN})",
    ),
    "address": (
        _under(
            r"(?:(?:home|street|postal|mailing|patient)[_ -]?)?address(?:[_ -]?line)?[_ -]?\d?"
            r"|(?:家庭|现|联系|通讯|居住)?(?:住址|地址)"
        ),
        rf"\b\d{{1,5}}[A-Za-z]?,? (?:(?:N|S|E|W|NE|NW|SE"
        rf"|SW)\.? )?(?:[A-Z][\w'’-]+ ){{1,3}}{_STREETS}(?! trips?\b)"
        rf"(?:{_TOWN},? {_POSTCODE})?{_TOWN}",
        rf"\b\d{{1,5}} Broadway\b(?:{_TOWN},? {_POSTCODE})?",
        r"\b\d{1,5} [a-z]{3,12} (?:street|avenue|road|lane)\b",
        rf"\b(?i:p\.? ?o\.? box) \d+(?:{_TOWN},? {_POSTCODE})?",
        r"(?P<keep>\b(?i:(?:home |postal |mailing )?address"
        r"|adresse)(?: is|[:：]) )[^\n;]{5,80}?(?=[.;\n]|$)",
        rf"(?P<keep>\b(?i:post ?code|zip(?: code)?)(?: is)?:? ){_POSTCODE}",
        r"\b[A-ZÄÖÜ]\w{0,30}(?:-\w{1,30})?(?:straße|strasse|weg|platz|allee"
        r"|gasse) \d+[a-z]?(?:, \d{5} [A-ZÄÖÜ][\w-]+)?",
        r"\b\d{1,4},? (?:rue|avenue|boulevard|place) (?:de |du |des |la "
        r"|le )*[A-ZÀ-Þ][\w-]+(?:, (?:\d{5} )?[A-ZÀ-Þ][\w-]+)?",
        r"(?P<keep>(?:家住|住址|地址|住在|籍贯|寄到|寄往|邮寄到|我住(?!院|的|了|过)"
        r"|家在)[:：为是 ]{0,3})[^，。；,;\n]{4,40}?(?=  |[，。；,;\n]|$)",
        rf"{_HAN}{{2,8}}(?:省|自治区)?{_HAN}{{0,8}}市{_HAN}{{1,6}}[区县](?:{_HAN}|\d"
        rf"|[A-Za-z-]){{2,25}}?\d+(?:号|弄|栋|幢|室|单元)?(?:{_HAN}{{0,8}}\d+(?:号|栋|幢|室|单元"
        rf"|楼)?){{0,3}}",
    ),
}
_COMPILED = [(kind, re.compile(form)) for kind, forms in PATTERNS.items() for form in forms]
_REGIONS = ("CN", "US", "GB", "DE")
_AMOUNT = re.compile(r" ?(?:mg|g|ml|mcg|copies|cfu|iu|拷贝|%|mmol)", re.IGNORECASE)
_UNICODE = re.compile(r"(?<!\\)(?:\\+u[0-9A-Fa-f]{4})+")
_HAS_JSON = re.compile(r"\s*[\[{\"]|(?s:.)*?[\"']\s*:")
_ESCAPE = re.compile(r"(?<!\\)\\+([nrt/])")


def mask(text: str) -> str:
    """`text` with each piece of personal data as its kind: "my phone is [phone]"; JSON in it, of
    tools, is read first."""
    text = _unescaped(text)
    for kind, pattern in _COMPILED:
        keep = r"\g<keep>" if "keep" in pattern.groupindex else ""
        text = pattern.sub(f"{keep}[{kind}]", text)
    return _without_phones(text)


def _unescaped(text: str) -> str:
    r"""With what JSON escapes in plain, nested JSON too: \u5f20, \\u5f20, \n, but not quotes, which
    end the value."""
    text = _UNICODE.sub(_characters, text)
    if _HAS_JSON.match(text):
        text = _ESCAPE.sub(lambda match: "/" if match[1] == "/" else "\n", text)
    return text


def _characters(escapes: re.Match[str]) -> str:
    codes = re.findall(r"u(.{4})", escapes.group())
    read = bytes.fromhex("".join(codes)).decode("utf-16-be", errors="replace")
    return re.sub(r"[\"\\]", r"\\\g<0>", read)


def _without_phones(text: str) -> str:
    """Telephone numbers that no word introduces, where they are valid in one of the regions."""
    for region in _REGIONS:
        found = list(phonenumbers.PhoneNumberMatcher(text, region))
        for match in reversed(found):
            digits = sum(character.isdigit() for character in match.raw_string)
            if digits >= 9 and not _AMOUNT.match(text, match.end):
                text = f"{text[: match.start]}[phone]{text[match.end :]}"
    return text
