"""An answer on its way out, whole or in chunks: the guard's notices put in, and accounted for."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter

from medgpt_ray.guard.notices import CAUTION, Case

ACTIONS = Counter("medgpt_guard_actions", "What the safety guard did", ["action"])


class Reply:
    """`medgpt` in the answer (in a stream, in the chunks that end a choice) says what was done."""

    def __init__(self, case: Case | None, notes: Mapping[str, Any], *, fixed_form: bool) -> None:
        """`case`: none without the guard. `notes` go into `medgpt` as they are. `fixed_form`: the
        caller asked for JSON or the like, so notices stand in `medgpt` only."""
        self._case, self._notes, self._fixed_form = case, notes, fixed_form
        self._advice = case.advice() if case else ""
        self._begun: set[int] = set()
        self._cautioned: set[int] = set()
        self.texts: defaultdict[int, str] = defaultdict(str)
        """What the model said, by choice."""
        self.usage: Any = None
        if self._advice:
            ACTIONS.labels("emergency_advice").inc()

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer that is not streamed, of any path; only a chat message is added to."""
        self.usage = answer.get("usage")
        for choice in answer.get("choices", ()):
            index, message = choice["index"], choice.get("message")
            self.texts[index] = (message or {}).get("content") or choice.get("text") or ""
            parts = [self._advice, self.texts[index], self._caution(index)]
            if message is not None and not self._fixed_form and (parts[0] or parts[2]):
                message["content"] = "\n\n".join(part for part in parts if part)
        return self._with_metadata(answer)

    def chunk(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """One event of a stream, of any path."""
        self.usage = chunk.get("usage") or self.usage
        ends = False
        for choice in chunk.get("choices", ()):
            index, delta = choice["index"], choice.get("delta")
            ends = ends or choice.get("finish_reason") is not None
            self.texts[index] += (delta or {}).get("content") or choice.get("text") or ""
            if delta is not None and not self._fixed_form:
                self._add(index, delta, choice.get("finish_reason"))
            elif choice.get("finish_reason"):
                self._caution(index)
        return self._with_metadata(chunk) if ends else chunk

    def _add(self, index: int, delta: dict[str, Any], finish: str | None) -> None:
        if index not in self._begun:
            self._begun.add(index)
            if self._advice:
                delta["content"] = f"{self._advice}\n\n{delta.get('content') or ''}"
        if finish and (caution := self._caution(index)):
            delta["content"] = f"{delta.get('content') or ''}\n\n{caution}"

    def _caution(self, index: int) -> str:
        caution = self._case.caution(self.texts[index]) if self._case else ""
        if caution and index not in self._cautioned:
            self._cautioned.add(index)
            ACTIONS.labels("dose_caution").inc()
        return caution

    def _with_metadata(self, answer: dict[str, Any]) -> dict[str, Any]:
        metadata = dict(self._notes)
        if guard := self.guard():
            metadata["guard"] = guard
        return {**answer, "medgpt": metadata} if metadata else answer

    def guard(self) -> dict[str, Any] | None:
        """What the guard saw and did so far; none without the guard."""
        if self._case is None:
            return None
        caution = CAUTION[self._case.language] if self._cautioned else ""
        return {
            "emergency": list(self._case.emergency),
            "dose_caution": sorted(self._cautioned),
            "notices": [notice for notice in (self._advice, caution) if notice],
            "in_text": not self._fixed_form,
        }
