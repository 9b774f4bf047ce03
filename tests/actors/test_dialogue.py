"""Multi-turn completions: whose tokens are whose, budgets, and environments that fail."""

import time
from pathlib import Path
from typing import Any

import pytest

from medgpt_ray.actors.dialogue import Dialogue, Listener, build, converse
from medgpt_ray.environments.dose import DoseTools, value
from medgpt_ray.models.load import load_tokenizer, stop_token_ids
from medgpt_ray.types import Completion, Prompt, VersionSpan


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(str(tiny_model))


@pytest.fixture(scope="module")
def stop(tiny_model: Path) -> int:
    return stop_token_ids(str(tiny_model))[0]


class Script:
    """Says the next of `turns` at each call, whatever the prompt, and remembers the prompts."""

    def __init__(self, tokenizer: Any, stop: int, turns: list[str]) -> None:
        self.tokenizer, self.stop, self.turns = tokenizer, stop, turns
        self.prompts: list[list[tuple[int, ...]]] = []

    def __call__(self, prompts: list[tuple[int, ...]], limits: list[int]) -> list[Completion]:
        self.prompts.append(prompts)
        text = self.turns[len(self.prompts) - 1]
        ids = (*self.tokenizer(text, add_special_tokens=False).input_ids, self.stop)
        made = []
        for limit in limits:
            cut = ids[:limit]
            reason = "stop" if cut == ids else "length"
            spans = (VersionSpan(7, 0, len(cut)),)
            made.append(Completion("", 0, cut, (-0.5,) * len(cut), text, reason, spans))
        return made


class Environment:
    """Answers with the next of `answers`; an exception is raised, a number slept."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.heard = list(answers), []

    def step(self, text: str) -> Any:
        self.heard.append(text)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            time.sleep(answer)
        return answer


def prompt(tokenizer: Any) -> Prompt:
    messages = ({"role": "user", "content": "How much?"},)
    ids = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, return_dict=False
    )
    return Prompt("f:1", messages, tuple(ids), {})


def run(
    tokenizer: Any, stop: int, turns: list[str], *environments: Environment, **limits: Any
) -> tuple[list[Completion], Script]:
    script = Script(tokenizer, stop, turns)
    dialogues = [Dialogue(prompt(tokenizer), i, e) for i, e in enumerate(environments)]
    settings = {"max_tokens": 200, "max_turns": 4, "seconds": 5.0, **limits}
    return converse(dialogues, script, Listener(tokenizer, [stop]), **settings), script


TOLD = [{"role": "tool", "content": "100"}]


def test_the_tokens_are_those_of_the_rendered_conversation(tokenizer: Any, stop: int) -> None:
    (done,), script = run(tokenizer, stop, ["calculate", "it is 100"], Environment(TOLD, None))
    whole = tokenizer.apply_chat_template(
        [
            *prompt(tokenizer).messages,
            {"role": "assistant", "content": "calculate"},
            *TOLD,
            {"role": "assistant", "content": "it is 100"},
        ],
        return_dict=False,
    )
    ids = (*prompt(tokenizer).token_ids, *done.token_ids)
    assert ids == tuple(whole[: len(ids)])
    (start, end), *more = done.observed
    assert not more
    assert "100" in tokenizer.decode(done.token_ids[start:end])
    assert "calculate" not in tokenizer.decode(done.token_ids[start:end])
    assert done.token_ids[start - 1] == stop
    assert done.log_probs[start:end] == (0.0,) * (end - start)
    assert [(span.start, span.end) for span in done.versions] == [
        (0, start),
        (end, len(done.token_ids)),
    ]
    assert done.text == "it is 100"
    assert script.prompts[1][0][: len(script.prompts[0][0])] == script.prompts[0][0]


def test_dialogues_end_by_themselves_by_turns_and_by_tokens(tokenizer: Any, stop: int) -> None:
    endless = [TOLD] * 9
    (done,), script = run(tokenizer, stop, ["a"] * 9, Environment(*endless), max_turns=3)
    assert len(script.prompts) == 3
    assert len(done.observed) == 2
    assert done.finish_reason == "stop"
    (done,), _ = run(tokenizer, stop, ["a"] * 9, Environment(*endless), max_tokens=40, max_turns=9)
    assert done.finish_reason == "length"
    assert len(done.token_ids) <= 40
    turns = ["one", "two"]
    (short, long), script = run(tokenizer, stop, turns, Environment(None), Environment(TOLD, None))
    assert (short.text, long.text) == ("one", "two")
    assert (short.index, long.index) == (0, 1)
    assert [len(prompts) for prompts in script.prompts] == [2, 1]


def test_an_environment_that_raises_or_hangs_costs_its_completion(
    tokenizer: Any, stop: int
) -> None:
    raises, hangs, works = Environment(KeyError("x")), Environment(60.0), Environment(None)
    started = time.monotonic()
    done, _ = run(tokenizer, stop, ["a"], raises, hangs, works, seconds=0.5)
    assert time.monotonic() - started < 50
    assert done[0].error == "KeyError: 'x'"
    assert done[1].error == "no observation within 0.5 s"
    assert done[2].error is None


def test_steps_that_hang_have_one_deadline_and_a_broken_environment_costs_its_completion(
    tokenizer: Any, stop: int
) -> None:
    def broken(row: Any, size: int) -> Any:
        raise TypeError(f"no table of {size}")

    hang = [Environment(60.0) for _ in range(60)]
    unbuilt = build(broken, prompt(tokenizer), {"size": 3})
    started = time.monotonic()
    done, _ = run(tokenizer, stop, ["a"], *hang, unbuilt, seconds=0.5)
    assert time.monotonic() - started < 20  # not 60 times half a second
    assert {completion.error for completion in done[:-1]} == {"no observation within 0.5 s"}
    assert done[-1].error == "TypeError: no table of 3"


def test_dose_tools_without_a_table() -> None:
    assert "which has nothing" in DoseTools({"doses": None}).look_up("aspirin")


def test_dose_tools() -> None:
    tools = DoseTools({"doses": {"Paracetamol": "15 mg/kg every 6 hours"}})
    (answer,) = tools.step("First.\nlook up: paracetamol\ncalculate: 15 * 20 / 3") or []
    assert answer == {"role": "tool", "content": "15 mg/kg every 6 hours\n100"}
    assert tools.step("The dose is 300 mg.") is None
    assert "not in the table, which has paracetamol" in tools.look_up("aspirin")
    assert tools.calculate("1 / 0").startswith("error")


@pytest.mark.parametrize(
    "bad", ["__import__('os')", "2 ** 99", "a + 1", "(1", "True + 1", "1 if 1 else 2", "1" * 101]
)
def test_the_calculator_takes_arithmetic_only(bad: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        value(bad)


def test_the_calculator_keeps_precedence() -> None:
    assert value("-2 + 3 * (4 - 1) ÷ 2") == 2.5
