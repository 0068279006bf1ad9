"""What is possible: an oracle that knows the usual error ratio and that of the incident.

``python -m benchmarks.detection.error_oracle`` prints which share of the incidents of plain series in
:mod:`benchmarks.detection.errors` it finds, and how soon. At each tick of 15 seconds it adds the log-likelihood ratio
of the failures to a sum that never falls below zero (Page, "Continuous inspection schemes", 1954), so that its window
is as long as it should be. It has the hold time of the exporter, and needs three failures. Its threshold allows two
false episodes in 1000 series-days. Their probability is simulated under the incident, and weighted by the likelihood
ratio (Siegmund, "Importance sampling in the Monte Carlo study of sequential tests", 1976).
"""

import argparse
import random
import sys
from collections.abc import Sequence
from itertools import product
from math import cos, exp, log, pi
from statistics import median
from typing import Final, NamedTuple

from benchmarks.detection.errors import (
    LARGER,
    LATE_STEPS,
    MAX_RATIO,
    MINUTES,
    RATES,
    RATIOS,
    SMALLEST,
    STEP_SECONDS,
    binomial,
    least_ratio,
    poisson,
)
from benchmarks.report import table

_FALSE_PER_DAY: Final = 0.002
_STEPS_PER_DAY: Final = 86_400 // STEP_SECONDS
_STEPS_PER_MINUTE: Final = 60 // STEP_SECONDS
_HOLD_STEPS: Final = 60 // STEP_SECONDS
_MIN_FAILURES: Final = 3
_THRESHOLDS: Final = tuple(step / 4 for step in range(4, 65))
_LEVELS: Final = 4
"""Ratios of larger incidents, in equal steps on a logarithmic scale."""
_LEAST_USUAL: Final = 1e-4
"""Failures of an endpoint that never failed are not impossible, or a single one would be proof."""


class _Case(NamedTuple):
    """Requests a minute, the usual error ratio, and that of the incident."""

    per_minute: float
    usual: float
    ratio: float


class _Found(NamedTuple):
    usual: float
    requests: int
    delay_minutes: float | None


class _Sum:
    """The sum of log-likelihood ratios, and the failures since it was zero."""

    def __init__(self, case: _Case) -> None:
        self.value = 0.0
        self.failures = 0
        usual = max(case.usual, _LEAST_USUAL)
        self._of_failure = log(case.ratio / usual)
        self._of_success = log((1 - case.ratio) / (1 - usual))

    def add(self, requests: int, failures: int) -> None:
        self.value += failures * self._of_failure + (requests - failures) * self._of_success
        self.failures += failures
        if self.value <= 0:
            self.value, self.failures = 0.0, 0

    def exceeds(self, threshold: float) -> bool:
        return self.value >= threshold and self.failures >= _MIN_FAILURES


def _threshold(rng: random.Random, case: _Case, paths: int) -> float:
    """Return the lowest threshold that allows two false episodes in 1000 series-days."""
    weights = dict.fromkeys(_THRESHOLDS, 0.0)
    for _ in range(paths):
        sums, left = _Sum(case), list(_THRESHOLDS)
        held = dict.fromkeys(_THRESHOLDS, 0)
        for step in range(_STEPS_PER_DAY):
            requests = poisson(rng, case.per_minute / _STEPS_PER_MINUTE)
            sums.add(requests, binomial(rng, requests, case.ratio))
            if not sums.value and (requests or step):
                # Back at zero: the next attempt is another path.
                break
            for threshold in left:
                held[threshold] = held[threshold] + 1 if sums.exceeds(threshold) else 0
                if held[threshold] > _HOLD_STEPS:
                    weights[threshold] += exp(-sums.value)
            left = [threshold for threshold in left if held[threshold] <= _HOLD_STEPS]
            if not left:
                break
    for threshold, weight in weights.items():
        if _STEPS_PER_DAY * weight / paths <= _FALSE_PER_DAY:
            return threshold
    return _THRESHOLDS[-1]


def _incident(rng: random.Random, case: _Case, minutes: int, threshold: float) -> _Found:
    factor = 1 - 0.6 * cos(2 * pi * rng.random())
    sums, total, held = _Sum(case), 0, 0
    length = minutes * _STEPS_PER_MINUTE
    delay: float | None = None
    for step in range(length + LATE_STEPS):
        requests = poisson(rng, case.per_minute / _STEPS_PER_MINUTE * factor)
        is_incident = step < length
        total += requests if is_incident else 0
        if delay is not None:
            continue
        sums.add(requests, binomial(rng, requests, case.ratio if is_incident else case.usual))
        held = held + 1 if sums.exceeds(threshold) else 0
        if held > _HOLD_STEPS:
            delay = (step + 1) / _STEPS_PER_MINUTE
    return _Found(case.usual, total, delay)


def simulate(seed: str, kind: str, paths: int, copies: int) -> list[_Found]:
    """Simulate incidents of a kind: so many of each rate, usual ratio, length and ratio."""
    rng = random.Random(f"{seed}/{kind}")
    found: list[_Found] = []
    for per_minute, usual in product(RATES, RATIOS[:-1]):
        least = least_ratio(usual)
        levels = [least]
        if kind == LARGER:
            levels = [least * (MAX_RATIO / least) ** ((level + 0.5) / _LEVELS) for level in range(_LEVELS)]
        for ratio in levels:
            case = _Case(per_minute, usual, ratio)
            threshold = _threshold(rng, case, paths)
            found += [_incident(rng, case, minutes, threshold) for minutes in MINUTES for _ in range(copies)]
    return found


def _rows(kind: str, found: Sequence[_Found]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for requests, low, high in (("≥ 100", 100, sys.maxsize), ("20–100", 20, 100)):
        of_class = [each for each in found if low <= each.requests < high]
        for usual in (None, *RATIOS[:-1]):
            chosen = [each for each in of_class if usual is None or each.usual == usual]
            delays = [each.delay_minutes for each in chosen if each.delay_minutes is not None]
            rows.append(
                (
                    kind,
                    requests,
                    "all" if usual is None else f"{usual:.1%}",
                    f"{len(delays) / len(chosen):.1%}",
                    f"{median(delays):.1f} min",
                    str(len(chosen)),
                )
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate incidents of both kinds, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection.error_oracle", description=__doc__)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--paths", type=int, default=100, help="simulated false episodes for each threshold")
    parser.add_argument("--copies", type=int, default=20, help="incidents of each rate, usual ratio, length and ratio")
    options = parser.parse_args(arguments)
    rows = [
        row
        for kind in (LARGER, SMALLEST)
        for row in _rows(kind, simulate(options.seed, kind, options.paths, options.copies))
    ]
    print(table(("incidents", "requests", "usual ratio", "found", "median delay", "incidents"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
