"""Persistence of flags and suspect hours, so that they survive a restart."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from exporter.detection.flag import INACTIVE, Flag
from exporter.model.span import SeriesKey
from exporter.runtime.logs import Log
from exporter.store import Store, StoreError

_REPEAT_SECONDS: Final = 600.0


class FlagStore:
    """Saves flags as they change and loads them after a restart."""

    def __init__(self, store: Store, *, monotonic: Callable[[], float], log: Log) -> None:
        self._store = store
        self._log = log
        self._quiet_log = log.limited(_REPEAT_SECONDS, monotonic)

    def save(self, flags: Mapping[SeriesKey, Flag], suspects: Mapping[SeriesKey, Sequence[int]]) -> None:
        """Save changed flags and add suspect hours. A failure is logged, never raised.

        Args:
            flags: changed flags; an inactive one is deleted.
            suspects: starts of hours that firing flags touched, Unix seconds.
        """
        if not flags and not suspects:
            return
        encoded = {key: None if flag == INACTIVE else msgspec.json.encode(flag).decode() for key, flag in flags.items()}
        try:
            self._store.save_flags(encoded, suspects)
        except StoreError as error:
            self._quiet_log.error(
                "flags_not_saved", "cannot save flags; they would not survive a restart now", error=error
            )

    def load(self) -> dict[SeriesKey, Flag]:
        """The saved flags; an unreadable one counts as inactive.

        Raises:
            StoreError: the store cannot be read.
        """
        flags = {}
        for key, text in self._store.flags().items():
            try:
                flags[key] = msgspec.json.decode(text, type=Flag)
            except msgspec.DecodeError as error:
                self._log.warning(
                    "flag_unreadable", "a stored flag is unreadable; it is inactive now", series=key, error=error
                )
        return flags
