"""Structured logging: one line per message, logfmt or JSON, on top of the standard library.

What is logged is hostile: names of services and spans come from whoever sends traces. Whatever they contain, a message
stays on its line, its fields stay its own, and logging never raises.
"""

import json
import logging
import math
import re
import sys
import threading
import traceback
from collections.abc import Callable, Hashable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from itertools import islice
from typing import Final, Literal, TextIO

from exporter.runtime.terminal import fresh_line

Format = Literal["logfmt", "json"]
Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]

_ROOT: Final = "exporter"
_RESERVED: Final = frozenset({"ts", "level", "logger", "event", "msg", "exception"})
_MAX_LENGTH: Final = 8192
_MAX_DEPTH: Final = 4
_MAX_ITEMS: Final = 100
_EVENT: Final = "exporter_event"
_FIELDS: Final = "exporter_fields"


def configure(level: str, format: Format, stream: TextIO | None = None) -> None:  # noqa: A002 - the key is called so
    """Send everything that is logged, by whatever library, to one stream in one format.

    May be called again; the last call counts.

    Args:
        level: least important level to write: ``debug``, ``info``, ``warning`` or ``error``.
        format: ``logfmt`` or ``json``.
        stream: where to; standard error unless given.

    Raises:
        ValueError: there is no such level.
    """
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(_Formatter(_json_line if format == "json" else _logfmt_line))
    root = logging.getLogger()
    root.setLevel(level.upper())
    for old in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)


class Log:
    """Writes events with fields: ``log.info("window_read", "window read", traces=4810, coverage=1.0)``.

    The event is a stable key that documents and tests refer to; the message is a fixed text for people and may change.
    What varies goes into fields, so that both can be searched for. A field may be anything: text, numbers, `datetime`
    (written in UTC), `timedelta` (in seconds), exceptions (type and message), lists, mappings.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, message: str, /, **fields: object) -> None:
        """Log what helps to find a fault in the exporter."""
        self._write(logging.DEBUG, event, message, fields)

    def info(self, event: str, message: str, /, **fields: object) -> None:
        """Log what happens in normal operation."""
        self._write(logging.INFO, event, message, fields)

    def warning(self, event: str, message: str, /, **fields: object) -> None:
        """Log a condition that needs attention while the exporter keeps working."""
        self._write(logging.WARNING, event, message, fields)

    def error(self, event: str, message: str, /, **fields: object) -> None:
        """Log a failure that somebody has to look at."""
        self._write(logging.ERROR, event, message, fields)

    def exception(self, event: str, message: str, /, **fields: object) -> None:
        """Log an error, with the traceback of the exception being handled in one field."""
        self._write(logging.ERROR, event, message, fields, with_traceback=True)

    def limited(self, interval_seconds: float, clock: Callable[[], float]) -> "LimitedLog":
        """Return the same log, rate-limited: for events that could repeat thousands of times."""
        return LimitedLog(self, RateLimit(interval_seconds, clock))

    def _write(
        self, level: int, event: str, message: str, fields: Mapping[str, object], *, with_traceback: bool = False
    ) -> None:
        extra = {_EVENT: event, _FIELDS: fields}
        self._logger.log(level, "%s", message, exc_info=with_traceback, extra=extra)


def get_logger(name: str) -> Log:
    """The log of a part of the exporter, such as ``backfill``; a module may pass its ``__name__``."""
    return Log(logging.getLogger(name if name.startswith(f"{_ROOT}.") else f"{_ROOT}.{name}"))


class RateLimit:
    """Lets one event per key and interval through and counts the others. Safe to use from several threads.

    Args:
        interval_seconds: time that must pass before the same key is let through again.
        clock: seconds that only ever increase, such as `time.monotonic`.
        max_keys: keys kept apart; with more at a time, further ones share a single allowance, so that keys made of
            hostile names cannot fill memory.
    """

    def __init__(self, interval_seconds: float, clock: Callable[[], float], max_keys: int = 1000) -> None:
        self._interval = interval_seconds
        self._clock = clock
        self._max_keys = max_keys
        self._lock = threading.Lock()
        self._pauses: dict[Hashable, _Pause] = {}  # in the order in which they end
        self._others = _Pause()  # of the keys there is no room for

    def admit(self, key: Hashable) -> int | None:
        """Ask for an event to be let through.

        Returns:
            How many of its key were held back before it, or ``None`` when it is to be held back itself.
        """
        with self._lock:
            now = self._clock()
            pause = self._pauses.get(key) or self._begin(key, now)
            if now < pause.until:
                pause.held_back += 1
                return None
            held_back, pause.held_back = pause.held_back, 0
            pause.until = now + self._interval
            if pause is not self._others:
                self._pauses[key] = self._pauses.pop(key)
            return held_back

    def _begin(self, key: Hashable, now: float) -> "_Pause":
        """A pause for a key that has none, in the place of one that is over where there is no other room."""
        if len(self._pauses) >= self._max_keys:
            oldest = next(iter(self._pauses))
            if now < self._pauses[oldest].until:
                return self._others
            self._others.held_back += self._pauses.pop(oldest).held_back
        return self._pauses.setdefault(key, _Pause())


@dataclass(slots=True)
class _Pause:
    until: float = -math.inf
    held_back: int = 0


class LimitedLog:
    """Writes each event at most once per interval, and adds how many were suppressed when it comes again.

    ``per`` tells events of one key apart, such as those of different series. Each method returns whether the event was
    written.
    """

    def __init__(self, log: Log, limit: RateLimit) -> None:
        self._log = log
        self._limit = limit

    def debug(self, event: str, message: str, /, *, per: Hashable = None, **fields: object) -> bool:
        """Call `Log.debug`, unless the event was logged within the interval."""
        return self._pass_on(self._log.debug, event, message, per, fields)

    def info(self, event: str, message: str, /, *, per: Hashable = None, **fields: object) -> bool:
        """Call `Log.info`, unless the event was logged within the interval."""
        return self._pass_on(self._log.info, event, message, per, fields)

    def warning(self, event: str, message: str, /, *, per: Hashable = None, **fields: object) -> bool:
        """Call `Log.warning`, unless the event was logged within the interval."""
        return self._pass_on(self._log.warning, event, message, per, fields)

    def error(self, event: str, message: str, /, *, per: Hashable = None, **fields: object) -> bool:
        """Call `Log.error`, unless the event was logged within the interval."""
        return self._pass_on(self._log.error, event, message, per, fields)

    def _pass_on(
        self, write: Callable[..., None], event: str, message: str, per: Hashable, fields: Mapping[str, object]
    ) -> bool:
        suppressed = self._limit.admit((event, per))
        if suppressed is None:
            return False
        write(event, message, **({**fields, "suppressed": suppressed} if suppressed else fields))
        return True


class _Handler(logging.Handler):
    """Writes to a stream, whatever state it is in."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        try:
            line = f"{fresh_line(self._stream)}{text}\n"
            try:
                self._stream.write(line)
            except UnicodeEncodeError:  # a terminal or a file that knows few letters
                self._stream.write(line.encode("ascii", "backslashreplace").decode("ascii"))
            self._stream.flush()
        except (OSError, ValueError):  # full, broken or closed: there is nowhere left to say so
            pass


class _Formatter(logging.Formatter):
    """Turns a record, our own or that of a library, into one line."""

    def __init__(self, write: Callable[[Mapping[str, Plain]], str]) -> None:
        super().__init__()
        self._write = write

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Plain] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": _text(record.name.removeprefix(f"{_ROOT}.")),
        }
        event = getattr(record, _EVENT, None)
        if event is not None:
            fields["event"] = event
        fields["msg"] = _text(_message(record))
        for name, value in getattr(record, _FIELDS, {}).items():
            fields[_field_name(name)] = _plain(value)
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = _traceback(record.exc_info[1])
        return self._write(fields)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that do not fit the text, of a library or of their own __str__
        return str(record.msg) if isinstance(record.msg, str) else _unprintable(record.msg)


def _field_name(name: str) -> str:
    """A name that is a single word and none of those that every line has."""
    word = re.sub(r"[^A-Za-z0-9_.-]", "_", name) or "_"
    return f"{word}_" if word in _RESERVED else word


def _plain(value: object, depth: int = 0) -> Plain:
    """A value as what JSON has, with numbers rounded to what a reader needs and text cut to a sane length."""
    try:
        match value:
            case Enum():
                return _plain(value.value, depth)
            case None | bool():
                return value
            case int():
                return int(value) if abs(value) < 1 << 64 else _text(str(value))
            case float():
                return _rounded(value)
            case str():
                return _text(value)
            case bytes():
                return _text(value.decode("utf-8", "backslashreplace"))
            case datetime():
                return _instant(value)
            case date():
                return value.isoformat()
            case timedelta():
                return f"{_number(value.total_seconds())}s"
            case BaseException():
                return _text(f"{type(value).__name__}: {value}" if str(value) else type(value).__name__)
            case Mapping() if depth < _MAX_DEPTH:
                return {_text(str(name)): _plain(value[name], depth + 1) for name in islice(value, _MAX_ITEMS)}
            case list() | tuple() | AbstractSet() if depth < _MAX_DEPTH:
                return [_plain(item, depth + 1) for item in islice(value, _MAX_ITEMS)]
            case _:
                return _text(str(value))
    except Exception:  # noqa: BLE001 - whatever a value's own methods raise
        return _unprintable(value)


def _unprintable(value: object) -> str:
    return f"<unprintable {type(value).__name__}>"


def _text(text: str) -> str:
    """Text that can be encoded, of bounded length."""
    if len(text) > _MAX_LENGTH:
        text = f"{text[:_MAX_LENGTH]}… ({len(text)} characters)"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _traceback(error: BaseException) -> str:
    """The traceback as one text; of a long one its end, which says what happened."""
    try:
        text = "".join(traceback.format_exception(error)).rstrip()
    except Exception:  # noqa: BLE001 - an exception whose own methods raise
        return _unprintable(error)
    return _text(text if len(text) <= _MAX_LENGTH else "…" + text[1 - _MAX_LENGTH :])


def _instant(instant: datetime) -> str:
    if instant.tzinfo is None:
        return instant.isoformat()
    exact = "milliseconds" if instant.microsecond else "seconds"
    return instant.astimezone(UTC).isoformat(timespec=exact)[:-6] + "Z"


def _rounded(value: float) -> Plain:
    """The number to six significant digits; JSON has no number that is infinite or none."""
    return float(_number(value)) if math.isfinite(value) else _number(value)


def _number(value: float) -> str:
    """Six significant digits, but never fewer than milliseconds of a unix timestamp need."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if 1e5 <= abs(value) < 1e15:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return f"{value:.6g}"


def _json_line(fields: Mapping[str, Plain]) -> str:
    return json.dumps(fields).replace("\x7f", "\\u007f")  # the one control character that JSON leaves as it is


def _logfmt_line(fields: Mapping[str, Plain]) -> str:
    return " ".join(f"{name}={_logfmt_value(value)}" for name, value in fields.items())


def _logfmt_value(value: Plain) -> str:
    match value:
        case float():
            return _number(value)
        case None | bool() | int():
            return json.dumps(value)
        case list() if all(isinstance(item, str | int | float) for item in value):
            return _quoted(",".join(item if isinstance(item, str) else _logfmt_value(item) for item in value))
        case list() | dict():
            return _quoted(json.dumps(value, ensure_ascii=False))
        case str():
            return _quoted(value)


def _quoted(text: str) -> str:
    """Bare where that is unambiguous, else in quotes, with the escapes of JSON for all that is not printable."""
    if text and text.isprintable() and not re.search(r'[\s="\\]', text):
        return text
    escaped = json.dumps(text, ensure_ascii=False)
    if escaped.isprintable():
        return escaped
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in escaped)
