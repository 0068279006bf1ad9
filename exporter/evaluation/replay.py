"""Replay of the page's values for one series from its stored history, at five-minute marks.

Stored windows have the latency of their traces by the mark up to which these ended. At a mark the evaluation window is
therefore the same as that of the live edge, and goes through the same tick; the baseline is computed only from the
hours that had settled by then.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from exporter.baseline.levels import Baseline
from exporter.detection.detector import Detector, SeriesState
from exporter.detection.errors.recent import RecentFailures, drop_quiet
from exporter.detection.errors.verdict import ErrorTick
from exporter.detection.flag import INACTIVE, FlagKind
from exporter.detection.history import advance
from exporter.detection.streams import StreamReason
from exporter.detection.tick import FlagTracker
from exporter.detection.traffic.history import SeriesTraffic, TrafficTick, TrafficTracker
from exporter.detection.traffic.source import SourceHistory
from exporter.detection.window import EvaluationWindow, RecentTraces
from exporter.evaluation.live.traffic import CurrentTraffic
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import KindStatus, SeriesStatus
from exporter.model.calendar import HourClock, LocalHour
from exporter.model.histogram import bucket_of_seconds
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hours import SeriesHours, hours_of
from exporter.model.span import SeriesKey
from exporter.model.time_mark import NO_MARKS, TimeMarks
from exporter.store import StoredSeries

_NEVER: Final = -(2**62)


class PastStatus(NamedTuple):
    """Status of a series on the page at an instant (Unix seconds)."""

    at: int
    status: SeriesStatus


class _HourBaseline(NamedTuple):
    """Baseline of one hour, with the outlier threshold, whether there is a shift verdict, and why it is a stream."""

    baseline: Baseline | None = None
    outlier_threshold_seconds: float | None = None
    has_verdict: bool = False
    stream: StreamReason | None = None


class StatusReplay:
    """Replays the status of series under given settings, regardless of the settings at that time."""

    def __init__(
        self,
        settings: EvaluationSettings,
        clock: HourClock,
        source: SourceHistory | None = None,
        marks: TimeMarks = NO_MARKS,
    ) -> None:
        """Replay by some settings; without the source, traffic has no verdicts."""
        self._settings = settings
        self._clock = clock
        self._source = source
        self._detector = replace(settings.detector(clock), marks=marks)

    def replay(self, stored: StoredSeries, since: int, until: int, step_seconds: int) -> Iterator[PastStatus]:
        """Yield the status of a series in time order, while it would have been on the page.

        It is on the page from its first trace until it is stale. Counters are absent, because they count what one
        exporter process has seen.

        Args:
            stored: all stored windows of the series that begin before ``until``, with their marks. Stored evaluations
                are ignored.
            since: start of the range, Unix seconds, exclusive.
            until: end of the range, inclusive.
            step_seconds: interval between two statuses, a multiple of five minutes.

        Raises:
            DamagedDigestError: stored bytes are damaged.
        """
        replay = _SeriesReplay(self._settings, self._clock, self._detector, stored, self._source)
        return replay.run(since, until, step_seconds)


class _SeriesReplay:
    """Replay of one series, in progress."""

    def __init__(
        self,
        settings: EvaluationSettings,
        clock: HourClock,
        detector: Detector,
        stored: StoredSeries,
        source: SourceHistory | None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._detector = detector.of(stored.key)
        self._key: SeriesKey = stored.key
        # Marked hours were on the page, too, although nothing is learned from them.
        self._stored = SeriesHours(hours_of(stored.windows, clock))
        self._history = SeriesHours(self._detector.hours(stored.windows))
        self._recent = RecentTraces()
        self._tracker = FlagTracker(self._detector.parameters)
        self._failures = RecentFailures()
        self._error_flag = INACTIVE
        self._traffic: SeriesTraffic | None = None
        if source is not None:
            self._traffic = self._detector.traffic(stored.windows, source)
        self._slowest: dict[int, int] = {}
        self._last_seen = self._last_outlier = _NEVER

    def run(self, since: int, until: int, step_seconds: int) -> Iterator[PastStatus]:
        first = next(iter(self._stored), None)
        if first is None:
            return
        state = SeriesState(first.start)
        while state.until < until:
            local_hour = self._clock.hour(state.until)
            for moment in self._replay_hour(local_hour, state):
                if since < moment.at <= until and moment.at % step_seconds == 0:
                    yield moment
            progress = advance(self._detector, self._history, local_hour.end, state, traffic=self._traffic)
            state = progress.state
            if progress.accepted:
                self._tracker.reset(local_hour.end)
            if progress.accepted_errors:
                self._error_flag = INACTIVE

    def _replay_hour(self, local_hour: LocalHour, state: SeriesState) -> Iterator[PastStatus]:
        """Yield the status at the marks of an hour; ``state`` is the result of evaluating all hours before it."""
        parameters = self._detector.parameters
        self._recent.discard(local_hour.start, parameters)
        hour = self._stored.at(local_hour.start)
        self._stored.discard_before(local_hour.start)
        own = self._detector.own_marks
        reach = local_hour.start - parameters.max_window_seconds - MARK_SECONDS
        quiet = () if own is None else own.quiet_ranges(reach, local_hour.end + 1)
        counts: list[tuple[int, int]] = []
        if hour is not None:
            failures = hour.failures()
            for mark, buckets in hour.marks():
                self._recent.extend(mark, buckets)
                counts.append((mark, len(buckets)))
                self._slowest[mark] = max(self._slowest.get(mark, _NEVER), max(buckets, default=_NEVER))
                self._add_failures(mark, len(buckets), None if failures is None else failures.get(mark, 0))
        self._failures.discard(local_hour.start, parameters)
        is_inactive = INACTIVE == self._tracker.flag == self._error_flag == state.traffic.flag
        if hour is None and not self._slowest and is_inactive and self._is_stale(local_hour.start):
            return
        expected, schedule = self._detector.schedule_at(self._history, state, local_hour.start)
        present = _HourBaseline()
        if expected.pool is not None:
            baseline = Baseline.of(expected.pool)
            stream = self._detector.stream_reason(expected)
            is_judged = stream is None and self._detector.is_enabled
            threshold = self._settings.outlier.threshold_seconds(baseline) if is_judged else None
            present = _HourBaseline(baseline, threshold, expected.has_verdict, stream)
        elif expected.has_verdict:
            present = _HourBaseline(has_verdict=True)
        usual = self._detector.error_baselines(self._history, state, local_hour)
        traffic = self._traffic_ticks(local_hour, counts, state, is_judged=self._detector.is_judged(expected.stream))
        for mark in range(local_hour.start + MARK_SECONDS, local_hour.end + 1, MARK_SECONDS):
            is_quiet = self._follow_marks(quiet, mark)
            self._note_ended(mark, None if is_quiet else present.outlier_threshold_seconds)
            if is_quiet:
                if not self._is_stale(mark):
                    yield PastStatus(mark, self._status(mark, self._recent.window(mark, parameters), present, state))
                continue
            result = self._tracker.tick(self._recent, mark, schedule, pool=None, runs=expected.runs)
            flag = result.flag
            errors = self._failures.tick(
                self._recent, result.window, mark, usual, self._error_flag, parameters, local_hour.start
            )
            self._error_flag = errors.flag
            ticked = traffic.get(mark)
            is_silent = ticked is not None and ticked.flag.firing
            if self._is_stale(mark) and not flag.firing and not errors.flag.firing and not is_silent:
                continue
            outlier = self._last_outlier > mark - parameters.window_seconds
            shift = flag.firing if present.has_verdict else None
            yield PastStatus(
                mark,
                replace(
                    self._status(mark, result.window, present, state),
                    baseline_error_ratio=usual[0].ratio if usual else None,
                    kinds=(*self._error_status(errors, is_known=bool(usual)), *_traffic_status(ticked)),
                    current_traffic=None
                    if ticked is None or ticked.verdict is None or ticked.usual is None
                    else CurrentTraffic(ticked.usual, ticked.verdict),
                    score=result.score,
                    shift=shift,
                    outlier=None if present.outlier_threshold_seconds is None else outlier,
                    since=flag.since if shift else None,
                    regressed=None if not state.regression.is_judged else state.regression.current is not None,
                    regression=state.regression.current,
                ),
            )

    def _follow_marks(self, quiet: Sequence[tuple[int, int]], mark: int) -> bool:
        """Drop what ended in quiet ranges that are over; returns whether one lasts, so that nothing is flagged."""
        is_quiet = drop_quiet(self._recent, self._failures, quiet, mark)
        if is_quiet:
            self._tracker.reset(mark)
            self._error_flag = INACTIVE
        return is_quiet

    def _status(self, mark: int, window: EvaluationWindow, present: _HourBaseline, state: SeriesState) -> SeriesStatus:
        """Return the status at a mark at which nothing is flagged."""
        return SeriesStatus(
            key=self._key,
            baseline=present.baseline,
            outlier_threshold_seconds=present.outlier_threshold_seconds,
            current_traces=window.traces,
            current_failures=self._failures.within(window, mark),
            current_p50_seconds=window.quantile_seconds(0.5) if window.traces else None,
            current_p95_seconds=window.quantile_seconds(0.95) if window.traces else None,
            changepoint=state.changepoint,
            stream=present.stream,
            policy=self._settings.policy(self._key),
        )

    def _traffic_ticks(
        self, local_hour: LocalHour, counts: Sequence[tuple[int, int]], state: SeriesState, *, is_judged: bool
    ) -> Mapping[int, TrafficTick]:
        """Return the traffic at the marks of an hour."""
        if self._traffic is None:
            return {}
        tracker = TrafficTracker(self._traffic, self._detector.parameters, self._clock, state.traffic)
        tracker.tolerances = state.tolerances
        ticks = tracker.ticks(local_hour, counts, state.pattern, is_judged=is_judged)
        return {tick.at: tick for tick in ticks}

    def _error_status(self, errors: ErrorTick, *, is_known: bool) -> tuple[KindStatus, ...]:
        flag, verdict = errors.flag, errors.verdict
        if not is_known or (not flag.firing and self._failures.counted is None):
            return ()
        return (KindStatus(FlagKind.ERRORS, flag.firing, flag.since, None if verdict is None else verdict.score),)

    def _add_failures(self, mark: int, requests: int, failed: int | None) -> None:
        """Add the requests of a mark, of which so many failed; None if that is unknown."""
        if failed is None:
            self._failures.add(mark, None, counts=False)
            return
        self._failures.add(mark, False, counts=False, number=requests - failed)
        self._failures.add(mark, True, counts=True, number=failed)

    def _note_ended(self, mark: int, outlier_threshold_seconds: float | None) -> None:
        """Note whether traces, and outliers among them, ended in the five minutes up to a mark."""
        slowest = self._slowest.pop(mark, None)
        if slowest is None:
            return
        self._last_seen = mark
        # Traces in the threshold's own bucket may be on either side of it; only higher buckets are outliers for
        # certain.
        if outlier_threshold_seconds is not None and slowest > bucket_of_seconds(outlier_threshold_seconds):
            self._last_outlier = mark

    def _is_stale(self, at: int) -> bool:
        """Whether the series had left the page, or was not on it yet."""
        return self._last_seen < at - self._settings.stale_after_seconds


def _traffic_status(ticked: TrafficTick | None) -> tuple[KindStatus, ...]:
    if ticked is None or (ticked.verdict is None and not ticked.flag.firing):
        return ()
    return (KindStatus(FlagKind.TRAFFIC, ticked.flag.firing, ticked.flag.since),)
