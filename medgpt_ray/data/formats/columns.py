"""Columns that several formats have: system, history, tools, and a prompt with its answers."""

import re
from collections.abc import Sequence
from typing import Any

from medgpt_ray.data.formats.turns import Turn, check_order, read_turn, read_turns
from medgpt_ray.data.rows import (
    BadRow,
    check_options,
    check_shown,
    check_text,
    check_values,
    is_blank,
    kind,
    parse_json_text,
)
from medgpt_ray.types import Message

Object = dict[str, Any]
ASKED = (
    *("context", "contexts", "passage", "passages", "input", "inputs", "instruction", "query"),
    *("question", "problem"),
)
"""Columns with a part of the question, in whatever case."""
TOLD = (
    *("document", "documents", "article", "note", "notes", "report", "abstract", "background"),
    *("knowledge", "case", "patient", "text", "paragraph", "evidence", "snippets", "facts"),
    *("vignette", "scenario", "clinical_note", "dialogue", "description", "content", "body"),
)
"""Columns that may be one, or a remark on the row."""
THOUGHTS = (
    *("thoughts", "thought", "thinking", "think", "reasoning", "reasoning_content", "rationale"),
    *("cot", "complex_cot", "chain_of_thought", "reasoning_process"),
)
"""Columns with what is thought before the answer, in whatever case; `thoughts` is read."""
PASSAGE_CHARACTERS, TOLD_CHARACTERS = 12, 60
"""What is shorter is a remark on the row."""
UNUSED = "or say that it is not needed with columns: unused"
ANSWERED = ("answer", "答", "output", "completion", "response", "chosen", "response_chosen")
TOLD_APART = (
    "tells good answers from bad ones, such rows are for stage kto: leave the bad ones out, and "
    f"this column, {UNUSED}"
)
"""Of a label beside a conversation."""
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
_HH_ROLE = re.compile(r"\n\n(Human|Assistant):")
_LINE_ROLE = re.compile(r"\n+(Human|Assistant):")
_ENDS_ASKING = re.compile(r"\n+Assistant:\s*$")
_SPEAKER = re.compile(
    r"\s*(?P<who>问|答|患者|病人|医生|q|a|question|answer|human|user|patient|assistant|bot|doctor)[:：]\s*",
    re.IGNORECASE,
)
_ASKING = frozenset(["问", "患者", "病人", "q", "question", "human", "user", "patient"])


def required(record: Object, name: str) -> Any:
    if name not in record:
        raise BadRow(name, "missing")
    return record[name]


def given(record: Object, name: str) -> Any:
    """An optional column; None where it is null or a blank text."""
    value = record.get(name)
    return None if is_blank(value) else value


def refused(record: Object, names: Sequence[str], reason: str) -> None:
    """Raises for a column that would change the meaning of the row and that a format lacks."""
    for name in names:
        value = given(record, name)
        if isinstance(value, list) and not any(value):
            continue
        if value not in (None, {}, "[]", False):
            raise BadRow(name, reason)


def refused_turns(record: Object, name: str, reason: str) -> None:
    """As `refused` for a list, or the text of one: a note with that name is another matter."""
    value = given(record, name)
    if not isinstance(value, str) or value.lstrip().startswith("["):
        refused(record, (name,), reason)


def check_asked(record: Object, prompt: Sequence[Turn]) -> None:
    """Raises for options, a context or the like that the prompt does not hold."""
    question = "\n".join(turn.message["content"] for turn in prompt)
    answer = next((record[name] for name in ANSWERED if given(record, name) is not None), None)
    check_options(record, question, answer)
    names = [name for name in record if name.lower() in ASKED]
    if "prompt" in record or "question" in record:  # beside these a query is one of a data base
        names = [name for name in names if name.lower() != "query"]
    if "question" in record:
        names += [name for name in record if name.lower() == "prompt"]
    fix = f"write it there, {UNUSED}"
    check_shown(record, names, question, fix, PASSAGE_CHARACTERS)
    told = [name for name in record if name.lower() in TOLD]
    parts = prompt[-1].message["content"].split("\n\n")
    whole = given(record, "text")  # Alpaca's files have the row in it again
    if isinstance(whole, str) and any(part.strip() and part in whole for part in parts):
        told = [name for name in told if name != "text"]
    check_shown(record, told, question, fix, TOLD_CHARACTERS)


def check_thoughts(record: Object, texts: Sequence[str]) -> None:
    """Raises for thoughts in a column of their own that are not among the `texts` of the row."""
    for name in record:
        value = given(record, name)
        if name.lower() not in THOUGHTS or not isinstance(value, str | list | dict) or not value:
            continue
        if isinstance(value, str) and (
            len(value) < PASSAGE_CHARACTERS or any(value.strip() in text for text in texts)
        ):
            continue
        fix = f"put it into the answer, or name it with columns: thoughts; {UNUSED}"
        raise BadRow(name, f"is not read: {fix}")


def check_chosen(record: Object, turns: Sequence[Turn]) -> None:
    """Raises for options that a conversation does not hold, and that its last turn names."""
    texts = [turn.message["content"] for turn in turns]
    check_options(record, "\n".join(texts[:-1]), texts[-1])


def read_tools(record: Object, turns: Sequence[Turn] = ()) -> tuple[dict[str, Any], ...]:
    """`tools` as OpenAI writes them: a list or its JSON text, of functions wrapped or bare."""
    value = given(record, "tools")
    if isinstance(value, str):
        value = parse_json_text(value, "tools")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadRow("tools", f"is {kind(value)}, expected a list of functions or its JSON text")
    check_values(value, "tools")
    if value and any("<tools>" in turn.message["content"] for turn in turns[:1]):
        raise BadRow(
            "tools",
            "the system message has <tools> already, and the chat template would show them again: "
            f"take them out of one of the two, {UNUSED}",
        )
    return tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(value))


def _tool(tool: Any, field: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise BadRow(field, f"is {kind(tool)}, expected {{name, description, parameters}}")
    wrapped = {"type": "function"} | (tool if "function" in tool else {"function": tool})
    function = wrapped["function"]
    if not isinstance(function, dict) or "name" not in function:
        raise BadRow(field, f"has the keys {list(tool)}, expected name, description, parameters")
    check_text(function["name"], f"{field}.name")
    return wrapped


def with_system(record: Object, turns: list[Turn]) -> list[Turn]:
    """`turns` after the column `system`, where that holds something that they do not begin with."""
    value = given(record, "system")
    if value is None:
        return turns
    if turns[0].message["role"] == "system":
        if turns[0].message["content"] == value:
            return turns
        raise BadRow("system", f"given together with {turns[0].field}, keep one of them")
    message = {"role": "system", "content": check_text(value, "system")}
    return [Turn("system", message), *turns]


def read_history(record: Object) -> list[Turn]:
    """The column `history`, a list of [question, answer]."""
    value = given(record, "history")
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRow("history", f"is {kind(value)}, expected a list of [question, answer]")
    turns = []
    for index, pair in enumerate(value):
        field = f"history[{index}]"
        if not isinstance(pair, list) or len(pair) != 2:
            what = f"has {len(pair)} items" if isinstance(pair, list) else f"is {kind(pair)}"
            raise BadRow(field, f"{what}, expected [question, answer]")
        turns += [user(pair[0], f"{field}[0]"), assistant(pair[1], f"{field}[1]")]
    return turns


def read_prompt(record: Object) -> list[Turn]:
    """The column `prompt`: the user's text, or turns, or those of HH-RLHF as one text."""
    value = required(record, "prompt")
    if isinstance(value, list):
        return read_turns(value, "prompt")
    if is_hh(value) and _ENDS_ASKING.search(value):
        return hh_turns(_ENDS_ASKING.sub("", value), "prompt")
    return [user(value, "prompt")]


def is_hh(value: Any) -> bool:
    """Whether it is a conversation as HH-RLHF writes it, "\\n\\nHuman: ...\\n\\nAssistant: ...", or
    with one line end, as BELLE does."""
    return (
        isinstance(value, str)
        and value.lstrip("\n").startswith("Human:")
        and ("\nAssistant:" in value)
    )


def hh_turns(text: str, field: str) -> list[Turn]:
    """The turns of such a conversation."""
    role = _HH_ROLE if "\n\nAssistant:" in text or "\n\nHuman:" in text[1:] else _LINE_ROLE
    _, *parts = role.split("\n\n" + text.lstrip("\n"))
    return [
        (user if who == "Human" else assistant)(said.strip(), f"{field}[{index}]")
        for index, (who, said) in enumerate(zip(parts[::2], parts[1::2], strict=True))
    ]


def spoken_turns(texts: list[str], field: str) -> list[Turn]:
    """Texts in turn, the user's first, without "问：" and the like where each begins so."""
    speakers = [_SPEAKER.match(text) for text in texts]
    turns = []
    for index, (text, speaker) in enumerate(zip(texts, speakers, strict=True)):
        place = f"{field}[{index}]"
        if all(speakers) and speaker:
            if (speaker["who"].lower() in _ASKING) == bool(index % 2):
                who = "assistant" if index % 2 else "user"
                raise BadRow(place, f"begins with {speaker['who']}, expected the {who}'s turn")
            text = text[speaker.end() :]
        turns.append((assistant if index % 2 else user)(text, place))
    return turns


def read_asked(record: Object) -> list[Turn]:
    """Alpaca's question, or the turns before it where BELLE has them in one text."""
    value = record.get("instruction")
    if is_hh(value) and _ENDS_ASKING.search(str(value)) and given(record, "input") is None:
        return hh_turns(_ENDS_ASKING.sub("", str(value)), "instruction")
    return [read_instruction(record)]


def read_answer(record: Object, name: str) -> list[Turn]:
    """A column that holds the assistant's text, one turn, or turns that go on from a prompt."""
    value = required(record, name)
    if isinstance(value, list):
        return read_turns(value, name)
    if isinstance(value, dict):
        return [read_turn(value, name)]
    return [assistant(value, name)]


def with_thoughts(record: Object, answer: Turn) -> Turn:
    """`answer` behind the column `thoughts`, as reasoning models write them."""
    thoughts = given(record, "thoughts")
    if thoughts is None:
        return answer
    text = check_text(thoughts, "thoughts").strip()
    if "<think>" in answer.message["content"]:
        raise BadRow("thoughts", "given together with <think> in the answer, keep one of them")
    return assistant(f"<think>\n{text}\n</think>\n\n{answer.message['content']}", answer.field)


def read_instruction(record: Object) -> Turn:
    """Alpaca's question: the column `instruction` and, after an empty line, the column `input`,
    which Dolly calls `context`."""
    instruction = required(record, "instruction")
    name = "input" if given(record, "input") is not None else "context"
    extra = given(record, name)
    if extra is None:
        text = check_text(instruction, "instruction")
    elif is_blank(instruction):
        text = check_text(extra, name)
    else:
        text = f"{check_text(instruction, 'instruction')}\n\n{check_text(extra, name)}"
    return user(text, "instruction")


def one_column(record: Object, name: str, other: str) -> str:
    """Which of two names a column has, `name` where it is missing."""
    if given(record, other) is None:
        return other if other in record and name not in record else name
    if given(record, name) is not None:
        raise BadRow(name, f"given together with {other}, keep one of them")
    return other


def go_on(prompt: Sequence[Turn], answer: Sequence[Turn], name: str) -> tuple[Message, ...]:
    """The messages of a prompt and of the answer to it, which is the column `name`."""
    if answer[0].message["role"] != "assistant":
        reason = f"an answer begins with the assistant, not with the {answer[0].message['role']}"
        raise BadRow(answer[0].field, reason)
    return check_order([*prompt, *answer], name)


def user(value: Any, field: str) -> Turn:
    return Turn(field, {"role": "user", "content": check_text(value, field)})


def assistant(value: Any, field: str) -> Turn:
    return Turn(field, {"role": "assistant", "content": check_text(value, field)})


def exchanges(messages: Sequence[Message], format: str) -> tuple[str, list[str]]:
    """System text ("" for none) and the texts of user and assistant in turn; raises for a
    conversation with calls, which `format` cannot express."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    turns = messages[1:] if system else messages
    if any(message["role"] == "tool" or "tool_calls" in message for message in turns):
        raise inexpressible("tool calls", format)
    return system, [message["content"] for message in turns]


def no_tools(tools: Sequence[dict[str, Any]], format: str) -> None:
    if tools:
        raise inexpressible("tools", format)


def inexpressible(what: str, format: str) -> BadRow:
    return BadRow("", f"{format} cannot express {what}: convert to another format")
