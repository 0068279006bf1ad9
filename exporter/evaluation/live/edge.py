"""Whether the live edge is blind: reading it succeeds, but what ended recently is not found.

Tempo may return a trace only minutes after its end: tail sampling waits, a pipeline is slow, the exporter's clock is
ahead. If that takes longer than ``polling.tempo_lookback``, no cycle ever finds it. To tell this from a quiet moment
takes three facts: the traffic that this hour usually has, what ended in the evaluation window, and either a proof that
traces come late or a silence of an hour.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from exporter.evaluation.baseline_table import BaselineTable

MIN_EXPECTED_TRACES: Final = 20
"""With fewer expected traces, an evaluation window without any says nothing."""
NEXT_TO_NOTHING: Final = 0.02
"""Share of the expected traces up to which the evaluation window holds next to nothing."""
MIN_LATE_TRACES: Final = 5
"""Fewer traces that arrive late are stragglers."""
_HOUR_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class EdgeReading:
    """What one successful cycle shows of the live edge.

    Attributes:
        at: when the cycle started, Unix seconds.
        ended: traces of all series that ended in the evaluation window.
        expected: traces that usually end in an evaluation window of this hour; None while there are no baselines.
        newest_at: end of the newest trace read so far, Unix seconds; None before the first.
        lag_seconds: how old the newest trace was that Tempo returned too late to be current; None without such a proof.
    """

    at: float
    ended: int
    expected: float | None
    newest_at: float | None = None
    lag_seconds: float | None = None

    @property
    def is_dark(self) -> bool | None:
        """Whether next to nothing of the expected traffic ended in the evaluation window; None if unknown."""
        if self.expected is None or self.expected < MIN_EXPECTED_TRACES:
            return None
        return self.ended <= self.expected * NEXT_TO_NOTHING


@dataclass(frozen=True, slots=True)
class LiveEdge:
    """The state of the live edge.

    Attributes:
        blind: whether it is blind; None while unknown.
        lag_seconds: age at which Tempo returns traces, as far as known; None without a proof that they come late.
        changing_to: the state that the last cycles showed, if it differs.
        changing_since: since when they show it, Unix seconds.
    """

    blind: bool | None = None
    lag_seconds: float | None = None
    changing_to: bool | None = None
    changing_since: float | None = None


UNKNOWN_EDGE: Final = LiveEdge()


def advance_edge(edge: LiveEdge, reading: EdgeReading, *, hold_seconds: float, silence_seconds: float) -> LiveEdge:
    """Return the state after one more cycle.

    A dark evaluation window is blindness if traces are known to come late, or after a long silence: traffic that comes
    in bursts leaves gaps.

    Args:
        edge: the state before.
        reading: what the cycle shows.
        hold_seconds: a change has to last for this long. Only the first sight of traffic counts at once.
        silence_seconds: without a proof, the newest trace must be at least this old.
    """
    dark = reading.is_dark
    lag = None
    if dark:
        lag = edge.lag_seconds if reading.lag_seconds is None else reading.lag_seconds
    is_silent = reading.newest_at is None or reading.at - reading.newest_at >= silence_seconds
    shown = dark and (lag is not None or is_silent) if dark is not None else None
    if shown is edge.blind or (edge.blind is None and shown is False):
        return LiveEdge(shown, lag)
    if edge.changing_since is None or shown is not edge.changing_to or reading.at < edge.changing_since:
        return replace(edge, lag_seconds=lag, changing_to=shown, changing_since=reading.at)
    if reading.at - edge.changing_since < hold_seconds:
        return replace(edge, lag_seconds=lag)
    return LiveEdge(shown, lag)


def expected_traces(table: BaselineTable, window_seconds: float, seen_since: float) -> float | None:
    """Return how many traces of all series usually end in an evaluation window of the table's hour.

    Args:
        table: the baselines.
        window_seconds: length of the evaluation window.
        seen_since: series without traffic since this instant are left out, Unix seconds.

    Returns:
        The number; None without evaluated baselines.
    """
    if not table.is_evaluated:
        return None
    per_hour = [
        series.baseline.count / series.baseline.windows
        for series in table.series.values()
        if series.baseline is not None and series.baseline.windows and series.last_seen >= seen_since
    ]
    return sum(per_hour) * window_seconds / _HOUR_SECONDS if per_hour else None


def newest_lag(exists: Callable[[int, int], bool], now: int, since: int, until: int) -> float | None:
    """Return the age of the newest trace that Tempo has in a range of time, by bisection; None without any.

    Args:
        exists: whether any trace overlaps a range of whole Unix seconds.
        now: Unix seconds.
        since: start of the range.
        until: end of the range.
    """
    if since >= until or not exists(since, until):
        return None
    low, high = since, until
    # Some trace overlaps [low, until], none overlaps [high, until].
    while high - low > max(5, (now - low) // 20):
        middle = (low + high) // 2
        if exists(middle, until):
            low = middle
        else:
            high = middle
    return float(now - low)
