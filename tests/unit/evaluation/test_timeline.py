from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import SLOTS
from exporter.detection.flag import FlagKind, FlagPeriod, merged_periods
from exporter.evaluation.query import BaselineQuerier
from exporter.evaluation.recent_windows import RecentWindows
from exporter.evaluation.snapshot import KindStatus, SeriesStatus
from exporter.evaluation.timeline import (
    CurrentPoint,
    HourUsual,
    PointState,
    SeriesPast,
    Timeline,
    TimelineRange,
    build_timeline,
    heat_map,
    step_of,
)
from exporter.evaluation.timeline_query import TimelineQuerier
from exporter.model.accumulator import Accumulator
from exporter.model.calendar import Calendar, HourClock
from exporter.model.histogram import BUCKETS_PER_OCTAVE, Digest, bucket_of_seconds, bucket_upper_seconds
from exporter.model.hours import hours_of
from exporter.model.ledger import LedgerEntry, Window, WindowState
from exporter.model.pattern import Pattern
from exporter.model.series_hour import SeriesHour
from exporter.model.span import SeriesKey, Span
from exporter.model.time_mark import MarkKind, MarkRange, TimeMark, TimeMarks
from exporter.store import Store
from tests.support.samples import (
    DAY,
    HOUR,
    KEY,
    NOON,
    NS,
    SETTINGS,
    around,
    baseline,
    commit_hour,
    entry,
    evaluate_history,
    explanation,
)

CLOCK = HourClock(Calendar())
NOW = NOON + 600
USUAL = HourUsual(baseline(), 0.01, 120.0)


def spans(
    start: int, seconds: Sequence[float], step: float = 60.0, *, failed: bool = False, key: SeriesKey = KEY
) -> list[Span]:
    """Spans that begin a step apart, each with its duration; the first of them may have failed."""
    return [
        Span(
            f"{start:016x}{number:016x}",
            "1" * 16,
            key,
            round((start + number * step) * NS),
            round(each * NS),
            failed=failed and not number,
        )
        for number, each in enumerate(seconds)
    ]


def stored_hours(clock: HourClock, *traces: Sequence[Span]) -> list[SeriesHour]:
    """The hours that the store would return for the spans of some windows of an hour."""
    with_store = Store.in_memory()
    for some in traces:
        start = clock.hour(some[0].start_ns // NS).start
        window = Window(start, clock.hour(start).end)
        accumulator = Accumulator([window], lambda key: key)
        accumulator.add(some)
        with_store.commit([entry(window, len(some))], accumulator.finish())
    (stored,) = with_store.history([KEY], 0, 2**40, marks_from=0)
    with_store.close()
    return hours_of(stored.windows, clock)


def past(hours: Sequence[SeriesHour], read: Sequence[tuple[int, int]], **others: object) -> SeriesPast:
    requests: Mapping[int, float | None] = {hour.start: float(hour.count) for hour in hours}
    values = {"key": KEY, "hours": hours, "requests": requests, "read": read, "usual": lambda _: USUAL, **others}
    return SeriesPast(**values)  # type: ignore[arg-type]


def build(past: SeriesPast, hours: int = 2, step_seconds: int = HOUR) -> Timeline:
    return build_timeline(past, CLOCK, NOON - hours * HOUR, NOW, step_seconds)


class TestMarks:
    def test_those_that_overlap_the_range_are_part_of_it(self) -> None:
        mark = TimeMark(MarkKind.EXPECTED, Pattern("checkout"), 0, HOUR)
        inside, across = MarkRange(NOON - HOUR, NOON, mark), MarkRange(NOON - 5 * HOUR, NOON - 90 * 60, mark)
        before, behind = MarkRange(NOON - 5 * HOUR, NOON - 2 * HOUR, mark), MarkRange(NOW, NOW + HOUR, mark)
        assert build(past([], [], marks=[before, across, inside, behind])).marks == [across, inside]


class TestPoints:
    def test_in_steps_of_an_hour_requests_count_by_when_they_began(self) -> None:
        hours = stored_hours(CLOCK, spans(NOON - HOUR, [0.1] * 57 + [400.0] * 3))
        before, hour, present = build(past(hours, [(NOON - 2 * HOUR, NOON)])).points
        assert (before.start, before.end, before.traces, before.requests) == (NOON - 2 * HOUR, NOON - HOUR, 0, 0.0)
        assert (before.p50_seconds, before.error_ratio) == (None, None)
        assert (hour.traces, hour.requests, hour.failures) == (60, 60.0, 0)
        assert hour.p50_seconds == pytest.approx(0.1, rel=0.0111)
        assert hour.p95_seconds == pytest.approx(0.1, rel=0.0111)
        assert (present.start, present.end, present.state) == (NOON, NOON + HOUR, PointState.UNREAD)

    def test_in_shorter_steps_they_count_by_when_they_ended(self) -> None:
        slow = spans(NOON - HOUR - 300, [700.0], failed=True)
        hours = stored_hours(CLOCK, slow, spans(NOON - HOUR, [0.1] * 20, 45.0, failed=True))
        first, second, *rest = build(past(hours, [(NOON - 2 * HOUR, NOON)]), 1, 900).points
        assert len(rest) == 3
        assert (first.traces, first.failures, first.error_ratio) == (21, 2, 2 / 21)
        assert first.p50_seconds == pytest.approx(0.1, rel=0.0111)
        assert (first.start, first.end, second.traces) == (NOON - HOUR, NOON - HOUR + 900, 0)
        # The last step of the range ends in the present hour, which was not read.
        assert [point.state for point in rest] == [PointState.READ, PointState.READ, PointState.UNREAD]

    def test_a_gap_of_the_ledger_is_unknown_not_empty(self) -> None:
        hours = stored_hours(CLOCK, spans(NOON - HOUR, [0.1] * 9))
        gap, hour, _ = build(past(hours, [(NOON - HOUR, NOON - 1800), (NOON - 1800, NOON)])).points
        assert (gap.state, gap.requests, gap.failures) == (PointState.UNREAD, None, None)
        assert (hour.state, hour.traces) == (PointState.READ, 9)
        torn = build(past(hours, [(NOON - HOUR, NOON - 1800), (NOON - 1799, NOON)])).points[1]
        assert (torn.state, torn.traces, torn.p50_seconds) == (PointState.UNREAD, 0, None)

    def test_of_a_sample_the_requests_are_extrapolated(self) -> None:
        hours = stored_hours(CLOCK, spans(NOON - HOUR, [0.1] * 10, 60.0))
        read = [(NOON - 2 * HOUR, NOON)]
        sampled = past(hours, read, requests={NOON - HOUR: 40.0})
        assert [point.requests for point in build(sampled, 1).points] == [40.0, None]
        assert build(sampled, 1, 300).points[0].requests == 20.0
        unknown = past(hours, read, requests={NOON - HOUR: None})
        assert [point.requests for point in build(unknown, 1, 300).points[:3]] == [None, None, 0.0]

    def test_failures_that_are_unknown_of_some_traces_are_unknown(self) -> None:
        some = [each._replace(failed=None) for each in spans(NOON - HOUR, [0.1] * 5)]
        hours = stored_hours(CLOCK, some)
        for step_seconds in (HOUR, 900):
            point = build(past(hours, [(NOON - 2 * HOUR, NOON)]), 1, step_seconds).points[0]
            assert (point.traces, point.failures, point.error_ratio) == (5, None, None)

    def test_the_usual_of_each_hour_and_of_the_part_of_its_requests(self) -> None:
        shares = (0.5, *[0.5 / 11] * 11)
        hours = stored_hours(CLOCK, spans(NOON - HOUR, [0.1]))
        usual = HourUsual(baseline(), 0.02, 200.0, shares)
        timeline = build(past(hours, [], usual=lambda hour: usual if hour.start < NOON else HourUsual()), 1, 900)
        assert [point.usual for point in timeline.points] == [usual] * 4 + [HourUsual()]
        assert timeline.points[0].usual_requests == pytest.approx(200 * (0.5 + 2 * 0.5 / 11))
        assert timeline.points[4].usual_requests is None

    def test_quarantined_hours_flags_and_a_change_in_the_range(self) -> None:
        hours = stored_hours(CLOCK, spans(NOON - HOUR, [0.1]))
        inside, over = FlagPeriod(FlagKind.SHIFT, NOON - 900, None), FlagPeriod(FlagKind.ERRORS, 0.0, NOON - 2 * HOUR)
        timeline = build(
            past(
                hours,
                [],
                quarantined={NOON - HOUR},
                error_quarantined={NOON},
                flags=[over, inside],
                changepoint=NOON - HOUR,
            )
        )
        assert [point.is_quarantined for point in timeline.points] == [False, True, False]
        assert [point.is_error_quarantined for point in timeline.points] == [False, False, True]
        assert (timeline.flags, timeline.changepoint) == ([inside], NOON - HOUR)

    def test_what_is_not_read_yet_has_the_last_evaluation_window(self) -> None:
        hours = stored_hours(CLOCK, spans(NOON - HOUR, [0.1] * 9))
        current = [CurrentPoint(NOON + at, 7 + at, 1, 0.2, 0.4) for at in (0, 300, 600)]
        *_, read, present = build(past(hours, [(NOON - 2 * HOUR, NOON)], current=current)).points
        assert read.state is PointState.READ
        assert (present.state, present.traces, present.p95_seconds) == (PointState.CURRENT, 607, 0.4)
        assert present.requests is None
        assert present.error_ratio == 1 / 607
        first, second = build(past(hours, [(NOON - 2 * HOUR, NOON)], current=current), 0, 300).points
        assert (first.traces, second.traces) == (307, 607)

    @pytest.mark.parametrize(
        ("zone", "now", "lengths"),
        [
            ("Europe/Berlin", datetime(2026, 10, 25, 4, tzinfo=UTC), {3600}),
            ("Asia/Kathmandu", datetime(2026, 11, 17, 12, tzinfo=UTC), {3600}),
            ("Australia/Lord_Howe", datetime(2026, 10, 3, 20, tzinfo=UTC), {3600, 1800}),
        ],
    )
    @pytest.mark.parametrize("step_seconds", [300, 900, 3600])
    def test_points_have_no_gap_in_any_time_zone(
        self, zone: str, now: datetime, lengths: set[int], step_seconds: int
    ) -> None:
        clock, end = HourClock(Calendar(ZoneInfo(zone))), int(now.timestamp())
        points = build_timeline(past([], []), clock, end - DAY, end, step_seconds).points
        assert points[0].start == clock.hour(end - DAY).start
        assert [point.start for point in points[1:]] == [point.end for point in points[:-1]]
        assert points[-2].end < end <= points[-1].end
        assert {point.end - point.start for point in points} == (lengths if step_seconds == HOUR else {step_seconds})

    @given(
        st.lists(
            st.tuples(st.integers(1, 3 * HOUR - 1), st.floats(0, 4000, allow_nan=False), st.booleans()), min_size=1
        )
    )
    def test_every_trace_that_ended_in_the_range_is_counted_once(self, requests: list[tuple[int, float, bool]]) -> None:
        begin = NOON - 3 * HOUR
        by_hour: dict[int, list[Span]] = {}
        for number, (offset, seconds, failed) in enumerate(requests):
            start = begin + offset
            some = by_hour.setdefault(start // HOUR, [])
            some.append(Span(f"{number:032x}", "1" * 16, KEY, start * NS, round(seconds * NS), failed=failed))
        hours = stored_hours(CLOCK, *by_hour.values())
        ended = [each.end_ns for some in by_hour.values() for each in some if each.end_ns <= NOON * NS]
        for step_seconds in (300, 900):
            points = build(past(hours, [(begin, NOON)]), 3, step_seconds).points
            assert sum(point.traces for point in points) == len(ended)
        points = build(past(hours, [(begin, NOON)]), 3).points
        assert sum(point.traces for point in points) == len(requests)
        assert sum(point.failures or 0 for point in points) == sum(failed for *_, failed in requests)


@pytest.mark.parametrize(
    ("traces", "hours", "range_", "step"),
    [
        (24_000, 24, TimelineRange.HOURS_24, 300),
        (60 * 24, 24, TimelineRange.HOURS_24, 900),
        (60, 1, TimelineRange.HOURS_6, 900),
        (39, 1, TimelineRange.HOURS_6, 3600),
        (0, 0, TimelineRange.HOURS_6, 3600),
        (10**9, 168, TimelineRange.DAYS_7, 3600),
    ],
)
def test_points_are_as_short_as_their_traces_allow(traces: int, hours: int, range_: TimelineRange, step: int) -> None:
    assert step_of(traces, hours, range_) == step


class TestHeatMap:
    def test_rows_have_equal_ratios_and_count_every_trace(self) -> None:
        hours = stored_hours(CLOCK, spans(NOON - HOUR, [0.0, 0.01, 0.1, 0.1, 10.0]))
        found = heat_map(build(past(hours, [(NOON - 2 * HOUR, NOON)])))
        assert [sum(column) for column in found.counts] == [0, 5, 0]
        bounds = [bucket_upper_seconds(each) for each in found.bounds]
        ratios = {round(later / earlier, 6) for earlier, later in pairwise(bounds)}
        assert len(ratios) == 1
        assert bounds[0] < 0.01
        assert bounds[-1] >= 10.0 * 0.9889
        (row,) = (
            row for row, bound in enumerate(found.bounds[1:]) if found.bounds[row] < bucket_of_seconds(0.1) <= bound
        )
        assert found.counts[1][row] == 2
        assert found.counts[1][0] == 2, "a duration of zero is in the lowest row"

    @given(st.lists(st.integers(-1024, 1087), max_size=20))
    def test_there_are_few_rows_however_far_apart_durations_are(self, buckets: list[int]) -> None:
        timeline = build(past([], []))
        digest = Digest(dict.fromkeys(buckets, 1))
        timeline = Timeline(KEY, 0, 1, HOUR, [timeline.points[0]._replace(digest=digest)], [], None)
        found = heat_map(timeline)
        rows = max(0, len(found.bounds) - 1)
        assert rows <= 36
        assert [len(column) for column in found.counts] == [rows]
        if any(bucket > -1024 for bucket in buckets):
            assert sum(found.counts[0]) == digest.count
            steps = {later - earlier for earlier, later in pairwise(found.bounds)}
            assert len(steps) == 1
            assert BUCKETS_PER_OCTAVE % min(*steps, BUCKETS_PER_OCTAVE) == 0


class TestMergedPeriods:
    def test_overlapping_periods_of_a_kind_are_one(self) -> None:
        shift = [FlagPeriod(FlagKind.SHIFT, *each) for each in ((10.0, 20.0), (15.0, 18.0), (20.0, 30.0), (40.0, None))]
        errors = FlagPeriod(FlagKind.ERRORS, 12.0, 13.0)
        assert merged_periods([*shift, errors]) == [
            errors,
            FlagPeriod(FlagKind.SHIFT, 10.0, 30.0),
            FlagPeriod(FlagKind.SHIFT, 40.0, None),
        ]

    def test_one_without_an_end_contains_all_later_ones(self) -> None:
        periods = [FlagPeriod(FlagKind.SHIFT, 5.0, None), FlagPeriod(FlagKind.SHIFT, 7.0, 9.0)]
        assert merged_periods(periods) == periods[:1]
        assert (
            merged_periods([FlagPeriod(FlagKind.SHIFT, 5.0, 7.0), FlagPeriod(FlagKind.SHIFT, 6.0, None)]) == periods[:1]
        )


class TestRecentWindows:
    def test_one_window_is_kept_for_five_minutes_and_the_oldest_is_dropped(self) -> None:
        recent = RecentWindows()
        for at in range(NOON, NOON + 19 * 300, 15):
            recent.add([SeriesStatus(KEY, current_traces=at - NOON, current_p50_seconds=0.0)], at + 0.5)
        found = recent.of(KEY)
        assert [each.at for each in found] == list(range(NOON + 300, NOON + 19 * 300, 300))
        assert found[0] == CurrentPoint(NOON + 300, 300, None, 0.0, None)

    def test_values_are_as_exact_as_those_of_the_histogram(self) -> None:
        recent = RecentWindows()
        median = Digest({bucket_of_seconds(0.123): 1}).quantile_seconds(0.5)
        recent.add([SeriesStatus(KEY, current_traces=5, current_failures=2, current_p50_seconds=median)], NOON)
        assert recent.of(KEY) == [CurrentPoint(NOON, 5, 2, median, None)]

    def test_series_that_are_unknown_are_forgotten(self) -> None:
        recent = RecentWindows()
        recent.add([SeriesStatus(KEY, current_traces=5)], NOON)
        recent.add([SeriesStatus(KEY)], NOON + 300)
        assert recent.of(KEY) == []


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """Nine days of an endpoint; the day before yesterday one hour was slow, and one hour was not read."""
    store = Store.in_memory()
    for start in range(NOON - 9 * DAY, NOON, HOUR):
        if start == NOON - 5 * HOUR:
            continue
        commit_hour(store, start, {KEY: around(1.0 if start == NOON - 47 * HOUR else 0.1, 60)})
    store.commit([LedgerEntry(Window(NOON - 5 * HOUR, NOON - 4 * HOUR), WindowState.FAILED, read_at=NOON)])
    evaluate_history(store, NOON)
    yield store
    store.close()


class TestQuerier:
    def querier(self, store: Store, recent: RecentWindows | None = None) -> TimelineQuerier:
        return TimelineQuerier(store, CLOCK, SETTINGS, BaselineQuerier(store, CLOCK, SETTINGS), recent)

    def test_a_week_has_the_flags_and_quarantined_hours_of_the_evaluated_history(self, store: Store) -> None:
        querier = self.querier(store)
        timeline = querier.timeline(KEY, TimelineRange.DAYS_7, NOW, querier.usual(KEY, NOW))
        (flag,) = timeline.flags
        assert flag.kind is FlagKind.SHIFT
        assert flag.overlaps(NOON - 47 * HOUR, NOON - 46 * HOUR)
        quarantined = [point.start for point in timeline.points if point.is_quarantined]
        assert NOON - 47 * HOUR in quarantined
        (slow,) = (point for point in timeline.points if point.start == NOON - 47 * HOUR)
        assert slow.usual.baseline is not None
        assert slow.p50_seconds == pytest.approx(10 * slow.usual.baseline.p50_seconds, rel=0.03)
        unread = [point.start for point in timeline.points if point.state is PointState.UNREAD]
        assert unread == [NOON - 5 * HOUR, NOON]
        assert {point.usual_requests for point in timeline.points} == {60.0}

    def test_the_usual_leaves_out_what_marks_leave_out(self) -> None:
        with closing(Store.in_memory()) as store:
            for start in range(NOON - 9 * DAY, NOON, HOUR):
                # Until three days ago it was a load test: more requests, of which a half failed.
                is_test = start < NOON - 3 * DAY
                some = spans(start, [0.1] * (100 if is_test else 60), 36.0 if is_test else 60.0)
                some = [span._replace(failed=is_test and position % 2 == 0) for position, span in enumerate(some)]
                window = Window(start, start + HOUR)
                accumulator = Accumulator([window], lambda key: key)
                accumulator.add(some)
                store.commit([entry(window, len(some))], accumulator.finish())
            evaluate_history(store, NOON)
            mark = TimeMark(MarkKind.EXPECTED, Pattern("checkout"), NOON - 9 * DAY, NOON - 3 * DAY)
            usual = {}
            for marks in (TimeMarks(), TimeMarks([mark])):
                baselines = BaselineQuerier(store, CLOCK, SETTINGS, lambda marks=marks: marks)  # type: ignore[misc]
                querier = TimelineQuerier(store, CLOCK, SETTINGS, baselines)
                usual[len(marks.marks)] = querier.usual(KEY, NOW)
                timeline = querier.timeline(KEY, TimelineRange.DAYS_7, NOW, usual[len(marks.marks)])
                assert [each.mark for each in timeline.marks] == list(marks.marks)
        without, with_mark = usual[0].signals[0], usual[1].signals[0]
        assert without.error_ratio is not None
        assert without.error_ratio > 0.2
        assert with_mark.error_ratio is not None
        assert with_mark.error_ratio < 0.01
        assert (without.requests, with_mark.requests) == (100.0, 60.0)

    def test_flags_that_fire_now_are_known_whether_saved_or_not(self, store: Store) -> None:
        status = SeriesStatus(
            KEY,
            shift=True,
            since=NOON - 75.0,
            explanation=explanation(),
            kinds=(KindStatus(FlagKind.ERRORS, True, NOON - 60.0), KindStatus(FlagKind.TRAFFIC, False)),
        )
        querier = self.querier(store)
        found = querier.timeline(KEY, TimelineRange.HOURS_6, NOW, querier.usual(KEY, NOW), status).flags
        assert found == [FlagPeriod(FlagKind.ERRORS, NOON - 60.0, None), FlagPeriod(FlagKind.SHIFT, NOON - 75.0, None)]

    def test_the_newest_part_is_that_of_the_live_edge(self, store: Store) -> None:
        recent = RecentWindows()
        recent.add([SeriesStatus(KEY, current_traces=9, current_p50_seconds=0.1, current_p95_seconds=0.2)], NOON + 300)
        querier = self.querier(store, recent)
        points = querier.timeline(KEY, TimelineRange.HOURS_6, NOW, querier.usual(KEY, NOW)).points
        assert [point.state for point in points[-2:]] == [PointState.READ, PointState.CURRENT]
        assert (points[-1].start, points[-1].end, points[-1].traces) == (NOON, NOON + 900, 9)

    def test_an_unknown_series_has_an_empty_past(self, store: Store) -> None:
        querier, other = self.querier(store), SeriesKey("no", "where")
        usual = querier.usual(other, NOW)
        timeline = querier.timeline(other, TimelineRange.HOURS_24, NOW, usual)
        assert [each.slot for each in usual.signals] == list(SLOTS)
        assert {point.traces for point in timeline.points} == {0}
        assert {point.usual for point in timeline.points} == {HourUsual()}
        assert heat_map(timeline).bounds == ()

    def test_hours_before_an_accepted_change_are_compared_with_the_baseline_of_then(self) -> None:
        store = Store.in_memory()
        change = NOON - 2 * DAY
        for start in range(NOON - 9 * DAY, NOON, HOUR):
            commit_hour(store, start, {KEY: around(0.1 if start < change else 0.4, 60)})
        evaluate_history(store, NOON)
        querier = self.querier(store)
        timeline = querier.timeline(KEY, TimelineRange.DAYS_7, NOW, querier.usual(KEY, NOW))
        assert timeline.changepoint == change
        usual = [each.usual.baseline.p50_seconds for each in timeline.points if each.usual.baseline is not None]
        assert len(usual) == len(timeline.points)
        changed = [index for index in range(1, len(usual)) if usual[index] > 2 * usual[index - 1]]
        accepted_at = change + SETTINGS.shift.accept_after_seconds
        assert [timeline.points[index].start for index in changed] == [accepted_at]
        store.close()

    def test_failures_and_requests_have_a_usual_by_slot(self) -> None:
        store = Store.in_memory()
        store.declare_failure_rule("status = error")
        for start in range(NOON - 9 * DAY, NOON, HOUR):
            some = [
                each._replace(failed=number % 20 == 0)
                for number, each in enumerate(spans(start + 1, around(0.1, 60), 50.0))
            ]
            window = Window(start, start + HOUR)
            accumulator = Accumulator([window], lambda key: key)
            accumulator.add(some)
            store.commit([entry(window, len(some))], accumulator.finish())
        evaluate_history(store, NOON)
        querier = self.querier(store)
        usual = querier.usual(KEY, NOW)
        assert [each.error_ratio for each in usual.signals] == [3 / 60] * 48
        assert [each.requests for each in usual.signals] == [60.0] * 48
        # All of them begin in the first fifty minutes of the hour.
        assert sum(usual.shares[:10]) == pytest.approx(1.0)
        points = querier.timeline(KEY, TimelineRange.HOURS_24, NOW, usual).points
        assert {point.end - point.start for point in points} == {900}
        assert points[0].usual_requests == pytest.approx(60 * sum(usual.shares[:3]))
        assert sum(point.failures or 0 for point in points[:4]) == 3
        assert {point.usual.error_ratio for point in points} == {3 / 60}
        store.close()

    def test_the_flags_of_the_last_day_are_by_series_and_the_latest_come_first(self) -> None:
        store, other = Store.in_memory(), SeriesKey("checkout", "POST /pay")
        store.save_flags({}, {}, {KEY: {"shift": NOON - 2 * DAY}, other: {"errors": NOON - HOUR}}, NOON)
        store.save_flags({}, {}, {KEY: {}}, NOON - 1800)
        assert self.querier(store).last_day(NOW) == [
            (other, [FlagPeriod(FlagKind.ERRORS, NOON - HOUR, None)]),
            (KEY, [FlagPeriod(FlagKind.SHIFT, NOON - 2 * DAY, NOON - 1800)]),
        ]
        assert [key for key, _ in self.querier(store).last_day(NOON + DAY - 1800)] == [other]
        store.close()
