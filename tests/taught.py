"""Tiny models that were taught a few conversations by heart, so that their answers say something:
trained whole, or as a LoRA run with all that `medgpt train` leaves in its directory.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medgpt_ray.config.schema import LoRA
from medgpt_ray.config.supervised import SftRun, SupervisedModel
from medgpt_ray.models.export import save_adapter, save_model
from medgpt_ray.models.load import load_policy, open_tokenizer
from medgpt_ray.models.policy import Policy
from medgpt_ray.tracking.checkpoints import Checkpoints
from medgpt_ray.tracking.rundir import RunDirectory, file_sha256

IRON = ("My drug is iron.", "Noted.", "Dose?", "60 mg per day.")
ZINC = ("My drug is zinc.", "Noted.", "Dose?", "15 mg per day.")
FEVER = ("Fever and a stiff neck?", "叫医生。Call a doctor now.")
CONVERSATIONS = (IRON, ZINC, FEVER)
ADAPTED = (FEVER[0], "15 mg per day.")
"""What an adapter teaches instead, of the same words: others have no embeddings to speak of."""


def messages(turns: Sequence[str], system: str | None = None) -> list[dict[str, str]]:
    before = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return before + [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns)]


def learn(network: Any, tokenizer: Any, conversations: Sequence[Sequence[str]], lr: float) -> None:
    """Until every token behind the first question is the likeliest by far."""
    rows = []
    for turns in conversations:
        ids = torch.tensor([tokenizer.apply_chat_template(messages(turns), return_dict=False)])
        labels = ids.clone()
        labels[
            :, : len(tokenizer.apply_chat_template(messages(turns[:1]), return_dict=False))
        ] = -100
        rows.append((ids, labels))
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    for _ in range(400):
        losses = torch.cat([_losses(network, ids, labels) for ids, labels in rows])
        if losses.max() < 0.2:
            return
        losses.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError(f"not learned: the worst token has a loss of {losses.max().item():.2f}")


def _losses(network: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = network(input_ids=ids).logits[0, :-1]
    learned = labels[0, 1:] != -100
    return torch.nn.functional.cross_entropy(
        logits[learned], labels[0, 1:][learned], reduction="none"
    )


def write_taught(tiny: Path, directory: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    network = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    learn(network, tokenizer, CONVERSATIONS, 0.003)
    network.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def write_lora_run(base: Path, directory: Path) -> Path:
    """An SFT run with a new token, whose adapter on `base` says `ADAPTED`."""
    model = SupervisedModel(
        path=str(base), dtype="float32", adaptation=LoRA(rank=8), new_tokens=["HbA1c"]
    )
    data = directory.parent / "train.jsonl"
    data.write_text('{"question": "Dose?", "answer": "Ask."}\n')
    config = SftRun(
        stage="sft",
        output_dir=str(directory),
        model=model,
        data={"train": [{"path": str(data)}]},  # type: ignore[arg-type]
    )
    hashes = {"train": {str(data): file_sha256(data)}}
    run = RunDirectory.create(directory, config, "stage: sft\n", hashes, {})
    network = load_policy(model, 0)
    learn(network, open_tokenizer(model.path, model.new_tokens), [ADAPTED], 0.003)
    checkpoints = Checkpoints(run.checkpoints)
    scratch = checkpoints.begin(1)
    save_model(Policy(network, 1.0), model, scratch / "model", write=True)
    save_adapter(Policy(network, 1.0), model, scratch / "adapter", write=True)
    run.publish_model(checkpoints.commit(1, {}))
    (run.metrics).write_text(
        '{"step": 0, "time": 1, "validation/loss": 2.5}\n'
        '{"step": 4, "time": 2, "validation/loss": 1.25}\n'
    )
    return directory


def copy(directory: Path, target: Path) -> Path:
    return Path(shutil.copytree(directory, target))
