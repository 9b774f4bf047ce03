"""Formats of documents and of conversations: reading a row of them and writing one."""

import json
from typing import Any

from medgpt_ray.data.formats.columns import (
    Object,
    assistant,
    check_asked,
    check_chosen,
    exchanges,
    go_on,
    inexpressible,
    no_tools,
    one_column,
    read_answer,
    read_asked,
    read_history,
    read_prompt,
    read_tools,
    refused,
    refused_turns,
    required,
    spoken_turns,
    user,
    with_system,
    with_thoughts,
)
from medgpt_ray.data.formats.turns import check_order, openai_turns, read_turns, sharegpt_turns
from medgpt_ray.data.rows import check_text, number_as_text
from medgpt_ray.types import Conversation, Document


def read_text(record: Object) -> Document:
    return Document(check_text(required(record, "text"), "text"))


def write_text(row: Document) -> Object:
    return {"text": row.text}


def read_sharegpt(record: Object) -> Conversation:
    _refuse_beside_turns(record)
    value = required(record, "conversations")
    if isinstance(value, list) and len(value) > 1 and all(isinstance(one, str) for one in value):
        turns = spoken_turns(value, "conversations")  # LIMA's and HuatuoGPT's
    else:
        turns = read_turns(value, "conversations")
    turns = with_system(record, turns)
    check_chosen(record, turns)
    return Conversation(check_order(turns, "conversations"), read_tools(record, turns))


def _refuse_beside_turns(record: Object) -> None:
    refused_turns(record, "history", "not read beside turns: put its turns before them")


def write_sharegpt(row: Conversation) -> Object:
    return {"conversations": sharegpt_turns(row.messages)} | tools_as_text(row.tools)


def tools_as_text(tools: tuple[dict[str, Any], ...]) -> Object:
    """The column `tools` as ShareGPT's files have it: JSON text, of bare functions."""
    if not tools:
        return {}
    written = [
        tool["function"] if tool == {"type": "function", "function": tool["function"]} else tool
        for tool in tools
    ]
    return {"tools": json.dumps(written, ensure_ascii=False)}


def read_messages(record: Object) -> Conversation:
    _refuse_beside_turns(record)
    turns = with_system(record, read_turns(required(record, "messages"), "messages"))
    check_chosen(record, turns)
    return Conversation(check_order(turns, "messages"), read_tools(record, turns))


def write_messages(row: Conversation) -> Object:
    return {"messages": openai_turns(row.messages)} | as_tools(row.tools)


def as_tools(tools: tuple[dict[str, Any], ...]) -> Object:
    return {"tools": list(tools)} if tools else {}


def read_alpaca(record: Object) -> Conversation:
    refused(record, ("tools",), "alpaca rows have none: use the sharegpt or messages format")
    name = one_column(record, "output", "response")
    answer = with_thoughts(record, assistant(required(record, name), name))
    prompt = with_system(record, [*read_history(record), *read_asked(record)])
    check_asked({name: record[name] for name in record if name != "instruction"}, prompt)
    return Conversation(go_on(prompt, [answer], name))


def write_alpaca(row: Conversation) -> Object:
    no_tools(row.tools, "alpaca")
    system, texts = exchanges(row.messages, "alpaca")
    *before, question, answer = texts
    record: Object = {"instruction": question, "input": "", "output": answer}
    return record | system_and_history(system, before)


def system_and_history(system: str, texts: list[str]) -> Object:
    """The columns of what comes before the last question, those that hold something."""
    pairs = [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    return ({"system": system} if system else {}) | ({"history": pairs} if pairs else {})


def read_prompt_completion(record: Object) -> Conversation:
    refused_turns(
        record, "history", "not read beside prompt: put the turns into prompt, as messages"
    )
    name = one_column(record, "completion", "response")
    prompt = with_system(record, read_prompt(record))
    check_asked(record, prompt)
    said = record.get(name)
    bare = (
        {name: said.strip()} if isinstance(said, str) else {}
    )  # " 5 mg", as OpenAI once asked for
    answer = read_answer(record | bare, name)
    answer = [*answer[:-1], with_thoughts(record, answer[-1])]
    return Conversation(go_on(prompt, answer, name), read_tools(record, prompt))


def write_prompt_completion(row: Conversation) -> Object:
    *prompt, answer = openai_turns(row.messages)
    return {"prompt": prompt, "completion": [answer]} | as_tools(row.tools)


def read_qa(record: Object) -> Conversation:
    reason = "question and answer are a whole conversation: use the alpaca or messages format"
    refused(record, ("system", "history", "tools"), reason)
    names = ("问", "答") if "问" in record else ("question", "answer")
    question, answer = (_only(required(record, name)) for name in names)
    prompt = [user(question, names[0])]
    check_asked(record, prompt)
    said = with_thoughts(record, assistant(number_as_text(answer), names[1]))
    return Conversation(go_on(prompt, [said], names[1]))


def _only(value: Any) -> Any:
    """What a list of one, as Huatuo-26M has them, holds; all else as it is."""
    while isinstance(value, list) and len(value) == 1:
        (value,) = value
    return value


def write_qa(row: Conversation) -> Object:
    no_tools(row.tools, "qa")
    system, texts = exchanges(row.messages, "qa")
    if system:
        raise inexpressible("a system message", "qa")
    if len(texts) > 2:
        raise inexpressible("more than one question", "qa")
    return {"question": texts[0], "answer": texts[1]}
