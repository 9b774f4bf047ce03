"""What a line of the request log holds."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from medgpt_ray.serving.request_log import CHARACTERS, MODEL_CHARACTERS, RequestLog, _logged


def line(folder: Path, body: dict[str, Any]) -> dict[str, Any]:
    scope = {"medgpt.body": body, "medgpt.key": "01234567", "path": "/v1/chat/completions"}
    RequestLog(folder).write(scope, 404, "", 0.1, None)
    (file,) = folder.iterdir()
    logged: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return logged


@pytest.mark.parametrize(
    ("model", "logged"),
    [
        ("sft", "sft"),
        ("Qwen2.5-7B-Instruct", "Qwen2.5-7B-Instruct"),
        ("embedded:smollm2-135m-instruct", "embedded:smollm2-135m-instruct"),
        ("jane.doe@example.org", "[email]"),
        (r"138\u0030013\u0038000", "[phone]"),
        ("x" * 100_000, "x" * MODEL_CHARACTERS + "..."),
        (None, None),
    ],
)
def test_the_model_that_was_asked_for(tmp_path, model, logged):
    assert line(tmp_path, {"model": model})["model"] == logged


def test_what_a_tool_says_is_masked(tmp_path):
    content = json.dumps({"姓名": "张伟", "电话": "13800138000"})
    said = line(tmp_path, {"messages": [{"role": "tool", "content": content}]})["said"]
    assert said == ['{"姓名": "[name]", "电话": "[phone]"}']


def test_a_long_text_of_escapes_is_cut_without_half_a_number():
    number = "".join(rf"\\u{ord(digit):04x}" for digit in "110105199003078515")
    for at in range(CHARACTERS + 100, CHARACTERS + 210, 5):
        said = _logged("，" * at + number + "，" * 400)
        assert not re.search(r"\d", said), at
    assert _logged('"name": "' + "x" * 20_000) == "..."
