"""External programs that some tests need: found on PATH, or a reason to skip the test."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

_PACKAGES: Final[Mapping[str, str]] = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
}
"""The Debian package of a program."""


def program(name: str) -> str:
    """Return the path of a program; a missing program skips the test, or fails it in continuous integration."""
    path = shutil.which(name)
    if path is not None:
        return path
    package = _PACKAGES.get(name)
    missing = f"{name} is not on PATH" + (f" (Debian has it in the package {package})" if package else "")
    if os.environ.get("CI") == "true":
        pytest.fail(f"{missing}; continuous integration must have it")
    pytest.skip(missing)


def run_program(
    name: str, *arguments: str, directory: Path | None = None, timeout: float = 180
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; ``stdout`` has both its outputs."""
    return subprocess.run(
        [program(name), *arguments],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
