import math

import pytest

from medgpt_ray.tracking.format import data_name, duration, number, percent


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.412, "0.412"),
        (-0.3, "-0.300"),
        (0.0012, "0.0012"),
        (2.1e-5, "2.1e-05"),
        (41.26, "41.3"),
        (999.7, "1,000"),
        (12345.0, "12,345"),
        (math.nan, "not finite"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0%"), (0.003, "0.3%"), (0.42, "42%"), (math.inf, "not finite")]
)
def test_percent(value: float, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.42, "0.42 s"),
        (12.34, "12.3 s"),
        (59.97, "60.0 s"),
        (245.4, "4m 05s"),
        (3599.7, "1h 00m"),
        (11220.0, "3h 07m"),
        (math.nan, "not finite"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/me/notes.jsonl", "notes.jsonl"),
        ("hf:owner/name@zh:train", "hf:owner/name@zh:train"),
        ("hf:/home/me/set:train", "set:train"),
    ],
)
def test_data_name(path: str, name: str) -> None:
    assert data_name(path) == name
