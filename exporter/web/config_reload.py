"""Who may read and how it is kept from others: TLS, passwords and headers, as they are in force at the moment.

They come from files that change while the process runs, as certificates do every few weeks: a thread looks at the
files, and what can be used takes the place of what there was. What cannot be used is said and left alone.
"""

import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from exporter.runtime.logs import Log
from exporter.runtime.stop_budget import StopBudget
from exporter.web.passwords import Passwords

_LOOK_SECONDS: Final = 2.0

FileState = tuple[int, int, int] | None
"""What tells one version of a file from the next; absent where it is not there."""


@dataclass(frozen=True, slots=True)
class WebConfigState:
    """What is in force.

    Attributes:
        seen: the files that they were read from, and what state each was in before that.
        tls: what new connections are encrypted with; absent where there is no TLS.
        passwords: who may read; absent where everybody may.
        headers: headers of every answer in place of those it would have; an empty one takes a header away.
    """

    seen: Mapping[Path, FileState]
    tls: ssl.SSLContext | None = None
    passwords: Passwords | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReloadStatus:
    """What became of the last look at the files.

    Attributes:
        successful: whether what is in force is what the files say.
        succeeded_at: when they were last taken over, Unix seconds.
    """

    successful: bool
    succeeded_at: float


class WebConfigReloader:
    """The rules, kept up with their files."""

    def __init__(self, load: Callable[[], WebConfigState], log: Log, *, clock: Callable[[], float] = time.time) -> None:
        """Read the files.

        Args:
            load: reads them; raises whatever tells people what is wrong.
            log: is told of changes.
            clock: Unix seconds.

        Raises:
            Exception: whatever ``load`` raises.
        """
        self._load = load
        self._log = log
        self._clock = clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._rules = load()
        self._complaint: str | None = None
        self._status = ReloadStatus(True, clock())

    @property
    def rules(self) -> WebConfigState:
        """What is in force."""
        return self._rules

    @property
    def status(self) -> ReloadStatus:
        """What became of the last look."""
        return self._status

    def context(self) -> ssl.SSLContext:
        """What a new connection is encrypted with."""
        context = self._rules.tls
        assert context is not None  # noqa: S101 - TLS is never switched off while the process runs
        return context

    def look(self) -> None:
        """Take over what has changed in the files; while they cannot be used, try again every time."""
        unchanged = all(file_state(path) == state for path, state in self._rules.seen.items())
        if unchanged and self._complaint is None:
            return
        try:
            rules = self._load()
            self._refuse_to_lower(rules)
        except Exception as error:  # noqa: BLE001 - whatever it is, what was in force stays
            if str(error) != self._complaint:
                self._log.error(
                    "web_config_invalid",
                    "web.config_file is invalid; keeping the previous configuration",
                    error=str(error),
                )
            self._complaint = str(error)
            self._status = ReloadStatus(False, self._status.succeeded_at)
            return
        self._rules, self._complaint = rules, None
        self._status = ReloadStatus(True, self._clock())
        self._log.info(
            "web_config_reloaded",
            "web.config_file was reloaded",
            tls=rules.tls is not None,
            passwords=rules.passwords is not None,
        )

    def start(self) -> None:
        """Look at the files from now on, in a thread of its own."""

        def watch() -> None:
            while not self._stop.wait(_LOOK_SECONDS):
                self.look()

        self._thread = threading.Thread(target=watch, name="web-config", daemon=True)
        self._thread.start()

    def stop(self, budget: StopBudget) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(budget.seconds_for("web_config"))

    def _refuse_to_lower(self, rules: WebConfigState) -> None:
        """A file that is just being written is short for a moment: that must not open what was closed."""
        if (rules.tls is None) != (self._rules.tls is None):
            raise ValueError("TLS can only be switched on or off by a restart")
        if rules.passwords is None and self._rules.passwords is not None:
            raise ValueError("basic_auth_users is empty now: passwords can only be switched off by a restart")


def file_state(path: Path) -> FileState:
    """The state of a file; to be asked for before it is read, so that what is written meanwhile is noticed later."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
