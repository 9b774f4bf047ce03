"""The stream on real Ray Data: every row once, in a seeded order, from any cursor, in bounds."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import ray

from medgpt_ray.config.supervised import SupervisedData
from medgpt_ray.data.examples import Recipe, Work
from medgpt_ray.data.rejects import Rejects
from medgpt_ray.data.rows import DataError
from medgpt_ray.data.sources import SourceFiles, open_source
from medgpt_ray.data.stream import Stream, read_and_tokenise, tasks_of

pytestmark = pytest.mark.usefixtures("warm")

STORE_BYTES = 80 * 2**20


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=STORE_BYTES,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


def write(path: Path, rows: list[Any]) -> str:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def texts(name: str, count: int) -> list[Any]:
    return [{"text": f"{name} {number} writes the chart."} for number in range(count)]


def make_stream(
    tiny: Path,
    folder: Path,
    sources: list[dict[str, Any]],
    *,
    seed: int = 0,
    size: int = 7,
    epochs: float = 1.0,
    steps: int | None = None,
    stage: str = "pt",
    **settings: Any,
) -> Stream:
    data = SupervisedData(train=sources, **{"max_tokens": 64, "shuffle_rows": 40} | settings)
    opened: list[SourceFiles] = [open_source(source, stage) for source in data.train]
    return Stream(
        Recipe(stage, data, str(tiny), seed),
        opened,
        Rejects(folder / "rejected.jsonl", data),
        examples_per_step=size,
        epochs=epochs,
        steps=steps,
    )


def places(stream: Stream) -> list[list[str]]:
    """The line numbers of each batch."""
    return [[e.place.rpartition("/")[2] for e in batch.examples] for batch in stream]


def flat(batches: list[list[str]]) -> list[str]:
    return [place for batch in batches for place in batch]


def test_an_epoch_holds_every_row_once_in_an_order_of_its_own(
    tiny_model: Path, tmp_path: Path
) -> None:
    source = [{"path": write(tmp_path / "a.jsonl", texts("a", 100))}]
    batches = places(make_stream(tiny_model, tmp_path, source, epochs=2))
    assert [len(batch) for batch in batches] == [7] * 28 + [4]
    first, second = flat(batches)[:100], flat(batches)[100:]
    expected = {f"a.jsonl:{line}" for line in range(1, 101)}
    assert set(first) == set(second) == expected
    assert first != second
    assert first != sorted(first, key=lambda place: int(place.partition(":")[2]))
    assert flat(places(make_stream(tiny_model, tmp_path, source, epochs=2))) == first + second
    assert flat(places(make_stream(tiny_model, tmp_path, source, seed=1))) != first


@pytest.mark.parametrize("works", [1, 2, 5, 100])
def test_tasks_share_out_all_works_in_their_order(works: int) -> None:
    tasks = [range(task["start"], task["end"]) for task in tasks_of(works)]
    assert [work for task in tasks for work in task] == list(range(works))
    sizes = [len(task) for task in tasks]
    assert sizes[:2] == [1] * min(2, works)
    assert sizes[-1] == 1
    assert max(sizes) == {1: 1, 2: 1, 5: 1, 100: 16}[works]


@pytest.mark.parametrize("taken", [1, 6, 15, 27])
def test_it_goes_on_exactly_from_any_cursor(tiny_model: Path, tmp_path: Path, taken: int) -> None:
    """Batches of 7 end inside windows of 40 rows and inside epochs of 100."""
    source = [{"path": write(tmp_path / "a.jsonl", texts("a", 100))}]
    whole = make_stream(tiny_model, tmp_path, source, epochs=2)
    batches, spans, state = [], [], {}
    for number, batch in enumerate(whole, start=1):
        batches.append([e.place for e in batch.examples])
        spans.append(batch.span)
        if number == taken:
            state = json.loads(json.dumps(whole.state()))
    rest = make_stream(tiny_model, tmp_path, source, epochs=2)
    rest.restore(state)
    again = [(batch.span, [e.place for e in batch.examples]) for batch in rest]
    assert again == list(zip(spans[taken:], batches[taken:], strict=True))
    assert rest.counts == whole.counts
    other = make_stream(tiny_model, tmp_path, source, epochs=2, seed=5)
    with pytest.raises(DataError, match="differ from those of the checkpoint"):
        other.restore(state)


@pytest.mark.parametrize("rows", [70, 73])
def test_after_the_last_batch_nothing_is_left(tiny_model: Path, tmp_path: Path, rows: int) -> None:
    """Of whole batches of 7, and with a last one of 3; the cursor of a finished run is no start."""
    source = [{"path": write(tmp_path / "a.jsonl", texts("a", rows))}]
    whole = make_stream(tiny_model, tmp_path, source)
    assert len(flat(places(whole))) == rows
    again = make_stream(tiny_model, tmp_path, source)
    again.restore(json.loads(json.dumps(whole.state())))
    assert list(again) == []
    assert again.counts == whole.counts
    more = make_stream(tiny_model, tmp_path, source, steps=rows // 7 + 4)
    more.restore(json.loads(json.dumps(whole.state())))
    second = places(make_stream(tiny_model, tmp_path, source, steps=rows // 7 + 4))
    if rows == 70:  # a run of so many steps goes on with the second epoch
        assert places(more) == second[10:]


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The epochs of the works of each execution of Ray Data, as they come."""
    found: list[list[int]] = []

    def recorded(recipe: Recipe, renderer: Any, works: Sequence[Work]) -> Iterator[Any]:
        found.append([work.epoch for work in works])
        return read_and_tokenise(recipe, renderer, works)

    monkeypatch.setattr("medgpt_ray.data.stream.read_and_tokenise", recorded)
    return found


@pytest.mark.parametrize(("steps", "epochs_read"), [(2, 2), (14, 2), (15, 3), (40, 4)])
def test_it_reads_as_many_epochs_as_the_steps_use_and_one_that_ends_them(
    tiny_model: Path,
    tmp_path: Path,
    readings: list[list[int]],
    steps: int,
    epochs_read: int,
) -> None:
    """Ray Data reads ahead: what no step uses would take the learners' cores for nothing."""
    source = [{"path": write(tmp_path / "a.jsonl", texts("a", 100))}]
    drawn = flat(places(make_stream(tiny_model, tmp_path, source, steps=steps, shuffle_rows=4096)))
    assert len(drawn) == 7 * steps
    assert len(set(drawn[:100])) == min(100, 7 * steps)
    assert [epoch for epochs in readings for epoch in epochs] == list(range(epochs_read))


def test_where_few_rows_make_examples_it_reads_more_of_them_at_once(
    tiny_model: Path, tmp_path: Path, readings: list[list[int]]
) -> None:
    """Each reading starts an execution of Ray Data, for which the learners wait."""
    source = [{"path": write(tmp_path / "a.jsonl", texts("a", 100))}]
    stream = make_stream(tiny_model, tmp_path, source, steps=40, validation={"share": 0.8})
    assert len(flat(places(stream))) == 7 * 40
    (counts,) = stream.counts
    epochs_used = 7 * 40 / (counts.examples / counts.rows * 100)
    assert epochs_used > 10
    assert len(readings) <= 3, readings
    assert sum(map(len, readings)) <= epochs_used + 3


def test_spans_cover_the_run_without_a_gap(tiny_model: Path, tmp_path: Path) -> None:
    source = [{"path": write(tmp_path / "a.jsonl", texts("a", 50))}]
    for settings in ({"epochs": 1.5}, {"steps": 9}):
        spans = [b.span for b in make_stream(tiny_model, tmp_path, source, **settings)]
        assert spans[0][0] == 0
        assert spans[-1][1] == pytest.approx(1, abs=0.03)
        assert all(left[1] == right[0] for left, right in pairwise(spans))
    assert len(spans) == 9


def test_a_mixture_holds_each_source_by_its_weight(tiny_model: Path, tmp_path: Path) -> None:
    sources = [
        {"path": write(tmp_path / "a.jsonl", texts("a", 60)), "weight": 2.0},
        {"path": write(tmp_path / "b.jsonl", texts("b", 200)), "weight": 0.3},
    ]
    stream = make_stream(tiny_model, tmp_path, sources, epochs=2)
    drawn = Counter(flat(places(stream)))
    assert {n for place, n in drawn.items() if place.startswith("a")} == {4}
    halves = [place for place in drawn if place.startswith("b")]
    assert 80 < sum(drawn[place] for place in halves) < 160
    assert any(drawn[place] == 1 for place in halves)  # each epoch draws others
    assert stream.counts[0].examples == 240
    assert stream.counts[1].rows == sum(drawn[place] for place in halves)


def test_a_bad_row_is_an_error_that_names_it(tiny_model: Path, tmp_path: Path) -> None:
    rows = [*texts("a", 3), '{"text": 3}', '{"text"', *texts("b", 3)]
    source = [{"path": write(tmp_path / "a.jsonl", rows)}]
    with pytest.raises(DataError) as caught:
        places(make_stream(tiny_model, tmp_path, source))
    assert [problem.rpartition("/")[2].split(",")[0] for problem in caught.value.problems[:2]] == [
        "a.jsonl:4: text: is a number",
        "a.jsonl:5: invalid JSON at column 8: Expecting ':' delimiter",
    ]


def test_bad_rows_are_skipped_counted_and_kept_aside(tiny_model: Path, tmp_path: Path) -> None:
    rows = [*texts("a", 3), '{"text": 3}', *texts("b", 3)]
    source = [{"path": write(tmp_path / "a.jsonl", rows)}]
    stream = make_stream(
        tiny_model, tmp_path, source, on_bad_row="skip", max_bad_share=0.2, epochs=2
    )
    assert Counter(flat(places(stream))) == {f"a.jsonl:{line}": 2 for line in (1, 2, 3, 5, 6, 7)}
    assert (stream.counts[0].rejected, stream.counts[0].rows) == (2, 14)
    (kept,) = map(json.loads, (tmp_path / "rejected.jsonl").read_text().splitlines())
    assert kept["place"].endswith("a.jsonl:4")
    assert kept["row"] == '{"text": 3}'
    with pytest.raises(DataError, match=r"1 of 7 rows are bad, more than data\.max_bad_share"):
        places(make_stream(tiny_model, tmp_path, source, on_bad_row="skip"))
    many = [*texts("a", 140), *['{"text": 3}'] * 10]
    source = [{"path": write(tmp_path / "many.jsonl", many)}]
    with pytest.raises(DataError, match=r"10 of 150 rows are bad, more than data.max_bad_share"):
        places(make_stream(tiny_model, tmp_path, source, on_bad_row="skip", shuffle_rows=200))


def test_conversations_that_lose_turns_are_counted(tiny_model: Path, tmp_path: Path) -> None:
    def talk(turns: int) -> dict[str, Any]:
        exchange = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}]
        return {"messages": exchange * turns}

    source = [{"path": write(tmp_path / "a.jsonl", [talk(1), talk(9), talk(1), talk(9), talk(9)])}]
    whole = make_stream(tiny_model, tmp_path, source, stage="sft", max_tokens=4096)
    assert len(flat(places(whole))) == 5
    assert whole.counts[0].cut == 0
    stream = make_stream(tiny_model, tmp_path, source, stage="sft")
    assert len(flat(places(stream))) == 5
    assert (stream.counts[0].cut, stream.counts[0].rows) == (3, 5)


def test_held_out_rows_are_a_share_by_content_wherever_they_stand(
    tiny_model: Path, tmp_path: Path
) -> None:
    validation = {"share": 0.2}
    one, other = texts("a", 300), list(reversed(texts("a", 300)))
    kept = []
    for name, rows in (("one", one), ("other", other)):
        source = [{"path": write(tmp_path / f"{name}.jsonl", rows)}]
        stream = make_stream(tiny_model, tmp_path, source, validation=validation)
        lines = {int(place.partition(":")[2]) for place in flat(places(stream))}
        kept.append({rows[line - 1]["text"] for line in lines})
        assert stream.counts[0].held_out == 300 - len(lines)
    assert kept[0] == kept[1]
    assert 200 < len(kept[0]) < 280


def test_no_row_left_is_an_error_that_says_why(tiny_model: Path, tmp_path: Path) -> None:
    source = [{"path": write(tmp_path / "a.jsonl", texts("a", 3))}]
    with pytest.raises(DataError, match=r"no row is left to train on .*3 are held out"):
        places(make_stream(tiny_model, tmp_path, source, validation={"share": 0.9999999}))


def test_more_data_than_the_object_store_holds_stream_through(
    tiny_model: Path, tmp_path: Path
) -> None:
    text = "The nurse measures the blood pressure and writes it on the chart. " * 1500
    path = tmp_path / "large.txt"
    with path.open("w") as file:
        for number in range(1100):
            file.write(f"{number} {text}\n")
    assert path.stat().st_size > 1.25 * STORE_BYTES
    stream = make_stream(
        tiny_model, tmp_path, [{"path": str(path)}], max_tokens=1024, shuffle_rows=20, size=500
    )
    examples = tokens = 0
    for batch in stream:
        examples += len(batch.examples)
        tokens += sum(len(ids) for example in batch.examples for ids, _ in example.sequences)
    assert stream.counts[0].rows == 1100
    assert tokens > 1.2 * STORE_BYTES / 5  # a token takes five bytes there
    assert examples == stream.counts[0].examples
