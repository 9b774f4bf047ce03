"""The README keeps its word: its commands run, its links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from runs import SECONDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.partition("#")[0].strip()
    for block in BLOCKS
    for line in block.splitlines()
    if line.strip()
]


def test_both_commands_are_on_the_first_screen() -> None:
    top = README.splitlines()[:20]
    assert any(line.startswith("make demo") for line in top)
    assert any(line.startswith("make test") for line in top)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_targets_exist(command: str) -> None:
    subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, check=True, timeout=300)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "medgpt" in c])
def test_commands_are_accepted(command: str, tmp_path: Path) -> None:
    """Training commands as dry runs; `--resume` is refused for the right reason: no run yet."""
    words = shlex.split(command)[1:]
    if words[0] == "train" and "--dry-run" not in words:
        words.append("--dry-run")
    words = [word.replace("runs/", f"{tmp_path}/") for word in words]
    done = subprocess.run(
        [sys.executable, "-m", "medgpt_ray.cli", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "COLUMNS": "120"},
        check=False,
    )
    if "--resume" in words:
        assert done.returncode == 2
        assert "no run" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    local = [link for link in links if "://" not in link]
    assert local
    assert not [link for link in local if not (ROOT / link).exists()]


def test_the_reward_of_the_readme_works() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["mentions_the_answer"]("", "It is 5 MG.", {"answer": "5 mg"}) == 1.0
