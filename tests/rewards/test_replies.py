"""Replies to medical questions as models write them, and what a careful person gives each."""

import json
from pathlib import Path

import pytest

from medgpt_ray.rewards import resolve

LINES = [json.loads(line) for line in Path(__file__).with_name("replies.jsonl").open()]


@pytest.mark.parametrize(
    "line", LINES, ids=lambda line: f"{line['function']} {line['completion'][:30]}"
)
def test_replies(line: dict) -> None:
    arguments = line.get("arguments", {})
    function = resolve(f"medgpt_ray.rewards.{line['function']}", arguments)
    score = function(line.get("prompt", ""), line["completion"], line["row"], **arguments)
    assert line["least"] - 1e-3 <= score <= line["most"] + 1e-3
