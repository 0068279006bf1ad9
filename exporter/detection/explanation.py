"""Explanation of a verdict: its figures, and the sentence that logs, API and pages show."""

from dataclasses import dataclass
from math import floor, log10

from exporter.baseline.levels import Baseline, FallbackLevel
from exporter.detection.parameters import Parameters
from exporter.detection.thresholds import swing_factor
from exporter.detection.verdict import Evidence
from exporter.detection.window import rank_of
from exporter.model.calendar import DayType
from exporter.model.histogram import bucket_upper_seconds


@dataclass(frozen=True, slots=True)
class Explanation:
    """Figures of a verdict in seconds and factors; ``str()`` is the sentence.

    Attributes:
        quantile: the quantile with the lowest tail probability.
        traces: number of traces in the window.
        slow: number of traces above the limit.
        allowed: maximum number of traces above the limit if the quantile does not exceed it.
        limit_seconds: the gate, upper bound of its bucket.
        baseline_seconds: the quantile of the baseline.
        current_seconds: the quantile of the window.
        swing_factor: factor by which the quantile may exceed its baseline within its normal variation.
        chance: tail probability of the shift test.
        baseline: the baseline.
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

    @classmethod
    def of(cls, evidence: Evidence, baseline: Baseline, parameters: Parameters) -> "Explanation":
        """Convert evidence from buckets into seconds and factors."""
        threshold = evidence.threshold
        return cls(
            quantile=threshold.q,
            traces=evidence.traces,
            slow=evidence.slow,
            allowed=evidence.traces - rank_of(threshold.q, evidence.traces),
            limit_seconds=bucket_upper_seconds(threshold.gate),
            baseline_seconds=bucket_upper_seconds(threshold.baseline),
            current_seconds=bucket_upper_seconds(evidence.bucket),
            swing_factor=swing_factor(threshold.swing_octaves, parameters),
            chance=evidence.chance,
            baseline=baseline,
        )

    def __str__(self) -> str:
        name = f"p{100 * self.quantile:g}"
        now = f"{name} now {duration(self.current_seconds)}"
        if self.baseline_seconds > 0:
            ratio = self.limit_seconds / self.baseline_seconds
            limit = f"{ratio:.2g} × the usual {name} of {duration(self.baseline_seconds)}"
            now += f", {self.current_seconds / self.baseline_seconds:.2g} × the usual"
        else:
            limit = f"the usual {name} is 0"
        return (
            f"{self.slow:,} of the last {self.traces:,} requests took longer than {duration(self.limit_seconds)} "
            f"({limit}; swings up to × {self.swing_factor:.2g} are usual here), "
            f"where at most {self.allowed:,} would be; {now}; chance {self.chance:.0e}; "
            f"compared with {compared_with(self.baseline)} "
            f"(level {self.baseline.level:d}, {self.baseline.count:,} traces)."
        )


def compared_with(baseline: Baseline) -> str:
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
