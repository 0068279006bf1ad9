"""What no detector can beat: an oracle that knows how the suites were generated, and the incident that it looks for.

``python -m benchmarks.detection.oracle`` evaluates it on series of the suites. It knows the distribution of the
durations, the level and load of each minute, and the factor of the incident, and adds up logarithms of likelihood
ratios without a limited window (CUSUM; E. S. Page, 1954; optimal by G. V. Moustakides, 1986). A real detector has to
learn all of these from history.

Of incidents of a few requests it only knows beyond which duration these lie, how many they are, and how many usually
lie there, by the true level of each minute.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from math import ceil, erf, exp, inf, log, pi, sqrt
from statistics import median
from typing import Final

from benchmarks.detection.__main__ import SERIES_PER_RATE
from benchmarks.detection.results import is_steady
from benchmarks.detection.suites import CRONS, KINDS, TAIL, TIMEOUTS, Case, Kind, Suite, cases
from benchmarks.report import table
from exporter.demo.latency import HOUR_SECONDS, Bimodal, HeavyTailed, Incident, LatencyShape, Lognormal
from exporter.demo.traffic import SeriesTraffic

FALSE_PER_DAY: Final = {Suite.INCIDENTS: 0.003, Suite.PARTIAL: 0.003, Suite.CRON: 0.005, Suite.DAILY_CRON: 0.005}
"""False episodes of a healthy series that are allowed, per day: the targets."""
_NS: Final = 1_000_000_000
_DRAWS: Final = 400
_HOLD_SECONDS: Final = 60.0

_STEPS, _END = 100, 15
"""A grid of logarithms: points in one unit, and the last one on both sides."""
_TAIL_MARGIN: Final = 0.8
"""The slowest requests of an hour are not those that are slowest compared with their minute."""

LogRatio = Callable[[float], float]
"""Logarithm of the likelihood ratio of a duration, given as the logarithm of its ratio to the level of its minute."""


def _normal(z: float, mean: float, sd: float) -> float:
    return exp(-(((z - mean) / sd) ** 2) / 2) / (sd * sqrt(2 * pi))


def _below(z: float) -> float:
    return (1 + erf(z / sqrt(2))) / 2


def density(shape: LatencyShape, z: float) -> float:
    """Return the probability density of the logarithm of a factor of the median."""
    match shape:
        case Lognormal(sigma):
            return _normal(z, 0.0, sigma)
        case Bimodal(share, factor, sigma):
            return share * _normal(z, log(factor), sigma) + (1 - share) * _normal(z, 0.0, sigma)
        case HeavyTailed(sigma, share, index, longest):
            # A normal variable plus an exponential one, which is cut at the longest factor.
            cut, mean = log(longest), z - index * sigma**2
            between = _below((cut - mean) / sigma) - _below(-mean / sigma)
            tail = index * exp(index**2 * sigma**2 / 2 - index * z) * between
            tail += exp(-index * cut) * _normal(z, cut, sigma)
            return (1 - share) * _normal(z, 0.0, sigma) + share * tail
    raise TypeError(f"no density of {shape}")


def log_ratio(shape: LatencyShape, factor: float) -> LogRatio:
    """Return the logarithm of the likelihood ratio of a factor, on a grid fine enough for any use here."""
    least = 1e-280

    @cache
    def at(hundredths: int) -> float:
        z = hundredths / 100
        return log((density(shape, z - log(factor)) + least) / (density(shape, z) + least))

    return lambda z: at(round(100 * z))


def shares_beyond(shape: LatencyShape) -> list[float]:
    """Return the probabilities that the logarithm of a factor of the median exceeds the points of a grid."""
    points = range(_END * _STEPS, -_END * _STEPS - 1, -1)
    densities = [density(shape, point / _STEPS) / _STEPS for point in points]
    return [min(1.0, share) for share in accumulate(densities)][::-1]


def share_beyond(shares: Sequence[float], z: float) -> float:
    """Return the probability that the logarithm exceeds a value."""
    return shares[round(_STEPS * (min(max(z, -_END), _END) + _END))]


def quantile(shares: Sequence[float], q: float) -> float:
    """Return a quantile of the logarithm."""
    return next(point for point, share in enumerate(shares) if share <= 1 - q) / _STEPS - _END


def exceedance_ratio(limit: float, usual: float, share: float) -> LogRatio:
    """Return the logarithm of the likelihood ratio of whether a request exceeds a limit.

    Args:
        limit: logarithm of the limit divided by the level.
        usual: probability that a request exceeds it.
        share: the same during the incident.
    """
    usual = max(usual, 1e-9)
    slow, fast = log(max(share, usual) / usual), log((1 - max(share, usual)) / (1 - usual))
    return lambda z: slow if z >= limit else fast


def ratio_of(case: Case, kind: Kind) -> Callable[[float], LogRatio]:
    """Return the likelihood ratio of the requests of a minute by its level in nanoseconds."""
    shape = case.profile.shape
    if kind not in (TIMEOUTS, TAIL):
        ratio = log_ratio(shape, kind.factor)
        return lambda _: ratio
    shares = shares_beyond(shape)
    if kind is TIMEOUTS:
        assert kind.fixed_factor is not None, "time-outs have a duration"
        longest_ns = 0.99 * kind.fixed_factor * case.profile.base_seconds * _NS

        def of_timeouts(level_ns: float) -> LogRatio:
            limit = log(longest_ns / level_ns)
            usual = share_beyond(shares, limit)
            return exceedance_ratio(limit, usual, kind.share + (1 - kind.share) * usual)

        return of_timeouts
    limit = quantile(shares, kind.ranks[0]) + log(_TAIL_MARGIN * kind.factor)
    of_tail = exceedance_ratio(limit, share_beyond(shares, limit), kind.ranks[1] - kind.ranks[0])
    return lambda _: of_tail


class _Series:
    """A series and its true level."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._traffic = SeriesTraffic(case.profile, case.seed)
        self._levels = lru_cache(maxsize=8)(self._traffic.durations_ns)

    def ratios(self, incident: Incident, ratio_of: Callable[[float], LogRatio]) -> Iterator[tuple[int, float, float]]:
        """Yield the hour, the end in seconds and the log likelihood ratio of each request of an incident, by end."""
        last = int(min(incident.end, self.case.end) - 1) // HOUR_SECONDS
        for hour in range(int(incident.start) // HOUR_SECONDS, last + 1):
            found = []
            for start_ns, duration_ns in self._traffic.hour(hour):
                if incident.start * _NS <= start_ns < incident.end * _NS:
                    level_ns = self._levels(hour)[start_ns // (60 * _NS) % 60]
                    value = ratio_of(level_ns)(log(max(1, duration_ns) / level_ns))
                    found.append((hour, (start_ns + duration_ns) / _NS, value))
            yield from sorted(found, key=lambda each: each[1])


def delays(case: Case, kind: Kind) -> list[tuple[int, float | None]]:
    """Return the number of requests of each incident of a kind, and after how many seconds the oracle would fire.

    The least sum at which it fires follows from ``e^c`` requests between false flags (G. Lorden, 1971), which is less
    than there are. It must hold it for as long as the detector.
    """
    series, found = _Series(case), []
    ratio = ratio_of(case, kind)
    least = log(case.profile.rate_per_minute * 1440 / FALSE_PER_DAY[case.suite])
    for incident, of_kind in zip(case.profile.incidents, case.kinds, strict=True):
        if of_kind != kind:
            continue
        total, requests, delay = 0.0, 0, None
        for _, end, value in series.ratios(incident, ratio):
            requests += 1
            total = max(0.0, total + value)
            if delay is None and total >= least:
                delay = end - incident.start + _HOLD_SECONDS
        found.append((requests, None if delay is None or delay > incident.end - incident.start + 300 else delay))
    return found


def run_ratios(case: Case) -> list[float]:
    """Return the log likelihood ratio of each run of a cron job during its incident, in time order."""
    (incident,) = case.profile.incidents
    ratio = log_ratio(case.profile.shape, incident.factor)
    sums: dict[int, float] = {}
    for hour, _, value in _Series(case).ratios(incident, lambda _: ratio):
        sums[hour] = sums.get(hour, 0.0) + value
    return [sums[hour] for hour in sorted(sums)]


def least_ratio(case: Case) -> float:
    """Return the sum at which two runs of a cron job, or one, are a shift as often by chance as is allowed.

    The probability under the normal distribution is the mean of ``e^-sum`` under that of the incident, over the draws
    that exceed the sum (importance sampling).
    """
    cron, shape = case.profile.cron, case.profile.shape
    assert cron is not None, "a cron job"
    factor = case.profile.incidents[0].factor
    ratio, rng = log_ratio(shape, factor), random.Random(f"{case.seed}/oracle")
    sample = shape.sampler(rng)

    def run() -> float:
        total, left = 0.0, cron.requests
        while (left := left - rng.expovariate(1.0)) > 0:
            total += ratio(log(sample() * factor))
        return total

    # What the second of two runs adds to the first one's false flags is at most that of their sum and of its own.
    drawn = sorted(max(last + before, last) for last, before in ((run(), run()) for _ in range(_DRAWS)))
    allowed = FALSE_PER_DAY[case.suite] / (24 if cron.hour is None else 1)
    weights = [exp(-each) / _DRAWS for each in drawn]
    chance = 0.0
    for value, weight in zip(reversed(drawn), reversed(weights), strict=True):
        chance += weight
        if chance > allowed:
            return value
    return drawn[0]


def found_by_second_run(case: Case) -> bool | None:
    """Whether the oracle finds the incident of a cron job by its second run; None without runs."""
    runs = run_ratios(case)[:2]
    if not runs:
        return None
    return max(runs[0], sum(runs), runs[-1]) >= least_ratio(case)


def _cron_rows(per_rate: int, seed: str) -> Iterator[tuple[str, ...]]:
    for suite in CRONS:
        series = cases(suite, per_rate, seed)
        results = [(case, found) for case in series if (found := found_by_second_run(case)) is not None]
        for what, some in (
            ("all", [found for _, found in results]),
            ("runs that vary little", [found for case, found in results if is_steady(case)]),
            ("runs that vary much", [found for case, found in results if not is_steady(case)]),
        ):
            if some:
                yield f"{suite} × 3, {what}: found by the second run", f"{sum(some) / len(some):.0%}", str(len(some))


def _delay_rows(
    suite: Suite, per_rate: int, seed: str, kind: Kind, rates: Sequence[float]
) -> Iterator[tuple[str, ...]]:
    series = [case for case in cases(suite, per_rate, seed) if case.profile.rate_per_minute in rates]
    results = [each for case in series for each in delays(case, kind)]
    for least in (100, 1000):
        some = [delay for requests, delay in results if requests >= least]
        found = [delay for delay in some if delay is not None]
        if some:
            reached = f"{len(found) / len(some):.0%}, {median(found) / 60 if found else inf:.1f} min"
            yield f"{kind.name}, ≥ {least} requests: found, median delay", reached, str(len(some))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the oracle finds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection.oracle", description=__doc__)
    parser.add_argument("--seed", default="1", help="seed of the series, as of benchmarks.detection")
    parser.add_argument("--share", type=float, default=1.0, help="share of the series, as of benchmarks.detection")
    parser.add_argument("--rate", type=float, action="append", help="requests a minute of the series with incidents")
    options = parser.parse_args(arguments)
    rows = list(_cron_rows(ceil(SERIES_PER_RATE[Suite.CRON] * options.share), options.seed))
    per_rate = ceil(SERIES_PER_RATE[Suite.INCIDENTS] * options.share)
    for kind in KINDS:
        if kind.factor in (1.5, 2.0):
            rows += _delay_rows(Suite.INCIDENTS, per_rate, options.seed, kind, options.rate or [10.0])
    per_rate = ceil(SERIES_PER_RATE[Suite.PARTIAL] * options.share)
    for kind in (TAIL, TIMEOUTS):
        rows += _delay_rows(Suite.PARTIAL, per_rate, options.seed, kind, options.rate or [10.0])
    print(table(("what", "reached", "based on"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
