"""Marks on time: after a false alarm was marked as normal, does the same fire again, and what is no longer found?

Each series has a job that makes it slower at the same time of the day, every day, every second day or once a week,
some minutes earlier or later and somewhat stronger or weaker each time; and faults at other times. It is replayed
twice: without a mark, and with the first firing flag of the job marked as normal. In the four weeks after it, the
repetitions that fire the flag are counted, and the faults that are found.

``python -m benchmarks.marks`` prints the figures with their targets; exit status 1 if one is missed.
"""

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from benchmarks.detection.scoring import Episode, Event, episodes, finding
from benchmarks.detection.suites import (
    KINDS,
    LEARNING_DAYS,
    LIVE_FROM,
    Case,
    Suite,
    cases,
)
from benchmarks.report import table
from exporter.baseline.levels import FallbackRules
from exporter.demo.latency import HOUR_SECONDS, Incident
from exporter.demo.traffic import DAY_SECONDS, SeriesTraffic
from exporter.detection.detector import Detector
from exporter.detection.replay import Replay
from exporter.model.calendar import Calendar, HourClock
from exporter.model.pattern import Pattern
from exporter.model.time_mark import MarkKind, TimeMark, TimeMarks

_WEEKS_SECONDS: Final = 28 * DAY_SECONDS
_DAYS: Final = LEARNING_DAYS + 32
_SERIES_PER_RATE: Final = 4
_MAX_RATE_PER_MINUTE: Final = 10.0
"""Six weeks of busier series take long to generate."""
_QUICK_SERIES_PER_RATE: Final = 1
_QUICK_RATE_PER_MINUTE: Final = 2.0
_FAULT_MINUTES: Final = (10, 30, 180)
_FAULTS: Final = 24
_BEFORE_SECONDS: Final = 600
"""People mark from some minutes before the flag fired, when it began."""
_JITTER_SECONDS: Final = 300.0
_STRENGTH: Final = 0.15
_MAX_REPEATS: Final = 0
_MAX_LOST: Final = 0.01


class Outcome(NamedTuple):
    """The results of one series.

    Attributes:
        rate_per_minute: its requests a minute.
        is_marked: whether the job fired the flag at all, so that there was something to mark.
        repetitions: of the job in the four weeks after.
        repeats_without: those that fired the flag without a mark.
        repeats: those with it.
        found_without: faults found in the same time without a mark.
        found: those with it.
    """

    rate_per_minute: float
    is_marked: bool
    repetitions: int = 0
    repeats_without: int = 0
    repeats: int = 0
    found_without: int = 0
    found: int = 0


def job_and_faults(case: Case) -> tuple[list[Incident], list[Incident]]:
    """Draw the runs of the job and the faults of a series; they do not overlap."""
    rng = random.Random(f"{case.seed}/marks")
    end = LIVE_FROM + (_DAYS - LEARNING_DAYS) * DAY_SECONDS
    every = rng.choice((1, 2, 7))
    second = rng.uniform(0, DAY_SECONDS - 3600)
    length = 60 * rng.randint(10, 40)
    factor = 2.0 * 3.0 ** rng.random()
    job = []
    for day in range(1, _DAYS - LEARNING_DAYS, every):
        start = LIVE_FROM + day * DAY_SECONDS + second + rng.uniform(-1, 1) * _JITTER_SECONDS
        strength = 1 + (factor - 1) * (1 + rng.uniform(-1, 1) * _STRENGTH)
        job.append(Incident(start, start + length, strength))
    faults: list[Incident] = []
    apart = (end - LIVE_FROM - 2 * DAY_SECONDS) / _FAULTS
    for number in range(_FAULTS):
        kind, seconds = rng.choice(KINDS), 60 * rng.choice(_FAULT_MINUTES)
        start = LIVE_FROM + 2 * DAY_SECONDS + number * apart + rng.uniform(0, apart - seconds - 3600)
        # Not while the job runs, where it cannot be told apart; right before and after it all the same.
        if all(start + seconds < run.start - 600 or start > run.end + 600 for run in job):
            faults.append(kind.incident(case.profile, start, start + seconds))
    return job, faults


def evaluate(case: Case) -> Outcome:
    """Replay a series without and with a mark."""
    job, faults = job_and_faults(case)
    incidents = tuple(sorted([*job, *faults], key=lambda each: each.start))
    case = replace(case, profile=replace(case.profile, incidents=incidents))
    rate = case.profile.rate_per_minute
    clock = HourClock(Calendar())
    plain = Detector(FallbackRules(), case.parameters, clock)
    without = _fired(case, plain)
    alarms = ((run, found) for run in job if (found := finding(Event(run.start, run.end), without)) is not None)
    first = next(alarms, None)
    if first is None:
        return Outcome(rate, is_marked=False)
    run, alarm = first
    mark = TimeMark(MarkKind.NORMAL, Pattern(""), int(alarm.start - _BEFORE_SECONDS), int(max(alarm.end, run.end)))
    within = _fired(case, replace(plain, marks=TimeMarks([mark])))
    later = [each for each in job if mark.end < each.start <= mark.end + _WEEKS_SECONDS]
    judged = [each for each in faults if mark.end < each.start <= mark.end + _WEEKS_SECONDS]

    def count(events: Sequence[Incident], fired: list[Episode]) -> int:
        return sum(finding(Event(each.start, each.end), fired) is not None for each in events)

    def count_alone(fired: list[Episode]) -> int:
        """Count the repetitions that fired the flag, not faults shortly before or after them."""
        of_job = [
            each for each in fired if not any(fault.start - 60 <= each.start <= fault.end + 3600 for fault in faults)
        ]
        return count(later, of_job)

    return Outcome(
        rate,
        True,
        len(later),
        count_alone(without),
        count_alone(within),
        count(judged, without),
        count(judged, within),
    )


def _fired(case: Case, detector: Detector) -> list[Episode]:
    detector = detector.of(case.key)
    replay = Replay(detector)
    traffic = SeriesTraffic(case.profile, case.seed)
    for start in range(case.begin, case.begin + _DAYS * DAY_SECONDS, HOUR_SECONDS):
        hour = detector.clock.hour(start)
        replay.add_hour(hour, traffic.hour(start // HOUR_SECONDS), live=start >= LIVE_FROM)
    return episodes(replay.changes)


def rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Return the rows of the table: by rate of traffic, and the totals with their targets."""
    found = [
        _row(f"{rate:g} requests a minute", [each for each in outcomes if each.rate_per_minute == rate])
        for rate in sorted({each.rate_per_minute for each in outcomes})
    ]
    return [*found, _row("all", outcomes, with_targets=True)]


def _row(name: str, outcomes: Sequence[Outcome], *, with_targets: bool = False) -> tuple[str, ...]:
    marked = [each for each in outcomes if each.is_marked]
    before, after = sum(each.found_without for each in marked), sum(each.found for each in marked)
    repeats = sum(each.repeats for each in marked)
    targets = (f" (target {_MAX_REPEATS})", f" (target ≤ {_MAX_LOST:.0%})") if with_targets else ("", "")
    return (
        name,
        f"{len(marked)} of {len(outcomes)}",
        f"{sum(each.repetitions for each in marked):,}",
        f"{sum(each.repeats_without for each in marked):,}",
        f"{repeats:,}{targets[0]}",
        f"{before:,}",
        f"{after:,}",
        f"{lost(outcomes):.1%}{targets[1]}",
    )


def lost(outcomes: Sequence[Outcome]) -> float:
    """Return the share of the faults that are no longer found."""
    before = sum(each.found_without for each in outcomes)
    return max(0.0, 1 - sum(each.found for each in outcomes) / before) if before else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.marks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few series, only to check that the benchmark works")
    parser.add_argument("--seed", default="1", help="seed of the synthetic series")
    parser.add_argument("--series", type=int, default=_SERIES_PER_RATE, help="series for each rate of traffic")
    parser.add_argument("--max-rate", type=float, default=_MAX_RATE_PER_MINUTE, help="leave out busier series")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    drawn = cases(Suite.PLAIN, _QUICK_SERIES_PER_RATE if options.quick else options.series, f"marks/{options.seed}")
    series = [
        case
        for case in drawn
        if case.profile.rate_per_minute <= options.max_rate
        and (not options.quick or case.profile.rate_per_minute == _QUICK_RATE_PER_MINUTE)
    ]
    series.sort(key=lambda case: -case.profile.rate_per_minute)
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        outcomes = list(pool.imap_unordered(evaluate, series))
    header = ("", "series marked", "repetitions", "fired before", "fire again", "faults found", "with the mark", "lost")
    print(table(header, rows(outcomes)))
    print(f"\nseed {options.seed}, {time.monotonic() - began:.0f} s on {options.processes} processes")
    repeats = sum(each.repeats for each in outcomes)
    return 0 if options.quick or (repeats <= _MAX_REPEATS and lost(outcomes) <= _MAX_LOST) else 1


if __name__ == "__main__":
    sys.exit(main())
