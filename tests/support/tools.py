"""The programs of Prometheus, Alertmanager and others that some tests need: found, or a reason to skip."""

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
}
"""The Debian package that has a program; others may come from anywhere."""


def tool(name: str) -> str:
    """The path of a program; without it the test is skipped, but not in continuous integration, where it fails."""
    path = shutil.which(name)
    if path is not None:
        return path
    package = _PACKAGES.get(name)
    missing = f"{name} is not on PATH" + (f" (Debian has it in the package {package})" if package else "")
    if os.environ.get("CI") == "true":
        pytest.fail(f"{missing}; continuous integration must have it")
    pytest.skip(missing)


def run_tool(
    name: str, *arguments: str, directory: Path | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its two outputs come as one, in ``stdout``."""
    return subprocess.run(
        [tool(name), *arguments],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
