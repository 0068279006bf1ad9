"""Settings of the detector, and its constants."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from exporter.model.calendar import HOUR_SECONDS


class Parts(NamedTuple):
    """Parts of the method that can be left out, so that benchmarks can measure what each adds; not a setting.

    Attributes:
        profile: patterns within the hour; see :mod:`exporter.detection.profile`.
        ladder: tests of a small share of the traces at higher thresholds.
        long_window: the second evaluation window of half an hour.
        level: the level of the last half hour.
        tail: the slowest requests of the last half hour and hour; see :mod:`exporter.detection.tail_shift`.
        streak: acceptance of lasting changes that no single hour shows.
        runs: evaluation of sparse series by run; see :mod:`exporter.detection.runs`.
        likeness: a correlation of exceedances that is learned from how alike the requests of a window are.
        error_swing: the swing of errors; see :mod:`exporter.detection.errors.verdict`.
        error_patterns: hours of the day that are known to fail more often by all days together.
        error_margin: that the usual error ratio drifts, and that an hour contains the failures of a burst.
        inherited_swing: swing and pattern of a quantile that few windows measure, from a lower quantile.
        pattern_transfer: patterns of one hour of the day, known from days of the other day type.
        continuation: a flag keeps firing while its window is shifted, unless the newest traces are clearly faster.
        joint_errors: sampling errors are taken out of the swing hour by hour, and not window by window.
        typical_swing: the swing is that of a typical day, and not of all days together.
        busy_swing: in busy hours, the swing of the median is that of hours with at least half as much traffic.
        single_hold: shifts from the level that are far beyond chance hold for one hold time instead of two.
        joint_tolerance: swing and chance are tolerated together, and not one on top of the other.
        certain_firing: windows of few traces have to rule out chance further before a flag fires, or hold for longer.
        level_floor: of the p90 and the p99, the level of now is not below the baseline.
        near_baselines: small shifts are only tested against the hour itself or the hours around it.
        regression_level: regressions by three quantiles together, and not by the median alone.
    """

    profile: bool = True
    ladder: bool = True
    long_window: bool = True
    level: bool = True
    tail: bool = True
    streak: bool = True
    runs: bool = True
    likeness: bool = True
    error_swing: bool = True
    error_patterns: bool = True
    error_margin: bool = True
    inherited_swing: bool = True
    pattern_transfer: bool = True
    continuation: bool = True
    joint_errors: bool = True
    typical_swing: bool = True
    busy_swing: bool = True
    single_hold: bool = True
    joint_tolerance: bool = True
    certain_firing: bool = True
    level_floor: bool = True
    near_baselines: bool = True
    regression_level: bool = True


ALL_PARTS: Final = Parts()
NO_PARTS: Final = Parts(*[False] * len(ALL_PARTS))
"""The method of the first release."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Settings under ``detection:`` in the configuration; the look-back is part of `FallbackRules`.

    Attributes:
        window_seconds: length of the evaluation window.
        min_traces: a window with fewer traces is extended into the past.
        max_window_seconds: maximum length of an extended window.
        ratio: factor by which a quantile of the window must exceed its baseline.
        min_delta_seconds: amount by which it must exceed its baseline.
        swing: number of swings (root mean square) that are tolerated, `z` in the formulas.
        alpha: tail probability below which chance is excluded, for each quantile. Not a false-alarm rate: windows
            overlap, and three quantiles are tested.
        hold_seconds: time for which the condition must hold at every tick before the flag fires.
        clear_hold_seconds: time for which it must be absent at every tick before the flag resolves.
        accept_after_seconds: age at which a lasting change becomes the baseline.
        regression_ratio: factor by which a quantile of the last days must exceed that of the weeks before.
        regression_min_delta_seconds: amount by which it must exceed it.
        regression_accept_after_seconds: age at which a regression is accepted as normal.
        errors_enabled: whether there are verdicts on failures.
        errors_ratio: factor by which the error ratio of the window must exceed the usual one.
        errors_min_delta: amount by which it must exceed it.
        traffic_enabled: whether there are verdicts on traffic.
        traffic_drop: share of the usual requests below which traffic has dropped.
        traffic_surge: multiple of the usual requests above which it has risen; None if a rise raises no flag.
        parts: parts of the method that apply.
    """

    window_seconds: int = 300
    min_traces: int = 10
    max_window_seconds: int = 3600
    ratio: float = 1.4
    min_delta_seconds: float = 0.005
    swing: float = 2.5
    alpha: float = 0.001
    hold_seconds: float = 60.0
    clear_hold_seconds: float = 120.0
    accept_after_seconds: int = 24 * HOUR_SECONDS
    regression_ratio: float = 1.15
    regression_min_delta_seconds: float = 0.001
    regression_accept_after_seconds: int = 14 * 24 * HOUR_SECONDS
    errors_enabled: bool = True
    errors_ratio: float = 2.0
    errors_min_delta: float = 0.02
    traffic_enabled: bool = True
    traffic_drop: float = 0.5
    traffic_surge: float | None = None
    parts: Parts = ALL_PARTS

    @property
    def needs_marks(self) -> bool:
        """Whether traces older than the evaluation window are needed, by mark."""
        parts = self.parts
        return parts.long_window or parts.level or parts.tail or parts.runs


# The constants below are part of the method and not meant to be tuned.

MIN_EVALUATED_TRACES: Final = 3
"""Windows and hours with fewer traces are not evaluated."""
MIN_EXCEEDANCES: Final = 3
"""Minimum number of traces above the gate, regardless of their tail probability."""

CORRELATION: Final = 0.003
"""Intra-window correlation ρ of the exceedances: the traces of a window share hosts, caches and callers. The least
one, where that of the series is learned."""
SWING_UNCERTAINTY: Final = 0.03
"""Share of the variance between windows that the swing leaves to the windows at hand: the swing is itself estimated."""
MAX_CORRELATION: Final = 0.9
LIKENESS_WEIGHT: Final = 48
"""Weight of the prior that requests are not alike, in evaluation windows."""
TAIL_CAP: Final = 300
"""Counts of larger windows are scaled down to this many traces; the model does not justify more certainty."""

PRIOR_SWING_OCTAVES: Final = 0.1
"""Least swing that a quantile has before any window has measured it."""
PRIOR_SWING_WEIGHT: Final = 48.0
"""Weight of the prior swing, in evaluation windows."""
MAX_SWING_OCTAVES: Final = 2
"""Upper bound of a single prediction error."""
BUSY_SWING_SHARE: Final = 2
BUSY_SWING_HOURS: Final = 4
"""Where the hours of the pool have JOINT_MIN_HOURLY_TRACES on average, the swing of the median is that of hours with at
least 1/BUSY_SWING_SHARE of that traffic, if these are at least 1/BUSY_SWING_HOURS of all: the windows of quieter hours
differ by chance, which cannot be taken out of them entirely. Where daily work brings its own traffic, too few hours
would be left to tell. The other quantiles are measured by large windows anyway."""
MIN_SWING_EXCEEDANCES: Final = 0.5
"""A window of n traces has a prediction error for quantile q if n(1 - q) is at least this."""

GATE_SWINGS: Final = 1.8
STAT_SWINGS: Final = 0.8
"""Multiples of `Parameters.swing` in the gate and in the statistical threshold. A quantile of a window exceeds its
baseline by the swing and by chance, whose variances add: with standard deviations τ and s, by at most 4.5 times the
square root of τ² + s². That is about the larger of 4.5 τ and of 2 τ plus what the test for chance takes, some 3 s."""
JOINT_MIN_HOURLY_TRACES: Final = 240
"""Minimum number of traces of an hour, on average over the pool, for these multiples in the test of the evaluation
window: 20 in five minutes. With fewer, chance takes more than the swing does, and both thresholds have the multiple
1."""

CERTAIN_WINDOW_TRACES: Final = 50
CERTAIN_MIN_HOURLY_TRACES: Final = 100
"""Before the flag fires within the hold time, a window of fewer traces than CERTAIN_WINDOW_TRACES has to rule out
chance with a proportionally lower tail probability. Large windows deviate by the swing, small ones by chance: the same
few traces stay in them for all of the hold time, and there is a new window every five minutes. Of a shift that lasts,
the traces that arrive meanwhile are the further evidence. With less than CERTAIN_MIN_HOURLY_TRACES, on average over the
pool, windows reach further back, so that there are fewer of them."""

STAT_FLOOR_RATIO: Final = 1.1
"""Lower bound of the statistical threshold, relative to the baseline."""
CLEAR_RATIO: Final = 1.2
"""Lower bound of the clear threshold, relative to the baseline."""

PROFILE_MIN_HOURS: Final = 12
"""A mark belongs to a pattern within the hour if the deviation there is known for at least so many hours."""

DAILY_PATTERN_MIN_HOURS: Final = 3
DAILY_PATTERN_BUCKETS: Final = 12
"""In one hour of the day, a median deviation of more than this over at least so many days is a pattern."""

LADDER_STEPS: Final = 3
"""Thresholds at which a small share of the traces is tested: the gate, twice the gate, and so on."""
LADDER_MIN_TRACES: Final = 20
"""Windows with fewer traces are not tested there."""

SMALL_SHIFT_RATIO: Final = 1.25
"""Lower bound of the gate of the long window and of the level, relative to the baseline or the level."""
SMALL_SHIFT_HOLDS: Final = 2
"""Shifts that only these two show must hold for this many hold times."""
SINGLE_HOLD_ALPHA_SHARE: Final = 0.01
"""One hold time is enough for a shift from the level whose tail probability is below this share of `Parameters.alpha`:
the other one is for shifts that may still be chance, and for long windows that still contain what is over."""
LONG_WINDOW_MARKS: Final = 6
"""Length of the long window in marks: half an hour."""
LONG_WINDOW_MIN_TRACES: Final = 100
"""Minimum number of traces of the long window in the test."""
LONG_WINDOW_MIN_HOURLY_TRACES: Final = 100
"""Minimum number of traces of an hour, on average over the pool: with fewer, a long window hardly ever has enough."""
LONG_SWING_MIN_TRACES: Final = 10
"""Minimum number of traces of the long window for its swing."""

LEVEL_MARKS: Final = 6
"""The level of now is computed from the evaluation windows at so many marks, the newest one behind the last mark."""
LEVEL_MIN_MARKS: Final = 5
"""Minimum number of marks with a known deviation."""
LEVEL_MIN_TRACES: Final = 40
"""Minimum number of traces of an hour, on average over the pool: the windows of fewer overlap too much."""
LEVEL_SHARE: Final = (7, 10)
"""Share of the mean deviation that counts as level, as a fraction."""
LEVEL_SWING_OCTAVES: Final = 0.07
"""Swing around the level of a series without history."""

TAIL_WINDOWS_MARKS: Final = (6, 12)
"""Lengths of the windows of the slowest traces in marks, ascending: half an hour, and an hour."""
TAIL_STEPS: Final = 3
"""Thresholds beyond which the slowest traces are counted: the gate without the swing, twice that, and so on."""
TAIL_MIN_HOURLY_TRACES: Final = 60
"""Minimum number of traces of an hour, on average over the pool, and of a window of the slowest traces."""
TAIL_MAX_CORRELATION: Final = 0.006
"""Where the learned correlation is higher, the slowest traces are not counted: they are alike, and not independent."""
TAIL_ALPHA_SHARE: Final = 0.1
"""Share of `Parameters.alpha` for each window and threshold: there are six of them."""
TAIL_NEWEST_SLOW: Final = 3
"""The newest traces in which slow ones must still appear are so many that this number is to be expected."""

FRESH_SECONDS: Final = 120
FRESH_TRACES: Final = 5
"""A shift persists if it shows in the newest FRESH_SECONDS, extended until they contain FRESH_TRACES."""
FRESH_ALPHA: Final = 0.2
"""Tail probability for that."""

SUSPICION_SECONDS: Final = 2 * HOUR_SECONDS
"""When an hour settles, suspects that began at most this long before it are quarantined."""
RUN_BREAK_HOURS: Final = 3
"""Consecutive hours that are not elevated, after which a run ends."""
RUN_MEMORY_HOURS: Final = 60
"""Maximum length of a run, in hours with traffic."""
RUN_ELEVATED_SHARE: Final = 0.75
"""Minimum share of elevated hours in an accepted run."""
RUN_MIN_ANOMALOUS: Final = 3
"""Minimum number of anomalous hours in an accepted run."""

DAY_SWING_RATIO: Final = 1.2
"""Whole days differ by as much as this factor."""
STREAK_HOURS: Final = 12
"""A streak of slow hours ends when its last so many hours with traffic are not slow together."""
STREAK_SLACK: Final = 6
"""It continues while fewer traces than these are missing for more slow traces than others."""
STREAK_BLOCK_SECONDS: Final = 6 * 3600
"""Traces within this time are alike: the load of an endpoint changes within hours."""
STREAK_MIN_TRACES: Final = 30
"""Minimum number of traces in an accepted streak."""
