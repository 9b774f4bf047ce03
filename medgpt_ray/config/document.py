"""A YAML file as plain values that remember where each key was written, and values as YAML text."""

import re
from collections.abc import Mapping
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

COMMAND_LINE = "command line"
_TAG = "tag:yaml.org,2002:"
_CONSTRUCTED = {_TAG + name for name in ("int", "float", "bool", "null")}
_TEXT = {_TAG + name for name in ("str", "timestamp", "merge", "value")}
_HALF_PAIR = re.compile("[\ud800-\udfff]")


class Document:
    """Values (dict, list, str, int, float, bool, None) of a file and what is wrong with its text.

    `origins` says of each dotted key where it was written: `file.yaml:9` or `command line`.
    """

    def __init__(self, name: str, text: str) -> None:
        """Read the YAML `text` of the file `name`; malformed text is a problem, no exception."""
        self.name = name
        self.values: Any = None
        self.origins: dict[str, str] = {}
        self._problems: list[tuple[int, str]] = []
        try:
            root = _compose(text)
            if root is not None:
                self.values = self._plain(root, "", None, ())
        except MarkedYAMLError as error:
            mark, start = error.problem_mark or error.context_mark, error.context_mark
            place = f"{name}:{mark.line + 1}" if mark else name
            inside = f" ({error.context} that starts in line {start.line + 1})" if start else ""
            self._add(place, f"malformed YAML: {error.problem}{inside}")
        except YAMLError as error:
            self._add(name, f"malformed YAML: {' '.join(str(error).split())}")
        except RecursionError:
            self._add(name, "malformed YAML: nested too deeply")

    @property
    def problems(self) -> list[str]:
        """All problems in the order of the file, those of the command line last."""
        return [problem for _, problem in sorted(self._problems, key=lambda item: item[0])]

    def override(self, key: str, text: str) -> None:
        """Set the dotted `key` (`rewards.0.weight`) to the value that the YAML `text` is."""
        *sections, last = key.split(".")
        parent, reached = self.values, ""
        for part in sections:
            if isinstance(parent, dict) and part not in parent:
                parent[part] = {}
                self.origins[f"{reached}.{part}".lstrip(".")] = COMMAND_LINE
            index = self._index(parent, part, key, reached)
            if index is None:
                return
            parent, reached = parent[index], f"{reached}.{part}".lstrip(".")
        index = self._index(parent, last, key, reached)
        if index is None:
            return
        for known in [name for name in self.origins if name.startswith(f"{key}.")]:
            del self.origins[known]
        self.origins[key] = COMMAND_LINE
        try:
            node = _compose(text)
            parent[index] = None if node is None else self._plain(node, key, COMMAND_LINE, ())
        except (YAMLError, RecursionError):
            self.report(key, f"{text!r} is malformed YAML: put special characters in quotes")

    def report(self, key: str, problem: str) -> None:
        """Add a problem of `key`, at the line of the key or of the nearest section around it.

        What is wrong with a whole section stands at the first key of it that the text names.
        """
        named = (f"{key}.{word}".lstrip(".") for word in re.findall(r"[a-z_0-9.]+", problem))
        place = next((name for name in named if name in self.origins), key)
        while place and place not in self.origins:
            place = place.rpartition(".")[0]
        self._add(self.origins.get(place, self.name), f"{key}: {problem}" if key else problem)

    def _add(self, place: str, problem: str) -> None:
        line = place.removeprefix(f"{self.name}:")
        order = int(line) if line.isdecimal() else 0 if place == self.name else 2**31
        self._problems.append((order, f"{place}: {problem}"))

    def _index(self, parent: Any, part: str, key: str, section: str) -> str | int | None:
        """`part` as an index into `parent`; None, and a problem, when it cannot be one."""
        if isinstance(parent, dict):
            return part
        if isinstance(parent, list) and part.isdecimal() and int(part) < len(parent):
            return int(part)
        reason = f"{section} is no section"
        if isinstance(parent, list):
            reason = f"{part} is no index of the list {section} (0 to {len(parent) - 1})"
        self._add(COMMAND_LINE, f"{key}: {reason}")
        return None

    def _plain(self, node: Node, key: str, origin: str | None, around: tuple[Node, ...]) -> Any:
        """The value of `node`; notes the origins of its keys and reports duplicates."""
        if any(node is outer for outer in around):
            self._add(self._place(node, origin), f"{key}: an alias inside its own anchor")
            return None
        if isinstance(node, ScalarNode):
            return _scalar(node)
        around = (*around, node)
        if not isinstance(node, MappingNode):
            items = []
            for position, entry in enumerate(node.value):
                name = f"{key}.{position}".lstrip(".")
                self.origins[name] = self._place(entry, origin)
                items.append(self._plain(entry, name, origin, around))
            return items
        section: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node, origin)
            if not isinstance(key_node, ScalarNode):
                self._add(place, "a key must be a word, found a list or section")
                continue
            name = f"{key}.{key_node.value}".lstrip(".")
            if key_node.value in section:
                self._add(place, f"{name}: duplicate key, first given in {self.origins[name]}")
                continue
            self.origins[name] = place
            section[key_node.value] = self._plain(value_node, name, origin, around)
        return section

    def _place(self, node: Node, origin: str | None) -> str:
        return origin or f"{self.name}:{node.start_mark.line + 1}"


def to_yaml(values: Mapping[str, Any], notes: Mapping[str, str]) -> str:
    """`values` as YAML, with `# note` after each dotted key that has one."""
    text = StringIO()
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.width = 4096
    yaml.dump(_commented(values, "", notes), text)
    return text.getvalue()


class _Representer(RoundTripRepresenter):
    """Writes `null` where ruamel's own writes nothing."""


_Representer.add_representer(
    type(None), lambda self, _: self.represent_scalar(f"{_TAG}null", "null")
)


def _compose(text: str) -> Node | None:
    node: Node | None = YAML(typ="safe", pure=True).compose(text)
    return node


def _scalar(node: ScalarNode) -> Any:
    tag = str(node.tag)
    problem = f"tag {tag} is not supported"
    if tag in _CONSTRUCTED:
        try:
            return YAML(typ="safe", pure=True).constructor.construct_object(node)
        except ValueError as error:  # more digits than Python takes
            problem = str(error)
    elif tag in _TEXT:
        if not _HALF_PAIR.search(node.value):
            return node.value
        problem = "half of a surrogate pair is no character"
    raise MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _commented(value: Any, key: str, notes: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        section = CommentedMap()
        for name, child in value.items():
            path = f"{key}.{name}".lstrip(".")
            section[name] = _commented(child, path, notes)
            if path in notes and not isinstance(child, Mapping):
                section.yaml_add_eol_comment(notes[path], name, column=0)
        return section
    if not isinstance(value, list | tuple):
        return value
    entries = CommentedSeq(
        _commented(child, f"{key}.{index}", notes) for index, child in enumerate(value)
    )
    if not any(isinstance(child, Mapping) for child in value):
        entries.fa.set_flow_style()
    return entries
