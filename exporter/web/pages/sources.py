"""What the pages are made of: where each of them gets what it shows."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from exporter.detection.parameters import Parameters
from exporter.evaluation.query import BaselineReport, Profile
from exporter.evaluation.snapshot import Snapshot
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.model.calendar import Slot
from exporter.model.hours import HourClock
from exporter.model.span import SeriesKey
from exporter.web.pages.explore import Explore


class BaselineQueries(Protocol):
    """What is known of the stored history of a series; both may raise what a database that cannot be read raises."""

    def usual(self, key: SeriesKey, at: int, now: int) -> BaselineReport:
        """What is usual for it in the hour of an instant."""

    def profile(self, key: SeriesKey, now: int) -> Profile:
        """What is usual for it around the clock."""


@dataclass(frozen=True)
class Sources:
    """Where the pages get what they show.

    Attributes:
        snapshot: what was found last; nothing until then.
        backfill: the ledger's status; nothing where backfill is switched off.
        history: the stored history.
        clock: Unix seconds.
        hours: tells the local hours.
        local: the local time of an instant.
        parameters: the settings of the shift detector.
        interval_seconds: how often the current traffic is read.
        tempo_url: what is watched.
        explore: links to traces.
    """

    snapshot: Callable[[], Snapshot | None]
    backfill: Callable[[], BackfillStatus | None]
    history: BaselineQueries
    clock: Callable[[], float]
    hours: HourClock
    local: Callable[[float], datetime]
    parameters: Parameters
    interval_seconds: float
    tempo_url: str
    explore: Explore

    def slot(self, now: float) -> Slot:
        """The slot of an instant."""
        return self.hours.hour(int(now)).slot
