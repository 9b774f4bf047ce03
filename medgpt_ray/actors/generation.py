"""Generation workers: one vLLM engine each, and the loop that hands shards of prompts to whoever is
free and takes back those of a worker that died.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray

from medgpt_ray.actors.logs import log_to
from medgpt_ray.actors.wait import RunFailed, cause, died

START_S = 600.0
LISTEN_S = 1.0
ATTEMPTS = 3
"""Workers that a shard, or their own start, may take with it before the run ends."""


Running = dict[Any, tuple["Shard | None", int, float]]
"""Call -> shard, or none while the worker starts; its number; until when it may last (a clock)."""


@dataclass(frozen=True)
class Engine:
    """What a worker needs to know; the same for all."""

    model: str
    dtype: str
    max_model_len: int
    stop_token_ids: tuple[int, ...]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    gpus: float
    threads: int
    kv_cache_gib: float
    """On CPUs; on a GPU vLLM takes what is free."""


@dataclass(frozen=True)
class Generated:
    """Example: `Generated("Call 112 now.", "stop", 5)`"""

    text: str
    finish_reason: str
    tokens: int


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of the input, generated in one call and committed as one file."""

    number: int
    prompts: tuple[tuple[int, ...], ...]


@ray.remote
class GenerationWorker:
    def __init__(self, engine: Engine, log: str) -> None:
        log_to(log)
        from transformers import AutoTokenizer
        from vllm import LLM

        on_cpu: dict[str, Any] = {
            "enforce_eager": True,
            "kv_cache_memory_bytes": int(engine.kv_cache_gib * 2**30),
        }
        self.engine = engine
        self.tokenizer = AutoTokenizer.from_pretrained(engine.model)
        self.llm = LLM(
            model=engine.model,
            dtype=engine.dtype,
            skip_tokenizer_init=True,
            max_model_len=engine.max_model_len,
            disable_log_stats=True,
            seed=engine.seed,
            **({} if engine.gpus else on_cpu),
        )

    def ready(self) -> None:
        """Answers once the engine has its weights."""

    def generate(self, shard: Shard) -> list[Generated]:
        """An answer for each prompt, in order; the same ones whichever worker is asked, as far as
        the engine's kernels do not depend on what is computed together.
        """
        import torch

        # vLLM's per-request seeds crash its CPU engine, so its process draws as the shard says.
        torch.manual_seed(self.engine.seed * 1_000_003 + shard.number)
        sampling = self.llm.get_default_sampling_params()  # the model's penalties, as its server
        sampling.temperature, sampling.top_p = self.engine.temperature, self.engine.top_p
        sampling.top_k, sampling.min_p = 0, 0.0
        sampling.max_tokens = self.engine.max_tokens
        sampling.stop_token_ids = list(self.engine.stop_token_ids)
        sampling.detokenize = False
        outputs = self.llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in shard.prompts],
            sampling,
            use_tqdm=False,
        )
        return [self._generated(request.outputs[0]) for request in outputs]

    def _generated(self, output: Any) -> Generated:
        text = self.tokenizer.decode(output.token_ids, skip_special_tokens=True)
        return Generated(text, output.finish_reason, len(output.token_ids))


def generate(
    engine: Engine,
    workers: int,
    logs: str,
    shards: Iterator[Shard],
    commit: Callable[[Shard, list[Generated]], None],
    shard_s: float,
    check: Callable[[], None],
) -> None:
    """Every shard once to a worker that is free; `commit` gets its answers as they come. `check` is
    called every second: it may raise.

    A worker that dies is started anew, its shard goes to whoever is free first. Raises `RunFailed`
    where an engine cannot start or fails, a shard takes longer than `shard_s`, or too many workers
    die of the same.
    """
    actors: dict[int, Any] = {}
    running: Running = {}
    again, deaths = deque[Shard](), Counter[str]()

    def start(number: int) -> None:
        actors[number] = _worker(engine, f"{logs}/generation-{number}.log")
        running[actors[number].ready.remote()] = None, number, time.monotonic() + START_S

    for number in range(workers):
        start(number)
    while running:
        shard, number, answers = _first(running, logs, check)
        if answers is None:
            what = f"shard {shard.number}" if shard else f"the start of worker {number}"
            deaths[what] += 1
            if deaths[what] == ATTEMPTS:
                raise RunFailed(
                    f"{what} took {ATTEMPTS} processes with it: their logs are in {logs}"
                )
            again.extend([shard] if shard else [])
            start(number)
            continue
        if shard is not None:
            assert len(answers) == len(shard.prompts)
            commit(shard, answers)
        following = again.popleft() if again else next(shards, None)
        if following is not None:
            call = actors[number].generate.remote(following)
            running[call] = following, number, time.monotonic() + shard_s


def _worker(engine: Engine, log: str) -> Any:
    environment = {
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(engine.threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core lives and dies with the actor
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }
    return GenerationWorker.options(
        num_cpus=1, num_gpus=engine.gpus, runtime_env={"env_vars": environment}
    ).remote(engine, log)


def _first(running: Running, logs: str, check: Callable[[], None]) -> tuple[Shard | None, int, Any]:
    """Shard, worker and answers of the call that ends first: [] of a start, None of a death."""
    late = min(until for _, _, until in running.values())
    ended: list[Any] = []
    while not ended and time.monotonic() < late:
        ended, _ = ray.wait(list(running), timeout=LISTEN_S)
        check()
    if not ended:
        numbers = [str(number) for _, number, until in running.values() if until == late]
        raise RunFailed(f"generation worker {', '.join(numbers)} did not answer in time ({logs})")
    shard, number, _ = running.pop(ended[0])
    try:
        return shard, number, ray.get(ended[0], timeout=60) or []
    except ray.exceptions.RayError as error:
        if died(error):
            return shard, number, None
        raise RunFailed(f"generation worker {number}: {cause(error)} ({logs})") from error
