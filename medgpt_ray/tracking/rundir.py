"""The run directory: train writes it; chat, eval, serve, export, report and resume read it.

Whatever is written as a whole goes through `write_atomically`, so a reader sees the old content or
the new, never half of it. Only `metrics.jsonl`, the logs and TensorBoard's files grow line by line.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from ruamel.yaml import YAML

from medgpt_ray.config.run import RunConfig
from medgpt_ray.config.supervised import DpoRun, KtoRun
from medgpt_ray.lock import alone

_STEP = re.compile(r"step_(\d+)(\.\w+)?")


class RunDirectoryError(Exception):
    """A directory that is no run, that already holds one, or whose run is under way."""


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` (text as UTF-8), durably: after a crash it is the old or the new.

    The folder must exist. On any failure the temporary file is removed and the error raised.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class RunDirectory:
    """Where everything of one run is. Making the object touches nothing on disk."""

    def __init__(self, path: Path | str) -> None:
        self.path = path = Path(path)
        self.config = path / "config.yaml"
        self.source = path / "config.source.yaml"
        self.environment = path / "environment.json"
        self.lineage = path / "lineage.json"
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.samples = path / "samples"
        self.heldout = path / "heldout"
        self.evaluation = path / "evaluation"
        self.checkpoints = path / "checkpoints"
        self.dumps = path / "dumps"
        self.logs = path / "logs"
        self.model = path / "model"
        self.tokenizer = path / "tokenizer"
        self.report = path / "report.html"
        self.failure = path / "failure.txt"

    @property
    def holds_run(self) -> bool:
        return self.config.exists() or self.metrics.exists()

    @property
    def finished(self) -> bool:
        """The model is there, and the report, which is written last."""
        return self.model.is_dir() and self.report.exists()

    @classmethod
    def create(
        cls,
        path: Path | str,
        config: RunConfig,
        source: str,
        data: Mapping[str, Mapping[str, str]],
        weights: Mapping[str, Mapping[str, str]],
    ) -> "RunDirectory":
        """Begin a run: `source` is the text of the file that the user wrote, `data` the hashes of
        the files it reads by use and path, `weights` those of the models that it names by key and
        file name. `config.yaml` is written last: it says that the rest is there."""
        run = cls(path)
        if run.holds_run:
            raise RunDirectoryError(
                f"{run.path} already holds a run: continue it with --resume, or choose another "
                "output_dir"
            )
        if run.path.exists() and not run.path.is_dir():
            raise RunDirectoryError(f"{run.path} is not a directory")
        for folder in (run.samples, run.heldout, run.checkpoints, run.logs):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomically(run.source, source)
        write_atomically(run.environment, _json(describe_environment()))
        write_atomically(run.lineage, _json(_describe_lineage(config, data, weights)))
        write_atomically(run.config, _yaml(config.model_dump(mode="json")))
        return run

    @classmethod
    def open(cls, path: Path | str) -> "RunDirectory":
        run = cls(path)
        if not run.config.is_file():
            raise RunDirectoryError(f"{run.path} holds no run: there is no {run.config.name} in it")
        return run

    def read_config(self) -> RunConfig:
        values = YAML(typ="safe", pure=True).load(self.config)
        return TypeAdapter(RunConfig).validate_python(values)

    def read_failure(self) -> str:
        """What ended the run; empty where nothing did, or where it goes on."""
        try:
            return self.failure.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process trains here meanwhile; raises `RunDirectoryError` where one does."""
        path = self.path / ".lock"
        taken = RunDirectoryError(
            f"{self.path}: another process trains this run: stop it, or let it finish (if its node "
            f"is gone, delete {path})"
        )
        with alone(path, taken):
            yield

    @contextmanager
    def remembering_failure(self) -> Iterator[None]:
        """What ends the run in this block is written down, for whoever did not watch it; what
        ended it before is forgotten."""
        self.failure.unlink(missing_ok=True)
        try:
            yield
        except Exception as error:
            with suppress(OSError):  # a full disk must not hide why the run ended
                write_atomically(self.failure, f"{type(error).__name__}: {error}\n")
            raise

    def publish_model(self, checkpoint: Path) -> None:
        """Make the model of a checkpoint the model of the run."""
        copy = self.path / ".model.tmp"
        for old in (copy, self.model):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(checkpoint / "model", copy)
        copy.rename(self.model)

    def rollout_workers(self) -> int | None:
        """How many rollout workers a running run was asked to come to, if at all."""
        asked = self.path / "rollout_workers"
        return int(asked.read_text()) if asked.exists() else None

    def ask_for_rollout_workers(self, count: int) -> None:
        write_atomically(self.path / "rollout_workers", f"{count}\n")

    def samples_file(self, step: int) -> Path:
        return self.samples / f"step_{step}.parquet"

    def heldout_file(self, step: int) -> Path:
        return self.heldout / f"step_{step}.parquet"

    def discard_after(self, step: int) -> None:
        """Remove samples and held-out answers of later steps: a resumed run makes them anew."""
        for folder in (self.samples, self.heldout):
            for later, file in by_step(folder).items():
                if later > step:
                    file.unlink()


def by_step(folder: Path) -> dict[int, Path]:
    """The entries `step_N` or `step_N.suffix` of a folder by N, ascending; others are left out."""
    found = {
        int(match[1]): entry
        for entry in (folder.iterdir() if folder.is_dir() else ())
        if (match := _STEP.fullmatch(entry.name))
    }
    return dict(sorted(found.items()))


def describe_environment() -> dict[str, Any]:
    """What a result may depend on: the machine of the driver, and every installed library."""
    installed = [item.metadata for item in metadata.distributions()]  # parses a file each
    libraries = {item["Name"]: item["Version"] for item in installed}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "python": platform.python_version(),
        "command": sys.argv,
        "machine": {
            "host": platform.node(),
            "system": platform.platform(),
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "memory_gib": round(memory / 2**30, 1),
            "gpus": _gpus(),
        },
        "libraries": dict(sorted(libraries.items(), key=lambda item: item[0].lower())),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Names of the NVIDIA cards, from the driver's files: needs neither CUDA nor torch."""
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = (line for card in cards for line in card.read_text().splitlines())
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]


def _describe_lineage(
    config: RunConfig,
    data: Mapping[str, Mapping[str, str]],
    weights: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    adapter = config.model.adapter
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "stage": config.stage,
        "parent": parent_run(config.model.path) or (adapter and parent_run(adapter)),
        "model": config.model.path,
        "adapter": adapter,
        "reference": config.reference.path if isinstance(config, DpoRun | KtoRun) else None,
        "weights": weights,
        "data": [
            {"use": use, "path": file, "sha256": sha256}
            for use, files in data.items()
            for file, sha256 in files.items()
        ],
        "code": code_version(),
    }


def parent_run(model: str) -> str | None:
    """The run whose model a path is: the run directory itself, its `model` or a checkpoint's."""
    path = Path(model)
    for folder in (path, *path.parents[:3]):
        if (folder / "lineage.json").is_file():
            return str(folder)
    return None


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_version() -> dict[str, Any]:
    """Version of the package, and the commit where it runs from a git checkout of its own."""
    package = Path(__file__).parent.parent
    installed = [item.version for item in metadata.distributions(name="medgpt-ray")]
    code: dict[str, Any] = {
        "version": installed[0] if installed else None,
        "commit": None,
        "modified": None,
    }
    # Inside somebody else's repository (a virtual environment there), our files are not tracked.
    if shutil.which("git") and _git(package, "ls-files", "--error-unmatch", "--", __file__):
        code["commit"] = _git(package, "rev-parse", "--verify", "--quiet", "HEAD")
        code["modified"] = bool(_git(package, "status", "--porcelain", "--", "."))
    return code


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command, none where git says no."""
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _yaml(value: dict[str, Any]) -> str:
    text = StringIO()
    YAML().dump(value, text)
    return text.getvalue()
