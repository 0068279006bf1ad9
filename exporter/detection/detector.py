"""The detector: its rules, the stored state of a series, and what a series is expected to do in an hour."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from exporter.baseline.levels import FallbackRules, Pool, choose_pool
from exporter.detection.flag import INACTIVE, Flag
from exporter.detection.parameters import SUSPICION_SECONDS, Parameters
from exporter.detection.schedule import HourThresholds, LazySchedule
from exporter.detection.settlement import SettledHour
from exporter.detection.thresholds import Prediction, Thresholds
from exporter.model.calendar import HourClock, LocalHour
from exporter.model.hours import SeriesHours


class SeriesState(NamedTuple):
    """State of a series after evaluating its history up to an instant; all that is needed to continue from there.

    Times are Unix seconds. Encoded by position, so the order of the fields is part of the stored format.

    Attributes:
        until: end of the last evaluated hour.
        changepoint: start of the series' present behaviour, if a change was accepted.
        run: settled hours of a change that may be accepted.
        suspects: starts of hours touched by a firing flag that can still become quarantined.
        flag: the flag at the last mark.
        schedule: thresholds of the hours that the next window can extend into.
        recent: traces that it can contain, or that ended later: second, bucket and count.
    """

    until: int
    changepoint: int | None = None
    run: tuple[SettledHour, ...] = ()
    suspects: tuple[int, ...] = ()
    flag: Flag = INACTIVE
    schedule: tuple[HourThresholds, ...] = ()
    recent: tuple[tuple[int, int, int], ...] = ()


def encode_state(state: SeriesState) -> bytes:
    """Encode a state as JSON arrays."""
    return msgspec.json.encode(state)


def decode_state(data: bytes) -> SeriesState:
    """Decode the result of :func:`encode_state`.

    Raises:
        ValueError: the bytes are damaged; the series' history must be evaluated from the beginning.
    """
    return msgspec.json.decode(data, type=SeriesState)


class Expectation(NamedTuple):
    """Baseline of a series in one local hour.

    Attributes:
        pool: hours that form the baseline; None at level 5.
        prediction: predicted quantiles; None while the pool is not mature and the series is learning.
    """

    pool: Pool | None = None
    prediction: Prediction | None = None

    @property
    def thresholds(self) -> Thresholds | None:
        """Thresholds of the hour; None while the series is learning."""
        return None if self.prediction is None else self.prediction.thresholds


@dataclass(frozen=True, slots=True)
class Detector:
    """The rules by which all series are evaluated.

    Attributes:
        rules: choice of the baseline.
        parameters: settings of the shift test.
        clock: maps instants to local hours.
    """

    rules: FallbackRules
    parameters: Parameters
    clock: HourClock

    def expect(
        self, history: SeriesHours, hour: LocalHour, *, changepoint: int | None = None, suspects: Collection[int] = ()
    ) -> Expectation:
        """Return the baseline of a series in an hour, from the settled hours before it.

        Args:
            history: evaluated hours of the series; those before the look-back and the changepoint are dropped from it.
            hour: the local hour.
            changepoint: start of the series' present behaviour, if a change was accepted.
            suspects: starts of hours that are not pooled because a firing flag has touched them.
        """
        history.discard_before(max(hour.start - self.rules.lookback_seconds, changepoint or 0))
        pool = choose_pool(history, hour.start, hour.slot, self.rules, suspects=suspects)
        if pool is None:
            return Expectation()
        if not pool.mature:
            return Expectation(pool)
        return Expectation(pool, Prediction(pool, history.swings(hour.start, pool.released), self.parameters))

    def schedule_at(
        self, history: SeriesHours, state: SeriesState, at: int, suspects: Collection[int] = ()
    ) -> tuple[Expectation, LazySchedule]:
        """Return the baseline in the hour of an instant, and the thresholds for windows in that hour.

        Args:
            history: hours of the series, evaluated up to ``state.until``; those out of reach are dropped from it.
            state: state after that evaluation.
            at: Unix seconds, not before ``state.until``.
            suspects: starts of hours touched by a firing flag; those too old to become quarantined are ignored.
        """
        pending = {start for start in suspects if start >= state.until - SUSPICION_SECONDS}
        hours = [self.clock.hour(at)]
        oldest = max(hours[0].start - self.parameters.max_window_seconds, state.until)
        while hours[-1].start > oldest:
            hours.append(self.clock.hour(hours[-1].start - 1))
        schedule = LazySchedule(state.schedule if hours[-1].start == state.until else ())
        expectation = Expectation()
        for hour in reversed(hours):
            expectation = self.expect(history, hour, changepoint=state.changepoint, suspects=pending)
            schedule = schedule.followed_by(hour.start, expectation.prediction, self.parameters.max_window_seconds)
        return expectation, schedule
