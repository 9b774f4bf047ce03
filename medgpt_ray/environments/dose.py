"""Tools for dose arithmetic: a calculator and a look-up in the row's own dose table.

The policy calls one with a line such as

    calculate: 15 * 20 / 3
    look up: paracetamol

and is answered in a message of the role `tool`; a turn without a call ends the dialogue. The plain
lines are easier for small models than JSON; what counts is the last turn's answer.
"""

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

from medgpt_ray.environments import Observation

CALL = re.compile(r"^\s*(calculate|look up)\s*:\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
OPERATORS: dict[type, Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
LONGEST = 100
"""Characters of an expression."""


class DoseTools:
    """`row["doses"]` maps a medicine to what is known of it, such as "15 mg/kg every 6 hours"."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.doses = {name.lower(): text for name, text in (row.get("doses") or {}).items()}

    def step(self, text: str) -> Observation:
        calls = CALL.findall(text)
        if not calls:
            return None
        answers = [
            self.calculate(what) if tool.lower() == "calculate" else self.look_up(what)
            for tool, what in calls
        ]
        return [{"role": "tool", "content": "\n".join(answers)}]

    def look_up(self, name: str) -> str:
        known = ", ".join(self.doses) or "nothing"
        return self.doses.get(name.lower(), f"{name} is not in the table, which has {known}")

    def calculate(self, expression: str) -> str:
        """The value with up to six digits, or what is wrong with the expression."""
        try:
            return f"{value(expression):.6g}"
        except (ValueError, ZeroDivisionError) as error:
            return f"error: {error}"


def value(expression: str) -> float:
    """Of numbers, + - * / and brackets. ValueError for anything else."""
    if len(expression) > LONGEST:
        raise ValueError(f"more than {LONGEST} characters")
    try:
        tree = ast.parse(expression.replace("×", "*").replace("÷", "/"), mode="eval")
    except SyntaxError:
        raise ValueError("not an expression") from None
    return _value(tree.body)


def _value(node: ast.AST) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(left), _value(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(operand))
    raise ValueError("only numbers, + - * / and brackets")
