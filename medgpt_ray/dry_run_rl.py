"""The dry run of reinforcement learning: what a step generates and learns, and the prompts."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from medgpt_ray.actors.plan import GIB, ModelFacts, kv_bytes_per_token
from medgpt_ray.config.loader import Loaded
from medgpt_ray.config.schema import RlRun
from medgpt_ray.dry_run import (
    cannot_be_shown,
    configuration,
    count,
    placement,
    resume_plan,
    section,
)
from medgpt_ray.types import Prompt

ROWS_SHOWN = 2


def describe(loaded: Loaded, resume: bool, console: Console) -> None:
    """Print configuration, batch arithmetic, sample rows, placement and what a resume would do."""
    from medgpt_ray.data.prompts import DataError, read_prompts
    from medgpt_ray.models.load import load_tokenizer

    config = loaded.config
    configuration(loaded, console)
    prompts: list[Prompt] = []
    tokenizer, reason = None, ""
    try:
        tokenizer = load_tokenizer(config.model.path)
    except Exception as error:  # noqa: BLE001 (tokenizers raises bare Exception for a broken file)
        reason = f"the tokenizer cannot be loaded: {error}"
    else:
        try:
            prompts = read_prompts(config.data.train, tokenizer, config.data)
        except DataError as error:
            reason = str(error)
    section("Batch", [Text(line) for line in arithmetic(config, len(prompts))], console)
    texts = [rendered(prompt, tokenizer, config) for prompt in prompts[:ROWS_SHOWN]]
    section("Sample rows", [cannot_be_shown(reason)] if reason else texts, console)
    placement(config, console, lambda facts: _kv_cache(config, facts))
    section("Resume", [Text(resume_plan(Path(config.output_dir), resume))], console)


def arithmetic(config: RlRun, prompts: int) -> list[str]:
    """The numbers of a step and of the whole run; `prompts` is 0 where the data are unknown."""
    algorithm, learner, rollout = config.algorithm, config.learner, config.rollout
    samples = algorithm.prompts_per_step * algorithm.completions_per_prompt
    updates = algorithm.updates_per_step
    tokens = samples * rollout.max_completion_tokens
    drawn = config.steps * algorithm.prompts_per_step
    lines = [
        f"A step: {algorithm.prompts_per_step} prompts x {algorithm.completions_per_prompt} "
        f"completions = {samples} samples, {count(updates, 'update')} of "
        f"{samples // algorithm.minibatches_per_step} samples each.",
        f"It generates at most {samples} x {rollout.max_completion_tokens} = {tokens:,} tokens on "
        f"{count(rollout.workers, 'rollout worker')}.",
        f"Each update runs on {count(learner.workers, 'learner rank')}, in micro-batches of at "
        f"most {learner.max_tokens_per_microbatch:,} tokens.",
        f"The run: {config.steps} steps x {updates} = {config.steps * updates} updates, {drawn:,} "
        f"prompts drawn, {config.steps * samples:,} samples, at most {config.steps * tokens:,} "
        "tokens generated.",
    ]
    if prompts:
        lines.append(
            f"{drawn:,} / {prompts:,} prompts = {drawn / prompts:.2f} passes over the data."
        )
    if algorithm.max_staleness:
        lines.append(
            f"Generation runs ahead of learning: samples are at most "
            f"{count(algorithm.max_staleness, 'policy version')} old."
        )
    else:
        lines.append("Strictly on-policy: every sample comes from the newest policy.")
    return lines


def rendered(prompt: Prompt, tokenizer: Any, config: RlRun) -> Text:
    """A row as the model sees it: the untrained prompt, and where the trained completion begins."""
    gold = prompt.row.get("answer", "none in this row")
    return Text.assemble(
        (f"{prompt.id}, {len(prompt.token_ids)} prompt tokens, answer: {gold}\n", "bold"),
        "NOT TRAINED |",
        (tokenizer.decode(prompt.token_ids, skip_special_tokens=False), "dim"),
        "|\nTRAINED     |",
        (
            f"completion: 1 to {config.rollout.max_completion_tokens} sampled tokens, "
            "its end-of-turn token among them",
            "green",
        ),
        "|\n",
    )


def _kv_cache(config: RlRun, facts: ModelFacts) -> str:
    cached = int(config.rollout.kv_cache_gib * GIB) // kv_bytes_per_token(config, facts)
    longest = config.data.max_prompt_tokens + config.rollout.max_completion_tokens
    return (
        f" Each KV cache holds {cached:,} tokens: {cached // longest} sequences of the greatest "
        f"length ({longest})."
    )
