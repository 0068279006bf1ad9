"""The usual traffic of a series: requests in an hour, how they are distributed within it, and how much both vary.

Counts vary more than independent requests would, from day to day and within the hour. The negative binomial
distribution has a mean ``m`` and the variance ``m + d m²``; its dispersion ``d`` is learned from the history.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from math import inf
from operator import add, mul
from typing import Final, NamedTuple, TypeVar

from exporter.baseline.levels import FallbackLevel, FallbackRules, is_mature, is_recurring
from exporter.model.calendar import HOUR_SECONDS, DayType, LocalHour, Slot
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.series_hour import StoredWindow
from exporter.model.traffic import window_traffic

MARKS: Final = HOUR_SECONDS // MARK_SECONDS
"""Marks of an hour."""
MIN_USUAL_REQUESTS: Final = 20
"""A window is judged if so many requests are usual in it."""
PATTERN_MIN_HOURS: Final = 12
"""The pattern within the hour is known after so many hours with traffic."""
PATTERN_MAX_HOURS: Final = 672
_SCALES: Final = (1, 3, 6)
"""Lengths in marks of the windows by which the dispersion within the hour is learned."""
_SCALE_SECONDS: Final = tuple(marks * MARK_SECONDS for marks in _SCALES)
ROUNDING: Final = 1.5 * 2.0**52
"""Adding and subtracting this rounds a float to the nearest integer; exact up to 2^51, so for squared counts up to
47 million."""
_PEAK: Final = 1.5
"""A mark with this multiple of the mean has a peak; of part of such a mark, nothing is expected."""
_LEAST_SPECIFIC: Final = FallbackLevel.NEARBY
"""The other levels pool other times of the day, with other traffic: far below their median is any night."""
_PRIOR_DISPERSION: Final = 0.02
_PRIOR_HOURS: Final = 4.0
_AFTER_MIDDLE: Final = tuple((mark % MARKS + 0.5) / MARKS - 0.5 for mark in range(MARKS // 2, MARKS))
"""How far the marks of the second half of an hour are from its middle, in hours."""
_MIN_SLOT_HOURS: Final = 3
_CHANGE_PARTS: Final = 4
"""A change shows in each of so many parts of the time that it must last: half a day without traffic is none."""

_Number = TypeVar("_Number", int, float)


class HourPattern(NamedTuple):
    """How the requests of a series are distributed within the hour. Encoded by position.

    Attributes:
        hours: number of hours with traffic that were added.
        counts: their requests by mark of the hour; empty without any.
        excess: for each scale, the sum of the squared differences from the pattern, without those by chance.
        squares: for each scale, the sum of the squared expectations.
    """

    hours: int = 0
    counts: tuple[int, ...] = ()
    excess: tuple[int, ...] = (0,) * len(_SCALES)
    squares: tuple[int, ...] = (0,) * len(_SCALES)

    def check(self) -> None:
        """Check what was decoded.

        Raises:
            ValueError: it is no pattern.
        """
        if len(self.counts) not in (0, MARKS) or {len(self.excess), len(self.squares)} != {len(_SCALES)}:
            msg = "the pattern within the hour is damaged"
            raise ValueError(msg)

    @property
    def is_known(self) -> bool:
        """Whether it is known well enough for verdicts."""
        return self.hours >= PATTERN_MIN_HOURS

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the requests of an hour by mark; even without traffic."""
        total = sum(self.counts)
        return tuple([count / total for count in self.counts]) if total else (1 / MARKS,) * MARKS

    def dispersion(self, seconds: float) -> float:
        """Return the dispersion of windows of a length within their hour."""
        scale = max(0, bisect_right(_SCALE_SECONDS, seconds) - 1)
        if not self.squares[scale]:
            return 0.0
        return max(0.0, self.excess[scale] / self.squares[scale])

    def with_hour(self, requests: Sequence[int]) -> "HourPattern":
        """Return the pattern with one more hour, given as requests by mark."""
        total = sum(requests)
        if not total:
            return self
        excess, squares = self.excess, self.squares
        if self.is_known:
            of_scales = zip(excess, squares, requests_by_scale(requests), requests_by_scale(self.shares), strict=True)
            excess, squares = zip(*[_with_excess(*of_scale, total) for of_scale in of_scales], strict=True)
        counts = tuple(map(add, self.counts or (0,) * MARKS, requests))
        pattern = HourPattern(self.hours + 1, counts, excess, squares)
        if pattern.hours < PATTERN_MAX_HOURS:
            return pattern
        return pattern.halved()

    def halved(self) -> "HourPattern":
        """Return the pattern with half the weight: old hours count for less and less."""
        return HourPattern(
            self.hours // 2,
            tuple(count // 2 for count in self.counts),
            tuple(value // 2 for value in self.excess),
            tuple(value // 2 for value in self.squares),
        )


def _with_excess(
    excess: int, squares: int, requests: Sequence[int], shares: Sequence[float], total: int
) -> tuple[int, int]:
    """Return the excess and the squares of a pattern with the windows of one more hour.

    Args:
        excess: the excess before.
        squares: the squares before.
        requests: requests of each window.
        shares: share of the requests of an hour that is usual in each.
        total: requests of the hour.
    """
    more_excess = more_squares = 0.0
    for number, share in zip(requests, shares):  # noqa: B905 - called three times for each hour
        expected = total * share
        difference = number - expected
        # Each term is rounded to an integer, so that the sums are exact; round() would take five times as long.
        more_excess += (difference * difference - expected * (1 - share) + ROUNDING) - ROUNDING
        more_squares += (expected * expected + ROUNDING) - ROUNDING
    return excess + int(more_excess), squares + int(more_squares)


def requests_by_scale(values: Sequence[_Number]) -> tuple[Sequence[_Number], Sequence[_Number], Sequence[_Number]]:
    """Return what belongs to the marks of an hour, and its sums over a quarter and over half of the hour."""
    # Called twice for each hour: sum() would take ten times as long.
    a, b, c, d, e, f, g, h, i, j, k, m = values
    first, third = a + b + c, g + h + i
    return values, (first, d + e + f, third, j + k + m), (first + d + e + f, third + j + k + m)


NO_PATTERN: Final = HourPattern()


def requests_by_mark(marks: Iterable[tuple[int, Sequence[object]]], start: int) -> list[int]:
    """Return the number of requests at each mark of an hour; what ended in later hours counts for its minutes.

    Args:
        marks: marks in Unix seconds with the requests that ended up to each.
        start: start of the hour, Unix seconds.
    """
    counts = [0] * MARKS
    for mark, requests in marks:
        counts[((mark - start) // MARK_SECONDS - 1) % MARKS] += len(requests)
    return counts


class TrafficHour(NamedTuple):
    """The requests of a series in a local hour of which they are known; there may be none.

    Attributes:
        hour: the hour.
        requests: number of requests.
    """

    hour: LocalHour
    requests: float


class SourceHour(NamedTuple):
    """A local hour that was read as a whole while the source had its usual traffic.

    Attributes:
        hour: the hour.
        windows: start and coverage of each of its windows.
    """

    hour: LocalHour
    windows: tuple[tuple[int, float], ...]


def traffic_hours(stored: Iterable[StoredWindow], source: Iterable[SourceHour]) -> Iterator[TrafficHour]:
    """Yield the requests of a series by hour, from the first hour with traffic on.

    Args:
        stored: its windows.
        source: the hours whose counts can be compared, in time order.
    """
    window_at = {window.start: window for window in stored if window.traces}.get
    is_first = True
    for hour, windows in source:
        requests = 0.0
        for start, coverage in windows:
            window = window_at(start)
            if window is None:
                continue
            if coverage >= 1 and window.requests is None:
                requests += window.traces
            else:
                requests += window_traffic(window.traces, window.requests, coverage).requests or 0.0
        if requests or not is_first:
            is_first = False
            # As TrafficHour() does, in half the time.
            yield tuple.__new__(TrafficHour, (hour, requests))


class TrafficBaseline(NamedTuple):
    """The usual traffic of a series around a local hour. Encoded by position.

    Attributes:
        start: start of the hour, Unix seconds.
        before: usual requests in the hour before.
        requests: usual requests in this hour.
        after: usual requests in the hour after.
        dispersion: dispersion of the requests of an hour.
        level: fallback level that serves.
        hours: number of pooled hours.
        pattern: pattern within the hour.
        tolerated: times at which people have marked less traffic as normal: the first five-minute mark, relative to
            ``start``, the one behind the last, and the share of the usual.
    """

    start: int
    before: float
    requests: float
    after: float
    dispersion: float
    level: FallbackLevel
    hours: int
    pattern: HourPattern = NO_PATTERN
    tolerated: tuple[tuple[int, int, float], ...] = ()

    def expected(self, since: float, until: float) -> float:
        """Return the usual number of requests in ``(since, until]``, from an hour before ``start`` to an hour after.

        Traffic changes from one hour to the next gradually, so it is interpolated between the middles of the hours, but
        never above that of the hour itself: work that begins on the hour is no gradual change.
        """
        counts, hourly, total = self.pattern.counts, (self.before, self.requests, self.after), 0.0
        of_all = sum(counts)
        for mark, part, own, neighbour, weight in _pieces(since - self.start, until - self.start):
            share = counts[mark % MARKS] / of_all if of_all else 1 / MARKS
            if part < 1 and share * MARKS > _PEAK:
                # Where in the mark the peak lies is not known.
                continue
            usual = hourly[own]
            between = usual + (hourly[neighbour] - usual) * weight
            number = (min(between, usual)) * share * part
            total += number * self._tolerated_share(mark) if self.tolerated else number
        return total

    def by_mark(self, first: int, count: int) -> list[float]:
        """Return the usual number of requests at consecutive marks, as :meth:`expected` does for whole marks.

        Args:
            first: the first mark, Unix seconds.
            count: number of marks.
        """
        usual = self._by_mark(first, count)
        if not self.tolerated:
            return usual
        position = (first - self.start) // MARK_SECONDS - 1
        return [value * self._tolerated_share(position + index) for index, value in enumerate(usual)]

    def _by_mark(self, first: int, count: int) -> list[float]:
        shares = self.pattern.shares
        position = (first - self.start) // MARK_SECONDS - 1
        if position == -MARKS and count == 2 * MARKS:
            # Nearly always: the hour and the one before.
            before, own, after = self.before, self.requests, self.after
            hourly = [min(before, before + (own - before) * weight) for weight in _AFTER_MIDDLE]
            hourly += [min(own, own + (before - own) * weight) for weight in reversed(_AFTER_MIDDLE)]
            hourly += [min(own, own + (after - own) * weight) for weight in _AFTER_MIDDLE]
            first_half = [before * share for share in shares[: MARKS // 2]]
            return first_half + list(map(mul, hourly, (*shares[MARKS // 2 :], *shares)))
        return [self._hourly(mark) * shares[mark % MARKS] for mark in range(position, position + count)]

    def dispersion_of(self, seconds: float) -> float:
        """Return the dispersion of the requests in a window of a length."""
        return self.dispersion + self.pattern.dispersion(seconds)

    def _tolerated_share(self, mark: int) -> float:
        return min([share for first, behind, share in self.tolerated if first <= mark < behind], default=1.0)

    def _hourly(self, mark: int) -> float:
        own, neighbour, weight = _interpolation(mark)
        hourly = self.before, self.requests, self.after
        return min(hourly[own], hourly[own] + (hourly[neighbour] - hourly[own]) * weight)


class _Piece(NamedTuple):
    """A mark of which some is in a range of time.

    Attributes:
        mark: the mark, counted from the start of an hour.
        part: how much of it is in the range.
        own: the hour that it belongs to: 0 for the hour before, 1, or 2 for the hour after.
        neighbour: the hour next to it.
        weight: how much the neighbour counts.
    """

    mark: int
    part: float
    own: int
    neighbour: int
    weight: float


@lru_cache(maxsize=1024)
def _pieces(since: float, until: float) -> tuple[_Piece, ...]:
    """Return the marks in a range, given relative to the start of an hour: those of all series are the same."""
    return tuple(
        _Piece(
            mark,
            (min(until, (mark + 1) * MARK_SECONDS) - max(since, mark * MARK_SECONDS)) / MARK_SECONDS,
            *_interpolation(mark),
        )
        for mark in range(int(since // MARK_SECONDS), int(-(-until // MARK_SECONDS)))
    )


def _interpolation(mark: int) -> tuple[int, int, float]:
    """Return the hour of a mark, the one next to it, and how much that one counts."""
    hour, position = mark // MARKS, (mark % MARKS + 0.5) / MARKS
    own = min(2, max(0, hour + 1))
    neighbour = own - 1 if position < 0.5 else own + 1
    return own, min(2, max(0, neighbour)), abs(position - 0.5)


def traffic_baseline(
    history: Sequence[TrafficHour],
    hours: Sequence[LocalHour],
    rules: FallbackRules,
    pattern: HourPattern,
    *,
    drop: float,
    accept_after_seconds: int,
    quarantined: frozenset[int] = frozenset(),
) -> TrafficBaseline | None:
    """Return the usual traffic of a series in an hour; None while it is learning.

    Args:
        history: hours of the series in time order, from the first one with traffic.
        hours: the hour before, the hour, and the hour after.
        rules: which levels may serve.
        pattern: pattern within the hour.
        drop: share of the usual traffic below which it has dropped.
        accept_after_seconds: a change that lasts this long is the usual.
        quarantined: starts of anomalous hours; see :class:`TrafficRecord`.
    """
    record = TrafficRecord(history, rules, drop=drop, accept_after_seconds=accept_after_seconds)
    record.move_to(hours[1].start, quarantined=quarantined)
    return record.baseline(hours, pattern)


class TrafficRecord:
    """The hours of a series in the look-back of an hour that moves on, with the usual traffic that follows from them.

    Quarantined hours are not pooled, unless they recur at their hour of the day or follow an accepted change.

    Attributes:
        changepoint: start of the present traffic, Unix seconds, if it differs from that before and has lasted long
            enough; older hours are not pooled then.
        has_accepted: whether most hours since then are quarantined: they are pooled, because the change is accepted.
    """

    __slots__ = (
        "_accept_after_seconds",
        "_all",
        "_at",
        "_at_most",
        "_drop",
        "_hours",
        "_known",
        "_left_out",
        "_most",
        "_next",
        "_numbers",
        "_pools",
        "_present",
        "_quarantined",
        "_rules",
        "changepoint",
        "has_accepted",
    )

    def __init__(
        self,
        hours: Iterable[TrafficHour],
        rules: FallbackRules,
        *,
        drop: float,
        accept_after_seconds: int,
        at_most: float = inf,
    ) -> None:
        """Take hours in time order, those that follow the first :meth:`move_to` included.

        Args:
            hours: hours of the series; looked at on first use, since most series have too few requests for a verdict.
            rules: which levels may serve.
            drop: share of the usual traffic below which it has dropped.
            accept_after_seconds: a change that lasts this long is the usual.
            at_most: upper bound of the requests of an hour.
        """
        self._hours: Iterable[TrafficHour] | None = hours
        self._at_most = at_most
        self._all: list[TrafficHour] = []
        self._most = 0.0
        self._rules = rules
        self._drop = drop
        self._accept_after_seconds = accept_after_seconds
        self._at = 0
        self._left_out: frozenset[int] = frozenset()
        self._quarantined: frozenset[int] = frozenset()
        self._next = 0
        self._known: list[TrafficHour] = []
        # The numbers of their slots.
        self._numbers: list[int] = []
        self._pools = self._present = _Pools(rules, frozenset())
        self.changepoint: int | None = None
        self.has_accepted = False

    def append(self, hour: TrafficHour) -> None:
        """Add an hour later than all others."""
        self._load()
        self._all.append(hour)
        self._most = max(self._most, hour.requests)
        self._at_most = inf

    def _load(self) -> None:
        if self._hours is not None:
            self._all, self._hours = list(self._hours), None
            self._most = max([hour.requests for hour in self._all], default=0.0)

    def move_to(
        self, at: int, *, left_out: frozenset[int] = frozenset(), quarantined: frozenset[int] = frozenset()
    ) -> None:
        """Let the hours count that are known in an hour: those of the look-back, without the hour just before.

        Args:
            at: start of the hour, Unix seconds.
            left_out: starts of hours whose counts cannot be compared.
            quarantined: starts of anomalous hours.
        """
        self._load()
        if at < self._at or (left_out is not self._left_out and left_out != self._left_out):
            self._next, self._known, self._numbers = 0, [], []
            self._pools = _Pools(self._rules, quarantined)
        elif quarantined is not self._quarantined and quarantined != self._quarantined:
            self._pools.set_quarantined(quarantined)
        self._at, self._left_out, self._quarantined = at, left_out, quarantined
        known, pools = self._known, self._pools
        since, until = at - self._rules.lookback_seconds, at - HOUR_SECONDS
        while self._next < len(self._all):
            hour = self._all[self._next]
            start = hour.hour.start
            if start >= until:
                break
            self._next += 1
            if start >= since and start not in left_out and (hour.requests or known):
                known.append(hour)
                self._numbers.append(pools.append(hour))
        # The record of a series begins with its first traffic.
        while known and (known[0].hour.start < since or not known[0].requests):
            pools.discard_first(known.pop(0))
            del self._numbers[0]
        position = self._position_of_change()
        self._present, self.changepoint, self.has_accepted = pools, None, False
        if position:
            changed = known[position:]
            self.changepoint = changed[0].hour.start
            anomalous = sum([hour.hour.start in quarantined for hour in changed])
            self.has_accepted = 2 * anomalous >= len(changed)
            self._present = _Pools(self._rules, frozenset() if self.has_accepted else quarantined)
            for hour in changed:
                self._present.append(hour)

    @property
    def is_ever_busy(self) -> bool:
        """Whether any hour, known already or not, has as many requests as a verdict needs."""
        if self._at_most < MIN_USUAL_REQUESTS:
            return False
        self._load()
        return self._most >= MIN_USUAL_REQUESTS

    @property
    def most_requests(self) -> float:
        """The most requests of an hour, known already or not; the usual requests are never more."""
        self._load()
        return self._most

    def usual_of(self, before: LocalHour, hour: LocalHour) -> tuple[float, float] | None:
        """Return the usual requests in the hour before and in an hour, as in :meth:`baseline`; None without."""
        usual = self._present.usual(hour.slot)
        if usual is None or not usual.mature:
            return None
        usual_before = self._present.usual(before.slot)
        return usual.requests if usual_before is None else usual_before.requests, usual.requests

    def usual_by_slot(self) -> dict[Slot, float]:
        """Return the usual requests of an hour by slot; those without a mature pool are left out."""
        usual = {slot: self._present.usual(slot) for slot in self._rules.by_slot}
        return {slot: each.requests for slot, each in usual.items() if each is not None and each.mature}

    def baseline(
        self, hours: Sequence[LocalHour], pattern: HourPattern, *, with_dispersion: bool = True
    ) -> TrafficBaseline | None:
        """Return the usual traffic in the hour that the record has moved to; None while the series is learning.

        Args:
            hours: the hour before, the hour, and the hour after.
            pattern: pattern within the hour.
            with_dispersion: whether the dispersion is computed; it takes most of the time, and is 0 without.
        """
        if not pattern.is_known or max([hour.requests for hour in self._known], default=0.0) < MIN_USUAL_REQUESTS:
            return None
        before, usual, after = (self._present.usual(hour.slot) for hour in hours)
        if usual is None or not usual.mature:
            return None
        return TrafficBaseline(
            hours[1].start,
            usual.requests if before is None else before.requests,
            usual.requests,
            usual.requests if after is None else after.requests,
            self._present.dispersion(usual) if with_dispersion else 0.0,
            usual.level,
            len(usual.pool),
            pattern,
        )

    def _position_of_change(self) -> int:
        """Return the position of the first hour of a change that has lasted until now, long enough; 0 without one."""
        known, length = self._known, self._accept_after_seconds
        if not known:
            return 0
        begin, position = known[-1].hour.end, len(known)
        while True:
            # Most hours follow one another.
            first = max(0, position - length // HOUR_SECONDS)
            while first and known[first - 1].hour.start >= begin - length:
                first -= 1
            while first < position and known[first].hour.start < begin - length:
                first += 1
            # A block that is known in part says nothing.
            if 2 * (position - first) * HOUR_SECONDS < length:
                break
            requests = [hour.requests for hour in known[first:position]]
            medians = self._pools.medians(self._numbers[first:position])
            usual = [0.0 if middle is None else middle for middle in medians]
            if None in medians:
                requests = [0.0 if middle is None else each for each, middle in zip(requests, medians, strict=True)]
            total = sum(usual)
            if total < MIN_USUAL_REQUESTS or not self._is_changed(requests, usual, total):
                break
            begin, position = begin - length, first
        return 0 if position == len(known) else position

    def _is_changed(self, requests: Sequence[float], expected: Sequence[float], total_expected: float) -> bool:
        """Whether hours, and each part of them that says something, have far less traffic than usual, or far more.

        Args:
            requests: their requests.
            expected: the usual ones; where these are not known, both are 0.
            total_expected: sum of the usual ones.
        """
        drop, total = self._drop, sum(requests)
        if total_expected * drop <= total <= total_expected / drop:
            # Nearly always.
            return False
        length = -(-len(requests) // _CHANGE_PARTS)
        for first in range(0, len(requests), length):
            part, part_expected = sum(requests[first : first + length]), sum(expected[first : first + length])
            is_known = part_expected >= MIN_USUAL_REQUESTS
            if is_known and (part >= part_expected * drop if total < total_expected else part <= part_expected / drop):
                return False
        return True


class _Usual(NamedTuple):
    """The usual traffic in a slot, and the requests of the pooled hours."""

    requests: float
    level: FallbackLevel
    pool: Sequence[float]
    mature: bool


class _Pools:
    """The hours of a series by slot, with figures that are computed on first use."""

    __slots__ = ("_exact", "_found", "_hours", "_medians", "_pooled", "_quarantined", "_rules", "_spreads")

    def __init__(self, rules: FallbackRules, quarantined: frozenset[int]) -> None:
        self._rules = rules
        self._quarantined = quarantined
        self._hours: dict[int, list[TrafficHour]] = {}
        self._pooled: dict[int, Sequence[TrafficHour]] = {}
        self._medians: dict[int, float] = {}
        self._spreads: dict[int, tuple[float, float]] = {}
        # By slot: those that depend on the hours of this slot alone, and the others.
        self._exact: dict[int, _Usual] = {}
        self._found: dict[int, _Usual] = {}

    def append(self, hour: TrafficHour) -> int:
        """Add an hour later than all others; return the number of its slot."""
        number = _number(hour.hour.slot)
        if number in self._hours:
            self._hours[number].append(hour)
        else:
            self._hours[number] = [hour]
        if self._pooled:
            # While a history is loaded there are no figures to forget: all others follow from pooled hours.
            self._forget(number)
        return number

    def discard_first(self, hour: TrafficHour) -> None:
        """Drop an hour earlier than all others."""
        number = _number(hour.hour.slot)
        del self._hours[number][0]
        self._forget(number)

    def set_quarantined(self, quarantined: frozenset[int]) -> None:
        """Replace the starts of the quarantined hours."""
        self._quarantined = quarantined
        for figures in (self._pooled, self._medians, self._spreads, self._exact, self._found):
            figures.clear()

    def pooled(self, number: int) -> Sequence[TrafficHour]:
        """Return the hours of a slot that are pooled."""
        pooled = self._pooled.get(number)
        if pooled is None:
            pooled = hours = self._hours.get(number, [])
            if self._quarantined:
                pooled = [hour for hour in hours if hour.hour.start not in self._quarantined]
                if is_recurring(len(hours) - len(pooled), len(pooled)):
                    pooled = hours
            self._pooled[number] = pooled
        return pooled

    def median(self, number: int) -> float | None:
        """Return the median of the requests in the hours of a slot; None without any."""
        found = self._medians.get(number)
        if found is None:
            pooled = self.pooled(number)
            if not pooled:
                return None
            found = self._medians[number] = _median([hour.requests for hour in pooled])
        return found

    def medians(self, numbers: Sequence[int]) -> list[float | None]:
        """Return the medians of several slots."""
        found = list(map(self._medians.get, numbers))
        if None in found:
            found = [self.median(number) for number in numbers]
        return found

    def usual(self, slot: Slot) -> _Usual | None:
        """Return the usual traffic in a slot by the first level that is mature, else by the first that has enough."""
        number = _number(slot)
        found = self._exact.get(number) or self._found.get(number)
        if found is None:
            found = self._find_usual(slot)
            if found is not None:
                is_exact = found.level is FallbackLevel.EXACT and found.mature
                (self._exact if is_exact else self._found)[number] = found
        return found

    def _find_usual(self, slot: Slot) -> _Usual | None:
        found: _Usual | None = None
        for level, min_samples, slots in self._rules.by_slot[slot]:
            if level > _LEAST_SPECIFIC:
                break
            pools = [pool for number in _numbers(slots) if number in self._hours and (pool := self.pooled(number))]
            requests = [hour.requests for pool in pools for hour in pool]
            total = sum(requests)
            if not requests or total < min_samples:
                continue
            first, last = min([pool[0].hour for pool in pools]), max([pool[-1].hour for pool in pools])
            mature = is_mature(level, (len(requests), int(total), first, last))
            if not mature and found is not None:
                continue
            middle = self.median(_number(slot)) if len(slots) == 1 else None
            found = _Usual(_median(requests) if middle is None else middle, level, requests, mature)
            if mature:
                return found
        return found

    def dispersion(self, usual: _Usual) -> float:
        """Return the dispersion of the requests of an hour around the usual."""
        general, hours = self._general_dispersion(), len(usual.pool)
        own = _dispersion_of(usual.pool, usual.requests)
        return max(general, (own * hours + general * _PRIOR_HOURS) / (hours + _PRIOR_HOURS))

    def _general_dispersion(self) -> float:
        """Return the dispersion around the median of the slot, over all slots."""
        excess = squares = 0.0
        count = 0
        for number in sorted(self._hours):
            hours = self.pooled(number)
            if len(hours) < _MIN_SLOT_HOURS:
                continue
            spread = self._spreads.get(number)
            if spread is None:
                requests = [hour.requests for hour in hours]
                middle = _median(requests)
                spread = self._spreads[number] = _excess(requests, middle), len(requests) * middle * middle
            excess += spread[0]
            squares += spread[1]
            count += len(hours)
        if not squares:
            return _PRIOR_DISPERSION
        own = max(0.0, excess / squares)
        return (own * count + _PRIOR_DISPERSION * _PRIOR_HOURS) / (count + _PRIOR_HOURS)

    def _forget(self, number: int) -> None:
        self._pooled.pop(number, None)
        self._medians.pop(number, None)
        self._spreads.pop(number, None)
        self._exact.pop(number, None)
        self._found.clear()


def _number(slot: Slot) -> int:
    """Return a number for a slot: numbers are hashed faster."""
    return slot.hour + 24 * (slot.day_type is DayType.WEEKEND)


@cache
def _numbers(slots: frozenset[Slot]) -> tuple[int, ...]:
    return tuple(sorted(map(_number, slots)))


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _dispersion_of(requests: Sequence[float], middle: float) -> float:
    if len(requests) < 2 or middle <= 0:
        return 0.0
    excess = _excess(requests, middle)
    return max(0.0, excess / (len(requests) * middle * middle))


def _excess(requests: Sequence[float], middle: float) -> float:
    """Return the squared differences from the middle without those by chance; rises count as far as drops can."""
    correction = len(requests) / (len(requests) - 1)
    return sum((min(each, 2 * middle) - middle) ** 2 * correction - middle for each in requests)
