"""What a backfill is compared with: its searches fetched and thrown away, and the same bodies decoded from JSON."""

import gc
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import NamedTuple

import msgspec
import orjson
import requests

from benchmarks.source import Search
from exporter.tempo import search_query
from exporter.tempo.decode import SearchDecoder

_QUERY = search_query("root")


class Fetched(NamedTuple):
    """What fetching has cost, in seconds, and how many bytes came."""

    wall_seconds: float
    cpu_seconds: float
    bytes: int


class Decoded(NamedTuple):
    """What decoding has cost, in seconds of processor time.

    Attributes:
        bytes: how much was decoded.
        orjson: by the fastest decoder that reads everything.
        orjson_uncollected: by the same with the garbage collector switched off, which no long-lived process does.
        msgspec: by another.
        spans: by the exporter's own, which skips what is not needed and makes spans of the rest.
    """

    bytes: int
    orjson: float
    orjson_uncollected: float
    msgspec: float
    spans: float


def fetch(url: str, searches: Sequence[Search], threads: int) -> Fetched:
    """Fetch what some searches return with requests, and throw it away."""
    waiting: SimpleQueue[Search] = SimpleQueue()
    for search in searches:
        waiting.put(search)

    def work() -> int:
        size = 0
        with requests.Session() as session:
            while True:
                try:
                    size += len(_get(session, url, waiting.get_nowait()))
                except Empty:
                    return size

    wall, cpu = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        sizes = [future.result() for future in [pool.submit(work) for _ in range(threads)]]
    return Fetched(time.monotonic() - wall, time.process_time() - cpu, sum(sizes))


def decode(url: str, searches: Sequence[Search]) -> Decoded:
    """Decode what some searches return with each decoder; only decoding is timed."""

    def uncollected(body: bytes) -> None:
        gc.disable()
        orjson.loads(body)
        gc.enable()

    decoders: tuple[Callable[[bytes], object], ...] = (
        orjson.loads,
        uncollected,
        msgspec.json.decode,
        SearchDecoder("root").decode,
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
    return Decoded(size, *seconds)


def _get(session: requests.Session, url: str, search: Search) -> bytes:
    params: dict[str, str | int] = {"q": _QUERY, "start": search.start, "end": search.end, "limit": search.limit}
    response = session.get(f"{url}/api/search", params=params, timeout=300)
    response.raise_for_status()
    return response.content
