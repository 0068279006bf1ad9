"""The history of the source as it is stored, by which the traffic of every series is judged."""

from collections.abc import Iterable, Sequence
from typing import Final
from zlib import crc32

from exporter.baseline.traffic import MARKS, MIN_USUAL_REQUESTS, NO_PATTERN
from exporter.detection.detector import Detector, decode_state
from exporter.detection.traffic.source import (
    NO_LOSSES,
    SOURCE_SERIES,
    Losses,
    SampledSeries,
    SourceHistory,
    source_history,
    source_losses,
)
from exporter.detection.traffic.verdict import SourceWindow
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.hours import hours_of
from exporter.model.ledger import LedgerEntry, WindowState
from exporter.model.span import SeriesKey
from exporter.store import Store, StoredSeries

_SAMPLED_HOURS: Final = 7 * 24
"""Series are chosen by their requests of the last week, which has all hours of both day types."""
_KEYS_AT_ONCE: Final = 200
_SERIES_AT_ONCE: Final = 10
"""So few, because their windows are loaded with marks."""


def read_source(store: Store, detector: Detector, since: int, until: int) -> SourceHistory:
    """Read the history of the source, without losses.

    Args:
        store: the history.
        detector: the rules of all series.
        since: start of the first hour with a verdict, Unix seconds.
        until: start of the last one.

    Raises:
        StoreError: the database cannot be read.
    """
    lookback = detector.rules.lookback_seconds
    windows = [
        SourceWindow(entry.window.start, entry.window.end, entry.there, known_coverage(entry))
        for entry in store.ledger(since - lookback, until)
    ]
    return source_history(
        windows,
        detector.clock,
        since,
        until,
        lookback_seconds=lookback,
        accept_after_seconds=detector.parameters.accept_after_seconds,
    )


def read_source_with_losses(
    store: Store,
    detector: Detector,
    sample: Sequence[SeriesKey],
    since: int,
    until: int,
    *,
    is_from_beginning: bool = False,
) -> SourceHistory:
    """Read the history of the source, and where it lost traffic.

    Args:
        store: the history.
        detector: the rules of all series.
        sample: the series by which the source is judged; see :func:`sampled_keys`.
        since: start of the first hour with a verdict, Unix seconds.
        until: end of the last one.
        is_from_beginning: ignore what is known from earlier evaluations.

    Raises:
        StoreError: the database cannot be read.
    """
    source = read_source(store, detector, since, until)
    if not source.hours:
        return source
    since = max(since, source.hours[0].hour.start)
    # The first windows reach into the hour before, in which requests may have ended that began earlier.
    marks_from = since - 2 * HOUR_SECONDS
    series: list[SampledSeries] = []
    known: Losses = NO_LOSSES
    histories = store.history(
        sample, since - detector.rules.lookback_seconds, until, marks_from=marks_from, at_once=_SERIES_AT_ONCE
    )
    for stored in histories:
        own = detector.of(stored.key)
        if not own.is_enabled or not own.parameters.traffic_enabled:
            continue
        try:
            state = None if stored.state is None or is_from_beginning else decode_state(stored.state)
            counts = _counts(stored, detector, marks_from)
        except (DamagedDigestError, ValueError):
            # The evaluation of the series reports this.
            continue
        traffic = own.traffic(stored.windows, source)
        if state is None:
            series.append(SampledSeries(traffic.record, NO_PATTERN, counts, traffic.source))
            continue
        quarantined = frozenset(state.traffic.quarantined)
        series.append(SampledSeries(traffic.record, state.pattern, counts, traffic.source, quarantined))
        if state.until == since:
            known = {**known, **dict(state.traffic.losses)}
    return source.with_losses(source_losses(series, source, detector.clock, since, until, known))


def read_whole_source(store: Store, detector: Detector, until: int) -> SourceHistory:
    """Read the history of the source since the first stored hour, and where it lost traffic, to replay series.

    Args:
        store: the history.
        detector: the rules of all series.
        until: end of the last hour with a verdict, Unix seconds.

    Raises:
        StoreError: the database cannot be read.
    """
    sample = sampled_keys(store, store.series(), until)
    return read_source_with_losses(store, detector, sample, 0, until, is_from_beginning=True)


def sampled_keys(store: Store, keys: Iterable[SeriesKey], until: int) -> list[SeriesKey]:
    """Choose the series by which the source is judged, at random but always the same.

    They have enough requests in five minutes to be judged; where too few have, those with the most requests follow.

    Args:
        store: the history.
        keys: all series.
        until: end of the last evaluated hour, Unix seconds.

    Raises:
        StoreError: the database cannot be read.
    """
    ordered = sorted(keys, key=lambda key: (crc32(key.text.encode("utf-8", "surrogatepass")), key))
    busy: list[SeriesKey] = []
    others: list[tuple[int, SeriesKey]] = []
    for position in range(0, len(ordered), _KEYS_AT_ONCE):
        chunk = ordered[position : position + _KEYS_AT_ONCE]
        found = {
            stored.key: sum(traces for _, traces in stored.windows)
            for stored in store.traffic(chunk, until - _SAMPLED_HOURS * HOUR_SECONDS, until)
        }
        for key in chunk:
            traces = found.get(key, 0)
            if traces >= MIN_USUAL_REQUESTS * MARKS * _SAMPLED_HOURS:
                busy.append(key)
            elif traces >= MIN_USUAL_REQUESTS:
                others.append((traces, key))
        if len(busy) >= SOURCE_SERIES:
            return busy[:SOURCE_SERIES]
    others.sort(key=lambda each: (-each[0], each[1]))
    return [*busy, *(key for _, key in others)][:SOURCE_SERIES]


def _counts(stored: StoredSeries, detector: Detector, since: int) -> dict[int, int]:
    """Return the requests of a series by mark, of those that began at or after an instant."""
    counts: dict[int, int] = {}
    for hour in hours_of([window for window in stored.windows if window.start >= since], detector.clock):
        for mark, requests in hour.requests():
            counts[mark] = counts.get(mark, 0) + requests
    return counts


def known_coverage(entry: LedgerEntry) -> float | None:
    """The share of the requests in a window that was read; None if unknown."""
    return 1.0 if entry.state is WindowState.EMPTY else entry.coverage if entry.state.is_stored else None
