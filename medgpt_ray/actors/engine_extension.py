"""What a vLLM worker can do beyond vLLM: register our transfer backends, answer the audit."""

from typing import TYPE_CHECKING, Any

import medgpt_ray.actors.sync.register  # noqa: F401  shm and gloo, inside the worker's process
from medgpt_ray.actors.sync.audit import engine_digests

if TYPE_CHECKING:
    from torch import nn


class EngineExtension:
    """Mixed into vLLM's worker by `worker_extension_cls`."""

    model_runner: Any

    def audit_digests(self, version: int) -> dict[str, str]:
        model: nn.Module = self.model_runner.get_model()
        return engine_digests(model, version)
