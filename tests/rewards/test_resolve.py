"""Names of reward functions: what resolves, and one clear error for each way to fail."""

from pathlib import Path
from typing import Any

import pytest

from medgpt_ray.rewards import RewardError, resolve
from medgpt_ray.rewards.text import token_f1

SOURCE = """
from typing import Literal

WEIGHT = 2.0

def length(prompt, completion, row):
    return WEIGHT * len(completion)

def two(prompt, completion):
    return 0.0

def keyword(prompt, completion, row, *, strict):
    return 0.0

def target(prompt, completion, row, *, goal: int = 5, kind: Literal["up", "down"] = "up",
           share: float = 0.5, words: list[str] = (), free=None):
    return float(goal)

def anything(prompt, completion, row, **settings):
    return settings["goal"]

class Ward:
    pass

def odd(prompt, completion, row, *, ward: Ward = None, later: "Nowhere" = None):
    return 0.0

async def later(prompt, completion, row):
    return 0.0

class Scorer:
    def __call__(self, prompt, completion, row):
        return 1.0

scorer = Scorer()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a user's files; sys.path is put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("unused")
    (tmp_path / "ward_rewards.py").write_text(SOURCE)
    (tmp_path / "ward_broken.py").write_text("table = {}\ntable['dose']\n")
    (tmp_path / "ward_needs.py").write_text("import no_such_library\n")
    (tmp_path / "ward_program.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "ward_syntax.py").write_text("def length(:\n")
    return tmp_path


def test_our_own_functions_resolve() -> None:
    assert resolve("medgpt_ray.rewards.text:token_f1") is token_f1


def test_a_users_file_in_the_working_directory_resolves(here: Path) -> None:
    assert resolve("ward_rewards:length")("prompt", "abc", {}) == 6.0
    assert resolve("ward_rewards:scorer")("prompt", "abc", {}) == 1.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ward_rewards.length", "not of the form package.module:function"),
        ("ward_rewards:", "not of the form package.module:function"),
        (":length", "not of the form package.module:function"),
        ("ward-rewards:length", "not of the form package.module:function"),
        ("ward_none:length", "no module ward_none in "),
        ("ward_rewards.inner:length", "no module ward_rewards.inner in "),
        ("ward_broken:length", "importing ward_broken failed: KeyError: 'dose'"),
        ("ward_syntax:length", "importing ward_syntax failed: SyntaxError: "),
        ("ward_program:length", "importing ward_program failed: SystemExit: 3"),
        ("ward_needs:length", "ward_needs imports no_such_library, not installed"),
        ("ward_rewards:lenght", "has no lenght, did you mean length?"),
        ("ward_rewards:zzz", "has no zzz; it has length, two, keyword, target, anything, "),
        ("ward_rewards:WEIGHT", "WEIGHT is of type float, not a function"),
        ("ward_rewards:two", "takes (prompt, completion), called as function("),
        ("ward_rewards:keyword", "missing a required argument: 'strict'"),
        ("ward_rewards:later", "is async, a reward is a plain function"),
    ],
)
def test_each_failure_says_what_is_wrong(here: Path, name: str, expected: str) -> None:
    with pytest.raises(RewardError) as caught:
        resolve(name)
    assert str(caught.value).startswith(f"{name}: ")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("target", {}),
        ("target", {"goal": 7}),
        ("target", {"kind": "down", "share": 1, "words": ["rest"], "free": {"a": 1}}),
        ("keyword", {"strict": True}),
        ("anything", {"goal": 1, "other": 2}),
        ("odd", {"later": 3}),
    ],
)
def test_arguments_that_fit(here: Path, function: str, arguments: dict[str, Any]) -> None:
    resolve(f"ward_rewards:{function}", arguments)


def test_the_function_is_called_with_its_arguments(here: Path) -> None:
    arguments = {"goal": 7}
    assert resolve("ward_rewards:target", arguments)("", "", {}, **arguments) == 7.0


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        ("target", {"gaol": 7}, "argument gaol: unknown, did you mean goal?"),
        ("target", {"zzz": 7}, "argument zzz: unknown, it has goal, kind, share, words, free"),
        ("length", {"zzz": 7}, "argument zzz: unknown, it has none"),
        ("target", {"goal": "7"}, "argument goal: should be a valid integer, is '7'"),
        ("target", {"goal": 7.5}, "argument goal: should be a valid integer, is 7.5"),
        ("target", {"kind": "side"}, "argument kind: should be 'up' or 'down', is 'side'"),
        ("target", {"words": "rest"}, "argument words: should be a valid list, is 'rest'"),
        ("target", {"row": {}}, "argument row: comes from the run, take it out"),
        ("anything", {"prompt": ""}, "argument prompt: comes from the run, take it out"),
        ("keyword", {}, "missing a required argument: 'strict'"),
    ],
)
def test_arguments_that_do_not_fit(
    here: Path, function: str, arguments: dict[str, Any], expected: str
) -> None:
    with pytest.raises(RewardError) as caught:
        resolve(f"ward_rewards:{function}", arguments)
    assert str(caught.value).startswith(f"ward_rewards:{function}: ")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("length:length_penalty", {"max_length": 0}, "should be greater than 0"),
        ("form:regex_match", {"pattern": "("}, "should be a regular expression: missing )"),
        ("form:tag_format", {"names": []}, "should have at least 1 item"),
        ("numeric:numeric_match", {"tolerance": -1.0}, "should be greater than or equal to 0"),
        ("judge:llm_judge", {"modell": "m"}, "unknown, did you mean model?"),
    ],
)
def test_bad_arguments_of_our_own_functions(
    name: str, arguments: dict[str, Any], expected: str
) -> None:
    with pytest.raises(RewardError, match=next(iter(arguments))) as caught:
        resolve(f"medgpt_ray.rewards.{name}", arguments)
    assert expected in str(caught.value)
