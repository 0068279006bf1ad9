"""Synthetic traces for the tests of causes: a root that calls services, which call others, in sequence."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from exporter.cause.profile import TraceProfile, profile_of
from exporter.model.critical_path import TraceSpan, critical_path

MS = 1_000_000
T0_NS = 1_795_000_000_000_000_000


@dataclass(frozen=True)
class Work:
    """One operation of a service, as one server span, and what it calls in sequence, each through a client span.

    Attributes:
        service: the service.
        name: the span name.
        own_ms: its own time.
        calls: what it calls.
        gap_ms: time of its client span that passes outside the callee.
        fails: whether its span, and the client span above it, fail.
        attributes: attributes of the span.
        kind: ``server``; ``client`` for a call of something that is not traced, which has no spans below.
    """

    service: str
    name: str
    own_ms: float = 10
    calls: Sequence["Work"] = ()
    gap_ms: float = 1
    fails: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)
    kind: str = "server"

    @property
    def ms(self) -> float:
        return self.own_ms + sum(each.ms + (each.gap_ms if each.kind == "server" else 0) for each in self.calls)


def spans_of(work: Work, start_ns: int = T0_NS) -> list[TraceSpan]:
    ids = map(str, count(1))
    return list(_spans(work, "", start_ns, ids))


def _spans(work: Work, parent_id: str, start_ns: int, ids: Iterator[str]) -> Iterator[TraceSpan]:
    span_id = next(ids)
    attributes = tuple(sorted(work.attributes.items()))
    yield TraceSpan(
        span_id, parent_id, work.service, work.name, work.kind, start_ns, round(work.ms * MS), work.fails, attributes
    )
    at = start_ns + round(work.own_ms / 2 * MS)
    for call in work.calls:
        if call.kind != "server":
            yield from _spans(call, span_id, at, ids)
            at += round(call.ms * MS)
            continue
        client_id = next(ids)
        length = round((call.ms + call.gap_ms) * MS)
        yield TraceSpan(client_id, span_id, work.service, f"call {call.name}", "client", at, length, call.fails)
        yield from _spans(call, client_id, at + round(call.gap_ms / 2 * MS), ids)
        at += length


def profile(work: Work, trace_id: str = "0" * 32) -> TraceProfile:
    path = critical_path(spans_of(work))
    assert path is not None
    return profile_of(trace_id, path)


def shop(
    *,
    charge_ms: float = 20,
    charge_gap_ms: float = 1,
    insert_ms: float = 5,
    inserts: int = 1,
    cart_ms: float = 8,
    cart_gap_ms: float = 1,
    checkout_ms: float = 10,
    fails: bool = False,
    retries: int = 0,
    pod: str = "payments-1",
    version: str = "1",
) -> Work:
    """A checkout: it calls the cart, then payments, which inserts into a database."""
    insert = Work("payments", "INSERT charges", insert_ms, kind="client", fails=fails)
    charge = Work(
        "payments",
        "POST /charge",
        charge_ms,
        [insert] * inserts,
        charge_gap_ms,
        attributes={"k8s.pod.name": pod, "service.version": version},
    )
    failed = Work("payments", "POST /charge", 2, fails=True, attributes={"k8s.pod.name": pod})
    cart = Work("cart", "GET /cart", cart_ms, gap_ms=cart_gap_ms)
    return Work("checkout", "POST /pay", checkout_ms, [cart, *[failed] * retries, charge])
