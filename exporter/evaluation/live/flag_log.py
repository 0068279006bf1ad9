"""Logs flags that started firing or were resolved: each with its explanation, but of very many only their number."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final

from exporter.detection.flag import FlagEvent, FlagKind
from exporter.evaluation.live.evaluator import SeriesFlagChange
from exporter.runtime.logs import Log

MAX_LINES: Final = 20
"""Flags of one kind that are logged by themselves within :data:`PERIOD_SECONDS`, those that fire and those that are
resolved apart."""
PERIOD_SECONDS: Final = 600.0
_MAX_NAMED: Final = 5


class FlagLog:
    """Logs changes of flags, at most :data:`MAX_LINES` by themselves and the others of a cycle in one line."""

    def __init__(self, log: Log, monotonic: Callable[[], float]) -> None:
        """Log nothing yet.

        Args:
            log: receives the events.
            monotonic: seconds that never jump.
        """
        self._log = log
        self._monotonic = monotonic
        self._logged_at: dict[tuple[FlagKind, FlagEvent], deque[float]] = {}

    def write(self, changes: Sequence[SeriesFlagChange]) -> None:
        """Log the changes of one cycle."""
        others: dict[tuple[FlagKind, FlagEvent], list[SeriesFlagChange]] = {}
        now = self._monotonic()
        for change in changes:
            logged_at = self._logged_at.setdefault((change.kind, change.event), deque(maxlen=MAX_LINES))
            if len(logged_at) == MAX_LINES and now - logged_at[0] < PERIOD_SECONDS:
                others.setdefault((change.kind, change.event), []).append(change)
            else:
                logged_at.append(now)
                self._write_one(change)
        for (kind, event), left in others.items():
            services = Counter(change.key.service_name for change in left)
            self._log.warning(
                "flags_summarized",
                "flags of many endpoints change at once; those beyond the first are only counted here, and are all in "
                "the metrics and on the status page",
                kind=kind,
                change=event,
                endpoints=len(left),
                services=len(services),
                most_in=[name for name, _ in services.most_common(_MAX_NAMED)],
            )

    def _write_one(self, change: SeriesFlagChange) -> None:
        fields = {
            **change.key.fields,
            "explanation": None if change.explanation is None else str(change.explanation),
        }
        match change.kind, change.event:
            case FlagKind.SHIFT, FlagEvent.FIRING:
                self._log.warning("shift_firing", "latency has shifted", **fields)
            case FlagKind.SHIFT, FlagEvent.RESOLVED:
                self._log.info("shift_resolved", "latency is back within its baseline", **fields)
            case FlagKind.ERRORS, FlagEvent.FIRING:
                self._log.warning("errors_firing", "more requests fail than usual", **fields)
            case FlagKind.ERRORS, FlagEvent.RESOLVED:
                self._log.info("errors_resolved", "no more requests fail than usual", **fields)
            case FlagKind.TRAFFIC, FlagEvent.FIRING:
                self._log.warning("traffic_firing", "traffic differs from the usual at this hour", **fields)
            case FlagKind.TRAFFIC, FlagEvent.RESOLVED:
                self._log.info("traffic_resolved", "traffic is back at the usual", **fields)
