"""Which attribute values go with slow calls of a component.

Two tests, both one-sided. By time: within the incident, the component takes longer in requests with the value than in
the others (rank-sum test of Mann and Whitney). By frequency: more requests of the incident have the value than healthy
ones (Fisher's exact test). Only values that occur often enough to come out at all count as tests (Tarone 1990), so that
ids, which differ in every request, cost nothing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, erfc, exp, lgamma, sqrt
from typing import Final, Literal, NamedTuple

from exporter.cause.profile import Component, TraceProfile

_ALPHA: Final = 0.05
_MIN_FACTOR: Final = 1.5
_MIN_MORE: Final = 0.3
"""Least difference of the shares of requests that have a value."""

Values = Mapping[str, frozenset[str]]
"""The values of each attribute in one request."""


@dataclass(frozen=True, slots=True)
class AttributeContrast:
    """An attribute value that goes with the incident.

    Attributes:
        name: of the attribute.
        value: the value.
        of_root: whether the root span has it; otherwise spans of the component have it.
        basis: ``time``: calls with it take longer than calls without it; ``frequency``: the incident has it more often.
        factor: median time of the component with it, in relation to that without it; None by frequency, and where the
            others take no time.
        incident_share: share of the incident's requests with it, of those that have the attribute.
        reference_share: the same of the healthy requests; 0 for a value that they do not have.
        chance: upper bound of the probability that a difference as large is chance, after correction.
    """

    name: str
    value: str
    of_root: bool
    basis: Literal["time", "frequency"]
    factor: float | None
    incident_share: float
    reference_share: float
    chance: float


def attribute_contrasts(
    incident: Sequence[TraceProfile], reference: Sequence[TraceProfile], component: Component
) -> list[AttributeContrast]:
    """Return the attribute values that go with an incident, those by time first, each the least likely chance first.

    Args:
        incident: traces of the incident.
        reference: healthy traces.
        component: what takes longer; its spans' attributes and those of the root are compared.
    """
    found: dict[tuple[str, str, bool], AttributeContrast] = {}
    for of_root in (False, True):
        if of_root and all(each.root == component for each in (*incident, *reference)):
            continue
        now = [_values(each, each.root if of_root else component) for each in incident]
        usual = [_values(each, each.root if of_root else component) for each in reference]
        times = [each.self_ns.get(component, 0) for each in incident]
        for contrast in (*_by_time(times, now, usual, of_root=of_root), *_by_frequency(now, usual, of_root=of_root)):
            found.setdefault((contrast.name, contrast.value, of_root), contrast)
    return sorted(
        found.values(), key=lambda each: (each.basis != "time", each.chance, each.of_root, each.name, each.value)
    )


def _values(trace: TraceProfile, component: Component) -> Values:
    calls = trace.calls.get(component)
    return {} if calls is None else calls.attributes


class _Candidate(NamedTuple):
    """A value that can be tested: how many requests have it, of how many that have the attribute."""

    name: str
    value: str
    best: float
    """The lowest probability that the test could have at all."""


def _testable(candidates: Iterable[_Candidate]) -> tuple[list[_Candidate], int]:
    """Return the candidates that count as tests, and their number for the correction (Tarone)."""
    pending = list(candidates)
    best = sorted(each.best for each in pending)
    tests = 1
    while tests <= len(best) and sum(each <= _ALPHA / tests for each in best) > tests:
        tests += 1
    return [each for each in pending if each.best <= _ALPHA / tests], tests


def _share(values: Sequence[Values], name: str, value: str) -> float:
    having = [each[name] for each in values if name in each]
    return sum(value in each for each in having) / len(having) if having else 0.0


def _by_time(
    times: Sequence[int], now: Sequence[Values], usual: Sequence[Values], *, of_root: bool
) -> Iterable[AttributeContrast]:
    rows: dict[str, list[tuple[int, frozenset[str]]]] = {}
    for time, values in zip(times, now, strict=True):
        for name, each in values.items():
            rows.setdefault(name, []).append((time, each))
    candidates = [
        _Candidate(name, value, 1 / comb(len(having), count))
        for name, having in sorted(rows.items())
        for value, count in sorted(Counter(value for _, each in having for value in each).items())
        if count < len(having)
    ]
    tested, tests = _testable(candidates)
    for name, value, _ in tested:
        chosen = [time for time, each in rows[name] if value in each]
        others = [time for time, each in rows[name] if value not in each]
        chance = min(1.0, rank_sum_chance(chosen, others) * tests)
        median, other_median = _median(chosen), _median(others)
        if chance <= _ALPHA and median >= _MIN_FACTOR * other_median:
            yield AttributeContrast(
                name,
                value,
                of_root=of_root,
                basis="time",
                factor=median / other_median if other_median else None,
                incident_share=_share(now, name, value),
                reference_share=_share(usual, name, value),
                chance=chance,
            )


def _by_frequency(now: Sequence[Values], usual: Sequence[Values], *, of_root: bool) -> Iterable[AttributeContrast]:
    candidates: list[_Candidate] = []
    figures: dict[tuple[str, str], float] = {}
    for name in sorted({name for values in now for name in values}):
        slow = [values[name] for values in now if name in values]
        healthy = [values[name] for values in usual if name in values]
        if not healthy:
            continue
        everyone = len(slow) + len(healthy)
        usual_counts = Counter(value for each in healthy for value in each)
        for value, count in sorted(Counter(value for each in slow for value in each).items()):
            having = count + usual_counts[value]
            if having == everyone:
                continue
            best = fisher_chance(min(len(slow), having), len(slow), having, everyone)
            candidates.append(_Candidate(name, value, best))
            if count / len(slow) - usual_counts[value] / len(healthy) >= _MIN_MORE:
                figures[name, value] = fisher_chance(count, len(slow), having, everyone)
    tested, tests = _testable(candidates)
    for name, value, _ in tested:
        chance = figures.get((name, value), 1.0) * tests
        if chance <= _ALPHA:
            yield AttributeContrast(
                name,
                value,
                of_root=of_root,
                basis="frequency",
                factor=None,
                incident_share=_share(now, name, value),
                reference_share=_share(usual, name, value),
                chance=min(1.0, chance),
            )


def rank_sum_chance(chosen: Sequence[float], others: Sequence[float]) -> float:
    """Return the probability that chance makes the chosen values at least this much larger than the others.

    One-sided rank sum of Mann and Whitney: normal approximation with correction for ties and continuity, but never
    below the least probability that an exact test could have.
    """
    pooled = sorted([*chosen, *others])
    total = len(pooled)
    ranks: dict[float, float] = {}
    ties = 0.0
    first = 0
    while first < total:
        last = first
        while last + 1 < total and pooled[last + 1] == pooled[first]:
            last += 1
        ranks[pooled[first]] = (first + last) / 2 + 1
        ties += (last - first + 1) ** 3 - (last - first + 1)
        first = last + 1
    size = len(chosen)
    variance = size * (total - size) / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    score = (sum(ranks[each] for each in chosen) - size * (total + 1) / 2 - 0.5) / sqrt(variance)
    return max(0.5 * erfc(score / sqrt(2)), 1 / comb(total, size))


def fisher_chance(count: int, drawn: int, having: int, everyone: int) -> float:
    """Return the probability that at least ``count`` of ``drawn`` have what ``having`` of ``everyone`` have."""
    base = _log_comb(everyone, drawn)
    least = max(count, drawn + having - everyone, 0)
    terms = (
        exp(_log_comb(having, each) + _log_comb(everyone - having, drawn - each) - base)
        for each in range(least, min(drawn, having) + 1)
    )
    return min(1.0, sum(terms))


def _log_comb(total: int, chosen: int) -> float:
    return lgamma(total + 1) - lgamma(chosen + 1) - lgamma(total - chosen + 1)


def _median(values: Sequence[int]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
