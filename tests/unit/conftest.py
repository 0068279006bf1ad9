"""Fixtures of all unit tests."""

import logging
import signal
from collections.abc import Iterator

import pytest

from exporter.config.keys import VARIABLES
from tests.support.database import close_memory_stores


@pytest.fixture(autouse=True)
def _memory_stores_closed() -> Iterator[None]:
    yield
    close_memory_stores()


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every variable that configures the exporter or a proxy."""
    for variable in (*VARIABLES, "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def restored_signals() -> Iterator[None]:
    """Restore the handlers of SIGTERM and SIGINT after the test.

    Commands that run in the test's own process replace them; child processes forked later would ignore SIGTERM.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """Restore the root logger after each test: commands configure it for their process."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
