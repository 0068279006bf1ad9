"""The level of the durations of an hour: a mean of three quantiles whose weights are learned."""

from collections.abc import Sequence
from typing import Final

HALVES: Final = 2
"""Residuals are in half buckets, because the median of an even number of buckets may lie between two."""
WEIGHT_HOURS: Final = 14 * 24
"""The weights of the quantiles are those of about so many hours."""
PRIOR_WEIGHT_HOURS: Final = 6
"""Weight of the prior of these, by which only the median counts, in hours."""
PRIOR_WEIGHT_BUCKETS: Final = 4
"""By how much quantiles of an hour move apart in a series without history."""
MAX_WEIGHED_BUCKETS: Final = 16
"""Larger distances count as so large for the weights: an incident must not decide them."""

Products = tuple[float, float, float, float, float]
NO_PRODUCTS: Final[Products] = (0.0, 0.0, 0.0, 0.0, 0.0)


class LevelWeights:
    """Weights of the 20th percentile, the median and the p90 of an hour in its level, learned hour by hour.

    The level is the median, corrected by how far the others lie from it: by as much of these two distances as the
    median followed before. A change that all share leaves both distances as they are, and the weights as well.

    Attributes:
        products: sums of products over the hours, the later ones weighing more: of the distances of the 20th percentile
            and of the p90 from the median, with one another and with that of the median from the weeks before.
    """

    def __init__(self, products: Products) -> None:
        """Continue from such sums."""
        self.products = products

    def level(self, residuals: Sequence[int | None]) -> int | None:
        """Return the distance of the level from those of the quantiles, and learn from these.

        Distances are in half buckets, and None where they are unknown; the level is where the median is.
        """
        low, middle, high = residuals
        if middle is None:
            return None
        if low is None or high is None:
            return middle
        of_low, of_high = self._shares()
        least, most = -HALVES * MAX_WEIGHED_BUCKETS, HALVES * MAX_WEIGHED_BUCKETS
        below = max(least, min(most, low - middle)) / HALVES
        above = max(least, min(most, high - middle)) / HALVES
        centre = max(least, min(most, middle)) / HALVES
        kept = 1 - 1 / WEIGHT_HOURS
        low_low, low_high, high_high, low_middle, high_middle = self.products
        self.products = (
            kept * low_low + below * below,
            kept * low_high + below * above,
            kept * high_high + above * above,
            kept * low_middle + below * centre,
            kept * high_middle + above * centre,
        )
        return middle + round(of_low * (low - middle) + of_high * (high - middle))

    def _shares(self) -> tuple[float, float]:
        """Return the weights of the 20th percentile and of the p90; the median has the rest."""
        low, both, high, low_middle, high_middle = self.products
        prior = PRIOR_WEIGHT_HOURS * PRIOR_WEIGHT_BUCKETS**2
        low, high = low + prior, high + prior
        determinant = low * high - both * both
        of_low = max(0.0, (both * high_middle - high * low_middle) / determinant)
        of_high = max(0.0, (both * low_middle - low * high_middle) / determinant)
        total = max(1.0, of_low + of_high)
        return of_low / total, of_high / total
