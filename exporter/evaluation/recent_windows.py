"""The evaluation windows of the last hours, kept in memory: what timelines show of the time that is not read yet."""

from collections.abc import Sequence
from struct import Struct
from typing import Final

from exporter.evaluation.snapshot import SeriesStatus
from exporter.evaluation.timeline import CurrentPoint
from exporter.model.histogram import bucket_middle_seconds, bucket_of_seconds
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.span import SeriesKey

_RECORD: Final = Struct("<IIihh")
_MAX_RECORDS: Final = 18
"""An hour and a half: a window of an hour is read a quarter of an hour after its end, and reading takes its time."""
_UNKNOWN: Final = -1
_NO_BUCKET: Final = -0x8000


class RecentWindows:
    """Keeps one evaluation window for each series and five minutes. One thread adds, others read.

    They are packed because ten thousand series have eighteen each: 290 bytes a series.
    """

    def __init__(self) -> None:
        """Start without any."""
        # Replaced as a whole, never changed: other threads read it.
        self._series: dict[SeriesKey, bytes] = {}
        self._mark = 0

    def add(self, statuses: Sequence[SeriesStatus], now: float) -> None:
        """Keep the evaluation windows of all series, if five minutes of the clock have begun since the last call."""
        mark = int(now) // MARK_SECONDS * MARK_SECONDS
        if mark == self._mark:
            return
        self._mark = mark
        before, kept = self._series, _RECORD.size * (_MAX_RECORDS - 1)
        self._series = {
            status.key: before.get(status.key, b"")[-kept:] + record
            for status in statuses
            if (record := _packed(status, int(now))) is not None
        }

    def of(self, key: SeriesKey) -> Sequence[CurrentPoint]:
        """Return the kept windows of a series, in time order."""
        points = []
        for at, traces, failures, p50, p95 in _RECORD.iter_unpack(self._series.get(key, b"")):
            points.append(
                CurrentPoint(
                    at,
                    traces,
                    None if failures == _UNKNOWN else failures,
                    None if p50 == _NO_BUCKET else bucket_middle_seconds(p50),
                    None if p95 == _NO_BUCKET else bucket_middle_seconds(p95),
                )
            )
        return points


def _packed(status: SeriesStatus, at: int) -> bytes | None:
    """Encode the evaluation window of a series; None while it is unknown."""
    if status.current_traces is None:
        return None
    failures, p50, p95 = status.current_failures, status.current_p50_seconds, status.current_p95_seconds
    return _RECORD.pack(
        at,
        min(status.current_traces, 0xFFFFFFFF),
        _UNKNOWN if failures is None else min(failures, 0x7FFFFFFF),
        _NO_BUCKET if p50 is None else bucket_of_seconds(p50),
        _NO_BUCKET if p95 is None else bucket_of_seconds(p95),
    )
