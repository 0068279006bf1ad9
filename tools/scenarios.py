"""Scenarios of ``docs/examples.md``: exporter processes reading the demo's Tempo over loopback.

Each scenario returns blocks of the document by name.
"""

import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from exporter.demo.scenario import INCIDENT_SERVICE, INCIDENT_SPAN, calendar_weekend
from exporter.demo.show import tempo_process
from tests.support.processes import ExporterProcess, eventually, run, settings
from tools.formatting import fields, laid_out, shortened

Blocks = Mapping[str, str]
Scenario = Callable[[Path], Blocks]

_TIMEOUT_SECONDS: Final = 600.0
_INCIDENT_STARTED_SECONDS_AGO: Final = 490
"""The demo's incident lasts ten minutes, so it ends not quite two minutes after the exporter starts."""
_CHECKOUT: Final = ("--service", INCIDENT_SERVICE, "--span", INCIDENT_SPAN)


class LoggingExporter(ExporterProcess):
    """A running exporter that logs in logfmt, its default."""

    def logged(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the logged records, or those of one event."""
        records = [fields(line) for line in self.log()]
        return [record for record in records if event in (None, record.get("event"))]

    def log(self) -> list[str]:
        """Return the lines of its log so far."""
        return [line for line in list(self.lines) if line.startswith("ts=")]

    def await_logged(self, *events: str, times: int = 1) -> None:
        """Wait until each of the events was logged so many times."""
        self._await(f"not logged: {events}", lambda: all(len(self.logged(each)) >= times for each in events))

    def _await(self, what: str, condition: Callable[[], bool], timeout: float = _TIMEOUT_SECONDS) -> None:
        eventually(condition, lambda: "\n".join([what, *self.log()[-20:]]), timeout)

    def run_command(self, *arguments: str, stdout: bool = True) -> str:
        """Run a command in its directory; returns the command line and the output as a terminal shows them."""
        done = run(*arguments, directory=self.directory, timeout=_TIMEOUT_SECONDS)
        shown = shlex.join(arguments) + ("" if stdout else " > metrics.txt")
        return f"$ tempo-anomaly-exporter {shown}\n{done.stdout if stdout else done.stderr}"


def configured(url: str, **changes: Any) -> dict[str, Any]:
    """Return the demo's configuration: a poll every 3 s, flags pending for 9 s and kept for 30 s."""
    base: dict[str, Any] = {
        "calendar": {"weekend": list(calendar_weekend(time.time()))},
        "detection": {"hold": "9s", "clear_hold": "30s"},
        "log": {"format": "logfmt"},
        "polling": {"tempo_interval": "3s"},
    }
    return settings(url, **{name: {**base.get(name, {}), **changes.get(name, {})} for name in {*base, *changes}})


def shop(directory: Path) -> Blocks:
    """Read the demo's week, with an incident, and run every query command during it."""
    now = time.time()
    times = ("--anchor", repr(now), "--incident-after", str(-_INCIDENT_STARTED_SECONDS_AGO))
    with tempo_process(*times) as url, LoggingExporter(directory, configured(url)) as running:
        running.await_logged("backfill_complete", "shift_firing")
        backfill = running.log()
        backfill = backfill[: 1 + next(n for n, line in enumerate(backfill) if "backfill_complete" in line)]
        own = ("--config", "exporter.yaml")
        response = running.get(
            "/api/v1/check", params={"service_name": INCIDENT_SERVICE, "span_name": INCIDENT_SPAN, "duration": "3s"}
        )
        check = response.json()
        path = response.request.path_url
        new = ("--service", "gateway", "--span", "GET /api/v2/recommendations")
        healthy = ("--service", "gateway", "--span", "GET /api/cart")
        blocks = {
            "backfill": shortened(backfill),
            "once": running.run_command(*own, "--once", "--log-level", "warning", stdout=False),
            "check question": f"curl 'http://localhost:9817{path}'",
            "check": laid_out(check),
            "explain healthy": running.run_command(*own, "explain", *healthy),
            "explain outlier": running.run_command(*own, "explain", *_CHECKOUT, "--duration", "3s"),
            "explain unavailable": running.run_command(*own, "explain", *new),
            "explain trace": running.run_command(*own, "explain", "--trace", check["now"]["last_outlier"]["trace_id"]),
            "verify healthy": running.run_command("verify", "--url", running.url),
        }
        running.await_logged("shift_resolved")
        flag_events = ("shift_firing", "shift_resolved")
        blocks["flag"] = "\n".join(line for line in running.log() if fields(line)["event"] in flag_events)
        return blocks


def saturated(directory: Path) -> Blocks:
    """Searches hit their limit, and Tempo retains less than the backfill wants."""
    configuration = configured("", tempo={"limit": 1000}, polling={"backfill_duration": "24h"})
    with tempo_process("--retention", str(12 * 3600), "--metrics", "refused") as url:
        configuration["tempo"]["url"] = url
        with LoggingExporter(directory, configuration) as running:
            running.await_logged("backfill_complete")
            log = running.log()
            running.wait_until_filled()
            return {"saturated": shortened(log), "verify short": running.run_command("verify", "--url", running.url)}


def dense(directory: Path) -> Blocks:
    """Windows exceed their budget of traces."""
    polling = {"tempo_interval": "15s", "backfill_duration": "4h", "max_traces_per_window": 5000}
    with (
        tempo_process("--traffic", "20") as url,
        LoggingExporter(directory, configured(url, polling=polling)) as running,
    ):
        running.await_logged("backfill_complete")
        return {"dense": shortened(running.log())}


def restart(directory: Path) -> Blocks:
    """Stop the exporter during its first backfill and restart it."""
    polling = {"backfill_duration": "24h"}
    with tempo_process("--delay", "0.5") as url:
        with LoggingExporter(directory, configured(url, polling=polling)) as first:
            first.await_logged("window_read", times=8)
            first.stop()
        with LoggingExporter(directory, configured(url, polling=polling)) as second:
            second.await_logged("backfill_complete")
            return {"restart": f"{shortened(first.log())}\n\n{shortened(second.log())}"}


def outage(directory: Path) -> Blocks:
    """Stop Tempo during a backfill and start it again."""
    anchor = ("--anchor", repr(time.time()))
    with tempo_process(*anchor, "--delay", "0.5") as url:
        running = LoggingExporter(directory, configured(url, polling={"backfill_duration": "24h"}))
        running.start()
        running.await_logged("window_read", times=8)
    with ExitStack() as stack:
        stack.callback(running.kill)
        running.await_logged("window_failed", "poll_failed")
        during_outage = running.run_command("verify", "--url", running.url)
        with tempo_process(*anchor, port=int(url.rpartition(":")[2])):
            running.await_logged("backfill_complete")
            running.wait_for(lambda page: page["tempo_up"] == 1)
            return {"outage": shortened(running.log()), "verify outage": during_outage}


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "shop": shop,
    "saturated": saturated,
    "dense": dense,
    "restart": restart,
    "outage": outage,
}
