"""Names in a text: affirmed, denied or supposed, in English and Chinese."""

import pytest

from medgpt_ray.rewards.mentions import find, names, plain, sentences

DRUG = names(["ibuprofen", "aspirin", "布洛芬", "阿司匹林"])


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        ("Take ibuprofen 400 mg.", [False]),
        ("Avoid ibuprofen.", [True]),
        ("Don't take ibuprofen.", [True]),
        ("You can’t have ibuprofen.", [True]),
        ("Avoid ibuprofen, naproxen and aspirin.", [True, True]),
        ("Avoid: ibuprofen, aspirin.", [True, True]),
        ("Ibuprofen is not safe with warfarin.", [True]),
        ("Ibuprofen is strictly contraindicated here.", [True]),
        ("Ibuprofen should be avoided.", [True]),
        ("Stop ibuprofen but continue aspirin.", [True, False]),
        ("Do not wait, take aspirin.", [False]),
        ("Do not hesitate to take aspirin.", [False]),
        ("There is no reason to avoid ibuprofen.", [False]),
        ("There is no need to avoid ibuprofen.", [False]),
        ("Ibuprofen is not contraindicated.", [False]),
        ("Not only ibuprofen but aspirin helps.", [False, False]),
        ("Use aspirin instead of ibuprofen.", [False, True]),
        ("Ibuprofen is safe and aspirin is not.", [False, True]),
        ("There is no fever, so take ibuprofen.", [False]),
        ("There is no bleeding and you can take aspirin.", [False]),
        ("No. Ibuprofen works.", [False]),
        ("口服布洛芬。", [False]),
        ("不要服用布洛芬。", [True]),
        ("避免布洛芬、阿司匹林。", [True, True]),
        ("避免布洛芬，阿司匹林。", [True, True]),
        ("避免布洛芬，可以用阿司匹林。", [True, False]),
        ("没有发热可以服用布洛芬。", [False]),
        ("布洛芬禁用。", [True]),
        ("肾功能不全者，布洛芬不宜使用。", [True]),
        ("不必避免布洛芬。", [False]),
        ("特别推荐布洛芬。", [False]),
        ("无论如何都要用布洛芬。", [False]),
        ("应服用阿司匹林而不是布洛芬。", [False, True]),
    ],
)
def test_denied(text: str, denied: list[bool]) -> None:
    assert [mention.denied for mention in find(DRUG, text)] == denied


@pytest.mark.parametrize(
    ("text", "supposed"),
    [
        ("Take aspirin now.", False),
        ("If it hurts, take aspirin.", True),
        ("Take aspirin if it hurts.", True),
        ("Take aspirin, if it hurts.", True),
        ("Take aspirin now, and if it stops tell us.", False),
        ("Take aspirin even if it does not hurt.", False),
        ("Should it hurt, take aspirin.", True),
        ("如果疼痛，服用阿司匹林。", True),
        ("一旦疼痛就服用阿司匹林。", True),
        ("出现疼痛时服用阿司匹林。", True),
        ("立即服用阿司匹林。", False),
    ],
)
def test_supposed(text: str, supposed: bool) -> None:
    assert [mention.supposed for mention in find(DRUG, text)] == [supposed]


def test_names_are_whole_words_in_any_case_and_width() -> None:
    found = [mention.name for mention in find(names(["rash", "ECG"]), "Rashes, a crash; ＥＣＧ.")]
    assert found == ["rashes", "ecg"]
    assert list(find(names(["", " "]), "nothing")) == []


def test_sentences_keep_decimals() -> None:
    assert sentences("Take 2.5 mg. Rest!\n\n多喝水。睡觉") == [
        "Take 2.5 mg.",
        "Rest!",
        "多喝水。",
        "睡觉",
    ]


def test_plain_keeps_the_meaning_of_signs() -> None:
    assert plain("pH ≠ 7") == "ph ≠ 7"
    assert plain("5*10^9/L") == "5*10^9/l"
    assert plain("**Sjögren** is *not* it") == "sjogren is not it"
