"""The command: evaluate all series on all processors, and print the figures with their targets."""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from math import ceil, inf
from typing import Final

from benchmarks import detection_traffic
from benchmarks.detection import errors
from benchmarks.detection.evaluation import METHODS, Outcome, evaluate_case
from benchmarks.detection.labelled import evaluate_series, load
from benchmarks.detection.results import Result, compared, header, labelled_results, synthetic_results
from benchmarks.detection.scoring import Tally
from benchmarks.detection.suites import Case, Suite, cases
from benchmarks.report import table
from exporter.detection.parameters import Parts

SERIES_PER_RATE: Final = {
    Suite.PLAIN: 23,
    Suite.INCIDENTS: 14,
    Suite.PARTIAL: 14,
    Suite.SURGE: 4,
    Suite.GAPS: 4,
    Suite.NEW: 4,
    Suite.DRIFT: 8,
    Suite.HOURLY_BATCH: 6,
    Suite.DAILY_BATCH: 6,
    Suite.RESTLESS: 6,
    Suite.SHARED: 4,
    Suite.CACHE: 4,
    Suite.CALENDAR: 6,
    Suite.SPEEDUPS: 4,
    Suite.CRON: 6,
    Suite.DAILY_CRON: 6,
    Suite.ALIKE: 6,
    Suite.ALIKE_INCIDENTS: 6,
    Suite.PERMANENT: 14,
    Suite.ABLATION: 4,
    Suite.WEEKS: 20,
    Suite.STEP_FIFTH: 20,
    Suite.STEP_TENTH: 10,
    Suite.SLOW_DRIFT: 8,
    Suite.STREAMS: 12,
    Suite.PROBES: 5,
}
_QUICK_SUITES: Final = {Suite.PLAIN: 3, Suite.INCIDENTS: 2, Suite.ABLATION: 3}
_QUICK_RATE_PER_MINUTE: Final = 2.0
_DATA_SETS: Final = ("kpi", "nab")
_ERRORS: Final = "errors"
_TRAFFIC: Final = "traffic"
_COPIES: Final = 3
"""Series of each error suite, ratio and rate, and systems of each traffic suite."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few series, only to check that the benchmark works")
    parser.add_argument("--seed", default="1", help="seed of the synthetic series")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--share", type=float, default=1.0, help="share of the series, rounded up in each suite")
    parser.add_argument("--suite", action="append", help="only this suite, data set or kind; may be repeated")
    parser.add_argument("--min-rate", type=float, default=0.0, help="leave out series with fewer requests a minute")
    parser.add_argument("--max-rate", type=float, default=inf, help="leave out series with more requests a minute")
    parser.add_argument(
        "--method",
        action="append",
        choices=METHODS,
        help="a method of the detector; those given are compared in one run, on the same series (default: 2)",
    )
    options = parser.parse_args(arguments)
    methods = options.method or ["2"]
    began = time.monotonic()
    series = _series(options.seed, options.share, options.suite, quick=options.quick)
    series = [case for case in series if options.min_rate <= case.profile.rate_per_minute <= options.max_rate]
    data_sets = [] if options.quick else [name for name in _DATA_SETS if not options.suite or name in options.suite]
    results = measure(series, data_sets, methods, options.processes)
    if not options.quick:
        others = other_kinds(options.suite, options.seed, options.share, options.processes, methods)
        for method, of_method in results.items():
            of_method.extend(others[method])
    print(table(header(methods), compared([results[method] for method in methods])))
    print(f"\nseed {options.seed}, {time.monotonic() - began:.0f} s on {options.processes} processes")
    return 0 if options.quick or all(result.met is not False for result in results[methods[-1]]) else 1


def _series(seed: str, share: float, suites: Sequence[str] | None, *, quick: bool) -> list[Case]:
    """Draw the series."""
    per_rate = _QUICK_SUITES if quick else SERIES_PER_RATE
    return [
        case
        for suite, count in per_rate.items()
        if not suites or suite in suites
        for case in cases(suite, ceil(count * share), seed)
        if not quick or case.profile.rate_per_minute == _QUICK_RATE_PER_MINUTE
    ]


def other_kinds(
    suites: Sequence[str] | None, seed: str, share: float, processes: int, methods: Sequence[str]
) -> dict[str, list[Result]]:
    """Return the figures on errors and traffic by method, unless only other suites are wanted; traffic has one."""
    results: dict[str, list[Result]] = {method: [] for method in methods}
    copies = ceil(_COPIES * share)
    if not suites or _ERRORS in suites:
        found: dict[Parts, list[Result]] = {}
        for method in methods:
            parts = errors.own_parts(METHODS[method])
            if parts not in found:
                found[parts] = errors.measure(seed, copies, processes, parts)
            results[method] += found[parts]
    if not suites or _TRAFFIC in suites:
        of_traffic = detection_traffic.measure(seed, copies, processes)
        for of_method in results.values():
            of_method.extend(of_traffic)
    return results


def measure(
    series: Sequence[Case], data_sets: Sequence[str], methods: Sequence[str], processes: int
) -> dict[str, list[Result]]:
    """Evaluate all series and return the figures by method."""
    # The longest first: a process that starts one last would keep the others waiting.
    series = sorted(series, key=lambda case: -case.profile.rate_per_minute)
    outcomes: list[Outcome] = []
    tallies: dict[str, dict[str, Tally]] = {method: {} for method in methods}
    # Not fork: a child would inherit the signal handlers and locks of a process with threads.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        labelled = [each for data_set in data_sets for each in load(data_set)]
        for method in methods:
            for name, counts in pool.imap_unordered(partial(evaluate_series, method=method), labelled):
                tallies[method][name] = tallies[method].get(name, Tally()).plus(counts)
        found = pool.imap_unordered(partial(evaluate_case, methods=methods), series)
        for of_case in _with_progress(found, len(series)):
            outcomes.extend(of_case)
    # Results arrive in any order; the figures must not depend on it.
    outcomes.sort(key=lambda outcome: (outcome.case.suite, outcome.case.seed))
    return {
        method: synthetic_results([outcome for outcome in outcomes if outcome.method == method])
        + labelled_results(tallies[method])
        for method in methods
    }


def _with_progress(outcomes: Iterable[list[Outcome]], total: int) -> Iterable[list[Outcome]]:
    """Yield the outcomes, and show their number on a terminal."""
    for number, outcome in enumerate(outcomes, start=1):
        if sys.stderr.isatty():
            print(f"\r{number} of {total} series", end="\n" if number == total else "", file=sys.stderr, flush=True)
        yield outcome


if __name__ == "__main__":
    sys.exit(main())
