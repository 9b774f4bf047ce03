"""Options of the command line, keys and versions."""

import json
import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.schema import ServeDeploySchema
from ruamel.yaml import YAML
from taught import copy
from transformers import AutoTokenizer
from typer.testing import CliRunner

from medgpt_ray.cli import app
from medgpt_ray.config.loader import ConfigError
from medgpt_ray.preflight import PreflightError
from medgpt_ray.serving import command, deployment, request_log, versions
from medgpt_ray.serving.keys import Keys, KeysError
from medgpt_ray.serving.preflight import check
from medgpt_ray.serving.settings import Settings, pairs, settings_from


def test_options_become_settings():
    values = ["limits.request_bytes=5000", "dtype=float32", "lora.max_rank=8"]
    settings = settings_from({"model": "m", "guard": True}, "1:3", values)
    assert (settings.min_replicas, settings.max_replicas) == (1, 3)
    assert settings.limits.request_bytes == 5000
    assert (settings.dtype, settings.lora.max_rank, settings.guard) == ("float32", 8, True)


def test_every_wrong_option_is_named():
    with pytest.raises(ConfigError) as caught:
        settings_from({"model": "m"}, "x", ["limits.bytes=5", "dtype=int3", "model.x=1"])
    problems = "\n".join(caught.value.problems)
    assert "limits.bytes: unknown, did you mean limits.request_bytes?" in problems
    for name in ("min_replicas", "dtype", "model.x=1"):
        assert name in problems
    with pytest.raises(ConfigError, match="3:1"):
        settings_from({"model": "m"}, "3:1", [])
    with pytest.raises(ConfigError, match="cardio"):
        pairs(["cardio"])
    with pytest.raises(ConfigError, match="--adapter cardio: given twice, keep one"):
        pairs(["cardio=a", "derma=b", "cardio=c"])


def test_weights_that_are_cut_off_are_named(taught_model: Path, tmp_path: Path):
    model = copy(taught_model, tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(PreflightError) as caught:
        check(Settings(model=str(model)), {})
    assert [str(weights) in problem for problem in caught.value.problems] == [True]


def test_an_update_of_a_server_that_is_gone_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "CACHE", tmp_path)
    with pytest.raises(PreflightError, match="no `medgpt serve` runs there"):
        command.update(8000, None, [], [], None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        record = tmp_path / "serve" / "8000.json"
        record.write_text(json.dumps({"address": address}))
        with pytest.raises(PreflightError, match=f"is gone.*: its Ray at {address}"):
            command.update(8000, None, [], [], None)


def test_of_a_failed_deployment_the_own_error_is_told():
    traceback = "Failed to update.\nTraceback:\n  File x\nValueError: deep\n"
    for told in ("/models/a: vLLM does not start: ValueError: no room", "KeyError: 'a'"):
        own = "" if told.startswith("KeyError") else "medgpt_ray.models.errors.ModelError: "
        status = SimpleNamespace(message="", deployments={})
        status.deployments = {"OpenAIServer": SimpleNamespace(message=f"{traceback}{own}{told}")}
        assert command._reason(status) == (told if own else traceback + told)


def test_a_long_text_is_logged_without_half_a_number():
    cut = request_log.CHARACTERS
    for at in (cut - 15, cut - 1, cut + 190):
        said = request_log._logged("，" * at + "110105199003078515" + "，" * 400)
        assert not re.search(r"\d", said), at
        assert said.endswith("...")
    assert request_log._logged("My mail is jane.doe@example.org") == "My mail is [email]"


def test_keys_from_a_file(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text("# ward\nfirst-key\n\nsecond-key\n")
    keys = Keys.read(str(file))
    assert keys.find(b"Bearer first-key") != keys.find(b"Bearer second-key")
    assert keys.find(b"Bearer # ward") is None
    assert keys.find(None) is None


def test_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDGPT_API_KEYS", "first-key, second-key")
    assert Keys.read("environment").find(b"bearer second-key")
    monkeypatch.setenv("MEDGPT_API_KEYS", " ")
    with pytest.raises(KeysError, match="MEDGPT_API_KEYS"):
        Keys.read("environment")


def test_the_version_is_that_of_the_content(tiny_model: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tiny_model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert versions.of_directory(copy) == versions.of_directory(tiny_model)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert versions.of_directory(copy) != versions.of_directory(tiny_model)


def test_every_wrong_path_is_named(tmp_path: Path):
    settings = Settings(model=str(tmp_path / "none"), api_keys=str(tmp_path / "no-keys"))
    with pytest.raises(PreflightError) as caught:
        check(settings, {"cardio": str(tmp_path)})
    assert len(caught.value.problems) == 3


def test_without_keys_only_loopback_is_served(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MEDGPT_API_KEYS", raising=False)
    with pytest.raises(PreflightError, match="API keys"):
        command.serve({"model": str(tiny_model)}, "1", [], [], "0.0.0.0", 8000, None)


def test_the_shipped_configuration_deploys_this_application():
    values = YAML(typ="safe", pure=True).load(Path("serve/openai.yaml"))
    deployed = ServeDeploySchema.model_validate(values)
    assert deployed.http_options.host == "127.0.0.1"
    (application,) = deployed.applications
    assert application.import_path == deployment.APPLICATION
    settings = Settings.model_validate(application.args)
    assert settings.guard
    assert settings.api_keys == "environment"
    assert deployment.application(settings)._bound_deployment.name == deployment.NAME


@pytest.mark.parametrize("arguments", [["serve", "nowhere"], ["serve", "start", "nowhere"]])
def test_the_command_refuses_what_cannot_be_served(arguments):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "nowhere: no such model directory" in result.stderr


def test_an_update_needs_a_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(command, "CACHE", tmp_path)
    result = CliRunner().invoke(app, ["serve", "update", "--port", "9"])
    assert result.exit_code == 2
    assert "no `medgpt serve` runs there" in result.stderr


def test_empty_keys_are_no_keys_left_out(tiny_model: Path):
    values = {"model": str(tiny_model), "api_keys": ""}
    with pytest.raises(ConfigError, match=r"api_keys: .* at least 1 character"):
        command.serve(values, "1", [], [], "0.0.0.0", 8000, None)


def test_an_adapter_may_be_named_by_its_run(taught_model: Path, lora_run: Path, tmp_path: Path):
    run = copy(lora_run, tmp_path / "run")
    (file,) = run.glob("checkpoints/*/adapter/adapter_config.json")
    settings = json.loads(file.read_text()) | {"trainable_token_indices": None}
    file.write_text(json.dumps(settings).ljust(file.stat().st_size))  # as the manifest has it
    _, (found,) = check(Settings(model=str(taught_model)), {"cardio": str(run)})
    assert Path(found.path).parent.parent == run / "checkpoints"
    assert (Path(found.path) / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"use_dora": True}, "use_dora of its adapter_config.json is not served: merge it"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save of its adapter_config.json"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights of its adapter_config.json"),
        ({"trainable_token_indices": [512]}, "trainable_token_indices of its adapter_config"),
        ({"base_model_name_or_path": "ADAPTER"}, "was trained on the adapter"),
    ],
)
def test_an_adapter_that_the_engine_would_refuse_never_gets_there(
    taught_model: Path,
    tiny_model: Path,
    lora_run: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    told: str,
    capsys: pytest.CaptureFixture[str],
):
    trained = lora_run / "checkpoints" / "step_1" / "adapter"
    adapter = copy(trained, tmp_path / "adapter")
    settings, paths = Settings(model=str(taught_model)), {"cardio": str(adapter)}
    known = json.loads((adapter / "adapter_config.json").read_text())
    known |= {"trainable_token_indices": None}

    def write(changes: dict[str, Any]) -> None:
        (adapter / "adapter_config.json").write_text(json.dumps(known | changes))

    write({name: str(trained) if value == "ADAPTER" else value for name, value in changes.items()})
    with pytest.raises(PreflightError, match=told):
        check(settings, paths)
    for base, warned in ((taught_model, False), ("Ward/Model-7B", False), (tiny_model, True)):
        write({"base_model_name_or_path": str(base)})
        assert check(settings, paths)
        assert ("which is not what is served" in capsys.readouterr().err) is warned


def test_an_adapter_with_a_chat_template_of_its_own_is_refused(
    taught_model: Path, lora_run: Path, tmp_path: Path
):
    adapter = copy(lora_run / "checkpoints" / "step_1" / "adapter", tmp_path / "adapter")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    settings |= {"trainable_token_indices": None}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(adapter)
    with pytest.raises(PreflightError, match="trained with another chat template"):
        check(Settings(model=str(taught_model)), {"cardio": str(adapter)})


def test_an_update_keeps_the_keys_that_the_server_has(
    taught_model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MEDGPT_API_KEYS", raising=False)
    keyed = Settings(model=str(taught_model), api_keys="environment")
    settings, _ = check(keyed, {}, running=True)
    assert settings.api_keys == "environment"
    monkeypatch.setenv("MEDGPT_API_KEYS", "secret-of-this-shell")
    settings, _ = check(Settings(model=str(taught_model)), {}, running=True)
    assert settings.api_keys is None


def test_a_running_ray_serve_is_not_taken_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ray.serve.context._get_global_client", lambda **_: "running")
    with (
        pytest.raises(PreflightError, match="Ray Serve runs there already"),
        command._started(Settings(model="m"), "127.0.0.1", 8000),
    ):
        pass
