from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.evaluation.live.durations import DurationHistogram, DurationHistograms
from exporter.model.accumulator import Accumulator
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.histogram import Digest, bucket_of_seconds
from exporter.model.ledger import Window, WindowState
from exporter.model.span import SeriesKey, Span
from tests.support.samples import KEY, NOON, entry, span

OTHER: Final = SeriesKey("checkout", "POST /refund")
WINDOW: Final = Window(NOON, NOON + HOUR_SECONDS)
KEPT_SECONDS: Final = 30.0 * HOUR_SECONDS


class Record:
    """The record of one window, which is written several times."""

    def __init__(self, histograms: DurationHistograms, window: Window = WINDOW) -> None:
        self._histograms = histograms
        self._window = window
        self._digests: Mapping[SeriesKey, Digest] = {}

    def write(self, spans: Iterable[Span], state: WindowState = WindowState.DONE) -> None:
        accumulator = Accumulator([self._window], lambda key: key)
        accumulator.add(spans)
        (content,) = accumulator.finish()
        written = replace(entry(self._window, content.traces), state=state)
        self._histograms.record_changed({self._window: self._digests}, [content], [written])
        self._digests = {key: item.digest for key, item in content.series.items()}


def new_histograms(started_at: float = NOON) -> DurationHistograms:
    return DurationHistograms(
        started_at=started_at, window_start=lambda second: second - second % HOUR_SECONDS, kept_seconds=KEPT_SECONDS
    )


def counted(histograms: DurationHistograms, key: SeriesKey = KEY, now: float = NOON) -> DurationHistogram | None:
    return histograms.current(now).get(key)


def started(number: int, seconds: float, after: float = 10.0) -> Span:
    """A span that starts in the window."""
    return span(number, NOON + after + seconds, seconds)


def test_spans_of_the_live_edge_are_counted_by_bucket() -> None:
    histograms = new_histograms()
    for number, seconds in enumerate((0.1, 0.1, 0.4)):
        histograms.add(KEY, started(number, seconds))
    found = counted(histograms)
    assert found is not None
    assert found.count == 3
    assert found.sum_seconds == pytest.approx(0.6)
    assert found.buckets == ((bucket_of_seconds(0.1), 2), (bucket_of_seconds(0.4), 1))


def test_a_published_histogram_does_not_change() -> None:
    histograms = new_histograms()
    histograms.add(KEY, started(1, 0.1))
    before = counted(histograms)
    histograms.add(KEY, started(2, 0.1))
    assert before is not None
    assert before.count == 1


def test_late_spans_are_counted_when_the_record_has_them() -> None:
    histograms = new_histograms()
    live, late, later = started(1, 0.1), started(2, 30.0), started(3, 0.4)
    record = Record(histograms)
    histograms.add(KEY, live)
    record.write([live, late])
    found = counted(histograms)
    assert found is not None
    assert found.count == 2
    assert found.sum_seconds == pytest.approx(30.1, rel=0.012)
    record.write([live, late, later])
    assert dict(counted(histograms).buckets)[bucket_of_seconds(0.4)] == 1  # type: ignore[union-attr]


def test_a_series_whose_spans_are_all_late_is_counted() -> None:
    histograms = new_histograms()
    Record(histograms).write([started(1, 0.1)])
    found = counted(histograms)
    assert found is not None
    assert found.count == 1


def test_a_sample_of_a_window_changes_nothing_until_the_window_is_read_whole() -> None:
    histograms = new_histograms()
    spans = [started(number, 0.1) for number in range(4)]
    histograms.add(KEY, spans[0])
    record = Record(histograms)
    record.write(spans[1:3], WindowState.PARTIAL)
    assert counted(histograms).count == 1  # type: ignore[union-attr]
    record.write(spans)
    assert counted(histograms).count == 4  # type: ignore[union-attr]


def test_windows_that_began_before_the_process_are_ignored() -> None:
    histograms = new_histograms(started_at=NOON + 1)
    Record(histograms).write([started(1, 0.1)])
    assert counted(histograms) is None


def test_windows_that_are_not_written_any_more_are_forgotten() -> None:
    histograms = new_histograms()
    histograms.add(KEY, started(1, 0.1))
    histograms.current(NOON + KEPT_SECONDS + 1)
    Record(histograms).write([started(2, 0.1)])
    # That the live edge has brought the first span is forgotten, so that the record has a late one.
    assert counted(histograms, now=NOON + KEPT_SECONDS + 1).count == 2  # type: ignore[union-attr]


spans = st.lists(
    st.tuples(
        st.sampled_from([KEY, OTHER]),
        st.sampled_from([0.1, 0.2, 700.0]),
        # Found by the live edge before this write of the record, or never.
        st.none() | st.integers(0, 3),
        # In the record from this write on.
        st.integers(0, 2),
    ),
    max_size=12,
)


@given(spans)
def test_each_span_counts_once_however_it_is_found(found: list[tuple[SeriesKey, float, int | None, int]]) -> None:
    histograms = new_histograms()
    record = Record(histograms)
    numbered = [
        (started(number, seconds)._replace(key=key), live, written)
        for number, (key, seconds, live, written) in enumerate(found)
    ]
    totals: list[int] = []
    for turn in range(4):
        for each, live, _ in numbered:
            if live == turn:
                histograms.add(each.key, each)
        if turn < 3:
            record.write(each for each, _, written in numbered if written <= turn)
        totals.append(sum(histogram.count for histogram in histograms.current(NOON).values()))
    assert totals == sorted(totals), "a counter never falls"
    expected = Counter(key for key, *_ in found)
    assert {key: histogram.count for key, histogram in histograms.current(NOON).items()} == expected
