"""Answers are streamed in whole characters, end where the template ends a turn, and can be cut."""

import json
from pathlib import Path

import torch
from taught import CONVERSATIONS, FEVER, IRON, copy, messages

from medgpt_ray.config.schema import Model
from medgpt_ray.data.requests import render
from medgpt_ray.models.chat_model import Answer, ChatModel, Sampling
from medgpt_ray.models.load import stop_token_ids


def opened(directory: Path) -> ChatModel:
    return ChatModel(Model(path=str(directory), dtype="float32"), str(directory))


def ask(model: ChatModel, turns: tuple[str, ...], sampling: Sampling) -> tuple[Answer, list[str]]:
    pieces: list[str] = []
    return model.answer(render(model.tokenizer, messages(turns)), sampling, pieces.append), pieces


def test_every_turn_of_a_conversation_is_answered_from_all_before(taught_model: Path) -> None:
    model = opened(taught_model)
    for turns in CONVERSATIONS:
        for number in range(1, len(turns), 2):
            answer, _ = ask(model, turns[:number], Sampling(max_tokens=40))
            assert answer == Answer(turns[number], "stop")


def test_pieces_are_whole_characters_and_add_up(taught_model: Path) -> None:
    _, pieces = ask(opened(taught_model), FEVER[:1], Sampling(max_tokens=40))
    assert "".join(pieces) == FEVER[1]
    assert pieces[:4] == ["叫", "医", "生", "。"]  # three bytes, three tokens each


def test_an_answer_that_is_cut_says_so_and_shows_what_there_is(taught_model: Path) -> None:
    answer, pieces = ask(opened(taught_model), FEVER[:1], Sampling(max_tokens=4))
    assert answer.finish_reason == "length"
    assert answer.text == "".join(pieces) == "叫\N{REPLACEMENT CHARACTER}"


def test_an_interrupted_answer_keeps_what_was_shown(taught_model: Path) -> None:
    model, pieces = opened(taught_model), list[str]()

    def show(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            raise KeyboardInterrupt

    prompt = render(model.tokenizer, messages(FEVER[:1]))
    answer = model.answer(prompt, Sampling(max_tokens=40), show)
    assert (answer.text, answer.finish_reason) == ("".join(pieces), "abort")
    assert pieces == ["叫", "医", "生"]


def test_it_stops_at_the_end_of_turn_of_the_template(taught_model: Path, tmp_path: Path) -> None:
    """Also where tokenizer and generation config name another token, as base models do."""
    directory = copy(taught_model, tmp_path / "model")
    for name in ("tokenizer_config.json", "generation_config.json", "config.json"):
        settings = json.loads((directory / name).read_text())
        settings |= {"eos_token_id": 0} if name != "tokenizer_config.json" else {}
        settings |= {"eos_token": "<|pad|>"} if name == "tokenizer_config.json" else {}
        (directory / name).write_text(json.dumps(settings))
    assert stop_token_ids(str(directory)) == [0, 1]
    answer, _ = ask(opened(directory), FEVER[:1], Sampling(max_tokens=40))
    assert answer == Answer(FEVER[1], "stop")


def test_sampling_draws_and_repeats_with_its_seed(tiny_model: Path) -> None:
    model = opened(tiny_model)
    hot = Sampling(temperature=50.0, max_tokens=12)
    drawn = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        drawn.append(ask(model, FEVER[:1], hot)[0].text)
    assert drawn[0] == drawn[2] != drawn[1]
    assert len({ask(model, FEVER[:1], Sampling(max_tokens=12))[0].text for _ in range(3)}) == 1


def test_the_least_temperature_and_share_take_the_likeliest_token(taught_model: Path) -> None:
    """With logits divided by either of them there would be no probabilities."""
    model = opened(taught_model)
    for sampling in (Sampling(1e-40, max_tokens=40), Sampling(1.0, 1e-300, max_tokens=40)):
        assert ask(model, FEVER[:1], sampling)[0] == Answer(FEVER[1], "stop")


def test_a_penalty_of_the_generation_config_counts(taught_model: Path, tmp_path: Path) -> None:
    directory = copy(taught_model, tmp_path / "model")
    file = directory / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"repetition_penalty": 1e6}))
    answer, _ = ask(opened(directory), IRON[:3], Sampling(max_tokens=40))
    assert answer.text != IRON[3]  # its full stop and its end are in the prompt
