"""What is known of a regression, and what happened to it."""

from enum import StrEnum
from typing import NamedTuple


class Regression(NamedTuple):
    """A regression.

    Attributes:
        raised_at: when it was found, Unix seconds.
        began_after: earliest plausible instant at which it began, Unix seconds.
        began_before: latest plausible one.
        quantile: what has changed most clearly: 0.5 or 0.9.
        ratio: that quantile over the last days, relative to the weeks before; updated while the regression lasts.
        before_seconds: that quantile in the weeks before, as the geometric mean over hours like those of the last days.
        hours: the last so many hours are meant.
        deviations: distance in standard deviations of such means, when it was found.
    """

    raised_at: int
    began_after: int
    began_before: int
    quantile: float
    ratio: float
    before_seconds: float
    hours: int
    deviations: float

    @property
    def began(self) -> int:
        """The middle of the interval in which it began, Unix seconds."""
        return (self.began_after + self.began_before) // 2


class RegressionEvent(StrEnum):
    """What happened to a regression."""

    RAISED = "raised"
    RESOLVED = "resolved"
    ACCEPTED = "accepted"


class RegressionChange(NamedTuple):
    """A regression was found, went away or was accepted.

    Attributes:
        event: what happened.
        at: when, Unix seconds.
        regression: the regression, as it was last.
    """

    event: RegressionEvent
    at: int
    regression: Regression
