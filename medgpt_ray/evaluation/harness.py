"""Questions put to a served model by lm-eval: letters by their likelihood, replies as text."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from medgpt_ray.evaluation.questions import Question
from medgpt_ray.evaluation.tasks import Task

CONCURRENT = 8
RETRIES = 3
REQUEST_S = 600
RESERVED_TOKENS = 8
"""Of the context, for a letter, the end of the turn and lm-eval's own reserve."""

Score = Callable[[Question, str], float]
"""(question, reply) -> score in [0, 1]."""


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI API. With a tokenizer, prompts are rendered here and go to `/completions` as token
    ids; without one they go to `/chat/completions`, where the server's template is applied."""

    url: str
    """Ends in /v1."""
    model: str
    tokenizer: Path | None
    key: str | None = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


@dataclass(frozen=True)
class Asked:
    """The questions of one task, each with its filled-in prompt."""

    name: str
    task: Task
    file: str
    """Where the questions come from."""
    questions: list[Question]
    prompts: list[str]
    score: Score
    """Of written replies; likelihood tasks compare letters."""


@dataclass(frozen=True)
class Reply:
    """What a model did with one question."""

    place: str
    prompt: str
    """As it was sent: rendered, or the chat messages as JSON."""
    text: str
    """The reply, or the likeliest letter."""
    score: float


class EvaluationFailed(RuntimeError):
    """The model could not be asked, or answered with nonsense."""


def render(tokenizer: Any, prompt: str) -> str:
    """The prompt as the model sees it; without a chat template it is shown as it stands."""
    if not tokenizer.chat_template:
        return prompt
    messages = [{"role": "user", "content": prompt}]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def context_needed(tokenizer: Any, asked: Sequence[Asked]) -> tuple[int, str]:
    """Tokens of the longest prompt with room for its reply, and the place of that question."""
    needed = [
        (
            len(tokenizer(render(tokenizer, prompt), add_special_tokens=False).input_ids)
            + RESERVED_TOKENS
            + (each.task.max_completion_tokens if each.task.scoring == "generation" else 0),
            question.place,
        )
        for each in asked
        for question, prompt in zip(each.questions, each.prompts, strict=True)
    ]
    return max(needed)


def ask(endpoint: Endpoint, asked: Sequence[Asked], context: int) -> dict[str, list[Reply]]:
    """Every question once; name of the task -> replies in the order of its questions.

    Raises `EvaluationFailed` when a request fails for good.
    """
    import aiohttp
    from lm_eval.evaluator import evaluate

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model, chat = _model(endpoint, context)
    try:
        results = evaluate(
            lm=model,
            task_dict={"tasks": {each.name: _task(each) for each in asked}, "groups": {}},
            bootstrap_iters=0,
            apply_chat_template=chat,
        )
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise EvaluationFailed(f"{endpoint.url}: {error or type(error).__name__}") from error
    return {each.name: _replies(each, results["samples"][each.name]) for each in asked}


def _model(endpoint: Endpoint, context: int) -> tuple[Any, bool]:
    """lm-eval's client, and whether prompts become chat messages."""
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    common = {
        "model": endpoint.model,
        "num_concurrent": CONCURRENT,
        "max_retries": RETRIES,
        "timeout": REQUEST_S,
        "max_length": context,
        # A header of its own keeps lm-eval from sending OPENAI_API_KEY along.
        "header": {"User-Agent": "medgpt", **endpoint.headers},
    }
    if endpoint.tokenizer is None:
        return LocalChatCompletion(base_url=f"{endpoint.url}/chat/completions", **common), True
    model = LocalCompletionsAPI(
        base_url=f"{endpoint.url}/completions",
        tokenizer=str(endpoint.tokenizer),
        tokenizer_backend="huggingface",
        **common,
    )
    return model, bool(model.tokenizer.chat_template)


def _task(asked: Asked) -> Any:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    questions, by_likelihood = asked.questions, asked.task.scoring == "likelihood"

    def score(row: dict[str, Any], results: list[Any]) -> dict[str, float]:
        question = questions[row["index"]]
        if by_likelihood:
            return {"score": float(_likeliest(question, results) == question.answer)}
        return {"score": asked.score(question, results[0])}

    rows = [{"index": index, "prompt": prompt} for index, prompt in enumerate(asked.prompts)]
    config: dict[str, Any] = {
        "task": asked.name,
        "custom_dataset": lambda: {"test": Dataset.from_list(rows)},
        "test_split": "test",
        "doc_to_text": lambda row: row["prompt"],
        "doc_to_target": lambda row: questions[row["index"]].answer,
        "process_results": score,
        "metric_list": [{"metric": "score", "aggregation": "mean", "higher_is_better": True}],
        "num_fewshot": 0,
    }
    if by_likelihood:
        config |= {
            "output_type": "multiple_choice",
            "doc_to_choice": lambda row: list(questions[row["index"]].options),
            "doc_to_target": lambda row: list(questions[row["index"]].options).index(
                questions[row["index"]].answer
            ),
        }
    else:
        length = asked.task.max_completion_tokens
        config |= {
            "output_type": "generate_until",
            "generation_kwargs": {"until": [], "max_gen_toks": length, "temperature": 0.0},
        }
    return ConfigurableTask(config=config)


def _likeliest(question: Question, results: Sequence[tuple[float, bool]]) -> str:
    log_probs = [log_prob for log_prob, _ in results]
    if len(log_probs) != len(question.options) or not np.isfinite(log_probs).all():
        raise EvaluationFailed(f"{question.place}: the letters' log-probs are {log_probs}")
    return list(question.options)[int(np.argmax(log_probs))]


def _replies(asked: Asked, samples: Sequence[Mapping[str, Any]]) -> list[Reply]:
    replies = []
    for question, sample in zip(
        asked.questions, sorted(samples, key=lambda one: one["doc_id"]), strict=True
    ):
        prompt, given = sample["arguments"][0][0], sample["filtered_resps"]
        text = given[0] if asked.task.scoring == "generation" else _likeliest(question, given)
        shown = prompt if isinstance(prompt, str) else prompt[0]  # chat messages as JSON
        replies.append(Reply(question.place, shown, text, sample["score"]))
    return replies


def prompt_hash(replies: Sequence[Reply]) -> str:
    """sha256 over all prompts as they were sent, in order."""
    return sha256("\x1e".join(reply.prompt for reply in replies).encode()).hexdigest()
