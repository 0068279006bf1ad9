"""Judges past hours as they settle, in time order, so that no baseline learns an incident.

Series are gone through a few at a time: memory stays small, the database is never held for long, and what has been
found about a series is stored before the next ones are looked at.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from exporter.core.codec import DamagedDigestError
from exporter.core.detection.detector import Detector
from exporter.core.detection.history import Progress, advance
from exporter.core.detection.state import SeriesState, decode_state, encode_state
from exporter.core.hours import HourClock, Hours, hours_of
from exporter.core.ledger import LedgerEntry
from exporter.core.span import SeriesKey
from exporter.logs import LimitedLog, Log
from exporter.store import Findings, SeriesHistory, Store

_SERIES_AT_ONCE: Final = 200


class PastJudge:
    """Keeps the judging of the past up with the ledger. One thread judges; any thread may report windows."""

    def __init__(
        self,
        store: Store,
        detector: Detector,
        clock: HourClock,
        on_accepted: Callable[[], None],
        log: Log,
        quiet_log: LimitedLog,
    ) -> None:
        """Go on where the store says that judging has stopped.

        Args:
            store: the history.
            detector: the rules.
            clock: tells the local hours.
            on_accepted: is told of each lasting change that became the new normal.
            log: takes what is accepted and released.
            quiet_log: takes what would be said again every time.

        Raises:
            StoreError: the store cannot be read.
        """
        self._store = store
        self._detector = detector
        self._clock = clock
        self._on_accepted = on_accepted
        self._log = log
        self._quiet_log = quiet_log
        self._noting = threading.Lock()
        self._until = self._looked_until = store.judged_until()
        self._anew = False

    @property
    def until(self) -> int | None:
        """All hours that ended by then are judged; absent if none ever was."""
        return self._until

    def windows_written(self, entries: Sequence[LedgerEntry]) -> None:
        """Take note of windows that were written: one that is older than what was judged makes that void."""
        with self._noting:
            until = self._looked_until
            self._anew |= until is not None and any(e.stored and e.window.start < until for e in entries)

    def catch_up(self, until: int, give_up: Callable[[], bool] = lambda: False) -> None:
        """Judge all hours that ended by an instant and are not judged yet.

        Args:
            until: up to where the ledger has no gap, Unix seconds.
            give_up: asked before each series; once it says yes, the rest is left for the next time.

        Raises:
            StoreError: the database refused; what was not recorded is judged again.
        """
        if self._until is not None and until < self._until:
            # There is a gap in what was judged before. Judging anew waits for it to be filled.
            return
        if self._begin_anew():
            self._log.info("older history was read late, so the past is judged anew")
        elif self._until == until:
            return
        with self._noting:
            self._looked_until = until
        lookback = self._detector.rules.lookback_seconds
        since = 0 if self._until is None else self._until - lookback
        histories = self._store.history(
            self._store.series(), since, until, marks_from=self._until or 0, at_once=_SERIES_AT_ONCE
        )
        while some := list(islice(histories, _SERIES_AT_ONCE)):
            found: list[tuple[Findings, Progress]] = []
            for stored in some:
                if give_up():
                    break
                judged = self._judge(stored, until)
                if judged is not None:
                    found.append(judged)
            self._store.record([findings for findings, _ in found])
            for findings, progress in found:
                self._tell(findings.key, progress)
            if give_up():
                return
        self._store.set_judged_until(until)
        self._until = until

    def _begin_anew(self) -> bool:
        """Forget what was found if it is void."""
        with self._noting:
            if not self._anew:
                return False
            self._store.forget_findings()
            self._anew = False
            self._until = None
            return True

    def _judge(self, stored: SeriesHistory, until: int) -> tuple[Findings, Progress] | None:
        """What is found about one series; None if there is nothing new, or nothing that can be read."""
        state = self._state(stored)
        if until <= (stored.windows[0].start if state is None else state.until):
            return None
        history = Hours(hours_of(stored.windows, self._clock, stored.judgements))
        try:
            progress = advance(self._detector, history, until, state, suspects=stored.suspects)
        except DamagedDigestError as error:
            self._quiet_log.error(
                ("judging", stored.key),
                "stored history is damaged, its series is not judged",
                series=stored.key,
                error=error,
            )
            return None
        settled = [start for start in stored.suspects if start < until and start not in progress.state.suspects]
        return Findings(stored.key, progress.judgements, encode_state(progress.state), settled), progress

    def _state(self, stored: SeriesHistory) -> SeriesState | None:
        if stored.state is None:
            return None
        try:
            return decode_state(stored.state)
        except ValueError as error:
            self._log.warning("what was found about a series is not readable", series=stored.key, error=error)
            return None

    def _tell(self, key: SeriesKey, progress: Progress) -> None:
        for epoch in progress.accepted:
            self._on_accepted()
            self._log.info(
                "a lasting change of latency is the new normal",
                service_name=key.service_name,
                span_name=key.span_name,
                since=datetime.fromtimestamp(epoch, UTC),
            )
        if progress.released:
            self._log.info(
                "what looked anomalous recurs at this hour, so it is usual",
                service_name=key.service_name,
                span_name=key.span_name,
                hours=len(progress.released),
            )
