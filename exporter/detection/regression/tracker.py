"""Regressions: small lasting changes, and slow drift, found by comparing days instead of minutes.

For each settled hour the level of its durations and their p90 are compared with those of the same slot in the weeks
before. The mean of these distances over the last day, or the last few days, is a regression if it is both large and far
outside of how such means moved before. The weeks before end three days before the hour, or with the beginning of a
regression, so that neither a drift nor a regression becomes its own reference.

The distance of the level is a weighted mean of those of the 20th percentile, the median and the p90. A change that all
requests share moves the three alike, and chance does not: the weights are those with which the hours differed least
(control variates). Where requests have either of two durations, the percentile between them moves by chance the most.
"""

from collections.abc import Sequence
from math import log2
from typing import Final, NamedTuple

from exporter.detection.parameters import Parameters
from exporter.detection.regression.compared_hours import (
    DAY_SECONDS,
    MIN_REFERENCE_SECONDS,
    Block,
    ComparedHours,
    Distance,
    check_encoded,
)
from exporter.detection.regression.level import NO_PRODUCTS, Products
from exporter.detection.regression.uncertainty import blocks_before, deviation_of
from exporter.detection.regression.verdict import Regression, RegressionChange, RegressionEvent
from exporter.model.calendar import LocalHour
from exporter.model.histogram import BUCKETS_PER_OCTAVE, bucket_middle_seconds
from exporter.model.hour_evaluation import QUANTILES
from exporter.model.series_hour import SeriesHour

# The constants of this package are part of the method and not meant to be tuned.

WINDOW_HOURS: Final = (24, 30, 36, 42, 48, 60, 72, 96, 168)
"""The last so many hours are compared with the weeks before."""
EVALUATION_HOURS: Final = 6
"""A verdict is due whenever so many hours of the local day have passed: a regression lasts for days."""
MIN_KNOWN_SECONDS: Final = 2 * DAY_SECONDS
"""Days that can be compared must be known for this time: the days before show how much days differ."""
SIGNIFICANCE: Final = (2.2, 2.95)
"""Number of standard deviations from which a distance is significant, where these are known exactly, of the level and
of the p90. Nearly all regressions show in the level, and the p90 is a second chance for a false one."""
RESOLVE_SHARE: Final = 0.5
"""A regression is over once the last day is nearer to the reference than this share of the logarithm of the ratio."""

_BLOCKS: Final = blocks_before(WINDOW_HOURS[-1])
_COMPARED: Final = QUANTILES[:2]
"""What a regression is reported of, for the level and for the p90."""


class RegressionState(NamedTuple):
    """State of a series, from which :class:`RegressionTracker` continues.

    Attributes:
        hours: the hours in reach, encoded.
        since: hours that began before are not compared with: the beginning of an accepted regression.
        is_judged: whether the last verdict was possible.
        current: the present regression.
        products: see :class:`.level.LevelWeights`.
    """

    hours: bytes = b""
    since: int = 0
    is_judged: bool = False
    current: Regression | None = None
    products: Products = NO_PRODUCTS


NO_REGRESSION_STATE: Final = RegressionState()


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
        self._hours = ComparedHours(state.products, state.hours)

    def state(self) -> RegressionState:
        """The state after the hours so far."""
        hours = self._hours
        return RegressionState(hours.encoded(), self._since, self._is_judged, self._current, hours.products)

    @property
    def is_empty(self) -> bool:
        """Whether there is no hour yet."""
        return self._hours.is_empty

    @staticmethod
    def check(state: RegressionState) -> None:
        """Check a stored state.

        Raises:
            ValueError: it is damaged.
        """
        check_encoded(state.hours)

    def add(self, hour: SeriesHour) -> None:
        """Add an hour with traffic, later than all others; :meth:`set_quarantined` says whether it is quarantined.

        Raises:
            DamagedDigestError: the stored digest is damaged.
        """
        until = None if self._current is None else self._current.began_after
        self._hours.add(hour, self._since, until, is_joint=self._parameters.parts.regression_level)

    def add_all(self, hours: Sequence[SeriesHour]) -> None:
        """Add hours one after another, as :meth:`add` does."""
        if self._hours.have_reference(hours):
            for hour in hours:
                self.add(hour)
        else:
            self._hours.add_first(hours)

    def set_quarantined(self, start: int, *, quarantined: bool) -> None:
        """Change whether an hour was anomalous; an hour out of reach is ignored."""
        self._hours.set_quarantined(start, quarantined=quarantined)

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
        first = self._hours.first_since(self._since)
        reference_seconds = 0 if first is None else now - first
        is_known = reference_seconds >= MIN_REFERENCE_SECONDS + MIN_KNOWN_SECONDS
        latest = [
            self._hours.distance(now, WINDOW_HOURS[0], quantile) if is_known else None
            for quantile in range(len(_COMPARED))
        ]
        self._is_judged = any(latest)
        gate = BUCKETS_PER_OCTAVE * log2(self._parameters.regression_ratio)
        if regression is not None:
            self._follow(now, regression, latest[_COMPARED.index(regression.quantile)], gate)
            return
        found: tuple[float, Distance] | None = None
        for of_day in latest:
            if of_day is None or of_day.buckets < RESOLVE_SHARE * gate:
                continue
            blocks: list[Block] = []
            for hours in WINDOW_HOURS:
                distance = of_day if hours == WINDOW_HOURS[0] else self._hours.distance(now, hours, of_day.quantile)
                if distance is None or distance.buckets < gate or not self._is_large(distance):
                    continue
                blocks = blocks or self._hours.blocks(now, of_day.quantile, _BLOCKS)
                deviation, uncertainty = deviation_of(distance, blocks, reference_seconds)
                score = distance.buckets / (uncertainty * deviation)
                if score >= SIGNIFICANCE[distance.quantile] and (found is None or score > found[0]):
                    found = score, distance
        if found is not None:
            self._raise(now, *found)

    def _is_large(self, distance: Distance) -> bool:
        delta = bucket_middle_seconds(round(distance.usual_bucket)) * (_ratio(distance.buckets) - 1)
        return delta >= self._parameters.regression_min_delta_seconds

    def _raise(self, now: int, score: float, distance: Distance) -> None:
        began_after, began_before = self._hours.beginning(now, distance)
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

    def _follow(self, now: int, regression: Regression, latest: Distance | None, gate: float) -> None:
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
        self._hours.forget_distances()
        self.changes.append(RegressionChange(RegressionEvent.ACCEPTED, now, regression))


def _ratio(buckets: float) -> float:
    return float(2.0 ** (buckets / BUCKETS_PER_OCTAVE))
