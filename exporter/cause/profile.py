"""Takes one trace apart: how long its root waited for which component."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from exporter.model.critical_path import CriticalPath, TraceSpan

_CALLEE_KIND: Final = {"client": "server", "producer": "consumer"}
"""The kind of the span at the other end of a call."""


class Component(NamedTuple):
    """What a request waits for: the spans of one operation.

    Attributes:
        service_name: service of the spans.
        span_name: name of the spans.
        kind: kind of the spans, see :class:`exporter.model.critical_path.TraceSpan`.
        callee: service that the spans call; empty if that is not traced, as a database, or if they are no calls. The
            time of a component with a callee passes between both sides: network, proxy, connection pool, a queue in
            front of the callee, serialisation.
    """

    service_name: str
    span_name: str
    kind: str
    callee: str = ""


class Calls(NamedTuple):
    """The spans of one component in one trace, on the critical path or not.

    Attributes:
        durations_ns: duration of each, in nanoseconds.
        failed_ns: duration of each that failed, in nanoseconds.
        attributes: the values that the spans have of each attribute.
    """

    durations_ns: tuple[int, ...]
    failed_ns: tuple[int, ...]
    attributes: Mapping[str, frozenset[str]]


Shape = frozenset[tuple[str, str]]
"""The kind of a request: names of services and spans, see :func:`shape_of`."""


@dataclass(frozen=True, slots=True)
class TraceProfile:
    """One trace, taken apart.

    Attributes:
        trace_id: 32 hex digits.
        duration_ns: duration of the root, in nanoseconds; the sum of ``self_ns``.
        self_ns: time on the critical path by component, in nanoseconds.
        path_calls: number of spans on the critical path by component.
        calls: all spans by component.
        shape: kind of the request.
        root: the component of the root.
    """

    trace_id: str
    duration_ns: int
    self_ns: Mapping[Component, int]
    path_calls: Mapping[Component, int]
    calls: Mapping[Component, Calls]
    shape: Shape
    root: Component


def profile_of(trace_id: str, path: CriticalPath) -> TraceProfile:
    """Take a trace apart.

    Args:
        trace_id: 32 hex digits.
        path: its critical path.
    """
    callees = _callees(path.parents)
    spans = (path.root, *path.parents)
    components = {span: _component(span, callees.get(span, "")) for span in spans}
    self_ns: dict[Component, int] = {}
    path_calls: dict[Component, int] = {}
    for step in path.steps:
        component = components[step.span]
        self_ns[component] = self_ns.get(component, 0) + step.self_ns
        path_calls[component] = path_calls.get(component, 0) + 1
    members: dict[Component, list[TraceSpan]] = {}
    for span, component in components.items():
        members.setdefault(component, []).append(span)
    return TraceProfile(
        trace_id=trace_id,
        duration_ns=path.root.duration_ns,
        self_ns=self_ns,
        path_calls=path_calls,
        calls={component: _calls(each) for component, each in members.items()},
        shape=shape_of(path),
        root=components[path.root],
    )


def shape_of(path: CriticalPath) -> Shape:
    """Return the kind of a request: what the root's service calls of other services, or else the root's children."""
    service = path.root.service_name
    called = {
        (span.service_name, span.name)
        for span, parent in path.parents.items()
        if span.kind == "server" and parent.service_name == service
    }
    if called:
        return frozenset(called)
    return frozenset((span.service_name, span.name) for span, parent in path.parents.items() if parent == path.root)


def _component(span: TraceSpan, callee: str) -> Component:
    return Component(span.service_name, span.name, span.kind, callee)


def _callees(parents: Mapping[TraceSpan, TraceSpan]) -> dict[TraceSpan, str]:
    """Return the service at the other end of each call; of several the first in order, so that the result is unique."""
    callees: dict[TraceSpan, str] = {}
    for span, parent in parents.items():
        if _CALLEE_KIND.get(parent.kind) == span.kind:
            known = callees.get(parent)
            callees[parent] = span.service_name if known is None else min(known, span.service_name)
    return callees


def _calls(spans: Iterable[TraceSpan]) -> Calls:
    durations: list[int] = []
    failed: list[int] = []
    attributes: dict[str, set[str]] = {}
    for span in spans:
        durations.append(span.duration_ns)
        if span.error:
            failed.append(span.duration_ns)
        for name, value in span.attributes:
            attributes.setdefault(name, set()).add(value)
    values = {name: frozenset(each) for name, each in attributes.items()}
    return Calls(tuple(sorted(durations)), tuple(sorted(failed)), values)
