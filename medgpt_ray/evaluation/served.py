"""How likely a served model finds texts, by the log-probs that `/v1/completions` echoes."""

import http.client
import json
import urllib.request
from collections.abc import Sequence as Seq
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from medgpt_ray.evaluation.harness import CONCURRENT, REQUEST_S, Endpoint, EvaluationFailed
from medgpt_ray.models.likelihood import Likelihood
from medgpt_ray.models.packing import Sequence


def likelihoods(endpoint: Endpoint, sequences: Seq[Sequence]) -> list[Likelihood]:
    """As `models.likelihood.likelihoods`; the server takes each sequence and one token more.

    Raises `EvaluationFailed` where it refuses, or does not echo a log-prob for every token.
    """
    with ThreadPoolExecutor(CONCURRENT) as pool:
        return list(pool.map(lambda one: _likelihood(endpoint, one), sequences))


def _likelihood(endpoint: Endpoint, sequence: Sequence) -> Likelihood:
    ids = [*sequence.prompt_ids, *sequence.completion_ids]
    echoed = _echo(endpoint, ids)["choices"][0]["logprobs"]
    chosen, best = echoed["token_logprobs"], echoed["top_logprobs"]
    if len(chosen) != len(ids) + 1:
        raise EvaluationFailed(f"{endpoint.url}: {len(chosen)} log-probs for {len(ids)} tokens")
    trained = sequence.fields["trained"]
    places = [len(sequence.prompt_ids) + place for place in trained.nonzero()[0]]
    return Likelihood(
        -sum(chosen[place] for place in places),
        sum(chosen[place] >= max(best[place].values()) for place in places),
        len(places),
    )


def _echo(endpoint: Endpoint, ids: list[int]) -> dict[str, Any]:
    body = {"model": endpoint.model, "prompt": ids, "max_tokens": 1, "temperature": 0}
    request = urllib.request.Request(
        f"{endpoint.url}/completions",
        data=json.dumps(body | {"echo": True, "logprobs": 1}).encode(),
        headers={"Content-Type": "application/json", **endpoint.headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_S) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise EvaluationFailed(f"{request.full_url}: {error}") from error
