"""Counts spans into digests by window, series and mark: the inner loop of a backfill."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from exporter.model.histogram import Digest, bucket_of_ns
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.ledger import Window
from exporter.model.span import FilterReason, SeriesKey, Span

_NS: Final = 1_000_000_000
_MARK_NS: Final = MARK_SECONDS * _NS
# Mark offset and bucket are packed into one integer, so that each span costs one dictionary access instead of two.
_SHIFT: Final = 12
_BIAS: Final = 1 << (_SHIFT - 1)
# Failed spans are counted by mark, under negative numbers; most series have hardly any.
_UNKNOWN_FAILURES: Final = -1
_FIRST_FAILURE: Final = 2
_CACHED_NAMES: Final = 20_000
"""Size of the name cache of one window: where every span name contains an id, there are as many names as traces."""
_CACHED_CHARACTERS: Final = 1024
"""Longer span names are not cached."""


@dataclass(frozen=True, slots=True)
class WindowDigest:
    """Durations of one series in one window.

    Attributes:
        digest: all spans that started in the window.
        marks: the same spans by mark, keyed by offset (see `histogram_codec`).
        failures: number of failed ones among them by mark; None where it is not known of all of them.
        requests: number of requests that Tempo counts where only a sample was read; None where it did not count.
    """

    digest: Digest
    marks: Mapping[int, Digest]
    failures: Mapping[int, int] | None = None
    requests: int | None = None


@dataclass(frozen=True, slots=True)
class WindowContent:
    """Everything read from Tempo for one window.

    Attributes:
        window: the window.
        series: durations by series.
        skipped: number of spans that were not kept, by reason.
        at_start: number of spans, kept or not, with exactly the window's start time.
    """

    window: Window
    series: Mapping[SeriesKey, WindowDigest]
    skipped: Mapping[FilterReason, int]
    at_start: int = 0

    @property
    def stored(self) -> int:
        """Number of spans in the digests."""
        return sum(item.digest.count for item in self.series.values())

    @property
    def traces(self) -> int:
        """Number of spans read, kept or not."""
        return self.stored + sum(self.skipped.values())


class Accumulator:
    """Counts the spans of adjacent windows, each in the window in which it started."""

    def __init__(self, windows: Sequence[Window], resolve: Callable[[SeriesKey], SeriesKey | FilterReason]) -> None:
        """Start with empty windows.

        Args:
            windows: adjacent windows, oldest first.
            resolve: maps the name reported by Tempo to the series that stores the span, or to the reason why none does.
        """
        self._windows = tuple(windows)
        self._resolve = resolve
        self._starts_ns = [window.start * _NS for window in windows]
        self._first_marks = [-(-window.start // MARK_SECONDS) for window in windows]
        self._counts: list[dict[SeriesKey, dict[int, int]]] = [{} for _ in windows]
        # Cache keyed by the name reported by Tempo, which may differ from the series that stores the span.
        self._series_of: list[dict[SeriesKey, dict[int, int]]] = [{} for _ in windows]
        self._skipped: list[Counter[FilterReason]] = [Counter() for _ in windows]
        self._at_start = [0] * len(self._windows)

    def add(self, spans: Iterable[Span]) -> None:
        """Add spans; each must have started within the windows."""
        starts_ns, first_marks, series_of = self._starts_ns, self._first_marks, self._series_of
        single = len(starts_ns) == 1
        position = 0
        for _, _, key, start_ns, duration_ns, failed in spans:
            if not single:
                position = bisect_right(starts_ns, start_ns) - 1
            if start_ns == starts_ns[position]:
                self._at_start[position] += 1
            series = series_of[position].get(key)
            if series is None:
                series = self._series(position, key)
                if series is None:
                    continue
            # Ceiling division: a mark counts the spans that ended in the five minutes up to it, inclusive.
            offset = -(-(start_ns + duration_ns) // _MARK_NS) - first_marks[position]
            code = (offset << _SHIFT) + bucket_of_ns(duration_ns) + _BIAS
            series[code] = series.get(code, 0) + 1
            if failed:
                code = -offset - _FIRST_FAILURE
                series[code] = series.get(code, 0) + 1
            elif failed is None:
                series[_UNKNOWN_FAILURES] = 1

    def _series(self, position: int, key: SeriesKey) -> dict[int, int] | None:
        """Look up the counts of a name that is not cached; None, and one more skipped span, where none are stored."""
        resolved = self._resolve(key)
        if isinstance(resolved, str):
            self._skipped[position][resolved] += 1
            return None
        counts = self._counts[position].setdefault(resolved, {})
        cache = self._series_of[position]
        if len(cache) >= _CACHED_NAMES:
            cache.clear()
        if len(key.span_name) <= _CACHED_CHARACTERS:
            cache[key] = counts
        return counts

    def series(self) -> set[SeriesKey]:
        """Return all series with spans in any window."""
        return set().union(*self._counts)

    def finish(self) -> list[WindowContent]:
        """Return the content of every window, oldest first, including empty ones."""
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
    failures: dict[int, int] = {}
    for code, count in codes.items():
        if code < 0:
            # The marker of unknown failures becomes a mark before the first; then none of them count.
            failures[-code - _FIRST_FAILURE] = count
            continue
        offset, bucket = code >> _SHIFT, (code & (1 << _SHIFT) - 1) - _BIAS
        total[bucket] = total.get(bucket, 0) + count
        by_mark.setdefault(offset, {})[bucket] = count
    marks = {offset: Digest(counts) for offset, counts in by_mark.items()}
    is_unknown = _UNKNOWN_FAILURES in codes
    return WindowDigest(Digest(total), marks, None if is_unknown else failures)
