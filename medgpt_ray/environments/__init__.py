"""Environments: what answers the policy between two of its turns. Plain Python, no ray, no torch.

One is named in the configuration as `package.module:Class` and made anew for each completion. It
reads the policy's turn as text and says what the policy is told, or None when the dialogue is over:

    class Echo:
        def __init__(self, row, **arguments): ...
        def step(self, text) -> list[dict] | None:
            return [{"role": "user", "content": f"You said {text}"}]

What it says is rendered by the policy's own chat template and is never trained on.
"""

from typing import Any, Protocol

Observation = list[dict[str, str]] | None
"""Chat messages for the policy; None ends the dialogue."""


class Environment(Protocol):
    """One dialogue."""

    def __init__(self, row: dict[str, Any], **arguments: Any) -> None:
        """`row` is the row of the prompt; `arguments` are those of the configuration (reset)."""

    def step(self, text: str) -> Observation:
        """`text` is the policy's turn, decoded without special tokens."""
