"""Sizes of the measurements, their working directory, and prepared data that several of them use."""

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
    """Sizes of the measurements and their working directory.

    Attributes:
        folder: directory for databases; the caller deletes it.
        traces: traces in a week of history, for the backfill.
        series: numbers of series to measure with, ascending; the budgets refer to 100 and 10,000.
        evaluated_series: most series whose history is really evaluated; costs of more are extrapolated.
        kept_days: days of history in the longest measurement; the default retention.
        long_series: series in the measurement with kept_days of history.
        repeats: repetitions of short measurements.
        stored_series: series in the measurement of the database size.
        densities: traces per series and window in that measurement.
        poll_seconds: poll interval of the exporter whose memory is measured.
    """

    folder: Path
    traces: int = 1_000_000
    series: tuple[int, ...] = (100, 1_000, 10_000)
    evaluated_series: int = 2_000
    kept_days: int = 28
    long_series: int = 200
    repeats: int = 200
    stored_series: int = 60
    densities: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)
    poll_seconds: int = 5
    _prepared: dict[object, Any] = field(default_factory=dict)

    @classmethod
    def quick(cls, folder: Path) -> "Context":
        """The smallest sizes at which every benchmark works."""
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

    def once(self, prepare: Callable[["Context", int], _T], series: int) -> _T:
        """Return what a function prepares for a number of series; it is called once per number."""
        if (prepare, series) not in self._prepared:
            self._prepared[prepare, series] = prepare(self, series)
        prepared: _T = self._prepared[prepare, series]
        return prepared


def in_child(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function in a new process, so that its processor time and memory are measured apart."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args, **kwargs).result()
