"""Spans become digests: each in the window it started in, at the mark by which it ended, under the name it is kept."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.accumulator import Accumulator, WindowContent
from exporter.model.calendar import HourClock
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import encode_digest, encode_marks
from exporter.model.hours import SeriesHour, StoredWindow
from exporter.model.ledger import Window
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import SkipReason
from tests.support.fakes import NS, span
from tests.support.ledgers import HOUR, NOON, UTC_CALENDAR

MARK = 300
NAMES = [SeriesKey("shop", "GET /cart"), SeriesKey("shop", "GET /cart/7"), SeriesKey("auth", "login")]
NOISE = SeriesKey("probe", "healthz")
TOO_MANY = SeriesKey("shop", "GET /one-too-many")


def admit(key: SeriesKey) -> SeriesKey | SkipReason:
    """Two names of the shop are one series, and two names are not wanted."""
    if key == NOISE:
        return "filtered"
    if key == TOO_MANY:
        return "series_limit"
    return NAMES[0] if key == NAMES[1] else key


class Case(NamedTuple):
    windows: list[Window]
    spans: list[Span]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    step = draw(st.sampled_from([60, 300, 360, 900, HOUR]))
    count = draw(st.integers(1, 5))
    begin = NOON + draw(st.integers(0, 3)) * step
    windows = [Window(begin + number * step, begin + (number + 1) * step) for number in range(count)]
    starts_ns = st.one_of(
        st.integers(begin * NS, windows[-1].end * NS - 1),
        # Windows and marks begin at whole seconds, and so do some spans.
        st.integers(begin, windows[-1].end - 1).map(lambda second: second * NS),
        st.sampled_from(windows).map(lambda window: window.start * NS),
    )
    durations_ns = st.one_of(st.sampled_from([0, 1, 60 * NS, MARK * NS]), st.integers(0, 7200 * NS))
    keys = st.sampled_from([*NAMES, NOISE, TOO_MANY])
    drawn = draw(st.lists(st.tuples(starts_ns, durations_ns, keys), max_size=40))
    return Case(windows, [Span("0" * 32, "0" * 16, key, start, duration) for start, duration, key in drawn])


def accumulated(windows: Sequence[Window], *parts: Sequence[Span]) -> list[WindowContent]:
    accumulator = Accumulator(windows, admit)
    for part in parts:
        accumulator.add(part)
    return accumulator.finish()


def first_mark(window: Window) -> int:
    return ceil(window.start / MARK)


@given(cases(), st.integers(0, 40))
def test_windows_hold_what_regrouping_the_spans_gives(case: Case, cut: int) -> None:
    contents = accumulated(case.windows, case.spans[:cut], case.spans[cut:])
    assert [content.window for content in contents] == case.windows
    for content in contents:
        inside = [each for each in case.spans if content.window.start * NS <= each.start_ns < content.window.end * NS]
        durations: dict[SeriesKey, list[int]] = defaultdict(list)
        marks: dict[SeriesKey, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        skipped: dict[str, int] = defaultdict(int)
        for each in inside:
            kept_as = admit(each.key)
            if isinstance(kept_as, str):
                skipped[kept_as] += 1
                continue
            durations[kept_as].append(each.duration_ns)
            mark = -(-each.end_ns // (MARK * NS))
            marks[kept_as][mark - first_mark(content.window)].append(each.duration_ns)
        assert content.series.keys() == durations.keys()
        for key, found in content.series.items():
            assert found.digest == Digest.of_ns(durations[key])
            assert found.marks == {offset: Digest.of_ns(some) for offset, some in marks[key].items()}
            assert Digest.pool(found.marks.values()) == found.digest
        assert content.skipped == skipped
        assert content.stored == sum(map(len, durations.values()))
        assert content.traces == len(inside)


@given(cases())
def test_marks_are_those_of_the_clock_however_long_windows_are(case: Case) -> None:
    """What comes out of the store as an hour's marks are the marks of the clock by which its spans ended."""
    clock = HourClock(UTC_CALENDAR)
    ended: dict[int, list[int]] = defaultdict(list)
    for each in case.spans:
        if admit(each.key) == NAMES[0]:
            ended[-(-each.end_ns // (MARK * NS)) * MARK].append(each.duration_ns)
    told: dict[int, list[Digest]] = defaultdict(list)
    for content in accumulated(case.windows, case.spans):
        found = content.series.get(NAMES[0])
        if found is not None:
            stored = StoredWindow(
                content.window.start, found.digest.count, encode_digest(found.digest), encode_marks(found.marks)
            )
            for mark, samples in SeriesHour(clock.hour(content.window.start), [stored]).marks():
                told[mark].append(Digest(Counter(samples)))
    assert {mark: Digest.pool(some) for mark, some in told.items()} == {
        mark: Digest.of_ns(some) for mark, some in ended.items()
    }


def test_a_span_belongs_to_the_window_it_started_in_and_to_the_mark_by_which_it_ended() -> None:
    windows = [Window(NOON, NOON + HOUR), Window(NOON + HOUR, NOON + 2 * HOUR)]
    (early, late) = accumulated(windows, [span(NOON + HOUR - 1, 700.0, NAMES[0])])
    assert late.series == {}
    assert list(early.series[NAMES[0]].marks) == [12 + 3]


@pytest.mark.parametrize(
    ("start", "seconds", "offset"),
    [(0, 0.0, 0), (0, 0.001, 1), (0, 300.0, 1), (0, 300.001, 2), (299, 1.0, 1), (300, 0.0, 1), (3599, 0.5, 12)],
)
def test_a_mark_includes_what_ended_right_at_it(start: int, seconds: float, offset: int) -> None:
    (content,) = accumulated([Window(NOON, NOON + HOUR)], [span(NOON + start, seconds, NAMES[0])])
    assert list(content.series[NAMES[0]].marks) == [offset]


def test_series_under_one_name_after_renaming_are_one() -> None:
    (content,) = accumulated(
        [Window(NOON, NOON + HOUR)], [span(NOON, 1.0, NAMES[0]), span(NOON, 2.0, NAMES[1]), span(NOON, 4.0, NAMES[1])]
    )
    assert content.series.keys() == {NAMES[0]}
    assert content.series[NAMES[0]].digest == Digest.of_ns([1 * NS, 2 * NS, 4 * NS])


def test_what_is_not_kept_is_counted_span_by_span() -> None:
    spans = [span(NOON, 1.0, NOISE)] * 3 + [span(NOON + HOUR, 1.0, TOO_MANY)] * 2 + [span(NOON, 1.0, NAMES[2])]
    windows = [Window(NOON, NOON + HOUR), Window(NOON + HOUR, NOON + 2 * HOUR)]
    one, two = accumulated(windows, spans)
    assert (one.traces, one.stored, one.skipped) == (4, 1, {"filtered": 3})
    assert (two.traces, two.stored, two.skipped) == (2, 0, {"series_limit": 2})
    assert two.series == {}


def test_a_window_without_spans_is_there_and_empty() -> None:
    (content,) = accumulated([Window(NOON, NOON + HOUR)])
    assert (content.traces, content.stored, content.series, content.skipped) == (0, 0, {}, {})


def test_names_with_an_id_in_each_take_no_memory_of_their_own() -> None:
    kept = SeriesKey("shop", "GET /orders/{number}")
    accumulator = Accumulator([Window(0, 3600)], lambda key: kept)
    for number in range(50_000):
        accumulator.add([Span("", "", SeriesKey("shop", f"GET /orders/{number}"), number, 1_000_000)])
    (content,) = accumulator.finish()
    assert {key: item.digest.count for key, item in content.series.items()} == {kept: 50_000}
    assert len(accumulator._series_of[0]) <= 20_000
