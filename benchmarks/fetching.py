"""References for a backfill: its searches fetched and discarded, and the same bodies decoded from JSON."""

import gc
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import NamedTuple

import msgspec
import orjson
import requests

from benchmarks.tempo_source import Search
from exporter.model.failure_rule import STATUS_IS_ERROR
from exporter.tempo import search_query
from exporter.tempo.decode import SearchDecoder

_QUERY = search_query("entry", grouping="span", failures=STATUS_IS_ERROR)


class FetchCost(NamedTuple):
    """Cost of fetching in seconds, and the bytes received."""

    wall_seconds: float
    cpu_seconds: float
    bytes: int


class DecodeCost(NamedTuple):
    """Processor seconds of decoding the same bodies with several decoders.

    Attributes:
        bytes: size of the bodies.
        orjson: the fastest decoder that reads everything.
        orjson_uncollected: the same with the garbage collector off, which no long-lived process does.
        msgspec: untyped msgspec.
        spans: the exporter's decoder, which skips unused fields and builds spans.
    """

    bytes: int
    orjson: float
    orjson_uncollected: float
    msgspec: float
    spans: float


def fetch(url: str, searches: Sequence[Search], threads: int) -> FetchCost:
    """Run searches with requests and discard the bodies."""
    queue: SimpleQueue[Search] = SimpleQueue()
    for search in searches:
        queue.put(search)

    def work() -> int:
        size = 0
        with requests.Session() as session:
            while True:
                try:
                    size += len(_get(session, url, queue.get_nowait()))
                except Empty:
                    return size

    wall, cpu = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        sizes = [future.result() for future in [pool.submit(work) for _ in range(threads)]]
    return FetchCost(time.monotonic() - wall, time.process_time() - cpu, sum(sizes))


def decode(url: str, searches: Sequence[Search]) -> DecodeCost:
    """Decode the bodies of searches with each decoder; only decoding is timed."""

    def uncollected(body: bytes) -> None:
        gc.disable()
        orjson.loads(body)
        gc.enable()

    decoders: tuple[Callable[[bytes], object], ...] = (
        orjson.loads,
        uncollected,
        msgspec.json.decode,
        SearchDecoder("entry", failures=STATUS_IS_ERROR).decode,
    )
    size = 0
    seconds = [0.0] * len(decoders)
    with requests.Session() as session:
        for search in searches:
            body = _get(session, url, search)
            size += len(body)
            for number, decoder in enumerate(decoders):
                began = time.thread_time()
                decoder(body)
                seconds[number] += time.thread_time() - began
    return DecodeCost(size, *seconds)


def _get(session: requests.Session, url: str, search: Search) -> bytes:
    params: dict[str, str | int] = {"q": _QUERY, "start": search.start, "end": search.end, "limit": search.limit}
    response = session.get(f"{url}/api/search", params=params, timeout=300)
    response.raise_for_status()
    return response.content
