"""The detector: its rules, the stored state of a series, and what a series is expected to do in an hour."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec

from exporter.baseline.levels import SLOTS_OF_HOUR, FallbackLevel, FallbackRules, Pool, choose_pool
from exporter.baseline.traffic import MARKS, NO_PATTERN, HourPattern
from exporter.detection.errors.history import NO_ERROR_STATE, ErrorState, error_baseline
from exporter.detection.errors.verdict import ErrorBaseline
from exporter.detection.flag import INACTIVE, Flag
from exporter.detection.parameters import (
    BUSY_SWING_HOURS,
    DAILY_PATTERN_MIN_HOURS,
    PROFILE_MIN_HOURS,
    SUSPICION_SECONDS,
    Parameters,
)
from exporter.detection.policy import SeriesPolicies
from exporter.detection.prediction import Prediction, SlowHour
from exporter.detection.profile import deviations_from_hours_around, highest, pattern_of_hour
from exporter.detection.regression.tracker import NO_REGRESSION_STATE, RegressionState, RegressionTracker
from exporter.detection.runs import RunPrediction, predict_runs
from exporter.detection.schedule import HourThresholds, LazySchedule
from exporter.detection.settlement import SettledHour
from exporter.detection.streams import (
    DEFAULT_STREAM_RULES,
    NO_HINT,
    UNDECIDED,
    StreamHint,
    StreamReason,
    StreamRules,
    StreamState,
    has_stream_durations,
)
from exporter.detection.swing import least_busy
from exporter.detection.thresholds import Thresholds
from exporter.detection.tolerance import Tolerance, marks_in, with_tolerance
from exporter.detection.traffic.history import NO_TRAFFIC_STATE, SeriesTraffic, TrafficState
from exporter.detection.traffic.source import SourceHistory
from exporter.detection.window import decoded_traces
from exporter.model.calendar import HOUR_SECONDS, HourClock, LocalHour
from exporter.model.hour_evaluation import EncodedEvaluation, HourEvaluation, HourProfile, Swings
from exporter.model.hours import SeriesHours, hours_of
from exporter.model.series_hour import SeriesHour, StoredWindow
from exporter.model.span import SeriesKey
from exporter.model.time_mark import LEFT_OUT, NO_MARKS, MarkKind, MarkRange, SeriesMarks, TimeMarks


class SeriesState(NamedTuple):
    """State of a series after evaluating its history up to an instant; all that is needed to continue from there.

    Times are Unix seconds. Encoded by position, so the order of the fields is part of the stored format.

    Attributes:
        until: end of the last evaluated hour.
        changepoint: start of the series' present behaviour, if a change was accepted.
        run: settled hours of a change that may be accepted.
        suspects: starts of hours touched by a firing flag that can still become quarantined.
        flag: the flag at the last mark.
        schedule: thresholds of the hours that the next window can extend into.
        recent: traces that it can contain, or that ended later: mark, and encoded digest.
        stream: whether the series is a stream by its durations.
        streak: slow hours of a change that may be accepted although no single hour of it is significant.
        regression: what is known of regressions.
        errors: what is known of failures.
        pattern: how its requests are distributed within the hour.
        traffic: what is known of its traffic.
        tolerances: what was marked as normal.
    """

    until: int
    changepoint: int | None = None
    run: tuple[SettledHour, ...] = ()
    suspects: tuple[int, ...] = ()
    flag: Flag = INACTIVE
    schedule: tuple[HourThresholds, ...] = ()
    recent: tuple[tuple[int, bytes], ...] = ()
    stream: StreamState = UNDECIDED
    streak: tuple[SlowHour, ...] = ()
    regression: RegressionState = NO_REGRESSION_STATE
    errors: ErrorState = NO_ERROR_STATE
    pattern: HourPattern = NO_PATTERN
    traffic: TrafficState = NO_TRAFFIC_STATE
    tolerances: tuple[Tolerance, ...] = ()


def encode_state(state: SeriesState) -> bytes:
    """Encode a state as MessagePack arrays: two thirds of the bytes of JSON, and decoded in a seventh of the time."""
    return msgspec.msgpack.encode(state)


def decode_state(data: bytes) -> SeriesState:
    """Decode the result of :func:`encode_state`.

    Raises:
        ValueError: the bytes are damaged; the series' history must be evaluated from the beginning.
    """
    state = msgspec.msgpack.decode(data, type=SeriesState)
    decoded_traces(state.recent)
    RegressionTracker.check(state.regression)
    state.pattern.check()
    return state


class Expectation(NamedTuple):
    """Baseline of a series in one local hour.

    Attributes:
        pool: hours that form the baseline; None at level 5.
        prediction: predicted quantiles; None while the pool is not mature and the series is learning, of a stream,
            and of a series without verdicts.
        stream: whether the series is a stream by its durations, those of a mature pool included.
        runs: what its runs are compared with if it is evaluated by run; None if by window, or not at all.
    """

    pool: Pool | None = None
    prediction: Prediction | None = None
    stream: StreamState = UNDECIDED
    runs: RunPrediction | None = None

    @property
    def thresholds(self) -> Thresholds | None:
        """Thresholds of the hour; None without a prediction."""
        return None if self.prediction is None else self.prediction.thresholds

    @property
    def has_verdict(self) -> bool:
        """Whether the series gets verdicts in the hour, by window or by run."""
        return self.prediction is not None or self.runs is not None


@dataclass(frozen=True, slots=True)
class Detector:
    """The rules by which all series are evaluated.

    Attributes:
        rules: choice of the baseline.
        parameters: settings of the shift test.
        clock: maps instants to local hours.
        streams: which series are streams by configuration or by name.
        hint: what that says of the series at hand; see :meth:`of`.
        policies: overrides for some series; they replace ``rules`` and ``parameters`` in :meth:`of`.
        is_enabled: whether the series at hand gets verdicts.
        marks: what people know about ranges of time.
        own_marks: those of the series at hand; None without any.
    """

    rules: FallbackRules
    parameters: Parameters
    clock: HourClock
    streams: StreamRules = DEFAULT_STREAM_RULES
    hint: StreamHint = NO_HINT
    policies: SeriesPolicies | None = None
    is_enabled: bool = True
    marks: TimeMarks = NO_MARKS
    own_marks: SeriesMarks | None = None

    def of(self, key: SeriesKey) -> "Detector":
        """Return the detector for one series. Without it, a series is a stream by its durations only."""
        hint, own_marks = self.streams.hint(key), self.marks.of(key)
        detector = self
        if hint != self.hint or own_marks is not self.own_marks:
            detector = replace(self, hint=hint, own_marks=own_marks)
        policy = None if self.policies is None else self.policies.of(key)
        if policy is None:
            return detector
        return replace(detector, rules=policy.rules, parameters=policy.parameters, is_enabled=policy.is_enabled)

    def hours(
        self,
        windows: Sequence[StoredWindow],
        evaluations: Mapping[int, HourEvaluation | EncodedEvaluation] | None = None,
    ) -> list[SeriesHour]:
        """Group the windows of the series into local hours, without those that a mark leaves out.

        Args:
            windows: stored windows, in time order.
            evaluations: results of evaluated hours, by start of the hour.
        """
        kept = windows if self.own_marks is None else self.own_marks.kept(windows, self.clock)
        return hours_of(kept, self.clock, evaluations)

    def traffic(self, windows: Sequence[StoredWindow], source: SourceHistory) -> SeriesTraffic:
        """Return the counts of the series in its windows.

        Args:
            windows: stored windows, in time order.
            source: the source.
        """
        kept = windows if self.own_marks is None else self.own_marks.kept(windows, self.clock)
        return SeriesTraffic.of(kept, self.own_source(source), self.rules, self.parameters)

    def own_source(self, source: SourceHistory) -> SourceHistory:
        """Return the source as it counts for the series: hours that a mark leaves out count as not read.

        Hours that people have marked as normal count, but get no verdict.
        """
        marks = self.own_marks
        if marks is None or not source.hours:
            return source
        outer = source.hours[0].hour.start, source.hours[-1].hour.end
        left_out = self._hours_of(marks.ranges(*outer, LEFT_OUT))
        return source.without(left_out, self._hours_of(marks.ranges(*outer, (MarkKind.NORMAL,))), self.clock)

    def _hours_of(self, ranges: Sequence[MarkRange]) -> set[int]:
        found = set()
        for start, end, _ in ranges:
            hour = self.clock.hour(start)
            while hour.start < end:
                found.add(hour.start)
                hour = self.clock.hour(hour.end)
        return found

    def normal_marks(self, hour: LocalHour) -> tuple[int, int] | None:
        """Return the first five-minute mark of an hour that people have marked as normal, and the one behind the last.

        None for an hour without such a mark.
        """
        if self.own_marks is None:
            return None
        ranges = self.own_marks.ranges(hour.start, hour.end, (MarkKind.NORMAL,))
        return marks_in(hour, [(each.start, each.end) for each in ranges])

    def expect(
        self,
        history: SeriesHours,
        hour: LocalHour,
        *,
        changepoint: int | None = None,
        suspects: Collection[int] = (),
        stream: StreamState = UNDECIDED,
        known_until: int | None = None,
        tolerances: Sequence[Tolerance] = (),
    ) -> Expectation:
        """Return the baseline of a series in an hour, from the settled hours before it.

        Args:
            history: evaluated hours of the series; those before the look-back and the changepoint are dropped from it.
            hour: the local hour.
            changepoint: start of the series' present behaviour, if a change was accepted.
            suspects: starts of hours that are not pooled because a firing flag has touched them.
            stream: whether the series was a stream by its durations in the hour before.
            known_until: the history is complete up to here, Unix seconds; None means up to the hour.
            tolerances: what was marked as normal.
        """
        history.discard_before(max(hour.start - self.rules.lookback_seconds, changepoint or 0))
        found = self._expect_windows(history, hour, suspects=suspects, stream=stream, tolerances=tolerances)
        if not self.parameters.parts.runs or not self.is_enabled:
            return found
        # The only place that decides whether a series is evaluated by window or by run.
        runs = predict_runs(
            history,
            hour,
            self.rules,
            self.parameters,
            self.clock,
            known_until=hour.start if known_until is None else min(known_until, hour.start),
            changepoint=changepoint,
            suspects=suspects,
            tolerances=tolerances,
        )
        return found if runs is None or self.stream_reason(found) is not None else found._replace(runs=runs)

    def _expect_windows(
        self,
        history: SeriesHours,
        hour: LocalHour,
        *,
        suspects: Collection[int],
        stream: StreamState,
        tolerances: Sequence[Tolerance],
    ) -> Expectation:
        pool = choose_pool(history, hour.start, hour.slot, self.rules, suspects=suspects)
        if pool is None:
            return Expectation(stream=stream)
        if not pool.mature:
            return Expectation(pool, stream=stream)
        stream = stream.after(pool.digest, is_suggested=self.hint.is_suggested)
        if not self.is_judged(stream):
            return Expectation(pool, stream=stream)
        swings = history.swings(hour.start, pool.released)
        profile: HourProfile = ()
        if self.parameters.parts.profile:
            inherit = self.parameters.parts.inherited_swing
            profile = history.profile(hour.start, PROFILE_MIN_HOURS, pool.released, inherit=inherit)
            same_hour = history.of_slots(SLOTS_OF_HOUR[hour.slot.hour], hour.start - HOUR_SECONDS)
            if len(same_hour) >= DAILY_PATTERN_MIN_HOURS:
                usual = [each for each in same_hour if not each.is_quarantined or each in pool.released]
                if self.parameters.parts.pattern_transfer and pool.level > FallbackLevel.EXACT:
                    deviations = deviations_from_hours_around(history, usual)
                else:
                    deviations = [each.evaluation.deviations for each in usual]
                profile = highest(profile, pattern_of_hour(deviations, inherit=inherit))
        if tolerances:
            is_sparse = pool.digest.count < len(pool.hours) * self.parameters.min_traces * MARKS
            profile = with_tolerance(profile, tolerances, hour, is_sparse=is_sparse)
        daily = history.daily_swings(hour.start, pool.released) if self.parameters.parts.typical_swing else ()
        busy: Collection[Swings] = ()
        if (least := least_busy(pool, self.parameters)) is not None:
            busy = history.busy_swings(hour.start, least, BUSY_SWING_HOURS, pool.released)
        return Expectation(pool, Prediction(pool, swings, self.parameters, profile, daily, busy), stream)

    @property
    def judges_errors(self) -> bool:
        """Whether the series gets verdicts on its failures."""
        return self.is_enabled and self.parameters.errors_enabled

    def error_baselines(self, history: SeriesHours, state: SeriesState, hour: LocalHour) -> list[ErrorBaseline]:
        """Return the usual failures in an hour and in those before it that a window can touch, newest first.

        They end before the first hour without a mature baseline; there are none without verdicts on failures.

        Args:
            history: hours of the series, evaluated up to ``state.until``.
            state: state after that evaluation.
            hour: the hour.
        """
        found: list[ErrorBaseline] = []
        oldest = hour.start - self.parameters.max_window_seconds
        while self.judges_errors and hour.end > oldest:
            baseline = error_baseline(
                history, hour, self.rules, state.errors, state.until, self.parameters, state.tolerances
            )
            if baseline is None:
                break
            found.append(baseline)
            hour = self.clock.hour(hour.start - 1)
        return found

    def is_judged(self, stream: StreamState) -> bool:
        """Whether the series gets verdicts: it is enabled and not a stream."""
        return self.is_enabled and not self.hint.reason and not (stream.is_stream and not self.hint.is_request)

    def stream_reason(self, expectation: Expectation) -> StreamReason | None:
        """Return why a series is a stream in an hour; None if its spans are requests.

        Durations count from the first baseline on: a stream has no outliers either while it is learning.
        """
        if self.hint.reason or self.hint.is_request:
            return self.hint.reason
        is_stream, pool = expectation.stream.is_stream, expectation.pool
        if is_stream is None and pool is not None:
            is_stream = has_stream_durations(pool.digest, is_suggested=self.hint.is_suggested)
        return StreamReason.DURATIONS if is_stream else None

    def schedule_at(
        self, history: SeriesHours, state: SeriesState, at: int, suspects: Collection[int] = ()
    ) -> tuple[Expectation, LazySchedule]:
        """Return the baseline in the hour of an instant, and the thresholds for windows in that hour.

        Args:
            history: hours of the series, evaluated up to ``state.until``; those out of reach are dropped from it.
            state: state after that evaluation.
            at: Unix seconds, not before ``state.until``.
            suspects: starts of hours touched by a firing flag; those too old to become quarantined are ignored.
        """
        pending = {start for start in suspects if start >= state.until - SUSPICION_SECONDS}
        hours = [self.clock.hour(at)]
        oldest = max(hours[0].start - self.parameters.max_window_seconds, state.until)
        while hours[-1].start > oldest:
            hours.append(self.clock.hour(hours[-1].start - 1))
        schedule = LazySchedule(state.schedule if hours[-1].start == state.until else ())
        expectation = Expectation()
        for hour in reversed(hours):
            expectation = self.expect(
                history,
                hour,
                changepoint=state.changepoint,
                suspects=pending,
                stream=state.stream,
                known_until=state.until,
                tolerances=state.tolerances,
            )
            schedule = schedule.followed_by(hour.start, expectation.prediction, self.parameters.max_window_seconds)
        return expectation, schedule
