"""Scores of packed rows are those of each sequence alone, here and in transformers' classifier."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_ranks
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from medgpt_ray.config.schema import Full, LoRA, QLoRA
from medgpt_ray.config.supervised import SupervisedModel
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.export import save_adapter, save_model
from medgpt_ray.models.packing import Sequence, collate, micro_batches
from medgpt_ray.models.reward import RewardModel, load_reward_model, padding_token_id

END = 1
ADAPTERS = [
    Full(),
    LoRA(rank=4),
    LoRA(rank=4, dora=True, modules_to_save=("embed_tokens",)),
    QLoRA(rank=4),
    QLoRA(rank=4, bits=8),
]


def pairs() -> list[Sequence]:
    """Chosen and rejected of three prompts; some answers are the end token alone."""
    rng = np.random.default_rng(5)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(int(token) for token in rng.integers(5, 260, count))

    made = []
    for length, answers in ((6, (4, 9)), (3, (0, 5)), (8, (7, 0))):
        prompt = tokens(length)
        made += [Sequence(prompt, (*tokens(count), END)) for count in answers]
    return made


def section(path: Path, **settings: Any) -> SupervisedModel:
    return SupervisedModel(path=str(path), dtype="float32", **settings)


def trained(settings: SupervisedModel) -> RewardModel:
    """A reward model whose every trainable weight has moved."""
    model = RewardModel(load_reward_model(settings, 0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@torch.no_grad()
def scores(model: RewardModel, batch: list[Sequence]) -> list[float]:
    found = {}
    for micro in micro_batches(batch, max_tokens=40, chunk_tokens=20, unit=2):
        (values,) = model(micro)
        assert values.dtype == torch.float32
        assert values.shape == (len(micro.index),)
        found |= dict(zip(micro.index, values.tolist(), strict=True))
    return [found[index] for index in range(len(batch))]


@torch.no_grad()
def classified(directory: Path, batch: list[Sequence]) -> list[float]:
    """What transformers' own class makes of the padded batch."""
    network, report = AutoModelForSequenceClassification.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.padding_side = "right"
    rows = [{"input_ids": [*s.prompt_ids, *s.completion_ids]} for s in batch]
    return network.eval()(**tokenizer.pad(rows, return_tensors="pt")).logits[:, 0].tolist()


def test_a_score_is_read_where_each_sequence_ends() -> None:
    batch = [Sequence((5, 6, 7), (8, 9)), Sequence((5, 6, 7), (8,)), Sequence((4,), (3,))]
    assert collate([[0, 1], [2]], batch).ends.tolist() == [4, 5, 7]


@pytest.mark.parametrize("adaptation", ADAPTERS)
def test_the_export_scores_alike_in_transformers(
    tiny_model: Path, tmp_path: Path, adaptation: Any
) -> None:
    settings = section(tiny_model, adaptation=adaptation)
    model = trained(settings)
    before = scores(model, pairs())
    save_model(model, settings, tmp_path, write=True)
    assert classified(tmp_path, pairs()) == pytest.approx(before, abs=1e-4)
    assert np.std(before) > 0.01
    again = RewardModel(load_reward_model(section(tmp_path), 7)).eval()
    assert scores(again, pairs()) == pytest.approx(before, abs=1e-4)


@pytest.mark.parametrize("adaptation", ADAPTERS[1:])
def test_the_head_is_trained_beside_adapters(tiny_model: Path, adaptation: Any) -> None:
    network = load_reward_model(section(tiny_model, adaptation=adaptation), 0)
    names = {name for name, p in network.named_parameters() if p.requires_grad}
    assert any("score.modules_to_save" in name for name in names)
    assert all("lora_" in name or "modules_to_save" in name for name in names)


def test_a_written_adapter_holds_the_head(tiny_model: Path, tmp_path: Path) -> None:
    from medgpt_ray.models.adapters import open_adapter

    settings = section(tiny_model, adaptation=LoRA(rank=4))
    model = trained(settings)
    save_adapter(model, settings, tmp_path, write=True)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    again = RewardModel(open_adapter(base, tmp_path).eval())
    assert scores(again, pairs()) == pytest.approx(scores(model, pairs()), abs=1e-5)


def test_the_head_of_an_adapter_is_gone_on_with(tiny_model: Path, tmp_path: Path) -> None:
    settings = section(tiny_model, adaptation=LoRA(rank=4))
    model = trained(settings)
    save_adapter(model, settings, tmp_path, write=True)
    further = section(tiny_model, adaptation=LoRA(rank=4), adapter=str(tmp_path))
    again = RewardModel(load_reward_model(further, 7)).eval()
    assert scores(again, pairs()) == pytest.approx(scores(model, pairs()), abs=1e-5)


@pytest.fixture
def ends_with_padding(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model as many are shipped: the token that ends a turn is the one that pads."""
    import shutil

    path = Path(shutil.copytree(tiny_model, tmp_path / "padded"))
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(path)
    return path


def test_the_token_that_ends_sequences_never_pads(ends_with_padding: Path, tmp_path: Path) -> None:
    """transformers would read the score one token early, of a token that does not know the end."""
    settings = section(ends_with_padding)
    model = trained(settings)
    save_model(model, settings, tmp_path / "out", write=True)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").pad_token_id != END
    found = classified(tmp_path / "out", pairs())
    assert found == pytest.approx(scores(model, pairs()), abs=1e-4)


def test_a_tokenizer_without_a_token_to_pad_with_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<end>": 0, "a": 1})), eos_token="<end>"
    )
    with pytest.raises(ModelError, match="batches cannot be padded"):
        padding_token_id(bare)


def test_a_new_head_is_small_and_drawn_from_the_seed(tiny_model: Path) -> None:
    heads = [load_reward_model(section(tiny_model), seed).score.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert 0 < heads[0].std() < 1 / 32


def test_a_classifier_with_more_labels_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    network = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)
    network.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="classifier with 3 labels"):
        load_reward_model(section(tmp_path), 0)


def learn(model: Path, directory: Path) -> list[Any]:
    """Losses of five updates that prefer the first of each pair, and the scores after them."""
    from medgpt_ray.config.schema import Learner as LearnerSection
    from medgpt_ray.models.learner import Learner

    def loss(values: torch.Tensor, micro: Any) -> Any:
        return -torch.nn.functional.logsigmoid(values[0::2] - values[1::2]).sum() / 3, {}

    results = []
    for stage, adaptation in ((2, Full()), (3, LoRA(rank=4))):
        settings = section(model, adaptation=adaptation)
        module = RewardModel(load_reward_model(settings, 0))
        config = LearnerSection(zero_stage=stage, learning_rate=5e-3, max_tokens_per_microbatch=40)
        learner = Learner(module, settings, config, 0, unit=2)
        losses = [learner.step(pairs(), loss, (0.0, 0.1))["loss"] for _ in range(5)]
        path = directory / f"{stage}"
        save_model(learner.module, settings, path, write=learner.rank == 0)
        learner.engine.eval()
        results.append((losses, path, scores(learner.engine, pairs())))
    return results


def test_two_ranks_learn_to_prefer(tiny_model: Path, tmp_path: Path) -> None:
    for losses, path, after in run_ranks(learn, 2, tiny_model, tmp_path)[0]:
        assert losses[0] == pytest.approx(np.log(2), abs=0.1)
        assert losses[-1] < losses[0] - 0.2
        assert classified(path, pairs()) == pytest.approx(after, abs=1e-4)
        assert all(after[i] > after[i + 1] for i in (0, 2, 4))
