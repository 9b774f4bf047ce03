"""Documents to tokens: cut to length, with every token but the first learned once."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from medgpt_ray.config.supervised import SupervisedData
from medgpt_ray.data.render import Renderer
from medgpt_ray.data.rows import BadRow
from medgpt_ray.types import Document, Tokens


@pytest.fixture
def tiny(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


def renderer(tokenizer: Any, **data: Any) -> Renderer:
    return Renderer(tokenizer, SupervisedData.model_validate({"train": [{"path": "x"}], **data}))


@pytest.mark.parametrize("limit", [2, 3, 5, 20, 21, 22, 23, 1000])
def test_documents_learn_every_token_but_the_first_once(tiny: Any, limit: int) -> None:
    row = Document("Chest pain that spreads to the arm is an emergency: 呼叫医生。")
    ids = [*tiny(row.text, add_special_tokens=False)["input_ids"], tiny.eos_token_id]
    pieces = renderer(tiny, max_tokens=limit).render(row)
    learned = [token for piece in pieces for token in piece.ids[1:]]
    assert [pieces[0].ids[0], *learned] == ids
    assert all(2 <= len(piece.ids) <= limit for piece in pieces)
    assert all(piece.trained == (False, *[True] * (len(piece.ids) - 1)) for piece in pieces)
    for before, after in pairwise(pieces):
        assert after.ids[0] == before.ids[-1]


def test_documents_begin_as_the_tokenizer_begins_texts(tiny: Any) -> None:
    tiny.add_special_tokens({"bos_token": "<s>"})
    (piece,) = renderer(tiny).render(Document("Rest."))
    assert tiny.decode(piece.ids) == "Rest.<|end|>"
    tiny.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tiny.bos_token_id)]
    )
    (piece,) = renderer(tiny).render(Document("Rest."))
    assert tiny.decode(piece.ids) == "<s>Rest.<|end|>"
    tiny.chat_template = None
    assert renderer(tiny).render(Document("")) == [
        Tokens((tiny.bos_token_id, tiny.eos_token_id), (False, True))
    ]


def test_a_document_with_a_control_token_is_refused(tiny: Any) -> None:
    with pytest.raises(BadRow, match=r"^text: the text holds <\|end\|>, which would be read as"):
        renderer(tiny).render(Document("Rest.<|end|> Sleep."))


def test_a_document_needs_an_eos_token(tiny: Any) -> None:
    tiny.eos_token = None
    with pytest.raises(ValueError, match="the tokenizer has no eos_token"):
        renderer(tiny).render(Document("Rest."))
