"""Outlier threshold of single traces."""

from dataclasses import dataclass

from exporter.baseline.levels import Baseline


@dataclass(frozen=True, slots=True)
class OutlierRule:
    """Parameters of the outlier threshold, ``max(factor × p95, p50 + k × max(MAD, mad_epsilon))``.

    Attributes:
        factor: multiple of the baseline's p95.
        k: number of median absolute deviations (MAD) above the baseline's median.
        mad_epsilon_seconds: lower bound of the MAD, for series without variation.
    """

    factor: float = 2.0
    k: float = 10.0
    mad_epsilon_seconds: float = 0.001

    def threshold_seconds(self, baseline: Baseline) -> float:
        """Return the duration above which a trace is an outlier."""
        spread = max(baseline.mad_seconds, self.mad_epsilon_seconds)
        return max(self.factor * baseline.p95_seconds, baseline.p50_seconds + self.k * spread)
