"""The error of this package that users see."""

from collections.abc import Sequence


class RetrievalError(ValueError):
    """Documents or an index that cannot be used: `problems` holds every reason, with the fix."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))
