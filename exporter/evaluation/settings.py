"""Settings of the evaluation and of the poll cycle, translated from the configuration."""

import math
from dataclasses import dataclass

from exporter.baseline.levels import FallbackRules
from exporter.baseline.outlier import OutlierRule
from exporter.detection.detector import Detector
from exporter.detection.parameters import Parameters
from exporter.detection.policy import SeriesPolicies, SeriesPolicy
from exporter.detection.streams import DEFAULT_STREAM_RULES, StreamRules
from exporter.ingest.exact_reader import Budget
from exporter.model.calendar import HourClock
from exporter.model.span import SeriesKey


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """Everything except the data that a verdict depends on.

    Attributes:
        fallback: what each baseline level needs.
        outlier: the rule for single traces.
        shift: parameters of the shift test.
        stale_after_seconds: a series unseen for longer is no longer published.
        streams: which series are streams by configuration or by name.
        policies: overrides for some series; None without any.
    """

    fallback: FallbackRules
    outlier: OutlierRule
    shift: Parameters
    stale_after_seconds: float
    streams: StreamRules = DEFAULT_STREAM_RULES
    policies: SeriesPolicies | None = None

    def detector(self, clock: HourClock) -> Detector:
        """Return the rules by which all series are evaluated."""
        return Detector(self.fallback, self.shift, clock, self.streams, policies=self.policies)

    def policy(self, key: SeriesKey) -> SeriesPolicy | None:
        """Return the overrides of a series; None if there are none."""
        return None if self.policies is None else self.policies.of(key)

    def parameters(self, key: SeriesKey) -> Parameters:
        """Return the parameters of the shift test for a series."""
        policy = self.policy(key)
        return self.shift if policy is None else policy.parameters

    def rules(self, key: SeriesKey) -> FallbackRules:
        """Return what each baseline level of a series needs."""
        policy = self.policy(key)
        return self.fallback if policy is None else policy.rules


@dataclass(frozen=True, slots=True)
class PollSettings:
    """How a poll cycle reads the live edge.

    Attributes:
        interval_seconds: time between cycles.
        lookback_seconds: how far back the live edge reaches: each second is read until it is that old.
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
        """How long a span is remembered after its end, so that it is not counted twice.

        Seconds are read for the last time up to two cycles after they have left the lookback.
        """
        return max(self.lookback_seconds, self.window_seconds) + 4 * self.interval_seconds

    @property
    def max_pause_seconds(self) -> float:
        """Time between two cycles from which on flags do not count it as held.

        Some cycles may fail or be late, and the evaluation windows of both cycles still meet.
        """
        return max(self.window_seconds, 4 * self.interval_seconds)
