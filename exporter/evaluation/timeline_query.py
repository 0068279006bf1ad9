"""Read-only queries for the recent past of a series over time, and for the flags of the last day."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from exporter.baseline.levels import SLOTS, Baseline
from exporter.detection.flag import FlagKind, FlagPeriod, merged_periods
from exporter.evaluation.query import BaselineQuerier, Profile
from exporter.evaluation.recent_windows import RecentWindows
from exporter.evaluation.series import SeriesHistory, changepoint_of, is_evaluated_far_enough
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import SeriesStatus
from exporter.evaluation.stored_source import known_coverage, read_source
from exporter.evaluation.timeline import (
    LATE_SECONDS,
    MARKS_PER_HOUR,
    HourUsual,
    SeriesPast,
    Timeline,
    TimelineRange,
    build_timeline,
    step_of,
)
from exporter.model.calendar import HOUR_SECONDS, HourClock, LocalHour, Slot
from exporter.model.hours import hours_of
from exporter.model.ledger import LedgerEntry
from exporter.model.span import SeriesKey
from exporter.model.traffic import window_traffic
from exporter.store import Store, StoredSeries

_LONGEST_SECONDS: Final = max(each.seconds for each in TimelineRange)
_DAY_SECONDS: Final = 24 * HOUR_SECONDS
_MAX_PERIODS: Final = 2_000
"""Flags of the last day that are looked at, the newest."""


class SlotSignals(NamedTuple):
    """The usual failures and traffic of a series in one of the 48 slots.

    Attributes:
        slot: hour of the day and day type.
        error_ratio: share of failed requests; None while unknown.
        requests: requests in an hour; None while unknown.
    """

    slot: Slot
    error_ratio: float | None = None
    requests: float | None = None


@dataclass(frozen=True, slots=True)
class UsualProfile:
    """The baselines of a series for all slots, by today's knowledge.

    Attributes:
        profile: baselines of the latency.
        signals: failures and traffic, for all 48 slots, weekdays first.
        shares: share of the requests of an hour by mark.
        error_quarantined: starts of the hours that are kept out of the usual failures, Unix seconds.
        before: baselines of the latency before an accepted change; None without one in the longest timeline.
        accepted_at: until then, these served; Unix seconds.
    """

    profile: Profile
    signals: tuple[SlotSignals, ...]
    shares: tuple[float, ...] = (1 / MARKS_PER_HOUR,) * MARKS_PER_HOUR
    error_quarantined: frozenset[int] = frozenset()
    before: Profile | None = None
    accepted_at: int = 0

    def of_hours(self) -> "_UsualByHour":
        """Return a function for the baselines of an hour of the past."""
        return _UsualByHour(self)


class _UsualByHour:
    """The baselines of an hour, by its slot."""

    def __init__(self, usual: UsualProfile) -> None:
        self._usual = usual
        self._present = _baselines(usual.profile)
        self._before = None if usual.before is None else _baselines(usual.before)
        self._signals = {each.slot: each for each in usual.signals}

    def __call__(self, hour: LocalHour) -> HourUsual:
        is_before = self._before is not None and hour.start < self._usual.accepted_at
        baselines = self._before if is_before and self._before is not None else self._present
        signals = self._signals.get(hour.slot)
        return HourUsual(
            baseline=baselines.get(hour.slot),
            error_ratio=None if signals is None else signals.error_ratio,
            requests=None if signals is None else signals.requests,
            shares=self._usual.shares,
        )


def _baselines(profile: Profile) -> Mapping[Slot, Baseline]:
    return {each.slot: each.baseline for each in profile.slots if each.baseline is not None}


class TimelineQuerier:
    """Answers queries about the recent past of stored series. Thread-safe."""

    def __init__(
        self,
        store: Store,
        hour_clock: HourClock,
        settings: EvaluationSettings,
        baselines: BaselineQuerier,
        recent: RecentWindows | None = None,
    ) -> None:
        """Take the data sources.

        Args:
            store: the history, which may be read-only.
            hour_clock: the local hours.
            settings: what a verdict depends on.
            baselines: queries of the baselines.
            recent: the evaluation windows of the last hours; None without a live edge.
        """
        self._store = store
        self._hour_clock = hour_clock
        self._settings = settings
        self._baselines = baselines
        self._recent = recent or RecentWindows()

    def usual(self, key: SeriesKey, now: int) -> UsualProfile:
        """Report the baselines of a series for all slots, as they would be now.

        Raises:
            StoreError: the database cannot be read.
            DamagedDigestError: stored history of the series is damaged.
        """
        profile = self._baselines.profile(key, now)
        present = self._hour_clock.hour(now)
        lookback_seconds = self._settings.fallback.lookback_seconds
        stored = self._stored(key, present.start - lookback_seconds, present.start)
        if stored is None:
            return UsualProfile(profile, tuple(map(SlotSignals, SLOTS)))
        detector = self._baselines.detector
        history = SeriesHistory.of(stored, detector)
        is_evaluated = is_evaluated_far_enough(self._store.evaluated_until(), present.start)
        requests: Mapping[Slot, float] = {}
        if is_evaluated:
            source = read_source(self._store, detector, present.start, present.start)
            requests = history.usual_requests(present.start, stored.windows, source)
        signals = []
        for slot in SLOTS:
            errors = history.expect_errors(present._replace(slot=slot)) if is_evaluated else None
            signals.append(SlotSignals(slot, None if errors is None else errors.ratio, requests.get(slot)))
        before, accepted_at = self._before_change(key, profile, now)
        return UsualProfile(
            profile, tuple(signals), history.shares_by_mark, history.error_quarantined, before, accepted_at
        )

    def timeline(
        self,
        key: SeriesKey,
        range_: TimelineRange,
        now: int,
        usual: UsualProfile,
        status: SeriesStatus | None = None,
    ) -> Timeline:
        """Report the recent past of a series.

        Args:
            key: the series; without stored history, all of its past is empty.
            range_: how far back.
            now: Unix seconds.
            usual: its baselines.
            status: its current status, which has the flags that fire.

        Raises:
            StoreError: the database cannot be read.
            DamagedDigestError: stored history of the series is damaged.
        """
        start = self._hour_clock.hour(now - range_.seconds).start
        entries = self._store.ledger(start - LATE_SECONDS, now)
        # The marks of a week are long, and points of an hour do not need them.
        with_marks = range_ is not TimelineRange.DAYS_7
        stored = self._stored(key, start - LATE_SECONDS, now, start - LATE_SECONDS if with_marks else None)
        hours = [] if stored is None else hours_of(stored.windows, self._hour_clock, stored.evaluations)
        in_range = [hour for hour in hours if hour.start >= start]
        step_seconds = step_of(sum(hour.count for hour in in_range), len(in_range), range_)
        quarantined = {hour.start for hour in hours if hour.is_quarantined}
        past = SeriesPast(
            key=key,
            hours=hours,
            requests={} if stored is None else self._requests(stored, entries),
            read=[(each.window.start, each.window.end) for each in entries if each.state.is_stored],
            usual=usual.of_hours(),
            quarantined=quarantined if stored is None else quarantined | stored.suspects,
            error_quarantined=usual.error_quarantined,
            flags=self._flags(key, start, status),
            changepoint=None if stored is None else changepoint_of(stored.state),
            current=self._recent.of(key),
            marks=() if (marks := self._baselines.detector.marks.of(key)) is None else marks.ranges(start, now),
        )
        return build_timeline(past, self._hour_clock, start, now, step_seconds)

    def last_day(self, now: float) -> Sequence[tuple[SeriesKey, Sequence[FlagPeriod]]]:
        """Return the flags of current traffic that fired in the last 24 hours, by series; the latest come first.

        Raises:
            StoreError: the database cannot be read.
        """
        found: dict[SeriesKey, list[FlagPeriod]] = {}
        for key, period in self._store.latest_flag_periods(now - _DAY_SECONDS, _MAX_PERIODS):
            found.setdefault(key, []).append(period)
        return [(key, merged_periods(periods)) for key, periods in found.items()]

    def _stored(self, key: SeriesKey, start: int, end: int, marks_from: int | None = None) -> StoredSeries | None:
        return next(self._store.history([key], start, end, marks_from=marks_from), None)

    def _before_change(self, key: SeriesKey, profile: Profile, now: int) -> tuple[Profile | None, int]:
        """Return the baselines before an accepted change, and until when they served."""
        changepoint = profile.changepoint
        if changepoint is None:
            return None, 0
        accepted_at = changepoint + self._settings.parameters(key).accept_after_seconds
        if accepted_at <= now - _LONGEST_SECONDS:
            return None, 0
        return self._baselines.profile_before(key, changepoint, now), accepted_at

    def _requests(self, stored: StoredSeries, entries: Sequence[LedgerEntry]) -> Mapping[int, float | None]:
        """Return the number of requests by start of the hour; None where it is unknown."""
        coverage = {entry.window.start: known_coverage(entry) for entry in entries}
        requests: dict[int, float | None] = {}
        for window in stored.windows:
            hour = self._hour_clock.hour(window.start).start
            found = window_traffic(window.traces, window.requests, coverage.get(window.start)).requests
            before = requests.get(hour, 0.0)
            requests[hour] = None if found is None or before is None else before + found
        return requests

    def _flags(self, key: SeriesKey, start: int, status: SeriesStatus | None) -> Sequence[FlagPeriod]:
        firing = [] if status is None else [status.of_kind(kind) for kind in FlagKind]
        return merged_periods(
            [
                *self._store.flag_periods(key, start),
                # What cannot be saved is known all the same.
                *(FlagPeriod(each.kind, each.since, None) for each in firing if each.firing and each.since is not None),
            ]
        )
