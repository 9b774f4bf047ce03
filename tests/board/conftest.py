import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from board_runs import sample, write_grpo_run
from starlette.testclient import TestClient

from medgpt_ray.board.access import Secrets
from medgpt_ray.board.app import application

PORT = 8500


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, one of them inside the folder of a pipeline."""
    tmp_path = tmp_path_factory.mktemp("board")
    first = [sample(1, 0.1, "5 g"), sample(2, 0.6, "60 mg")]
    last = [sample(1, 0.9, "60 mg"), sample(2, 0.4, "60 g")]
    training = {1: first, 3: [sample(7, 0.5, "a lot", advantage=1.5)]}
    write_grpo_run(tmp_path / "runs" / "alone", training, {0: first, 3: last})
    write_grpo_run(tmp_path / "runs" / "pipe" / "rl", {}, {2: [sample(1, 0.3, "one")]})
    return tmp_path / "runs"


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "runs"))


@pytest.fixture
def known() -> Secrets:
    return Secrets(PORT)


@pytest.fixture
def opened(folder: Path, known: Secrets) -> Callable[..., TestClient]:
    """A browser that has the token and sends what a page of the board sends."""

    def make(loopback: bool = True, training: bool = True, chat: object = None) -> TestClient:
        app = application(folder, chat, known, loopback, training)  # type: ignore[arg-type]
        base = f"http://127.0.0.1:{PORT}"
        headers = {"Origin": base, "X-Form-Token": known.form}
        client = TestClient(app, base_url=base, headers=headers)
        client.cookies.set(known.cookie, known.token)
        return client

    return make


@pytest.fixture
def client(opened: Callable[..., TestClient]) -> TestClient:
    return opened()
