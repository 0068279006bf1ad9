"""Configuration overrides for one run, given as ``--set detection.ratio=2``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from exporter.config import Config, ConfigError, load_config
from exporter.config.keys import KEYS, Key
from exporter.config.wording import hint, shown_name

_SECTIONS: Final = ("timezone", "overrides", "calendar", "stats", "fallback", "detection", "storage")
"""Sections that affect a backtest; ``storage`` selects the history."""


def load_config_with(path: Path | None, environ: Mapping[str, str], settings: Sequence[str]) -> Config:
    """Load the configuration with overrides, and validate it as a whole.

    An override works like the environment variable of its key and takes precedence over it.

    Args:
        path: the YAML file, if any.
        environ: the environment.
        settings: overrides, ``key=value`` each, with the dotted key; the last one for a key wins.

    Raises:
        ConfigError: lists all problems.
    """
    overrides: dict[Key, str] = {}
    problems: list[str] = []
    for setting in settings:
        name, separator, value = setting.partition("=")
        key_path = tuple(name.strip().split("."))
        key = KEYS.get(key_path)
        if key is None:
            shown = ".".join(map(shown_name, key_path))
            problems.append(f"{shown or 'a key'} (--set) is not a known key{hint(name, _settable())}")
        elif key.path[0] not in _SECTIONS:
            problems.append(f"{key.dotted} (--set) has no effect on a backtest")
        elif not separator or not value.strip():
            problems.append(f"{key.dotted} (--set) has no value: write --set {key.dotted}=VALUE")
        else:
            overrides[key] = value.strip()
    variables = {key.variable: value for key, value in overrides.items()}
    try:
        config = load_config(path, {**environ, **variables})
    except ConfigError as error:
        raise ConfigError([*problems, *(_with_origin(problem, variables) for problem in error.problems)]) from None
    if problems:
        raise ConfigError(problems)
    return config


def _settable() -> list[str]:
    return [key.dotted for key in KEYS.values() if key.path[0] in _SECTIONS]


def _with_origin(problem: str, variables: Mapping[str, str]) -> str:
    """Replace the environment variable in a problem with ``--set`` if the value came from there."""
    for variable in variables:
        problem = problem.replace(f"(environment variable {variable})", "(--set)")
    return problem
