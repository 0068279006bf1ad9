"""Settings of the evaluation and of the poll cycle, translated from the configuration."""

import math
from dataclasses import dataclass

from exporter.baseline.levels import FallbackRules
from exporter.baseline.outlier import OutlierRule
from exporter.detection.parameters import Parameters
from exporter.ingest.exact_reader import Budget


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """Everything except the data that a verdict depends on.

    Attributes:
        fallback: what each baseline level needs.
        outlier: the rule for single traces.
        shift: parameters of the shift test.
        stale_after_seconds: a series unseen for longer is no longer published.
    """

    fallback: FallbackRules
    outlier: OutlierRule
    shift: Parameters
    stale_after_seconds: float


@dataclass(frozen=True, slots=True)
class PollSettings:
    """How a poll cycle reads the live edge.

    Attributes:
        interval_seconds: time between cycles.
        lookback_seconds: how far back a cycle reads.
        window_seconds: length of the evaluation window; the first cycle reads all of it.
        max_window_seconds: length of the evaluation window of a series with little traffic; the first cycle reads that
            far back if it is affordable, so that such series are evaluated right after a restart.
        affordable_traces: the most traces that this may be.
        budget: what one cycle may cost Tempo.
        stale_after_seconds: a series unseen for longer is not expected to have traffic.
    """

    interval_seconds: float
    lookback_seconds: float
    window_seconds: float
    max_window_seconds: float
    affordable_traces: int
    budget: Budget
    stale_after_seconds: float = math.inf

    @property
    def remembered_seconds(self) -> float:
        """How long a span is remembered after its end, so that it is not counted twice."""
        return max(self.lookback_seconds, self.window_seconds) + 2 * self.interval_seconds

    @property
    def max_pause_seconds(self) -> float:
        """Time between two cycles from which on flags do not count it as held.

        Some cycles may fail or be late, and the evaluation windows of both cycles still meet.
        """
        return max(self.window_seconds, 4 * self.interval_seconds)
