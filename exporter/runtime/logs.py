"""Structured logging: one line per event, logfmt or JSON, on top of the standard library.

Fields are hostile: anyone who sends traces chooses the names of services and spans. No content can break out of its
line or forge a field, and logging never raises.
"""

import json
import logging
import math
import re
import sys
import traceback
from collections.abc import Callable, Hashable, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from itertools import islice
from typing import Final, Literal, TextIO

from exporter.runtime.rate_limit import RateLimit
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


def configure(level: str, format: Format, stream: TextIO | None = None) -> None:  # noqa: A002 - the key's name
    """Send all log records, those of libraries included, to one stream in one format; the last call counts.

    Args:
        level: lowest level to write: ``debug``, ``info``, ``warning`` or ``error``.
        format: ``logfmt`` or ``json``.
        stream: defaults to standard error.

    Raises:
        ValueError: unknown level.
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

    The event is a stable key for documents and tests; the message is a fixed text for people and may change. Values go
    into fields, so that both event and message can be searched for. A field may have any type: text, numbers,
    `datetime` (written in UTC), `timedelta` (in seconds), exceptions (type and message), lists, mappings.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, message: str, /, **fields: object) -> None:
        """Log details that help to debug the exporter."""
        self._write(logging.DEBUG, event, message, fields)

    def info(self, event: str, message: str, /, **fields: object) -> None:
        """Log normal operation."""
        self._write(logging.INFO, event, message, fields)

    def warning(self, event: str, message: str, /, **fields: object) -> None:
        """Log a condition that needs attention while the exporter keeps working."""
        self._write(logging.WARNING, event, message, fields)

    def error(self, event: str, message: str, /, **fields: object) -> None:
        """Log a failure that needs action."""
        self._write(logging.ERROR, event, message, fields)

    def exception(self, event: str, message: str, /, **fields: object) -> None:
        """Log an error with the traceback of the current exception in one field."""
        self._write(logging.ERROR, event, message, fields, with_traceback=True)

    def limited(self, interval_seconds: float, clock: Callable[[], float]) -> "LimitedLog":
        """Return this log with a rate limit, for events that could repeat thousands of times."""
        return LimitedLog(self, RateLimit(interval_seconds, clock))

    def _write(
        self, level: int, event: str, message: str, fields: Mapping[str, object], *, with_traceback: bool = False
    ) -> None:
        extra = {_EVENT: event, _FIELDS: fields}
        self._logger.log(level, "%s", message, exc_info=with_traceback, extra=extra)


def get_logger(name: str) -> Log:
    """Return the log of a component, such as ``backfill``, or of a module that passes its ``__name__``."""
    return Log(logging.getLogger(name if name.startswith(f"{_ROOT}.") else f"{_ROOT}.{name}"))


class LimitedLog:
    """Writes each event at most once per interval; the next one carries the number of ``suppressed`` events.

    ``per`` limits events of the same key separately, such as those of different series. Each method returns whether the
    event was written.
    """

    def __init__(self, log: Log, limit: RateLimit) -> None:
        self._log = log
        self._limit = limit

    def debug(self, event: str, message: str, /, *, per: Hashable = None, **fields: object) -> bool:
        """Call `Log.debug`, unless the event was logged within the interval."""
        return self._write_limited(self._log.debug, event, message, per, fields)

    def info(self, event: str, message: str, /, *, per: Hashable = None, **fields: object) -> bool:
        """Call `Log.info`, unless the event was logged within the interval."""
        return self._write_limited(self._log.info, event, message, per, fields)

    def warning(self, event: str, message: str, /, *, per: Hashable = None, **fields: object) -> bool:
        """Call `Log.warning`, unless the event was logged within the interval."""
        return self._write_limited(self._log.warning, event, message, per, fields)

    def error(self, event: str, message: str, /, *, per: Hashable = None, **fields: object) -> bool:
        """Call `Log.error`, unless the event was logged within the interval."""
        return self._write_limited(self._log.error, event, message, per, fields)

    def _write_limited(
        self, write: Callable[..., None], event: str, message: str, per: Hashable, fields: Mapping[str, object]
    ) -> bool:
        suppressed = self._limit.admit((event, per))
        if suppressed is None:
            return False
        write(event, message, **({**fields, "suppressed": suppressed} if suppressed else fields))
        return True


class _Handler(logging.Handler):
    """Writes to a stream; errors of the stream are ignored."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        try:
            line = f"{fresh_line(self._stream)}{text}\n"
            try:
                self._stream.write(line)
            except UnicodeEncodeError:  # the stream's encoding lacks a character
                self._stream.write(line.encode("ascii", "backslashreplace").decode("ascii"))
            self._stream.flush()
        except (OSError, ValueError):  # full, broken or closed: there is nowhere else to report it
            pass


class _Formatter(logging.Formatter):
    """Formats a record, our own or a library's, as one line."""

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
    except Exception:  # noqa: BLE001 - arguments that do not fit the format, or whose __str__ raises
        return str(record.msg) if isinstance(record.msg, str) else _unprintable(record.msg)


def _field_name(name: str) -> str:
    """Return the name as a single word that differs from the fields of every line."""
    word = re.sub(r"[^A-Za-z0-9_.-]", "_", name) or "_"
    return f"{word}_" if word in _RESERVED else word


def _plain(value: object, depth: int = 0) -> Plain:
    """Convert a value to JSON types, with rounded numbers and text of bounded length."""
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
    except Exception:  # noqa: BLE001 - the value's own methods may raise anything
        return _unprintable(value)


def _unprintable(value: object) -> str:
    return f"<unprintable {type(value).__name__}>"


def _text(text: str) -> str:
    """Return text that can be encoded, of bounded length."""
    if len(text) > _MAX_LENGTH:
        text = f"{text[:_MAX_LENGTH]}… ({len(text)} characters)"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _traceback(error: BaseException) -> str:
    """Return the traceback as text; of a long one the end, which names the error."""
    try:
        text = "".join(traceback.format_exception(error)).rstrip()
    except Exception:  # noqa: BLE001 - the exception's own methods may raise anything
        return _unprintable(error)
    return _text(text if len(text) <= _MAX_LENGTH else "…" + text[1 - _MAX_LENGTH :])


def _instant(instant: datetime) -> str:
    if instant.tzinfo is None:
        return instant.isoformat()
    exact = "milliseconds" if instant.microsecond else "seconds"
    return instant.astimezone(UTC).isoformat(timespec=exact)[:-6] + "Z"


def _rounded(value: float) -> Plain:
    """Round to six significant digits; JSON has no infinite numbers and no NaN."""
    return float(_number(value)) if math.isfinite(value) else _number(value)


def _number(value: float) -> str:
    """Format with six significant digits, or more where a Unix timestamp in milliseconds needs them."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if 1e5 <= abs(value) < 1e15:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return f"{value:.6g}"


def _json_line(fields: Mapping[str, Plain]) -> str:
    return json.dumps(fields).replace("\x7f", "\\u007f")  # the one control character that JSON does not escape


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
    """Return the text bare where that is unambiguous, else in quotes with JSON escapes."""
    if text and text.isprintable() and not re.search(r'[\s="\\]', text):
        return text
    escaped = json.dumps(text, ensure_ascii=False)
    if escaped.isprintable():
        return escaped
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in escaped)
