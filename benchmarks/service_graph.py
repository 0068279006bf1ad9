"""Service graphs of shops, and the traces of their endpoints with and without faults.

Every trace is generated from a seed, so that it need not be kept. Times of one request vary independently.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from exporter.model.critical_path import TraceSpan
from exporter.model.span import SeriesKey

FaultKind = Literal["slow_query", "slow_instance", "slow_network", "more_calls", "busy"]
"""A slow database of a service, one of its instances that is slow, a slow network between two services, many database
calls instead of one, or a service that computes longer."""

_INSTANCES: Final = 3
_SIGMA: Final = 0.35
_GAP_MS: Final = 1.0
_MS: Final = 1_000_000
_T0_NS: Final = 1_795_000_000_000_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """An operation of a service: its own work, its database calls, then calls to other operations, in sequence.

    Attributes:
        key: service and name.
        own_ms: its own time.
        query_ms: time of each of its database calls.
        queries: their number.
        calls: the operations it calls.
    """

    key: SeriesKey
    own_ms: float
    query_ms: float = 0.0
    queries: int = 0
    calls: tuple["Operation", ...] = ()

    def below(self) -> Iterator["Operation"]:
        """Yield the operation and all that its requests pass, as often as they pass them."""
        yield self
        for call in self.calls:
            yield from call.below()


@dataclass(frozen=True, slots=True)
class GraphFault:
    """A fault.

    Attributes:
        kind: what is wrong.
        service_name: the service at fault; of a slow network the called one.
        strength: factor of the affected time; extra milliseconds of a slow network; number of calls instead of one.
        caller: the calling service of a slow network; else empty.
    """

    kind: FaultKind
    service_name: str
    strength: float
    caller: str = ""

    @property
    def right_services(self) -> tuple[str, ...]:
        """The services that may be named: of a slow network either end."""
        return (self.service_name, self.caller) if self.caller else (self.service_name,)

    def extra_ms(self, operation: Operation) -> float:
        """Return how much longer the requests of an operation take on average."""
        return sum(self._extra_ms(each) for each in operation.below())

    def _extra_ms(self, operation: Operation) -> float:
        is_mine = operation.key.service_name == self.service_name
        if self.kind == "slow_network":
            called = sum(call.key.service_name == self.service_name for call in operation.calls)
            return self.strength * called if operation.key.service_name == self.caller else 0.0
        if not is_mine:
            return 0.0
        if self.kind == "busy":
            return operation.own_ms * (self.strength - 1)
        if self.kind == "slow_instance":
            return operation.own_ms * (self.strength - 1) / _INSTANCES
        return operation.query_ms * operation.queries * (self.strength - 1)


@dataclass(frozen=True, slots=True)
class GeneratedTrace:
    """A trace of an endpoint; its spans are generated when they are asked for.

    Attributes:
        operation: the endpoint.
        faults: what is wrong meanwhile.
        seed: of its random numbers.
        duration_ns: duration of its root, in nanoseconds.
    """

    operation: Operation
    faults: tuple[GraphFault, ...]
    seed: str
    duration_ns: int

    @property
    def spans(self) -> Sequence[TraceSpan]:
        """Its spans, the root first."""
        return _spans(self.operation, self.faults, self.seed)


def generated(operation: Operation, faults: tuple[GraphFault, ...], seed: str) -> GeneratedTrace:
    """Return a trace of an operation."""
    return GeneratedTrace(operation, faults, seed, _spans(operation, faults, seed)[0].duration_ns)


class _Writer:
    def __init__(self, faults: Sequence[GraphFault], seed: str) -> None:
        self.spans: list[TraceSpan] = []
        self._faults = faults
        self._rng = random.Random(seed)
        # Requests vary as a whole, too.
        self._pace = self._noise()

    def _noise(self) -> float:
        return math.exp(self._rng.gauss(0.0, _SIGMA))

    def _factor(self, kind: FaultKind, service_name: str) -> float:
        return math.prod(
            each.strength for each in self._faults if each.kind == kind and each.service_name == service_name
        )

    def server(self, operation: Operation, parent_id: str, start_ns: int) -> int:
        """Write the span of an operation and all below it; return its end."""
        service_name, name = operation.key[:2]
        index = len(self.spans)
        instance = self._rng.randrange(_INSTANCES)
        attributes = (("resource.k8s.pod.name", f"{service_name}-{instance}"),)
        self.spans.append(TraceSpan(str(index), parent_id, service_name, name, "server", start_ns, 0))
        own_ms = operation.own_ms * self._noise() * self._pace * self._factor("busy", service_name)
        if instance == 0:
            own_ms *= self._factor("slow_instance", service_name)
        at = start_ns + round(own_ms / 2 * _MS)
        queries = round(operation.queries * self._factor("more_calls", service_name))
        for _ in range(queries):
            took = round(operation.query_ms * self._noise() * self._factor("slow_query", service_name) * _MS)
            query = f"SELECT {service_name}"
            self.spans.append(
                TraceSpan(str(len(self.spans)), str(index), service_name, query, "client", at, took, False, attributes)
            )
            at += took
        for call in operation.calls:
            at = self._client(call, service_name, str(index), at)
        end = at + round(own_ms / 2 * _MS)
        self.spans[index] = self.spans[index]._replace(duration_ns=end - start_ns, attributes=attributes)
        return end

    def _client(self, call: Operation, caller: str, parent_id: str, start_ns: int) -> int:
        slow_ms = sum(
            each.strength * self._noise()
            for each in self._faults
            if each.kind == "slow_network" and (each.caller, each.service_name) == (caller, call.key.service_name)
        )
        half = round((_GAP_MS * self._noise() + slow_ms) / 2 * _MS)
        index = len(self.spans)
        self.spans.append(TraceSpan(str(index), parent_id, caller, call.key.span_name, "client", start_ns, 0))
        end = self.server(call, str(index), start_ns + half) + half
        self.spans[index] = self.spans[index]._replace(duration_ns=end - start_ns)
        return end


def _spans(operation: Operation, faults: tuple[GraphFault, ...], seed: str) -> list[TraceSpan]:
    writer = _Writer(faults, seed)
    writer.server(operation, "", _T0_NS)
    return writer.spans


@dataclass(frozen=True, slots=True)
class ServiceGraph:
    """A system of services.

    Attributes:
        name: what it is.
        operations: all operations; requests to each are an endpoint.
        entries: those that users call.
    """

    name: str
    operations: tuple[Operation, ...]
    entries: tuple[Operation, ...]

    @property
    def services(self) -> list[str]:
        """The names of the services."""
        return sorted({each.key.service_name for each in self.operations})

    @property
    def hub(self) -> str:
        """The service, other than those that users call, that the requests of most endpoints pass."""
        entries = {each.key.service_name for each in self.entries}
        inner = [each for each in self.services if each not in entries]
        return max(inner, key=lambda each: (len(self.users_of(each)), each))

    def users_of(self, service_name: str) -> set[SeriesKey]:
        """Return the endpoints whose requests pass a service."""
        return {
            each.key
            for each in self.operations
            if any(below.key.service_name == service_name for below in each.below())
        }

    def rate_per_minute(self, operation: Operation, per_entry: float) -> float:
        """Return the requests of an operation per minute, if each entry has ``per_entry``."""
        return per_entry * sum(sum(below is operation for below in entry.below()) for entry in self.entries)


def train_ticket(seed: str) -> ServiceGraph:
    """Return a graph of the size of TrainTicket: about 40 services in four layers, tens of endpoints."""
    rng = random.Random(seed)
    base = _layer(rng, "store", 13, lambda _: ())
    hub = base[:2]

    def middle_calls(number: int) -> tuple[Operation, ...]:
        # Every second operation calls the hub, the others call none of it.
        first = hub[number // 2 % 2] if number % 2 else rng.choice(base[2:])
        return (first, rng.choice(base[2:])) if number % 3 else (first,)

    middle = _layer(rng, "core", 14, middle_calls)
    front = _layer(rng, "app", 12, lambda _: tuple(rng.sample(middle, rng.choice((2, 3)))))
    gateway = tuple(
        Operation(SeriesKey("gateway", f"GET /route{number}"), 3.0, calls=(each,)) for number, each in enumerate(front)
    )
    return _graph("TrainTicket-like", (*gateway, *front, *middle, *base), gateway)


def pet_shop() -> ServiceGraph:
    """Return a graph like that of PetShop: 10 services, 16 endpoints."""

    def operation(service: str, name: str, own_ms: float, query_ms: float = 0.0, *calls: Operation) -> Operation:
        return Operation(SeriesKey(service, name), own_ms, query_ms, 1 if query_ms else 0, calls)

    info = operation("pet-info", "Info/Get", 4, 6)
    price = operation("pricing", "Price/Get", 3, 5)
    stock = operation("stock", "Stock/Get", 4, 7)
    profile = operation("users", "Users/Get", 3, 5)
    search = operation("search", "GET /search", 9, 8, info, price)
    details = operation("search", "GET /pet", 6, 0, info, stock)
    listing = operation("adoption-list", "GET /adoptions", 8, 12, details, profile)
    charge = operation("payments", "POST /charge", 12, 10)
    refund = operation("payments", "POST /refund", 9, 10)
    adopt = operation("adoption", "POST /adopt", 10, 9, stock, charge)
    cancel = operation("adoption", "POST /cancel", 8, 9, refund)
    entries = (
        operation("site", "GET /", 6, 0, search),
        operation("site", "GET /pet", 5, 0, details),
        operation("site", "GET /adoptions", 6, 0, listing),
        operation("site", "POST /adopt", 7, 0, profile, adopt),
        operation("site", "POST /cancel", 6, 0, profile, cancel),
    )
    notify = operation("notify", "POST /notify", 5, 4, profile)
    operations = (*entries, search, details, listing, charge, refund, adopt, cancel, info, price, stock, profile)
    return _graph("PetShop-like", (*operations, notify), (*entries, notify))


def _layer(
    rng: random.Random, name: str, services: int, calls: Callable[[int], tuple[Operation, ...]]
) -> tuple[Operation, ...]:
    found = []
    for number in range(2 * services):
        key = SeriesKey(f"{name}-{number // 2:02}", f"Do{number % 2}")
        # Front ends ask others, the rest has databases.
        queries = 0 if name == "app" else 1
        found.append(Operation(key, rng.uniform(3, 10), rng.uniform(4, 12), queries, calls(number)))
    return tuple(found)


def _graph(name: str, operations: tuple[Operation, ...], entries: tuple[Operation, ...]) -> ServiceGraph:
    called = {below.key for each in entries for below in each.below()}
    return ServiceGraph(name, tuple(each for each in operations if each.key in called), entries)
