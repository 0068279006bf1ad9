"""Marks on time: ranges of time of which people know something about some series.

Not to be confused with the five-minute marks of :mod:`.histogram_codec`, which divide an hour.
"""

import calendar
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

from dateutil.rrule import rrule, rrulestr

from exporter.model.calendar import HOUR_SECONDS, HourClock
from exporter.model.pattern import Pattern
from exporter.model.series_hour import StoredWindow
from exporter.model.span import SeriesKey

_DAY_SECONDS: Final = 24 * HOUR_SECONDS
REACH_SECONDS: Final = 35 * _DAY_SECONDS
"""Marks that ended longer ago do not change an evaluation any more: longer than the reach of any comparison."""
MAX_RECURRING_SECONDS: Final = 31 * _DAY_SECONDS
"""Maximum length of a range that recurs."""
MAX_RULE_CHARACTERS: Final = 200

_GRID_SECONDS: Final = 7 * _DAY_SECONDS
_MAX_CACHED: Final = 50_000
"""Series whose marks are remembered; names in requests to the API are not trusted, so there is a limit."""
_PARTS: Final = frozenset({"FREQ", "INTERVAL", "COUNT", "UNTIL", "BYDAY", "BYMONTHDAY", "BYMONTH", "BYSETPOS", "WKST"})
_FREQUENCIES: Final = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")
_UNTIL: Final = re.compile(r"(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)(\d\d)(Z?))?")
_LEAP_YEAR: Final = 2000


class MarkKind(StrEnum):
    """What people know about a range of time."""

    EXPECTED = "expected"
    """A load test or a migration: neither flagged nor learned."""
    INCIDENT = "incident"
    """It was an incident, whether flagged or not: kept out of the baselines."""
    NORMAL = "normal"
    """What was flagged there is how it is: released from quarantine, and tolerated when it repeats."""


LEFT_OUT: Final = frozenset({MarkKind.EXPECTED, MarkKind.INCIDENT})
"""Hours with these marks are left out of the history."""
QUIET: Final = frozenset({MarkKind.EXPECTED, MarkKind.NORMAL})
"""Nothing is flagged in ranges with these marks."""


class MarkSource(StrEnum):
    """Where a mark is from."""

    CONFIGURATION = "configuration"
    FILE = "file"
    API = "api"
    ALERTMANAGER = "alertmanager"


class LabelMatcher(NamedTuple):
    """A condition on a label of a series, as Alertmanager has it.

    Attributes:
        name: ``service_name``, ``span_name`` or a label of ``series.labels``; a label that is absent is empty.
        value: the value, or an expression for it.
        pattern: the expression for the whole value; None for the value itself.
        is_equal: False if the label must not match.
    """

    name: str
    value: str
    pattern: Pattern | None = None
    is_equal: bool = True

    @classmethod
    def of(cls, name: str, value: str, *, is_regex: bool, is_equal: bool) -> "LabelMatcher":
        """Compile a condition.

        Raises:
            PatternError: the expression is invalid.
        """
        return cls(name, value, Pattern(rf"\A(?:{value})\z") if is_regex else None, is_equal)

    def __str__(self) -> str:
        equal, unequal = ("=", "!=") if self.pattern is None else ("=~", "!~")
        return f"{self.name}{equal if self.is_equal else unequal}{self.value}"

    def selects(self, key: SeriesKey) -> bool:
        """Whether a series meets the condition."""
        label = key.parameters.get(self.name, "")
        is_met = label == self.value if self.pattern is None else self.pattern.search(label)
        return is_met is self.is_equal


@dataclass(frozen=True, slots=True)
class TimeMark:
    """A range of time, once or recurring, for the series that it matches.

    Attributes:
        kind: what is known about it.
        match: expression that is searched for in the texts of a series, as in overrides; or conditions on labels, all
            of which must hold.
        start: start of the range, or of the first one, Unix seconds.
        end: its end, exclusive.
        zone: the time zone in which it recurs.
        rule: recurrence rule (RFC 5545), checked by :func:`check_rule`; empty for a range that does not recur.
        comment: what people wrote about it.
        source: where it is from.
        id: its id, if it is stored.
    """

    kind: MarkKind
    match: Pattern | tuple[LabelMatcher, ...]
    start: int
    end: int
    zone: tzinfo = UTC
    rule: str = ""
    comment: str = ""
    source: MarkSource = MarkSource.CONFIGURATION
    id: str = ""

    @property
    def match_text(self) -> str:
        """What it matches, for people."""
        if isinstance(self.match, Pattern):
            return self.match.text
        return ", ".join(map(str, self.match))

    def selects(self, key: SeriesKey) -> bool:
        """Whether it is about a series."""
        if isinstance(self.match, Pattern):
            return any(map(self.match.search, key.matched_texts))
        return all(each.selects(key) for each in self.match)

    def ranges(self, since: int, until: int) -> Iterator["MarkRange"]:
        """Yield its ranges that overlap ``[since, until)``, in time order."""
        if not self.rule:
            if self.start < until and since < self.end:
                yield MarkRange(self.start, self.end, self)
            return
        length = self.end - self.start
        # On a coarse grid, so that all series share the same few results.
        first = (since - length) // _GRID_SECONDS * _GRID_SECONDS
        last = -(-until // _GRID_SECONDS) * _GRID_SECONDS
        for start in _occurrences(self.rule, self.start, self.zone, first, last):
            if start < until and since < start + length:
                yield MarkRange(start, start + length, self)


class MarkRange(NamedTuple):
    """One range of a mark: start, inclusive, and end, exclusive, in Unix seconds."""

    start: int
    end: int
    mark: TimeMark

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is flagged in it."""
        return self.mark.kind in QUIET


def check_rule(text: str, start: datetime) -> None:
    """Check a recurrence rule.

    Only what is needed for ranges of hours is supported, so that no rule takes long to expand.

    Args:
        text: such as ``FREQ=WEEKLY;BYDAY=SU``.
        start: the beginning of the first range.

    Raises:
        ValueError: it is none, or not supported; the message is the predicate of a sentence about it.
    """
    if len(text) > MAX_RULE_CHARACTERS:
        raise ValueError(f"must have at most {MAX_RULE_CHARACTERS} characters")
    parts = _rule_parts(text)
    if unknown := sorted(parts.keys() - _PARTS):
        raise ValueError(f"must not contain {unknown[0]}: supported are {', '.join(sorted(_PARTS))}")
    frequency = parts.get("FREQ", "")
    if frequency not in _FREQUENCIES:
        raise ValueError(f"must contain FREQ with one of {', '.join(_FREQUENCIES)}, as in FREQ=WEEKLY;BYDAY=SU")
    interval = parts.get("INTERVAL", "1")
    if not interval.isdecimal() or not int(interval):
        raise ValueError("must have an INTERVAL of at least 1")
    if "COUNT" in parts and "UNTIL" in parts:
        raise ValueError("must not contain both COUNT and UNTIL")
    filters = parts.keys() & {"BYDAY", "BYMONTHDAY", "BYMONTH", "BYSETPOS"}
    if frequency == "DAILY" and (("INTERVAL" in parts and filters) or "BYSETPOS" in parts):
        raise ValueError("must not contain INTERVAL with BY… or BYSETPOS where FREQ=DAILY; use another FREQ")
    try:
        rule = _compiled(text, start)
        _check_days(parts)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise ValueError("must be a recurrence rule of RFC 5545, such as FREQ=WEEKLY;BYDAY=SU") from None
    if rule.after(start - timedelta(seconds=1), inc=True) is None:
        raise ValueError("must recur at least once: no date meets it")


def _rule_parts(text: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for item in text.upper().removeprefix("RRULE:").split(";"):
        name, separator, value = item.partition("=")
        if not separator or not value or name in parts:
            raise ValueError("must be a recurrence rule of RFC 5545, such as FREQ=WEEKLY;BYDAY=SU")
        parts[name] = value
    return parts


def _check_days(parts: dict[str, str]) -> None:
    """Check that a month has one of the days; otherwise looking for one would take until the year 9999.

    Raises:
        ValueError: it has none.
    """
    months = [int(each) for each in parts["BYMONTH"].split(",")] if "BYMONTH" in parts else list(range(1, 13))
    days = [int(each) for each in parts["BYMONTHDAY"].split(",")] if "BYMONTHDAY" in parts else [1]
    longest = max(calendar.monthrange(_LEAP_YEAR, month)[1] for month in months)
    if not any(1 <= abs(day) <= longest for day in days):
        raise ValueError


def _compiled(text: str, start: datetime) -> rrule:
    parts = _rule_parts(text)
    if "UNTIL" in parts:
        found = _UNTIL.fullmatch(parts["UNTIL"])
        if found is None:
            raise ValueError
        year, month, day = map(int, found.groups()[:3])
        if found[4] is None:
            # A date: all of that day.
            until = datetime(year, month, day, 23, 59, 59, tzinfo=start.tzinfo)
        else:
            hour, minute, second = map(int, found.groups()[3:6])
            until = datetime(year, month, day, hour, minute, second, tzinfo=UTC if found[7] else start.tzinfo)
        parts["UNTIL"] = until.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    rule: Any = rrulestr(";".join(f"{name}={value}" for name, value in parts.items()), dtstart=start)
    if not isinstance(rule, rrule):
        raise TypeError
    return rule


@lru_cache(maxsize=1024)
def _occurrences(text: str, start: int, zone: tzinfo, since: int, until: int) -> Sequence[int]:
    """Return the beginnings of recurring ranges in ``[since, until)``; the clock on the wall decides."""
    rule = _compiled(text, datetime.fromtimestamp(start, zone))
    begin, end = (datetime.fromtimestamp(max(0, each), zone) for each in (since, until))
    return tuple(sorted({round(each.timestamp()) for each in rule.between(begin, end, inc=True)}))


class SeriesMarks:
    """The marks of one series. Immutable, apart from what it remembers; thread-safe."""

    def __init__(self, marks: tuple[TimeMark, ...]) -> None:
        """Take the marks that select the series."""
        self._marks = marks
        # Series with the same marks share this object, and a tick asks for the same time for each of them.
        self._last: tuple[tuple[int, int, Collection[MarkKind]], Sequence[MarkRange]] | None = None

    def ranges(self, since: float, until: float, kinds: Collection[MarkKind] = tuple(MarkKind)) -> Sequence[MarkRange]:
        """Return the ranges that overlap ``[since, until)``, by their start."""
        first = int(since)
        asked = first, max(first + 1, int(until)), kinds
        last = self._last
        if last is not None and last[0] == asked:
            return last[1]
        found = [each for mark in self._marks if mark.kind in kinds for each in mark.ranges(*asked[:2])]
        found.sort(key=lambda each: each[:2])
        self._last = asked, found
        return found

    def at(self, instant: float) -> list[MarkRange]:
        """Return the ranges that contain an instant."""
        return [each for each in self.ranges(instant, instant + 1) if each.start <= instant < each.end]

    def quiet_ranges(self, since: float, until: float) -> list[tuple[int, int]]:
        """Return the times in ``[since, until)`` in which nothing is flagged, merged, in time order."""
        return merged_ranges(self.ranges(since, until, QUIET))

    def is_left_out(self, start: int, end: int) -> bool:
        """Whether ``[start, end)`` is left out of the history, at least in part."""
        return bool(self.ranges(start, end, LEFT_OUT))

    def kept(self, windows: Sequence[StoredWindow], clock: HourClock) -> list[StoredWindow]:
        """Return the windows, in time order, of the local hours that are not left out."""
        if not windows:
            return []
        outer = clock.hour(windows[0].start).start, clock.hour(windows[-1].start).end
        ranges = merged_ranges(self.ranges(*outer, LEFT_OUT))
        if not ranges:
            return list(windows)
        return [window for window in windows if not _touches(ranges, window.start, clock)]

    def signature(self, until: int) -> str:
        """Return what the evaluation of the history before an instant depends on; empty for nothing.

        Args:
            until: end of the evaluated history, Unix seconds.
        """
        oldest = until - REACH_SECONDS
        parts = [(str(each.mark.kind), each.start, min(each.end, until)) for each in self.ranges(oldest, until)]
        return sha256(repr(sorted(set(parts))).encode()).hexdigest()[:16] if parts else ""


def _touches(ranges: Iterable[tuple[int, int]], start: int, clock: HourClock) -> bool:
    hour = clock.hour(start)
    return any(first < hour.end and hour.start < end for first, end in ranges)


def merged_ranges(ranges: Iterable[MarkRange]) -> list[tuple[int, int]]:
    """Return the starts and ends of ranges, by start, with those that overlap or touch as one."""
    merged: list[tuple[int, int]] = []
    for start, end, _ in ranges:
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


class TimeMarks:
    """All marks. Immutable, apart from what it remembers; thread-safe."""

    def __init__(self, marks: Iterable[TimeMark] = ()) -> None:
        """Take marks from all sources."""
        self.marks = tuple(marks)
        self._by_matches: dict[tuple[int, ...], SeriesMarks | None] = {(): None}
        self._by_key: dict[SeriesKey, SeriesMarks | None] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TimeMarks) and self.marks == other.marks

    def __hash__(self) -> int:
        return hash(self.marks)

    def __bool__(self) -> bool:
        return bool(self.marks)

    def __reduce__(self) -> "tuple[Callable[..., TimeMarks], tuple[Any, ...]]":
        """Make it picklable, without what it has resolved so far."""
        return type(self), (self.marks,)

    def of(self, key: SeriesKey) -> SeriesMarks | None:
        """Return the marks of a series; None without any. Series with the same marks share them."""
        if not self.marks:
            return None
        try:
            return self._by_key[key]
        except KeyError:
            pass
        matches = tuple(position for position, mark in enumerate(self.marks) if mark.selects(key))
        if matches not in self._by_matches:
            self._by_matches[matches] = SeriesMarks(tuple(self.marks[position] for position in matches))
        if len(self._by_key) >= _MAX_CACHED:
            self._by_key.clear()
        found = self._by_key[key] = self._by_matches[matches]
        return found


NO_MARKS: Final = TimeMarks()
"""No marks."""
