"""The Dockerfile and the systemd unit: pinned, minimal, unprivileged, and complete."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text("utf-8")


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, with continued lines joined and without comments."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


INSTRUCTIONS = instructions(DOCKERFILE)
STAGES = [position for position, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM"]
FINAL = INSTRUCTIONS[STAGES[-1] :]


def test_hadolint_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run(
        [linter, "--no-color", REPOSITORY / "Dockerfile"], capture_output=True, text=True, timeout=60
    )
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


def test_the_final_stage_has_no_installer() -> None:
    assert len(STAGES) == 2
    building = INSTRUCTIONS[: STAGES[-1]]
    installs = [rest for name, rest in building if name == "RUN" and "pip" in rest]
    assert all(
        "--require-hashes" in part or "--no-deps" in part or "uninstall" in part or "--without-pip" in part
        for run in installs
        for part in run.split("&&")
    )
    assert installs[-1].rstrip().endswith("uninstall --yes pip")
    runs = " ".join(rest for name, rest in FINAL if name == "RUN")
    assert "pip uninstall" in runs
    assert "pip install" not in runs
    assert "apt-get" not in runs


def test_both_stages_use_the_same_pinned_image() -> None:
    bases = {rest.split()[0] for name, rest in INSTRUCTIONS if name == "FROM"}
    assert len(bases) == 1
    assert re.fullmatch(r"python:\d+\.\d+(\.\d+)?-slim-[a-z]+", bases.pop())


def test_runs_as_a_numeric_user_other_than_root_who_can_write_to_the_volume() -> None:
    user = dict(FINAL)["USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    owner, group = user.split(":")
    made = next(rest for name, rest in FINAL if name == "RUN")
    assert f"--owner={owner} --group={group}" in made
    assert dict(FINAL)["VOLUME"] == '["/var/lib/tempo-anomaly-exporter"]'
    environment = next(rest for name, rest in FINAL if name == "ENV")
    assert "STORAGE_PATH=/var/lib/tempo-anomaly-exporter/" in environment


def test_has_the_standard_labels() -> None:
    labels = " ".join(rest for name, rest in FINAL if name == "LABEL")
    for label in ("title", "description", "licenses", "version", "revision", "created"):
        assert f"org.opencontainers.image.{label}=" in labels


def test_health_check_stop_signal_and_entry_point() -> None:
    final = dict(FINAL)
    assert 'CMD ["python", "-m", "exporter.cli.healthcheck"' in final["HEALTHCHECK"]
    assert final["STOPSIGNAL"] == "SIGTERM"
    assert final["ENTRYPOINT"] == '["tempo-anomaly-exporter"]'
    assert final["EXPOSE"] == "9817"


def test_the_build_context_is_exactly_what_is_copied() -> None:
    copied = {
        source
        for name, rest in INSTRUCTIONS
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert all((REPOSITORY / source).exists() for source in copied)
    ignored = (REPOSITORY / ".dockerignore").read_text("utf-8").splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    assert sent == copied


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_systemd_unit_is_valid_and_hardened() -> None:
    unit = REPOSITORY / "configs/systemd/tempo-anomaly-exporter.service"
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    complaints = [
        line for line in verified.stderr.splitlines() if unit.name in line and "is not executable" not in line
    ]
    assert complaints == []
    security = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert security.returncode == 0, security.stdout
