"""The supervised stages: PT, SFT, RM, DPO, ORPO, KTO. One class a stage, one base for all."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from medgpt_ray.config.schema import Checkpoint, Cluster, Learner, Model, QLoRA
from medgpt_ray.config.section import (
    Fraction,
    NonNegative,
    NonNegativeFloat,
    PathText,
    Positive,
    PositiveFloat,
    Section,
    Seed,
)

Format = Literal[
    "auto",
    "sharegpt",
    "messages",
    "alpaca",
    "prompt_completion",
    "qa",
    "text",
    "preference_conversations",
    "preference_question",
    "preference_alpaca",
    "preference",
    "labelled",
]


COLUMNS = (
    "text",
    "conversations",
    "messages",
    "system",
    "history",
    "tools",
    "instruction",
    "input",
    "output",
    "prompt",
    "completion",
    "question",
    "answer",
    "chosen",
    "rejected",
    "margin",
    "label",
    "thoughts",
    "unused",
)
"""What formats call their columns, a name each; of `unused` there may be a list."""


def _known_columns(columns: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
    if unknown := [name for name in columns if name not in COLUMNS]:
        raise ValueError(f"{', '.join(unknown)}: none of the columns {', '.join(COLUMNS)}")
    for name, column in columns.items():
        if not isinstance(column, str) and name != "unused":
            raise ValueError(f"{name}: a list of columns, only unused may have several")
    return columns


Columns = Annotated[dict[str, str | list[str]], AfterValidator(_known_columns)]


class Source(Section):
    """One data set of a mixture."""

    path: str
    """File, directory, glob, or `hf:NAME`, `hf:NAME:SPLIT` or `hf:NAME@CONFIG:SPLIT` for a Hugging
    Face data set. JSON, JSONL, Parquet and txt, the first two and txt also as .gz and .zst."""
    format: Format = "auto"
    """auto: found out from the first row of each file, and the stage."""
    columns: Columns = Field(default={})
    """Names of columns where they are others than those of the formats: `question: Question`."""
    weight: PositiveFloat = 1.0
    """Times that an epoch holds each row: 2 repeats all rows, 0.5 draws another half each epoch."""


class Validation(Section):
    """Rows that are never trained on."""

    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training rows held out, by a seeded hash of their content."""
    path: str | None = None
    """Rows of their own, in place of a share; rows that are trained on as well are refused."""
    format: Format = "auto"
    columns: Columns = Field(default={})
    """As those of `train`, for the rows of `path`."""
    max_rows: Positive = 500
    every_steps: NonNegative = 0
    """0: only before the first and after the last step."""
    patience: NonNegative = 0
    """Stop after so many validations in a row without a better loss, and publish the model of the
    best; 0: never."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.share and self.path:
            raise ValueError("share and path are two ways to the same: keep one")
        if (self.columns or self.format != "auto") and not self.path:
            raise ValueError("format and columns are those of path: set it")
        for key in ("every_steps", "patience"):
            if getattr(self, key) and not (self.share or self.path):
                raise ValueError(f"{key} needs validation rows: set share or path")
        if self.patience and not self.every_steps:
            raise ValueError("patience needs every_steps: it counts the validations in between")
        return self


class SupervisedData(Section):
    train: Annotated[list[Source], Field(min_length=1)]
    validation: Validation = Validation()
    template: str | None = None
    """Chat template by name, such as chatml or vicuna; none takes the tokenizer's own."""
    system_prompt: str | None = None
    """Put before every conversation that has no system message of its own."""
    train_on_inputs: bool = False
    """Learn all tokens of a conversation, not the assistant's alone."""
    max_tokens: Annotated[int, Field(ge=2)] = 1024
    """Of one sequence. Longer documents are cut into several; longer conversations lose their last
    turns, and where the first exchange does not fit, the row is dropped. Both are counted."""
    on_bad_row: Literal["error", "skip"] = "error"
    """skip: write rejected rows with their reasons to rejected.jsonl of the run directory."""
    max_bad_share: Fraction = 0.01
    """A larger share of rejected rows is an error all the same."""
    shuffle_rows: Positive = 4096
    """Rows that are shuffled with each other; pieces of files are shuffled as a whole before."""
    cpus: PositiveFloat = 1.0
    """Ray CPUs kept for reading and tokenising beside the workers'."""


class RopeScaling(Section):
    """Longer contexts than the model was trained for."""

    kind: Literal["linear", "dynamic", "yarn"]
    factor: Annotated[float, Field(gt=1, allow_inf_nan=False)]


class SupervisedModel(Model):
    neftune_alpha: NonNegativeFloat = 0.0
    """Noise on the embeddings in training (arXiv 2310.05914), of 5 to 15; 0 is off."""
    rope_scaling: RopeScaling | None = None
    new_tokens: tuple[str, ...] = ()
    """Added to the vocabulary; their embeddings start as the mean of those that they replace."""


class SupervisedLearner(Learner):
    learning_rate: PositiveFloat = 2e-5
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_share: Fraction = 0.03


class RmLearner(SupervisedLearner):
    learning_rate: PositiveFloat = 1e-5


class OrpoLearner(SupervisedLearner):
    learning_rate: PositiveFloat = 8e-6


class PreferenceLearner(SupervisedLearner):
    learning_rate: PositiveFloat = 5e-7


class WorkerFaults(Section):
    """What Ray Train does when a worker or its node dies."""

    max_failures: NonNegative = 3
    """Restarts from the last checkpoint; one more death ends the run."""
    min_workers: Positive | None = None
    """Go on with as few as this while nodes are missing; none waits for all of `learner.workers`.
    Needs `learner.zero_stage` 0: a sharded optimiser state fits its own number of ranks only."""


class SupervisedRun(Section):
    stage: str
    output_dir: PathText
    seed: Seed = 0
    epochs: PositiveFloat = 1.0
    steps: Positive | None = None
    """Stop after so many updates, whatever `epochs` says."""
    examples_per_step: Positive = 32
    """Sequences (of pairs: pairs) in one optimiser update, over all workers."""
    model: SupervisedModel
    data: SupervisedData
    learner: SupervisedLearner = SupervisedLearner()
    checkpoint: Checkpoint = Checkpoint()
    faults: WorkerFaults = WorkerFaults()
    start_timeout_s: PositiveFloat = 300.0
    step_timeout_s: PositiveFloat = 900.0
    """The longest that a step, with its data, may take; then the run stops with a post-mortem."""
    cluster: Cluster = Cluster()
    tensorboard: bool = True

    @model_validator(mode="after")
    def _possible_together(self) -> Self:
        problems = []
        rows = 1 if isinstance(self, PtRun | SftRun | KtoRun) else 2
        longest = rows * self.data.max_tokens
        if self.learner.max_tokens_per_microbatch < longest:
            problems.append(
                f"learner.max_tokens_per_microbatch ({self.learner.max_tokens_per_microbatch}) is "
                f"less than {f'{rows} x ' if rows > 1 else ''}data.max_tokens ({longest}): one "
                "example would not fit"
            )
        if self.examples_per_step < self.learner.workers:
            problems.append(
                f"learner.workers ({self.learner.workers}) is more than examples_per_step "
                f"({self.examples_per_step})"
            )
        if self.learner.zero_stage == 3 and isinstance(self.model.adaptation, QLoRA):
            problems.append(
                "learner.zero_stage 3 cannot shard bitsandbytes weights: use zero_stage 2"
            )
        if self.faults.min_workers is not None:
            if self.faults.min_workers > self.learner.workers:
                problems.append(
                    f"faults.min_workers ({self.faults.min_workers}) is more than learner.workers "
                    f"({self.learner.workers})"
                )
            if self.learner.zero_stage:
                problems.append("faults.min_workers needs learner.zero_stage 0")
        if problems:
            raise ValueError("\n".join(problems))
        return self


class PtRun(SupervisedRun):
    """Continued pre-training on documents (`stage: pt`)."""

    stage: Literal["pt"]


class SftRun(SupervisedRun):
    """Supervised fine-tuning on conversations (`stage: sft`)."""

    stage: Literal["sft"]


class RewardModelling(Section):
    """Bradley-Terry with a value head (arXiv 2203.02155)."""

    centring: NonNegativeFloat = 0.0
    """Coefficient of (chosen + rejected)^2, which keeps rewards around 0 (arXiv 2312.09244)."""


class RmRun(SupervisedRun):
    """Reward modelling on preference pairs (`stage: rm`)."""

    stage: Literal["rm"]
    objective: RewardModelling = RewardModelling()
    learner: RmLearner = RmLearner()


class Sigmoid(Section):
    """DPO (arXiv 2305.18290); with label_smoothing conservative DPO."""

    kind: Literal["sigmoid"] = "sigmoid"
    beta: PositiveFloat = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0


class Robust(Section):
    """DPO debiased for labels of which a share of label_smoothing is flipped (arXiv 2403.00409)."""

    kind: Literal["robust"] = "robust"
    beta: PositiveFloat = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.1


class Beta(Section):
    """The losses that have no setting but beta: IPO (2310.12036), hinge (SLiC, 2305.10425), EXO
    (2402.00856), NCA (2402.05369), SPPO (2405.00675), APO zero and down (2408.06266), DiscoPOP
    (2406.08414)."""

    kind: Literal["ipo", "hinge", "exo", "nca", "sppo", "apo_zero", "apo_down", "discopop"]
    beta: PositiveFloat = 0.1


class SimPo(Section):
    """SimPO (arXiv 2405.14734): length-averaged log-probs, a target margin, no reference."""

    kind: Literal["simpo"] = "simpo"
    beta: PositiveFloat = 2.0
    margin: NonNegativeFloat = 1.0
    """gamma of the paper."""


class Reference(Section):
    """The reference model of DPO and KTO. SimPO has none."""

    path: str | None = None
    """Another model; none is the policy as it was at the start (with adapters: without them)."""
    precompute: bool = False
    """Score all rows once before training and keep the log-probs on disk, for later runs too."""


class DpoRun(SupervisedRun):
    """Direct preference optimisation (`stage: dpo`)."""

    stage: Literal["dpo"]
    objective: Annotated[Sigmoid | Robust | Beta | SimPo, Field(discriminator="kind")] = Sigmoid()
    reference: Reference = Reference()
    learner: PreferenceLearner = PreferenceLearner()

    @model_validator(mode="after")
    def _no_reference(self) -> Self:
        if isinstance(self.objective, SimPo) and self.reference != Reference():
            raise ValueError("reference: simpo has none, leave it out")
        return self


class Orpo(Section):
    """ORPO (arXiv 2403.07691): no reference."""

    coefficient: PositiveFloat = 0.1
    """lambda of the paper."""


class OrpoRun(SupervisedRun):
    """Odds-ratio preference optimisation (`stage: orpo`)."""

    stage: Literal["orpo"]
    objective: Orpo = Orpo()
    learner: OrpoLearner = OrpoLearner()


class Kto(Section):
    """KTO (arXiv 2402.01306) on answers labelled good or bad."""

    beta: PositiveFloat = 0.1
    desirable_weight: PositiveFloat = 1.0
    undesirable_weight: PositiveFloat = 1.0


class KtoRun(SupervisedRun):
    """Kahneman-Tversky optimisation (`stage: kto`)."""

    stage: Literal["kto"]
    objective: Kto = Kto()
    reference: Reference = Reference()
    learner: PreferenceLearner = PreferenceLearner()

    @model_validator(mode="after")
    def _as_kto_needs_it(self) -> Self:
        if self.examples_per_step == 1:
            raise ValueError(
                "examples_per_step: KTO measures its baseline on the answers of the other examples "
                "of a step: raise it to 2 or more"
            )
        if self.reference.precompute:
            raise ValueError(
                "reference.precompute: KTO scores each prompt with another example's answer, which "
                "changes from epoch to epoch: leave it out"
            )
        return self
