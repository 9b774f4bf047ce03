"""A segment becomes a table of examples; what is wrong with a row travels on as a row of it."""

import json
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from medgpt_ray.config.supervised import SupervisedData
from medgpt_ray.data.examples import Recipe, Work, renderer_of, tokenise
from medgpt_ray.data.files import find
from medgpt_ray.data.formats import Reading
from medgpt_ray.data.segments import segments


def test_a_bad_row_of_parquet_is_kept_with_its_dates_and_bytes(
    tiny_model: Path, tmp_path: Path
) -> None:
    path = str(tmp_path / "rows.parquet")
    rows = [{"question": "Dose?", "answer": answer} for answer in ("5 mg.", "")]
    rows = [row | {"on": date(2024, 1, 1), "scan": b"\xff"} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), path)
    (segment,) = segments(find(path)[0])
    recipe = Recipe("sft", SupervisedData(train=[{"path": path}]), str(tiny_model), seed=0)
    renderer = renderer_of(recipe.tokenizer, recipe.data)
    (table,) = tokenise(Work(segment, Reading("qa"), 0, 0, 1.0), 0, recipe, renderer)
    good, bad = table.to_pylist()
    assert (good["problem"], bad["problem"]) == ("", "answer: empty, expected text")
    assert json.loads(bad["raw"])["on"] == "2024-01-01"
