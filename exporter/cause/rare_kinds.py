"""Kinds of requests that became frequent and of which the healthy traces that were chosen have few or none.

What such requests wait for looks new, although healthy requests of that kind wait for it, too. With healthy traces of
that kind, requests are compared with those of the same kind, and the rest is another mix.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from exporter.cause.profile import Shape, TraceProfile

FEW: Final = 5
"""With fewer healthy traces of a kind, more are wanted."""
MAX_KINDS: Final = 2
MAX_TRACES: Final = 15
"""Healthy traces that are wanted of all rare kinds together."""
_MIN_EXTRA: Final = 0.2
"""Least share of the extra time that requests of such a kind have."""
_MIN_TRACES: Final = 2
_MAX_OPERATIONS: Final = 4
"""Kinds of more operations are not told apart by all of them together."""


@dataclass(frozen=True, slots=True)
class RareKind:
    """A kind of requests that the chosen healthy traces lack.

    Attributes:
        operations: names of services and spans; requests that contain all of them are of that kind.
        trace_ids: traces of the incident that are of that kind.
    """

    operations: Sequence[tuple[str, str]]
    trace_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class KindTraces:
    """What is known of a rare kind from further healthy traces.

    Attributes:
        kind: the kind.
        profiles: healthy traces of that kind by id.
        usual_share: share of the healthy requests that are of that kind; None if unknown.
        now_share: the same of the incident.
    """

    kind: RareKind
    profiles: Mapping[str, TraceProfile]
    usual_share: float | None = None
    now_share: float | None = None

    @property
    def is_more_frequent(self) -> bool:
        """Whether the incident is known to have more requests of that kind."""
        return self.now_share is not None and self.usual_share is not None and self.now_share > self.usual_share


def rare_kinds(incident: Sequence[TraceProfile], reference: Sequence[TraceProfile]) -> list[RareKind]:
    """Return the kinds that the reference lacks and that hold a part of the extra time; those that hold most first.

    One operation identifies a kind, or several that one request calls. The search does not find kinds that differ only
    in what they do not call.

    Args:
        incident: traces of the incident.
        reference: healthy traces, at least one.
    """
    usual_ns = sum(each.duration_ns for each in reference) / len(reference)
    extra_ns = sum(each.duration_ns - usual_ns for each in incident)
    pending = list(incident)
    kinds: list[RareKind] = []
    while len(kinds) < MAX_KINDS:
        best: tuple[float, int, list[tuple[str, str]]] | None = None
        for operations in _distinctions(each.shape for each in pending):
            having = _having(operations, pending)
            held_ns = sum(each.duration_ns - usual_ns for each in having)
            if len(having) < _MIN_TRACES or held_ns <= 0 or held_ns < _MIN_EXTRA * extra_ns:
                continue
            # More of the chosen healthy traces are of that kind: it is not what differs.
            if len(_having(operations, reference)) >= min(FEW, len(having)):
                continue
            rank = (-held_ns, len(operations), sorted(operations))
            best = rank if best is None else min(best, rank)
        if best is None:
            break
        chosen = frozenset(best[2])
        kinds.append(RareKind(best[2], [each.trace_id for each in _having(chosen, pending)]))
        pending = [each for each in pending if not chosen <= each.shape]
    return kinds


def _distinctions(shapes: Iterable[Shape]) -> set[Shape]:
    """Return the sets of operations that may tell a kind apart: each single one, and those of a request together."""
    found: set[Shape] = set()
    for shape in {*shapes}:
        found |= {frozenset({operation}) for operation in shape}
        if 1 < len(shape) <= _MAX_OPERATIONS:
            found.add(shape)
    return found


def _having(operations: Shape, traces: Sequence[TraceProfile]) -> list[TraceProfile]:
    return [each for each in traces if operations <= each.shape]
