"""Overrides of the detection settings for some series, and what they come to for one series."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from exporter.baseline.levels import FallbackRules
from exporter.detection.parameters import Parameters
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey

SEVERITIES: Final = ("critical", "warning", "info")
"""The severities that an override can give to the shift alerts of a series."""

_MAX_CACHED: Final = 50_000
"""Series whose policy is remembered; names in requests to the API are not trusted, so there is a limit."""


class OverrideValue(NamedTuple):
    """A value in an override.

    Attributes:
        key: its key within the override, such as ``ratio`` or ``severity``.
        text: the value as the configuration has it.
        field: the field of `Parameters` that it replaces, ``lookback_seconds``, ``is_enabled`` or ``severity``.
        value: the value of the field.
    """

    key: str
    text: str
    field: str
    value: Any


class Override(NamedTuple):
    """An item of ``overrides``: an expression on names of series, and values for the series that it matches."""

    match: Pattern
    values: tuple[OverrideValue, ...]


class AppliedValue(NamedTuple):
    """A value that an override gives to a series.

    Attributes:
        key: its key within the override.
        text: the value as the configuration has it.
        override: position of the override in the list, from 0.
    """

    key: str
    text: str
    override: int

    def __str__(self) -> str:
        """Return a description, such as ``ratio 2, by overrides[1]``."""
        return f"{self.key} {self.text}, by overrides[{self.override}]"


@dataclass(frozen=True, slots=True)
class SeriesPolicy:
    """The settings of a series that differ from those of all series.

    Attributes:
        rules: choice of the baseline.
        parameters: settings of the shift test.
        kept: how long recent traces are kept: at least as long as those of other series.
        is_enabled: whether there are verdicts; if not, traces are only counted.
        severity: severity of its shift alerts, of :data:`SEVERITIES`; None for that of the alert rules.
        applied: where the differences come from, in the order of the overrides.
    """

    rules: FallbackRules
    parameters: Parameters
    kept: Parameters
    is_enabled: bool = True
    severity: str | None = None
    applied: tuple[AppliedValue, ...] = ()


class SeriesPolicies:
    """Resolves the overrides of each series once. Thread-safe.

    Patterns are searched for in ``service_name/span_name``, and in the same with the labels behind it. Of several
    overrides that match, the first that has a key decides that key.
    """

    def __init__(self, overrides: tuple[Override, ...], rules: FallbackRules, parameters: Parameters) -> None:
        """Use overrides of the rules and parameters that all other series have."""
        self._overrides = overrides
        self._rules = rules
        self._parameters = parameters
        self._by_matches: dict[tuple[int, ...], SeriesPolicy | None] = {(): None}
        self._by_key: dict[SeriesKey, SeriesPolicy | None] = {}

    def __repr__(self) -> str:
        """Return the overrides: stored baselines of other overrides are not used."""
        return f"{type(self).__name__}({self._overrides!r})"

    def __reduce__(self) -> "tuple[Callable[..., SeriesPolicies], tuple[Any, ...]]":
        """Make it picklable, without what it has resolved so far."""
        return type(self), (self._overrides, self._rules, self._parameters)

    def of(self, key: SeriesKey) -> SeriesPolicy | None:
        """Return the policy of a series; None if no override matches it. Series with the same overrides share one."""
        if not self._overrides:
            return None
        try:
            return self._by_key[key]
        except KeyError:
            pass
        texts = key.matched_texts
        matches = tuple(
            position
            for position, override in enumerate(self._overrides)
            if any(override.match.search(text) for text in texts)
        )
        if matches not in self._by_matches:
            self._by_matches[matches] = self._resolve(matches)
        if len(self._by_key) >= _MAX_CACHED:
            self._by_key.clear()
        policy = self._by_key[key] = self._by_matches[matches]
        return policy

    def _resolve(self, matches: tuple[int, ...]) -> SeriesPolicy | None:
        fields: dict[str, Any] = {}
        applied: list[AppliedValue] = []
        for position in matches:
            for value in self._overrides[position].values:
                if value.field not in fields:
                    fields[value.field] = value.value
                    applied.append(AppliedValue(value.key, value.text, position))
        if not applied:
            return None
        lookback = fields.pop("lookback_seconds", self._rules.lookback_seconds)
        is_enabled, severity = fields.pop("is_enabled", True), fields.pop("severity", None)
        parameters = replace(self._parameters, **fields)
        # The two may come from different overrides, which are valid by themselves.
        longest = max(parameters.window_seconds, parameters.max_window_seconds)
        return SeriesPolicy(
            rules=replace(self._rules, lookback_seconds=lookback),
            parameters=replace(parameters, max_window_seconds=longest),
            kept=replace(
                parameters,
                window_seconds=max(parameters.window_seconds, self._parameters.window_seconds),
                max_window_seconds=max(longest, self._parameters.max_window_seconds),
            ),
            is_enabled=is_enabled,
            severity=severity,
            applied=tuple(applied),
        )
