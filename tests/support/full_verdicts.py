"""``python -m tests.support.full_verdicts [SERIES [FIRST]]``: as :mod:`.verdicts`, with failures, traffic and marks.

Each line is one series, which is evaluated in several parts as the exporter does it: from what the store holds, with
its source, and with the baselines of the hour after each part.
"""

import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import sha256

from exporter.baseline.outlier import OutlierRule
from exporter.detection.detector import Detector
from exporter.detection.traffic.source import SourceHistory, source_history
from exporter.detection.traffic.verdict import SourceWindow
from exporter.evaluation.series import BaselineRequest, EvaluationResult, EvaluationTask, evaluate_series
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.histogram_codec import MARK_SECONDS, decode_counts, decode_marks, encode_failures
from exporter.model.hour_evaluation import EncodedEvaluation, HourEvaluation
from exporter.model.hours import EvaluationSums
from exporter.model.pattern import Pattern
from exporter.model.series_hour import MAX_RUN_TRACES, StoredWindow
from exporter.model.span import SeriesKey
from exporter.model.time_mark import MarkKind, TimeMark, TimeMarks
from exporter.store import StoredSeries
from tests.support.detection_traffic import stored
from tests.support.verdicts import BEGIN as _BEGIN
from tests.support.verdicts import random_detector, random_requests

KEY = SeriesKey("shop", "GET /cart")
OUTLIER = OutlierRule(factor=2.0, k=5.0, mad_epsilon_seconds=0.001)
_SERIES = 60
_REQUESTS = 30_000
"""About how many requests a series has: busy ones are shorter."""


def with_failures(rng: random.Random, windows: Iterable[StoredWindow], hours: int) -> Iterator[StoredWindow]:
    """Yield windows with failures: usual ones, bursts and incidents, some that recur every day, and unknown ones."""
    usual = rng.choice([0.0, 0.001, 0.01, 0.05, 0.4, 1.0])
    lengths = [0.1, 0.2, 0.5, 3, 30]
    bursts = [(rng.uniform(0, hours), rng.choice(lengths), rng.choice([0.05, 0.2, 0.9])) for _ in range(6)]
    hour, of_hour = rng.randrange(24), rng.choice([0.0, 0.0, 0.6])
    unknown = rng.choice([0.0, 0.0, 0.02])
    for window in windows:
        if rng.random() < unknown:
            yield window
            continue
        failures = {}
        for offset, buckets in decode_marks(window.marks, decode_counts(window.digest)).items():
            at = (window.first_mark - _BEGIN + (offset - 0.5) * MARK_SECONDS) / HOUR_SECONDS
            ratio = max([usual, *(share for since, length, share in bursts if since <= at < since + length)])
            if hour <= at % 24 < hour + 0.4:
                ratio = max(ratio, of_hour)
            if count := sum(rng.random() < ratio for _ in buckets):
                failures[offset] = count
        yield window._replace(failures=encode_failures(failures))


def with_gaps(rng: random.Random, windows: Iterable[StoredWindow], hours: int) -> list[StoredWindow]:
    """Leave out the windows at some times: the traffic of the series has dropped."""
    gaps = [(rng.uniform(0, hours), rng.choice([0.3, 2, 30])) for _ in range(rng.choice([0, 2]))]

    def is_kept(window: StoredWindow) -> bool:
        at = (window.start - _BEGIN) / HOUR_SECONDS
        return not any(since <= at < since + length for since, length in gaps)

    return [window for window in windows if is_kept(window)]


def random_source(rng: random.Random, hours: int, batch_seconds: int, detector: Detector) -> SourceHistory:
    """Return a source that is read incompletely at times, and that may lose traffic for three hours."""
    missing, sampled = rng.choice([0.0, 0.0, 0.02]), rng.choice([0.0, 0.0, 0.1])
    windows = []
    for number in range(hours * HOUR_SECONDS // batch_seconds):
        start = _BEGIN + number * batch_seconds
        coverage = None if rng.random() < missing else 0.5 if rng.random() < sampled else 1.0
        requests = 1_000 if rng.random() < 0.01 else 10_000
        windows.append(SourceWindow(start, start + batch_seconds, requests, coverage))
    end = _BEGIN + hours * HOUR_SECONDS
    source = source_history(
        windows,
        detector.clock,
        _BEGIN,
        end,
        lookback_seconds=detector.rules.lookback_seconds,
        accept_after_seconds=detector.parameters.accept_after_seconds,
    )
    if rng.random() < 0.5:
        return source
    first = _BEGIN + int(rng.uniform(0.3, 1) * hours * 12) * MARK_SECONDS
    return source.with_losses(
        {
            mark: {mark - before * MARK_SECONDS: 0.4 for before in range(12)}
            for mark in range(first, first + 3 * HOUR_SECONDS, MARK_SECONDS)
        }
    )


def random_marks(rng: random.Random, hours: int) -> TimeMarks:
    found = []
    for _ in range(rng.choice([0, 0, 0, 3])):
        start = _BEGIN + rng.randrange(hours * 60) * 60
        kind = rng.choice([MarkKind.NORMAL, MarkKind.NORMAL, MarkKind.EXPECTED])
        found.append(TimeMark(kind, Pattern("shop"), start, start + rng.choice([600, 3600, 20000])))
    return TimeMarks(found)


def found_in(seed: int, most_requests: int = _REQUESTS) -> str:
    """Return all that is found in the history of one series with about so many requests."""
    rng = random.Random(seed)
    per_hour = 60 * 0.05 * 4000 ** rng.random()
    hours = round(max(72.0, min(24.0 * rng.choice([5, 9, 22]), most_requests / per_hour)))
    batch_seconds = rng.choice([HOUR_SECONDS, HOUR_SECONDS, 300, 360])
    read = with_failures(rng, stored(random_requests(rng, hours, per_hour), batch_seconds), hours)
    windows = with_gaps(rng, read, hours)
    plain = random_detector(rng)
    parameters = replace(plain.parameters, traffic_surge=rng.choice([None, None, 3.0]))
    detector = replace(plain, parameters=parameters, is_enabled=rng.random() < 0.95, marks=random_marks(rng, hours))
    source = random_source(rng, hours, batch_seconds, detector)
    clock = detector.clock
    state: bytes | None = None
    evaluations: dict[int, HourEvaluation | EncodedEvaluation] = {}
    sums: EvaluationSums | None = None
    suspects: frozenset[int] = frozenset()
    found: list[EvaluationResult] = []
    until = evaluated_until = 0
    while until < hours:
        until = min(hours, until + rng.choice([1, 5, 30, hours]))
        hour = clock.hour(_BEGIN + until * HOUR_SECONDS)
        # The store does not load the marks of evaluated windows with many requests.
        past = [
            each if each.start >= evaluated_until or each.traces <= MAX_RUN_TRACES else each._replace(marks=b"")
            for each in windows
            if each.start < hour.start
        ]
        if not past:
            continue
        around = clock.hour(hour.start - 1), hour, clock.hour(hour.end)
        request = BaselineRequest(around[:2], 0, OUTLIER, True, source, around)
        task = EvaluationTask(detector, hour.start, request, source)
        result = evaluate_series(task, StoredSeries(KEY, past, evaluations, suspects, state, sums))
        sums = result.sums
        found.append(result._replace(sums=None))
        if result.findings is not None:
            evaluations |= {start: each.encoded() for start, each in result.findings.evaluations.items()}
            state = result.findings.state
        evaluated_until = hour.start
        suspects = frozenset([hour.start - HOUR_SECONDS]) if rng.random() < 0.1 else frozenset()
    # What is only remembered may differ between versions that find the same.
    return repr(found).replace(", sums=None", "")


def main() -> None:
    """Print a line for each series: its number, the hash, and how often an hour was quarantined."""
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for seed in range(first, first + (int(sys.argv[1]) if len(sys.argv) > 1 else _SERIES)):
        found = found_in(seed)
        hashed, flags = sha256(found.encode()).hexdigest()[:16], found.count("quarantined=True")
        sys.stdout.write(f"{seed} {hashed} {flags}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
