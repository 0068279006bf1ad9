"""Settings of the detector, and its constants."""

from dataclasses import dataclass
from typing import Final

from exporter.model.calendar import HOUR_SECONDS


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


# The constants below are part of the method and not meant to be tuned.

MIN_EVALUATED_TRACES: Final = 3
"""Windows and hours with fewer traces are not evaluated."""
MIN_EXCEEDANCES: Final = 3
"""Minimum number of traces above the gate, regardless of their tail probability."""

CORRELATION: Final = 0.003
"""Intra-window correlation ρ of the exceedances: the traces of a window share hosts, caches and callers."""
TAIL_CAP: Final = 300
"""Counts of larger windows are scaled down to this many traces; the model does not justify more certainty."""

PRIOR_SWING_OCTAVES: Final = 0.1
"""Swing of a series without history."""
PRIOR_SWING_WEIGHT: Final = 48.0
"""Weight of the prior swing, in evaluation windows."""
MAX_SWING_OCTAVES: Final = 2
"""Upper bound of a single prediction error."""
MIN_SWING_EXCEEDANCES: Final = 0.5
"""A window of n traces has a prediction error for quantile q if n(1 - q) is at least this."""

STAT_FLOOR_RATIO: Final = 1.1
"""Lower bound of the statistical threshold, relative to the baseline."""
CLEAR_RATIO: Final = 1.2
"""Lower bound of the clear threshold, relative to the baseline."""

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
