"""Finding files, cutting them into segments, and every class of row and file that is unreadable."""

import gzip
import json
import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgpt_ray.data import hub, json_list
from medgpt_ray.data.files import content_sha256, find
from medgpt_ray.data.rows import BadRow, DataError
from medgpt_ray.data.segments import Record, read, segments

ROWS = [{"question": f"Which dose of drug {n}?", "answer": f"{n} mg, 每天\n"} for n in range(9)]


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def write(path: Path, content: bytes) -> str:
    with pa.output_stream(str(path)) as stream:  # compresses as the suffix says
        stream.write(content)
    return str(path)


def records(path: str, size: int = 10**9) -> list[Record]:
    return [row for file in find(path) for part in segments(file, size) for row in read(part)]


def shown(path: str) -> list[tuple[int, Any]]:
    """Line and value of each row; of bad ones the text."""
    return [
        (row.line, str(row.value) if isinstance(row.value, BadRow) else row.value)
        for row in records(path)
    ]


def fault(path: str) -> str:
    with pytest.raises(DataError) as caught:
        records(path)
    (problem,) = caught.value.problems
    return problem


def test_a_directory_is_searched_to_its_depth_and_only_for_data(tmp_path: Path) -> None:
    wanted = ["a.JSON", "b/c.jsonl.gz", "b/d/e.txt", "f.parquet", "g.v1.2.jsonl", "h.txt.zst"]
    for name in [*wanted, "README.md", "b/load.py", ".cache/x.jsonl", "b/.y.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find(str(tmp_path))
    assert [file.path.removeprefix(f"{tmp_path}/") for file in found] == wanted
    assert [file.kind for file in found] == ["json", "jsonl", "txt", "parquet", "jsonl", "txt"]
    assert [file.compression for file in found] == [None, "gzip", None, None, None, "zstd"]
    assert find(f"{tmp_path}/b*") == found[1:3]
    assert find(f"{tmp_path}/**/*.jsonl*") == [found[1], found[4]]
    assert find(f"{tmp_path}/f.parquet") == [found[3]]
    for name in ("figures.zip", "notes.csv.md"):
        (tmp_path / name).touch()
    assert find(str(tmp_path)) == found
    for name in ("b/z.csv.gz", "b/z.parquet.gz", "y.jsonl.xz"):
        (tmp_path / name).touch()
    with pytest.raises(DataError) as caught:
        find(str(tmp_path))
    refused = [problem.partition(": is not read, expected")[0] for problem in caught.value.problems]
    wrong = ("b/z.csv.gz", "b/z.parquet.gz", "y.jsonl.xz")
    assert refused == [f"{tmp_path}/{name}" for name in wrong]
    assert find(f"{tmp_path}/*.v1*") == [found[4]]


def test_a_name_with_the_characters_of_a_glob_is_a_name_first(tmp_path: Path) -> None:
    path = write(tmp_path / "rows[1].jsonl", lines(*ROWS))
    assert [file.path for file in find(path)] == [path]


def test_what_is_no_data_is_an_error_that_lists_the_kinds(tmp_path: Path) -> None:
    (tmp_path / "rows.md").touch()
    with pytest.raises(DataError, match=r"rows\.md: unknown kind of file, expected \.json, "):
        find(f"{tmp_path}/rows.md")
    with pytest.raises(DataError, match=r"^s3://ward/a\.jsonl: addresses are not read: download"):
        find("s3://ward/a.jsonl")
    for path in (tmp_path, f"{tmp_path}/*.md", f"{tmp_path}/*.jsonl"):
        with pytest.raises(DataError, match=r": no data files there, expected \.json, "):
            find(str(path))
    with pytest.raises(DataError, match="no such file"):
        find(f"{tmp_path}/rows.jsonl")
    with pytest.raises(DataError, match="x: cannot be read: File name too long"):
        find(f"{tmp_path}/{'x' * 300}")
    with pytest.raises(DataError, match="hf:: expected hf:NAME, hf:NAME:SPLIT or "):
        find("hf:")


def test_a_name_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + "/病历.jsonl".encode("gbk"), "wb") as stream:
        stream.write(lines(*ROWS))
    expected = r"udcb2.*\.jsonl': its name is not UTF-8, rename it"
    for path in (str(tmp_path), *map(str, tmp_path.iterdir())):
        with pytest.raises(DataError, match=expected):
            find(path)


def test_a_linked_folder_is_read_once_and_a_ring_of_links_ends(tmp_path: Path) -> None:
    for name in ("far", "near"):
        (tmp_path / name).mkdir()
    write(tmp_path / "far" / "a.jsonl", b"{}")
    write(tmp_path / "near" / "b.jsonl", b"{}")
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "near" / "ring").symlink_to(tmp_path / "near")
    (tmp_path / "near" / "twice").symlink_to(tmp_path / "far")
    found = [file.path for file in find(str(tmp_path / "near"))]
    assert len(found) == 2
    assert {Path(path).name for path in found} == {"a.jsonl", "b.jsonl"}
    assert len(find(f"{tmp_path}/near/**/*.jsonl")) == 2


def test_a_folder_that_cannot_be_read_is_not_left_out(tmp_path: Path) -> None:
    closed = tmp_path / "ward"
    for folder in (tmp_path, closed):
        folder.mkdir(exist_ok=True)
        write(folder / "rows.jsonl", lines(*ROWS))
    closed.chmod(0)
    if os.access(closed, os.R_OK):
        pytest.skip("this user may read everything")
    for path in (tmp_path, closed, closed / "rows.jsonl"):
        with pytest.raises(DataError, match=r"ward.*: cannot be read: Permission denied"):
            find(str(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", lines(*ROWS)),
        ("rows.jsonl.gz", lines(*ROWS)),
        ("rows.jsonl.zst", lines(*ROWS)),
        ("rows.json", json.dumps(ROWS).encode()),
        ("rows.json", b"\n" + json.dumps(ROWS, indent=2).encode() + b"\n\n"),
        ("rows.json.gz", json.dumps(ROWS, indent=2).encode()),
        ("rows.json", b"\n" + lines(*ROWS)),
        ("rows.json.zst", lines(*ROWS)),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str, content: bytes) -> None:
    assert [row.value for row in records(write(tmp_path / name, content))] == ROWS


def test_a_line_of_txt_is_a_text_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    content = "Fever.\r\n\n \t\n 咳嗽 \u2028and more\n{}".encode()
    for name in ("a.txt", "a.txt.gz"):
        expected = [(1, "Fever."), (4, " 咳嗽 \u2028and more"), (5, "{}")]
        assert shown(write(tmp_path / name, content)) == expected


@pytest.mark.parametrize("size", [1, 60, 200, 10**9])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_segments_share_out_every_row_once_with_its_line(
    tmp_path: Path, size: int, end: bytes
) -> None:
    content = (b"\n\n" + lines(*ROWS[:4]) + b"\n{\n" + lines(*ROWS[4:]) + b" \n\n").removesuffix(
        b"\n"
    )
    path = write(tmp_path / "rows.jsonl", content.replace(b"\n", end))
    (file,) = find(path)
    parts = segments(file, size)
    read_back = [list(read(part)) for part in parts]
    assert [len(rows) for rows in read_back] == [part.rows for part in parts]
    assert [row.line for rows in read_back for row in rows] == [3, 4, 5, 6, 8, 9, 10, 11, 12, 13]
    values = [row.value for rows in read_back for row in rows]
    assert [value for value in values if not isinstance(value, BadRow)] == ROWS
    if size == 1:
        assert len(parts) == 10
    assert parts[-1] == pickle.loads(pickle.dumps(parts[-1]))


BAD = [
    (b"{question: 1}", "invalid JSON at column 2: Expecting property name"),
    (b'{"a": 1} {"a": 2}', "invalid JSON at column 10: Extra data"),
    (b"[" * 100_000 + b"]" * 100_000, "invalid JSON: maximum recursion depth"),
    (b'{"a": ' + b"9" * 5000 + b"}", "invalid JSON: Exceeds the limit"),
    (b'["Which dose?"]', "is a list, expected a JSON object"),
    (b"7", "is a number, expected a JSON object"),
    (b'{"a": {"b": 1, "b": 2}}', "b: given twice in one object, keep one"),
    (b'{"question": "caf\xe9"}', "invalid UTF-8 at byte 18 of the line, convert the file to UTF-8"),
    (b'{"a": [1, {"b": "\\uD83D"}]}', "a[1].b: holds half of a surrogate pair"),
    (b'{"a": {"\\udc00": 1}}', "a: holds half of a surrogate pair"),
    (b'{"a": [NaN]}', "a[0]: is nan, which is no JSON number"),
    (b'{"a": -Infinity}', "a: is -inf, which is no JSON number"),
    (b'{"a": 1e999}', "a: is inf, which is no JSON number"),
    (b'\xef\xbb\xbf{"a": 1}', "byte order mark, save the file as UTF-8 without one"),
]


@pytest.mark.parametrize(("row", "expected"), BAD)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.zst", "rows.json"])
def test_a_bad_row_is_named_and_loses_no_other(
    tmp_path: Path, row: bytes, expected: str, name: str
) -> None:
    good = lines(ROWS[0]), lines(ROWS[1])
    content = good[0] + row + b"\n" + good[1]
    if name == "rows.json":
        content = b"[" + good[0] + b"," + row + b"\n," + good[1] + b"]"
    first, (line, bad), second = shown(write(tmp_path / name, content))
    assert (first, second) == ((1, ROWS[0]), (3, ROWS[1]))
    assert line == 2
    assert bad.startswith(expected)


def test_a_pair_of_surrogates_and_a_word_like_nan_are_fine(tmp_path: Path) -> None:
    row = b'{"a": "\\ud83d\\ude00 NaN Infinity", "b": 1e100, "c": null}\n'
    value = {"a": "\U0001f600 NaN Infinity", "b": 1e100, "c": None}
    assert shown(write(tmp_path / "rows.jsonl", row)) == [(1, value)]


def test_a_mark_at_the_start_of_a_file_costs_its_first_row(tmp_path: Path) -> None:
    lists = b"\xef\xbb\xbf" + json.dumps(ROWS).encode()
    for name, content in (("a.jsonl", b"\xef\xbb\xbf" + lines(*ROWS)), ("a.json", lists)):
        first, *others = records(write(tmp_path / name, content))
        assert str(first.value) == "byte order mark, save the file as UTF-8 without one"
        assert [row.value for row in others] == ROWS[1:]


def test_a_row_beyond_the_limit_is_cut_out_of_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medgpt_ray.data.segments.MAX_ROW_BYTES", 64)
    monkeypatch.setattr("medgpt_ray.data.segments.CHUNK_BYTES", 16)
    monkeypatch.setattr(json_list, "CHUNK_BYTES", 16)
    fits, not_quite = ({"a": "x" * (size - len('{"a": ""}'))} for size in (64, 65))
    rows = [fits, not_quite, {"a": "\n" * 300}, fits]
    for name in ("a.jsonl", "a.jsonl.gz"):
        path = write(tmp_path / name, lines(*rows))
        assert [line for line, _ in shown(path)] == [1, 2, 3, 4]
        first, *long, last = [value for _, value in shown(path)]
        assert first == last == fits
        assert all("is a line end or a quote missing?" in text for text in long)
    pretty = b"[" + json.dumps(rows[0]).encode() + b", {" + b"\n" * 500 + b'"a": 1},\n{"a": 2}]'
    first, (line, bad), last = shown(write(tmp_path / "a.json", pretty))
    assert (first, last, line) == ((1, fits), (502, {"a": 2}), 1)
    assert "is a line end or a quote missing?" in bad


@pytest.mark.parametrize(
    "broken", [b'{"a": tru}', b'{"a": 1]', b'{"a": 1}}', b'{"a" 1}', b'"a": 1']
)
def test_a_broken_element_of_a_list_loses_no_other(tmp_path: Path, broken: bytes) -> None:
    content = b'[\n  {"a": "]}, \\" ["},\n  ' + broken + b',\n  {\n    "a": 2\n  }\n]\n'
    first, (line, bad), last = shown(write(tmp_path / "rows.json", content))
    assert (first, last) == ((2, {"a": '"]}, \\" ["'[1:-1].replace("\\", "")}), (4, {"a": 2}))
    assert line == 3
    assert bad.startswith(("invalid JSON at column", "is a string"))


def test_the_column_of_a_fault_counts_from_the_start_of_its_line(tmp_path: Path) -> None:
    content = b'[\n    {"a": oh},\n    {\n      "b": oh\n    }\n]'
    found = [text for _, text in shown(write(tmp_path / "rows.json", content))]
    assert found == [
        "invalid JSON at column 11: Expecting value",
        "invalid JSON at column 12 of its line 2: Expecting value",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'[{"a": 1},\n{"a": 2}\n', [(1, 1), (2, 2), (2, "the list is not closed with ]")]),
        (b'[{"a": 1},\n', [(1, 1), (2, "the list is not closed with ]")]),
        (b'[{"a": 1},\n{"a": "2}]\n', [(1, 1), (2, "cut off, or a quote or bracket is missing")]),
        (b'[{"a": 1},\n{"a": [2}]', [(1, 1), (2, "invalid JSON"), (2, "the list is not closed")]),
        (b'[{"a": 1},\n]', [(1, 1), (2, "a comma too many")]),
        (b'[{"a": 1},,\n{"a": 2}]', [(1, 1), (1, "a comma too many"), (2, 2)]),
        (b'[{"a": 1}]\n[{"a": 2}]', [(1, 1), (2, "text after the end of the list")]),
    ],
)
def test_a_broken_list_gives_what_can_be_read_of_it(
    tmp_path: Path, content: bytes, expected: list[tuple[int, Any]]
) -> None:
    found = shown(write(tmp_path / "rows.json", content))
    assert len(found) == len(expected)
    for (line, value), (wanted_line, wanted) in zip(found, expected, strict=True):
        assert line == wanted_line
        assert value == {"a": wanted} if isinstance(wanted, int) else value.startswith(wanted)


TEXTS = st.text('a"\\[]{},:\n é', max_size=6)


@given(
    rows=st.lists(st.dictionaries(TEXTS, TEXTS | st.lists(TEXTS, max_size=2)), max_size=4),
    indent=st.sampled_from([None, 0, 3]),
    chunk=st.integers(1, 40),
)
def test_a_list_is_cut_where_a_parser_would_cut_it(
    rows: list[Any], indent: int | None, chunk: int
) -> None:
    text = json.dumps(rows, indent=indent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_list, "CHUNK_BYTES", chunk)
        found = list(json_list.elements(pa.BufferReader(text.encode()), 2**20))
    assert [json.loads(data) for _, data in found if isinstance(data, bytes)] == rows
    assert len(found) == len(rows)
    for line, _ in found:
        assert "{" in text.split("\n")[line - 1]


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst"])
def test_a_damaged_archive_is_an_error_of_the_file(tmp_path: Path, name: str) -> None:
    path = Path(write(tmp_path / name, lines(*[{"a": str(n**9)} for n in range(9000)])))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (file,) = find(str(path))
    read_before = []
    with pytest.raises(DataError, match=f"{name}: cannot be read: Truncated"):
        read_before += [row.line for part in segments(file) for row in read(part)]
    path.write_bytes(b"no archive at all")
    assert "cannot be read" in fault(str(path))


def test_archives_of_several_members_are_read_to_their_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(lines(ROWS[0])) + gzip.compress(lines(ROWS[1])))
    assert [row.value for row in records(str(path))] == ROWS[:2]


def test_an_archive_is_never_held_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl.gz", lines(*[{"text": "fever " * 2000}] * 2000))
    tracemalloc.start()
    count = sum(1 for part in segments(find(path)[0]) for _ in read(part))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 2000
    assert peak < 4 * 2**20 < 2000 * len("fever " * 2000)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.jsonl.gz", "a.json.zst"])
def test_a_file_without_a_row_is_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    assert fault(write(tmp_path / name, content)).endswith("empty, expected at least one row")


def test_other_unusable_files(tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        path = write(tmp_path / "a.jsonl", '\ufeff{"a": 1}\n'.encode(encoding))
        assert fault(path).endswith("is UTF-16, save it as UTF-8 without a byte order mark")
    assert "empty" in fault(write(tmp_path / "a.json", b"[\n]"))
    pretty = json.dumps({"rows": ROWS}, indent=1).encode()
    expected = "one JSON object over several lines, expected a list of objects"
    assert fault(write(tmp_path / "b.json", pretty)).endswith(expected)
    told = fault(write(tmp_path / "c.jsonl", json.dumps(ROWS, indent=1).encode()))
    assert "c.jsonl:1: JSON over several lines: write one object a line" in told
    told = fault(write(tmp_path / "d.jsonl", gzip.compress(lines(*ROWS))))
    assert told.endswith("is a .gz file by its content, call it so")
    assert "cannot be read" in fault(write(tmp_path / "a.parquet", b"PAR1 no more"))
    (file,) = find(path)
    Path(path).unlink()
    with pytest.raises(DataError, match="no such file"):
        segments(file)


def test_a_data_error_keeps_its_problems_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DataError(["a:1: b", "a:2: c"])))
    assert (error.problems, str(error)) == (["a:1: b", "a:2: c"], "a:1: b\na:2: c")
    bad = pickle.loads(pickle.dumps(BadRow("messages[0]", "empty")))
    assert (bad.field, bad.reason) == ("messages[0]", "empty")


def test_parquet_is_cut_between_row_groups_and_numbers_its_rows(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=4)
    (whole,) = segments(find(path)[0])
    assert [(row.line, row.value) for row in read(whole)] == list(enumerate(ROWS, start=1))
    parts = segments(find(path)[0], 1)
    assert [(part.rows, part.first_line) for part in parts] == [(4, 1), (4, 5), (1, 9)]
    assert [(row.line, row.value) for row in read(parts[1])] == list(enumerate(ROWS[4:8], start=5))
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), path)
    assert fault(path).endswith("empty, expected at least one row")


def test_parquet_objects_lose_the_nulls_of_their_neighbours(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.parquet")
    rows = [
        {"m": [{"role": "user"}, {"content": "a"}], "n": None},
        {"m": [{"x": {"y": 1}}], "n": 1},
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert [row.value for row in records(path)] == rows


def test_bad_rows_of_parquet_lose_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medgpt_ray.data.segments.MAX_ROW_BYTES", 100)
    binary = pa.array([b"good", b"caf\xe9", b"x" * 200, b"fine"])
    texts = pa.Array.from_buffers(pa.string(), 4, binary.buffers())
    path = str(tmp_path / "rows.parquet")
    pq.write_table(pa.table({"text": texts}), path)
    first, second, third, fourth = shown(path)
    assert (first, fourth) == ((1, {"text": "good"}), (4, {"text": "fine"}))
    assert "invalid UTF-8 at byte 4" in second[1]
    assert third[1].startswith("longer than")
    times = pa.array([10**17, 0], pa.timestamp("ms"))
    pq.write_table(pa.table({"text": ["a", "b"], "at": times}), path)
    first, second = shown(path)
    assert first[1].startswith("holds a date or time beyond those of Python")
    assert second[1]["text"] == "b"


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of two splits that `datasets.load_dataset` opens."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.jsonl", lines(*ROWS))
    write(folder / "test.jsonl", lines(*ROWS[:2]))
    return folder


def test_a_data_set_by_name_is_its_train_split_unless_another_is_named(data_set: Path) -> None:
    assert [row.value for row in records(f"hf:{data_set}", size=200)] == ROWS
    assert len(segments(find(f"hf:{data_set}")[0], 200)) > 1
    last = records(f"hf:{data_set}:test")[-1]
    assert (last.place, last.value) == (f"hf:{data_set}:test:2", ROWS[1])
    assert [row.value for row in records(f"hf:{data_set}:train[2:4]")] == ROWS[2:4]


def test_the_hash_of_a_data_set_is_that_of_its_rows(data_set: Path) -> None:
    def sha256(split: str) -> str:
        hub.load.cache_clear()
        return content_sha256(f"hf:{data_set}:{split}")

    all_rows = sha256("train")
    assert sha256("train[:2]") == sha256("test") != all_rows
    write(data_set / "train.jsonl", lines(*ROWS[:-1], ROWS[0]))
    assert sha256("train") != all_rows
    swapped = [{"answer": row["question"], "question": row["answer"]} for row in ROWS]
    write(data_set / "train.jsonl", lines(*swapped))
    assert sha256("train") != all_rows
    write(data_set / "train.jsonl", lines(*ROWS))
    assert sha256("train") == all_rows


def test_a_data_set_of_several_configurations_asks_which(data_set: Path) -> None:
    for name in ("en", "zh"):
        (data_set / name).mkdir()
        write(data_set / name / "train.jsonl", lines(*(ROWS if name == "zh" else ROWS[:1])))
        (data_set / name / "test.jsonl").write_bytes(lines(ROWS[1]))
    for file in data_set.glob("*.jsonl"):
        file.unlink()
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - {{split: {s}, path: {name}/{s}.jsonl}}\n" for s in ("train", "test"))
        for name in ("en", "zh")
    )
    (data_set / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    told = f"hf:{data_set}: has the configurations en, zh: hf:{data_set}@en"
    assert fault(f"hf:{data_set}") == told
    assert [row.value for row in records(f"hf:{data_set}@zh")] == ROWS
    assert [row.value for row in records(f"hf:{data_set}@en:test")] == [ROWS[1]]


def test_a_data_set_that_cannot_be_loaded_is_an_error(data_set: Path, tmp_path: Path) -> None:
    (data_set / "train.jsonl").rename(data_set / "validation.jsonl")
    expected = f"hf:{data_set}: has the splits validation, test: add one as hf:{data_set}:NAME"
    assert fault(f"hf:{data_set}") == expected
    assert "cannot be loaded: Unknown split" in fault(f"hf:{data_set}:dev")
    assert "cannot be loaded" in fault(f"hf:{tmp_path}/none")
