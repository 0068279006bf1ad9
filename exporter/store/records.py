"""Records that the store returns and accepts, and their conversion to and from rows."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from exporter.detection.flag import FlagKind, FlagPeriod
from exporter.model.histogram_codec import decode_numbers
from exporter.model.hour_evaluation import NO_SWINGS, EncodedEvaluation, HourEvaluation, ShiftPeriod, is_evaluation
from exporter.model.hours import EvaluationSums
from exporter.model.ledger import LedgerEntry, Window, WindowState
from exporter.model.series_hour import StoredWindow
from exporter.model.span import SeriesKey

ENTRY_COLUMNS: Final = (
    "start, end, state, read_at, traces, stored, coverage, requests, splits,"
    " duration_seconds, attempts, retry_at, error, late_check_at, late_spans"
)
"""Columns of a ledger entry, in the order of :func:`entry_to_row` and :func:`entry_from_row`."""


_LABELS: Final = msgspec.json.Decoder(dict[str, str])

INCIDENT_COLUMNS: Final = "id, start, end, document, is_reconstructed"
"""Columns of an incident, in the order of :class:`StoredIncident`."""

KEY_COLUMNS: Final = "service_name, span_name, labels"
"""Columns of a series key, in the order of :func:`key_to_row` and :func:`key_from_row`."""


class StoredSeries(NamedTuple):
    """Stored history of one series. Times are in Unix seconds.

    Attributes:
        key: the series.
        windows: its windows with traffic, in time order.
        evaluations: results of evaluated hours, by start of the hour.
        suspects: starts of hours that its flag has touched.
        state: state of its evaluation as encoded by the detector; None if it was never evaluated.
        sums: sums over its evaluations, where the reader knows them; the store does not.
    """

    key: SeriesKey
    windows: list[StoredWindow]
    evaluations: Mapping[int, HourEvaluation | EncodedEvaluation]
    suspects: frozenset[int]
    state: bytes | None
    sums: EvaluationSums | None = None


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
        shifts: times in which its flag fired in these hours. One with a known beginning gets its end and the highest
            score of both.
        shifts_since: the stored shifts and flags that began from this instant on are no longer valid; None if all still
            are.
        marks: identifies the marks on time that the state depends on; empty without any.
        evaluated_until: end of the evaluated history of the series.
        flag_periods: times in which its other flags fired in these hours. One with a known beginning gets its end.
    """

    key: SeriesKey
    evaluations: Mapping[int, HourEvaluation]
    state: bytes
    settled_suspects: Collection[int] = ()
    accepted: Collection[int] = ()
    shifts: Sequence[ShiftPeriod] = ()
    shifts_since: int | None = None
    marks: str = ""
    evaluated_until: int = 0
    flag_periods: Sequence[FlagPeriod] = ()


class EvaluatedMarks(NamedTuple):
    """The marks on time that the evaluation of a series depends on.

    Attributes:
        until: end of the evaluated history of the series, Unix seconds.
        signature: identifies them; :data:`VOID_MARKS` if the series must be evaluated again from the beginning.
    """

    until: int
    signature: str


VOID_MARKS: Final = "void"


class StoredMark(NamedTuple):
    """A mark on time as it is stored. Times are in Unix seconds.

    Attributes:
        id: its id.
        source: where it is from.
        until: when it is over; None if it recurs.
        document: all of it, as encoded by the evaluation.
    """

    id: str
    source: str
    until: int | None
    document: str


class StoredIncident(NamedTuple):
    """An incident as it is stored. Times are in Unix seconds.

    Attributes:
        id: its id.
        start: its beginning.
        end: its end; None while it lasts.
        document: all of it, as encoded by the evaluation.
        is_reconstructed: whether it was found in the history, not in current traffic.
    """

    id: str
    start: float
    end: float | None
    document: str
    is_reconstructed: bool = False


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


def key_from_row(service_name: str, span_name: str, labels: str) -> SeriesKey:
    """Build the key of a series from a row of ``series``.

    Raises:
        ValueError: the labels are damaged.
    """
    if not labels:
        return SeriesKey(service_name, span_name)
    return SeriesKey(service_name, span_name, _decode_labels(labels))


@lru_cache(maxsize=1024)
def _decode_labels(labels: str) -> tuple[tuple[str, str], ...]:
    """Decode the labels of a series; series with the same labels share them, which saves memory."""
    return tuple(sorted(_LABELS.decode(labels).items()))


def key_to_row(key: SeriesKey) -> tuple[str, str, str]:
    """Return the row of a series key."""
    labels = json.dumps(dict(key.labels), ensure_ascii=False, separators=(",", ":")) if key.labels else ""
    return key.service_name, key.span_name, labels


def entry_from_row(start: int, end: int, state: str, *rest: Any) -> LedgerEntry:
    """Build a ledger entry from a row of ``windows``."""
    return LedgerEntry(Window(start, end), WindowState(state), *rest)


def entry_to_row(entry: LedgerEntry) -> tuple[object, ...]:
    """Return the row of a ledger entry."""
    window, state, *rest = (getattr(entry, field.name) for field in fields(LedgerEntry))
    return (*window, state.value, *rest)


def flag_period_from_row(kind: str, since: float, until: float | None) -> FlagPeriod | None:
    """Build a time in which a flag fired from a row; None for a kind that this version does not know."""
    return FlagPeriod(FlagKind(kind), since, until) if kind in set(FlagKind) else None


def evaluations_from_rows(
    rows: Iterable[tuple[int, int, bytes]], on_damage: Callable[[], None]
) -> dict[int, EncodedEvaluation]:
    """Build the evaluations of hours from rows of ``judgements``, by start of the hour.

    Args:
        rows: start of the hour, whether it is quarantined, and encoded swings and deviations.
        on_damage: called for each damaged row; its hour counts as not evaluated.
    """
    evaluations = {}
    new = tuple.__new__
    for hour, quarantined, numbers in rows:
        if is_evaluation(numbers):
            # As EncodedEvaluation() does, in half the time.
            evaluations[hour] = new(EncodedEvaluation, (quarantined != 0, numbers))
        else:
            on_damage()
    return evaluations


def deviations_from_row(swings: bytes) -> bytes:
    """Return the encoded deviations in a row of ``judgements``, without the rest of the evaluation.

    Raises:
        DamagedDigestError: the encoded swings are damaged.
    """
    return decode_numbers(swings, len(NO_SWINGS))[1]
