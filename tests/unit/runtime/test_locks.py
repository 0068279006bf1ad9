"""The lock order, and what a violation raises."""

import re
import subprocess
import sys
import threading

import pytest

from exporter.runtime.locks import LockOrderError, LockRank, new_condition, new_lock, new_rlock
from tests.support.paths import REPOSITORY
from tools.processes import environment


def test_locks_are_checked_in_the_tests() -> None:
    first, second = new_lock(LockRank.STORE), new_lock(LockRank.BACKFILL_QUEUE)
    with first, pytest.raises(LockOrderError, match="BACKFILL_QUEUE acquired while STORE is held"), second:
        pass


def test_ascending_ranks_are_accepted() -> None:
    with new_lock(LockRank.BACKFILL_QUEUE), new_lock(LockRank.STORE), new_lock(LockRank.RATE_LIMIT):
        pass


def test_two_locks_of_one_rank_are_refused() -> None:
    with new_lock(LockRank.PAGE_CACHE), pytest.raises(LockOrderError), new_lock(LockRank.PAGE_CACHE):
        pass


def test_a_refused_lock_is_not_held_and_a_released_one_no_longer_counts() -> None:
    outer, inner = new_lock(LockRank.BACKFILL_QUEUE), new_lock(LockRank.STORE)
    with inner, pytest.raises(LockOrderError), outer:
        pass
    with outer, inner:
        pass


def test_ranks_count_per_thread() -> None:
    acquired: list[bool] = []

    def acquire_outer() -> None:
        with new_lock(LockRank.PAGE_CACHE):
            acquired.append(True)

    with new_lock(LockRank.STORE):
        thread = threading.Thread(target=acquire_outer)
        thread.start()
        thread.join()
    assert acquired == [True]


def test_a_reentrant_lock_may_be_acquired_again_below_a_higher_rank() -> None:
    store, log = new_rlock(LockRank.STORE), new_lock(LockRank.RATE_LIMIT)
    with store, log, store:
        pass
    with store, pytest.raises(LockOrderError), new_lock(LockRank.BACKFILL_QUEUE):
        pass


def test_a_condition_releases_its_lock_while_it_waits_however_often_it_was_acquired() -> None:
    condition = new_condition(LockRank.BACKFILL_QUEUE)
    waiting = threading.Event()
    woken: list[bool] = []

    def wait() -> None:
        with condition, condition:
            waiting.set()
            woken.append(condition.wait(30))
            # Held again, as often as before.
            with pytest.raises(LockOrderError), new_lock(LockRank.PAGE_CACHE):
                pass

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(30)
    with condition:
        condition.notify_all()
    thread.join()
    assert woken == [True]
    with condition:
        pass


def test_a_condition_that_is_not_held_cannot_be_notified() -> None:
    with pytest.raises(RuntimeError, match="un-acquired"):
        new_condition(LockRank.STORE).notify_all()


def test_without_the_check_the_locks_are_those_of_the_standard_library() -> None:
    assert type(new_lock(LockRank.STORE, checked=False)) is type(threading.Lock())
    assert type(new_rlock(LockRank.STORE, checked=False)) is type(threading.RLock())
    code = "from exporter.runtime.locks import *; print(type(new_lock(LockRank.STORE)).__name__)"
    plain = {
        name: value for name, value in environment(PYTHONPATH=str(REPOSITORY)).items() if name != "EXPORTER_CHECK_LOCKS"
    }
    ran = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "lock\n", ran.stderr


def test_documents_list_all_ranks_in_order() -> None:
    text = (REPOSITORY / "docs" / "threads.md").read_text("utf-8")
    assert re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE) == [rank.name for rank in LockRank]
