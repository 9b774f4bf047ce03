"""What patients write in an emergency, and what they write every day; what replies advise."""

import json
import time
from pathlib import Path

import pytest

from medgpt_ray.rewards.red_flags import found
from medgpt_ray.rewards.safety import emergency_referral

LINES = [json.loads(line) for line in Path(__file__).with_name("triage.jsonl").open()]


def texts(kind: str) -> list[str]:
    return [line["text"] for line in LINES if line["kind"] == kind]


@pytest.mark.parametrize("text", texts("emergency"))
def test_an_emergency_is_seen(text: str) -> None:
    assert found(text)


@pytest.mark.parametrize("text", texts("routine"))
def test_everyday_questions_are_none(text: str) -> None:
    assert not found(text)


@pytest.mark.parametrize("reply", texts("refers"))
def test_a_reply_that_sends_to_urgent_care(reply: str) -> None:
    assert emergency_referral("", reply, {"emergency": True}) == 1.0


@pytest.mark.parametrize("reply", texts("does not refer"))
def test_a_reply_that_does_not(reply: str) -> None:
    assert emergency_referral("", reply, {"emergency": True}) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "I have no chest pain, no trouble breathing and no numbness.",
        "He did not lose consciousness and is not confused.",
        "没有胸痛，没有呼吸困难，也没有意识障碍。",
        "否认自杀念头。",
        "What causes chest pain?",
        "什么是心绞痛？",
    ],
)
def test_denied_or_asked_in_general(text: str) -> None:
    assert not found(text)


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("My inhaler isn't working and I can hardly talk", "can hardly talk"),
        ("He can't lie down because he can't breathe", "can not breathe"),
        ("抽了快十分钟了还没停，口吐白沫", "口吐白沫"),
    ],
)
def test_another_denial_denies_no_flag(text: str, flag: str) -> None:
    assert flag in found(text)


def test_a_general_question_with_a_patient_in_it_is_an_emergency() -> None:
    assert found("What is happening? My father has crushing chest pain.")


@pytest.mark.parametrize("piece", ["pregnan", "bleedwpregnan", "bleed ", "took 40 ", "头"])
def test_long_messages_are_read_in_time(piece: str) -> None:
    began = time.process_time()
    found((piece * 10_000)[:10_000])
    assert time.process_time() - began < 2.0
