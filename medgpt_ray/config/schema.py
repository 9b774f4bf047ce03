"""The configuration of a run, as typed sections. No torch, no ray.

The string under a field is its documentation: `medgpt schema` prints it. A default is the setting
of the paper or library it comes from. Impossible combinations are refused here; what needs the
machine (files, cluster) is checked in the preflight.
"""

import os
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from medgpt_ray.config.algorithms import CriticFree, Grpo, PolicyGradient, Ppo
from medgpt_ray.config.section import (
    BelowOne,
    Fraction,
    NonNegative,
    NonNegativeFloat,
    PathText,
    Positive,
    PositiveFloat,
    Section,
    Seed,
)

Dtype = Literal["auto", "float32", "bfloat16"]


class Full(Section):
    """Train all weights."""

    kind: Literal["full"] = "full"


class LoRA(Section):
    """Low-rank adapters (arXiv 2106.09685) on frozen weights."""

    kind: Literal["lora"] = "lora"
    rank: Positive = 16
    alpha: PositiveFloat = 32.0
    dropout: BelowOne = 0.0
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
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
    path: PathText
    """A model directory in HF format, a run directory, a name on the Hugging Face hub
    (`owner/model` or `owner/model@revision`), `embedded:smollm2-135m-instruct`, or `embedded:tiny`:
    two random layers, for first tries."""
    adapter: str | None = None
    """PEFT adapter directory, merged into the model before anything else."""
    dtype: Dtype = "auto"
    """Compute type of the learner. Master weights are float32. auto: bfloat16
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
    train: PathText
    """Prompts: `question` (or `messages`), `answer`, any columns the rewards use. File, directory,
    glob or `hf:NAME`: JSONL, JSON, Parquet."""
    heldout: str | None = None
    """Prompts that are never trained on; scored before and after training."""
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
    workers: Positive = 1
    """Processes that share the completions of a step: of use for a slow function, and for one that
    waits, as for the answers of a judge."""
    arguments: dict[str, Any] = Field(default={})
    """Passed to the function as keyword arguments."""


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
    adam_betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    max_tokens_per_microbatch: Positive = 2048
    """Padding-free tokens in one forward pass of a rank; what prompts share counts once."""
    projection_chunk_tokens: Positive = 512
    """Completion tokens projected onto the vocabulary at a time."""

    @model_validator(mode="after")
    def _pages_need_a_gpu(self) -> Self:
        if self.optimizer == "paged_adamw_8bit" and not self.gpus:
            raise ValueError("optimizer paged_adamw_8bit needs gpus above 0: use adamw_8bit")
        return self


class Critic(Learner):
    """The learner group of PPO's critic: a model with a value head."""

    path: str | None = None
    """Model to start from: a reward model, whose head is kept, or a language model, with a new
    head. None is the reward model of the run where it has the policy's tokenizer, else the policy's
    own model. It must have the policy's tokenizer."""
    adaptation: Annotated[Full | LoRA, Field(discriminator="kind")] = Full()
    learning_rate: PositiveFloat = 1e-5


class RewardModel(Section):
    """A model of the RM stage that scores completions, with its own tokenizer and chat template."""

    path: str
    """Model directory or run directory."""
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    dtype: Dtype = "auto"
    max_tokens: Positive = 2048
    """Of prompt and completion together, by its own tokenizer; a longer one costs its sample."""
    workers: Positive = 1
    threads: Positive = 1
    cpus: PositiveFloat = 1.0
    gpus: NonNegativeFloat = 0.0


class Environment(Section):
    """What answers the policy between its turns; see `medgpt_ray.environments`."""

    environment: str
    """`package.module:Class`, made anew for each completion from the row of its prompt."""
    max_turns: Annotated[int, Field(ge=2)] = 4
    """Turns of the policy in one completion."""
    step_timeout_s: PositiveFloat = 10.0
    """Time limit for one observation; on expiry the sample is dropped and reported."""
    arguments: dict[str, Any] = Field(default={})
    """Passed to the class as keyword arguments."""


class Rollout(Section):
    workers: Positive = 1
    """vLLM engines."""
    max_workers: Positive | None = None
    """More engines join while the cluster has room for them, up to this many; a batch of prompts is
    always cut into so many shares. None keeps `workers`."""
    colocated: bool = False
    """Engine k shares the devices of policy worker k, and sleeps while the learners work: it gives
    its memory back and gets it, and the new weights, at the next sync. False gives every engine
    devices of its own. On CPUs the cores are shared, but no memory is freed."""
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
    """Of a completion; with an environment, of all turns and observations together."""
    multi_turn: Environment | None = None
    kv_cache_gib: PositiveFloat = 1.0
    max_concurrent_sequences: Positive = 64

    @property
    def most_workers(self) -> int:
        """Workers that there can be, and shares that a batch of prompts is cut into."""
        return self.max_workers or self.workers

    @model_validator(mode="after")
    def _room_to_grow(self) -> Self:
        if self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(f"max_workers ({self.max_workers}) is less than workers")
        return self


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


class Dump(Section):
    """Steps kept whole, for `medgpt replay`: the learners' state, the samples, every number that
    the update was made from. A dump takes as much room as a checkpoint."""

    every_steps: NonNegative = 0
    """0 keeps none."""
    keep_last: Positive = 1


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

    @property
    def in_use(self) -> str | None:
        """The address to connect to: the configured one, or else that of the Ray job we run in."""
        return self.address or os.environ.get("RAY_ADDRESS")


class Faults(Section):
    """What a run survives by itself."""

    max_restarts: NonNegative = 3
    """So often all roles are started anew from the last checkpoint after one of them died."""


METRICS = {"reward", "ci_low", "ci_high", "completion_length", "mean", "std", "overlong"} | {
    "reward_model"
}
"""Names under `reward/` and `heldout/` that are not those of functions."""


class RlRun(Section):
    """A reinforcement-learning run."""

    stage: str
    output_dir: PathText
    seed: Seed = 0
    steps: Positive
    model: Model
    data: Data
    algorithm: PolicyGradient
    rewards: list[Reward] = Field(default=[])
    """Functions; the reward of a completion is their weighted sum, the reward model's with it."""
    reward_model: RewardModel | None = None
    learner: Learner = Learner()
    rollout: Rollout = Rollout()
    sync: Sync = Sync()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    dump: Dump = Dump()
    deadlines: Deadlines = Deadlines()
    faults: Faults = Faults()
    cluster: Cluster = Cluster()
    tensorboard: bool = True

    @model_validator(mode="after")
    def _possible_together(self) -> Self:
        problems = [*self._reward_problems(), *self._learner_problems("learner", self.learner)]
        if self.sync.backend in ("nccl", "ipc") and not (self.learner.gpus and self.rollout.gpus):
            problems.append(f"sync.backend {self.sync.backend} needs learner.gpus and rollout.gpus")
        problems += self._colocation_problems()
        if self.learner.zero_stage == 3 and isinstance(self.model.adaptation, QLoRA):
            problems.append(
                "learner.zero_stage 3 cannot shard bitsandbytes weights: use zero_stage 2"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _colocation_problems(self) -> list[str]:
        rollout, learner, staleness = self.rollout, self.learner, self.algorithm.max_staleness
        problems: list[str] = []
        if not rollout.colocated:
            return problems
        if rollout.max_workers is not None or rollout.workers != learner.workers:
            problems.append(
                f"rollout.colocated puts one engine beside each policy worker: set rollout.workers "
                f"({rollout.workers}) to learner.workers ({learner.workers}) and leave out "
                "rollout.max_workers"
            )
        if bool(rollout.gpus) != bool(learner.gpus):
            problems.append(
                f"rollout.colocated shares devices: rollout.gpus ({rollout.gpus:g}) and "
                f"learner.gpus ({learner.gpus:g}) must both be set, or neither"
            )
        if staleness:
            problems.append(
                f"algorithm.max_staleness ({staleness}) generates while the learners work, when "
                "colocated engines sleep: set it to 0, or rollout.colocated to false"
            )
        return problems

    def _reward_problems(self) -> list[str]:
        problems = []
        if not self.rewards and self.reward_model is None:
            problems.append("rewards: name at least one function, or a reward_model")
        names = [reward.function.rpartition(":")[2] for reward in self.rewards]
        problems += [
            f"rewards: a function is called {name!r}, as metrics of the run are: rename it"
            for name in sorted({*names} & METRICS)
        ]
        for name in sorted({name for name in names if names.count(name) > 1}):
            problems.append(
                f"rewards: {names.count(name)} functions are called {name!r}, which metrics could "
                "not tell apart: add up the weights of one function, rename one of several"
            )
        return problems

    def _learner_problems(self, key: str, learner: Learner) -> list[str]:
        problems = []
        longest = self.data.max_prompt_tokens + self.rollout.max_completion_tokens
        if learner.max_tokens_per_microbatch < longest:
            problems.append(
                f"{key}.max_tokens_per_microbatch ({learner.max_tokens_per_microbatch}) is "
                "less than data.max_prompt_tokens + rollout.max_completion_tokens "
                f"({longest}): one sequence would not fit"
            )
        samples = self.algorithm.prompts_per_step * self.algorithm.completions_per_prompt
        if samples // self.algorithm.minibatches_per_step < learner.workers:
            problems.append(
                f"{key}.workers ({learner.workers}) is more than the samples of an update "
                f"({samples} / {self.algorithm.minibatches_per_step} minibatches_per_step)"
            )
        return problems


class GrpoRun(RlRun):
    """A run of GRPO or another algorithm without a critic (`stage: grpo`)."""

    stage: Literal["grpo"]
    algorithm: CriticFree = Grpo()


class PpoRun(RlRun):
    """A run of PPO with a critic (`stage: ppo`)."""

    stage: Literal["ppo"]
    algorithm: Ppo = Ppo()
    critic: Critic = Critic()

    @model_validator(mode="after")
    def _critic_possible(self) -> Self:
        if problems := self._learner_problems("critic", self.critic):
            raise ValueError("\n".join(problems))
        return self
