"""Reference implementation of the shift detector: slow and plain, on lists of numbers and UTC hours, without digests.

Shares nothing with the code under test but the settings and the bucket of a duration. A trace is a triple: the second
in which it ended, the hour in which it started, its bucket.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import asin, ceil, comb, exp, factorial, lgamma, log2, pi, sqrt
from statistics import median, median_low

from exporter.baseline.levels import FallbackRules
from exporter.detection.parameters import Parameters

QUANTILES = (Fraction(1, 2), Fraction(9, 10), Fraction(99, 100))
Trace = tuple[int, int, int]
Distances = dict[int, list[tuple[int, float, float]]]
"""By hour: quantile, squared distance and sampling variance of each window, in square octaves."""


def quantile(values: Iterable[int], q: float) -> int:
    ordered = sorted(values)
    return ordered[max(1, ceil(round(q * len(ordered), 9))) - 1]


def above(values: Iterable[int], limit: int) -> int:
    return sum(value > limit for value in values)


def beta_binomial_tail(k: int, n: int, p: Fraction, rho: Fraction) -> Fraction:
    """Return P(K >= k) exactly, as Pólya's urn with rising factorials."""
    a, b = p * (1 / rho - 1), (1 - p) * (1 / rho - 1)

    def rising(x: Fraction, times: int) -> Fraction:
        product = Fraction(1)
        for step in range(times):
            product *= x + step
        return product

    return sum((comb(n, j) * rising(a, j) * rising(b, n - j) for j in range(k, n + 1)), start=Fraction(0)) / rising(
        a + b, n
    )


def tail(k: int, n: int, p: Fraction, rho: float) -> float:
    """Return the same in floating point, each term computed independently, with n capped at 300."""
    if n > 300:
        k, n = ceil(Fraction(k * 300, n)), 300
    a, b = float(p) * (1 / rho - 1), float(1 - p) * (1 / rho - 1)

    def log_beta(x: float, y: float) -> float:
        return lgamma(x) + lgamma(y) - lgamma(x + y)

    return sum(comb(n, j) * exp(log_beta(a + j, b + n - j) - log_beta(a, b)) for j in range(k, n + 1))


@dataclass
class Limits:
    baseline: list[int]
    stat: list[int]
    gate: list[int]
    clear: list[int]
    rho: float
    pool: list[int]
    least_rho: float = 0.0
    ladder: list[list[float]] = field(default_factory=list)
    profile: list[list[int]] = field(default_factory=lambda: [[0] * 12 for _ in QUANTILES])
    long: list[tuple[int, int]] = field(default_factory=list)
    level: list[tuple[int, int, int, int]] = field(default_factory=list)
    needs_certainty: bool = False
    slowest: list[tuple[int, float, float]] = field(default_factory=list)


@dataclass
class FlagState:
    firing: bool = False
    pending_since: int | None = None
    keep_firing_since: int | None = None


@dataclass
class NaiveDetector:
    """Replays one series; ``run`` records the transitions of its flag as time and whether it fires."""

    rules: FallbackRules = field(default_factory=FallbackRules)
    parameters: Parameters = field(default_factory=Parameters)

    def __post_init__(self) -> None:
        self.hours: dict[int, list[int]] = {}
        self.distances: Distances = {}
        self.long_distances: Distances = {}
        self.level_distances: Distances = {}
        self.shares: dict[int, list[tuple[float, float]]] = {}
        self.apart: dict[int, list[tuple[float, float]]] = {}
        self.deviations: dict[int, dict[tuple[int, int], int]] = {}
        self.quarantined: set[int] = set()
        self.suspects: set[int] = set()
        self.changepoint = 0
        self.level = 0
        self.changepoints: list[int] = []
        self.run_hours: list[tuple[int, bool, bool]] = []
        self.streak: list[tuple[int, int, int, float]] = []
        self.limits: dict[int, Limits | None] = {}
        self.changes: list[tuple[int, bool]] = []

    # -- baseline -----------------------------------------------------------------------------------------------

    @staticmethod
    def slot(hour: int) -> tuple[int, bool]:
        return hour % 24, (hour // 24 + 3) % 7 >= 5

    def pool_hours(self, hour: int) -> list[int] | None:
        oldest = max(self.changepoint, hour - self.rules.lookback_seconds // 3600)
        candidates = [h for h in sorted(self.hours) if oldest <= h < hour - 1]
        of_day, weekend = self.slot(hour)
        minimum = {
            1: self.rules.min_samples,
            2: self.rules.nearby_min_samples,
            3: self.rules.daytype_min_samples,
            4: self.rules.global_min_samples,
        }
        for level in (1, 2, 3, 4):
            members = []
            for h in candidates:
                distance = min((self.slot(h)[0] - of_day) % 24, (of_day - self.slot(h)[0]) % 24)
                same_type = self.slot(h)[1] == weekend
                if (
                    level == 4
                    or (level == 3 and same_type)
                    or (level == 2 and same_type and distance <= self.rules.nearby_hours_range)
                    or (level == 1 and same_type and distance == 0)
                ):
                    members.append(h)
            good = [h for h in members if h not in self.quarantined]
            if level == 1 and len(members) - len(good) >= max(3, len(good)):
                self.quarantined -= set(members)
                good = members
            traces = sum(len(self.hours[h]) for h in good)
            if len(good) < 3 or traces < max(30, minimum[level]):
                continue
            if level == 2 and len({h // 24 for h in good}) < 2:
                continue
            if level >= 3 and good[-1] - good[0] < 24:
                continue
            self.level = level
            return good
        return None

    def limits_for(self, hour: int) -> Limits | None:
        chosen = self.pool_hours(hour)
        if chosen is None:
            return None
        p = self.parameters
        pool = [bucket for h in chosen for bucket in self.hours[h]]
        limits = Limits([], [], [], [], 0.003 + 2 / len(pool), pool)
        limits.least_rho = limits.rho
        limits.needs_certainty = p.parts.certain_firing and len(pool) >= 100 * len(chosen)
        oldest = max(self.changepoint, hour - self.rules.lookback_seconds // 3600)
        good = [h for h in self.distances if oldest <= h < hour and h not in self.quarantined]
        if p.parts.likeness:
            limits.rho += self.learned_correlation(good) - 0.003
        if p.parts.profile:
            same_hour = [h for h in good if h % 24 == hour % 24]
            by = self.excess_over_hours_around(same_hour) if p.parts.pattern_transfer and self.level > 1 else {}
            hourly = self.pattern([self.deviations[h] for h in good], 12, 4)
            daily = self.pattern(
                [
                    {(i, m): min(127, d + by.get(h, (0, 0, 0))[i]) for (i, m), d in self.deviations[h].items()}
                    for h in same_hour
                ],
                3,
                12,
            )
            for i, m in [*hourly, *daily]:
                limits.profile[i][m] = max(hourly.get((i, m), 0), daily.get((i, m), 0))
        telling = good
        if p.parts.busy_swing and len(pool) >= 240 * len(chosen):
            counted = [h for h in good if self.distances[h] or self.shares[h]]
            busy = [h for h in counted if 2 * len(self.hours[h]) * len(chosen) >= len(pool)]
            telling = busy if 4 * len(busy) >= len(counted) and busy else good
        for index, q in enumerate(QUANTILES):
            baseline = quantile(pool, float(q))
            errors = self.variance(self.distances, good if index else telling, index, 0.1)
            numerator = denominator = 0.0
            for h in chosen:
                n = len(self.hours[h])
                weight = float(n * (1 - q) / (n * (1 - q) + 2))
                distance = max(-2.0, min(2.0, (quantile(self.hours[h], float(q)) - baseline) / 32))
                numerator += weight * (distance**2 - self.sampling_sd(pool, q, n) ** 2)
                denominator += weight
            disagreement = (max(0.0, numerator) + 0.01) / (denominator + 1) * (1 + 1 / len(chosen))
            tau = sqrt(max(errors, disagreement))
            is_joint = p.parts.joint_tolerance and len(pool) >= 240 * len(chosen)
            stat_factor, gate_factor = self.tolerated(tau, is_joint)
            value = 2 ** ((baseline + 1) / 32)
            limits.baseline.append(baseline)
            for into, factor in (
                (limits.stat, max(1.1, stat_factor)),
                (limits.gate, max(p.ratio, 1 + p.min_delta_seconds / value, gate_factor)),
                (limits.clear, max(1.2, 1 + p.min_delta_seconds / value / 2, 2 ** (p.swing * tau / 2))),
            ):
                into.append(self.scaled(baseline, factor))
            if p.parts.ladder:
                lowest = limits.gate[-1] - self.scaled(0, max(1.1, 2 ** (p.swing * tau)))
                shares = [max(0.5, above(pool, lowest + 32 * e)) / len(pool) for e in range(3)]
                limits.ladder.append([min(float(1 - q), share) for share in shares])
            least = max(1.25, 1 + p.min_delta_seconds / value)
            if self.level > 2 and p.parts.near_baselines:
                continue
            if p.parts.long_window and len(pool) >= 100 * len(chosen):
                tau = sqrt(self.variance(self.long_distances, good if index else telling, index, 0.1))
                stat_factor, gate_factor = self.tolerated(tau, p.parts.joint_tolerance)
                stat = self.scaled(baseline, max(1.1, stat_factor))
                gate = self.scaled(baseline, max(least, gate_factor))
                limits.long.append((stat, gate))
            if p.parts.level and len(pool) >= 40 * len(chosen):
                tau = sqrt(self.variance(self.level_distances, good if index else telling, index, 0.07))
                stat_factor, gate_factor = self.tolerated(tau, p.parts.joint_tolerance)
                factors = (max(1.1, stat_factor), max(1.25, gate_factor), 1.1, least)
                stat, gate, least_stat, least_gate = (self.scaled(baseline, factor) for factor in factors)
                limits.level.append((stat, gate, least_stat, least_gate))
        is_near = self.level <= 2 or not p.parts.near_baselines
        is_tail_known = len(pool) >= 60 * len(chosen) and limits.rho - limits.least_rho <= 0.003
        if p.parts.tail and is_near and is_tail_known:
            tau = sqrt(self.variance(self.long_distances, good, 2, 0.1))
            if sum(i == 2 for h in good for i, _, _ in self.long_distances[h]) < 48:
                tau = max(tau, sqrt(self.variance(self.distances, good, 2, 0.1)))
            value = 2 ** ((limits.baseline[2] + 1) / 32)
            lowest = self.scaled(limits.baseline[2], max(p.ratio, 1 + p.min_delta_seconds / value))
            lowered = [self.scaled(0, max(1.1, factor)) for factor in self.tolerated(tau, p.parts.joint_tolerance)]
            for limit in (lowest, lowest + 32, lowest + 64):
                expected, most = ((above(pool, limit - by) + 1) / len(pool) for by in lowered)
                limits.slowest.append((limit, expected, most))
        return limits

    def excess_over_hours_around(self, same_hour: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """Return by how much the deviations of hours are too low, whose baselines are pools of their own slot."""
        exact = [h for h in same_hour if sum(self.slot(e) == self.slot(h) for e in same_hour if e < h) >= 3]
        excesses = []
        for h in exact:
            if h - 1 in self.hours and h + 1 in self.hours:
                own, before, after = ([quantile(self.hours[k], float(q)) for q in QUANTILES] for k in (h, h - 1, h + 1))
                excesses.append([o - (b + a) / 2 for o, b, a in zip(own, before, after, strict=True)])
        by = tuple(max(0, round(median(of_quantile))) for of_quantile in zip(*excesses, strict=True))
        return dict.fromkeys(exact, by) if by else {}

    def pattern(
        self, hours: Sequence[dict[tuple[int, int], int]], least: int, limit: int
    ) -> dict[tuple[int, int], int]:
        """Return the median deviation by quantile and mark where it is a pattern."""
        found = {}
        for i in range(len(QUANTILES)):
            for m in range(12):
                known = [of_hour[i, m] for of_hour in hours if (i, m) in of_hour]
                if len(known) >= least:
                    if median_low(known) > limit:
                        found[i, m] = median_low(known)
                elif self.parameters.parts.inherited_swing and (i - 1, m) in found:
                    found[i, m] = found[i - 1, m]
        return found

    def learned_correlation(self, good: Sequence[int]) -> float:
        within = self.likeness([pair for h in good for pair in self.shares[h]])
        apart = self.likeness([pair for h in good for pair in self.apart[h]])
        if within <= apart:
            return 0.003
        r = (within - apart) / (1 - apart)
        return min(0.9, max(0.003, 2 / pi * asin(0.03 * r / (1 - r + 0.03 * r))))

    @staticmethod
    def likeness(pairs: Sequence[tuple[float, float]]) -> float:
        """Return how alike values are, from the share of them above a limit and the share of unlike pairs."""
        if not pairs:
            return 0.0
        p = sum(share for share, _ in pairs) / len(pairs)
        return max(0.0, 1 - (24 + sum(unlike for _, unlike in pairs)) / (24 + len(pairs) * 2 * p * (1 - p)))

    @staticmethod
    def scaled(bucket: int, factor: float) -> int:
        return bucket + ceil(round(32 * log2(factor), 9))

    def tolerated(self, tau: float, is_joint: bool) -> tuple[float, float]:
        """Return the factors in the statistical threshold and in the gate."""
        octaves = self.parameters.swing * tau
        return float(2 ** (octaves * (0.8 if is_joint else 1))), float(2 ** (octaves * (1.8 if is_joint else 1)))

    def variance(self, distances: Distances, good: Sequence[int], index: int, prior: float) -> float:
        """Return the variance of a quantile between windows, in square octaves."""
        parts = self.parameters.parts
        total, number, least = 0.0, 0, prior**2
        days: dict[int, list[float]] = {}
        for h in good:
            seen = [(d, s) for i, d, s in distances[h] if i == index]
            number += len(seen)
            if parts.joint_errors:
                squares, expected = sum(d for d, _ in seen), sum(s for _, s in seen)
                # Rounded down to the units that are stored.
                error = max(int(squares / 8 * 4096) / 4096, squares - expected)
            else:
                error = sum(max(d / 4, d - s) for d, s in seen)
            total += error
            of_day = days.setdefault(h // 24, [0.0, 0])
            of_day[0] += error
            of_day[1] += len(seen)
        if parts.typical_swing:
            means = [e / n for e, n in days.values() for _ in range(int(n))]
            total = number * median_low(means) if means else 0.0
        if index and parts.inherited_swing:
            least = max(least, self.variance(distances, good, 0, prior))
        return (48 * least + total) / (48 + number)

    @staticmethod
    def sampling_sd(pool: Sequence[int], q: Fraction, n: int) -> float:
        error = sqrt(q * (1 - q) / n)
        return (quantile(pool, min(1.0, float(q) + error)) - quantile(pool, max(0.0, float(q) - error))) / 64

    # -- tick -----------------------------------------------------------------------------------------------------

    @staticmethod
    def window(traces: Sequence[Trace], now: int, length: int, min_traces: int, longest: int) -> list[Trace]:
        chosen = [t for t in traces if now - length < t[0] <= now]
        for second in sorted({t[0] for t in traces if now - longest < t[0] <= now - length}, reverse=True):
            if len(chosen) >= min_traces:
                break
            chosen = [t for t in traces if t[0] == second] + chosen
        return chosen

    def with_limits(self, traces: Iterable[Trace]) -> list[tuple[int, Limits]]:
        found = []
        for second, _, bucket in traces:
            limits = self.limits.get((second - 1) // 3600)
            if limits is not None:
                found.append((bucket, limits))
        return found

    def tick(self, traces: Sequence[Trace], now: int, flag: FlagState) -> bool | None:
        """Advance the flag; return True when it fires, False when it resolves, and None without a transition."""
        p = self.parameters
        hour = (now - 1) // 3600
        current = self.limits[hour]
        window = self.window(traces, now, p.window_seconds, p.min_traces, p.max_window_seconds)
        evaluated = self.with_limits(window) if current is not None else []
        shifted = persists = False
        first = now
        n = len(evaluated)
        holds = 1
        chances: list[tuple[float, int, bool]] = []
        if current is not None and n >= 3:
            seconds = [second for second, _, _ in window if self.limits.get((second - 1) // 3600)]
            first = seconds[0]
            up = all_up = self.raised(current, first, now)
            for i, q in enumerate(QUANTILES):
                slow = sum(bucket > limits.gate[i] + up[i] for bucket, limits in evaluated)
                beyond = sum(bucket > limits.stat[i] + up[i] for bucket, limits in evaluated)
                if slow > (1 - q) * n and slow >= 3:
                    chance = tail(beyond, n, 1 - q, current.rho)
                    chances.append((chance, n, False))
                    for e, share in enumerate(current.ladder[i] if current.ladder and n >= 20 else []):
                        steep = sum(bucket > limits.gate[i] + up[i] + 32 * e for bucket, limits in evaluated)
                        rare = max(tail(steep, n, Fraction(share), rho) for rho in (current.rho, current.least_rho))
                        if steep >= 3 and rare < p.alpha <= chance:
                            chances.append((rare, n, False))
                            break
            shifted = min(chances, default=(1.0, 0, False))[0] < p.alpha
            if not shifted:
                chances, holds = self.small_shifts(traces, now, evaluated, current, up), 2
                shifted = bool(chances)
                if shifted and p.parts.single_hold and min(chances)[0] < p.alpha / 100 and min(chances)[2]:
                    holds = 1
            newest = self.window(traces, now, 120, 5, p.max_window_seconds)
            fresh = self.with_limits(newest)
            seconds = [second for second, _, _ in newest if self.limits.get((second - 1) // 3600)]
            up = self.raised(current, seconds[0], now) if seconds else up
            persists = self.slow_quantile(fresh, up, current) is not None
            if flag.firing and not persists and p.parts.continuation:
                index = self.slow_quantile(evaluated, all_up, current)
                persists = index is not None and not self.is_faster(fresh, evaluated, current, index, all_up[index])
            has_slow = any(limits.slowest and bucket > limits.slowest[0][0] for bucket, limits in evaluated)
            is_due = current.slowest and (has_slow or flag.firing or flag.pending_since is not None)
            persists = persists and (shifted or flag.firing)
            if not persists and is_due and self.slowest_shift(traces, now, n if flag.firing else None):
                holds, chances = (holds, chances) if shifted else (2, [])
                shifted = persists = True
        change = None
        if not flag.firing:
            if shifted and persists:
                flag.pending_since = now if flag.pending_since is None else flag.pending_since
                needed = holds * p.hold_seconds
                if current is not None and current.needs_certainty and chances:
                    chance, traces_of_test, _ = min(chances)
                    if chance >= p.alpha * min(1.0, traces_of_test / 50):
                        needed = max(needed, now - first)
                if now - flag.pending_since >= needed:
                    flag.firing, flag.keep_firing_since, change = True, None, True
                    seconds = [second for second, _, _ in window if self.limits.get((second - 1) // 3600)]
                    self.suspects |= set(range((seconds[0] - 1) // 3600, hour + 1))
            else:
                flag.pending_since = None
        if flag.firing:
            if current is not None:
                self.suspects.add(hour)
            if persists:
                flag.keep_firing_since = None
            else:
                flag.keep_firing_since = now if flag.keep_firing_since is None else flag.keep_firing_since
                if now - flag.keep_firing_since >= p.clear_hold_seconds:
                    flag.firing, flag.pending_since, flag.keep_firing_since, change = False, None, None, False
        return change

    def slowest_shift(self, traces: Sequence[Trace], now: int, firing_with: int | None) -> bool:
        """Whether the last half hour or hour has too many very slow requests."""
        newest = -(-now // 300) * 300
        for marks in (6, 12):
            counted: dict[int, list[tuple[int, Limits]]] = defaultdict(list)
            for trace in traces:
                if newest - 300 * marks < trace[0] <= now:
                    counted[-(-trace[0] // 300) * 300] += [e for e in self.with_limits([trace]) if e[1].slowest]
            number = sum(map(len, counted.values()))
            has_lasted = True
            for e in range(3):
                slow = {
                    mark: sum(
                        bucket > limits.slowest[e][0] + limits.profile[2][(mark - 1) % 3600 // 300]
                        for bucket, limits in ended
                    )
                    for mark, ended in counted.items()
                }
                above = sum(slow.values())
                independent = max(above - max(slow.values(), default=0), sum(n > 0 for n in slow.values()))
                if independent < 3:
                    break
                usual = {m: sum(limits.slowest[e][1] for _, limits in ended) for m, ended in counted.items()}
                expected = sum(usual.values())
                most = sum(limits.slowest[e][2] for ended in counted.values() for _, limits in ended)
                if above > expected:
                    is_enough = 3 * number > (firing_with or 0) * (above - expected)
                    has_lasted &= is_enough and self.has_lasted(counted, slow, usual)
                if has_lasted and number >= 60 and independent > expected and above > most:
                    chance = 1 - sum(exp(-expected) * expected**k / factorial(k) for k in range(independent))
                    if chance < (self.parameters.alpha / 10 if firing_with is None else 0.2):
                        return True
        return False

    @staticmethod
    def has_lasted(
        counted: Mapping[int, Sequence[object]], slow: Mapping[int, int], usual: Mapping[int, float]
    ) -> bool:
        """Whether the newest marks have a third of the slow requests that the rest has, once three are expected."""
        for since in sorted(counted, reverse=True):
            newest, rest = ([m for m in counted if (m >= since) is which] for which in (True, False))
            n, n_rest = (sum(len(counted[m]) for m in marks) for marks in (newest, rest))
            beyond, beyond_rest = (sum(slow[m] - usual[m] for m in marks) for marks in (newest, rest))
            if n_rest and n * beyond_rest / n_rest >= 3:
                return beyond / n >= beyond_rest / n_rest / 3
        return True

    # -- small shifts ---------------------------------------------------------------------------------------------

    @staticmethod
    def raised(limits: Limits, first: int, now: int) -> list[int]:
        marks = {(second - 1) % 3600 // 300 for second in range(first, now + 1)}
        return [max(of_quantile[mark] for mark in marks) for of_quantile in limits.profile]

    @staticmethod
    def slow_quantile(part: Sequence[tuple[int, Limits]], up: Sequence[int], current: Limits) -> int | None:
        found = []
        for i, q in enumerate(QUANTILES):
            slow = sum(bucket > limits.clear[i] + up[i] for bucket, limits in part)
            if slow > (1 - q) * len(part):
                found.append((tail(slow, len(part), 1 - q, current.rho), i))
        return min(found)[1] if found and min(found)[0] < 0.2 else None

    @staticmethod
    def is_faster(
        fresh: Sequence[tuple[int, Limits]],
        evaluated: Sequence[tuple[int, Limits]],
        current: Limits,
        i: int,
        up: int,
    ) -> bool:
        slow, slow_before = (
            sum(bucket > limits.clear[i] + up for bucket, limits in part)
            for part in (fresh, evaluated[: len(evaluated) - len(fresh)])
        )
        before = len(evaluated) - len(fresh)
        if before <= 0:
            return False
        share = Fraction(before - slow_before + 1, before + 2)
        return tail(len(fresh) - slow, len(fresh), share, current.rho) < 0.2

    def small_shifts(
        self,
        traces: Sequence[Trace],
        now: int,
        evaluated: Sequence[tuple[int, Limits]],
        current: Limits,
        up: Sequence[int],
    ) -> list[tuple[float, int, bool]]:
        n = len(evaluated)
        found = []
        begin = -(-now // 300) * 300 - 1800
        half_hour: list[tuple[int, Limits]] = []
        for i, q in enumerate(QUANTILES):
            # Both gates are at least 1.25 times the baseline; most ticks end here, which keeps this fast enough.
            if sum(bucket > limits.baseline[i] + 10 for bucket, limits in evaluated) < 3:
                continue
            half_hour = half_hour or self.with_limits([t for t in traces if begin < t[0] <= now])
            if current.long and len(half_hour) >= 100:
                slow = sum(bool(limits.long) and bucket > limits.long[i][1] + up[i] for bucket, limits in evaluated)
                slow_long = sum(bool(limits.long) and bucket > limits.long[i][1] for bucket, limits in half_hour)
                beyond = sum(bool(limits.long) and bucket > limits.long[i][0] for bucket, limits in half_hour)
                if (
                    slow > (1 - q) * n
                    and slow >= 3
                    and slow_long > (1 - q) * len(half_hour)
                    and slow_long >= 3
                    and (chance := tail(beyond, len(half_hour), 1 - q, current.rho)) < self.parameters.alpha
                ):
                    found.append((chance, len(half_hour), False))
            level = self.level_at(traces, now // 300 * 300, i) if current.level else None
            if level is None:
                continue
            if i > 0 and self.parameters.parts.level_floor:
                level = max(0, level)
            slow = beyond = 0
            for bucket, limits in evaluated:
                if limits.level:
                    stat, gate, least_stat, least_gate = limits.level[i]
                    slow += bucket > max(gate + level, least_gate) + up[i]
                    beyond += bucket > max(stat + level, least_stat) + up[i]
            if slow > (1 - q) * n and slow >= 3:
                chance = tail(beyond, n, 1 - q, current.rho)
                if chance < self.parameters.alpha:
                    found.append((chance, n, True))
        return found

    def level_at(self, traces: Sequence[Trace], mark: int, index: int) -> int | None:
        """Return the level of a quantile in buckets, from the six marks before ``mark``."""
        p, q = self.parameters, QUANTILES[index]
        profile = self.limits[(mark - 1) // 3600]
        if profile is None:
            profile = self.limits[mark // 3600]
        rounded = [(-(-second // 300) * 300, hour, bucket) for second, hour, bucket in traces]
        known = []
        for earlier in range(mark - 1800, mark, 300):
            limits = self.limits.get((earlier - 1) // 3600)
            window = self.window(rounded, earlier, p.window_seconds, p.min_traces, p.max_window_seconds)
            values = [bucket for bucket, _ in self.with_limits(window)]
            if limits is None or len(values) < 3 or len(values) * (1 - q) < Fraction(1, 2):
                continue
            pattern = profile.profile[index][(earlier - 1) % 3600 // 300] if profile is not None else 0
            known.append(quantile(values, float(q)) - limits.baseline[index] - pattern)
        if len(known) < 5:
            return None
        return max(-32, min(32, round(Fraction(7 * sum(known), 10 * len(known)))))

    # -- history -------------------------------------------------------------------------------------------------

    def measure_swing(self, traces: Sequence[Trace], mark: int) -> None:
        p = self.parameters
        hour = (mark - 1) // 3600
        m = (mark - 1) % 3600 // 300
        current = self.limits[hour]
        if current is None or hour not in self.hours:
            return
        window = self.window(traces, mark, p.window_seconds, p.min_traces, p.max_window_seconds)
        evaluated = [bucket for bucket, _ in self.with_limits(window)]
        n = len(evaluated)
        if n >= 3:
            slow = above(evaluated, current.baseline[0])
            unlike = sum((a > current.baseline[0]) != (b > current.baseline[0]) for a in evaluated for b in evaluated)
            # Shares are rounded down to 1/4096.
            self.shares[hour].append((4096 * slow // n / 4096, 4096 * unlike // (n * (n - 1)) / 4096))
        for i, q in enumerate(QUANTILES):
            if n >= 3 and n * (1 - q) >= Fraction(1, 2):
                deviation = quantile(evaluated, float(q)) - current.baseline[i]
                self.deviations[hour][i, m] = max(-127, min(127, deviation))
                earlier = self.deviations.get(hour - 1, {}).get((i, m))
                if i == 0 and earlier is not None:
                    signs = (earlier > 0, deviation > 0)
                    self.apart[hour].append((sum(signs) / 2, signs[0] != signs[1]))
                own = deviation - current.profile[i][m]
                self.distances[hour].append((i, *self.squared(own, current, q, n)))
                before = [
                    self.deviations.get(h, {}).get((i, (m - k) % 12))
                    for k in range(6, 0, -1)
                    for h in [hour if m >= k else hour - 1]
                ]
                patterns = [current.profile[i][(m - k) % 12] for k in range(6, 0, -1)]
                known = [d - o for d, o in zip(before, patterns, strict=True) if d is not None]
                if current.level and len(known) >= 5:
                    level = max(-32, min(32, round(Fraction(7 * sum(known), 10 * len(known)))))
                    self.level_distances[hour].append((i, *self.squared(own - level, current, q, n)))
        if current.long and m in (5, 11):
            values = [bucket for second, _, bucket in traces if mark - 1800 < second <= mark]
            n = len(values)
            for i, q in enumerate(QUANTILES):
                if n >= 10 and n * (1 - q) >= Fraction(1, 2):
                    distance = quantile(values, float(q)) - current.baseline[i]
                    self.long_distances[hour].append((i, *self.squared(distance, current, q, n)))

    def squared(self, buckets: int, limits: Limits, q: Fraction, n: int) -> tuple[float, float]:
        return min(2.0, abs(buckets) / 32) ** 2, self.sampling_sd(limits.pool, q, n) ** 2

    def settle(self, hour: int) -> bool:
        """Settle an hour; return whether a lasting change is accepted."""
        limits = self.limits[hour]
        if hour not in self.hours or limits is None:
            return False
        p = self.parameters
        buckets = self.hours[hour]
        n = len(buckets)
        anomalous = hour in self.suspects
        if n >= 3:
            for i, q in enumerate(QUANTILES):
                slow = above(buckets, limits.gate[i])
                if slow > (1 - q) * n and slow >= 3:
                    anomalous |= tail(above(buckets, limits.stat[i]), n, 1 - q, limits.rho) < p.alpha
            fast = n - above(buckets, 2 * limits.baseline[0] - limits.gate[0])
            if 2 * fast > n:
                anomalous |= tail(fast, n, Fraction(1, 2), limits.rho) < p.alpha
        self.quarantined |= {h for h in (hour - 2, hour - 1, hour) if h in self.suspects and h in self.hours}
        if anomalous:
            self.quarantined.add(hour)
        elevated = anomalous or any(
            above(buckets, limits.clear[i]) > (1 - q) * n
            for i, q in enumerate(QUANTILES)
            if n * (1 - q) >= Fraction(1, 2)
        )
        self.run_hours = [*self.run_hours, (hour, anomalous, elevated)][-60:]
        return (elevated and self.accept(hour)) or (p.parts.streak and self.extend_streak(hour, limits, buckets))

    def extend_streak(self, hour: int, limits: Limits, buckets: Sequence[int]) -> bool:
        """Add an hour to the streak of slow hours; return whether the lasting change is accepted."""
        p = self.parameters
        value = 2 ** ((limits.baseline[0] + 1) / 32)
        gate = self.scaled(limits.baseline[0], max(p.ratio, 1 + p.min_delta_seconds / value))
        share = max(0.5, above(limits.pool, gate - self.scaled(0, 1.2))) / len(limits.pool)
        self.streak = [*self.streak, (hour, len(buckets), above(buckets, gate), min(0.5, share))][-60:]
        newest = self.streak[-12:]
        if 2 * sum(entry[2] for entry in newest) <= sum(entry[1] for entry in newest):
            self.streak = []
        while self.streak and 2 * self.streak[0][2] <= self.streak[0][1]:
            self.streak = self.streak[1:]
        traces = sum(entry[1] for entry in self.streak)
        slow = sum(entry[2] for entry in self.streak)
        after = p.accept_after_seconds / 3600
        if traces < 30 or 2 * slow <= traces or hour + 1 - self.streak[0][0] < after or len(self.streak) < after / 2:
            return False
        expected = sum(entry[1] * entry[3] for entry in self.streak) / traces
        if tail(slow, traces, Fraction(expected), limits.least_rho) >= p.alpha:
            return False
        self.accept_since(self.streak[0][0])
        return True

    def accept(self, hour: int) -> bool:
        begin, quiet = hour, 0
        for h, anomalous, elevated in reversed(self.run_hours):
            quiet = 0 if elevated else quiet + 1
            if quiet == 3:
                break
            if anomalous:
                begin = h
        members = [entry for entry in self.run_hours if entry[0] >= begin]
        after = self.parameters.accept_after_seconds / 3600
        if (
            hour + 1 - begin < after
            or len(members) < after / 2
            or sum(entry[2] for entry in members) < 0.75 * len(members)
            or sum(entry[1] for entry in members) < 3
        ):
            return False
        self.accept_since(begin)
        return True

    def accept_since(self, begin: int) -> None:
        self.changepoint = begin
        self.streak = []
        self.changepoints.append(begin)
        self.run_hours = []
        self.quarantined = {h for h in self.quarantined if h < begin}
        self.suspects = {h for h in self.suspects if h < begin}
        for measured in (self.distances, self.long_distances, self.level_distances):
            measured.update({h: [] for h in measured})
        for likenesses in (self.shares, self.apart):
            likenesses.update({h: [] for h in likenesses})
        self.deviations = {h: {} for h in self.deviations}

    # -- replay in time order -------------------------------------------------------------------------------------

    def run(self, traces: Iterable[Trace], first_hour: int, hours: int, tick_seconds: int) -> None:
        """Tick live, and evaluate each hour at its marks once it is over."""
        started: dict[int, list[Trace]] = defaultdict(list)
        for trace in traces:
            started[trace[1]].append(trace)
        live, past = FlagState(), FlagState()
        seen: list[Trace] = []
        rounded: list[Trace] = []
        for hour in range(first_hour, first_hour + hours):
            begin = hour * 3600
            seen = sorted([t for t in seen if t[0] > begin - 7200] + started[hour])
            rounded = [t for t in rounded if t[0] > begin - 7200]
            rounded = sorted(rounded + [(-(-second // 300) * 300, h, bucket) for second, h, bucket in started[hour]])
            self.limits[hour] = self.limits_for(hour)
            for now in range(begin + tick_seconds, begin + 3601, tick_seconds):
                change = self.tick(seen, now, live)
                if change is not None:
                    self.changes.append((now, change))
            if started[hour]:
                self.hours[hour] = [bucket for _, _, bucket in started[hour]]
                for measured in (self.distances, self.long_distances, self.level_distances):
                    measured[hour] = []
                self.shares[hour], self.apart[hour] = [], []
                self.deviations[hour] = {}
            for mark in range(begin + 300, begin + 3601, 300):
                self.measure_swing(rounded, mark)
                self.tick(rounded, mark, past)
            if self.settle(hour):
                if live.firing:
                    self.changes.append((begin + 3600, False))
                live, past = FlagState(), FlagState()
                self.limits = dict.fromkeys(self.limits)
