"""How likely chance alone makes so many traces slow: the upper tail of the beta-binomial distribution.

Traces of one window move together, so their number above a quantile spreads wider than a binomial. The beta-binomial
has the same mean and a correlation within the window.
"""

from math import ceil, exp, lgamma

from exporter.detection.parameters import TAIL_CAP

_NEGLIGIBLE = 1e-12
_ROUNDING = 1e-9


def tail_probability(k: int, n: int, p: float, correlation: float, *, cap: int = TAIL_CAP) -> float:
    """The probability that at least ``k`` of ``n`` traces exceed a threshold that each exceeds with probability ``p``.

    With ``a = p (1/correlation - 1)`` and ``b = (1 - p) (1/correlation - 1)``, the probability of exactly ``j`` is
    ``C(n, j) B(a + j, b + n - j) / B(a, b)``. The first term is computed with ``lgamma``, the next ones from their
    ratio to the one before.

    Args:
        k: how many exceed it.
        n: how many there are.
        p: share that is expected to, between 0 and 1, both excluded.
        correlation: between any two traces of the window, between 0 and 1, both excluded.
        cap: larger windows are scaled down to so many traces, with ``k`` rounded up.
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
        if term < total * _NEGLIGIBLE:
            break
    return min(1.0, total)
