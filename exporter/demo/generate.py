"""The demo's traffic into a real Tempo: a week of history first, then whatever happens, as it happens."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import click
import requests

from exporter.demo.otlp import OtlpEncoder, OtlpSender, SendError, SendStoppedError
from exporter.demo.scenario import SEED, demo_scenario
from exporter.demo.traces import Trace, TraceSource
from exporter.demo.traffic import SATURDAY_AND_SUNDAY
from exporter.model.calendar import HOUR_SECONDS
from exporter.runtime.signals import StopRequest
from exporter.runtime.terminal import bar, fresh_line, progress_line

_NS: Final = 1_000_000_000
_DAY_SECONDS: Final = 24 * HOUR_SECONDS
_TRACES_PER_REQUEST: Final = 200
"""About 150 kB of JSON: far below what receivers take at once."""
RATE: Final = 400.0
"""Traces a second that a Tempo with its default limits keeps. It holds at most 10,000 that are not over yet
(``max_traces_per_user``), and drops others without telling the sender. One is over for it when nothing has come for a
while and it looks: after 10 s at the most in Tempo 3.0, 15 s from 2.7 on, 20 s before."""
_LIVE_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 5.0
_SEARCH_TIMEOUT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """What is to be sent.

    Attributes:
        url: the endpoint.
        headers: further headers.
        days: how much history.
        seed: another one makes other traffic.
        incident_after_seconds: when the incident begins, counted from when the history has been sent.
        rate: traces a second while history is sent.
        live_seconds: how long live traffic is sent; until stopped where absent.
        query_url: Tempo's own API, to wait there until the history can be found.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    days: float = 7.0
    seed: int = SEED
    incident_after_seconds: float = 600.0
    rate: float = RATE
    live_seconds: float | None = None
    query_url: str | None = None


@dataclass(slots=True)
class SentTotals:
    """What was sent so far."""

    traces: int = 0
    spans: int = 0
    rejected_spans: int = 0


class SystemClock:
    """Time, and waiting for it; the real one."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()


def batches(traces: Sequence[Trace], size: int = _TRACES_PER_REQUEST) -> Iterator[Sequence[Trace]]:
    """Traces in as many requests as they need."""
    for first in range(0, len(traces), size):
        yield traces[first : first + size]


def ended_between(source: TraceSource, after_ns: int, until_ns: int) -> list[Trace]:
    """The traces that ended in ``(after_ns, until_ns]``: what a tracer sends once it is over."""
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
        say: Callable[[str], None],
        clock: SystemClock,
    ) -> None:
        """Prepare to send.

        Args:
            options: what to send.
            sender: where to.
            wait: waits for some seconds; says whether to stop.
            say: is told what happens.
            clock: the time.
        """
        self.sent = SentTotals()
        self.progress = 0.0
        self._options = options
        self._sender = sender
        self._wait = wait
        self._say = say
        self._clock = clock
        self._encoder = OtlpEncoder()
        self._told_rejected = False

    def run(self) -> None:
        """Send it all.

        Raises:
            SendError: the endpoint does not take it.
            StoppedError: it is to stop.
        """
        options = self._options
        began = self._clock.now()
        anchor_ns = int(began * _NS)
        begin_ns = anchor_ns - int(options.days * _DAY_SECONDS * _NS)
        since, until = begin_ns // _NS, anchor_ns // _NS
        if options.query_url is not None and self._is_there(options.query_url, since, until):
            self._say(f"{options.query_url} finds a history there already; it is not sent again.")
            self.progress = 1.0
        else:
            self._history(self._scenario(began, options.incident_after_seconds), begin_ns, anchor_ns)
            if options.query_url is not None:
                self._wait_until_found(options.query_url, since, until)
        if options.live_seconds == 0:
            return
        # The same requests again; only the incident begins when whoever watches has seen what comes before it.
        begins = self._clock.now() - began + options.incident_after_seconds
        self._say(f"Live traffic; the incident begins at {_clock(began + begins)}.")
        self._live(self._scenario(began, begins), anchor_ns)

    def _scenario(self, began: float, incident_after_seconds: float) -> TraceSource:
        """The demo's shop, but with the weekend that is usual: whoever watches has a calendar of his own."""
        return demo_scenario(
            began,
            seed=self._options.seed,
            incident_after_seconds=incident_after_seconds,
            weekend=SATURDAY_AND_SUNDAY,
        )

    def describe(self) -> str:
        """How far it has come, on one line."""
        counted = f"{self.sent.traces:,} traces"
        return f"sending history {bar(self.progress)}  {counted}" if self.progress < 1 else f"sent {counted}"

    def _history(self, source: TraceSource, begin_ns: int, end_ns: int) -> None:
        """The traces that ended in a range, hour by hour and not faster than is wanted."""
        step_ns = HOUR_SECONDS * _NS
        for position in range(begin_ns, end_ns, step_ns):
            for some in batches(ended_between(source, position, min(position + step_ns, end_ns))):
                began = self._clock.monotonic()
                self._send(some)
                # What a slow request has cost is not caught up with: that would be faster than is wanted.
                ahead = len(some) / self._options.rate - (self._clock.monotonic() - began)
                if ahead > 0 and self._wait(ahead):
                    raise SendStoppedError
            self.progress = min(1.0, (position + step_ns - begin_ns) / (end_ns - begin_ns))
        self.progress = 1.0

    def _live(self, source: TraceSource, since_ns: int) -> None:
        """What ends from now on, as it ends."""
        limit = self._options.live_seconds
        end_ns = None if limit is None else int((self._clock.now() + limit) * _NS)
        while True:
            now_ns = int(self._clock.now() * _NS)
            until_ns = now_ns if end_ns is None else min(now_ns, end_ns)
            for some in batches(ended_between(source, since_ns, until_ns)):
                self._send(some)
            since_ns = max(since_ns, until_ns)
            if until_ns == end_ns:
                return
            if self._wait(_LIVE_SECONDS):
                raise SendStoppedError

    def _is_there(self, url: str, since: int, until: int) -> bool:
        """Whether Tempo finds something in the middle of the history: it was sent before."""
        middle = (since + until) // 2
        return _finds(url, middle, middle + HOUR_SECONDS)

    def _wait_until_found(self, url: str, since: int, until: int) -> None:
        """Wait until Tempo finds the history from end to end: it looks for new blocks only every now and then."""
        self._say(f"Waiting until {url} finds the history.")
        # Not up to the end: what is newest it may hold back, or find in another way.
        wanted = [hour for hour in range(since, until - 2 * HOUR_SECONDS, HOUR_SECONDS) if hour + HOUR_SECONDS < until]
        while wanted:
            if _finds(url, wanted[-1], wanted[-1] + HOUR_SECONDS):
                wanted.pop()
            elif self._wait(_LOOK_SECONDS):
                raise SendStoppedError

    def _send(self, traces: Sequence[Trace]) -> None:
        accepted = self._sender.send(self._encoder.encode(traces))
        self.sent.traces += len(traces)
        self.sent.spans += sum(len(trace.spans) for trace in traces)
        self.sent.rejected_spans += accepted.rejected_spans
        if accepted.rejected_spans and not self._told_rejected:
            self._told_rejected = True
            why = f": {accepted.message}" if accepted.message else ""
            self._say(f"{self._sender.address} rejects spans ({accepted.rejected_spans} of a request){why}")


def _finds(url: str, start: int, end: int) -> bool:
    """Whether Tempo finds a trace in a window; an error means not yet."""
    parameters: dict[str, str | int] = {"q": "{nestedSetParent<0}", "start": start, "end": end, "limit": 1}
    try:
        response = requests.get(f"{url.rstrip('/')}/api/search", parameters, timeout=_SEARCH_TIMEOUT_SECONDS)
        return response.status_code == 200 and bool(response.json().get("traces"))
    except (requests.RequestException, ValueError, AttributeError):
        return False


def _clock(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds).astimezone().strftime("%H:%M:%S")


def generate(options: GenerateOptions) -> int:
    """Send until it is done or interrupted; returns the exit status."""
    stop = StopRequest()
    stop.listen()
    with OtlpSender(options.url, options.headers, wait=stop.wait, complain=_tell) as sender:
        generator = Generator(options, sender, wait=stop.wait, say=_tell, clock=SystemClock())
        status = 0
        try:
            with progress_line(generator.describe, sys.stderr):
                generator.run()
        except SendError as error:
            _tell(str(error))
            status = 1
        except SendStoppedError:
            pass
    sent = generator.sent
    rejected = f", {sent.rejected_spans:,} of them rejected" if sent.rejected_spans else ""
    _tell(f"Sent {sent.traces:,} traces of {sent.spans:,} spans{rejected}.")
    return status


def _tell(text: str) -> None:
    click.echo(f"{fresh_line(sys.stderr)}{text}", err=True)
