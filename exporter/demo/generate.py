"""Sends the demo's traffic to a real Tempo: a week of history first, then live traffic."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import click

from exporter.demo.faults import FaultKind
from exporter.demo.otlp import OtlpEncoder
from exporter.demo.scenario import SEED, demo_scenario
from exporter.demo.sent_history import SentHistory
from exporter.demo.traces import Trace, TraceSource
from exporter.demo.traffic import SATURDAY_AND_SUNDAY
from exporter.model.calendar import HOUR_SECONDS
from exporter.runtime.signals import StopRequest
from exporter.runtime.terminal import bar, fresh_line, progress_line
from exporter.tempo.http_endpoint import SendError, SendStoppedError
from exporter.tempo.otlp import OtlpSender

_NS: Final = 1_000_000_000
_DAY_SECONDS: Final = 24 * HOUR_SECONDS
_TRACES_PER_REQUEST: Final = 200
"""About 150 kB of JSON, far below the limits of receivers."""
RATE: Final = 400.0
"""Traces per second that a Tempo with default limits can store. It keeps at most 10,000 live traces per user
(``max_traces_per_user``) and drops others without an error for the sender. A trace is live until nothing was received
for some time: at most 10 s in Tempo 3.0, 15 s since 2.7, 20 s before."""
_LIVE_INTERVAL_SECONDS: Final = 1.0
_SEARCH_INTERVAL_SECONDS: Final = 5.0
_FINDABLE_SECONDS: Final = 60.0
"""Age from which Tempo finds a trace: about 9 s after it was sent in 2.10, 30 s after it ended in 3.0."""
_GIVE_UP_FINDING_SECONDS: Final = 3600.0
"""Longer than Tempo takes by default until a block is complete (30 min) and in its list (5 min)."""
_PROGRESS_SECONDS: Final = 30.0
"""Interval of progress lines without a terminal."""


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """Options of the generator.

    Attributes:
        url: the OTLP/HTTP endpoint.
        headers: further headers of all requests, also of those to ``query_url``.
        days: length of the history.
        seed: another seed gives different traffic.
        incident_after_seconds: start of the incident after the end of sending the history.
        fault: cause of the incident.
        rate: traces per second while history is sent.
        live_seconds: duration of live traffic; None means until stopped.
        query_url: Tempo's HTTP API; if given, send only the history that is not found there, and wait until the rest
            is found.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    days: float = 7.0
    seed: int = SEED
    incident_after_seconds: float = 600.0
    fault: FaultKind = "slow_call"
    rate: float = RATE
    live_seconds: float | None = None
    query_url: str | None = None


@dataclass(slots=True)
class SentTotals:
    """Totals of what was sent so far."""

    traces: int = 0
    spans: int = 0
    rejected_spans: int = 0
    found_traces: int = 0
    """Traces of the history that Tempo had already."""


class SystemClock:
    """The system's clocks; replaced in tests."""

    def now(self) -> float:
        """Return Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds of a monotonic clock."""
        return time.monotonic()


def batches(traces: Sequence[Trace], size: int = _TRACES_PER_REQUEST) -> Iterator[Sequence[Trace]]:
    """Divide traces into requests."""
    for first in range(0, len(traces), size):
        yield traces[first : first + size]


def ended_between(source: TraceSource, after_ns: int, until_ns: int) -> list[Trace]:
    """Return the traces that ended in ``(after_ns, until_ns]``; traces are sent when they have ended."""
    if until_ns <= after_ns:
        return []
    return [trace for trace in source.overlapping(after_ns + 1, until_ns) if trace.end_ns <= until_ns]


class Generator:
    """Sends the demo's traffic to one endpoint."""

    def __init__(
        self,
        options: GenerateOptions,
        sender: OtlpSender,
        *,
        wait: Callable[[float], bool],
        report: Callable[[str], None],
        clock: SystemClock,
        tempo: SentHistory | None = None,
    ) -> None:
        """Create a generator.

        Args:
            options: what to send.
            sender: sends to the endpoint.
            wait: sleeps for some seconds and returns whether to stop.
            report: called with messages for the user.
            clock: the clock.
            tempo: the Tempo that stores the traces; without it the whole history is sent.
        """
        self.sent = SentTotals()
        self.progress = 0.0
        self._missing_hours = 0
        self._options = options
        self._sender = sender
        self._wait = wait
        self._report = report
        self._clock = clock
        self._tempo = tempo
        self._encoder = OtlpEncoder()
        self._has_reported_rejection = False

    def run(self) -> None:
        """Send history and live traffic.

        Raises:
            SendError: the endpoint rejects requests or is down.
            SendStoppedError: sending was stopped.
        """
        options = self._options
        started_at = self._clock.now()
        anchor_ns = int(started_at * _NS)
        begin_ns = anchor_ns - int(options.days * _DAY_SECONDS * _NS)
        ranges = self._send_history(self._scenario(started_at, options.incident_after_seconds), begin_ns, anchor_ns)
        if self._tempo is not None and options.days:
            if not ranges:
                self._report(f"{options.query_url} already has the history; it is not sent again.")
            else:
                self._wait_until_found(self._tempo, ranges, anchor_ns // _NS)
        if options.live_seconds == 0:
            return
        # The same requests, but with the incident after the history was sent, so that viewers see its start.
        begins = self._clock.now() - started_at + options.incident_after_seconds
        self._report(f"Sending live traffic; the incident starts at {_time_text(started_at + begins)}.")
        self._send_live(self._scenario(started_at, begins), anchor_ns)

    def _scenario(self, started_at: float, incident_after_seconds: float) -> TraceSource:
        """Return the demo's scenario with the usual weekend, because the user's exporter has a normal calendar.

        It is that of the full hour, so that all runs within an hour have the same traces, and all runs the same ids.
        """
        hour = started_at // HOUR_SECONDS * HOUR_SECONDS
        return demo_scenario(
            hour,
            seed=self._options.seed,
            incident_after_seconds=started_at - hour + incident_after_seconds,
            weekend=SATURDAY_AND_SUNDAY,
            fault=self._options.fault,
        )

    def progress_text(self) -> str:
        """Return the text of the progress line."""
        count = f"{self.sent.traces:,} traces"
        if self.progress < 1:
            found = f", {self.sent.found_traces:,} were there already" if self.sent.found_traces else ""
            return f"sending history {bar(self.progress)}  {count}{found}"
        if self._missing_hours:
            return f"sent {count}; waiting until Tempo finds {self._missing_hours} more hours"
        return f"sent {count}"

    def _send_history(self, source: TraceSource, begin_ns: int, end_ns: int) -> list[tuple[int, int]]:
        """Send the traces that ended in a range, hour by hour, at the configured rate.

        Returns the hours of which something was sent, in Unix seconds.
        """
        step_ns = HOUR_SECONDS * _NS
        sent_ranges = []
        for position in range(begin_ns, end_ns, step_ns):
            until = min(position + step_ns, end_ns)
            missing = self._missing(ended_between(source, position, until), position // _NS, -(-until // _NS))
            if missing:
                sent_ranges.append((position // _NS, until // _NS))
            for batch in batches(missing):
                started_at = self._clock.monotonic()
                self._send(batch)
                # Time lost by a slow request is not made up for: that would exceed the rate.
                ahead = len(batch) / self._options.rate - (self._clock.monotonic() - started_at)
                if ahead > 0 and self._wait(ahead):
                    raise SendStoppedError
            self.progress = min(1.0, (position + step_ns - begin_ns) / (end_ns - begin_ns))
        self.progress = 1.0
        return sent_ranges

    def _missing(self, traces: Sequence[Trace], start: int, end: int) -> Sequence[Trace]:
        """Return those of the traces that ended in a range of Unix seconds that Tempo does not find.

        The ids depend on seed and hour only (see ``_scenario``), so that every run knows those of earlier ones.
        """
        if self._tempo is None:
            return traces
        # What was sent in the last seconds before a restart is not found yet.
        early = end + _FINDABLE_SECONDS - self._clock.now()
        if early > 0 and self._wait(early):
            raise SendStoppedError
        found = self._tempo.trace_ids(start, end)
        missing = [trace for trace in traces if trace.trace_id not in found]
        self.sent.found_traces += len(traces) - len(missing)
        return missing

    def _send_live(self, source: TraceSource, since_ns: int) -> None:
        """Send traces as they end, from now on."""
        limit = self._options.live_seconds
        end_ns = None if limit is None else int((self._clock.now() + limit) * _NS)
        while True:
            now_ns = int(self._clock.now() * _NS)
            until_ns = now_ns if end_ns is None else min(now_ns, end_ns)
            for batch in batches(ended_between(source, since_ns, until_ns)):
                self._send(batch)
            since_ns = max(since_ns, until_ns)
            if until_ns == end_ns:
                return
            if self._wait(_LIVE_INTERVAL_SECONDS):
                raise SendStoppedError

    def _wait_until_found(self, tempo: SentHistory, ranges: Sequence[tuple[int, int]], until: int) -> None:
        """Wait until Tempo finds traces of all hours that were sent; it polls for new blocks at intervals."""
        # Not the newest hours, which Tempo may not have flushed yet.
        missing = [(start, end) for start, end in ranges if start < until - 2 * HOUR_SECONDS]
        if not missing:
            return
        self._report(f"Waiting until the history can be found at {self._options.query_url}.")
        progress_at = self._clock.monotonic()
        while missing:
            self._missing_hours = len(missing)
            if tempo.has_traces(*missing[-1]):
                missing.pop()
                progress_at = self._clock.monotonic()
            elif self._clock.monotonic() - progress_at > _GIVE_UP_FINDING_SECONDS:
                raise SendError(
                    f"{self._options.query_url} has found nothing of {len(missing)} of the hours sent for "
                    f"{_GIVE_UP_FINDING_SECONDS / 60:g} minutes. Check that --query-url is the API of the Tempo that "
                    "--url sends to, and its ingestion_time_range_slack: unless that is longer than the history, Tempo "
                    "files it under the present (docs/install.md)"
                )
            elif self._wait(_SEARCH_INTERVAL_SECONDS):
                raise SendStoppedError
        self._missing_hours = 0

    def _send(self, traces: Sequence[Trace]) -> None:
        result = self._sender.send(self._encoder.encode(traces))
        self.sent.traces += len(traces)
        self.sent.spans += sum(len(trace.spans) for trace in traces)
        self.sent.rejected_spans += result.rejected_spans
        if result.rejected_spans and not self._has_reported_rejection:
            self._has_reported_rejection = True
            reason = f": {result.message}" if result.message else ""
            self._report(f"{self._sender.address} rejected {result.rejected_spans} spans of a request{reason}")


def _time_text(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds).astimezone().strftime("%H:%M:%S")


def generate(options: GenerateOptions) -> int:
    """Send until done or interrupted; returns the exit status."""
    stop = StopRequest()
    stop.listen()
    with ExitStack() as stack:
        sender = stack.enter_context(OtlpSender(options.url, options.headers, wait=stop.wait, report=_print_message))
        tempo = None
        if options.query_url is not None:
            tempo = stack.enter_context(
                SentHistory(options.query_url, options.headers, wait=stop.wait, report=_print_message)
            )
        generator = Generator(options, sender, wait=stop.wait, report=_print_message, clock=SystemClock(), tempo=tempo)
        status = 0
        try:
            with progress_line(generator.progress_text, sys.stderr, line_seconds=_PROGRESS_SECONDS):
                generator.run()
        except SendError as error:
            _print_message(str(error))
            status = 1
        except SendStoppedError:
            pass
    sent = generator.sent
    rejected = f", {sent.rejected_spans:,} of them rejected" if sent.rejected_spans else ""
    found = f" {sent.found_traces:,} were there already." if sent.found_traces else ""
    _print_message(f"Sent {sent.traces:,} traces of {sent.spans:,} spans{rejected}.{found}")
    return status


def _print_message(text: str) -> None:
    click.echo(f"{fresh_line(sys.stderr)}{text}", err=True)
