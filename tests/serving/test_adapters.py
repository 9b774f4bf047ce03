"""Versions of adapters while updates and requests cross; the engine only counts what it holds."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medgpt_ray.models.errors import ModelError
from medgpt_ray.serving import versions
from medgpt_ray.serving.adapters import Adapters


class Engine:
    """What vLLM's has to do with adapters."""

    def __init__(self) -> None:
        self.held: list[str] = []

    async def add_lora(self, request: Any) -> None:
        await asyncio.sleep(0.2)
        self.held.append(request.lora_name)

    async def remove_lora(self, number: int) -> None:
        await asyncio.sleep(0.05)


@pytest.fixture
def wanted(tmp_path: Path) -> Callable[..., dict[str, dict[str, str]]]:
    """`wanted(a=1, b=2)`: those adapters in those versions."""

    def made(**numbers: int) -> dict[str, dict[str, str]]:
        found = {}
        for name, number in numbers.items():
            directory = tmp_path / f"{name}{number}"
            directory.mkdir(exist_ok=True)
            (directory / "adapter_config.json").write_text(f'"{name}{number}"')
            version = versions.of_directory(directory)
            found[name] = {"path": str(directory), "version": version}
        return found

    return made


def run(scenario: Callable[[Adapters], Coroutine[Any, Any, None]], slots: int, patience: float):
    async def once() -> None:
        table = SimpleNamespace(lora_requests={})
        await scenario(Adapters(Engine(), table, slots, patience))

    asyncio.run(once())


def test_a_new_version_waits_for_the_slot_of_an_old_one(wanted) -> None:
    async def scenario(adapters: Adapters) -> None:
        await adapters.apply(wanted(a=1))
        async with adapters.use("a"):
            await adapters.apply(wanted(a=2))
            second = adapters.resolve("a")
            updating = asyncio.create_task(adapters.apply(wanted(a=3)))
            await asyncio.sleep(0.3)
            assert not updating.done()
            assert adapters.resolve("a") == second  # it answers until the third is there
        await updating
        assert adapters.resolve("a") != second

    run(scenario, slots=2, patience=5)


def test_the_wait_for_a_slot_ends(wanted) -> None:
    async def scenario(adapters: Adapters) -> None:
        await adapters.apply(wanted(a=1))
        async with adapters.use("a"):
            await adapters.apply(wanted(a=2))
            second = adapters.resolve("a")
            with pytest.raises(ModelError, match=r"all 2 adapter slots were taken for 0\.2 s"):
                await adapters.apply(wanted(a=3))
        assert adapters.resolve("a") == second

    run(scenario, slots=2, patience=0.2)


def test_what_an_update_wants_back_is_not_dropped_by_a_request_that_ends(wanted) -> None:
    async def scenario(adapters: Adapters) -> None:
        await adapters.apply(wanted(a=1, b=1))
        old_a, old_b = adapters.use("a"), adapters.use("b")
        await old_a.__aenter__()
        await old_b.__aenter__()
        await adapters.apply(wanted(a=2, b=2))
        leaving = asyncio.create_task(old_a.__aexit__(None, None, None))
        await asyncio.sleep(0.01)  # it drops a@1, which takes its time
        back = asyncio.create_task(adapters.apply(wanted(b=1, a=3)))
        await asyncio.sleep(0)
        await asyncio.gather(leaving, back, old_b.__aexit__(None, None, None))
        async with adapters.use("b") as internal:
            assert internal in adapters._table

    run(scenario, slots=6, patience=1)
