"""Decides which series are kept: renames them, filters them by pattern, and limits their number."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from exporter.ingest.placeholders import with_placeholders
from exporter.ingest.probes import is_probe
from exporter.model.pattern import Pattern
from exporter.model.span import FilterReason, SeriesKey
from exporter.runtime.locks import LockRank, new_lock
from exporter.runtime.logs import Log

_MAX_CACHED_NAMES: Final = 100_000
_MAX_CACHED_CHARACTERS: Final = 16 << 20


@dataclass(frozen=True)
class SeriesRules:
    """Which series are kept, and under which names; patterns are searched for in ``service_name/span_name``.

    Attributes:
        include: if any, one of them must match.
        exclude: none of them may match.
        rename: patterns and their replacements in the span name, applied in order before everything else.
        placeholders: whether ids that are left in span names are replaced by placeholders then.
        max_series: maximum number of series.
        exclude_probes: whether health checks and tempo-vulture are left out, unless ``include`` has any pattern.
    """

    include: Sequence[Pattern] = ()
    exclude: Sequence[Pattern] = ()
    rename: Sequence[tuple[Pattern, str]] = ()
    placeholders: bool = True
    max_series: int = 10_000
    exclude_probes: bool = True

    def renamed(self, key: SeriesKey) -> SeriesKey:
        """Return the name under which a series is kept."""
        span_name = key.span_name
        for pattern, replacement in self.rename:
            span_name = pattern.sub(replacement, span_name)
        if self.placeholders:
            span_name = with_placeholders(span_name)
        return key._replace(span_name=span_name)

    def accepts(self, key: SeriesKey) -> bool:
        """Whether the patterns accept a series, given under its new name."""
        name = f"{key.service_name}/{key.span_name}"
        if self.include and not any(pattern.search(name) for pattern in self.include):
            return False
        return not any(pattern.search(name) for pattern in self.exclude) and not self.leaves_out_probe(key)

    def leaves_out_probe(self, key: SeriesKey) -> bool:
        """Return whether a series is left out because it is a probe; what ``include`` matches is wanted."""
        return self.exclude_probes and not self.include and is_probe(key)

    def is_outdated(self, key: SeriesKey) -> bool:
        """Return whether a stored name contains ids that are placeholders now, so that no span gets it any more."""
        return self.placeholders and with_placeholders(key.span_name) != key.span_name


@dataclass
class SeriesFilter:
    """Admits series in the order of their appearance, up to the limit; for any number of threads.

    Attributes:
        rules: which series are kept.
        log: gets a warning when the limit is reached.
        dropped: distinct names rejected because of the limit, as far as they are cached.
    """

    rules: SeriesRules
    log: Log | None = None
    dropped: int = 0
    _admitted: set[SeriesKey] = field(default_factory=set)
    _resolved: dict[SeriesKey, SeriesKey | FilterReason] = field(default_factory=dict)
    _cached_characters: int = 0
    _is_full: bool = False
    _has_logged_probe: bool = False
    _mutex: AbstractContextManager[bool, None] = field(default_factory=partial(new_lock, LockRank.SERIES_FILTER))

    def __len__(self) -> int:
        return len(self._admitted)

    def preload(self, keys: Iterable[SeriesKey]) -> None:
        """Admit series of the stored history, in the given order, as far as the rules still accept them."""
        with self._mutex:
            for key in keys:
                is_current = self.rules.accepts(key) and not self.rules.is_outdated(key)
                if is_current and len(self._admitted) < self.rules.max_series:
                    self._admitted.add(key)

    def admitted(self) -> list[SeriesKey]:
        """The series admitted so far, in no particular order."""
        with self._mutex:
            return list(self._admitted)

    def forget(self, keys: Iterable[SeriesKey]) -> None:
        """Remove series that no longer exist, so that others can be admitted."""
        with self._mutex:
            self._admitted.difference_update(keys)
            self._clear_cache()
            self._is_full = self._is_full and len(self._admitted) >= self.rules.max_series

    def resolve(self, key: SeriesKey) -> SeriesKey | FilterReason:
        """Return the name under which a series is kept, or the reason why it is not."""
        resolved = self._resolved.get(key)
        return resolved if resolved is not None else self._resolve(key)

    def _resolve(self, key: SeriesKey) -> SeriesKey | FilterReason:
        with self._mutex:
            resolved = self._resolved.get(key)
            if resolved is None:
                resolved = self._admit(self.rules.renamed(key))
                # A flood of distinct names must not fill the memory.
                self._cached_characters += len(key.service_name) + len(key.span_name)
                if len(self._resolved) >= _MAX_CACHED_NAMES or self._cached_characters > _MAX_CACHED_CHARACTERS:
                    self._clear_cache()
                self._resolved[key] = resolved
            return resolved

    def _admit(self, renamed: SeriesKey) -> SeriesKey | FilterReason:
        if renamed in self._admitted:
            return renamed
        if not self.rules.accepts(renamed):
            self._log_probe(renamed)
            return "filtered"
        if len(self._admitted) < self.rules.max_series:
            self._admitted.add(renamed)
            return renamed
        self.dropped += 1
        self._warn_full(renamed)
        return "series_limit"

    def _clear_cache(self) -> None:
        self._resolved.clear()
        self._cached_characters = 0

    def _log_probe(self, key: SeriesKey) -> None:
        """Log the first probe that is left out."""
        if self._has_logged_probe or self.log is None or not self.rules.leaves_out_probe(key):
            return
        self._has_logged_probe = True
        self.log.info(
            "probes_left_out",
            "health checks, scrapes and tempo-vulture are left out and counted as filtered; set series.exclude_probes "
            "to false to watch them",
            first_left_out=key,
        )

    def _warn_full(self, rejected: SeriesKey) -> None:
        """Log that the limit is reached, once until there is room again."""
        if self._is_full or self.log is None:
            return
        self._is_full = True
        self.log.warning(
            "series_limit_reached",
            "series.max is reached; traces of further series are left out and counted. Use series.exclude or "
            "series.rename, or raise series.max",
            series_max=self.rules.max_series,
            first_left_out=rejected,
        )
