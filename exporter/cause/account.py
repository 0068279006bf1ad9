"""The account: what the extra time of an incident's requests consists of, by component and by service.

Each trace is taken apart into the time that its root waited for each component, which adds up to the duration of the
root. So the mean extra time is the sum of what the components take more. Times are seconds per request.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Final, NamedTuple

from exporter.cause.draws import uniform
from exporter.cause.profile import Component, Shape, TraceProfile

MIN_TRACES: Final = 10
"""Fewer traces on either side make no account."""

_MIN_LIKENESS: Final = 0.5
"""Least Jaccard similarity of two shapes that are compared."""
REPLICATES: Final = 200
"""Replicates of the bootstrap."""
_BOUND_QUANTILE: Final = 0.05
_CALLER_ALIKE: Final = 0.5
"""A caller is blamed for a gap if its other calls grew by more than this part of the gap."""
_CALLEE_ALIKE_UNKNOWN: Final = 0.5
"""What is assumed of a callee that takes part in no other calls."""
_NS: Final = 1e9


@dataclass(frozen=True, slots=True)
class ComponentChange:
    """What one component takes of a request, usually and now.

    Attributes:
        component: the component.
        usual_seconds: time per request in the healthy traces.
        now_seconds: time per request in the incident.
        usual_calls: its spans on the critical path per request in the healthy traces.
        now_calls: the same in the incident.
        all_usual_calls: its spans per request in the healthy traces, on the critical path or not.
        all_now_calls: the same in the incident.
    """

    component: Component
    usual_seconds: float
    now_seconds: float
    usual_calls: float
    now_calls: float
    all_usual_calls: float
    all_now_calls: float

    @property
    def delta_seconds(self) -> float:
        """Extra time per request."""
        return self.now_seconds - self.usual_seconds

    @property
    def is_new(self) -> bool:
        """Whether healthy requests do not wait for it at all."""
        return not self.usual_calls

    @property
    def usual_seconds_per_call(self) -> float:
        """Time of one call in the healthy traces; 0 without calls."""
        return self.usual_seconds / self.usual_calls if self.usual_calls else 0.0

    @property
    def now_seconds_per_call(self) -> float:
        """Time of one call in the incident; 0 without calls."""
        return self.now_seconds / self.now_calls if self.now_calls else 0.0

    @property
    def slower_seconds(self) -> float:
        """The part of the extra time that comes from longer calls; the rest is ``more_seconds``."""
        if not self.usual_calls or not self.now_calls:
            return 0.0
        calls = (self.usual_calls + self.now_calls) / 2
        return calls * (self.now_seconds_per_call - self.usual_seconds_per_call)

    @property
    def more_seconds(self) -> float:
        """The part of the extra time that comes from more calls, or from new ones."""
        return self.delta_seconds - self.slower_seconds


@dataclass(frozen=True, slots=True)
class ServiceBlame:
    """The part of the extra time that belongs to one service.

    Attributes:
        service_name: the service.
        seconds: extra time per request; negative where it takes less than usual.
        share: its share of the extra time, from 0 to 1.
        bound: lower bound of its share of all that takes longer: the 5 % quantile of the replicates.
        stability: share of the replicates in which it is first.
    """

    service_name: str
    seconds: float
    share: float
    bound: float
    stability: float


@dataclass(frozen=True, slots=True)
class Account:
    """The extra time of an incident's requests.

    Attributes:
        incident_traces: number of traces of the incident.
        reference_traces: number of healthy traces, those of a supplement included.
        usual_seconds: mean duration of the healthy traces without a supplement.
        extra_seconds: mean duration of the incident's traces, less ``usual_seconds``.
        mix_seconds: the part of it that comes from other kinds of requests. The rest, ``base_seconds``, is what
            requests of the same kind take longer.
        changes: all components, the largest extra time first; their extra times add up to ``base_seconds``.
        services: all services, the most blamed first; their seconds add up to ``base_seconds``.
        certainty: share of the replicates in which requests of the same kind take longer.
        extra_certainty: share of the replicates in which requests of any kind take longer.
        mix_certainty: share of the replicates in which at least half of the extra time comes from the mix.
    """

    incident_traces: int
    reference_traces: int
    usual_seconds: float
    extra_seconds: float
    mix_seconds: float
    changes: Sequence[ComponentChange]
    services: Sequence[ServiceBlame]
    certainty: float
    extra_certainty: float
    mix_certainty: float

    @property
    def base_seconds(self) -> float:
        """What requests of the same kind take longer, per request."""
        return self.extra_seconds - self.mix_seconds

    def own_factor(self, service_name: str) -> float | None:
        """Return the service's own time per request, now in relation to usual; None without any in usual requests."""
        own = [
            each for each in self.changes if each.component.service_name == service_name and not each.component.callee
        ]
        usual = sum(each.usual_seconds for each in own)
        return sum(each.now_seconds for each in own) / usual if usual > 0 else None


def account_of(
    incident: Sequence[TraceProfile],
    reference: Sequence[TraceProfile],
    seed: str,
    *,
    supplement: Sequence[TraceProfile] = (),
    replicates: int = REPLICATES,
) -> Account:
    """Work out the account of an incident.

    Args:
        incident: traces of the incident, at least one.
        reference: healthy traces of the same endpoint, at least one.
        seed: determines the replicates of the bootstrap.
        supplement: further healthy traces of rare kinds. Requests of the same kind are compared with them, too, but as
            they are no sample of all requests, they have no part in the mean of the healthy traces.
        replicates: number of replicates, at least one.
    """
    healthy = (*reference, *supplement)
    base = [1] * len(reference) + [0] * len(supplement)
    mix = _Mix([each.shape for each in incident], [each.shape for each in healthy], base)
    changes = _changes(incident, healthy, mix)
    plain_seconds = sum(each.duration_ns for each in reference) / len(reference) / _NS
    now = sum(each.now_seconds for each in changes)
    usual = sum(each.usual_seconds for each in changes)
    components = [each.component for each in changes]
    totals = _Totals(incident, components), _Totals(healthy, components)
    blame = _blame(*totals, *_weights(mix, [1] * len(incident), [1] * len(healthy)))
    drawn = _replicates(*totals, mix, seed, replicates)
    return Account(
        incident_traces=len(incident),
        reference_traces=len(healthy),
        usual_seconds=plain_seconds,
        extra_seconds=now - plain_seconds,
        mix_seconds=usual - plain_seconds,
        changes=sorted(changes, key=lambda each: (-each.delta_seconds, each.component)),
        services=_services(blame, [each.blame for each in drawn]),
        certainty=sum(each.extra_seconds > each.mix_seconds for each in drawn) / replicates,
        extra_certainty=sum(each.extra_seconds > 0 for each in drawn) / replicates,
        mix_certainty=sum(0 < each.extra_seconds <= 2 * each.mix_seconds for each in drawn) / replicates,
    )


class _Mix:
    """Weights that give the reference the incident's mix of kinds of requests."""

    def __init__(self, incident: Sequence[Shape], reference: Sequence[Shape], base: Sequence[int]) -> None:
        """Take the kinds of the traces.

        Args:
            incident: kinds of the traces of the incident.
            reference: kinds of the healthy traces.
            base: 1 for each trace of the reference that is part of a sample of all requests; 0 for the others.
        """
        self.base = base
        counts = Counter(reference)
        order = sorted(counts, key=lambda shape: (-counts[shape], sorted(shape)))
        numbers = {shape: number for number, shape in enumerate(order)}
        self._reference = [numbers[shape] for shape in reference]
        nearest = {shape: _nearest(shape, numbers) for shape in {*incident}}
        self._incident = [nearest[shape] for shape in incident]
        self._kinds = len(order)

    def reference_weights(self, incident: Sequence[int], reference: Sequence[int]) -> list[float]:
        """Return the weights of the reference's traces, which sum to 1.

        Args:
            incident: how often each trace of the incident counts.
            reference: how often each trace of the reference counts.
        """
        wanted = [0] * self._kinds
        there = [0] * self._kinds
        for kind, count in zip(self._incident, incident, strict=True):
            if kind is not None:
                wanted[kind] += count
        for kind, count in zip(self._reference, reference, strict=True):
            there[kind] += count
        total = sum(incident)
        sampled = [count * each for count, each in zip(reference, self.base, strict=True)]
        covered = sum(want for want, has in zip(wanted, there, strict=True) if has)
        # Requests of a kind that the reference lacks are compared with all of the sample.
        rest = (total - covered) / sum(sampled)
        per_trace = [want / has if has else 0.0 for want, has in zip(wanted, there, strict=True)]
        return [
            (count * per_trace[kind] + sample * rest) / total
            for kind, count, sample in zip(self._reference, reference, sampled, strict=True)
        ]


def _nearest(shape: Shape, numbers: Mapping[Shape, int]) -> int | None:
    """Return the number of the same shape, or of the most similar one; None if none is similar enough."""
    if shape in numbers:
        return numbers[shape]
    best = max(numbers, key=lambda other: (_likeness(shape, other), -numbers[other]))
    return numbers[best] if _likeness(shape, best) >= _MIN_LIKENESS else None


def _likeness(one: Shape, other: Shape) -> float:
    """Return the Jaccard similarity of two shapes."""
    return len(one & other) / len(one | other) if one or other else 1.0


def _weights(mix: _Mix, incident: Sequence[int], reference: Sequence[int]) -> tuple[list[float], list[float]]:
    total = sum(incident)
    return [count / total for count in incident], mix.reference_weights(incident, reference)


def _dot(weights: Sequence[float], column: Sequence[float]) -> float:
    return float(sum(map(mul, weights, column)))


def _changes(incident: Sequence[TraceProfile], reference: Sequence[TraceProfile], mix: _Mix) -> list[ComponentChange]:
    """Return what every component takes."""
    profiles = (*incident, *reference)
    components = sorted({component for each in profiles for component in each.calls})
    weights = _weights(mix, [1] * len(incident), [1] * len(reference))

    def means(figure: Callable[[TraceProfile], Mapping[Component, float]]) -> tuple[dict[Component, float], ...]:
        return tuple(
            _weighted_sums(part, map(figure, traces))
            for part, traces in zip(weights, (incident, reference), strict=True)
        )

    now_ns, usual_ns = means(lambda each: each.self_ns)
    now_calls, usual_calls = means(lambda each: each.path_calls)
    all_now, all_usual = means(lambda each: {name: len(calls.durations_ns) for name, calls in each.calls.items()})
    return [
        ComponentChange(
            component,
            usual_seconds=usual_ns.get(component, 0.0) / _NS,
            now_seconds=now_ns.get(component, 0.0) / _NS,
            usual_calls=usual_calls.get(component, 0.0),
            now_calls=now_calls.get(component, 0.0),
            all_usual_calls=all_usual.get(component, 0.0),
            all_now_calls=all_now.get(component, 0.0),
        )
        for component in components
    ]


def _weighted_sums(weights: Iterable[float], figures: Iterable[Mapping[Component, float]]) -> dict[Component, float]:
    sums: dict[Component, float] = {}
    for weight, each in zip(weights, figures, strict=True):
        for component, value in each.items():
            sums[component] = sums.get(component, 0.0) + weight * value
    return sums


class _Edge(NamedTuple):
    """The calls of one service to another."""

    caller: str
    callee: str


class _Totals:
    """Figures of a set of traces, one column each, so that a replicate costs a few products of vectors.

    Attributes:
        own: time in seconds by service, without calls to other services.
        times: time in seconds by edge.
        calls: number of calls by edge.
        durations: duration of the root in seconds.
    """

    def __init__(self, traces: Sequence[TraceProfile], components: Iterable[Component]) -> None:
        size = len(traces)
        self.durations = [each.duration_ns / _NS for each in traces]
        self.own: dict[str, list[float]] = {}
        self.times: dict[_Edge, list[float]] = {}
        self.calls: dict[_Edge, list[float]] = {}
        for component in components:
            if component.callee:
                edge = _Edge(component.service_name, component.callee)
                self.times.setdefault(edge, [0.0] * size)
                self.calls.setdefault(edge, [0.0] * size)
            else:
                self.own.setdefault(component.service_name, [0.0] * size)
        for row, trace in enumerate(traces):
            for component, nanoseconds in trace.self_ns.items():
                if component.callee:
                    edge = _Edge(component.service_name, component.callee)
                    self.times[edge][row] += nanoseconds / _NS
                    self.calls[edge][row] += trace.path_calls[component]
                else:
                    self.own[component.service_name][row] += nanoseconds / _NS


class _Gap(NamedTuple):
    """What passes between two services, per request.

    Attributes:
        seconds: extra time.
        growth_seconds: extra time per call; 0 where either set has no calls.
        is_known: whether both sets have calls.
    """

    seconds: float
    growth_seconds: float
    is_known: bool


def _blame(
    incident: _Totals, reference: _Totals, incident_weights: Sequence[float], reference_weights: Sequence[float]
) -> dict[str, float]:
    """Return the extra time in seconds per request that belongs to each service.

    A component without callee belongs to its service. The gap of a call belongs to the callee, unless the caller's
    other calls grew like it and the callee's other calls did not.
    """
    blame = {
        service: _dot(incident_weights, column) - _dot(reference_weights, reference.own[service])
        for service, column in incident.own.items()
    }
    gaps: dict[_Edge, _Gap] = {}
    for edge, column in incident.times.items():
        now, usual = _dot(incident_weights, column), _dot(reference_weights, reference.times[edge])
        now_calls = _dot(incident_weights, incident.calls[edge])
        usual_calls = _dot(reference_weights, reference.calls[edge])
        is_known = now_calls > 0 and usual_calls > 0
        growth = now / now_calls - usual / usual_calls if is_known else 0.0
        gaps[edge] = _Gap(now - usual, growth, is_known)
    for edge, gap in gaps.items():
        part = _caller_part(edge, gap, gaps)
        blame[edge.caller] = blame.get(edge.caller, 0.0) + part * gap.seconds
        blame[edge.callee] = blame.get(edge.callee, 0.0) + (1 - part) * gap.seconds
    return blame


def _caller_part(edge: _Edge, gap: _Gap, gaps: Mapping[_Edge, _Gap]) -> float:
    """Return the part of a gap that belongs to the caller."""
    if gap.seconds <= 0:
        return 0.0
    caller = _alike(edge.caller, edge, gap, gaps)
    if caller is None or caller <= _CALLER_ALIKE:
        return 0.0
    callee = _alike(edge.callee, edge, gap, gaps)
    if callee is None:
        callee = _CALLEE_ALIKE_UNKNOWN
    return caller / (caller + callee) if caller > callee else 0.0


def _alike(service: str, edge: _Edge, gap: _Gap, gaps: Mapping[_Edge, _Gap]) -> float | None:
    """Return how much the other calls of a service grew in relation to a gap, 0 to 1; None without other calls."""
    ignored = (edge, _Edge(edge.callee, edge.caller))
    grown = [
        other.growth_seconds
        for name, other in gaps.items()
        if service in name and name not in ignored and other.is_known
    ]
    if not grown:
        return None
    if gap.growth_seconds <= 0:
        # The gap grew by more calls only; any growth of others is at least as much.
        return sum(each > 0 for each in grown) / len(grown)
    return sum(min(1.0, max(0.0, each / gap.growth_seconds)) for each in grown) / len(grown)


class _Replicate(NamedTuple):
    """The account of traces that were drawn again; see :class:`Account`."""

    blame: dict[str, float]
    extra_seconds: float
    mix_seconds: float


def _replicates(incident: _Totals, reference: _Totals, mix: _Mix, seed: str, count: int) -> list[_Replicate]:
    """Return the replicates of the bootstrap: traces are drawn again within each set."""
    replicates = []
    sampled = sum(mix.base)
    sizes = len(incident.durations), sampled, len(mix.base) - sampled
    for number in range(count):
        now, usual, added = (_drawn(f"{seed}/{number}/{side}", size) for side, size in enumerate(sizes))
        now_weights, usual_weights = _weights(mix, now, usual + added)
        plain_seconds = _dot(usual, reference.durations[:sampled]) / sampled
        replicates.append(
            _Replicate(
                _blame(incident, reference, now_weights, usual_weights),
                _dot(now_weights, incident.durations) - plain_seconds,
                _dot(usual_weights, reference.durations) - plain_seconds,
            )
        )
    return replicates


def _drawn(seed: str, size: int) -> list[int]:
    """Return how often each of ``size`` traces is drawn in a replicate."""
    counts = [0] * size
    for each in uniform(seed, size):
        counts[int(each * size)] += 1
    return counts


def _services(blame: Mapping[str, float], replicates: Sequence[Mapping[str, float]]) -> list[ServiceBlame]:
    base = sum(blame.values())
    whole = max(base, sum(max(0.0, each) for each in blame.values()))
    firsts = Counter(min(each, key=lambda service: (-each[service], service)) for each in replicates)
    positive = [sum(max(0.0, seconds) for seconds in each.values()) for each in replicates]
    services = [
        ServiceBlame(
            service,
            seconds,
            share=min(1.0, max(0.0, seconds) / whole) if whole > 0 else 0.0,
            bound=_low(
                each[service] / total if total > 0 else 0.0 for each, total in zip(replicates, positive, strict=True)
            ),
            stability=firsts[service] / len(replicates),
        )
        for service, seconds in blame.items()
    ]
    return sorted(services, key=lambda each: (-each.seconds, each.service_name))


def _low(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[int(_BOUND_QUANTILE * (len(ordered) - 1))]
