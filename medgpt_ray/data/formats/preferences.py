"""Formats of preference pairs and of labelled answers: reading a row of them and writing one."""

import re
from collections.abc import Sequence
from typing import Any

from medgpt_ray.data.formats import conversations as talk
from medgpt_ray.data.formats.columns import (
    Object,
    assistant,
    check_asked,
    exchanges,
    given,
    go_on,
    hh_turns,
    inexpressible,
    is_hh,
    no_tools,
    one_column,
    read_answer,
    read_history,
    read_instruction,
    read_prompt,
    read_tools,
    refused,
    refused_turns,
    required,
    user,
    with_system,
)
from medgpt_ray.data.formats.conversations import as_tools, system_and_history, tools_as_text
from medgpt_ray.data.formats.turns import Turn, openai_turns, read_turns, sharegpt_turns
from medgpt_ray.data.rows import BadRow, kind, without_ids
from medgpt_ray.types import Conversation, Labelled, Message, Preference


def read_conversations(record: Object) -> Preference:
    refused_turns(record, "history", "not read beside turns: put its turns before them")
    turns = read_turns(required(record, "conversations"), "conversations")
    prompt = with_system(record, turns)
    chosen, rejected = read_answer(record, "chosen"), read_answer(record, "rejected")
    return _pair(record, prompt, chosen, rejected)


def write_conversations(row: Preference) -> Object:
    return {
        "conversations": sharegpt_turns(row.prompt),
        "chosen": _text_or_turns(row.chosen),
        "rejected": _text_or_turns(row.rejected),
        **tools_as_text(row.tools),
        **_margin(row),
    }


def _text_or_turns(messages: Sequence[Message]) -> str | list[dict[str, str]]:
    if len(messages) == 1 and "tool_calls" not in messages[0]:
        return str(messages[0]["content"])
    return sharegpt_turns(messages)


def read_alpaca(record: Object) -> Preference:
    refused(record, ("tools",), "alpaca rows have none: use the preference format")
    prompt = with_system(record, [*read_history(record), read_instruction(record)])
    check_asked(record, prompt)
    return _pair(record, prompt, read_answer(record, "chosen"), read_answer(record, "rejected"))


def write_alpaca(row: Preference) -> Object:
    system, before, question, chosen, rejected = _texts(row, "preference_alpaca")
    return {
        **system_and_history(system, before),
        "instruction": question,
        "input": "",
        "chosen": chosen,
        "rejected": rejected,
        **_margin(row),
    }


def read_question(record: Object) -> Preference:
    refused(record, ("tools",), "not read beside question: use the preference format")
    name = "input" if given(record, "question") is None and "input" in record else "question"
    question = user(required(record, name), name)
    prompt = with_system(record, [*read_history(record), question])
    check_asked(record, prompt)
    prefix = "" if "chosen" in record or "rejected" in record else "response_"
    chosen, rejected = (
        assistant(required(record, prefix + name), prefix + name) for name in ("chosen", "rejected")
    )
    return _pair(record, prompt, [chosen], [rejected])


def write_question(row: Preference) -> Object:
    system, before, question, chosen, rejected = _texts(row, "preference_question")
    return {
        **system_and_history(system, before),
        "question": question,
        "response_chosen": chosen,
        "response_rejected": rejected,
        **_margin(row),
    }


def _texts(row: Preference, format: str) -> tuple[str, list[str], str, str, str]:
    """System text, earlier turns, question and answers of a pair; raises for one with calls or
    with answers of several turns, which `format` cannot express."""
    no_tools(row.tools, format)
    if len(row.chosen) > 1 or len(row.rejected) > 1:
        raise inexpressible("answers of several turns", format)
    system, texts = exchanges((*row.prompt, *row.chosen, *row.rejected), format)
    *before, question, chosen, rejected = texts
    return system, before, question, chosen, rejected


def read_preference(record: Object) -> Preference:
    reason = "not read beside prompt: put the turns into prompt, as messages"
    refused_turns(record, "history", reason)
    if "preferred_output" in record:
        return _read_openai(record)
    chosen, rejected = (
        hh_turns(record[name], name) if is_hh(record.get(name)) else read_answer(record, name)
        for name in ("chosen", "rejected")
    )
    if all(turns[0].message["role"] in ("system", "user") for turns in (chosen, rejected)):
        prompt, chosen, rejected = _common_prompt(record, chosen, rejected)
    else:
        if "prompt" in record or "messages" not in record:
            prompt = with_system(record, read_prompt(record))
        else:  # LLaMA-Factory's pairs in OpenAI's words
            prompt = with_system(record, read_turns(record["messages"], "messages"))
    check_asked(record, prompt)
    return _pair(record, prompt, chosen, rejected)


def _read_openai(record: Object) -> Preference:
    """A row of OpenAI's preference fine-tuning."""
    asked = required(record, "input")
    if not isinstance(asked, dict) or "messages" not in asked:
        raise BadRow("input", "expected an object with messages")
    prompt = with_system(record, read_turns(asked["messages"], "input.messages"))
    chosen = read_answer(record, "preferred_output")
    rejected = read_answer(record, "non_preferred_output")
    tools = {"tools": asked["tools"]} if given(asked, "tools") is not None else {}
    return _pair(record | tools, prompt, chosen, rejected)


def _common_prompt(
    record: Object, chosen: list[Turn], rejected: list[Turn]
) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """Two whole conversations cut where they part; a `prompt` beside them only repeats theirs."""
    shared = 0
    for at, (one, other) in enumerate(zip(chosen, rejected, strict=False)):
        if one.message["role"] == other.message["role"] == "assistant":
            shared = at
        if without_ids(one.message) != without_ids(other.message):
            break
    if not shared:
        raise BadRow("rejected", "has no prompt in common with chosen")
    prompt = chosen[:shared]
    if given(record, "prompt"):
        known = [without_ids(turn.message) for turn in read_prompt(record)]
        if [without_ids(turn.message) for turn in prompt[-len(known) :]] != known:
            raise BadRow("prompt", "is not the prompt that chosen and rejected begin with")
    return with_system(record, prompt), chosen[shared:], rejected[shared:]


def write_preference(row: Preference) -> Object:
    return {
        "prompt": openai_turns(row.prompt),
        "chosen": openai_turns(row.chosen),
        "rejected": openai_turns(row.rejected),
        **as_tools(row.tools),
        **_margin(row),
    }


def _pair(
    record: Object, prompt: list[Turn], chosen: list[Turn], rejected: list[Turn]
) -> Preference:
    whole, other = (go_on(prompt, turns, _column(turns)) for turns in (chosen, rejected))
    if whole == other:
        reason = f"is the same as {_column(chosen)}: a pair needs two different answers"
        raise BadRow(_column(rejected), reason)
    margin = record.get("margin")
    if margin is not None and (isinstance(margin, bool) or not isinstance(margin, int | float)):
        raise BadRow("margin", f"is {kind(margin)}, expected a number")
    if margin is not None and not abs(margin) < 2.0**127:  # NaN is not either
        raise BadRow("margin", "expected a number that float32 can hold")
    return Preference(
        whole[: len(prompt)],
        whole[len(prompt) :],
        other[len(prompt) :],
        None if margin is None else float(margin),
        read_tools(record, prompt),
    )


def _column(turns: Sequence[Turn]) -> str:
    return re.split(r"[\[.]", turns[0].field, maxsplit=1)[0]


def _margin(row: Preference) -> Object:
    return {} if row.margin is None else {"margin": row.margin}


def read_labelled(record: Object) -> Labelled:
    name = one_column(record, "label", "kto_tag")
    label: Any = required(record, name)
    if not isinstance(label, int | float) or label not in (0, 1):
        what = repr(label) if isinstance(label, int | float) else kind(label)
        raise BadRow(name, f"is {what}, expected true (a good answer) or false")
    if "prompt" in record:
        reason = "not read beside prompt: put the turns into prompt, as messages"
        refused_turns(record, "history", reason)
        name = one_column(record, "completion", "response")
        prompt = with_system(record, read_prompt(record))
        messages = go_on(prompt, read_answer(record, name), name)
        check_asked(record, prompt)
        size, tools = len(prompt), read_tools(record, prompt)
    else:
        answered = _answered(record | {name: None})
        messages, tools = answered.messages, answered.tools
        size = len(messages) - 1
    return Labelled(messages[:size], messages[size:], bool(label), tools)


def _answered(record: Object) -> Conversation:
    """The conversation whose last turn LLaMA-Factory's KTO rows label."""
    if "messages" in record:
        return talk.read_messages(record)
    return talk.read_sharegpt(record) if "conversations" in record else talk.read_alpaca(record)


def write_labelled(row: Labelled) -> Object:
    return {
        "prompt": openai_turns(row.prompt),
        "completion": openai_turns(row.completion),
        "label": row.desirable,
        **as_tools(row.tools),
    }
