"""The error of this package that users see."""


class ModelError(ValueError):
    """A model that cannot be used, with the fix."""

    @property
    def problems(self) -> list[str]:
        return [str(self)]
