"""What was measured, beside what it is compared with and what it may cost at most; and the table of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Unit = Literal["seconds", "bytes", "count", "ratio", "percent"]


@dataclass(frozen=True, slots=True)
class Reference:
    """What a figure is compared with, measured in the same run and in the same unit."""

    what: str
    value: float


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a figure, or its ratio to the reference, may come to.

    Attributes:
        most: the limit, in the unit of the figure or as a ratio.
        of: what it limits.
    """

    most: float
    of: Literal["measured", "ratio"] = "measured"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        what: what was measured, and under which conditions.
        measured: the result.
        unit: its unit.
        reference: what it is compared with.
        budget: what it may come to; without one the figure is for information.
        detail: what else is worth knowing about the result.
    """

    what: str
    measured: float
    unit: Unit
    reference: Reference | None = None
    budget: Budget | None = None
    detail: str = ""

    @property
    def ratio(self) -> float | None:
        """The figure over its reference."""
        if self.reference is None or not self.reference.value:
            return None
        return self.measured / self.reference.value

    @property
    def kept(self) -> bool | None:
        """Whether the budget was kept; nothing where there is none."""
        if self.budget is None:
            return None
        limited = self.measured if self.budget.of == "measured" else self.ratio
        return limited is not None and limited <= self.budget.most

    def row(self) -> tuple[str, ...]:
        """The cells of its line."""
        kept, budget, reference = self.kept, self.budget, self.reference
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
    """A value as people read it."""
    if unit == "seconds":
        return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.1f} s" if value < 100 else f"{value:.0f} s"
    if unit == "bytes":
        return f"{value / 1e6:,.1f} MB" if value >= 1e6 else f"{value:,.0f} bytes"
    if unit == "percent":
        return f"{value * 100:.1f} %"
    return f"{value:.2f} ×" if unit == "ratio" else f"{value:,.0f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that is also readable as it is."""
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
