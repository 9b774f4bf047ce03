"""A critic: a language model with one number read off every token."""

from typing import Any

from torch import Tensor, nn

from medgpt_ray.models.attention import arguments
from medgpt_ray.models.packing import MicroBatch
from medgpt_ray.models.weights import base_network


class ValueModel(nn.Module):
    """Wraps a one-label HF sequence classifier, whose head is the value head, for DeepSpeed."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, micro: MicroBatch) -> tuple[Tensor]:
        """Values [N] float32: of the state before each completion token, which the hidden state
        that predicts the token stands for."""
        classifier = base_network(self.network)
        hidden = classifier.get_decoder()(
            input_ids=micro.input_ids,
            position_ids=micro.position_ids,
            use_cache=False,
            **arguments(self.network, micro),
        ).last_hidden_state[0]
        return (classifier.score(hidden[micro.predict_at])[:, 0].float(),)
