"""Loads configurations from text, for the tests of the configuration."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from exporter.config import Config, ConfigError, load_config


class Load(Protocol):
    """Loads a YAML text and an environment."""

    def __call__(self, text: str | bytes = "", environ: Mapping[str, str] = ..., /) -> Config: ...


Problems = Callable[..., tuple[str, ...]]
"""Like `Load`, for invalid configurations: returns the problems, without the directory of the file."""


def loader(directory: Path) -> Load:
    """Return a function that loads from a file ``c.yaml`` in this directory."""

    def load(text: str | bytes = "", environ: Mapping[str, str] = {}, /) -> Config:
        file = directory / "c.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(file, environ)

    return load


def refuser(directory: Path) -> Problems:
    """Return a function that loads an invalid configuration and returns its problems."""
    load = loader(directory)

    def problems(text: str | bytes = "", environ: Mapping[str, str] = {}, /) -> tuple[str, ...]:
        with pytest.raises(ConfigError) as refused:
            load(text, environ)
        for problem in refused.value.problems:
            assert problem in str(refused.value)
        return tuple(problem.replace(f"{directory}/", "") for problem in refused.value.problems)

    return problems
