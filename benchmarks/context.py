"""What the measurements share: how large they are, where they may write, and what is costly to prepare."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Context:
    """How large the measurements are, and what they share.

    Attributes:
        folder: for databases; emptied by the caller.
        traces: how many traces a week of history holds, for the backfill.
        series: the numbers of series to measure at, rising; the budgets speak of 100 and 10,000.
        judged_series: of so many at most the history is judged; what more would cost follows from that.
        kept_days: how many days of history there are at most; the default retention.
        long_series: how many series the turn of an hour is measured with after so many days.
        repeats: how often what takes little time is measured.
        stored_series: how many series the size of the database is measured with.
        densities: traces of a series in a window, for the size of the database.
        poll_seconds: the interval between polls of an exporter whose memory is measured.
    """

    folder: Path
    traces: int = 1_000_000
    series: tuple[int, ...] = (100, 1_000, 10_000)
    judged_series: int = 2_000
    kept_days: int = 28
    long_series: int = 200
    repeats: int = 200
    stored_series: int = 60
    densities: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)
    poll_seconds: int = 5
    _made: dict[object, Any] = field(default_factory=dict)

    @classmethod
    def quick(cls, folder: Path) -> "Context":
        """Just large enough to show that everything works."""
        return cls(
            folder,
            3_000,
            series=(5,),
            kept_days=8,
            long_series=5,
            repeats=5,
            stored_series=6,
            densities=(),
            poll_seconds=1,
        )

    def once(self, make: Callable[["Context", int], _T], series: int) -> _T:
        """What is made for so many series: the first time it is asked for, and then kept."""
        if (make, series) not in self._made:
            self._made[make, series] = make(self, series)
        made: _T = self._made[make, series]
        return made


def in_child(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Do some work in a fresh process of its own, so that what it costs can be told from everything else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args, **kwargs).result()
