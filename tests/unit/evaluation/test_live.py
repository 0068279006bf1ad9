from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackLevel
from exporter.detection.flag import INACTIVE, Flag, FlagEvent
from exporter.evaluation.baseline_table import NOT_KNOWN_YET, BaselineTable, SeriesBaseline
from exporter.evaluation.live import LiveEvaluator, TickResult
from exporter.evaluation.snapshot import Exemplar, SeriesStatus
from exporter.ingest.sampling import TimeSample
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import SkipReason
from tests.support.samples import DAY, HOUR, KEY, NOON, SETTINGS, baseline, span, thresholds

NOW = NOON + 1800.0
REMEMBERED = 330.0
OTHER = SeriesKey("checkout", "POST /pay")
THRESHOLD = 0.4
USUAL = SeriesBaseline(float(NOON), baseline(), THRESHOLD, thresholds(0.1))
BOOK = BaselineTable(NOON, {KEY: USUAL})


def admit_all(key: SeriesKey) -> SeriesKey:
    return key


def edge(
    *,
    admit: Callable[[SeriesKey], SeriesKey | SkipReason] = admit_all,
    started_at: float = NOW - HOUR,
    flags: Mapping[SeriesKey, Flag] | None = None,
    most_traces: int = 1000,
) -> LiveEvaluator:
    return LiveEvaluator(
        SETTINGS,
        admit,
        started_at=started_at,
        remembered_seconds=REMEMBERED,
        flags=flags or {},
        most_traces=most_traces,
    )


def judge(live: LiveEvaluator, spans: Iterable[Span], now: float = NOW, book: BaselineTable = BOOK) -> SeriesStatus:
    """Take in spans, tick, and return what is known of the one series."""
    live.take_in(spans, now, book)
    (status,) = live.tick(now, book).statuses
    return status


def steady(until: float, seconds: float, count: int = 60, key: SeriesKey = KEY) -> list[Span]:
    """One span a second, up to an instant."""
    return [span(int(until) - back, until - back, seconds, key) for back in range(count)]


def tick_through(
    live: LiveEvaluator, start: float, seconds: float, ticks: int, book: BaselineTable = BOOK
) -> list[TickResult]:
    """Ticks every 15 seconds with steady traffic in between."""
    found = []
    for number in range(1, ticks + 1):
        now = start + 15 * number
        live.take_in(steady(now, seconds, 15), now, book)
        found.append(live.tick(now, book))
    return found


class TestCounting:
    @given(
        ends=st.lists(st.integers(0, 119), min_size=1, max_size=40),
        readings=st.lists(st.lists(st.integers(0, 39), max_size=40), max_size=6),
    )
    def test_each_span_counts_once_however_often_and_in_whatever_order_it_is_read(
        self, ends: list[int], readings: list[list[int]]
    ) -> None:
        spans = [span(number, NOW - back) for number, back in enumerate(ends)]
        live = edge()
        skipped = 0
        for number, chosen in enumerate([*readings, range(len(spans))]):
            read = [spans[index] for index in chosen if index < len(spans)]
            skipped += live.take_in(read, NOW + 15 * number, BOOK)["duplicate"]
        (status,) = live.tick(NOW, BOOK).statuses
        assert status.traces_total == status.current_traces == len(spans)
        assert skipped == sum(index < len(spans) for chosen in readings for index in chosen)

    def test_spans_of_one_trace_are_told_apart(self) -> None:
        first = span(1, NOW)
        status = judge(edge(), [first, first._replace(span_id="f" * 16)])
        assert status.traces_total == 2

    def test_a_late_trace_counts_while_it_is_in_the_window(self) -> None:
        live = edge()
        judge(live, [span(1, NOW)])
        assert judge(live, [span(2, NOW - 280)], NOW + 15).current_traces == 2

    def test_one_that_comes_later_still_is_left_out(self) -> None:
        live = edge()
        judge(live, [span(1, NOW)])
        assert live.take_in([span(2, NOW - REMEMBERED - 1)], NOW + 15, BOOK) == {"outside_window": 1}
        assert live.tick(NOW + 15, BOOK).statuses[0].traces_total == 1

    def test_the_first_reading_fills_the_longest_window(self) -> None:
        live = edge()
        assert live.take_in([span(1, NOW - 3599), span(2, NOW - 3600)], NOW, BOOK) == {"outside_window": 1}

    def test_what_ended_during_a_pause_leaves_no_hole(self) -> None:
        live = edge()
        judge(live, [span(1, NOW)])
        later = NOW + 1800
        status = judge(live, [span(1, NOW), span(2, NOW + 60), span(3, later - 900)], later)
        assert status.traces_total == status.current_traces == 3

    def test_after_a_pause_longer_than_any_window_the_rest_is_left_out(self) -> None:
        live = edge()
        judge(live, [span(1, NOW)])
        assert live.take_in([span(2, NOW + 60)], NOW + 2 * HOUR, BOOK) == {"outside_window": 1}

    def test_a_clock_that_was_set_back_does_not_shut_out_what_is_new(self) -> None:
        live = edge(started_at=NOW - DAY)
        judge(live, [span(1, NOW)])
        assert judge(live, [span(2, NOW - HOUR)], NOW - HOUR).traces_total == 2

    def test_what_ends_in_the_future_counts_when_its_time_has_come_and_once(self) -> None:
        live = edge()
        ahead = span(1, NOW + 300)
        assert live.take_in([ahead], NOW, BOOK) == {"outside_window": 1}
        assert live.tick(NOW, BOOK).statuses[0].traces_total == 0
        later = NOW + 290
        live.take_in([ahead], later, BOOK)
        assert judge(live, [ahead], later + 15).traces_total == 1

    def test_a_clock_that_runs_a_little_ahead_does_no_harm(self) -> None:
        live = edge()
        status = judge(live, [span(1, NOW + 5)])
        assert (status.traces_total, status.current_traces) == (1, 0)
        assert judge(live, [], NOW + 15).current_traces == 1

    def test_what_ended_before_the_process_began_fills_the_window_but_was_not_judged_by_it(self) -> None:
        status = judge(edge(started_at=NOW - 10), [span(1, NOW - 11, 0.9), span(2, NOW - 10), span(3, NOW)])
        assert (status.current_traces, status.traces_total, status.outliers_total) == (3, 2, 0)

    def test_series_that_are_not_admitted_are_counted_by_reason(self) -> None:
        live = edge(admit=lambda key: "series_limit" if key == OTHER else "filtered")
        assert live.take_in([span(1, NOW), span(2, NOW, key=OTHER), span(3, NOW, key=OTHER)], NOW, BOOK) == {
            "filtered": 1,
            "series_limit": 2,
        }

    def test_a_series_is_kept_under_the_name_it_is_admitted_by(self) -> None:
        assert judge(edge(admit=lambda key: KEY), [span(1, NOW, key=OTHER)]).key == KEY

    def test_what_finds_no_room_in_memory_is_counted_once(self) -> None:
        live = edge(most_traces=3)
        spans = [span(number, NOW - number) for number in range(5)]
        assert live.take_in(spans, NOW, BOOK) == {"memory_limit": 2}
        assert live.take_in(spans, NOW, BOOK) == {"duplicate": 5}
        assert live.tick(NOW, BOOK).statuses[0].traces_total == 3

    def test_there_is_room_again_when_the_window_has_moved_on(self) -> None:
        live = edge(most_traces=3)
        judge(live, [span(number, NOW - number) for number in range(3)])
        later = NOW + 2 * HOUR
        judge(live, [], later)
        assert live.take_in([span(9, later)], later, BOOK) == {}


class TestWindow:
    def test_quantiles_are_those_of_the_last_minutes(self) -> None:
        old = steady(NOW - 300, 5.0, 100)
        status = judge(edge(), [*old, *steady(NOW, 0.1, 90), *steady(NOW - 90, 0.3, 10)])
        assert status.current_traces == 100
        assert status.current_p50_seconds == pytest.approx(0.1, rel=0.011)
        assert status.current_p95_seconds == pytest.approx(0.3, rel=0.011)

    def test_it_reaches_back_where_there_is_little_traffic(self) -> None:
        status = judge(edge(), [span(number, NOW - 200 * number) for number in range(12)])
        assert status.current_traces == 10

    def test_without_traffic_there_are_no_quantiles(self) -> None:
        status = judge(edge(), [])
        assert (status.current_traces, status.current_p50_seconds, status.current_p95_seconds) == (0, None, None)

    def test_an_instant_is_no_time_at_all(self) -> None:
        assert judge(edge(), [span(1, NOW, 0.0)]).current_p50_seconds == 0.0


class TestOutliers:
    def test_they_are_counted_and_the_latest_is_the_exemplar(self) -> None:
        spans = [span(1, NOW - 3, 0.5), span(2, NOW - 1, 0.6), span(3, NOW - 2, 0.7), span(4, NOW, 0.4)]
        status = judge(edge(), spans)
        assert (status.traces_total, status.outliers_total, status.outlier) == (4, 3, True)
        assert status.exemplar == Exemplar(f"{2:032x}", 0.6, NOW - 1)

    def test_the_latest_are_remembered_and_not_more(self) -> None:
        live = edge()
        first = judge(live, [span(1, NOW - 3, 0.5), span(2, NOW - 2, 0.1), span(3, NOW - 1, 0.6)])
        assert list(first.outliers) == [
            Exemplar(f"{1:032x}", 0.5, NOW - 3),
            Exemplar(f"{3:032x}", 0.6, NOW - 1),
        ]
        later = judge(live, [span(number, NOW, number / 10) for number in range(10, 30)])
        assert [each.trace_id for each in later.outliers] == [f"{number:032x}" for number in range(20, 30)]
        # A snapshot that was published stays as it was.
        assert len(list(first.outliers)) == 2

    def test_the_flag_falls_when_the_window_has_passed_and_the_exemplar_stays(self) -> None:
        live = edge()
        judge(live, [span(1, NOW, 0.5)])
        assert judge(live, [], NOW + 299).outlier is True
        status = judge(live, [], NOW + 300)
        assert status.outlier is False
        assert status.exemplar is not None

    def test_without_a_baseline_none_is_known(self) -> None:
        status = judge(edge(), [span(1, NOW, 50.0)], book=BaselineTable(NOON))
        assert (status.outlier, status.outliers_total, status.exemplar) == (None, 0, None)
        assert status.level is FallbackLevel.UNAVAILABLE
        assert not status.learning


class TestShift:
    def test_it_rises_when_it_has_held_and_says_why(self) -> None:
        live = edge()
        live.take_in(steady(NOW, 0.3, 300), NOW, BOOK)
        first = live.tick(NOW, BOOK)
        assert first.changes == ()
        assert first.flags == {KEY: Flag(pending_since=NOW)}
        assert first.statuses[0].shift is False
        *before, risen = tick_through(live, NOW, 0.3, 4)
        assert [judged.changes for judged in before] == [(), (), ()]
        assert [judged.flags for judged in before] == [{}, {}, {}]
        (change,) = risen.changes
        assert (change.key, change.event) == (KEY, FlagEvent.FIRING)
        assert risen.flags == {KEY: Flag(firing=True, since=NOW)}
        assert risen.suspects == {KEY: (NOON,)}
        (status,) = risen.statuses
        assert (status.shift, status.since) == (True, NOW)
        assert status.explanation == change.explanation
        assert status.explanation is not None
        assert "300 of the last 300 requests" in str(status.explanation)
        assert status.score is not None
        assert status.score > 2

    def test_it_falls_when_that_is_over(self) -> None:
        live = edge(flags={KEY: Flag(firing=True, since=NOW - 600)})
        changes = [change for judged in tick_through(live, NOW, 0.1, 12) for change in judged.changes]
        assert [change.event for change in changes] == [FlagEvent.RESOLVED]
        (status,) = live.tick(NOW + 195, BOOK).statuses
        assert (status.shift, status.since) == (False, None)

    def test_usual_traffic_changes_nothing(self) -> None:
        live = edge()
        for judged in tick_through(live, NOW, 0.1, 8):
            assert (judged.changes, judged.flags, judged.suspects) == ((), {}, {})
            assert judged.statuses[0].explanation is None

    def test_a_flag_from_before_a_restart_stands_with_its_beginning(self) -> None:
        flag = Flag(firing=True, since=NOW - 600)
        status = judge(edge(flags={KEY: flag}), steady(NOW, 0.3, 300))
        assert (status.shift, status.since) == (True, NOW - 600)

    def test_a_hold_from_before_a_restart_goes_on(self) -> None:
        live = edge(flags={KEY: Flag(pending_since=NOW - 60)})
        assert judge(live, steady(NOW, 0.3, 300)).since == NOW - 60

    def test_each_trace_is_held_against_the_hour_in_which_it_ended(self) -> None:
        now = NOON + 60.0
        slow_hour = BaselineTable(NOON - HOUR, {KEY: SeriesBaseline(thresholds=thresholds(0.5))})
        spans = [*steady(now, 0.1, 60), *steady(NOON, 0.5, 240)]
        with_both = judge(edge(), spans, now, BaselineTable(NOON, {KEY: USUAL}, slow_hour))
        assert with_both.score == pytest.approx(1 / 1.4, rel=0.05)
        assert with_both.current_traces == 300

    def test_a_series_that_is_learning_has_none(self) -> None:
        immature = SeriesBaseline(float(NOON), baseline(mature=False), THRESHOLD, None)
        book = BaselineTable(NOON, {KEY: immature})
        status = judge(edge(flags={KEY: Flag(firing=True, since=NOW - 600)}), steady(NOW, 0.3, 300), book=book)
        assert (status.shift, status.since, status.score, status.explanation) == (None, None, None, None)
        assert status.learning
        assert status.outlier is False


class TestPage:
    def test_series_stand_in_the_order_of_their_names_whether_read_now_or_long_ago(self) -> None:
        live = edge()
        first, last = SeriesKey("auth", "x"), SeriesKey("zebra", "x")
        live.take_in([span(1, NOW, key=last), span(2, NOW, key=first)], NOW, BOOK)
        assert [status.key for status in live.tick(NOW, BOOK).statuses] == [first, KEY, last]

    def test_one_that_was_not_seen_for_long_leaves(self) -> None:
        live = edge()
        judge(live, [span(1, NOW)])
        empty = BaselineTable(NOON)
        assert live.tick(NOW + DAY, empty).statuses != ()
        assert live.tick(NOW + DAY + 1, empty).statuses == ()

    def test_it_begins_anew_when_it_comes_back(self) -> None:
        live = edge()
        judge(live, [span(1, NOW)])
        later = NOW + 2 * DAY
        live.tick(later, BaselineTable(NOON))
        assert judge(live, [span(2, later)], later, BaselineTable(NOON)).traces_total == 1

    def test_one_with_recent_history_is_there_without_traffic(self) -> None:
        (status,) = edge().tick(NOON + DAY, BOOK).statuses
        assert (status.key, status.baseline, status.current_traces) == (KEY, USUAL.baseline, 0)
        assert edge().tick(NOON + DAY + 1, BOOK).statuses == ()

    def test_one_whose_flag_is_up_stays_until_it_falls(self) -> None:
        live = edge(flags={KEY: Flag(firing=True, since=NOW - 600)})
        assert len(live.tick(NOW, BaselineTable(NOON)).statuses) == 1
        fallen = live.tick(NOW + 120, BaselineTable(NOON))
        assert fallen.flags == {KEY: INACTIVE}
        assert live.tick(NOW + 135, BaselineTable(NOON)).statuses == ()

    def test_the_changepoint_of_an_accepted_change_is_shown(self) -> None:
        book = BaselineTable(NOON, {KEY: SeriesBaseline(float(NOON), changepoint=NOON - DAY)})
        assert judge(edge(), [], book=book).changepoint == NOON - DAY


class TestWhileTempoIsAway:
    def held(self, live: LiveEvaluator, judged_at: float | None, now: float) -> SeriesStatus:
        (status,) = live.hold(judged_at, now, BOOK)
        return status

    def test_what_was_found_last_stands_while_it_counts(self) -> None:
        live = edge(flags={KEY: Flag(firing=True, since=NOW - 600)})
        before = judge(live, steady(NOW, 0.5, 300))
        assert before.explanation is not None
        assert self.held(live, NOW, NOW + 60) == before

    def test_then_only_raised_flags_and_what_is_usual_are_left(self) -> None:
        live = edge(flags={KEY: Flag(firing=True, since=NOW - 600)})
        before = judge(live, steady(NOW, 0.5, 300))
        status = self.held(live, None, NOW + 301)
        assert (status.shift, status.since) == (True, NOW - 600)
        assert (status.baseline, status.outlier_threshold_seconds) == (USUAL.baseline, THRESHOLD)
        assert (status.traces_total, status.outliers_total) == (before.traces_total, before.outliers_total)
        assert (status.current_traces, status.current_p50_seconds, status.current_p95_seconds) == (None, None, None)
        assert (status.score, status.outlier, status.explanation) == (None, None, None)

    def test_no_flag_rises_or_falls(self) -> None:
        live = edge()
        live.take_in(steady(NOW, 0.3, 300), NOW, BOOK)
        live.tick(NOW, BOOK)
        assert self.held(live, NOW, NOW + 120).shift is False
        assert self.held(live, None, NOW + 600).shift is False


class TestWhileItIsNotKnownWhatIsUsual:
    """After a restart, until the history has been worked out."""

    def test_only_what_was_read_is_on_the_page(self) -> None:
        status = judge(edge(), steady(NOW, 0.3, 300), book=NOT_KNOWN_YET)
        assert status == SeriesStatus(
            KEY,
            current_traces=300,
            current_p50_seconds=status.current_p50_seconds,
            current_p95_seconds=status.current_p50_seconds,
            traces_total=300,
            known=False,
            outliers=status.outliers,
        )
        assert status.current_p50_seconds == pytest.approx(0.3, rel=0.0111)
        assert (status.level, status.learning, list(status.outliers)) == (None, False, [])

    def test_a_flag_that_is_up_stays_so_whatever_comes(self) -> None:
        live = edge(flags={KEY: Flag(firing=True, since=NOW - 600)})
        for judged in tick_through(live, NOW, 0.1, 40, NOT_KNOWN_YET):
            (status,) = judged.statuses
            assert (status.shift, status.since, status.score, status.explanation) == (True, NOW - 600, None, None)
            assert (judged.changes, judged.flags, judged.suspects) == ((), {}, {})
        assert live.flags() == {KEY: Flag(firing=True, since=NOW - 600)}
        (later,) = live.hold(None, NOW + HOUR, NOT_KNOWN_YET)
        assert (later.shift, later.since, later.current_traces) == (True, NOW - 600, None)

    @pytest.mark.parametrize("history", [{}, {KEY: replace(USUAL, thresholds=None)}])
    def test_nor_does_it_fall_while_the_past_is_not_judged(self, history: Mapping[SeriesKey, SeriesBaseline]) -> None:
        live = edge()
        *_, risen = tick_through(live, NOW, 0.3, 25)
        assert risen.statuses[0].shift
        unjudged = BaselineTable(NOON, history, judged=False)
        for judged in tick_through(live, NOW + 375, 0.1, 40, unjudged):
            (status,) = judged.statuses
            assert (status.shift, status.score, status.explanation) == (True, None, None)
            assert (status.known, status.baseline) == (True, unjudged.of(KEY).baseline)
            assert (judged.changes, judged.flags, judged.suspects) == ((), {}, {})
        assert live.hold(None, NOW + 990, unjudged)[0].shift
        changes = [change for judged in tick_through(live, NOW + 990, 0.1, 12) for change in judged.changes]
        assert [change.event for change in changes] == [FlagEvent.RESOLVED]

    def test_one_that_has_yet_to_rise_goes_on_where_it_was(self) -> None:
        live = edge(flags={KEY: Flag(pending_since=NOW - 59)})
        assert live.tick(NOW - 15, NOT_KNOWN_YET).statuses == ()
        live.take_in(steady(NOW, 0.3, 300), NOW, NOT_KNOWN_YET)
        (judged,) = tick_through(live, NOW, 0.3, 1)
        assert judged.flags == {KEY: Flag(firing=True, since=NOW - 59)}

    @given(
        durations=st.lists(st.sampled_from([0.1, 0.39, 0.41, 0.9]), min_size=1, max_size=40),
        known_from=st.integers(0, 40),
    )
    def test_outliers_are_told_belatedly_as_if_it_had_always_been_known(
        self, durations: list[float], known_from: int
    ) -> None:
        found = []
        for book in (BOOK, NOT_KNOWN_YET):
            live = edge(started_at=NOW - 20)
            for number, seconds in enumerate(durations):
                ended_at = NOW - 40 + number
                live.take_in([span(number, ended_at, seconds)], ended_at, BOOK if number >= known_from else book)
            status = judge(live, [])
            found.append((status.outliers_total, status.traces_total, status.exemplar, list(status.outliers)))
        assert found[0] == found[1]

    def test_while_tempo_is_away_they_are_told_as_well(self) -> None:
        live = edge()
        live.take_in([span(1, NOW, 0.9)], NOW, NOT_KNOWN_YET)
        (status,) = live.hold(NOW, NOW + 15, BOOK)
        assert (status.outlier, status.outliers_total) == (True, 1)

    def test_of_more_traces_than_there_is_room_for_the_latest_are_told(self) -> None:
        live = edge(most_traces=10)
        for number in range(25):
            # Each comes when those before have left the window.
            ended_at = NOW + 4000 * number
            live.take_in([span(number, ended_at, 0.9)], ended_at, NOT_KNOWN_YET)
            live.tick(ended_at, NOT_KNOWN_YET)
        assert judge(live, [], NOW + 4000 * 24).outliers_total == 5

    def test_what_is_not_seen_is_forgotten_only_when_the_history_knows_nothing_of_it_either(self) -> None:
        live = edge(started_at=NOW)
        judge(live, [span(1, NOW)], book=NOT_KNOWN_YET)
        later = NOW + SETTINGS.stale_after_seconds + 1
        assert live.tick(later, NOT_KNOWN_YET).statuses == ()
        known = BaselineTable(NOON, {KEY: SeriesBaseline(later, baseline(), THRESHOLD, thresholds(0.1))})
        assert live.tick(later, known).statuses[0].traces_total == 1
        assert live.tick(later, BaselineTable(NOON)).statuses == ()
        assert live.tick(later, known).statuses[0].traces_total == 0


def test_when_less_is_read_the_minutes_before_are_thinned_likewise() -> None:
    """Otherwise what was read whole would outweigh what is newer, and is only a sample."""
    live = edge(most_traces=10_000)
    spans = [span(second * 10 + number, NOW - second, 0.1) for second in range(1, 240) for number in range(10)]
    assert judge(live, spans).current_traces == len(spans)
    slices = TimeSample(2, 4)
    live.thin(slices)
    (status,) = live.tick(NOW, BOOK).statuses
    kept = [each for each in spans if slices.includes(-(-each.end_ns // 10**9) - 1)]
    assert status.current_traces == len(kept) == pytest.approx(len(spans) / 4, rel=0.2)
    assert status.traces_total == len(spans)
    # What was thinned out is not taken in again.
    assert live.take_in(spans, NOW, BOOK) == {"duplicate": len(spans)}
