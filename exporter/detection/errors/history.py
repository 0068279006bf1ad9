"""Evaluation of a series' failures in its history, hour by hour, beside that of its latency.

Failures have a flag, a quarantine and an acceptance of their own: an hour in which many requests fail fast may be usual
in its latency, and the other way round. Hours that the flag touched do not become part of the usual error ratio, unless
they recur at the same time of day.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Final, NamedTuple

from exporter.baseline.levels import FallbackRules, LevelRule, PoolSummary, choose_level, is_recurring
from exporter.detection.errors.bursts import (
    BURST_MARKS,
    BURST_MIN_FAILURES,
    SWING_FACTOR,
    WHOLE_HOUR_MARKS,
    ErrorPeak,
    lower_bound,
    swing_of_days,
)
from exporter.detection.errors.verdict import (
    LONG_SECONDS,
    Counts,
    ErrorBaseline,
    ErrorExplanation,
    ErrorWindow,
    ErrorWindows,
    can_be_error_shift,
    is_large,
    long_windows,
    long_windows_after,
    may_be_error_shift,
    tick_errors,
)
from exporter.detection.flag import INACTIVE, Flag, FlagChange, FlagEvent, FlagKind, FlagPeriod
from exporter.detection.parameters import (
    MIN_EXCEEDANCES,
    RUN_BREAK_HOURS,
    RUN_ELEVATED_SHARE,
    RUN_MIN_ANOMALOUS,
    Parameters,
)
from exporter.detection.replayed_flag import ReplayedFlag
from exporter.detection.tolerance import Tolerance, tolerated_errors
from exporter.model.calendar import HOUR_SECONDS, HourClock, LocalHour
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hours import SeriesHours
from exporter.model.series_hour import SeriesHour

BURST_SECONDS: Final = 1500
"""A flag that fires for longer is an incident: what happened then does not become part of the swing."""
_NEVER: Final = -HOUR_SECONDS
LEAST_FAILURES: Final = min(MIN_EXCEEDANCES, BURST_MIN_FAILURES)
"""With fewer failures a window says nothing."""


class ErrorRun(NamedTuple):
    """Hours of a change that may be accepted.

    Attributes:
        start: start of the first one, Unix seconds.
        hours: number of hours with traffic since then.
        quarantined: number of quarantined ones.
        calm: number of hours since the last quarantined one.
    """

    start: int
    hours: int
    quarantined: int
    calm: int


class ErrorState(NamedTuple):
    """What is known of the failures of a series after evaluating its history up to an instant.

    Times are Unix seconds. Encoded by position, so the order of the fields is part of the stored format.

    Attributes:
        changepoint: start of the present behaviour, if a change was accepted.
        flag: the flag at the last mark.
        recent: mark, requests and failures of what the next window can contain, or what ended later.
        quarantined: starts of quarantined hours.
        peaks: start of an hour, and requests and failures of its worst evaluation window; only those with some
            failures.
        run: hours of a change that may be accepted.
        resolved_at: when the flag was resolved, if that was in the last hour.
    """

    changepoint: int | None = None
    flag: Flag = INACTIVE
    recent: tuple[tuple[int, int, int], ...] = ()
    quarantined: tuple[int, ...] = ()
    peaks: tuple[tuple[int, int, int], ...] = ()
    run: ErrorRun | None = None
    resolved_at: int | None = None


NO_ERROR_STATE: Final = ErrorState()


def error_baseline(
    history: SeriesHours,
    hour: LocalHour,
    rules: FallbackRules,
    state: ErrorState,
    until: int,
    parameters: Parameters,
    tolerances: Sequence[Tolerance] = (),
) -> ErrorBaseline | None:
    """Return the usual failures of a series in an hour; None while no level is mature.

    Args:
        history: hours of the series.
        hour: the local hour; the hour immediately before it does not count yet.
        rules: which levels may serve.
        state: state of the evaluation.
        until: hours that begin from then on are not evaluated yet, Unix seconds.
        parameters: settings of the detector.
        tolerances: what was marked as normal.
    """
    pool = _pooled(history, hour, rules, state, until)
    return None if pool is None else _with_swing(pool, history, hour, state, parameters, tolerances)


class _ErrorPool(NamedTuple):
    """The hours that the usual failures are pooled from: they began in ``[since, until)``, Unix seconds.

    Attributes:
        baseline: the usual failures, without the swing.
        since: start of the range.
        until: end of the range.
    """

    baseline: ErrorBaseline
    since: int
    until: int


def _pooled(
    history: SeriesHours, hour: LocalHour, rules: FallbackRules, state: ErrorState, until: int
) -> _ErrorPool | None:
    """Return the usual failures without the swing; None while no level is mature. See :func:`error_baseline`."""
    since = max(hour.start - rules.lookback_seconds, state.changepoint or 0)
    until = min(until, hour.start - HOUR_SECONDS)
    level_rules = rules.by_slot[hour.slot]
    excluded: Collection[int] = state.quarantined
    if excluded:
        excluded = set(excluded)
        own, _ = history.group(level_rules[0].slots).between(since, until)
        quarantined = [each.start for each in own if each.start in excluded]
        if is_recurring(len(quarantined), len(own) - len(quarantined)):
            excluded.difference_update(quarantined)
    chosen = choose_level(_candidates(history, level_rules, since, until, excluded))
    if chosen is None or not chosen[1]:
        return None
    level, _, hours = chosen
    requests = sum([each.count for each in hours])
    failures = sum([each.failed or 0 for each in hours])
    return _ErrorPool(ErrorBaseline(level, hour.slot, len(hours), requests, failures), since, until)


def _with_swing(
    pool: _ErrorPool,
    history: SeriesHours,
    hour: LocalHour,
    state: ErrorState,
    parameters: Parameters,
    tolerances: Sequence[Tolerance],
) -> ErrorBaseline:
    """Add the swing to the usual failures; see :func:`error_baseline`."""
    baseline, since, until = pool
    peaks = []
    for start, *window in state.peaks:
        found = history.at(start) if since <= start < until else None
        if found is not None:
            whole = Counts(found.count, found.failed or 0)
            peaks.append(ErrorPeak(found.day, found.slot.hour, Counts(*window), whole))
    swing = swing_of_days(peaks, hour.slot.hour, baseline.ratio, baseline.prior_ratio, parameters)
    tolerated = tolerated_errors(tolerances, hour)
    return baseline._replace(
        swing=max(swing.swing, SWING_FACTOR * tolerated),
        hour_swing=max(swing.hour_swing, tolerated),
        burst_marks=swing.burst_marks,
    )


def _candidates(
    history: SeriesHours, rules: Iterable[LevelRule], since: int, until: int, excluded: Collection[int]
) -> Iterator[tuple[LevelRule, PoolSummary | None, Sequence[SeriesHour]]]:
    for rule in rules:
        hours, _ = history.group(rule.slots).between(since, until, rule.min_samples)
        hours = [each for each in hours if each.failed is not None and each.start not in excluded]
        traces = sum([each.count for each in hours])
        yield rule, (len(hours), traces, hours[0], hours[-1]) if hours else None, hours


class ErrorTracker:
    """Evaluates the failures of one series, hour by hour.

    Attributes:
        accepted: changepoints of accepted changes.
    """

    def __init__(self, rules: FallbackRules, parameters: Parameters, clock: HourClock, state: ErrorState) -> None:
        """Continue from a state."""
        self.accepted: list[int] = []
        self._rules = rules
        self._parameters = parameters
        self._clock = clock
        self._changepoint = state.changepoint
        self._flag: ReplayedFlag[ErrorExplanation] = ReplayedFlag(FlagKind.ERRORS, state.flag)
        self._recent = list(state.recent)
        self._quarantined = set(state.quarantined)
        self._peaks = {start: Counts(*window) for start, *window in state.peaks}
        self._run = state.run
        # Longer windows begin then: what the flag was about is over.
        self._resolved_at = _NEVER if state.resolved_at is None else state.resolved_at
        self._incident_hours: set[int] = set()
        self._tolerances: Sequence[Tolerance] = ()
        self._lengths = long_windows(parameters)

    @property
    def periods(self) -> list[FlagPeriod]:
        """The times in which the flag fired, in time order; the last one has no end while it fires."""
        return self._flag.periods

    @property
    def changes(self) -> list[FlagChange[ErrorExplanation]]:
        """The transitions of the flag, in time order."""
        return self._flag.changes

    def state(self, position: int) -> ErrorState:
        """Return the state after the hours that ended by an instant (Unix seconds)."""
        self._discard(position)
        oldest = position - self._rules.lookback_seconds
        return ErrorState(
            self._changepoint,
            self._flag.present,
            tuple(self._recent),
            tuple(sorted(start for start in self._quarantined if start >= oldest)),
            tuple(sorted((start, *peak) for start, peak in self._peaks.items() if start >= oldest)),
            self._run,
            self._resolved_at if self._resolved_at > position - LONG_SECONDS[-1] else None,
        )

    def evaluate(
        self,
        history: SeriesHours,
        local_hour: LocalHour,
        hour: SeriesHour | None,
        marks: Iterable[tuple[int, int]],
        *,
        is_enabled: bool,
        tolerances: Sequence[Tolerance] = (),
    ) -> None:
        """Tick at the marks of an hour, and settle it.

        Args:
            history: hours of the series before this one, and this one.
            local_hour: the hour.
            hour: its traces; None without traffic.
            marks: the marks at which its requests ended, with their number.
            is_enabled: whether the series gets verdicts.
            tolerances: what was marked as normal.
        """
        self._tolerances = tolerances
        failures = None if hour is None else hour.failures()
        if failures:
            self._add([(mark, requests, failures.pop(mark, 0)) for mark, requests in marks])
        elif failures is not None:
            self._add([(mark, requests, 0) for mark, requests in marks])
        if self._flag.present == INACTIVE and sum([failed for _, _, failed in self._recent]) < LEAST_FAILURES:
            # Nearly always. No window can be a shift, or a burst.
            self._settle(local_hour, hour, Counts(0, 0))
            self._discard(local_hour.end)
            return
        baselines: dict[int, ErrorBaseline] = {}
        pools: dict[int, _ErrorPool | None] = {}
        peak = Counts(0, 0)
        worst = _badness(peak)
        sums = _Sums(self._recent, self._parameters, self._lengths)
        for mark in range(local_hour.start + MARK_SECONDS, local_hour.end + 1, MARK_SECONDS):
            counts = sums.evaluation(mark)
            if counts.failures >= BURST_MIN_FAILURES and (badness := _badness(counts)) > worst:
                peak, worst = counts, badness
            if self._flag.present == INACTIVE and not sums.can_be_shift(mark, counts, self._resolved_at):
                continue
            windows, since = self._windows(local_hour, mark)
            touched = self._pools(history, local_hour, since, pools) if is_enabled else []
            if self._flag.present == INACTIVE and not may_be_error_shift(
                windows, [pool.baseline for _, pool in touched], (BURST_MARKS, WHOLE_HOUR_MARKS), self._parameters
            ):
                continue
            usual = self._with_swings(history, touched, baselines)
            result = tick_errors(windows, mark, usual, self._flag.present, self._parameters)
            explanation = None if result.event is None else ErrorExplanation.of(result.verdict, self._parameters)
            self._flag.follow(result.flag, result.event, mark, explanation)
            if result.event is FlagEvent.RESOLVED:
                self._resolved_at = mark
            if self._flag.present.firing:
                self._touch(local_hour, mark)
        self._settle(local_hour, hour, peak)
        self._discard(local_hour.end)

    @property
    def is_calm(self) -> bool:
        """Whether hours with too few failures to say anything change nothing but what the next windows contain."""
        return self._flag.present == INACTIVE and self._run is None

    def skip(self, hours: Iterable[tuple[SeriesHour, Sequence[tuple[int, int]]]], until: int) -> None:
        """Take hours with too few failures to say anything, while nothing else is going on; see :attr:`is_calm`.

        Args:
            hours: hours with traffic, each with its marks as for :meth:`evaluate`.
            until: end of the last one, Unix seconds.
        """
        self._discard(until)
        oldest = self._oldest(until)
        for hour, marks in hours:
            failures = hour.failures()
            if failures is not None:
                self._add([(mark, count, failures.pop(mark, 0)) for mark, count in marks if mark > oldest])

    def evaluate_normal(
        self, local_hour: LocalHour, hour: SeriesHour | None, marks: Iterable[tuple[int, int]], since: int, until: int
    ) -> float:
        """Settle an hour that people have marked as normal, without ticks; nothing of it is quarantined.

        Args:
            local_hour: the hour.
            hour: its traces; None without traffic.
            marks: the marks at which its requests ended, with their number.
            since: the requests that ended in ``(since, until]`` are dropped afterwards, Unix seconds.
            until: end of that.

        Returns:
            The highest share of failed requests of the windows that end then.
        """
        failures = None if hour is None else hour.failures()
        if failures is not None:
            self._add([(mark, requests, failures.pop(mark, 0)) for mark, requests in marks])
        self._flag.reset(local_hour.start)
        most = 0.0
        peak = Counts(0, 0)
        for mark in range(local_hour.start + MARK_SECONDS, local_hour.end + 1, MARK_SECONDS):
            windows, _ = self._windows(local_hour, mark)
            window = windows.evaluation.counts
            peak = max(peak, window, key=_badness)
            if since < mark <= until and can_be_error_shift(windows, self._parameters) and window.requests:
                most = max(most, window.failures / window.requests)
        self._quarantined.discard(local_hour.start)
        self._settle(local_hour, hour, peak)
        self._recent = [each for each in self._recent if not since < each[0] <= until]
        self._discard(local_hour.end)
        return most

    def _add(self, marks: Iterable[tuple[int, int, int]]) -> None:
        recent = self._recent
        newest = recent[-1][0] if recent else -1
        for each in marks:
            mark, requests, failed = each
            if mark > newest:
                recent.append(each)
                newest = mark
                continue
            index = bisect_left(recent, (mark,))
            if recent[index][0] == mark:
                _, before, failed_before = recent[index]
                recent[index] = mark, before + requests, failed_before + failed
            else:
                recent.insert(index, each)

    def _discard(self, now: int) -> None:
        """Drop what no window that ends after ``now`` contains."""
        del self._recent[: bisect_left(self._recent, (self._oldest(now) + 1,))]

    def _oldest(self, now: int) -> int:
        return now - max(self._parameters.max_window_seconds, self._parameters.window_seconds)

    def _windows(self, local_hour: LocalHour, now: int) -> tuple[ErrorWindows, int]:
        """Return the windows that end at a mark, and the instant after which the longest begins.

        The rules are those of `RecentFailures`, except that there is no window shorter than a mark.
        """
        parameters = self._parameters
        evaluation = self._window(local_hour, now, parameters.window_seconds, parameters.min_traces)
        if not evaluation.counts.failures and self._flag.present == INACTIVE:
            return ErrorWindows(evaluation, partial(self._newest, now)), now - evaluation.seconds
        lengths = long_windows_after(self._resolved_at, now, self._lengths, parameters)
        others = tuple(self._window(local_hour, now, seconds, 0) for seconds in lengths)
        since = now - max(each.seconds for each in (evaluation, *others))
        marks = tuple(Counts(count, failed) for _, count, failed in self._between(since, now))
        return ErrorWindows(evaluation, partial(self._newest, now), others, marks), since

    def _window(self, local_hour: LocalHour, now: int, length_seconds: int, min_traces: int) -> ErrorWindow:
        """Return a window that ends at a mark; with too few requests it is extended into the past."""
        requests = failed = worst = 0
        first = now
        oldest = now - self._parameters.max_window_seconds
        for mark, count, failures in reversed(self._between(-1, now)):
            if mark <= now - length_seconds and (requests >= min_traces or mark <= oldest):
                break
            requests += count
            failed += failures
            worst = max(worst, failures)
            first = mark
        since = min(first - MARK_SECONDS, now - length_seconds)
        hours = 1 + max(0, -((since - local_hour.start) // HOUR_SECONDS))
        return ErrorWindow(Counts(requests, failed), failed - worst, now - since, hours)

    def _newest(self, now: int, least: int) -> Counts:
        """Return the newest requests up to a mark, at least so many if there are."""
        requests = failed = 0
        for _, count, failures in reversed(self._between(now - self._parameters.max_window_seconds, now)):
            requests += count
            failed += failures
            if requests >= least:
                break
        return Counts(requests, failed)

    def _between(self, since: int, now: int) -> list[tuple[int, int, int]]:
        first = bisect_right(self._recent, since, key=lambda each: each[0])
        return self._recent[first : bisect_right(self._recent, now, key=lambda each: each[0])]

    def _pools(
        self, history: SeriesHours, local_hour: LocalHour, since: int, known: dict[int, _ErrorPool | None]
    ) -> list[tuple[LocalHour, _ErrorPool]]:
        """Return the hours that a window touches, and their pools, up to the first without; computed once an hour."""
        found: list[tuple[LocalHour, _ErrorPool]] = []
        hour = local_hour
        while True:
            if hour.start not in known:
                state = ErrorState(self._changepoint, quarantined=tuple(self._quarantined))
                known[hour.start] = _pooled(history, hour, self._rules, state, local_hour.start)
            pool = known[hour.start]
            if pool is None:
                return found
            found.append((hour, pool))
            if hour.start <= since:
                return found
            hour = self._clock.hour(hour.start - 1)

    def _with_swings(
        self,
        history: SeriesHours,
        pools: Sequence[tuple[LocalHour, _ErrorPool]],
        known: dict[int, ErrorBaseline],
    ) -> list[ErrorBaseline]:
        """Return the baselines of some hours, from their pools; computed once an hour."""
        for hour, pool in pools:
            if hour.start not in known:
                known[hour.start] = _with_swing(pool, history, hour, self._view(), self._parameters, self._tolerances)
        return [known[hour.start] for hour, _ in pools]

    def _view(self) -> ErrorState:
        return ErrorState(
            self._changepoint,
            quarantined=tuple(self._quarantined),
            peaks=tuple((start, *peak) for start, peak in sorted(self._peaks.items())),
        )

    def _touch(self, local_hour: LocalHour, mark: int) -> None:
        """Quarantine the hours that the firing flag touches; in a long incident, forget their peaks."""
        since = mark - max(MARK_SECONDS, self._parameters.window_seconds)
        fires_since = self._flag.present.since
        begin = min(float(since), mark if fires_since is None else fires_since)
        is_incident = fires_since is not None and mark - fires_since >= BURST_SECONDS
        hour = local_hour
        while True:
            if hour.end > since:
                self._quarantined.add(hour.start)
            if is_incident:
                self._incident_hours.add(hour.start)
                self._peaks.pop(hour.start, None)
            if hour.start <= begin or hour.start <= local_hour.start - HOUR_SECONDS:
                return
            hour = self._clock.hour(hour.start - 1)

    def _settle(self, local_hour: LocalHour, hour: SeriesHour | None, peak: Counts) -> None:
        if local_hour.start not in self._incident_hours and peak.failures >= BURST_MIN_FAILURES:
            self._peaks[local_hour.start] = peak
        self._incident_hours.discard(local_hour.start)
        if hour is None or hour.failed is None:
            return
        is_quarantined = local_hour.start in self._quarantined
        if self._run is None:
            if is_quarantined:
                self._run = ErrorRun(local_hour.start, 1, 1, 0)
            return
        start, hours, quarantined, calm = self._run
        self._run = ErrorRun(start, hours + 1, quarantined + is_quarantined, 0 if is_quarantined else calm + 1)
        if self._run.calm >= RUN_BREAK_HOURS:
            self._run = None
        elif local_hour.end - start >= self._parameters.accept_after_seconds and self._run.quarantined >= max(
            RUN_MIN_ANOMALOUS, RUN_ELEVATED_SHARE * self._run.hours
        ):
            self._accept(start, local_hour.end)

    def _accept(self, changepoint: int, at: int) -> None:
        """Accept a change: the error ratio since then is the usual one."""
        self._changepoint = changepoint
        self._run = None
        self._quarantined = {start for start in self._quarantined if start < changepoint}
        self._peaks = {start: peak for start, peak in self._peaks.items() if start < changepoint}
        self._flag.reset(at)
        self.accepted.append(changepoint)


class _Sums:
    """Sums of recent requests and failures by mark: most windows need no more."""

    __slots__ = ("_failures", "_lengths", "_marks", "_parameters", "_requests")

    def __init__(self, recent: Sequence[tuple[int, int, int]], parameters: Parameters, lengths: Sequence[int]) -> None:
        """Add up marks, requests and failures, in time order."""
        self._parameters = parameters
        self._marks = [mark for mark, _, _ in recent]
        self._requests = list(accumulate([requests for _, requests, _ in recent], initial=0))
        self._failures = list(accumulate([failed for _, _, failed in recent], initial=0))
        self._lengths = lengths

    def evaluation(self, now: int) -> Counts:
        """Return the counts of the evaluation window that ends at a mark."""
        parameters, marks, requests = self._parameters, self._marks, self._requests
        last = bisect_right(marks, now)
        first = bisect_right(marks, now - parameters.window_seconds)
        most = requests[last] - parameters.min_traces
        if requests[first] > most:
            # Extended until there are enough requests.
            oldest = bisect_right(marks, now - parameters.max_window_seconds)
            first = min(first, max(oldest, bisect_right(requests, most) - 1))
        return Counts(requests[last] - requests[first], self._failures[last] - self._failures[first])

    def can_be_shift(self, now: int, evaluation: Counts, resolved_at: int) -> bool:
        """Whether :func:`can_be_error_shift` holds for the windows that end at a mark, while no flag fires.

        Args:
            now: the mark, Unix seconds.
            evaluation: counts of the evaluation window.
            resolved_at: when the flag was resolved last.
        """
        if not evaluation.failures:
            return False
        if is_large(evaluation, self._parameters):
            return True
        marks, last = self._marks, bisect_right(self._marks, now)
        for seconds in long_windows_after(resolved_at, now, self._lengths, self._parameters):
            first = bisect_right(marks, now - seconds)
            counts = Counts(self._requests[last] - self._requests[first], self._failures[last] - self._failures[first])
            if is_large(counts, self._parameters):
                return True
        return False


def _badness(counts: Counts) -> tuple[float, int]:
    return lower_bound(counts, BURST_MIN_FAILURES), counts.failures
