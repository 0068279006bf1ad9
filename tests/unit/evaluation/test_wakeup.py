import threading
import time

from exporter.evaluation.wakeup import Wakeup


def test_wait_ends_when_the_time_is_over() -> None:
    began = time.monotonic()
    assert not Wakeup().wait(0.15, threading.Event())
    assert time.monotonic() - began >= 0.15


def test_wait_ends_when_another_thread_wakes_the_sleeper() -> None:
    wakeup = Wakeup()
    threading.Timer(0.05, wakeup.set).start()
    began = time.monotonic()
    assert wakeup.wait(60.0, threading.Event())
    assert time.monotonic() - began < 30


def test_wait_ends_when_stopped() -> None:
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    assert not Wakeup().wait(60.0, stop)
    assert time.monotonic() - began < 30


def test_a_wakeup_before_the_sleep_ends_that_sleep_only() -> None:
    wakeup = Wakeup()
    wakeup.set()
    assert wakeup.wait(60.0, threading.Event())
    assert not wakeup.wait(0.0, threading.Event())


def test_clear_discards_a_wakeup() -> None:
    wakeup = Wakeup()
    wakeup.set()
    wakeup.clear()
    assert not wakeup.wait(0.0, threading.Event())
