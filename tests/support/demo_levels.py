"""The fallback level of each endpoint of the demo, computed from its traffic by the documented rules."""

from collections import Counter
from datetime import UTC, datetime
from functools import lru_cache

from exporter.demo.endpoints import Endpoint
from exporter.demo.scenario import SEED, calendar_weekend
from exporter.demo.traffic import SeriesTraffic

HOUR = 3600
DAY = 24 * HOUR
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
SETTLE = 15 * 60


def settled_hours(now: float) -> range:
    """Return the starts of the settled hours of the last seven days, without the newest."""
    first = -(-(int(now) - 7 * DAY) // HOUR) * HOUR
    end = (int(now) - SETTLE) // HOUR * HOUR - HOUR
    return range(first, end, HOUR)


@lru_cache(maxsize=256)
def traces_by_hour(endpoint: Endpoint, now: float) -> Counter[int]:
    """Return the number of traces of an endpoint in each settled hour with traffic."""
    traffic = SeriesTraffic(endpoint.profile, endpoint.seed(SEED))
    return +Counter({start: len(traffic.hour(start // HOUR)) for start in settled_hours(now)})


def is_weekend(start: float, weekend: tuple[str, str]) -> bool:
    return WEEKDAYS[datetime.fromtimestamp(start, UTC).weekday()] in weekend


def level(endpoint: Endpoint, now: float) -> int:
    """Return the first level with enough traces in a mature pool; otherwise 5."""
    counts = traces_by_hour(endpoint, now)
    weekend = calendar_weekend(now)
    this_hour, today_is_weekend = int(now) // HOUR % 24, is_weekend(now, weekend)

    def hours_away(start: int) -> int:
        return abs((start // HOUR - this_hour + 12) % 24 - 12)

    same_type = {s: n for s, n in counts.items() if is_weekend(s, weekend) == today_is_weekend}
    pools = {
        1: ({s: n for s, n in same_type.items() if hours_away(s) == 0}, 50),
        2: ({s: n for s, n in same_type.items() if hours_away(s) <= 2}, 30),
        3: (same_type, 50),
        4: (counts, 30),
    }
    for number, (pool, min_traces) in pools.items():
        mature = len(pool) >= 3 and sum(pool.values()) >= min_traces
        if number == 2:
            mature = mature and len({start // DAY for start in pool}) >= 2
        if number >= 3:
            mature = mature and max(pool) + HOUR - min(pool) >= DAY
        if mature:
            return number
    return 5
