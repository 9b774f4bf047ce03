"""Reward functions: plain `function(prompt, completion, row) -> float`. No ray, no torch.

`prompt` is the text of the last user message, `completion` the decoded answer, `row` the data row
with the gold `answer` and whatever other columns the file has. A configuration names one as
`package.module:function`: ours or a user's own, found from the directory where `medgpt` was
started.
"""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

Reward = Callable[[str, str, dict[str, Any]], float]


class RewardError(ValueError):
    """A reward function that cannot be used: what is wrong and the fix."""


def resolve(name: str) -> Reward:
    """The function behind `package.module:function`. Imports its module; raises `RewardError`."""
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
    _check_signature(function, name)
    return function  # type: ignore[no-any-return]


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
    except Exception as error:
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


def _check_signature(function: Callable[..., Any], name: str) -> None:
    if inspect.iscoroutinefunction(function):
        raise RewardError(f"{name}: is async, a reward is a plain function")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins have none
        raise RewardError(
            f"{name}: has no signature to check, wrap it in a function of your own"
        ) from None
    try:
        signature.bind("prompt", "completion", {})
    except TypeError as error:
        raise RewardError(
            f"{name}: takes {signature}, called as function(prompt, completion, row): {error}"
        ) from None
