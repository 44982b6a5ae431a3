"""What is wrong with a filter expression: the one error this package raises."""

from attrs import define


@define(eq=False, slots=False)
class FilterError(ValueError):
    """The text is no filter. `line` and `column` count from 1, in characters."""

    reason: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.reason}"
