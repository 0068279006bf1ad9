"""How alike the requests of one window are, and what that says about chance.

The shift test needs the correlation ρ of exceedances within a window. Most endpoints have hardly any once the swing is
taken out. Where all requests of a batch, or of an hour, share one duration, ten slow requests are one observation and
not ten.

The likeness of pairs of values is the intra-class correlation of "lies above the median of the baseline": with p the
share of values above it, and d the share of pairs of which one lies above it and one does not,
``1 - d / (2 p (1 - p))``. It is 0 for independent values and 1 if both values of each pair agree. A prior of 48 windows
of independent requests is added. Of two such likenesses,

- a, of the requests of one evaluation window, and
- h, of the medians of windows an hour apart,

``r = (a - h) / (1 - h)`` remains, at least 0: a level that lasts for hours makes requests alike as well, but draws few
independent values, and its swing is known.

Of the variance between windows, r, and that within them, 1 - r, the swing accounts for the former except for a share
u, because it is itself an estimate. With ``v = u r / (1 - r + u r)`` the correlation that remains, the exceedances of a
median have the correlation ``ρ = 2/π asin(v)`` (for normal values: W. F. Sheppard, 1899), at least 0.003, which it is
up to r = 0.13.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import asin, pi
from typing import Final

from exporter.detection.parameters import CORRELATION, LIKENESS_WEIGHT, MAX_CORRELATION, SWING_UNCERTAINTY

SHARE_UNITS: Final = 4096
"""Shares are stored in this fraction, as integers, so that sums of them are exact."""


@lru_cache(maxsize=65536)
def shares_above(above: int, traces: int) -> tuple[int, int]:
    """Return which share of a window lies above a limit, and which share of its pairs lies on both sides of it.

    Args:
        above: number of traces above the limit.
        traces: number of traces, at least two.

    Returns:
        Both in units of ``1/SHARE_UNITS``, rounded down.
    """
    pairs = traces * (traces - 1)
    return SHARE_UNITS * above // traces, 2 * SHARE_UNITS * above * (traces - above) // pairs


def likeness(number: float, above: float, unlike: float) -> float:
    """Return how alike pairs of values are, between 0 and 1.

    Args:
        number: number of windows, or of pairs.
        above: sum over them of the share of values above the limit.
        unlike: sum over them of the share of pairs that lie on both sides of it.
    """
    if not number:
        return 0.0
    share = above / number
    independent = 2 * share * (1 - share) * number
    prior = LIKENESS_WEIGHT / 2
    return max(0.0, 1 - (unlike + prior) / (independent + prior))


def learned_correlation(sums: Sequence[int]) -> float:
    """Return the correlation ρ of exceedances within a window, at least :data:`CORRELATION`.

    Args:
        sums: the last six of :data:`exporter.model.hour_evaluation.Swings`.
    """
    windows, shares, unlike_shares, pairs, above, unlike = sums
    within = likeness(windows, shares / SHARE_UNITS, unlike_shares / SHARE_UNITS)
    apart = likeness(pairs, above / 2, unlike)
    if within <= apart:
        return CORRELATION
    between = SWING_UNCERTAINTY * (within - apart)
    correlation = 2 / pi * asin(between / (1 - within + between))
    return max(CORRELATION, min(MAX_CORRELATION, correlation))
