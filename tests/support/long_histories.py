"""``python -m tests.support.long_histories [SERIES [FIRST]]``: whether arrays find the same as the evaluation by hour.

Random series are evaluated in a few long parts, hour by hour and with arrays. Prints the numbers of those that differ.
"""

import random
import sys
from collections.abc import Iterator
from dataclasses import replace

from exporter.detection.arrays.history import advance_with_arrays
from exporter.detection.detector import Detector
from exporter.detection.history import advance
from exporter.detection.parameters import ALL_PARTS
from exporter.evaluation.series import Advance, BaselineRequest, EvaluationResult, EvaluationTask, evaluate_series
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.hour_evaluation import HourEvaluation
from exporter.model.series_hour import MAX_RUN_TRACES
from exporter.model.time_mark import NO_MARKS
from exporter.store import StoredSeries
from tests.support.detection_traffic import stored
from tests.support.full_verdicts import KEY, OUTLIER, random_marks, random_source, with_failures, with_gaps
from tests.support.verdicts import BEGIN, random_detector, random_requests

_SERIES = 100
_REQUESTS = 60_000
"""About how many requests a series has: busy ones are shorter."""
_HOURLY = (2, 4, 8, 15, 30, 60, 120, 250, 600, 1000)


def _detector(rng: random.Random, hours: int) -> Detector:
    plain = random_detector(rng)
    parameters = replace(
        plain.parameters,
        parts=ALL_PARTS,
        traffic_surge=rng.choice([None, None, None, 3.0]),
        max_window_seconds=rng.choice([3600, 3600, 7200, 1800]),
    )
    marks = random_marks(rng, hours) if rng.random() < 0.2 else NO_MARKS
    return replace(plain, parameters=parameters, is_enabled=rng.random() < 0.97, marks=marks)


def results(seed: int, advance: Advance, most_requests: int = _REQUESTS) -> Iterator[EvaluationResult]:
    """Evaluate one series with about so many requests, and yield the result of each part."""
    rng = random.Random(seed)
    per_hour = rng.choice(_HOURLY) * rng.uniform(0.7, 1.4)
    hours = round(max(60, min(24 * rng.choice([3, 5, 9, 16, 30]), most_requests / per_hour)))
    batch_seconds = rng.choice([HOUR_SECONDS, HOUR_SECONDS, HOUR_SECONDS, 360, 300])
    read = with_failures(rng, stored(random_requests(rng, hours, per_hour), batch_seconds), hours)
    windows = with_gaps(rng, read, hours)
    detector = _detector(rng, hours)
    source = random_source(rng, hours, batch_seconds, detector)
    hour = detector.clock.hour
    state: bytes | None = None
    evaluations: dict[int, HourEvaluation] = {}
    suspects: frozenset[int] = frozenset()
    until = evaluated_until = 0
    while until < hours:
        until = min(hours, until + rng.choice([3, 26, 60, hours, hours]))
        present = hour(BEGIN + until * HOUR_SECONDS)
        # The store does not load the marks of evaluated windows with many requests.
        past = [
            each if each.start >= evaluated_until or each.traces <= MAX_RUN_TRACES else each._replace(marks=b"")
            for each in windows
            if each.start < present.start
        ]
        if not past:
            continue
        around = hour(present.start - 1), present, hour(present.end)
        request = BaselineRequest(around[:2], 0, OUTLIER, True, source, around)
        task = EvaluationTask(detector, present.start, request, source)
        result = evaluate_series(task, StoredSeries(KEY, past, evaluations, suspects, state), advance)
        yield result
        if result.findings is not None:
            evaluations |= result.findings.evaluations
            state = result.findings.state
        evaluated_until = present.start
        suspects = frozenset([present.start - HOUR_SECONDS]) if rng.random() < 0.1 else frozenset()


def is_same(seed: int, most_requests: int = _REQUESTS) -> bool:
    """Whether both find the same in the history of one series with about so many requests."""
    by_hour = list(results(seed, advance, most_requests))
    return list(results(seed, advance_with_arrays, most_requests)) == by_hour


def main() -> None:
    """Compare some series."""
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for seed in range(first, first + (int(sys.argv[1]) if len(sys.argv) > 1 else _SERIES)):
        if not is_same(seed):
            sys.stdout.write(f"{seed} differs\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
