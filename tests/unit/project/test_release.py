"""``tools/release.py``: what it accepts as a release, and what it builds from this repository."""

import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

import tools.release
from exporter import __version__
from tests.support.paths import REPOSITORY
from tools.release import changelog_problems, content_problems, metadata_problems, problems

CHANGELOG = """\
# Changelog

## 1.2.0 / 2026-11-29

* [CHANGE] Rename a key.
* [FEATURE] Add a command.
  It has an option.
* [BUGFIX] Do not crash.

## 1.1.0 / 2026-01-01

* [SOMETHING] Old entries stay as they are.
"""


def test_a_dated_entry_with_ordered_kinds_is_accepted() -> None:
    assert changelog_problems(CHANGELOG, "1.2.0") == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("1.2.0 / 2026-11-29", "Unreleased", "begins with 'Unreleased', not with '1.2.0 / YYYY-MM-DD'"),
        ("1.2.0 / 2026-11-29", "1.2.0", "begins with '1.2.0', not with '1.2.0 / YYYY-MM-DD'"),
        ("1.2.0 / 2026-11-29", "1.3.0 / 2026-11-29", "begins with '1.3.0 / 2026-11-29'"),
        ("[BUGFIX]", "[FIX]", "found FIX"),
        ("[CHANGE]", "[PERF]", "in the order CHANGE, FEATURE"),
        ("## ", "### ", "begins with no entry"),
        ("* [", "- [", "found none"),
    ],
)
def test_another_change_log_is_refused(old: str, new: str, problem: str) -> None:
    (found,) = changelog_problems(CHANGELOG.replace(old, new), "1.2.0")
    assert problem in found


def test_metadata_of_another_version_is_refused() -> None:
    metadata = (
        "Name: tempo-anomaly-exporter\nVersion: 1.1.0\nLicense-Expression: MIT\n"
        "Description-Content-Type: text/markdown\n\n# README\nVersion: 1.2.0\n"
    )
    assert metadata_problems(metadata, "1.1.0") == []
    assert metadata_problems(metadata, "1.2.0") == ["METADATA: Version is 1.1.0, not 1.2.0"]


def test_missing_and_superfluous_files_are_named() -> None:
    assert content_problems("a.whl", ["x", "y"], ["y", "z"]) == ["a.whl lacks z", "a.whl holds x"]


def test_this_repository_builds_a_release_without_problems(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True, timeout=110)
    # Between releases the change log begins with what the next one will have.
    assert [problem for problem in problems(tmp_path, __version__) if "with 'Unreleased'" not in problem] == []
    (wheel,) = tmp_path.glob("*.whl")
    assert {"exporter/py.typed", "exporter/web/static/style.css"} <= set(ZipFile(wheel).namelist())
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "configs/exporter.yaml", "docs/README.md", "grafana/kustomization.yaml"} <= names


def test_a_release_with_problems_fails_and_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tempo_anomaly_exporter-0.0.1.tar.gz").touch()
    monkeypatch.setattr(tools.release, "DIST", tmp_path)
    monkeypatch.setattr("tools.release.subprocess.run", lambda *_, **__: None)
    monkeypatch.setattr(tools.release, "problems", lambda *_: ["CHANGELOG.md begins with no entry"])
    assert tools.release.main() == 1
    assert capsys.readouterr().err == "CHANGELOG.md begins with no entry\n"
    # Builds of older versions are removed first.
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tools.release, "problems", lambda *_: [])
    assert tools.release.main() == 0
    assert f"git tag --annotate v{__version__}" in capsys.readouterr().out
