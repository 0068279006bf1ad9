"""A Tempo search API in a child process that serves traces rendered in advance.

Rendering dominates the cost of a search in the demo's embedded Tempo API. Here that API's code renders every trace once
into one file, ordered by time; a search returns a range of the file, faster than any client reads it.
:meth:`TempoSource.pace` slows it down to the speed of a real Tempo.
"""

import mmap
import tempfile
import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from benchmarks.child_process import ChildProcess, serve_calls
from benchmarks.traffic import LONGEST_SECONDS, Traffic, series_key
from exporter.demo.search import CompiledQuery
from exporter.demo.traces import ROOT, Operation, SpanTimes, TraceShape, make_trace
from exporter.model.failure_rule import STATUS_IS_ERROR
from exporter.tempo import search_query

_NS: Final = 1_000_000_000
_ALWAYS: Final = 2**63 - 1


class Search(NamedTuple):
    """A search that the source answered: Unix seconds, and the limit of traces."""

    start: int
    end: int
    limit: int


class TempoSource(ChildProcess):
    """The source's child process.

    Attributes:
        url: its base URL.
    """

    def __init__(self, traffic: Traffic, *, live: bool) -> None:
        """Render the traces, which takes some seconds per million, and listen.

        Args:
            traffic: the traces.
            live: return a trace only after it ended by the wall clock.
        """
        super().__init__(_serve, traffic, live, daemon=True)
        self.url: str = self.connection.recv()

    def pace(self, traces_per_second: float | None) -> None:
        """Limit the rate of all searches together; None removes the limit."""
        self.call("pace", traces_per_second)

    def take_searches(self) -> list[Search]:
        """Return the searches answered since the last call."""
        return [Search(*search) for search in self.call("take_searches")]


class _Rendered:
    """Traces as Tempo's JSON, concatenated in an unnamed file."""

    def __init__(self, traffic: Traffic) -> None:
        query = CompiledQuery(search_query("entry", grouping="span", failures=STATUS_IS_ERROR))
        shapes = [TraceShape((Operation(*series_key(series)[:2]),), (ROOT,)) for series in range(traffic.series)]
        self._starts_ns = array("q")
        self._ends_ns = array("q")
        self._offsets = array("q", [0])
        with tempfile.TemporaryFile() as file:
            for number, request in enumerate(traffic.requests(), start=1):
                # Multiplying by an odd constant gives distinct, well-spread ids.
                span_id = number * 0x9E3779B97F4A7C15 % 2**64
                span = SpanTimes(span_id, request.start_ns, request.duration_ns)
                trace = make_trace(span_id << 64 | number, shapes[request.series], [span])
                written = file.write(query.render(trace, 3)) + file.write(b",")
                self._starts_ns.append(trace.start_ns)
                self._ends_ns.append(trace.end_ns)
                self._offsets.append(self._offsets[-1] + written)
            file.flush()
            self._bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def search(self, search: Search, visible_ns: int) -> tuple[int, list[bytes | memoryview]]:
        """Return the number of traces that overlap a range, up to the limit, and their JSON in pieces."""
        start_ns, end_ns = search.start * _NS, min(search.end * _NS, visible_ns)
        inside = bisect_left(self._starts_ns, start_ns)
        candidates = range(bisect_left(self._starts_ns, start_ns - LONGEST_SECONDS * _NS), inside)
        before = [position for position in candidates if self._ends_ns[position] >= start_ns][: search.limit]
        behind = max(inside, bisect_right(self._starts_ns, end_ns))
        behind = min(behind, inside + search.limit - len(before))
        stretches = [self._stretch(position, position + 1) for position in before]
        if behind > inside:
            stretches.append(self._stretch(inside, behind))
        separated = [piece for stretch in stretches for piece in (b",", stretch)][1:]
        return len(before) + behind - inside, separated

    def _stretch(self, first: int, behind: int) -> memoryview:
        return self._bytes[self._offsets[first] : self._offsets[behind] - 1]


class _Pace:
    """Limits the traces a second over all clients, as one Tempo does."""

    def __init__(self) -> None:
        self.traces_per_second: float | None = None
        self._free_at = 0.0
        self._mutex = threading.Lock()

    def wait(self, traces: int) -> None:
        """Sleep for the time that serving so many traces takes."""
        if self.traces_per_second is None:
            return
        with self._mutex:
            now = time.monotonic()
            self._free_at = due = max(self._free_at, now) + traces / self.traces_per_second
        time.sleep(max(0.0, due - now))


class _Handler(BaseHTTPRequestHandler):
    """Serves searches."""

    server: "_Server"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        search = Search(int(query["start"]), int(query["end"]), int(query["limit"]))
        count, pieces = self.server.rendered.search(search, self.server.visible_ns())
        self.server.searches.append(search)
        self.server.pace.wait(count)
        pieces = [b'{"traces":[', *pieces, b'],"metrics":{"inspectedBytes":"1","completedJobs":1,"totalJobs":1}}']
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(sum(map(len, pieces))))
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, rendered: _Rendered, visible_ns: Callable[[], int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rendered = rendered
        self.visible_ns = visible_ns
        self.pace = _Pace()
        self.searches: list[Search] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""

    def take_searches(self) -> list[tuple[int, ...]]:
        taken, self.searches = self.searches, []
        return [tuple(search) for search in taken]

    def set_pace(self, traces_per_second: float | None) -> None:
        self.pace.traces_per_second = traces_per_second


def _serve(traffic: Traffic, live: bool, connection: Connection) -> None:
    """Serve until the other end of the pipe is closed."""
    visible = (lambda: time.time_ns() - LONGEST_SECONDS * _NS) if live else (lambda: _ALWAYS)
    with _Server(_Rendered(traffic), visible) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection.send(f"http://127.0.0.1:{server.server_port}")
        serve_calls(connection, {"pace": server.set_pace, "take_searches": server.take_searches})
        server.shutdown()
