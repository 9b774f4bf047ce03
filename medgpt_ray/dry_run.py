"""What a run would do, in words, for `medgpt train CONFIG --dry-run`: the sections of all stages.

`dry_run_rl` and `dry_run_supervised` put them in order, with the batch and the rows between them.
Nothing is started; a cluster that is up is asked for the places of the roles, which are given back
at once. A section that cannot be shown says why, and the rest is printed all the same.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medgpt_ray.actors.nodes import ClusterError, Node, connected, places
from medgpt_ray.actors.plan import (
    GIB,
    MIB,
    Memory,
    ModelFacts,
    Plan,
    PlanError,
    Role,
    width,
)
from medgpt_ray.config.document import to_yaml
from medgpt_ray.config.loader import Loaded
from medgpt_ray.config.run import RunConfig
from medgpt_ray.preflight_machine import whole_plan
from medgpt_ray.tracking.checkpoints import Checkpoints
from medgpt_ray.tracking.rundir import RunDirectory, by_step


def configuration(loaded: Loaded, console: Console) -> None:
    """Every value, and where those that are no defaults come from."""
    notes = {key: f"from {origin}" for key, origin in loaded.origins.items()}
    text = to_yaml(loaded.config.model_dump(mode="json"), notes)
    section("Configuration", [Text(text.rstrip())], console)


def placement(
    config: RunConfig, console: Console, note: Callable[[ModelFacts], str] = lambda _: ""
) -> None:
    """Who runs where and how much memory it takes; `note` ends the text under the table."""
    from medgpt_ray.models.load import ModelError, resolve_model

    section("Placement", [], console)
    try:
        facts = ModelFacts.from_directory(resolve_model(config.model.path))
        planned = whole_plan(config, facts)
    except (ModelError, PlanError) as error:
        console.print(cannot_be_shown(error), soft_wrap=True)
        return
    console.print(_roles(config, planned.roles))
    if address := config.cluster.in_use:
        console.print(Text("\n".join(_nodes(address, planned))), soft_wrap=True)
    total = sum(role.workers * role.memory.total for role in planned.roles)
    text = (
        f"Model: {facts.parameters:,} parameters. In all: {planned.cpus:g} CPUs, "
        f"{planned.gpus:g} GPUs, about {_gib(total)} (estimates, without what the libraries take)."
    )
    console.print(Text(text + note(facts)), soft_wrap=True)


def _nodes(address: str, planned: Plan) -> Iterator[str]:
    """Node by node, the workers that Ray would put there now."""
    try:
        with connected(address):
            found = places(planned)
    except ClusterError as error:
        yield f"Nodes: cannot be shown: {error}"
        return
    if found is None:
        yield f"Nodes: {address} has no room for these roles now."
        return
    workers: dict[Node, list[str]] = {}
    for role, nodes in found.items():
        for number, node in enumerate(nodes):
            workers.setdefault(node, []).append(f"{role} {number}")
    for node, names in workers.items():
        yield f"Node {node}: {', '.join(names)}"


def _roles(config: RunConfig, roles: tuple[Role, ...]) -> Table:
    table = Table("", *(role.name for role in roles))
    table.add_row("workers", *(str(role.workers) for role in roles))
    table.add_row("CPUs each", *(f"{role.cpus:g}" for role in roles))
    table.add_row("GPUs each", *(f"{role.gpus:g}" for role in roles))
    table.add_row("computes in", *(_compute_type(config, role) for role in roles))
    table.add_section()
    for part in Memory.__dataclass_fields__:
        sizes = [getattr(role.memory, part) for role in roles]
        if any(sizes):
            table.add_row(part.replace("_", " "), *(_gib(size) for size in sizes))
    table.add_section()
    table.add_row("total each", *(_gib(role.memory.total) for role in roles))
    return table


def _compute_type(config: RunConfig, role: Role) -> str:
    if role.name == "data":
        return "-"
    section = config.model
    if role.name in ("rollout", "reward_model"):
        section = getattr(config, role.name)
    return {2: "bfloat16", 4: "float32"}[width(section, role.gpus)]


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
    if complete and run.model.is_dir():
        text += f", finished at step {max(complete)}: --resume only does what `steps` adds to it."
    elif complete:
        step = max(complete)
        text += f": --resume continues at step {step + 1}, from {complete[step]}."
    else:
        text += " without a complete checkpoint: --resume begins again at step 1."
    if broken:
        text += f" Not complete, and left alone: {', '.join(broken)}."
    return text if resume else f"{text} Without --resume the run is refused."


def section(title: str, texts: list[Text], console: Console) -> None:
    console.print(Text(f"\n{title}", style="bold underline"))
    for text in texts:
        console.print(text, soft_wrap=True)


def cannot_be_shown(reason: object) -> Text:
    return Text(f"cannot be shown: {reason}")


def count(number: int, noun: str) -> str:
    """`1 update`, `1,200 updates`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _gib(size: int) -> str:
    if not size:
        return "-"
    return f"{size / GIB:.2f} GiB" if size >= 0.01 * GIB else f"{size / MIB:.2f} MiB"
