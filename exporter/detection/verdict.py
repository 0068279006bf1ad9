"""The verdict on a window: has it shifted, by how much, and is it still going on?"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from exporter.detection.parameters import FRESH_ALPHA, MIN_EXCEEDANCES, MIN_JUDGED, Parameters
from exporter.detection.tail import tail_probability
from exporter.detection.thresholds import Floors, QuantileThreshold, Thresholds
from exporter.detection.window import RecentTraces, View, gated_positions, rank_of
from exporter.model.histogram import BUCKETS_PER_OCTAVE
from exporter.model.hours import QUANTILES


class HourThresholds(NamedTuple):
    """The thresholds for what ended in one hour, which began at ``start`` (unix seconds)."""

    start: int
    thresholds: Thresholds


Schedule = Sequence[HourThresholds]
"""The thresholds of the current hour and of those before it, newest first, as far back as there are any without a gap
and a window can reach. Empty while the series has no mature baseline for the current hour."""


class Evidence(NamedTuple):
    """What speaks for a shift, for the quantile that shows it best.

    Attributes:
        threshold: that quantile and its thresholds in the newest hour.
        traces: traces in the window.
        slow: how many of them lie above the gate.
        bucket: the quantile of the window.
        chance: how likely chance and the usual swing make so many slow.
    """

    threshold: QuantileThreshold
    traces: int
    slow: int
    bucket: int
    chance: float


class Verdict(NamedTuple):
    """The verdict on one window.

    Attributes:
        traces: how many traces were judged.
        score: the largest quotient of a quantile of the window and its gate; None with too few traces.
        shifted: too many traces are too slow for chance and for the usual swing.
        still: whether the newest of them are slow, too; found out only where it decides something.
        evidence: what speaks for a shift; None where nothing lies above its gate.
    """

    traces: int
    score: float | None
    shifted: bool
    still: bool
    evidence: Evidence | None


def can_be_shifted(buckets: Sequence[int], floors: Floors, parameters: Parameters) -> bool:
    """Whether a window can be a shift, whatever its thresholds are above their floors.

    Args:
        buckets: the buckets of its traces, from fast to slow.
        floors: those of the hours in which its traces ended.
        parameters: the detector's settings.
    """
    traces, gates = len(buckets), floors.gates
    for index, position in enumerate(gated_positions(traces)):
        if buckets[position] > gates[index]:
            beyond_swing = traces - bisect_right(buckets, floors.stats[index])
            if tail_probability(beyond_swing, traces, 1 - QUANTILES[index], floors.correlation) < parameters.alpha:
                return True
    return False


def judge(
    recent: RecentTraces,
    now: float,
    window: View,
    schedule: Schedule,
    parameters: Parameters,
    *,
    firing: bool = False,
    thorough: bool = False,
) -> Verdict:
    """The verdict on a window, as far back as there are thresholds for it.

    Args:
        recent: the recent traces of the series.
        now: the time of the tick, unix seconds.
        window: its current window.
        schedule: thresholds by hour, not empty: each trace is held against those of the hour in which it ended.
        parameters: the detector's settings.
        firing: whether the flag is firing.
        thorough: give evidence for the most unusual quantile even if nothing lies above its gate.
    """
    window = window.after(schedule[-1].start)
    traces = window.traces
    if traces < MIN_JUDGED:
        return Verdict(traces, None, shifted=False, still=False, evidence=None)
    parts = _parts(window, schedule)
    excesses = [_gate_excess(parts, index, traces) for index in range(len(QUANTILES))]
    highest = max(excesses)
    shifted = False
    best: Evidence | None = None
    if highest > 0 or thorough:
        for index, excess in enumerate(excesses):
            if excess <= 0 and not thorough:
                continue
            evidence = _evidence(window, parts, index, schedule)
            gated = excess > 0 and evidence.slow >= MIN_EXCEEDANCES
            shifted |= gated and evidence.chance < parameters.alpha
            if (gated or thorough) and (best is None or evidence.chance < best.chance):
                best = evidence
    still = (firing or shifted) and _is_still(recent.fresh(now, parameters), schedule)
    return Verdict(traces, 2.0 ** (highest / BUCKETS_PER_OCTAVE), shifted, still, best)


class _Part(NamedTuple):
    """The buckets of a window's traces that ended in one hour, from fast to slow."""

    thresholds: Thresholds
    buckets: list[int]


def _parts(window: View, schedule: Schedule) -> list[_Part]:
    newest = schedule[0]
    if window.first_second > newest.start:
        return [_Part(newest.thresholds, window.buckets)]
    split = window.split([hour.start for hour in schedule])
    return [_Part(hour.thresholds, buckets) for hour, buckets in zip(schedule, split, strict=True)]


def _gate_excess(parts: Sequence[_Part], index: int, traces: int) -> int:
    """How many buckets a quantile of the window lies above its gate."""
    rank = rank_of(QUANTILES[index], traces)
    if len(parts) == 1:
        thresholds, buckets = parts[0]
        return buckets[rank - 1] - thresholds.quantiles[index].gate
    relative = [bucket - part.thresholds.quantiles[index].gate for part in parts for bucket in part.buckets]
    return sorted(relative)[rank - 1]


def _evidence(window: View, parts: Sequence[_Part], index: int, schedule: Schedule) -> Evidence:
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


def _is_still(newest: View, schedule: Schedule) -> bool:
    fresh = newest.after(schedule[-1].start)
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


def exceeds(slow: int, traces: int, q: float) -> bool:
    """Whether more than the share 1 - q of the traces is slow: whether their quantile q is."""
    return traces - slow < rank_of(q, traces)
