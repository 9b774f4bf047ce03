"""A configuration as a form: a field for every key that the values so far make possible.

Fields hold text as one would write it in the file; text that is to be text needs no quotes. Lists
and optional sections are YAML in one field. The loader of `medgpt train` judges the whole.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from medgpt_ray.config import keys
from medgpt_ray.config.document import Document, to_yaml
from medgpt_ray.config.loader import ConfigError, load

Key = tuple[str, ...]


@dataclass(frozen=True)
class Field:
    """Example: `Field("learner.workers", "an integer > 0", "Data-parallel ranks.", "1")`"""

    name: str
    words: str
    doc: str = ""
    default: str = ""
    options: tuple[str, ...] = ()
    """The values to choose from; the form adds the empty one where the key may be left out."""
    required: bool = False
    long: bool = False
    """YAML of several lines."""
    quoted: bool = False
    """Always text, whatever it looks like."""
    chooses: bool = False
    """Other fields depend on it."""

    @property
    def section(self) -> str:
        """The first part of the name, empty for keys of the top."""
        return self.name.partition(".")[0] if "." in self.name else ""


def fields(tree: Mapping[str, Any]) -> list[Field]:
    """Of a file that holds `tree`, in the order of the schema; `stage` first."""
    return list(_fields((), tree))


def _fields(section: Key, tree: Mapping[str, Any]) -> Iterator[Field]:
    node = keys.at(section, tree) or {}
    if union := keys.union(section, tree):
        tag, values, default = union
        yield Field(
            ".".join((*section, tag)),
            f"one of {', '.join(values)}",
            default=default or "",
            options=tuple(values),
            required=default is None,
            chooses=True,
        )
    for name in keys.names(node):
        if union and name == union[0]:
            continue
        key = (*section, name)
        child = keys.at(key, tree) or {}
        if keys.names(child) or keys.union(key, tree):
            yield from _fields(key, tree)
        else:
            yield _field(key, child, name in keys.required(node))


def _field(key: Key, node: keys.Node, required: bool) -> Field:
    words = keys.words(node)
    options = tuple(str(value) for value in keys.choices(node))
    if words == keys.TYPES["boolean"]:
        options = ("true", "false")
    return Field(
        ".".join(key),
        words,
        node.get("description", ""),
        "" if required or node.get("default") is None else _text(node["default"]),
        options,
        required,
        long=words.startswith("a list") or "a section" in words,
        quoted=words in ("text", "text or null"),
    )


def opened(path: Path) -> dict[str, str]:
    """The fields of a file. Raises `ConfigError` for a file that is no YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from error
    document = Document(str(path), text)
    if document.problems or not isinstance(document.values, dict):
        raise ConfigError(document.problems or [f"{path}: holds no keys"])
    found = {}
    for field in fields(document.values):
        value = _at(document.values, field.name)
        if value is not None:
            found[field.name] = _text(value)
    return found


def tree_of(texts: Mapping[str, str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The values that the texts of the fields are, empty ones left out, and what is no YAML."""
    raw: dict[str, Any] = {}
    for name, text in texts.items():  # tells the variants of sections apart
        if text.strip():
            _put(raw, name, text.strip())
    known = {field.name: field for field in fields(raw)}
    tree: dict[str, Any] = {}
    problems = []
    for name in sorted(texts, key=lambda name: list(known).index(name) if name in known else 0):
        text = texts[name].replace("\r\n", "\n").strip()
        if not text:
            continue
        field = known.get(name)
        if field is None or field.quoted or field.chooses:
            _put(tree, name, text)
            continue
        document = Document(name, text)
        problems += [(name, problem.partition(": ")[2]) for problem in document.problems]
        _put(tree, name, document.values)
    sections = {field.section for field in known.values()}
    for name in keys.required(keys.at((), raw) or {}):
        if name in sections:  # so that the loader names what is missing in it
            tree.setdefault(name, {})
    return tree, problems


def check(texts: Mapping[str, str], path: Path) -> list[tuple[str, str]]:
    """Write the form as the file `path`; returns all that is wrong with it as (key, problem)."""
    tree, problems = tree_of(texts)
    path.write_text(to_yaml(tree, {}), encoding="utf-8")
    try:
        load(path)
    except ConfigError as error:
        known = {field.name for field in fields(tree)} | set(texts)
        malformed = {name for name, _ in problems}
        for problem in error.problems:
            place, _, rest = problem.partition(": ")
            if not place.startswith(str(path)):
                rest = problem
            key, _, what = rest.partition(": ")
            name = _nearest(key, known)
            if name not in malformed:
                problems.append((name, what if name == key else rest))
    return problems


def _nearest(key: str, known: set[str]) -> str:
    """The field that holds `key`: `rewards` for `rewards.0.weight`; none for the whole."""
    while key and key not in known:
        key = key.rpartition(".")[0]
    return key


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            return  # a text where the form has a section: the loader says so
        tree = inner
    tree[last] = value


def _at(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, list | dict):
        return str(value)
    if not value:
        return "[]" if isinstance(value, list) else "{}"
    text = StringIO()
    yaml = YAML()
    yaml.default_flow_style = not any(isinstance(entry, dict) for entry in value)
    yaml.dump(value, text)
    return text.getvalue().strip()
