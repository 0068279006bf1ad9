"""Loads the configuration again while the exporter runs: on SIGHUP, and on a request if that is allowed."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from exporter.config import Config
from exporter.config.reload import take_over
from exporter.runtime.locks import LockRank, new_lock
from exporter.runtime.logs import Log
from exporter.runtime.reload import ReloadStatus


class ReloadError(Exception):
    """The configuration could not be loaded or taken over; the previous one stays in use."""


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """What a successful reload has changed.

    Attributes:
        taken: the changed keys that are in use now.
        left: the changed keys that need a restart.
    """

    taken: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        """A sentence for people."""
        if not self.taken and not self.left:
            return "the configuration has not changed"
        changes = [f"in use now: {', '.join(self.taken)}"] if self.taken else []
        changes += [f"changed, but only a restart takes them over: {', '.join(self.left)}"] if self.left else []
        return "the configuration was reloaded; " + "; ".join(changes)


class ConfigReloader:
    """Holds the configuration in use and takes over what has changed. Thread-safe."""

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config],
        apply: Callable[[Config], None],
        log: Log,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin with the configuration in use.

        Args:
            config: the configuration in use.
            load: loads the file and the environment; raises an exception with a message for people if it is invalid.
            apply: takes over a configuration, or raises an exception and changes nothing.
            log: receives reloads and errors.
            clock: Unix seconds.
        """
        self._config = config
        self._load = load
        self._apply = apply
        self._log = log
        self._clock = clock
        self._lock = new_lock(LockRank.CONFIG_RELOAD)
        self._status = ReloadStatus(True, clock())

    @property
    def status(self) -> ReloadStatus:
        """Outcome of the last load."""
        return self._status

    def reload(self) -> ReloadResult:
        """Load the configuration and take over what can be taken over.

        Raises:
            ReloadError: it is invalid, or could not be taken over; nothing has changed.
        """
        with self._lock:
            try:
                takeover = take_over(self._config, self._load())
                if takeover.taken:
                    self._apply(takeover.config)
            except Exception as error:
                self._status = ReloadStatus(False, self._status.succeeded_at)
                self._log.error(
                    "config_invalid",
                    "the configuration was not reloaded; the previous one stays in use",
                    error=str(error),
                )
                raise ReloadError(str(error)) from error
            self._config = takeover.config
            self._status = ReloadStatus(True, self._clock())
            result = ReloadResult(takeover.taken, takeover.left)
            self._log.info("config_reloaded", "the configuration was reloaded", taken=result.taken, left=result.left)
            if result.left:
                self._log.warning(
                    "config_needs_restart",
                    "some changed keys need a restart; their previous values stay",
                    keys=result.left,
                )
            return result
