"""The report of a reinforcement-learning run: held-out scores and answers, before and after."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from medgpt_ray.config.schema import RlRun
from medgpt_ray.tracking.alarms import NOT_FINITE, Alarms
from medgpt_ray.tracking.curves import Chart, Line, chart, line
from medgpt_ray.tracking.format import duration, number, percent
from medgpt_ray.tracking.metrics import Record
from medgpt_ray.tracking.page import NOTHING_YET, Alarm, Page, not_finite
from medgpt_ray.tracking.rundir import RunDirectory, by_step
from medgpt_ray.tracking.samples import last_user_message, read_failures, read_samples
from medgpt_ray.tracking.statistics import Interval, bootstrap_interval, paired_bootstrap
from medgpt_ray.types import RewardFailure, Sample

_PHASES = ("generate", "reward", "learn", "sync", "checkpoint", "other")


@dataclass(frozen=True)
class Evaluation:
    """Held-out answers of one policy by prompt id; failed samples are in no score."""

    step: int
    answers: dict[str, list[Sample]]

    def scores(self) -> dict[str, dict[str, float]]:
        """Name of the measure -> prompt id -> mean over the prompt's completions."""
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for prompt_id, samples in self.answers.items():
            for sample in samples:
                if not sample.failure:
                    for name, value in _measures(sample).items():
                        found[name][prompt_id].append(value)
        return {
            name: {prompt_id: fmean(values) for prompt_id, values in by_prompt.items()}
            for name, by_prompt in found.items()
        }


@dataclass(frozen=True)
class Comparison:
    """A row of the held-out table. The difference is over the `pairs` prompts scored both times."""

    name: str
    before: Interval
    after: Interval | None = None
    difference: Interval | None = None
    pairs: int = 0


@dataclass(frozen=True)
class Answers:
    """One held-out question with its answers; `gold` is none where the row has no `answer`."""

    prompt_id: str
    question: str
    gold: str | None
    before: Sample
    after: Sample | None

    @property
    def change(self) -> float:
        if not self.after or self.after.failure or self.before.failure:
            return 0.0
        return self.after.reward - self.before.reward


def page(rundir: RunDirectory, config: RlRun, records: Sequence[Record]) -> Page:
    training = [record for record in records if not _is_heldout(record)]
    heldout = [record for record in records if _is_heldout(record)]
    evaluations = _evaluations(rundir)
    return Page(
        template="report_rl.html.j2",
        kind=config.algorithm.name,
        facts={},
        charts=_charts(training, heldout),
        alarms=_alarms(rundir, records),
        quiet="None: every sample has a score, every number is finite, and learning looks sound."
        if training
        else NOTHING_YET,
        values={
            "steps_done": int(max((record["step"] for record in training), default=0)),
            "trained_s": sum(record.get("time/step", 0.0) for record in training),
            "evaluations": evaluations,
            "comparisons": compare(evaluations),
            "answers": shown_answers(evaluations, config.evaluation.samples_shown),
        },
    )


def _is_heldout(record: Record) -> bool:
    return any(name.startswith("heldout/") for name in record)


def _charts(training: Sequence[Record], heldout: Sequence[Record]) -> list[Chart]:
    """All curves that have at least one value."""

    def of(
        title: str, metrics: dict[str, str], show: Callable[[float], str] = number
    ) -> Chart | None:
        lines = [line(training, name, metric) for name, metric in metrics.items()]
        return chart(title, lines, show)

    phases = [line(training, phase, f"time/{phase}") for phase in _PHASES]
    lengths = {"mean": "completion_length/mean", "longest": "completion_length/max"}
    speeds = {"generate": "tokens_per_s/generate", "learn": "tokens_per_s/learn"}
    found = [
        chart("Reward", [*_reward_lines(training), *_heldout_lines(heldout)]),
        of("KL to the reference", {"KL": "kl"}),
        of("Entropy", {"entropy": "entropy"}),
        of("Completion length (tokens)", lengths),
        of("Truncated completions", {"share": "truncated_share"}, percent),
        of("Clipped tokens", {"share": "clip_fraction"}, percent),
        of("Log-prob difference, rollout to learner", {"mean": "logprob_difference/mean"}),
        of("The same, largest of a step", {"largest": "logprob_difference/max"}),
        of("Gradient norm", {"norm": "grad_norm"}),
        of("Loss", {"loss": "loss"}),
        chart("Seconds a step, by phase", phases, duration, stacked=True),
        of("Tokens per second", speeds),
    ]
    return [one for one in found if one]


def _reward_lines(training: Sequence[Record]) -> list[Line]:
    names = dict.fromkeys(
        name for record in training for name in record if name.startswith("reward/")
    )
    parts = [name for name in names if name not in ("reward/mean", "reward/std")]
    if len(parts) < 2:  # a single part is the reward, but for its weight
        parts = []
    return [
        line(training, "reward", "reward/mean"),
        *(line(training, name.removeprefix("reward/"), name) for name in parts),
    ]


def _heldout_lines(heldout: Sequence[Record]) -> list[Line]:
    name = "held-out, with interval"
    scores = line(heldout, name, "heldout/reward")
    low, high = (line(heldout, name, f"heldout/ci_{end}").values for end in ("low", "high"))
    if len(low) != len(scores.values) or len(high) != len(scores.values):
        return [Line(name, scores.steps, scores.values, scores.values, scores.values)]
    return [Line(name, scores.steps, scores.values, low, high)]


def _evaluations(rundir: RunDirectory) -> list[Evaluation]:
    """The first held-out evaluation and, where there are several, the last."""
    files = list(by_step(rundir.heldout).items())
    return [read_evaluation(step, file) for step, file in files[:1] + files[1:][-1:]]


def read_evaluation(step: int, file: Path) -> Evaluation:
    answers: dict[str, list[Sample]] = defaultdict(list)
    for sample in read_samples(file):
        answers[sample.prompt.id].append(sample)
    return Evaluation(step, dict(answers))


def _measures(sample: Sample) -> dict[str, float]:
    parts = sample.reward_parts if len(sample.reward_parts) > 1 else {}
    return {
        "reward": sample.reward,
        **{f"reward: {name}": score for name, score in parts.items()},
        "completion length (tokens)": float(len(sample.completion.token_ids)),
        "truncated": float(sample.completion.truncated),
    }


def compare(evaluations: Sequence[Evaluation]) -> list[Comparison]:
    if not evaluations:
        return []
    before = evaluations[0].scores()
    after = evaluations[1].scores() if len(evaluations) > 1 else {}
    return [_comparison(name, scores, after.get(name, {})) for name, scores in before.items()]


def _comparison(name: str, before: dict[str, float], after: dict[str, float]) -> Comparison:
    first = bootstrap_interval(list(before.values()))
    if not after:
        return Comparison(name, first)
    both = [prompt_id for prompt_id in before if prompt_id in after]
    return Comparison(
        name,
        before=first,
        after=bootstrap_interval(list(after.values())),
        difference=paired_bootstrap([before[i] for i in both], [after[i] for i in both])
        if both
        else None,
        pairs=len(both),
    )


def shown_answers(evaluations: Sequence[Evaluation], count: int) -> list[Answers]:
    """`count` questions, evenly from the most improved to the most worsened, so that the reader
    sees losses too. A failed answer counts as no change; so do all without a second evaluation."""
    if not evaluations or not count:
        return []
    before = evaluations[0].answers
    after = evaluations[1].answers if len(evaluations) > 1 else {}
    pairs = [
        Answers(
            prompt_id=prompt_id,
            question=last_user_message(first[0].prompt),
            gold=_text(first[0].prompt.row.get("answer")),
            before=first[0],
            after=after[prompt_id][0] if after else None,
        )
        for prompt_id, first in before.items()
        if not after or prompt_id in after
    ]
    pairs.sort(key=lambda pair: pair.change, reverse=True)
    if len(pairs) <= count:
        return pairs
    return [pairs[round(i * (len(pairs) - 1) / max(count - 1, 1))] for i in range(count)]


def _text(answer: Any) -> str | None:
    if answer is None or isinstance(answer, str):
        return answer
    return json.dumps(answer, ensure_ascii=False)


def _alarms(rundir: RunDirectory, records: Sequence[Record]) -> list[Alarm]:
    """Samples without a score, numbers that were not finite, and what the rules say."""
    found = not_finite(records)
    found += [alarm for alarm in Alarms(records).raised if alarm.what != NOT_FINITE]
    for folder in (rundir.samples, rundir.heldout):
        for step, file in by_step(folder).items():
            found += [_failure_alarm(step, failure) for failure in read_failures(file)]
    return found


def _failure_alarm(step: int, failure: RewardFailure) -> Alarm:
    what = f"{failure.function} failed on {failure.prompt_id}, completion {failure.index}"
    return Alarm(step, what, failure.error)
