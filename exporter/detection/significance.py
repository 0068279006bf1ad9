"""Statistical significance of exceedances: the tail of the beta-binomial distribution.

The traces of a window share hosts, caches and callers, so that exceedances are correlated, and their number varies more
than a binomial one. The beta-binomial distribution has the same mean and a given intra-class correlation.
"""

from math import ceil, exp, inf, lgamma, log
from typing import Final

from exporter.detection.parameters import TAIL_CAP
from exporter.detection.window import rank_of

_NEGLIGIBLE: Final = 1e-12
_ROUNDING: Final = 1e-9


def tail_probability(
    k: int, n: int, p: float, correlation: float, *, cap: int = TAIL_CAP, enough: float = inf
) -> float:
    """Return ``P(K >= k)`` for a beta-binomial K of n trials with mean probability p.

    With ``a = p (1/ρ - 1)`` and ``b = (1 - p) (1/ρ - 1)`` the probability of exactly j exceedances is
    ``C(n, j) B(a + j, b + n - j) / B(a, b)``. The first term is computed from ``lgamma``, each further one from the
    ratio ``(n - j) / (j + 1) · (a + j) / (b + n - j - 1)`` to its predecessor.

    Args:
        k: number of exceedances.
        n: number of traces.
        p: probability of an exceedance, in (0, 1).
        correlation: intra-window correlation ρ, in (0, 1).
        cap: larger windows are scaled down to this number of traces, with ``k`` rounded up.
        enough: if the probability is at least this, any number that is as well may be returned.
    """
    if n > cap:
        k = ceil(k * cap / n - _ROUNDING)
        n = cap
    if k <= 0:
        return 1.0
    if k > n:
        return 0.0
    size = 1 / correlation - 1
    a = p * size
    b = (1 - p) * size
    term = exp(
        lgamma(n + 1)
        - lgamma(k + 1)
        - lgamma(n - k + 1)
        + lgamma(a + k)
        + lgamma(b + n - k)
        - lgamma(a + b + n)
        + lgamma(a + b)
        - lgamma(a)
        - lgamma(b)
    )
    total = term
    for j in range(k, n):
        term *= (n - j) / (j + 1) * (a + j) / (b + n - j - 1)
        total += term
        if term < total * _NEGLIGIBLE or total >= enough:
            break
    return min(1.0, total)


def poisson_tail(k: int, mean: float) -> float:
    """Return ``P(K >= k)`` for a Poisson variable K with a positive mean."""
    if k <= 0:
        return 1.0
    term = total = exp(k * log(mean) - mean - lgamma(k + 1))
    while term > total * _NEGLIGIBLE:
        k += 1
        term *= mean / k
        total += term
    return min(1.0, total)


def exceeds(slow: int, traces: int, q: float) -> bool:
    """Whether the quantile q lies above a threshold that ``slow`` traces exceed: ``slow > (1 - q) traces``."""
    return traces - slow < rank_of(q, traces)
