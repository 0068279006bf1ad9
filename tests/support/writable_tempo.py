"""An embedded Tempo that serves what its OTLP receiver has received."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from exporter.demo.routes import ApiOptions
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ORPHAN, ROOT, Operation, SpanTimes, Trace, TraceShape, TraceStore, make_trace
from tests.support.otlp_receiver import OtlpReceiver, ReceivedSpan

Change = Callable[[Sequence[ReceivedSpan]], Sequence[ReceivedSpan]]


def unchanged(spans: Sequence[ReceivedSpan]) -> Sequence[ReceivedSpan]:
    """Store what was received."""
    return spans


class ReceivedTraces:
    """Traces of the spans that a receiver has received, as a source for the embedded Tempo."""

    def __init__(self, receiver: OtlpReceiver, change: Change) -> None:
        self._receiver = receiver
        self._change = change

    def overlapping(self, start_ns: int, end_ns: int) -> Sequence[Trace]:
        return self._store().overlapping(start_ns, end_ns)

    def find(self, trace_id: int) -> Trace | None:
        return self._store().find(trace_id)

    def _store(self) -> TraceStore:
        traces: dict[int, list[ReceivedSpan]] = defaultdict(list)
        for span in self._change(list(self._receiver.spans)):
            traces[span.trace_id].append(span)
        return TraceStore(_trace(trace_id, spans) for trace_id, spans in traces.items())


def _trace(trace_id: int, received: Sequence[ReceivedSpan]) -> Trace:
    spans = sorted(received, key=lambda span: (span.parent_id is not None, span.start_ns))
    positions = {span.span_id: position for position, span in enumerate(spans)}
    shape = TraceShape(
        tuple(
            Operation(
                str(span.resource["service.name"]),
                span.name,
                span.kind,  # type: ignore[arg-type]
                resource=tuple((key, str(value)) for key, value in span.resource.items() if key != "service.name"),
            )
            for span in spans
        ),
        tuple(ROOT if span.parent_id is None else positions.get(span.parent_id, ORPHAN) for span in spans),
    )
    return make_trace(
        trace_id, shape, [SpanTimes(span.span_id, span.start_ns, span.end_ns - span.start_ns) for span in spans]
    )


@dataclass(frozen=True)
class WritableTempo:
    """Addresses of a Tempo.

    Attributes:
        url: of its API.
        otlp_url: of its receiver.
        receiver: what it has received.
    """

    url: str
    otlp_url: str
    receiver: OtlpReceiver


@contextmanager
def writable_tempo(
    clock: Callable[[], float], options: ApiOptions | None = None, change: Change = unchanged
) -> Iterator[WritableTempo]:
    """Serve until the block ends; what is received is stored as a function changes it."""
    with OtlpReceiver() as receiver, TempoServer(ReceivedTraces(receiver, change), options, clock=clock) as server:
        yield WritableTempo(server.url, receiver.url, receiver)
