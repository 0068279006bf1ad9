"""Which series are watched: the names a user wants, under the names a user wants, and as many as there is room for."""

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from exporter.ingest.placeholders import with_placeholders
from exporter.ingest.probes import is_probe
from exporter.model.span import FilterReason, SeriesKey
from exporter.runtime.locks import LockRank, new_lock
from exporter.runtime.logs import Log

_REMEMBERED_ANSWERS: Final = 100_000
_REMEMBERED_CHARACTERS: Final = 16 << 20


@dataclass(frozen=True)
class SeriesRules:
    """What decides over a series' name; the patterns are searched for in ``service_name/span_name``.

    Attributes:
        include: where there are any, one of them must match.
        exclude: none of them may match.
        rename: pairs of a pattern and what replaces it in the span name, applied in order before the rest.
        placeholders: whether ids that are left in span names then become placeholders.
        exclude_probes: whether health checks and tempo-vulture are left out, unless ``include`` matches them.
        most: how many series there may be.
    """

    include: Sequence[re.Pattern[str]] = ()
    exclude: Sequence[re.Pattern[str]] = ()
    rename: Sequence[tuple[re.Pattern[str], str]] = ()
    placeholders: bool = True
    exclude_probes: bool = True
    most: int = 10_000

    def renamed(self, key: SeriesKey) -> SeriesKey:
        """The name under which a series is kept."""
        span_name = key.span_name
        for pattern, replacement in self.rename:
            span_name = pattern.sub(replacement, span_name)
        if self.placeholders:
            span_name = with_placeholders(span_name)
        return key._replace(span_name=span_name)

    def wants(self, key: SeriesKey) -> bool:
        """Whether the patterns let a series (already renamed) in."""
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
    """Admits series, first come first served, and remembers whom it admitted; any thread may ask.

    Attributes:
        rules: the user's.
        log: is told once when there is no room for more.
        dropped: distinct names that found no room, as far as they are remembered.
    """

    rules: SeriesRules
    log: Log | None = None
    dropped: int = 0
    _admitted: set[SeriesKey] = field(default_factory=set)
    _answers: dict[SeriesKey, SeriesKey | FilterReason] = field(default_factory=dict)
    _characters: int = 0
    _is_full: bool = False
    _has_logged_probe: bool = False
    _mutex: AbstractContextManager[bool, None] = field(default_factory=partial(new_lock, LockRank.SERIES_FILTER))

    def __len__(self) -> int:
        return len(self._admitted)

    def preload(self, keys: Iterable[SeriesKey]) -> None:
        """Admit series that are known from before, in their old order, as far as the rules still want them."""
        with self._mutex:
            for key in keys:
                if self.rules.wants(key) and not self.rules.is_outdated(key) and len(self._admitted) < self.rules.most:
                    self._admitted.add(key)

    def known(self) -> list[SeriesKey]:
        """The series that are admitted, in no order."""
        with self._mutex:
            return list(self._admitted)

    def forget(self, keys: Iterable[SeriesKey]) -> None:
        """Make room: these series are gone."""
        with self._mutex:
            self._admitted.difference_update(keys)
            self._answers.clear()
            self._characters = 0
            self._is_full = self._is_full and len(self._admitted) >= self.rules.most

    def ask(self, key: SeriesKey) -> SeriesKey | FilterReason:
        """The name under which a span's series is kept, or why it is not."""
        answer = self._answers.get(key)
        return answer if answer is not None else self._decide(key)

    def _decide(self, key: SeriesKey) -> SeriesKey | FilterReason:
        with self._mutex:
            answer = self._answers.get(key)
            if answer is not None:
                return answer
            renamed = self.rules.renamed(key)
            if renamed in self._admitted:
                answer = renamed
            elif not self.rules.wants(renamed):
                answer = "filtered"
                self._log_probe(renamed)
            elif len(self._admitted) < self.rules.most:
                self._admitted.add(renamed)
                answer = renamed
            else:
                self.dropped += 1
                self._say_full(renamed)
                answer = "series_limit"
            # A flood of distinct names must not fill the memory with answers to them.
            self._characters += len(key.service_name) + len(key.span_name)
            if len(self._answers) >= _REMEMBERED_ANSWERS or self._characters > _REMEMBERED_CHARACTERS:
                self._answers.clear()
                self._characters = 0
            self._answers[key] = answer
            return answer

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

    def _say_full(self, first: SeriesKey) -> None:
        """Say that there is no room, once until there is some again."""
        if self._is_full or self.log is None:
            return
        self._is_full = True
        self.log.warning(
            "series_limit_reached",
            "series.max is reached; traces of further series are left out and counted. Use series.exclude or "
            "series.rename, or raise series.max",
            series_max=self.rules.most,
            first_left_out=first,
        )
