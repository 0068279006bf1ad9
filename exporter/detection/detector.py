"""What is expected of a series in an hour: its baseline, and the thresholds that follow from it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from exporter.baseline.levels import FallbackRules, Pool, choose_pool
from exporter.detection.parameters import SUSPICION_SECONDS, Parameters
from exporter.detection.schedule import LazySchedule
from exporter.detection.state import SeriesState
from exporter.detection.thresholds import Prediction, Thresholds
from exporter.model.hours import CivilHour, HourClock, SeriesHours


class Outlook(NamedTuple):
    """What is expected of a series in one hour.

    Attributes:
        pool: the hours that serve as its baseline; None at level 5.
        prediction: what they predict for a window; None while they are not mature: the series is learning.
    """

    pool: Pool | None = None
    prediction: Prediction | None = None

    @property
    def thresholds(self) -> Thresholds | None:
        """The thresholds that follow; None while the series is learning."""
        return None if self.prediction is None else self.prediction.thresholds


@dataclass(frozen=True, slots=True)
class Detector:
    """The rules by which all series are judged.

    Attributes:
        rules: which hours make a baseline.
        parameters: the settings of the shift detector.
        clock: tells the local hours.
    """

    rules: FallbackRules
    parameters: Parameters
    clock: HourClock

    def expect(
        self, history: SeriesHours, civil: CivilHour, *, changepoint: int | None = None, suspects: Collection[int] = ()
    ) -> Outlook:
        """What is expected of a series in an hour, from what is settled of its history before that.

        Args:
            history: the series' hours, with their judgements; those out of reach are dropped from it.
            civil: the hour that is asked about.
            changepoint: start of the series' present behaviour, if a change was accepted.
            suspects: starts of hours that are not to be pooled because a raised flag has touched them.
        """
        history.discard_before(max(civil.start - self.rules.lookback_seconds, changepoint or 0))
        pool = choose_pool(history, civil.start, civil.slot, self.rules, suspects=suspects)
        if pool is None:
            return Outlook()
        if not pool.mature:
            return Outlook(pool)
        return Outlook(pool, Prediction(pool, history.swings(civil.start, pool.released), self.parameters))

    def schedule_at(
        self, history: SeriesHours, state: SeriesState, at: int, suspects: Collection[int] = ()
    ) -> tuple[Outlook, LazySchedule]:
        """What is expected in the hour of an instant, and the thresholds that its windows need.

        Args:
            history: the series' hours, judged as far as ``state`` goes; those out of reach are dropped from it.
            state: what judging them has come to.
            at: the instant, unix seconds, not before ``state.until``.
            suspects: starts of hours that a raised flag has touched; those that can no longer be quarantined for it do
                not matter.
        """
        pending = {start for start in suspects if start >= state.until - SUSPICION_SECONDS}
        hours = [self.clock.hour(at)]
        oldest = max(hours[0].start - self.parameters.max_window_seconds, state.until)
        while hours[-1].start > oldest:
            hours.append(self.clock.hour(hours[-1].start - 1))
        schedule = LazySchedule(state.schedule if hours[-1].start == state.until else ())
        outlook = Outlook()
        for civil in reversed(hours):
            outlook = self.expect(history, civil, changepoint=state.changepoint, suspects=pending)
            schedule = schedule.followed_by(civil.start, outlook.prediction, self.parameters.max_window_seconds)
        return outlook, schedule
