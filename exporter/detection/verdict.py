"""The shift test on one evaluation window.

For each quantile q of a window of n traces, with k the exceedances of the gate and k' those of the statistical
threshold, the window has shifted if

- ``k > (1 - q) n``: the window's quantile lies above the gate (practical significance),
- ``k >= 3``, and
- ``P(K >= k') < alpha``, with K beta-binomial with mean 1 - q (statistical significance).

The traces of a window share hosts, caches and callers, so that exceedances are correlated, and their number varies more
than a binomial one. The beta-binomial distribution has the same mean and a given intra-class correlation.
"""

from bisect import bisect_right
from collections.abc import Sequence
from math import ceil, exp, lgamma
from typing import Final, NamedTuple

from exporter.detection.parameters import (
    FRESH_ALPHA,
    MIN_EVALUATED_TRACES,
    MIN_EXCEEDANCES,
    TAIL_CAP,
    Parameters,
)
from exporter.detection.schedule import Schedule
from exporter.detection.thresholds import Floors, QuantileThreshold, Thresholds
from exporter.detection.window import EvaluationWindow, RecentTraces, gated_positions, rank_of
from exporter.model.histogram import BUCKETS_PER_OCTAVE
from exporter.model.hours import QUANTILES

_NEGLIGIBLE: Final = 1e-12
_ROUNDING: Final = 1e-9


def tail_probability(k: int, n: int, p: float, correlation: float, *, cap: int = TAIL_CAP) -> float:
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


def exceeds(slow: int, traces: int, q: float) -> bool:
    """Whether the quantile q lies above a threshold that ``slow`` traces exceed: ``slow > (1 - q) traces``."""
    return traces - slow < rank_of(q, traces)


class Evidence(NamedTuple):
    """Test statistics of the quantile with the lowest tail probability.

    Attributes:
        threshold: the quantile and its thresholds in the current hour.
        traces: number of traces in the window.
        slow: number of them above the gate.
        bucket: the window's quantile.
        chance: tail probability.
    """

    threshold: QuantileThreshold
    traces: int
    slow: int
    bucket: int
    chance: float


class Verdict(NamedTuple):
    """Result of the shift test on one window.

    Attributes:
        traces: number of evaluated traces.
        score: maximum over the quantiles of the window's quantile divided by its gate; None with too few traces.
        shifted: whether the test is positive for some quantile.
        persists: whether the newest traces are slow, too; only computed if the window has shifted or the flag fires.
        evidence: test statistics; None where no quantile with enough exceedances lies above its gate.
    """

    traces: int
    score: float | None
    shifted: bool
    persists: bool
    evidence: Evidence | None


def can_be_shifted(buckets: Sequence[int], floors: Floors, parameters: Parameters) -> bool:
    """Whether the shift test can be positive, given only lower bounds of the thresholds.

    Args:
        buckets: buckets of the window's traces in ascending order.
        floors: lower bounds over all hours in which the traces ended.
        parameters: settings of the detector.
    """
    traces, gates = len(buckets), floors.gates
    for index, position in enumerate(gated_positions(traces)):
        if buckets[position] > gates[index]:
            beyond_swing = traces - bisect_right(buckets, floors.stats[index])
            if tail_probability(beyond_swing, traces, 1 - QUANTILES[index], floors.correlation) < parameters.alpha:
                return True
    return False


def evaluate_window(
    recent: RecentTraces,
    now: float,
    window: EvaluationWindow,
    schedule: Schedule,
    parameters: Parameters,
    *,
    firing: bool = False,
    always_evidence: bool = False,
) -> Verdict:
    """Apply the shift test to the part of a window for which there are thresholds.

    Args:
        recent: recent traces of the series.
        now: time of the tick, Unix seconds.
        window: its evaluation window.
        schedule: thresholds by hour, not empty; each trace is compared with those of the hour in which it ended.
        parameters: settings of the detector.
        firing: whether the flag is firing.
        always_evidence: also return evidence if no quantile lies above its gate.
    """
    window = window.after(schedule[-1].start)
    traces = window.traces
    if traces < MIN_EVALUATED_TRACES:
        return Verdict(traces, None, shifted=False, persists=False, evidence=None)
    parts = _parts(window, schedule)
    excesses = [_gate_excess(parts, index, traces) for index in range(len(QUANTILES))]
    highest = max(excesses)
    shifted = False
    best: Evidence | None = None
    if highest > 0 or always_evidence:
        for index, excess in enumerate(excesses):
            if excess <= 0 and not always_evidence:
                continue
            evidence = _evidence(window, parts, index, schedule)
            gated = excess > 0 and evidence.slow >= MIN_EXCEEDANCES
            shifted |= gated and evidence.chance < parameters.alpha
            if (gated or always_evidence) and (best is None or evidence.chance < best.chance):
                best = evidence
    persists = (firing or shifted) and _persists(recent.fresh_window(now, parameters), schedule)
    return Verdict(traces, 2.0 ** (highest / BUCKETS_PER_OCTAVE), shifted, persists, best)


class _Part(NamedTuple):
    """The part of a window that ended in one hour: its thresholds, and its buckets in ascending order."""

    thresholds: Thresholds
    buckets: list[int]


def _parts(window: EvaluationWindow, schedule: Schedule) -> list[_Part]:
    newest = schedule[0]
    if window.first_second > newest.start:
        return [_Part(newest.thresholds, window.buckets)]
    split = window.split([hour.start for hour in schedule])
    return [_Part(hour.thresholds, buckets) for hour, buckets in zip(schedule, split, strict=True)]


def _gate_excess(parts: Sequence[_Part], index: int, traces: int) -> int:
    """Return by how many buckets a quantile of the window exceeds its gate."""
    rank = rank_of(QUANTILES[index], traces)
    if len(parts) == 1:
        thresholds, buckets = parts[0]
        return buckets[rank - 1] - thresholds.quantiles[index].gate
    relative = [bucket - part.thresholds.quantiles[index].gate for part in parts for bucket in part.buckets]
    return sorted(relative)[rank - 1]


def _evidence(window: EvaluationWindow, parts: Sequence[_Part], index: int, schedule: Schedule) -> Evidence:
    traces = window.traces
    slow = 0
    beyond_swing = 0
    for thresholds, buckets in parts:
        threshold = thresholds.quantiles[index]
        slow += len(buckets) - bisect_right(buckets, threshold.gate)
        beyond_swing += len(buckets) - bisect_right(buckets, threshold.stat)
    newest = schedule[0].thresholds
    q = QUANTILES[index]
    chance = tail_probability(beyond_swing, traces, 1 - q, newest.correlation)
    return Evidence(newest.quantiles[index], traces, slow, window.quantile_bucket(q), chance)


def _persists(fresh: EvaluationWindow, schedule: Schedule) -> bool:
    """Whether some quantile of the newest traces lies above its clear threshold, with probability below FRESH_ALPHA."""
    fresh = fresh.after(schedule[-1].start)
    traces = fresh.traces
    if not traces:
        return False
    parts = _parts(fresh, schedule)
    for index, q in enumerate(QUANTILES):
        slow = 0
        for thresholds, buckets in parts:
            slow += len(buckets) - bisect_right(buckets, thresholds.quantiles[index].clear)
        if exceeds(slow, traces, q):
            chance = tail_probability(slow, traces, 1 - q, schedule[0].thresholds.correlation)
            if chance < FRESH_ALPHA:
                return True
    return False
