"""The Ray Serve application: `serve deploy serve/openai.yaml` and `medgpt serve` deploy this one.

The model is an argument of the application, so another one makes Serve start new replicas and, once
they are ready, let the old ones end their answers. Adapters are the deployment's `user_config`,
which running replicas take over in place.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from medgpt_ray.serving import fields, versions
from medgpt_ray.serving.assistant import Assistant
from medgpt_ray.serving.errors import Refusal
from medgpt_ray.serving.gate import Gate
from medgpt_ray.serving.keys import Keys
from medgpt_ray.serving.rate import RateLimit
from medgpt_ray.serving.request_log import RequestLog
from medgpt_ray.serving.settings import Settings

if TYPE_CHECKING:
    from medgpt_ray.serving.engine import Engine

NAME = "OpenAIServer"
APPLICATION = f"{__name__}:application"
RATE_SECONDS = 20.0
SPARE_REQUESTS = 64
"""Room beside the requests in work for refusals, `/health` and `/metrics`."""


def application(settings: Settings) -> Application:
    """What `import_path` names in a Serve configuration; `args` there are the settings."""
    limits = settings.limits
    resources = {"num_cpus": settings.cpus, "num_gpus": settings.gpus}
    server = OpenAIServer.options(  # type: ignore[attr-defined]
        ray_actor_options={**resources, "runtime_env": {"env_vars": environment(settings)}},
        max_ongoing_requests=limits.concurrent_requests + SPARE_REQUESTS,
        graceful_shutdown_timeout_s=limits.request_seconds,
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.min_replicas,
            initial_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=max(1, limits.concurrent_requests // 2),
        ),
    )
    return server.bind(settings)


def environment(settings: Settings) -> dict[str, str]:
    """Of a replica: read when vLLM is imported."""
    common = {
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH": "1",  # the replica leaves, see `_leave_with_engine`
        "VLLM_MAX_N_SEQUENCES": str(settings.limits.completions_per_request),
    }
    if settings.gpus:
        return common
    threads = str(settings.cpus)
    return common | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": threads}


@serve.deployment(
    name=NAME,
    max_surge_percent=100,  # new replicas first
    max_queued_requests=256,
    backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
    health_check_period_s=5,
    max_constructor_retry_count=2,
)
@serve.ingress()
class OpenAIServer:
    """One replica: an engine behind the gate."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rate = rate_limit(settings.limits.requests_per_minute)
        self.engine: Engine | None = None

    async def __serve_build_asgi_app__(self) -> Any:
        # Not above: before a replica starts, a task of Serve's imports this file to build the
        # application, and would load torch for nothing.
        from medgpt_ray.serving.engine import Engine
        from medgpt_ray.serving.sources import from_index

        settings = self.settings
        keys = Keys.read(settings.api_keys) if settings.api_keys is not None else None
        self.engine = engine = await Engine.start(settings)
        assistant = Assistant(
            engine.app,
            engine.version,
            adapters=engine.adapters,
            tell_tools=not engine.shows_tools,
            guard=settings.guard,
            augment=from_index(settings.index, settings.index_version) if settings.index else None,
            fits=engine.fits,
            log=RequestLog(settings.request_log) if settings.request_log else None,
        )
        self.watch = asyncio.create_task(self._leave_with_engine(engine))
        wait = self._wait_seconds if self.rate else None
        return Gate(
            assistant, settings.limits, keys, wait, engine.paths, fields.of_paths(engine.paths)
        )

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Take over `adapters`: name -> {path, version}, or path alone for what is there now.

        Serve calls this after the application is built, and again when only this changed."""
        wanted = {}
        for name, adapter in user_config.get("adapters", {}).items():
            if isinstance(adapter, str):
                version = await asyncio.to_thread(versions.of_directory, Path(adapter))
                adapter = {"path": adapter, "version": version}
            wanted[name] = adapter
        if self.engine.adapters is not None:
            await self.engine.adapters.apply(wanted)
        elif wanted:
            raise ValueError("adapters need `lora` in the application's settings")

    async def _wait_seconds(self, key: str) -> float:
        try:
            async with asyncio.timeout(RATE_SECONDS):
                return await self.rate.wait_seconds.remote(key)
        except (TimeoutError, ray.exceptions.RayActorError):
            raise Refusal(503, "the rate limit cannot be asked", retry_after=1) from None

    async def _leave_with_engine(self, engine: "Engine") -> None:
        """With a dead engine every request would fail here: let Serve send them elsewhere."""
        while not engine.client.errored:
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.3)  # for the error answers to go out
        os._exit(1)

    async def check_health(self) -> None:
        """Serve asks every few seconds, and replaces a replica whose engine died."""
        if self.engine is not None:
            await self.engine.client.check_health()

    async def __del__(self) -> None:
        if self.engine is not None:
            self.engine.shutdown()


def rate_limit(per_minute: int | None) -> Any:
    """The one count of each key's requests: an actor that outlives replicas and updates."""
    if per_minute is None:
        return None
    actor = ray.remote(RateLimit).options(
        name=f"medgpt-rate-{per_minute}",
        namespace="medgpt",
        get_if_exists=True,
        lifetime="detached",
        max_restarts=-1,
        num_cpus=0,
    )
    return actor.remote(per_minute)
