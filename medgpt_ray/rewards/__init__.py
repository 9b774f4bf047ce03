"""Reward functions: plain `function(prompt, completion, row) -> float`. No ray, no torch.

`prompt` is the text of the last user message, `completion` the decoded answer, `row` the data row
with the gold `answer` and whatever other columns the file has. A configuration names one as
`package.module:function`: ours or a user's own, found from the directory where `medgpt` was
started. Settings that are the same for every row are keyword arguments of the function.
"""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

Reward = Callable[..., float]
"""Called as `function(prompt, completion, row, **arguments)`."""


class RewardError(ValueError):
    """A reward function that cannot be used: what is wrong and the fix."""


def resolve(name: str, arguments: Mapping[str, Any] | None = None) -> Reward:
    """The function behind `package.module:function`, which takes `arguments` by keyword.

    Imports its module. Raises `RewardError`, also for an argument that the function does not have
    or that is not of the type that the function declares.
    """
    function = find(name)
    _check_signature(function, name, arguments or {})
    return function  # type: ignore[no-any-return]


def find(name: str) -> Any:
    """The function or class behind `package.module:name`. Imports its module; `RewardError`."""
    module_name, colon, function_name = name.partition(":")
    parts = [*module_name.split("."), function_name]
    if not colon or not all(part.isidentifier() for part in parts):
        raise RewardError(f"{name}: not of the form package.module:function")
    module = _import(module_name, name)
    if not hasattr(module, function_name):
        raise RewardError(f"{name}: {_no_function(module, function_name)}")
    function = getattr(module, function_name)
    if not callable(function):
        kind = type(function).__name__
        raise RewardError(f"{name}: {function_name} is of type {kind}, not a function")
    return function


def _import(module_name: str, name: str) -> ModuleType:
    """The module; a missing one and one that fails while it is imported are told apart."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that a file of the user's never hides a library
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise RewardError(
                f"{name}: no module {missing} in {here} or in the installed packages"
            ) from None
        raise RewardError(f"{name}: {module_name} imports {missing}, not installed") from error
    except (Exception, SystemExit) as error:  # SystemExit: a program and no module
        raise RewardError(
            f"{name}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error


def _no_function(module: ModuleType, function_name: str) -> str:
    own = [
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and callable(value)
        and getattr(value, "__module__", None) == module.__name__
    ]
    close = difflib.get_close_matches(function_name, own, n=1)
    advice = (
        f", did you mean {close[0]}?" if close else f"; it has {', '.join(own) or 'no functions'}"
    )
    return f"module {module.__name__} has no {function_name}{advice}"


def _check_signature(function: Callable[..., Any], name: str, arguments: Mapping[str, Any]) -> None:
    if inspect.iscoroutinefunction(function):
        raise RewardError(f"{name}: is async, a reward is a plain function")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins have none
        raise RewardError(
            f"{name}: has no signature to check, wrap it in a function of your own"
        ) from None
    _check_arguments(signature, name, arguments)
    try:
        signature.bind("prompt", "completion", {}, **arguments)
    except TypeError as error:
        call = ", ".join(["prompt, completion, row", *(f"{key}=..." for key in arguments)])
        raise RewardError(
            f"{name}: takes {signature}, called as function({call}): {error}"
        ) from None


def _check_arguments(signature: inspect.Signature, name: str, arguments: Mapping[str, Any]) -> None:
    """Every argument is one of the function's own, beside its first three, and of its type."""
    every = list(signature.parameters.values())
    first = [p.name for p in every if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:3]
    own = {
        p.name: p.annotation
        for p in every
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in first
    }
    takes_any = any(p.kind == p.VAR_KEYWORD for p in every)
    for key, value in arguments.items():
        if key in own:
            if problem := _type_problem(own[key], value):
                raise RewardError(f"{name}: argument {key}: {problem}, is {value!r:.60}")
        elif key in first:
            raise RewardError(f"{name}: argument {key}: comes from the run, take it out")
        elif not takes_any:
            close = difflib.get_close_matches(key, own, n=1)
            advice = f"did you mean {close[0]}?" if close else f"it has {', '.join(own) or 'none'}"
            raise RewardError(f"{name}: argument {key}: unknown, {advice}")


def _type_problem(annotation: Any, value: Any) -> str | None:
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return None
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except PydanticSchemaGenerationError:  # a class of the user's own
        return None
    except ValidationError as error:
        return error.errors()[0]["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return None
