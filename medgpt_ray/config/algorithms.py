"""The sections of `algorithm`: one for each name, with the paper's settings as defaults.

What the algorithms share stands in `PolicyGradient`; a section adds what only it has and says where
its defaults differ.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from medgpt_ray.config.section import (
    Fraction,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Section,
)

Aggregation = Literal["sequence", "sequence_sum", "token", "constant"]
KlEstimator = Literal["k1", "k2", "k3"]
KlPlacement = Literal["loss", "reward"]


class Kl(Section):
    """Penalty for drifting from the reference model. With coefficient 0 no reference is loaded."""

    coefficient: NonNegativeFloat = 0.0
    estimator: KlEstimator = "k3"
    """In the loss every estimator gives its value, with the gradient of k2 straight through: the
    only one whose expectation is the gradient of the KL."""
    placement: KlPlacement = "loss"
    target: PositiveFloat | None = None
    """Adaptive coefficient (arXiv 1909.08593): after each step it moves so that the KL of a
    completion, summed over its tokens, comes to this. Needs placement `reward`."""
    horizon: Positive = 10_000
    """Completions over which an adaptive coefficient moves; a larger one moves it more slowly."""

    @model_validator(mode="after")
    def _adapts_in_the_reward(self) -> Self:
        if self.target is not None and (self.placement != "reward" or not self.coefficient):
            raise ValueError("kl.target needs kl.placement reward and a coefficient above 0")
        return self


class RewardKl(Kl):
    """The KL penalty as a part of the reward."""

    estimator: KlEstimator = "k1"
    placement: KlPlacement = "reward"


class NoCorrection(Section):
    kind: Literal["none"] = "none"


class Truncate(Section):
    """Truncated importance sampling: weights clamped to at most `cap`."""

    kind: Literal["truncate"] = "truncate"
    cap: PositiveFloat = 2.0


class Bounds(Section):
    """Weights inside [low, high] take part."""

    low: PositiveFloat
    high: PositiveFloat

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be less than high ({self.high})")
        return self


class Mask(Bounds):
    """IcePop: tokens whose weight leaves [low, high] take no part."""

    kind: Literal["mask"] = "mask"
    low: PositiveFloat = 0.5
    high: PositiveFloat = 5.0


class SequenceMask(Bounds):
    """Sequences whose geometric-mean weight leaves [low, high] take no part."""

    kind: Literal["sequence_mask"] = "sequence_mask"
    low: PositiveFloat = 0.9
    high: PositiveFloat = 1.1


class Overlong(Section):
    """DAPO's soft punishment: a completion that reaches into the last stretch before the token
    limit loses reward, linearly up to `penalty` at the limit."""

    buffer_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The stretch as a share of rollout.max_completion_tokens."""
    penalty: PositiveFloat = 1.0


class DynamicSampling(Section):
    """DAPO's: groups of equal rewards are replaced by those of new prompts, so that a step has
    prompts_per_step groups that teach something."""

    max_rounds: Annotated[int, Field(ge=2)] = 10
    """Rounds of generation in a step, the first among them; when they are used up the run stops."""


class PolicyGradient(Section):
    """What every algorithm has."""

    name: str
    prompts_per_step: Positive = 16
    """Drawn for each step."""
    completions_per_prompt: Positive = 8
    """Sampled for each prompt."""
    minibatches_per_step: Positive = 1
    """Optimiser updates made in one pass over the samples of a step."""
    epochs_per_step: Positive = 1
    """Passes over the samples of a step."""
    clip_low: PositiveFloat = 0.2
    clip_high: PositiveFloat = 0.2
    """0.28 is DAPO's clip-higher (arXiv 2503.14476)."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Bounds the loss of a token with negative advantage A by -dual_clip x A (arXiv 1912.09729,
    which has 3)."""
    kl: Kl = Kl()
    aggregation: Aggregation = "sequence"
    """How per-token losses add up over the *global* batch: the mean over sequences of token means
    or of token sums, the mean over tokens, or the sum over tokens divided by sequences x
    max_completion_tokens."""
    overlong: Overlong | None = None
    dynamic_sampling: DynamicSampling | None = None
    mask_truncated: bool = False
    """Leave out completions that ran into the token limit (DAPO)."""
    rollout_correction: Annotated[
        NoCorrection | Truncate | Mask | SequenceMask, Field(discriminator="kind")
    ] = Truncate()
    """Importance weight between the learner's and the rollout engine's log-probs."""
    max_staleness: NonNegative = 0
    """Policy versions between a sample and its use. 0 is strictly on-policy and reproducible."""

    @property
    def updates_per_step(self) -> int:
        return self.minibatches_per_step * self.epochs_per_step

    @model_validator(mode="after")
    def _minibatches_divide(self) -> Self:
        if self.prompts_per_step % self.minibatches_per_step:
            raise ValueError(
                f"minibatches_per_step ({self.minibatches_per_step}) must divide "
                f"prompts_per_step ({self.prompts_per_step})"
            )
        if self.dynamic_sampling and self.completions_per_prompt == 1:
            raise ValueError(
                "dynamic_sampling compares the completions of a prompt: set "
                "completions_per_prompt to 2 or more"
            )
        return self


class GroupRelative(PolicyGradient):
    """Algorithms that compare the completions of one prompt."""

    completions_per_prompt: Annotated[int, Field(ge=2)] = 8
    """A group: its members are compared with each other."""


class Grpo(GroupRelative):
    """GRPO (arXiv 2402.03300)."""

    name: Literal["grpo"] = "grpo"
    scale_by_std: bool = True
    """Divide the advantage by the group's standard deviation."""


class DrGrpo(GroupRelative):
    """Dr. GRPO (arXiv 2503.20783): no division by the standard deviation or by a length."""

    name: Literal["dr_grpo"] = "dr_grpo"
    aggregation: Aggregation = "constant"
    """The paper divides by a constant, which favours no length."""


class Dapo(GroupRelative):
    """DAPO (arXiv 2503.14476): clip-higher, token mean, dynamic sampling, overlong punishment."""

    name: Literal["dapo"] = "dapo"
    clip_high: PositiveFloat = 0.28
    """Clip-higher: unlikely tokens may grow further."""
    aggregation: Aggregation = "token"
    """As in the paper: every token of the batch weighs the same."""
    overlong: Overlong | None = Overlong()
    """On, with the paper's share of 4,096 of 20,480 tokens."""
    dynamic_sampling: DynamicSampling | None = DynamicSampling()
    """On."""


class Gspo(GroupRelative):
    """GSPO (arXiv 2507.18071): one ratio a sequence, the geometric mean of its tokens'."""

    name: Literal["gspo"] = "gspo"
    clip_low: PositiveFloat = 3e-4
    """Of the sequence's ratio, which moves far less than a token's: the paper's range."""
    clip_high: PositiveFloat = 4e-4
    scale_by_std: bool = True
    """Divide the advantage by the group's standard deviation."""


class Cispo(GroupRelative):
    """CISPO (arXiv 2506.13585): the ratio is a clipped weight, so no token loses its gradient."""

    name: Literal["cispo"] = "cispo"
    clip_low: PositiveFloat | None = None  # type: ignore[assignment]
    """The weight is at least 1 - clip_low; none, as in the paper, bounds it from above only."""
    clip_high: PositiveFloat = 0.28
    """The weight is at most 1 + clip_high."""
    dual_clip: None = None
    """CISPO has none."""
    aggregation: Aggregation = "token"
    """As in the paper: every token of the batch weighs the same."""
    scale_by_std: bool = True
    """Divide the advantage by the group's standard deviation."""


class RlooKl(RewardKl):
    coefficient: NonNegativeFloat = 0.05


class Rloo(GroupRelative):
    """RLOO (arXiv 2402.14740): the baseline of a completion is the mean of the others'. A
    completion is one action, so its tokens' losses are summed."""

    name: Literal["rloo"] = "rloo"
    kl: RlooKl = RlooKl()
    """Subtracted from the reward of a completion, summed over its tokens."""
    aggregation: Aggregation = "sequence_sum"
    """Sums of tokens, meaned over completions."""


class ReinforcePlusPlusKl(RewardKl):
    coefficient: NonNegativeFloat = 0.01


class ReinforcePlusPlus(PolicyGradient):
    """REINFORCE++ (arXiv 2501.03262): rewards to go with the KL penalty of each token, whitened
    over the global batch; needs no group."""

    name: Literal["reinforce_pp"] = "reinforce_pp"
    kl: ReinforcePlusPlusKl = ReinforcePlusPlusKl()
    """Subtracted from the reward of each token."""
    aggregation: Aggregation = "token"
    """As in the paper: every token of the batch weighs the same."""
    gamma: Fraction = 1.0
    """Discount of later rewards."""


class ReinforcePlusPlusBaselineKl(Kl):
    coefficient: NonNegativeFloat = 0.01
    estimator: KlEstimator = "k2"


class ReinforcePlusPlusBaseline(GroupRelative):
    """The variant of REINFORCE++ with the group's mean as baseline, whitened over the global batch,
    and the KL penalty in the loss."""

    name: Literal["reinforce_pp_baseline"] = "reinforce_pp_baseline"
    kl: ReinforcePlusPlusBaselineKl = ReinforcePlusPlusBaselineKl()
    """In the loss."""
    aggregation: Aggregation = "token"
    """As in the paper: every token of the batch weighs the same."""


class PpoKl(RewardKl):
    coefficient: NonNegativeFloat = 0.02


class Ppo(PolicyGradient):
    """PPO (arXiv 1707.06347) with a critic, GAE (arXiv 1506.02438) and a KL penalty on each token's
    reward (arXiv 2203.02155)."""

    name: Literal["ppo"] = "ppo"
    prompts_per_step: Positive = 64
    """PPO compares no completions: many prompts with one completion each."""
    completions_per_prompt: Positive = 1
    """Of each prompt."""
    minibatches_per_step: Positive = 4
    """Optimiser updates made in one pass over the samples of a step."""
    kl: PpoKl = PpoKl()
    """Subtracted from the reward of each token."""
    aggregation: Aggregation = "token"
    """As in the paper: every token of the batch weighs the same."""
    gamma: Fraction = 1.0
    """Discount of later rewards."""
    gae_lambda: Fraction = 0.95
    """1 trusts returns, 0 the critic's next value."""
    whiten_advantages: bool = True
    """To mean 0 and variance 1 over the trained tokens of the global batch."""
    value_clip: PositiveFloat = 0.2
    """How far an update may move a value without the loss growing."""
    critic_warmup_steps: NonNegative = 0
    """So many steps only the critic learns."""


DEFAULT_TAG = "grpo"


def _named(values: Any) -> Any:
    """An `algorithm` section without a name is GRPO's."""
    return {"name": DEFAULT_TAG, **values} if isinstance(values, dict) else values


CriticFree = Annotated[
    Grpo | DrGrpo | Dapo | Gspo | Cispo | Rloo | ReinforcePlusPlus | ReinforcePlusPlusBaseline,
    Field(discriminator="name", json_schema_extra={"default_tag": DEFAULT_TAG}),
    BeforeValidator(_named),
]
"""`algorithm` of `stage: grpo`."""
