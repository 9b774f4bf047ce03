"""Rollout workers: one vLLM engine each."""

import os
from collections.abc import Sequence
from typing import Any

import ray

from medgpt_ray.actors.logs import log_to
from medgpt_ray.config.schema import RlRun
from medgpt_ray.types import Completion, Prompt, VersionSpan


@ray.remote
class RolloutWorker:
    """Token ids in, token ids out, with the engine's log-probs and the policy version of every
    token.

    The engine starts with dummy weights: it is of use only after its first sync.
    """

    def __init__(self, config: RlRun, number: int, log: str) -> None:
        log_to(log)
        from vllm import LLM
        from vllm.config import WeightTransferConfig

        import medgpt_ray.actors.sync.register  # noqa: F401  shm and gloo
        from medgpt_ray.models.load import load_tokenizer, resolve_model, stop_token_ids

        self.config, self.number = config, number
        self.version: int | None = None
        self.tokenizer = load_tokenizer(config.model.path)
        self.stop_token_ids = stop_token_ids(config.model.path)
        rollout = config.rollout
        self.engine = LLM(
            model=str(resolve_model(config.model.path)),
            load_format="dummy",
            dtype=rollout.dtype,
            skip_tokenizer_init=True,
            enforce_eager=not rollout.gpus,
            max_model_len=config.data.max_prompt_tokens + rollout.max_completion_tokens,
            max_num_seqs=rollout.max_concurrent_sequences,
            # Completions of one prompt share its full cache blocks: on CPU the default of 128
            # tokens is longer than most prompts, and 32 the smallest that the kernels take.
            block_size=None if rollout.gpus else 32,
            kv_cache_memory_bytes=int(rollout.kv_cache_gib * 2**30),
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            seed=config.seed,
            weight_transfer_config=WeightTransferConfig(backend=config.sync.backend),
            worker_extension_cls="medgpt_ray.actors.engine_extension.EngineExtension",
        )

    def ready(self) -> dict[str, int]:
        """Process id and host of the engine, for the record and the post-mortem."""
        return {"pid": os.getpid()}

    def generate(
        self, prompts: Sequence[Prompt], completions: int, seed: int, greedy: bool = False
    ) -> list[list[Completion]]:
        """`completions` for each prompt, sampled (or the greedy one).

        `seed` makes the sampling repeatable: the engine draws from its process's generator, which
        starts anew here (vLLM's per-request seeds crash its CPU engine).
        """
        import torch
        from vllm import SamplingParams

        if self.version is None:
            raise RuntimeError(
                f"rollout worker {self.number} was asked to generate before its sync"
            )
        torch.manual_seed(seed)
        outputs = self.engine.generate(
            [{"prompt_token_ids": list(prompt.token_ids)} for prompt in prompts],
            SamplingParams(
                n=completions,
                temperature=0.0 if greedy else self.config.rollout.temperature,
                logprobs=0,
                max_tokens=self.config.rollout.max_completion_tokens,
                stop_token_ids=self.stop_token_ids,
                detokenize=False,
            ),
            use_tqdm=False,
        )
        return [
            [self._completion(prompt, output) for output in request.outputs]
            for prompt, request in zip(prompts, outputs, strict=True)
        ]

    def _completion(self, prompt: Prompt, output: Any) -> Completion:
        ids = tuple(output.token_ids)
        return Completion(
            prompt_id=prompt.id,
            index=output.index,
            token_ids=ids,
            log_probs=tuple(
                step[token].logprob for token, step in zip(ids, output.logprobs, strict=True)
            ),
            text=self.tokenizer.decode(ids, skip_special_tokens=True),
            finish_reason=output.finish_reason,
            versions=tuple(
                VersionSpan(int(span.version), span.start, span.end)
                for span in output.weight_versions
            ),
        )

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.engine.init_weight_transfer_engine({"init_info": init_info})

    def start_weight_update(self) -> None:
        self.version = None
        self.engine.start_weight_update()

    def update_weights(self, update_info: Any) -> None:
        self.engine.update_weights({"update_info": update_info})

    def finish_weight_update(self, version: int) -> None:
        """The engine now holds `version`; what was cached from older weights is dropped."""
        self.engine.finish_weight_update(weight_version=str(version))
        if not self.engine.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be reset: requests are still running")
        self.version = version

    def audit(self, version: int) -> dict[str, str]:
        """Digests of the weights this engine computes with; see `actors.sync.audit`."""
        if self.version != version:
            return {"(policy version)": str(self.version)}
        (digests,) = self.engine.collective_rpc("audit_digests", args=(version,))
        return digests
