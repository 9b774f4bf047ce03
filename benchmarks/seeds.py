"""The demo over several seeds: held-out score before and after, as a table and a picture.

    python -m benchmarks.seeds [--seeds 0 1 2 3 4] [--runs runs/seeds]

A seed whose run directory is there already is not run again. Writes benchmarks/results/demo.md and
docs/demo.svg.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import machine
from medgpt_ray.tracking.metrics import read_metrics
from medgpt_ray.tracking.samples import read_samples
from medgpt_ray.tracking.statistics import bootstrap_interval, paired_bootstrap

CONFIG = "configs/demo/grpo.yaml"
SECONDS = 1800


def run_seed(seed: int, folder: Path) -> None:
    if not (folder / "report.html").exists():
        medgpt = Path(sys.executable).with_name("medgpt")
        command = [str(medgpt), "train", CONFIG, f"seed={seed}", f"output_dir={folder}"]
        subprocess.run(command, check=True, timeout=SECONDS)


def row(seed: int, folder: Path) -> tuple[str, bool]:
    """The table's row, and whether the improvement is outside the noise (its interval above 0)."""
    files = sorted((folder / "heldout").iterdir(), key=lambda f: int(f.stem.removeprefix("step_")))
    before, after = ([s.reward for s in read_samples(file)] for file in (files[0], files[-1]))
    change = paired_bootstrap(before, after)
    first, last = bootstrap_interval(before), bootstrap_interval(after)
    records = [r for r in read_metrics(folder / "metrics.jsonl") if "loss" in r]
    whole = read_metrics(folder / "metrics.jsonl")
    minutes = (whole[-1]["time"] - whole[0]["time"]) / 60
    cells = [
        str(seed),
        f"{first.mean:.3f} [{first.low:.3f}, {first.high:.3f}]",
        f"{last.mean:.3f} [{last.low:.3f}, {last.high:.3f}]",
        f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]",
        str(len(records)),
        f"{minutes:.1f}",
    ]
    return "| " + " | ".join(cells) + " |", change.low > 0


def picture(folders: dict[int, Path], target: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2))
    for seed, folder in folders.items():
        records = [r for r in read_metrics(folder / "metrics.jsonl") if "loss" in r]
        rewards = [r["reward/mean"] for r in records]
        axes.plot([r["step"] for r in records], rewards, linewidth=1.4, label=f"seed {seed}")
    axes.set_xlabel("step")
    axes.set_ylabel("mean training reward (token F1)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, ncols=len(folders), fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", type=Path, default=Path("runs/seeds"))
    options = parser.parse_args()
    about = machine.describe(threads=2)
    folders = {seed: options.runs / str(seed) for seed in options.seeds}
    for seed, folder in folders.items():
        run_seed(seed, folder)
    rows = [row(seed, folder) for seed, folder in folders.items()]
    better = sum(outside for _, outside in rows)
    lines = [
        "# The demo over seeds",
        "",
        f"{time.strftime('%Y-%m-%d')}, `python -m benchmarks.seeds`, configuration `{CONFIG}`. "
        f"{about}.",
        "",
        "Held-out score: token F1 of the greedy answer to prompts that are never trained on, mean "
        "and 95% bootstrap interval over prompts; change: paired over prompts. Minutes: from the "
        "first held-out evaluation to the last.",
        "",
        "| seed | before | after | change | steps | minutes |",
        "|---:|---:|---:|---:|---:|---:|",
        *[line for line, _ in rows],
        "",
        f"The interval of the change lies above 0 in {better} of {len(rows)} seeds.",
        "",
    ]
    Path("benchmarks/results/demo.md").write_text("\n".join(lines))
    picture(folders, Path("docs/demo.svg"))


if __name__ == "__main__":
    main()
