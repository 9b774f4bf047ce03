"""From a YAML file and `key=value` overrides to a checked configuration, or to all that is wrong.

YAML 1.2 by ruamel: `1e-6` is a number, `no` is text, a duplicate key is an error. Values are not
converted ("3" is no integer), so what the user wrote is what runs. Relative paths in the file are
relative to the current directory. Only those of a shipped file that are not there are the shipped
ones.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medgpt_ray.config import keys
from medgpt_ray.config.document import COMMAND_LINE, Document
from medgpt_ray.config.run import AnyConfig

SHIPPED = Path(__file__).resolve().parents[2] / "configs"
"""The presets and their data, in a checkout, where `pip install --editable` leaves them."""


class ConfigError(ValueError):
    """A configuration that cannot be used: `problems` holds all that is wrong with it."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Loaded:
    """A checked configuration and where its values come from."""

    config: Any
    """A run of any stage, or a pipeline, as `config.stage` says."""
    source: str
    """The text of the file, without the overrides."""
    origins: Mapping[str, str]
    """`learner.workers` -> `file.yaml:9` or `command line`, sections too; others are defaults."""

    def placed(self, problem: str) -> str:
        """`learner.workers: what is wrong`, with where that key was written in front."""
        place = self.origins.get(problem.partition(":")[0])
        return f"{place}: {problem}" if place else problem


def load(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read `path`, apply `overrides` (`learner.workers=2`, `rewards.0.weight=0.5`), check all.

    Raises `ConfigError` with every problem as `file.yaml:9: key: what is wrong, the fix`.
    """
    source = _read(path)
    document = Document(str(path), source)
    if not isinstance(document.values, dict):
        found = _shown(document.values)
        raise ConfigError(
            document.problems
            or [f"{path}: expected `key: value` lines, found {found} (see `medgpt presets`)"]
        )
    if path.resolve().is_relative_to(SHIPPED):
        document.values = _found(document.values)
    malformed = _apply(overrides, document)
    config: AnyConfig | None = None
    try:
        config = keys.ADAPTER.validate_json(json.dumps(document.values), strict=True)
    except ValidationError as error:
        for key, problem in _explain(error, document.values):
            document.report(key, problem)
    problems = document.problems + malformed
    if problems or config is None:
        raise ConfigError(problems)
    return Loaded(config, source, document.origins)


def _found(value: Any) -> Any:
    """Values of a shipped file; what they name under configs/ is found from any directory."""
    if isinstance(value, dict):
        return {key: _found(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_found(item) for item in value]
    if isinstance(value, str) and value.startswith("configs/") and not Path(value).exists():
        return str(SHIPPED.parent / value)
    return value


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file (relative to {Path.cwd()})"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: is not UTF-8, save it as UTF-8"]) from None


def _apply(overrides: Sequence[str], document: Document) -> list[str]:
    """Put each `key=value` into the document; returns those that are no such thing."""
    problems: list[str] = []
    given: set[str] = set()
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            problems.append(f"{COMMAND_LINE}: {override}: expected key=value")
        elif key in given:
            problems.append(f"{COMMAND_LINE}: {key}: given twice, keep one")
        else:
            given.add(key)
            document.override(key, text)
    return problems


def _explain(error: ValidationError, values: Any) -> list[tuple[str, str]]:
    """pydantic's errors as (dotted key, problem), one for each key that is wrong."""
    problems: dict[tuple[str, str], None] = {}
    for item in error.errors(include_url=False):
        location = keys.dotted(item["loc"])
        name = ".".join(str(part) for part in location)
        if item["type"] == "extra_forbidden":
            problems[name, _unknown(location, values)] = None
        elif item["type"] == "value_error":
            for line in str(item["ctx"]["error"]).splitlines():
                problems[name, line] = None
        elif item["type"].startswith("union_tag"):
            tag, valid = keys.variants(keys.at(location, values) or {})
            found = _at(values, (*location, tag))
            problems[f"{name}.{tag}".lstrip("."), _expected(valid, found)] = None
        else:
            node = keys.at(location, values) or {}
            missing = item["type"] == "missing"
            problems[name, _wrong(node, _at(values, location), missing)] = None
    return list(problems)


def _unknown(location: tuple[str | int, ...], values: Any) -> str:
    """`unknown field` with the likeliest key that was meant, here or in another section."""
    *parent, name = location
    if "." in str(name):
        return "unknown field: dotted keys are for the command line, nest sections in the file"
    if name == "<<":
        return "unknown field: YAML 1.2 merges no sections, write the keys out"
    siblings = keys.names(keys.at(tuple(parent), values) or {})
    stage = values.get("stage")
    known = dict.fromkeys(key.name for key in keys.every_key(stage))
    here = ".".join(str(part) for part in location)  # known to another variant of the section
    elsewhere = [key for key in known if key.endswith(f".{name}") and key != here]
    meant = elsewhere or difflib.get_close_matches(str(name), siblings, n=1)
    if meant:
        return f"unknown field, did you mean {' or '.join(repr(key) for key in meant)}?"
    return f"unknown field, expected one of {', '.join(siblings)}"


def _wrong(node: keys.Node, value: Any, missing: bool) -> str:
    if missing:
        return f"missing, expected {keys.words(node)}"
    if keys.choices(node):
        return _expected(keys.choices(node), value)
    return f"expected {keys.words(node)}, found {_shown(value)}"


def _expected(valid: Sequence[Any], value: Any) -> str:
    listed = ", ".join(str(choice) for choice in valid)
    if value is None:
        return f"missing, expected one of {listed}"
    choices = {str(choice): choice for choice in valid}
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f", did you mean {choices[close[0]]!r}?" if close else ""
    return f"expected one of {listed}, found {_shown(value)}{hint}"


def _at(values: Any, location: Sequence[str | int]) -> Any:
    for part in location:
        if isinstance(values, dict):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            return None
    return values


def _shown(value: Any) -> str:
    """A value as the user knows it, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section"
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
