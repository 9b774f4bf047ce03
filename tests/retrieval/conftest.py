"""Shared by the tests of retrieval: the real embedding model, a small random one, and PDF files."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

NOTES = Path(__file__).parents[2] / "benchmarks" / "retrieval_set"


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """A question is a short input: on a busy machine more threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def embedder():
    from medgpt_ray.retrieval.embedding import EMBEDDED, Embedder

    return Embedder(EMBEDDED)


@pytest.fixture(scope="session")
def notes(embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of the shipped notes."""
    from medgpt_ray.retrieval.build import build

    output = tmp_path_factory.mktemp("notes") / "index"
    build(NOTES / "notes", output, embedder)
    return output


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another embedding model: small, random, pooled by its first token."""
    from transformers import BertConfig, BertModel

    directory = _with_tokenizer(tmp_path_factory.mktemp("other"))
    torch.manual_seed(0)
    BertModel(_tiny(BertConfig)).save_pretrained(directory)
    pooling = '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(pooling)
    return directory


@pytest.fixture(scope="session")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Writes a small random cross-encoder with so many outputs."""
    from transformers import BertConfig, BertForSequenceClassification

    def write(outputs: int) -> Path:
        directory = _with_tokenizer(tmp_path_factory.mktemp("reranker"))
        torch.manual_seed(0)
        config = _tiny(BertConfig, num_labels=outputs, initializer_range=0.5)
        BertForSequenceClassification(config).save_pretrained(directory)
        return directory

    return write


def _tiny(config, **options):
    return config(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        **options,
    )


def _with_tokenizer(directory: Path) -> Path:
    from medgpt_ray.retrieval.embedding import EMBEDDED, locate

    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(locate(EMBEDDED) / name, directory)
    return directory


@pytest.fixture(scope="session")
def write_pdf() -> Callable[[Path, Sequence[Sequence[str]]], Path]:
    return _write_pdf


def _write_pdf(path: Path, pages: Sequence[Sequence[str]]) -> Path:
    """A PDF with these lines of text on its pages, as the specification puts it together."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, lines in enumerate(pages):
        shown = " ".join(f"({line}) Tj T*" for line in lines)
        stream = f"BT /F1 11 Tf 14 TL 50 780 Td {shown} ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
    )
    path.write_bytes(data + f"{trailer}startxref\n{len(data)}\n%%EOF\n".encode("latin-1"))
    return path
