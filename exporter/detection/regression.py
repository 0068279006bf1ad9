"""Regressions: small lasting changes, and slow drift, found by comparing days instead of minutes.

For each settled hour the level of its durations and their p90 are compared with those of the same slot in the weeks
before. The mean of these distances over the last day, or the last few days, is a regression if it is both large and far
outside of how such means moved before. The weeks before end three days before the hour, or with the beginning of a
regression, so that neither a drift nor a regression becomes its own reference.

The distance of the level is a weighted mean of those of the 20th percentile, the median and the p90. A change that all
requests share moves the three alike, and chance does not: the weights are those with which the hours differed least
(control variates). Where requests have either of two durations, the percentile between them moves by chance the most.

All distances are in buckets, so that only ratios of durations count. Residuals are stored in half buckets, because the
median of an even number of buckets may lie between two.
"""

import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from math import log2, sqrt
from operator import mul, sub
from typing import Final, NamedTuple

from exporter.detection.change_point import find_change_point
from exporter.detection.parameters import Parameters
from exporter.model.calendar import HOUR_SECONDS, DayType, LocalHour
from exporter.model.histogram import BUCKETS_PER_OCTAVE, bucket_middle_seconds
from exporter.model.hours import QUANTILES, SeriesHour

DAY_SECONDS: Final = 24 * HOUR_SECONDS

# The constants below are part of the method and not meant to be tuned.

REACH_SECONDS: Final = 28 * DAY_SECONDS
"""Hours older than this are forgotten."""
GAP_SECONDS: Final = 3 * DAY_SECONDS
"""Hours younger than this are not compared with: a drift must not become its own reference."""
MIN_REFERENCE_SECONDS: Final = 7 * DAY_SECONDS
"""The weeks before must be at least this long; where there is less history, the gap is shorter instead."""
MIN_REFERENCE_HOURS: Final = 2
"""Minimum number of earlier hours of the same slot."""
WINDOW_HOURS: Final = (24, 30, 36, 42, 48, 60, 72, 96, 168)
"""The last so many hours are compared with the weeks before."""
EVALUATION_HOURS: Final = 6
"""A verdict is due whenever so many hours of the local day have passed: a regression lasts for days."""

MIN_REQUESTS: Final = 100
"""Minimum number of requests in the last days."""
MIN_HOURS: Final = 6
"""Minimum number of hours in them that can be compared."""
MIN_DAY_HOURS: Final = 6
"""Minimum number of such hours of an earlier day."""
MIN_COUNTS: Final = (3, 3, 10)
"""Minimum number of requests of an hour for its 20th percentile, its median and its p90."""
HALF_WEIGHT_REQUESTS: Final = 20
"""An hour of so many requests weighs half as much as one of very many."""

MIN_KNOWN_SECONDS: Final = 2 * DAY_SECONDS
"""Days that can be compared must be known for this time: the days before show how much days differ."""
SIGNIFICANCE: Final = (2.2, 2.95)
"""Number of standard deviations from which a distance is significant, where these are known exactly, of the level and
of the p90. Nearly all regressions show in the level, and the p90 is a second chance for a false one."""
UNCERTAIN_DAYS: Final = 12
"""With so many degrees of freedom, those of the prior included, twice as many standard deviations are required; with
twice as many degrees half more."""
BLOCK_HOURS: Final = 6
"""Length of the parts of a day whose means show how much the hours of a series differ; a divisor of all lengths."""
PRIOR_DAY_BUCKETS: Final = 1.4
"""How much whole days differ beyond what their hours explain, in a series without history: 0.044 octave."""
PRIOR_DAYS: Final = 6
"""Weight of that and of what the hours explain, in days."""
MAX_INDEPENDENT_DAYS: Final = 2
"""Days drift: the mean of a week is not more certain than that of so many independent days."""
MAX_EARLIER_DAYS: Final = 20
"""How many earlier days show how much days differ."""
RESOLVE_SHARE: Final = 0.5
"""A regression is over once the last day is nearer to the reference than this share of the logarithm of the ratio."""
SEARCH_SECONDS: Final = 14 * DAY_SECONDS
"""The beginning of a regression is looked for in the last days of this length."""
MIN_CHANGED_HOURS: Final = 6
"""Minimum number of hours before and after the beginning."""

_UNKNOWN: Final = -(2**15)
_MIN_TREND_POINTS: Final = 3
_NO_PRODUCTS: Final = (0.0, 0.0, 0.0, 0.0, 0.0)
_HALVES: Final = 2
_BLOCK_SECONDS: Final = BLOCK_HOURS * HOUR_SECONDS
_BLOCKS_PER_DAY: Final = DAY_SECONDS // _BLOCK_SECONDS
_BLOCKS: Final = WINDOW_HOURS[-1] // BLOCK_HOURS + MAX_EARLIER_DAYS * _BLOCKS_PER_DAY
_QUARANTINED: Final = 0x80
_COUNT_STEPS: Final = 6
"""Steps of the stored number of requests per octave."""
_COUNTS: Final = [0.0, *(2 ** (code / _COUNT_STEPS) for code in range(_QUARANTINED - 1))]
_WEIGHTS: Final = [count / (count + HALF_WEIGHT_REQUESTS) for count in _COUNTS] + [0.0] * _QUARANTINED
"""Weight of an hour by its stored number of requests; 0 in quarantine."""
_WEIGHTS_OF_ALL: Final = _WEIGHTS[:_QUARANTINED] * 2
_BYTES_PER_HOUR: Final = 16
_MEDIAN, _P90 = 1, 2
_COMPARED: Final = QUANTILES[:2]
"""What a regression is reported of, for the level and for the p90."""
WEIGHT_HOURS: Final = 14 * 24
"""The weights of the quantiles are those of about so many hours."""
PRIOR_WEIGHT_HOURS: Final = 6
"""Weight of the prior of these, by which only the median counts, in hours."""
PRIOR_WEIGHT_BUCKETS: Final = 4
"""By how much quantiles of an hour move apart in a series without history."""
MAX_WEIGHED_BUCKETS: Final = 16
"""Larger distances count as so large for the weights: an incident must not decide them."""


class Regression(NamedTuple):
    """A regression.

    Attributes:
        raised_at: when it was found, Unix seconds.
        began_after: earliest plausible instant at which it began, Unix seconds.
        began_before: latest plausible one.
        quantile: what has changed most clearly: 0.5 or 0.9.
        ratio: that quantile over the last days, relative to the weeks before; updated while the regression lasts.
        before_seconds: that quantile in the weeks before, as the geometric mean over hours like those of the last days.
        hours: the last so many hours are meant.
        deviations: distance in standard deviations of such means, when it was found.
    """

    raised_at: int
    began_after: int
    began_before: int
    quantile: float
    ratio: float
    before_seconds: float
    hours: int
    deviations: float

    @property
    def began(self) -> int:
        """The middle of the interval in which it began, Unix seconds."""
        return (self.began_after + self.began_before) // 2


class RegressionEvent(StrEnum):
    """What happened to a regression."""

    RAISED = "raised"
    RESOLVED = "resolved"
    ACCEPTED = "accepted"


class RegressionChange(NamedTuple):
    """A regression was found, went away or was accepted.

    Attributes:
        event: what happened.
        at: when, Unix seconds.
        regression: the regression, as it was last.
    """

    event: RegressionEvent
    at: int
    regression: Regression


class RegressionState(NamedTuple):
    """State of a series, from which :class:`RegressionTracker` continues.

    Attributes:
        hours: the hours in reach, encoded.
        since: hours that began before are not compared with: the beginning of an accepted regression.
        is_judged: whether the last verdict was possible.
        current: the present regression.
        products: see :class:`_LevelWeights`.
    """

    hours: bytes = b""
    since: int = 0
    is_judged: bool = False
    current: Regression | None = None
    products: tuple[float, float, float, float, float] = _NO_PRODUCTS


NO_REGRESSION_STATE: Final = RegressionState()


class _Distance(NamedTuple):
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


class _Block(NamedTuple):
    """Some hours of a day.

    Attributes:
        hours: how many of them are known.
        weight: sum of their weights.
        half_buckets: sum of their weighted residuals, in half buckets.
    """

    hours: int
    weight: float
    half_buckets: float


class _LevelWeights:
    """Weights of the 20th percentile, the median and the p90 of an hour in its level, learned hour by hour.

    The level is the median, corrected by how far the others lie from it: by as much of these two distances as the
    median followed before. A change that all share leaves both distances as they are, and the weights as well.

    Attributes:
        products: sums of products over the hours, the later ones weighing more: of the distances of the 20th percentile
            and of the p90 from the median, with one another and with that of the median from the weeks before.
    """

    def __init__(self, products: tuple[float, float, float, float, float]) -> None:
        """Continue from such sums."""
        self.products = products

    def level(self, residuals: Sequence[int | None]) -> int | None:
        """Return the distance of the level from those of the quantiles, and learn from these.

        Distances are in half buckets, and None where they are unknown; the level is where the median is.
        """
        low, middle, high = residuals
        if middle is None:
            return None
        if low is None or high is None:
            return middle
        of_low, of_high = self._shares()
        least, most = -_HALVES * MAX_WEIGHED_BUCKETS, _HALVES * MAX_WEIGHED_BUCKETS
        below = max(least, min(most, low - middle)) / _HALVES
        above = max(least, min(most, high - middle)) / _HALVES
        centre = max(least, min(most, middle)) / _HALVES
        kept = 1 - 1 / WEIGHT_HOURS
        low_low, low_high, high_high, low_middle, high_middle = self.products
        self.products = (
            kept * low_low + below * below,
            kept * low_high + below * above,
            kept * high_high + above * above,
            kept * low_middle + below * centre,
            kept * high_middle + above * centre,
        )
        return middle + round(of_low * (low - middle) + of_high * (high - middle))

    def _shares(self) -> tuple[float, float]:
        """Return the weights of the 20th percentile and of the p90; the median has the rest."""
        low, both, high, low_middle, high_middle = self.products
        prior = PRIOR_WEIGHT_HOURS * PRIOR_WEIGHT_BUCKETS**2
        low, high = low + prior, high + prior
        determinant = low * high - both * both
        of_low = max(0.0, (both * high_middle - high * low_middle) / determinant)
        of_high = max(0.0, (both * low_middle - low * high_middle) / determinant)
        total = max(1.0, of_low + of_high)
        return of_low / total, of_high / total


class RegressionTracker:
    """Follows one series from hour to hour, in time order."""

    def __init__(self, parameters: Parameters, state: RegressionState = NO_REGRESSION_STATE) -> None:
        """Continue from a state.

        Raises:
            ValueError: the state is damaged.
        """
        self.changes: list[RegressionChange] = []
        self._parameters = parameters
        self._since = state.since
        self._is_judged = state.is_judged
        self._current = state.current
        self._starts: list[int] = []
        self._slots = bytearray()
        self._counts = bytearray()
        self._buckets = (array("h"), array("h"), array("h"))
        self._residuals = (array("h"), array("h"))
        self._level_weights = _LevelWeights(state.products)
        if state.hours:
            self._decode(state.hours)

    def state(self) -> RegressionState:
        """The state after the hours so far."""
        return RegressionState(
            self._encoded(), self._since, self._is_judged, self._current, self._level_weights.products
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is no hour yet."""
        return not self._starts

    @staticmethod
    def check(state: RegressionState) -> None:
        """Check a stored state.

        Raises:
            ValueError: it is damaged.
        """
        if state.hours:
            _decoded_body(state.hours)

    def add(self, hour: SeriesHour) -> None:
        """Add an hour with traffic, later than all others; :meth:`set_quarantined` says whether it is quarantined.

        Raises:
            DamagedDigestError: the stored digest is damaged.
        """
        if self._starts and self._starts[0] < hour.start - REACH_SECONDS:
            stale = bisect_left(self._starts, hour.start - REACH_SECONDS)
            for column in (self._starts, self._slots, self._counts, *self._buckets, *self._residuals):
                del column[:stale]
        slot = hour.slot.hour * 2 + (hour.slot.day_type is DayType.WEEKEND)
        reference, count = self._reference(hour.start, slot), hour.count
        residuals: list[int | None] = []
        for mine, bucket, least in zip(self._buckets, _buckets_of(hour), MIN_COUNTS, strict=True):
            usual = None
            if reference and count >= least:
                usual = _doubled_median([mine[i] for i in reference if self._count(i) >= least])
            residuals.append(None if usual is None else _HALVES * bucket - usual)
            mine.append(bucket)
        is_joint = self._parameters.parts.regression_level
        level = self._level_weights.level(residuals) if is_joint else residuals[_MEDIAN]
        for column, residual in zip(self._residuals, (level, residuals[_P90]), strict=True):
            column.append(_UNKNOWN if residual is None else _clipped(residual))
        self._starts.append(hour.start)
        self._slots.append(slot)
        self._counts.append(_count_code(count))

    def add_all(self, hours: Sequence[SeriesHour]) -> None:
        """Add hours one after another, as :meth:`add` does."""
        starts = [hour.start for hour in hours]
        oldest = self._starts[0] if self._starts else starts[0]
        if starts[-1] - oldest >= MIN_REFERENCE_SECONDS:
            for hour in hours:
                self.add(hour)
            return
        # None of them has a reference.
        self._starts += starts
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

    def evaluate(self, hour: LocalHour, *, is_judged: bool = True) -> None:
        """Give a verdict at the end of an hour, if one is due; call it for every hour, with or without traffic.

        Args:
            hour: the hour.
            is_judged: whether the latency of the series is judged at all.
        """
        if not is_judged:
            self._is_judged = False
            self._current = None
        elif (hour.slot.hour + 1) % EVALUATION_HOURS == 0:
            self._evaluate(hour.end)

    def _evaluate(self, now: int) -> None:
        regression = self._current
        if regression is not None and now - regression.began >= self._parameters.regression_accept_after_seconds:
            self._accept(now, regression)
            return
        is_known = now - self._first_reference(now) >= MIN_REFERENCE_SECONDS + MIN_KNOWN_SECONDS
        latest = [
            self._distance(now, WINDOW_HOURS[0], quantile) if is_known else None for quantile in range(len(_COMPARED))
        ]
        self._is_judged = any(latest)
        gate = BUCKETS_PER_OCTAVE * log2(self._parameters.regression_ratio)
        if regression is not None:
            self._follow(now, regression, latest[_COMPARED.index(regression.quantile)], gate)
            return
        found: tuple[float, _Distance] | None = None
        for of_day in latest:
            if of_day is None or of_day.buckets < RESOLVE_SHARE * gate:
                continue
            blocks: list[_Block] = []
            for hours in WINDOW_HOURS:
                distance = of_day if hours == WINDOW_HOURS[0] else self._distance(now, hours, of_day.quantile)
                if distance is None or distance.buckets < gate or not self._is_large(distance):
                    continue
                blocks = blocks or self._blocks(now, of_day.quantile)
                deviation, uncertainty = self._deviation(now, distance, blocks)
                score = distance.buckets / (uncertainty * deviation)
                if score >= SIGNIFICANCE[distance.quantile] and (found is None or score > found[0]):
                    found = score, distance
        if found is not None:
            self._raise(now, *found)

    def _is_large(self, distance: _Distance) -> bool:
        delta = bucket_middle_seconds(round(distance.usual_bucket)) * (_ratio(distance.buckets) - 1)
        return delta >= self._parameters.regression_min_delta_seconds

    def _raise(self, now: int, score: float, distance: _Distance) -> None:
        began_after, began_before = self._beginning(now, distance)
        self._current = Regression(
            raised_at=now,
            began_after=began_after,
            began_before=began_before,
            quantile=_COMPARED[distance.quantile],
            ratio=_ratio(distance.buckets),
            before_seconds=2.0 ** ((distance.usual_bucket + 0.5) / BUCKETS_PER_OCTAVE),
            hours=distance.hours,
            deviations=score,
        )
        self.changes.append(RegressionChange(RegressionEvent.RAISED, now, self._current))

    def _follow(self, now: int, regression: Regression, latest: _Distance | None, gate: float) -> None:
        """Update a regression by the last day; without traffic it stays as it is."""
        if latest is None:
            return
        if latest.buckets < RESOLVE_SHARE * gate:
            self._current = None
            self.changes.append(RegressionChange(RegressionEvent.RESOLVED, now, regression))
            return
        self._current = regression._replace(
            ratio=_ratio(latest.buckets),
            before_seconds=2.0 ** ((latest.usual_bucket + 0.5) / BUCKETS_PER_OCTAVE),
            hours=latest.hours,
        )

    def _accept(self, now: int, regression: Regression) -> None:
        """Compare with nothing before the regression from now on."""
        self._since = regression.began_before
        self._current = None
        self._is_judged = False
        for residuals in self._residuals:
            residuals[:] = array("h", [_UNKNOWN]) * len(residuals)
        self.changes.append(RegressionChange(RegressionEvent.ACCEPTED, now, regression))

    def _reference(self, start: int, slot: int) -> list[int]:
        """Return the positions of the hours that an hour is compared with; empty if there are too few."""
        starts = self._starts
        first = bisect_left(starts, self._since)
        if first == len(starts) or start - starts[first] < MIN_REFERENCE_SECONDS:
            return []
        until = max(start - GAP_SECONDS, starts[first] + MIN_REFERENCE_SECONDS)
        if self._current is not None:
            until = min(until, self._current.began_after)
        last = bisect_left(starts, until)
        slots, counts, found = self._slots, self._counts, []
        position = slots.find(slot, first, last)
        while position >= 0:
            if counts[position] < _QUARANTINED:
                found.append(position)
            position = slots.find(slot, position + 1, last)
        return found if len(found) >= MIN_REFERENCE_HOURS else []

    def _distance(self, now: int, hours: int, quantile: int) -> _Distance | None:
        """Compare the last days with the weeks before; None if that is not possible."""
        first = bisect_left(self._starts, now - hours * HOUR_SECONDS)
        residuals, codes = self._residuals[quantile][first:], self._counts[first:]
        weights = self._weights(codes, hours)
        known = [index for index, each in enumerate(residuals) if each != _UNKNOWN and weights[index]]
        if len(known) < MIN_HOURS or sum(_COUNTS[codes[index] & ~_QUARANTINED] for index in known) < MIN_REQUESTS:
            return None
        values = [residuals[index] / _HALVES for index in known]
        own = [weights[index] for index in known]
        total = sum(own)
        mean = sum(map(mul, own, values)) / total
        buckets, slots = self._buckets[_MEDIAN + quantile], self._slots
        level = sum(weight * buckets[first + index] for weight, index in zip(own, known, strict=True)) / total
        weekend = sum(slots[first + index] % 2 for index in known) / len(known)
        variance = sum(weight * (value - mean) ** 2 for weight, value in zip(own, values, strict=True)) / total
        return _Distance(quantile, hours, mean, level - mean, weekend, sqrt(variance / len(known)))

    @staticmethod
    def _weights(codes: Iterable[int], hours: int) -> list[float]:
        """Return the weights of hours; quarantined ones have none, unless they are the rule over more than a day."""
        codes = list(codes)
        quarantined = sum(code >= _QUARANTINED for code in codes)
        is_rule = hours > WINDOW_HOURS[0] and 2 * quarantined >= len(codes)
        table = _WEIGHTS_OF_ALL if is_rule else _WEIGHTS
        return [table[code] for code in codes]

    def _deviation(self, now: int, distance: _Distance, blocks: Sequence[_Block]) -> tuple[float, float]:
        """Return the standard deviation of such a distance, from how the days before differ from one to the next.

        They are compared with their trend, because a steady drift does not make them uncertain. There are few days, but
        many hours: the prior is what the hours explain, and something for what they do not show. The second value is by
        how much more a distance must exceed the deviation because few days show it.
        """
        first = distance.hours // BLOCK_HOURS
        before = blocks[first : first + MAX_EARLIER_DAYS * _BLOCKS_PER_DAY]
        squares, freedom = _around_trend(_day_means(before))
        freedom += PRIOR_DAYS
        prior = PRIOR_DAY_BUCKETS**2 + _block_variance(before) / _BLOCKS_PER_DAY
        variance = (PRIOR_DAYS * prior + squares) / freedom
        of_means = variance / min(distance.hours * HOUR_SECONDS / DAY_SECONDS, MAX_INDEPENDENT_DAYS)
        weeks = max(1.0, (now - self._first_reference(now)) / (7 * DAY_SECONDS) - 1)
        share = distance.weekend_share
        of_reference = variance * (share / (2 * weeks) + (1 - share) / (5 * weeks))
        # As the quantiles of Student's distribution, only simpler: few days may differ little by chance.
        uncertainty = 1 + UNCERTAIN_DAYS / freedom
        return sqrt(max(of_means, distance.noise**2) + of_reference), uncertainty

    def _blocks(self, now: int, quantile: int) -> list[_Block]:
        """Return the parts of the days up to an instant, the latest first; quarantined hours are left out."""
        first, last = bisect_left(self._starts, now - _BLOCKS * _BLOCK_SECONDS), bisect_left(self._starts, now)
        hours, weights, sums = [0] * _BLOCKS, [0.0] * _BLOCKS, [0.0] * _BLOCKS
        residuals = self._residuals[quantile][first:last]
        for start, code, residual in zip(self._starts[first:last], self._counts[first:last], residuals, strict=True):
            if residual != _UNKNOWN and code < _QUARANTINED:
                position = (now - start - 1) // _BLOCK_SECONDS
                hours[position] += 1
                weights[position] += _WEIGHTS[code]
                sums[position] += _WEIGHTS[code] * residual
        return list(map(_Block, hours, weights, sums))

    def _first_reference(self, now: int) -> int:
        first = bisect_left(self._starts, self._since)
        return self._starts[first] if first < len(self._starts) else now

    def _beginning(self, now: int, distance: _Distance) -> tuple[int, int]:
        """Return the earliest and the latest plausible instant at which a regression began."""
        first = bisect_left(self._starts, now - SEARCH_SECONDS)
        weights = self._weights(self._counts[first:], distance.hours)
        residuals = self._residuals[distance.quantile][first:]
        known = [index for index, each in enumerate(residuals) if each != _UNKNOWN and weights[index]]
        found = find_change_point(
            [residuals[index] / _HALVES for index in known],
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

    def _encoded(self) -> bytes:
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


def _around_trend(points: Sequence[tuple[int, float]]) -> tuple[float, int]:
    """Return the sum of squares around the straight line of least squares, and its degrees of freedom."""
    count = len(points)
    if count < _MIN_TREND_POINTS:
        return 0.0, 0
    x_mean, y_mean = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    x_squares = sum((x - x_mean) ** 2 for x, _ in points)
    y_squares = sum((y - y_mean) ** 2 for _, y in points)
    products = sum((x - x_mean) * (y - y_mean) for x, y in points)
    # Rounding may leave less than nothing.
    return max(0.0, y_squares - products * products / x_squares), count - 2


def _day_means(blocks: Sequence[_Block]) -> list[tuple[int, float]]:
    """Return the mean residual of each day, in buckets, with its number; days with too few hours are left out."""
    means = []
    for day in range(len(blocks) // _BLOCKS_PER_DAY):
        hours, weights, sums = zip(*blocks[day * _BLOCKS_PER_DAY : (day + 1) * _BLOCKS_PER_DAY], strict=True)
        if sum(hours) >= MIN_DAY_HOURS and sum(weights):
            means.append((day, sum(sums) / sum(weights) / _HALVES))
    return means


def _block_variance(blocks: Sequence[_Block]) -> float:
    """Return the variance of the mean residual of a block, from how adjacent blocks differ; 0 if none are known.

    Half of the mean square of these differences (von Neumann, Annals of Mathematical Statistics 12, 1941), which a
    trend and differences of whole days hardly affect.
    """
    squares, pairs = 0.0, 0
    for later, earlier in pairwise(blocks):
        if later.weight and earlier.weight:
            difference = later.half_buckets / later.weight - earlier.half_buckets / earlier.weight
            squares += (difference / _HALVES) ** 2
            pairs += 1
    return squares / pairs / 2 if pairs else 0.0


def _buckets_of(hour: SeriesHour) -> tuple[int, ...]:
    """Return the buckets of the 20th percentile, the median and the p90 of an hour."""
    return hour.low_bucket, *hour.quantile_buckets[:2]


def _clipped(value: int) -> int:
    return max(_UNKNOWN + 1, min(-_UNKNOWN - 1, value))


def _ratio(buckets: float) -> float:
    return float(2.0 ** (buckets / BUCKETS_PER_OCTAVE))
