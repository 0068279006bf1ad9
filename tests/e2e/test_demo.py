"""The demo command."""

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT
from urllib.parse import urlsplit

import pytest
import requests

from exporter.model.span import SeriesKey
from tests.support.processes import Lines, command, eventually, run
from tests.support.scrape import Metrics
from tools.processes import environment

CHECKOUT = SeriesKey("checkout", "POST /checkout")
AFFECTED = {
    CHECKOUT,
    SeriesKey("payments", "POST /charges"),
    SeriesKey("ledger", "ledger.v1.Ledger/Book"),
}
"""The endpoint of the incident, and those between it and the slow call."""
BACKFILL_SECONDS = 240
FLAG_SECONDS = 240


@contextmanager
def demo(directory: Path) -> Iterator[tuple["subprocess.Popen[str]", Lines]]:
    """Run the demo and collect its output; it is killed at the end, or ends by itself after --for."""
    process = subprocess.Popen(
        command("demo", "--port", "0", "--incident-after", "5", "--for", str(BACKFILL_SECONDS + FLAG_SECONDS + 30)),
        cwd=directory,
        env=environment(TMPDIR=str(directory)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert process.stdout is not None
    output = Lines(process.stdout)
    try:
        yield process, output
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        output.close()


def address(output: Lines, name: str) -> str | None:
    """Return an address that the demo printed."""
    addresses = [match[1] for line in output.lines if (match := re.match(rf"\s+{name}\s+(http://\S+)$", line))]
    return addresses[0] if addresses else None


def children_of(pid: int) -> list[int]:
    """Return the child processes of a process, from /proc."""
    children = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue  # the process has ended
        if re.search(rf"^PPid:\s+{pid}$", text, re.MULTILINE):
            children.append(int(status.parent.name))
    return children


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.timeout(BACKFILL_SECONDS + FLAG_SECONDS + 60)
def test_demo_reads_a_week_and_flags_its_incident(tmp_path: Path) -> None:
    with demo(tmp_path) as (process, output):

        def page() -> Metrics:
            assert process.poll() is None, output.tail()
            response = requests.get(address(output, "metrics") or "", timeout=10)
            return Metrics.parse(response.text)

        def levels() -> dict[str, float]:
            return page().by("series_by_fallback_level", "level")

        eventually(lambda: address(output, "Tempo API") is not None, output.tail, 30)
        eventually(lambda: page()["backfill_complete"] == 1 and all(levels().values()), output.tail, BACKFILL_SECONDS)
        week = page()
        assert week["backfill_progress_ratio"] == 1
        assert sum(week.by("backfill_windows", "state").values()) in (167, 168)
        assert week["history_traces"] > 50_000
        assert set(week.by("series_by_fallback_level", "level")) == {"1", "2", "3", "4", "5"}

        def anomalous() -> list[SeriesKey]:
            now = page()
            return [series for series in now.series() if now.get("anomalous", series, kind="shift") == 1]

        eventually(lambda: CHECKOUT in anomalous(), output.tail, FLAG_SECONDS)
        assert set(anomalous()) <= AFFECTED
        eventually(
            lambda: any("ANOMALOUS" in line and "POST /checkout" in line for line in output.lines), output.tail, 10
        )

        children = children_of(process.pid)
        tempo = urlsplit(address(output, "Tempo API") or "")
        process.send_signal(SIGINT)
        assert process.wait(10) == 0
        eventually(lambda: not any(map(is_alive, children)), lambda: f"still alive: {children}", 10)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((tempo.hostname, tempo.port), timeout=5).close()

    assert "Traceback" not in "\n".join(output.lines)
    assert any("Backfill is complete" in line for line in output.lines)
    assert list(tmp_path.iterdir()) == []


def test_unusable_port_is_refused(tmp_path: Path) -> None:
    ended = run("demo", "--port", "99999", directory=tmp_path)
    assert ended.returncode == 2
    assert "99999 is not in the range" in ended.stderr

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("demo", "--port", str(port), directory=tmp_path)
    assert ended.returncode == 1
    assert f"cannot listen on port {port}: Address already in use" in ended.stderr
    assert "--port" in ended.stderr
