"""Spans into digests: the loop that a backfill spends its own time in."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from exporter.model.histogram import Digest, bucket_of_ns
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.ledger import Window
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import SkipReason

_NS: Final = 1_000_000_000
_MARK_NS: Final = MARK_SECONDS * _NS
# A mark's offset and a bucket in one integer: one dictionary look-up a span instead of two.
_SHIFT: Final = 12
_BIAS: Final = 1 << (_SHIFT - 1)
_REMEMBERED_NAMES: Final = 20_000
"""Names as Tempo gave them, in each window: with an id in each, they would be as many as there are traces."""


@dataclass(frozen=True, slots=True)
class WindowDigest:
    """The durations of one series in one window.

    Attributes:
        digest: all spans that started in the window.
        marks: the same spans by the five-minute mark at or before which they ended (see `histogram_codec`).
    """

    digest: Digest
    marks: Mapping[int, Digest]


@dataclass(frozen=True, slots=True)
class WindowContent:
    """What was found in one window.

    Attributes:
        window: the window.
        series: the durations of each series.
        skipped: how many spans were not kept, by reason.
        at_start: how many spans, kept or not, started exactly when the window did.
    """

    window: Window
    series: Mapping[SeriesKey, WindowDigest]
    skipped: Mapping[SkipReason, int]
    at_start: int = 0

    @property
    def stored(self) -> int:
        """How many spans its digests hold."""
        return sum(item.digest.count for item in self.series.values())

    @property
    def traces(self) -> int:
        """How many spans there were."""
        return self.stored + sum(self.skipped.values())


class Accumulator:
    """Collects the spans of adjacent windows, each in the window it started in."""

    def __init__(self, windows: Sequence[Window], admit: Callable[[SeriesKey], SeriesKey | SkipReason]) -> None:
        """Prepare for some adjacent windows, oldest first.

        Args:
            windows: the windows.
            admit: says under which name a span's series is kept, or why it is not.
        """
        self._windows = tuple(windows)
        self._admit = admit
        self._starts_ns = [window.start * _NS for window in windows]
        self._first_marks = [-(-window.start // MARK_SECONDS) for window in windows]
        self._counts: list[dict[SeriesKey, dict[int, int]]] = [{} for _ in windows]
        # By the name that Tempo gave, which is not always the one that is kept.
        self._series_of: list[dict[SeriesKey, dict[int, int]]] = [{} for _ in windows]
        self._skipped: list[Counter[SkipReason]] = [Counter() for _ in windows]
        self._at_start = [0] * len(self._windows)

    def add(self, spans: Iterable[Span]) -> None:
        """Add spans, each of which must have started within the windows."""
        starts_ns, first_marks, series_of = self._starts_ns, self._first_marks, self._series_of
        single = len(starts_ns) == 1
        position = 0
        for _, _, key, start_ns, duration_ns in spans:
            if not single:
                position = bisect_right(starts_ns, start_ns) - 1
            if start_ns == starts_ns[position]:
                self._at_start[position] += 1
            series = series_of[position].get(key)
            if series is None:
                series = self._series(position, key)
                if series is None:
                    continue
            # Rounded up: a mark holds what ended in the five minutes before it.
            offset = -(-(start_ns + duration_ns) // _MARK_NS) - first_marks[position]
            code = (offset << _SHIFT) + bucket_of_ns(duration_ns) + _BIAS
            series[code] = series.get(code, 0) + 1

    def _series(self, position: int, key: SeriesKey) -> dict[int, int] | None:
        """Where the spans of a name not met before in a window are counted; nowhere if they are not wanted."""
        kept_as = self._admit(key)
        if isinstance(kept_as, str):
            self._skipped[position][kept_as] += 1
            return None
        counts = self._counts[position].setdefault(kept_as, {})
        known = self._series_of[position]
        if len(known) >= _REMEMBERED_NAMES:
            known.clear()
        known[key] = counts
        return counts

    def series(self) -> set[SeriesKey]:
        """The names under which something was kept so far, in any window."""
        return set().union(*self._counts)

    def finish(self) -> list[WindowContent]:
        """What every window holds, oldest first, also those that stayed empty."""
        return [
            WindowContent(
                window, {key: _window_digest(codes) for key, codes in counts.items()}, dict(skipped), at_start
            )
            for window, counts, skipped, at_start in zip(
                self._windows, self._counts, self._skipped, self._at_start, strict=True
            )
        ]


def _window_digest(codes: Mapping[int, int]) -> WindowDigest:
    total: dict[int, int] = {}
    by_mark: dict[int, dict[int, int]] = {}
    for code, count in codes.items():
        offset, bucket = code >> _SHIFT, (code & (1 << _SHIFT) - 1) - _BIAS
        total[bucket] = total.get(bucket, 0) + count
        by_mark.setdefault(offset, {})[bucket] = count
    return WindowDigest(Digest(total), {offset: Digest(counts) for offset, counts in by_mark.items()})
