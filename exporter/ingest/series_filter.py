"""Decides which series are kept: renames them, filters them by pattern, and limits their number.

There are two limits. A service with too many span names is folded: its further names share one series, so that a
service whose names keep multiplying takes no room from the others. Beyond the limit on all series, they are left out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Final

from exporter.ingest.placeholders import with_placeholders
from exporter.ingest.probes import VERIFY_SERVICE, is_probe
from exporter.model.identity import BY_NAME, SeriesIdentity
from exporter.model.pattern import Pattern
from exporter.model.span import FOLDED_NAME, FilterReason, SeriesKey
from exporter.runtime.locks import LockRank, new_lock
from exporter.runtime.logs import Log

_MAX_CACHED_NAMES: Final = 100_000
_MAX_CACHED_CHARACTERS: Final = 16 << 20
_LABEL_CHARACTERS: Final = 20
"""Labels of a series are shared with others, so of each only a reference counts."""

_Sharing = tuple[str, tuple[tuple[str, str], ...]]
"""What series have in common that share one once there are too many: the service and the labels."""


def _sharing(key: SeriesKey) -> _Sharing:
    return key.service_name, key.labels


_EXAMPLES: Final = 3
"""Span names in the log of a service that is folded."""


@dataclass(frozen=True)
class SeriesRules:
    """Which series are kept, and under which names.

    Patterns are searched for in ``service_name/span_name``, and in the same with the labels behind it.

    Attributes:
        include: if any, one of them must match.
        exclude: none of them may match.
        rename: patterns and their replacements in the span name, applied in order before everything else.
        placeholders: whether ids that are left in span names are replaced by placeholders then.
        max_series: maximum number of series.
        max_per_service: span names of one service that are kept as series of their own, with the same labels; all
            others share one series.
        exclude_probes: whether health checks and tempo-vulture are left out, unless ``include`` has any pattern.
            The traces of ``verify --tempo`` always are.
        identity: the rules by which a span gets its series.
    """

    include: Sequence[Pattern] = ()
    exclude: Sequence[Pattern] = ()
    rename: Sequence[tuple[Pattern, str]] = ()
    placeholders: bool = True
    max_series: int = 10_000
    max_per_service: int = 1000
    exclude_probes: bool = True
    identity: SeriesIdentity = BY_NAME

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
        if self.include and not _matches_any(self.include, key):
            return False
        return not _matches_any(self.exclude, key) and not self.leaves_out_probe(key)

    def accepts_folded(self, key: SeriesKey) -> bool:
        """Whether a series of folded names is kept: each of them was accepted before, so only ``exclude`` counts."""
        return not _matches_any(self.exclude, key)

    def leaves_out_probe(self, key: SeriesKey) -> bool:
        """Return whether a series is left out because it is a probe; what ``include`` matches is wanted.

        The traces of ``verify --tempo`` are wanted in no case.
        """
        return key.service_name == VERIFY_SERVICE or (self.exclude_probes and not self.include and is_probe(key))

    def has_other_labels(self, key: SeriesKey) -> bool:
        """Return whether a stored series has labels that are not configured, so that no span becomes it any more."""
        return not {name for name, _ in key.labels} <= set(self.identity.label_names)

    def is_outdated(self, key: SeriesKey) -> bool:
        """Return whether no span becomes a stored series any more.

        Its name contains ids that are placeholders now, or it has labels that are not configured.
        """
        if self.has_other_labels(key):
            return True
        return self.placeholders and with_placeholders(key.span_name) != key.span_name


def _matches_any(patterns: Sequence[Pattern], key: SeriesKey) -> bool:
    if not patterns:
        return False
    texts = key.matched_texts
    return any(pattern.search(text) for pattern in patterns for text in texts)


@dataclass
class SeriesFilter:
    """Admits series in the order of their appearance, up to the limits; for any number of threads.

    Attributes:
        rules: which series are kept; see :meth:`use`.
        log: gets a warning when a limit is reached.
        dropped: distinct names rejected because of the limit, as far as they are cached.
    """

    rules: SeriesRules
    log: Log | None = None
    dropped: int = 0
    _admitted: dict[SeriesKey, None] = field(default_factory=dict)
    _own_names: Counter[_Sharing] = field(default_factory=Counter)
    _folded: dict[SeriesKey, int] = field(default_factory=dict)
    _resolved: dict[SeriesKey, SeriesKey | FilterReason] = field(default_factory=dict)
    _wanted: dict[SeriesKey, bool] = field(default_factory=dict)
    _cached_characters: int = 0
    _is_full: bool = False
    _has_logged_probe: bool = False
    _logged_services: set[str] = field(default_factory=set)
    _mutex: AbstractContextManager[bool, None] = field(default_factory=partial(new_lock, LockRank.SERIES_FILTER))

    def __len__(self) -> int:
        return len(self._admitted)

    def use(self, rules: SeriesRules, stored: Iterable[SeriesKey]) -> None:
        """Replace the rules while the exporter runs.

        Args:
            rules: the new rules; spans are still read with the same identity.
            stored: the series of the stored history; those that the rules accept are admitted first.
        """
        with self._mutex:
            self.rules = rules
            admitted = list(self._admitted)
            self._admitted.clear()
            self._own_names.clear()
            self._folded.clear()
            self._logged_services.clear()
            self._wanted.clear()
            self._is_full = False
            self._clear_cache()
        self.preload([*admitted, *stored])

    def wants(self, key: SeriesKey) -> bool:
        """Return whether the patterns accept a series, given under the name under which it is or was kept."""
        found = self._wanted.get(key)
        if found is None:
            if len(self._wanted) >= _MAX_CACHED_NAMES:
                self._wanted.clear()
            found = self.rules.accepts_folded(key) if key.is_folded else self.rules.accepts(key)
            self._wanted[key] = found
        return found

    def preload(self, keys: Iterable[SeriesKey]) -> None:
        """Admit series of the stored history, in the given order, as far as the rules still accept them."""
        with self._mutex:
            for key in keys:
                if key.is_folded:
                    is_current = self.rules.accepts_folded(key) and not self.rules.has_other_labels(key)
                else:
                    is_current = self.rules.accepts(key) and not self.rules.is_outdated(key) and self._has_room(key)
                if is_current and len(self._admitted) < self.rules.max_series:
                    self._add(key)

    def admitted(self) -> list[SeriesKey]:
        """The series admitted so far, in the order of their admission."""
        with self._mutex:
            return list(self._admitted)

    def folded_names(self) -> Mapping[str, int]:
        """Distinct span names that share the series of a folded service, as far as they are cached, by service."""
        with self._mutex:
            by_service: Counter[str] = Counter()
            for key, names in self._folded.items():
                by_service[key.service_name] += names
            return by_service

    def forget(self, keys: Iterable[SeriesKey]) -> None:
        """Remove series that no longer exist, so that others can be admitted."""
        with self._mutex:
            for key in keys:
                if key not in self._admitted:
                    continue
                del self._admitted[key]
                if key.is_folded:
                    self._folded.pop(key, None)
                    continue
                self._own_names[_sharing(key)] -= 1
                if not self._own_names[_sharing(key)]:
                    del self._own_names[_sharing(key)]
            self._clear_cache()
            self._is_full = self._is_full and len(self._admitted) >= self.rules.max_series

    def renamed(self, key: SeriesKey) -> SeriesKey:
        """Return the name that the present rules give a series, folded or not."""
        return self.rules.renamed(key)

    def name_of(self, key: SeriesKey) -> SeriesKey:
        """Return the series that has the spans of a name reported by Tempo; unlike :meth:`resolve`, admit nothing."""
        renamed = self.rules.renamed(key)
        with self._mutex:
            is_folded = renamed not in self._admitted and renamed.folded() in self._admitted
        return renamed.folded() if is_folded else renamed

    def is_searchable(self, key: SeriesKey) -> bool:
        """Return whether a series is kept under a name that Tempo knows, so that it can be searched for by name."""
        if key.is_folded or self.rules.renamed(key) != key or not self.rules.accepts(key):
            return False
        with self._mutex:
            return key in self._admitted or self._has_room(key)

    def _has_room(self, key: SeriesKey) -> bool:
        """Whether the service of a series may have one more name of its own."""
        return self._own_names[_sharing(key)] < self.rules.max_per_service

    def _add(self, key: SeriesKey) -> None:
        if key in self._admitted:
            return
        self._admitted[key] = None
        if key.is_folded:
            self._folded.setdefault(key, 0)
        else:
            self._own_names[_sharing(key)] += 1

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
                self._cached_characters += (
                    len(key.service_name) + len(key.span_name) + len(key.labels) * _LABEL_CHARACTERS
                )
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
        kept = renamed if self._has_room(renamed) or renamed.is_folded else renamed.folded()
        if kept != renamed and not self.rules.accepts_folded(kept):
            return "filtered"
        if kept not in self._admitted and len(self._admitted) >= self.rules.max_series:
            self.dropped += 1
            self._warn_full(renamed)
            return "series_limit"
        self._add(kept)
        if kept != renamed:
            self._folded[kept] += 1
            self._warn_folded(renamed)
        return kept

    def _clear_cache(self) -> None:
        self._resolved.clear()
        self._cached_characters = 0

    def _log_probe(self, key: SeriesKey) -> None:
        """Log the first probe that is left out."""
        if self._has_logged_probe or self.log is None or not self.rules.leaves_out_probe(key):
            return
        if key.service_name == VERIFY_SERVICE:
            return
        self._has_logged_probe = True
        self.log.info(
            "probes_left_out",
            "health checks, scrapes and tempo-vulture are left out and counted as filtered; set series.exclude_probes "
            "to false to watch them",
            first_left_out=key.parts,
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
            first_left_out=rejected.parts,
        )

    def _warn_folded(self, first: SeriesKey) -> None:
        """Log that further names of a service share one series, once for each service."""
        service = first.service_name
        if service in self._logged_services or self.log is None:
            return
        self._logged_services.add(service)
        latest = (
            key.span_name for key in reversed(self._admitted) if key.service_name == service and not key.is_folded
        )
        self.log.warning(
            "service_folded",
            "a service has more span names than series.max_per_service; its further names share one series. If the "
            "examples contain ids, use series.rename; if they are endpoints, raise series.max_per_service",
            service_name=service,
            span_name=FOLDED_NAME,
            max_per_service=self.rules.max_per_service,
            examples=[first.span_name, *islice(latest, _EXAMPLES - 1)],
        )
