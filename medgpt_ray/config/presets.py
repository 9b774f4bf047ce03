"""The configurations shipped under configs/, by name: `demo/grpo` is configs/demo/grpo.yaml."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from medgpt_ray.config.loader import SHIPPED, ConfigError


@dataclass(frozen=True)
class Preset:
    name: str
    path: Path
    description: str
    """The first comment line of the file."""


def presets() -> list[Preset]:
    """All shipped configurations, by name."""
    return [
        Preset(path.relative_to(SHIPPED).with_suffix("").as_posix(), path, _first_comment(path))
        for path in sorted(SHIPPED.rglob("*.yaml"))
        if path.parent != SHIPPED / "eval"  # tasks of `medgpt eval`
    ]


def locate(name: str) -> Path:
    """The file that CONFIG of a command names: a path, or else a preset. Raises `ConfigError`."""
    if Path(name).exists():
        return Path(name)
    shipped = {preset.name: preset.path for preset in presets()}
    if name in shipped:
        here, path = Path.cwd(), shipped[name]
        return path.relative_to(here) if path.is_relative_to(here) else path
    close = difflib.get_close_matches(name, shipped, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`medgpt presets` lists those shipped"
    raise ConfigError([f"{name}: no such file or preset, {hint}"])


def _first_comment(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("# ").rstrip()
    return ""
