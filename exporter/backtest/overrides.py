"""Settings to try, given as ``--set detection.ratio=2``, on top of the configuration and by its own rules."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from exporter.config import Config, ConfigError, load_config
from exporter.config.keys import KEYS, Key
from exporter.config.wording import hint, shown_name

_SECTIONS: Final = ("timezone", "calendar", "stats", "fallback", "detection", "storage")
"""What a backtest depends on; the storage says what is replayed."""


def load_config_with(path: Path | None, environ: Mapping[str, str], settings: Sequence[str]) -> Config:
    """The configuration with some keys set, checked as a whole.

    A setting does what its environment variable would do, and beats it.

    Args:
        path: the YAML file, or none.
        environ: the environment.
        settings: ``key=value`` each, the key with dots; of several for the same key the last counts.

    Raises:
        ConfigError: with all that is wrong, in one message.
    """
    chosen: dict[Key, str] = {}
    problems: list[str] = []
    for setting in settings:
        name, separator, value = setting.partition("=")
        path_of_key = tuple(name.strip().split("."))
        key = KEYS.get(path_of_key)
        if key is None:
            shown = ".".join(map(shown_name, path_of_key))
            problems.append(f"{shown or 'a key'} (--set) is not a known key{hint(name, _settable())}")
        elif key.path[0] not in _SECTIONS:
            problems.append(f"{key.dotted} (--set) plays no part in a backtest")
        elif not separator or not value.strip():
            problems.append(f"{key.dotted} (--set) has no value: write --set {key.dotted}=VALUE")
        else:
            chosen[key] = value.strip()
    variables = {key.variable: value for key, value in chosen.items()}
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
    """A problem that names the command line, where that is where the value came from."""
    for variable in variables:
        problem = problem.replace(f"(environment variable {variable})", "(--set)")
    return problem
