"""The rule for a single trace: slower than this is an outlier."""

from dataclasses import dataclass

from exporter.baseline.levels import Baseline


@dataclass(frozen=True, slots=True)
class OutlierRule:
    """How far beyond the usual a single trace must be.

    Attributes:
        factor: multiple of the baseline's p95.
        k: number of median absolute deviations above the median.
        mad_epsilon_seconds: the least that a median absolute deviation counts as, for series that never vary.
    """

    factor: float = 2.0
    k: float = 10.0
    mad_epsilon_seconds: float = 0.001

    def threshold_seconds(self, baseline: Baseline) -> float:
        """A trace that took longer than this is an outlier."""
        spread = max(baseline.mad_seconds, self.mad_epsilon_seconds)
        return max(self.factor * baseline.p95_seconds, baseline.p50_seconds + self.k * spread)
