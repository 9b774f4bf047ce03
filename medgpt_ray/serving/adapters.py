"""LoRA adapters by name, each kept in versions: a request stays with the one it began with.

vLLM knows an adapter as `name@version`. A new version is loaded beside the old one, under an id and
a name of its own (so no cached prefix of the old one is used), then requests for `name` go to it,
and the old one leaves with its last request.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from medgpt_ray.models.errors import ModelError
from medgpt_ray.serving import versions


class Adapters:
    def __init__(self, engine: Any, models: Any, slots: int) -> None:
        """`models`: vLLM's OpenAIServingModels, whose table of adapters is written here."""
        self._engine, self._table, self._slots = engine, models.lora_requests, slots
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
                if len(self._table) >= self._slots:
                    raise ModelError(
                        f"adapter {name}: all {self._slots} adapter slots are taken (requests on "
                        "old versions hold theirs until they end): raise lora.slots"
                    )
                request = LoRARequest(internal, next(self._ids), str(directory))
                await self._engine.add_lora(request)
                self._table[internal] = request
            self._current = current
        await self._drop_unused()

    async def _drop_unused(self) -> None:
        for internal in list(self._table):
            idle = self._running[internal] == 0 and internal not in self._current.values()
            if idle and not self._applying.locked():
                request = self._table.pop(internal)
                del self._running[internal]
                await self._engine.remove_lora(request.lora_int_id)
