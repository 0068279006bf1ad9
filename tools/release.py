"""``python -m tools.release``: build the release of the present version into ``dist/`` and check it.

Builds sdist and wheel with hatchling. Checks that the change log begins with a dated entry for the version, that the
wheel's metadata agrees, and that both archives hold what users need and nothing else. Prints the commands that tag the
release; running them is left to the maintainer.
"""

import re
import subprocess
import sys
import tarfile
from collections.abc import Collection, Iterable
from email.parser import HeaderParser
from pathlib import Path
from typing import Final
from zipfile import ZipFile

from exporter import __version__

ROOT: Final = Path(__file__).parents[1]
DIST: Final = ROOT / "dist"
KINDS: Final = ("CHANGE", "FEATURE", "ENHANCEMENT", "PERF", "BUGFIX")
"""Kinds of entries in the change log, in the order in which they are listed."""

_PACKAGE: Final = "tempo_anomaly_exporter"
_SHIPPED: Final = ("exporter", "docs", "configs", "grafana")
"""Folders of which the sdist must hold every file; the wheel holds the first."""
_TOP: Final = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
    "pyproject.toml",
    "requirements.lock",
)
_GENERATED: Final = frozenset({"PKG-INFO", ".gitignore"})
"""What hatchling adds to an sdist."""


def changelog_problems(text: str, version: str) -> list[str]:
    """Return what keeps the change log from being that of a release, sentence by sentence."""
    heading = re.search(r"^## (.+)$", text, re.MULTILINE)
    if heading is None or not re.fullmatch(rf"{re.escape(version)} / \d{{4}}-\d{{2}}-\d{{2}}", heading[1]):
        found = "no entry" if heading is None else f"'{heading[1]}'"
        return [f"CHANGELOG.md begins with {found}, not with '{version} / YYYY-MM-DD'"]
    entry = text[heading.end() :].partition("\n## ")[0]
    kinds = re.findall(r"^\* \[(\w+)\] ", entry, re.MULTILINE)
    unknown = sorted(set(kinds).difference(KINDS))
    if unknown or not kinds:
        return [f"CHANGELOG.md: entries are of the kinds {', '.join(KINDS)}, found {', '.join(unknown) or 'none'}"]
    if kinds != sorted(kinds, key=KINDS.index):
        return [f"CHANGELOG.md: entries are listed in the order {', '.join(KINDS)}"]
    return []


def metadata_problems(metadata: str, version: str) -> list[str]:
    """Return which headers of a wheel's METADATA are not as they should be."""
    headers = HeaderParser().parsestr(metadata)
    wanted = {
        "Name": _PACKAGE.replace("_", "-"),
        "Version": version,
        "License-Expression": "MIT",
        "Description-Content-Type": "text/markdown",
    }
    return [
        f"METADATA: {name} is {headers[name]}, not {value}" for name, value in wanted.items() if headers[name] != value
    ]


def content_problems(archive: str, present: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Return which files an archive lacks, and which it holds besides those wanted."""
    missing = sorted(set(wanted).difference(present))
    extra = sorted(set(present).difference(wanted))
    return [f"{archive} lacks {name}" for name in missing] + [f"{archive} holds {name}" for name in extra]


def shipped(folders: Collection[str]) -> set[str]:
    """Return the files in some folders of the repository, caches left out."""
    return {
        file.relative_to(ROOT).as_posix()
        for folder in folders
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def problems(dist: Path, version: str) -> list[str]:
    """Return everything that is wrong with a release built into a folder."""
    wheel = dist / f"{_PACKAGE}-{version}-py3-none-any.whl"
    sdist = dist / f"{_PACKAGE}-{version}.tar.gz"
    with ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(f"{_PACKAGE}-{version}.dist-info/METADATA").decode("utf-8")
    with tarfile.open(sdist) as sources:
        in_sdist = {member.name.partition("/")[2] for member in sources if member.isfile()} - _GENERATED
    return [
        *changelog_problems((ROOT / "CHANGELOG.md").read_text("utf-8"), version),
        *metadata_problems(metadata, version),
        *content_problems(wheel.name, in_wheel, shipped(_SHIPPED[:1])),
        *content_problems(sdist.name, in_sdist, shipped(_SHIPPED) | set(_TOP)),
    ]


def main() -> int:
    """Build, check, and say what to do next; return 1 when something is wrong."""
    for old in DIST.glob(f"{_PACKAGE}-*"):
        old.unlink()
    subprocess.run([sys.executable, "-m", "hatchling", "build", "--directory", DIST], cwd=ROOT, check=True)  # noqa: S603 - ours
    found = problems(DIST, __version__)
    for problem in found:
        print(problem, file=sys.stderr)  # noqa: T201 - its output
    if found:
        return 1
    print(  # noqa: T201 - its output
        f"\n{__version__} is built and checked. To publish it:\n"
        f'  git tag --annotate v{__version__} --message "{__version__}"\n'
        f"  git push origin v{__version__}\n"
        f"  and attach the files in dist/ to the release, with the entry of CHANGELOG.md as its text"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
