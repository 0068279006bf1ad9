from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackLevel
from exporter.detection.errors.verdict import ErrorBaseline
from exporter.detection.flag import Flag, FlagEvent, FlagKind, SeriesFlags
from exporter.detection.policy import Override, OverrideValue, SeriesPolicies
from exporter.detection.streams import StreamReason
from exporter.evaluation.baseline_table import EMPTY_TABLE, BaselineTable, SeriesBaseline
from exporter.evaluation.live.evaluator import LiveEvaluator, TickResult
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import NO_OUTLIERS, Exemplar, KindStatus, SeriesStatus
from exporter.ingest.sampling import TimeSample
from exporter.model.calendar import DayType, Slot
from exporter.model.pattern import Pattern
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
    flags: Mapping[SeriesKey, SeriesFlags] | None = None,
    max_pause_seconds: float = 120.0,
    max_traces: int = 1000,
    settings: EvaluationSettings = SETTINGS,
) -> LiveEvaluator:
    return LiveEvaluator(
        settings,
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


def comparable(statuses: Iterable[SeriesStatus]) -> list[object]:
    """Statuses with the content of their outliers."""
    return [(replace(status, outliers=NO_OUTLIERS), list(status.outliers)) for status in statuses]


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

    @given(
        requests=st.lists(st.tuples(st.integers(0, 119), st.booleans()), min_size=1, max_size=40),
        readings=st.lists(st.lists(st.integers(0, 39), max_size=40), max_size=6),
    )
    def test_failure_counts_once_however_often_and_in_any_order_it_is_read(
        self, requests: list[tuple[int, bool]], readings: list[list[int]]
    ) -> None:
        spans = [span(n, NOW - back)._replace(failed=failed) for n, (back, failed) in enumerate(requests)]
        live = new_live()
        for number, chosen in enumerate([*readings, range(len(spans))]):
            live.add_spans([spans[index] for index in chosen if index < len(spans)], NOW + 15 * number, TABLE)
        (status,) = live.tick(NOW, TABLE).statuses
        failures = sum(failed for _, failed in requests)
        assert status.failures_total == status.current_failures == failures
        assert status.current_error_ratio == failures / len(spans)

    def test_failures_that_are_not_read_are_unknown(self) -> None:
        status = evaluate(new_live(), steady(NOW, 0.1))
        assert (status.failures_total, status.current_failures, status.current_error_ratio) == (None, None, None)

    def test_failures_before_the_start_are_in_the_window_but_not_counted(self) -> None:
        spans = [each._replace(failed=True) for each in steady(NOW, 0.1, 60)]
        status = evaluate(new_live(started_at=NOW - 9.5), spans)
        assert (status.failures_total, status.current_failures, status.traces_total) == (10, 60, 10)

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
        assert first.flags == {KEY: {FlagKind.SHIFT: Flag(pending_since=NOW)}}
        assert first.statuses[0].shift is False
        *before, firing = tick_through(live, NOW, 0.3, 4)
        assert [result.changes for result in before] == [(), (), ()]
        assert [result.flags for result in before] == [{}, {}, {}]
        (change,) = firing.changes
        assert (change.key, change.event) == (KEY, FlagEvent.FIRING)
        assert firing.flags == {KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW)}}
        assert firing.suspects == {KEY: (NOON,)}
        (status,) = firing.statuses
        assert (status.shift, status.since) == (True, NOW)
        assert status.explanation == change.explanation
        assert status.explanation is not None
        assert "300 of the last 300 requests" in str(status.explanation)
        assert status.score is not None
        assert status.score > 2

    def test_flag_is_resolved_when_latency_is_back(self) -> None:
        live = new_live(flags={KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW - 600)}})
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
        status = evaluate(new_live(flags={KEY: {FlagKind.SHIFT: flag}}), steady(NOW, 0.3, 300))
        assert (status.shift, status.since) == (True, NOW - 600)

    def test_restart_does_not_count_as_held(self) -> None:
        live = new_live(flags={KEY: {FlagKind.SHIFT: Flag(pending_since=NOW - 600)}})
        live.add_spans(steady(NOW, 0.3, 300), NOW, TABLE)
        first = live.tick(NOW, TABLE)
        assert (first.changes, first.flags) == ((), {KEY: {FlagKind.SHIFT: Flag(pending_since=NOW)}})
        *before, firing = tick_through(live, NOW, 0.3, 4)
        assert [result.changes for result in before] == [(), (), ()]
        assert firing.flags == {KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW)}}

    def test_restart_does_not_count_as_resolved(self) -> None:
        live = new_live(flags={KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW - 900, keep_firing_since=NOW - 600)}})
        assert evaluate(live, steady(NOW, 0.1, 300)).shift is True
        assert live.flags() == {KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW - 900, keep_firing_since=NOW)}}

    def test_stored_pending_flag_is_deleted_when_the_condition_is_over(self) -> None:
        live = new_live(flags={KEY: {FlagKind.SHIFT: Flag(pending_since=NOW - 600)}})
        live.add_spans(steady(NOW, 0.1, 300), NOW, TABLE)
        assert live.tick(NOW, TABLE).flags == {KEY: {}}

    @pytest.mark.parametrize(("pause", "counts"), [(120, True), (121, False)])
    def test_pause_of_the_polls_does_not_count_as_held(self, pause: int, counts: bool) -> None:
        live = new_live(max_pause_seconds=120.0)
        evaluate(live, steady(NOW, 0.3, 300))
        later = NOW + pause
        live.add_spans(steady(later, 0.3, 110), later, TABLE)
        flag = Flag(firing=True, since=NOW) if counts else Flag(pending_since=later)
        assert live.tick(later, TABLE).flags == {KEY: {FlagKind.SHIFT: flag}}

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
        status = evaluate(
            new_live(flags={KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW - 600)}}),
            steady(NOW, 0.3, 300),
            table=table,
        )
        assert (status.shift, status.since, status.score, status.explanation) == (None, None, None, None)
        assert status.learning
        assert status.outlier is False


class TestUnchangedSeries:
    @given(
        steps=st.lists(
            st.tuples(
                st.sampled_from([1, 15, 15, 47, 130, 400]),
                st.lists(
                    st.tuples(
                        st.integers(-5, 14),
                        st.sampled_from([0.1, 0.1, 0.12, 0.3, 5.0]),
                        st.booleans(),
                        st.sampled_from([KEY, OTHER]),
                    ),
                    max_size=12,
                ),
                st.sampled_from(["tick", "tick", "tick", "hold", "blind", "thin"]),
            ),
            min_size=2,
            max_size=25,
        )
    )
    def test_results_are_those_of_evaluating_every_series_at_every_tick(
        self, steps: list[tuple[int, list[tuple[int, float, bool, SeriesKey]], str]]
    ) -> None:
        table = replace(TABLE, series={KEY: TABLE.get(KEY), OTHER: TABLE.get(KEY)})
        live, always = new_live(), new_live()
        now = NOW
        for number, (seconds, traffic, what) in enumerate(steps):
            now += seconds
            spans = [
                span(100 * number + index, now - back, duration, key)._replace(failed=failed and duration > 0.11)
                for index, (back, duration, failed, key) in enumerate(traffic)
            ]
            # Taking over settings, also equal ones, discards what is kept of the tick before.
            always.use(SETTINGS)
            for each in (live, always):
                each.add_spans(spans, now, table)
                if what == "thin":
                    each.thin(TimeSample(10, 2))
            if what == "hold":
                held, expected = (each.hold(now - 15, now, table) for each in (live, always))
                assert comparable(held) == comparable(expected)
            elif what == "blind":
                held, expected = (each.hold_blind(now, table) for each in (live, always))
                assert comparable(held) == comparable(expected)
            else:
                found, again = (each.tick(now, table) for each in (live, always))
                assert comparable(found.statuses) == comparable(again.statuses)
                assert replace(found, statuses=()) == replace(again, statuses=())

    def test_a_series_without_news_keeps_its_status(self) -> None:
        live = new_live()
        live.add_spans(steady(NOW, 0.1), NOW, TABLE)
        (before,) = live.tick(NOW + 1, TABLE).statuses
        (after,) = live.tick(NOW + 16, TABLE).statuses
        assert after is before


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
        live = new_live(flags={KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW - 600)}})
        assert len(live.tick(NOW, BaselineTable(NOON)).statuses) == 1
        resolved = live.tick(NOW + 120, BaselineTable(NOON))
        assert resolved.flags == {KEY: {}}
        assert live.tick(NOW + 135, BaselineTable(NOON)).statuses == ()

    def test_changepoint_of_an_accepted_change_is_published(self) -> None:
        table = BaselineTable(NOON, {KEY: SeriesBaseline(float(NOON), changepoint=NOON - DAY)})
        assert evaluate(new_live(), [], table=table).changepoint == NOON - DAY


class TestOutage:
    def hold(self, live: LiveEvaluator, evaluated_at: float | None, now: float) -> SeriesStatus:
        (status,) = live.hold(evaluated_at, now, TABLE)
        return status

    def test_last_verdict_is_kept_while_its_window_counts(self) -> None:
        live = new_live(flags={KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW - 600)}})
        before = evaluate(live, steady(NOW, 0.5, 300))
        assert before.explanation is not None
        assert self.hold(live, NOW, NOW + 60) == before

    def test_only_baselines_and_firing_flags_are_left_after_that(self) -> None:
        live = new_live(flags={KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW - 600)}})
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
        live = new_live(flags={KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW - 600)}})
        for result in tick_through(live, NOW, 0.1, 40, EMPTY_TABLE):
            (status,) = result.statuses
            assert (status.shift, status.since, status.score, status.explanation) == (True, NOW - 600, None, None)
            assert (result.changes, result.flags, result.suspects) == ((), {}, {})
        assert live.flags() == {KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW - 600)}}
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
        live = new_live(flags={KEY: {FlagKind.SHIFT: Flag(pending_since=NOW - 59)}})
        result = live.tick(NOW - 15, EMPTY_TABLE)
        assert (result.statuses, result.flags) == ((), {})
        live.add_spans(steady(NOW, 0.3, 300), NOW, EMPTY_TABLE)
        (result,) = tick_through(live, NOW, 0.3, 1)
        assert result.flags == {KEY: {FlagKind.SHIFT: Flag(pending_since=NOW + 15)}}

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


STREAM = BaselineTable(NOON, {KEY: SeriesBaseline(float(NOON), baseline(), stream=StreamReason.NAME)})


class TestStreams:
    def test_traces_are_counted_and_nothing_is_flagged(self) -> None:
        live = new_live()
        status = evaluate(live, steady(NOW, 500.0), table=STREAM)
        assert (status.stream, status.current_traces, status.traces_total) == (StreamReason.NAME, 60, 60)
        assert (status.shift, status.outlier, status.score, status.since) == (None, None, None, None)
        assert status.baseline is not None
        assert (status.learning, status.outliers_total) == (False, 0)
        assert all(result.changes == () for result in tick_through(live, NOW, 500.0, 30, STREAM))

    def test_a_flag_that_fires_is_resolved_when_the_series_turns_out_to_be_a_stream(self) -> None:
        live = new_live(flags={KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW - 600)}})
        changes = [change.event for result in tick_through(live, NOW, 500.0, 20, STREAM) for change in result.changes]
        assert changes == [FlagEvent.RESOLVED]
        assert live.flags() == {}


def overridden(field: str, value: object) -> EvaluationSettings:
    """Settings with an override for the series of these tests."""
    overrides = (Override(Pattern("^checkout/GET "), (OverrideValue(field, str(value), field, value),)),)
    return replace(SETTINGS, policies=SeriesPolicies(overrides, SETTINGS.fallback, SETTINGS.shift))


class TestOverrides:
    def test_the_hold_time_of_a_series_is_its_own(self) -> None:
        for hold, ticks in ((0.0, 1), (300.0, 0)):
            live = new_live(settings=overridden("hold_seconds", hold))
            live.add_spans(steady(NOW, 0.3, 300), NOW, TABLE)
            changes = [change for change in live.tick(NOW, TABLE).changes if change.event is FlagEvent.FIRING]
            assert len(changes) == ticks

    def test_the_window_of_a_series_is_its_own(self) -> None:
        live = new_live(settings=overridden("window_seconds", 60))
        spans = [*steady(NOW, 0.1, 300), *steady(NOW, 0.2, 300, OTHER)]
        live.add_spans(spans, NOW, TABLE)
        assert [status.current_traces for status in live.tick(NOW, TABLE).statuses] == [60, 300]
        # Whether the live edge is blind depends on the traffic of all series in one window.
        assert live.ended_in_window(NOW) == 600

    def test_traces_of_a_disabled_series_are_counted_and_nothing_is_flagged(self) -> None:
        expected = replace(EXPECTED, outlier_threshold_seconds=None, thresholds=None)
        table = BaselineTable(NOON, {KEY: expected})
        live = new_live(
            settings=overridden("is_enabled", False), flags={KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW - 600)}}
        )
        held = live.hold(None, NOW, EMPTY_TABLE)
        assert [status.shift for status in held] == [None]
        status = evaluate(live, steady(NOW, 0.9, 300), table=table)
        assert (status.traces_total, status.current_traces) == (300, 300)
        assert (status.shift, status.outlier, status.outliers_total, status.is_enabled) == (None, None, 0, False)
        assert not status.learning
        assert status.excess_traces_total == 300


class TestErrors:
    """Requests that fail, judged beside their latency."""

    BASELINE = ErrorBaseline(FallbackLevel.EXACT, Slot(12, DayType.WEEKDAY), 5, 10_000, 40)
    TABLE = BaselineTable(NOON, {KEY: replace(EXPECTED, errors=BASELINE)})

    def run(
        self, live: LiveEvaluator, ticks: range, failing: Callable[[int], bool], table: BaselineTable | None = None
    ) -> list[TickResult]:
        """Tick every 15 seconds; one request a second, which fails where its second says so, and then takes less."""
        results = []
        for number in ticks:
            now = NOW + 15 * number
            spans = [
                span(second, float(second), 0.02 if failing(second) else 0.1)._replace(failed=failing(second))
                for second in range(int(now) - 14, int(now) + 1)
            ]
            live.add_spans(spans, now, self.TABLE)
            results.append(live.tick(now, table or self.TABLE))
        return results

    def test_every_third_request_fails_fast(self) -> None:
        live = new_live()
        healthy = self.run(live, range(20), lambda _: False)
        ill = self.run(live, range(20, 36), lambda second: second % 3 == 0)
        well = self.run(live, range(36, 80), lambda _: False)
        assert all(result.changes == () for result in healthy)
        (status,) = healthy[-1].statuses
        assert status.baseline_error_ratio == 0.004
        assert status.of_kind(FlagKind.ERRORS) == KindStatus(FlagKind.ERRORS, False, None, 0.0)
        ((position, fired),) = [(n, change) for n, result in enumerate(ill) for change in result.changes]
        assert (fired.kind, fired.event) == (FlagKind.ERRORS, FlagEvent.FIRING)
        assert 15 * position <= 240, "four minutes"
        assert "requests failed" in str(fired.explanation)
        (status,) = ill[-1].statuses
        assert (status.shift, status.of_kind(FlagKind.ERRORS).firing, status.is_anomalous) == (False, True, True)
        assert status.of_kind(FlagKind.ERRORS).since is not None
        ((position, resolved),) = [(n, change) for n, result in enumerate(well) for change in result.changes]
        assert (resolved.kind, resolved.event) == (FlagKind.ERRORS, FlagEvent.RESOLVED)
        assert 15 * position <= 300
        assert live.flags() == {}

    def test_a_restart_changes_nothing(self) -> None:
        before = new_live()
        self.run(before, range(40), lambda second: second % 3 == 0)
        flags = before.flags()
        (status,) = before.tick(NOW + 600, self.TABLE).statuses
        after = new_live(flags=flags)
        spans = [
            span(second, float(second), 0.1)._replace(failed=second % 3 == 0)
            for second in range(int(NOW) + 600 - 300, int(NOW) + 600)
        ]
        after.add_spans(spans, NOW + 600, self.TABLE)
        (result,) = after.tick(NOW + 600, self.TABLE).statuses
        assert result.of_kind(FlagKind.ERRORS).firing
        assert result.of_kind(FlagKind.ERRORS).since == status.of_kind(FlagKind.ERRORS).since

    def test_without_a_baseline_or_knowledge_there_is_no_verdict(self) -> None:
        live = new_live()
        (status,) = self.run(live, range(40), lambda second: second % 3 == 0, TABLE)[-1].statuses
        assert status.of_kind(FlagKind.ERRORS).firing is None
        assert status.baseline_error_ratio is None
        unknown = new_live()
        unknown.add_spans(steady(NOW, 0.1), NOW, self.TABLE)
        (status,) = unknown.tick(NOW, self.TABLE).statuses
        assert status.of_kind(FlagKind.ERRORS).firing is None

    def test_a_flag_is_kept_while_the_history_is_not_evaluated(self) -> None:
        flags = {KEY: {FlagKind.ERRORS: Flag(firing=True, since=NOW - 60)}}
        live = new_live(flags=flags)
        (status,) = live.tick(NOW, replace(self.TABLE, series={}, is_evaluated=False)).statuses
        assert (status.of_kind(FlagKind.ERRORS).firing, status.of_kind(FlagKind.ERRORS).since) == (True, NOW - 60)
        assert live.flags() == flags


class TestChangedSettings:
    def firing(self, seconds: float = 1.0) -> LiveEvaluator:
        live = new_live()
        changes = [change for each in tick_through(live, NOW, seconds, 12) for change in each.changes]
        assert [change.event for change in changes] == [FlagEvent.FIRING]
        return live

    def test_a_flag_that_would_not_fire_with_the_new_settings_resolves_at_once(self) -> None:
        live = self.firing()
        live.use(replace(SETTINGS, shift=replace(SETTINGS.shift, alpha=1e-300)))
        (result,) = tick_through(live, NOW + 180, 1.0, 1)
        assert [(change.kind, change.event) for change in result.changes] == [(FlagKind.SHIFT, FlagEvent.RESOLVED)]
        assert result.flags == {KEY: {}}
        assert result.statuses[0].shift is False

    def test_a_flag_that_would_fire_with_the_new_settings_keeps_firing(self) -> None:
        live = self.firing()
        before = live.flags()
        live.use(replace(SETTINGS, shift=replace(SETTINGS.shift, alpha=1e-5)))
        (result,) = tick_through(live, NOW + 180, 1.0, 1)
        assert result.changes == ()
        assert live.flags() == before

    @pytest.mark.parametrize(("min_delta", "goes_on"), [(0.01, True), (0.9, False)])
    def test_an_error_flag_resolves_if_it_would_not_fire_with_the_new_settings(
        self, min_delta: float, goes_on: bool
    ) -> None:
        errors, live = TestErrors(), new_live()
        errors.run(live, range(40), lambda second: second % 3 == 0)
        assert live.flags()[KEY][FlagKind.ERRORS].firing
        live.use(replace(SETTINGS, shift=replace(SETTINGS.shift, errors_min_delta=min_delta)))
        (result,) = errors.run(live, range(40, 41), lambda second: second % 3 == 0)
        assert [(change.kind, change.event) for change in result.changes] == (
            [] if goes_on else [(FlagKind.ERRORS, FlagEvent.RESOLVED)]
        )
        assert bool(live.flags()) is goes_on

    def test_flags_of_series_without_new_parameters_stay(self) -> None:
        override = Override(Pattern("POST /pay"), (OverrideValue("ratio", "9", "ratio", 9.0),))
        live = self.firing()
        policies = SeriesPolicies((override,), SETTINGS.fallback, SETTINGS.shift)
        live.use(replace(SETTINGS, policies=policies))
        # Between both limits, where a flag neither begins to fire nor resolves.
        (result,) = tick_through(live, NOW + 180, 1.0, 1)
        assert result.changes == ()

    def test_series_that_are_not_wanted_any_more_disappear(self) -> None:
        wanted = {KEY: True}
        live = LiveEvaluator(
            SETTINGS,
            admit_all,
            started_at=NOW - HOUR,
            remembered_seconds=REMEMBERED_SECONDS,
            flags={KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW - 60)}},
            is_wanted=wanted.__getitem__,
        )
        assert live.tick(NOW, TABLE).statuses
        wanted[KEY] = False
        assert live.tick(NOW + 15, TABLE).statuses == ()
        assert live.flags() == {}
