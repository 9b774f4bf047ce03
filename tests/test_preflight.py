"""What would make a run fail is refused before it starts: by its own message, all at once."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from ray.cluster_utils import Cluster
from transformers import AutoConfig, AutoModelForCausalLM

from medgpt_ray import preflight, preflight_machine, preflight_models
from medgpt_ray.actors.plan import ModelFacts
from medgpt_ray.config.run import RunConfig
from medgpt_ray.config.schema import GrpoRun, PpoRun
from medgpt_ray.config.supervised import DpoRun, SftRun
from medgpt_ray.data import hub
from medgpt_ray.export import export
from medgpt_ray.models import load
from medgpt_ray.models.load import open_tokenizer
from medgpt_ray.preflight import PreflightError, check
from medgpt_ray.tracking.rundir import RunDirectory

Make = Callable[..., GrpoRun]


@pytest.fixture
def make(tiny_model: Path, tmp_path: Path) -> Make:
    """Builds the configuration of a run that can start, with sections replaced."""
    rows = [{"question": "Which dose?", "answer": "500 mg"}] * 3
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))

    def build(**sections: Any) -> GrpoRun:
        return GrpoRun.model_validate(
            {
                "stage": "grpo",
                "output_dir": str(tmp_path / "run"),
                "steps": 3,
                "model": {"path": str(tiny_model), "dtype": "float32"},
                "data": {"train": str(tmp_path / "train.jsonl")},
                "rewards": [{"function": "medgpt_ray.rewards.text:token_f1"}],
                "sync": {"bucket_mib": 1},
                "cluster": {"cpus": 2},
            }
            | sections
        )

    return build


def problems(config: RunConfig, resume: bool = False) -> list[str]:
    with pytest.raises(PreflightError) as caught:
        check(config, resume)
    return caught.value.problems


def only(pattern: str, found: list[str]) -> None:
    assert len(found) == 1, found
    assert re.search(pattern, found[0]), found[0]


def test_a_run_that_can_start_passes(make: Make) -> None:
    check(make(), resume=False)


def test_what_the_memory_cannot_hold_is_refused(make: Make) -> None:
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    check(make(rollout={"kv_cache_gib": 0.9 * has}), resume=False)
    only(
        r"^memory: .* GiB \(policy 1 x 0\.0, rollout 2 x [\d.]+\), this machine has .*: lower "
        r"rollout\.kv_cache_gib,",
        problems(make(rollout={"workers": 2, "cpus": 0.5, "kv_cache_gib": 0.6 * has})),
    )


def test_everything_is_reported_at_once(make: Make, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"question": 3}\n{"questoin": "?"}\n')
    (tmp_path / "file").write_text("")
    found = problems(
        make(
            output_dir=str(tmp_path / "file" / "run"),
            data={"train": str(tmp_path / "bad.jsonl"), "heldout": "nowhere.jsonl"},
            rewards=[{"function": "medgpt_ray.rewards.text:tokn_f1"}, {"function": "no.module:f"}],
            rollout={"workers": 4, "gpus": 1, "kv_cache_gib": 1e-5},
        )
    )
    expected = [
        r"output_dir: .*file is a file",
        r"bad\.jsonl:1: question",
        r"bad\.jsonl:2: question: missing",
        r"nowhere\.jsonl: no such file",
        r"rewards\.0\.function: .*token_f1",
        r"rewards\.1\.function: .*no\.module|rewards\.1\.function: .*no module",
        r"cpus: the run needs 5 CPUs \(policy 1 x 1, rollout 4 x 1\), cluster\.cpus says 2",
        r"gpus: the run needs 4 GPUs",
        r"rollout\.kv_cache_gib: 1e-05 GiB do not hold one sequence of 768 tokens",
    ]
    assert len(found) == len(expected), found
    for pattern, problem in zip(expected, found, strict=True):
        assert re.search(pattern, problem), (pattern, problem)


def test_a_held_out_prompt_that_is_trained_on_is_refused(make: Make, tmp_path: Path) -> None:
    """With whatever answer, unless an environment sees the rest of the row; an old run goes on."""
    for name, doses in (("seen", (1, 2, 3)), ("asked", (4, 3, 5))):
        rows = [{"question": f"Is {dose} mg too much?", "answer": name} for dose in doses]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    data = {"train": str(tmp_path / "seen.jsonl"), "heldout": str(tmp_path / "asked.jsonl")}
    config = make(data=data)
    only(
        r"^data\.heldout: 1 of its 3 prompts are in data\.train too, the first is \S*asked"
        r"\.jsonl:2 \(\S*seen\.jsonl:3 there\)",
        problems(config),
    )
    RunDirectory.create(config.output_dir, config, "", preflight.data_sha256(config), {})
    check(config, resume=True)
    dose = {"environment": "medgpt_ray.environments.dose:DoseTools"}
    check(make(data=data, output_dir=str(tmp_path / "turns"), rollout={"multi_turn": dose}), False)


@pytest.mark.parametrize(
    ("missing", "pattern"),
    [
        (["config.json"], r"model\.path: .*config\.json"),
        (["model.safetensors"], r"model\.path: .*safetensors"),
        (["tokenizer.json", "tokenizer_config.json"], r"model\.path: .*tokenizer"),
        (["chat_template.jinja"], r"model\.path: .*chat template"),
    ],
)
def test_a_model_directory_that_lacks_something(
    make: Make, tiny_model: Path, tmp_path: Path, missing: list[str], pattern: str
) -> None:
    directory = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    for name in missing:
        (directory / name).unlink()
    only(pattern, problems(make(model={"path": str(directory), "dtype": "float32"})))


def test_damaged_tokenizer_and_weights_are_both_named(
    make: Make, tiny_model: Path, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (directory / "tokenizer.json").write_text("{")
    (directory / "model.safetensors").write_bytes(b"nothing")
    found = problems(make(model={"path": str(directory), "dtype": "float32"}))
    assert [problem[:11] for problem in found] == ["model.path:", "model.path:"]
    assert "broken weights file" in found[0]
    assert "tokenizer cannot be loaded" in found[1]


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"num_hidden_layers": 3}, r"the weights lack model\.layers\.2\."),
        ({"intermediate_size": 96}, r"\.down_proj\.weight is \[64, 128\], and its config\.json "),
        ({"model_type": "t5"}, r"cannot be loaded: Unrecognized configuration class"),
        ({"model_type": "new"}, r"config\.json: .* model type `new`"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "is a reward model"),
    ],
)
def test_weights_and_their_config_that_do_not_fit(
    make: Make, tiny_model: Path, tmp_path: Path, changes: dict[str, Any], pattern: str
) -> None:
    directory = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    settings = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(settings | changes))
    found = problems(make(model={"path": str(directory), "dtype": "float32"}))
    only(rf"^model\.path: {directory}: .*{pattern}", found)


def test_a_quantised_model_takes_adapters_only(
    make: Make, tiny_model: Path, tmp_path: Path
) -> None:
    export(str(tiny_model), str(tmp_path / "packed"), None, 4, None)
    model = {"path": str(tmp_path / "packed"), "dtype": "float32"}
    only(r"^model\.adaptation: .*packed is quantised", problems(make(model=model)))
    check(make(model=model | {"adaptation": {"kind": "qlora"}}), resume=False)


def test_a_missing_shard_is_named(make: Make, tiny_model: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (directory / "model.safetensors").rename(directory / "model-1-of-2.safetensors")
    files = {
        "model.norm.weight": "model-1-of-2.safetensors",
        "lm_head.weight": "model-2-of-2.safetensors",
    }
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": files})
    )
    found = problems(make(model={"path": str(directory), "dtype": "float32"}))
    only(r"^model\.path: .*cannot be loaded: .*model-2-of-2\.safetensors", found)


def test_longer_sequences_than_the_engine_takes_are_refused(make: Make) -> None:
    rollout = {"max_completion_tokens": 600}
    found = problems(make(rollout=rollout, learner={"max_tokens_per_microbatch": 2000}))
    only(r"^rollout\.max_completion_tokens: .* 1112 tokens, and .* takes 1024", found)


def test_without_a_model_the_rest_is_still_checked(make: Make, tmp_path: Path) -> None:
    found = problems(
        make(
            model={"path": str(tmp_path / "no-model")},
            data={"train": str(tmp_path / "no-data.jsonl")},
            learner={"workers": 3},
        )
    )
    assert [problem.partition(": ")[0] for problem in found] == [
        "model.path",
        str(tmp_path / "no-data.jsonl"),
        "cpus",
    ]


def test_an_unknown_embedded_model_names_the_known_one(make: Make) -> None:
    only("embedded:smollm2-135m-instruct", problems(make(model={"path": "embedded:gpt5"})))


def test_adapter_targets_that_the_model_lacks(make: Make, tiny_model: Path) -> None:
    adaptation = {"kind": "lora", "target_modules": ["Wqkv"]}
    model = {"path": str(tiny_model), "dtype": "float32", "adaptation": adaptation}
    only(r"^model\.adaptation\.target_modules: 'Wqkv' names no", problems(make(model=model)))


def test_modules_to_save_that_the_model_lacks(make: Make, tiny_model: Path) -> None:
    adaptation = {"kind": "lora", "modules_to_save": ["lm_haed"]}
    model = {"path": str(tiny_model), "dtype": "float32", "adaptation": adaptation}
    only(r"^model\.adaptation\.modules_to_save: llama has no", problems(make(model=model)))


@pytest.mark.parametrize(
    ("critic", "pattern"),
    [
        (
            {"adaptation": {"kind": "lora", "modules_to_save": ["nope"]}},
            r"adaptation\.modules_to_s",
        ),
        ({"zero_stage": 0}, r"zero_stage: 0 keeps no float32 masters"),
    ],
)
def test_the_critic_is_checked_as_the_policy_is(
    make: Make, tiny_model: Path, critic: dict[str, Any], pattern: str
) -> None:
    settings = make(cluster={"cpus": 4}).model_dump(mode="json", exclude={"algorithm"})
    model = {"path": str(tiny_model), "dtype": "bfloat16"}
    run = PpoRun.model_validate(settings | {"stage": "ppo", "critic": critic, "model": model})
    only(rf"^critic\.{pattern}", problems(run))


def pairs(tiny: Path, folder: Path, **sections: Any) -> DpoRun:
    (folder / "pairs.jsonl").write_text('{"prompt": "Dose?", "chosen": "5 mg", "rejected": "9 g"}')
    return DpoRun.model_validate(
        {
            "stage": "dpo",
            "output_dir": str(folder / "run"),
            "model": {"path": str(tiny), "dtype": "float32"},
            "data": {"train": [{"path": str(folder / "pairs.jsonl")}]},
            "cluster": {"cpus": 2},
        }
        | sections
    )


def test_the_reference_is_a_model_with_the_same_tokens(tiny_model: Path, tmp_path: Path) -> None:
    check(pairs(tiny_model, tmp_path, reference={"path": str(tiny_model)}), resume=False)
    found = problems(pairs(tiny_model, tmp_path, reference={"path": str(tmp_path)}))
    only(r"^reference\.path: .*: holds no config\.json", found)
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    tokenizer = open_tokenizer(str(other))
    tokenizer.add_tokens(["<dose>"])
    tokenizer.save_pretrained(other)
    found = problems(pairs(tiny_model, tmp_path, reference={"path": str(other)}))
    only(r"^reference\.path: .* has another tokenizer", found)


def test_dora_cannot_be_sharded(tiny_model: Path, tmp_path: Path) -> None:
    model = {
        "path": str(tiny_model),
        "dtype": "float32",
        "adaptation": {"kind": "lora", "dora": True},
    }
    found = problems(pairs(tiny_model, tmp_path, model=model, learner={"zero_stage": 3}))
    only(r"^learner\.zero_stage: 3 cannot shard adapters with dora", found)


def test_what_is_wrong_with_template_and_tokens_is_named_once_at_its_key(
    tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "Which dose?", "answer": "5 mg"}')
    only(r"^data\.template: unknown", problems(sft(tiny_model, tmp_path, template="chatlm")))
    model = {"path": str(tiny_model), "dtype": "float32", "new_tokens": ["<a>", "<a>"]}
    only(r"^model\.new_tokens: '<a>' is empty or given", problems(sft(tiny_model, tmp_path, model)))


def test_longer_rows_than_the_model_was_made_for_are_warned_of(
    tiny_model: Path, tmp_path: Path
) -> None:
    run = sft(tiny_model, tmp_path, max_tokens=1500)
    (warning,) = preflight.warnings(run)
    assert warning.startswith("data.max_tokens: 1500 is more than the 1024 tokens")


def test_a_column_that_a_reward_of_ours_needs(make: Make, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "Which dose?"}')
    only(
        r"^rewards\.0\.function: medgpt_ray\.rewards\.text:token_f1: train\.jsonl:1: column answer",
        problems(make()),
    )


def sft(tiny: Path, folder: Path, model: Any = None, **data: Any) -> SftRun:
    return SftRun.model_validate(
        {
            "stage": "sft",
            "output_dir": str(folder / "run"),
            "model": {"path": str(tiny), **(model or {})},
            "data": {"train": [{"path": str(folder / "train.jsonl")}], **data},
        }
    )


def test_flash_attention_without_a_gpu_is_named_once(
    make: Make, tiny_model: Path, tmp_path: Path
) -> None:
    flash = {"attention": "flash_attention_2"}
    for config in (
        make(model={"path": str(tiny_model), **flash}),
        sft(tiny_model, tmp_path, flash),
    ):
        only("^model.attention: flash_attention_2 needs a GPU", problems(config))


def test_bad_rows_keep_a_run_from_starting(tiny_model: Path, tmp_path: Path) -> None:
    rows = ['{"question": "Which dose?", "answer": "500 mg"}', *['{"question": "Dose?"}'] * 22]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    found = problems(sft(tiny_model, tmp_path))
    assert found[0] == f"{tmp_path}/train.jsonl:2: answer: missing, and the file is read as qa"
    assert found[20:] == [
        "... and 2 more of the first 1,000 rows",
        "data.on_bad_row: skip leaves such rows out and writes them to a file",
    ]
    check(sft(tiny_model, tmp_path, on_bad_row="skip"), resume=False)


def test_bfloat16_without_masters_is_refused(make: Make, tiny_model: Path) -> None:
    model = {"path": str(tiny_model), "dtype": "bfloat16"}
    only(r"^learner\.zero_stage: 0", problems(make(model=model, learner={"zero_stage": 0})))


def test_the_machine_itself_is_the_limit_without_a_cluster(make: Make) -> None:
    too_many = (os.cpu_count() or 1) + 1
    config = make(cluster={}, learner={"cpus": too_many})
    only(rf"this machine has {os.cpu_count()}", problems(config))


class TestOutputDirectory:
    def begin(self, config: RunConfig) -> None:
        RunDirectory.create(
            config.output_dir,
            config,
            "",
            preflight.data_sha256(config),
            preflight_models.weights(config),
        )

    def test_a_run_is_not_overwritten(self, make: Make) -> None:
        self.begin(make())
        only("already holds a run: continue it with --resume", problems(make()))

    def test_there_must_be_a_run_to_resume(self, make: Make) -> None:
        only("holds no run to resume", problems(make(), resume=True))

    def test_the_same_run_resumes_longer_and_told_differently(self, make: Make) -> None:
        self.begin(make())
        check(make(), resume=True)
        check(make(steps=9, tensorboard=False, deadlines={"learn": 5}), resume=True)

    def test_a_run_resumes_without_the_rows_that_stopped_it(
        self, tiny_model: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "train.jsonl").write_text('{"question": "Dose?", "answer": "500 mg"}')
        self.begin(sft(tiny_model, tmp_path))
        skipping = {"on_bad_row": "skip", "max_bad_share": 0.5}
        check(sft(tiny_model, tmp_path, **skipping), resume=True)
        found = problems(sft(tiny_model, tmp_path, max_tokens=7), resume=True)
        only(r"^data\.max_tokens: is 7, but the run", found)

    def test_a_different_run_does_not_resume(self, make: Make) -> None:
        self.begin(make())
        learner = {"learning_rate": 1e-3}
        found = problems(make(seed=4, learner=learner, steps=9), resume=True)
        assert [problem.partition(":")[0] for problem in found] == ["seed", "learner.learning_rate"]
        assert "is 4, but the run in" in found[0]
        assert "began with 0" in found[0]

    def test_other_answers_in_the_same_file_are_a_different_run(
        self, make: Make, tmp_path: Path
    ) -> None:
        config, file = make(), tmp_path / "train.jsonl"
        self.begin(config)
        check(config, resume=True)
        file.write_text('{"question": "Which dose?", "answer": "50 mg"}')
        only(rf"^data: {file} has changed since the run", problems(config, resume=True))

    def test_files_that_came_or_went_are_a_different_run(
        self, tiny_model: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "notes"
        folder.mkdir()
        row = '{"question": "Dose?", "answer": "500 mg"}'
        (folder / "a.jsonl").write_text(row)
        config = sft(tiny_model, tmp_path, train=[{"path": str(folder)}])
        self.begin(config)
        (folder / "b.jsonl").write_text(row)
        only(rf"^data: {folder}/b\.jsonl is new since the run", problems(config, resume=True))
        (folder / "a.jsonl").unlink()
        found = problems(config, resume=True)
        assert [problem.partition(" since")[0] for problem in found] == [
            f"data: {folder}/a.jsonl is no longer there",
            f"data: {folder}/b.jsonl is new",
        ]

    def test_other_rows_of_the_same_data_set_are_a_different_run(
        self, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        file, name = tmp_path / "set" / "train.jsonl", f"hf:{tmp_path}/set"
        file.parent.mkdir()
        file.write_text('{"question": "Dose?", "answer": "500 mg"}')
        config = sft(tiny_model, tmp_path, train=[{"path": name}])
        self.begin(config)
        check(config, resume=True)
        file.write_text('{"question": "Dose?", "answer": "50 mg"}')
        hub.load.cache_clear()
        only(rf"^data: {name}:train has changed since the run", problems(config, resume=True))

    def test_other_weights_in_the_same_place_are_a_different_run(
        self, tiny_model: Path, tmp_path: Path
    ) -> None:
        base, reference = tmp_path / "base", tmp_path / "reference"
        for folder in (base, reference):
            shutil.copytree(tiny_model, folder)
        config = pairs(base, tmp_path, reference={"path": str(reference)})
        self.begin(config)
        check(config, resume=True)
        for model in (base, reference):
            with (model / "model.safetensors").open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                last = file.read(1)[0]
                file.seek(-1, os.SEEK_END)
                file.write(bytes([last ^ 1]))
        changed = [problem.partition(" have")[0] for problem in problems(config, resume=True)]
        assert changed == [f"{key}.path: the weights there" for key in ("model", "reference")]

    def test_a_path_in_the_arguments_of_a_reward_is_no_model(
        self, make: Make, tiny_model: Path
    ) -> None:
        function = {"function": "medgpt_ray.rewards.text:token_f1"}
        rewards = [function | {"arguments": {"path": "lexicon.txt"}}]
        assert list(preflight_models.weights(make(rewards=rewards))) == ["model.path"]

    def test_one_reward_more_is_a_different_run(self, make: Make) -> None:
        self.begin(make())
        functions = ["token_f1", "exact_match"]
        rewards = [{"function": f"medgpt_ray.rewards.text:{name}"} for name in functions]
        found = problems(make(rewards=rewards), resume=True)
        assert all(problem.startswith("rewards.1.") for problem in found)

    def test_a_damaged_stored_configuration_is_named(self, make: Make) -> None:
        self.begin(make())
        stored = RunDirectory(make().output_dir).config
        stored.write_text(stored.read_text().replace("seed: 0", "sed: 0"))
        only(r"config\.yaml:\d+: sed: unknown field", problems(make(), resume=True))


@pytest.fixture(scope="module")
def one_cpu_cluster() -> Iterator[str]:
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    yield cluster.address
    cluster.shutdown()


def test_a_cluster_is_asked_what_it_has(make: Make, one_cpu_cluster: str) -> None:
    found = problems(make(cluster={"address": one_cpu_cluster}))
    only(r"^cpus: the run needs 2 CPUs .*, the cluster has 1", found)
    halves = {"cpus": 0.5}
    check(make(cluster={"address": one_cpu_cluster}, learner=halves, rollout=halves), False)


def test_a_job_runs_on_the_cluster_that_it_was_submitted_to(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    only(r"^cluster\.address: 127\.0\.0\.1:1 cannot", problems(make()))


def test_the_address_for_jobs_is_none_for_drivers(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    only(
        r"^cluster\.address: http://127\.0\.0\.1:8265 is where jobs are submitted", problems(make())
    )


def test_a_relative_output_directory_does_not_outlive_a_job(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(preflight.warnings(make(output_dir="runs/x"))) == []
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert list(preflight.warnings(make())) == []
    found = list(preflight.warnings(make(output_dir="runs/x")))
    only("^output_dir: runs/x is in the job's copy", found)


def test_a_cluster_that_is_not_there(make: Make) -> None:
    only(
        r"^cluster\.address: 127\.0\.0\.1:1 cannot",
        problems(make(cluster={"address": "127.0.0.1:1"})),
    )


def test_what_other_nodes_must_see(make: Make, tiny_model: Path, tmp_path: Path) -> None:
    """The files of a glob, and every model, wherever its name leads to."""
    config = make(
        model={"path": "embedded:tiny"},
        reward_model={"path": "embedded:tiny"},
        cluster={"address": "127.0.0.1:1"},
    )
    kept = load.resolve_model("embedded:tiny").resolve()
    assert preflight_machine._shared_paths(config) == {"model.path": kept}
    rows = sft(tiny_model, tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.jsonl").write_text("{}")
    rows.data.train[0] = rows.data.train[0].model_copy(update={"path": f"{tmp_path}/rows/*.jsonl"})
    found = preflight_machine._shared_paths(rows)
    assert found["data.train.0.path"] == tmp_path / "rows" / "a.jsonl"


def test_flash_attention_is_for_the_nodes_of_a_cluster_to_judge(
    make: Make, tiny_model: Path
) -> None:
    flash = {"path": str(tiny_model), "attention": "flash_attention_2"}
    found = problems(make(model=flash, cluster={"address": "127.0.0.1:1"}))
    only(r"^cluster\.address: ", found)


def test_the_memory_of_a_reward_model_is_its_own(
    make: Make, tiny_model: Path, tmp_path: Path
) -> None:
    scorer = shutil.copytree(tiny_model, tmp_path / "scorer")
    config = AutoConfig.from_pretrained(tiny_model, num_hidden_layers=40)
    AutoModelForCausalLM.from_config(config).save_pretrained(scorer)
    planned = preflight_machine.whole_plan(
        make(reward_model={"path": str(scorer)}), ModelFacts.from_directory(tiny_model)
    )
    policy, rewards = (planned.role(name) for name in ("policy", "reward_model"))
    assert rewards.memory.weights > 3 * policy.memory.weights
