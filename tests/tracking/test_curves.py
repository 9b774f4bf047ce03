import math
import re

import pytest

from medgpt_ray.tracking.curves import Line, chart, line, thinned


def test_a_line_has_the_steps_that_know_the_metric() -> None:
    records = [{"step": 1, "loss": 2.0}, {"step": 2, "kl": 0.1}, {"step": 3, "loss": 1.5}]
    assert line(records, "training", "loss") == Line("training", [1, 3], [2.0, 1.5])


def test_a_line_of_many_points_becomes_means() -> None:
    steps = [float(step) for step in range(1, 1001)]
    thin, size = thinned(Line("loss", steps, [2 * step for step in steps]))
    assert size == 3
    assert len(thin.steps) == len(thin.values) == 334
    assert (thin.steps[0], thin.values[0]) == (2.0, 4.0)
    assert (thin.steps[-1], thin.values[-1]) == (1000.0, 2000.0)  # what is left over


def test_a_line_of_few_points_stays() -> None:
    few = Line("loss", [1.0, 2.0], [0.5, math.nan])
    assert thinned(few) == (few, 1)


def test_means_leave_out_what_is_not_finite() -> None:
    values = [1.0, math.nan, 3.0, math.inf] + [math.nan] * 1596
    thin, size = thinned(Line("loss", list(map(float, range(1600))), values))
    assert size == 4
    assert thin.values[0] == 2.0
    assert all(math.isnan(value) for value in thin.values[1:])


@pytest.mark.parametrize("stacked", [False, True])
def test_a_picture_has_no_colour_of_its_own(stacked: bool) -> None:
    """Black and white would be lost in dark mode or in light."""
    drawn = chart("Rate", [Line("rate", [1.0, 2.0], [1e-5, 2e-5])], stacked=stacked)
    assert drawn is not None
    texts = re.findall(r"<text .*?>", drawn.svg)
    assert texts
    assert all("var(--soft)" in text for text in texts)
    assert not re.findall(r"#[0-9a-f]{6}", drawn.svg)


def test_nothing_finite_is_no_picture() -> None:
    assert chart("Loss", [Line("loss", [1.0], [math.nan]), Line("loss", [], [])]) is None
