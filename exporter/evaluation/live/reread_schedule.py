"""Decides which seconds of the live edge a poll cycle reads, so that late spans are found and few are fetched again.

Spans become searchable some time after their end, so every second is read more than once:

- in each cycle until it is one interval old, which finds what is searchable at once;
- at the ages that :func:`reread_ages` chooses for the lateness that was learned;
- for the last time when it is at least ``polling.tempo_lookback`` old. Traces do not become fewer, so this read finds
  everything that reading the whole lookback in each cycle would have found, if later.

While little is known, each cycle reads the whole lookback: after the start, with little traffic, and after a cycle that
found much less than the cycles before, since all spans may be late then.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

_HALF_LIFE_SECONDS: Final = 600
"""After this time, what was learned counts for half."""
_MIN_SPANS: Final = 30
"""With fewer spans found recently, their lateness is unknown."""
_MAX_READS: Final = 3.4
"""How often a span may be fetched on average as far as planned; ranges overlap at their ends, which adds to that."""
_FETCH_PRICE_SECONDS: Final = 0.1
"""Fetching all spans once more must find them at least this much sooner on average."""
_MAX_BINS: Final = 60
_ITERATIONS: Final = 30
_PLAN_EVERY: Final = 4
"""Cycles after which the ages are chosen again."""
_FINAL_EVERY: Final = 2
"""Cycles after which seconds are read for the last time, together to save requests."""
_LEARN_CYCLES: Final = 8
"""Cycles after the start that read everything. In each of them spans of every lateness arrive."""
_STEADY_CYCLES: Final = 8
_STEADY_SPANS: Final = 10
_SUDDEN_DROP: Final = 0.5
_NEARLY_ALL: Final = 0.9
"""Share of the spans from which on a second is complete enough to count its requests."""
FUTURE_SECONDS: Final = 2
"""How far beyond now a search reaches: clocks of traced services run ahead, and Tempo searches whole seconds."""


class Lateness:
    """How long after their end spans become searchable, as a distribution over bins of equal length.

    When a span became searchable is known only to lie between two reads of its second. The distribution is the one
    that explains all these intervals best (Turnbull's self-consistent estimate for interval-censored data).
    """

    def __init__(self, bin_seconds: float, bins: int) -> None:
        """Start without knowledge.

        Args:
            bin_seconds: length of a bin.
            bins: number of bins; spans that are later count for the last one.
        """
        self._bin_seconds = bin_seconds
        self._bins = bins
        self._found: dict[tuple[int, int], float] = {}

    @property
    def spans(self) -> float:
        """Spans observed, older ones at a lower weight."""
        return sum(self._found.values())

    def observe(self, after: float, by: float, spans: int) -> None:
        """Add spans that became searchable at an age in ``(after, by]`` seconds."""
        first = min(self._bins - 1, max(0, int(after / self._bin_seconds)))
        behind = min(self._bins, max(first + 1, math.ceil(by / self._bin_seconds)))
        self._found[first, behind] = self._found.get((first, behind), 0.0) + spans

    def fade(self, seconds: float) -> None:
        """Lower the weight of everything observed so far, as time has passed."""
        factor = 0.5 ** (max(0.0, seconds) / _HALF_LIFE_SECONDS)
        self._found = {range_: spans * factor for range_, spans in self._found.items() if spans * factor > 0.01}

    def shares(self) -> list[float]:
        """Share of the spans that become searchable at an age in each bin."""
        total = self.spans
        if not total:
            return [0.0] * self._bins
        shares = [1 / self._bins] * self._bins
        for _ in range(_ITERATIONS):
            below = [0.0, *accumulate(shares)]
            weights = [0.0] * (self._bins + 1)
            for (first, behind), spans in self._found.items():
                inside = below[behind] - below[first]
                if inside > 0:
                    weights[first] += spans / inside
                    weights[behind] -= spans / inside
            weights = list(accumulate(weights[:-1]))
            shares = [max(0.0, share * weight / total) for share, weight in zip(shares, weights, strict=True)]
        return shares


def reread_ages(
    shares: Sequence[float],
    bin_seconds: float,
    interval_seconds: float,
    lookback_seconds: float,
    max_reads: float = _MAX_READS,
) -> tuple[float, ...]:
    """Choose the ages at which each second is read again, between its first and its last read.

    Ages are added one by one, each time the one that finds spans soonest for what it costs, as long as that pays.

    Args:
        shares: share of the spans that become searchable at an age in each bin.
        bin_seconds: length of a bin; ages are multiples of it.
        interval_seconds: time between cycles; a second is read in the first cycle in which it has the age.
        lookback_seconds: age of the last read.
        max_reads: how often a span may be fetched on average, first and last read included.

    Returns:
        The ages in seconds, ascending.
    """
    found = [0.0, *accumulate(shares)]
    moments = [0.0, *accumulate(share * (number + 0.5) * bin_seconds for number, share in enumerate(shares))]

    def until(cumulated: Sequence[float], age: float) -> float:
        position = min(age / bin_seconds, len(shares))
        whole = min(int(position), len(shares) - 1)
        return cumulated[whole] + (cumulated[whole + 1] - cumulated[whole]) * (position - whole)

    # A second is between 0 and one interval old when it is read first.
    phases = max(1, round(interval_seconds / bin_seconds))
    firsts = [(phase + 0.5) * interval_seconds / phases for phase in range(phases)]

    def outcome(ages: Sequence[float]) -> tuple[float, float]:
        """How often a span is fetched, and how long it is searchable before it is found, both on average."""
        reads = waited = 0.0
        for first in firsts:
            at, found_before, moment_before = first, 0.0, 0.0
            for age in (first, *ages, lookback_seconds):
                read_at = first + math.ceil(max(0.0, age - first) / interval_seconds) * interval_seconds
                if read_at > at or age == first:
                    at = read_at
                    found_by, moment = until(found, at), until(moments, at)
                    reads += found_by
                    waited += at * (found_by - found_before) - (moment - moment_before)
                    found_before, moment_before = found_by, moment
        return reads / phases, waited / phases

    ages: tuple[float, ...] = ()
    reads, waited = outcome(ages)
    candidates = {number * bin_seconds for number in range(1, math.ceil(lookback_seconds / bin_seconds))}
    while True:
        best: tuple[float, float, float, tuple[float, ...]] | None = None
        for age in sorted(candidates.difference(ages)):
            more = tuple(sorted((*ages, age)))
            more_reads, less_waited = outcome(more)
            cost, gain = more_reads - reads, waited - less_waited
            # The smallest gain would otherwise be rounding.
            if more_reads <= max_reads and gain > _FETCH_PRICE_SECONDS * cost + 1e-6:
                value = gain / (cost + _FETCH_PRICE_SECONDS)
                if best is None or value > best[0]:
                    best = value, more_reads, less_waited, more
        if best is None:
            return ages
        _, reads, waited, ages = best


class RereadSchedule:
    """Which seconds were read when, and which are to be read next. Not thread-safe.

    A span belongs to the second in which it ended: second ``s`` is ``(s - 1, s]``.

    Attributes:
        settled: all seconds up to this one need no more reading; None before the first read.
    """

    def __init__(self, interval_seconds: float, lookback_seconds: float, max_back_seconds: float) -> None:
        """Start without knowledge.

        Args:
            interval_seconds: time between cycles.
            lookback_seconds: age at which a second is read for the last time.
            max_back_seconds: seconds older than this are not read, not even after a pause.
        """
        self._interval = interval_seconds
        self._lookback = lookback_seconds
        # A search begins at a whole second, so a cycle reaches up to a second further back than the lookback.
        self._final_age = lookback_seconds + 1
        self._max_back = max_back_seconds
        self._bin_seconds = max(interval_seconds / 3, lookback_seconds / _MAX_BINS)
        self._last_age = lookback_seconds + 2 * _FINAL_EVERY * interval_seconds
        self._lateness = Lateness(self._bin_seconds, math.ceil(self._last_age / self._bin_seconds))
        self._ages: tuple[float, ...] | None = None
        self._plan_in = 0
        self._started_at = self._at = 0.0
        self._rates: deque[float] = deque(maxlen=_STEADY_CYCLES)
        self._whole_until = -math.inf
        self._read_at: dict[int, float] = {}
        self.settled: int | None = None

    @property
    def ages(self) -> tuple[float, ...] | None:
        """Ages in seconds at which seconds are read again before their last read; None while all are."""
        return None if self._at < self._whole_until else self._ages

    @property
    def searchable_seconds(self) -> float:
        """Age at which nearly all spans are searchable, as far as learned; else that of the last read."""
        if self._lateness.spans < _MIN_SPANS:
            return self._lookback
        found = 0.0
        for number, share in enumerate(self._lateness.shares(), start=1):
            found += share
            if found >= _NEARLY_ALL:
                return min(self._lookback, number * self._bin_seconds)
        return self._lookback

    def start(self, now: float, since: float) -> None:
        """Note that everything that ended since an instant was read for the first time.

        Args:
            now: when it was read, Unix seconds.
            since: Unix seconds.
        """
        self._started_at = self._at = now
        self.settled = int(now - self._final_age)
        self._read_at = dict.fromkeys(range(max(self.settled, int(since)) + 1, int(now) + FUTURE_SECONDS + 1), now)

    def ranges(self, now: float) -> list[tuple[int, int]]:
        """Return the ranges to search, in Unix seconds, newest first; their ends belong to them.

        Args:
            now: Unix seconds.
        """
        if self.settled is None or now < self._at:
            # After the clock was set back, what is recent was not read as far as is known.
            self.settled, self._read_at = int(now - self._final_age), {}
        first = max(self.settled, int(now - self._max_back)) + 1
        last = int(now) + FUTURE_SECONDS
        ranges: list[tuple[int, int]] = []
        begin, is_urgent = 0, False
        for second in range(first, last + 1):
            urgency = self._urgency(second, now)
            if urgency:
                begin = begin or second
                is_urgent |= urgency >= 1
            else:
                if is_urgent:
                    ranges.append((begin - 1, second - 1))
                begin, is_urgent = 0, False
        # The newest seconds are always among them.
        ranges.append((begin - 1, last))
        return ranges[::-1]

    def _urgency(self, second: int, now: float) -> float:
        """How urgent it is to read a second: 0 if it needs no reading yet, 1 or more if it must be read now."""
        age = now - second
        read_at = self._read_at.get(second)
        if read_at is None or age < self._interval or (self.ages is None and age < self._final_age):
            return 1.0
        ages = (0.0, *(self._ages or ()), self._final_age)
        due_at_age = ages[bisect_right(ages, age) - 1]
        if read_at - second >= due_at_age:
            return 0.0
        cycles = _FINAL_EVERY if due_at_age == self._final_age else 1
        # Cycles are not exactly one interval apart.
        return (age - due_at_age + 0.001) / ((cycles - 0.25) * self._interval)

    def finish(
        self,
        now: float,
        ranges: Sequence[tuple[int, int]],
        found: Mapping[int, int],
        *,
        is_complete: bool,
        share: float = 1.0,
        overhead: float = 1.0,
    ) -> dict[float, int]:
        """Note what was read, once its spans are counted, and learn how late they were.

        Args:
            now: when it was read, Unix seconds.
            ranges: what was read.
            found: number of spans that were new, by the second in which they ended.
            is_complete: whether all of it was read; otherwise it is due again in the next cycle.
            share: share of the time that was read.
            overhead: spans fetched for every one that ended in the range searched.

        Returns:
            Number of new spans by the time from their end until they were found, in seconds, of those that were looked
            for all that time.
        """
        if now < self._at:
            self._started_at, self._whole_until = now, -math.inf
        delays = dict(self._learn(now, found))
        self._notice_drop(now, sum(found.values()) / share)
        self._at = now
        settled = int(now - self._final_age) if self.settled is None else self.settled
        if is_complete:
            settled = max(settled, int(now - self._max_back))
            for first, last in ranges:
                self._read_at.update(dict.fromkeys(range(first + 1, last + 1), now))
        else:
            # What could not be read in time is not waited for any longer.
            settled = max(settled, int(now - self._last_age + _FINAL_EVERY * self._interval))
        while self._read_at.get(settled + 1, 0) - (settled + 1) >= self._final_age:
            settled += 1
        self.settled = settled
        self._read_at = {second: at for second, at in self._read_at.items() if second > settled}
        self._plan(now, overhead)
        return delays

    def _learn(self, now: float, found: Mapping[int, int]) -> Iterator[tuple[float, int]]:
        self._lateness.fade(now - self._at)
        for second, spans in found.items():
            delay = max(0.0, now - second + 0.5)
            read_at = self._read_at.get(second)
            is_first_read = read_at is None and delay < 2 * self._interval
            if delay <= self._last_age and (read_at is not None or is_first_read):
                after = 0.0 if read_at is None else read_at - second + 0.5
                self._lateness.observe(after, delay, spans)
                yield delay, spans

    def _notice_drop(self, now: float, spans: float) -> None:
        """Read everything for a while after a cycle that found much less than all of the cycles before."""
        passed = now - self._at
        if passed < self._interval / 2:
            return
        rate, rates = spans / passed, self._rates
        usual = min(rates) if len(rates) == _STEADY_CYCLES else 0.0
        if usual * self._interval >= _STEADY_SPANS and rate < _SUDDEN_DROP * usual:
            self._whole_until = now + self._lookback + _FINAL_EVERY * self._interval
        rates.append(rate)

    def _plan(self, now: float, overhead: float) -> None:
        self._plan_in -= 1
        if self._plan_in > 0 or now - self._started_at < _LEARN_CYCLES * self._interval:
            return
        self._plan_in = _PLAN_EVERY
        self._ages = None
        if self._lateness.spans >= _MIN_SPANS:
            self._ages = reread_ages(
                self._lateness.shares(),
                self._bin_seconds,
                self._interval,
                self._lookback,
                _MAX_READS / max(1.0, overhead),
            )
