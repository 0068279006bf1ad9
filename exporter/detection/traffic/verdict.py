"""The verdict on the traffic of a series: far fewer requests than are usual at this hour, beyond chance.

Chance is the tail of the negative binomial distribution with the dispersion of the series' own history.
"""

from collections.abc import Collection, Iterable, Sequence
from math import exp, lgamma, log, log1p, sqrt
from statistics import median
from typing import Final, NamedTuple

from exporter.baseline.levels import FallbackLevel
from exporter.baseline.traffic import MIN_USUAL_REQUESTS, SourceHour, TrafficBaseline
from exporter.detection.flag import Flag, FlagEvent, advance_flag
from exporter.detection.parameters import Parameters
from exporter.model.calendar import HOUR_SECONDS, LocalHour, Slot

ALPHA_SHARE: Final = 0.01
"""Share of ``detection.alpha`` below which chance is excluded: every window of every day is tested, not only those that
exceed a threshold."""
FRESH_USUAL_REQUESTS: Final = 5
"""The newest part of the window shows the drop as well; it is as long as so many requests take."""
FRESH_SECONDS: Final = 120
SOURCE_RATIO: Final = 0.7
"""Below this share of the usual traffic over all series, the source has lost traffic."""
SOURCE_MIN_SERIES: Final = 2
SOURCE_MIN_USUAL: Final = 20.0
"""The source is judged by at least so many series, each with so many usual requests in the window."""
SOURCE_MEDIAN_SERIES: Final = 5
"""With fewer series, the source has lost traffic only if all of them have."""
SOURCE_DEVIATIONS: Final = 4.0
"""So many standard deviations below the usual exclude chance."""
SOURCE_HOUR_RATIO: Final = 0.5
"""A past hour with less than this share of the median of its slot over all series is left out."""
SOURCE_MIN_HOURS: Final = 3
LASTING_SHARE: Final = 0.75
"""A change of the source has lasted for a time if so many hours of it show it."""

_MIN_DISPERSION: Final = 1e-6
_NEGLIGIBLE: Final = 1e-12


class TrafficEvidence(NamedTuple):
    """Requests of a window against the usual.

    Attributes:
        seconds: length of the window.
        requests: requests that were read in it.
        usual: how many are usual, of those that are read.
        source: share of its usual traffic that the source had in the window, at most 1.
        chance: probability of so few requests (after a rise: of so many); 1 unless they differ as much as is required.
        level: fallback level that serves.
        hours: number of pooled hours.
    """

    seconds: float
    requests: float
    usual: float
    source: float
    chance: float
    level: FallbackLevel
    hours: int

    @property
    def ratio(self) -> float:
        """Requests divided by the usual number."""
        return self.requests / self.usual

    def __str__(self) -> str:
        number = f"{self.requests:,.0f}" if self.requests else "no"
        source = f"; the source has {100 * self.source:.2g} % of its usual traffic" if self.source < 1 else ""
        return (
            f"{number} requests in {self.seconds / 60:.3g} minutes, {ratio_text(self.ratio)}, which is "
            f"{self.usual:,.0f} at this hour{source}; chance {self.chance:.0e}; compared with {self.hours} hours "
            f"(level {self.level:d})."
        )


def ratio_text(ratio: float) -> str:
    """Return traffic against the usual in words."""
    return f"{ratio:.2g} times the usual traffic" if ratio >= 1 else f"{100 * ratio:.2g} % of the usual traffic"


class TrafficVerdict(NamedTuple):
    """The verdict on a window.

    Attributes:
        evidence: its figures.
        is_changed: whether traffic has dropped, or risen where that is judged.
        persists: whether the newest part of the window shows it as well.
        is_certain: False where the source has so little traffic that a drop of the series could not be seen.
    """

    evidence: TrafficEvidence
    is_changed: bool
    persists: bool
    is_certain: bool


class WindowPart(NamedTuple):
    """A part of the recent past.

    Attributes:
        seconds: its length.
        requests: requests of the series that were read in it.
        usual: how many are usual, of those that are read.
        source: share of its usual traffic that the source had, at most 1.
    """

    seconds: float
    requests: float
    usual: float
    source: float = 1.0


def judge_traffic(
    newest_first: Iterable[WindowPart], baseline: TrafficBaseline, parameters: Parameters
) -> TrafficVerdict | None:
    """Judge the shortest window that ends now and has enough usual requests; None without one.

    Args:
        newest_first: parts of the recent past without a gap, from now backwards.
        baseline: usual traffic.
        parameters: settings of the detector.
    """
    seconds = requests = usual = expected = 0.0
    fresh: tuple[float, float, float] | None = None
    for part in newest_first:
        if seconds + part.seconds > max(parameters.max_window_seconds, parameters.window_seconds):
            return None
        seconds += part.seconds
        requests += part.requests
        usual += part.usual
        expected += part.usual * part.source
        if fresh is None and seconds >= FRESH_SECONDS and usual >= FRESH_USUAL_REQUESTS:
            fresh = requests, usual, expected
        if seconds >= parameters.window_seconds and usual >= MIN_USUAL_REQUESTS:
            break
    else:
        return None
    fresh_requests, fresh_usual, fresh_expected = fresh or (requests, usual, expected)
    drop, surge = parameters.traffic_drop, parameters.traffic_surge
    dispersion = baseline.dispersion_of(seconds)
    chance = 1.0
    if surge is not None and requests > usual:
        # Where the source has less traffic than usual, this is compared with the whole usual all the same.
        persists = fresh_requests > surge * fresh_usual
        if requests > surge * usual:
            chance = upper_tail(requests, usual, dispersion)
    else:
        persists = fresh_requests < drop * fresh_expected
        if requests < drop * expected:
            chance = lower_tail(requests, expected, dispersion)
    evidence = TrafficEvidence(
        seconds, requests, usual, min(1.0, expected / usual), chance, baseline.level, baseline.hours
    )
    is_certain = expected >= MIN_USUAL_REQUESTS * drop or persists
    return TrafficVerdict(evidence, chance < parameters.alpha * ALPHA_SHARE, persists, is_certain)


def tick_traffic(
    verdict: TrafficVerdict | None, now: float, flag: Flag, parameters: Parameters, *, is_known: bool
) -> tuple[Flag, FlagEvent | None]:
    """Return the flag after one more tick, and its transition, if any.

    Where a drop could not be seen, as at night or while the source has lost its traffic, a firing flag stays, but not
    longer than a change takes to be accepted.

    Args:
        verdict: the verdict on the window that ends now, if there is one.
        now: time of the tick, Unix seconds.
        flag: the flag after the previous tick.
        parameters: settings of the detector.
        is_known: whether the usual traffic of the series is known.
    """
    changed = persists = False
    if verdict is not None and verdict.is_certain:
        changed, persists = verdict.is_changed, verdict.persists
    elif is_known and flag.since is not None:
        persists = now - flag.since < parameters.accept_after_seconds
    return advance_flag(flag, now, shifted=changed and persists, persists=persists, parameters=parameters)


def lower_tail(requests: float, mean: float, dispersion: float) -> float:
    """Return ``P(K <= requests)`` of a negative binomial K with a mean and the variance ``mean + dispersion · mean²``.

    The first term is ``P(K = 0) = (1 + d m)^(-1/d)``, each further one follows from its predecessor by the ratio
    ``(j - 1 + 1/d) / j · d m / (1 + d m)``. For large counts the terms are added downwards from the last one.
    """
    if mean <= 0:
        return 1.0
    last = int(requests)
    if last >= mean:
        return 1.0
    d = max(dispersion, _MIN_DISPERSION)
    size, odds = 1 / d, d * mean / (1 + d * mean)
    term = exp(_log_term(last, size, odds, d * mean))
    total = term
    for j in range(last, 0, -1):
        term *= j / ((j - 1 + size) * odds)
        total += term
        if term < total * _NEGLIGIBLE:
            break
    return min(1.0, total)


def upper_tail(requests: float, mean: float, dispersion: float) -> float:
    """Return ``P(K >= requests)`` of the same distribution."""
    first = int(requests)
    if mean <= 0 or first <= mean:
        return 1.0 if mean > 0 or first <= 0 else 0.0
    d = max(dispersion, _MIN_DISPERSION)
    size, odds = 1 / d, d * mean / (1 + d * mean)
    term = exp(_log_term(first, size, odds, d * mean))
    total, j = term, first
    while term > total * _NEGLIGIBLE:
        j += 1
        term *= (j - 1 + size) / j * odds
        total += term
    return min(1.0, total)


def _log_term(count: int, size: float, odds: float, product: float) -> float:
    return lgamma(count + size) - lgamma(size) - lgamma(count + 1) - size * log1p(product) + count * log(odds)


class SourceTraffic(NamedTuple):
    """The traffic of the source.

    Attributes:
        ratio: its traffic against the usual.
        is_lost: whether it has lost traffic, beyond chance.
    """

    ratio: float
    is_lost: bool


def source_traffic(series: Iterable[tuple[float, float, float]]) -> SourceTraffic | None:
    """Return the traffic of the source against the usual; None with too few series to tell.

    It is the median over the series, because a few busy series that fall silent are not the source, or the mean that
    is weighted by precision, if that is higher, because series vary. The precision of a ratio is the inverse of the
    variance of the negative binomial distribution, divided by the squared mean: ``1 / (1 / m + d)``.

    The series with too little traffic to be judged count together: a few busy series may call one another and fall
    together, but what the source loses, it loses of all. If they clearly have more of their traffic, it has lost no
    more than they lack.

    Args:
        series: requests, usual number of requests and dispersion of each series, in the same window.
    """
    judged: list[tuple[float, float]] = []
    rest_requests = rest_usual = rest_excess = 0.0
    for requests, usual, d in series:
        if usual >= SOURCE_MIN_USUAL:
            judged.append((requests / usual, 1 / (1 / usual + d)))
        else:
            rest_requests += requests
            rest_usual += usual
            rest_excess += d * usual * usual
    if len(judged) < SOURCE_MIN_SERIES:
        return None
    middle = middle_ratio([ratio for ratio, _ in judged])
    precision = sum(weight for _, weight in judged)
    mean = sum(ratio * weight for ratio, weight in judged) / precision
    ratio = max(middle, mean)
    if rest_usual >= SOURCE_MIN_USUAL:
        deviation = sqrt(ratio * rest_usual + ratio * ratio * rest_excess)
        if rest_requests - ratio * rest_usual > SOURCE_DEVIATIONS * deviation:
            ratio = mean = min(1.0, rest_requests / rest_usual)
            precision = rest_usual * rest_usual / (rest_usual + rest_excess)
    return SourceTraffic(ratio, ratio < SOURCE_RATIO and (1 - mean) * sqrt(precision) > SOURCE_DEVIATIONS)


def middle_ratio(ratios: Iterable[float]) -> float:
    """Return the median of the ratios of series to their usual traffic, or with few series, the highest."""
    ordered = sorted(ratios)
    return ordered[-1] if len(ordered) < SOURCE_MEDIAN_SERIES else ordered[len(ordered) // 2]


class SourceWindow(NamedTuple):
    """A window of the ledger.

    Attributes:
        start: its start, Unix seconds.
        end: its end, Unix seconds.
        requests: requests of all series that there were.
        coverage: share of them that was read; None if unknown.
    """

    start: int
    end: int
    requests: float
    coverage: float | None


class ReadHour(NamedTuple):
    """A local hour that was read as a whole.

    Attributes:
        hour: the hour, with its windows.
        requests: requests of all series that there were.
    """

    hour: SourceHour
    requests: float


def read_hours(windows: Iterable[tuple[LocalHour, SourceWindow]]) -> list[ReadHour]:
    """Return the hours that were read completely and with known coverage, in time order."""
    by_hour: dict[int, tuple[LocalHour, list[SourceWindow]]] = {}
    for hour, window in windows:
        by_hour.setdefault(hour.start, (hour, []))[1].append(window)
    found: list[ReadHour] = []
    for start in sorted(by_hour):
        hour, parts = by_hour[start]
        covered = tuple(sorted((part.start, part.coverage) for part in parts if part.coverage))
        if len(covered) == len(parts) and sum(part.end - part.start for part in parts) == hour.end - hour.start:
            found.append(ReadHour(SourceHour(hour, covered), sum(part.requests for part in parts)))
    return found


def low_hours(hours: Iterable[ReadHour], accept_after_seconds: int) -> frozenset[int]:
    """Return the starts of the hours in which the source had far less traffic than in the median of their slot.

    Hours of a time as long as it takes to accept a change do not count as low if most hours of it are: that traffic is
    the usual one now, or the sampling has changed for good.

    Args:
        hours: hours of the source, in time order.
        accept_after_seconds: a change that lasts this long is the usual.
    """
    hours = list(hours)
    by_slot: dict[Slot, list[ReadHour]] = {}
    for each in hours:
        by_slot.setdefault(each.hour.hour.slot, []).append(each)
    low: set[int] = set()
    for found in by_slot.values():
        if len(found) >= SOURCE_MIN_HOURS:
            least = SOURCE_HOUR_RATIO * median(each.requests for each in found)
            low.update(each.hour.hour.start for each in found if each.requests < least)
    if len(low) * HOUR_SECONDS < LASTING_SHARE * accept_after_seconds:
        # Nearly always.
        return frozenset(low)
    return frozenset(low.difference(_lasting(hours, low, accept_after_seconds)))


def _lasting(hours: Sequence[ReadHour], low: Collection[int], accept_after_seconds: int) -> set[int]:
    """Return the starts of the hours of each such time of which at least :data:`LASTING_SHARE` are low."""
    lasting: set[int] = set()
    first = low_ones = 0
    for last, each in enumerate(hours):
        low_ones += each.hour.hour.start in low
        while each.hour.hour.end - hours[first].hour.hour.start > accept_after_seconds:
            low_ones -= hours[first].hour.hour.start in low
            first += 1
        if low_ones * HOUR_SECONDS >= LASTING_SHARE * accept_after_seconds:
            lasting.update(known.hour.hour.start for known in hours[first : last + 1])
    return lasting


def source_hours(
    windows: Iterable[tuple[LocalHour, SourceWindow]], accept_after_seconds: int
) -> tuple[SourceHour, ...]:
    """Return the hours whose counts can be compared, in time order.

    Left out are hours that were not read completely or with unknown coverage, and those in which the source had far
    less traffic than in the median of its slot.
    """
    read = read_hours(windows)
    low = low_hours(read, accept_after_seconds)
    return tuple(each.hour for each in read if each.hour.hour.start not in low)
