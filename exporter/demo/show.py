"""The demo on a terminal: runs the embedded Tempo API and the exporter, and reports what happens."""

import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

import click

from exporter.app.app import App, build_app
from exporter.baseline.levels import FallbackLevel
from exporter.config import Config
from exporter.demo.faults import FaultKind
from exporter.demo.scenario import calendar_weekend
from exporter.detection.explanation import duration
from exporter.detection.flag import FlagKind
from exporter.evaluation.snapshot import KindStatus, SeriesStatus, Snapshot
from exporter.metrics.self_metrics import SelfMetrics
from exporter.model.span import SeriesKey
from exporter.runtime.signals import StopRequest
from exporter.runtime.stop_budget import StopBudget
from exporter.runtime.terminal import bar, progress_line
from exporter.store import Store
from exporter.web.server.server import Server

_INTERVAL_SECONDS: Final = 0.5
_WIDTH: Final = 100
_INDENT: Final = " " * 12
_FIRING: Final = {FlagKind.SHIFT: "ANOMALOUS", FlagKind.ERRORS: "FAILING  ", FlagKind.TRAFFIC: "TRAFFIC  "}
_KIND_TEXT: Final = {FlagKind.SHIFT: "latency", FlagKind.ERRORS: "failures", FlagKind.TRAFFIC: "traffic"}
_LEVEL_MEANING: Final = {
    FallbackLevel.EXACT: "this hour of the day",
    FallbackLevel.NEARBY: "nearby hours",
    FallbackLevel.DAYTYPE: "this day type",
    FallbackLevel.GLOBAL: "all history",
    FallbackLevel.UNAVAILABLE: "none, too new",
}


def show(
    *, port: int, seed: int, incident_after_seconds: float, seconds: float | None, fault: FaultKind = "slow_call"
) -> int:
    """Run the demo until interrupted; returns the exit status.

    Args:
        port: port of the exporter; 0 means any free port.
        seed: another seed gives different traffic.
        incident_after_seconds: start of the incident.
        seconds: end after this time; None means until interrupted.
        fault: what is wrong during the incident.
    """
    stop = StopRequest()
    stop.listen()
    now = time.time()
    click.echo("Generating a week of synthetic traffic, served by an embedded Tempo API ...")
    with (
        tempfile.TemporaryDirectory(prefix="tempo-anomaly-demo-") as folder,
        tempo_process(
            *("--anchor", repr(now), "--seed", str(seed), "--incident-after", repr(incident_after_seconds)),
            *("--fault", fault),
        ) as url,
    ):
        config = demo_config(url, now, Path(folder) / "demo.db")
        metrics = SelfMetrics()
        app = build_app(config, Store.open(config.storage.path, on_failure=metrics.storage_failed), metrics)
        try:
            server = Server(app.site, "127.0.0.1", port)
        except OSError as error:
            app.close()
            click.echo(f"cannot listen on port {port}: {error.strerror}; choose another with --port", err=True)
            return 1
        host, bound = server.addresses[0]
        click.echo(f"  status page  http://{host}:{bound}/")
        click.echo(f"  metrics      http://{host}:{bound}/metrics")
        click.echo(f"  Tempo API    {url}")
        app.start()
        server.start(lambda error: stop.make())  # noqa: ARG005
        try:
            _narrate(app, stop, None if seconds is None else time.monotonic() + seconds)
        finally:
            budget = StopBudget()
            server.stop(budget)
            app.close(budget)
    return 0


def demo_config(tempo_url: str, now: float, database: Path) -> Config:
    """Return the default configuration, except for shorter times of polling and hysteresis."""
    return Config.model_validate(
        {
            "tempo": {"url": tempo_url},
            "calendar": {"weekend": list(calendar_weekend(now))},
            "polling": {"tempo_interval": "3s"},
            "detection": {"hold": "9s", "clear_hold": "30s"},
            "storage": {"path": str(database)},
        }
    )


@contextmanager
def tempo_process(*arguments: str, port: int = 0) -> Iterator[str]:
    """Run the embedded Tempo API as a child process that ends with this one; yields its URL.

    Args:
        arguments: options of :mod:`exporter.demo.tempo_api`.
        port: port to listen on; 0 means any free port.

    Raises:
        click.ClickException: it did not start.
    """
    with subprocess.Popen(  # noqa: S603 - our own module with our own arguments
        [sys.executable, "-m", "exporter.demo.tempo_api", "--port", str(port), "--exit-with-parent", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            url = process.stdout.readline().strip() if process.stdout else ""
            if not url:
                raise click.ClickException(f"the embedded Tempo API did not start (exit status {process.wait()})")
            yield url
        finally:
            process.terminate()


def _narrate(app: App, stop: StopRequest, deadline: float | None) -> None:
    """Report progress, levels and flags until the demo ends."""
    with progress_line(lambda: f"  reading history {bar(_progress(app))}", sys.stdout):
        while _progress(app) < 1 and not _is_over(stop, deadline):
            pass
    has_reported_levels = False
    flagged: Mapping[SeriesKey, SeriesStatus] = {}
    while not _is_over(stop, deadline):
        snapshot = app.publishing.snapshot()
        if snapshot is None:
            continue
        if not has_reported_levels and _has_verdicts(snapshot):
            has_reported_levels = True
            _report_levels(snapshot)
        flagged = report_flags(snapshot, flagged)


def _is_over(stop: StopRequest, deadline: float | None) -> bool:
    return stop.wait(_INTERVAL_SECONDS) or (deadline is not None and time.monotonic() > deadline)


def _progress(app: App) -> float:
    return 1.0 if app.progress is None else app.progress.ratio


def _has_verdicts(snapshot: Snapshot) -> bool:
    return any(status.shift is not None for status in snapshot.series)


def _report_levels(snapshot: Snapshot) -> None:
    click.echo(
        f"{_time_text()}  Backfill is complete: {snapshot.history.traces:,} traces in {snapshot.history.windows} "
        f"windows, {len(snapshot.series)} endpoints. Baselines by fallback level:"
    )
    for level, count in snapshot.series_by_level.items():
        example = next((status for status in snapshot.series if status.level is level), None)
        if example is None:
            continue
        baseline_text = "" if example.baseline is None else f", baseline p95 {duration(example.baseline.p95_seconds)}"
        click.echo(
            f"{_INDENT}{level:d} {_LEVEL_MEANING[level]:<21} {count:>3}, such as "
            f"{example.key.service_name} {example.key.span_name}{baseline_text}"
        )
    click.echo(f"{_time_text()}  Watching current traffic; an incident starts soon. Press Ctrl-C to end.")


def report_flags(snapshot: Snapshot, before: Mapping[SeriesKey, SeriesStatus]) -> Mapping[SeriesKey, SeriesStatus]:
    """Report what has changed, and return the endpoints of which a flag fires."""
    now = {status.key: status for status in snapshot.series if status.is_anomalous}
    firing, fired = _firing(now), _firing(before)
    for key, kind in sorted(firing.keys() - fired.keys()):
        click.secho(f"{_time_text()}  {_FIRING[kind]}  {key.service_name} {key.span_name}", fg="red", bold=True)
        if (explanation := firing[key, kind].explanation) is not None:
            _report_text(str(explanation))
    for key, status in now.items():
        if status.cause is not None and (key not in before or before[key].cause is None):
            click.secho(f"{_time_text()}  CAUSE      {key.service_name} {key.span_name}", fg="yellow", bold=True)
            _report_text(status.cause.text)
    for key, kind in sorted(fired.keys() - firing.keys()):
        click.secho(f"{_time_text()}  RESOLVED   {key.service_name} {key.span_name}: {_KIND_TEXT[kind]}", fg="green")
    return now


def _firing(statuses: Mapping[SeriesKey, SeriesStatus]) -> dict[tuple[SeriesKey, FlagKind], KindStatus]:
    verdicts = {(key, kind): status.of_kind(kind) for key, status in statuses.items() for kind in FlagKind}
    return {each: verdict for each, verdict in verdicts.items() if verdict.firing}


def _report_text(text: str) -> None:
    click.echo(textwrap.fill(text, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT))


def _time_text() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")
