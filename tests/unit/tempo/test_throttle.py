"""The limits on concurrency and rate hold over all loops, and the poller goes first."""

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
from exporter.tempo.throttle import Throttle, Ticket, Turns

Job = tuple[float, Loop, float]
"""When it asks, who asks, how long it takes."""

_jobs = st.lists(
    st.tuples(st.floats(0, 20), st.sampled_from(LOOPS), st.floats(0, 5)),
    max_size=40,
)


class Simulation:
    """Runs jobs through an turns on a clock that jumps from event to event."""

    def __init__(self, turns: Turns, jobs: list[Job]) -> None:
        self.turns = turns
        self.begun: list[tuple[float, Loop]] = []
        self.waited: list[tuple[Loop, float, float]] = []
        self.peak: Counter[str] = Counter()
        self._arrivals = sorted(jobs)
        self._waiting: dict[Ticket, Job] = {}
        self._running: list[tuple[float, Ticket, Loop]] = []
        self._run()

    def _run(self) -> None:
        now = 0.0
        while self._arrivals or self._waiting or self._running:
            while self._arrivals and self._arrivals[0][0] <= now:
                job = self._arrivals.pop(0)
                self._waiting[self.turns.enqueue(job[1])] = job
            while self._running and self._running[0][0] <= now:
                self.turns.end(heapq.heappop(self._running)[1])
            upcoming = self._admit_all(now)
            upcoming += [self._arrivals[0][0]] if self._arrivals else []
            upcoming += [self._running[0][0]] if self._running else []
            if not upcoming:
                break
            now = max(now, min(upcoming))

    def _admit_all(self, now: float) -> list[float]:
        """Let begin what may, and say when to look again."""
        retries: list[float] = []
        progress = True
        while progress:
            progress, retries = False, []
            for ticket, (asked, loop, seconds) in list(self._waiting.items()):
                wait = self.turns.admit(ticket, now)
                if wait == 0:
                    del self._waiting[ticket]
                    heapq.heappush(self._running, (now + seconds, ticket, loop))
                    self.begun.append((now, loop))
                    self.waited.append((loop, asked, now))
                    counts = Counter(name for _, _, name in self._running)
                    self.peak["all"] = max(self.peak["all"], counts.total())
                    self.peak["others"] = max(self.peak["others"], counts.total() - counts["poll"])
                    progress = True
                elif wait < math.inf:
                    retries.append(now + wait)
        return retries


@given(_jobs, st.integers(1, 5), st.floats(0.2, 50))
def test_the_limits_hold_over_all_loops_and_everybody_gets_a_turn(
    jobs: list[Job], max_concurrency: int, requests_per_second: float
) -> None:
    run = Simulation(Turns(max_concurrency, requests_per_second), jobs)
    assert len(run.begun) == len(jobs)
    assert run.peak["all"] <= max_concurrency
    times = [when for when, _ in run.begun]
    spacing = 1 / requests_per_second
    assert all(later - earlier >= spacing * 0.999 for earlier, later in pairwise(times))


@given(_jobs, st.integers(2, 5))
def test_the_last_slot_is_the_pollers(jobs: list[Job], max_concurrency: int) -> None:
    run = Simulation(Turns(max_concurrency, 1000), jobs)
    assert run.peak["others"] <= max_concurrency - 1


@given(_jobs, st.integers(1, 5))
def test_nobody_overtakes_the_poller(jobs: list[Job], max_concurrency: int) -> None:
    run = Simulation(Turns(max_concurrency, 10), jobs)
    order = {job: position for position, job in enumerate(run.waited)}
    for poll in (job for job in run.waited if job[0] == "poll"):
        _, asked, begun = poll
        assert not any(
            loop != "poll" and asked < other_begun < begun and order[(loop, other_asked, other_begun)] < order[poll]
            for loop, other_asked, other_begun in run.waited
        )


def test_with_one_slot_the_poller_is_next() -> None:
    turns = Turns(1, 1000)
    running = turns.enqueue("backfill")
    assert turns.admit(running, 0) == 0
    backfill, api, poll = (turns.enqueue(loop) for loop in ("backfill", "api", "poll"))
    assert turns.admit(poll, 1) == math.inf
    turns.end(running)
    assert turns.admit(backfill, 1) == math.inf
    assert turns.admit(api, 1) == math.inf
    assert turns.admit(poll, 1) == 0
    turns.end(poll)
    assert turns.admit(backfill, 2) == math.inf
    assert turns.admit(api, 2) == 0


def test_a_request_that_comes_too_soon_is_told_how_long_to_wait() -> None:
    turns = Turns(4, 4)
    first, second = turns.enqueue("poll"), turns.enqueue("poll")
    assert turns.admit(first, 10) == 0
    assert turns.admit(second, 10.1) == pytest.approx(0.15)
    assert turns.admit(second, 10.25) == 0


def test_who_leaves_the_queue_is_not_waited_for() -> None:
    turns = Turns(2, 1000)
    impatient, patient = turns.enqueue("poll"), turns.enqueue("backfill")
    turns.leave(impatient)
    assert turns.admit(patient, 0) == 0


@pytest.mark.parametrize(("slots", "rate"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, -1.0), (1, math.nan)])
def test_limits_that_make_no_sense(slots: int, rate: float) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Turns(slots, rate)


class _Clock:
    """Moves on by a second whenever it is looked at, so that nothing waits for the rate."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def _throttle(slots: int, stop: threading.Event | None = None) -> Throttle:
    return Throttle(Turns(slots, 10), stop=stop or threading.Event(), monotonic=_Clock())


def test_a_poll_gets_in_while_a_backfill_has_all_it_may_have() -> None:
    throttle = _throttle(3)
    with throttle.slot("backfill"), throttle.slot("backfill"), throttle.slot("poll"):
        pass


def test_threads_take_turns() -> None:
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


def test_a_slot_is_given_back_when_the_request_fails() -> None:
    throttle = _throttle(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), throttle.slot("poll"):
            _ = 1 / 0


def test_stopping_ends_the_wait_and_leaves_the_queue() -> None:
    stop = threading.Event()
    throttle = _throttle(1, stop)
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            with throttle.slot("backfill"):
                pass
        except StoppedError as error:
            outcome.append(error)

    with throttle.slot("poll"):
        thread = threading.Thread(target=wait)
        thread.start()
        stop.set()
        thread.join()
    assert len(outcome) == 1
    stop.clear()
    with throttle.slot("backfill"):
        pass
