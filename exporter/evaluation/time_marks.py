"""The marks on time from all sources: configuration, file, database and Alertmanager's silences.

Evaluators ask for :attr:`TimeMarkRegistry.current` each time, so that a changed mark counts from then on.
"""

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo

import msgspec

from exporter.model.pattern import Pattern, PatternError
from exporter.model.time_mark import LabelMatcher, MarkKind, MarkSource, TimeMark, TimeMarks
from exporter.runtime.locks import LockRank, new_lock
from exporter.runtime.logs import Log
from exporter.runtime.reload import FileState, file_state
from exporter.store import Store, StoredMark, StoreError

_CHECK_SECONDS: Final = 2.0
"""How often the file is looked at; that costs one call of ``stat``."""
_REPEAT_SECONDS: Final = 3600.0
"""An error that lasts is logged again after this time."""
_MAX_STORED: Final = 10_000
"""Marks of people and silences; more are refused, so that no client fills the database."""


class MarkLimitError(Exception):
    """There are too many marks."""


class SilencesUnavailableError(Exception):
    """Alertmanager did not return its silences; the message says why."""


class MarkTelemetry(Protocol):
    """Receives events about marks."""

    def marks_counted(self, counts: Mapping[MarkSource, int]) -> None:
        """There are so many marks of each source."""

    def marks_file_loaded(self, successful: bool, at: float) -> None:
        """The marks file was loaded, or could not be, at an instant in Unix seconds."""

    def silences_failed(self) -> None:
        """Alertmanager's silences could not be read."""


class TimeMarkRegistry:
    """Holds the marks in use. Thread-safe; :meth:`run` keeps it up to date."""

    def __init__(
        self,
        store: Store,
        *,
        configured: Sequence[TimeMark] = (),
        file: Path | None = None,
        load_file: Callable[[Path], Sequence[TimeMark]] = lambda _: (),
        read_silences: Callable[[], Sequence[TimeMark]] | None = None,
        silence_seconds: float = 60.0,
        on_change: Callable[[], None] = lambda: None,
        telemetry: MarkTelemetry | None = None,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        log: Log,
    ) -> None:
        """Load the marks of configuration, file and database.

        Args:
            store: holds the marks of people, and silences that were read.
            configured: marks of the configuration.
            file: ``marks_file``; None without one.
            load_file: reads it; raises an exception with a message for people if it is invalid.
            read_silences: reads Alertmanager's silences; raises :class:`SilencesUnavailableError`. None to read none.
            silence_seconds: how often they are read.
            on_change: called when the marks have changed, from any thread.
            telemetry: receives events.
            clock: Unix seconds.
            monotonic: seconds that never jump.
            log: receives changes and errors.

        Raises:
            StoreError: the store cannot be read.
        """
        self._store = store
        self._file = file
        self._load_file = load_file
        self._read_silences = read_silences
        self._silence_seconds = silence_seconds
        self._on_change = on_change
        self._telemetry = telemetry
        self._clock = clock
        self._monotonic = monotonic
        self._log = log
        self._quiet_log = log.limited(_REPEAT_SECONDS, monotonic)
        self._lock = new_lock(LockRank.TIME_MARKS)
        self._file_state: FileState = None
        self._file_error: str | None = None
        self._are_silences_unavailable = False
        self._silences_due: float | None = None
        self._by_source: dict[MarkSource, tuple[TimeMark, ...]] = dict.fromkeys(MarkSource, ())
        self._by_source[MarkSource.CONFIGURATION] = tuple(configured)
        for row in store.marks.all():
            mark = decode_mark(row)
            if mark is None:
                self._quiet_log.warning("mark_unreadable", "a stored mark is unreadable; it is left out", mark=row.id)
            elif mark.source is not MarkSource.FILE or file is not None:
                self._by_source[mark.source] += (mark,)
        self._current = TimeMarks()
        self._publish()
        self.reload_file_if_changed()

    @property
    def current(self) -> TimeMarks:
        """The marks in use."""
        return self._current

    # Changes

    def set_configured(self, marks: Sequence[TimeMark]) -> None:
        """Replace the marks of the configuration."""
        with self._lock:
            is_changed = self._replace(MarkSource.CONFIGURATION, marks)
        self._announce(is_changed)

    def add(self, mark: TimeMark) -> TimeMark:
        """Store a mark of a person; returns it with its id.

        Raises:
            MarkLimitError: there are too many.
            StoreError: it was not stored.
        """
        mark = replace(mark, source=MarkSource.API, id=secrets.token_hex(8))
        with self._lock:
            known = self._by_source[MarkSource.API]
            if len(known) >= _MAX_STORED:
                raise MarkLimitError(f"there are {_MAX_STORED:,} marks already; delete some")
            self._store.marks.save([encode_mark(mark)])
            is_changed = self._replace(MarkSource.API, (*known, mark))
        self._log.info("mark_added", "a mark was added", **_fields(mark))
        self._announce(is_changed)
        return mark

    def remove(self, mark_id: str) -> bool:
        """Delete a mark of a person; returns whether there was one.

        Raises:
            StoreError: it was not deleted.
        """
        with self._lock:
            known = self._by_source[MarkSource.API]
            is_deleted = self._store.marks.delete(mark_id, MarkSource.API)
            is_changed = self._replace(MarkSource.API, [mark for mark in known if mark.id != mark_id])
        if is_deleted:
            self._log.info("mark_deleted", "a mark was deleted", mark=mark_id)
        self._announce(is_changed)
        return is_deleted

    def reload_file_if_changed(self) -> None:
        """Load ``marks_file`` if it has changed; after an error, each time until it is valid. Raises nothing.

        While it is invalid, the marks of its last valid version stay in use, also over a restart.
        """
        if self._file is None:
            return
        state = file_state(self._file)
        if state == self._file_state and self._file_error is None and state is not None:
            return
        try:
            marks = self._load_file(self._file)
        except Exception as error:  # noqa: BLE001 - any error: the marks in use stay
            if str(error) != self._file_error:
                self._log.error(
                    "marks_file_invalid", "marks_file is invalid; keeping the previous marks", error=str(error)
                )
            self._file_error = str(error)
            if self._telemetry is not None:
                self._telemetry.marks_file_loaded(False, self._clock())
            return
        self._file_state, self._file_error = state, None
        if self._telemetry is not None:
            self._telemetry.marks_file_loaded(True, self._clock())
        marks = [replace(mark, source=MarkSource.FILE, id=f"file-{index}") for index, mark in enumerate(marks)]
        with self._lock:
            is_changed = self._replace(MarkSource.FILE, marks)
            if is_changed:
                self._save_file_marks(marks)
        self._log.info("marks_file_loaded", "marks_file was loaded", marks=len(marks))
        self._announce(is_changed)

    def _save_file_marks(self, marks: Sequence[TimeMark]) -> None:
        """Remember the marks of a valid file, for a start with one that is not."""
        try:
            self._store.marks.replace(MarkSource.FILE, [encode_mark(mark) for mark in marks])
        except StoreError as error:
            self._quiet_log.error("marks_not_saved", "cannot remember the marks of marks_file", error=error)

    def read_silences(self) -> None:
        """Read Alertmanager's silences, and remember them. Raises nothing.

        Alertmanager forgets a silence some days after its end, and history needs it for longer.
        """
        if self._read_silences is None:
            return
        try:
            read = self._read_silences()
        except SilencesUnavailableError as error:
            if self._telemetry is not None:
                self._telemetry.silences_failed()
            if not self._are_silences_unavailable:
                self._log.warning(
                    "silences_unavailable",
                    "cannot read the silences of Alertmanager; those read before stay in use",
                    error=error,
                )
            self._are_silences_unavailable = True
            return
        if self._are_silences_unavailable:
            self._are_silences_unavailable = False
            self._log.info("silences_available", "the silences of Alertmanager are read again", silences=len(read))
        try:
            with self._lock:
                known = {mark.id: mark for mark in self._by_source[MarkSource.ALERTMANAGER]}
                changed = [mark for mark in read if known.get(mark.id) != mark]
                kept = {**known, **{mark.id: mark for mark in changed}}
                if not changed:
                    return
                if len(kept) > _MAX_STORED:
                    self._quiet_log.warning(
                        "silences_left_out",
                        "too many silences; new and changed ones are left out, until a restart forgets old ones",
                        silences=len(kept),
                        max=_MAX_STORED,
                    )
                    return
                self._store.marks.save([encode_mark(mark) for mark in changed])
                is_changed = self._replace(MarkSource.ALERTMANAGER, tuple(kept.values()))
        except StoreError as error:
            self._quiet_log.error("silences_not_saved", "cannot save silences; they are read again", error=error)
            return
        self._announce(is_changed)

    def run(self, stop: threading.Event) -> None:
        """Keep the marks up to date until stopped."""
        while not stop.is_set():
            self.update()
            stop.wait(_CHECK_SECONDS)

    def update(self) -> None:
        """Load what has changed and is due."""
        try:
            self.reload_file_if_changed()
            now = self._monotonic()
            if self._silences_due is None or now >= self._silences_due:
                self._silences_due = now + self._silence_seconds
                self.read_silences()
        except Exception:  # noqa: BLE001 - a bug must neither end the loop nor go unnoticed
            self._log.exception("marks_crashed", "updating the marks failed unexpectedly")

    @property
    def needs_updates(self) -> bool:
        """Whether anything can change by itself, so that :meth:`run` is needed."""
        return self._file is not None or self._read_silences is not None

    def _replace(self, source: MarkSource, marks: Sequence[TimeMark]) -> bool:
        if self._by_source[source] == tuple(marks):
            return False
        self._by_source = {**self._by_source, source: tuple(marks)}
        self._publish()
        return True

    def _publish(self) -> None:
        self._current = TimeMarks(mark for source in MarkSource for mark in self._by_source[source])
        if self._telemetry is not None:
            self._telemetry.marks_counted({source: len(marks) for source, marks in self._by_source.items()})

    def _announce(self, is_changed: bool) -> None:
        if is_changed:
            self._on_change()


def stored_marks(store: Store) -> list[TimeMark]:
    """Return the marks of people and the silences in a store; unreadable ones are left out.

    Raises:
        StoreError: the store cannot be read.
    """
    found = (decode_mark(row) for row in store.marks.all() if row.source != MarkSource.FILE)
    return [mark for mark in found if mark is not None]


def _fields(mark: TimeMark) -> dict[str, Any]:
    return {
        "mark": mark.id,
        "as": mark.kind.value,
        "match": mark.match_text,
        "start": mark.start,
        "end": mark.end,
        "rrule": mark.rule or None,
    }


class _Document(msgspec.Struct):
    """A stored mark."""

    kind: MarkKind
    start: int
    end: int
    zone: str
    pattern: str | None = None
    matchers: tuple[tuple[str, str, bool, bool], ...] = ()
    rule: str = ""
    comment: str = ""


def encode_mark(mark: TimeMark) -> StoredMark:
    """Return a mark as it is stored."""
    document = _Document(
        mark.kind,
        mark.start,
        mark.end,
        str(mark.zone),
        mark.match.text if isinstance(mark.match, Pattern) else None,
        ()
        if isinstance(mark.match, Pattern)
        else tuple((each.name, each.value, each.pattern is not None, each.is_equal) for each in mark.match),
        mark.rule,
        mark.comment,
    )
    text = msgspec.json.encode(document).decode()
    return StoredMark(mark.id, mark.source.value, None if mark.rule else mark.end, text)


def decode_mark(row: StoredMark) -> TimeMark | None:
    """Return a stored mark; None if it is unreadable."""
    try:
        document = msgspec.json.decode(row.document, type=_Document)
        match: Pattern | tuple[LabelMatcher, ...]
        if document.pattern is not None:
            match = Pattern(document.pattern)
        else:
            match = tuple(
                LabelMatcher.of(name, value, is_regex=is_regex, is_equal=is_equal)
                for name, value, is_regex, is_equal in document.matchers
            )
        return TimeMark(
            document.kind,
            match,
            document.start,
            document.end,
            UTC if document.zone == "UTC" else ZoneInfo(document.zone),
            document.rule,
            document.comment,
            MarkSource(row.source),
            row.id,
        )
    except (ValueError, LookupError, PatternError, msgspec.MsgspecError):
        return None
