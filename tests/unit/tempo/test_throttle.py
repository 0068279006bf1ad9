"""Limits on concurrency and rate, over all loops, and the priority of polls."""

import heapq
import math
import threading
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.runtime.telemetry import LOOPS, Loop
from exporter.tempo.errors import StoppedError
from exporter.tempo.throttle import QueuedRequest, RequestQueue, Throttle

Arrival = tuple[float, Loop, float]
"""Arrival time, loop, and duration of a request."""

_arrivals = st.lists(
    st.tuples(st.floats(0, 20), st.sampled_from(LOOPS), st.floats(0, 5)),
    max_size=40,
)


class Simulation:
    """Runs requests through a queue on a simulated clock."""

    def __init__(self, queue: RequestQueue, arrivals: list[Arrival]) -> None:
        self.queue = queue
        self.started: list[tuple[float, Loop]] = []
        self.waited: list[tuple[Loop, float, float]] = []
        self.peak: Counter[str] = Counter()
        self._arrivals = sorted(arrivals)
        self._waiting: dict[QueuedRequest, Arrival] = {}
        self._running: list[tuple[float, QueuedRequest, Loop]] = []
        self._run()

    def _run(self) -> None:
        now = 0.0
        while self._arrivals or self._waiting or self._running:
            while self._arrivals and self._arrivals[0][0] <= now:
                arrival = self._arrivals.pop(0)
                self._waiting[self.queue.enqueue(arrival[1])] = arrival
            while self._running and self._running[0][0] <= now:
                self.queue.finish(heapq.heappop(self._running)[1])
            upcoming = self._start_all(now)
            upcoming += [self._arrivals[0][0]] if self._arrivals else []
            upcoming += [self._running[0][0]] if self._running else []
            if not upcoming:
                break
            now = max(now, min(upcoming))

    def _start_all(self, now: float) -> list[float]:
        """Start every request that may start; return when to try again."""
        retries: list[float] = []
        progress = True
        while progress:
            progress, retries = False, []
            for request, (arrived, loop, seconds) in list(self._waiting.items()):
                wait = self.queue.try_start(request, now)
                if wait == 0:
                    del self._waiting[request]
                    heapq.heappush(self._running, (now + seconds, request, loop))
                    self.started.append((now, loop))
                    self.waited.append((loop, arrived, now))
                    counts = Counter(name for _, _, name in self._running)
                    self.peak["all"] = max(self.peak["all"], counts.total())
                    self.peak["others"] = max(self.peak["others"], counts.total() - counts["poll"])
                    progress = True
                elif wait < math.inf:
                    retries.append(now + wait)
        return retries


@given(_arrivals, st.integers(1, 5), st.floats(0.2, 50))
def test_limits_hold_over_all_loops_and_every_request_starts(
    arrivals: list[Arrival], max_concurrency: int, requests_per_second: float
) -> None:
    simulation = Simulation(RequestQueue(max_concurrency, requests_per_second), arrivals)
    assert len(simulation.started) == len(arrivals)
    assert simulation.peak["all"] <= max_concurrency
    times = [when for when, _ in simulation.started]
    spacing = 1 / requests_per_second
    assert all(later - earlier >= spacing * 0.999 for earlier, later in pairwise(times))


@given(_arrivals, st.integers(2, 5))
def test_last_slot_is_reserved_for_polls(arrivals: list[Arrival], max_concurrency: int) -> None:
    simulation = Simulation(RequestQueue(max_concurrency, 1000), arrivals)
    assert simulation.peak["others"] <= max_concurrency - 1


@given(_arrivals, st.integers(1, 5))
def test_polls_are_not_overtaken(arrivals: list[Arrival], max_concurrency: int) -> None:
    simulation = Simulation(RequestQueue(max_concurrency, 10), arrivals)
    order = {arrival: position for position, arrival in enumerate(simulation.waited)}
    for poll in (arrival for arrival in simulation.waited if arrival[0] == "poll"):
        _, arrived, started = poll
        assert not any(
            loop != "poll" and arrived < other_begun < started and order[(loop, other_asked, other_begun)] < order[poll]
            for loop, other_asked, other_begun in simulation.waited
        )


def test_single_slot_goes_to_the_poll_first() -> None:
    queue = RequestQueue(1, 1000)
    running = queue.enqueue("backfill")
    assert queue.try_start(running, 0) == 0
    backfill, api, poll = (queue.enqueue(loop) for loop in ("backfill", "api", "poll"))
    assert queue.try_start(poll, 1) == math.inf
    queue.finish(running)
    assert queue.try_start(backfill, 1) == math.inf
    assert queue.try_start(api, 1) == math.inf
    assert queue.try_start(poll, 1) == 0
    queue.finish(poll)
    assert queue.try_start(backfill, 2) == math.inf
    assert queue.try_start(api, 2) == 0


def test_try_start_returns_the_time_to_wait_for_the_rate_limit() -> None:
    queue = RequestQueue(4, 4)
    first, second = queue.enqueue("poll"), queue.enqueue("poll")
    assert queue.try_start(first, 10) == 0
    assert queue.try_start(second, 10.1) == pytest.approx(0.15)
    assert queue.try_start(second, 10.25) == 0


def test_cancelled_request_does_not_block_the_queue() -> None:
    queue = RequestQueue(2, 1000)
    cancelled, waiting = queue.enqueue("poll"), queue.enqueue("backfill")
    queue.cancel(cancelled)
    assert queue.try_start(waiting, 0) == 0


@pytest.mark.parametrize(("slots", "rate"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, -1.0), (1, math.nan)])
def test_request_queue_rejects_invalid_limits(slots: int, rate: float) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RequestQueue(slots, rate)


class _TickingClock:
    """Advances by a second on every call, so that no request waits for the rate limit."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def _throttle(slots: int, stop: threading.Event | None = None) -> Throttle:
    return Throttle(RequestQueue(slots, 10), stop=stop or threading.Event(), monotonic=_TickingClock())


def test_poll_starts_while_backfill_uses_all_its_slots() -> None:
    throttle = _throttle(3)
    with throttle.slot("backfill"), throttle.slot("backfill"), throttle.slot("poll"):
        pass


def test_throttle_limits_concurrent_threads() -> None:
    throttle = _throttle(3)
    lock = threading.Lock()
    running, peak, done = 0, 0, 0

    def work() -> None:
        nonlocal running, peak, done
        for _ in range(20):
            with throttle.slot("backfill"):
                with lock:
                    running += 1
                    peak = max(peak, running)
                with lock:
                    running -= 1
                    done += 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == 160
    assert peak <= 2


def test_throttle_frees_the_slot_when_the_request_fails() -> None:
    throttle = _throttle(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), throttle.slot("poll"):
            _ = 1 / 0


def test_stopping_cancels_a_waiting_request() -> None:
    stop = threading.Event()
    throttle = _throttle(1, stop)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            with throttle.slot("backfill"):
                pass
        except StoppedError as error:
            errors.append(error)

    with throttle.slot("poll"):
        thread = threading.Thread(target=wait)
        thread.start()
        stop.set()
        thread.join()
    assert len(errors) == 1
    stop.clear()
    with throttle.slot("backfill"):
        pass
