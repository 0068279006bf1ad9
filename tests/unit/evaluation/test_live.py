from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackLevel
from exporter.detection.flag import INACTIVE, Flag, FlagEvent
from exporter.evaluation.baseline_table import EMPTY_TABLE, BaselineTable, SeriesBaseline
from exporter.evaluation.live import LiveEvaluator, TickResult
from exporter.evaluation.snapshot import Exemplar, SeriesStatus
from exporter.ingest.sampling import TimeSample
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import SkipReason
from tests.support.samples import DAY, HOUR, KEY, NOON, SETTINGS, baseline, span, thresholds

NOW = NOON + 1800.0
REMEMBERED_SECONDS = 330.0
OTHER = SeriesKey("checkout", "POST /pay")
THRESHOLD = 0.4
EXPECTED = SeriesBaseline(float(NOON), baseline(), THRESHOLD, thresholds(0.1))
TABLE = BaselineTable(NOON, {KEY: EXPECTED})


def admit_all(key: SeriesKey) -> SeriesKey:
    return key


def new_live(
    *,
    admit: Callable[[SeriesKey], SeriesKey | SkipReason] = admit_all,
    started_at: float = NOW - HOUR,
    flags: Mapping[SeriesKey, Flag] | None = None,
    max_pause_seconds: float = 120.0,
    max_traces: int = 1000,
) -> LiveEvaluator:
    return LiveEvaluator(
        SETTINGS,
        admit,
        started_at=started_at,
        remembered_seconds=REMEMBERED_SECONDS,
        flags=flags or {},
        max_pause_seconds=max_pause_seconds,
        max_traces=max_traces,
    )


def evaluate(
    live: LiveEvaluator, spans: Iterable[Span], now: float = NOW, table: BaselineTable = TABLE
) -> SeriesStatus:
    """Add spans, tick, and return the status of the only series."""
    live.add_spans(spans, now, table)
    (status,) = live.tick(now, table).statuses
    return status


def steady(until: float, seconds: float, count: int = 60, key: SeriesKey = KEY) -> list[Span]:
    """One span a second, up to an instant."""
    return [span(int(until) - back, until - back, seconds, key) for back in range(count)]


def tick_through(
    live: LiveEvaluator, start: float, seconds: float, ticks: int, table: BaselineTable = TABLE
) -> list[TickResult]:
    """Ticks every 15 seconds with steady traffic in between."""
    results = []
    for number in range(1, ticks + 1):
        now = start + 15 * number
        live.add_spans(steady(now, seconds, 15), now, table)
        results.append(live.tick(now, table))
    return results


class TestCounting:
    @given(
        ends=st.lists(st.integers(0, 119), min_size=1, max_size=40),
        readings=st.lists(st.lists(st.integers(0, 39), max_size=40), max_size=6),
    )
    def test_span_counts_once_however_often_and_in_any_order_it_is_read(
        self, ends: list[int], readings: list[list[int]]
    ) -> None:
        spans = [span(number, NOW - back) for number, back in enumerate(ends)]
        live = new_live()
        skipped = 0
        for number, chosen in enumerate([*readings, range(len(spans))]):
            read = [spans[index] for index in chosen if index < len(spans)]
            skipped += live.add_spans(read, NOW + 15 * number, TABLE)["duplicate"]
        (status,) = live.tick(NOW, TABLE).statuses
        assert status.traces_total == status.current_traces == len(spans)
        assert skipped == sum(index < len(spans) for chosen in readings for index in chosen)

    def test_spans_of_one_trace_are_distinguished(self) -> None:
        first = span(1, NOW)
        status = evaluate(new_live(), [first, first._replace(span_id="f" * 16)])
        assert status.traces_total == 2

    def test_spans_that_share_an_id_are_distinguished(self) -> None:
        first = span(1, NOW)
        others = [
            first._replace(key=OTHER),
            first._replace(key=KEY._replace(service_name="gateway")),
            first._replace(start_ns=first.start_ns - 1000),
        ]
        live = new_live()
        assert live.add_spans([first, *others, first], NOW, TABLE) == {"duplicate": 1}
        assert live.add_spans(others, NOW + 15, TABLE) == {"duplicate": 3}
        assert sum(status.traces_total for status in live.tick(NOW + 15, TABLE).statuses) == 4

    def test_late_trace_counts_while_it_is_in_the_window(self) -> None:
        live = new_live()
        evaluate(live, [span(1, NOW)])
        assert evaluate(live, [span(2, NOW - 280)], NOW + 15).current_traces == 2

    def test_trace_older_than_the_remembered_ones_is_skipped(self) -> None:
        live = new_live()
        evaluate(live, [span(1, NOW)])
        assert live.add_spans([span(2, NOW - REMEMBERED_SECONDS - 1)], NOW + 15, TABLE) == {"outside_window": 1}
        assert live.tick(NOW + 15, TABLE).statuses[0].traces_total == 1

    def test_first_cycle_fills_the_longest_window(self) -> None:
        live = new_live()
        assert live.add_spans([span(1, NOW - 3599), span(2, NOW - 3600)], NOW, TABLE) == {"outside_window": 1}

    def test_spans_of_a_pause_are_added_after_it(self) -> None:
        live = new_live()
        evaluate(live, [span(1, NOW)])
        later = NOW + 1800
        status = evaluate(live, [span(1, NOW), span(2, NOW + 60), span(3, later - 900)], later)
        assert status.traces_total == status.current_traces == 3

    def test_pause_longer_than_any_window_skips_the_rest(self) -> None:
        live = new_live()
        evaluate(live, [span(1, NOW)])
        assert live.add_spans([span(2, NOW + 60)], NOW + 2 * HOUR, TABLE) == {"outside_window": 1}

    def test_new_spans_are_added_after_the_clock_was_set_back(self) -> None:
        live = new_live(started_at=NOW - DAY)
        evaluate(live, [span(1, NOW)])
        assert evaluate(live, [span(2, NOW - HOUR)], NOW - HOUR).traces_total == 2

    def test_span_that_ends_in_the_future_counts_later_and_once(self) -> None:
        live = new_live()
        ahead = span(1, NOW + 300)
        assert live.add_spans([ahead], NOW, TABLE) == {"outside_window": 1}
        assert live.tick(NOW, TABLE).statuses[0].traces_total == 0
        later = NOW + 290
        live.add_spans([ahead], later, TABLE)
        assert evaluate(live, [ahead], later + 15).traces_total == 1

    def test_span_that_ends_slightly_ahead_is_added(self) -> None:
        live = new_live()
        status = evaluate(live, [span(1, NOW + 5)])
        assert (status.traces_total, status.current_traces) == (1, 0)
        assert evaluate(live, [], NOW + 15).current_traces == 1

    def test_span_that_ended_before_the_process_started_fills_the_window_uncounted(self) -> None:
        status = evaluate(new_live(started_at=NOW - 10), [span(1, NOW - 11, 0.9), span(2, NOW - 10), span(3, NOW)])
        assert (status.current_traces, status.traces_total, status.outliers_total) == (3, 2, 0)

    def test_series_that_are_not_admitted_are_counted_by_reason(self) -> None:
        live = new_live(admit=lambda key: "series_limit" if key == OTHER else "filtered")
        assert live.add_spans([span(1, NOW), span(2, NOW, key=OTHER), span(3, NOW, key=OTHER)], NOW, TABLE) == {
            "filtered": 1,
            "series_limit": 2,
        }

    def test_series_is_kept_under_its_admitted_name(self) -> None:
        assert evaluate(new_live(admit=lambda key: KEY), [span(1, NOW, key=OTHER)]).key == KEY

    def test_span_beyond_the_memory_limit_is_counted_once(self) -> None:
        live = new_live(max_traces=3)
        spans = [span(number, NOW - number) for number in range(5)]
        assert live.add_spans(spans, NOW, TABLE) == {"memory_limit": 2}
        assert live.add_spans(spans, NOW, TABLE) == {"duplicate": 5}
        assert live.tick(NOW, TABLE).statuses[0].traces_total == 3

    def test_memory_is_free_again_once_the_window_has_moved_on(self) -> None:
        live = new_live(max_traces=3)
        evaluate(live, [span(number, NOW - number) for number in range(3)])
        later = NOW + 2 * HOUR
        evaluate(live, [], later)
        assert live.add_spans([span(9, later)], later, TABLE) == {}


class TestWindow:
    def test_quantiles_cover_the_last_minutes(self) -> None:
        old = steady(NOW - 300, 5.0, 100)
        status = evaluate(new_live(), [*old, *steady(NOW, 0.1, 90), *steady(NOW - 90, 0.3, 10)])
        assert status.current_traces == 100
        assert status.current_p50_seconds == pytest.approx(0.1, rel=0.011)
        assert status.current_p95_seconds == pytest.approx(0.3, rel=0.011)

    def test_window_reaches_further_back_with_little_traffic(self) -> None:
        status = evaluate(new_live(), [span(number, NOW - 200 * number) for number in range(12)])
        assert status.current_traces == 10

    def test_no_traffic_gives_no_quantiles(self) -> None:
        status = evaluate(new_live(), [])
        assert (status.current_traces, status.current_p50_seconds, status.current_p95_seconds) == (0, None, None)

    def test_span_without_duration_has_a_quantile_of_zero(self) -> None:
        assert evaluate(new_live(), [span(1, NOW, 0.0)]).current_p50_seconds == 0.0


class TestOutliers:
    def test_outliers_are_counted_and_the_latest_is_the_exemplar(self) -> None:
        spans = [span(1, NOW - 3, 0.5), span(2, NOW - 1, 0.6), span(3, NOW - 2, 0.7), span(4, NOW, 0.4)]
        status = evaluate(new_live(), spans)
        assert (status.traces_total, status.outliers_total, status.outlier) == (4, 3, True)
        assert status.exemplar == Exemplar(f"{2:032x}", 0.6, NOW - 1)

    def test_only_the_latest_outliers_are_kept(self) -> None:
        live = new_live()
        first = evaluate(live, [span(1, NOW - 3, 0.5), span(2, NOW - 2, 0.1), span(3, NOW - 1, 0.6)])
        assert list(first.outliers) == [
            Exemplar(f"{1:032x}", 0.5, NOW - 3),
            Exemplar(f"{3:032x}", 0.6, NOW - 1),
        ]
        later = evaluate(live, [span(number, NOW, number / 10) for number in range(10, 30)])
        assert [each.trace_id for each in later.outliers] == [f"{number:032x}" for number in range(20, 30)]
        # The published snapshot does not change.
        assert len(list(first.outliers)) == 2

    def test_outlier_ends_with_the_window_and_the_exemplar_stays(self) -> None:
        live = new_live()
        evaluate(live, [span(1, NOW, 0.5)])
        assert evaluate(live, [], NOW + 299).outlier is True
        status = evaluate(live, [], NOW + 300)
        assert status.outlier is False
        assert status.exemplar is not None

    def test_no_baseline_gives_no_outliers(self) -> None:
        status = evaluate(new_live(), [span(1, NOW, 50.0)], table=BaselineTable(NOON))
        assert (status.outlier, status.outliers_total, status.exemplar) == (None, 0, None)
        assert status.level is FallbackLevel.UNAVAILABLE
        assert not status.learning


class TestShift:
    def test_flag_fires_with_an_explanation_after_the_hold_time(self) -> None:
        live = new_live()
        live.add_spans(steady(NOW, 0.3, 300), NOW, TABLE)
        first = live.tick(NOW, TABLE)
        assert first.changes == ()
        assert first.flags == {KEY: Flag(pending_since=NOW)}
        assert first.statuses[0].shift is False
        *before, firing = tick_through(live, NOW, 0.3, 4)
        assert [result.changes for result in before] == [(), (), ()]
        assert [result.flags for result in before] == [{}, {}, {}]
        (change,) = firing.changes
        assert (change.key, change.event) == (KEY, FlagEvent.FIRING)
        assert firing.flags == {KEY: Flag(firing=True, since=NOW)}
        assert firing.suspects == {KEY: (NOON,)}
        (status,) = firing.statuses
        assert (status.shift, status.since) == (True, NOW)
        assert status.explanation == change.explanation
        assert status.explanation is not None
        assert "300 of the last 300 requests" in str(status.explanation)
        assert status.score is not None
        assert status.score > 2

    def test_flag_is_resolved_when_latency_is_back(self) -> None:
        live = new_live(flags={KEY: Flag(firing=True, since=NOW - 600)})
        changes = [change for result in tick_through(live, NOW, 0.1, 12) for change in result.changes]
        assert [change.event for change in changes] == [FlagEvent.RESOLVED]
        (status,) = live.tick(NOW + 195, TABLE).statuses
        assert (status.shift, status.since) == (False, None)

    def test_normal_traffic_changes_nothing(self) -> None:
        live = new_live()
        for result in tick_through(live, NOW, 0.1, 8):
            assert (result.changes, result.flags, result.suspects) == ((), {}, {})
            assert result.statuses[0].explanation is None

    def test_firing_flag_survives_a_restart_with_its_start(self) -> None:
        flag = Flag(firing=True, since=NOW - 600)
        status = evaluate(new_live(flags={KEY: flag}), steady(NOW, 0.3, 300))
        assert (status.shift, status.since) == (True, NOW - 600)

    def test_restart_does_not_count_as_held(self) -> None:
        live = new_live(flags={KEY: Flag(pending_since=NOW - 600)})
        live.add_spans(steady(NOW, 0.3, 300), NOW, TABLE)
        first = live.tick(NOW, TABLE)
        assert (first.changes, first.flags) == ((), {KEY: Flag(pending_since=NOW)})
        *before, firing = tick_through(live, NOW, 0.3, 4)
        assert [result.changes for result in before] == [(), (), ()]
        assert firing.flags == {KEY: Flag(firing=True, since=NOW)}

    def test_restart_does_not_count_as_resolved(self) -> None:
        live = new_live(flags={KEY: Flag(firing=True, since=NOW - 900, keep_firing_since=NOW - 600)})
        assert evaluate(live, steady(NOW, 0.1, 300)).shift is True
        assert live.flags() == {KEY: Flag(firing=True, since=NOW - 900, keep_firing_since=NOW)}

    def test_stored_pending_flag_is_deleted_when_the_condition_is_over(self) -> None:
        live = new_live(flags={KEY: Flag(pending_since=NOW - 600)})
        live.add_spans(steady(NOW, 0.1, 300), NOW, TABLE)
        assert live.tick(NOW, TABLE).flags == {KEY: INACTIVE}

    @pytest.mark.parametrize(("pause", "counts"), [(120, True), (121, False)])
    def test_pause_of_the_polls_does_not_count_as_held(self, pause: int, counts: bool) -> None:
        live = new_live(max_pause_seconds=120.0)
        evaluate(live, steady(NOW, 0.3, 300))
        later = NOW + pause
        live.add_spans(steady(later, 0.3, 110), later, TABLE)
        flag = Flag(firing=True, since=NOW) if counts else Flag(pending_since=later)
        assert live.tick(later, TABLE).flags == {KEY: flag}

    def test_trace_is_compared_with_the_hour_in_which_it_ended(self) -> None:
        now = NOON + 60.0
        slow_hour = BaselineTable(NOON - HOUR, {KEY: SeriesBaseline(thresholds=thresholds(0.5))})
        spans = [*steady(now, 0.1, 60), *steady(NOON, 0.5, 240)]
        with_both = evaluate(new_live(), spans, now, BaselineTable(NOON, {KEY: EXPECTED}, slow_hour))
        assert with_both.score == pytest.approx(1 / 1.4, rel=0.05)
        assert with_both.current_traces == 300

    def test_learning_series_has_no_shift_verdict(self) -> None:
        immature = SeriesBaseline(float(NOON), baseline(mature=False), THRESHOLD, None)
        table = BaselineTable(NOON, {KEY: immature})
        status = evaluate(new_live(flags={KEY: Flag(firing=True, since=NOW - 600)}), steady(NOW, 0.3, 300), table=table)
        assert (status.shift, status.since, status.score, status.explanation) == (None, None, None, None)
        assert status.learning
        assert status.outlier is False


class TestPublishedSeries:
    def test_series_are_sorted_by_name(self) -> None:
        live = new_live()
        first, last = SeriesKey("auth", "x"), SeriesKey("zebra", "x")
        live.add_spans([span(1, NOW, key=last), span(2, NOW, key=first)], NOW, TABLE)
        assert [status.key for status in live.tick(NOW, TABLE).statuses] == [first, KEY, last]

    def test_stale_series_is_not_published(self) -> None:
        live = new_live()
        evaluate(live, [span(1, NOW)])
        empty = BaselineTable(NOON)
        assert live.tick(NOW + DAY, empty).statuses != ()
        assert live.tick(NOW + DAY + 1, empty).statuses == ()

    def test_stale_series_that_returns_starts_from_zero(self) -> None:
        live = new_live()
        evaluate(live, [span(1, NOW)])
        later = NOW + 2 * DAY
        live.tick(later, BaselineTable(NOON))
        assert evaluate(live, [span(2, later)], later, BaselineTable(NOON)).traces_total == 1

    def test_series_with_recent_history_is_published_without_traffic(self) -> None:
        (status,) = new_live().tick(NOON + DAY, TABLE).statuses
        assert (status.key, status.baseline, status.current_traces) == (KEY, EXPECTED.baseline, 0)
        assert new_live().tick(NOON + DAY + 1, TABLE).statuses == ()

    def test_stale_series_is_published_while_its_flag_fires(self) -> None:
        live = new_live(flags={KEY: Flag(firing=True, since=NOW - 600)})
        assert len(live.tick(NOW, BaselineTable(NOON)).statuses) == 1
        resolved = live.tick(NOW + 120, BaselineTable(NOON))
        assert resolved.flags == {KEY: INACTIVE}
        assert live.tick(NOW + 135, BaselineTable(NOON)).statuses == ()

    def test_changepoint_of_an_accepted_change_is_published(self) -> None:
        table = BaselineTable(NOON, {KEY: SeriesBaseline(float(NOON), changepoint=NOON - DAY)})
        assert evaluate(new_live(), [], table=table).changepoint == NOON - DAY


class TestOutage:
    def hold(self, live: LiveEvaluator, evaluated_at: float | None, now: float) -> SeriesStatus:
        (status,) = live.hold(evaluated_at, now, TABLE)
        return status

    def test_last_verdict_is_kept_while_its_window_counts(self) -> None:
        live = new_live(flags={KEY: Flag(firing=True, since=NOW - 600)})
        before = evaluate(live, steady(NOW, 0.5, 300))
        assert before.explanation is not None
        assert self.hold(live, NOW, NOW + 60) == before

    def test_only_baselines_and_firing_flags_are_left_after_that(self) -> None:
        live = new_live(flags={KEY: Flag(firing=True, since=NOW - 600)})
        before = evaluate(live, steady(NOW, 0.5, 300))
        status = self.hold(live, None, NOW + 301)
        assert (status.shift, status.since) == (True, NOW - 600)
        assert (status.baseline, status.outlier_threshold_seconds) == (EXPECTED.baseline, THRESHOLD)
        assert (status.traces_total, status.outliers_total) == (before.traces_total, before.outliers_total)
        assert (status.current_traces, status.current_p50_seconds, status.current_p95_seconds) == (None, None, None)
        assert (status.score, status.outlier, status.explanation) == (None, None, None)

    def test_no_flag_changes(self) -> None:
        live = new_live()
        live.add_spans(steady(NOW, 0.3, 300), NOW, TABLE)
        live.tick(NOW, TABLE)
        assert self.hold(live, NOW, NOW + 120).shift is False
        assert self.hold(live, None, NOW + 600).shift is False


class TestWithoutBaselines:
    """After a restart, until the first table is built."""

    def test_only_current_traffic_is_published(self) -> None:
        status = evaluate(new_live(), steady(NOW, 0.3, 300), table=EMPTY_TABLE)
        assert status == SeriesStatus(
            KEY,
            current_traces=300,
            current_p50_seconds=status.current_p50_seconds,
            current_p95_seconds=status.current_p50_seconds,
            traces_total=300,
            is_baseline_known=False,
            outliers=status.outliers,
        )
        assert status.current_p50_seconds == pytest.approx(0.3, rel=0.0111)
        assert (status.level, status.learning, list(status.outliers)) == (None, False, [])

    def test_firing_flag_stays_firing(self) -> None:
        live = new_live(flags={KEY: Flag(firing=True, since=NOW - 600)})
        for result in tick_through(live, NOW, 0.1, 40, EMPTY_TABLE):
            (status,) = result.statuses
            assert (status.shift, status.since, status.score, status.explanation) == (True, NOW - 600, None, None)
            assert (result.changes, result.flags, result.suspects) == ((), {}, {})
        assert live.flags() == {KEY: Flag(firing=True, since=NOW - 600)}
        (later,) = live.hold(None, NOW + HOUR, EMPTY_TABLE)
        assert (later.shift, later.since, later.current_traces) == (True, NOW - 600, None)

    @pytest.mark.parametrize("history", [{}, {KEY: replace(EXPECTED, thresholds=None)}])
    def test_firing_flag_stays_firing_while_the_history_is_not_evaluated(
        self, history: Mapping[SeriesKey, SeriesBaseline]
    ) -> None:
        live = new_live()
        *_, firing = tick_through(live, NOW, 0.3, 25)
        assert firing.statuses[0].shift
        unevaluated = BaselineTable(NOON, history, is_evaluated=False)
        for result in tick_through(live, NOW + 375, 0.1, 40, unevaluated):
            (status,) = result.statuses
            assert (status.shift, status.score, status.explanation) == (True, None, None)
            assert (status.is_baseline_known, status.baseline) == (True, unevaluated.get(KEY).baseline)
            assert (result.changes, result.flags, result.suspects) == ((), {}, {})
        assert live.hold(None, NOW + 990, unevaluated)[0].shift
        changes = [change for result in tick_through(live, NOW + 990, 0.1, 12) for change in result.changes]
        assert [change.event for change in changes] == [FlagEvent.RESOLVED]

    def test_pending_flag_stays_as_it_is(self) -> None:
        live = new_live(flags={KEY: Flag(pending_since=NOW - 59)})
        result = live.tick(NOW - 15, EMPTY_TABLE)
        assert (result.statuses, result.flags) == ((), {})
        live.add_spans(steady(NOW, 0.3, 300), NOW, EMPTY_TABLE)
        (result,) = tick_through(live, NOW, 0.3, 1)
        assert result.flags == {KEY: Flag(pending_since=NOW + 15)}

    @given(
        durations=st.lists(st.sampled_from([0.1, 0.39, 0.41, 0.9]), min_size=1, max_size=40),
        known_from=st.integers(0, 40),
    )
    def test_outliers_are_found_later_as_if_the_baseline_had_always_been_known(
        self, durations: list[float], known_from: int
    ) -> None:
        found = []
        for table in (TABLE, EMPTY_TABLE):
            live = new_live(started_at=NOW - 20)
            for number, seconds in enumerate(durations):
                ended_at = NOW - 40 + number
                live.add_spans([span(number, ended_at, seconds)], ended_at, TABLE if number >= known_from else table)
            status = evaluate(live, [])
            found.append((status.outliers_total, status.traces_total, status.exemplar, list(status.outliers)))
        assert found[0] == found[1]

    def test_outliers_are_found_later_during_an_outage_too(self) -> None:
        live = new_live()
        live.add_spans([span(1, NOW, 0.9)], NOW, EMPTY_TABLE)
        (status,) = live.hold(NOW, NOW + 15, TABLE)
        assert (status.outlier, status.outliers_total) == (True, 1)

    def test_only_the_latest_traces_are_deferred_beyond_the_memory_limit(self) -> None:
        live = new_live(max_traces=10)
        for number in range(25):
            # By then the traces before have left the window.
            ended_at = NOW + 4000 * number
            live.add_spans([span(number, ended_at, 0.9)], ended_at, EMPTY_TABLE)
            live.tick(ended_at, EMPTY_TABLE)
        assert evaluate(live, [], NOW + 4000 * 24).outliers_total == 5

    def test_stale_series_is_forgotten_only_once_a_table_without_it_is_built(self) -> None:
        live = new_live(started_at=NOW)
        evaluate(live, [span(1, NOW)], table=EMPTY_TABLE)
        later = NOW + SETTINGS.stale_after_seconds + 1
        assert live.tick(later, EMPTY_TABLE).statuses == ()
        known = BaselineTable(NOON, {KEY: SeriesBaseline(later, baseline(), THRESHOLD, thresholds(0.1))})
        assert live.tick(later, known).statuses[0].traces_total == 1
        assert live.tick(later, BaselineTable(NOON)).statuses == ()
        assert live.tick(later, known).statuses[0].traces_total == 0


def test_thin_drops_traces_outside_of_the_slices() -> None:
    """Otherwise minutes that were read whole would outweigh newer ones that are only sampled."""
    live = new_live(max_traces=10_000)
    spans = [span(second * 10 + number, NOW - second, 0.1) for second in range(1, 240) for number in range(10)]
    assert evaluate(live, spans).current_traces == len(spans)
    slices = TimeSample(2, 4)
    live.thin(slices)
    (status,) = live.tick(NOW, TABLE).statuses
    kept = [each for each in spans if slices.includes(-(-each.end_ns // 10**9) - 1)]
    assert status.current_traces == len(kept) == pytest.approx(len(spans) / 4, rel=0.2)
    assert status.traces_total == len(spans)
    # Dropped traces are not added again.
    assert live.add_spans(spans, NOW, TABLE) == {"duplicate": len(spans)}
