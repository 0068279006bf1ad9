"""Reloads ``web.config_file``: TLS certificates, basic auth users and response headers.

These files change while the process runs, certificates every few weeks. A thread polls them and swaps in the new
configuration when it is valid; otherwise it logs the error and keeps the previous one.
"""

import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from exporter.runtime.logs import Log
from exporter.runtime.reload import FileState, ReloadStatus, file_state
from exporter.runtime.stop_budget import StopBudget
from exporter.web.passwords import Passwords

_POLL_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class WebConfigState:
    """The content of ``web.config_file`` and the files it names, as loaded.

    Attributes:
        files: the files, each with its state just before it was read.
        tls: TLS context for new connections; absent without TLS.
        passwords: users that may read; absent without basic auth.
        headers: headers that replace those of every response; an empty value removes the header.
    """

    files: Mapping[Path, FileState]
    tls: ssl.SSLContext | None = None
    passwords: Passwords | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class WebConfigReloader:
    """Holds the web configuration in use and keeps it up to date with its files."""

    def __init__(self, load: Callable[[], WebConfigState], log: Log, *, clock: Callable[[], float] = time.time) -> None:
        """Load the files.

        Args:
            load: reads the files; raises an exception with a message for the user if they are invalid.
            log: receives reloads and errors.
            clock: Unix seconds.

        Raises:
            Exception: the one that ``load`` raises.
        """
        self._load = load
        self._log = log
        self._clock = clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._state = load()
        self._error: str | None = None
        self._status = ReloadStatus(True, clock())

    @property
    def state(self) -> WebConfigState:
        """The configuration in use."""
        return self._state

    @property
    def status(self) -> ReloadStatus:
        """Outcome of the last check."""
        return self._status

    def tls_context(self) -> ssl.SSLContext:
        """The TLS context for a new connection; only to be called with TLS configured."""
        context = self._state.tls
        assert context is not None  # noqa: S101 - TLS is never switched off while the process runs
        return context

    def reload_if_changed(self) -> None:
        """Load the files if any has changed; after an error, load them every time until they are valid."""
        unchanged = all(file_state(path) == state for path, state in self._state.files.items())
        if unchanged and self._error is None:
            return
        try:
            state = self._load()
            self._check_security_kept(state)
        except Exception as error:  # noqa: BLE001 - any error: the previous configuration stays
            if str(error) != self._error:
                self._log.error(
                    "web_config_invalid",
                    "web.config_file is invalid; keeping the previous configuration",
                    error=str(error),
                )
            self._error = str(error)
            self._status = ReloadStatus(False, self._status.succeeded_at)
            return
        self._state, self._error = state, None
        self._status = ReloadStatus(True, self._clock())
        self._log.info(
            "web_config_reloaded",
            "web.config_file was reloaded",
            tls=state.tls is not None,
            passwords=state.passwords is not None,
        )

    def start(self) -> None:
        """Poll the files in a background thread."""

        def poll() -> None:
            while not self._stop.wait(_POLL_SECONDS):
                self.reload_if_changed()

        self._thread = threading.Thread(target=poll, name="web-config", daemon=True)
        self._thread.start()

    def stop(self, budget: StopBudget) -> None:
        """Stop polling."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(budget.seconds_for("web_config"))

    def _check_security_kept(self, state: WebConfigState) -> None:
        """Refuse to switch off TLS or basic auth: a file that is being written is incomplete for a moment."""
        if (state.tls is None) != (self._state.tls is None):
            raise ValueError("TLS can only be switched on or off by a restart")
        if state.passwords is None and self._state.passwords is not None:
            raise ValueError("basic_auth_users is now empty; basic auth can only be switched off by a restart")
