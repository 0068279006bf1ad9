"""One series replayed from its single traces, as the exporter would have seen it: live ticks, and the ledger behind.

For backtests of recorded traffic and for benchmarks. Stored history has no single traces left; it is replayed by
:func:`exporter.detection.history.advance`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable

from exporter.detection.detector import Detector, Outlook
from exporter.detection.flag import INACTIVE, FlagEvent
from exporter.detection.history import FlagChange, advance, flag_change
from exporter.detection.parameters import SUSPICION_SECONDS
from exporter.detection.schedule import LazySchedule
from exporter.detection.state import SeriesState
from exporter.detection.tick import tick
from exporter.detection.verdict import Schedule, can_be_shifted
from exporter.detection.window import RecentTraces, end_second
from exporter.model.histogram import Digest, bucket_of_ns
from exporter.model.histogram_codec import MARK_SECONDS, encode_digest, encode_marks
from exporter.model.hours import CivilHour, Hour, Judgement, SeriesHours, StoredWindow


class Replay:
    """The replay of one series.

    Attributes:
        changes: flags that rose and fell.
        judgements: what was found about each hour, by its start.
        accepted: the changepoints of changes that were accepted as the new normal, with the time of that.
    """

    def __init__(self, detector: Detector, *, tick_seconds: int = 15) -> None:
        """Replay with a detector that ticks so often (a divisor of an hour)."""
        self.changes: list[FlagChange] = []
        self.judgements: dict[int, Judgement] = {}
        self.accepted: list[tuple[int, int]] = []
        self._detector = detector
        self._tick_seconds = tick_seconds
        self._history = SeriesHours()
        self._state: SeriesState | None = None
        self._recent = RecentTraces()
        self._coming: list[tuple[int, int]] = []
        self._flag = INACTIVE
        self._suspects: set[int] = set()

    def hour(self, civil: CivilHour, traces: Iterable[tuple[int, int]], *, live: bool = True) -> None:
        """Go through the next hour.

        Args:
            civil: the hour; hours follow one another, those without traffic, too.
            traces: start and duration in nanoseconds of the traces that start in it.
            live: whether anybody is watching; if not, the hour is only learnt from.
        """
        ended = [(end_second(start_ns + duration_ns), bucket_of_ns(duration_ns)) for start_ns, duration_ns in traces]
        self._coming = sorted(self._coming + ended)
        self._watch(civil, live=live)
        if ended:
            self._history.append(_hour_of(civil, ended))
        progress = advance(self._detector, self._history, civil.end, self._state, suspects=self._suspects)
        self._state = progress.state
        self._suspects = {start for start in self._suspects if start >= civil.end - SUSPICION_SECONDS}
        self.judgements.update(progress.judgements)
        for changepoint in progress.accepted:
            self.accepted.append((changepoint, civil.end))
            self._suspects = {start for start in self._suspects if start < changepoint}
            if self._flag.firing:
                self.changes.append(FlagChange(civil.end, FlagEvent.RESOLVED, None))
            self._flag = INACTIVE

    def _watch(self, civil: CivilHour, *, live: bool) -> None:
        """Tick through an hour, passing over the ticks that cannot change anything."""
        parameters = self._detector.parameters
        recent = self._recent
        recent.discard(civil.start, parameters)
        if not recent and self._flag == INACTIVE and not (self._coming and self._coming[0][0] <= civil.end):
            # Nothing to judge, all hour long; between a stray trace and the next there may be years of such hours.
            return
        position = 0
        outlook = Outlook()
        schedule = LazySchedule()
        if live and self._state is not None:
            outlook, schedule = self._detector.schedule_at(self._history, self._state, civil.start, self._suspects)
        since = schedule.since
        floors = schedule.floors() if outlook.prediction is not None else None
        bounds: tuple[int, int] | None = None
        suspicious = False
        coming = self._coming
        for now in range(civil.start + self._tick_seconds, civil.end + 1, self._tick_seconds):
            while position < len(coming) and coming[position][0] <= now:
                recent.add(*coming[position])
                position += 1
            if not live:
                continue
            previous, bounds = bounds, recent.bounds(now, parameters)
            if bounds != previous:
                window = recent.between(*bounds).after(since)
                suspicious = floors is not None and can_be_shifted(window.buckets, floors, parameters)
            if suspicious or self._flag != INACTIVE:
                self._tick(now, outlook, schedule.hours)
        del coming[:position]

    def _tick(self, now: int, outlook: Outlook, schedule: Schedule) -> None:
        parameters = self._detector.parameters
        found = tick(self._recent, now, schedule, self._flag, parameters)
        self._flag = found.flag
        self._suspects.update(found.suspects)
        change = flag_change(now, found, outlook, parameters)
        if change is not None:
            self.changes.append(change)


def _hour_of(civil: CivilHour, ended: Iterable[tuple[int, int]]) -> Hour:
    """The hour as the ledger would have stored it, from the second and bucket of its traces."""
    counts: Counter[int] = Counter()
    marks: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for second, bucket in ended:
        counts[bucket] += 1
        marks[-(-(second - civil.start) // MARK_SECONDS)][bucket] += 1
    digests = {offset: Digest(mark) for offset, mark in marks.items()}
    return Hour(
        civil, [StoredWindow(civil.start, counts.total(), encode_digest(Digest(counts)), encode_marks(digests))]
    )
