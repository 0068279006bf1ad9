"""How regressions are found: the method alone, on many series of six weeks and steps at four times of each.

The rest of the detector is left out, so that a hundred series take minutes and not hours: their hours are generated and
given to the method. Steps last for three days; what follows them is generated again with the step.
"""

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import sqrt
from statistics import median
from typing import Final, NamedTuple

from benchmarks.detection.evaluation import METHODS
from benchmarks.detection.results import poisson_interval
from benchmarks.detection.suites import FIRST_JUDGED_DAYS, REGRESSION_DAYS, Case, Suite, cases
from benchmarks.report import table
from exporter.demo.latency import Incident
from exporter.demo.traffic import DAY_SECONDS, SeriesProfile, SeriesTraffic
from exporter.detection.parameters import Parameters
from exporter.detection.regression.tracker import RegressionState, RegressionTracker
from exporter.detection.regression.verdict import Regression, RegressionEvent
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import encode_digest
from exporter.model.series_hour import SeriesHour, StoredWindow

STEPS: Final = ((1.2, 1.15, 0.9), (1.1, 1.05, 0.5))
"""Factor of a step, ``detection.regression.ratio``, and the share that should be found."""
STEP_DAYS: Final = 3
FOUND_WITHIN_SECONDS: Final = 2 * DAY_SECONDS
_STEPS_OF_EACH: Final = 4
_STEP_FROM_DAY: Final = 23
_STEP_UNTIL_DAY: Final = 30
_BUSY_RATE_PER_MINUTE: Final = 10
_FEWER_BUSY: Final = 4
"""Busy series take long to generate: there are this many times fewer."""
_CLOCK: Final = HourClock(Calendar())
_Z: Final = 1.96


class Response(NamedTuple):
    """What became of a step.

    Attributes:
        delay_seconds: from the step until it was found; None if it was not found in time.
        is_named: whether it began within the interval that is named.
    """

    delay_seconds: float | None
    is_named: bool


class Outcome(NamedTuple):
    """The result of one series with one method.

    Attributes:
        method: the method.
        rate_per_minute: its traffic.
        false: regressions of the healthy series, by ratio.
        responses: responses to its steps, by ratio.
    """

    method: str
    rate_per_minute: float
    false: dict[float, int]
    responses: dict[float, list[Response]]


def measure_case(case: Case, methods: Sequence[str]) -> list[Outcome]:
    """Measure each method on one series."""
    rng = random.Random(f"{case.seed}/steps")
    starts = [case.begin + rng.uniform(_STEP_FROM_DAY, _STEP_UNTIL_DAY) * DAY_SECONDS for _ in range(_STEPS_OF_EACH)]
    healthy = list(_hours(case.profile, case.seed, case.begin, case.end))
    slower = {
        (start, factor): list(_hours(_with_step(case.profile, start, factor), case.seed, *_range_of(start)))
        for start in starts
        for factor, _, _ in STEPS
    }
    outcomes = []
    for method in methods:
        false: dict[float, int] = {}
        responses: dict[float, list[Response]] = {}
        for factor, ratio, _ in STEPS:
            parameters = Parameters(regression_ratio=ratio, parts=METHODS[method])
            raised, states = _follow(healthy, parameters, {_range_of(start)[0] for start in starts})
            false[ratio] = len(raised)
            # A step must be found in endpoints of any duration.
            of_steps = replace(parameters, regression_min_delta_seconds=0.0)
            responses[ratio] = [
                _response(slower[start, factor], start, of_steps, states[_range_of(start)[0]]) for start in starts
            ]
        outcomes.append(Outcome(method, case.profile.rate_per_minute, false, responses))
    return outcomes


def _range_of(start: float) -> tuple[int, int]:
    """Return the hours in which a step at an instant has to be found."""
    first = int(start) // HOUR_SECONDS * HOUR_SECONDS
    return first, first + FOUND_WITHIN_SECONDS


def _with_step(profile: SeriesProfile, start: float, factor: float) -> SeriesProfile:
    return replace(profile, incidents=(Incident(start, start + STEP_DAYS * DAY_SECONDS, factor),))


def _hours(profile: SeriesProfile, seed: str, begin: int, end: int) -> Iterator[tuple[int, SeriesHour | None]]:
    """Generate the hours of a series; None without traffic."""
    traffic = SeriesTraffic(profile, seed)
    for start in range(begin, end, HOUR_SECONDS):
        digest = Digest.of_ns([request.duration_ns for request in traffic.hour(start // HOUR_SECONDS)])
        window = StoredWindow(start, digest.count, encode_digest(digest))
        yield start, SeriesHour(_CLOCK.hour(start), [window]) if digest.count else None


def _follow(
    hours: Sequence[tuple[int, SeriesHour | None]],
    parameters: Parameters,
    kept: set[int],
    state: RegressionState | None = None,
) -> tuple[list[Regression], dict[int, RegressionState]]:
    """Return the regressions that are raised, and the states before some hours."""
    tracker = RegressionTracker(parameters) if state is None else RegressionTracker(parameters, state)
    states = {}
    for start, hour in hours:
        if start in kept:
            states[start] = tracker.state()
        if hour is not None:
            tracker.add(hour)
        tracker.evaluate(_CLOCK.hour(start))
    return [each.regression for each in tracker.changes if each.event is RegressionEvent.RAISED], states


def _response(
    hours: Sequence[tuple[int, SeriesHour | None]], start: float, parameters: Parameters, state: RegressionState
) -> Response:
    raised, _ = _follow(hours, parameters, set(), state)
    found = next((each for each in raised if start < each.raised_at <= start + FOUND_WITHIN_SECONDS), None)
    if found is None:
        return Response(None, is_named=False)
    return Response(found.raised_at - start, found.began_after <= start <= found.began_before)


def rows(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, ...]]:
    """Return the table of one method."""
    days = len(outcomes) * (REGRESSION_DAYS - FIRST_JUDGED_DAYS)
    for factor, ratio, least in STEPS:
        count = sum(outcome.false[ratio] for outcome in outcomes)
        low, high = poisson_interval(count)
        reached = f"{1000 * count / days:.2f} ({1000 * low / days:.2f}–{1000 * high / days:.2f})"
        based_on = f"{count} in {days} series-days"
        yield f"regressions per 1000 healthy series-days, ratio {ratio:g}", reached, "≤ 1", based_on
        responses = [each for outcome in outcomes for each in outcome.responses[ratio]]
        delays = [each.delay_seconds for each in responses if each.delay_seconds is not None]
        spread = _Z * _cluster_deviation([outcome.responses[ratio] for outcome in outcomes])
        share = len(delays) / len(responses)
        what = f"× {factor:g}, ratio {ratio:g}: found within 48 h"
        yield what, f"{share:.1%} ± {spread:.1%}", f"≥ {least:.0%}", f"{len(responses)} steps"
        if delays:
            named = sum(each.is_named for each in responses) / len(delays)
            yield "… median delay, beginning within the interval", f"{median(delays) / 3600:.0f} h, {named:.0%}", "", ""
        for rate in sorted({outcome.rate_per_minute for outcome in outcomes}):
            some = [each for o in outcomes if o.rate_per_minute == rate for each in o.responses[ratio]]
            found = sum(each.delay_seconds is not None for each in some)
            yield f"… with {rate * 1440:,.0f} requests a day", f"{found / len(some):.0%}", "", f"{len(some)} steps"


def _cluster_deviation(by_series: Sequence[Sequence[Response]]) -> float:
    """Return the standard error of the share that is found; the steps of one series are alike."""
    shares = [sum(each.delay_seconds is not None for each in some) / len(some) for some in by_series]
    mean = sum(shares) / len(shares)
    return sqrt(sum((share - mean) ** 2 for share in shares) / max(1, len(shares) - 1) / len(shares))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection.regressions", description=__doc__)
    parser.add_argument("--seed", default="1", help="seed of the series")
    parser.add_argument("--series", type=int, default=60, help="number of series of each rate, of busy ones a quarter")
    parser.add_argument("--method", action="append", choices=METHODS, help="a method of the detector (default: 2)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    methods = options.method or ["2"]
    began = time.monotonic()
    fewer = -(-options.series // _FEWER_BUSY)
    busy = [case for case in cases(Suite.WEEKS, fewer, options.seed) if _is_busy(case)]
    other = [case for case in cases(Suite.WEEKS, options.series, options.seed) if not _is_busy(case)]
    # Not fork: a child would inherit the signal handlers and locks of a process with threads.
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        measured = pool.map(partial(measure_case, methods=methods), busy + other, chunksize=1)
    for position, method in enumerate(methods):
        print(f"method {method}")
        print(table(("what", "reached", "target", "based on"), list(rows([each[position] for each in measured]))))
    print(f"\nseed {options.seed}, {time.monotonic() - began:.0f} s on {options.processes} processes")
    return 0


def _is_busy(case: Case) -> bool:
    return case.profile.rate_per_minute >= _BUSY_RATE_PER_MINUTE


if __name__ == "__main__":
    sys.exit(main())
