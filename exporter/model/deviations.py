"""Deviations of an hour's evaluation windows from their baseline, at each mark, and counts of them over many hours.

Encoded in one byte for each quantile and mark, by quantile and then by mark: 0 where the deviation is unknown, else 128
plus the deviation in buckets, at most 127 either way (four octaves). Trailing unknown ones are left out, so that an
hour with little traffic takes a few bytes or none.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Final, Self

from exporter.model.calendar import HOUR_SECONDS
from exporter.model.histogram import HIGHEST_BUCKET, ZERO_BUCKET
from exporter.model.histogram_codec import MARK_SECONDS

MARKS: Final = HOUR_SECONDS // MARK_SECONDS
"""Marks of an hour."""
MAX_LANES: Final = 3 * MARKS
"""Length of the encoding: one byte for each quantile and mark."""

ZERO_CODE: Final = 128
MOST_BUCKETS: Final = 127
"""Deviations are clipped to so many buckets either way."""
_FEW_HOURS: Final = 40
"""Up to so many hours are counted one by one."""
_LARGEST: Final = HIGHEST_BUCKET - ZERO_BUCKET
_CODES: Final[dict[int | None, int]] = {
    None: 0,
    # Of any two buckets, so that encoding is one look-up for each mark.
    **{each: ZERO_CODE + max(-MOST_BUCKETS, min(MOST_BUCKETS, each)) for each in range(-_LARGEST, _LARGEST + 1)},
}
_DEVIATIONS: Final[list[int | None]] = [None, *range(1 - ZERO_CODE, 256 - ZERO_CODE)]
_LANE_BYTES: Final = 2
_ONES: Final = int.from_bytes(b"\x01\x00" * MAX_LANES, "little")
_SIGNS: Final = _ONES << 15


def encode_deviations(deviations: Sequence[int | None]) -> bytes:
    """Encode the deviations of an hour, in buckets, by quantile and then by mark; None where unknown."""
    return bytes(map(_CODES.__getitem__, deviations)).rstrip(b"\0")


def deviations_of(encoded: bytes, index: int) -> list[int | None]:
    """Return the deviations for one quantile, by mark."""
    return list(map(_DEVIATIONS.__getitem__, encoded[index * MARKS : (index + 1) * MARKS].ljust(MARKS, b"\0")))


def raised_deviations(encoded: bytes, by: Sequence[int]) -> bytes:
    """Return encoded deviations, with those of each quantile higher by some buckets."""
    return encode_deviations(
        [
            None if each is None else each + buckets
            for index, buckets in enumerate(by)
            for each in deviations_of(encoded, index)
        ]
    )


def compare_medians(before: bytes, encoded: bytes) -> tuple[int, int, int]:
    """Compare the deviations of the medians at each mark of two hours.

    Returns:
        The number of marks at which both are known, how many of those deviations are positive, and at how many of these
        marks one is positive and one is not.
    """
    if not before or not encoded:
        return 0, 0, 0
    (known_before, first), (known_now, second) = _signs(before), _signs(encoded)
    known = known_before & known_now
    first &= known
    second &= known
    return known.bit_count(), first.bit_count() + second.bit_count(), (first ^ second).bit_count()


@lru_cache(maxsize=16)
def _signs(encoded: bytes) -> tuple[int, int]:
    """Return at which marks the deviation of the median is known, and at which it is positive.

    A bit for each mark is set in the lowest bit of its byte.
    """
    medians = encoded[:MARKS]
    known, positive = medians.translate(_AT_LEAST[1]), medians.translate(_AT_LEAST[ZERO_CODE + 1])
    return int.from_bytes(known, "little"), int.from_bytes(positive, "little")


def medians_over_series(series: Sequence[bytes], least: int) -> bytes:
    """Return the median, over the deviations of several series in one hour, of those of their medians at each mark.

    Args:
        series: encoded deviations of each series.
        least: minimum number of series whose deviation is known at a mark; with fewer, it is unknown.

    Returns:
        Encoded deviations for each mark of the hour; with an even number of series the mean of two, rounded down.
    """
    columns = zip(*[each[:MARKS].ljust(MARKS, b"\0") for each in series], strict=True)
    medians = bytearray()
    for column in columns:
        known = sorted(filter(None, column))
        count = len(known)
        medians.append((known[(count - 1) // 2] + known[count // 2]) // 2 if count >= least else 0)
    return bytes(medians).ljust(MARKS, b"\0")


def lanes_above(hours: Sequence[bytes], least: int, limit: int, *, inherit: bool = False) -> dict[int, int]:
    """Return the lanes whose median, over at least ``least`` hours, lies above a limit in buckets, with that median.

    With ``inherit``, a quantile that fewer hours know at a mark has the median of the next lower one.
    """
    hours = list(filter(None, hours))
    if len(hours) < least:
        return {}
    counts = DeviationCounts(limit, hours)
    return medians_of(hours, counts.lanes_above(), least, inherit=inherit)


def medians_of(hours: Sequence[bytes], lanes: Iterable[int], least: int, *, inherit: bool) -> dict[int, int]:
    """Return the median deviation in some lanes, in ascending order, where at least ``least`` hours know it.

    With ``inherit``, also in the same lanes of higher quantiles that fewer hours know.
    """
    found: dict[int, int] = {}
    for lane in lanes:
        median = median_deviation(hours, lane, least)
        if median is not None:
            found[lane] = median
    if inherit:
        for lane in range(MARKS, MAX_LANES):
            if lane not in found and lane - MARKS in found and median_deviation(hours, lane, least) is None:
                found[lane] = found[lane - MARKS]
    return found


def median_deviation(hours: Iterable[bytes], lane: int, least: int) -> int | None:
    """Return the median (the lower of two) of the known deviations in a lane; None with fewer than ``least``."""
    known = sorted([each[lane] for each in hours if len(each) > lane and each[lane]])
    return known[(len(known) - 1) // 2] - ZERO_CODE if len(known) >= least else None


class DeviationCounts:
    """How many hours have a known deviation in each lane, and how many one above a limit.

    All lanes are counted by one addition of integers that have 16 bits for each, because evaluating history adds and
    removes millions of hours. At most 32,767 hours can be counted.
    """

    __slots__ = ("_above", "_known", "_limit")

    def __init__(self, limit: int, hours: Collection[bytes] = ()) -> None:
        """Count deviations above ``limit`` buckets, of some hours to begin with."""
        self._limit = limit
        if len(hours) <= _FEW_HOURS:
            all_known = all_above = 0
            for each in hours:
                known, above = _flags(each, limit)
                all_known += known
                all_above += above
            self._known, self._above = all_known, all_above
            return
        # All hours of a lane at once: far cheaper than adding hour by hour.
        encoded = b"".join([each.ljust(MAX_LANES, b"\0") for each in hours])
        self._known = _column_sums(encoded.translate(_AT_LEAST[1]))
        self._above = _column_sums(encoded.translate(_AT_LEAST[ZERO_CODE + limit + 1]))

    @classmethod
    def of(cls, limit: int, counts: tuple[int, int]) -> Self:
        """Continue from the :attr:`counts` of an object with the same limit."""
        self = cls(limit)
        self._known, self._above = counts
        return self

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of known deviations, and of those above the limit, in 16 bits for each lane."""
        return self._known, self._above

    def add(self, encoded: bytes) -> None:
        """Add an hour."""
        known, above = _flags(encoded, self._limit)
        self._known += known
        self._above += above

    def add_all(self, hours: Collection[bytes]) -> None:
        """Add some hours."""
        others = DeviationCounts(self._limit, hours)
        self._known += others._known
        self._above += others._above

    def subtract(self, encoded: bytes) -> None:
        """Remove an hour that was added."""
        known, above = _flags(encoded, self._limit)
        self._known -= known
        self._above -= above

    def lanes_above(self) -> list[int]:
        """Return the lanes whose median, the lower of two, lies above the limit."""
        if not self._above:
            return []
        # The sign bit of a lane is set if 2 * above > known.
        signs = (_SIGNS + 2 * self._above - self._known - _ONES) & _SIGNS
        if not signs:
            return []
        found = signs.to_bytes(_LANE_BYTES * MAX_LANES, "little")
        return [lane for lane in range(MAX_LANES) if found[_LANE_BYTES * lane + 1]]


def _column_sums(flags: bytes) -> int:
    """Return the sums of flags, given for one hour after the other, in 16 bits for each lane."""
    sums = [flags[lane::MAX_LANES].count(1) for lane in range(MAX_LANES)] if flags else ()
    return sum([each << 8 * _LANE_BYTES * lane for lane, each in enumerate(sums) if each])


_AT_LEAST: Final = [bytes(byte >= least for byte in range(256)) for least in range(257)]


@lru_cache(maxsize=4096)
def _flags(encoded: bytes, limit: int) -> tuple[int, int]:
    """Return in which lanes the deviation is known, and in which it lies above a limit."""
    lanes = bytearray(_LANE_BYTES * len(encoded))
    lanes[::_LANE_BYTES] = encoded.translate(_AT_LEAST[1])
    known = int.from_bytes(lanes, "little")
    lanes[::_LANE_BYTES] = encoded.translate(_AT_LEAST[ZERO_CODE + limit + 1])
    return known, int.from_bytes(lanes, "little")
