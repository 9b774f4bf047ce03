"""Noise by the paper's formula, by the length of each sequence in a row, in training only."""

from pathlib import Path
from typing import Any

import pytest
import torch

from medgpt_ray.config.schema import Full, LoRA, Model
from medgpt_ray.models.load import load_policy
from medgpt_ray.models.neftune import add_noise, install, sequence_lengths
from medgpt_ray.models.packing import MicroBatch, Sequence, collate, micro_batches
from medgpt_ray.models.policy import Policy, score

ROW = [
    Sequence((5, 6, 7), (8, 9)),
    Sequence((5, 6, 7), (8,)),
    Sequence(tuple(range(10, 40)), tuple(range(40, 110))),
]


def row() -> MicroBatch:
    return collate([[0, 1], [2]], ROW)


def test_each_token_has_the_length_of_its_own_sequence() -> None:
    lengths = sequence_lengths(row()).tolist()
    assert lengths == [5, 5, 5] + [5, 5] + [4] + [100] * 100


def test_what_several_share_has_the_length_of_the_longest() -> None:
    system, question = tuple(range(10, 26)), tuple(range(30, 38))
    rows = [Sequence((*system, *question), (5,)), Sequence((*system, *question), (5, 6, 7))]
    rows.append(Sequence((*system, 40), (5,) * 20))
    lengths = sequence_lengths(collate([[0, 1, 2]], rows)).tolist()
    assert lengths == [37] * 16 + [27] * 8 + [37] * 21 + [25] + [27] * 3


def test_noise_is_uniform_within_alpha_over_the_root_of_length_and_width() -> None:
    torch.manual_seed(0)
    lengths = sequence_lengths(row())
    noise = add_noise(torch.zeros(1, len(lengths), 64), lengths, alpha=5.0)[0]
    bound = 5.0 / (lengths * 64).sqrt()
    assert (noise.abs() <= bound[:, None]).all()
    scaled = noise / bound[:, None]
    for length in (4, 5, 100):
        part = scaled[lengths == length]
        assert part.abs().max() > 0.9
        assert part.mean().item() == pytest.approx(0, abs=0.2)
        assert part.var().item() == pytest.approx(1 / 3, abs=0.1)


@pytest.mark.parametrize("adaptation", [Full(), LoRA(rank=4, modules_to_save=("embed_tokens",))])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_policy_is_noisy_in_training_and_never_in_evaluation(
    tiny_model: Path, adaptation: Any, checkpointing: bool
) -> None:
    section = Model(
        path=str(tiny_model),
        dtype="float32",
        adaptation=adaptation,
        gradient_checkpointing=checkpointing,
    )
    policy = Policy(load_policy(section, 0), 1.0)
    (micro,) = micro_batches(ROW, max_tokens=1000, chunk_tokens=100)
    clean = policy.eval()(micro)[0]
    install(policy, alpha=5.0)
    torch.testing.assert_close(policy(micro)[0], clean)
    scored = score(policy, [micro])[micro.index[0]]
    torch.testing.assert_close(torch.from_numpy(scored), clean[micro.sequence == 0].detach())
    first, second = policy.train()(micro)[0], policy(micro)[0]
    assert (first - clean).abs().max() > 1e-3
    assert (first - second).abs().max() > 1e-3
    first.sum().backward()
    assert all(p.grad is not None for p in policy.parameters() if p.requires_grad)
