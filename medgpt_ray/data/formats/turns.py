"""Turns of a conversation, in ShareGPT's words (from, value) or OpenAI's (role, content): read into
messages, checked for their order, and written back in either way."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medgpt_ray.data.rows import (
    BadRow,
    check_text,
    check_values,
    is_blank,
    kind,
    parse_json_text,
)
from medgpt_ray.types import Message

ROLES = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "ipython": "tool",
}
SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}

_THOUGHTS = "put it into content, as the chat template writes thoughts"
_NO_LOSS = "no turn can be left out of the loss: leave it out of the row"
UNREAD = {
    "function_call": "write calls as tool_calls",
    "reasoning_content": _THOUGHTS,
    "reasoning": _THOUGHTS,
    "thinking": _THOUGHTS,
    "weight": _NO_LOSS,
    "loss": _NO_LOSS,
    "train": _NO_LOSS,
    "training": _NO_LOSS,
    "train_on_turn": _NO_LOSS,
}
"""Keys of an assistant's turn that say what is trained on, and what to do as they are not read."""
MASKS = ("mask", "masked")
"""Keys that say it the other way around."""

# Who may speak after whom; "call" is an assistant that calls tools, "written call" one that does so
# in its text, as Hermes writes it.
WRITTEN_CALL = "<tool_call>"
WRITTEN_RESPONSE = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>", re.DOTALL)
_NEXT = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant", "call", "written call"),
    "assistant": ("user",),
    "call": ("tool",),
    "written call": ("tool", "user"),
    "tool": ("tool", "assistant", "call", "written call"),
}


@dataclass(frozen=True, slots=True)
class Turn:
    """A message and where it stands in the row."""

    field: str
    """Of its role, as in `messages[0].role`."""
    message: Message
    ids: tuple[Any, ...] = ()
    """OpenAI's: of the calls of an assistant, or of the call that a tool answers."""


def read_turns(value: Any, field: str) -> list[Turn]:
    """The turns of the list `value`. An assistant's text before its call is one turn with it; an
    empty system message is none."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parse_json_text(value, field)
    if not isinstance(value, list):
        raise BadRow(field, f"is {kind(value)}, expected a list of turns")
    if not value:
        raise BadRow(field, "empty list, expected at least one turn")
    turns: list[Turn] = []
    for index, item in enumerate(value):
        if _is_empty_system(item):
            continue
        turn = read_turn(item, f"{field}[{index}]")
        before = turns[-1].message if turns else {"role": ""}
        calls_only = item.get("from") == "function_call"
        if calls_only and before["role"] == "assistant" and "tool_calls" not in before:
            message = turn.message | {"content": before["content"]}
            turns[-1] = Turn(turns[-1].field, message)
        else:
            turns += _responses(turn)
    if not turns:
        raise BadRow(field, "has only an empty system message, expected at least one turn")
    return _in_order_of_calls(turns)


def _responses(turn: Turn) -> list[Turn]:
    """A turn of tools as Hermes writes it, each answer in `<tool_response>`, as a turn for each
    answer: chat templates write what is around them."""
    if turn.message["role"] != "tool":
        return [turn]
    answers = WRITTEN_RESPONSE.findall(turn.message["content"])
    beside = WRITTEN_RESPONSE.sub("", turn.message["content"]).strip()
    if not answers or beside:
        return [turn]
    return [Turn(turn.field, turn.message | {"content": answer}, turn.ids) for answer in answers]


def _is_empty_system(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    who, what = ("from", "value") if "from" in item else ("role", "content")
    if item.get(who) not in ("system", "developer"):
        return False
    return is_blank(item[what]) if what in item else len(item) == 1  # Parquet leaves out null


def read_turn(item: Any, field: str) -> Turn:
    """One turn, in either way of writing it."""
    if not isinstance(item, dict):
        raise BadRow(field, f"is {kind(item)}, expected {{from, value}} or {{role, content}}")
    if "from" in item:
        who, what = "from", "value"
    elif "role" in item:
        who, what = "role", "content"
    else:
        reason = f"has the keys {list(item)}, expected from and value, or role and content"
        raise BadRow(field, reason)
    role = item[who]
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow(f"{field}.{who}", f"{role!r} is not one of {', '.join(ROLES)}")
    message: Message = {"role": ROLES[role], "content": ""}
    for name, fix in UNREAD.items() if message["role"] == "assistant" else ():
        if not is_blank(item.get(name)) and item[name] not in (1, [], {}):
            raise BadRow(f"{field}.{name}", f"is not read: {fix}")
    for name in MASKS if message["role"] == "assistant" else ():
        if item.get(name):
            raise BadRow(f"{field}.{name}", f"is not read: {_NO_LOSS}")
    calls = item.get("tool_calls")
    if role == "function_call":
        message["tool_calls"] = _calls_of_text(item.get(what), f"{field}.{what}")
        return Turn(f"{field}.{who}", message)
    if calls and message["role"] != "assistant":
        raise BadRow(f"{field}.tool_calls", f"only an assistant calls tools, this is {role}")
    if what not in item and not calls:
        raise BadRow(f"{field}.{what}", "missing")
    content = item.get(what)
    nothing = is_blank(content) or content == []
    may_be_nothing = calls or (message["role"] == "tool" and content is not None)
    if not (nothing and may_be_nothing):
        message["content"] = _text(content, f"{field}.{what}")
    if calls:
        message["tool_calls"] = _calls(calls, f"{field}.tool_calls")
        return Turn(f"{field}.{who}", message, tuple(call.get("id") for call in calls))
    if message["role"] == "tool":
        message |= {
            name: item[name]
            for name in ("name", "tool_call_id")
            if isinstance(item.get(name), str) and item[name]
        }
    return Turn(f"{field}.{who}", message, (item.get("tool_call_id"),))


def _text(value: Any, field: str) -> str:
    """A text, or OpenAI's list of parts where all of them are text."""
    if not isinstance(value, list):
        return check_text(value, field)
    for index, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text":
            what = f"of type {part.get('type')}" if isinstance(part, dict) else kind(part)
            reason = f"is {what}, only parts of type text are trained on"
            raise BadRow(f"{field}[{index}]", reason)
        check_text(part.get("text"), f"{field}[{index}].text")
    return check_text("".join(part["text"] for part in value), field)


def _calls_of_text(value: Any, field: str) -> list[dict[str, Any]]:
    """Calls of ShareGPT: JSON text of {name, arguments}, or of a list of them."""
    calls = parse_json_text(check_text(value, field), field)
    return _calls(calls, field) if isinstance(calls, list) else [_call(calls, field)]


def _calls(calls: Any, field: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise BadRow(field, f"is {kind(calls)}, expected a list of calls")
    if not calls:
        raise BadRow(field, "empty list, expected at least one call")
    return [_call(call, f"{field}[{index}]") for index, call in enumerate(calls)]


def _call(call: Any, field: str) -> dict[str, Any]:
    """{name, arguments}, or that inside of OpenAI's {id, type, function}."""
    if not isinstance(call, dict):
        raise BadRow(field, f"is {kind(call)}, expected {{name, arguments}}")
    function = call.get("function", call)
    if not isinstance(function, dict) or "name" not in function:
        raise BadRow(field, f"has the keys {list(call)}, expected name and arguments")
    name = check_text(function["name"], f"{field}.name")
    if "parameters" in function and "arguments" not in function:
        raise BadRow(f"{field}.parameters", "the values of a call are its arguments: rename it")
    arguments, place = function.get("arguments"), f"{field}.arguments"
    if isinstance(arguments, str):
        arguments = parse_json_text(arguments, place) if arguments.strip() else None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise BadRow(place, f"is {kind(arguments)}, expected an object")
    check_values(arguments, place)
    named = {"id": call["id"]} if isinstance(call.get("id"), str) and call["id"] else {}
    return {**named, "type": "function", "function": {"name": name, "arguments": arguments}}


def _in_order_of_calls(turns: list[Turn]) -> list[Turn]:
    """Answers of tools that name their call by id, put in the order of the calls."""
    ordered: list[Turn] = []
    start, calls = 0, Turn("", {})
    for turn in turns:
        ordered.append(turn)
        if turn.message["role"] != "tool":
            start, calls = len(ordered), turn
        elif turn.ids != (None,) and any(calls.ids) and "tool_calls" in calls.message:
            if turn.ids[0] not in calls.ids:
                field = turn.field.rpartition(".")[0] + ".tool_call_id"
                raise BadRow(field, f"{turn.ids[0]!r} is not the id of a call just before")
            if all(answer.ids[0] in calls.ids for answer in ordered[start:]):
                ordered[start:] = sorted(
                    ordered[start:], key=lambda answer: calls.ids.index(answer.ids[0])
                )
    return ordered


def check_order(turns: Sequence[Turn], field: str) -> tuple[Message, ...]:
    """The messages of a conversation that begins with the user (or the system) and ends with the
    assistant; `field` names the whole of it."""
    speaker, open_calls = "", 0
    for turn in turns:
        message = turn.message
        before, speaker = speaker, _speaker(message)
        if speaker not in _NEXT[before]:
            raise BadRow(turn.field, _wrong_order(speaker, before))
        if speaker == "tool":
            open_calls -= 1
            if open_calls < 0:
                raise BadRow(turn.field, "answers of tools are more than the calls before them")
        elif speaker == "call":
            open_calls = len(message["tool_calls"])
        elif speaker == "written call":
            open_calls = message["content"].count(WRITTEN_CALL)
    if speaker not in ("assistant", "call", "written call"):
        raise BadRow(field, f"ends with the {speaker}, the last turn must be the assistant's")
    return tuple(turn.message for turn in turns)


def _speaker(message: Message) -> str:
    if "tool_calls" in message:
        return "call"
    written = message["role"] == "assistant" and WRITTEN_CALL in message["content"]
    return "written call" if written else str(message["role"])


def _wrong_order(speaker: str, before: str) -> str:
    if speaker == "system":
        return "a system message can only come first"
    if speaker == "tool":
        return (
            "a tool's answer without a call in the turn before: write the call as a turn "
            "function_call or as tool_calls"
        )
    names = {"call": "assistant", "written call": "assistant"}
    who, after = names.get(speaker, speaker), names.get(before, before)
    if not before:
        return f"the first turn is the {who}'s, expected the user's"
    expected = {"call": "tool", "tool": "assistant", "user": "assistant"}.get(before, "user")
    return f"a turn of the {who} follows one of the {after}, expected the {expected}'s"


def sharegpt_turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """{from, value} of each; an assistant's text and its calls become two turns."""
    turns = []
    for message in messages:
        if "tool_calls" not in message or message["content"]:
            role = SHAREGPT_ROLES[message["role"]]
            turns.append({"from": role, "value": message["content"]})
        if "tool_calls" in message:
            calls = [call["function"] for call in message["tool_calls"]]
            value = json.dumps(calls if len(calls) > 1 else calls[0], ensure_ascii=False)
            turns.append({"from": "function_call", "value": value})
    return turns


def openai_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """{role, content} of each, with ids for calls and their answers."""
    turns: list[dict[str, Any]] = []
    ids: list[str] = []
    for number, message in enumerate(messages):
        turn = {"role": message["role"], "content": message["content"]}
        if "tool_calls" in message:
            ids = [
                call.get("id", f"call_{number}_{index}")
                for index, call in enumerate(message["tool_calls"])
            ]
            turn["tool_calls"] = [
                {"id": id, "type": "function", "function": _as_text(call["function"])}
                for id, call in zip(ids, message["tool_calls"], strict=True)
            ]
        elif message["role"] == "tool":
            turn |= {"name": message["name"]} if "name" in message else {}
            own, call = message.get("tool_call_id"), ids.pop(0) if ids else None
            if own or call:
                turn["tool_call_id"] = own or call
        turns.append(turn)
    return turns


def _as_text(function: dict[str, Any]) -> dict[str, str]:
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {"name": function["name"], "arguments": arguments}
