"""Pages of runs: what they show is what the run directories hold, as text and nothing else."""

import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from board_runs import log_steps, sample, write_grpo_run
from starlette.testclient import TestClient

from medgpt_ray.board.runs import Runs
from medgpt_ray.tracking.rundir import RunDirectory

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.pieces).split())


def page(client: TestClient, path: str, status: int = 200) -> Page:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    return Page(answer.text)


def test_every_run_below_the_folder_is_listed(client: TestClient, folder: Path) -> None:
    write_grpo_run(folder / ".hidden", {}, {})
    (folder / "elsewhere").symlink_to(folder / "pipe")
    (folder / "alone" / "model").mkdir()
    (folder / "alone" / "report.html").write_text("")
    (folder / "pipe" / "rl" / "metrics.jsonl").touch()
    found = page(client, "/")
    runs = [attributes["href"] for tag, attributes in found.tags if tag == "a"]
    assert [run for run in runs if run and run.startswith("/run")] == [
        "/run?run=pipe/rl",
        "/run?run=alone",
    ]
    assert "alone models/small grpo done 3 of 20 reward 0.300 kl 0.001" in found.words
    assert "pipe/rl models/small grpo running 3 of 20" in found.words


def test_a_failed_run_says_why(client: TestClient, folder: Path) -> None:
    run = RunDirectory(folder / "alone")
    with pytest.raises(ValueError, match="nan"), run.remembering_failure():
        raise ValueError("loss is nan in step 3")
    assert "alone models/small grpo failed 3 of 20" in page(client, "/").words
    assert "ValueError: loss is nan in step 3" in page(client, "/run?run=alone").words
    with run.remembering_failure():
        assert "nan" not in page(client, "/run?run=alone").words


def test_a_run_of_another_version_does_not_hide_the_others(
    client: TestClient, folder: Path
) -> None:
    (folder / "alone" / "config.yaml").write_text("stage: grpo\nclip_ration: 1\n")
    words = page(client, "/").words
    assert "alone cannot be read" in words
    assert "pipe/rl models/small" in words


BROKEN = {
    "config.yaml": [b"{ [", b"", b"\xff\xfe", b"stage: pipeline\nstages: [grpo.yaml]\n"],
    "metrics.jsonl": [None, b'{"step": 1, "loss": "abc"}\n', b'{"loss": 0.1}\n', b"nonsense\n{}\n"],
    "failure.txt": [None, b"\xff\xfe"],
}
"""None: a folder in the place of the file."""


@pytest.mark.parametrize(
    ("name", "content"), [(name, each) for name, all_ in BROKEN.items() for each in all_]
)
def test_a_broken_file_is_named_and_hides_no_other_run(
    client: TestClient, folder: Path, name: str, content: bytes | None
) -> None:
    file = folder / "alone" / name
    file.unlink(missing_ok=True)
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    listed = page(client, "/").words
    assert f"alone cannot be read: {file}" in listed
    assert "pipe/rl models/small" in listed
    for path in ("/run", "/run/live"):
        assert str(file) in page(client, f"{path}?run=alone", 500).words


def test_a_run_that_is_deleted_meanwhile_hides_no_other(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = Runs.find

    def found_and_gone(runs: Runs) -> dict[str, RunDirectory]:
        found = find(runs)
        shutil.rmtree(folder / "alone")
        return found

    monkeypatch.setattr(Runs, "find", found_and_gone)
    words = page(client, "/").words
    assert "config.yaml: no such file" in words
    assert "pipe/rl models/small" in words


def test_an_empty_folder_says_so(client: TestClient, folder: Path) -> None:
    folder.rename(folder.with_name("other"))
    assert "None yet: the folder is not there" in page(client, "/").words
    assert page(client, "/compare").words.endswith("No run has held-out answers.")


@pytest.mark.parametrize("name", ["", "nothing", "../runs/alone", "/etc", "pipe", "alone/samples"])
@pytest.mark.parametrize("path", ["/run", "/run/live", "/run/events", "/samples", "/report"])
def test_only_runs_of_the_folder_are_shown(client: TestClient, path: str, name: str) -> None:
    assert client.get(path, params={"run": name}).status_code == 404


def test_curves_and_alarms_follow_the_metrics(client: TestClient, folder: Path) -> None:
    before = page(client, "/run?run=alone")
    assert "step 3 of 20. reward 0.300" in before.words
    assert sum(tag == "svg" for tag, _ in before.tags) == 2
    assert "Alarms: None" in before.words
    run = RunDirectory(folder / "alone")
    log_steps(run, [4])
    with run.metrics.open("a") as file:
        file.write('{"step": 5, "time": 1.0, "reward/mean": null}\n')
    after = page(client, "/run/live?run=alone")
    assert "step 5 of 20. reward not finite" in after.words
    assert "step 5 not a finite number reward/mean" in after.words
    assert after.tags[0][0] == "p"  # a piece of a page


def test_the_report_is_shown_without_rights(client: TestClient, folder: Path) -> None:
    assert client.get("/report?run=alone").status_code == 404
    (folder / "alone" / "report.html").write_text("<p>the report</p>")
    answer = client.get("/report?run=alone")
    assert answer.text == "<p>the report</p>"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]


def test_samples_of_a_step_with_all_their_numbers(client: TestClient) -> None:
    last = page(client, "/samples?run=alone").words
    assert "Samples of step 3" in last
    assert "heldout.jsonl:7 What is the dose of iron? reward 0.500 advantage 1.5" in last
    assert "exact 0.500 brevity 1 3 tokens, stop a lot" in last
    first = page(client, "/samples?run=alone&step=1").words
    assert "5 g" in first
    assert "a lot" not in first
    assert "Held-out answers of step 3" in page(client, "/samples?run=alone&set=heldout").words
    assert "This run has none." in page(client, "/samples?run=pipe/rl").words


def test_many_samples_come_in_pages(client: TestClient, folder: Path) -> None:
    many = [sample(line, 0.1, f"answer {line}") for line in range(40)]
    write_grpo_run(folder / "many", {1: many}, {})
    first = page(client, "/samples?run=many").words
    second = page(client, "/samples?run=many&page=2").words
    assert "40 samples, page 1 of 2" in first
    for line in range(40):
        assert (f"answer {line} " in first + " ") != (f"answer {line} " in second + " ")


@pytest.mark.parametrize(
    ("query", "status"),
    [("step=777", 404), ("step=x", 400), ("step=-1", 400), ("set=model", 400), ("page=x", 400)],
)
def test_what_is_not_there_is_refused(client: TestClient, query: str, status: int) -> None:
    page(client, f"/samples?run=alone&{query}", status)


def test_two_steps_side_by_side(client: TestClient) -> None:
    words = page(client, "/compare?run=alone").words
    assert "reward 0.350 [0.100, 0.600] 0.650 [0.400, 0.900] 0.300 [-0.200, 0.800]" in words
    improved = "heldout.jsonl:1 What is the dose of iron? gold 60 mg step 0 reward 0.100"
    assert words.index(improved) < words.index("heldout.jsonl:2")
    assert "5 g step 3 reward 0.900" in words


def test_two_runs_side_by_side(client: TestClient) -> None:
    words = page(client, "/compare?run=alone&step=3&other=pipe/rl&other_step=2").words
    assert "alone, step 3 reward 0.900" in words
    assert "pipe/rl, step 2 reward 0.300" in words
    page(client, "/compare?run=alone&other=pipe/rl&other_step=3", 404)
    page(client, "/compare?run=nothing", 404)


@pytest.mark.parametrize("content", [b"", b"PAR1 no parquet PAR1"])
def test_a_broken_file_of_answers_is_named(
    client: TestClient, folder: Path, content: bytes
) -> None:
    run = RunDirectory(folder / "alone")
    run.samples_file(3).write_bytes(content)
    assert "samples/step_3.parquet" in page(client, "/samples?run=alone", 500).words
    assert "samples/step_3.parquet" in page(client, "/run?run=alone", 500).words
    assert "5 g" in page(client, "/samples?run=alone&step=1").words
    run.heldout_file(0).write_bytes(content)
    found = page(client, "/compare", 500)
    assert "heldout/step_0.parquet" in found.words
    assert "pipe/rl" in found.words  # to choose
    assert "pipe/rl, step 2" in page(client, "/compare?run=pipe/rl").words


def test_texts_of_a_run_stay_texts(client: TestClient, folder: Path) -> None:
    bad = [sample(1, 0.5, HOSTILE, question=HOSTILE)]
    name = "<b>run & co"
    write_grpo_run(folder / name, {1: bad}, {0: bad, 1: bad})
    for path in ("/", "/run", "/samples", "/compare"):
        answer = client.get(path, params={"run": name} if path != "/" else {})
        found = Page(answer.text)
        assert answer.status_code == 200
        assert name in found.words
        scripts = [attributes for tag, attributes in found.tags if tag == "script"]
        assert [script["src"] for script in scripts] == ["/static/board.js"]
        assert not [tag for tag, _ in found.tags if tag == "img"]
        if path in ("/samples", "/compare"):
            assert HOSTILE in found.words
