"""Tools for models whose chat template shows none, and the parser for those that do."""

import json

import pytest

from medgpt_ray.data.templates import get_template
from medgpt_ray.models.tiny import CHAT_TEMPLATE
from medgpt_ray.serving.tools import parser_for, shows_tools, told_of

TOOL = {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "weigh", "arguments": '{"kg": 3}'}}


@pytest.mark.parametrize(
    ("template", "parser"),
    [("qwen", "hermes"), ("qwen3", "hermes"), ("mistral", "mistral"), ("llama3", "llama3_json")],
)
def test_the_parser_follows_the_template(template, parser):
    assert shows_tools(get_template(template))
    assert parser_for(get_template(template)) == parser


def test_a_template_without_tools_is_told_of_them_in_the_form_that_is_parsed():
    assert not shows_tools(CHAT_TEMPLATE)
    assert parser_for(CHAT_TEMPLATE) == "hermes"
    told = told_of([TOOL], [{"role": "user", "content": "How heavy?"}])
    assert told[0]["role"] == "system"
    assert json.dumps(TOOL) in told[0]["content"]
    assert told[1:] == [{"role": "user", "content": "How heavy?"}]


def test_the_system_message_stays_one():
    system = {"role": "system", "content": "Be brief."}
    told = told_of([TOOL], [system, {"role": "user", "content": "How heavy?"}])
    assert [message["role"] for message in told] == ["system", "user"]
    assert told[0]["content"].startswith("Be brief.\n\n")
    assert system["content"] == "Be brief."


def test_an_empty_system_message_stays_one():
    told = told_of([TOOL], [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"}])
    assert [message["role"] for message in told] == ["system", "user"]


def test_contents_may_be_parts():
    def parts(text):
        return [{"type": "text", "text": text}]

    told = told_of(
        [TOOL],
        [
            {"role": "system", "content": parts("Be brief.")},
            {"role": "assistant", "content": parts("Let me look."), "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "1", "content": parts("3 kg")},
        ],
    )
    assert [message["role"] for message in told] == ["system", "assistant", "user"]
    assert told[0]["content"].startswith("Be brief.\n\n")
    assert told[1]["content"].startswith("Let me look.\n<tool_call>")
    assert told[2]["content"] == "<tool_response>\n3 kg\n</tool_response>"


def test_calls_and_results_become_text():
    told = told_of(
        [TOOL],
        [
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "1", "content": "3 kg"},
        ],
    )
    called = '<tool_call>\n{"name": "weigh", "arguments": {"kg": 3}}\n</tool_call>'
    assert told[1] == {"role": "assistant", "content": called}
    assert told[2] == {"role": "user", "content": "<tool_response>\n3 kg\n</tool_response>"}
