"""Every mistake at once, each with its place; nothing that the user wrote is converted."""

from pathlib import Path

import pytest

from medgpt_ray.config.algorithms import Truncate
from medgpt_ray.config.loader import ConfigError, load
from medgpt_ray.config.schema import LoRA

MINIMAL = """\
stage: grpo
output_dir: runs/x
steps: 3
model: {path: some/model}
data: {train: train.jsonl}
rewards:
  - function: package.module:score
learner:
  learning_rate: 1e-6
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    """What is wrong, with the directory of the file left out."""
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text), overrides)
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_a_file_becomes_a_config_that_knows_where_its_values_come_from(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    loaded = load(path, ["learner.workers=2", "model.adaptation={kind: lora, rank: 4}"])
    assert loaded.config.learner.learning_rate == 1e-6
    assert loaded.config.learner.workers == 2
    assert loaded.config.model.adaptation == LoRA(rank=4)
    assert loaded.source == MINIMAL
    assert loaded.origins["learner.learning_rate"] == f"{path}:9"
    assert loaded.origins["rewards.0.function"] == f"{path}:7"
    assert loaded.origins["learner.workers"] == "command line"
    assert loaded.origins["model.adaptation.rank"] == "command line"
    assert "learner.threads" not in loaded.origins


def test_overrides_reach_into_lists_and_replace_whole_sections(tmp_path: Path) -> None:
    text = MINIMAL + "algorithm: {rollout_correction: {kind: mask, low: 0.1, high: 9}}\n"
    loaded = load(
        write(tmp_path, text),
        ["rewards.0.weight=0.25", "algorithm.rollout_correction={kind: truncate}", "seed=7"],
    )
    assert loaded.config.rewards[0].weight == 0.25
    assert loaded.config.algorithm.rollout_correction == Truncate()
    assert "algorithm.rollout_correction.low" not in loaded.origins
    assert loaded.config.seed == 7


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
stage: grpo
output_dir: 12
model:
  path: m
  adaptation: {kind: lora, ranks: 3, target_modules: 3}
data: {train: a.jsonl}
rewards: [{function: "a:b"}]
algorithm:
  clip_ration: 0.2
  rollout_correction: {kind: truncat}
learner: {workers: "two", adam_betas: [0, 2], weight_decay: .nan}
learning_rate: 1
tensorboard: no
rollout:
"""
    assert problems(tmp_path, text, "evaluation.max_prompts=x") == [
        "run.yaml: steps: missing, expected an integer > 0",
        "run.yaml:2: output_dir: expected text, found 12",
        "run.yaml:5: model.adaptation.target_modules: "
        "expected all-linear or a list of at least one, each text, found 3",
        "run.yaml:5: model.adaptation.ranks: unknown field, did you mean 'rank'?",
        "run.yaml:9: algorithm.clip_ration: unknown field, did you mean 'clip_low'?",
        "run.yaml:10: algorithm.rollout_correction.kind: expected one of mask, none, "
        "sequence_mask, truncate, found 'truncat', did you mean 'truncate'?",
        "run.yaml:11: learner.workers: expected an integer > 0, found 'two'",
        "run.yaml:11: learner.adam_betas.1: expected a number >= 0 and < 1, found 2",
        "run.yaml:11: learner.weight_decay: expected a number >= 0, found NaN",
        "run.yaml:12: learning_rate: unknown field, did you mean 'learner.learning_rate'?",
        "run.yaml:13: tensorboard: expected true or false, found 'no'",
        "run.yaml:14: rollout: expected a section, found nothing",
        "command line: evaluation.max_prompts: expected an integer > 0 or null, found 'x'",
    ]


def test_impossible_combinations_stand_at_the_line_of_what_they_name(tmp_path: Path) -> None:
    text = MINIMAL + "  zero_stage: 3\n  max_tokens_per_microbatch: 100\nsync:\n  backend: nccl\n"
    found = problems(tmp_path, text, "model.adaptation.kind=qlora")
    assert [" ".join(problem.split()[:2]) for problem in found] == [
        "run.yaml:10: learner.zero_stage",
        "run.yaml:11: learner.max_tokens_per_microbatch",
        "run.yaml:13: sync.backend",
    ]


def test_a_combination_inside_a_section_stands_at_its_lines(tmp_path: Path) -> None:
    text = MINIMAL + "algorithm:\n  rollout_correction:\n    kind: mask\n    low: 6\n"
    text += "  prompts_per_step: 4\n  minibatches_per_step: 3\n"
    found = problems(tmp_path, text)
    assert found == [
        "run.yaml:13: algorithm.rollout_correction: low (6.0) must be less than high (5.0)"
    ]
    found = problems(tmp_path, text, "algorithm.rollout_correction.low=1")
    assert found == [
        "run.yaml:15: algorithm: minibatches_per_step (3) must divide prompts_per_step (4)"
    ]


def test_a_key_of_another_variant_does_not_suggest_itself(tmp_path: Path) -> None:
    text = """\
stage: dpo
output_dir: runs/x
model: {path: some/model}
data: {train: [{path: pairs.jsonl}]}
objective: {kind: ipo, label_smoothing: 0.1}
learner: {max_tokens_per_microbatch: 2048}
"""
    (found,) = problems(tmp_path, text)
    assert found.endswith("objective.label_smoothing: unknown field, expected one of kind, beta")


def test_a_home_directory_has_to_be_written_out(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, MINIMAL, "output_dir=~/runs/x")
    assert found == "command line: output_dir: ~ stands for no directory here: write it out"


def test_a_problem_found_later_stands_at_the_line_of_its_key(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(MINIMAL)
    loaded = load(tmp_path / "run.yaml", ["seed=7"])
    assert (
        loaded.placed("model.path: is gone")
        == f"{loaded.origins['model.path']}: model.path: is gone"
    )
    assert loaded.placed("seed: is odd") == "command line: seed: is odd"
    assert loaded.placed("model.jsonl:3: answer: empty") == "model.jsonl:3: answer: empty"


def test_a_key_of_another_stage_is_unknown(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, MINIMAL + "examples_per_step: 4\n")
    assert found.startswith("run.yaml:10: examples_per_step: unknown field")


def test_missing_keys_stand_at_their_section(tmp_path: Path) -> None:
    text = "stage: grpo\nsteps: 1\nmodel:\n  dtype: float32\nrewards:\n  - weight: 1\n"
    assert problems(tmp_path, text) == [
        "run.yaml: output_dir: missing, expected text",
        "run.yaml: data: missing, expected a section",
        "run.yaml:3: model.path: missing, expected text",
        "run.yaml:6: rewards.0.function: missing, expected text",
    ]


def test_a_union_without_its_kind_names_the_kinds(tmp_path: Path) -> None:
    assert problems(tmp_path, MINIMAL, "model.adaptation.rank=8") == [
        "command line: model.adaptation.kind: missing, expected one of full, lora, qlora"
    ]


def test_duplicate_keys_are_refused_together_with_other_mistakes(tmp_path: Path) -> None:
    assert problems(tmp_path, MINIMAL + "  threads: 1\n  threads: 2\nseed: -1\n") == [
        "run.yaml:11: learner.threads: duplicate key, first given in run.yaml:10",
        "run.yaml:12: seed: expected an integer >= 0 and < 4294967296, found -1",
    ]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("steps", "command line: steps: expected key=value"),
        ("=3", "command line: =3: expected key=value"),
        ("seed.x=3", "command line: seed.x: seed is no section"),
        ("rewards.1.weight=3", "command line: rewards.1.weight: 1 is no index of the list rewards"),
        ("sync.bakend=shm", "command line: sync.bakend: unknown field, did you mean 'backend'?"),
        ("data.train=" + "[" * 20_000, "command line: data.train: '[[["),
        ("data.train=[a", "command line: data.train: '[a' is malformed YAML"),
        ("output_dir=''", "command line: output_dir: is empty"),
        ("data.train=", "command line: data.train: expected text, found nothing"),
        (
            "model.adaptation={kind: lora, target_modules: []}",
            "command line: model.adaptation.target_modules: expected all-linear or a list of at "
            "least one, each text, found []",
        ),
        (
            "learner.adam_betas=[0.9]",
            "command line: learner.adam_betas.1: missing, expected a number >= 0 and < 1",
        ),
        (
            "learner.zero_stage='2'",
            "command line: learner.zero_stage: expected one of 0, 1, 2, 3, found '2', did you "
            "mean 2?",
        ),
        (
            "stage=sftt",
            "command line: stage: expected one of dpo, grpo, kto, orpo, pipeline, ppo, pt, rm, ",
        ),
    ],
)
def test_mistakes_on_the_command_line(tmp_path: Path, override: str, problem: str) -> None:
    found = problems(tmp_path, MINIMAL + "seed: 1\n", override)
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_a_column_is_named_as_a_format_calls_it(tmp_path: Path) -> None:
    supervised = "stage: sft\noutput_dir: x\nmodel: {path: x}\ndata: {train: [{path: x}]}\n"
    (wrong,) = problems(tmp_path, supervised, "data.train=[{path: x, columns: {qestion: Q}}]")
    assert wrong.startswith("command line: data.train.0.columns: ")
    assert "qestion: none of the columns text, conversations, messages" in wrong
    (lonely,) = problems(tmp_path, supervised, "data.validation.columns={question: Q}")
    assert lonely.startswith("command line: data.validation: ")
    assert "columns are those of path: set it" in lonely


def test_every_limit_of_a_value_is_told(tmp_path: Path) -> None:
    supervised = "stage: sft\noutput_dir: x\nmodel: {path: x}\ndata: {train: [{path: x}]}\n"
    assert problems(tmp_path, supervised, "data.validation.share=1") == [
        "command line: data.validation.share: expected a number >= 0 and < 1, found 1"
    ]
    assert problems(tmp_path, MINIMAL, "seed=20261126101112") == [
        "command line: seed: expected an integer >= 0 and < 4294967296, found 20261126101112"
    ]
    pipeline = "stage: pipeline\noutput_dir: x\nstages: [{name: a b, config: x}]\n"
    assert problems(tmp_path, pipeline) == [
        "run.yaml:3: stages.0.name: expected text that matches ^[A-Za-z0-9_-]+$, found 'a b'"
    ]


def test_an_override_given_twice_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, MINIMAL, "seed=1", "seed=2") == [
        "command line: seed: given twice, keep one"
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "run.yaml: expected `key: value` lines, found nothing"),
        ("# only a comment\n", "run.yaml: expected `key: value` lines, found nothing"),
        ("- a\n- b\n", 'run.yaml: expected `key: value` lines, found ["a", "b"]'),
        ("stage: grpo\nmodel: {path: a\nsteps: 3\n", "run.yaml:3: malformed YAML: "),
        ("stage: " + "[" * 20_000, "run.yaml: malformed YAML: nested too deeply"),
        ("stage: grpo\n\tsteps: 3\n", "run.yaml:2: malformed YAML: "),
        ("stage: grpo\n---\nstage: grpo\n", "run.yaml:2: malformed YAML: "),
        ("stage: grpo\nsteps: !!python/object:os.system 3\n", "run.yaml:2: malformed YAML: "),
        ("stage: \x01\n", "run.yaml: malformed YAML: "),
        (f"stage: grpo\nsteps: {'9' * 5000}\n", "run.yaml:2: malformed YAML: Exceeds the limit"),
        ('a: "\\ud800"\n', "run.yaml:1: malformed YAML: half of a surrogate pair"),
        ("a: &a [*a]\n", "run.yaml:1: a.0: an alias inside its own anchor"),
        ("? [a, b]\n: c\n", "run.yaml:1: a key must be a word"),
        ("stage: sft\nlearner:\n  <<: {}\n", "run.yaml:3: learner.<<: unknown field: YAML 1.2"),
        ("stage: sft\nlearner.workers: 2\n", "run.yaml:2: learner.workers: unknown field: dotted"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, problem: str) -> None:
    assert any(found.startswith(problem) for found in problems(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"stage: grpo\nname: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2: is not UTF-8"):
        load(tmp_path / "latin.yaml")


def test_values_are_not_converted(tmp_path: Path) -> None:
    dated = load(write(tmp_path, MINIMAL), ["output_dir=2024-01-01", "data.heldout=~"]).config
    assert dated.output_dir == "2024-01-01"
    assert dated.data.heldout is None
    assert problems(tmp_path, MINIMAL, "steps='3'", "seed=1.0", "tensorboard=1") == [
        "command line: seed: expected an integer >= 0 and < 4294967296, found 1.0",
        "command line: steps: expected an integer > 0, found '3'",
        "command line: tensorboard: expected true or false, found 1",
    ]
