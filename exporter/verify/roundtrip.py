"""Writes known traces into Tempo, and checks that reading them finds each span once and unchanged.

They are read as the exporter reads: current traffic by the reader of the live edge, history window by window by the
exact reader. What usually goes wrong is among them: spans on the edge of a window, spans of zero length, ids with
leading zeros, names with quotes, several spans of one service in a trace, and root spans that arrive long after their
children, so that Tempo stores the parts of a trace in several blocks.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Final, NamedTuple

from exporter.ingest.exact_reader import Budget, ExactReader
from exporter.ingest.live_reader import LiveReader
from exporter.ingest.probes import VERIFY_SERVICE
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import Telemetry
from exporter.tempo import Scope, TempoClient, TempoError, quoted
from exporter.tempo.http_endpoint import SendError
from exporter.tempo.otlp import OtlpSender
from exporter.verify.checks import CheckResult, Outcome

TRACES: Final = 100
LATE_SECONDS: Final = 15.0
"""How long after their children some root spans are written; Tempo closes its part of a trace after 5 to 10 s."""

_NS: Final = 1_000_000_000
_SPREAD_SECONDS: Final = 8
_LONGEST_SECONDS: Final = 2.0
_WINDOW_SECONDS: Final = 5
_PAUSE_SECONDS: Final = 1.0
_BUDGET: Final = Budget(100 * TRACES, 50)
_RUN_ATTRIBUTE: Final = "verify.run"
_SERVER: Final = 2
"""Numbers of span kinds in OTLP."""
_CONSUMER: Final = 5
_NAMES: Final = ("GET /verify", 'POST /verify "quoted"', "verify größe", "GET /verify/a'b\\c")
_CALLED: Final = "verify queue"


class WrittenSpan(NamedTuple):
    """A span to be written.

    Attributes:
        span: what reading it has to find.
        parent_id: id of the parent; empty for a root span.
        kind: number of the kind in OTLP.
        is_late: whether it is written after the others.
    """

    span: Span
    parent_id: str
    kind: int
    is_late: bool = False


def known_spans(now: float, rng: random.Random, traces: int = TRACES) -> list[WrittenSpan]:
    """Return the spans of some traces that ended within the last seconds."""
    first_ns = (int(now) - _SPREAD_SECONDS - math.ceil(_LONGEST_SECONDS)) * _NS
    written: list[WrittenSpan] = []
    for number in range(traces):
        # Tempo strips leading zeros.
        trace_id = f"{rng.getrandbits(64 if number % 5 == 0 else 128) | 1:032x}"
        root_id, child_id = (f"{rng.getrandbits(64) | 1:016x}" for _ in range(2))
        start_ns = first_ns + number * _SPREAD_SECONDS * _NS // traces
        duration_ns = rng.randrange(1, int(_LONGEST_SECONDS * _NS))
        match number % 10:
            case 1:
                start_ns -= start_ns % (_WINDOW_SECONDS * _NS if number % 20 == 1 else _NS)
            case 2:
                duration_ns = 0
        has_child, is_late = number % 10 in (3, 4), number % 10 == 4
        key = SeriesKey(VERIFY_SERVICE, _NAMES[number % len(_NAMES)])
        written.append(WrittenSpan(Span(trace_id, root_id, key, start_ns, duration_ns), "", _SERVER, is_late))
        if has_child:
            called = SeriesKey(VERIFY_SERVICE, _CALLED)
            child = Span(trace_id, child_id, called, start_ns + duration_ns // 4, duration_ns // 2)
            written.append(WrittenSpan(child, root_id, _CONSUMER))
    return written


def encode(spans: Iterable[WrittenSpan], run: str) -> bytes:
    """Return the body of an OTLP request with spans of one run."""

    def attribute(key: str, value: str) -> Mapping[str, object]:
        return {"key": key, "value": {"stringValue": value}}

    encoded = [
        {
            "traceId": each.span.trace_id,
            "spanId": each.span.span_id,
            "parentSpanId": each.parent_id,
            "name": each.span.key.span_name,
            "kind": each.kind,
            "startTimeUnixNano": str(each.span.start_ns),
            "endTimeUnixNano": str(each.span.end_ns),
            "attributes": [],
        }
        for each in spans
    ]
    resource = {"attributes": [attribute("service.name", VERIFY_SERVICE), attribute(_RUN_ATTRIBUTE, run)]}
    group = {"resource": resource, "scopeSpans": [{"scope": {"name": "tempo-anomaly-exporter"}, "spans": encoded}]}
    return json.dumps({"resourceSpans": [group]}).encode()


def run_filter(run: str) -> str:
    """Return the TraceQL conditions that only spans of one run meet; for ``tempo.filter``."""
    return f"resource.service.name={quoted(VERIFY_SERVICE)} && resource.{_RUN_ATTRIBUTE}={quoted(run)}"


@dataclass(frozen=True, slots=True)
class RoundTripSettings:
    """How to check a Tempo.

    Attributes:
        run: identifies the spans of this run.
        scope: which spans are read.
        lookback_seconds: how far back current traffic is read, `polling.tempo_lookback`.
        timeout_seconds: how long all of it may take; a request that has begun is finished.
        seed: seed of ids and durations.
    """

    run: str
    scope: Scope
    lookback_seconds: float
    timeout_seconds: float
    seed: int


class _TimeoutError(Exception):
    """The time is over before Tempo has answered; the message is that of the last failure."""


@dataclass(slots=True)
class _Found:
    """What the windows of history hold.

    Attributes:
        spans: the spans found, by trace and span id.
        reads: how often the windows were read.
        returned_twice: spans that Tempo returned more than once in one response.
    """

    spans: dict[tuple[str, str], list[Span]] = field(default_factory=dict)
    reads: int = 0
    returned_twice: int = 0


class RoundTrip:
    """Writes traces, reads them, and compares; for one use."""

    def __init__(
        self,
        client: TempoClient,
        sender: OtlpSender,
        telemetry: Telemetry,
        settings: RoundTripSettings,
        *,
        wait: Callable[[float], object],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """Prepare to check.

        Args:
            client: reads from Tempo what :func:`run_filter` selects.
            sender: writes to Tempo.
            telemetry: counts requests.
            settings: how to check.
            wait: sleeps for some seconds.
            clock: Unix seconds.
            monotonic: seconds that never jump.
        """
        self._client = client
        self._sender = sender
        self._settings = settings
        self._wait = wait
        self._clock = clock
        self._monotonic = monotonic
        self._live = LiveReader(client, telemetry, _BUDGET, poll_seconds=120, hold_seconds=300)
        self._exact = ExactReader(client, telemetry, "backfill")
        self._began = monotonic()
        self._written = known_spans(clock(), random.Random(settings.seed))
        # Scope `root` does not read the others.
        self._expected = {
            (each.span.trace_id, each.span.span_id): each.span
            for each in self._written
            if settings.scope == "entry" or not each.parent_id
        }
        starts = [each.span.start_ns // _NS for each in self._written]
        self._first, self._last = min(starts), max(starts) + 1

    def run(self) -> list[CheckResult]:
        """Write and read; returns the results in the order in which they are best read."""
        try:
            return list(self._results())
        except SendError as error:
            advice = (
                "--otlp-url must be an OTLP/HTTP receiver of this Tempo, or of a collector that passes everything on, "
                "usually on port 4318; set headers such as the tenant's with --header"
            )
            return [CheckResult("write", Outcome.FAIL, str(error), advice)]

    def _results(self) -> Iterator[CheckResult]:
        rejected = self._write(is_late=False)
        try:
            seconds, more = self._read_live()
            found = self._read_windows()
        except _TimeoutError as error:
            detail = f"Tempo has not answered within {self._settings.timeout_seconds:g} s: {error}"
            yield self._write_result(rejected)
            yield CheckResult("read", Outcome.FAIL, detail, "check tempo.url, tempo.tenant and the credentials")
            return
        yield self._write_result(rejected + more)
        yield self._live_result(seconds)
        yield self._history_result(found)
        yield self._once_result(found)
        yield self._unchanged_result(found)
        yield self._counts_result(found)

    # Writing and reading

    def _write(self, *, is_late: bool) -> int:
        """Write the first or the late spans; returns how many were rejected."""
        spans = [each for each in self._written if each.is_late is is_late]
        return self._sender.send(encode(spans, self._settings.run)).rejected_spans

    @property
    def _is_over(self) -> bool:
        return self._monotonic() - self._began >= self._settings.timeout_seconds

    def _read_live(self) -> tuple[dict[tuple[str, str], float], int]:
        """Read current traffic until all spans were found, and write the late ones in between.

        Returns:
            The seconds from writing until finding each span that was found; how many late spans were rejected.

        Raises:
            SendError: the late spans could not be written.
            _TimeoutError: Tempo has not answered in time.
        """
        late = {
            (each.span.trace_id, each.span.span_id) for each in self._written if each.is_late
        } & self._expected.keys()
        written_at = self._monotonic()
        late_at: float | None = None
        rejected = 0
        found: dict[tuple[str, str], float] = {}
        problem: TempoError | None = None
        has_read = False
        while True:
            if late_at is None and self._monotonic() >= written_at + LATE_SECONDS:
                rejected = self._write(is_late=True)
                late_at = self._monotonic()
            try:
                # As far back as the first span, so that the time until spans are found can exceed the lookback.
                reading = self._live.read([(self._first, math.ceil(self._clock()) + 1)], lambda: False)
                has_read = True
            except TempoError as error:
                problem = error
            else:
                now = self._monotonic()
                for span in reading.spans:
                    identity = (span.trace_id, span.span_id)
                    if identity in self._expected and identity not in found:
                        found[identity] = now - (late_at if identity in late and late_at is not None else written_at)
            if len(found) == len(self._expected):
                return found, rejected
            if self._is_over:
                if not has_read:
                    raise _TimeoutError(str(problem))
                return found, rejected
            self._wait(_PAUSE_SECONDS)

    def _read_windows(self) -> _Found:
        """Read the windows of history, until they hold everything or the time is over.

        Raises:
            _TimeoutError: Tempo has not answered in time.
        """
        first = self._first - self._first % _WINDOW_SECONDS
        reads = 0
        while True:
            found = _Found()
            problem: TempoError | None = None
            try:
                for start in range(first, self._last, _WINDOW_SECONDS):
                    spans: list[Span] = []
                    reading = self._exact.read(start, start + _WINDOW_SECONDS, spans.extend)
                    found.returned_twice += reading.left_out
                    for span in spans:
                        found.spans.setdefault((span.trace_id, span.span_id), []).append(span)
                reads += 1
            except TempoError as error:
                problem = error
            if problem is None and (self._expected.keys() <= found.spans.keys() or self._is_over):
                found.reads = reads
                return found
            if self._is_over:
                raise _TimeoutError(str(problem))
            self._wait(_PAUSE_SECONDS)

    # Results

    def _write_result(self, rejected: int) -> CheckResult:
        spans = len(self._written)
        detail = f"{TRACES} traces with {spans} spans of {VERIFY_SERVICE} to {self._sender.address}"
        if rejected:
            advice = "see the receiver's log: a limit of its own, or of the tenant"
            return CheckResult("write", Outcome.FAIL, f"{detail}; it rejected {rejected} of them", advice)
        return CheckResult("write", Outcome.PASS, detail)

    def _live_result(self, seconds: Mapping[tuple[str, str], float]) -> CheckResult:
        lost, lookback = self._lost(seconds), self._settings.lookback_seconds
        if lost:
            advice = (
                f"Tempo needs longer than {self._settings.timeout_seconds:g} s (raise --timeout), or loses them: see "
                "the logs of Tempo and of the collector, and check that both addresses belong to one Tempo and tenant"
            )
            return CheckResult("live edge", Outcome.FAIL, f"{lost} not found", advice)
        longest = max(seconds.values())
        cuts = quantiles(seconds.values(), n=20)
        detail = f"all {len(seconds)} found, half of them after {cuts[9]:.1f} s, 95% after {cuts[18]:.1f} s"
        detail += f", the last after {longest:.1f} s"
        if longest > lookback:
            advice = f"set polling.tempo_lookback to more than {math.ceil(longest)}s"
            return CheckResult("live edge", Outcome.WARN, f"{detail}: later than polling.tempo_lookback", advice)
        return CheckResult("live edge", Outcome.PASS, detail)

    def _history_result(self, found: _Found) -> CheckResult:
        windows = f"in windows of {_WINDOW_SECONDS} s"
        lost = self._lost(found.spans)
        if lost:
            advice = "Tempo does not return everything that it has; see the logs of its query frontend and queriers"
            return CheckResult("history", Outcome.FAIL, f"{lost} not found {windows}", advice)
        if found.reads > 1:
            detail = f"all {len(self._expected)} found {windows}, but only when they were read {found.reads} times"
            advice = "answers differ from one query to the next; polling.settle should cover the time until they agree"
            return CheckResult("history", Outcome.WARN, detail, advice)
        return CheckResult("history", Outcome.PASS, f"all {len(self._expected)} found {windows}")

    def _once_result(self, found: _Found) -> CheckResult:
        doubled = [identity for identity, spans in found.spans.items() if len(spans) > 1]
        unknown = found.spans.keys() - self._expected.keys()
        if doubled or unknown:
            trace_id, _ = min([*doubled, *unknown])
            detail = f"{len(doubled)} counted more than once, {len(unknown)} not written at all; first trace {trace_id}"
            return CheckResult("each once", Outcome.FAIL, detail, "please report this, with the version of Tempo")
        if found.returned_twice:
            detail = f"Tempo returned {found.returned_twice} of them twice; each was counted once"
            return CheckResult("each once", Outcome.PASS, detail)
        return CheckResult("each once", Outcome.PASS, "no span was found twice")

    def _unchanged_result(self, found: _Found) -> CheckResult:
        changed = [
            (identity, name)
            for identity, expected in self._expected.items()
            for span in found.spans.get(identity, ())
            if (name := _difference(expected, span))
        ]
        if changed:
            fields = ", ".join(f"{count} {name}" for name, count in sorted(Counter(n for _, n in changed).items()))
            detail = f"{len(changed)} changed ({fields}); first trace {min(changed)[0][0]}"
            advice = "a processor of the collector may change spans, or a gateway the answers of Tempo"
            return CheckResult("unchanged", Outcome.FAIL, detail, advice)
        return CheckResult("unchanged", Outcome.PASS, "names, starts and durations are those written")

    def _counts_result(self, found: _Found) -> CheckResult:
        # Tempo counts in (start, end].
        first, last = self._first - 1, self._last + 1
        try:
            counts = self._client.count(first, last, 1, loop="backfill")
        except TempoError as error:
            return CheckResult("counts", Outcome.PASS, f"Tempo does not count spans; nothing depends on it ({error})")
        if not counts.known:
            return CheckResult("counts", Outcome.PASS, "Tempo does not count spans; nothing depends on it")
        counted, read = counts.between(first, last), len(found.spans)
        detail = f"Tempo counts {counted} spans, and returns {read}"
        if counted > read:
            advice = "where Tempo counts spans twice, coverage looks too low and windows are read once more"
            return CheckResult("counts", Outcome.WARN, detail, advice)
        if counted < read or not counts.complete:
            advice = "counts that are too low, or not complete, are not used; then history is read without them"
            return CheckResult("counts", Outcome.WARN, detail, advice)
        return CheckResult("counts", Outcome.PASS, detail)

    def _lost(self, found: Iterable[tuple[str, str]]) -> str:
        """Say which expected spans were not found; empty for none."""
        lost = sorted(self._expected.keys() - set(found))
        if not lost:
            return ""
        late = {(each.span.trace_id, each.span.span_id) for each in self._written if each.is_late}
        text = f"{len(lost)} of {len(self._expected)} spans"
        if several := len(late.intersection(lost)):
            text += f" ({several} of them roots that arrive after their children)"
        return f"{text}, first trace {lost[0][0]}:"


def _difference(expected: Span, found: Span) -> str:
    """Return the first field in which two records of one span differ; empty for none."""
    fields: Sequence[tuple[str, bool]] = (
        ("service", expected.key.service_name != found.key.service_name),
        ("name", expected.key.span_name != found.key.span_name),
        ("start", expected.start_ns != found.start_ns),
        ("duration", expected.duration_ns != found.duration_ns),
    )
    return next((name for name, differs in fields if differs), "")
