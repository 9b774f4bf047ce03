"""Who runs where and how much memory it takes, before anything starts. Pure arithmetic, no ray.

Memory is an estimate in bytes of one worker at its peak; what the libraries themselves take (about
1 GiB of a process) comes on top. ZeRO (arXiv 1910.02054) divides optimiser states (stage 1 and up),
gradients (2 and up) and weights (3) by the number of ranks.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from medgpt_ray.config.run import RunConfig
from medgpt_ray.config.schema import (
    Full,
    Learner,
    LoRA,
    Model,
    PpoRun,
    QLoRA,
    RewardModel,
    RlRun,
    Rollout,
)
from medgpt_ray.config.supervised import DpoRun, KtoRun, SupervisedRun

MIB = 2**20
GIB = 2**30


class PlanError(ValueError):
    """A model whose size cannot be told, or that the configuration does not fit."""


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of a model, from its config.json and the headers of its weights.

    Example: SmolLM2-135M has `parameters=134_515_008, hidden=576, layers=30, heads=9, kv_heads=3`.
    """

    parameters: int
    largest_tensor: int
    """Elements of the largest single tensor, mostly the embedding."""
    linear: Mapping[str, tuple[int, int]] = field(hash=False)
    """Module name -> (outputs, inputs) of each linear layer; the output head is none of them."""
    tensors: Mapping[str, int] = field(hash=False)
    """Name -> elements."""
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int

    @classmethod
    def from_directory(cls, path: Path) -> "ModelFacts":
        """Read the facts of an HF directory. Reads no weights; raises `PlanError`."""
        numbers = _Numbers(path / "config.json")
        shapes = _shapes(path)
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        hidden = numbers.get("hidden_size", "n_embd")
        heads = numbers.get("num_attention_heads", "n_head")
        return cls(
            parameters=sum(sizes.values()),
            largest_tensor=max(sizes.values()),
            tensors=sizes,
            linear={
                name.removesuffix(".weight"): (shape[0], shape[1])
                for name, shape in shapes.items()
                if len(shape) == 2 and not any(word in name for word in ("embed", "lm_head", "wte"))
            },
            hidden=hidden,
            intermediate=numbers.get("intermediate_size", "n_inner", default=4 * hidden),
            layers=numbers.get("num_hidden_layers", "n_layer"),
            heads=heads,
            kv_heads=numbers.get("num_key_value_heads", default=heads),
            head_size=numbers.get("head_dim", default=hidden // heads),
            vocabulary=numbers.get("vocab_size"),
        )

    def adapter_parameters(self, adaptation: LoRA) -> int:
        """Weights that are trained: rank x (inputs + outputs) of each adapted layer, and all of
        the modules that are trained whole."""
        targets = adaptation.target_modules
        if isinstance(targets, list):
            for target in targets:
                if not any(_is_target(name, [target]) for name in self.linear):
                    known = ", ".join(sorted({name.rpartition(".")[2] for name in self.linear}))
                    raise PlanError(
                        f"model.adaptation.target_modules: {target!r} names no linear layer of the "
                        f"model, which has {known}"
                    )
        whole = sum(
            size
            for name, size in self.tensors.items()
            if _is_target(name.rpartition(".")[0], adaptation.modules_to_save)
        )
        return whole + sum(
            adaptation.rank * (outputs + inputs)
            for name, (outputs, inputs) in self.linear.items()
            if isinstance(targets, str) or _is_target(name, targets)
        )

    @property
    def kv_numbers_per_token(self) -> int:
        """Numbers that one token adds to a KV cache: keys and values of all layers."""
        return 2 * self.layers * self.kv_heads * self.head_size


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker, by what they hold."""

    weights: int = 0
    gradients: int = 0
    """Accumulated in float32."""
    optimizer: int = 0
    """Adam's two moments, of 8 bits each where bitsandbytes keeps them, and, under bfloat16, the
    float32 master weights."""
    activations: int = 0
    kv_cache: int = 0
    sync_buffer: int = 0

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    @property
    def sure(self) -> int:
        """Without activations, which are only guessed."""
        return self.total - self.activations


@dataclass(frozen=True)
class Role:
    """A group of equal workers.

    Example: `Role("rollout", workers=2, cpus=1.0, gpus=1.0, memory=Memory(weights=269_030_016))`
    """

    name: str
    workers: int
    cpus: float
    """Ray CPUs that each worker reserves."""
    gpus: float
    memory: Memory = Memory()
    """Of one worker."""
    host: str | None = None
    """The role whose resources these workers share, each those of one worker of it."""


@dataclass(frozen=True)
class Plan:
    roles: tuple[Role, ...]

    @property
    def cpus(self) -> float:
        return sum(bundle["CPU"] for bundle in self.bundles())

    @property
    def gpus(self) -> float:
        return sum(bundle.get("GPU", 0.0) for bundle in self.bundles())

    def role(self, name: str) -> Role | None:
        return next((role for role in self.roles if role.name == name), None)

    def bundles(self) -> list[dict[str, float]]:
        """Resources for a Ray placement group: of each worker, roles in order, with what it shares
        counted once."""
        bundles = []
        for role in self._hosts():
            sharing = self._sharing(role.name)
            cpus, gpus = max(r.cpus for r in sharing), max(r.gpus for r in sharing)
            bundles += [{"CPU": cpus} | ({"GPU": gpus} if gpus else {})] * role.workers
        return bundles

    def bundle(self, role: Role, number: int) -> int:
        """The place in `bundles` of worker `number` of a role."""
        host = role.host or role.name
        before = takewhile(lambda other: other.name != host, self._hosts())
        return sum(other.workers for other in before) + number

    def reserved(self, role: Role) -> tuple[float, float]:
        """CPUs and GPUs that Ray books for each worker: its part of the bundle."""
        sharers = len(self._sharing(role.host or role.name))
        bundle = self.bundles()[self.bundle(role, 0)]
        return bundle["CPU"] / sharers, bundle.get("GPU", 0.0) / sharers

    def _hosts(self) -> list[Role]:
        return [role for role in self.roles if role.host is None]

    def _sharing(self, host: str) -> list[Role]:
        return [role for role in self.roles if host in (role.name, role.host)]


def plan(config: RunConfig, facts: ModelFacts, reward_model: ModelFacts | None = None) -> Plan:
    """Roles, resources and memory of a run. The critic is taken to be of the policy's size."""
    if isinstance(config, SupervisedRun):
        learner, data = without_memory(config).roles
        return Plan((replace(learner, memory=_trainer(config, facts)), data))
    estimate = {
        "policy": lambda: _policy(config, facts),
        "critic": lambda: _critic(config, facts),
        "reference": lambda: _reference(config, facts),
        "reward_model": lambda: _reward_model(config, reward_model or facts),
        "rollout": lambda: _rollout(config, facts),
    }
    return Plan(
        tuple(replace(role, memory=estimate[role.name]()) for role in without_memory(config).roles)
    )


def without_memory(config: RunConfig) -> Plan:
    """Roles and resources, which do not depend on the model.

    Of a supervised run: the workers, and what Ray Data reads and tokenises with. In reinforcement
    learning the reference has as many workers as the policy. Without a KL penalty there is none,
    and with adapters it is the policy with them switched off.
    """
    if isinstance(config, SupervisedRun):
        learner = config.learner
        trainers = Role("learner", learner.workers, learner.cpus, learner.gpus)
        return Plan((trainers, Role("data", 1, config.data.cpus, 0.0)))
    learner = config.learner
    sections: dict[str, Learner | RewardModel | Rollout] = {"policy": learner}
    if isinstance(config, PpoRun):
        sections["critic"] = config.critic
    if config.algorithm.kl.coefficient > 0 and isinstance(config.model.adaptation, Full):
        sections["reference"] = learner
    if config.reward_model:
        sections["reward_model"] = config.reward_model
    sections["rollout"] = config.rollout
    hosts = {"rollout": "policy"} if config.rollout.colocated else {}
    return Plan(
        tuple(
            Role(name, section.workers, section.cpus, section.gpus, host=hosts.get(name))
            for name, section in sections.items()
        )
    )


def width(section: Model | Rollout | RewardModel, gpus: float) -> int:
    """Bytes of one number in the section's compute type; `auto` is looked up on this machine."""
    if section.dtype == "auto":
        from medgpt_ray.models.load import resolve_dtype  # imports torch

        return 2 if resolve_dtype(section.dtype, gpus) == "bfloat16" else 4
    return 2 if section.dtype == "bfloat16" else 4


def kv_bytes_per_token(config: RlRun, facts: ModelFacts) -> int:
    """What one token takes in the KV cache of a rollout worker."""
    return facts.kv_numbers_per_token * width(config.rollout, config.rollout.gpus)


def sync_buffer_bytes(config: RlRun, facts: ModelFacts) -> int:
    """Extra memory of a weight transfer: two buckets, or two of the largest tensor."""
    tensor = facts.largest_tensor * width(config.rollout, config.rollout.gpus)
    return 2 * max(config.sync.bucket_mib * MIB, tensor)


def _policy(config: RlRun, facts: ModelFacts) -> Memory:
    return replace(_learner(config, facts), sync_buffer=sync_buffer_bytes(config, facts))


def _critic(config: RlRun, facts: ModelFacts) -> Memory:
    assert isinstance(config, PpoRun)
    model = config.model.model_copy(update={"adaptation": config.critic.adaptation})
    return _learner(config.model_copy(update={"model": model, "learner": config.critic}), facts)


def _reward_model(config: RlRun, facts: ModelFacts) -> Memory:
    section = config.reward_model
    assert section is not None
    size = width(section, section.gpus)
    layer = (6 * facts.hidden + 4 * facts.intermediate) * section.max_tokens * size
    return Memory(weights=facts.parameters * size, activations=layer)


def _trainer(config: SupervisedRun, facts: ModelFacts) -> Memory:
    """With a frozen reference model beside it where the stage has one."""
    memory = _learner(config, facts)
    if not isinstance(config, DpoRun | KtoRun):
        return memory
    simpo = isinstance(config, DpoRun) and config.objective.kind == "simpo"
    own = config.reference.path is None and isinstance(config.model.adaptation, LoRA)
    if simpo or own:
        return memory
    frozen = facts.parameters * width(config.model, config.learner.gpus)
    return replace(memory, weights=memory.weights + frozen)


def _learner(config: RunConfig, facts: ModelFacts) -> Memory:
    model, stage, ranks = config.model, config.learner.zero_stage, config.learner.workers
    size = width(model, config.learner.gpus)
    adapter, trained = 0, facts.parameters
    if isinstance(model.adaptation, LoRA):
        adapter = trained = facts.adapter_parameters(model.adaptation)
    weights = _base_bytes(config, facts) + adapter * size
    master = 4 if size == 2 else 0
    moments = 8 if config.learner.optimizer == "adamw" else 2
    return Memory(
        weights=weights // (ranks if stage >= 3 else 1),
        gradients=trained * 4 // (ranks if stage >= 2 else 1),
        optimizer=trained * (moments + master) // (ranks if stage >= 1 else 1),
        activations=_activations(config, facts, kept_layers=facts.layers, projections=3),
    )


def _reference(config: RlRun, facts: ModelFacts) -> Memory:
    return Memory(
        weights=facts.parameters * width(config.model, config.learner.gpus),
        activations=_activations(config, facts, kept_layers=1, projections=2),
    )


def _rollout(config: RlRun, facts: ModelFacts) -> Memory:
    rollout = config.rollout
    return Memory(
        weights=facts.parameters * width(rollout, rollout.gpus),
        activations=2 * rollout.max_concurrent_sequences * facts.vocabulary * 4,  # logits
        kv_cache=round(rollout.kv_cache_gib * GIB),
        sync_buffer=sync_buffer_bytes(config, facts),
    )


def _base_bytes(config: RunConfig, facts: ModelFacts) -> int:
    """The model without adapters. Quantised: 4 or 8 bits, and per 64 weights a scale of 8 bits.
    Embeddings, norms and the output head stay in the compute type."""
    size = width(config.model, config.learner.gpus)
    if not isinstance(config.model.adaptation, QLoRA):
        return facts.parameters * size
    quantised = sum(outputs * inputs for outputs, inputs in facts.linear.values())
    stored = quantised * config.model.adaptation.bits // 8 + quantised // 64
    return stored + (facts.parameters - quantised) * size


def _activations(config: RunConfig, facts: ModelFacts, kept_layers: int, projections: int) -> int:
    """Bytes of one micro-batch: what each layer keeps (after arXiv 2205.05198, for gated MLPs and
    no stored attention scores), attention masks, and a chunk of logits `projections` times."""
    tokens = config.learner.max_tokens_per_microbatch
    number = width(config.model, config.learner.gpus)
    attention = 2 * (facts.heads + facts.kv_heads) * facts.head_size
    layer = (6 * facts.hidden + attention + 4 * facts.intermediate) * tokens * number
    layers = kept_layers * layer
    if config.model.gradient_checkpointing:
        layers = kept_layers * facts.hidden * tokens * number + layer
    chunk = min(config.learner.projection_chunk_tokens, tokens)
    final_norm = 2 * facts.hidden * tokens * number
    return layers + final_norm + tokens**2 + projections * chunk * facts.vocabulary * 4


class _Numbers:
    """Numbers of a config.json; a multi-modal model's are those of its text part."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PlanError(f"{path}: cannot be read: {error}") from None
        if not isinstance(values, dict):
            raise PlanError(f"{path}: holds no JSON object")
        self.values: dict[str, Any] = values.get("text_config") or values

    def get(self, *names: str, default: int | None = None) -> int:
        found = next((self.values[name] for name in names if self.values.get(name)), default)
        if not isinstance(found, int):
            raise PlanError(f"{self.path}: {names[0]}: expected an integer, found {found!r}")
        return found


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors in the *.safetensors of a directory."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (no mapping: it cannot be iterated)
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except (OSError, SafetensorError) as error:
            raise PlanError(f"{file}: broken weights file: {error}") from None
    if not shapes:
        raise PlanError(f"{path}: holds no *.safetensors weights")
    return shapes


def _is_target(name: str, targets: list[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)
