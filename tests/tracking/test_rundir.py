import json
import resource
from pathlib import Path

import pytest

from medgpt_ray.config.schema import GrpoRun
from medgpt_ray.tracking.rundir import (
    RunDirectory,
    RunDirectoryError,
    by_step,
    parent_run,
    write_atomically,
)

Files = dict[str, dict[str, str]]


def test_a_created_run_can_be_opened_with_the_same_configuration(
    config: GrpoRun, files: Files
) -> None:
    source = "# mine: é 药\nstage: grpo\n"
    RunDirectory.create(config.output_dir, config, source, files, {})
    run = RunDirectory.open(config.output_dir)
    assert run.read_config() == config
    assert run.source.read_text(encoding="utf-8") == source
    assert run.config.read_text().startswith("stage: grpo\n")  # in the order of the schema
    for folder in (run.samples, run.heldout, run.checkpoints, run.logs):
        assert folder.is_dir()


def test_lineage_names_model_data_and_code(config: GrpoRun) -> None:
    data = {"train": {"a.jsonl": "0a", "hf:b:train": "0b"}, "heldout": {"measured.jsonl": "0c"}}
    weights = {"model.path": {"model.safetensors": "0d"}}
    run = RunDirectory.create(config.output_dir, config, "", data, weights)
    lineage = json.loads(run.lineage.read_text())
    assert lineage["parent"] is None
    assert lineage["model"] == "models/small"
    assert lineage["weights"] == weights
    assert lineage["stage"] == "grpo"
    assert lineage["data"] == [
        {"use": "train", "path": "a.jsonl", "sha256": "0a"},
        {"use": "train", "path": "hf:b:train", "sha256": "0b"},
        {"use": "heldout", "path": "measured.jsonl", "sha256": "0c"},
    ]
    assert lineage["code"]["commit"] or lineage["code"]["version"]


def test_one_process_trains_a_run(rundir: RunDirectory) -> None:
    other = RunDirectory(rundir.path)
    told = pytest.raises(RunDirectoryError, match="another process trains this run")
    with rundir.alone(), told, other.alone():
        pass
    with other.alone():
        pass


def test_a_run_on_the_model_of_another_names_its_parent(rundir: RunDirectory) -> None:
    first = RunDirectory.open(rundir.path)
    config = first.read_config()
    model = config.model.model_copy(update={"path": str(first.model)})
    second = RunDirectory.create(
        first.path.with_name("second"), config.model_copy(update={"model": model}), "", {}, {}
    )
    assert json.loads(second.lineage.read_text())["parent"] == str(first.path)


@pytest.mark.parametrize("inside", ["", "model", "checkpoints/step_4", "checkpoints/step_4/model"])
def test_the_parent_is_the_run_around_a_model(rundir: RunDirectory, inside: str) -> None:
    assert parent_run(str(rundir.path / inside)) == str(rundir.path)


@pytest.mark.parametrize("model", ["embedded:smollm2-135m-instruct", "models/small"])
def test_a_model_of_no_run_has_no_parent(
    rundir: RunDirectory, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.chdir(rundir.path.parent)
    assert parent_run(model) is None
    assert parent_run(str(rundir.path.parent / model)) is None


def test_a_relative_path_finds_its_run(
    rundir: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(rundir.path.parent)
    assert parent_run("run/model") == "run"


def test_environment_has_versions_and_machine(rundir: RunDirectory) -> None:
    environment = json.loads(rundir.environment.read_text())
    assert environment["libraries"]["pydantic"]
    assert environment["python"].startswith("3.")
    assert environment["machine"]["cpus"] >= 1
    assert environment["machine"]["memory_gib"] > 0


def test_a_directory_with_a_run_is_refused_and_left_alone(
    rundir: RunDirectory, config: GrpoRun
) -> None:
    before = rundir.config.read_bytes()
    with pytest.raises(RunDirectoryError, match="already holds a run: continue it with --resume"):
        RunDirectory.create(rundir.path, config.model_copy(update={"seed": 9}), "new", {}, {})
    assert rundir.config.read_bytes() == before
    assert rundir.source.read_text() == "stage: grpo\n"


def test_a_create_cut_off_before_its_end_can_be_repeated(config: GrpoRun, files: Files) -> None:
    run = RunDirectory.create(config.output_dir, config, "first", files, {})
    run.config.unlink()  # written last
    assert not run.holds_run
    assert RunDirectory.create(run.path, config, "second", files, {}).source.read_text() == "second"


def test_what_is_no_run_cannot_be_opened_or_created(tmp_path: Path, config: GrpoRun) -> None:
    with pytest.raises(RunDirectoryError, match=r"holds no run: there is no config\.yaml"):
        RunDirectory.open(tmp_path)
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(RunDirectoryError, match="is not a directory"):
        RunDirectory.create(file, config, "", {}, {})


def test_steps_are_ordered_by_number_and_leftovers_are_no_steps(rundir: RunDirectory) -> None:
    for name in ("step_10.parquet", "step_9.parquet", ".step_11.parquet.7.tmp", "notes.txt"):
        (rundir.samples / name).touch()
    assert list(by_step(rundir.samples)) == [9, 10]
    assert by_step(rundir.samples)[9] == rundir.samples_file(9)
    assert by_step(rundir.path / "absent") == {}


def test_discard_after_removes_only_later_steps(rundir: RunDirectory) -> None:
    files = [
        file(step) for step in (4, 5, 6) for file in (rundir.samples_file, rundir.heldout_file)
    ]
    for file in files:
        file.touch()
    rundir.discard_after(5)
    assert list(by_step(rundir.samples)) == list(by_step(rundir.heldout)) == [4, 5]


def test_atomic_write_replaces_the_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, "long content 药")
    assert file.read_text(encoding="utf-8") == "long content 药"
    write_atomically(file, b"\x00\xff")
    assert file.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_midway_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomically(file, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_rename_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "taken", "content")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]
