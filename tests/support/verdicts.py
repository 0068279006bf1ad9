"""``python -m tests.support.verdicts [SERIES]``: print a hash of all that is found in the history of random series.

To compare two versions of the code that should find the same: run it with both, and compare what they print. Each line
is one series, which is evaluated in several parts, with its state encoded in between.
"""

import random
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from zoneinfo import ZoneInfo

from exporter.baseline.levels import FallbackRules
from exporter.detection.detector import Detector, SeriesState, decode_state, encode_state
from exporter.detection.history import advance
from exporter.detection.parameters import ALL_PARTS, NO_PARTS, Parameters
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock
from exporter.model.hour_evaluation import HourEvaluation
from exporter.model.hours import SeriesHours, hours_of
from tests.support.detection_traffic import Request, stored

BEGIN = 1_792_364_400
"""A Monday, 2026-10-19 00:00 in Berlin; summer time ends six days later."""
_REQUESTS = 30_000
"""About how many requests a series has: busy ones are shorter."""
_SERIES = 60

_Factor = Callable[[float], float]
"""By how much slower requests are at an instant, given in hours."""


def _steady(_hours: float) -> float:
    return 1.0


def _events(rng: random.Random, hours: int) -> list[_Factor]:
    """Return what happens to the latency of one series."""
    at = rng.uniform(0.3, 0.9) * hours
    length, slower = rng.choice([0.4, 1.5, 6.0, 1e9]), rng.choice([0.4, 1.2, 1.35, 1.6, 2.5, 8.0])
    minute, hour = rng.randrange(12) / 12, rng.randrange(24)
    possible: list[_Factor] = [
        lambda now: slower if at <= now < at + length else 1.0,
        lambda now: 3.0 if minute <= now % 1 < minute + 0.1 else 1.0,
        lambda now: 5.0 if hour <= now % 24 < hour + 0.7 else 1.0,
        lambda now: 1.5 if 8 <= now % 24 < 18 else 1.0,
        lambda now: 1 + 0.01 * now / 24,
        _steady,
    ]
    return rng.sample(possible, rng.randint(1, 3))


def _slowed(hours: int, per_hour: float) -> _Factor:
    """Return what happens to a few of the requests of one series: some take much longer for some hours."""
    # With random numbers of its own, so that the rest of the series does not depend on it.
    rng = random.Random(f"{hours}/{per_hour}")
    at, length, share = rng.uniform(0.5, 0.9) * hours, rng.choice([0.7, 2.0, 5.0]), rng.choice([0.0, 0.02, 0.05])
    return lambda now: rng.choice([5.0, 20.0]) if at <= now < at + length and rng.random() < share else 1.0


def random_requests(rng: random.Random, hours: int, per_hour: float) -> Iterator[Request]:
    """Yield the requests of a random series in some hours, with so many an hour."""
    sigma, median_ns = rng.choice([0.05, 0.3, 0.5, 0.9]), rng.choice([0.0, 2e5, 8e7, 3e9, 6e10])
    tail, quiet = rng.choice([0.0, 0.0, 0.05]), rng.choice([0.0, 0.0, 0.4])
    events = _events(rng, hours)
    slowed = _slowed(hours, per_hour)
    now = 0.0
    while (now := now + rng.expovariate(per_hour)) < hours:
        if int(now / 7) % 5 == 0 and rng.random() < quiet:
            now += rng.uniform(0, 5)
            continue
        slower = 10.0 if rng.random() < tail else 1.0
        for event in events:
            slower *= event(now)
        slower *= slowed(now)
        yield int((BEGIN + now * HOUR_SECONDS) * 1e9), int(median_ns * slower * rng.lognormvariate(0, sigma))


def random_detector(rng: random.Random) -> Detector:
    """Return a detector with random settings."""
    parameters = Parameters(
        window_seconds=rng.choice([300, 300, 600]),
        min_traces=rng.choice([10, 10, 20]),
        min_delta_seconds=rng.choice([0.0, 0.005]),
        accept_after_seconds=rng.choice([8, 24]) * HOUR_SECONDS,
        parts=rng.choice([ALL_PARTS, ALL_PARTS, ALL_PARTS, NO_PARTS]),
    )
    clock = HourClock(Calendar(ZoneInfo(rng.choice(["UTC", "Europe/Berlin", "Asia/Kathmandu"]))))
    return Detector(FallbackRules(lookback_seconds=rng.choice([4, 14]) * 24 * HOUR_SECONDS), parameters, clock)


def found_in(seed: int) -> str:
    """Return all that is found in the history of one series."""
    rng = random.Random(seed)
    per_hour = 60 * 0.05 * 4000 ** rng.random()
    hours = round(max(72.0, min(24.0 * rng.choice([5, 9, 22]), _REQUESTS / per_hour)))
    windows = stored(random_requests(rng, hours, per_hour), rng.choice([HOUR_SECONDS, HOUR_SECONDS, 360]))
    detector = random_detector(rng)
    state: SeriesState | None = None
    evaluations: dict[int, HourEvaluation] = {}
    suspects: frozenset[int] = frozenset()
    found: list[object] = [len(windows)]
    until = 0
    while until < hours:
        until = min(hours, until + rng.choice([1, 5, 30, hours]))
        end = BEGIN + until * HOUR_SECONDS
        past = [window for window in windows if window.start < end]
        history = SeriesHours(hours_of(past, detector.clock, evaluations))
        progress = advance(detector, history, end, state, suspects=suspects)
        evaluations |= progress.evaluations
        found.append(progress)
        state = decode_state(encode_state(progress.state))
        expected, schedule = detector.schedule_at(history, state, end, suspects)
        found += [expected.thresholds, schedule.hours, expected.pool and (expected.pool.level, expected.pool.released)]
        suspects = frozenset([end - HOUR_SECONDS]) if rng.random() < 0.1 else frozenset()
    return repr(found)


def main() -> None:
    """Print a line for each series: its number, the hash, and how many changes of the flag there were."""
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else _SERIES):
        found = found_in(seed)
        hashed, flags = sha256(found.encode()).hexdigest()[:16], found.count("FlagChange(")
        sys.stdout.write(f"{seed} {hashed} {flags}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
