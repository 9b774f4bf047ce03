"""Every key of the configuration, read from its JSON schema: name, type in words, default, text.

The loader uses it to turn pydantic's locations into the user's dotted keys and to say what was
expected; `medgpt schema` prints it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from medgpt_ray.config.run import AnyConfig

ADAPTER: TypeAdapter[AnyConfig] = TypeAdapter(AnyConfig)
TYPES = {
    "integer": "an integer",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "object": "a section",
}
LIMITS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}

Node = dict[str, Any]
"""A piece of the JSON schema."""


@dataclass(frozen=True)
class Key:
    """One key. `rewards.N.weight` is a key of every entry of the list `rewards`.

    Example: `Key("learner.workers", "an integer > 0", "1", "Data-parallel ranks.", when="")`
    """

    name: str
    type: str
    default: str | None
    """As in a file; None for a required key, empty for a section, whose keys have their own."""
    doc: str
    when: str
    """`kind: truncate` for a key that exists only in some variants of its section, `stage: sft` for
    one of some stages only."""


@cache
def json_schema() -> Node:
    """The JSON schema of a configuration file."""
    return ADAPTER.json_schema()


def every_key(stage: str | None = None) -> list[Key]:
    """All keys, sections before their content: of one stage, or of all."""
    root = json_schema()
    if stage is None:
        return list(_inner(root, "", ""))
    return list(_keys({"$ref": root["discriminator"]["mapping"][stage]}, "", ""))


def stages() -> list[str]:
    """What `stage` can be."""
    return variants(json_schema())[1]


def at(key: tuple[str | int, ...], tree: Any) -> Node | None:
    """The schema of a dotted key, variants chosen by what `tree` says; None for an unknown key."""
    node: Node | None = _variant(json_schema(), tree)
    for part in key:
        node = _child(node, part) if node else None
        if node is None:
            return None
        tree = _inside(tree, part)
        node = _variant(node, tree)
    return node


def union(key: tuple[str | int, ...], tree: Any) -> tuple[str, list[str], str | None] | None:
    """Where `key` is a section of several variants: the key that tells them apart, its values, and
    the one that needs no naming."""
    section = at(key[:-1], tree) if key else json_schema()
    node = _value((_child(section, key[-1]) if key and section else section) or {})
    if "oneOf" not in node:
        return None
    return (*variants(node), node.get("default_tag"))


def dotted(location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """A pydantic error location without the tags and branch names that unions put into it."""
    key: list[str | int] = []
    node = json_schema()
    for part in location:
        node = _value(node)
        if "oneOf" in node:
            node = {"$ref": node["discriminator"]["mapping"][part]}
        elif "anyOf" in node:
            break  # a branch of a plain union, named by its type: the key is the union's
        else:
            key.append(part)
            node = _child(node, part) or {}
    return tuple(key)


def words(node: Node) -> str:
    """What a value must be: `an integer > 0`, `one of shm, gloo`, `text or null`."""
    node = _resolve(node)
    if "const" in node:
        return str(node["const"])
    if "enum" in node:
        return "one of " + ", ".join(str(value) for value in node["enum"])
    if "oneOf" in node:
        discriminator = node["discriminator"]
        tags = ", ".join(discriminator["mapping"])
        return f"a section with {discriminator['propertyName']}: one of {tags}"
    if "anyOf" in node:
        return " or ".join(words(branch) for branch in node["anyOf"])
    if node["type"] == "array":
        entries = node.get("prefixItems") or [node["items"]]
        count = f" of {len(entries)}" if "prefixItems" in node else ""
        count = " of at least one" if node.get("minItems") == 1 else count
        form = "".join(f"{{{name}: ...}}" for name in _resolve(entries[0]).get("required", ())[:1])
        return f"a list{count}, each {words(entries[0])}" + (f": [{form}]" if form else "")
    limits = [f"{sign} {node[name]}" for name, sign in LIMITS.items() if name in node]
    limits += [f"that matches {node['pattern']}"] if "pattern" in node else []
    return " ".join([TYPES[node["type"]], " and ".join(limits)]).strip()


def choices(node: Node) -> list[Any]:
    """The values of an enumeration; empty for any other type."""
    node = _resolve(node)
    return list(node["enum"]) if "enum" in node else [node["const"]] if "const" in node else []


def variants(node: Node) -> tuple[str, list[str]]:
    """Of a tagged union the key that tells the variants apart, and its values."""
    discriminator = _value(node)["discriminator"]
    return discriminator["propertyName"], list(discriminator["mapping"])


def names(node: Node) -> list[str]:
    """The keys of a section; empty for anything else."""
    return list(_value(node).get("properties", {}))


def required(node: Node) -> list[str]:
    """The keys that a section must have."""
    return list(_value(node).get("required", ()))


def _keys(node: Node, prefix: str, when: str) -> Iterator[Key]:
    node = _resolve(node)
    for name, child in node.get("properties", {}).items():
        required = name in node.get("required", ())
        default = child.get("default")
        resolved = _resolve(child)
        section = "properties" in resolved or "oneOf" in resolved
        yield Key(
            name=prefix + name,
            type=words(child),
            default=None if required else "" if section else _text(default),
            doc=child.get("description") or resolved.get("description", ""),
            when=when,
        )
        yield from _inner(resolved, f"{prefix}{name}.", when)


def _inner(node: Node, prefix: str, when: str) -> Iterator[Key]:
    if "oneOf" in node:
        tag = node["discriminator"]["propertyName"]
        mapping = node["discriminator"]["mapping"]
        found: dict[Key, list[str]] = {}
        for value, reference in mapping.items():
            for key in _keys({"$ref": reference}, prefix, ""):
                if key.name != prefix + tag:
                    found.setdefault(key, []).append(value)
        for key, values in found.items():
            here = f"{tag}: {' or '.join(values)}" if len(values) < len(mapping) else ""
            yield replace(key, when=", ".join(filter(None, (when, here, key.when))))
    elif node.get("type") == "array" and "items" in node:
        yield from _keys(node["items"], f"{prefix}N.", when)
    else:
        yield from _keys(node, prefix, when)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _resolve(node: Node) -> Node:
    """The node behind a `$ref`."""
    if "$ref" in node:
        return _resolve(json_schema()["$defs"][node["$ref"].rpartition("/")[2]])
    return node


def _value(node: Node) -> Node:
    """The node behind a `$ref` and, of an optional value, its one type besides null."""
    node = _resolve(node)
    branches = [branch for branch in node.get("anyOf", ()) if branch.get("type") != "null"]
    return _value(branches[0]) if len(branches) == 1 else node


def _variant(node: Node, tree: Any) -> Node:
    """As `_value`, and of a tagged union the variant that `tree` names, or the one that needs no
    naming."""
    value = _value(node)
    if "oneOf" not in value:
        return node
    tag = _inside(tree, value["discriminator"]["propertyName"])
    if tag is None:
        tag = value.get("default_tag")
    mapping = value["discriminator"]["mapping"]
    return {"$ref": mapping[tag]} if isinstance(tag, str) and tag in mapping else value


def _child(node: Node, part: str | int) -> Node | None:
    node = _value(node)
    if isinstance(part, str):
        child: Node | None = node.get("properties", {}).get(part)
        return child
    entries: list[Node] = node.get("prefixItems") or [node["items"]]
    return entries[min(part, len(entries) - 1)]


def _inside(tree: Any, part: str | int) -> Any:
    if isinstance(tree, dict):
        return tree.get(part)
    if isinstance(tree, list) and isinstance(part, int) and part < len(tree):
        return tree[part]
    return None
