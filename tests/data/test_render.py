"""Rows to tokens: the ids are the chat template's, and learned is what the assistant writes.

What is learned is compared with texts that have ⟦ and ⟧ around it, character by character.
"""

import json
import pickle
import subprocess
import sys
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, ByT5Tokenizer

from medgpt_ray.config.supervised import SupervisedData
from medgpt_ray.data.render import Dropped, Renderer
from medgpt_ray.data.rows import BadRow
from medgpt_ray.data.templates import TEMPLATES, apply
from medgpt_ray.models.load import load_tokenizer
from medgpt_ray.types import Conversation, Labelled, Preference, Tokens

GOLDEN = json.loads((Path(__file__).parent / "templates.json").read_text(encoding="utf-8"))
KINDS = [(name, kind) for name, texts in GOLDEN.items() for kind in texts if kind != "prompt"]


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def call(**arguments: Any) -> dict[str, Any]:
    function = {"name": "lookup", "arguments": arguments}
    return assistant("", tool_calls=[{"type": "function", "function": function}])


SINGLE = (user("How often?"), assistant("Twice a day."))
MULTI = (*SINGLE, user("饭前吗?"), assistant("饭后。"))
CALLED = (
    system("Be brief."),
    user("How much furosemide?"),
    call(drug="呋塞米"),
    {"role": "tool", "content": "40 mg"},
    assistant("40 mg a day."),
)
TOOL = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Find a dose",
        "parameters": {"type": "object", "properties": {"drug": {"type": "string"}}},
    },
}


@pytest.fixture
def tiny(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def named(tiny: Any) -> Any:
    """The tiny tokenizer with `<s>`, `</s>` and the tokens that end turns."""
    stops = {template.stop for template in TEMPLATES.values() if template.stop}
    tiny.add_special_tokens(
        {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "additional_special_tokens": sorted({*stops, "<|observation|>"}),
        }
    )
    return tiny


@pytest.fixture(scope="module")
def smollm() -> Any:
    return load_tokenizer("embedded:smollm2-135m-instruct")


def renderer(tokenizer: Any, **data: Any) -> Renderer:
    """With a template by name, `tokenizer` takes it on too: for `template_ids` to compare with."""
    before = tokenizer.chat_template
    made = Renderer(tokenizer, SupervisedData.model_validate({"train": [{"path": "x"}], **data}))
    assert tokenizer.chat_template == before
    if "template" in data:
        apply(tokenizer, data["template"])
    return made


def template_ids(tokenizer: Any, messages: Any, tools: Any = ()) -> tuple[int, ...]:
    ids = tokenizer.apply_chat_template(
        list(messages), tools=list(tools) or None, tokenize=True, return_dict=False
    )
    return tuple(ids)


def read_marks(tokenizer: Any, marked: str) -> Tokens:
    """The tokens of a text; learned are those that begin between ⟦ and ⟧."""
    text, learned, inside = "", [], False
    for character in marked:
        if character in "⟦⟧":
            inside = character == "⟦"
        else:
            text += character
            learned.append(inside)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    trained = [learned[start] for start, _ in encoded["offset_mapping"]]
    return Tokens(tuple(encoded["input_ids"]), (False, *trained[1:]))


def tokens(result: list[Tokens] | Dropped) -> Tokens:
    assert not isinstance(result, Dropped)
    (one,) = result
    assert len(one.ids) == len(one.trained)
    return one


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_named_templates_learn_what_the_golden_text_marks(named: Any, name: str, kind: str) -> None:
    first = () if name in ("orion", "xverse") else (system("Be brief."),)
    messages = {"single": SINGLE, "multi": (*first, *MULTI), "tools": CALLED}[kind]
    tools = (TOOL,) if kind == "tools" else ()
    result = tokens(renderer(named, template=name).render(Conversation(messages, tools)))
    assert result == read_marks(named, GOLDEN[name][kind])
    assert result.ids == template_ids(named, messages, tools)


def test_smollm2s_own_template(smollm: Any) -> None:
    messages = (*MULTI, user("And  at night?"), assistant("  No,\n\nnever. "))
    result = tokens(renderer(smollm).render(Conversation(messages)))
    assert result == read_marks(
        smollm,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHow often?<|im_end|>\n<|im_start|>assistant\n"
        "⟦Twice a day.<|im_end|>⟧\n<|im_start|>user\n饭前吗?<|im_end|>\n<|im_start|>assistant\n"
        "⟦饭后。<|im_end|>⟧\n<|im_start|>user\nAnd  at night?<|im_end|>\n<|im_start|>assistant\n"
        "⟦  No,\n\nnever. <|im_end|>⟧\n",
    )
    assert result.ids == template_ids(smollm, messages)


def test_the_tiny_models_own_template(tiny: Any) -> None:
    messages = (system("Be brief."), *MULTI)
    result = tokens(renderer(tiny).render(Conversation(messages)))
    assert result == read_marks(
        tiny,
        "<|system|>Be brief.<|end|><|user|>How often?<|end|><|assistant|>⟦Twice a day.<|end|>⟧"
        "<|user|>饭前吗?<|end|><|assistant|>⟦饭后。<|end|>⟧",
    )
    assert result.ids == template_ids(tiny, messages)


def test_a_user_who_quotes_the_assistant_is_not_learned(tiny: Any) -> None:
    quoted = "assistant: Twice a day. Qzxmark"
    messages = (user(quoted), assistant("Twice a day."), user(quoted), assistant("Twice a day."))
    result = tokens(renderer(tiny).render(Conversation(messages)))
    turn = f"<|user|>{quoted}<|end|><|assistant|>⟦Twice a day.<|end|>⟧"
    assert result == read_marks(tiny, turn * 2)


def test_a_text_with_the_templates_control_tokens_is_refused(tiny: Any) -> None:
    """It would begin an assistant's turn in the user's, or end one in its middle."""
    for messages in (
        (user("Hm.<|end|><|assistant|>Yes."), assistant("Twice a day.")),
        (user("How often?"), assistant("Twice.<|end|>a day.")),
    ):
        with pytest.raises(BadRow, match=r"the text of message \d holds <\|end\|>"):
            renderer(tiny).render(Conversation(messages))
        with pytest.raises(BadRow, match=r"holds <\|end\|>"):
            renderer(tiny).render(Labelled(messages[:1], messages[1:], True))


def test_so_are_calls_and_tools_with_control_tokens(named: Any) -> None:
    render = renderer(named, template="qwen3").render
    assert not isinstance(render(Conversation(CALLED, (TOOL,))), Dropped)
    calls = (*CALLED[:2], call(drug="a<|im_end|>b"), *CALLED[3:])
    with pytest.raises(BadRow, match=r"a call of message 3 holds <\|im_end\|>"):
        render(Conversation(calls, (TOOL,)))
    tool = {"type": "function", "function": TOOL["function"] | {"description": "</s>"}}
    with pytest.raises(BadRow, match=r"^tools: a tool holds </s>"):
        render(Conversation(CALLED, (tool,)))


def test_thoughts_that_the_template_shows_are_learned(named: Any) -> None:
    thinking = assistant("<think>\nTwo doses.\n</think>\n\nTwice a day.")
    messages = (user("How often?"), thinking, user("Sure?"), thinking)
    result = tokens(renderer(named, template="qwen3").render(Conversation(messages)))
    assert result == read_marks(
        named,
        "<|im_start|>user\nHow often?<|im_end|>\n<|im_start|>assistant\n⟦Twice a day.<|im_end|>⟧\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\nTwo doses.\n</think>\n\nTwice a day.<|im_end|>⟧\n",
    )
    assert result.ids == template_ids(named, messages)


def test_calls_between_thoughts_are_learned_whole(named: Any) -> None:
    calling = {**call(drug="aspirin"), "content": "<think>\nLook.\n</think>\n\n"}
    messages = (user("Which dose?"), calling, {"role": "tool", "content": "1"}, assistant("1 mg"))
    result = tokens(renderer(named, template="qwen3").render(Conversation(messages)))
    shown = renderer(named).show(result).plain
    assert shown.count("|\nTRAINED     |<think>\nLook.\n</think>\n\n<tool_call>") == 1
    assert '"aspirin"}}\n</tool_call><|im_end|>|\nNOT TRAINED |\n<|im_start|>user' in shown
    assert result.ids == template_ids(named, messages)


def test_a_stop_token_that_is_not_special_ends_a_turn_of_its_template(tiny: Any) -> None:
    tiny.add_tokens(["<eoa>"])
    result = tokens(renderer(tiny, template="intern").render(Conversation(SINGLE)))
    assert result == read_marks(tiny, GOLDEN["intern"]["single"])


def test_a_token_that_begins_before_the_turn_is_not_learned(tiny: Any) -> None:
    tiny.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    result = tokens(renderer(tiny).render(Conversation((user("a"), assistant("the dose")))))
    words = [tiny.decode([token]) for token in result.ids]
    learned = dict(zip(words, result.trained, strict=True))
    assert not learned[" the"]
    assert learned[" dose"]


def test_generation_blocks_say_what_is_learned(tiny: Any) -> None:
    tiny.chat_template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{{ '!<|end|>' }}"
        "{% else %}{{ m.content + '<|end|>' }}{% endif %}{% endfor %}"
    )
    first = "<|user|>How often?<|end|><|assistant|>⟦Twice a day.⟧!<|end|>"
    second = "<|user|>饭前吗?<|end|><|assistant|>⟦饭后。⟧!<|end|>"
    result = tokens(renderer(tiny).render(Conversation(MULTI)))
    assert result == read_marks(tiny, first + second)
    answered = tokens(renderer(tiny).render(Labelled(MULTI[:3], MULTI[3:], desirable=True)))
    assert answered == read_marks(tiny, first.replace("⟦", "").replace("⟧", "") + second)


def test_a_header_is_not_learned_where_there_is_no_generation_prompt(tiny: Any) -> None:
    tiny.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|> {{ m.content }}<|end|>{% endfor %}"
    )
    result = tokens(renderer(tiny).render(Conversation(SINGLE * 2)))
    assert result == read_marks(
        tiny, "<|user|> How often?<|end|><|assistant|> ⟦Twice a day.<|end|>⟧" * 2
    )


@pytest.mark.parametrize("content", ["", " "])
def test_a_turn_without_text_is_not_learned(tiny: Any, content: str) -> None:
    with pytest.raises(BadRow, match="the chat template leaves out message 2"):
        renderer(tiny).render(Conversation((user("Well?"), assistant(content))))


def test_a_turn_ends_with_what_follows_it(tiny: Any) -> None:
    tiny.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n"
        "{% endfor %}<|end|>"
    )
    result = tokens(renderer(tiny).render(Conversation(SINGLE * 2)))
    question, answer = (f"{turn['role']}: {turn['content']}" for turn in SINGLE)
    header, said = answer[: len("assistant: ")], answer[len("assistant: ") :]
    first = f"{question}\n{header}⟦{said}⟧\n"
    assert result == read_marks(tiny, f"{first}{question}\n{header}⟦{said}\n<|end|>⟧")


def test_a_bos_token_behind_a_turn_belongs_to_the_next(named: Any) -> None:
    named.chat_template = (
        "{% for m in messages %}{{ bos_token + m.role + '\n' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ bos_token + 'assistant\n' }}{% endif %}"
    )
    result = tokens(renderer(named).render(Conversation(SINGLE * 2)))
    assert result == read_marks(named, "<s>user\nHow often?<s>assistant\n⟦Twice a day.⟧" * 2)


HIDES = "{% for m in messages %}{% if m.role == 'user' or loop.last %}{{ m.content }}{% endif %}"
SHOWS_CALLS = (
    "{% for m in messages %}{{ m.content if m.role == 'user' }}"
    "{% for c in m.tool_calls %}{{ c.function.name }}{% endfor %}"
)
STRIPS = "{% for m in messages %}{{ m.content.split('>')[-1] }}"
COUNTS = "{{ messages[1].content | length }}{% for m in messages %}{{ m.content }}"
COUNTS_BEHIND = (
    "{% for m in messages %}{{ m.content }}{% endfor %}{{ messages[1].content | length }}"
)
CALLS = (
    "{% for m in messages %}{% if loop.index == 2 and not m.tool_calls %}"
    "{{ raise_exception('no call') }}{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls %}{{ c.function.name }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "messages", "reason"),
    [
        (HIDES, MULTI, "the chat template leaves out message 2"),
        (SHOWS_CALLS, (user("Look."), call()), "the chat template leaves out message 2"),
        (STRIPS, (user("?"), assistant("<think>"), *SINGLE), "template leaves out message 2"),
        (COUNTS, MULTI, "message 2 changes how the chat template shows the others"),
        (COUNTS_BEHIND, MULTI, "message 2 changes how the chat template shows the others"),
        (CALLS, CALLED[1:], r"takes no plain text in place of message 2 \(.*no call\)"),
        ("{{ raise_exception('no user') }}", SINGLE, "the chat template refuses them: no user"),
        ("{{ messages[0].x.y }}", SINGLE, "the chat template refuses them: 'dict object' has no"),
        (
            "{% for m in messages %}{{ m.content + m.tool_calls[0].function.arguments }}",
            CALLED[2:],
            r'the chat template refuses them: can only concatenate str \(not "dict"\)',
        ),
    ],
)
def test_what_a_template_cannot_show_is_the_rows_problem(
    tiny: Any, template: str, messages: Any, reason: str
) -> None:
    loops = template.count("{% for") - template.count("{% endfor")
    tiny.chat_template = template + "{% endfor %}" * loops
    with pytest.raises(BadRow, match=reason) as caught:
        renderer(tiny).render(Conversation(messages))
    assert caught.value.field == "messages"


NO_SYSTEM = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
NO_RESULTS = "{% for m in messages if m.role != 'tool' %}{{ m.content }}{{ m.tool_calls }}"
NO_TEXT = "{% for m in messages %}{{ m.tool_calls or m.content }}"
NO_THOUGHTS = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}"
LOOKS = assistant("Let me look.", tool_calls=call(drug="aspirin")["tool_calls"])
LOOKED = (user("Dose?"), LOOKS, {"role": "tool", "content": "1 mg"}, assistant("One."))
THINKS = assistant("<think>\nAn adult.\n</think>\n\nTwo.")


@pytest.mark.parametrize(
    ("template", "row", "reason"),
    [
        (None, Conversation(LOOKED), "messages: .* leaves out the calls of message 2: set data.t"),
        (None, Conversation(SINGLE, (TOOL,)), "tools: the chat template shows no tools: set data"),
        (NO_SYSTEM, Conversation((system("Be brief."), *SINGLE)), "message 1, the system's"),
        (NO_RESULTS, Conversation(LOOKED), "leaves out message 3, a tool's answer"),
        (NO_TEXT, Conversation(LOOKED), "leaves out the text beside the calls of message 2"),
        (NO_THOUGHTS, Conversation((*SINGLE, user("?"), THINKS)), "the thoughts of the last turn"),
        (
            NO_THOUGHTS,
            Preference((user("?"),), (THINKS,), (assistant("Two."),)),
            "the thoughts of the last turn",
        ),
        (
            STRIPS,
            Preference((user("?"),), (assistant("<b>Two."),), (assistant("Two."),)),
            "rejected: is the same as chosen, as the chat template shows them",
        ),
    ],
)
def test_nothing_is_left_out_in_silence(smollm: Any, template: Any, row: Any, reason: str) -> None:
    tokenizer = copy(smollm)
    if template:
        loops = template.count("{% for") - template.count("{% endfor")
        tokenizer.chat_template = template + "{% endfor %}" * loops
    made = renderer(tokenizer)
    with pytest.raises(BadRow, match=reason):
        made.render(row)


def test_the_system_prompt_goes_where_there_is_none(tiny: Any) -> None:
    kind = renderer(tiny, system_prompt="Be kind.")
    for row, expected in ((SINGLE, "Be kind."), ((system("Be brief."), *SINGLE), "Be brief.")):
        shown = tiny.decode(tokens(kind.render(Conversation(row))).ids)
        assert shown.startswith(f"<|system|>{expected}<|end|><|user|>")
        answered = tokens(kind.render(Labelled(row[:-1], row[-1:], desirable=False)))
        assert tiny.decode(answered.ids) == shown
    assert SINGLE[0]["role"] == "user"


def test_training_on_inputs_learns_all_but_the_first_token(tiny: Any) -> None:
    result = tokens(renderer(tiny, train_on_inputs=True).render(Conversation(MULTI)))
    assert result.ids == template_ids(tiny, MULTI)
    assert result.trained == (False, *[True] * (len(result.ids) - 1))


@pytest.mark.parametrize("name", ["vicuna", "qwen3", "glm4"])
def test_too_long_conversations_lose_whole_turns_from_the_end(named: Any, name: str) -> None:
    messages = (*MULTI, user("At night?"), call(hour=1), {"role": "tool", "content": "no"})
    messages = (*messages, assistant("No."))
    if name == "vicuna":
        messages = (*MULTI, user("At night?"), assistant("No."))
    whole = tokens(renderer(named, template=name).render(Conversation(messages)))
    kept = [end for end in range(2, len(messages) + 1) if messages[end - 1]["role"] == "assistant"]
    sizes = [len(template_ids(named, messages[:end])) for end in kept]
    assert sizes == sorted(sizes)
    for limit in range(2, len(whole.ids) + 1):
        kind = renderer(named, template=name, max_tokens=limit)
        result = kind.render(Conversation(messages))
        fitting = [end for end, size in zip(kept, sizes, strict=True) if size <= limit]
        if fitting:
            first = messages[: fitting[-1]]
            assert result == renderer(named, template=name).render(Conversation(first))
            assert tokens(result).cut == (len(first) < len(messages))
            assert tokens(result).ids == template_ids(named, first)
        else:
            reason = f"the first exchange is longer than data.max_tokens ({limit})"
            assert result == Dropped(reason)


def test_preferences_share_their_prompt_and_learn_the_answers_alone(named: Any) -> None:
    row = Preference(MULTI[:3], (assistant("饭后。"),), (assistant("Yes, always."),), 2.0)
    result = renderer(named, template="vicuna", system_prompt="Be brief.").render(row)
    assert not isinstance(result, Dropped)
    before = "Be brief. USER: How often? ASSISTANT: Twice a day.</s>USER: 饭前吗? ASSISTANT:"
    assert result[0] == read_marks(named, f"{before}⟦ 饭后。</s>⟧")
    assert result[1] == read_marks(named, f"{before}⟦ Yes, always.</s>⟧")
    first = [side.trained.index(True) for side in result]
    assert first[0] == first[1]
    assert result[0].ids[: first[0]] == result[1].ids[: first[0]]


def test_answers_that_do_not_fit_are_dropped(tiny: Any) -> None:
    row = Preference(SINGLE[:1], SINGLE[1:], (assistant("Twice a day, always."),))
    pair = renderer(tiny).render(row)
    assert not isinstance(pair, Dropped)
    short, long = (len(side.ids) for side in pair)
    assert short < long
    assert renderer(tiny, max_tokens=long).render(row) == pair
    reason = "prompt and answer are longer than data.max_tokens"
    for limit in (long - 1, short - 1):
        result = renderer(tiny, max_tokens=limit).render(row)
        assert result == Dropped(f"{reason} ({limit})")
    swapped = Preference(row.prompt, row.rejected, row.chosen)
    assert isinstance(renderer(tiny, max_tokens=short).render(swapped), Dropped)
    answer = Labelled(row.prompt, row.chosen, desirable=True)
    assert renderer(tiny, max_tokens=short).render(answer) == [pair[0]]
    assert isinstance(renderer(tiny, max_tokens=short - 1).render(answer), Dropped)


def test_an_answer_may_be_several_turns(named: Any) -> None:
    row = Labelled(CALLED[:2], CALLED[2:], desirable=True, tools=(TOOL,))
    result = tokens(renderer(named, template="mistral").render(row))
    assert result == read_marks(named, GOLDEN["mistral"]["tools"])


def test_show_names_what_is_learned_with_and_without_colours(named: Any) -> None:
    kind = renderer(named, template="mistral")
    shown = kind.show(tokens(kind.render(Conversation(MULTI))))
    assert shown.plain == (
        "NOT TRAINED |<s>[INST] How often?[/INST]|\nTRAINED     | Twice a day.</s>|\n"
        "NOT TRAINED |[INST] 饭前吗?[/INST]|\nTRAINED     | 饭后。</s>|\n"
    )
    styles = {str(span.style): shown.plain[span.start : span.end] for span in shown.spans}
    assert styles == {"dim": "[INST] 饭前吗?[/INST]", "green": " 饭后。</s>"}


def test_a_renderer_pickles(named: Any) -> None:
    kind = renderer(named, template="qwen3")
    expected = kind.render(Conversation(MULTI))
    copy = pickle.loads(pickle.dumps(kind))
    assert copy.render(Conversation(MULTI)) == expected


def test_a_worker_that_is_handed_one_needs_no_torch(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "renderer").write_bytes(pickle.dumps(renderer(tiny)))
    program = """
import pickle, sys
import medgpt_ray.data.stream
from medgpt_ray.types import Conversation
renderer = pickle.load(open(sys.argv[1], "rb"))
turns = {"role": "user", "content": "Dose?"}, {"role": "assistant", "content": "5 mg"}
assert any(renderer.render(Conversation(messages=turns))[0].trained)
print("torch" in sys.modules)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "renderer")]
    assert subprocess.check_output(command, timeout=300) == b"False\n"


def test_a_row_costs_one_rendering_and_one_a_turn_at_most(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = []
    apply_chat_template = type(tiny).apply_chat_template

    def counted(self: Any, messages: Any, **options: Any) -> Any:
        rendered.append(len(messages))
        return apply_chat_template(self, messages, **options)

    monkeypatch.setattr(type(tiny), "apply_chat_template", counted)
    kind = renderer(tiny)
    plain = Conversation(SINGLE * 20)
    marks = kind.render(plain)
    rendered.clear()
    assert kind.render(plain) == marks
    assert rendered == [40]
    tiny.chat_template = tiny.chat_template.replace(
        "message['content']", "message['content'] | trim"
    )
    kind = renderer(tiny)
    trimmed = Conversation((*SINGLE[:1], assistant(" " + SINGLE[1]["content"])) * 20)
    kind.render(trimmed)
    rendered.clear()
    assert kind.render(trimmed) == marks
    assert rendered == [40] * 21


def test_tokenizers_that_cannot_be_used(tiny: Any) -> None:
    with pytest.raises(ValueError, match="a slow tokenizer, which does not say which characters"):
        renderer(ByT5Tokenizer())
    tiny.chat_template = None
    with pytest.raises(ValueError, match=r"no chat template, set data.template to one of alpaca"):
        renderer(tiny).render(Conversation(SINGLE))
    with pytest.raises(ValueError, match="chatml ends a turn with"):
        renderer(tiny, template="chatml")
