"""Read-only queries over the stored history, for the API, the pages and the command line.

They follow the rules of the detector: for the current hour, a report agrees with the baseline table. Nothing is
written, so a read-only database is enough.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

from exporter.baseline.availability import SeriesAvailability, series_availability
from exporter.baseline.levels import SLOTS, Baseline, FallbackLevel, FallbackRules, Pool, choose_pool
from exporter.baseline.traffic import MIN_USUAL_REQUESTS, TrafficBaseline
from exporter.detection.detector import Detector
from exporter.detection.errors.verdict import ErrorBaseline
from exporter.detection.parameters import Parameters
from exporter.detection.policy import SeriesPolicy
from exporter.detection.profile import minutes_of
from exporter.detection.regression.verdict import Regression
from exporter.detection.runs import RunThresholds
from exporter.detection.streams import StreamReason
from exporter.detection.thresholds import Thresholds
from exporter.evaluation.regression_version import RegressionVersion, stored_version
from exporter.evaluation.series import BaselineRequest, SeriesHistory, changepoint_of, is_evaluated_far_enough
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.stored_source import read_source
from exporter.model.calendar import HOUR_SECONDS, HourClock, LocalHour, Slot
from exporter.model.histogram import BUCKETS_PER_OCTAVE, Digest, bucket_upper_seconds
from exporter.model.span import SeriesKey
from exporter.model.time_mark import NO_MARKS, MarkRange, TimeMarks
from exporter.runtime.locks import LockRank, new_lock
from exporter.store import Store, StoredSeries

_CACHE_SECONDS: Final = 60
"""How long availability is cached while the history is not fully evaluated, because then it still grows."""


class NoVerdict(StrEnum):
    """Why there is no shift verdict in an hour."""

    UNAVAILABLE = "unavailable"
    """Level 5: too little history for any baseline."""
    LEARNING = "learning"
    """The baseline is not mature: it is pooled from too few hours or days."""
    DISABLED = "disabled"
    """An override has ``enabled: false`` for the series."""
    STREAM = "stream"
    """The spans are no requests, so their durations are not judged."""
    NOT_EVALUATED = "not_judged"
    """The history before this hour is not evaluated: the baseline might contain an incident."""


class PooledHour(NamedTuple):
    """An hour that is pooled in a baseline: its start, Unix seconds, and its number of traces."""

    start: int
    traces: int


class LevelSupply(NamedTuple):
    """The history that one fallback level has for an hour.

    Attributes:
        level: the level.
        needed: traces that the level needs to serve.
        traces: traces in its pool.
        hours: hours in its pool.
        mature: whether the pool has enough hours and days for a shift verdict.
    """

    level: FallbackLevel
    needed: int
    traces: int
    hours: int
    mature: bool


class ShiftThreshold(NamedTuple):
    """The limit of one quantile in the shift test.

    Attributes:
        quantile: between 0 and 1.
        baseline_seconds: the quantile of the baseline.
        swing_factor: how much the quantile of this series normally varies.
        limit_seconds: the quantile of the evaluation window must exceed this to be practically significant.
        pattern_factor: the highest factor by which the limit is raised at some minutes of every hour; 1 without any.
        pattern_minutes: these minutes of the hour, as ``[from, to)``.
    """

    quantile: float
    baseline_seconds: float
    swing_factor: float
    limit_seconds: float
    pattern_factor: float = 1.0
    pattern_minutes: tuple[tuple[int, int], ...] = ()


class RunLimits(NamedTuple):
    """What the runs of a series with little traffic are compared with; see :mod:`exporter.detection.runs`.

    Attributes:
        past_runs: number of past runs.
        usual_seconds: the usual run.
        swing_factor: factor by which runs normally exceed it.
        slow_seconds: two runs in a row above this are a shift.
        far_seconds: so is one above this.
        longest_seconds: the longest past run of these hours.
    """

    past_runs: int
    usual_seconds: float
    swing_factor: float
    slow_seconds: float
    far_seconds: float
    longest_seconds: float

    @classmethod
    def of(cls, thresholds: RunThresholds) -> "RunLimits":
        """Convert thresholds from buckets into seconds."""
        gates = thresholds.gates[0]
        return cls(
            thresholds.past,
            bucket_upper_seconds(gates.usual),
            thresholds.swing_factor,
            bucket_upper_seconds(gates.slow),
            bucket_upper_seconds(gates.far),
            bucket_upper_seconds(thresholds.longest),
        )


class ErrorLimits(NamedTuple):
    """What the failures of a series are compared with in an hour.

    Attributes:
        ratio: the usual error ratio.
        limit_ratio: the error ratio from which on a shift matters.
        swing_ratio: the error ratio that windows reach on several days; 0 without bursts.
        level: fallback level.
        slot: slot of the hour.
        windows: number of pooled hours.
        traces: traces in them.
    """

    ratio: float
    limit_ratio: float
    swing_ratio: float
    level: FallbackLevel
    slot: Slot
    windows: int
    traces: int

    @classmethod
    def of(cls, errors: ErrorBaseline, parameters: Parameters) -> "ErrorLimits":
        """Take them from a baseline."""
        return cls(
            errors.ratio,
            errors.limit(parameters),
            errors.swing,
            errors.level,
            errors.slot,
            errors.windows,
            errors.requests,
        )


class TrafficLimits(NamedTuple):
    """What the traffic of a series is compared with in an hour.

    Attributes:
        requests: the usual number of requests in the hour.
        low_requests: fewer than so many would be a drop, if they are not by chance.
        is_judged: whether there are enough usual requests for a verdict.
        level: fallback level.
        windows: number of hours that the usual number is the median of.
    """

    requests: float
    low_requests: float
    is_judged: bool
    level: FallbackLevel
    windows: int

    @classmethod
    def of(cls, usual: TrafficBaseline, parameters: Parameters) -> "TrafficLimits":
        """Take them from a baseline."""
        return cls(
            usual.requests,
            parameters.traffic_drop * usual.requests,
            usual.requests >= MIN_USUAL_REQUESTS,
            usual.level,
            usual.hours,
        )


@dataclass(frozen=True, slots=True)
class BaselineReport:
    """The baseline of one series for one hour, and what it is made of.

    Attributes:
        key: the series.
        hour: the local hour.
        baseline: None at level 5.
        digest: all traces pooled in the baseline; None at level 5.
        hours: the hours pooled in the baseline, oldest first.
        outlier_threshold_seconds: a single trace slower than this is an outlier; None at level 5.
        shift: the limits of the shift test; empty without a verdict, and if the series is evaluated by run.
        no_verdict: why there is no shift verdict; None if there is one.
        supply: what each enabled level has, most specific first.
        kept_out: starts of the hours in reach, of any slot, that are quarantined or suspect, Unix seconds.
        changepoint: start of the present behaviour, Unix seconds, if a lasting change was accepted.
        stream: why the series is a stream, for which there are no thresholds; None if its spans are requests.
        known_until: the history after this instant is not considered, Unix seconds.
        policy: the overrides of the series; None if there are none.
        runs: the limits for runs, if the series is evaluated by run.
        is_compared: whether the last days could be compared with the weeks before; always False for a past hour.
        regression: the present regression; None for a past hour.
        regression_version: with which version of its service it began; None while that was not looked for.
        marks: what people have marked of the time from the beginning of the look-back to the end of the hour.
        errors: what its failures are compared with; None while that is unknown, and if failures are not judged.
        traffic: what its traffic is compared with; None while that is unknown, and if traffic is not judged.
    """

    key: SeriesKey
    hour: LocalHour
    baseline: Baseline | None
    digest: Digest | None
    hours: tuple[PooledHour, ...]
    outlier_threshold_seconds: float | None
    shift: tuple[ShiftThreshold, ...]
    no_verdict: NoVerdict | None
    supply: tuple[LevelSupply, ...]
    kept_out: tuple[int, ...]
    changepoint: int | None
    known_until: int
    stream: StreamReason | None = None
    policy: SeriesPolicy | None = None
    runs: RunLimits | None = None
    is_compared: bool = False
    regression: Regression | None = None
    regression_version: RegressionVersion | None = None
    marks: tuple[MarkRange, ...] = ()
    errors: ErrorLimits | None = None
    traffic: TrafficLimits | None = None

    @property
    def level(self) -> FallbackLevel:
        """The fallback level of the baseline."""
        return FallbackLevel.UNAVAILABLE if self.baseline is None else self.baseline.level


class SlotBaseline(NamedTuple):
    """The baseline of a series for one of the 48 slots.

    Attributes:
        slot: hour of the day and day type.
        baseline: the baseline if the current hour had this slot; None at level 5.
        outlier_threshold_seconds: a single trace slower than this would be an outlier; None at level 5.
        traces: traces in the slot's own hours, without quarantined ones.
        hours: number of those hours.
    """

    slot: Slot
    baseline: Baseline | None
    outlier_threshold_seconds: float | None
    traces: int
    hours: int


@dataclass(frozen=True, slots=True)
class Profile:
    """The baselines of a series for all slots.

    Attributes:
        key: the series.
        slots: all 48, weekdays first.
        changepoint: start of the present behaviour, Unix seconds, if a lasting change was accepted.
    """

    key: SeriesKey
    slots: tuple[SlotBaseline, ...]
    changepoint: int | None


class _Cached(NamedTuple):
    hour_start: int
    evaluated_until: int | None
    marks: TimeMarks
    expires_at: float
    availability: Mapping[SeriesKey, SeriesAvailability]


class BaselineQuerier:
    """Answers queries about the baselines of stored series. Thread-safe."""

    def __init__(
        self,
        store: Store,
        hour_clock: HourClock,
        settings: EvaluationSettings,
        marks: Callable[[], TimeMarks] = lambda: NO_MARKS,
    ) -> None:
        """Use a store, which may be read-only.

        Args:
            store: the history.
            hour_clock: local hours.
            settings: what a verdict depends on.
            marks: returns what people know about ranges of time.
        """
        self._marks = marks
        self._store = store
        self._hour_clock = hour_clock
        self._settings = settings
        self._rules_of_all = settings.detector(hour_clock)
        self._mutex = new_lock(LockRank.AVAILABILITY)
        self._cached: _Cached | None = None

    @property
    def detector(self) -> Detector:
        """The detector of all series, with the marks in use."""
        return replace(self._rules_of_all, marks=self._marks())

    def _marks_before(self, key: SeriesKey, hour: LocalHour) -> tuple[MarkRange, ...]:
        own = self._marks().of(key)
        since = hour.start - self._settings.rules(key).lookback_seconds
        return () if own is None else tuple(own.ranges(since, hour.end))

    def series(self) -> list[SeriesKey]:
        """All series with stored history, by name.

        Raises:
            StoreError: the database cannot be read.
        """
        return sorted(self._store.series())

    def report(self, key: SeriesKey, at: int, now: int) -> BaselineReport:
        """Report the baseline of a series for the hour of an instant.

        For a past hour this is the baseline that served then, from the hours before it as they are evaluated by now.
        For a future hour it is the baseline that would serve if that hour were the current one.

        Args:
            key: the series; without stored history it is at level 5.
            at: Unix seconds.
            now: Unix seconds.

        Raises:
            StoreError: the database cannot be read.
            DamagedDigestError: stored history of the series is damaged.
        """
        policy = self._settings.policy(key)
        is_enabled = policy is None or policy.is_enabled
        hour = self._hour_clock.hour(at)
        present = self._hour_clock.hour(now)
        # The history ends before this hour.
        basis = hour if hour.start <= present.start else present._replace(slot=hour.slot)
        stored = self._stored(key, basis, present)
        if stored is None:
            supply = tuple(
                LevelSupply(level, needed, 0, 0, False) for level, needed in self._settings.fallback.levels()
            )
            stream = self._settings.streams.hint(key).reason
            no_verdict = _no_verdict(None, stream, is_evaluated=False, is_enabled=is_enabled)
            return BaselineReport(
                key,
                hour,
                None,
                None,
                (),
                None,
                (),
                no_verdict,
                supply,
                (),
                None,
                basis.start,
                stream,
                policy,
                marks=self._marks_before(key, hour),
            )
        history = SeriesHistory.of(stored, self.detector)
        outlook = history.expect(basis)
        stream = history.stream_reason(outlook)
        is_evaluated = is_evaluated_far_enough(self._store.evaluated_until(), basis.start)
        errors = history.expect_errors(basis) if is_evaluated else None
        baseline = None if outlook.pool is None else Baseline.of(outlook.pool)
        thresholds = outlook.thresholds if is_evaluated and outlook.runs is None else None
        runs = RunLimits.of(outlook.runs.thresholds) if is_evaluated and outlook.runs is not None else None
        regression = history.regression.current if hour.start >= present.start else None
        return BaselineReport(
            key=key,
            hour=hour,
            baseline=baseline,
            digest=None if outlook.pool is None else outlook.pool.digest,
            hours=() if outlook.pool is None else tuple(PooledHour(h.start, h.count) for h in outlook.pool.hours),
            outlier_threshold_seconds=self._outlier_threshold(baseline, stream, is_enabled=is_enabled),
            shift=() if thresholds is None else tuple(_shift_thresholds(thresholds)),
            no_verdict=None
            if runs is not None
            else _no_verdict(outlook.pool, stream, is_evaluated=is_evaluated, is_enabled=is_enabled),
            supply=tuple(self._supply(key, history, basis)),
            kept_out=_kept_out(history, basis, outlook.pool),
            changepoint=history.changepoint,
            known_until=basis.start,
            stream=stream,
            policy=policy,
            runs=runs,
            is_compared=history.regression.is_judged and hour.start >= present.start,
            regression=regression,
            regression_version=None if regression is None else stored_version(self._store, key, regression),
            marks=self._marks_before(key, hour),
            errors=None if errors is None else ErrorLimits.of(errors, self._settings.parameters(key)),
            traffic=self._traffic(history, stored, hour, basis) if is_evaluated else None,
        )

    def _traffic(
        self, history: SeriesHistory, stored: StoredSeries, hour: LocalHour, basis: LocalHour
    ) -> TrafficLimits | None:
        """The usual traffic of a series in an hour, from the hours before another one."""
        parameters = self._settings.parameters(stored.key)
        if not history.is_enabled or not parameters.traffic_enabled:
            return None
        request = BaselineRequest(
            (basis,),
            basis.start - self._settings.fallback.lookback_seconds,
            self._settings.outlier,
            is_evaluated=True,
            source=read_source(self._store, self.detector, basis.start, basis.start),
            around=(self._hour_clock.hour(hour.start - 1), basis, self._hour_clock.hour(hour.end)),
        )
        usual = history.traffic(request, stored.windows)
        return None if usual is None else TrafficLimits.of(usual, parameters)

    def profile(self, key: SeriesKey, now: int) -> Profile:
        """Report the baselines that would serve a series now in each of the 48 slots.

        Raises:
            StoreError: the database cannot be read.
            DamagedDigestError: stored history of the series is damaged.
        """
        present = self._hour_clock.hour(now)
        return self._profile(key, present, present)

    def profile_before(self, key: SeriesKey, changepoint: int, now: int) -> Profile:
        """Report the baselines in each of the 48 slots that served a series until a change of it was accepted.

        Args:
            key: the series.
            changepoint: when the change happened, Unix seconds.
            now: Unix seconds.

        Raises:
            StoreError: the database cannot be read.
            DamagedDigestError: stored history of the series is damaged.
        """
        return self._profile(key, self._hour_clock.hour(changepoint), self._hour_clock.hour(now))

    def _profile(self, key: SeriesKey, hour: LocalHour, present: LocalHour) -> Profile:
        history = self._history(key, hour, present)
        if history is None:
            return Profile(key, tuple(SlotBaseline(slot, None, None, 0, 0) for slot in SLOTS), None)
        slots = []
        own = self._standings(key, history, hour)
        for slot in SLOTS:
            outlook = history.expect(hour._replace(slot=slot))
            baseline = None if outlook.pool is None else Baseline.of(outlook.pool)
            threshold = self._outlier_threshold(baseline, history.stream_reason(outlook), is_enabled=history.is_enabled)
            standing = own[slot]
            slots.append(SlotBaseline(slot, baseline, threshold, standing.traces, standing.hours))
        return Profile(key, tuple(slots), history.changepoint)

    def availability(self, now: int) -> Mapping[SeriesKey, SeriesAvailability]:
        """The fallback level of every series in each of the 48 slots.

        The result is cached until the hour ends, because counting ten thousand series takes seconds; for a minute
        while the history is not fully evaluated.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._mutex:
            present = self._hour_clock.hour(now)
            evaluated_until = self._store.evaluated_until()
            cached, marks = self._cached, self._marks()
            if (
                cached is None
                or cached.marks is not marks
                or (cached.hour_start, cached.evaluated_until) != (present.start, evaluated_until)
                or not now < cached.expires_at
            ):
                is_evaluated = is_evaluated_far_enough(evaluated_until, present.start)
                expires_at = present.end if is_evaluated else now + _CACHE_SECONDS
                cached = _Cached(present.start, evaluated_until, marks, expires_at, dict(self._all_standings(present)))
                self._cached = cached
            return cached.availability

    def _all_standings(self, present: LocalHour) -> Iterator[tuple[SeriesKey, SeriesAvailability]]:
        longest, marks = self._settings.fallback.lookback_seconds, self._marks()
        until = present.start - HOUR_SECONDS
        for stored in self._store.traffic(self._store.series(), present.start - longest, until):
            rules = self._settings.rules(stored.key)
            since = max(present.start - rules.lookback_seconds, changepoint_of(stored.state) or 0)
            hours: dict[int, int] = {}
            own = marks.of(stored.key)
            for window_start, traces in stored.windows:
                start, end, *_ = self._hour_clock.hour(window_start)
                if start >= since and (own is None or not own.is_left_out(start, end)):
                    hours[start] = hours.get(start, 0) + traces
            traffic = ((self._hour_clock.hour(start), traces) for start, traces in hours.items())
            found = series_availability(traffic, rules, quarantined=stored.quarantined, suspects=stored.suspects)
            yield stored.key, found

    def _history(self, key: SeriesKey, hour: LocalHour, present: LocalHour) -> SeriesHistory | None:
        """The history of a series that counts in an hour; None without stored history."""
        stored = self._stored(key, hour, present)
        return None if stored is None else SeriesHistory.of(stored, self.detector)

    def _stored(self, key: SeriesKey, hour: LocalHour, present: LocalHour) -> StoredSeries | None:
        """What is stored of a series and counts in an hour; None without stored history."""
        since = hour.start - self._settings.fallback.lookback_seconds
        for stored in self._store.history([key], since, hour.start):
            changepoint = changepoint_of(stored.state)
            accepted = (
                changepoint is None or hour.start >= changepoint + self._settings.parameters(key).accept_after_seconds
            )
            if changepoint is not None and not accepted and hour.start < present.start:
                # The change was not accepted yet in that hour, so the history before the change still counted.
                before = [window for window in stored.windows if window.start < changepoint]
                return stored._replace(windows=before, state=None) if before else None
            return stored
        return None

    def _standings(self, key: SeriesKey, history: SeriesHistory, hour: LocalHour) -> SeriesAvailability:
        rules = self._settings.rules(key)
        since = max(hour.start - rules.lookback_seconds, history.changepoint or 0)
        traffic = (
            (self._hour_clock.hour(each.start), each.count)
            for each in history.hours
            if since <= each.start < hour.start - HOUR_SECONDS
        )
        return series_availability(traffic, rules, quarantined=history.hours.quarantined, suspects=history.suspects)

    def _outlier_threshold(
        self, baseline: Baseline | None, stream: StreamReason | None, *, is_enabled: bool
    ) -> float | None:
        if baseline is None or stream is not None or not is_enabled:
            return None
        return self._settings.outlier.threshold_seconds(baseline)

    def _supply(self, key: SeriesKey, history: SeriesHistory, hour: LocalHour) -> Iterator[LevelSupply]:
        """What each level has: its pool if it were the only level and one trace were enough."""
        rules = self._settings.rules(key)
        for level, needed in rules.levels():
            pool = choose_pool(
                history.hours,
                hour.start,
                hour.slot,
                _only(level, rules),
                changepoint=history.changepoint,
                suspects=history.suspects,
            )
            if pool is None:
                yield LevelSupply(level, needed, 0, 0, mature=False)
            else:
                yield LevelSupply(level, needed, pool.digest.count, len(pool.hours), pool.mature)


def _shift_thresholds(thresholds: Thresholds) -> Iterator[ShiftThreshold]:
    for index, each in enumerate(thresholds.quantiles):
        raised = max(thresholds.profile[index]) if thresholds.profile else 0
        yield ShiftThreshold(
            quantile=each.q,
            baseline_seconds=bucket_upper_seconds(each.baseline),
            swing_factor=each.swing_factor,
            limit_seconds=bucket_upper_seconds(each.gate),
            pattern_factor=2.0 ** (raised / BUCKETS_PER_OCTAVE),
            pattern_minutes=minutes_of(thresholds.profile, index),
        )


def _only(level: FallbackLevel, rules: FallbackRules) -> FallbackRules:
    """Rules under which one level always serves and no other ever does."""
    never = 2**62
    return replace(
        rules,
        min_samples=1 if level is FallbackLevel.EXACT else never,
        nearby_enabled=level is FallbackLevel.NEARBY,
        nearby_min_samples=1,
        daytype_enabled=level is FallbackLevel.DAYTYPE,
        daytype_min_samples=1,
        global_enabled=level is FallbackLevel.GLOBAL,
        global_min_samples=1,
    )


def _no_verdict(
    pool: Pool | None, stream: StreamReason | None, *, is_evaluated: bool, is_enabled: bool
) -> NoVerdict | None:
    if not is_enabled:
        return NoVerdict.DISABLED
    if stream is not None:
        return NoVerdict.STREAM
    if pool is None:
        return NoVerdict.UNAVAILABLE
    if not pool.mature:
        return NoVerdict.LEARNING
    return None if is_evaluated else NoVerdict.NOT_EVALUATED


def _kept_out(history: SeriesHistory, hour: LocalHour, pool: Pool | None) -> tuple[int, ...]:
    """The hours in reach that are quarantined or suspect, except those released because they recur."""
    released = set() if pool is None else {each.start for each in pool.released}
    kept_out = history.hours.quarantined.union(history.suspects) - released
    return tuple(
        each.start for each in history.hours if each.start in kept_out and each.start < hour.start - HOUR_SECONDS
    )
