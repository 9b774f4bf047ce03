"""Rollout workers: one vLLM engine each.

A weight update does not wait for requests under way: the engine stops between two of its steps,
takes the weights, and goes on. What it had cached of those requests is computed anew, so that every
token after the update comes from the new weights alone, and each says which version it is from.
"""

import os
import threading
from collections.abc import Sequence
from typing import Any

import ray

from medgpt_ray.actors.logs import log_to
from medgpt_ray.config.schema import RlRun
from medgpt_ray.types import Completion, Prompt, VersionSpan


class Turnstile:
    """Lets one thread do its steps until another one asks for a turn; then that one is next."""

    def __init__(self) -> None:
        self._next, self._turn = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._next:  # whoever waits for a turn holds this, so nobody slips in before
            self._turn.acquire()

    def __exit__(self, *_: object) -> None:
        self._turn.release()


def update(method: Any) -> Any:
    """A method of weight updates: runs beside generation, not behind it."""
    return ray.method(concurrency_group="update")(method)


@ray.remote(concurrency_groups={"update": 1})
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
        self.asleep = False
        self.tokenizer = load_tokenizer(config.model.path)
        self.stop_token_ids = stop_token_ids(config.model.path)
        rollout = config.rollout
        self.engine = LLM(
            model=str(resolve_model(config.model.path)),
            load_format="dummy",
            dtype=rollout.dtype,
            skip_tokenizer_init=True,
            enforce_eager=not rollout.gpus,
            enable_sleep_mode=rollout.colocated and rollout.gpus > 0,
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

        self.turnstile = Turnstile()
        step = self.engine.llm_engine.step

        def take_turn() -> Any:
            with self.turnstile:
                return step()

        self.engine.llm_engine.step = take_turn

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

        with self.turnstile:
            if self.version is None:
                raise RuntimeError(
                    f"rollout worker {self.number} was asked to generate before its sync"
                )
        torch.manual_seed(seed)
        if self.config.rollout.multi_turn:
            return self._converse(prompts, completions, greedy)
        limits = [self.config.rollout.max_completion_tokens] * len(prompts)
        outputs = self._sample(
            [prompt.token_ids for prompt in prompts], limits, completions, greedy
        )
        return [
            [self._completion(prompt.id, output) for output in request.outputs]
            for prompt, request in zip(prompts, outputs, strict=True)
        ]

    def _sample(
        self, prompts: Sequence[tuple[int, ...]], limits: list[int], completions: int, greedy: bool
    ) -> list[Any]:
        """vLLM's outputs for prompts of token ids, each with its own limit of tokens."""
        from vllm import SamplingParams

        return self.engine.generate(
            [{"prompt_token_ids": list(ids)} for ids in prompts],
            [
                SamplingParams(
                    n=completions,
                    temperature=0.0 if greedy else self.config.rollout.temperature,
                    logprobs=0,
                    max_tokens=limit,
                    stop_token_ids=self.stop_token_ids,
                    detokenize=False,
                )
                for limit in limits
            ],
            use_tqdm=False,
        )

    def _converse(
        self, prompts: Sequence[Prompt], completions: int, greedy: bool
    ) -> list[list[Completion]]:
        """Completions of several turns, with an environment of its own for each."""
        from medgpt_ray.actors.dialogue import Dialogue, Listener, build, converse
        from medgpt_ray.rewards import find

        section = self.config.rollout.multi_turn
        assert section is not None
        environment = find(section.environment)

        def generate(ids: list[tuple[int, ...]], limits: list[int]) -> list[Completion]:
            outputs = self._sample(ids, limits, 1, greedy)
            return [self._completion("", request.outputs[0]) for request in outputs]

        dialogues = [
            Dialogue(prompt, index, build(environment, prompt, section.arguments))
            for prompt in prompts
            for index in range(completions)
        ]
        done = converse(
            dialogues,
            generate,
            Listener(self.tokenizer, self.stop_token_ids),
            self.config.rollout.max_completion_tokens,
            section.max_turns,
            section.step_timeout_s,
        )
        return [done[start : start + completions] for start in range(0, len(done), completions)]

    def _completion(self, prompt_id: str, output: Any) -> Completion:
        ids = tuple(output.token_ids)
        return Completion(
            prompt_id=prompt_id,
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

    @update
    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.engine.init_weight_transfer_engine({"init_info": init_info})

    def sleep(self) -> None:
        """Give the memory of weights and KV cache to the learners, until the next weight update.
        vLLM's CPU engine frees nothing.
        """
        with self.turnstile:
            self.version = None
            self.asleep = True
            self.engine.sleep(level=2)  # the weights are not kept: new ones will come

    @update
    def start_weight_update(self) -> None:
        """The engine rests until `finish_weight_update`."""
        self.turnstile.__enter__()
        self.version = None
        if self.asleep:
            self.engine.wake_up(tags=["weights"])
        self.engine.start_weight_update()

    @update
    def update_weights(self, update_info: Any) -> None:
        self.engine.update_weights({"update_info": update_info})

    @update
    def finish_weight_update(self, version: int) -> None:
        """The engine now holds `version`; what was cached from older weights is dropped, that of
        requests under way too.
        """
        self.engine.finish_weight_update(weight_version=str(version))
        if self.asleep:
            self.engine.wake_up(tags=["kv_cache"])
            self.asleep = False
        if not self.engine.reset_prefix_cache(reset_running_requests=True):
            raise RuntimeError("the prefix cache could not be reset")
        self.version = version
        self.turnstile.__exit__()

    @update
    def audit(self, version: int) -> dict[str, str]:
        """Digests of the weights this engine computes with; see `actors.sync.audit`."""
        with self.turnstile:
            if self.version != version:
                return {"(policy version)": str(self.version)}
            (digests,) = self.engine.collective_rpc("audit_digests", args=(version,))
        return digests
