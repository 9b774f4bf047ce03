"""One real `medgpt serve` for the module's tests, with models that differ in what they say."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
import torch
from runs import SECONDS


@dataclass(frozen=True)
class Models:
    """Tiny models of one shape: `base` and `other`, and adapters of `base`."""

    base: Path
    other: Path
    adapters: tuple[Path, Path]


@dataclass(frozen=True)
class Server:
    port: int
    pid: int
    cache: Path
    log: Path
    requests: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "key-of-tests") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=SECONDS)

    def updating(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "medgpt_ray.cli", "serve", "update", *arguments]
        return subprocess.Popen(
            [*command, "--port", str(self.port)],
            env={**os.environ, "MEDGPT_CACHE": str(self.cache), **KEYS},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def update(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.updating(*arguments) as process:
            out, err = process.communicate(timeout=SECONDS)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


KEYS = {"MEDGPT_API_KEYS": "key-of-tests,key-of-load,key-of-fuzz,key-of-crowd"}


@pytest.fixture(scope="package")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Random adapters make the tiny model's greedy texts long and unlike each other."""
    folder = tmp_path_factory.mktemp("served")
    adapters = [_adapter(tiny_model, folder / f"adapter-{seed}", seed) for seed in range(4)]
    base, other = (_merged(tiny_model, folder / f"m{i}", adapters[i]) for i in range(2))
    return Models(base, other, (adapters[2], adapters[3]))


def _adapter(model: Path, target: Path, seed: int) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(
        r=4,
        lora_alpha=64,
        target_modules=["q_proj", "v_proj", "o_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(target)
    return target


def _merged(model: Path, target: Path, adapter: Path) -> Path:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter)
    network.merge_and_unload().save_pretrained(target)
    AutoTokenizer.from_pretrained(model).save_pretrained(target)
    return target


@pytest.fixture(scope="package")
def server(models: Models, tmp_path_factory: pytest.TempPathFactory):
    """Guarded, logged, with an adapter, in float32."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cache, log_file, requests = folder / "cache", folder / "log", folder / "requests"
    command = [sys.executable, "-m", "medgpt_ray.cli", "serve", str(models.base), "--guard"]
    command += ["--set", "name=tiny"]
    command += ["--port", str(port), "--adapter", f"cardio={models.adapters[0]}"]
    command += ["--request-log", str(requests), "--set", "dtype=float32"]
    command += ["--set", "limits.request_bytes=20000", "--set", "limits.concurrent_requests=40"]
    command += ["--set", "limits.requests_per_minute=1200", "--set", "kv_cache_gib=0.2"]
    environment = {**os.environ, "MEDGPT_CACHE": str(cache), **KEYS}
    with log_file.open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    found = Server(port, process.pid, cache, log_file, requests)
    try:
        deadline = time.monotonic() + SECONDS
        while "serving tiny" not in found.log.read_text():
            assert process.poll() is None, found.log.read_text()
            assert time.monotonic() < deadline, found.log.read_text()
            time.sleep(0.2)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, found.log.read_text()
    assert "stopping" in found.log.read_text()
