"""Targets and surrogates of the family, against golden values and plain loops in float64."""

import math

import pytest
import torch

from medgpt_ray.algos import ALGORITHMS
from medgpt_ray.algos.adaptive_kl import next_coefficient
from medgpt_ray.algos.dapo import overlong_penalty, teaches
from medgpt_ray.algos.gae import generalised_advantages, token_rewards
from medgpt_ray.algos.policy_gradient import Rollouts
from medgpt_ray.algos.ppo import value_loss
from medgpt_ray.config import algorithms as schema


def golden_rollouts(golden, mask: str = "mask", **fields) -> Rollouts:
    """The golden batch; tokens between observation tokens stay, padding goes."""
    shape = golden.inputs[mask]
    last = [int(row.nonzero().max()) for row in shape]
    kept = torch.arange(7)[None] <= torch.tensor(last)[:, None]
    rows = torch.arange(8)[:, None].expand(8, 7)[kept]
    return Rollouts(
        rewards=golden.inputs["rewards"].double(),
        group=golden.inputs["group"].long(),
        sequence=rows,
        mask=shape[kept].double(),
        **{name: golden.inputs[key][kept].double() for name, key in fields.items()},
    )


def on_mask(golden, table: list, mask: str = "mask") -> torch.Tensor:
    """A padded table of the references as the flat tokens of `golden_rollouts`."""
    shape = golden.inputs[mask]
    last = [int(row.nonzero().max()) for row in shape]
    kept = torch.arange(7)[None] <= torch.tensor(last)[:, None]
    return torch.tensor(table).double()[kept]


@pytest.mark.parametrize(
    ("mask", "name"),
    [
        ("mask", "singleturn/openrlhf_raw"),
        ("mask", "singleturn/slime_raw"),
        ("mask", "singleturn/roll_raw"),
        ("mask", "singleturn/verl_whitened"),
        ("mask_multiturn", "multiturn/verl_whitened"),
    ],
)
def test_ppo_targets_agree_with_reference(golden, mask, name):
    section = schema.Ppo(
        gamma=0.99, kl={"coefficient": 0.0}, whiten_advantages=name.endswith("whitened")
    )
    rollouts = golden_rollouts(golden, mask, values="values")
    targets = ALGORITHMS["ppo"](section).targets(rollouts, 0.0)
    expected = golden.results[f"gae/{name}"]
    known_odd = "slime" in name  # it lets the padding decay
    for mine, key in ((targets.advantages, "adv"), (targets.returns, "ret")):
        theirs = on_mask(golden, expected[key], mask) * rollouts.mask
        if known_odd:
            whole = rollouts.sequence == 0
            mine, theirs = mine[whole], theirs[whole]
        torch.testing.assert_close(mine, theirs, atol=2e-6, rtol=1e-5)


def test_kl_shaped_token_rewards_and_gae_agree_with_loops():
    generator = torch.Generator().manual_seed(0)
    lengths = [3, 1, 4]
    masks = [[1, 0, 1], [1], [0, 1, 1, 0]]
    old, reference, values = (
        [torch.randn(n, generator=generator, dtype=torch.float64).tolist() for n in lengths]
        for _ in range(3)
    )
    rewards = [1.0, -0.5, 2.0]

    def flat(table):
        return torch.tensor([x for row in table for x in row], dtype=torch.float64)

    section = schema.Ppo(
        gamma=0.9,
        gae_lambda=0.8,
        whiten_advantages=False,
        kl={"coefficient": 0.1},
    )
    rollouts = Rollouts(
        torch.tensor(rewards, dtype=torch.float64),
        torch.arange(3),
        torch.repeat_interleave(torch.arange(3), torch.tensor(lengths)),
        flat(masks),
        flat(old),
        flat(reference),
        flat(values),
    )
    targets = ALGORITHMS["ppo"](section).targets(rollouts, kl_coefficient=0.3)
    advantages, returns = [], []
    for i, mask in enumerate(masks):
        row_a, row_r = [0.0] * len(mask), [0.0] * len(mask)
        trained = [t for t, m in enumerate(mask) if m]
        following, next_value = 0.0, 0.0
        for t in reversed(trained):
            reward = -0.3 * (old[i][t] - reference[i][t]) + (rewards[i] if t == trained[-1] else 0)
            following = reward + 0.9 * next_value - values[i][t] + 0.9 * 0.8 * following
            next_value = values[i][t]
            row_a[t], row_r[t] = following, following + values[i][t]
        advantages.append(row_a)
        returns.append(row_r)
    torch.testing.assert_close(targets.advantages, flat(advantages))
    torch.testing.assert_close(targets.returns, flat(returns))


def test_reward_without_a_trained_token_goes_nowhere():
    rollouts = Rollouts(
        torch.tensor([5.0, 1.0]).double(),
        torch.tensor([0, 0]),
        torch.tensor([0, 0, 1]),
        torch.tensor([0.0, 0.0, 1.0]).double(),
    )
    assert token_rewards(rollouts, None).tolist() == [0, 0, 1]
    advantages, returns = generalised_advantages(
        token_rewards(rollouts, None), torch.zeros(3).double(), rollouts, 1.0, 1.0
    )
    assert advantages.tolist() == returns.tolist() == [0, 0, 1]


@pytest.mark.parametrize("name", ["reinforce_pp/verl", "reinforce_pp/skyrl"])
def test_reinforce_pp_agrees_with_reference(golden, name):
    rollouts = golden_rollouts(golden)
    section = schema.ReinforcePlusPlus(kl={"coefficient": 0.0})
    mine = ALGORITHMS["reinforce_pp"](section).targets(rollouts, 0.0).advantages
    torch.testing.assert_close(mine, on_mask(golden, golden.results[name]), atol=1e-5, rtol=1e-5)


def test_reinforce_pp_baseline_whitens_the_group_centred_rewards(golden):
    rollouts = golden_rollouts(golden)
    section = schema.ReinforcePlusPlusBaseline(kl={"coefficient": 0.0})
    mine = ALGORITHMS["reinforce_pp_baseline"](section).targets(rollouts, 0.0).advantages
    rewards, groups = rollouts.rewards.tolist(), rollouts.group.tolist()
    means = {g: sum(r for r, h in zip(rewards, groups, strict=True) if h == g) / 4 for g in (0, 1)}
    raw = [rewards[i] - means[groups[i]] for i in rollouts.sequence.tolist()]
    mean = sum(raw) / len(raw)
    variance = sum((x - mean) ** 2 for x in raw) / (len(raw) - 1)
    expected = [(x - mean) / math.sqrt(variance + 1e-8) for x in raw]
    assert mine.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["rloo/verl", "rloo/openrlhf"])
def test_rloo_agrees_with_reference(golden, name):
    rollouts = golden_rollouts(golden)
    mine = (
        ALGORITHMS["rloo"](schema.Rloo(kl={"coefficient": 0.0})).targets(rollouts, 0.0).advantages
    )
    theirs = golden.advantages(name).double()[rollouts.sequence]
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)


def test_rloo_of_a_completion_without_others_is_zero():
    rollouts = Rollouts(
        torch.tensor([3.0, 1.0, 2.0]).double(),
        torch.tensor([0, 1, 1]),
        torch.arange(3),
        torch.ones(3).double(),
    )
    mine = (
        ALGORITHMS["rloo"](schema.Rloo(kl={"coefficient": 0.0})).targets(rollouts, 0.0).advantages
    )
    assert mine.tolist() == [0, -1, 1]


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (schema.Gspo(clip_low=0.2, clip_high=0.28), "gspo/verl"),
        (schema.Gspo(clip_low=0.2, clip_high=0.28), "gspo/openrlhf"),
        (schema.Cispo(clip_low=0.2, clip_high=0.28), "cispo/verl"),
        (schema.Cispo(clip_low=0.2, clip_high=0.28), "cispo/slime_token_mean"),
    ],
)
def test_surrogate_agrees_with_reference(golden, record, name):
    log_probs = golden.inputs["new_logp"].clone().requires_grad_()
    plain = record.model_copy(update={"rollout_correction": schema.NoCorrection()})
    loss, _ = ALGORITHMS[record.name](plain).loss(golden.batch(log_probs), golden.normaliser())
    golden.assert_matches(name, loss, log_probs)


def test_gspo_clips_whole_sequences(golden):
    """With the paper's range nearly every sequence of these far-off policies is clipped, and a
    clipped one gives none of its tokens a gradient."""
    log_probs = golden.inputs["new_logp"].clone().requires_grad_()
    batch = golden.batch(log_probs)
    _, clipped = ALGORITHMS["gspo"](schema.Gspo()).surrogate(batch)
    for sequence in range(8):
        assert len(set(clipped[batch.sequence == sequence].tolist())) == 1
    assert clipped.any()
    assert not clipped.all()


def test_cispo_has_no_lower_bound_by_default(golden):
    log_probs = golden.inputs["old_logp"] - 3.0  # ratio 0.05
    batch = golden.batch(log_probs)
    losses, clipped = ALGORITHMS["cispo"](schema.Cispo()).surrogate(batch)
    assert not clipped.any()
    expected = -math.exp(-3.0) * batch.advantages * batch.log_probs
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)


def test_dr_grpo_neither_scales_nor_favours_a_length(golden):
    algorithm = ALGORITHMS["dr_grpo"](schema.DrGrpo())
    advantages = algorithm.targets(golden_rollouts(golden), 0.0).advantages
    theirs = on_mask(golden, golden.results["grpo/verl_nostd"])
    torch.testing.assert_close(advantages, theirs, atol=1e-6, rtol=1e-6)
    log_probs = golden.inputs["old_logp"].clone().requires_grad_()
    plain = ALGORITHMS["dr_grpo"](schema.DrGrpo(rollout_correction=schema.NoCorrection()))
    loss, _ = plain.loss(golden.batch(log_probs), golden.normaliser(max_completion_tokens=100))
    loss.backward()
    expected = -golden.batch(log_probs).advantages / (8 * 100)
    torch.testing.assert_close(log_probs.grad[golden.mask], expected)


@pytest.mark.parametrize("reference", ["verl", "openrlhf", "areal"])
def test_value_loss_agrees_with_reference(golden, reference):
    returns = torch.tensor(golden.results["gae/singleturn/openrlhf_raw"]["ret"])[golden.mask]
    losses = value_loss(golden.flat("new_values"), golden.flat("values"), returns, 0.2)
    assert losses.mean().item() == pytest.approx(golden.results[f"value/{reference}/0.2"], abs=1e-6)


def test_overlong_penalty_falls_linearly_to_the_limit():
    section = schema.Overlong(buffer_share=0.2, penalty=0.5)
    lengths = torch.tensor([10, 80, 90, 100])
    penalty = overlong_penalty(lengths, 100, section)
    assert penalty.tolist() == pytest.approx([0, 0, -0.25, -0.5])


def test_groups_of_equal_rewards_teach_nothing():
    assert teaches([0.0, 0.0, 1.0])
    assert not teaches([1.0, 1.0])
    assert not teaches([1.0])
    assert not teaches([])


def test_kl_coefficient_seeks_its_target():
    section = schema.Kl(coefficient=0.1, placement="reward", target=2.0, horizon=100)
    assert next_coefficient(0.1, 2.2, 10, section) == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    assert next_coefficient(0.1, 40.0, 10, section) == pytest.approx(0.1 * (1 + 0.2 * 0.1))
    assert next_coefficient(0.1, 0.0, 10, section) == pytest.approx(0.1 * (1 - 0.2 * 0.1))
    assert next_coefficient(0.1, 40.0, 10, schema.Kl(coefficient=0.1)) == 0.1
