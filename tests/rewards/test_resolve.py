"""Names of reward functions: what resolves, and one clear error for each way to fail."""

from pathlib import Path

import pytest

from medgpt_ray.rewards import RewardError, resolve
from medgpt_ray.rewards.text import token_f1

SOURCE = """
WEIGHT = 2.0

def length(prompt, completion, row):
    return WEIGHT * len(completion)

def two(prompt, completion):
    return 0.0

def keyword(prompt, completion, row, *, strict):
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
        ("ward_needs:length", "ward_needs imports no_such_library, not installed"),
        ("ward_rewards:lenght", "has no lenght, did you mean length?"),
        ("ward_rewards:zzz", "has no zzz; it has length, two, keyword, later, Scorer"),
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
