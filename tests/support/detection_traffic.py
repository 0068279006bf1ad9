"""Synthetic traffic for tests of the detector, and its stored form."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from math import exp

from exporter.detection.window import end_second
from exporter.model.histogram import Digest, bucket_of_ns, bucket_of_seconds
from exporter.model.histogram_codec import MARK_SECONDS, encode_digest, encode_failures, encode_marks
from exporter.model.series_hour import StoredWindow

MONDAY_HOUR = 490992
"""Monday, 2026-01-05 00:00 UTC, in hours of the Unix epoch."""
MONDAY = MONDAY_HOUR * 3600

Request = tuple[int, int]
"""Start and duration in nanoseconds."""
Incidents = Mapping[tuple[float, float], float]
"""Factors of latency by ``(start, end)`` in hours since that Monday."""


def traffic(
    seed: int, days: float, per_hour: float, incidents: Incidents | None = None, sigma: float = 0.5
) -> dict[int, list[Request]]:
    """Return requests by the hour in which they start, counted from that Monday; 1.5 times as slow from 8 to 18 h."""
    rng = random.Random(seed)

    def arrivals(hour: int) -> Iterator[Request]:
        begin = (MONDAY_HOUR + hour) * 3600
        offset = rng.expovariate(per_hour)
        while offset < 1:
            now = hour + offset
            factor = next((f for (start, end), f in (incidents or {}).items() if start <= now < end), 1.0)
            rhythm = 1.5 if 8 <= hour % 24 < 18 else 1.0
            yield int((begin + offset * 3600) * 1e9), int(8e7 * rhythm * factor * exp(rng.gauss(0, sigma)))
            offset += rng.expovariate(per_hour)

    return {hour: list(arrivals(hour)) for hour in range(int(24 * days))}


def stored(requests: Iterable[Request], batch_seconds: int = 3600) -> list[StoredWindow]:
    """Return the windows that the store would have of some requests."""
    windows: defaultdict[int, list[Request]] = defaultdict(list)
    for start_ns, duration_ns in requests:
        windows[start_ns // 10**9 // batch_seconds * batch_seconds].append((start_ns, duration_ns))
    found = []
    for start, members in sorted(windows.items()):
        marks: defaultdict[int, Counter[int]] = defaultdict(Counter)
        for start_ns, duration_ns in members:
            offset = -(-(end_second(start_ns + duration_ns) - start) // MARK_SECONDS)
            marks[offset][bucket_of_ns(duration_ns)] += 1
        digest = Digest.of_ns(duration_ns for _, duration_ns in members)
        encoded = encode_marks({offset: Digest(counts) for offset, counts in marks.items()})
        found.append(StoredWindow(start, len(members), encode_digest(digest), encoded))
    return found


def windows_with_failures(
    days: int, failing: Mapping[int, float], per_mark: int = 20, seed: int = 1
) -> list[StoredWindow]:
    """Return windows of hours with even traffic; some marks, counted from the beginning, have another error ratio."""
    rng = random.Random(seed)
    found = []
    for hour in range(24 * days):
        digest = Digest({bucket_of_seconds(0.1): per_mark})
        failures = {}
        for offset in range(1, 13):
            ratio = failing.get(12 * hour + offset, 0.002)
            if count := sum(rng.random() < ratio for _ in range(per_mark)):
                failures[offset] = count
        marks = encode_marks(dict.fromkeys(range(1, 13), digest))
        total = encode_digest(Digest({bucket_of_seconds(0.1): 12 * per_mark}))
        found.append(StoredWindow(MONDAY + 3600 * hour, 12 * per_mark, total, marks, encode_failures(failures)))
    return found
