"""GRPO (arXiv 2402.03300) in one file: the whole of it, without Ray, vLLM or DeepSpeed.

    python examples/grpo_in_one_file.py MODEL_DIRECTORY PROMPTS.jsonl

One process samples, scores and learns with one Hugging Face model. It is slow and plain on purpose:
read it to see what the platform does. `tests/test_example.py` feeds the samples of a platform run
to `update` and gets the platform's losses and gradient norms.

Left out of what the platform has: a KL penalty and its reference model, the correction for
log-probs that another engine computed, sequence packing, and everything that makes a run survive.

Shapes: B completions of a step, G of each prompt, P prompt tokens, T completion tokens, V
vocabulary.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass(frozen=True)
class Settings:
    steps: int = 20
    prompts_per_step: int = 4
    completions_per_prompt: int = 4  # G
    max_completion_tokens: int = 24
    learning_rate: float = 1e-5
    clip_low: float = 0.2
    clip_high: float = 0.2
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class Sample:
    """One completion with its reward; `prompt` tells the groups apart."""

    prompt: int
    prompt_ids: list[int]  # [P]
    completion_ids: list[int]  # [T], the end-of-turn token included
    reward: float


def group_advantages(samples: list[Sample]) -> list[float]:
    """(reward - mean of its group) / std of its group; 0 where all rewards of a group are equal."""
    advantages = []
    for sample in samples:
        rewards = torch.tensor([s.reward for s in samples if s.prompt == sample.prompt]).double()
        centred = sample.reward - rewards.mean()
        equal = bool((rewards == rewards[0]).all())
        advantages.append(0.0 if equal else float(centred / (rewards.std() + 1e-6)))
    return advantages


def completion_log_probs(model: torch.nn.Module, sample: Sample) -> Tensor:
    """[T] log pi(token | all before it)."""
    ids = torch.tensor([sample.prompt_ids + sample.completion_ids])
    logits = model(ids).logits[0, len(sample.prompt_ids) - 1 : -1]  # [T, V]
    targets = torch.tensor(sample.completion_ids)
    return logits.float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]


def clipped_loss(log_probs: Tensor, old: Tensor, advantage: float, settings: Settings) -> Tensor:
    """[T] PPO's clipped surrogate: -min(r A, clip(r) A), r = pi / pi_old."""
    ratio = torch.exp(log_probs - old)
    clipped = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def update(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: list[Sample],
    settings: Settings,
) -> dict[str, float]:
    """One optimiser step. The loss is the mean over sequences of the mean over their tokens.

    There is one update for each batch, so the policy that sampled is the current one: the old
    log-probs are the new ones without gradient, the ratio is 1, and its gradient is what counts.
    """
    optimizer.zero_grad()
    total = 0.0
    for sample, advantage in zip(samples, group_advantages(samples), strict=True):
        log_probs = completion_log_probs(model, sample)
        per_token = clipped_loss(log_probs, log_probs.detach(), advantage, settings)
        loss = per_token.mean() / len(samples)
        loss.backward()  # gradients add up, so one sequence at a time is as good as a batch
        total += float(loss.detach())
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
    optimizer.step()
    return {"loss": total, "grad_norm": float(norm)}


@torch.no_grad()
def sample_group(
    model: torch.nn.Module,
    tokenizer: AutoTokenizer,
    number: int,
    row: dict,
    reward: Callable[[str, str, dict], float],
    settings: Settings,
) -> list[Sample]:
    """G completions of one prompt, scored."""
    messages = [{"role": "user", "content": row["question"]}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    output = model.generate(
        torch.tensor([prompt]),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=settings.max_completion_tokens,
        num_return_sequences=settings.completions_per_prompt,
        pad_token_id=tokenizer.eos_token_id,
    )
    samples = []
    for row_ids in output[:, len(prompt) :].tolist():
        if tokenizer.eos_token_id in row_ids:
            row_ids = row_ids[: row_ids.index(tokenizer.eos_token_id) + 1]
        text = tokenizer.decode(row_ids, skip_special_tokens=True)
        samples.append(Sample(number, prompt, row_ids, reward(row["question"], text, row)))
    return samples


def main(model_path: str, prompts_path: str, settings: Settings) -> None:
    from medgpt_ray.rewards.text import token_f1

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.999), weight_decay=0.0
    )
    with open(prompts_path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for step in range(settings.steps):
        start = step * settings.prompts_per_step
        numbers = [n % len(rows) for n in range(start, start + settings.prompts_per_step)]
        samples = [
            sample
            for number in numbers
            for sample in sample_group(model, tokenizer, number, rows[number], token_f1, settings)
        ]
        metrics = update(model, optimizer, samples, settings)
        mean = sum(sample.reward for sample in samples) / len(samples)
        print(
            f"step {step + 1}/{settings.steps}  reward {mean:.3f}  loss {metrics['loss']:.4f}  "
            f"grad norm {metrics['grad_norm']:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Settings())
