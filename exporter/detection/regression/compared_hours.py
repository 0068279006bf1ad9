"""The hours of a series that regressions are looked for in, each with its distance from the weeks before.

All distances are in buckets, so that only ratios of durations count. Residuals are stored in half buckets, because the
median of an even number of buckets may lie between two.
"""

import zlib
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, chain
from math import log2, sqrt
from operator import mul, sub
from typing import Final, NamedTuple

from exporter.detection.change_point import find_change_point
from exporter.detection.regression.level import HALVES, NO_PRODUCTS, LevelWeights, Products
from exporter.model.calendar import HOUR_SECONDS, DayType
from exporter.model.series_hour import SeriesHour

DAY_SECONDS: Final = 24 * HOUR_SECONDS
REACH_SECONDS: Final = 28 * DAY_SECONDS
"""Hours older than this are forgotten."""
GAP_SECONDS: Final = 3 * DAY_SECONDS
"""Hours younger than this are not compared with: a drift must not become its own reference."""
MIN_REFERENCE_SECONDS: Final = 7 * DAY_SECONDS
"""The weeks before must be at least this long; where there is less history, the gap is shorter instead."""
MIN_REFERENCE_HOURS: Final = 2
"""Minimum number of earlier hours of the same slot."""
MIN_REQUESTS: Final = 100
"""Minimum number of requests in the last days."""
MIN_HOURS: Final = 6
"""Minimum number of hours in them that can be compared."""
MIN_COUNTS: Final = (3, 3, 10)
"""Minimum number of requests of an hour for its 20th percentile, its median and its p90."""
HALF_WEIGHT_REQUESTS: Final = 20
"""An hour of so many requests weighs half as much as one of very many."""
BLOCK_HOURS: Final = 6
"""Length of the parts of a day whose means show how much the hours of a series differ; a divisor of all lengths."""
SEARCH_SECONDS: Final = 14 * DAY_SECONDS
"""The beginning of a regression is looked for in the last days of this length."""
MIN_CHANGED_HOURS: Final = 6
"""Minimum number of hours before and after the beginning."""

_DAY_HOURS: Final = 24
_UNKNOWN: Final = -(2**15)
_BLOCK_SECONDS: Final = BLOCK_HOURS * HOUR_SECONDS
_QUARANTINED: Final = 0x80
_COUNT_STEPS: Final = 6
"""Steps of the stored number of requests per octave."""
_COUNTS: Final = [0.0, *(2 ** (code / _COUNT_STEPS) for code in range(_QUARANTINED - 1))]
_WEIGHTS: Final = [count / (count + HALF_WEIGHT_REQUESTS) for count in _COUNTS] + [0.0] * _QUARANTINED
"""Weight of an hour by its stored number of requests; 0 in quarantine."""
_WEIGHTS_OF_ALL: Final = _WEIGHTS[:_QUARANTINED] * 2
_BYTES_PER_HOUR: Final = 16
_MEDIAN, _P90 = 1, 2


class Distance(NamedTuple):
    """How far the last days are from the weeks before.

    Attributes:
        quantile: 0 for the level, 1 for the p90.
        hours: length of the last days, in hours.
        buckets: mean distance.
        usual_bucket: mean bucket of the median or the p90 in the weeks before, for the same hours.
        weekend_share: share of the hours that are on days like weekend days.
        noise: standard error of the mean, from how the hours differ.
    """

    quantile: int
    hours: int
    buckets: float
    usual_bucket: float
    weekend_share: float
    noise: float


class Block(NamedTuple):
    """Some hours of a day.

    Attributes:
        hours: how many of them are known.
        weight: sum of their weights.
        half_buckets: sum of their weighted residuals, in half buckets.
    """

    hours: int
    weight: float
    half_buckets: float


class ComparedHours:
    """The hours in reach, in time order."""

    def __init__(self, products: Products = NO_PRODUCTS, encoded: bytes = b"") -> None:
        """Continue from what :meth:`encoded` returned and from the products of :class:`.level.LevelWeights`.

        Raises:
            ValueError: the bytes are damaged.
        """
        self._starts: list[int] = []
        self._slots = bytearray()
        self._counts = bytearray()
        self._buckets = (array("h"), array("h"), array("h"))
        self._residuals = (array("h"), array("h"))
        self._level_weights = LevelWeights(products)
        if encoded:
            self._decode(encoded)

    @property
    def products(self) -> Products:
        """See :class:`.level.LevelWeights`."""
        return self._level_weights.products

    @property
    def is_empty(self) -> bool:
        """Whether there is no hour yet."""
        return not self._starts

    # Adding

    def add(self, hour: SeriesHour, since: int, until: int | None, *, is_joint: bool) -> None:
        """Add an hour with traffic, later than all others; :meth:`set_quarantined` says whether it is quarantined.

        Args:
            hour: the hour.
            since: hours that began before are not compared with, Unix seconds.
            until: nor are hours that began at this instant or later.
            is_joint: whether the level is that of three quantiles; otherwise it is the median.

        Raises:
            DamagedDigestError: the stored digest is damaged.
        """
        if self._starts and self._starts[0] < hour.start - REACH_SECONDS:
            stale = bisect_left(self._starts, hour.start - REACH_SECONDS)
            for column in (self._starts, self._slots, self._counts, *self._buckets, *self._residuals):
                del column[:stale]
        slot = hour.slot.hour * 2 + (hour.slot.day_type is DayType.WEEKEND)
        reference, count = self._reference(hour.start, slot, since, until), hour.count
        residuals: list[int | None] = []
        for mine, bucket, least in zip(self._buckets, _buckets_of(hour), MIN_COUNTS, strict=True):
            usual = None
            if reference and count >= least:
                usual = _doubled_median([mine[i] for i in reference if self._count(i) >= least])
            residuals.append(None if usual is None else HALVES * bucket - usual)
            mine.append(bucket)
        level = self._level_weights.level(residuals) if is_joint else residuals[_MEDIAN]
        for column, residual in zip(self._residuals, (level, residuals[_P90]), strict=True):
            column.append(_UNKNOWN if residual is None else _clipped(residual))
        self._starts.append(hour.start)
        self._slots.append(slot)
        self._counts.append(_count_code(count))

    def have_reference(self, hours: Sequence[SeriesHour]) -> bool:
        """Whether any of some hours may have others to be compared with."""
        oldest = self._starts[0] if self._starts else hours[0].start
        return hours[-1].start - oldest >= MIN_REFERENCE_SECONDS

    def add_first(self, hours: Sequence[SeriesHour]) -> None:
        """Add hours without a reference together, as :meth:`add` does one by one."""
        self._starts += [hour.start for hour in hours]
        self._slots += bytes([hour.slot.hour * 2 + (hour.slot.day_type is DayType.WEEKEND) for hour in hours])
        self._counts += bytes([_count_code(hour.count) for hour in hours])
        for column, buckets in zip(self._buckets, zip(*map(_buckets_of, hours), strict=True), strict=True):
            column.extend(buckets)
        for column in self._residuals:
            column.extend([_UNKNOWN] * len(hours))

    def set_quarantined(self, start: int, *, quarantined: bool) -> None:
        """Change whether an hour was anomalous; an hour out of reach is ignored."""
        index = bisect_left(self._starts, start)
        if index < len(self._starts) and self._starts[index] == start:
            self._counts[index] = self._counts[index] & ~_QUARANTINED | (_QUARANTINED if quarantined else 0)

    def forget_distances(self) -> None:
        """Forget how far all hours were from the weeks before them."""
        for residuals in self._residuals:
            residuals[:] = array("h", [_UNKNOWN]) * len(residuals)

    def _reference(self, start: int, slot: int, since: int, until: int | None) -> list[int]:
        """Return the positions of the hours that an hour is compared with; empty if there are too few."""
        starts = self._starts
        first = bisect_left(starts, since)
        if first == len(starts) or start - starts[first] < MIN_REFERENCE_SECONDS:
            return []
        end = max(start - GAP_SECONDS, starts[first] + MIN_REFERENCE_SECONDS)
        last = bisect_left(starts, end if until is None else min(end, until))
        slots, counts, found = self._slots, self._counts, []
        position = slots.find(slot, first, last)
        while position >= 0:
            if counts[position] < _QUARANTINED:
                found.append(position)
            position = slots.find(slot, position + 1, last)
        return found if len(found) >= MIN_REFERENCE_HOURS else []

    # Comparing

    def first_since(self, since: int) -> int | None:
        """Return the start of the first hour that begins at an instant or later, Unix seconds; None without one."""
        first = bisect_left(self._starts, since)
        return self._starts[first] if first < len(self._starts) else None

    def distance(self, now: int, hours: int, quantile: int) -> Distance | None:
        """Compare the last days with the weeks before; None if that is not possible.

        Args:
            now: their end, Unix seconds.
            hours: their length.
            quantile: 0 for the level, 1 for the p90.
        """
        first = bisect_left(self._starts, now - hours * HOUR_SECONDS)
        residuals, codes = self._residuals[quantile][first:], self._counts[first:]
        weights = _weights(codes, hours)
        known = [index for index, each in enumerate(residuals) if each != _UNKNOWN and weights[index]]
        if len(known) < MIN_HOURS or sum(_COUNTS[codes[index] & ~_QUARANTINED] for index in known) < MIN_REQUESTS:
            return None
        values = [residuals[index] / HALVES for index in known]
        own = [weights[index] for index in known]
        total = sum(own)
        mean = sum(map(mul, own, values)) / total
        buckets, slots = self._buckets[_MEDIAN + quantile], self._slots
        level = sum(weight * buckets[first + index] for weight, index in zip(own, known, strict=True)) / total
        weekend = sum(slots[first + index] % 2 for index in known) / len(known)
        variance = sum(weight * (value - mean) ** 2 for weight, value in zip(own, values, strict=True)) / total
        return Distance(quantile, hours, mean, level - mean, weekend, sqrt(variance / len(known)))

    def blocks(self, now: int, quantile: int, most: int) -> list[Block]:
        """Return parts of the days up to an instant, the latest first; quarantined hours are left out.

        Args:
            now: the instant, Unix seconds.
            quantile: 0 for the level, 1 for the p90.
            most: so many parts.
        """
        first, last = bisect_left(self._starts, now - most * _BLOCK_SECONDS), bisect_left(self._starts, now)
        hours, weights, sums = [0] * most, [0.0] * most, [0.0] * most
        residuals = self._residuals[quantile][first:last]
        for start, code, residual in zip(self._starts[first:last], self._counts[first:last], residuals, strict=True):
            if residual != _UNKNOWN and code < _QUARANTINED:
                position = (now - start - 1) // _BLOCK_SECONDS
                hours[position] += 1
                weights[position] += _WEIGHTS[code]
                sums[position] += _WEIGHTS[code] * residual
        return list(map(Block, hours, weights, sums))

    def beginning(self, now: int, distance: Distance) -> tuple[int, int]:
        """Return the earliest and the latest plausible instant at which a regression began."""
        first = bisect_left(self._starts, now - SEARCH_SECONDS)
        weights = _weights(self._counts[first:], distance.hours)
        residuals = self._residuals[distance.quantile][first:]
        known = [index for index, each in enumerate(residuals) if each != _UNKNOWN and weights[index]]
        found = find_change_point(
            [residuals[index] / HALVES for index in known],
            [weights[index] for index in known],
            least_before=MIN_CHANGED_HOURS,
            least_after=MIN_CHANGED_HOURS,
        )
        if found is None:
            since = now - distance.hours * HOUR_SECONDS
            return since - DAY_SECONDS, since
        after = self._starts[first + known[found.first - 1]]
        before = self._starts[first + known[found.last]] + HOUR_SECONDS
        return after, min(before, now)

    def _count(self, index: int) -> float:
        return _COUNTS[self._counts[index] & ~_QUARANTINED]

    # Storing

    def encoded(self) -> bytes:
        """Encode the hours, compressed; empty without any."""
        if not self._starts:
            return b""
        first = self._starts[0]
        # Built without a loop in Python: the hours of ten thousand series are encoded at each turn of the hour.
        steps = array("I", chain((0,), map(sub, self._starts[1:], self._starts)))
        columns = (steps, *self._buckets, *self._residuals)
        head = first.to_bytes(8, "little") + len(steps).to_bytes(4, "little")
        body = b"".join([self._slots, self._counts, *map(array.tobytes, columns)])
        return head + zlib.compress(body, level=1)

    def _decode(self, data: bytes) -> None:
        position, count, body = _decoded_body(data)
        self._slots, self._counts = bytearray(body[:count]), bytearray(body[count : 2 * count])
        steps, *columns = (array(kind) for kind in "Ihhhhh")
        begin = 2 * count
        for column in (steps, *columns):
            end = begin + count * column.itemsize
            column.frombytes(body[begin:end])
            begin = end
        self._starts = list(accumulate(steps, initial=position))[1:]
        self._buckets = (columns[0], columns[1], columns[2])
        self._residuals = (columns[3], columns[4])


def check_encoded(encoded: bytes) -> None:
    """Check encoded hours.

    Raises:
        ValueError: they are damaged.
    """
    if encoded:
        _decoded_body(encoded)


def _weights(codes: Sequence[int], hours: int) -> list[float]:
    """Return the weights of hours; quarantined ones have none, unless they are the rule over more than a day."""
    quarantined = sum(code >= _QUARANTINED for code in codes)
    is_rule = hours > _DAY_HOURS and 2 * quarantined >= len(codes)
    table = _WEIGHTS_OF_ALL if is_rule else _WEIGHTS
    return [table[code] for code in codes]


@lru_cache(maxsize=1)
def _decoded_body(data: bytes) -> tuple[int, int, bytes]:
    """Return the start of the first hour, the number of hours, and their columns.

    Raises:
        ValueError: the bytes are damaged.
    """
    start, count = int.from_bytes(data[:8], "little"), int.from_bytes(data[8:12], "little")
    try:
        body = zlib.decompress(data[12:])
    except zlib.error as error:
        raise ValueError(f"the hours of a regression are damaged: {error}") from None
    if len(body) != _BYTES_PER_HOUR * count or not count:
        raise ValueError("the hours of a regression are damaged: they have the wrong length")
    return start, count, body


@lru_cache(maxsize=4096)
def _count_code(count: int) -> int:
    """Return the stored number of requests."""
    return min(_QUARANTINED - 1, round(_COUNT_STEPS * log2(count)) + 1)


def _doubled_median(values: list[int]) -> int | None:
    """Return twice the median; None for fewer than :data:`MIN_REFERENCE_HOURS` values."""
    if len(values) < MIN_REFERENCE_HOURS:
        return None
    values.sort()
    return values[len(values) // 2] + values[(len(values) - 1) // 2]


def _buckets_of(hour: SeriesHour) -> tuple[int, ...]:
    """Return the buckets of the 20th percentile, the median and the p90 of an hour."""
    return hour.low_bucket, *hour.quantile_buckets[:2]


def _clipped(value: int) -> int:
    return max(_UNKNOWN + 1, min(-_UNKNOWN - 1, value))
