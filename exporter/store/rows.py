"""What goes into the database and what comes out of it, and how lines of the ledger and judgements become rows."""

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
"""The columns of a line of the ledger, in the order of :func:`row_of` and :func:`entry_of`."""


class StoredSeries(NamedTuple):
    """What is stored of one series.

    Attributes:
        key: the series.
        windows: its windows with traffic, by time.
        judgements: what was found about its past hours, by their start.
        suspects: starts of hours that its flag has touched.
        state: where judging it has stopped, as the detector wrote it; absent if it never began.
    """

    key: SeriesKey
    windows: list[StoredWindow]
    judgements: dict[int, HourEvaluation]
    suspects: frozenset[int]
    state: bytes | None


class SeriesTraffic(NamedTuple):
    """How much is stored of one series; what its durations are is left out.

    Attributes:
        key: the series.
        windows: start and number of traces of its windows with traffic, by time.
        quarantined: starts of hours that are quarantined.
        suspects: starts of hours that its flag has touched.
        state: where judging it has stopped, as the detector wrote it; absent if it never began.
    """

    key: SeriesKey
    windows: list[tuple[int, int]]
    quarantined: frozenset[int]
    suspects: frozenset[int]
    state: bytes | None


class Findings(NamedTuple):
    """What judging more of a series' past has found, to be stored.

    Attributes:
        key: the series.
        judgements: those that are new or have changed.
        state: where judging has stopped.
        settled_suspects: hours that are no longer suspect.
    """

    key: SeriesKey
    judgements: Mapping[int, HourEvaluation]
    state: bytes
    settled_suspects: Collection[int] = ()


class Totals(NamedTuple):
    """What stands in the history altogether."""

    windows: int
    traces: int
    oldest_window_start: int | None
    quarantined: int


class Pruned(NamedTuple):
    """What was too old.

    Attributes:
        windows: how many windows were deleted.
        series: those that nothing is stored of any more.
    """

    windows: int
    series: Sequence[SeriesKey]


def entry_of(start: int, end: int, state: str, *rest: Any) -> LedgerEntry:
    """The ledger's line of a row."""
    return LedgerEntry(Window(start, end), WindowState(state), *rest)


def row_of(entry: LedgerEntry) -> tuple[object, ...]:
    """The row of a line of the ledger."""
    window, state, *rest = (getattr(entry, field.name) for field in fields(LedgerEntry))
    return (*window, state.value, *rest)


def judgement_of(quarantined: int, swings: bytes) -> HourEvaluation:
    """The judgement of a row.

    Raises:
        DamagedDigestError: the bytes are no swings.
    """
    numbers = tuple(decode_numbers(swings))
    if len(numbers) != 2 * len(QUANTILES):
        raise DamagedDigestError(f"{len(numbers)} numbers are no swings")
    return HourEvaluation(bool(quarantined), numbers)


def swings_bytes(judgement: HourEvaluation) -> bytes:
    """The swings of a judgement, as :func:`judgement_of` reads them."""
    return encode_numbers(judgement.swings)
