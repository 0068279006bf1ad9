"""The command: evaluate all series on all processors, and print the figures with their targets."""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Final

from benchmarks.detection.evaluation import Outcome, evaluate_case
from benchmarks.detection.labelled import evaluate_series, load
from benchmarks.detection.results import Result, labelled_results, synthetic_results
from benchmarks.detection.scoring import Tally
from benchmarks.detection.suites import Suite, cases
from benchmarks.report import table

_SERIES_PER_RATE: Final = {
    Suite.PLAIN: 23,
    Suite.INCIDENTS: 14,
    Suite.SURGE: 4,
    Suite.GAPS: 4,
    Suite.NEW: 4,
    Suite.DRIFT: 8,
    Suite.PERMANENT: 14,
    Suite.ABLATION: 4,
}
_QUICK_SUITES: Final = {Suite.PLAIN: 3, Suite.INCIDENTS: 2, Suite.ABLATION: 3}
_QUICK_RATE_PER_MINUTE: Final = 2.0
_DATA_SETS: Final = ("kpi", "nab")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few series, only to check that the benchmark works")
    parser.add_argument("--seed", default="1", help="seed of the synthetic series")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    results = measure(options.seed, options.processes, quick=options.quick)
    print(table(Result.HEADER, [result.row() for result in results]))
    print(f"\nseed {options.seed}, {time.monotonic() - began:.0f} s on {options.processes} processes")
    return 0 if options.quick or all(result.met is not False for result in results) else 1


def measure(seed: str, processes: int, *, quick: bool) -> list[Result]:
    """Evaluate all series and return the figures."""
    per_rate = _QUICK_SUITES if quick else _SERIES_PER_RATE
    series = [case for suite, count in per_rate.items() for case in cases(suite, count, seed)]
    if quick:
        series = [case for case in series if case.profile.rate_per_minute == _QUICK_RATE_PER_MINUTE]
    # The longest first: a process that starts one last would keep the others waiting.
    series.sort(key=lambda case: -case.profile.rate_per_minute)
    outcomes: list[Outcome] = []
    tallies: dict[str, Tally] = {}
    # Not fork: a child would inherit the signal handlers and locks of a process with threads.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        if not quick:
            for data_set in _DATA_SETS:
                for name, counts in pool.imap_unordered(evaluate_series, load(data_set)):
                    tallies[name] = tallies.get(name, Tally()).plus(counts)
        outcomes.extend(_with_progress(pool.imap_unordered(evaluate_case, series), len(series)))
    # Results arrive in any order; the figures must not depend on it.
    outcomes.sort(key=lambda outcome: (outcome.case.suite, outcome.case.seed))
    return synthetic_results(outcomes) + labelled_results(tallies)


def _with_progress(outcomes: Iterable[Outcome], total: int) -> Iterable[Outcome]:
    """Yield the outcomes, and show their number on a terminal."""
    for number, outcome in enumerate(outcomes, start=1):
        if sys.stderr.isatty():
            print(f"\r{number} of {total} series", end="\n" if number == total else "", file=sys.stderr, flush=True)
        yield outcome


if __name__ == "__main__":
    sys.exit(main())
