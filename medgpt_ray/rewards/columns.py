"""The columns of a row that rewards read, and what is said about a bad one."""

from typing import Any

ADVICE = "set it in every row of the data"


def text(row: dict[str, Any], column: str) -> str:
    """The column's text; `ValueError` where it is missing or something else."""
    value = row.get(column)
    if not isinstance(value, str):
        raise bad(row, column, "text")
    return value


def texts(row: dict[str, Any], column: str) -> list[str]:
    """The column's texts: a list of them, or one text as a list of one."""
    value = row.get(column)
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
        raise bad(row, column, "text or a list of texts")
    return values


def flag(row: dict[str, Any], column: str) -> bool | None:
    """The column's true or false; None where the row has no such column."""
    value = row.get(column)
    if value is not None and not isinstance(value, bool):
        raise bad(row, column, "true or false")
    return value


def number(row: dict[str, Any], column: str, default: float) -> float:
    """The column's number, not negative; `default` where the row has no such column."""
    value = row.get(column, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise bad(row, column, "a number that is not negative")
    return float(value)


def bad(row: dict[str, Any], column: str, expected: str, advice: str = ADVICE) -> ValueError:
    """The error about one column: what it is, what is expected, what to do."""
    if row.get(column) is None:
        has = ", ".join(row) or "no columns"
        return ValueError(f"column {column}: missing, expected {expected}: {advice} (it has {has})")
    return ValueError(f"column {column}: is {row[column]!r:.60}, expected {expected}: {advice}")
