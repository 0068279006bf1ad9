"""The shift test on one evaluation window.

For each quantile q of a window of n traces, with k the exceedances of the gate and k' those of the statistical
threshold, the window has shifted if

- ``k > (1 - q) n``: the window's quantile lies above the gate (practical significance),
- ``k >= 3``, and
- ``P(K >= k') < alpha``, with K beta-binomial with mean 1 - q (statistical significance).

Where the first two hold, the window has also shifted if for the gate, twice the gate or four times the gate, with k_e
the exceedances of it and p_e the share of traces that is expected above it, ``k_e >= 3`` and ``P(K >= k_e) < alpha``
with K of mean p_e. This finds a few traces that are very slow, such as time-outs. If neither holds, two further tests
look for small shifts; see :mod:`exporter.detection.small_shift`. One more counts the slowest traces of longer windows;
see :mod:`exporter.detection.tail_shift`.

A shift persists if the newest traces show it as well. They are few, and of a shift of some requests they often happen
to contain none, so a flag that fires also continues while the whole window is slow, unless the share of slow traces is
clearly lower among the newest ones than among the rest.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from exporter.detection.parameters import (
    CORRELATION,
    FRESH_ALPHA,
    LADDER_MIN_TRACES,
    MIN_EVALUATED_TRACES,
    MIN_EXCEEDANCES,
    SINGLE_HOLD_ALPHA_SHARE,
    SMALL_SHIFT_HOLDS,
    Parameters,
)
from exporter.detection.profile import minutes_of, raised_at
from exporter.detection.schedule import Schedule, small_schedule
from exporter.detection.significance import exceeds, tail_probability
from exporter.detection.small_shift import ShiftTest, SmallShift, exceeds_small_gate, find_small_shift
from exporter.detection.tail_shift import TailShift, find_tail_shift
from exporter.detection.thresholds import Floors, QuantileThreshold, Thresholds
from exporter.detection.window import EvaluationWindow, RecentTraces, gated_positions, rank_of
from exporter.model.histogram import BUCKETS_PER_OCTAVE
from exporter.model.hour_evaluation import QUANTILES


class Evidence(NamedTuple):
    """Test statistics of the quantile with the lowest tail probability.

    Attributes:
        threshold: the quantile and its thresholds in the current hour.
        traces: number of traces in the tested window.
        slow: number of them above the gate.
        bucket: the window's quantile.
        chance: tail probability.
        test: the test that these are statistics of.
        gate: what was exceeded, as bucket, raised by the pattern within the hour.
        expected: share of the traces that may exceed it.
        swing_factor: factor by which the quantile may exceed its baseline, or its level, within its normal variation.
        raised: by how many buckets the pattern within the hour raises the thresholds.
        minutes: stretches of the hour in which it does, as minutes ``[from, to)``; empty where it does not.
        level: level of now in buckets, if the test compares with that.
        learned_correlation: learned correlation of exceedances.
    """

    threshold: QuantileThreshold
    traces: int
    slow: int
    bucket: int
    chance: float
    test: ShiftTest
    gate: int
    expected: float
    swing_factor: float
    raised: int = 0
    minutes: tuple[tuple[int, int], ...] = ()
    level: int = 0
    learned_correlation: float = CORRELATION


class Verdict(NamedTuple):
    """Result of the shift test on one window.

    Attributes:
        traces: number of evaluated traces.
        score: maximum over the quantiles of the window's quantile divided by its gate; None with too few traces.
        shifted: whether the test is positive for some quantile.
        persists: whether the newest traces are slow, too, or not clearly faster while the flag fires; only computed if
            the window has shifted or the flag fires.
        evidence: test statistics; None where no quantile with enough exceedances lies above its gate.
        hold_seconds: time for which the test must stay positive before the flag fires.
    """

    traces: int
    score: float | None
    shifted: bool
    persists: bool
    evidence: Evidence | None
    hold_seconds: float = 0.0


def can_be_shifted(buckets: Sequence[int], floors: Floors, parameters: Parameters) -> bool:
    """Whether the shift test can be positive, given only lower bounds of the thresholds.

    Args:
        buckets: buckets of the window's traces in ascending order.
        floors: lower bounds over all hours in which the traces ended.
        parameters: settings of the detector.
    """
    traces = len(buckets)
    for index, (position, gate) in enumerate(zip(gated_positions(traces), floors.gates, strict=False)):
        if buckets[position] > gate:
            if floors.has_ladder and traces >= LADDER_MIN_TRACES:
                return True
            beyond_swing = traces - bisect_right(buckets, floors.stats[index])
            if tail_probability(beyond_swing, traces, 1 - QUANTILES[index], floors.correlation) < parameters.alpha:
                return True
    return False


def exceeds_some(buckets: Sequence[int], gates: Sequence[int]) -> bool:
    """Whether some quantile of a window, and its :data:`MIN_EXCEEDANCES` slowest traces, lie above a gate.

    Args:
        buckets: buckets of the window's traces in ascending order.
        gates: a gate for each quantile, as buckets.
    """
    for position, gate in zip(gated_positions(len(buckets)), gates, strict=False):  # noqa: SIM110 - twice as fast
        if buckets[position] > gate:
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
    pending: bool = False,
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
        pending: whether the flag fires soon if the window has shifted for some time.
        always_evidence: also return evidence if no quantile lies above its gate.
    """
    window = window.after(schedule[-1].start)
    traces = window.traces
    if traces < MIN_EVALUATED_TRACES:
        return Verdict(traces, None, shifted=False, persists=False, evidence=None)
    newest = schedule[0]
    raised = raised_at(newest.thresholds.profile, newest.start, window.first_second, now)
    parts = _parts(window, schedule)
    excesses = [_gate_excess(parts, index, traces) - raised[index] for index in range(len(QUANTILES))]
    highest = max(excesses)
    shifted = False
    holds = 1
    best: Evidence | None = None
    if highest > 0 or always_evidence:
        for index, excess in enumerate(excesses):
            if excess <= 0 and not always_evidence:
                continue
            evidence = _evidence(window, parts, index, schedule, raised[index])
            gated = excess > 0 and evidence.slow >= MIN_EXCEEDANCES
            if gated and evidence.chance >= parameters.alpha:
                evidence = _ladder_evidence(evidence, parts, index, schedule, parameters) or evidence
            shifted |= gated and evidence.chance < parameters.alpha
            if (gated or always_evidence) and (best is None or evidence.chance < best.chance):
                best = evidence
    if (
        not shifted
        and (small := small_schedule(schedule))
        and (
            len(small) < len(schedule)
            or recent.has_counted_after(window.first_second - 1)
            or exceeds_small_gate(window.buckets, small)
        )
    ):
        # Otherwise the tests look at these same traces, and no quantile lies above a gate.
        found = find_small_shift(recent, now, window.first_second - 1, small, parameters)
        if found is not None:
            shifted, holds, highest = True, _holds_of(found, parameters), max(highest, found.excess)
            best = _small_evidence(found, newest.thresholds, raised)
    persists = False
    if firing or shifted:
        fresh = recent.fresh_window(now, parameters)
        persists = _slow_quantile(fresh, now, schedule) is not None
        if firing and not persists and parameters.parts.continuation:
            slow = _slow_quantile(window, now, schedule)
            persists = slow is not None and not _is_faster(fresh, window, slow, raised[slow], schedule)
    if not persists and (firing or pending or _has_tail(parts)):
        # A flag that fires continues by this only where the evaluation window has too few traces to tell.
        small, firing_with = small_schedule(schedule), traces if firing else None
        tail = find_tail_shift(recent, now, small, parameters, firing_with=firing_with)
        if tail is not None:
            if not shifted or best is None:
                holds, best = SMALL_SHIFT_HOLDS, _tail_evidence(tail, newest.thresholds)
                highest = max(highest, 1, tail.bucket - tail.gate)
            shifted = persists = True
    hold_seconds = holds * parameters.hold_seconds
    if shifted and best is not None and best.chance >= parameters.alpha * newest.thresholds.certainty_of(best.traces):
        # By then none of the traces is left that the window had when the condition began.
        hold_seconds = max(hold_seconds, now - window.first_second)
    return Verdict(traces, 2.0 ** (highest / BUCKETS_PER_OCTAVE), shifted, persists, best, hold_seconds)


def _holds_of(found: SmallShift, parameters: Parameters) -> int:
    """Return for how many hold times a small shift must last."""
    # What makes a long window significant may be over.
    is_now = parameters.parts.single_hold and found.test is ShiftTest.LEVEL
    return 1 if is_now and found.chance < SINGLE_HOLD_ALPHA_SHARE * parameters.alpha else SMALL_SHIFT_HOLDS


def _ladder_evidence(
    evidence: Evidence, parts: Sequence["_Part"], index: int, schedule: Schedule, parameters: Parameters
) -> Evidence | None:
    """Test the traces above the gate, twice the gate and so on; None if no step is significant."""
    newest = schedule[0].thresholds
    if evidence.traces < LADDER_MIN_TRACES:
        return None
    for step, expected in enumerate(newest.quantiles[index].ladder):
        above = step * BUCKETS_PER_OCTAVE + evidence.raised
        slow = sum(
            len(buckets) - bisect_right(buckets, thresholds.quantiles[index].gate + above)
            for thresholds, buckets in parts
        )
        if slow < MIN_EXCEEDANCES:
            break
        # Of a share as small as alpha, a high correlation alone would make any number of requests significant.
        chance = max(tail_probability(slow, evidence.traces, expected, rho) for rho in newest.correlations)
        if chance < parameters.alpha:
            gate = newest.quantiles[index].gate + above
            return evidence._replace(slow=slow, chance=chance, test=ShiftTest.LADDER, gate=gate, expected=expected)
    return None


def _has_tail(parts: Sequence["_Part"]) -> bool:
    """Whether some trace is one of those that are counted in longer windows."""
    for thresholds, buckets in parts:
        small = thresholds.small
        if small is not None and small.tail and buckets and buckets[-1] > small.tail[0].bucket:
            return True
    return False


def _tail_evidence(found: TailShift, thresholds: Thresholds) -> Evidence:
    return Evidence(
        thresholds.quantiles[-1],
        found.traces,
        found.slow,
        found.bucket,
        found.chance,
        ShiftTest.TAIL,
        found.gate,
        found.expected,
        2.0 ** (found.swing / BUCKETS_PER_OCTAVE),
    )


def _small_evidence(found: SmallShift, thresholds: Thresholds, raised: Sequence[int]) -> Evidence:
    index = found.position
    threshold = thresholds.quantiles[index]
    # The evaluation window is raised by the pattern, the long one is not: its swing contains the pattern.
    raised_buckets = raised[index] if found.test is ShiftTest.LEVEL else 0
    return Evidence(
        threshold,
        found.traces,
        found.slow,
        found.bucket,
        found.chance,
        found.test,
        found.gate,
        1 - threshold.q,
        2.0 ** (found.swing / BUCKETS_PER_OCTAVE),
        raised_buckets,
        minutes_of(thresholds.profile, index) if raised_buckets else (),
        found.level,
        thresholds.learned_correlation,
    )


def _is_faster(fresh: EvaluationWindow, window: EvaluationWindow, index: int, raised: int, schedule: Schedule) -> bool:
    """Whether fewer of the newest traces are slow than of the rest of the window, with probability below FRESH_ALPHA.

    Args:
        fresh: the newest traces.
        window: the evaluation window.
        index: the quantile by whose clear threshold traces are slow.
        raised: by how many buckets the pattern within the hour raises it.
        schedule: thresholds by hour.
    """

    def count(part: EvaluationWindow) -> int:
        return sum(
            len(buckets) - bisect_right(buckets, thresholds.quantiles[index].clear + raised)
            for thresholds, buckets in _parts(part, schedule)
        )

    newest = fresh.after(schedule[-1].start)
    older_traces, older_slow = window.traces - newest.traces, count(window) - count(newest)
    if older_traces <= 0:
        return False
    # One more trace of either kind: a share of 0 or 1 would be certain.
    share = (older_traces - older_slow + 1) / (older_traces + 2)
    fast = newest.traces - count(newest)
    return tail_probability(fast, newest.traces, share, schedule[0].thresholds.correlation) < FRESH_ALPHA


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


def _evidence(
    window: EvaluationWindow,
    parts: Sequence[_Part],
    index: int,
    schedule: Schedule,
    raised: int,
) -> Evidence:
    traces = window.traces
    slow = 0
    beyond_swing = 0
    for thresholds, buckets in parts:
        threshold = thresholds.quantiles[index]
        slow += len(buckets) - bisect_right(buckets, threshold.gate + raised)
        beyond_swing += len(buckets) - bisect_right(buckets, threshold.stat + raised)
    newest = schedule[0].thresholds
    q = QUANTILES[index]
    chance = tail_probability(beyond_swing, traces, 1 - q, newest.correlation)
    threshold = newest.quantiles[index]
    return Evidence(
        threshold,
        traces,
        slow,
        window.quantile_bucket(q),
        chance,
        ShiftTest.WINDOW,
        threshold.gate + raised,
        1 - q,
        threshold.swing_factor,
        raised,
        minutes_of(newest.profile, index) if raised else (),
        learned_correlation=newest.learned_correlation,
    )


def _slow_quantile(window: EvaluationWindow, now: float, schedule: Schedule) -> int | None:
    """Return the quantile that lies above its clear threshold, with the lowest probability, which is below FRESH_ALPHA.

    None if no quantile does.
    """
    window = window.after(schedule[-1].start)
    traces = window.traces
    if not traces:
        return None
    parts = _parts(window, schedule)
    # Of the newest traces not by the pattern of the whole evaluation window: an incident continues after a batch.
    raised = raised_at(schedule[0].thresholds.profile, schedule[0].start, window.first_second, now)
    lowest, found = FRESH_ALPHA, None
    for index, q in enumerate(QUANTILES):
        slow = 0
        for thresholds, buckets in parts:
            slow += len(buckets) - bisect_right(buckets, thresholds.quantiles[index].clear + raised[index])
        if exceeds(slow, traces, q):
            chance = tail_probability(slow, traces, 1 - q, schedule[0].thresholds.correlation)
            if chance < lowest:
                lowest, found = chance, index
    return found
