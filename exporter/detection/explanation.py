"""What is said about a verdict: everything the sentence needs, as a value, and the sentence."""

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
    """Why a window is, or is not, out of the ordinary.

    Attributes:
        quantile: the quantile that shows it best.
        traces: traces in the window.
        slow: how many of them took longer than the limit.
        allowed: how many at most would, were the quantile at the limit.
        limit_seconds: what the quantile must exceed to matter.
        usual_seconds: what it usually is.
        current_seconds: what it is now.
        swing_factor: by how much it may exceed the usual and still be within its swing.
        chance: how likely chance and the usual swing make so many slow.
        baseline: what it is compared with.
    """

    quantile: float
    traces: int
    slow: int
    allowed: int
    limit_seconds: float
    usual_seconds: float
    current_seconds: float
    swing_factor: float
    chance: float
    baseline: Baseline

    @classmethod
    def of(cls, evidence: Evidence, baseline: Baseline, parameters: Parameters) -> "Explanation":
        """Put evidence into seconds and factors."""
        threshold = evidence.threshold
        return cls(
            quantile=threshold.q,
            traces=evidence.traces,
            slow=evidence.slow,
            allowed=evidence.traces - rank_of(threshold.q, evidence.traces),
            limit_seconds=bucket_upper_seconds(threshold.gate),
            usual_seconds=bucket_upper_seconds(threshold.usual),
            current_seconds=bucket_upper_seconds(evidence.bucket),
            swing_factor=swing_factor(threshold.swing_octaves, parameters),
            chance=evidence.chance,
            baseline=baseline,
        )

    def __str__(self) -> str:
        name = f"p{100 * self.quantile:g}"
        now = f"{name} now {duration(self.current_seconds)}"
        if self.usual_seconds > 0:
            limit = (
                f"{self.limit_seconds / self.usual_seconds:.2g} × the usual {name} of {duration(self.usual_seconds)}"
            )
            now += f", {self.current_seconds / self.usual_seconds:.2g} × the usual"
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
    """The hours of a baseline in words, such as ``10 weekdays 14–15 h``."""
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
    """A duration for people, to three digits."""
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
