"""What the configuration says about judging."""

from dataclasses import dataclass

from exporter.baseline.levels import FallbackRules
from exporter.baseline.outlier import OutlierRule
from exporter.detection.parameters import Parameters


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """Everything a verdict depends on besides the data.

    Attributes:
        fallback: what each level of the baseline needs.
        outlier: the rule for single traces.
        shift: the parameters of the shift test.
        stale_after_seconds: a series not seen for so long leaves the page.
    """

    fallback: FallbackRules
    outlier: OutlierRule
    shift: Parameters
    stale_after_seconds: float
