import math

import pytest
import torch

from medgpt_ray.algos.correction import correction_weights
from medgpt_ray.config.algorithms import Mask, NoCorrection, SequenceMask, Truncate

# Three sequences of 3, 2 and 2 tokens. The last token of the first is not trained on.
OLD = [-0.5, -1.0, -2.0, -0.1, -3.0, -0.2, -0.3]
ROLLOUT = [-0.6, -1.05, -9.0, -2.0, -1.5, -0.25, -0.35]
SEQUENCE = [0, 0, 0, 1, 1, 2, 2]
TRAINED = [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
W = [math.exp(old - rollout) for old, rollout in zip(OLD, ROLLOUT, strict=True)]


def weights(correction):
    old = torch.tensor(OLD, dtype=torch.float64, requires_grad=True)
    rollout = torch.tensor(ROLLOUT, dtype=torch.float64)
    trained = torch.tensor(TRAINED, dtype=torch.float64)
    result = correction_weights(old, rollout, torch.tensor(SEQUENCE), trained, correction)
    assert not result.requires_grad
    return result.tolist()


@pytest.mark.parametrize(
    ("reference", "correction"),
    [("token_tis2", Truncate(cap=2.0)), ("token_icepop", Mask(low=0.5, high=2.0))],
)
def test_agrees_with_reference(golden, reference, correction):
    batch = golden.batch(golden.inputs["new_logp"])
    ours = correction_weights(
        batch.old_log_probs, batch.rollout_log_probs, batch.sequence, batch.mask, correction
    )
    theirs = torch.tensor(golden.results[f"iscorr/verl/{reference}/weights"])[golden.mask]
    torch.testing.assert_close(ours, theirs)


def test_none_weighs_all_alike():
    assert weights(NoCorrection()) == [1.0] * 7


def test_truncate_caps_and_does_not_raise():
    assert min(W) < 0.3
    assert max(W) > 2.0
    assert weights(Truncate(cap=2.0)) == pytest.approx([min(w, 2.0) for w in W])


def test_mask_drops_tokens_outside_the_range():
    kept = [w if 0.5 <= w <= 5.0 else 0.0 for w in W]
    assert kept.count(0.0) == 3
    assert weights(Mask(low=0.5, high=5.0)) == pytest.approx(kept)


def test_mask_keeps_its_bounds():
    old = torch.tensor([math.log(0.5), math.log(4.0)], dtype=torch.float64)
    both = old.exp().tolist()
    rollout, sequence, trained = torch.zeros_like(old), torch.tensor([0, 0]), torch.ones_like(old)
    correction = Mask(low=both[0], high=both[1])
    assert correction_weights(old, rollout, sequence, trained, correction).tolist() == both


def test_sequence_mask_judges_whole_sequences_by_their_trained_tokens():
    kept = []
    for token, sequence in enumerate(SEQUENCE):
        trained = [
            math.log(W[other])
            for other in range(7)
            if SEQUENCE[other] == sequence and TRAINED[other]
        ]
        geometric_mean = math.exp(sum(trained) / len(trained))
        kept.append(W[token] if 0.9 <= geometric_mean <= 1.1 else 0.0)
    assert [w > 0 for w in kept] == [True, True, True, False, False, True, True]
    assert weights(SequenceMask(low=0.9, high=1.1)) == pytest.approx(kept)


def test_log_ratio_is_clamped():
    old, rollout = torch.tensor([0.0], dtype=torch.float64), torch.tensor([-1e4])
    result = correction_weights(
        old, rollout, torch.tensor([0]), torch.ones(1), Truncate(cap=float(10**12))
    )
    assert result.item() == pytest.approx(math.exp(20.0))
