"""One series as the page would have shown it in the past: its stored history replayed, mark by mark.

What is stored is the latency of each window by the five-minute mark at which its traces ended. At such a mark the
current window is known as the live edge knew it, and goes through the same tick; the baseline is what the hours that
had settled by then said, and nothing that came later.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from exporter.baseline.levels import Baseline
from exporter.detection.detector import Detector
from exporter.detection.flag import INACTIVE
from exporter.detection.history import advance
from exporter.detection.parameters import MIN_JUDGED
from exporter.detection.state import SeriesState
from exporter.detection.tick import tick
from exporter.detection.window import RecentTraces
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import SeriesStatus
from exporter.model.histogram import bucket_of_seconds
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hours import CivilHour, HourClock, SeriesHours, hours_of
from exporter.model.span import SeriesKey
from exporter.store import StoredSeries

_NEVER: Final = -(2**62)


class PastStatus(NamedTuple):
    """What the page showed of a series at an instant (Unix seconds)."""

    at: int
    status: SeriesStatus


class _Usual(NamedTuple):
    """What was usual in an hour: the baseline in force, and the outlier threshold that follows."""

    baseline: Baseline | None = None
    outlier_threshold_seconds: float | None = None
    judged: bool = False


class StatusReplay:
    """Tells what the page showed, from what is stored."""

    def __init__(self, settings: EvaluationSettings, clock: HourClock) -> None:
        """Judge by these settings, whatever was in force in the past.

        Args:
            settings: what a verdict depends on.
            clock: tells the local hours.
        """
        self._settings = settings
        self._clock = clock
        self._detector = Detector(settings.fallback, settings.shift, clock)

    def moments(self, stored: StoredSeries, since: int, until: int, step_seconds: int) -> Iterator[PastStatus]:
        """What the page showed of a series, in time order.

        Nothing is told of the time before its first trace, nor after it had been gone for so long that it left the
        page. Counters are not among what is told: what an exporter has counted are its own doings.

        Args:
            stored: its windows with their marks, from the first one on; what was found about them plays no part.
            since: Unix seconds; moments are told from after this,
            until: up to and including this. Every window that begins before it must be among those stored.
            step_seconds: how far the moments lie apart, a multiple of the distance of marks.

        Raises:
            DamagedDigestError: stored bytes are damaged.
        """
        return _Replay(self._settings, self._clock, self._detector, stored).moments(since, until, step_seconds)


class _Replay:
    """The replay of one series, under way."""

    def __init__(
        self, settings: EvaluationSettings, clock: HourClock, detector: Detector, stored: StoredSeries
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._detector = detector
        self._key: SeriesKey = stored.key
        self._history = SeriesHours(hours_of(stored.windows, clock))
        self._recent = RecentTraces()
        self._flag = INACTIVE
        self._slowest: dict[int, int] = {}
        self._last_seen = self._last_outlier = _NEVER

    def moments(self, since: int, until: int, step_seconds: int) -> Iterator[PastStatus]:
        first = next(iter(self._history), None)
        if first is None:
            return
        state = SeriesState(first.start)
        while state.until < until:
            civil = self._clock.hour(state.until)
            for moment in self._hour(civil, state):
                if since < moment.at <= until and moment.at % step_seconds == 0:
                    yield moment
            progress = advance(self._detector, self._history, civil.end, state)
            state = progress.state
            if progress.accepted:
                # What has lasted is usual from now on.
                self._flag = INACTIVE

    def _hour(self, civil: CivilHour, state: SeriesState) -> Iterator[PastStatus]:
        """What the page showed at the marks of an hour; all hours before it are judged in ``state``."""
        parameters = self._settings.shift
        self._recent.discard(civil.start, parameters)
        hour = self._history.at(civil.start)
        if hour is not None:
            for mark, buckets in hour.marks():
                self._recent.extend(mark, buckets)
                self._slowest[mark] = max(self._slowest.get(mark, _NEVER), max(buckets, default=_NEVER))
        if hour is None and not self._slowest and self._flag == INACTIVE and self._is_gone(civil.start):
            return
        outlook, schedule = self._detector.schedule_at(self._history, state, civil.start)
        usual = _Usual()
        if outlook.pool is not None:
            baseline = Baseline.of(outlook.pool)
            threshold = self._settings.outlier.threshold_seconds(baseline)
            usual = _Usual(baseline, threshold, judged=outlook.prediction is not None)
        for mark in range(civil.start + MARK_SECONDS, civil.end + 1, MARK_SECONDS):
            self._pass(mark, usual.outlier_threshold_seconds)
            # Thresholds are dear, and with next to no traces they cannot matter.
            idle = len(self._recent) < MIN_JUDGED and self._flag == INACTIVE
            found = tick(self._recent, mark, () if idle else schedule.hours, self._flag, parameters)
            self._flag = found.flag
            if self._is_gone(mark) and not self._flag.firing:
                continue
            traces = found.window.traces
            shift = self._flag.firing if usual.judged else None
            yield PastStatus(
                mark,
                SeriesStatus(
                    key=self._key,
                    baseline=usual.baseline,
                    outlier_threshold_seconds=usual.outlier_threshold_seconds,
                    current_traces=traces,
                    current_p50_seconds=found.window.quantile_seconds(0.5) if traces else None,
                    current_p95_seconds=found.window.quantile_seconds(0.95) if traces else None,
                    score=None if found.verdict is None else found.verdict.score,
                    shift=shift,
                    outlier=None if usual.baseline is None else self._last_outlier > mark - parameters.window_seconds,
                    since=self._flag.since if shift else None,
                    changepoint=state.changepoint,
                ),
            )

    def _pass(self, mark: int, outlier_threshold_seconds: float | None) -> None:
        """Take note of what ended in the five minutes before a mark."""
        slowest = self._slowest.pop(mark, None)
        if slowest is None:
            return
        self._last_seen = mark
        # Of the bucket that the threshold lies in, nobody knows; all above it is slower.
        if outlier_threshold_seconds is not None and slowest > bucket_of_seconds(outlier_threshold_seconds):
            self._last_outlier = mark

    def _is_gone(self, at: int) -> bool:
        """Whether the series has left the page, or was not on it yet."""
        return self._last_seen < at - self._settings.stale_after_seconds
