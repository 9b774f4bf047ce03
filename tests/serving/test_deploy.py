"""`serve deploy serve/openai.yaml` on a cluster started by hand, with two replicas."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import requests
from clusters import ByHand, by_hand, free_ports
from ruamel.yaml import YAML
from runs import SECONDS
from serving_load import Load

MANIFEST = Path(__file__).parents[2] / "serve" / "openai.yaml"


@dataclass(frozen=True)
class Deployed:
    cluster: ByHand
    port: int

    def client(self, key: str = "key-of-tests") -> openai.OpenAI:
        url = f"http://127.0.0.1:{self.port}/v1"
        return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=SECONDS)

    def engines(self) -> list[psutil.Process]:
        token = self.cluster.environment["RAY_AUTH_TOKEN_PATH"]
        return [
            process
            for process in psutil.process_iter(["name"])
            if process.info["name"].startswith("VLLM::EngineC")
            and process.environ().get("RAY_AUTH_TOKEN_PATH") == token
        ]


def deploy(cluster: ByHand, manifest: Path) -> None:
    serve = Path(sys.executable).parent / "serve"
    done = subprocess.run(
        [serve, "deploy", manifest, "--address", cluster.url],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def status(cluster: ByHand) -> str:
    """What `serve status` would ask for; the command itself takes seconds of processor time."""
    token = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    found = requests.get(
        f"{cluster.url}/api/serve/applications/",
        headers={"Authorization": f"Bearer {token}"},
        timeout=300,
    )
    found.raise_for_status()
    application: dict[str, str] = found.json()["applications"]["medgpt"]
    return application["status"]


@pytest.fixture(scope="module")
def deployed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("deployed")
    keys = folder / "keys"
    keys.touch(mode=0o600)
    keys.write_text("key-of-tests\nkey-of-load\n")
    (port,) = free_ports(1)
    yaml = YAML(typ="safe", pure=True)
    manifest: dict[str, Any] = yaml.load(MANIFEST)
    manifest["http_options"]["port"] = port
    changes = {"model": str(tiny_model), "name": "tiny", "api_keys": str(keys), "min_replicas": 2}
    manifest["applications"][0]["args"] |= changes | {"kv_cache_gib": 0.1}
    with (folder / "openai.yaml").open("w") as file:
        yaml.dump(manifest, file)
    with by_hand(cpus=4) as cluster:
        deploy(cluster, folder / "openai.yaml")
        deadline = time.monotonic() + SECONDS
        while (now := status(cluster)) != "RUNNING":
            assert now != "DEPLOY_FAILED"
            assert time.monotonic() < deadline, now
            time.sleep(0.5)
        yield Deployed(cluster, port)


def test_the_manifest_serves(deployed: Deployed) -> None:
    assert len(deployed.engines()) == 2
    assert [model.id for model in deployed.client().models.list()] == ["tiny"]
    with pytest.raises(openai.AuthenticationError):
        deployed.client("another-key").models.list()
    answer = deployed.client().chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "I have chest pain."}], max_tokens=4
    )
    assert answer.model_extra["medgpt"]["guard"]["emergency"] == ["chest pain"]


def test_one_of_two_engines_dies_and_the_other_answers(deployed: Deployed) -> None:
    """Only what the dead one had in work, or gets before it has left, is told to come again."""
    with Load(deployed.client("key-of-load"), "tiny").running() as load:
        time.sleep(2)
        deployed.engines()[0].kill()
        before, began = load.answers, time.monotonic()
        while load.answers < before + 30 and time.monotonic() < began + 60:
            time.sleep(0.1)
        seconds = time.monotonic() - began
    assert load.answers >= before + 30
    assert seconds < 30, "the other one goes on"
    assert all("Error code: 5" in failure for failure in load.failures), load.failures
    assert len(load.failures) < 15
    deadline = time.monotonic() + SECONDS
    while len(deployed.engines()) < 2:
        assert time.monotonic() < deadline, "the dead one is not replaced"
        time.sleep(1)
