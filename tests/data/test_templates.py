"""Named chat templates: their texts, what they refuse, and how a tokenizer takes one on.

`templates.json` holds the golden texts, with ⟦ and ⟧ around what the assistant writes.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from medgpt_ray.data import templates
from medgpt_ray.data.templates import TEMPLATES, apply, get_template, stop_text

GOLDEN = json.loads((Path(__file__).parent / "templates.json").read_text(encoding="utf-8"))
NO_SYSTEM = ("orion", "xverse")
WITH_TOOLS = ("glm4", "llama3", "mistral", "qwen", "qwen3")

SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = [{"role": "user", "content": "How often?"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "Twice a day."}]
TWICE = [
    *ANSWERED,
    {"role": "user", "content": "饭前吗?"},
    {"role": "assistant", "content": "饭后。"},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Find a dose",
        "parameters": {"type": "object", "properties": {"drug": {"type": "string"}}},
    },
}


def call(drug: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "lookup", "arguments": {"drug": drug}}}


CALLED = [
    {"role": "user", "content": "How much furosemide?"},
    {"role": "assistant", "content": "", "tool_calls": [call("呋塞米")]},
    {"role": "tool", "content": "40 mg"},
    {"role": "assistant", "content": "40 mg a day."},
]


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    """One that has `<s>`, `</s>` and whatever ends a turn, and adds no BOS token of its own."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    stops = sorted({template.stop for template in TEMPLATES.values() if template.stop})
    tokenizer.add_special_tokens(
        {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": stops}
    )
    return tokenizer


def text(tokenizer: Any, messages: list[Any], **options: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))


def golden(name: str, kind: str) -> str:
    return str(GOLDEN[name][kind]).replace("⟦", "").replace("⟧", "")


def test_every_template_has_a_file_and_a_golden_text() -> None:
    files = {path.stem for path in Path(templates.__file__).parent.glob("[!_]*.jinja")}
    assert files == set(TEMPLATES) == set(GOLDEN)
    assert tuple(name for name, template in TEMPLATES.items() if template.tools) == WITH_TOOLS
    assert tuple(name for name, texts in GOLDEN.items() if "tools" in texts) == WITH_TOOLS


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_texts_are_the_golden_ones(tokenizer: Any, name: str) -> None:
    apply(tokenizer, name)
    assert text(tokenizer, ANSWERED) == golden(name, "single")
    assert text(tokenizer, ASKED, add_generation_prompt=True) == golden(name, "prompt")
    with_system = TWICE if name in NO_SYSTEM else [SYSTEM, *TWICE]
    assert text(tokenizer, with_system) == golden(name, "multi")


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_generated_continues_the_prompt(tokenizer: Any, name: str) -> None:
    """So that serving shows the model what training showed it."""
    apply(tokenizer, name)
    for turns in (1, 3):
        prompt = text(tokenizer, TWICE[:turns], add_generation_prompt=True)
        assert text(tokenizer, TWICE[: turns + 1]).startswith(prompt)
        assert not prompt.endswith(" ")


@pytest.mark.parametrize("name", NO_SYSTEM)
def test_a_format_without_system_prompt_refuses_one(tokenizer: Any, name: str) -> None:
    apply(tokenizer, name)
    with pytest.raises(TemplateError, match=f"{name} has no format for a system message"):
        text(tokenizer, [SYSTEM, *ANSWERED])


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_tools_calls_and_results_are_the_golden_ones(tokenizer: Any, name: str) -> None:
    apply(tokenizer, name)
    assert text(tokenizer, [SYSTEM, *CALLED], tools=[TOOL]) == golden(name, "tools")


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in WITH_TOOLS])
def test_the_others_refuse_tools(tokenizer: Any, name: str) -> None:
    apply(tokenizer, name)
    for messages, tools in ((CALLED, None), ([CALLED[0], CALLED[2]], None), (ANSWERED, [TOOL])):
        with pytest.raises(TemplateError, match=rf"{name} has no format for tool.*: glm4, llama3"):
            text(tokenizer, messages, tools=tools)


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_several_calls_in_a_turn_are_all_shown_or_refused(tokenizer: Any, name: str) -> None:
    apply(tokenizer, name)
    both = {"role": "assistant", "content": "", "tool_calls": [call("furosemide"), call("aspirin")]}
    messages = [CALLED[0], both, CALLED[2], CALLED[2], CALLED[3]]
    if name in ("glm4", "llama3"):
        with pytest.raises(TemplateError, match="a single tool call"):
            text(tokenizer, messages, tools=[TOOL])
        return
    shown = text(tokenizer, messages, tools=[TOOL])
    assert shown.index('{"drug": "furosemide"}') < shown.index('{"drug": "aspirin"}')
    assert shown.count("40 mg") == 3


def test_text_beside_a_call_is_shown_or_refused(tokenizer: Any) -> None:
    beside = {**CALLED[1], "content": "Let me look."}
    for name, expected in (
        ("qwen", "\nLet me look.\n<tool_call>\n"),
        ("qwen3", "\nLet me look.\n<tool_call>\n"),
        ("glm4", "<|assistant|>\nLet me look.<|assistant|>lookup\n"),
    ):
        apply(tokenizer, name)
        assert expected in text(tokenizer, [CALLED[0], beside, *CALLED[2:]])
    for name in ("llama3", "mistral"):
        apply(tokenizer, name)
        with pytest.raises(TemplateError, match="a turn can hold text or"):
            text(tokenizer, [CALLED[0], beside, *CALLED[2:]])


def test_mistral_names_calls_by_their_ids(tokenizer: Any) -> None:
    apply(tokenizer, "mistral")
    called = {**CALLED[1], "tool_calls": [{**call("aspirin"), "id": "a1b2c3d4e"}]}
    shown = text(tokenizer, [CALLED[0], called, {**CALLED[2], "tool_call_id": "a1b2c3d4e"}])
    assert '"arguments": {"drug": "aspirin"}, "id": "a1b2c3d4e"}]</s>' in shown
    assert shown.endswith('{"content": 40 mg, "call_id": "a1b2c3d4e"}[/TOOL_RESULTS]')


def test_qwen3_shows_the_thoughts_of_the_last_answer_only(tokenizer: Any) -> None:
    apply(tokenizer, "qwen3")
    answer = {"role": "assistant", "content": "<think>\nTwo doses.\n</think>\n\nTwice a day."}
    shown = text(tokenizer, [*ASKED, answer, *ASKED, answer])
    first, last = shown.split("<|im_start|>assistant\n")[1:]
    assert first == "Twice a day.<|im_end|>\n<|im_start|>user\nHow often?<|im_end|>\n"
    assert last == "<think>\nTwo doses.\n</think>\n\nTwice a day.<|im_end|>\n"
    split = {"role": "assistant", "content": "Twice a day.", "reasoning_content": "Two doses."}
    assert text(tokenizer, [*ASKED, answer, *ASKED, split]) == shown
    header = text(tokenizer, ASKED, add_generation_prompt=True, enable_thinking=False)
    assert header.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", ["llama2", "llama2-zh", "gemma", "cohere"])
def test_turns_have_to_alternate_where_the_format_says_so(tokenizer: Any, name: str) -> None:
    apply(tokenizer, name)
    with pytest.raises(TemplateError, match="take turns"):
        text(tokenizer, [*ASKED, *ASKED])


@pytest.mark.parametrize("name", ["vicuna", "mistral", "chatml"])
def test_a_later_system_message_is_refused(tokenizer: Any, name: str) -> None:
    apply(tokenizer, name)
    with pytest.raises(TemplateError, match="a system message can only come first"):
        text(tokenizer, [*ANSWERED, SYSTEM, *ANSWERED])


def test_an_unknown_name_lists_the_valid_ones_and_the_closest() -> None:
    with pytest.raises(ValueError, match="'vicunna', did you mean 'vicuna'") as caught:
        get_template("vicunna")
    assert "valid: alpaca, aquila" in str(caught.value)
    assert "ziya" in str(caught.value)
    with pytest.raises(ValueError, match=r"unknown chat template '1'\? valid: alpaca"):
        stop_text("1")


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_stop_text_ends_every_turn(tokenizer: Any, name: str) -> None:
    stop = stop_text(name) or "</s>"
    trained = GOLDEN[name]["multi"].split("⟦")[1:]
    assert [turn.partition("⟧")[0].endswith(stop) for turn in trained] == [True, True]


def test_a_tokenizer_without_the_token_that_ends_a_turn_is_refused(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    before = tokenizer.chat_template
    with pytest.raises(ValueError, match=r"chatml ends a turn with <\|im_end\|>, which"):
        apply(tokenizer, "chatml")
    assert tokenizer.chat_template == before
    tokenizer.add_tokens(["<|im_end|>"])
    apply(tokenizer, "chatml")
    apply(tokenizer, "vicuna")
    assert text(tokenizer, ANSWERED).endswith("ASSISTANT: Twice a day.<|end|>")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="vicuna ends a turn with the tokenizer's eos_token"):
        apply(tokenizer, "vicuna")


def test_a_tokenizer_that_adds_bos_goes_on_to_do_so(tokenizer: Any) -> None:
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    for name in ("vicuna", "chatml", "llama2", "mistral"):
        apply(tokenizer, name)
        ids = tokenizer.apply_chat_template(ANSWERED, return_dict=False)
        assert ids.count(bos) == 1
        assert ids[0] == bos


def test_a_tokenizer_without_bos_takes_templates_that_name_it(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for name in ("deepseek", "llama2", "llama2-zh", "mistral", "orion", "phoenix"):
        apply(tokenizer, name)
        assert text(tokenizer, ANSWERED) == golden(name, "single").replace("<s>", "").replace(
            "</s>", "<|end|>"
        )
