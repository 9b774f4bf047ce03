"""A chat model on this machine: prompt tokens in, the answer out as it is written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from medgpt_ray.config.schema import Model
from medgpt_ray.models.load import load_frozen, load_tokenizer, resolve_model, stop_token_ids
from medgpt_ray.types import FinishReason

HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"
COOLEST = 0.01
"""A temperature between 0 and this one is this one, as in vLLM: logits must not overflow."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn; temperature 0 takes the likeliest token each time."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512


@dataclass(frozen=True)
class Answer:
    """Example: `Answer("Call 112 now.", "stop")`"""

    text: str
    finish_reason: FinishReason
    """`abort` where it was interrupted: the text goes as far as it was shown."""


class ChatModel:
    """A language model and its tokenizer; with `model.adaptation` as it was before adapters."""

    def __init__(self, model: Model, tokenizer_path: str) -> None:
        directory = str(resolve_model(tokenizer_path))
        self.tokenizer = load_tokenizer(directory)
        self.stop_token_ids = stop_token_ids(directory)
        self.network: Any = load_frozen(model)
        if torch.cuda.is_available() and not getattr(self.network, "is_quantized", False):
            self.network.to("cuda")

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return int(self.network.config.max_position_embeddings)

    def answer(
        self, prompt: Sequence[int], sampling: Sampling, show: Callable[[str], None]
    ) -> Answer:
        """`show` gets the text piece by piece, the pieces together are the answer's text."""
        stream = Stream(self.tokenizer, len(prompt), show)
        ids = torch.tensor([prompt], device=self.network.device)
        room = min(sampling.max_tokens, self.context - len(prompt))
        try:
            self.network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self._generation(sampling, room),
                streamer=stream,
            )
        except KeyboardInterrupt:
            stream.end()
            return Answer(stream.text, "abort")
        stopped = stream.ids[-1:] and stream.ids[-1] in self.stop_token_ids
        return Answer(stream.text, "stop" if stopped else "length")

    def _generation(self, sampling: Sampling, room: int) -> GenerationConfig:
        """Of the model's own generation config only the penalty counts, as in vLLM's server."""
        own = self.network.generation_config
        sampled: dict[str, Any] = {}
        if sampling.temperature > 0:
            temperature = max(sampling.temperature, COOLEST)
            sampled = {"temperature": temperature, "top_p": sampling.top_p, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=room,
            do_sample=sampling.temperature > 0,
            repetition_penalty=own.repetition_penalty,
            eos_token_id=self.stop_token_ids,
            pad_token_id=self.stop_token_ids[0],
            **sampled,
        )


class Stream(BaseStreamer):  # type: ignore[misc]
    """Shows text as soon as no later token can change it: never half of a character."""

    def __init__(self, tokenizer: Any, prompt_tokens: int, show: Callable[[str], None]) -> None:
        self.tokenizer, self.show = tokenizer, show
        self.to_skip = prompt_tokens
        self.ids: list[int] = []
        self.shown = ""

    @property
    def text(self) -> str:
        return str(self.tokenizer.decode(self.ids, skip_special_tokens=True))

    def put(self, value: torch.Tensor) -> None:
        """transformers hands over the prompt first, then each token."""
        tokens = value.flatten().tolist()
        if self.to_skip:
            assert len(tokens) == self.to_skip
            self.to_skip = 0
            return
        self.ids += tokens
        if not self.text.endswith(HALF_CHARACTER):
            self._flush()

    def end(self) -> None:
        self._flush()

    def _flush(self) -> None:
        text = self.text
        piece, self.shown = text[len(self.shown) :], text
        if piece:
            self.show(piece)
