"""Error shifts: too many requests of an endpoint fail, compared with the usual ratio of the hour.

The test asks of windows of two minutes to an hour: even if the usual odds of a failure were half as high again, and as
many requests failed as in the bursts that this endpoint has on several days, would there still be too many failures,
and not only within one minute? Those bursts are the swing of errors: a distribution with one mean describes failures
badly, and without the swing every burst would be an anomaly.
An endpoint with bursts also has a shift if too many requests fail in an hour without its worst twenty minutes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, NamedTuple

from exporter.baseline.levels import FallbackLevel
from exporter.detection.explanation import compared_with
from exporter.detection.flag import Flag, FlagEvent, advance_flag
from exporter.detection.parameters import MIN_EVALUATED_TRACES, MIN_EXCEEDANCES, Parameters
from exporter.detection.significance import tail_probability
from exporter.model.calendar import HOUR_SECONDS, Slot
from exporter.model.histogram_codec import MARK_SECONDS

# The constants below are part of the method and not meant to be tuned.

ERROR_ALPHA_SHARE: Final = 0.1
"""The tail probability is this share of ``alpha``: there is no second test that a chance failure would have to pass."""
ERROR_CORRELATION: Final = 0.0005
"""Intra-window correlation of failures, besides the swing."""
PRIOR_FAILURES: Final = 0.5
"""Failures that are added to those of the baseline: that an endpoint never failed does not mean that it never will."""
MAX_RATIO: Final = 0.999
"""Of a ratio of 1, no number of failures would be too many."""
CLEAR_SHARE: Final = 0.5
"""A flag begins if the newest requests and the evaluation window are at least so far on the way from the usual ratio to
that of the shift, and fires while the newest requests are so far on the way to the limit."""
NEWEST_FAILURES: Final = 4
"""The newest requests are as many as contain so many failures at the ratio of the shift."""
NEWEST_SECONDS: Final = 30
"""They are at least those of so many seconds, or of the evaluation window if that is shorter."""

SHORT_SECONDS: Final = 120
LONG_SECONDS: Final = (900, HOUR_SECONDS)
"""Lengths of the windows that are tested besides the evaluation window."""
WORST_SECONDS: Final = 60
MIN_OUTSIDE: Final = 2
"""At least so many failures lie outside of the worst minute of a window (of its worst half if it is shorter than two
minutes), or of its worst mark."""

USUAL_FACTOR: Final = 1.5
"""Chance is measured from at least this multiple of the usual odds, which drift in minutes and hours. A sparse endpoint
cannot tell by how much: an hour of 100 requests with 1 % of failures has one."""
MAX_BURST_RATIO: Final = 0.85
"""Bursts never explain a larger ratio than this, or than half of the usual successes."""

_CHANCE_ROUNDING: Final = 1 + 1e-6
"""More than the rounding error of a tail probability."""


class Counts(NamedTuple):
    """Requests of a window, and how many of them failed."""

    requests: int
    failures: int

    @property
    def ratio(self) -> float:
        """The error ratio; 0 without requests."""
        return self.failures / self.requests if self.requests else 0.0


class ErrorWindow(NamedTuple):
    """A window that ends now.

    Attributes:
        counts: its requests and failures.
        outside: failures outside of its worst minute, or of its worst mark where only marks are known.
        seconds: its length.
        hours: number of local hours that it touches.
    """

    counts: Counts
    outside: int
    seconds: int = MARK_SECONDS
    hours: int = 1


class ErrorWindows(NamedTuple):
    """What is known of the failures of a series in the last hour.

    Attributes:
        evaluation: the evaluation window.
        newest: returns the newest requests, as many as asked for, if there are.
        others: shorter and longer windows; none if the ratio of the evaluation window is too low to matter and no flag
            fires.
        marks: requests of the longest one by mark.
    """

    evaluation: ErrorWindow
    newest: Callable[[int], Counts]
    others: tuple[ErrorWindow, ...] = ()
    marks: tuple[Counts, ...] = ()


def long_windows(parameters: Parameters) -> tuple[int, ...]:
    """Return the lengths of the windows that are longer than the evaluation window, in seconds."""
    return tuple(
        seconds for seconds in LONG_SECONDS if parameters.window_seconds < seconds <= parameters.max_window_seconds
    )


def long_windows_after(resolved_at: int, now: int, lengths: Sequence[int], parameters: Parameters) -> Sequence[int]:
    """Shorten long windows so that they begin after a flag was resolved: what it was about is over.

    Args:
        resolved_at: when the flag was resolved last, Unix seconds.
        now: the end of the windows, Unix seconds.
        lengths: as :func:`long_windows` returns them.
        parameters: settings of the detector.
    """
    longest = now - resolved_at
    if longest >= LONG_SECONDS[-1]:
        # Nearly always.
        return lengths
    return [min(seconds, longest) for seconds in lengths] if longest > parameters.window_seconds else []


class ErrorBaseline(NamedTuple):
    """The usual failures of a series in one local hour, and the hours that they are from.

    Attributes:
        level: fallback level.
        slot: slot of the local hour.
        windows: number of pooled hours.
        requests: requests in them.
        failures: failed ones.
        swing: the error ratio that a burst may have, measured over five minutes.
        hour_swing: the error ratio that an hour with bursts may have.
        burst_marks: number of marks of an hour that bursts may fill; 0 without bursts.
    """

    level: FallbackLevel
    slot: Slot
    windows: int
    requests: int
    failures: int
    swing: float = 0.0
    hour_swing: float = 0.0
    burst_marks: int = 0

    @property
    def ratio(self) -> float:
        """The usual error ratio."""
        return self.failures / self.requests

    @property
    def recurs(self) -> bool:
        """Whether bursts recur at this hour of the day: these may fill all marks of the hour."""
        return self.burst_marks > HOUR_SECONDS // MARK_SECONDS

    @property
    def prior_ratio(self) -> float:
        """The usual error ratio, above 0 and below 1."""
        return (self.failures + PRIOR_FAILURES) / (self.requests + 2 * PRIOR_FAILURES)

    def expected(self, parameters: Parameters, seconds: int = MARK_SECONDS) -> float:
        """Return the error ratio that chance is measured from, in windows of a length."""
        parts, usual, swing = parameters.parts, self.prior_ratio, 0.0
        if parts.error_swing:
            # A shorter window may contain all failures of a burst.
            swing = self.hour_swing if seconds >= HOUR_SECONDS else self.swing * max(1, MARK_SECONDS / seconds)
            if parts.error_margin and seconds >= HOUR_SECONDS:
                # A longer one contains them, too.
                swing = max(swing, usual + (self.swing - usual) * MARK_SECONDS / seconds)
            swing = min(swing, max(MAX_BURST_RATIO, (1 + usual) / 2))
        return min(MAX_RATIO, max(drifted(usual) if parts.error_margin else usual, swing))

    def limit(self, parameters: Parameters) -> float:
        """Return the error ratio from which a shift is large enough to matter."""
        return error_limit(self.ratio, parameters)


def drifted(usual: float) -> float:
    """Return the error ratio to which a usual one may drift without a shift."""
    return min(MAX_RATIO, USUAL_FACTOR * usual / (1 + (USUAL_FACTOR - 1) * usual))


def error_limit(usual: float, parameters: Parameters) -> float:
    """Return the error ratio from which a shift from a usual one is large enough to matter."""
    factor, delta = parameters.errors_ratio, parameters.errors_min_delta
    # An endpoint that mostly fails cannot fail twice as often: there, what succeeds is compared.
    return min(max(factor * usual, usual + delta), max(1 - (1 - usual) / factor, usual + delta))


class ErrorVerdict(NamedTuple):
    """Verdict on the failures of the last hour.

    Attributes:
        counts: requests and failures of the window that shows a shift best, or of the evaluation window.
        baseline: what they were compared with.
        score: error ratio divided by its limit; None with too few requests.
        shifted: whether there are too many failures.
        persists: whether the newest requests fail as well.
        chance: tail probability; None where it was not needed.
        expected: the error ratio that it was measured from; 0 without any failure.
        outside_bursts: whether the counts are those of an hour without its worst marks.
    """

    counts: Counts
    baseline: ErrorBaseline
    score: float | None
    shifted: bool
    persists: bool
    chance: float | None
    expected: float
    outside_bursts: bool = False


class ErrorTick(NamedTuple):
    """Result of a tick: the verdict (None without a baseline), the flag after it, and its transition, if any."""

    verdict: ErrorVerdict | None
    flag: Flag
    event: FlagEvent | None


def can_be_error_shift(windows: ErrorWindows, parameters: Parameters) -> bool:
    """Whether there can be an error shift with any baseline: nothing else changes an inactive flag."""
    return any(is_large(each.counts, parameters) for each in (windows.evaluation, *windows.others))


def is_large(counts: Counts, parameters: Parameters) -> bool:
    """Whether the failures of a window are enough for a shift with some baseline."""
    requests, failures = counts
    return failures >= MIN_EXCEEDANCES and failures >= parameters.errors_min_delta * requests


def may_be_error_shift(
    windows: ErrorWindows, without_swing: Sequence[ErrorBaseline], left_out: Sequence[int], parameters: Parameters
) -> bool:
    """Whether there may be an error shift with some swing: with none, chance is least likely.

    The tail probability grows with the expected ratio, and the swing only raises that.

    Args:
        windows: what is known of the failures of the last hour.
        without_swing: baselines of the hours that the windows touch, newest first, without their swing.
        left_out: how many marks of an hour bursts may fill.
        parameters: settings of the detector.
    """
    evaluation = windows.evaluation
    if not without_swing or evaluation.counts.requests < MIN_EVALUATED_TRACES:
        return False
    if evaluation.counts.ratio < max(each.limit(parameters) for each in without_swing[: evaluation.hours]):
        return False
    for window in (evaluation, *windows.others):
        if window.outside >= MIN_OUTSIDE and is_large(window.counts, parameters):
            expected = max(each.expected(parameters, window.seconds) for each in without_swing[: window.hours])
            chance = tail_probability(window.counts.failures, window.counts.requests, expected, ERROR_CORRELATION)
            if chance < _alpha(parameters) * _CHANCE_ROUNDING:
                return True
    if not windows.others:
        return False
    touched = without_swing[: windows.others[-1].hours]
    return any(_without_worst(windows, touched, number, parameters).shifted for number in left_out)


def evaluate_errors(
    windows: ErrorWindows, baselines: Sequence[ErrorBaseline], parameters: Parameters, *, firing: bool = False
) -> ErrorVerdict:
    """Compare the failures of the last hour with the usual ones.

    Args:
        windows: what is known of them.
        baselines: those of the hours that the windows touch, newest first, at least one; of those that a window
            touches, the one that allows most applies.
        parameters: settings of the detector.
        firing: whether the flag is firing.
    """
    counts = windows.evaluation.counts
    if not counts.failures and not windows.others and not firing:
        # Nearly always, in each poll cycle of each series.
        score = 0.0 if counts.requests >= MIN_EVALUATED_TRACES else None
        return ErrorVerdict(counts, baselines[0], score, shifted=False, persists=False, chance=None, expected=0.0)
    found = _verdict(windows.evaluation, baselines, parameters)
    if found.score is not None and found.score >= 1:
        for window in windows.others:
            if not is_large(window.counts, parameters):
                continue
            other = _verdict(window, baselines, parameters)
            usual = other.baseline.ratio
            # Long windows still contain the failures of what is over.
            is_long = window.seconds > windows.evaluation.seconds
            if is_long and windows.evaluation.counts.ratio < usual + CLEAR_SHARE * (other.counts.ratio - usual):
                continue
            if other.shifted and (not found.shifted or other.counts.ratio > found.counts.ratio):
                found = other
        if not found.shifted and windows.others:
            outside = _outside_bursts(windows, baselines, parameters)
            found = found if outside is None else outside
    persists = False
    if firing or found.shifted:
        usual, limit = found.baseline.ratio, found.baseline.limit(parameters)
        ratio = share = max(limit, found.counts.ratio)
        if firing:
            # That of the shift, as far as windows still contain it.
            known = (each.counts for each in (windows.evaluation, *windows.others))
            ratio = max([ratio, *(counts.ratio for counts in known if counts.failures >= MIN_EXCEEDANCES)])
            share = limit
        least = ceil(NEWEST_FAILURES / ratio)
        if firing:
            # The flag does not outlast the last failure in the evaluation window.
            least = min(least, max(1, windows.evaluation.counts.requests))
        newest = windows.newest(least)
        persists = newest.failures > 0 and newest.ratio >= usual + CLEAR_SHARE * (share - usual)
    return found._replace(persists=persists)


def _verdict(window: ErrorWindow, baselines: Sequence[ErrorBaseline], parameters: Parameters) -> ErrorVerdict:
    touched = baselines[: window.hours]
    expected, baseline = _most_tolerant(touched, parameters, window.seconds)
    return _compared(window.counts, baseline, expected, parameters, lasts=window.outside >= MIN_OUTSIDE)


def _most_tolerant(
    baselines: Sequence[ErrorBaseline], parameters: Parameters, seconds: int
) -> tuple[float, ErrorBaseline]:
    baseline = max(baselines, key=lambda each: (each.limit(parameters), each.expected(parameters, seconds)))
    return max(each.expected(parameters, seconds) for each in baselines), baseline


def _compared(
    counts: Counts,
    baseline: ErrorBaseline,
    expected: float,
    parameters: Parameters,
    *,
    lasts: bool,
    outside_bursts: bool = False,
) -> ErrorVerdict:
    requests, failures = counts
    score = chance = None
    shifted = False
    if requests >= MIN_EVALUATED_TRACES:
        score = counts.ratio / baseline.limit(parameters)
        if failures >= MIN_EXCEEDANCES and score >= 1:
            chance = tail_probability(failures, requests, expected, ERROR_CORRELATION)
            shifted = lasts and chance < _alpha(parameters)
    return ErrorVerdict(
        counts,
        baseline,
        score,
        shifted,
        persists=False,
        chance=chance,
        expected=expected,
        outside_bursts=outside_bursts,
    )


def _outside_bursts(
    windows: ErrorWindows, baselines: Sequence[ErrorBaseline], parameters: Parameters
) -> ErrorVerdict | None:
    """Return the verdict on an hour without what may be bursts; None unless it is a shift."""
    touched = baselines[: windows.others[-1].hours]
    left_out = max(each.burst_marks for each in touched)
    if not left_out or not parameters.parts.error_swing:
        return None
    verdict = _without_worst(windows, touched, left_out, parameters)
    return verdict if verdict.shifted else None


def _without_worst(
    windows: ErrorWindows, touched: Sequence[ErrorBaseline], left_out: int, parameters: Parameters
) -> ErrorVerdict:
    """Return the verdict on an hour without so many of its marks, those with the most failures."""
    baseline = max(touched, key=lambda each: each.ratio)
    by_excess = sorted(windows.marks, key=lambda each: (each.failures - baseline.ratio * each.requests, each))
    kept = by_excess[: max(0, len(by_excess) - left_out)]
    counts = Counts(sum(each.requests for each in kept), sum(each.failures for each in kept))
    expected = drifted(baseline.prior_ratio)
    return _compared(counts, baseline, expected, parameters, lasts=True, outside_bursts=True)


def tick_errors(
    windows: ErrorWindows,
    now: float,
    baselines: Sequence[ErrorBaseline],
    flag: Flag,
    parameters: Parameters,
) -> ErrorTick:
    """Evaluate the windows that end at ``now``, and advance the flag; without a baseline the flag resolves.

    Args:
        windows: what is known of the failures of the last hour.
        now: time of the tick, Unix seconds.
        baselines: those of the hours that the windows touch, newest first; empty without a mature one.
        flag: the flag after the previous tick.
        parameters: settings of the detector.
    """
    if not baselines:
        flag, event = advance_flag(flag, now, shifted=False, persists=False, parameters=parameters)
        return ErrorTick(None, flag, event)
    verdict = evaluate_errors(windows, baselines, parameters, firing=flag.firing)
    shifted = verdict.shifted and verdict.persists
    flag, event = advance_flag(flag, now, shifted=shifted, persists=verdict.persists, parameters=parameters)
    return ErrorTick(verdict, flag, event)


def _alpha(parameters: Parameters) -> float:
    return parameters.alpha * ERROR_ALPHA_SHARE


@dataclass(frozen=True, slots=True)
class ErrorExplanation:
    """Figures of an error verdict; ``str()`` is the sentence.

    Attributes:
        requests: requests of the window that shows it best.
        failures: failed ones.
        allowed: the most failures that would be chance, or too few to matter.
        usual_ratio: the usual error ratio.
        limit_ratio: the error ratio from which a shift is large enough to matter.
        swing_ratio: the error ratio that bursts may have.
        chance: tail probability of so many failures.
        expected_ratio: the error ratio that it was measured from.
        baseline: what they were compared with.
        outside_bursts: whether the requests are those of an hour without its worst twenty minutes.
    """

    requests: int
    failures: int
    allowed: int
    usual_ratio: float
    limit_ratio: float
    swing_ratio: float
    chance: float
    expected_ratio: float
    baseline: ErrorBaseline
    outside_bursts: bool = False

    @classmethod
    def of(cls, verdict: ErrorVerdict | None, parameters: Parameters) -> "ErrorExplanation | None":
        """Return the explanation of a verdict; None unless there are significantly more failures than usual."""
        if verdict is None or verdict.chance is None:
            return None
        requests, baseline = verdict.counts.requests, verdict.baseline
        return cls(
            requests=requests,
            failures=verdict.counts.failures,
            allowed=_allowed(verdict, parameters),
            usual_ratio=baseline.ratio,
            limit_ratio=baseline.limit(parameters),
            swing_ratio=baseline.swing,
            chance=verdict.chance,
            expected_ratio=verdict.expected,
            baseline=baseline,
            outside_bursts=verdict.outside_bursts,
        )

    @property
    def ratio(self) -> float:
        """The error ratio of the window."""
        return self.failures / self.requests

    def __str__(self) -> str:
        usual = "usual at this hour" if self.baseline.level <= FallbackLevel.NEARBY else "usual"
        bursts = ""
        if self.swing_ratio > self.usual_ratio:
            most = percent(min(1.0, self.swing_ratio))
            bursts = (
                f" ({most} recurs at this time)" if self.baseline.recurs else f" (bursts up to {most} are tolerated)"
            )
        which = f"{self.requests:,} requests outside of bursts in the last hour"
        if not self.outside_bursts:
            which = f"the last {self.requests:,} requests"
        return (
            f"{self.failures:,} of {which} failed ({percent(self.ratio)}); "
            f"{usual}: {percent(self.usual_ratio)}{bursts}, at most {self.allowed:,} would be chance "
            f"at {percent(self.expected_ratio)}; "
            f"compared with {compared_with(self.baseline)} "
            f"(level {self.baseline.level:d}, {self.baseline.requests:,} requests)."
        )


def percent(ratio: float) -> str:
    """Format a ratio in percent, to two significant digits."""
    return f"{100 * ratio:.2g} %" if ratio < 0.995 else "100 %"


def _allowed(verdict: ErrorVerdict, parameters: Parameters) -> int:
    """Return the most failures of so many requests that would not be a shift."""
    requests, limit = verdict.counts.requests, verdict.baseline.limit(parameters)

    def is_shift(failures: int) -> bool:
        return (
            failures >= MIN_EXCEEDANCES
            and failures >= limit * requests
            and tail_probability(failures, requests, verdict.expected, ERROR_CORRELATION) < _alpha(parameters)
        )

    low, high = 0, requests + 1
    while high - low > 1:
        middle = (low + high) // 2
        if is_shift(middle):
            high = middle
        else:
            low = middle
    return low
