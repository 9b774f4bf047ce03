"""The guard's notices, both ways: where one is due, and where one would be a false alarm."""

import time

import pytest

from medgpt_ray.guard.notices import ADVICE, CAUTION, examine
from medgpt_ray.rewards.safety import emergency_referral


def said(text: str, *earlier: dict) -> list[dict]:
    return [*earlier, {"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("I have crushing chest pain since an hour", "en"),
        ("My father's face is drooping and his speech is slurred speech", "en"),
        ("What should I do, my baby is not breathing", "en"),
        ("I took too much, an overdose of paracetamol", "en"),
        ("我胸口剧烈疼痛，喘不上气", "zh"),
        ("孩子突然抽搐，意识不清", "zh"),
        ("我不想活了", "zh"),
    ],
)
def test_an_emergency_gets_advice_in_its_language(text, language):
    case = examine(said(text))
    assert case.emergency
    assert case.advice() == ADVICE[language]
    assert emergency_referral(text, case.advice(), {"emergency": True}) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "I have a runny nose and no chest pain",
        "What is a seizure?",
        "Explain shortness of breath in heart failure",
        "什么是呼吸困难？",
        "我咳嗽两天，没有胸痛，也没有呼吸困难",
        "How much water should I drink?",
    ],
)
def test_no_false_alarm(text):
    assert examine(said(text)).advice() == ""


def test_only_the_users_last_message_is_an_emergency():
    earlier = {"role": "user", "content": "I have chest pain"}
    answer = {"role": "assistant", "content": "Call 911 for chest pain."}
    assert not examine(said("Thanks, it was a muscle.", earlier, answer)).emergency


def test_a_message_may_be_parts():
    parts = [{"type": "text", "text": "He is unconscious"}, {"type": "image_url"}]
    assert examine([{"role": "user", "content": parts}]).emergency == ("unconscious",)


@pytest.mark.parametrize("filler", ["He had a cold in 1999. ", "既往体健，", "\n", "word "])
def test_an_emergency_at_either_end_of_a_long_message(filler):
    history = filler * (1_000_000 // len(filler))
    began = time.process_time()
    assert examine(said(history + "\nNow I have crushing chest pain.")).emergency
    assert examine(said("Now I have crushing chest pain.\n" + history)).emergency
    assert time.process_time() - began < 2


def test_a_denial_that_the_cut_takes_away_leaves_no_alarm():
    denial = "There is no chest pain. " * 1_000
    for cut in range(0, len("There is no chest pain. "), 3):
        assert not examine(said(denial + "x" * cut)).emergency, cut


@pytest.mark.parametrize(
    "content",
    [
        "I have chest\npain",
        "I have no fever\nI have chest\npain",
        "I have chest  \r\n  pain since an hour",
        "He cannot\nbreathe",
        "I want to\ndie.",
        "I HAVE CHEST\nPAIN",
        "突然胸\n痛",
        "他叫\n不醒",
        [{"type": "text", "text": text} for text in ("A crushing chest", "pain since an hour")],
    ],
)
def test_a_phrase_over_two_lines(content):
    assert examine([{"role": "user", "content": content}]).emergency


@pytest.mark.parametrize(
    "text",
    [
        "- no chest\n- pain in the foot",
        "1. chest\n2. pain in the foot",
        "a) chest\nb) pain in the foot",
        "# chest\n\npain in the foot",
        "Examined: the chest\nPain in the foot",
        "chest: clear chest\npain: in the foot",
        "chest.\npain in the foot",
        "no chest\npain in the foot",
        "heart rate normal\nno fainting",
        "What causes chest\npain?",
        "胸\n\n痛经三年",
        "一、胸\n二、痛经三年",
        "胸部\n无疼痛",
    ],
)
def test_two_lines_that_are_no_phrase(text):
    assert not examine(said(text)).emergency


@pytest.mark.parametrize(
    ("question", "answer", "language"),
    [
        ("How much ibuprofen can I take?", "Take 400 mg every 6 hours.", "en"),
        ("Is 200 mg of ibuprofen fine?", "Better take 800 mg.", "en"),
        ("布洛芬怎么吃？", "每次0.4g，每日3次。", "zh"),
        ("阿莫西林一次吃几粒", "一次2粒，一天三次", "zh"),
    ],
)
def test_a_dose_without_context_gets_a_caution(question, answer, language):
    assert examine(said(question)).caution(answer) == CAUTION[language]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How much ibuprofen can I take?", "Ask your pharmacist, and rest for 2 days."),
        ("Is 400 mg of ibuprofen fine?", "400 mg is a usual single dose."),
        ("She is 34 years old and 62 kg: how much ibuprofen?", "Take 400 mg every 6 hours."),
        ("我35岁，体重70公斤，布洛芬怎么吃？", "每次0.4g。"),
        ("血压多少正常？", "低于120/80 mmHg。"),
    ],
)
def test_no_caution_where_the_context_is_there_or_no_dose_is(question, answer):
    assert examine(said(question)).caution(answer) == ""


def test_a_dose_of_the_sources_has_its_context():
    question, answer = said("How is it dosed?"), "The leaflet says 5 mg once a day."
    assert examine(question).caution(answer)
    assert not examine(question, sources=["Start with 5 mg."]).caution(answer)


@pytest.mark.parametrize("text", ["\n", "1 ", "+1", "5 mg/", "no ", "，"])
def test_no_message_keeps_the_guard_busy(text):
    began = time.process_time()
    case = examine(said(text * (1_000_000 // len(text)), *said("I have chest pain")))
    case.caution(text * 100_000)
    assert time.process_time() - began < 5


def test_no_request_keeps_the_guard_busy() -> None:
    doses = " ".join(f"{number + 0.5} mg" for number in range(1200))
    began = time.process_time()
    case = examine([{"role": "user", "content": doses}] * 20)
    assert case.caution(" ".join(f"{number} mg" for number in range(1500)))
    assert time.process_time() - began < 5
