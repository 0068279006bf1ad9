"""What the live edge keeps in memory of one series, and which spans it has counted already."""

from typing import Final

from exporter.detection.errors.recent import RecentFailures
from exporter.detection.errors.verdict import ErrorExplanation
from exporter.detection.explanation import Explanation
from exporter.detection.flag import INACTIVE, Flag, FlagKind, SeriesFlags
from exporter.detection.policy import SeriesPolicy
from exporter.detection.window import RecentTraces
from exporter.evaluation.live.time_lost import TimeLost
from exporter.evaluation.snapshot import NO_OUTLIERS, Exemplar
from exporter.model.span import Span

_NS: Final = 1_000_000_000
NO_FLAGS: Final[SeriesFlags] = {}


class SeenSpans:
    """The spans that were counted already, for as long as they may be read again.

    They are grouped by the minute in which they ended, so that forgetting old ones only drops sets.
    """

    _MINUTE_NS: Final = 60 * _NS

    def __init__(self) -> None:
        """Start without spans."""
        self._by_minute: dict[int, set[int]] = {}

    def is_new(self, span: Span) -> bool:
        """Whether a span was not seen before; marks it as seen."""
        seen = self._by_minute.setdefault(span.end_ns // self._MINUTE_NS, set())
        # The hash alone: two of a million spans practically never share 64 bits.
        identity = hash(span.identity)
        if identity in seen:
            return False
        seen.add(identity)
        return True

    def forget_before(self, unix_seconds: float) -> None:
        """Forget spans that ended before the minute of an instant."""
        oldest = int(unix_seconds) // 60
        for minute in [minute for minute in self._by_minute if minute < oldest]:
            del self._by_minute[minute]


class LiveSeries:
    """The live edge of one series: its recent traces, its flags, the verdicts of the last tick, and what it counts."""

    __slots__ = (
        "error_explanation",
        "error_score",
        "excess_seconds",
        "excess_traces",
        "exemplar",
        "explanation",
        "failures",
        "flags",
        "is_changed",
        "is_reconsidered",
        "last_seen",
        "lost_before",
        "outliers",
        "outliers_total",
        "policy",
        "recent",
        "score",
        "traces_total",
    )

    def __init__(self, policy: SeriesPolicy | None, flags: SeriesFlags = NO_FLAGS) -> None:
        """Start without traces."""
        self.policy = policy
        self.recent = RecentTraces()
        self.failures = RecentFailures()
        self.flags = flags
        self.error_score: float | None = None
        self.error_explanation: ErrorExplanation | None = None
        self.score: float | None = None
        self.explanation: Explanation | None = None
        self.traces_total = 0
        self.outliers_total = 0
        self.excess_traces = 0
        self.excess_seconds = 0.0
        # What was lost before the flag became pending; of a flag from before a restart, nothing is known.
        self.lost_before: TimeLost | None = None
        self.exemplar: Exemplar | None = None
        self.outliers = NO_OUTLIERS
        self.last_seen = 0.0
        # Whether the parameters have changed since the last tick.
        self.is_reconsidered = False
        # Whether traces were added or dropped since the last tick.
        self.is_changed = False

    @property
    def flag(self) -> Flag:
        """The shift flag."""
        return self.flags.get(FlagKind.SHIFT, INACTIVE)

    @property
    def is_firing(self) -> bool:
        """Whether any flag fires."""
        return any(flag.firing for flag in self.flags.values())

    def set_flag(self, kind: FlagKind, flag: Flag) -> None:
        """Replace one of the flags."""
        others = {each: value for each, value in self.flags.items() if each is not kind}
        self.flags = others if flag == INACTIVE else {**others, kind: flag}

    def forget_verdicts(self) -> None:
        """Forget the verdicts of the last tick; flags stay."""
        self.score = self.explanation = self.error_score = self.error_explanation = None

    def add_excess(self, seconds: float, usual_seconds: float | None, weight: int) -> None:
        """Count the time that traces took beyond the usual.

        Args:
            seconds: duration of the traces.
            usual_seconds: the usual p95; None while it is unknown.
            weight: number of the traces.
        """
        if usual_seconds is not None and seconds > usual_seconds:
            self.excess_traces += weight
            self.excess_seconds += weight * (seconds - usual_seconds)

    def add_outlier(self, outlier: Exemplar, *, counts: bool) -> None:
        """Note an outlier; only if it counts, the total grows."""
        self.outliers = self.outliers.with_one_more(outlier)
        if self.exemplar is None or outlier.at >= self.exemplar.at:
            self.exemplar = outlier
        self.outliers_total += counts

    def follow_flag(self, flag: Flag, started_at: float) -> None:
        """Remember how much was lost before the shift flag became pending, until it is resolved.

        Args:
            flag: the flag.
            started_at: start of the process, Unix seconds.
        """
        began = flag.since if flag.firing else flag.pending_since
        if began is None:
            self.lost_before = None
        elif self.lost_before is None and began >= started_at:
            self.lost_before = TimeLost(self.excess_traces, self.excess_seconds, began)

    def time_lost(self, started_at: float) -> TimeLost | None:
        """Return what was lost since the shift flag became pending, or since the process started; None unless it fires.

        Args:
            started_at: start of the process, Unix seconds.
        """
        if not self.flag.firing:
            return None
        before = self.lost_before or TimeLost(0, 0.0, started_at)
        return TimeLost(self.excess_traces - before.requests, self.excess_seconds - before.seconds, before.since)
