"""JSON lines: each row is a document of its own, a title or question and the text below it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medgpt_ray.retrieval.blocks import Block, Outline, Place
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.readers.text import decode

TITLES = ("title", "question", "query", "instruction", "标题", "问题", "问")
TEXTS = ("text", "content", "answer", "output", "response", "正文", "内容", "答案", "回答", "答")
BESIDE = ("context", "input", "背景")
"""What may stand between a question or instruction and its answer; no text of its own."""
_SHOWN = 5
"""Bad rows of one file that are told."""


def read(path: Path) -> Iterator[Block]:
    outline, blocks, problems = Outline(), list[Block](), list[str]()
    for number, line in enumerate(decode(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            problems.append(f"{path}:{number}: half of a surrogate pair is no character")
            continue
        except (ValueError, RecursionError) as error:  # also more digits or depth than Python takes
            problems.append(f"{path}:{number}: not readable JSON: {error}")
            continue
        texts = _values(row, TEXTS) if isinstance(row, dict) else []
        if not texts:
            keys = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            problems.append(
                f"{path}:{number}: no text under any of {', '.join(TEXTS)} (has: {keys})"
            )
            continue
        outline.enter(1, " ".join(_values(row, TITLES)))
        texts = _values(row, BESIDE) + texts
        blocks += [outline.block([(text, Place(line=number))]) for text in texts]
    if len(problems) > _SHOWN:
        problems[_SHOWN:] = [f"{path}: ... and {len(problems) - _SHOWN} more such rows"]
    if problems:
        raise RetrievalError(problems)
    return iter(blocks)


def _values(row: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Each paragraph of the strings under `keys`."""
    found = (row[key] for key in keys if isinstance(row.get(key), str))
    return [line.strip() for text in found for line in text.splitlines() if line.strip()]
