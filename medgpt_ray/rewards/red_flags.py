"""What a patient says that may be an emergency, in the spelling of `mentions.plain`.

Grouped as triage does it: airway and breathing, circulation, consciousness and nerves, poisons,
self-harm, bleeding, pregnancy and infants, injuries, other. A mention is looked for between
commas, so no pattern reaches over one. When in doubt it is left out where many healthy people say
the same (a swollen throat, a cramp, a fever), for a false alarm is a mistake as well.
"""

import re

_WHOSE = r"(?:my|his|her|the|our|their|its)"
_PART = r"(?:arms?|legs?|hands?|feet|foot|face|body|side|limbs?)"
_SOMEBODY_SMALL = r"(?:toddler|child|baby|son|daughter|kid|boy|girl|infant|grand(?:son|daughter))"
_HARMFUL = (
    r"(?:bleach|poison|batter(?:y|ies)|cleaner|detergent|pesticides?|antifreeze|weed ?killer"
    r"|magnets?|petrol|gasoline|kerosene|acid|lye|methanol|rat poison)"
)

_BREATHING = (
    r"(?:can (?:not|hardly|barely)|could not|unable to|trouble|difficulty|difficult to|struggl\w+"
    r"|fighting|hard|hardly|barely|stopped|not)(?: to| with| for| properly)? (?:breath\w*|get (?:any )?air"
    r"|catch (?:my|his|her) breath)"
    r"|short(?:ness)? of breath|breath\w* (?:is |very |really |so )*(?:fast and shallow|labou?red)"
    r"|gasping|suffocat|chok(?:ing|ed)\b|stuck in (?:my|his|her|the) (?:throat|windpipe)"
    r"|(?:lips?|face|tongue|fingers)[^.;]{0,20}\b(?:blue|purple)\b|turn(?:ing|ed|s)? blue"
    r"|wheez\w+ (?:badly|severely|really|so)|(?:severe|bad) (?:asthma attack|wheez\w+)"
    r"|can (?:not|hardly|barely) (?:talk|speak|swallow (?:my|his|her) own|finish a sentence)"
    r"|throat[^.;]{0,15}\bclos\w+|(?:throat|tongue) (?:is |are |started |keeps )*swell"
    r"|(?:tongue|lips?)(?: and (?:\w+ )?\w+)?(?: is| are| have| has)?(?: been| getting| become)?"
    r" (?:swell|swoll)\w*|swell\w* (?:of|in) (?:my|his|her|the) (?:tongue|lips?|throat)|anaphyla"
    r"|呼吸(?:困难|费力|急促|停止|不了|不过来|很?吃力)|喘不(?:上|过)[来]?气|(?:不能|没有?|停止)呼吸|透不过气"
    r"|上不来气|憋气?得|窒息|(?:嘴唇|口唇|嘴巴?|脸色?|面色|指甲|全身)[^，。；]{0,3}(?:发|变)?(?:紫|青紫|发青|绀)|发绀"
    r"|(?:脸|嘴唇)色?(?:发|变)青|喉头水肿|(?:喉咙|喉头|舌头|嘴唇|口唇)[^，。；]{0,4}肿(?!痛|疼)"
    r"|(?:卡|噎)(?:住|到|着|在)[^，。；]{0,6}(?:喉|气管|嗓)|(?:喉咙|气管|嗓子)[^，。；]{0,6}(?:卡|噎)|噎(?:住|着)"
    r"|气管异物|过敏性?休克"
)
_CIRCULATION = (
    r"chest (?:pain|pressure|tightness|discomfort)"
    rf"|(?:pain\w*|pressure|tight\w*|weight|squeez\w+|crush\w+|elephant|ach\w+|hurt\w*)\b[^.;]{{0,30}}"
    rf"\b(?:in|on|across|of) (?:the (?:middle|cent(?:re|er)) of )?{_WHOSE} chest"
    r"|chest (?:is |feels? |has been |really |so |very |suddenly )*(?:hurt|tight|heavy|crush|ach|squeez)"
    rf"|(?:down|into|to|up) {_WHOSE} (?:left )?(?:arm|jaw)\b|heart attack (?:now|right)"
    r"|(?:heart|pulse)[^.;]{0,30}(?:pass(?:ing)? out|faint|\b1[5-9]\d\b|\b2\d\d\b)"
    r"|no pulse|heart (?:has )?stopped"
    r"|胸(?:口|部|前区|骨后?|前)?[^，。；]{0,5}(?:疼|痛|压榨|像压|压着|压了|像被压|石头)|左(?:臂|肩|胳膊|手臂)[^，。；]{0,4}(?:麻|痛|疼)"
    r"|心(?:口|前区|脏)[^，。；]{0,3}(?:绞痛|剧痛|疼|痛)|心绞痛|心梗|心肌梗|心脏(?:骤停|停)|(?:没有?|摸不到)(?:心跳|脉搏)|濒死感"
)
_CONSCIOUSNESS = (
    r"unconscious|unresponsive|not respond|los(?:t|s of|ing) consciousness|passed out|pass(?:ing)? out"
    r"|black(?:ed|ing) out|collapsed|faint(?:ed|ing)\b"
    r"|(?:will|can|would|does|could|do) not (?:wake|be woken|rouse|come round)|not waking up"
    r"|can not be woken|(?:went|gone|is|are|all) (?:completely )?(?:limp|floppy)"
    r"|seizure|seizing|convuls|(?:having|had|has|in) (?:a|another) fit\b|(?:been|is|was|keeps) fitting"
    r"|(?:is|are|was|became|become|seems?|getting|very|suddenly|acting) (?:\w+ )?(?:confused|delirious)"
    r"|confused and (?:drowsy|sleepy|feverish|shivering)|(?:drowsy|sleepy) and confused"
    r"|does not (?:know where|recogni[sz]e (?:me|us))|makes? no sense|talking nonsense"
    rf"|fac(?:e|ial)[^.;]{{0,25}}\b(?:droop|dropp|sagg|numb|lopsided|paraly)\w*|droop\w* (?:face|mouth)"
    rf"|(?:half|(?:one|left|right) side) of {_WHOSE} (?:face|body)"
    r"|slurr\w+|(?:speech|words?) (?:is |are |has become |have become |come out |coming out |sounds? )*"
    r"(?:garbled|wrong|jumbled|mumbled|unclear)|can not (?:speak|get (?:my|his|her) words out|find words)"
    rf"|can not (?:move|lift|raise|feel) (?:{_WHOSE}|one|either) ?(?:left |right |own )?{_PART}\b"
    rf"|{_PART} (?:is|are|went|has gone|have gone|suddenly) (?:suddenly )?(?:weak|numb|paraly\w+|dead)"
    r"|sudden\w*\b[^.;]{0,35}\b(?:blind\w*|weak\w*|numb\w*|paraly\w+|confus\w+|headache|double vision"
    r"|(?:can|could) not (?:see|speak|walk|move))"
    r"|(?:los[tse]\w*|loss of) (?:\w+ )?(?:vision|sight|speech)|(?:went|gone|going) blind"
    r"|thunderclap|worst headache|headache[^.;]{0,20}\bworst|worst[^.;]{0,10}\bheadache"
    r"|stiff neck[^.;]{0,40}(?:fever|rash|headache|light)|(?:fever|rash|headache)[^.;]{0,40}stiff neck"
    r"|rash[^.;]{0,30}\bnot (?:fade|blanch|disappear|go away when)"
    r"|lost control of (?:my|his|her) (?:bladder|bowel)|numb[^.;]{0,20}(?:groin|saddle|genital)"
    r"|昏迷|昏倒|昏死|意识(?:不清|丧失|模糊)|失去(?:知觉|意识)|没有?(?:知觉|意识)|神志不清|不省人事|晕倒|晕厥"
    r"|(?:叫|唤|喊|摇)(?:都)?不醒|(?:叫|喊|拍|呼|怎么叫)[^，。；]{0,5}没有?反应|倒(?:在)?地|休克|抽搐|抽风|惊厥|癫痫发作|口吐白沫"
    r"|(?:嘴|口角|口眼|嘴角|脸|面部)[^，。；]{0,4}(?:歪|斜|瘫|耷拉)|(?:一侧|半边|单侧)(?:肢体|身体|身子|手脚|脸)"
    r"|(?:左|右)(?:侧|边|半身)?(?:的)?(?:手|脚|腿|胳膊|臂|肢体|半身|身子|身体)[^，。；]{0,6}(?:无力|没力|没有力气|没劲|动不了|不能动|抬不起|不听使唤)"
    r"|偏瘫|手脚(?:动不了|不能动|不听使唤)|(?:言语|说话|口齿|吐字|讲话)(?:不清|含糊|不利索|困难)|说不(?:出|了|清)话|失语|胡言乱语"
    r"|突然[^，。；]{0,6}(?:看不见|失明|看不清|说不|动不了|无力|昏|晕倒|剧烈|麻木|糊涂|认不)|(?:眼睛?|左眼|右眼)[^，。；]{0,4}(?:看不见|失明)"
    r"|剧烈(?:的)?头(?:痛|疼)|头(?:痛|疼)(?:欲裂|得?(?:像要|要|快)?(?:炸|裂))|喷射(?:性|状)?(?:的)?呕吐|(?:脖子|颈部?)(?:发硬|僵硬|强直)"
    r"|(?:大小便|大便|小便)失禁"
)
_POISON = (
    rf"overdos|(?:swallowed|drank|drunk|ingested|ate|eaten)\b[^.;]{{0,25}}\b{_HARMFUL}"
    rf"|{_SOMEBODY_SMALL}\b[^.;]{{0,15}}\b(?:swallowed|ate|eaten|got into|drank)\b[^.;]{{0,30}}"
    r"\b(?:pills?|tablets?|medicines?|medication|capsules?)"
    r"|(?:too many|handful of|bottle of|(?:box|packet|pack) of|all (?:of )?my) (?:[\w-]+ ){0,3}"
    r"(?:pills|tablets|capsules)|(?:took|taken|swallowed) (?:about |around |nearly |over |like )?"
    r"[1-9]\d+ (?!mgs?\b|mcg|µg|μg|g\b|ml|units?|iu|milligrams?)(?:[\w-]+ ){0,3}?"
    r"(?:pills|tablets|capsules|paracetamols?|tylenols?|ibuprofens?|aspirins?)"
    r"|poison(?:ed|ing)\b|carbon monoxide|gas leak|inhal\w+ (?:smoke|fumes|chlorine|gas)"
    r"|服药过量|过量(?:服|吃|用)|(?:药|吃|服)(?:物)?[^，。；]{0,3}过量|误(?:服|食|吞|喝|吃)"
    r"|吞(?:了|下|食|进)[^，。；]{0,8}(?:电池|磁|针|钉|玻璃|药)"
    r"|(?:吃|服|吞)[^，。；]{0,4}(?:一整|整整?一?|大半|大?一?)(?:瓶|盒|板|把)|(?:吃|服|吞)(?:了|下)?(?:几|好几|[二三四五六七八九]?十|[2-9]\d|1\d\d)"
    r"(?:多|几)?(?:片|颗|粒)|喝[^，。；]{0,4}(?:农药|百草枯|敌敌畏|消毒液|84|洁厕|漂白|清洁剂|洗涤|汽油|毒)|百草枯|敌敌畏"
    r"|(?:煤气|一氧化碳|药物|农药|酒精|有机磷|亚硝酸盐|蘑菇|毒蘑菇|河豚)[^，。；]{0,2}中毒|(?:煤气|燃气)泄漏"
)
_SELF_HARM = (
    r"kill(?:ing)? (?:myself|himself|herself|themselves)|suicid|end(?:ing)? (?:my|his|her|it|their)"
    r" (?:own )?(?:life|all)|(?:take|taking) (?:my|his|her) own life|(?:do|does|did) not want to"
    r" (?:live|be alive|go on living|be here)|(?:want|wants|wanted|ready|going) to die"
    r"|better off dead|(?:hurt|harm|cut)(?:ting|ing)? (?:myself|himself|herself)|self[- ]harm"
    r"|slit (?:my|his|her) wrist"
    r"|自杀|轻生|自残|割腕|割(?:了)?(?:自己|手腕)|想死(?!你)|不想活|活不下去|活着(?:真)?没(?:有)?(?:意思|意义)|结束(?:自己|我|生命|这一切)"
    r"|了结自己|跳楼|上吊"
)
_BLEEDING = (
    r"(?:vomit\w*|throw\w* up|threw up|cough\w* up|spitting)(?: up)? (?:\w+ )?(?:\w+ )?blood"
    r"|vomit\w* (?:\w+ )?coffee ground|blood in (?:my|his|her|the) vomit"
    r"|(?:heavy|severe|profuse|uncontrolled) bleeding|bleeding (?:so )?(?:heavily|profusely|badly|a lot)"
    r"|bleeding[^.;]{0,20}\bnot stop|not stop (?:the )?bleeding|blood[^.;]{0,12}\b(?:spurt|gush|pour|everywhere)\w*"
    r"|soak\w+ (?:through )?(?:a |one |two |\d )?(?:pads?|towels?)[^.;]{0,12}\b(?:hour|blood)"
    r"|tarry|(?:stools?|poo\w*) (?:is|are|has been|was|turned) (?:\w+ )?black"
    r"|(?:吐|呕|咳)[^，。；]{0,5}血|(?:流血|出血|血)[^，。；]{0,5}(?:不止|止不住|不停|如注|喷)|止不住血|大出血|(?:大量|喷射)[^，。；]{0,2}(?:出血|流血|便血)"
    r"|黑便|大便[^，。；]{0,3}(?:发黑|黑色|柏油)|柏油"
)
_BIRTH = (
    r"pregnan\w*(?![^.;]{0,60}\b(?:gums?|nose))[^.;]{0,60}\bbleed\w*"
    r"|bleed\w*(?<!gums bleed)[^.;]{0,30}\bpregnan|weeks pregnant[^.;]{0,40}(?:bleed|severe|headache)"
    r"|baby (?:has |have )?(?:stopped|not|is not|has not been|not been) (?:moving|kicking|moved|kicked)"
    r"|not felt (?:the |my )?baby (?:move|kick)|waters? (?:have |has |just )?(?:broke|broken)\b|cord (?:is )?(?:out|hanging)"
    r"|(?:newborn|(?:\d|1[01]|one|two|three|four|five|six|seven|eight|nine|ten)[- ](?:day|week)s?[- ]old"
    r"|(?:1|2|one|two)[- ]months?[- ]old)[^.;]{0,40}\b(?:fever|temperature|38|39|40)"
    r"|胎动(?:消失|减少|没有|没了|停|不动)|(?:没有?|感觉不到)胎动|羊水破|破水|脐带脱垂|阴道[^，。；]{0,3}(?:出血|流血)"
    r"|(?:新生儿|刚出生|满月|出生[^，。；]{0,4}天|[一二三四五六七八九十\d]+天(?:大)?的?(?:宝宝|婴儿|孩子))[^，。；]{0,12}(?:发烧|发热|高烧|高热|抽|3[89]|40)"
)
_INJURY = (
    r"(?:hit|bang\w*|knock\w*|injur\w+|bump\w+|smack\w*|crack\w*) (?:my|his|her|the|their) head[^.;]{0,50}"
    r"\b(?:vomit|throw|confus|drows|sleepy|unconscious|blood|bleed|remember|memory|sick)"
    r"|head injury|skull|snake (?:has |just )?(?:bit|bite)|snakebite|(?:bitten|stung|bit) by (?:a |an )?"
    r"(?:\w+ )?(?:snake|rattlesnake|viper|cobra|scorpion|jellyfish|black widow|spider)"
    r"|electrocut|(?:got|had|received|getting) an? (?:bad |strong )?electric shock|struck by lightning"
    r"|drown|pulled (?:him |her |me )?(?:out of|from) the (?:pool|water|sea|river|lake|bath)"
    r"|(?:severe|third[- ]degree|large|bad|serious|deep) burns?\b|(?:burn(?:ed|t)|scald\w*|burns? (?:on|to|over))"
    r"\b[^.;]{0,30}\b(?:face|eyes?|chest|body|neck|genitals|whole|arms and)"
    r"|(?:chemical|acid|bleach|cleaner)[^.;]{0,20}\b(?:in|into) (?:my|his|her) eyes?"
    r"|stabb(?:ed|ing)\b(?! pain)|gun ?shot|been shot|(?:hit|run over|struck|knocked down) by (?:a|the) (?:\w+ )?"
    r"(?:car|truck|bus|train|lorry|van|motorbike)|(?:car|motorbike|motorcycle|bike) (?:crash|accident|wreck)"
    r"|fell (?:off|from|out of) (?:a |the |his |her )?(?:\w+ )?(?:roof|ladder|height|window|balcony|tree|horse)"
    r"|(?:cut|chopped|sliced|torn|ripped) off|amputat|severed|bone (?:is )?(?:stick|pok|protrud|showing|com)\w*"
    r"|头(?:部)?[^，。；]{0,6}(?:撞|摔|磕|砸)[^，。；]{0,10}(?:吐|昏|晕|意识|流血|出血)|(?:撞|摔|磕|砸)[^，。；]{0,4}(?:头|脑袋)[^，。；]{0,8}(?:吐|昏|晕|意识|流血|出血)"
    r"|蛇[^，。；]{0,3}咬|(?:蝎子?|毒蜘蛛|水母|马蜂|黄蜂)[^，。；]{0,4}(?:咬|蜇|蛰)|触电|电击|被电(?!话)|雷击|溺水|(?:掉|落)[^，。；]{0,4}(?:水里|河里|泳池)"
    r"|(?:大面积|严重|重度|深度|三度)[^，。；]{0,3}(?:烧伤|烫伤)|(?:脸|面部|眼睛?|全身|胸口?)[^，。；]{0,5}(?:烧伤|烫伤|灼伤)|(?:烧伤|烫伤|烫到|泼)[^，。；]{0,6}(?:脸|面部|眼|全身|大半)"
    r"|(?:开水|热油|滚油|硫酸)[^，。；]{0,8}(?:烫|泼|烧|溅)|(?:硫酸|强碱|洁厕|石灰)[^，。；]{0,6}眼"
    r"|车祸|被(?:车|汽车|货车|电动车)[^，。；]{0,3}(?:撞|轧|压)|(?:刀|捅|刺)(?:捅|刺|伤)|捅了|枪伤|坠楼|(?:高处|楼上|屋顶|梯子)[^，。；]{0,4}(?:坠|摔|掉)|从[^，。；]{0,4}楼[^，。；]{0,4}(?:摔|掉|坠)"
    r"|断(?:指|肢|了一截|掉)|(?:手指|手|脚)[^，。；]{0,5}(?:切断|轧断|绞断|切掉)|骨头[^，。；]{0,4}(?:露|戳|穿|外)"
)
_OTHER = (
    r"(?:severe|excruciating|agoni[sz]ing|unbearable|terrible|worst|sudden)\b[^.;]{0,15}"
    r"\b(?:abdominal|stomach|belly|tummy) (?:pain|ache)"
    r"|(?:belly|abdomen|stomach|tummy)[^.;]{0,20}\b(?:rigid|rock[- ]hard|hard as|like a board)"
    r"|testic\w*[^.;]{0,40}\b(?:sudden|severe|excruciating|agony)|(?:sudden|severe|excruciating)\w*[^.;]{0,30}\btestic"
    r"|can not (?:pee|urinate|pass (?:any )?urine)|heat ?stroke|hypothermia"
    r"|(?:skin|legs|hands)[^.;]{0,15}\bmottled|sepsis|septic|ketoacidosis|(?:breath|he|she) smells (?:of|like) (?:acetone|fruit|pear)"
    r"|(?:sugar|glucose)[^.;]{0,20}\b(?:[12]\.\d\b(?! ?g)|[5-9]\d\d\b|[23]\d\.\d)"
    r"|(?:肚子|腹部?|小腹|胃)[^，。；]{0,4}(?:剧烈|剧|疼得打滚|痛得打滚|刀割)[^，。；]{0,3}(?:疼|痛|打滚)?|剧烈(?:的)?(?:腹|肚子|胃)[^，。；]{0,2}(?:疼|痛)"
    r"|(?:疼|痛)得?[^，。；]{0,2}(?:打滚|直不起腰|冒冷汗)|(?:腹|肚)[^，。；]{0,8}(?:硬得?像|板状|像板|像木板)"
    r"|(?:睾丸|蛋蛋)[^，。；]{0,6}(?:剧|突然|疼|痛)|尿不出|排不出尿|热射病|中暑|败血症|酮症"
    r"|血糖[^，。；\d]{0,6}(?:[12]\.\d|[23]\d(?:\.\d)?(?!\d)|测不出|爆表|HI\b)"
)

RED_FLAGS = re.compile(
    "|".join(
        (
            _BREATHING,
            _CIRCULATION,
            _CONSCIOUSNESS,
            _POISON,
            _SELF_HARM,
            _BLEEDING,
            _BIRTH,
            _INJURY,
            _OTHER,
        )
    )
)
