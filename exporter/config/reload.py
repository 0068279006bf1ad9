"""Which changes of the configuration a running exporter takes over, and which need a restart."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from exporter.config.contradictions import contradictions
from exporter.config.keys import KEYS, KeyPath
from exporter.config.load import ConfigError
from exporter.config.schema import Config

_Model = TypeVar("_Model", bound=BaseModel)

_RELOADABLE: Final = (
    "overrides",
    "marks",
    "calendar",
    "stats",
    "fallback",
    "detection",
    "cause",
    "series",
    "grafana",
    "log",
)
"""Keys and sections that only decide what is done with the spans that were read."""

_NEEDS_RESTART: Final = (
    # What is read, and under which names it is stored.
    "stats.max_duration",
    "detection.window",
    "detection.max_window",
    "detection.errors.enabled",
    "detection.errors.when",
    "series.labels",
    "series.span_name",
    "series.max_label_bytes",
    # Whether there is a thread for it.
    "cause.enabled",
)
"""Exceptions from :data:`_RELOADABLE`."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """A changed configuration, as far as a running exporter takes it over.

    Attributes:
        config: the configuration to use from now on.
        taken: the changed keys that it contains, dotted, in the order of the reference.
        left: the changed keys that it does not contain, because they need a restart.
    """

    config: Config
    taken: tuple[str, ...]
    left: tuple[str, ...]


def is_reloadable(key: str) -> bool:
    """Return whether a running exporter takes over a changed key, given with dots."""
    return _is_within(key, _RELOADABLE) and not _is_within(key, _NEEDS_RESTART)


def take_over(current: Config, wanted: Config) -> Takeover:
    """Combine the configuration in use with a changed one.

    Args:
        current: the configuration in use.
        wanted: the configuration of the file and the environment; valid by itself.

    Raises:
        ConfigError: what would be taken over contradicts what is left.
    """
    changed = {path: key.dotted for path, key in KEYS.items() if _value(current, path) != _value(wanted, path)}
    taken = {path: dotted for path, dotted in changed.items() if is_reloadable(dotted)}
    config = _with_values(current, {path: _value(wanted, path) for path in taken})
    left = tuple(dotted for path, dotted in changed.items() if path not in taken)
    problems = [each.message for each in contradictions(config)]
    if problems:
        raise ConfigError([*problems, f"these keys need a restart, so their previous values count: {', '.join(left)}"])
    return Takeover(config, tuple(taken.values()), left)


def _is_within(key: str, places: tuple[str, ...]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _value(config: Config, path: KeyPath) -> Any:
    return reduce(getattr, path, config)


def _with_values(model: _Model, values: Mapping[KeyPath, Any]) -> _Model:
    """Return a copy of a section with other values, given by the path from the section."""
    own = {path[0]: value for path, value in values.items() if len(path) == 1}
    deeper: dict[str, dict[KeyPath, Any]] = {}
    for path, value in values.items():
        if len(path) > 1:
            deeper.setdefault(path[0], {})[path[1:]] = value
    sections = {name: _with_values(getattr(model, name), within) for name, within in deeper.items()}
    return model.model_copy(update={**own, **sections})
