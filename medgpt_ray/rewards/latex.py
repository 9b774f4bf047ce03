"""LaTeX as models write it around numbers and letters, as plain text."""

import re

_WRAPPED = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|rm|operatorname)\s*\{([^{}]*)\}"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]{0,200})\}\s*\{([^{}]{0,200})\}")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\ )(?=\d{3}(?!\d))")
_EXPONENT = re.compile(r"\^\{\s*(-?\d{1,9})\s*\}")
_HALF = re.compile(r"\((\d{1,9})\)/\((\d{1,9})\)")
_SYMBOLS = {
    r"\times": "×",
    r"\cdot": "×",
    r"\approx": "≈",
    r"\leq": "≤",
    r"\geq": "≥",
    r"\le": "≤",
    r"\ge": "≥",
    r"\mu": "μ",
    r"\%": "%",
    r"^{\circ}": "°",
    r"^\circ": "°",
    r"\degree": "°",
    r"\,": " ",
    r"\;": " ",
    r"\:": " ",
    r"\!": "",
    r"\ ": " ",
    r"\(": " ",
    r"\)": " ",
    r"\[": " ",
    r"\]": " ",
    "$": "",
}
_SYMBOL = re.compile("|".join(re.escape(name) for name in sorted(_SYMBOLS, key=len, reverse=True)))


def without_latex(text: str) -> str:
    r""" "\(500\,\text{mg}\)" as " 500 mg "; "\boxed{" and what else it does not know stays."""
    text = _EXPONENT.sub(r"^\1", _THOUSANDS.sub("", text))
    text = _HALF.sub(r"\1/\2", _FRACTION.sub(r"(\1)/(\2)", _WRAPPED.sub(r"\1", text)))
    return _SYMBOL.sub(lambda match: _SYMBOLS[match.group()], text)
