"""The configuration of a run, as typed sections. No torch, no ray.

The string under a field is its documentation: `medgpt schema` prints it. A default is the setting
of the paper or library it comes from. Impossible combinations are refused here; what needs the
machine (files, cluster, port) is checked in the preflight.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Dtype = Literal["auto", "float32", "bfloat16"]


class Section(BaseModel):
    """Base of all sections: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Full(Section):
    """Train all weights."""

    kind: Literal["full"] = "full"


class LoRA(Section):
    """Low-rank adapters (arXiv 2106.09685) on frozen weights."""

    kind: Literal["lora"] = "lora"
    rank: Positive = 16
    alpha: PositiveFloat = 32.0
    dropout: Fraction = 0.0
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    rslora: bool = False
    """Scale by alpha / sqrt(rank) (arXiv 2312.03732) instead of alpha / rank."""
    dora: bool = False
    """Weight-decomposed adapters (arXiv 2402.09353): a trained magnitude beside the direction."""
    modules_to_save: tuple[str, ...] = ()
    """Modules trained whole and kept beside the adapters, such as embed_tokens and lm_head."""


class QLoRA(LoRA):
    """LoRA on a base quantised by bitsandbytes: 4 bits are nf4 with double quantisation (arXiv
    2305.14314), 8 bits are LLM.int8() (arXiv 2208.07339)."""

    kind: Literal["qlora"] = "qlora"  # type: ignore[assignment]
    bits: Literal[4, 8] = 4


class Model(Section):
    path: str
    """A model directory in HF format, a run directory, or `embedded:smollm2-135m-instruct`."""
    adapter: str | None = None
    """PEFT adapter directory, merged into the model before anything else."""
    dtype: Dtype = "auto"
    """Compute type of the learner. Optimiser states and master weights are float32. auto: bfloat16
    on GPUs and on CPUs with bfloat16 instructions, else float32 (emulated bfloat16 is slower).
    """
    adaptation: Annotated[Full | LoRA | QLoRA, Field(discriminator="kind")] = Full()
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    attention: Literal["sdpa", "flash_attention_2"] = "sdpa"
    """flash_attention_2 needs a GPU and the package flash-attn; it is refused elsewhere."""

    @model_validator(mode="after")
    def _mergeable(self) -> Self:
        if self.adapter and isinstance(self.adaptation, QLoRA):
            raise ValueError(
                "adapter cannot be merged into quantised weights: name a merged model as path"
            )
        return self


class Data(Section):
    train: str
    """JSONL file of prompts: `question` (or `messages`), `answer`, any columns the rewards use."""
    heldout: str | None = None
    """JSONL file that is never trained on; scored before and after training."""
    system_prompt: str | None = None
    """Put before every prompt that has no system message of its own."""
    max_prompt_tokens: Positive = 512
    """A longer prompt is an error that names its row."""


class Reward(Section):
    function: str
    """`package.module:function`, called as `function(prompt, completion, row) -> float`."""
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    timeout_s: PositiveFloat = 10.0
    """Time limit for one completion; on expiry the sample is dropped and reported."""
    arguments: dict[str, Any] = Field(default={})
    """Passed to the function as keyword arguments."""


class Kl(Section):
    """Penalty for drifting from the reference model. With coefficient 0 no reference is loaded."""

    coefficient: NonNegativeFloat = 0.0
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """In the loss every estimator gives its value, with the gradient of k2 straight through: the
    only one whose expectation is the gradient of the KL."""
    placement: Literal["loss", "reward"] = "loss"


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


class Grpo(Section):
    """GRPO (arXiv 2402.03300)."""

    name: Literal["grpo"] = "grpo"
    prompts_per_step: Positive = 16
    completions_per_prompt: Annotated[int, Field(ge=2)] = 8
    minibatches_per_step: Positive = 1
    """Optimiser updates made from the samples of one step."""
    scale_by_std: bool = True
    """Divide the advantage by the group's standard deviation; False as in Dr. GRPO (2503.20783)."""
    clip_low: PositiveFloat = 0.2
    clip_high: PositiveFloat = 0.2
    """0.28 is DAPO's clip-higher (arXiv 2503.14476)."""
    kl: Kl = Kl()
    aggregation: Literal["sequence", "token", "constant"] = "sequence"
    """How per-token losses add up over the *global* batch: the mean over sequences of token means,
    the mean over tokens, or the sum over tokens divided by sequences x max_completion_tokens."""
    mask_truncated: bool = False
    """Leave out completions that ran into the token limit (DAPO)."""
    rollout_correction: Annotated[
        NoCorrection | Truncate | Mask | SequenceMask, Field(discriminator="kind")
    ] = Truncate()
    """Importance weight between the learner's and the rollout engine's log-probs."""
    max_staleness: NonNegative = 0
    """Policy versions between a sample and its use. 0 is strictly on-policy and reproducible."""

    @model_validator(mode="after")
    def _minibatches_divide(self) -> "Grpo":
        if self.prompts_per_step % self.minibatches_per_step:
            raise ValueError(
                f"minibatches_per_step ({self.minibatches_per_step}) must divide "
                f"prompts_per_step ({self.prompts_per_step})"
            )
        return self


class Learner(Section):
    workers: Positive = 1
    """Data-parallel ranks."""
    threads: Positive = 1
    """CPU threads of each rank."""
    cpus: PositiveFloat = 1.0
    """Ray CPUs that each rank reserves."""
    gpus: NonNegativeFloat = 0.0
    """GPUs of each rank (0 or 1; a share where engine and learner live on one GPU)."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage (arXiv 1910.02054)."""
    deepspeed: str | None = None
    """JSON file of DeepSpeed settings, such as configs/deepspeed/zero2-offload.json, laid over
    those made from this section. Its ZeRO stage must be `zero_stage`."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """The 8-bit ones (arXiv 2110.02861, by bitsandbytes) take a quarter of the memory for their
    states; paged moves them out of a GPU's memory when it is short, and needs a GPU."""
    learning_rate: PositiveFloat = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up: stay, or fall to zero at the last step."""
    warmup_steps: NonNegative = 0
    """Updates in which the learning rate rises to its peak."""
    warmup_share: Fraction = 0.0
    """The same as a share of the run, where warmup_steps is 0."""
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    max_tokens_per_microbatch: Positive = 2048
    """Padding-free tokens in one forward pass of a rank; a group's prompt counts once."""
    projection_chunk_tokens: Positive = 512
    """Completion tokens projected onto the vocabulary at a time."""

    @model_validator(mode="after")
    def _pages_need_a_gpu(self) -> Self:
        if self.optimizer == "paged_adamw_8bit" and not self.gpus:
            raise ValueError("optimizer paged_adamw_8bit needs gpus above 0: use adamw_8bit")
        return self


class Rollout(Section):
    workers: Positive = 1
    """vLLM engines."""
    threads: Positive = 1
    cpus: PositiveFloat = 1.0
    gpus: NonNegativeFloat = 0.0
    dtype: Dtype = "auto"
    """Compute type of the engine; `auto` as for the model."""
    temperature: PositiveFloat = 1.0
    """Logits are divided by it, in the engine and in the learner alike: the tempered distribution
    is the policy that is trained.
    """
    max_completion_tokens: Positive = 256
    kv_cache_gib: PositiveFloat = 1.0
    max_concurrent_sequences: Positive = 64


class Sync(Section):
    """Weights from learner to engines, by vLLM's weight-transfer interface."""

    backend: Literal["shm", "gloo", "nccl", "ipc"] = "shm"
    """shm: shared memory on one host; gloo: across hosts, CPU; nccl, ipc: vLLM's own, GPU."""
    bucket_mib: Positive = 64
    """Extra memory of a transfer is at most two buckets, or two of the largest tensor."""


class Evaluation(Section):
    every_steps: NonNegative = 0
    """0: only before the first and after the last step."""
    max_prompts: Positive | None = None
    samples_shown: NonNegative = 8
    """Side-by-side answers in the report."""


class Checkpoint(Section):
    every_steps: Positive = 10
    keep_last: Positive = 2
    keep_best: bool = True
    """Also keep the checkpoint with the best held-out reward."""


class Deadlines(Section):
    """Seconds each wait may last; on expiry the run stops with a post-mortem."""

    start: PositiveFloat = 300.0
    generate: PositiveFloat = 900.0
    learn: PositiveFloat = 900.0
    sync: PositiveFloat = 300.0
    checkpoint: PositiveFloat = 300.0


class Cluster(Section):
    address: str | None = None
    """Address of a running Ray cluster; none starts one on this machine for the run."""
    cpus: Positive | None = None
    """CPUs of the local cluster; none counts the machine's."""


class GrpoRun(Section):
    """A reinforcement-learning run (`stage: grpo`)."""

    stage: Literal["grpo"]
    output_dir: str
    seed: NonNegative = 0
    steps: Positive
    model: Model
    data: Data
    algorithm: Grpo = Grpo()
    rewards: Annotated[list[Reward], Field(min_length=1)]
    learner: Learner = Learner()
    rollout: Rollout = Rollout()
    sync: Sync = Sync()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    deadlines: Deadlines = Deadlines()
    cluster: Cluster = Cluster()
    tensorboard: bool = True

    @model_validator(mode="after")
    def _possible_together(self) -> "GrpoRun":
        problems = []
        longest = self.data.max_prompt_tokens + self.rollout.max_completion_tokens
        if self.learner.max_tokens_per_microbatch < longest:
            problems.append(
                f"learner.max_tokens_per_microbatch ({self.learner.max_tokens_per_microbatch}) is "
                "less than data.max_prompt_tokens + rollout.max_completion_tokens "
                f"({longest}): one sequence would not fit"
            )
        samples = self.algorithm.prompts_per_step * self.algorithm.completions_per_prompt
        if samples // self.algorithm.minibatches_per_step < self.learner.workers:
            problems.append(
                f"learner.workers ({self.learner.workers}) is more than the samples of an update "
                f"({samples} / {self.algorithm.minibatches_per_step} minibatches_per_step)"
            )
        if self.sync.backend in ("nccl", "ipc") and not (self.learner.gpus and self.rollout.gpus):
            problems.append(f"sync.backend {self.sync.backend} needs learner.gpus and rollout.gpus")
        if self.learner.zero_stage == 3 and isinstance(self.model.adaptation, QLoRA):
            problems.append(
                "learner.zero_stage 3 cannot shard bitsandbytes weights: use zero_stage 2"
            )
        names = [reward.function.rpartition(":")[2] for reward in self.rewards]
        for name in sorted({name for name in names if names.count(name) > 1}):
            problems.append(
                f"rewards: {names.count(name)} functions are called {name!r}, which metrics could "
                "not tell apart: add up the weights of one function, rename one of several"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self
