"""Multi-turn rollouts: the policy speaks, the environment answers, until one of them is done.

Token ids in, token ids out: what the policy wrote is never tokenised again. An observation is the
text that the chat template puts between two turns of the policy, tokenised by itself and appended:
so each turn's prompt begins with exactly the tokens of the turns before.

Legend: P = tokens of the prompt, T = of the completion, observations included.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass, replace
from typing import Any

from medgpt_ray.environments import Observation
from medgpt_ray.types import Completion, Prompt, VersionSpan

Generate = Callable[[list[tuple[int, ...]], list[int]], list[Completion]]
"""(token ids of the prompts, most tokens of each answer) -> one completion each."""

MARK = "Qzxmark"


@dataclass
class Dialogue:
    """One completion on its way."""

    prompt: Prompt
    index: int
    environment: Any
    done: Completion | None = None
    """The turns so far as one completion."""
    over: bool = False
    turns: int = 0
    spoken: str = ""
    """The policy's last turn."""

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt.token_ids + (self.done.token_ids if self.done else ())

    def say(self, turn: Completion) -> None:
        """Append a turn of the policy."""
        before = self.done
        start = len(before.token_ids) if before else 0
        spans = tuple(VersionSpan(s.version, s.start + start, s.end + start) for s in turn.versions)
        self.done = replace(
            turn,
            prompt_id=self.prompt.id,
            index=self.index,
            token_ids=(before.token_ids if before else ()) + turn.token_ids,
            log_probs=(before.log_probs if before else ()) + turn.log_probs,
            versions=(before.versions if before else ()) + spans,
            observed=before.observed if before else (),
        )
        self.turns += 1
        self.spoken = turn.text
        self.over = turn.finish_reason != "stop"

    def hear(self, ids: Sequence[int]) -> None:
        """Append what the environment said."""
        assert self.done is not None
        start, end = len(self.done.token_ids), len(self.done.token_ids) + len(ids)
        self.done = replace(
            self.done,
            token_ids=self.done.token_ids + tuple(ids),
            log_probs=self.done.log_probs + (0.0,) * len(ids),
            observed=(*self.done.observed, (start, end)),
        )

    def fail(self, error: str) -> None:
        assert self.done is not None
        self.done, self.over = replace(self.done, error=error), True


@dataclass(frozen=True)
class Unbuilt:
    """In place of an environment whose making raised: its first step tells, and costs the
    completion."""

    error: Exception

    def step(self, spoken: str) -> Observation:
        raise self.error


def build(environment: Any, prompt: Prompt, arguments: dict[str, Any]) -> Any:
    """The environment of one completion, or what tells why there is none."""
    try:
        return environment(prompt.row, **arguments)
    except Exception as error:  # noqa: BLE001  the user's code: costs its sample
        return Unbuilt(error)


class Listener:
    """Renders what environments say, by the chat template, as the tokens between two turns."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.stops = [tokenizer.decode([id]) for id in stop_ids]

    def ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """From behind the token that ended the policy's turn to the start of its next one."""
        dialogue = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": MARK},
            *messages,
        ]
        text = self.tokenizer.apply_chat_template(
            dialogue, tokenize=False, add_generation_prompt=True
        )
        after = text.partition(MARK)[2]
        stop = next((stop for stop in self.stops if stop and after.lstrip().startswith(stop)), "")
        if not stop:
            raise ValueError(
                "the chat template puts no end-of-turn token behind the assistant's turn, so turns "
                "cannot be told apart: name it in generation_config.json (eos_token_id)"
            )
        between = after.partition(stop)[2]
        return list(self.tokenizer(between, add_special_tokens=False).input_ids)


def converse(
    dialogues: Sequence[Dialogue],
    generate: Generate,
    listener: Listener,
    max_tokens: int,
    max_turns: int,
    seconds: float,
) -> list[Completion]:
    """Run all dialogues to their ends, the policy's turns batched; in the order given.

    A dialogue is over when the environment says None, after `max_turns` turns of the policy, or
    when `max_tokens` of turns and observations are used up (then it counts as truncated). An
    environment that raises, or takes longer than `seconds` for a step, costs its completion.
    """
    threads = ThreadPoolExecutor(max_workers=max(len(dialogues), 1))
    try:
        while going := [d for d in dialogues if not d.over]:
            budgets = [max_tokens - (len(d.ids) - len(d.prompt.token_ids)) for d in going]
            turns = generate([d.ids for d in going], budgets)
            for dialogue, turn in zip(going, turns, strict=True):
                dialogue.say(turn)
                dialogue.over |= dialogue.turns >= max_turns
            heard = [d for d in going if not d.over]
            steps = [threads.submit(d.environment.step, d.spoken) for d in heard]
            until = time.monotonic() + seconds  # of all: they began together
            for dialogue, step in zip(heard, steps, strict=True):
                try:
                    left = max(until - time.monotonic(), 0.0)
                    _answer(dialogue, step.result(timeout=left), listener, max_tokens)
                except TooLate:
                    dialogue.fail(f"no observation within {seconds:g} s")
                except Exception as error:  # noqa: BLE001  the user's code: costs its sample
                    dialogue.fail(f"{type(error).__name__}: {error}")
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # one that hangs is left behind
    return [d.done for d in dialogues if d.done is not None]


def _answer(
    dialogue: Dialogue, observation: Observation, listener: Listener, max_tokens: int
) -> None:
    if observation is None:
        dialogue.over = True
        return
    ids = listener.ids(observation)
    assert dialogue.done is not None
    if len(dialogue.done.token_ids) + len(ids) >= max_tokens:
        dialogue.done = replace(dialogue.done, finish_reason="length")
        dialogue.over = True
        return
    dialogue.hear(ids)
