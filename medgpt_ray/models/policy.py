"""A causal language model as token log-probs: forward pass, chunked projection, entropy.

The [tokens x vocabulary] logits exist only for one chunk of completion tokens at a time, forward
and backward; prompt tokens are never projected.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medgpt_ray.models.attention import arguments
from medgpt_ray.models.packing import MicroBatch

Beside = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits [n, V], their logsumexp [n], targets [n]) -> [n]"""
SCALED_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


class Policy(nn.Module):
    """Wraps an HF causal LM (or a PEFT model of one) for DeepSpeed and for frozen scoring.

    Logits are divided by `temperature`, that of the sampling, so that the log-probs are those of
    the distribution that completions are drawn from. Beside the log-probs it returns for each token
    the entropy, or whether it was the likeliest (`hit`, 1.0 or 0.0).
    """

    def __init__(
        self, network: Any, temperature: float, beside: Literal["entropy", "hit"] = "entropy"
    ) -> None:
        super().__init__()
        for key in SCALED_LOGITS:
            if getattr(network.config, key, None) not in (None, 1, 1.0):
                raise ValueError(
                    f"{network.config.model_type}: config.json sets {key}: logits are changed "
                    "after the output head, which is not supported"
                )
        self.network = network
        self.temperature = temperature
        self.beside = {"entropy": _entropy, "hit": _hit}[beside]

    @property
    def causal_lm(self) -> Any:
        """The HF model itself, adapters injected."""
        return (
            self.network.get_base_model() if hasattr(self.network, "peft_config") else self.network
        )

    def forward(self, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probs [N] of the completion tokens, with gradient, and what stands beside them [N],
        without; float32.
        """
        causal_lm = self.causal_lm
        hidden = causal_lm.get_decoder()(
            input_ids=micro.input_ids,
            position_ids=micro.position_ids,
            use_cache=False,
            **arguments(self.network, micro),
        ).last_hidden_state[0]
        hidden = hidden[micro.predict_at]
        head = causal_lm.get_output_embeddings()
        trained = any(parameter.requires_grad for parameter in head.parameters())
        project = _project_again if trained else _Frozen.apply
        projected = [
            project(states, head, targets, self.temperature, self.beside)
            for states, targets in zip(
                hidden.tensor_split(micro.chunks),
                micro.targets.tensor_split(micro.chunks),
                strict=True,
            )
        ]
        log_probs, beside = zip(*projected, strict=True)
        return torch.cat(log_probs), torch.cat(beside)


def _project_again(*inputs: Any) -> tuple[Tensor, Tensor]:
    """`_project`, whose logits are made anew on the way back."""
    return checkpoint(_project, *inputs, use_reentrant=False)  # type: ignore[no-any-return]


class _Frozen(torch.autograd.Function):
    """`_project` by a head that is not trained: its gradient is that of each log-prob by its own
    hidden state, times what comes back. That is known on the way forward, so the logits are made
    once.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        learns = ctx.needs_input_grad[0]
        with torch.set_grad_enabled(learns):
            hidden = hidden.detach().requires_grad_(learns)
            chosen, beside = _project(hidden, *others)
        ctx.mark_non_differentiable(beside)
        if learns:
            ctx.save_for_backward(*torch.autograd.grad(chosen, hidden, torch.ones_like(chosen)))
        return chosen.detach(), beside

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return (slope * gradients[0][:, None]).to(slope.dtype), None, None, None, None


def _project(
    hidden: Tensor, head: nn.Module, targets: Tensor, temperature: float, beside: Beside
) -> tuple[Tensor, Tensor]:
    logits = head(hidden).float() / temperature
    chosen, log_z = _Chosen.apply(logits, targets)
    with torch.no_grad():
        return chosen, beside(logits, log_z, targets)


class _Chosen(torch.autograd.Function):
    """(logits [n, V], targets [n]) -> log-probs of the targets [n], logsumexp [n].

    Autograd would make a tensor of zeros the size of the logits for the gather, and walk through
    them several times more.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        log_z = torch.logsumexp(logits, dim=-1)
        ctx.save_for_backward(logits, log_z, targets)
        ctx.mark_non_differentiable(log_z)
        return logits.gather(-1, targets[:, None])[:, 0] - log_z, log_z

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, log_z, targets = ctx.saved_tensors
        gradient = gradients[0][:, None]
        result = (logits - log_z[:, None]).exp_().mul_(-gradient)
        return result.scatter_add_(-1, targets[:, None], gradient), None


def _entropy(logits: Tensor, log_z: Tensor, targets: Tensor) -> Tensor:
    return log_z - (torch.exp(logits - log_z[:, None]) * logits).sum(-1)


def _hit(logits: Tensor, log_z: Tensor, targets: Tensor) -> Tensor:
    return (logits.argmax(-1) == targets).float()


@torch.no_grad()
def score(policy: nn.Module, micros: Iterable[MicroBatch]) -> dict[int, np.ndarray]:
    """Index of a sequence in its batch -> log-probs (or values) [T] float32; `policy` is called on
    micro-batches.
    """
    scored = {}
    for micro in micros:
        values = policy(micro)[0]
        for place, index in enumerate(() if micro.idle else micro.index):
            scored[index] = values[micro.sequence == place].float().cpu().numpy()
    return scored
