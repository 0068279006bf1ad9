"""The detector's settings, and its constants that are not meant to be tuned."""

from dataclasses import dataclass
from typing import Final

from exporter.model.calendar import HOUR_SECONDS


@dataclass(frozen=True, slots=True)
class Parameters:
    """What ``detection:`` in the configuration sets; the look-back belongs to the baseline's rules.

    Attributes:
        window_seconds: length of the current window.
        min_traces: a window with fewer traces is extended back.
        max_window_seconds: how far it is extended at most.
        ratio: a quantile of the window must exceed its baseline by this factor to matter.
        min_delta_seconds: and by this much.
        swing: how many usual swings are tolerated.
        alpha: tail probability below which chance is ruled out, per quantile; not a false-alarm rate.
        hold_seconds: how long the condition must hold at every tick before the flag rises.
        clear_hold_seconds: how long it must be absent at every tick before the flag falls.
        accept_after_seconds: how long a change lasts before it is the new normal.
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


MIN_JUDGED: Final = 3
"""A window with fewer traces is not judged."""
MIN_EXCEEDANCES: Final = 3
"""Fewer slow traces than this are no shift, however unlikely."""

CORRELATION: Final = 0.003
"""Correlation within a window of whether its traces are slow; they share hosts, caches and callers."""
TAIL_CAP: Final = 300
"""Counts of larger windows are scaled down to this many traces: more would only feign certainty."""

PRIOR_SWING_OCTAVES: Final = 0.1
PRIOR_SWING_WEIGHT: Final = 48.0
"""A series of which little is known swings as if it had shown the prior swing at this many marks."""
MAX_SWING_OCTAVES: Final = 2
"""A single distance counts as this much at most."""
MIN_SWING_MARK: Final = 0.5
"""A mark counts towards the swing of q where at least so many of its traces are expected above q."""

STAT_FLOOR_RATIO: Final = 1.1
CLEAR_RATIO: Final = 1.2

FRESH_SECONDS: Final = 120
FRESH_TRACES: Final = 5
FRESH_ALPHA: Final = 0.2

SUSPICION_SECONDS: Final = 2 * HOUR_SECONDS
"""When an hour settles, suspects that began at most so long before it are quarantined."""
RUN_BREAK_HOURS: Final = 3
RUN_MEMORY_HOURS: Final = 60
RUN_ELEVATED_SHARE: Final = 0.75
RUN_MIN_ANOMALOUS: Final = 3
