"""LoRA adapters by name, each kept in versions: a request stays with the one it began with.

vLLM knows an adapter as `name@version`. A new version is loaded beside the old one, under an id and
a name of its own (so no cached prefix of the old one is used), then requests for `name` go to it,
and the old one leaves with its last request.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from medgpt_ray.models.errors import ModelError
from medgpt_ray.serving import versions


class Adapters:
    def __init__(self, engine: Any, models: Any, slots: int, patience: float) -> None:
        """`models`: vLLM's OpenAIServingModels, whose table of adapters is written here.
        `patience`: seconds that a new version waits for a slot, the longest that a request takes.
        """
        self._engine, self._table, self._slots = engine, models.lora_requests, slots
        self._patience = patience
        self._ids = itertools.count(1)
        self._running: Counter[str] = Counter()
        self._current: dict[str, str] = {}
        self._applying = asyncio.Lock()

    def names(self) -> list[str]:
        return list(self._current)

    def resolve(self, name: Any) -> str | None:
        """`name@version` of an adapter, which may be asked for by that too; else none."""
        if not isinstance(name, str):
            return None
        return self._current.get(name, name if name in self._table else None)

    @asynccontextmanager
    async def use(self, name: Any) -> AsyncIterator[str | None]:
        """The adapter that a request for `name` has to its end; none for the plain model."""
        internal = self.resolve(name)
        if internal is None:
            yield None
            return
        self._running[internal] += 1
        try:
            yield internal
        finally:
            self._running[internal] -= 1
            await self._drop_unused()

    async def apply(self, wanted: Mapping[str, Mapping[str, str]]) -> None:
        """Serve exactly `wanted`: name -> {"path", "version"}. All load before any is used."""
        from vllm.lora.request import LoRARequest

        async with self._applying:
            current = {}
            versioned = {f"{name}@{adapter['version']}" for name, adapter in wanted.items()}
            for name, adapter in wanted.items():
                directory, version = Path(adapter["path"]), adapter["version"]
                current[name] = internal = f"{name}@{version}"
                if internal in self._table:
                    continue
                found = await asyncio.to_thread(versions.of_directory, directory)
                if found != version:
                    raise ModelError(
                        f"{directory}: holds version {found} of adapter {name}, not {version}: "
                        "update again with what is there now"
                    )
                await self._free_slot(name, versioned)
                request = LoRARequest(internal, next(self._ids), str(directory))
                await self._engine.add_lora(request)
                self._table[internal] = request
            self._current = current
        await self._drop_unused()

    async def _free_slot(self, name: str, wanted: Collection[str]) -> None:
        """Requests on old versions hold theirs until they end: that is waited for. A failure here
        would cost the replica, which Serve replaces."""
        until = time.monotonic() + self._patience
        while len(self._table) >= self._slots:
            for internal in list(self._table):
                if internal not in wanted:
                    await self._drop(internal)
            if time.monotonic() > until:
                raise ModelError(
                    f"adapter {name}: all {self._slots} adapter slots were taken for "
                    f"{self._patience:g} s by requests on old versions: raise lora.slots"
                )
            await asyncio.sleep(0.1)

    async def _drop_unused(self) -> None:
        for internal in list(self._table):
            if not self._applying.locked():  # which may want it from now on
                await self._drop(internal)

    async def _drop(self, internal: str) -> None:
        """Where neither a request has it nor those to come would get it."""
        if self._running[internal] == 0 and internal not in self._current.values():
            request = self._table.pop(internal, None)
            del self._running[internal]
            if request is not None:
                await self._engine.remove_lora(request.lora_int_id)
