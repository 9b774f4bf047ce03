"""The losses against their papers' formulas, written out in numpy's float64 without safeguards."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from medgpt_ray.algos.preference import LOSSES, Pairs, rewards
from medgpt_ray.config.supervised import Beta, Robust, Sigmoid, SimPo

SECTIONS = [
    Sigmoid(),
    Sigmoid(beta=0.3, label_smoothing=0.2),
    Robust(),
    Robust(beta=0.3, label_smoothing=0.3),
    *(
        Beta(kind=kind, beta=beta)
        for kind in get_args(Beta.model_fields["kind"].annotation)
        for beta in (0.1, 0.4)
    ),
    SimPo(),
    SimPo(beta=0.7, margin=0.3),
]
"""Of every loss its defaults, and other settings in which every setting makes a difference."""


def name(section):
    return "-".join(str(value) for value in section.model_dump().values())


def answers(seed=0, pairs=7):
    """Summed log-probs of chosen and rejected [P], those of the reference, and token counts."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, 12, (2, pairs))
    policy = -rng.uniform(0.2, 2.0, (2, pairs)) * tokens
    reference = policy + rng.normal(0, 3, (2, pairs))
    return policy, reference, tokens


def pairs_of(policy, reference, tokens, dtype=torch.float64):
    policy = [torch.tensor(row, dtype=dtype) for row in policy]
    references = (None, None)
    if reference is not None:
        references = [torch.tensor(row, dtype=dtype) for row in reference]
    return Pairs(*policy, *references, *map(torch.tensor, tokens))


def given_to(section):
    """The log-probs a loss is called with: SimPO's has no reference."""
    policy, reference, tokens = answers()
    return policy, None if isinstance(section, SimPo) else reference, tokens


def logistic(x):
    return 1 / (1 + np.exp(-x))


def paper(section, policy, reference, tokens):
    beta = section.beta
    if section.kind == "simpo":
        chosen, rejected = beta / tokens * policy
        return -np.log(logistic(chosen - rejected - section.margin))
    c, r = policy - reference
    d = beta * (c - r)
    if section.kind in ("sigmoid", "robust"):
        e = section.label_smoothing
        right, flipped = -np.log(logistic(d)), -np.log(logistic(-d))
        if section.kind == "sigmoid":
            return (1 - e) * right + e * flipped
        return ((1 - e) * right - e * flipped) / (1 - 2 * e)
    p, tau = logistic(d), 0.05
    winner, loser = logistic(beta * c), logistic(beta * r)
    blend = logistic(d / tau)
    return {
        "ipo": ((c / tokens[0] - r / tokens[1]) - 1 / (2 * beta)) ** 2,
        "hinge": np.maximum(0, 1 - d),
        "exo": p * np.log(p / 0.999) + (1 - p) * np.log((1 - p) / 0.001),
        "nca": -np.log(winner) - np.log(1 - winner) / 2 - np.log(1 - loser) / 2,
        "sppo": (c - (1 - 0.5) / beta) ** 2 + (r - (0 - 0.5) / beta) ** 2,
        "apo_zero": 1 - winner + loser,
        "apo_down": winner + 1 - logistic(d),
        "discopop": (1 - blend) * -np.log(p) + blend * np.exp(-d),
    }[section.kind]


@pytest.mark.parametrize("section", SECTIONS, ids=name)
def test_agrees_with_the_papers_formula(section):
    policy, reference, tokens = given_to(section)
    losses = LOSSES[section.kind](pairs_of(policy, reference, tokens), section)
    expected = paper(section, policy, reference, tokens)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-9)
    assert len(set(np.round(expected, 6))) > 3, "a formula that is constant here shows nothing"


@pytest.mark.parametrize("section", SECTIONS, ids=name)
def test_gradient_agrees_with_finite_differences(section):
    policy, reference, tokens = given_to(section)
    rest = pairs_of(policy, reference, tokens)

    def losses(chosen, rejected):
        moved = replace(rest, chosen=chosen, rejected=rejected)
        return LOSSES[section.kind](moved, section)

    leaves = rest.chosen.clone().requires_grad_(), rest.rejected.clone().requires_grad_()
    assert torch.autograd.gradcheck(losses, leaves)


@pytest.mark.parametrize("section", SECTIONS, ids=name)
def test_a_policy_far_from_its_reference_gives_finite_gradients(section):
    """Float32, log-ratios of a long answer: each sigmoid is 0 or 1 here, exp(-d) overflows."""
    policy = np.array([[-9000.0, -3.0, -9000.0], [-3.0, -9000.0, -9000.0]])
    reference = None if isinstance(section, SimPo) else np.full((2, 3), -4000.0)
    pairs = pairs_of(policy, reference, np.ones((2, 3), dtype=np.int64), torch.float32)
    pairs.chosen.requires_grad_()
    pairs.rejected.requires_grad_()
    losses = LOSSES[section.kind](pairs, section)
    losses.sum().backward()
    for values in (losses, pairs.chosen.grad, pairs.rejected.grad):
        assert values.isfinite().all()


@pytest.mark.parametrize("section", [s for s in SECTIONS if s.kind != "discopop"], ids=name)
def test_a_step_from_the_reference_widens_the_margin(section):
    """Not so DiscoPOP, whose loss rises there."""
    policy, _, tokens = answers()
    reference = None if isinstance(section, SimPo) else policy
    pairs = pairs_of(policy, reference, tokens)
    chosen, rejected = pairs.chosen.requires_grad_(), pairs.rejected.requires_grad_()
    LOSSES[section.kind](pairs, section).sum().backward()
    assert (chosen.grad < rejected.grad).all()


def test_rewards_are_what_the_policy_implies():
    policy, reference, tokens = answers()
    chosen, rejected = rewards(pairs_of(policy, reference, tokens), beta=0.3)
    np.testing.assert_allclose(chosen.numpy(), 0.3 * (policy[0] - reference[0]))
    np.testing.assert_allclose(rejected.numpy(), 0.3 * (policy[1] - reference[1]))
    chosen, rejected = rewards(pairs_of(policy, None, tokens), beta=2.0)
    np.testing.assert_allclose(chosen.numpy(), 2.0 * policy[0] / tokens[0])
    np.testing.assert_allclose(rejected.numpy(), 2.0 * policy[1] / tokens[1])


def test_every_kind_of_the_configuration_has_its_loss():
    kinds = [
        kind
        for section in (Sigmoid, Robust, Beta, SimPo)
        for kind in get_args(section.model_fields["kind"].annotation)
    ]
    assert sorted(kinds) == sorted(LOSSES)
