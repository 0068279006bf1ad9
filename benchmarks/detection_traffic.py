"""How often a drop of traffic is found, and how often a flag is raised without one, on synthetic traffic by seed.

Each system has eight endpoints, ten days to learn and six to judge, in ticks of half a minute. The baselines are built
from the counts by hour, and current requests are counted and judged as the exporter does; Tempo is left out.
"""

import argparse
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from itertools import pairwise
from random import Random
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from benchmarks.detection.results import Result, poisson_interval
from benchmarks.report import table
from exporter.baseline.levels import FallbackRules
from exporter.baseline.traffic import (
    MARKS,
    MIN_USUAL_REQUESTS,
    NO_PATTERN,
    HourPattern,
    SourceHour,
    TrafficBaseline,
    TrafficHour,
    TrafficRecord,
    traffic_baseline,
)
from exporter.detection.flag import INACTIVE, Flag, FlagEvent, advance_flag
from exporter.detection.parameters import Parameters
from exporter.detection.traffic.history import NO_TRAFFIC_STATE, SeriesTraffic, TrafficTracker
from exporter.detection.traffic.source import SampledSeries, source_history, source_losses
from exporter.detection.traffic.verdict import SourceWindow, source_hours
from exporter.evaluation.live.traffic import CELL_SECONDS, LiveTraffic
from exporter.model.calendar import Calendar, DayType, HourClock, LocalHour
from exporter.model.span import SeriesKey

_HOUR: Final = 3600
_DAY: Final = 24 * _HOUR
_MARK: Final = _HOUR // MARKS
_START: Final = 1_750_636_800
"""A Monday, 00:00 UTC."""
_LEARNED_DAYS: Final = 11
_JUDGED_DAYS: Final = 6
_CELLS: Final = _HOUR // CELL_SECONDS
_LAG_SECONDS: Final = 20
_ENDPOINTS: Final = 8
_HOLIDAY: Final = _LEARNED_DAYS + 2
_RATES_PER_MINUTE: Final = (0.7, 2.0, 4.0, 8.0, 20.0, 60.0, 6.0, 30.0)

SUITES: Final = ("weekly", "noise", "holiday", "unknown holiday", "cron", "canaries", "gaps", "drop", "silence")
METHODS: Final = ("present", "without dispersion", "without the source", "past")
"""``past`` is the evaluation of the history, at five-minute marks."""


@dataclass(frozen=True)
class Endpoint:
    """How the requests of an endpoint arise.

    Attributes:
        per_minute: mean rate.
        rhythm: amplitude of the day, in octaves.
        weekend: factor at weekends.
        day_swing: standard deviation of the logarithm of a day.
        hour_swing: the same of an hour.
        mark_swing: the same of five minutes.
        job_seconds: requests come at once, every so many seconds; 0 for none.
        jitter_seconds: by how much such a job may be late.
    """

    per_minute: float
    rhythm: float = 1.5
    weekend: float = 0.4
    day_swing: float = 0.1
    hour_swing: float = 0.1
    mark_swing: float = 0.05
    job_seconds: int = 0
    jitter_seconds: float = 20.0


class Outcome(NamedTuple):
    """What one system came to: healthy series-days, flags raised without cause, and statements about the source.

    Incidents, and the delays of those that were found, are those with at least 20 usual requests in five minutes.
    """

    days: float
    false: int
    incidents: int
    delays: tuple[float, ...]
    statements: int


@dataclass
class _State:
    pattern: HourPattern = NO_PATTERN
    hours: list[TrafficHour] = field(default_factory=list)
    flag: Flag = INACTIVE


def _endpoints(suite: str, random: Random) -> list[Endpoint]:
    plain = [Endpoint(rate * random.uniform(0.7, 1.4)) for rate in _RATES_PER_MINUTE]
    match suite:
        case "noise":
            return [
                replace(each, day_swing=0.25, hour_swing=0.3, mark_swing=random.choice((0.2, 0.4, 0.8)))
                for each in plain
            ]
        case "cron":
            jobs = [(3600, 60), (3600, 400), (86400, 2000), (600, 40), (900, 25), (1800, 200)]
            flat = [
                Endpoint(60 * requests / seconds, 0.0, 1.0, 0.02, 0.02, 0.0, seconds, random.choice((5.0, 60.0, 200.0)))
                for seconds, requests in jobs
            ]
            return [*flat, *plain[:2]]
        case "canaries":
            every = [(30, 1), (60, 5), (420, 28), (300, 20), (5, 1), (1260, 30)]
            return [
                *(
                    Endpoint(60 * requests / seconds, 0.0, 1.0, 0.0, 0.0, 0.0, seconds, 2.0)
                    for seconds, requests in every
                ),
                *plain[:2],
            ]
        case _:
            return plain


def _poisson(random: Random, mean: float) -> int:
    if mean <= 0:
        return 0
    if mean > 30:
        return max(0, round(random.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), random.random(), 0
    while product > limit:
        product *= random.random()
        count += 1
    return count


def _hour_counts(endpoint: Endpoint, hour: LocalHour, day_factor: float, holiday: bool, random: Random) -> list[int]:
    """Return the requests of an hour by cell."""
    counts = [0] * _CELLS
    if endpoint.job_seconds:
        requests = endpoint.per_minute * endpoint.job_seconds / 60
        first = -(-hour.start // endpoint.job_seconds) * endpoint.job_seconds
        for at in range(first, hour.end, endpoint.job_seconds):
            late = at + random.uniform(0, min(endpoint.jitter_seconds, endpoint.job_seconds / 3)) - hour.start
            size = requests * math.exp(random.gauss(0, endpoint.day_swing))
            count = int(size) + (random.random() < size % 1)
            for number in range(count):
                counts[min(_CELLS - 1, int((late + number * 0.05) / CELL_SECONDS))] += 1
        return counts
    weekend = hour.slot.day_type is DayType.WEEKEND or holiday
    hourly = endpoint.per_minute * (endpoint.weekend if weekend else 1.0) * day_factor
    hourly *= math.exp(random.gauss(0, endpoint.hour_swing))
    for mark in range(MARKS):
        hours = hour.slot.hour + mark / MARKS
        rate = hourly * 2 ** (endpoint.rhythm * math.sin((hours - 9) / 24 * 2 * math.pi))
        rate *= math.exp(random.gauss(0, endpoint.mark_swing))
        for cell in range(mark * 10, mark * 10 + 10):
            counts[cell] = _poisson(random, rate * CELL_SECONDS / 60)
    return counts


def run_system(suite: str, method: str, seed: str, number: int) -> Outcome:
    """Generate one system, and judge it."""
    if method == "past":
        return _run_past(suite, seed, number)
    random = Random(f"{seed} {suite} {number}")
    holiday = datetime.fromtimestamp(_START + _HOLIDAY * _DAY, UTC).date()
    is_holiday: Callable[[date], bool] = (lambda day: day == holiday) if suite == "holiday" else (lambda _: False)
    clock = HourClock(Calendar(ZoneInfo("UTC"), is_holiday=is_holiday))
    parameters, rules = Parameters(), FallbackRules()
    endpoints = _endpoints(suite, random)
    keys = [SeriesKey("service", f"endpoint {index}") for index in range(len(endpoints))]
    states = {key: _State() for key in keys}
    gaps, incidents = _events(suite, random, len(keys))
    live = LiveTraffic(lambda _: parameters, judges_source=method != "without the source")
    source: list[tuple[LocalHour, SourceWindow]] = []
    false = statements = 0
    found: dict[int, float] = {}
    usual_of: dict[int, float] = {}
    was_lost = False
    for hour, counts in _generate(suite, clock, endpoints, gaps, incidents, random):
        start = hour.start
        is_judged = start >= _START + _LEARNED_DAYS * _DAY
        baselines = {}
        if is_judged:
            comparable = source_hours(source, parameters.accept_after_seconds)
            around = (clock.hour(start - 1), hour, clock.hour(start + _HOUR))
            for key in keys:
                baseline = _baseline(states[key], comparable, around, rules, parameters)
                if baseline is not None:
                    baselines[key] = _changed(baseline, method)
        for position, (begin, _, which) in enumerate(incidents):
            if start <= begin < start + _HOUR and keys[which] in baselines:
                usual_of[position] = baselines[keys[which]].expected(begin - 300, begin)
        for cell in range(_CELLS):
            second = start + cell * CELL_SECONDS
            for index, key in enumerate(keys):
                live.add(key, second + 1, counts[index][cell])
            if not is_judged:
                continue
            until = second + CELL_SECONDS
            live.cover([(until - _HOUR * 2, until)])
            live.judge(until, baselines, start)
            is_lost = live.source is not None and live.source.is_lost
            statements += is_lost and not was_lost
            was_lost = is_lost
            now = until + _LAG_SECONDS
            for index, key in enumerate(keys):
                state, current = states[key], live.current.get(key)
                if current is None or not current.verdict.is_certain:
                    continue
                verdict = current.verdict
                state.flag, event = advance_flag(
                    state.flag,
                    now,
                    shifted=verdict.is_changed and verdict.persists,
                    persists=verdict.persists,
                    parameters=parameters,
                )
                if event is FlagEvent.FIRING:
                    hit = [
                        position
                        for position, (begin, end, which) in enumerate(incidents)
                        if which == index and begin <= now <= end + 600
                    ]
                    false += not hit
                    for position in hit:
                        found.setdefault(position, now - incidents[position][0])
        if is_judged or start >= _START:
            total = sum(map(sum, counts))
            source.append((hour, SourceWindow(start, hour.end, total, 1.0)))
        if not is_judged:
            live.judge(start, {}, None)
        for index, key in enumerate(keys):
            state = states[key]
            by_mark = [sum(counts[index][mark * 10 : mark * 10 + 10]) for mark in range(MARKS)]
            state.pattern = state.pattern.with_hour(by_mark)
            state.hours.append(TrafficHour(hour, sum(by_mark)))
    dense = [position for position, usual in usual_of.items() if usual >= 20]
    delays = tuple(found[position] for position in dense if position in found)
    return Outcome(len(keys) * _JUDGED_DAYS, false, len(dense), delays, statements)


def _generate(
    suite: str,
    clock: HourClock,
    endpoints: Sequence[Endpoint],
    gaps: Sequence[tuple[int, int]],
    incidents: Sequence[tuple[int, int, int]],
    random: Random,
) -> Iterator[tuple[LocalHour, list[list[int]]]]:
    """Yield the hours of a system, with the requests of each endpoint by cell."""
    day_factors: list[float] = []
    for start in range(_START, _START + (_LEARNED_DAYS + _JUDGED_DAYS) * _DAY, _HOUR):
        hour = clock.hour(start)
        if (start - _START) % _DAY == 0:
            day_factors = [math.exp(random.gauss(0, each.day_swing)) for each in endpoints]
        is_free = suite in ("holiday", "unknown holiday") and (start - _START) // _DAY == _HOLIDAY
        counts = []
        for index, endpoint in enumerate(endpoints):
            cells = _hour_counts(endpoint, hour, day_factors[index], is_free, random)
            counts.append(
                [
                    sum(
                        random.random() < _share(start + cell * CELL_SECONDS, index, gaps, incidents)
                        for _ in range(count)
                    )
                    for cell, count in enumerate(cells)
                ]
                if any(
                    begin < start + _HOUR and start < end for begin, end in (*gaps, *(each[:2] for each in incidents))
                )
                else cells
            )
        yield hour, counts


def _run_past(suite: str, seed: str, number: int) -> Outcome:
    """Generate one system, and judge it as history."""
    random = Random(f"{seed} {suite} {number}")
    holiday = datetime.fromtimestamp(_START + _HOLIDAY * _DAY, UTC).date()
    is_holiday: Callable[[date], bool] = (lambda day: day == holiday) if suite == "holiday" else (lambda _: False)
    clock = HourClock(Calendar(ZoneInfo("UTC"), is_holiday=is_holiday))
    parameters, rules = Parameters(), FallbackRules()
    endpoints = _endpoints(suite, random)
    gaps, incidents = _events(suite, random, len(endpoints))
    hours: list[LocalHour] = []
    by_mark: list[dict[int, int]] = [{} for _ in endpoints]
    for hour, counts in _generate(suite, clock, endpoints, gaps, incidents, random):
        hours.append(hour)
        for marks, cells in zip(by_mark, counts, strict=True):
            for mark in range(MARKS):
                marks[hour.start + (mark + 1) * _MARK] = sum(cells[mark * 10 : mark * 10 + 10])
    first, end = _START + _LEARNED_DAYS * _DAY, hours[-1].end

    def requests(marks: Mapping[int, int], hour: LocalHour) -> list[int]:
        return [marks[mark] for mark in range(hour.start + _MARK, hour.end + 1, _MARK)]

    def record(marks: Mapping[int, int]) -> TrafficRecord:
        counted = [TrafficHour(hour, float(sum(requests(marks, hour)))) for hour in hours]
        return TrafficRecord(
            counted, rules, drop=parameters.traffic_drop, accept_after_seconds=parameters.accept_after_seconds
        )

    windows = [
        SourceWindow(hour.start, hour.end, sum(sum(requests(marks, hour)) for marks in by_mark), 1.0) for hour in hours
    ]
    source = source_history(
        windows,
        clock,
        _START,
        end,
        lookback_seconds=rules.lookback_seconds,
        accept_after_seconds=parameters.accept_after_seconds,
    )
    sample = [SampledSeries(record(marks), NO_PATTERN, marks, source) for marks in by_mark]
    source = source.with_losses(source_losses(sample, source, clock, _START, end))
    false = 0
    found: dict[int, float] = {}
    dense: set[int] = set()
    for index, marks in enumerate(by_mark):
        traffic = SeriesTraffic(record(marks), source)
        tracker = TrafficTracker(traffic, parameters, clock, NO_TRAFFIC_STATE)
        pattern = NO_PATTERN
        for hour in hours:
            counted = requests(marks, hour)
            starting = [p for p, each in enumerate(incidents) if each[2] == index and hour.start <= each[0] < hour.end]
            if starting:
                around = [clock.hour(hour.start - 1), hour, clock.hour(hour.end)]
                baseline = traffic.baseline(around, pattern, frozenset())
                for position in starting:
                    begin = incidents[position][0]
                    if baseline is not None and baseline.expected(begin - _MARK, begin) >= MIN_USUAL_REQUESTS:
                        dense.add(position)
            ended = range(hour.start + _MARK, hour.end + 1, _MARK)
            tracker.evaluate(hour, list(zip(ended, counted, strict=True)), pattern, is_judged=True)
            pattern = pattern.with_hour(counted)
        for change in tracker.changes:
            if change.event is FlagEvent.FIRING and change.at >= first:
                hit = [
                    position
                    for position, (begin, until, which) in enumerate(incidents)
                    if which == index and begin <= change.at <= until + 600
                ]
                false += not hit
                for position in hit:
                    found.setdefault(position, change.at - incidents[position][0])
    lost = sorted(mark for mark in source.losses if mark > first)
    statements = sum(mark - before > _HOUR for before, mark in pairwise([first - 2 * _HOUR, *lost]))
    delays = tuple(found[position] for position in sorted(dense) if position in found)
    return Outcome(len(endpoints) * _JUDGED_DAYS, false, len(dense), delays, statements)


def _events(suite: str, random: Random, endpoints: int) -> tuple[list[tuple[int, int]], list[tuple[int, int, int]]]:
    first = _START + _LEARNED_DAYS * _DAY
    if suite == "gaps":
        return [
            (begin, begin + random.choice((600, 2400, 7200)))
            for day in range(-6, _JUDGED_DAYS)
            for begin in [first + day * _DAY + random.randrange(20 * _HOUR)]
        ], []
    if suite in ("drop", "silence"):
        incidents = []
        for day in range(_JUDGED_DAYS):
            for endpoint in range(endpoints):
                if random.random() < 0.4:
                    begin = first + day * _DAY + random.randrange(_HOUR, 22 * _HOUR)
                    incidents.append((begin, begin + _HOUR, endpoint))
        return [], incidents
    return [], []


def _share(at: int, endpoint: int, gaps: Sequence[tuple[int, int]], incidents: Sequence[tuple[int, int, int]]) -> float:
    """Return the share of the requests at an instant that become known."""
    share = 1.0
    for begin, end in gaps:
        if begin <= at < end:
            share = 0.1 if begin % 2 else 0.0
    for begin, end, which in incidents:
        if which == endpoint and begin <= at < end:
            share = 0.0 if begin % 2 else 0.1
    return share


def _baseline(
    state: _State,
    source: Sequence[SourceHour],
    around: Sequence[LocalHour],
    rules: FallbackRules,
    parameters: Parameters,
) -> TrafficBaseline | None:
    comparable = {each.hour.start for each in source}
    return traffic_baseline(
        [hour for hour in state.hours if hour.hour.start in comparable],
        around,
        rules,
        state.pattern,
        drop=parameters.traffic_drop,
        accept_after_seconds=parameters.accept_after_seconds,
    )


def _changed(baseline: TrafficBaseline, method: str) -> TrafficBaseline:
    if method != "without dispersion":
        return baseline
    zeros = (0,) * len(baseline.pattern.excess)
    return baseline._replace(dispersion=0.0, pattern=baseline.pattern._replace(excess=zeros))


def measure(seed: str, systems: int, processes: int) -> list[Result]:
    """Judge some systems of every suite, and return the figures with their targets."""
    # Not fork: a child would inherit the signal handlers and locks of a process with threads.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        outcomes = {
            suite: pool.map(partial(run_system, suite, "present", seed), range(systems), chunksize=1)
            for suite in SUITES
        }
        noise = pool.map(partial(run_system, "noise", "without dispersion", seed), range(1))
        lost = pool.map(partial(run_system, "gaps", "without the source", seed), range(1))
    found = [each for of_suite in outcomes.values() for each in of_suite]
    false, days = sum(each.false for each in found), sum(each.days for each in found)
    low, high = poisson_interval(false)
    results = [
        Result(
            "traffic: false episodes per 1000 healthy series-days",
            f"{1000 * false / days:.1f} ({1000 * low / days:.1f}–{1000 * high / days:.1f})",
            "≤ 2",
            1000 * false <= 2 * days,
            f"{false} in {days:.0f} series-days",
        )
    ]
    for what, without, suite in (("dispersion", noise, "noise"), ("rule about the source", lost, "gaps")):
        count, present = sum(each.false for each in without), sum(each.false for each in outcomes[suite][:1])
        based_on = f"{count} against {present} in the same {sum(each.days for each in without):.0f} series-days"
        rate = f"{1000 * count / sum(each.days for each in without):.0f}"
        name = f"traffic, {suite}: the same without the {what}"
        results.append(Result(name, rate, "≥ 5 × as many", count >= 5 * max(1, present), based_on))
    for suite in ("drop", "silence"):
        incidents = sum(each.incidents for each in outcomes[suite])
        delays = sorted(delay / 60 for each in outcomes[suite] for delay in each.delays)
        if incidents:
            share, middle = len(delays) / incidents, delays[len(delays) // 2] if delays else 0.0
            results.append(
                Result(
                    f"traffic, {suite}, at least 20 usual requests: found, median delay",
                    f"{share:.0%}, {middle:.1f} min",
                    "≥ 95 %, ≤ 6 min",
                    share >= 0.95 and middle <= 6,
                    f"{incidents} incidents",
                )
            )
    flags = sum(each.false for each in outcomes["gaps"])
    results.append(
        Result(
            "traffic, outages of the source: flags of endpoints",
            str(flags),
            "0",
            flags == 0,
            f"{sum(each.days for each in outcomes['gaps']):.0f} series-days",
        )
    )
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection_traffic", description=__doc__)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--systems", type=int, default=3, help="systems of eight endpoints in each suite")
    parser.add_argument("--suite", action="append", choices=SUITES)
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    suites, methods = options.suite or SUITES, options.method or ["present"]
    rows = []
    missed = False
    with multiprocessing.Pool(options.processes) as pool:
        for method in methods:
            false = days = 0.0
            for suite in suites:
                outcomes = pool.map(partial(run_system, suite, method, options.seed), range(options.systems))
                suite_days = sum(each.days for each in outcomes)
                suite_false = sum(each.false for each in outcomes)
                delays = sorted(delay for each in outcomes for delay in each.delays)
                incidents = sum(each.incidents for each in outcomes)
                days, false = days + suite_days, false + suite_false
                rows.append(
                    [
                        method,
                        suite,
                        f"{suite_days:.0f}",
                        f"{1000 * suite_false / suite_days:.1f}",
                        f"{len(delays)} of {incidents}" if incidents else "",
                        f"{delays[len(delays) // 2] / 60:.1f}" if delays else "",
                        str(sum(each.statements for each in outcomes)),
                    ]
                )
                sys.stderr.write(f"{rows[-1]}\n")
            rows.append([method, "all", f"{days:.0f}", f"{1000 * false / days:.1f}", "", "", ""])
            missed |= method == "present" and 1000 * false / days > 2
    columns = ["method", "suite", "series-days", "false per 1000", "found", "median delay, min", "statements"]
    print(table(columns, rows))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
