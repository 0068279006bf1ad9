"""Log events of the backfill."""

from collections.abc import Callable, Sequence
from typing import Final

from exporter.ingest.window_reader import BatchResult
from exporter.model.calendar import Calendar
from exporter.model.ledger import LedgerEntry, LedgerProgress, Window
from exporter.runtime.logs import Log

_REPEAT_SECONDS: Final = 600


class BackfillLog:
    """Writes the log events of the backfill; warnings that would come with every window are rate-limited."""

    def __init__(self, log: Log, calendar: Calendar, monotonic: Callable[[], float]) -> None:
        self._log = log
        self._limited = log.limited(_REPEAT_SECONDS, monotonic)
        self._calendar = calendar

    def read(self, entries: Sequence[LedgerEntry], result: BatchResult, limit: int) -> None:
        """Log windows that were read together, with searches of at most `limit` traces."""
        reading = result.reading
        for entry in entries:
            self._log.info(
                "window_read",
                "window read",
                window=self._iso(entry.window.start),
                state=entry.state.value,
                received=reading.received if len(entries) == 1 else None,
                kept=entry.traces,
                stored=entry.stored,
                requests=round(entry.requests, 2),
                splits=entry.splits,
                coverage=None if entry.coverage is None else round(entry.coverage, 4),
                duration=round(entry.duration_seconds, 3),
            )
        start = self._iso(entries[0].window.start)
        if result.is_sampled:
            self._limited.info(
                "window_sampled",
                "a window exceeds polling.max_traces_per_window; an evenly spread sample of it was read",
                window=start,
                traces=round(result.estimated_total or 0),
                read=entries[0].traces,
            )
        if reading.splits and not result.is_sampled:
            self._limited.warning(
                "window_saturated",
                "searches hit their limit and were split; raise tempo.limit to need fewer",
                window=start,
                splits=reading.splits,
                limit=limit,
            )
        if reading.truncated and reading.overlap is not None:
            self._limited.warning(
                "window_truncated",
                "traces last longer than their requests: more of them overlap one second than a search returns, and it "
                "is not read; raise tempo.limit, and max_result_limit in Tempo if it is lower, or end those traces "
                "earlier. The window is read again later",
                window=start,
                seconds=sum(end - begin for begin, end in reading.truncated),
                traces=reading.overlap.traces,
                began_there=reading.overlap.began,
                limit=limit,
            )
        elif reading.truncated:
            first, _ = min(reading.truncated)
            self._limited.warning(
                "window_truncated",
                "one second holds more traces than a search returns, and is not read; raise tempo.limit, and "
                "max_result_limit in Tempo if it is lower",
                window=start,
                first=self._calendar.local(first).isoformat(timespec="seconds"),
                seconds=sum(end - begin for begin, end in reading.truncated),
                limit=limit,
            )

    def failed(self, windows: Sequence[Window], error: str) -> None:
        """Log that windows could not be read."""
        self._limited.warning(
            "window_failed",
            "window not read; it will be retried",
            window=self._iso(windows[0].start),
            windows=len(windows),
            error=error,
        )

    def crashed(self, windows: Sequence[Window]) -> None:
        """Log the exception being handled, which is a defect."""
        self._log.exception(
            "window_crashed", "reading a window failed unexpectedly", window=self._iso(windows[0].start)
        )

    def windows_not_stored(self, error: Exception) -> None:
        """Log that windows were read and could not be written."""
        self._limited.error("windows_not_stored", "cannot store windows; they will be read again", error=error)

    def entries_not_stored(self, error: Exception) -> None:
        """Log that entries without digests could not be written."""
        self._limited.error("ledger_not_written", "cannot write to the ledger", error=error)

    def ledger_not_advanced(self, error: Exception) -> None:
        """Log that the database could not be brought up to date with the clock."""
        self._limited.error("ledger_not_advanced", "cannot advance the ledger with the clock", error=error)

    def retention_unknown(self, error: Exception) -> None:
        """Log that a search for any trace failed."""
        self._limited.warning("retention_unknown", "cannot find out how far back Tempo's traces go", error=error)

    def reopened(self, windows: Sequence[Window]) -> None:
        """Log that Tempo now has traces where it had none."""
        self._log.info(
            "windows_reopened",
            "Tempo now has traces for windows that were empty; they are read again",
            oldest=self._iso(windows[0].start),
            windows=len(windows),
        )

    def reread(self, windows: Sequence[Window]) -> None:
        """Log that windows with missing traces are due to be reread."""
        self._log.info(
            "windows_reread",
            "traces are missing from these windows: they are read once more",
            oldest=self._iso(min(windows).start),
            windows=len(windows),
        )

    def reread_late(self, entries: Sequence[LedgerEntry]) -> None:
        """Log that windows are reread because spans may have come, or came, after they were read."""
        self._log.info(
            "windows_reread_late",
            "Tempo received spans of these windows after they were read, or may have: the windows are read once more",
            oldest=self._iso(min(entry.window for entry in entries).start),
            windows=len(entries),
            known_late=sum(entry.late_spans or 0 for entry in entries),
        )

    def late_check_failed(self, windows: Sequence[Window], error: Exception) -> None:
        """Log that windows could not be checked for late spans, or not be reread for them."""
        self._limited.warning(
            "late_check_failed",
            "cannot find out whether requests that ended later belong to windows that were read, or not add them; this "
            "is tried again",
            oldest=self._iso(min(windows).start) if windows else None,
            windows=len(windows),
            error=error,
        )

    def expired(self, windows: Sequence[Window]) -> None:
        """Log that windows are older than Tempo's first trace."""
        self._log.info(
            "windows_expired",
            "Tempo has no traces older than this; older windows are not read. Set polling.backfill_duration to "
            "Tempo's retention to skip them",
            oldest=self._iso(windows[-1].end),
            expired_windows=len(windows),
        )

    def complete(self, progress: LedgerProgress, traces: int, seconds: float) -> None:
        """Log that nothing is left to read, some seconds after the start."""
        self._log.info(
            "backfill_complete",
            "backfill is complete",
            windows=progress.windows,
            done=progress.done,
            empty=progress.empty,
            partial=progress.partial,
            expired=progress.expired,
            traces=traces,
            duration=round(seconds, 1),
        )

    def empty(self, progress: LedgerProgress, reason: str) -> None:
        """Log that all of history was read and has no traces."""
        self._log.warning(
            "backfill_empty",
            "all of the wanted history is empty; tempo.tenant, tempo.filter or tempo.scope may be wrong",
            windows=progress.windows,
            reason=reason,
        )

    def _iso(self, unix_seconds: int) -> str:
        return self._calendar.local(unix_seconds).isoformat(timespec="minutes")
