"""Tokenising conversations: the stream of this system against `datasets.map` with two processes.

    python -m benchmarks.tokenize [--rounds 2] [--rows 100000] [--data FILE]

All read the same JSONL file, render SmolLM2's chat template and tokenise. This system also marks
which tokens are trained, and shuffles; `datasets.map, mask` marks them as well, with the template's
assistant turns in `{% generation %}` blocks. Rows/s over everything after the imports and the start
of Ray, time to the first row, and the drop of the machine's available memory. Each runs in a
process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks import machine
from benchmarks.compare import Result, alternate, table, today

MODEL = "embedded:smollm2-135m-instruct"
OUTPUT = Path("benchmarks/results/tokenize.md")
PROCESSES, SECONDS = 2, 1800
LONGEST = 2**20
"""Tokens of a row: none is cut or left out here, as `datasets.map` does neither."""
TURN = """{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"""
MARKED_TURN = """{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}\
{% generation %}{{message['content'] + '<|im_end|>'}}{% endgeneration %}\
{% else %}{{message['content'] + '<|im_end|>'}}{% endif %}{{'\n'}}"""


def run(folder: Path, who: str, data: str) -> Result:
    command = [sys.executable, "-m", "benchmarks.tokenize", "--who", who, "--data", data]
    command += ["--folder", str(folder)]
    subprocess.run(command, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)
    result: Result = json.loads((folder / "result.json").read_text())
    return result


def stream(data: str, folder: Path) -> Result:
    import ray

    from medgpt_ray.config.supervised import Source, SupervisedData
    from medgpt_ray.data.examples import Recipe, renderer_of
    from medgpt_ray.data.rejects import Rejects
    from medgpt_ray.data.sources import open_source
    from medgpt_ray.data.stream import Stream
    from medgpt_ray.models.load import resolve_model

    settings = SupervisedData(train=[Source(path=data)], max_tokens=LONGEST)
    recipe = Recipe("sft", settings, str(resolve_model(MODEL)), 0)
    renderer_of(recipe.tokenizer, settings)  # imports transformers
    ray.init(num_cpus=PROCESSES, include_dashboard=False, logging_level="ERROR")
    started = time.perf_counter()
    batches = Stream(
        recipe,
        [open_source(source, "sft") for source in settings.train],
        Rejects(folder / "rejected.jsonl", settings),
        examples_per_step=64,
        epochs=1.0,
        steps=None,
    )
    first, rows, tokens = 0.0, 0, 0
    for batch in batches:
        first = first or time.perf_counter() - started
        rows += len(batch.examples)
        tokens += sum(len(ids) for example in batch.examples for ids, _ in example.sequences)
    return {
        "rows/s": rows / (time.perf_counter() - started),
        "first row s": first,
        "tokens": float(tokens),
    }


def mapped(data: str, folder: Path, mask: bool = False) -> Result:
    import datasets

    from medgpt_ray.models.load import load_tokenizer

    tokenizer = load_tokenizer(MODEL)

    if mask:
        assert tokenizer.chat_template.count(TURN) == 1
        tokenizer.chat_template = tokenizer.chat_template.replace(TURN, MARKED_TURN)

    def tokenise(row: dict) -> dict:
        made = tokenizer.apply_chat_template(row["messages"], return_assistant_tokens_mask=mask)
        return {name: made[name] for name in ("input_ids", "assistant_masks") if name in made}

    started = time.perf_counter()
    rows = datasets.load_dataset("json", data_files=data, split="train", cache_dir=str(folder))
    done = rows.map(tokenise, num_proc=PROCESSES, remove_columns=rows.column_names)
    tokens, first, count = 0, 0.0, 0
    for row in done:
        first = first or time.perf_counter() - started
        tokens += len(row["input_ids"])
        count += 1
    return {
        "rows/s": count / (time.perf_counter() - started),
        "first row s": first,
        "tokens": float(tokens),
    }


MAPPED = {"datasets.map": mapped, "datasets.map, mask": partial(mapped, mask=True)}
CONTENDERS = {"medgpt": stream, **MAPPED}


def write_rows(source: str, count: int, target: Path) -> None:
    """`count` conversations made of the rows of `source`, repeated with a number."""
    from medgpt_ray.data.files import find
    from medgpt_ray.data.formats import detect_file, parse
    from medgpt_ray.data.segments import read, segments

    (file,) = find(source)
    cut = segments(file)
    format = detect_file(cut)
    rows = [parse(record.value, format) for segment in cut for record in read(segment)]
    with target.open("w") as out:
        for number in range(count):
            first, *others = (dict(message) for message in rows[number % len(rows)].messages)
            first["content"] = f"{number}: {first['content']}"
            out.write(json.dumps({"messages": [first, *others]}, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--data", default="configs/demo/data/notes_train.jsonl")
    parser.add_argument("--who", choices=CONTENDERS)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.who:
        result = CONTENDERS[options.who](options.data, options.folder)
        (options.folder / "result.json").write_text(json.dumps(result))
        return
    file = Path(f"runs/tokenize-{os.getpid()}.jsonl")
    file.parent.mkdir(exist_ok=True)
    write_rows(options.data, options.rows, file)
    about = machine.describe(PROCESSES)

    def tell(results: dict[str, list[Result]]) -> None:
        OUTPUT.write_text(
            f"# Tokenising: this system and datasets.map\n\n{today()}, `python -m "
            f"benchmarks.tokenize --rounds {options.rounds} --rows {options.rows} --data "
            f"{Path(options.data).name}`. {about}.\n\n"
            f"{options.rows:,} conversations, {PROCESSES} processes each; mean over rounds "
            "(range).\n\n" + table(results, "rows/s", [("medgpt", name) for name in MAPPED])
        )

    try:
        runs = {name: partial(run, who=name, data=str(file)) for name in CONTENDERS}
        alternate(runs, options.rounds, tell)
    finally:
        file.unlink()


if __name__ == "__main__":
    main()
