"""Labelled real series, and the detector's results on them."""

import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.detection.evaluation import METHODS
from benchmarks.detection.scoring import Event, Tally, episodes, tally
from exporter.baseline.levels import FallbackRules
from exporter.detection.detector import Detector
from exporter.detection.parameters import Parameters
from exporter.detection.replay import Replay
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock

DATA: Final = Path(__file__).parent.parent / "data"
_LEARNING_SECONDS: Final = 7 * 24 * HOUR_SECONDS
_TICK_SECONDS: Final = 60


class LabelledSeries(NamedTuple):
    """A series of requests with labelled events.

    Attributes:
        data_set: name of its data set.
        name: its name in the data set.
        requests: start and duration of each, in nanoseconds, in order of their ends.
        events: the labels.
        step_seconds: median distance between its points.
    """

    data_set: str
    name: str
    requests: list[tuple[int, int]]
    events: list[Event]
    step_seconds: float


def load(data_set: str) -> list[LabelledSeries]:
    """Load the series of a data set in ``benchmarks/data``."""
    ends: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    with gzip.open(DATA / f"{data_set}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            ends[row["series"]].append((int(row["unix_seconds"]), round(float(row["duration_ms"]) * 1e6)))
    events: defaultdict[str, list[Event]] = defaultdict(list)
    for label in json.loads((DATA / f"{data_set}-labels.json").read_text(encoding="utf-8")):
        events[label["series"]].append(Event(label["start_unix"], label["end_unix"], label["ignore"]))
    loaded = []
    for name, points in sorted(ends.items()):
        points.sort()
        gaps = sorted(after[0] - before[0] for before, after in pairwise(points))
        requests = [(end * 10**9 - took, took) for end, took in points]
        loaded.append(LabelledSeries(data_set, name, requests, events[name], gaps[len(gaps) // 2]))
    return loaded


def evaluate_series(series: LabelledSeries, method: str = "2") -> tuple[str, Tally]:
    """Replay a labelled series, with seven days of learning; returns its data set and the result."""
    clock = HourClock(Calendar())
    # The values are not durations, so an absolute minimum of the difference makes no sense.
    parameters = Parameters(min_delta_seconds=0, parts=METHODS[method])
    replay = Replay(Detector(FallbackRules(), parameters, clock), tick_seconds=_TICK_SECONDS)
    begin = series.requests[0][0] // 10**9
    for start, requests in _by_hour(series.requests):
        replay.add_hour(clock.hour(start), requests, live=start >= begin + _LEARNING_SECONDS)
    events = [event for event in series.events if event.end >= begin + _LEARNING_SECONDS]
    return series.data_set, tally(events, episodes(replay.changes), series.step_seconds)


def _by_hour(requests: list[tuple[int, int]]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Generate the requests by the hour in which they started, empty hours included."""
    hours: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for start_ns, took in requests:
        hours[start_ns // 10**9 // HOUR_SECONDS].append((start_ns, took))
    for hour in range(min(hours), max(hours) + 1):
        yield hour * HOUR_SECONDS, hours[hour]
