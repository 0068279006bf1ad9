"""Explanation of a verdict: its figures, and the sentence that logs, API and pages show."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log10
from typing import Final, Protocol

from exporter.baseline.levels import Baseline, FallbackLevel
from exporter.detection.parameters import CORRELATION
from exporter.detection.runs import RunEvidence
from exporter.detection.small_shift import ShiftTest
from exporter.detection.verdict import Evidence
from exporter.detection.window import rank_of
from exporter.model.calendar import DayType, Slot
from exporter.model.histogram import BUCKETS_PER_OCTAVE, bucket_upper_seconds
from exporter.model.hour_evaluation import QUANTILES

RISE_RATIO: Final = 2.0
"""From this multiple of the usual traffic on, a rise is named beside a shift."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Figures of a verdict in seconds and factors; ``str()`` is the sentence.

    Attributes:
        quantile: the quantile with the lowest tail probability; of runs, the median.
        traces: number of traces in the tested window, or in the slow runs.
        slow: number of traces above the limit; of runs, the number of slow ones.
        allowed: number of traces above the limit that would be normal; of runs, 0.
        limit_seconds: the gate, upper bound of its bucket.
        baseline_seconds: the quantile of the baseline.
        current_seconds: the quantile of the window.
        swing_factor: factor by which the quantile may exceed its baseline, or its level, within its normal variation.
        chance: tail probability of the shift test.
        baseline: the baseline.
        test: the test that the figures are of.
        pattern_factor: factor by which the endpoint is slower than its baseline at some minutes of every hour; 1 unless
            the window touches them.
        pattern_minutes: these minutes of the hour, as ``[from, to)``.
        level_factor: level of the half hour before divided by the baseline; 1 unless the test compares with that.
        run_seconds: duration of each slow run, in time order; empty unless the series is evaluated by run.
        longest_run_seconds: the longest of the past runs that ``baseline`` counts; None unless it is evaluated by run.
        correlation: learned correlation of exceedances within a window, on which the tail probability depends.
        traffic_ratio: current traffic of the series divided by its usual traffic; None if unknown.
    """

    quantile: float
    traces: int
    slow: int
    allowed: int
    limit_seconds: float
    baseline_seconds: float
    current_seconds: float
    swing_factor: float
    chance: float
    baseline: Baseline
    test: ShiftTest = ShiftTest.WINDOW
    pattern_factor: float = 1.0
    pattern_minutes: tuple[tuple[int, int], ...] = ()
    level_factor: float = 1.0
    correlation: float = CORRELATION
    run_seconds: tuple[float, ...] = ()
    longest_run_seconds: float | None = None
    traffic_ratio: float | None = None

    @classmethod
    def of_runs(cls, evidence: RunEvidence) -> "Explanation":
        """Convert the evidence of runs; their baseline are the past runs."""
        last, thresholds = evidence.runs[-1], evidence.thresholds
        limit = last.gates.slow if len(evidence.runs) > 1 else last.gates.far
        return cls(
            quantile=0.5,
            traces=sum(each.run.traces for each in evidence.runs),
            slow=len(evidence.runs),
            allowed=0,
            limit_seconds=bucket_upper_seconds(limit),
            baseline_seconds=bucket_upper_seconds(last.gates.usual),
            current_seconds=bucket_upper_seconds(last.run.bucket),
            swing_factor=thresholds.swing_factor,
            chance=evidence.chance,
            baseline=thresholds.baseline,
            test=ShiftTest.RUNS,
            run_seconds=tuple(bucket_upper_seconds(each.run.bucket) for each in evidence.runs),
            longest_run_seconds=bucket_upper_seconds(thresholds.longest),
        )

    @classmethod
    def of(cls, evidence: Evidence, baseline: Baseline) -> "Explanation":
        """Convert evidence from buckets into seconds and factors."""
        threshold = evidence.threshold
        allowed = evidence.traces - rank_of(threshold.q, evidence.traces)
        if evidence.test in (ShiftTest.LADDER, ShiftTest.TAIL):
            allowed = min(allowed, ceil(evidence.expected * evidence.traces))
        return cls(
            quantile=threshold.q,
            traces=evidence.traces,
            slow=evidence.slow,
            allowed=allowed,
            limit_seconds=bucket_upper_seconds(evidence.gate),
            baseline_seconds=bucket_upper_seconds(threshold.baseline),
            current_seconds=bucket_upper_seconds(evidence.bucket),
            swing_factor=evidence.swing_factor,
            chance=evidence.chance,
            baseline=baseline,
            test=evidence.test,
            pattern_factor=2.0 ** (evidence.raised / BUCKETS_PER_OCTAVE),
            pattern_minutes=evidence.minutes,
            level_factor=2.0 ** (evidence.level / BUCKETS_PER_OCTAVE),
            correlation=evidence.learned_correlation,
        )

    @property
    def independent_traces(self) -> int:
        """Number of independent requests that carry as much evidence as the correlated ones of the window."""
        return max(1, round(self.traces / (1 + (self.traces - 1) * self.correlation)))

    def __str__(self) -> str:
        sentence = self._sentence_on_runs() if self.run_seconds else self._sentence_on_window()
        return " ".join(part for part in (sentence, rise_text(self.traffic_ratio)) if part)

    def _sentence_on_runs(self) -> str:
        took = " and ".join(map(duration, self.run_seconds))
        last = "the last run took" if len(self.run_seconds) == 1 else f"the last {len(self.run_seconds)} runs took"
        factor = (
            f"{self.limit_seconds / self.baseline_seconds:.2g} × " if self.baseline_seconds > 0 else "much more than "
        )
        ratio = f", {self.current_seconds / self.baseline_seconds:.2g} × the usual" if self.baseline_seconds > 0 else ""
        return (
            f"{last} {took}{ratio}, and not up to {duration(self.limit_seconds)} ({factor}the usual run of "
            f"{duration(self.baseline_seconds)}; runs up to × {self.swing_factor:.2g} are usual here); of the "
            f"{self.baseline.count:,} past runs that it is compared with the longest took "
            f"{duration(self.longest_run_seconds or 0.0)}; chance {self.chance:.0e}; "
            f"compared with the runs of {compared_with(self.baseline)} (level {self.baseline.level:d})."
        )

    def _sentence_on_window(self) -> str:
        name = f"p{100 * self.quantile:g}"
        now = f"{name} now {duration(self.current_seconds)}"
        if self.baseline_seconds > 0:
            ratio = self.limit_seconds / self.baseline_seconds
            limit = f"{ratio:.2g} × the usual {name} of {duration(self.baseline_seconds)}"
            now += f", {self.current_seconds / self.baseline_seconds:.2g} × the usual"
        else:
            limit = f"the usual {name} is 0"
        requests = f"of the last {self.traces:,} requests"
        swings = f"swings up to × {self.swing_factor:.2g} are usual here"
        if self.test is ShiftTest.LONG:
            requests = f"of the {self.traces:,} requests of the last 30 minutes"
            swings = f"half hours swing up to × {self.swing_factor:.2g} here"
        elif self.test is ShiftTest.TAIL:
            swings = f"half hours swing up to × {self.swing_factor:.2g} here"
        elif self.test is ShiftTest.LEVEL:
            # Levels of the higher quantiles below the baseline are not expected to last.
            counts = ", which counts as 1 ×" if self.level_factor < 1 and self.quantile > QUANTILES[0] else ""
            swings = (
                f"it was at {self.level_factor:.2g} × in the half hour before{counts}, "
                f"and swings around that up to × {self.swing_factor:.2g} are usual here"
            )
        if self.pattern_minutes:
            swings += (
                f"; at {minutes_text(self.pattern_minutes)} of the hour this endpoint takes "
                f"{self.pattern_factor:.2g} × its usual"
            )
        if self.independent_traces < self.traces / 2 and self.correlation > CORRELATION:
            swings += f"; requests of one window are alike here, so that they count like {self.independent_traces:,}"
        return (
            f"{self.slow:,} {requests} took longer than {duration(self.limit_seconds)} ({limit}; {swings}), "
            f"where at most {self.allowed:,} would be; {now}; chance {self.chance:.0e}; "
            f"compared with {compared_with(self.baseline)} "
            f"(level {self.baseline.level:d}, {self.baseline.count:,} traces)."
        )


def rise_text(traffic_ratio: float | None) -> str:
    """Say that an endpoint has far more traffic than usual, which may be why it is slow; empty if it has not."""
    if traffic_ratio is None or traffic_ratio < RISE_RATIO:
        return ""
    return f"It has {traffic_ratio:.2g} times the usual traffic."


def explained(
    evidence: Evidence | RunEvidence | None, baseline: Baseline | None, traffic_ratio: float | None = None
) -> Explanation | None:
    """Return the explanation of a verdict; None without evidence, or without the baseline of an evaluation window."""
    if isinstance(evidence, RunEvidence):
        return replace(Explanation.of_runs(evidence), traffic_ratio=traffic_ratio)
    if evidence is None or baseline is None:
        return None
    return replace(Explanation.of(evidence, baseline), traffic_ratio=traffic_ratio)


def minutes_text(stretches: Sequence[tuple[int, int]]) -> str:
    """Return stretches of the hour in words, such as ``:00 to :10``."""
    return " and ".join(f":{begin:02d} to :{end % 60:02d}" for begin, end in stretches)


class PooledHours(Protocol):
    """A baseline of any kind: its fallback level, its slot, and the number of its hours."""

    @property
    def level(self) -> FallbackLevel: ...  # noqa: D102

    @property
    def slot(self) -> Slot: ...  # noqa: D102

    @property
    def windows(self) -> int: ...  # noqa: D102


def compared_with(baseline: PooledHours) -> str:
    """Return the pooled hours of a baseline in words, such as ``10 weekdays 14–15 h``."""
    weekday = baseline.slot.day_type is DayType.WEEKDAY
    hours = f"{baseline.slot.hour}–{(baseline.slot.hour + 1) % 24} h"
    day_type = "weekday" if weekday else "weekend"
    match baseline.level:
        case FallbackLevel.EXACT:
            return f"{_counted(baseline.windows, 'weekday' if weekday else 'weekend day')} {hours}"
        case FallbackLevel.NEARBY:
            return f"{_counted(baseline.windows, f'{day_type} hour')} around {hours}"
        case FallbackLevel.DAYTYPE:
            return _counted(baseline.windows, f"{day_type} hour")
        case _:
            return f"{_counted(baseline.windows, 'hour')} of all days"


def duration(seconds: float) -> str:
    """Format a duration with its unit, to three significant digits."""
    if seconds <= 0:
        return "0 s"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{_three_digits(seconds / size)} {unit}"
    return f"{_three_digits(seconds / 1e-9)} ns"


def _three_digits(value: float) -> str:
    if value <= 0:
        return "0"
    decimals = max(0, 2 - floor(log10(value)))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
