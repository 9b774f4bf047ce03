"""Tool calls: how a model writes them, and how one is told of tools whose template knows none."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from medgpt_ray.guard.notices import text_of

MARKS = {"<tool_call>": "hermes", "[TOOL_CALLS]": "mistral", "ipython": "llama3_json"}
"""What stands in a chat template -> vLLM's parser of such calls."""

PLAIN = "hermes"
"""The form that `told_of` asks for."""

INSTRUCTION = """\
You may call functions. Their signatures, as JSON, are in <tools></tools>:
<tools>
{tools}
</tools>
To call one, answer with its name and arguments as JSON in <tool_call></tool_call>:
<tool_call>
{{"name": "...", "arguments": {{...}}}}
</tool_call>"""


def shows_tools(template: str | None) -> bool:
    return "tools" in (template or "")


def parser_for(template: str | None) -> str | None:
    """vLLM's name of the form; none where the template has tools in a form not known here."""
    if not shows_tools(template):
        return PLAIN
    return next((parser for mark, parser in MARKS.items() if mark in (template or "")), None)


def told_of(
    tools: Sequence[Mapping[str, Any]], messages: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """`messages` with the tools in the system message, and past calls and results as text."""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    told = [_as_text(message) for message in messages]
    instruction = INSTRUCTION.format(tools=listed)
    if told and told[0].get("role") == "system":
        said = text_of(told[0])
        return [{**told[0], "content": f"{said}\n\n{instruction}".strip()}, *told[1:]]
    return [{"role": "system", "content": instruction}, *told]


def _as_text(message: Mapping[str, Any]) -> dict[str, Any]:
    if message.get("role") == "tool":
        content = f"<tool_response>\n{text_of(message)}\n</tool_response>"
        return {"role": "user", "content": content}
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        return dict(message)
    written = [text_of(message)]
    for call in calls:
        function = call.get("function")
        named = function if isinstance(function, Mapping) else {}
        line = f'{{"name": {json.dumps(named.get("name"))}, "arguments": {named.get("arguments")}}}'
        written.append(f"<tool_call>\n{line}\n</tool_call>")
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**kept, "content": "\n".join(part for part in written if part)}
