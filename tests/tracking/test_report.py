import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from medgpt_ray.config.schema import GrpoRun
from medgpt_ray.tracking.metrics import MetricsLog
from medgpt_ray.tracking.report import write_report
from medgpt_ray.tracking.rundir import RunDirectory
from medgpt_ray.tracking.samples import write_samples
from medgpt_ray.types import Sample

MakeSample = Callable[..., Sample]
ACTIVE = {"script", "img", "iframe", "link", "object", "embed", "form"}


class Page(HTMLParser):
    """Elements, attributes and the text of a page, as a browser's parser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.pieces: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.pieces).split())


def page(rundir: RunDirectory) -> Page:
    path = write_report(rundir)
    assert path == rundir.report
    return Page(path.read_text(encoding="utf-8"))


def logged(rundir: RunDirectory, steps: int) -> None:
    log = MetricsLog(rundir, tensorboard=False, resume_after=None)
    log.log(0, {"heldout/reward": 0.3, "heldout/ci_low": 0.2, "heldout/ci_high": 0.4})
    for step in range(1, steps + 1):
        rising = {"reward/mean": step / 10, "reward/exact": 0.3, "reward/_odd$name": 0.9}
        times = {"time/generate": 2.0, "time/learn": 3.0, "time/step": 5.0}
        log.log(step, {**rising, **times, "kl": 0.001, "truncated_share": 0.25})
    log.close()


def test_a_run_without_anything_says_so(rundir: RunDirectory) -> None:
    words = page(rundir).words
    assert "0 of 20 steps" in words
    assert "This run has no held-out evaluation." in words
    assert "No steps are recorded yet." in words
    assert "None: no step has ended yet." in words


@pytest.mark.parametrize("steps", [1, 3])
def test_curves_of_few_steps(rundir: RunDirectory, steps: int) -> None:
    logged(rundir, steps)
    html = write_report(rundir).read_text(encoding="utf-8")
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    words = Page(html).words
    titles = ["Reward", "KL to the reference", "Truncated completions", "Seconds a step, by phase"]
    assert len(drawings) == len(titles)
    for drawing in drawings:
        assert "var(--c0)" in drawing
        ElementTree.fromstring(drawing)
    for title in titles:
        assert title in words
    assert "Entropy" not in words  # was not recorded
    assert f"reward {steps / 10:.3f} exact 0.300 _odd$name 0.900 held-out, with interval" in words
    assert f"{steps} of 20 steps, {5 * steps}" in words


def test_ids_in_a_page_are_unique(rundir: RunDirectory) -> None:
    logged(rundir, 3)
    ids = [value for name, value in page(rundir).attributes if name == "id"]
    assert ids
    assert len(ids) == len(set(ids))


def test_before_and_after_are_compared_pair_by_pair(
    rundir: RunDirectory, make_sample: MakeSample
) -> None:
    before = [make_sample(line, reward=line % 4 / 4) for line in range(40)]
    middle = [make_sample(line, reward=0.0) for line in range(40)]
    after = [make_sample(line, reward=line % 4 / 4 + 0.125) for line in reversed(range(40))]
    for step, samples in ((9, middle), (0, before), (10, after)):
        write_samples(rundir.heldout_file(step), samples)
    words = page(rundir).words
    assert "Step 0 (before) Step 10 (after) Difference" in words
    # The difference is the same for every pair, which only pairing by prompt can know.
    assert "Held-out reward 0.375 → 0.500, +0.125 [0.125, 0.125]" in words
    assert "reward: exact" in words
    assert "pairs the 40 questions scored both times" in words


def test_a_loss_within_noise_is_called_so(rundir: RunDirectory, make_sample: MakeSample) -> None:
    write_samples(rundir.heldout_file(0), [make_sample(i, reward=i % 2) for i in range(20)])
    write_samples(rundir.heldout_file(5), [make_sample(i, reward=i % 3 / 2) for i in range(20)])
    assert ", within noise" in page(rundir).words


def test_a_single_evaluation_has_no_difference(
    rundir: RunDirectory, make_sample: MakeSample
) -> None:
    write_samples(rundir.heldout_file(0), [make_sample(line) for line in range(3)])
    words = page(rundir).words
    assert "There is no evaluation after training yet." in words
    assert "Difference" not in words
    assert "Answers, before training" in words


def test_answers_stand_side_by_side_with_gold_and_scores(
    rundir: RunDirectory, make_sample: MakeSample
) -> None:
    gold = {"answer": ["5 mg", "0.005 g"], "question": "Which dose?"}
    write_samples(rundir.heldout_file(0), [make_sample(7, 0.0, "no idea", **gold)])
    write_samples(rundir.heldout_file(4), [make_sample(7, 1.0, "five mg", **gold)])
    words = page(rundir).words
    expected = (
        'heldout.jsonl:7 Which dose? Gold answer ["5 mg", "0.005 g"] '
        "Step 0: reward 0 (exact 0, brevity 1) no idea Step 4: reward 1 (exact 1, brevity 1) "
        "five mg"
    )
    assert expected in words


def test_shown_answers_include_the_best_and_the_worst(
    rundir: RunDirectory, make_sample: MakeSample
) -> None:
    changes = {line: (line * 7 % 30 - 15) / 10 for line in range(30)}
    failed = [line for line in changes if line % 10 == 5]  # NaN has no place in an order
    before = [make_sample(line, 0.0) for line in changes]
    after = [
        make_sample(line, math.nan, failure="boom") if line in failed else make_sample(line, change)
        for line, change in changes.items()
    ]
    changes |= dict.fromkeys(failed, 0.0)
    write_samples(rundir.heldout_file(0), before)
    write_samples(rundir.heldout_file(1), after)
    answers = page(rundir).words.partition("Alarms")[0]
    shown = [int(line) for line in re.findall(r"heldout\.jsonl:(\d+)", answers)]
    assert len(shown) == 8
    assert shown == sorted(shown, key=lambda line: -changes[line])
    assert changes[shown[0]] == max(changes.values())
    assert changes[shown[-1]] == min(changes.values())


def test_failed_samples_are_alarms_and_in_no_score(
    rundir: RunDirectory, make_sample: MakeSample
) -> None:
    broken = make_sample(2, reward=math.nan, failure="ValueError: <script>no</script>")
    write_samples(rundir.heldout_file(0), [make_sample(1, 1.0), broken])
    write_samples(rundir.heldout_file(3), [make_sample(1, 1.0), make_sample(2, 0.0)])
    write_samples(rundir.samples_file(2), [broken])
    log = MetricsLog(rundir, tensorboard=False, resume_after=None)
    log.log(1, {"reward/mean": 0.5, "kl": math.nan})
    log.close()
    words = page(rundir).words
    assert "0 scores:exact failed on heldout.jsonl:2, completion 1 ValueError: <script>no" in words
    assert "1 not a finite number kl" in words
    assert "2 scores:exact failed on heldout.jsonl:2" in words
    assert "no score (scores:exact failed)" in words
    assert "Held-out reward 1 → 0.500, 0 [0, 0]" in words
    assert "pairs the 1 questions scored both times" in words


def test_many_alarms_are_counted_and_cut(rundir: RunDirectory, make_sample: MakeSample) -> None:
    failed = [make_sample(line, failure="boom") for line in range(60)]
    write_samples(rundir.samples_file(1), failed)
    words = page(rundir).words
    assert "The first 50 of 60." in words
    assert words.count("boom") == 50


def test_held_out_answers_without_any_score(rundir: RunDirectory, make_sample: MakeSample) -> None:
    write_samples(rundir.heldout_file(0), [make_sample(1, failure="boom")])
    assert "The held-out answers have no scores: every reward failed." in page(rundir).words


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script><img src=x onerror=alert(1)><iframe src='https://e.org'></iframe>",
        '</p></div><style>body{display:none}</style><link rel=stylesheet href="//e.org/x.css">',
        "W" * 5000,
        "布洛芬的剂量是每次400毫克 🩺 جرعة الدواء",
        "{{ config }} {% raw %} &lt;b&gt; &amp;",
    ],
)
def test_hostile_texts_are_shown_as_they_are(
    rundir: RunDirectory, make_sample: MakeSample, text: str
) -> None:
    sample = make_sample(1, text=text, question=text, answer=text, failure=text)
    write_samples(rundir.heldout_file(0), [sample, make_sample(2)])
    write_samples(rundir.heldout_file(1), [make_sample(1, text=text), make_sample(2)])
    found = page(rundir)
    assert "".join(found.pieces).count(text) == 5  # question, gold, before, after, alarm
    assert not ACTIVE & set(found.tags)
    assert found.tags.count("style") == 1
    assert not [name for name, _ in found.attributes if name.startswith("on")]


def test_the_page_needs_nothing_from_outside(rundir: RunDirectory, make_sample: MakeSample) -> None:
    logged(rundir, 3)
    write_samples(rundir.heldout_file(0), [make_sample(1)])
    found = page(rundir)
    assert not ACTIVE & set(found.tags)
    links = [v for name, v in found.attributes if name in ("src", "href", "xlink:href")]
    assert all(link and link.startswith("#") for link in links)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in found.attributes
    html = rundir.report.read_text(encoding="utf-8")
    assert "@import" not in html
    assert set(re.findall(r"url\(([^)]*)", html)) <= set(re.findall(r"url\((#[^)]*)", html))


def test_the_header_names_what_made_the_run(rundir: RunDirectory) -> None:
    words = page(rundir).words
    assert "GRPO run run 0 of 20 steps" in words
    assert "models/small (full, bfloat16)" in words
    assert "train.jsonl (sha256 " in words
    assert "torch " in words
    assert "max_tokens_per_microbatch: 2048" in words  # the configuration, with defaults


def test_of_many_files_the_first_are_named(config: GrpoRun) -> None:
    many = {"train": {f"{part}/train.jsonl": "0" * 64 for part in range(8)}, "heldout": {"h": "1"}}
    found = page(RunDirectory.create(config.output_dir, config, "", many, {})).words
    train = found[found.index("Data, train") : found.index("Data, heldout")]
    assert train.count("train.jsonl (sha256 ") == 5
    assert "…); 3 more, see lineage.json" in train


def test_the_head_names_the_run_that_it_goes_on_from(rundir: RunDirectory) -> None:
    assert "Continues from" not in page(rundir).words
    config = rundir.read_config()
    model = config.model.model_copy(update={"path": str(rundir.model)})
    config = config.model_copy(update={"model": model})
    later = RunDirectory.create(rundir.path.with_name("later"), config, "", {}, {})
    assert f"Continues from {rundir.path}" in page(later).words


def test_a_report_can_be_written_again(rundir: RunDirectory) -> None:
    assert write_report(rundir).read_bytes() == write_report(rundir).read_bytes()


def test_evaluations_are_shown_with_their_change(rundir: RunDirectory) -> None:
    number = {"value": 0.4, "low": 0.3, "high": 0.5}
    hashes = {"prompt_sha256": "a" * 64, "template": f"sha256:{'b' * 64}"}
    one = {
        "task": "medical_<en>",
        "metric": "accuracy",
        "n": 28,
        "chance": 0.25,
        **number,
        **hashes,
        "base": {"value": 0.6, "low": 0.5, "high": 0.7, **hashes},
        "change": {"value": -0.2, "low": -0.3, "high": -0.1},
        "verdict": "worse",
    }
    result = {"name": "first", "created": "2026-01-01", "model": "runs/a", "base": "models/b"}
    rundir.evaluation.mkdir()
    file = rundir.evaluation / "first.json"
    file.write_text(json.dumps(result | {"metrics": [one]}))
    words = page(rundir).words
    assert "first 2026-01-01, runs/a against models/b" in words
    assert "medical_<en> accuracy (chance 0.25) 28 0.600 0.500 to 0.700 0.400" in words
    assert "-0.200 -0.300 to -0.100 worse aaaaaaaaaaaa, bbbbbbbbbbbb" in words
    alone = {key: value for key, value in one.items() if key not in ("base", "change", "verdict")}
    file.write_text(json.dumps(result | {"base": None, "metrics": [alone]}))
    assert "worse" not in page(rundir).words
