"""Measured figures with their references and budgets, and the table that shows them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Unit = Literal["seconds", "bytes", "count", "ratio", "percent"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A value to compare a figure with, measured in the same run and unit."""

    what: str
    value: float


@dataclass(frozen=True, slots=True)
class Budget:
    """The upper limit of a figure or of its ratio to the reference.

    Attributes:
        most: the limit, in the unit of the figure or as a ratio.
        of: whether it limits the measured value or the ratio.
    """

    most: float
    of: Literal["measured", "ratio"] = "measured"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table.

    Attributes:
        what: the measurement and its conditions.
        measured: the result.
        unit: unit of the result.
        reference: a value to compare the result with.
        budget: its limit; a figure without one is for information.
        detail: more about the result, shown in parentheses.
    """

    what: str
    measured: float
    unit: Unit
    reference: Reference | None = None
    budget: Budget | None = None
    detail: str = ""

    @property
    def ratio(self) -> float | None:
        """The result divided by the reference."""
        if self.reference is None or not self.reference.value:
            return None
        return self.measured / self.reference.value

    @property
    def is_kept(self) -> bool | None:
        """Whether the budget is kept; None without a budget."""
        if self.budget is None:
            return None
        limited = self.measured if self.budget.of == "measured" else self.ratio
        return limited is not None and limited <= self.budget.most

    def row(self) -> tuple[str, ...]:
        """Return the cells of the row."""
        kept, budget, reference = self.is_kept, self.budget, self.reference
        limit = ""
        if budget is not None:
            limit = f"≤ {budget.most:g} ×" if budget.of == "ratio" else f"≤ {amount(budget.most, self.unit)}"
        return (
            "" if kept is None else "kept" if kept else "MISSED",
            self.what,
            "" if self.ratio is None else f"{self.ratio:.2f} ×",
            amount(self.measured, self.unit) + (f" ({self.detail})" if self.detail else ""),
            "" if reference is None else f"{amount(reference.value, self.unit)} {reference.what}",
            limit,
        )


HEADER = ("budget", "what", "ratio", "measured", "compared with", "limit")


def amount(value: float, unit: Unit) -> str:
    """Format a value with its unit."""
    if unit == "seconds":
        return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.1f} s" if value < 100 else f"{value:.0f} s"
    if unit == "bytes":
        return f"{value / 1e6:,.1f} MB" if value >= 1e6 else f"{value:,.0f} bytes"
    if unit == "percent":
        return f"{value * 100:.1f} %"
    return f"{value:.2f} ×" if unit == "ratio" else f"{value:,.0f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table with aligned columns."""
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
