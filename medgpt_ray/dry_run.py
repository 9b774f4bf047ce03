"""What a run would do, in words: shown by `medgpt train CONFIG --dry-run`. Starts nothing."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medgpt_ray.actors.plan import (
    GIB,
    MIB,
    Memory,
    ModelFacts,
    PlanError,
    kv_bytes_per_token,
    plan,
    width,
)
from medgpt_ray.config.document import to_yaml
from medgpt_ray.config.loader import Loaded
from medgpt_ray.config.schema import GrpoRun
from medgpt_ray.tracking.checkpoints import Checkpoints
from medgpt_ray.tracking.rundir import RunDirectory, by_step
from medgpt_ray.types import Prompt

ROWS_SHOWN = 2


def describe(loaded: Loaded, resume: bool, console: Console) -> None:
    """Print configuration, batch arithmetic, sample rows, placement and what a resume would do.

    Where the model or the data cannot be read, the parts that need them say why and the rest is
    printed all the same.
    """
    from medgpt_ray.data.prompts import DataError, read_prompts
    from medgpt_ray.models.load import ModelError, load_tokenizer, resolve_model

    config = loaded.config
    _title(console, "Configuration")
    notes = {key: f"from {origin}" for key, origin in loaded.origins.items()}
    console.print(Text(to_yaml(config.model_dump(mode="json"), notes).rstrip()), soft_wrap=True)

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
    _title(console, "Batch")
    for line in arithmetic(config, len(prompts)):
        console.print(Text(line), soft_wrap=True)
    _title(console, "Sample rows")
    for prompt in prompts[:ROWS_SHOWN]:
        console.print(rendered(prompt, tokenizer, config), soft_wrap=True)
    if reason:
        console.print(Text(f"cannot be shown: {reason}"), soft_wrap=True)

    _title(console, "Placement")
    try:
        facts = ModelFacts.from_directory(resolve_model(config.model.path))
        _placement(config, facts, console)
    except (ModelError, PlanError) as error:
        console.print(Text(f"cannot be shown: {error}"), soft_wrap=True)
    _title(console, "Resume")
    console.print(Text(resume_plan(Path(config.output_dir), resume)), soft_wrap=True)


def arithmetic(config: GrpoRun, prompts: int) -> list[str]:
    """The numbers of a step and of the whole run; `prompts` is 0 where the data are unknown."""
    algorithm, learner, rollout = config.algorithm, config.learner, config.rollout
    samples = algorithm.prompts_per_step * algorithm.completions_per_prompt
    updates = algorithm.minibatches_per_step
    tokens = samples * rollout.max_completion_tokens
    drawn = config.steps * algorithm.prompts_per_step
    lines = [
        f"A step: {algorithm.prompts_per_step} prompts x {algorithm.completions_per_prompt} "
        f"completions = {samples} samples, {_count(updates, 'update')} of {samples // updates} "
        "samples each.",
        f"It generates at most {samples} x {rollout.max_completion_tokens} = {tokens:,} tokens on "
        f"{_count(rollout.workers, 'rollout worker')}.",
        f"Each update runs on {_count(learner.workers, 'learner rank')}, in micro-batches of at "
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
            f"{_count(algorithm.max_staleness, 'policy version')} old."
        )
    else:
        lines.append("Strictly on-policy: every sample comes from the newest policy.")
    return lines


def rendered(prompt: Prompt, tokenizer: Any, config: GrpoRun) -> Text:
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


def resume_plan(output_dir: Path, resume: bool) -> str:
    """What this command would do with what `output_dir` holds."""
    run = RunDirectory(output_dir)
    if not run.holds_run:
        return f"{output_dir} holds no run yet" + (
            ": there is nothing to resume." if resume else ": a new one begins at step 1."
        )
    complete = Checkpoints(run.checkpoints).complete()
    broken = [path.name for step, path in by_step(run.checkpoints).items() if step not in complete]
    text = f"{output_dir} holds a run"
    if complete:
        step = max(complete)
        text += f": --resume continues at step {step + 1}, from {complete[step]}."
    else:
        text += " without a complete checkpoint: --resume begins again at step 1."
    if broken:
        text += f" Not complete, and left alone: {', '.join(broken)}."
    return text if resume else f"{text} Without --resume the run is refused."


def _placement(config: GrpoRun, facts: ModelFacts, console: Console) -> None:
    planned = plan(config, facts)
    table = Table("", *(role.name for role in planned.roles))
    table.add_row("workers", *(str(role.workers) for role in planned.roles))
    table.add_row("CPUs each", *(f"{role.cpus:g}" for role in planned.roles))
    table.add_row("GPUs each", *(f"{role.gpus:g}" for role in planned.roles))
    learner, rollout = config.learner, config.rollout
    types = {2: "bfloat16", 4: "float32"}
    table.add_row(
        "computes in",
        *(types[width(config.model, learner.gpus)] for _ in planned.roles[1:]),
        types[width(rollout, rollout.gpus)],
    )
    table.add_section()
    for part in Memory.__dataclass_fields__:
        sizes = (getattr(role.memory, part) for role in planned.roles)
        table.add_row(part.replace("_", " "), *(_gib(size) for size in sizes))
    table.add_section()
    table.add_row("total each", *(_gib(role.memory.total) for role in planned.roles))
    console.print(table)
    total = sum(role.workers * role.memory.total for role in planned.roles)
    cached = int(rollout.kv_cache_gib * GIB) // kv_bytes_per_token(config, facts)
    longest = config.data.max_prompt_tokens + config.rollout.max_completion_tokens
    console.print(
        Text(
            f"Model: {facts.parameters:,} parameters. In all: {planned.cpus:g} CPUs, "
            f"{planned.gpus:g} GPUs, about {_gib(total)} (estimates, without what the libraries "
            f"take). Each KV cache holds {cached:,} tokens: {cached // longest} sequences of the "
            f"greatest length ({longest})."
        ),
        soft_wrap=True,
    )


def _gib(size: int) -> str:
    if not size:
        return "-"
    return f"{size / GIB:.2f} GiB" if size >= 0.01 * GIB else f"{size / MIB:.2f} MiB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _title(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", style="bold underline"))
