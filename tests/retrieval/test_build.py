"""An index follows its folder: only what changed is embedded; a failed build changes nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from pypdf import PdfWriter

from medgpt_ray.retrieval.build import FILE, build
from medgpt_ray.retrieval.embedding import EMBEDDED, Embedder
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.index import Index


class Recorder(Embedder):
    """The real model, which also keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(EMBEDDED)
        self.texts: list[str] = []

    def embed_documents(self, texts: Sequence[str]):
        self.texts += texts
        return super().embed_documents(texts)


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def folder(tmp_path: Path, recorder: Recorder) -> Path:
    recorder.texts.clear()
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "gout.md").write_text("# Gout\n\nColchicine 1 mg first.\n")
    (folder / "deep" / "发热.txt").write_text("布洛芬适用于六个月以上儿童。\n")
    (folder / "scan.png").write_bytes(b"\x89PNG")
    (folder / ".hidden.md").write_text("nothing")
    return folder


def paths(directory: Path, question: str) -> list[str]:
    return [hit.path for hit in Index.open(directory).search(question).hits]


def test_the_first_build_reads_everything(folder: Path, tmp_path: Path, recorder) -> None:
    report = build(folder, tmp_path / "index", recorder)
    assert report.added == ("deep/发热.txt", "gout.md")
    assert report.ignored == ("scan.png",)
    assert report.chunks == len(recorder.texts) == 2
    assert paths(tmp_path / "index", "colchicine dose")[0] == "gout.md"


def test_only_new_and_changed_files_are_embedded(folder: Path, tmp_path: Path, recorder) -> None:
    build(folder, tmp_path / "index", recorder)
    recorder.texts.clear()
    before = (tmp_path / "index" / FILE).stat().st_ino
    report = build(folder, tmp_path / "index", recorder)
    assert recorder.texts == []
    assert report.unchanged == ("deep/发热.txt", "gout.md")
    assert (tmp_path / "index" / FILE).stat().st_ino == before

    (folder / "gout.md").write_text("# Gout\n\nAllopurinol 100 mg daily.\n")
    (folder / "new.jsonl").write_text('{"question": "Burn?", "answer": "Cool it."}\n')
    os.utime(folder / "deep" / "发热.txt")  # a new date is no change
    report = build(folder, tmp_path / "index", recorder)
    assert (report.added, report.changed) == (("new.jsonl",), ("gout.md",))
    assert recorder.texts == ["Gout\nAllopurinol 100 mg daily.", "Burn?\nCool it."]
    texts = [hit.chunk.text for hit in Index.open(tmp_path / "index").search("gout drug").hits]
    assert "Allopurinol 100 mg daily." in texts
    assert "Colchicine 1 mg first." not in texts


def test_pages_that_are_passed_over_are_told_once(
    folder: Path, tmp_path: Path, recorder, write_pdf
) -> None:
    Image.new("L", (20, 20)).save(tmp_path / "scan.pdf")
    writer = PdfWriter(clone_from=write_pdf(tmp_path / "text.pdf", [["Give 5 mg."]]))
    writer.append(tmp_path / "scan.pdf")
    writer.write(folder / "mixed.pdf")
    (remark,) = build(folder, tmp_path / "index", recorder).remarks
    assert remark.startswith(f"{folder}/mixed.pdf, p. 2: ")
    assert build(folder, tmp_path / "index", recorder).remarks == ()


def test_a_removed_file_disappears(folder: Path, tmp_path: Path, recorder) -> None:
    build(folder, tmp_path / "index", recorder)
    (folder / "gout.md").unlink()
    report = build(folder, tmp_path / "index", recorder)
    assert (report.removed, report.chunks) == (("gout.md",), 1)
    assert "gout.md" not in paths(tmp_path / "index", "Gout: colchicine 1 mg first")


def test_an_open_index_goes_on_reading_what_it_opened(
    folder: Path, tmp_path: Path, recorder
) -> None:
    build(folder, tmp_path / "index", recorder)
    opened = Index.open(tmp_path / "index")
    (folder / "gout.md").unlink()
    build(folder, tmp_path / "index", recorder)
    assert opened.search("colchicine").hits[0].path == "gout.md"
    assert paths(tmp_path / "index", "colchicine") != ["gout.md"]


def test_every_bad_file_is_named_and_the_index_stays(
    folder: Path, tmp_path: Path, recorder
) -> None:
    build(folder, tmp_path / "index", recorder)
    before = (tmp_path / "index" / FILE).read_bytes()
    (folder / "gout.md").write_text("# Changed\n\nText.\n")
    (folder / "a.pdf").write_bytes(b"broken")
    (folder / "b.docx").write_bytes(b"broken")
    (folder / "c.txt").write_text("\n")
    with pytest.raises(RetrievalError) as refused:
        build(folder, tmp_path / "index", recorder)
    names = [problem.split(":")[0].rpartition("/")[2] for problem in refused.value.problems]
    assert names == ["a.pdf", "b.docx", "c.txt"]
    assert (tmp_path / "index" / FILE).read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [".lock", FILE]


def test_names_that_are_not_utf_8(folder: Path, tmp_path: Path, recorder) -> None:
    """A file that is not read may have one."""
    Path(os.fsdecode(bytes(folder) + b"/scan\xff.png")).touch()
    assert build(folder, tmp_path / "index", recorder).ignored == ("scan.png", "scan\\xff.png")
    recorder.texts.clear()
    (folder / "a.pdf").write_bytes(b"broken")
    Path(os.fsdecode(bytes(folder) + b"/note\xff\xfe.md")).write_text("# Gout\n\nText.\n")
    with pytest.raises(RetrievalError) as refused:
        build(folder, tmp_path / "index", recorder)
    broken, unnamed = refused.value.problems
    assert broken.startswith(f"{folder}/a.pdf: ")
    assert unnamed == f"{folder}/note\\xff\\xfe.md: its name is not UTF-8, rename it"
    assert recorder.texts == []


def test_a_killed_build_leaves_the_index_and_the_next_one_clears_up(
    folder: Path, tmp_path: Path, recorder
) -> None:
    build(folder, tmp_path / "index", recorder)
    before = (tmp_path / "index" / FILE).read_bytes()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"Note {number} on gout.\n")
    code = """
import sys, time
from pathlib import Path
from medgpt_ray.retrieval.build import build
from medgpt_ray.retrieval.embedding import EMBEDDED, Embedder

def stop(path, done, total):
    if done == 1:
        print("half", flush=True)
        time.sleep(600)

build(Path(sys.argv[1]), Path(sys.argv[2]), Embedder(EMBEDDED), stop)
"""
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "index")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        with pytest.raises(RetrievalError, match="another build is at work"):
            build(folder, tmp_path / "index", recorder)
        process.send_signal(signal.SIGKILL)
    assert list((tmp_path / "index").glob(".build-*"))
    assert (tmp_path / "index" / FILE).read_bytes() == before
    assert build(folder, tmp_path / "index", recorder).added == ("0.txt", "1.txt", "2.txt")
    assert not list((tmp_path / "index").glob(".build-*"))


def test_another_embedding_model_is_refused(folder, tmp_path: Path, recorder, other_model) -> None:
    build(folder, tmp_path / "index", recorder)
    other = Embedder(str(other_model))
    with pytest.raises(RetrievalError, match=r"built with the embedding model embedded:all-minilm"):
        build(folder, tmp_path / "index", other)
    with pytest.raises(RetrievalError, match=r"the weights of .* are others"):
        Index.open(tmp_path / "index", embedding=str(other_model))


@pytest.mark.parametrize(
    ("name", "message"),
    [("empty", r"empty: no \.docx, .*\.txt file in it"), ("missing", "missing: not a directory")],
)
def test_nothing_to_index(tmp_path: Path, recorder, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RetrievalError, match=message):
        build(tmp_path / name, tmp_path / "index", recorder)
    assert not (tmp_path / "index").exists()


def test_a_long_file_is_embedded_whole(tmp_path: Path, recorder) -> None:
    """No chunk is longer than what the model reads, where it would silently cut the rest."""
    sentence = "The dose of drug number {} is raised slowly while the kidneys are watched. "
    text = "".join(sentence.format(number) for number in range(200)) + "高血压" * 400
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "long.txt").write_text(text)
    recorder.texts.clear()
    started = time.perf_counter()
    build(tmp_path / "notes", tmp_path / "index", recorder)
    assert time.perf_counter() - started < 60
    assert max(recorder.count(searched) for searched in recorder.texts) <= recorder.max_tokens - 2
