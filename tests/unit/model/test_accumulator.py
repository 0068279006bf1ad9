"""Accumulator: counts spans by the window of their start, the mark of their end, and their resolved series."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import ceil
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.accumulator import Accumulator, WindowContent
from exporter.model.calendar import HourClock
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import encode_digest, encode_failures, encode_marks
from exporter.model.ledger import Window
from exporter.model.series_hour import SeriesHour, StoredWindow
from exporter.model.span import FilterReason, SeriesKey, Span
from tests.support.fakes import NS, span
from tests.support.ledgers import HOUR, NOON, UTC_CALENDAR

MARK = 300
NAMES = [SeriesKey("shop", "GET /cart"), SeriesKey("shop", "GET /cart/7"), SeriesKey("auth", "login")]
NOISE = SeriesKey("probe", "healthz")
TOO_MANY = SeriesKey("shop", "GET /one-too-many")


def resolve(key: SeriesKey) -> SeriesKey | FilterReason:
    """Map two names of the shop to one series, and reject two other names."""
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
        # Exactly at a window or mark, which begin at whole seconds.
        st.integers(begin, windows[-1].end - 1).map(lambda second: second * NS),
        st.sampled_from(windows).map(lambda window: window.start * NS),
    )
    durations_ns = st.one_of(st.sampled_from([0, 1, 60 * NS, MARK * NS]), st.integers(0, 7200 * NS))
    keys = st.sampled_from([*NAMES, NOISE, TOO_MANY])
    failed = st.sampled_from([False, True] if draw(st.booleans()) else [False, True, None])
    drawn = draw(st.lists(st.tuples(starts_ns, durations_ns, keys, failed), max_size=40))
    return Case(windows, [Span("0" * 32, "0" * 16, key, start, length, failed) for start, length, key, failed in drawn])


def accumulate(windows: Sequence[Window], *batches: Sequence[Span]) -> list[WindowContent]:
    accumulator = Accumulator(windows, resolve)
    for batch in batches:
        accumulator.add(batch)
    return accumulator.finish()


def first_mark(window: Window) -> int:
    return ceil(window.start / MARK)


@given(cases(), st.integers(0, 40))
def test_windows_count_their_spans_by_series_and_mark(case: Case, cut: int) -> None:
    contents = accumulate(case.windows, case.spans[:cut], case.spans[cut:])
    assert [content.window for content in contents] == case.windows
    for content in contents:
        inside = [each for each in case.spans if content.window.start * NS <= each.start_ns < content.window.end * NS]
        durations: dict[SeriesKey, list[int]] = defaultdict(list)
        marks: dict[SeriesKey, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        skipped: dict[str, int] = defaultdict(int)
        for each in inside:
            resolved = resolve(each.key)
            if isinstance(resolved, str):
                skipped[resolved] += 1
                continue
            durations[resolved].append(each.duration_ns)
            mark = -(-each.end_ns // (MARK * NS))
            marks[resolved][mark - first_mark(content.window)].append(each.duration_ns)
        assert content.series.keys() == durations.keys()
        for key, found in content.series.items():
            assert found.digest == Digest.of_ns(durations[key])
            assert found.marks == {offset: Digest.of_ns(some) for offset, some in marks[key].items()}
            assert Digest.pool(found.marks.values()) == found.digest
        assert content.skipped == skipped
        assert content.stored == sum(map(len, durations.values()))
        assert content.traces == len(inside)


@given(cases(), st.randoms(use_true_random=False))
def test_failures_are_counted_by_mark_in_any_order(case: Case, random: Random) -> None:
    for content in accumulate(case.windows, random.sample(case.spans, len(case.spans))):
        failed: dict[SeriesKey, list[bool | None]] = defaultdict(list)
        marks: dict[SeriesKey, Counter[int]] = defaultdict(Counter)
        for each in case.spans:
            key = resolve(each.key)
            if isinstance(key, str) or not content.window.start * NS <= each.start_ns < content.window.end * NS:
                continue
            failed[key].append(each.failed)
            if each.failed:
                marks[key][-(-each.end_ns // (MARK * NS)) - first_mark(content.window)] += 1
        for key, found in content.series.items():
            assert found.failures == (None if None in failed[key] else marks[key])


@given(cases())
def test_stored_failures_are_those_of_the_hour(case: Case) -> None:
    clock = HourClock(UTC_CALENDAR)
    for content in accumulate(case.windows, case.spans):
        start, end = content.window
        inside = [each for each in case.spans if start * NS <= each.start_ns < end * NS]
        inside = [each for each in inside if resolve(each.key) == NAMES[0]]
        found = content.series.get(NAMES[0])
        if found is None:
            continue
        failures = None if found.failures is None else encode_failures(found.failures)
        stored = StoredWindow(start, found.digest.count, encode_digest(found.digest), failures=failures)
        by_mark = SeriesHour(clock.hour(start), [stored]).failures()
        if any(each.failed is None for each in inside):
            assert by_mark is None
        else:
            assert by_mark == Counter(-(-each.end_ns // (MARK * NS)) * MARK for each in inside if each.failed)


@given(cases())
def test_stored_marks_do_not_depend_on_the_length_of_windows(case: Case) -> None:
    """The marks of a stored hour are the five-minute marks of the clock up to which its spans ended."""
    clock = HourClock(UTC_CALENDAR)
    ended: dict[int, list[int]] = defaultdict(list)
    for each in case.spans:
        if resolve(each.key) == NAMES[0]:
            ended[-(-each.end_ns // (MARK * NS)) * MARK].append(each.duration_ns)
    decoded: dict[int, list[Digest]] = defaultdict(list)
    for content in accumulate(case.windows, case.spans):
        found = content.series.get(NAMES[0])
        if found is not None:
            stored = StoredWindow(
                content.window.start, found.digest.count, encode_digest(found.digest), encode_marks(found.marks)
            )
            for mark, samples in SeriesHour(clock.hour(content.window.start), [stored]).marks():
                decoded[mark].append(Digest(Counter(samples)))
    assert {mark: Digest.pool(some) for mark, some in decoded.items()} == {
        mark: Digest.of_ns(some) for mark, some in ended.items()
    }


def test_span_is_counted_in_the_window_of_its_start_at_the_mark_of_its_end() -> None:
    windows = [Window(NOON, NOON + HOUR), Window(NOON + HOUR, NOON + 2 * HOUR)]
    (early, late) = accumulate(windows, [span(NOON + HOUR - 1, 700.0, NAMES[0])])
    assert late.series == {}
    assert list(early.series[NAMES[0]].marks) == [12 + 3]


@pytest.mark.parametrize(
    ("start", "seconds", "offset"),
    [(0, 0.0, 0), (0, 0.001, 1), (0, 300.0, 1), (0, 300.001, 2), (299, 1.0, 1), (300, 0.0, 1), (3599, 0.5, 12)],
)
def test_mark_includes_spans_that_ended_exactly_at_it(start: int, seconds: float, offset: int) -> None:
    (content,) = accumulate([Window(NOON, NOON + HOUR)], [span(NOON + start, seconds, NAMES[0])])
    assert list(content.series[NAMES[0]].marks) == [offset]


def test_names_resolved_to_one_series_share_its_digest() -> None:
    (content,) = accumulate(
        [Window(NOON, NOON + HOUR)], [span(NOON, 1.0, NAMES[0]), span(NOON, 2.0, NAMES[1]), span(NOON, 4.0, NAMES[1])]
    )
    assert content.series.keys() == {NAMES[0]}
    assert content.series[NAMES[0]].digest == Digest.of_ns([1 * NS, 2 * NS, 4 * NS])


def test_skipped_spans_are_counted_by_reason_in_their_window() -> None:
    spans = [span(NOON, 1.0, NOISE)] * 3 + [span(NOON + HOUR, 1.0, TOO_MANY)] * 2 + [span(NOON, 1.0, NAMES[2])]
    windows = [Window(NOON, NOON + HOUR), Window(NOON + HOUR, NOON + 2 * HOUR)]
    one, two = accumulate(windows, spans)
    assert (one.traces, one.stored, one.skipped) == (4, 1, {"filtered": 3})
    assert (two.traces, two.stored, two.skipped) == (2, 0, {"series_limit": 2})
    assert two.series == {}


def test_window_without_spans_has_empty_content() -> None:
    (content,) = accumulate([Window(NOON, NOON + HOUR)])
    assert (content.traces, content.stored, content.series, content.skipped) == (0, 0, {}, {})


def test_name_cache_is_bounded_when_every_name_is_distinct() -> None:
    resolved = SeriesKey("shop", "GET /orders/{number}")
    accumulator = Accumulator([Window(0, 3600)], lambda key: resolved)
    for number in range(50_000):
        accumulator.add([Span("", "", SeriesKey("shop", f"GET /orders/{number}"), number, 1_000_000)])
    (content,) = accumulator.finish()
    assert {key: item.digest.count for key, item in content.series.items()} == {resolved: 50_000}
    assert len(accumulator._series_of[0]) <= 20_000
