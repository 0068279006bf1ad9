"""What the ledger's loop says to people: a line for every window, and warnings that say what to change."""

from collections.abc import Callable, Sequence
from typing import Final

from exporter.ingest.window_reader import BatchResult
from exporter.model.calendar import Calendar
from exporter.model.ledger import LedgerEntry, LedgerProgress, Window
from exporter.runtime.logs import Log

_WARN_AGAIN_SECONDS: Final = 600


class BackfillLog:
    """Writes the log of the ledger's loop; what would come with every window is held back for a while."""

    def __init__(self, log: Log, calendar: Calendar, monotonic: Callable[[], float]) -> None:
        self._log = log
        self._quiet = log.limited(_WARN_AGAIN_SECONDS, monotonic)
        self._calendar = calendar

    def read(self, entries: Sequence[LedgerEntry], part: BatchResult, limit: int) -> None:
        """Some windows were read together, with searches of at most so many traces."""
        reading = part.reading
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
        begin = self._iso(entries[0].window.start)
        if part.sampled:
            self._quiet.info(
                "window_sampled",
                "a window exceeds polling.max_traces_per_window; an evenly spread sample of it was read",
                window=begin,
                traces=round(part.there or 0),
                read=entries[0].traces,
            )
        if reading.splits and not part.sampled:
            self._quiet.warning(
                "window_saturated",
                "searches hit their limit and were split; raise tempo.limit to need fewer",
                window=begin,
                splits=reading.splits,
                limit=limit,
            )
        if reading.truncated:
            self._quiet.warning(
                "window_truncated",
                "one second holds more traces than a search returns, and is not read; raise tempo.limit, and "
                "max_result_limit in Tempo if it is lower",
                window=begin,
                seconds=len(reading.truncated),
                limit=limit,
            )

    def failed(self, windows: Sequence[Window], error: str) -> None:
        """Some windows could not be read."""
        self._quiet.warning(
            "window_failed",
            "window not read; it will be retried",
            window=self._iso(windows[0].start),
            windows=len(windows),
            error=error,
        )

    def unexpected(self, windows: Sequence[Window]) -> None:
        """Reading some windows failed for a reason that nobody has foreseen, which is being handled."""
        self._log.exception(
            "window_crashed", "reading a window failed unexpectedly", window=self._iso(windows[0].start)
        )

    def not_stored(self, error: Exception) -> None:
        """Windows were read in vain, since the database refused them."""
        self._quiet.error("windows_not_stored", "cannot store windows; they will be read again", error=error)

    def not_noted(self, error: Exception) -> None:
        """Lines without digests were refused by the database."""
        self._quiet.error("ledger_not_written", "cannot write to the ledger", error=error)

    def not_followed(self, error: Exception) -> None:
        """The database could not be brought up to date with the clock."""
        self._quiet.error("ledger_not_advanced", "cannot advance the ledger with the clock", error=error)

    def not_probed(self, error: Exception) -> None:
        """Nobody knows where Tempo's traces begin."""
        self._quiet.warning("retention_unknown", "cannot find out how far back Tempo's traces go", error=error)

    def reopened(self, windows: Sequence[Window]) -> None:
        """Tempo has traces by now where it had none before."""
        self._log.info(
            "windows_reopened",
            "Tempo now has traces for windows that were empty; they are read again",
            oldest=self._iso(windows[0].start),
            windows=len(windows),
        )

    def read_again(self, windows: Sequence[Window]) -> None:
        """Tempo has more traces than were read."""
        self._log.info(
            "windows_reread",
            "Tempo counts more traces than were read; these windows are read once more",
            oldest=self._iso(min(windows).start),
            windows=len(windows),
        )

    def expired(self, windows: Sequence[Window]) -> None:
        """Some windows lie before Tempo's first trace."""
        self._log.info(
            "windows_expired",
            "Tempo has no traces older than this; older windows are not read. Set polling.backfill_duration to "
            "Tempo's retention to skip them",
            oldest=self._iso(windows[-1].end),
            expired_windows=len(windows),
        )

    def complete(self, progress: LedgerProgress, traces: int, seconds: float) -> None:
        """Nothing settled is left unread."""
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

    def _iso(self, unix_seconds: int) -> str:
        return self._calendar.local(unix_seconds).isoformat(timespec="minutes")
