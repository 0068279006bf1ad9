"""Answers questions about the stored history beside the running detector: for the API, the pages, the command line.

Nothing here changes what is stored or judged, so a database that is open for reading only will do. The rules are the
detector's own; for the present hour the answers are those of its book.
"""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

from exporter.baseline.availability import SeriesAvailability, series_availability
from exporter.baseline.levels import SLOTS, Baseline, FallbackLevel, FallbackRules, Pool, choose_pool
from exporter.detection.detector import Detector
from exporter.detection.thresholds import Thresholds, swing_factor
from exporter.evaluation.series import SeriesHistory, changepoint_of, judged_far_enough
from exporter.evaluation.settings import EvaluationSettings
from exporter.model.calendar import HOUR_SECONDS, HourClock, LocalHour, Slot
from exporter.model.histogram import Digest, bucket_upper_seconds
from exporter.model.span import SeriesKey
from exporter.store import Store

_RENEW_SECONDS: Final = 60
"""While the past is not judged, history still comes in: what was counted is counted again after so long."""


class NoVerdict(StrEnum):
    """Why there is no verdict on a shift in an hour."""

    UNAVAILABLE = "unavailable"
    """Level 5: too little history for any baseline."""
    LEARNING = "learning"
    """There is a baseline, from too few hours or days to tell a shift by."""
    NOT_JUDGED = "not_judged"
    """The past is not judged up to this hour: an incident might stand in the baseline."""


class PooledHour(NamedTuple):
    """An hour of the past that a baseline rests on: when it began, Unix seconds, and how many traces it holds."""

    start: int
    traces: int


class LevelSupply(NamedTuple):
    """What one fallback level has for an hour.

    Attributes:
        level: the level.
        needed: traces that it needs.
        traces: traces that it has.
        hours: from how many hours.
        mature: whether these are enough hours and days for a verdict on a shift.
    """

    level: FallbackLevel
    needed: int
    traces: int
    hours: int
    mature: bool


class ShiftThreshold(NamedTuple):
    """What a quantile of the current traffic is held against.

    Attributes:
        quantile: which.
        usual_seconds: what it usually is.
        swing_factor: by how much it may exceed that and still be within the series' usual swing.
        limit_seconds: what it must exceed to matter.
    """

    quantile: float
    usual_seconds: float
    swing_factor: float
    limit_seconds: float


@dataclass(frozen=True, slots=True)
class BaselineReport:
    """What is usual for one series in one hour, as far as is known now.

    Attributes:
        key: the series.
        hour: the hour of the local clock.
        baseline: what its latencies usually are; absent at level 5.
        digest: all traces that are pooled in it; absent at level 5.
        hours: the hours pooled in it, by time.
        outlier_threshold_seconds: a single trace slower than this is an outlier; absent at level 5.
        shift: what a shift is told by, for each quantile; empty where there is no verdict.
        no_verdict: why there is no verdict on a shift; absent where there is one.
        supply: what each level that may serve has, most specific first.
        kept_out: starts of the hours within reach, of any slot, that are quarantined or suspect.
        changepoint: since when the series has behaved as it does, where a lasting change was accepted.
        known_until: later hours did not count, Unix seconds.
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

    @property
    def level(self) -> FallbackLevel:
        """The fallback level that serves."""
        return FallbackLevel.UNAVAILABLE if self.baseline is None else self.baseline.level


class SlotBaseline(NamedTuple):
    """What is usual in one of the 48 slots.

    Attributes:
        slot: the hour of the day and the type of day.
        baseline: what would be in force; absent at level 5.
        outlier_threshold_seconds: a single trace slower than this would be an outlier; absent at level 5.
        traces: traces in the slot's own hours, quarantined ones left out.
        hours: how many such hours there are.
    """

    slot: Slot
    baseline: Baseline | None
    outlier_threshold_seconds: float | None
    traces: int
    hours: int


@dataclass(frozen=True, slots=True)
class Profile:
    """What is usual for a series around the clock.

    Attributes:
        key: the series.
        slots: all 48, those of weekdays first.
        changepoint: since when the series has behaved as it does, where a lasting change was accepted.
    """

    key: SeriesKey
    slots: tuple[SlotBaseline, ...]
    changepoint: int | None


class _Counted(NamedTuple):
    hour_start: int
    judged_until: int | None
    good_until: float
    standings: Mapping[SeriesKey, SeriesAvailability]


class BaselineQuerier:
    """Reads the history for whoever asks. For any number of threads."""

    def __init__(self, store: Store, clock: HourClock, settings: EvaluationSettings) -> None:
        """Ask about the history of a store.

        Args:
            store: the history; reading is enough.
            clock: tells the local hours.
            settings: what a verdict depends on.
        """
        self._store = store
        self._clock = clock
        self._settings = settings
        self._detector = Detector(settings.fallback, settings.shift, clock)
        self._counting = threading.Lock()
        self._counted: _Counted | None = None

    def series(self) -> list[SeriesKey]:
        """All series that have a history, by name.

        Raises:
            StoreError: the database cannot be read.
        """
        return sorted(self._store.series())

    def usual(self, key: SeriesKey, at: int, now: int) -> BaselineReport:
        """What is usual for a series in the hour of an instant.

        In an hour of the past that is what served then, from hours before it, as they are judged by now. In an hour to
        come it is what would be in force now, were it that hour.

        Args:
            key: the series; one that nothing is stored of is at level 5.
            at: the instant, Unix seconds.
            now: the present, Unix seconds.

        Raises:
            StoreError: the database cannot be read.
            DamagedDigestError: what is stored of the series is damaged.
        """
        hour = self._clock.hour(at)
        present = self._clock.hour(now)
        asked = hour if hour.start <= present.start else present._replace(slot=hour.slot)
        record = self._record(key, asked, present)
        if record is None:
            supply = tuple(
                LevelSupply(level, needed, 0, 0, False) for level, needed in self._settings.fallback.levels()
            )
            return BaselineReport(
                key, hour, None, None, (), None, (), NoVerdict.UNAVAILABLE, supply, (), None, asked.start
            )
        outlook = record.expect(asked)
        judged = judged_far_enough(self._store.judged_until(), asked.start)
        baseline = None if outlook.pool is None else Baseline.of(outlook.pool)
        thresholds = outlook.thresholds if judged else None
        return BaselineReport(
            key=key,
            hour=hour,
            baseline=baseline,
            digest=None if outlook.pool is None else outlook.pool.digest,
            hours=() if outlook.pool is None else tuple(PooledHour(h.start, h.count) for h in outlook.pool.hours),
            outlier_threshold_seconds=self._outlier_threshold(baseline),
            shift=() if thresholds is None else tuple(self._shift_thresholds(thresholds)),
            no_verdict=_no_verdict(outlook.pool, judged=judged),
            supply=tuple(self._supply(record, asked)),
            kept_out=_kept_out(record, asked, outlook.pool),
            changepoint=record.changepoint,
            known_until=asked.start,
        )

    def profile(self, key: SeriesKey, now: int) -> Profile:
        """What would be in force for a series now in each of the 48 slots.

        Raises:
            StoreError: the database cannot be read.
            DamagedDigestError: what is stored of the series is damaged.
        """
        present = self._clock.hour(now)
        record = self._record(key, present, present)
        if record is None:
            return Profile(key, tuple(SlotBaseline(slot, None, None, 0, 0) for slot in SLOTS), None)
        slots = []
        own = self._standings(record, present)
        for slot in SLOTS:
            pool = record.expect(present._replace(slot=slot)).pool
            baseline = None if pool is None else Baseline.of(pool)
            standing = own[slot]
            slots.append(
                SlotBaseline(slot, baseline, self._outlier_threshold(baseline), standing.traces, standing.hours)
            )
        return Profile(key, tuple(slots), record.changepoint)

    def available(self, now: int) -> Mapping[SeriesKey, SeriesAvailability]:
        """Where each series stands in each of the 48 slots, as it would be in force now.

        It is counted once an hour, which takes seconds where there are ten thousand series; while the past is not
        judged, once a minute.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._counting:
            present = self._clock.hour(now)
            judged_until = self._store.judged_until()
            counted = self._counted
            if (
                counted is None
                or (counted.hour_start, counted.judged_until) != (present.start, judged_until)
                or not now < counted.good_until
            ):
                judged = judged_far_enough(judged_until, present.start)
                good_until = present.end if judged else now + _RENEW_SECONDS
                counted = _Counted(present.start, judged_until, good_until, dict(self._count(present)))
                self._counted = counted
            return counted.standings

    def _count(self, present: LocalHour) -> Iterator[tuple[SeriesKey, SeriesAvailability]]:
        rules = self._settings.fallback
        until = present.start - HOUR_SECONDS
        for stored in self._store.traffic(self._store.series(), present.start - rules.lookback_seconds, until):
            since = changepoint_of(stored.state) or 0
            hours: dict[int, int] = {}
            for window_start, traces in stored.windows:
                start = self._clock.hour(window_start).start
                if start >= since:
                    hours[start] = hours.get(start, 0) + traces
            traffic = ((self._clock.hour(start), traces) for start, traces in hours.items())
            found = series_availability(traffic, rules, quarantined=stored.quarantined, suspects=stored.suspects)
            yield stored.key, found

    def _record(self, key: SeriesKey, hour: LocalHour, present: LocalHour) -> SeriesHistory | None:
        """What counts of a series when an hour is asked about; nothing where nothing does."""
        since = hour.start - self._settings.fallback.lookback_seconds
        for stored in self._store.history([key], since, hour.start):
            changepoint = changepoint_of(stored.state)
            accepted = changepoint is None or hour.start >= changepoint + self._settings.shift.accept_after_seconds
            if changepoint is not None and not accepted and hour.start < present.start:
                # The change was not accepted then: what was usual is what had been before.
                before = [window for window in stored.windows if window.start < changepoint]
                return SeriesHistory(stored._replace(windows=before, state=None), self._detector) if before else None
            return SeriesHistory(stored, self._detector)
        return None

    def _standings(self, record: SeriesHistory, hour: LocalHour) -> SeriesAvailability:
        rules = self._settings.fallback
        since = max(hour.start - rules.lookback_seconds, record.changepoint or 0)
        traffic = (
            (self._clock.hour(each.start), each.count)
            for each in record.history
            if since <= each.start < hour.start - HOUR_SECONDS
        )
        return series_availability(traffic, rules, quarantined=record.history.quarantined, suspects=record.suspects)

    def _outlier_threshold(self, baseline: Baseline | None) -> float | None:
        return None if baseline is None else self._settings.outlier.threshold_seconds(baseline)

    def _shift_thresholds(self, thresholds: Thresholds) -> Iterator[ShiftThreshold]:
        for each in thresholds.quantiles:
            yield ShiftThreshold(
                quantile=each.q,
                usual_seconds=bucket_upper_seconds(each.baseline),
                swing_factor=swing_factor(each.swing_octaves, self._settings.shift),
                limit_seconds=bucket_upper_seconds(each.gate),
            )

    def _supply(self, record: SeriesHistory, hour: LocalHour) -> Iterator[LevelSupply]:
        """What each level has: the pool that would be chosen if it alone might serve, and one trace were enough."""
        rules = self._settings.fallback
        for level, needed in rules.levels():
            pool = choose_pool(
                record.history,
                hour.start,
                hour.slot,
                _only(level, rules),
                changepoint=record.changepoint,
                suspects=record.suspects,
            )
            if pool is None:
                yield LevelSupply(level, needed, 0, 0, mature=False)
            else:
                yield LevelSupply(level, needed, pool.digest.count, len(pool.hours), pool.mature)


def _only(level: FallbackLevel, rules: FallbackRules) -> FallbackRules:
    """Rules by which no other level than one can serve, and that one always does."""
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


def _no_verdict(pool: Pool | None, *, judged: bool) -> NoVerdict | None:
    if pool is None:
        return NoVerdict.UNAVAILABLE
    if not pool.mature:
        return NoVerdict.LEARNING
    return None if judged else NoVerdict.NOT_JUDGED


def _kept_out(record: SeriesHistory, hour: LocalHour, pool: Pool | None) -> tuple[int, ...]:
    """The hours within reach that are quarantined or suspect, but for those that recur."""
    released = set() if pool is None else {each.start for each in pool.released}
    kept_out = record.history.quarantined.union(record.suspects) - released
    return tuple(
        each.start for each in record.history if each.start in kept_out and each.start < hour.start - HOUR_SECONDS
    )
