"""What ``docs/examples.md`` shows: real exporters on the demo's Tempo, each process of its own, over loopback.

Each scenario returns the blocks of the document that it has seen, by name.
"""

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from exporter.demo.scenario import INCIDENT_SERVICE, INCIDENT_SPAN, calendar_weekend
from exporter.demo.show import tempo_process
from tests.support.processes import ExporterProcess, eventually, run, settings
from tools.examples import fields, laid_out, shortened

Blocks = Mapping[str, str]

_PATIENCE_SECONDS: Final = 600.0
_INCIDENT_AGO_SECONDS: Final = 490
"""The demo's incident lasts ten minutes: it is over not quite two minutes after the exporter has started."""
_CHECKOUT: Final = ("--service", INCIDENT_SERVICE, "--span", INCIDENT_SPAN)


class Observed(ExporterProcess):
    """A running exporter that logs as it does by default."""

    def logged(self, event: str | None = None) -> list[dict[str, Any]]:
        """The events that it has logged, or those with a key."""
        records = [fields(line) for line in self.log()]
        return [record for record in records if event in (None, record.get("event"))]

    def log(self) -> list[str]:
        """The lines of its log so far."""
        return [line for line in list(self.lines) if line.startswith("ts=")]

    def await_logged(self, *events: str, times: int = 1) -> None:
        """Wait until it has logged each of some events."""
        self._await(f"nothing of {events}", lambda: all(len(self.logged(each)) >= times for each in events))

    def _await(self, what: str, condition: Callable[[], bool], timeout: float = _PATIENCE_SECONDS) -> None:
        eventually(condition, lambda: "\n".join([what, *self.log()[-20:]]), timeout)

    def typed(self, *arguments: str, stdout: bool = True) -> str:
        """A command beside it as one types it, and what it prints."""
        done = run(*arguments, directory=self.directory, timeout=_PATIENCE_SECONDS)
        shown = shlex.join(arguments) + ("" if stdout else " > metrics.txt")
        return f"$ tempo-anomaly-exporter {shown}\n{done.stdout if stdout else done.stderr}"


def configured(url: str, **changes: Any) -> dict[str, Any]:
    """The demo's own settings: polls every 3 s, a flag held back for 9 s and kept for 30 s."""
    base: dict[str, Any] = {
        "calendar": {"weekend": list(calendar_weekend(time.time()))},
        "detection": {"hold": "9s", "clear_hold": "30s"},
        "log": {"format": "logfmt"},
        "polling": {"tempo_interval": "3s"},
    }
    return settings(url, **{name: {**base.get(name, {}), **changes.get(name, {})} for name in {*base, *changes}})


def shop(directory: Path) -> Blocks:
    """The demo's week, an incident, and all that one may ask meanwhile."""
    now = time.time()
    times = ("--anchor", repr(now), "--incident-after", str(-_INCIDENT_AGO_SECONDS))
    with tempo_process(*times) as url, Observed(directory, configured(url)) as running:
        running.await_logged("backfill_complete", "shift_firing")
        backfill = running.log()
        backfill = backfill[: 1 + next(n for n, line in enumerate(backfill) if "backfill_complete" in line)]
        own = ("--config", "exporter.yaml")
        answer = running.get(
            "/api/v1/check", params={"service_name": INCIDENT_SERVICE, "span_name": INCIDENT_SPAN, "duration": "3s"}
        )
        found = answer.json()
        path = answer.request.path_url
        new = ("--service", "gateway", "--span", "GET /api/v2/recommendations")
        usual = ("--service", "gateway", "--span", "GET /api/cart")
        blocks = {
            "backfill": shortened(backfill),
            "once": running.typed(*own, "--once", "--log-level", "warning", stdout=False),
            "check question": f"curl 'http://localhost:9817{path}'",
            "check": laid_out(found),
            "explain healthy": running.typed(*own, "explain", *usual),
            "explain outlier": running.typed(*own, "explain", *_CHECKOUT, "--duration", "3s"),
            "explain unavailable": running.typed(*own, "explain", *new),
            "explain trace": running.typed(*own, "explain", "--trace", found["now"]["last_outlier"]["trace_id"]),
            "verify healthy": running.typed("verify", "--url", running.url),
        }
        running.await_logged("shift_resolved")
        told = ("shift_firing", "shift_resolved")
        blocks["flag"] = "\n".join(line for line in running.log() if fields(line)["event"] in told)
        return blocks


def saturated(directory: Path) -> Blocks:
    """Searches that come back full, and a Tempo that keeps less than is wanted."""
    configuration = configured("", tempo={"limit": 1000}, polling={"backfill_duration": "24h"})
    with tempo_process("--retention", str(12 * 3600), "--metrics", "refused") as url:
        configuration["tempo"]["url"] = url
        with Observed(directory, configuration) as running:
            running.await_logged("backfill_complete")
            log = running.log()
            running.wait_until_filled()
            return {"saturated": shortened(log), "verify short": running.typed("verify", "--url", running.url)}


def dense(directory: Path) -> Blocks:
    """More traces than the budget of a window."""
    polling = {"tempo_interval": "15s", "backfill_duration": "4h", "max_traces_per_window": 5000}
    with tempo_process("--traffic", "20") as url, Observed(directory, configured(url, polling=polling)) as running:
        running.await_logged("backfill_complete")
        return {"dense": shortened(running.log())}


def restart(directory: Path) -> Blocks:
    """Stopped in the middle of its first backfill, and started again."""
    polling = {"backfill_duration": "24h"}
    with tempo_process("--delay", "0.5") as url:
        with Observed(directory, configured(url, polling=polling)) as first:
            first.await_logged("window_read", times=8)
            first.stop()
        with Observed(directory, configured(url, polling=polling)) as second:
            second.await_logged("backfill_complete")
            return {"restart": f"{shortened(first.log())}\n\n{shortened(second.log())}"}


def outage(directory: Path) -> Blocks:
    """Tempo goes away in the middle of a backfill, and comes back."""
    anchor = ("--anchor", repr(time.time()))
    with tempo_process(*anchor, "--delay", "0.5") as url:
        running = Observed(directory, configured(url, polling={"backfill_duration": "24h"}))
        running.start()
        running.await_logged("window_read", times=8)
    with running_until_end(running):
        running.await_logged(
            "window_failed",
            "poll_failed",
        )
        away = running.typed("verify", "--url", running.url)
        with tempo_process(*anchor, port=int(url.rpartition(":")[2])):
            running.await_logged("backfill_complete")
            running.wait_for(lambda page: page["tempo_up"] == 1)
            return {"outage": shortened(running.log()), "verify outage": away}


@contextmanager
def running_until_end(running: ExporterProcess) -> Iterator[None]:
    """End a process that has been started."""
    try:
        yield
    finally:
        running.kill()


SCENARIOS: Final[Mapping[str, Callable[[Path], Blocks]]] = {
    "shop": shop,
    "saturated": saturated,
    "dense": dense,
    "restart": restart,
    "outage": outage,
}
