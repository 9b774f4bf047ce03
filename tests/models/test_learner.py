"""The learner on real DeepSpeed and gloo: cuts, ranks and stages change nothing; resume is exact.

Processes are dear to start, so each one does several cases.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import exported_weights, learner, make_batch, run_ranks, step, weighted

from medgpt_ray.config import schema
from medgpt_ray.models.packing import MicroBatch

FULL, BF16, LORA = ("full", "float32"), ("full", "bfloat16"), ("lora", "float32")
ONE_RANK = [(1, 400, FULL), (0, 400, FULL), (1, 20, FULL), (2, 30, FULL), (1, 400, BF16)]
ONE_RANK += [(1, 400, LORA), (2, 30, LORA)]
TWO_RANKS = [(0, 30, FULL), (2, 30, FULL), (3, 20, FULL), (1, 30, BF16), (3, 30, BF16)]
TWO_RANKS += [(3, 30, LORA)]
"""ZeRO stage, tokens of a micro-batch, what is trained and its compute type. One rank, stage 1 and
400 tokens is what the others of the kind must equal."""
Case = tuple[int, int, tuple[str, str]]


def train(model: Path, cases: list[Case]) -> list[Any]:
    """Metrics of three updates and the weights after the last, of each case."""
    results = []
    for stage, max_tokens, kind in cases:
        subject = learner(model, stage, max_tokens, *kind)
        metrics = [step(subject, make_batch(), weighted) for _ in range(3)]
        results.append((metrics, exported_weights(subject)))
    return results


@pytest.fixture(scope="module")
def trained(tiny_model: Path) -> dict[tuple[int, *Case], Any]:
    """(ranks, *case) -> metrics and weights."""
    results = {}
    for count, cases in ((1, ONE_RANK), (2, TWO_RANKS)):
        answers = run_ranks(train, count, tiny_model, cases)[0]
        results |= {(count, *case): answer for case, answer in zip(cases, answers, strict=True)}
    return results


def test_gradient_equals_plain_torch_on_one_big_batch(tiny_model: Path, trained: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    loss = torch.zeros((), dtype=torch.float64)
    for sequence in make_batch():
        logits = model(torch.tensor([sequence.prompt_ids + sequence.completion_ids])).logits[0]
        rows = logits[len(sequence.prompt_ids) - 1 : -1].log_softmax(-1)
        chosen = rows.gather(-1, torch.tensor(sequence.completion_ids)[:, None])[:, 0]
        loss = loss - (chosen * torch.from_numpy(sequence.fields["weight"])).sum() / 57
    loss.backward()
    norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in model.parameters()]))
    first = trained[1, 1, 400, FULL][0][0]
    assert first["tokens/learned"] == sum(len(sequence) for sequence in make_batch())
    assert first["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert first["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)


OTHERS = [*[(1, *c) for c in ONE_RANK if c[:2] != (1, 400)], *[(2, *c) for c in TWO_RANKS]]


@pytest.mark.parametrize("case", OTHERS)
def test_neither_cut_nor_ranks_nor_stage_change_the_update(
    trained: Any, case: tuple[int, *Case]
) -> None:
    kind = case[-1]
    metrics, weights = trained[case]
    expected_metrics, expected = trained[1, 1, 400, kind]
    loose = 500 if kind == BF16 else 1  # bfloat16 has 8 bits: sums differ in the third digit
    for mine, theirs in zip(metrics, expected_metrics, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5 * loose)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4 * loose)
        assert mine["entropy"] == pytest.approx(theirs["entropy"], rel=1e-5 * loose)
    if kind == BF16:
        return
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        # Adam's first steps move a weight by up to the learning rate (1e-3) whatever its gradient.
        np.testing.assert_allclose(tensor, expected[name], atol=2e-5, err_msg=name)


def interrupted(model: Path, cases: list[Case], folder: Path, resume: bool) -> list[Any]:
    """Four updates with a checkpoint after two, or the last two from that checkpoint."""
    results = []
    for stage, max_tokens, kind in cases:
        subject = learner(model, stage, max_tokens, *kind)
        checkpoint = folder / f"{stage}-{kind[1]}"
        if resume:
            subject.load(checkpoint)
        else:
            for _ in range(2):
                step(subject, make_batch(), weighted)
            checkpoint.mkdir(parents=True, exist_ok=True)
            subject.save(checkpoint)
        metrics = [step(subject, make_batch(), weighted) for _ in range(2)]
        results.append((metrics, exported_weights(subject)))
    return results


@pytest.mark.parametrize("count", [1, 2])
def test_a_loaded_learner_goes_on_bit_for_bit(tiny_model: Path, tmp_path: Path, count: int) -> None:
    cases = [(2, 30, FULL), (3, 30, FULL), (1, 30, BF16)]
    straight = run_ranks(interrupted, count, tiny_model, cases, tmp_path, False)[0]
    resumed = run_ranks(interrupted, count, tiny_model, cases, tmp_path, True)[0]
    for (metrics, weights), (again, loaded) in zip(straight, resumed, strict=True):
        assert again == metrics
        for name, tensor in weights.items():
            np.testing.assert_array_equal(loaded[name], tensor, err_msg=name)


def one_process(model: Path) -> dict[str, Any]:
    return {
        "lora": adapters(model, "lora"),
        "qlora": adapters(model, "qlora"),
        "diverged": diverge(model),
        "rates": schedule(model),
    }


@pytest.fixture(scope="module")
def observed(tiny_model: Path) -> dict[str, Any]:
    return run_ranks(one_process, 1, tiny_model)[0]


def adapters(model: Path, kind: str) -> Any:
    """Log-probs before and after training, with the adapter off, and of the exported weights."""
    from transformers import AutoModelForCausalLM

    subject = learner(model, 1, kind=kind)
    batch = make_batch()
    before = subject.log_probs(batch)
    for _ in range(3):
        step(subject, batch, weighted)
    trained, reference = subject.log_probs(batch), subject.log_probs(batch, adapter=False)
    weights = {n: torch.from_numpy(w) for n, w in exported_weights(subject).items()}
    merged = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    unknown = merged.load_state_dict(weights, strict=False).unexpected_keys
    assert not unknown, unknown
    subject.module.network = merged  # score the exported weights in the same way
    return before, trained, reference, subject.log_probs(batch)


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_adapters_have_their_reference_inside_and_export_merged(observed: Any, kind: str) -> None:
    for before, trained, reference, merged in zip(*observed[kind], strict=True):
        np.testing.assert_array_equal(reference, before)
        assert np.abs(trained - before).max() > 1e-3
        np.testing.assert_allclose(merged, trained, atol=1e-4)


def diverge(model: Path) -> str:
    subject = learner(model, 1)

    def broken(log_probs: Any, entropies: Any, micro: MicroBatch) -> Any:
        return log_probs.sum() * float("nan"), {}

    with pytest.raises(FloatingPointError) as caught:
        step(subject, make_batch(), broken)
    return str(caught.value)


def test_a_loss_that_is_not_finite_stops_the_run(observed: Any) -> None:
    assert "learning_rate" in observed["diverged"]


def schedule(model: Path) -> list[float]:
    subject = learner(model, 1)
    subject.config = schema.Learner(learning_rate=1.0, warmup_steps=2, schedule="linear")
    return [step(subject, make_batch(), weighted)["learning_rate"] for _ in range(6)]


def test_warm_up_then_linear_decay(observed: Any) -> None:
    assert observed["rates"] == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8])
