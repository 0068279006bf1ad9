"""Records that the store returns and accepts, and their conversion to and from rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, NamedTuple

from exporter.model.histogram_codec import DamagedDigestError, decode_numbers, encode_numbers
from exporter.model.hours import QUANTILES, HourEvaluation, StoredWindow
from exporter.model.ledger import LedgerEntry, Window, WindowState
from exporter.model.span import SeriesKey

ENTRY_COLUMNS: Final = (
    "start, end, state, read_at, traces, stored, coverage, requests, splits,"
    " duration_seconds, attempts, retry_at, error"
)
"""Columns of a ledger entry, in the order of :func:`entry_to_row` and :func:`entry_from_row`."""


class StoredSeries(NamedTuple):
    """Stored history of one series. Times are in Unix seconds.

    Attributes:
        key: the series.
        windows: its windows with traffic, in time order.
        evaluations: results of evaluated hours, by start of the hour.
        suspects: starts of hours that its flag has touched.
        state: state of its evaluation as encoded by the detector; None if it was never evaluated.
    """

    key: SeriesKey
    windows: list[StoredWindow]
    evaluations: dict[int, HourEvaluation]
    suspects: frozenset[int]
    state: bytes | None


class StoredTraffic(NamedTuple):
    """Trace counts of one series, without durations. Times are in Unix seconds.

    Attributes:
        key: the series.
        windows: start and number of traces of its windows with traffic, in time order.
        quarantined: starts of quarantined hours.
        suspects: starts of hours that its flag has touched.
        state: state of its evaluation as encoded by the detector; None if it was never evaluated.
    """

    key: SeriesKey
    windows: list[tuple[int, int]]
    quarantined: frozenset[int]
    suspects: frozenset[int]
    state: bytes | None


class SeriesEvaluation(NamedTuple):
    """Result of evaluating further hours of a series, to be stored. Times are in Unix seconds.

    Attributes:
        key: the series.
        evaluations: results that are new or have changed, by start of the hour.
        state: state of the evaluation, as encoded by the detector.
        settled_suspects: starts of hours that are no longer suspects.
        accepted: changepoints of changes that were accepted as the new baseline.
    """

    key: SeriesKey
    evaluations: Mapping[int, HourEvaluation]
    state: bytes
    settled_suspects: Collection[int] = ()
    accepted: Collection[int] = ()


class HistoryTotals(NamedTuple):
    """Size of the stored history."""

    windows: int
    traces: int
    oldest_window_start: int | None
    quarantined: int


class PruneResult(NamedTuple):
    """What retention deleted.

    Attributes:
        windows: number of windows.
        series: series without any stored data left.
    """

    windows: int
    series: Sequence[SeriesKey]


def entry_from_row(start: int, end: int, state: str, *rest: Any) -> LedgerEntry:
    """Build a ledger entry from a row of ``windows``."""
    return LedgerEntry(Window(start, end), WindowState(state), *rest)


def entry_to_row(entry: LedgerEntry) -> tuple[object, ...]:
    """Return the row of a ledger entry."""
    window, state, *rest = (getattr(entry, field.name) for field in fields(LedgerEntry))
    return (*window, state.value, *rest)


def evaluation_from_row(quarantined: int, swings: bytes) -> HourEvaluation:
    """Build the evaluation of an hour from a row of ``judgements``.

    Raises:
        DamagedDigestError: the encoded swings are damaged.
    """
    numbers = tuple(decode_numbers(swings))
    if len(numbers) != 2 * len(QUANTILES):
        raise DamagedDigestError(f"expected {2 * len(QUANTILES)} numbers, got {len(numbers)}")
    return HourEvaluation(bool(quarantined), numbers)


def encode_swings(evaluation: HourEvaluation) -> bytes:
    """Encode the swings of an hour for :func:`evaluation_from_row`."""
    return encode_numbers(evaluation.swings)
