"""docs/rewards.md keeps its word: its table is complete, its examples score what they say."""

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import medgpt_ray.rewards
from medgpt_ray.rewards import chat, resolve

TEXT = (Path(__file__).parents[2] / "docs/rewards.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


EXAMPLES = [json.loads(line) for block in blocks("jsonl") for line in block.splitlines()]
TABLE = {
    cells[0].strip("` "): cells[1:]
    for line in TEXT.splitlines()
    if re.match(r"\| `\w+:\w+` \|", line)
    for cells in [line.strip("|").split("|")]
}


def functions() -> dict[str, Callable[..., float]]:
    """All reward functions of the package, by their name in the table."""
    found = {}
    for info in pkgutil.iter_modules(medgpt_ray.rewards.__path__):
        module = importlib.import_module(f"medgpt_ray.rewards.{info.name}")
        for name, value in inspect.getmembers(module, inspect.isfunction):
            first = list(inspect.signature(value).parameters)[:3]
            own = value.__module__ == module.__name__
            if own and not name.startswith("_") and first == ["prompt", "completion", "row"]:
                found[f"{info.name}:{name}"] = value
    return found


def test_the_table_holds_every_function_with_its_arguments() -> None:
    assert set(TABLE) == set(functions())
    for name, function in functions().items():
        parameters = list(inspect.signature(function).parameters.values())[3:]
        listed = dict.fromkeys(re.findall(r"`([^`]+)`", TABLE[name][2]))
        assert [item.partition(":")[0] for item in listed] == [p.name for p in parameters], name
        for item, parameter in zip(listed, parameters, strict=True):
            default = item.partition(": ")[2]
            if default:
                value = parameter.default
                value = list(value) if isinstance(value, tuple) else value
                assert YAML(typ="safe").load(default) == value, item


def test_every_function_has_an_example_and_a_known_weakness() -> None:
    assert {example["function"] for example in EXAMPLES} == set(TABLE)
    weaknesses = TEXT.partition("## What fools them")[2]
    missing = [name for name in TABLE if f"`{name.partition(':')[2]}`" not in weaknesses]
    assert missing in ([], ["length:cosine_length"])  # as its correctness is


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["function"])
def test_examples(example: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = example.get("arguments", {})
    if "judge" in example:
        arguments |= {"base_url": "http://judge/v1", "model": "m", "cache": str(tmp_path / "c")}

        def answer(server: Any, request: dict[str, Any], deadline: float) -> str:
            rules = request["messages"][0]["content"]
            return json.dumps({"id": rules.rpartition('"id": "')[2][:8], **example["judge"]})

        monkeypatch.setattr(chat, "_post", answer)
    function = resolve(f"medgpt_ray.rewards.{example['function']}", arguments)
    score = function(
        example.get("prompt", ""), example["completion"], example.get("row", {}), **arguments
    )
    assert score == pytest.approx(example["score"], abs=5e-4)
    columns = set(re.findall(r"`(\w+)`", TABLE[example["function"]][1])) | {"answer"}
    assert set(example.get("row", {})) <= columns


def test_configurations_name_functions_that_take_their_arguments() -> None:
    entries = [
        entry for block in blocks("yaml") for entry in YAML(typ="safe").load(block)["rewards"]
    ]
    assert len(entries) == 4
    for entry in entries:
        resolve(entry["function"], entry.get("arguments"))


def test_the_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("unused")
    (tmp_path / "ward_rewards_docs.py").write_text(code)
    function = resolve("ward_rewards_docs:names_the_ward", {"bonus": 0.5})
    assert function("", "Ward seven", {"ward": "Ward Seven"}, bonus=0.5) == 1.5
    with pytest.raises(ValueError, match="column ward"):
        function("", "Ward seven", {})
    with pytest.raises(ValueError, match="argument bonus"):
        resolve("ward_rewards_docs:names_the_ward", {"bonus": "high"})
