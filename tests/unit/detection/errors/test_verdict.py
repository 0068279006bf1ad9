"""Error shifts: the test of one window, and the evaluation of a history."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackLevel, FallbackRules
from exporter.detection.detector import Detector, decode_state, encode_state
from exporter.detection.errors.bursts import ErrorPeak, ErrorSwing, lower_bound, swing_of_days
from exporter.detection.errors.history import error_baseline
from exporter.detection.errors.verdict import (
    Counts,
    ErrorBaseline,
    ErrorExplanation,
    ErrorVerdict,
    ErrorWindow,
    ErrorWindows,
    drifted,
    evaluate_errors,
    tick_errors,
)
from exporter.detection.flag import INACTIVE, FlagEvent, FlagKind, FlagPeriod
from exporter.detection.history import HistoryProgress, advance
from exporter.detection.parameters import ALL_PARTS, Parameters
from exporter.model.calendar import Calendar, DayType, HourClock, Slot
from exporter.model.hours import SeriesHours, hours_of
from exporter.model.series_hour import StoredWindow
from tests.support.detection_traffic import MONDAY, windows_with_failures

HOUR: Final = 3600
MARK: Final = 300
PARAMETERS: Final = Parameters()
RULES: Final = FallbackRules()
CLOCK: Final = HourClock(Calendar())
SLOT: Final = Slot(10, DayType.WEEKDAY)
DETECTOR: Final = Detector(RULES, PARAMETERS, CLOCK)


def usual(failures: int, requests: int = 10_000, swing: float = 0.0, burst_marks: int = 0) -> ErrorBaseline:
    return ErrorBaseline(FallbackLevel.EXACT, SLOT, 5, requests, failures, swing, swing, burst_marks)


def in_window(counts: Counts, newest: Counts | None = None, outside: int | None = None) -> ErrorWindows:
    """What is known if all failures are in the evaluation window, by default evenly spread."""
    return ErrorWindows(
        ErrorWindow(counts, counts.failures if outside is None else outside), lambda _: newest or counts
    )


def evaluated_window(window: Counts, *baselines: ErrorBaseline, parameters: Parameters = PARAMETERS) -> ErrorVerdict:
    return evaluate_errors(in_window(window), baselines, parameters)


def is_shifted(window: Counts, baseline: ErrorBaseline, parameters: Parameters = PARAMETERS) -> bool:
    return evaluated_window(window, baseline, parameters=parameters).shifted


class TestWindow:
    @pytest.mark.parametrize(
        ("window", "baseline", "expected"),
        [
            (Counts(412, 31), usual(40), True),
            (Counts(412, 4), usual(40), False),
            (Counts(50, 5), usual(0), True),
            (Counts(50, 2), usual(0), False),
            (Counts(100, 62), usual(6000), False),
            (Counts(100, 70), usual(6000), False),
            (Counts(100, 100), usual(6000), True),
            (Counts(2000, 60), usual(100), False),
        ],
        ids=["far more", "as usual", "never failed", "two only", "mostly fails", "a bit more", "all fail", "too small"],
    )
    def test_verdict(self, window: Counts, baseline: ErrorBaseline, expected: bool) -> None:
        assert is_shifted(window, baseline) is expected

    def test_the_swing_keeps_bursts_quiet_that_occur_on_more_than_one_day(self) -> None:
        burst, restless = Counts(300, 20), usual(10, swing=0.05)
        assert is_shifted(burst, usual(10))
        assert not is_shifted(burst, restless)
        assert is_shifted(burst, restless, replace(PARAMETERS, parts=ALL_PARTS._replace(error_swing=False)))
        assert is_shifted(Counts(300, 90), restless)

    def test_the_usual_ratio_may_drift_by_half(self) -> None:
        by_chance, baseline = Counts(120, 18), usual(500)
        assert not is_shifted(by_chance, baseline)
        without = replace(PARAMETERS, parts=ALL_PARTS._replace(error_margin=False))
        assert is_shifted(by_chance, baseline, without)
        assert is_shifted(Counts(120, 24), baseline)

    @pytest.mark.parametrize(("ratio", "expected"), [(0.0, 0.0), (0.01, 1.5 / 100.5), (0.6, 9 / 13), (1.0, 0.999)])
    def test_odds_drift_and_not_ratios(self, ratio: float, expected: float) -> None:
        assert drifted(ratio) == pytest.approx(expected)

    def test_an_hour_contains_the_failures_of_a_burst(self) -> None:
        restless = usual(10, swing=0.9)._replace(hour_swing=0.01)
        hour = ErrorWindow(Counts(250, 25), 5, HOUR)
        windows = in_window(Counts(60, 20))._replace(others=(hour,))
        assert not evaluate_errors(windows, [restless], PARAMETERS).shifted
        without = replace(PARAMETERS, parts=ALL_PARTS._replace(error_margin=False))
        assert evaluate_errors(windows, [restless], without).shifted

    def test_the_hour_that_allows_most_decides(self) -> None:
        window = Counts(100, 30)
        assert is_shifted(window, usual(10))
        two_hours = in_window(window)._replace(evaluation=ErrorWindow(window, 30, hours=2))
        assert not evaluate_errors(two_hours, [usual(10), usual(2500)], PARAMETERS).shifted
        assert evaluated_window(window, usual(10), usual(2500)).shifted, "it lies in the newest hour"

    def test_settings(self) -> None:
        window, baseline = Counts(1000, 90), usual(200)
        assert is_shifted(window, baseline)
        assert not is_shifted(window, baseline, replace(PARAMETERS, errors_ratio=5.0))
        assert not is_shifted(window, baseline, replace(PARAMETERS, errors_min_delta=0.08))

    @given(st.integers(3, 2000), st.floats(0, 1), st.integers(30, 20_000), st.floats(0, 1))
    def test_more_failures_never_end_a_shift_and_the_score_is_one_at_the_limit(
        self, requests: int, share: float, pooled: int, usual_share: float
    ) -> None:
        failures = int(share * requests)
        baseline = usual(int(usual_share * pooled), pooled)
        verdict = evaluated_window(Counts(requests, failures), baseline)
        assert verdict.score is not None
        assert not verdict.shifted or verdict.score >= 1
        if verdict.shifted:
            assert is_shifted(Counts(requests, min(requests, failures + 1)), baseline)

    @given(st.integers(40, 800), st.floats(0.0, 0.2))
    def test_half_of_all_counts_has_the_same_direction(self, requests: int, usual_share: float) -> None:
        baseline, half = usual(int(20_000 * usual_share), 20_000), usual(int(10_000 * usual_share), 10_000)
        worse = min(requests, int(requests * (usual_share + 0.6)) + 4)
        assert is_shifted(Counts(requests, worse), baseline)
        assert is_shifted(Counts(requests // 2, worse // 2), half)
        as_usual = int(requests * usual_share)
        assert not is_shifted(Counts(requests, as_usual), baseline)
        assert not is_shifted(Counts(requests // 2, as_usual // 2), half)

    @given(st.integers(10, 250), st.floats(0, 1), st.integers(0, 5000), st.integers(2, 20))
    def test_a_shift_stays_one_if_all_counts_are_multiplied(
        self, requests: int, share: float, usual_failures: int, factor: int
    ) -> None:
        failures = int(share * requests)
        verdict = evaluated_window(Counts(requests, failures), usual(usual_failures))
        scaled = evaluated_window(
            Counts(factor * requests, factor * failures), usual(factor * usual_failures, factor * 10_000)
        )
        assert scaled.score == pytest.approx(verdict.score)
        assert scaled.shifted >= verdict.shifted

    def test_a_young_incident_is_found_in_the_last_two_minutes(self) -> None:
        """The evaluation window still has three minutes of before."""
        short = ErrorWindow(Counts(60, 30), 15, 120)
        windows = in_window(Counts(300, 30), outside=15)._replace(others=(short,))
        restless = usual(10, swing=0.09)
        assert not evaluate_errors(windows._replace(others=()), [restless], PARAMETERS).shifted
        assert evaluate_errors(windows, [restless], PARAMETERS).counts == short.counts

    def test_explanation(self) -> None:
        window = Counts(412, 31)
        explanation = ErrorExplanation.of(evaluated_window(window, usual(40)), PARAMETERS)
        assert explanation is not None
        assert is_shifted(Counts(412, explanation.allowed + 1), usual(40))
        assert not is_shifted(Counts(412, explanation.allowed), usual(40))
        assert str(explanation) == (
            f"31 of the last 412 requests failed (7.5 %); usual at this hour: 0.4 %, at most {explanation.allowed} "
            "would be chance at 0.61 %; compared with 5 weekdays 10–11 h (level 1, 10,000 requests)."
        )

    @pytest.mark.parametrize(
        ("marks", "said"), [(4, "bursts up to 5 % are tolerated"), (13, "5 % recurs at this time")]
    )
    def test_explanation_names_the_bursts(self, marks: int, said: str) -> None:
        restless = usual(10, swing=0.05, burst_marks=marks)
        explanation = ErrorExplanation.of(evaluated_window(Counts(300, 90), restless), PARAMETERS)
        assert f"usual at this hour: 0.1 % ({said}), at most" in str(explanation)
        assert "would be chance at 5 %" in str(explanation)

    def test_failures_within_one_minute_are_a_burst(self) -> None:
        window = Counts(100, 30)
        assert evaluate_errors(in_window(window, outside=2), [usual(10)], PARAMETERS).shifted
        assert not evaluate_errors(in_window(window, outside=1), [usual(10)], PARAMETERS).shifted

    def test_a_longer_window_shows_a_shift_while_the_evaluation_window_is_too_small_for_one(self) -> None:
        newest, longer = Counts(50, 3), ErrorWindow(Counts(150, 12), 8, 900)
        windows = in_window(newest)._replace(others=(longer,))
        baseline = usual(100)
        assert not is_shifted(newest, baseline)
        verdict = evaluate_errors(windows, [baseline], PARAMETERS)
        assert verdict.shifted
        assert verdict.counts == longer.counts
        over = in_window(Counts(50, 1))._replace(others=(longer,))
        assert not evaluate_errors(over, [baseline], PARAMETERS).shifted, "long windows contain what is over"

    def test_a_shorter_window_may_contain_all_failures_of_a_burst(self) -> None:
        burst = ErrorWindow(Counts(100, 40), 20, 120)
        windows = in_window(Counts(250, 40))._replace(others=(burst,))
        assert not evaluate_errors(windows, [usual(10, swing=0.2)], PARAMETERS).shifted
        assert evaluate_errors(windows, [usual(10, swing=0.04)], PARAMETERS).shifted

    def test_an_endpoint_with_bursts_has_a_shift_if_too_many_fail_outside_of_them(self) -> None:
        hour = ErrorWindow(Counts(1200, 130), 120, HOUR)
        marks = tuple(Counts(100, failures) for failures in (30, 0, 30, 0, 0, 0, 12, 12, 12, 12, 12, 10))
        windows = in_window(Counts(100, 10))._replace(others=(hour,), marks=marks)
        restless = usual(100, swing=0.6, burst_marks=4)
        verdict = evaluate_errors(windows, [restless], PARAMETERS)
        assert verdict.shifted
        # Two bursts of 30 and two marks of 12 are left out.
        assert verdict.counts == Counts(800, 46)
        explanation = ErrorExplanation.of(verdict, PARAMETERS)
        assert "46 of 800 requests outside of bursts in the last hour failed" in str(explanation)
        only_bursts = windows._replace(marks=tuple(Counts(100, failures) for failures in (30, 30, 0, 0) * 2))
        assert not evaluate_errors(only_bursts, [restless], PARAMETERS).shifted
        assert not evaluate_errors(windows, [restless._replace(burst_marks=0)], PARAMETERS).shifted


class TestFlag:
    def test_it_fires_after_the_hold_time_and_resolves_once_the_newest_requests_succeed(self) -> None:
        flag, events = INACTIVE, []
        for now in range(0, 600, 15):
            is_failing = now < 300
            window = Counts(100, 30)
            windows = in_window(window, Counts(40, 12 if is_failing else 0))
            result = tick_errors(windows, now, [usual(10)], flag, PARAMETERS)
            flag = result.flag
            if result.event is not None:
                events.append((now, result.event))
        assert events == [(60, FlagEvent.FIRING), (420, FlagEvent.RESOLVED)]

    def test_it_asks_for_the_newest_requests_that_contain_four_failures_at_the_ratio_of_the_shift(self) -> None:
        asked: list[int] = []

        def newest(least: int) -> Counts:
            asked.append(least)
            return Counts(least, 3)

        window = ErrorWindows(ErrorWindow(Counts(100, 40), 30), newest)
        assert tick_errors(window, 100, [usual(10)], INACTIVE, PARAMETERS).flag.pending_since == 100
        assert asked == [10]

    def test_without_a_baseline_it_resolves(self) -> None:
        firing = INACTIVE._replace(firing=True, since=0.0)
        window = in_window(Counts(100, 100))
        first = tick_errors(window, 100, [], firing, PARAMETERS)
        assert first.verdict is None
        assert first.flag.firing
        assert tick_errors(window, 220, [], first.flag, PARAMETERS).event is FlagEvent.RESOLVED


class TestSwing:
    @staticmethod
    def peaks(*found: tuple[int, int, int]) -> list[ErrorPeak]:
        """Worst windows of 100 requests, as day, hour and failures; 1200 requests in the hour."""
        return [ErrorPeak(day, hour, Counts(100, failed), Counts(1200, failed)) for day, hour, failed in found]

    def learned(self, peaks: list[ErrorPeak], hour: int) -> ErrorSwing:
        return swing_of_days(peaks, hour, 0.0, 0.00005, PARAMETERS)

    def test_one_day_does_not_count(self) -> None:
        assert self.learned(self.peaks((1, 9, 90), (1, 11, 80)), 9) == (0, 0, 0)

    def test_bursts_on_two_days_count_in_all_hours_with_their_heights(self) -> None:
        bursts = self.peaks((1, 9, 5), (2, 17, 8), (4, 14, 60))
        learned = self.learned(bursts, 20)
        assert learned.swing == pytest.approx(4 * 0.08)
        assert learned.hour_swing < 0.005
        assert learned.burst_marks == 4
        assert self.learned(bursts[:2], 9).swing == pytest.approx(4 * 0.05)

    def test_what_recurs_in_an_hour_of_the_day_counts_there_only(self) -> None:
        batch = self.peaks(*[(day, 3, 30) for day in range(5)])
        swing, hour_swing, marks = self.learned(batch, 3)
        assert swing == pytest.approx(1.5 * 0.3)
        assert hour_swing == swing, "all requests of the hour may lie within the batch"
        assert marks > 12, "an hour with a batch is not tested outside of it"
        elsewhere = self.learned(batch, 12)
        assert elsewhere.burst_marks == 0
        assert elsewhere.swing < 0.3

    @staticmethod
    def sparse(*found: tuple[int, int, int]) -> list[ErrorPeak]:
        """Worst windows of 14 requests, as day, hour and failures; 120 requests in the hour."""
        return [ErrorPeak(day, hour, Counts(14, failed), Counts(120, failed + 2)) for day, hour, failed in found]

    def test_what_no_single_day_proves_recurs_if_all_days_show_it(self) -> None:
        chance = self.sparse(*[(day, hour, 2) for day in range(8) for hour in (8, 9, 15)])
        batch = [*chance, *self.sparse(*[(day, 3, 5) for day in range(8)])]
        usual_ratio = 0.05
        swing, _, marks = swing_of_days(batch, 3, usual_ratio, usual_ratio, PARAMETERS)
        assert swing == pytest.approx(1.5 * 5 / 14)
        assert marks > 12
        elsewhere = swing_of_days(batch, 15, usual_ratio, usual_ratio, PARAMETERS)
        assert elsewhere.burst_marks == 0
        assert elsewhere.swing < swing / 2
        without = replace(PARAMETERS, parts=ALL_PARTS._replace(error_patterns=False))
        assert swing_of_days(batch, 3, usual_ratio, usual_ratio, without).burst_marks == 0

    def test_a_single_incident_is_no_pattern(self) -> None:
        peaks = self.sparse(*[(day, hour, 2) for day in range(8) for hour in (3, 8, 15)], (9, 3, 14))
        assert swing_of_days(peaks, 3, 0.05, 0.05, PARAMETERS).burst_marks == 0

    @given(
        st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.integers(2, 14)), max_size=40), st.integers(0, 3)
    )
    def test_the_order_of_hours_makes_no_difference(self, found: list[tuple[int, int, int]], hour: int) -> None:
        peaks = self.sparse(*{(day, at): (day, at, failed) for day, at, failed in found}.values())
        learned = swing_of_days(peaks, hour, 0.01, 0.01, PARAMETERS)
        assert swing_of_days(peaks[::-1], hour, 0.01, 0.01, PARAMETERS) == learned

    def test_chance_is_no_burst(self) -> None:
        peaks = self.peaks(*[(day, hour, 4) for day in range(8) for hour in range(24)])
        assert swing_of_days(peaks, 3, 0.01, 0.01, PARAMETERS).burst_marks == 0

    @given(st.integers(1, 5000), st.floats(0, 1))
    def test_the_lower_bound_is_below_the_ratio_and_nears_it_with_more_requests(self, n: int, share: float) -> None:
        failures = int(n * share)
        assert 0 <= lower_bound(Counts(n, failures)) <= failures / n + 1e-9
        assert lower_bound(Counts(n, failures)) <= lower_bound(Counts(100 * n, 100 * failures)) + 1e-9


def evaluated(stored: Iterable[StoredWindow], days: int, detector: Detector = DETECTOR) -> HistoryProgress:
    return advance(detector, SeriesHours(hours_of(stored, CLOCK)), MONDAY + 24 * HOUR * days)


class TestHistory:
    INCIDENT: Final = dict.fromkeys(range(12 * 24 * 8 + 12 * 10, 12 * 24 * 8 + 12 * 11 + 6), 0.3)
    """An hour and a half from 10:00 on the ninth day."""
    LATER: Final = dict.fromkeys([12 * 24 * 8 + 12 * 12 + 2], 0.2)
    """A mark that ends at 12:15, within an hour of the incident."""

    def test_an_incident_is_found_and_kept_out_of_the_usual_ratio(self) -> None:
        stored = windows_with_failures(10, self.INCIDENT)
        progress = evaluated(stored, 10)
        begin = MONDAY + 24 * HOUR * 8 + 10 * HOUR
        (firing, resolved) = progress.error_changes
        assert (firing.event, resolved.event) == (FlagEvent.FIRING, FlagEvent.RESOLVED)
        assert begin < firing.at <= begin + 3 * MARK
        assert begin + 90 * 60 < resolved.at <= begin + 90 * 60 + 3 * MARK
        assert "requests failed" in str(firing.explanation)
        assert set(progress.state.errors.quarantined) == {begin, begin + HOUR}
        assert progress.changes == [], "the latency did not change"
        (period,) = progress.flag_periods
        assert period.kind is FlagKind.ERRORS
        assert begin < period.since <= firing.at
        assert period.until is not None
        assert begin + 90 * 60 <= period.until <= resolved.at
        history = SeriesHours(hours_of(stored, CLOCK, progress.evaluations))
        hour = CLOCK.hour(MONDAY + 24 * HOUR * 9 + 10 * HOUR)
        baseline = error_baseline(history, hour, RULES, progress.state.errors, progress.state.until, PARAMETERS)
        assert baseline is not None
        assert baseline.ratio < 0.005
        assert baseline.windows == 6

    def test_what_an_incident_left_in_long_windows_does_not_fire_the_flag_again(self) -> None:
        stored = windows_with_failures(9, {**self.INCIDENT, **self.LATER}, 10)
        assert [each.event for each in evaluated(stored, 9).error_changes] == [FlagEvent.FIRING, FlagEvent.RESOLVED]

    def test_another_incident_within_an_hour_fires_the_flag_again(self) -> None:
        again = dict.fromkeys(range(12 * 24 * 8 + 12 * 12 + 2, 12 * 24 * 8 + 12 * 12 + 8), 0.3)
        stored = windows_with_failures(9, {**self.INCIDENT, **again}, 10)
        changes = evaluated(stored, 9).error_changes
        assert [each.event for each in changes] == [FlagEvent.FIRING, FlagEvent.RESOLVED] * 2
        assert changes[2].at - MONDAY - 24 * HOUR * 8 <= 12 * HOUR + 30 * 60

    @pytest.mark.parametrize(("later", "per_mark"), [({}, 40), (LATER, 10)])
    def test_it_makes_no_difference_where_evaluation_paused_and_in_which_order_windows_came(
        self, later: dict[int, float], per_mark: int
    ) -> None:
        stored = windows_with_failures(9, {**self.INCIDENT, **later}, per_mark)
        whole = evaluated(reversed(stored), 9)
        state, changes = None, []
        periods: dict[float, FlagPeriod] = {}
        for day in range(1, 10):
            for hours in (7, 24):
                until = MONDAY + 24 * HOUR * (day - 1) + HOUR * hours
                known = [each for each in stored if each.start < until]
                progress = advance(DETECTOR, SeriesHours(hours_of(known, CLOCK)), until, state)
                state = decode_state(encode_state(progress.state))
                changes += progress.error_changes
                periods.update((each.since, each) for each in progress.flag_periods)
        assert state is not None
        assert state.errors == whole.state.errors
        assert changes == whole.error_changes
        assert list(periods.values()) == whole.flag_periods != []

    @pytest.mark.parametrize("per_mark", [10, 40, 160])
    def test_scaling_all_counts_changes_no_direction(self, per_mark: int) -> None:
        changes = evaluated(windows_with_failures(10, self.INCIDENT, per_mark), 10).error_changes
        assert [change.event for change in changes] == [FlagEvent.FIRING, FlagEvent.RESOLVED]
        begin = MONDAY + 24 * HOUR * 8 + 10 * HOUR
        assert begin < changes[0].at <= begin + 4 * MARK
        assert evaluated(windows_with_failures(10, {}, per_mark), 10).error_changes == []

    def test_a_batch_that_fails_every_night_becomes_usual(self) -> None:
        batch = {12 * 24 * day + 36 + mark: 0.3 for day in range(12) for mark in range(1, 5)}
        progress = evaluated(windows_with_failures(12, batch), 12)
        assert all(change.at < MONDAY + 7 * 24 * HOUR for change in progress.error_changes)

    def test_a_lasting_change_is_accepted(self) -> None:
        lasting = dict.fromkeys(range(12 * 24 * 6 + 1, 12 * 24 * 9), 0.3)
        progress = evaluated(windows_with_failures(9, lasting), 9)
        assert progress.accepted_errors == [MONDAY + 6 * 24 * HOUR]
        assert [change.event for change in progress.error_changes] == [FlagEvent.FIRING, FlagEvent.RESOLVED]
        assert progress.state.errors.flag == INACTIVE

    def test_unknown_failures_are_not_none_that_failed(self) -> None:
        stored = [each._replace(failures=None) for each in windows_with_failures(9, self.INCIDENT)]
        progress = evaluated(stored, 9)
        assert progress.error_changes == []
        history = SeriesHours(hours_of(stored, CLOCK))
        hour = CLOCK.hour(MONDAY + 9 * 24 * HOUR)
        assert error_baseline(history, hour, RULES, progress.state.errors, progress.state.until, PARAMETERS) is None

    def test_a_disabled_series_has_no_verdict(self) -> None:
        assert (
            evaluated(windows_with_failures(9, self.INCIDENT), 9, replace(DETECTOR, is_enabled=False)).error_changes
            == []
        )
