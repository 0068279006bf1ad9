"""Persistence of flags and suspect hours, so that they survive a restart."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from exporter.detection.flag import Flag, FlagKind, SeriesFlags, decode_flags, encode_flags
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

    def save(
        self, flags: Mapping[SeriesKey, SeriesFlags], suspects: Mapping[SeriesKey, Sequence[int]], at: float
    ) -> None:
        """Save changed flags, since when they fire, and suspect hours. A failure is logged, never raised.

        Args:
            flags: all flags of each series of which one has changed; inactive ones are deleted.
            suspects: starts of hours that firing flags touched, Unix seconds.
            at: now, Unix seconds.
        """
        if not flags and not suspects:
            return
        encoded = {key: encode_flags(each) for key, each in flags.items()}
        firing = {
            key: {kind.value: flag.since for kind, flag in each.items() if flag.since is not None}
            for key, each in flags.items()
        }
        try:
            self._store.save_flags(encoded, suspects, firing, at)
        except StoreError as error:
            self._quiet_log.error(
                "flags_not_saved", "cannot save flags; they would not survive a restart now", error=error
            )

    def load(self) -> dict[SeriesKey, dict[FlagKind, Flag]]:
        """The saved flags; unreadable ones count as inactive.

        Raises:
            StoreError: the store cannot be read.
        """
        flags = {}
        for key, text in self._store.flags().items():
            try:
                flags[key] = decode_flags(text)
            except ValueError as error:
                self._log.warning(
                    "flag_unreadable", "a stored flag is unreadable; it is inactive now", series=key.parts, error=error
                )
        return flags
