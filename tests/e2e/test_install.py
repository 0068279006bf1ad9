"""The wheel in an environment with only the locked requirements, as users install it."""

import re
import shutil
import subprocess
import sys
import time
import venv
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest

from exporter import __version__
from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartTempo
from tests.support.paths import REPOSITORY
from tests.support.processes import write_settings
from tests.support.traffic import HOUR, Traffic
from tools.processes import environment


def locked() -> list[str]:
    """Return the names of the locked requirements."""
    return re.findall(r"^([a-z0-9-]+)==", (REPOSITORY / "requirements.lock").read_text("utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built like a release."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=240,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with only the wheel and the locked requirements.

    The requirements are copied from the environment of the tests, which has the same versions; nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    interpreter = folder / "bin/python"
    packages = Path(
        subprocess.run(
            [interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
            timeout=240,
        ).stdout.strip()
    )
    # sqlite-utils requires pip for a command that the exporter does not use; images leave it out, too.
    for name in set(locked()) - {"pip"}:
        for file in distribution(name).files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", interpreter, "install", "--no-index", "--no-deps", "--quiet", wheel],
        check=True,
        timeout=240,
    )
    return interpreter


def test_wheel_contains_only_the_package(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"exporter", f"tempo_anomaly_exporter-{__version__}.dist-info"}
    assert "exporter/py.typed" in names


def test_installed_command_runs_without_development_packages(python: Path, tmp_path: Path, tempo: StartTempo) -> None:
    command = python.with_name("tempo-anomaly-exporter")

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [command, *arguments], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240
        )

    assert run("--version").stdout == f"tempo-anomaly-exporter, version {__version__}\n"
    traffic = Traffic()
    hour = int(time.time()) // HOUR * HOUR
    traffic.hourly(SeriesKey("shop", "GET /cart"), range(hour - 2 * HOUR, hour, HOUR), count=10, scale=0.1)
    server = tempo(traffic)
    config = write_settings(tmp_path, {"tempo": {"url": server.url}, "polling": {"backfill_duration": "2h"}})
    checked = run("--config", str(config), "--check-config")
    assert (checked.returncode, checked.stderr) == (0, "")
    once = run("--config", str(config), "--once")
    assert once.returncode == 0, once.stderr
    assert "tempo_anomaly_build_info" in once.stdout
    without_extra = run("mcp")
    assert (without_extra.returncode, without_extra.stdout) == (2, "")
    assert "pip install 'tempo-anomaly-exporter[mcp]'" in without_extra.stderr


def test_every_module_can_be_imported(python: Path, tmp_path: Path) -> None:
    script = (
        "import importlib, pkgutil, exporter\n"
        "for module in pkgutil.walk_packages(exporter.__path__, 'exporter.'):\n"
        "    if not module.name.endswith(('__main__', '.mcp_server.server')):\n"
        "        importlib.import_module(module.name)\n"
    )
    imported = subprocess.run([python, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert (imported.returncode, imported.stderr) == (0, "")
