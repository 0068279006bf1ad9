"""The slowest traces of longer windows: a shift of so few of them that an evaluation window hardly contains one.

Where two in a hundred requests take five times as long, five minutes of ten requests a minute contain one of them, and
an hour twelve. So the last half hour and the last hour count the traces above three thresholds: the p99 of the baseline
times `detection.ratio`, and two and four times that. A window has shifted if, for one of the thresholds, with

- ``K`` the number of its traces above it,
- ``k``, the larger of the number of marks with such traces, and of K without those of the mark with the most: slow
  traces of one moment, as of a pause or a connection that is lost, are one observation,
- ``λ`` the number that is expected, and ``m`` that within the normal variation of the series, see
  :mod:`exporter.detection.prediction`,

K is more than m, k is at least 3, and the probability ``P(X >= k)`` of a Poisson variable X with mean λ is below a
tenth of alpha. There is no correlation in this: a swing that all traces share is part of λ, and series whose traces
are alike are left out.

The shift must last. The newest marks, as many as contain enough traces for three slow ones at the ratio (K - λ) / N of
the rest of the window, must have at least a third of that ratio beyond what is expected there, above this threshold and
the lower ones. A flag that fires continues by this where the evaluation window contains too few traces to tell, with a
tail probability of up to 0.2; see :mod:`exporter.detection.verdict`.

Traces are counted by mark, and compared with the thresholds of the hour in which they ended, raised by the pattern
within that hour.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import chain
from typing import Final, NamedTuple, Protocol

from exporter.detection.parameters import (
    FRESH_ALPHA,
    MIN_EXCEEDANCES,
    TAIL_ALPHA_SHARE,
    TAIL_MIN_HOURLY_TRACES,
    TAIL_NEWEST_SLOW,
    TAIL_STEPS,
    TAIL_WINDOWS_MARKS,
    Parameters,
)
from exporter.detection.schedule import SmallSchedule
from exporter.detection.significance import poisson_tail
from exporter.detection.thresholds import SmallShiftThresholds
from exporter.detection.window import MarkedBuckets, MarkedTail, next_mark, past_mark, rank_of
from exporter.model.deviations import MARKS
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hour_evaluation import QUANTILES

_Q: Final = QUANTILES[-1]


class TailShift(NamedTuple):
    """Test statistics of a shift of the slowest traces.

    Attributes:
        traces: number of traces in the tested window.
        slow: number of them above the threshold.
        bucket: the p99 of the window.
        gate: the threshold in the current hour, raised by the pattern within it, as bucket.
        expected: share of the traces above it that would be normal.
        chance: tail probability.
        swing: by how many buckets the traces may be slower than the baseline within its normal variation.
    """

    traces: int
    slow: int
    bucket: int
    gate: int
    expected: float
    chance: float
    swing: int


class Traces(Protocol):
    """Recent traces that can be read by mark."""

    def by_mark(self, since: int, until: float) -> list[MarkedBuckets]:
        """Return the traces that ended in ``(since, until]`` by mark."""

    def tails(self, since: int, until: float, limit: int) -> list[MarkedTail]:
        """Return the slowest traces that ended in ``(since, until]`` by mark."""


class _Mark(NamedTuple):
    """Traces that ended up to a mark, with the thresholds of their hour, and how much the pattern raises these."""

    tail: MarkedTail
    thresholds: SmallShiftThresholds
    raised: int

    def slow(self, step: int) -> int:
        """Return the number of traces above a threshold."""
        slowest = self.tail.slowest
        return len(slowest) - bisect_right(slowest, self.thresholds.tail[step].bucket + self.raised)

    def expected(self, step: int) -> float:
        """Return the number of traces above it that is expected."""
        return self.tail.traces * self.thresholds.tail[step].expected


class _Candidate(NamedTuple):
    """A window and a threshold that show a shift: the number of marks that have traces, and the test statistics."""

    chance: float
    step: int
    marks: int
    traces: int
    slow: int
    most: float


def find_tail_shift(
    traces: Traces, now: float, schedule: SmallSchedule, parameters: Parameters, *, firing_with: int | None = None
) -> TailShift | None:
    """Return the result with the lowest tail probability, if one is positive.

    Args:
        traces: recent traces of the series.
        now: time of the tick, Unix seconds.
        schedule: thresholds by hour, newest first; the test is negative where it is empty.
        parameters: settings of the detector.
        firing_with: number of traces of the evaluation window if the flag fires; None if it does not. The flag then
            continues with weaker evidence, but only where so many traces are not enough for three slow ones.
    """
    if not schedule or not schedule[0].thresholds.tail:
        return None
    marks = _marks(traces, now, schedule)
    if not marks:
        return None
    newest = next_mark(now)
    numbers = [
        sum([mark.tail.mark > newest - length * MARK_SECONDS for mark in marks]) for length in TAIL_WINDOWS_MARKS
    ]
    most_chance = TAIL_ALPHA_SHARE * parameters.alpha if firing_with is None else FRESH_ALPHA
    found: list[_Candidate] = []
    for step in range(TAIL_STEPS):
        slow = [mark.slow(step) for mark in marks]
        if _independent(slow) < MIN_EXCEEDANCES:
            # Above higher thresholds there are no more.
            break
        # After a shift of most traces there are few above the highest threshold. It is over where it is at the lowest.
        numbers = [number for number in numbers if _lasts(marks[:number], slow, step, firing_with or 0)]
        for number in numbers:
            candidate = _candidate(marks[:number], slow[:number], step)
            if candidate is not None and candidate.chance < most_chance:
                found.append(candidate)
    return _shift(min(found), marks, traces, now) if found else None


def _marks(traces: Traces, now: float, schedule: SmallSchedule) -> list[_Mark]:
    """Return the marks of the longest window that have traces and thresholds, newest first; none with too few slow."""
    since, past = next_mark(now) - TAIL_WINDOWS_MARKS[-1] * MARK_SECONDS, past_mark(now)
    limit = min([thresholds.tail[0].bucket for _, thresholds in schedule if thresholds.tail])
    # What ended up to the last mark is the same for all ticks up to the next.
    tails = traces.tails(since, past, limit)
    if past < now:
        tails = [*tails, *traces.tails(past, now, limit)]
    found: list[_Mark] = []
    if _independent([len(tail.slowest) for tail in tails]) < MIN_EXCEEDANCES:
        # Nearly always.
        return found
    for tail in reversed(tails):
        for start, thresholds in schedule:
            if start < tail.mark:
                if thresholds.tail:
                    profile = thresholds.profile
                    raised = profile[-1][((tail.mark - start) // MARK_SECONDS - 1) % MARKS] if profile else 0
                    found.append(_Mark(tail, thresholds, raised))
                break
    return found


def _independent(slow: Sequence[int]) -> int:
    """Return how many slow traces count as independent, from their numbers by mark."""
    return max(sum(slow) - max(slow), sum(map(bool, slow))) if slow else 0


def _candidate(marks: Sequence[_Mark], slow: Sequence[int], step: int) -> _Candidate | None:
    traces, above, independent = sum([mark.tail.traces for mark in marks]), sum(slow), _independent(slow)
    if independent < MIN_EXCEEDANCES or traces < TAIL_MIN_HOURLY_TRACES:
        return None
    mean = sum([mark.expected(step) for mark in marks])
    most = sum([mark.tail.traces * mark.thresholds.tail[step].most for mark in marks])
    if independent <= mean or above <= most:
        return None
    return _Candidate(poisson_tail(independent, mean), step, len(marks), traces, above, most)


def _lasts(marks: Sequence[_Mark], slow: Sequence[int], step: int, more_than: int) -> bool:
    """Whether the newest traces contain slow ones beyond those that are expected, and not far fewer than the rest.

    Also true where the window has none beyond those that are expected.

    Args:
        marks: the marks of a window, newest first.
        slow: traces above the threshold by mark, maybe of older ones as well.
        step: the threshold.
        more_than: the result is False where so many traces are enough to contain three slow ones.
    """
    sizes = [mark.tail.traces for mark in marks]
    excesses = [of_mark - mark.expected(step) for mark, of_mark in zip(marks, slow, strict=False)]
    traces, excess = sum(sizes), sum(excesses)
    if excess <= 0:
        return True
    if TAIL_NEWEST_SLOW * traces <= more_than * excess:
        return False
    newest = 0
    newest_excess = 0.0
    for size, of_mark in zip(sizes, excesses, strict=True):
        newest += size
        newest_excess += of_mark
        rest, rest_excess = traces - newest, excess - newest_excess
        if rest and newest * rest_excess >= TAIL_NEWEST_SLOW * rest:
            return TAIL_NEWEST_SLOW * newest_excess * rest >= newest * rest_excess
    return True


def _shift(best: _Candidate, marks: Sequence[_Mark], traces: Traces, now: float) -> TailShift:
    tested = {mark.tail.mark for mark in marks[: best.marks]}
    ended = traces.by_mark(min(tested) - MARK_SECONDS, now)
    ordered = sorted(chain.from_iterable([buckets for mark, buckets in ended if mark in tested]))
    threshold = marks[0].thresholds.tail[best.step]
    return TailShift(
        best.traces,
        best.slow,
        ordered[rank_of(_Q, len(ordered)) - 1],
        threshold.bucket + marks[0].raised,
        best.most / best.traces,
        best.chance,
        threshold.swing,
    )
