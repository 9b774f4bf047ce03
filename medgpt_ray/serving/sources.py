"""Answers from documents: what `medgpt index build` made, put before the model in each chat."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgpt_ray.guard.notices import text_of
from medgpt_ray.retrieval.augment import Fits, augment
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.index import Index
from medgpt_ray.serving import versions
from medgpt_ray.serving.assistant import Augment, Augmented, Messages
from medgpt_ray.serving.errors import Refusal


def from_index(directory: Path, wanted: str | None) -> Augment:
    """The sources stand in `medgpt.retrieval` of the answer, by the numbers that it cites.

    Where they do not suffice, the model can only say so: its answer is bound to that sentence.
    Fails where the directory holds another version than `wanted`.
    """
    version = versions.of_index(directory)
    if wanted not in (None, version):
        raise RetrievalError(
            [
                f"{directory}: holds version {version} of the index, not {wanted} as when it was "
                "deployed: `medgpt serve update --index` deploys what is there now"
            ]
        )
    index = Index.open(directory)

    def add_sources(messages: Messages, fits: Fits | None = None) -> Augmented:
        users = [message for message in messages if message.get("role") == "user"]
        if not all(map(_is_sound, users)):
            return Augmented(messages)  # for vLLM to refuse
        if not any(text_of(user).strip() for user in users):
            raise Refusal(400, "messages: hold no question of a user", "messages")
        found = augment(index, messages, fits=fits)
        sources = [
            {"number": c.number, "label": c.label, "path": c.path, "page": c.page, "line": c.line}
            for c in found.citations
        ]
        notes = {"sufficient": found.sufficient, "confidence": found.confidence, "sources": sources}
        notes["index"] = version
        bound: Mapping[str, Any] = {}
        if not found.sufficient:
            bound = {"structured_outputs": {"choice": [found.insufficient_reply]}}
        return Augmented(
            found.messages, [c.text for c in found.citations], {"retrieval": notes}, bound
        )

    return add_sources


def _is_sound(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, str) or (isinstance(content, list) and all(map(_is_part, content)))


def _is_part(part: Any) -> bool:
    """A text alone is a part to vLLM too."""
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return isinstance(part, str)
    return part["type"] != "text" or isinstance(part.get("text"), str)
