"""False episodes and recall of error shifts, on synthetic counts of requests and failures.

``python -m benchmarks.detection.errors`` prints a table; the seed makes it deterministic. Requests and failures are
drawn by tick of 15 seconds: eight days to learn, and ten to evaluate in the healthy suites. Their usual ratio drifts by
up to a half in all suites.

*Plain* series have nothing else. *Bursts* are short and over-dispersed: one to ten a day, 15 to 75 seconds long, with a
median height of 8 % and a logarithmic standard deviation of 0.8. *Retry storms* come one to three times a day, for 30
to 105 seconds, with two to six times the traffic, of which 30 to 70 % fails. A *daily batch* fails by 30 % for twenty
minutes at the same time. *Long bursts* (one a day, one to four minutes, 4 %) and *long storms* (one a day, one to three
minutes, four times the traffic, half of it failing) are as long as the shortest incidents: nothing but the history
tells them from one, so they have no target.

There is one incident a series, at any time of the ninth day: 3, 10, 30 or 180 minutes long. The *smallest* ones have
five times the usual ratio or 5 points more, whichever is larger; *larger* ones have at least that, and up to 60 %.
"""

import argparse
import multiprocessing
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate, product
from math import ceil, cos, exp, log, pi, sqrt
from statistics import median
from typing import Final, NamedTuple

from benchmarks.detection.evaluation import METHODS
from benchmarks.detection.results import Result, compared, header, poisson_interval
from benchmarks.report import table
from exporter.baseline.levels import FallbackRules
from exporter.detection.errors.history import NO_ERROR_STATE, ErrorState, ErrorTracker, error_baseline
from exporter.detection.errors.recent import RecentFailures
from exporter.detection.errors.verdict import ErrorBaseline
from exporter.detection.flag import INACTIVE, FlagEvent
from exporter.detection.parameters import ALL_PARTS, Parameters, Parts
from exporter.detection.window import RecentTraces
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock, LocalHour
from exporter.model.histogram_codec import MARK_SECONDS, encode_failures
from exporter.model.hours import SeriesHours
from exporter.model.series_hour import SeriesHour, StoredWindow

STEP_SECONDS: Final = 15
_STEPS_PER_HOUR: Final = HOUR_SECONDS // STEP_SECONDS
_STEPS_PER_MARK: Final = MARK_SECONDS // STEP_SECONDS
_STEPS_PER_DAY: Final = 24 * _STEPS_PER_HOUR
_STEPS_PER_MINUTE: Final = 60 // STEP_SECONDS
LEARNED_DAYS: Final = 8
EVALUATED_DAYS: Final = 10
_MONDAY: Final = 490992 * HOUR_SECONDS
LATE_STEPS: Final = 20
"""An incident counts as found until five minutes after its end."""

RATIOS: Final = (0.0, 0.001, 0.01, 0.05, 0.6)
RATES: Final = (2.0, 10.0, 60.0)
MINUTES: Final = (3, 10, 30, 180)
HEALTHY: Final = ("plain", "bursts", "retry storms", "daily batch")
HARSH: Final = ("long bursts", "long storms")
SMALLEST: Final = "smallest"
LARGER: Final = "larger"
MAX_RATIO: Final = 0.6
_INCIDENT_SHARES: Final = {
    ("plain", LARGER): 6,
    ("plain", SMALLEST): 2,
    ("bursts", LARGER): 1,
    ("retry storms", LARGER): 1,
}
"""Incidents for each healthy series: those with a target most, since few of them have less than 100 requests."""
_HARSH_COPIES: Final = 3
"""Of so many copies of the other suites, the harsh ones have one."""
_ABLATED: Final = ((10.0,), (0.001, 0.05))
"""Rates and usual ratios of the series that are also evaluated without the swing: each takes ten times as long."""


class Series(NamedTuple):
    """A series to generate.

    Attributes:
        seed: what it is drawn from.
        per_minute: requests a minute, on average.
        ratio: usual error ratio.
        suite: name of the suite.
        incident: the kind of its incident; empty for a healthy series.
        minutes: length of the incident.
    """

    seed: str
    per_minute: float
    ratio: float
    suite: str
    incident: str = ""
    minutes: int = 0


class Outcome(NamedTuple):
    """What was found in one series.

    Attributes:
        series: the series.
        false: number of episodes outside of the incident.
        requests: requests in the incident.
        delay_minutes: time from its beginning to the flag; None if it was not found.
    """

    series: Series
    false: int
    requests: int = 0
    delay_minutes: float | None = None


class _Counts(NamedTuple):
    requests: list[int]
    failures: list[int]
    begin: int
    end: int


def _drawn(rng: random.Random, series: Series) -> _Counts:
    """Draw requests and failures by step, and where the incident begins and ends."""
    days = LEARNED_DAYS + (1 if series.incident else EVALUATED_DAYS)
    steps = days * _STEPS_PER_DAY
    surplus, traffic = [0.0] * steps, [1.0] * steps
    for begin, length, height, factor in _bursts(rng, series.suite, days):
        for step in range(begin, min(steps, begin + length)):
            surplus[step], traffic[step] = max(surplus[step], height), factor
    first = last = steps
    worse = 0.0
    if series.incident:
        length = series.minutes * _STEPS_PER_MINUTE
        first = LEARNED_DAYS * _STEPS_PER_DAY + rng.randrange(
            _STEPS_PER_HOUR, _STEPS_PER_DAY - length - _STEPS_PER_HOUR
        )
        last = first + length
        worse = least_ratio(series.ratio)
        if series.incident == LARGER:
            worse = exp(rng.uniform(log(worse), log(MAX_RATIO)))
    factor, requests, failures = 0.0, list[int](), list[int]()
    drift = 1.0
    for step in range(steps):
        if step % _STEPS_PER_MARK == 0 and series.ratio < 0.5:
            factor = 0.9 * factor + sqrt(1 - 0.81) * rng.gauss(0, 0.2)
            drift = min(1.5, exp(factor))
        rhythm = 1 - 0.6 * cos(2 * pi * (step % _STEPS_PER_DAY) / _STEPS_PER_DAY)
        count = poisson(rng, series.per_minute / _STEPS_PER_MINUTE * rhythm * traffic[step])
        ratio = min(0.97, series.ratio * drift)
        ratio = max(ratio + surplus[step] * (1 - ratio), worse if first <= step < last else 0.0)
        requests.append(count)
        failures.append(binomial(rng, count, ratio))
    return _Counts(requests, failures, first, last)


def _bursts(rng: random.Random, suite: str, days: int) -> Iterable[tuple[int, int, float, float]]:
    """Yield the bursts of a suite: first step, number of steps, share of the requests that fail, and traffic."""
    per_day = {"bursts": exp(rng.uniform(0, log(10))), "retry storms": exp(rng.uniform(0, log(3)))}.get(suite, 1.0)
    hour = rng.randrange(24)
    for day in range(days):
        if suite == "daily batch":
            yield day * _STEPS_PER_DAY + hour * _STEPS_PER_HOUR, 20 * _STEPS_PER_MINUTE, 0.3, 1.0
        if suite in ("plain", "daily batch"):
            continue
        for _ in range(poisson(rng, per_day)):
            begin = day * _STEPS_PER_DAY + rng.randrange(_STEPS_PER_DAY)
            match suite:
                case "bursts":
                    yield begin, rng.randint(1, 5), min(0.8, 0.08 * exp(rng.gauss(0, 0.8))), 1.0
                case "retry storms":
                    yield begin, rng.randint(2, 7), rng.uniform(0.3, 0.7), rng.uniform(2, 6)
                case "long bursts":
                    yield begin, rng.randint(4, 16), min(0.6, 0.04 * exp(rng.gauss(0, 0.5))), 1.0
                case "long storms":
                    yield begin, rng.randint(4, 12), 0.5, 4.0


def least_ratio(usual: float) -> float:
    """Return the error ratio of the smallest incidents: five times the usual, or five points more if that is larger."""
    return max(5 * usual, usual + 0.05)


def poisson(rng: random.Random, mean: float) -> int:
    """Draw a number of requests."""
    if mean > 30:
        return max(0, round(rng.gauss(mean, sqrt(mean))))
    limit, product_, count = exp(-mean), rng.random(), 0
    while product_ > limit:
        product_ *= rng.random()
        count += 1
    return count


def binomial(rng: random.Random, trials: int, p: float) -> int:
    """Draw how many of some trials succeed; the numbers of trials in between are geometric."""
    if not trials or not p:
        return 0
    found, position, scale = 0, 0, log(1 - p)
    while True:
        position += int(log(1 - rng.random()) / scale) + 1
        if position > trials:
            return found
        found += 1


def evaluate(series: Series, parameters: Parameters) -> Outcome:
    """Evaluate one series with live ticks, and its history hour by hour."""
    drawn = _drawn(random.Random(repr(series)), series)
    requests, failures, begin, end = drawn
    rules, clock = FallbackRules(), HourClock(Calendar())
    history, state = SeriesHours(), NO_ERROR_STATE
    recent, failed = RecentTraces(), RecentFailures()
    flag, episodes, fired_at = INACTIVE, list[tuple[int, int]](), 0
    since = LEARNED_DAYS * _STEPS_PER_DAY if not series.incident else begin - 2 * _STEPS_PER_HOUR
    until = len(requests) if not series.incident else min(len(requests), end + _STEPS_PER_HOUR)
    request_sums, failure_sums = list(accumulate(requests, initial=0)), list(accumulate(failures, initial=0))
    window_steps = parameters.window_seconds // STEP_SECONDS
    for first in range(0, until, _STEPS_PER_HOUR):
        hour = clock.hour(_MONDAY + first * STEP_SECONDS)
        if first + _STEPS_PER_HOUR > since:
            recent.discard(hour.start, parameters)
            failed.discard(hour.start, parameters)
            usual = _Usual(hour, clock, partial(error_baseline, history, rules=rules, state=state, until=hour.start))
            for step in range(first, first + _STEPS_PER_HOUR):
                now = _MONDAY + (step + 1) * STEP_SECONDS
                recent.extend(now, [0] * requests[step])
                failed.add(now, False, counts=False, number=requests[step] - failures[step])
                failed.add(now, True, counts=False, number=failures[step])
                begun = max(0, step + 1 - window_steps)
                count = request_sums[step + 1] - request_sums[begun]
                # Nearly always: the evaluation window cannot show a shift, so that an inactive flag stays inactive.
                if (
                    flag == INACTIVE
                    and count >= parameters.min_traces
                    and usual.is_small((failure_sums[step + 1] - failure_sums[begun]) / count, parameters)
                ):
                    continue
                window = recent.window(now, parameters)
                result = failed.tick(recent, window, now, usual.baselines(parameters), flag, parameters, hour.start)
                flag = result.flag
                if result.event is FlagEvent.FIRING:
                    fired_at = step
                elif result.event is FlagEvent.RESOLVED:
                    episodes.append((fired_at, step))
        state = _settle(history, hour, drawn, first, state, rules, parameters, clock)
    if flag.firing:
        episodes.append((fired_at, until))
    if not series.incident:
        return Outcome(series, len(episodes))
    hits = [at for at, ended in episodes if at < end + LATE_STEPS and ended > begin]
    delay = max(0.0, (min(hits) + 1 - begin) / _STEPS_PER_MINUTE) if hits else None
    return Outcome(series, len(episodes) - len(hits), sum(requests[begin:end]), delay)


class _Usual:
    """The usual failures of an hour and of the two before it, which a window may touch; computed where needed."""

    def __init__(self, hour: LocalHour, clock: HourClock, of_hour: Callable[..., ErrorBaseline | None]) -> None:
        self._hours = [hour, clock.hour(hour.start - 1), clock.hour(hour.start - 1 - HOUR_SECONDS)]
        self._of_hour = of_hour
        self._found: list[ErrorBaseline | None] = []

    def is_small(self, ratio: float, parameters: Parameters) -> bool:
        """Whether an error ratio is too low to matter: of several hours, the one that allows most applies."""
        if ratio < parameters.errors_min_delta:
            return True
        own = self._of(1, parameters)[0]
        return own is None or ratio < own.limit(parameters)

    def baselines(self, parameters: Parameters) -> list[ErrorBaseline]:
        """Return those that are known, newest first."""
        return [each for each in self._of(len(self._hours), parameters) if each is not None]

    def _of(self, count: int, parameters: Parameters) -> list[ErrorBaseline | None]:
        while len(self._found) < count:
            self._found.append(self._of_hour(hour=self._hours[len(self._found)], parameters=parameters))
        return self._found


def _settle(
    history: SeriesHours,
    hour: LocalHour,
    drawn: _Counts,
    begin: int,
    state: ErrorState,
    rules: FallbackRules,
    parameters: Parameters,
    clock: HourClock,
) -> ErrorState:
    marks: list[tuple[int, int]] = []
    by_offset: dict[int, int] = {}
    for offset in range(HOUR_SECONDS // MARK_SECONDS):
        first = begin + offset * _STEPS_PER_MARK
        last = first + _STEPS_PER_MARK
        marks.append((hour.start + (offset + 1) * MARK_SECONDS, sum(drawn.requests[first:last])))
        if failed := sum(drawn.failures[first:last]):
            by_offset[offset + 1] = failed
    total = sum(count for _, count in marks)
    stored = None
    if total:
        stored = SeriesHour(hour, [StoredWindow(hour.start, total, b"", b"", encode_failures(by_offset))])
        history.append(stored)
    history.discard_before(hour.start - rules.lookback_seconds)
    tracker = ErrorTracker(rules, parameters, clock, state)
    tracker.evaluate(history, hour, stored, marks, is_enabled=True)
    return tracker.state(hour.end)


def healthy_series(seed: str, copies: int, suites: Sequence[str] = HEALTHY) -> list[Series]:
    """Return the series without incidents."""
    return [
        Series(f"{seed}/{copy}", rate, ratio, suite)
        for suite, copy, ratio, rate in product(suites, range(copies), RATIOS, RATES)
    ]


def incident_series(seed: str, copies: int) -> list[Series]:
    """Return the series with an incident."""
    return [
        Series(f"{seed}/{copy}", rate, ratio, suite, kind, minutes)
        for (suite, kind), share in _INCIDENT_SHARES.items()
        for copy, ratio, rate, minutes in product(range(share * copies), RATIOS[:-1], RATES, MINUTES)
    ]


def own_parts(parts: Parts) -> Parts:
    """Return the parts of a method that concern errors, with all others."""
    return ALL_PARTS._replace(**{name: getattr(parts, name) for name in Parts._fields if name.startswith("error_")})


def measure(seed: str, copies: int, processes: int, parts: Parts = ALL_PARTS) -> list[Result]:
    """Evaluate all series by some parts of the method, and return the figures with their targets."""
    ablated = Parameters(parts=parts._replace(error_swing=False))
    harsh = healthy_series(seed, ceil(copies / _HARSH_COPIES), HARSH)
    series = [*healthy_series(seed, copies), *harsh, *incident_series(seed, copies)]
    same = [
        each for each in healthy_series(seed, 1, HEALTHY[1:]) if (each.per_minute, each.ratio) in product(*_ABLATED)
    ]
    # Not fork: a child would inherit the signal handlers and locks of a process with threads.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        outcomes = pool.map(partial(evaluate, parameters=Parameters(parts=parts)), series, chunksize=4)
        without = pool.map(partial(evaluate, parameters=ablated), same, chunksize=1)
    return list(_results(outcomes, without))


def _results(outcomes: Sequence[Outcome], without: Sequence[Outcome]) -> Iterable[Result]:
    healthy = [each for each in outcomes if not each.series.incident]
    what = "errors: false episodes per 1000 healthy series-days"
    count, days, reached = _false(each for each in healthy if each.series.suite in HEALTHY)
    yield Result(f"{what}: all suites", reached, "≤ 2", 1000 * count <= 2 * days, f"{count} in {days} series-days")
    for suite in (*HEALTHY, *HARSH):
        count, days, reached = _false(each for each in healthy if each.series.suite == suite)
        yield Result(f"{what}: {suite}", reached, "", None, f"{count} in {days} series-days")
    same = {each.series for each in without}
    with_swing = sum(each.false for each in healthy if each.series in same)
    count, days, _ = _false(without)
    met = count >= 5 * max(1, with_swing)
    based_on = f"{count} against {with_swing} in the same {days} series-days"
    yield Result("errors: the same without the swing", f"{1000 * count / days:.0f}", "≥ 5 × as many", met, based_on)
    for suite, kind in (("plain", LARGER), ("plain", SMALLEST), ("bursts", LARGER), ("retry storms", LARGER)):
        of_kind = [each for each in outcomes if (each.series.suite, each.series.incident) == (suite, kind)]
        name = f"errors: {kind} incidents in {suite} series"
        has_target = suite == "plain"
        yield _found(name, [each for each in of_kind if each.requests >= 100], "≥ 100", (97, 3.5) if has_target else ())
        yield _found(
            name, [each for each in of_kind if 20 <= each.requests < 100], "20–100", (80,) if has_target else ()
        )


def _false(outcomes: Iterable[Outcome]) -> tuple[int, int, str]:
    """Return the number of false episodes, of series-days, and the rate with its interval."""
    found = list(outcomes)
    count, days = sum(each.false for each in found), EVALUATED_DAYS * len(found)
    low, high = poisson_interval(count)
    return count, days, f"{1000 * count / days:.1f} ({1000 * low / days:.1f}–{1000 * high / days:.1f})"


def _found(what: str, outcomes: Sequence[Outcome], requests: str, target: Sequence[float]) -> Result:
    delays = [each.delay_minutes for each in outcomes if each.delay_minutes is not None]
    share, minutes = len(delays) / len(outcomes), median(delays) if delays else 0.0
    reached = f"{share:.0%}, {minutes:.1f} min"
    wanted, met = "", None
    if target:
        wanted, met = f"≥ {target[0]:g} %", 100 * share >= target[0]
    if len(target) > 1:
        wanted, met = f"{wanted}, ≤ {target[1]:g} min", bool(met) and minutes <= target[1]
    return Result(
        f"{what}, {requests} requests: found, median delay", reached, wanted, met, f"{len(outcomes)} incidents"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate all suites, and print what was found; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection.errors", description=__doc__)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--copies", type=int, default=2, help="series of each suite, ratio and rate")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--method", choices=METHODS, default="2", help="method of the detector (default: 2)")
    options = parser.parse_args(arguments)
    results = measure(options.seed, options.copies, options.processes, own_parts(METHODS[options.method]))
    print(table(header([options.method]), compared([results])))
    return int(any(result.met is False for result in results))


if __name__ == "__main__":
    sys.exit(main())
