"""Replay of the page's values for one series from its stored history, at five-minute marks.

Stored windows have the latency of their traces by the mark up to which these ended. At a mark the evaluation window is
therefore the same as that of the live edge, and goes through the same tick; the baseline is computed only from the
hours that had settled by then.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from exporter.baseline.levels import Baseline
from exporter.detection.detector import Detector, SeriesState
from exporter.detection.flag import INACTIVE
from exporter.detection.history import advance
from exporter.detection.tick import FlagTracker
from exporter.detection.window import RecentTraces
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import SeriesStatus
from exporter.model.calendar import HourClock, LocalHour
from exporter.model.histogram import bucket_of_seconds
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hours import SeriesHours, hours_of
from exporter.model.span import SeriesKey
from exporter.store import StoredSeries

_NEVER: Final = -(2**62)


class PastStatus(NamedTuple):
    """Status of a series on the page at an instant (Unix seconds)."""

    at: int
    status: SeriesStatus


class _HourBaseline(NamedTuple):
    """Baseline of one hour, with the outlier threshold, and whether there is a shift verdict."""

    baseline: Baseline | None = None
    outlier_threshold_seconds: float | None = None
    has_verdict: bool = False


class StatusReplay:
    """Replays the status of series under given settings, regardless of the settings at that time."""

    def __init__(self, settings: EvaluationSettings, clock: HourClock) -> None:
        self._settings = settings
        self._clock = clock
        self._detector = Detector(settings.fallback, settings.shift, clock)

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
        return _SeriesReplay(self._settings, self._clock, self._detector, stored).run(since, until, step_seconds)


class _SeriesReplay:
    """Replay of one series, in progress."""

    def __init__(
        self, settings: EvaluationSettings, clock: HourClock, detector: Detector, stored: StoredSeries
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._detector = detector
        self._key: SeriesKey = stored.key
        self._history = SeriesHours(hours_of(stored.windows, clock))
        self._recent = RecentTraces()
        self._tracker = FlagTracker(settings.shift)
        self._slowest: dict[int, int] = {}
        self._last_seen = self._last_outlier = _NEVER

    def run(self, since: int, until: int, step_seconds: int) -> Iterator[PastStatus]:
        first = next(iter(self._history), None)
        if first is None:
            return
        state = SeriesState(first.start)
        while state.until < until:
            local_hour = self._clock.hour(state.until)
            for moment in self._replay_hour(local_hour, state):
                if since < moment.at <= until and moment.at % step_seconds == 0:
                    yield moment
            progress = advance(self._detector, self._history, local_hour.end, state)
            state = progress.state
            if progress.accepted:
                self._tracker.reset(local_hour.end)

    def _replay_hour(self, local_hour: LocalHour, state: SeriesState) -> Iterator[PastStatus]:
        """Yield the status at the marks of an hour; ``state`` is the result of evaluating all hours before it."""
        parameters = self._settings.shift
        self._recent.discard(local_hour.start, parameters)
        hour = self._history.at(local_hour.start)
        if hour is not None:
            for mark, buckets in hour.marks():
                self._recent.extend(mark, buckets)
                self._slowest[mark] = max(self._slowest.get(mark, _NEVER), max(buckets, default=_NEVER))
        if hour is None and not self._slowest and self._tracker.flag == INACTIVE and self._is_stale(local_hour.start):
            return
        expected, schedule = self._detector.schedule_at(self._history, state, local_hour.start)
        present = _HourBaseline()
        if expected.pool is not None:
            baseline = Baseline.of(expected.pool)
            threshold = self._settings.outlier.threshold_seconds(baseline)
            present = _HourBaseline(baseline, threshold, has_verdict=expected.prediction is not None)
        for mark in range(local_hour.start + MARK_SECONDS, local_hour.end + 1, MARK_SECONDS):
            self._note_ended(mark, present.outlier_threshold_seconds)
            result = self._tracker.tick(self._recent, mark, schedule, pool=None)
            flag = result.flag
            if self._is_stale(mark) and not flag.firing:
                continue
            traces = result.window.traces
            shift = flag.firing if present.has_verdict else None
            outlier = self._last_outlier > mark - parameters.window_seconds
            yield PastStatus(
                mark,
                SeriesStatus(
                    key=self._key,
                    baseline=present.baseline,
                    outlier_threshold_seconds=present.outlier_threshold_seconds,
                    current_traces=traces,
                    current_p50_seconds=result.window.quantile_seconds(0.5) if traces else None,
                    current_p95_seconds=result.window.quantile_seconds(0.95) if traces else None,
                    score=None if result.verdict is None else result.verdict.score,
                    shift=shift,
                    outlier=None if present.baseline is None else outlier,
                    since=flag.since if shift else None,
                    changepoint=state.changepoint,
                ),
            )

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
