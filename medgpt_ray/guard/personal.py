"""Personal data out of what is logged, in English and Chinese; doses and findings stay.

By form (addresses of mail, telephone, identity and card numbers) and by what introduces it ("my
name is", 姓名, MRN). A name that nothing introduces is not found: keep logs closed all the same.
"""

import re

_DIGIT = r"(?<![\d.A-Za-z])"
_END = r"(?![\d.]*\d|[A-Za-z])"
_NAME = r"[A-Z][\w'’-]+(?: (?:[A-Z]\.|(?:van|von|de|la|bin|al)\b|[A-Z][\w'’-]+)){0,3}"
_SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈"
    "姚卢姜崔钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤"
)

_NUMBER = r"(?: ?(?:number|no\.?|id))?(?: ?(?:is|:|#|：|为|是)){0,2} ?"

PATTERNS: dict[str, tuple[str, ...]] = {
    "email": (r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}",),
    "identity": (
        rf"{_DIGIT}\d{{6}}(?:19|20)\d{{2}}(?:0[1-9]|1[0-2])\d{{5}}[\dXx](?![\dA-Za-z])",
        rf"{_DIGIT}\d{{3}}-\d{{2}}-\d{{4}}{_END}",
        rf"(?i:(?P<keep>\bpassport{_NUMBER}))[A-Z]{{1,2}}\d{{6,9}}\b",
        r"(?P<keep>(?:护照|身份证|社保|医保)(?:号码?|卡号)?[:：为是 ]{0,3})[A-Z]{0,2}\d{6,18}[Xx]?",
    ),
    "record": (
        rf"(?i:(?P<keep>\b(?:mrn|medical record|patient id|nhs|insurance id){_NUMBER}))"
        r"[A-Z]{0,3}[\d -]{4,15}\d",
        r"(?P<keep>(?:病历|住院|门诊|就诊卡|病案)号?码?[:：为是 ]{0,3})[A-Za-z]{0,3}\d{3,14}",
    ),
    "card": (rf"{_DIGIT}\d{{4}}(?:[ -]?\d{{4}}){{2,3}}(?:[ -]?\d{{1,3}})?{_END}",),
    "phone": (
        rf"{_DIGIT}(?:\+?86[ -]?)?1[3-9]\d(?:[ -]?\d{{4}}){{2}}{_END}",
        rf"{_DIGIT}0\d{{2,3}}[ -]?\d{{7,8}}{_END}",
        r"(?<![\w.+])\+\d{1,3}(?:[ -]?\(?\d{1,4}\)?){2,5}(?!\d)",
        rf"(?<![\w.])(?:\(\d{{3}}\) ?|\d{{3}}[-. ])\d{{3}}[-. ]\d{{4}}{_END}",
        rf"(?i:(?P<keep>\b(?:tele)?(?:phone|mobile|cell|tel)\b\.?{_NUMBER}))\d[\d -]{{5,14}}\d",
        r"(?P<keep>(?:电话|手机|联系方式)号?码?[:：为是 ]{0,3})\d[\d -]{5,14}\d",
    ),
    "birth date": (
        r"(?i:(?P<keep>(?:\bborn(?: on)?|\bdate of birth|\bdob|\bbirthday(?: is)?)\W{0,3}(?:is )?))"
        r"(?:\d{1,4}[-/. ]\d{1,2}[-/. ]\d{1,4}|[A-Z][a-z]+ \d{1,2},? \d{4}"
        r"|\d{1,2}(?:st|nd|rd|th)? [A-Z][a-z]+,? \d{4})",
        r"(?P<keep>(?:出生(?:日期|于)?|生日)[:：为是于 ]{0,3})"
        r"\d{4} ?[年./-] ?\d{1,2} ?[月./-] ?\d{1,2}日?",
        r"\d{4}年\d{1,2}月\d{1,2}日(?=出?生)",
    ),
    "name": (
        r"(?P<keep>\b(?i:my name is|name is|name:|i'm called|i am called|patient:"
        rf"|mrs?\.?|ms\.?|dr\.?) ){_NAME}",
        r"(?P<keep>(?:我叫|名叫|姓名|名字是|名字叫|患者|病人)[:：为是 ]{0,2})"
        rf"(?:欧阳|司马|上官|诸葛|[{_SURNAMES}])[\u4e00-\u9fff·]{{1,2}}(?=[，。,；;（( \n]|$)",
        rf"(?P<keep>(?:^|[，。；\n])我是)[{_SURNAMES}][\u4e00-\u9fff]{{1,2}}(?=[，。,；;（( \n]|$)",
    ),
    "address": (
        r"\b\d{1,5}[A-Za-z]? (?:[A-Z][\w'’-]+ ){1,3}"
        r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Court|Boulevard|Blvd|Way|Close)\b\.?",
        r"(?P<keep>(?:家住|住址|地址|住在)[:：为是 ]{0,3})[^，。；,;\n]{4,40}",
    ),
}
_COMPILED = [(kind, re.compile(form)) for kind, forms in PATTERNS.items() for form in forms]


def mask(text: str) -> str:
    """`text` with each piece of personal data as its kind: "my phone is [phone]"."""
    for kind, pattern in _COMPILED:
        keep = r"\g<keep>" if "keep" in pattern.groupindex else ""
        text = pattern.sub(f"{keep}[{kind}]", text)
    return text
