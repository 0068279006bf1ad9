"""The command line."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click

from exporter import __version__, logs
from exporter.config import Config, ConfigError, effective_yaml, ignored_variables, load_config
from exporter.memory import share_one_arena
from exporter.publish.self_metrics import SelfMetrics
from exporter.runner import Exporter, PassResult, ReadingChangedError
from exporter.signals import StopRequest
from exporter.store import DatabaseInUseError, DatabaseTooNewError, Store, StoreError
from exporter.terminal import bar, progress_line
from exporter.web.server import Server

EXIT_FAILED: Final = 1
EXIT_CONFIGURATION: Final = 2

_F = TypeVar("_F", bound=Callable[..., Any])


def _common(command: _F) -> _F:
    """The options that every command has."""
    for option in (
        click.version_option(__version__, prog_name="tempo-anomaly-exporter"),
        click.option(
            "--log-level",
            type=click.Choice(["debug", "info", "warning", "error"]),
            help="Least important messages to write; instead of log.level.",
        ),
        click.option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path),
            help="The YAML file; without it there are the defaults and the environment.",
        ),
    ):
        command = option(command)
    return command


def _run_options(command: _F) -> _F:
    for option in (
        click.option("--check-config", is_flag=True, help="Validate and print the configuration, then exit."),
        click.option(
            "--once", is_flag=True, help="Dry run: read everything once, print the metrics, write nothing, then exit."
        ),
    ):
        command = option(command)
    return command


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@_run_options
@_common
@click.pass_context
def main(
    context: click.Context, config_file: Path | None, log_level: str | None, once: bool, check_config: bool
) -> None:
    """Tell Prometheus which endpoints in Grafana Tempo are slower than usual for this hour, by how much, and why.

    Without a command it runs the exporter.
    """
    context.obj = (config_file, log_level)
    if context.invoked_subcommand is None:
        _dispatch(config_file, log_level, once=once, check_config=check_config)
    elif once or check_config:
        raise click.UsageError("--once and --check-config belong to the exporter itself; leave the command out")


@main.command()
@_run_options
@_common
@click.pass_obj
def run(
    inherited: tuple[Path | None, str | None],
    config_file: Path | None,
    log_level: str | None,
    once: bool,
    check_config: bool,
) -> None:
    """Run the exporter (the default)."""
    _dispatch(config_file or inherited[0], log_level or inherited[1], once=once, check_config=check_config)


@main.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9817,
    show_default=True,
    help="Where the exporter serves; 0 for any free port.",
)
@click.option("--seed", default=7, show_default=True, help="Another seed makes other traffic.")
@click.option(
    "--incident-after", default=20.0, show_default=True, help="Seconds until the incident that you can watch begins."
)
@click.option("--for", "seconds", type=float, help="End by itself after so many seconds.")
@_common
@click.pass_obj
def demo(
    inherited: tuple[Path | None, str | None],
    config_file: Path | None,
    log_level: str | None,
    port: int,
    seed: int,
    incident_after: float,
    seconds: float | None,
) -> None:
    """Show everything on this machine without Tempo.

    A week of synthetic traffic behind a Tempo API of its own, and the real exporter reading it over HTTP.
    """
    if config_file or inherited[0]:
        raise click.UsageError("the demo brings its own configuration; leave --config out")
    # The demo tells what happens in its own words; what the exporter logs of it would stand between them.
    logs.configure(log_level or inherited[1] or "error", "logfmt")
    # Only the demo needs what it is made of.
    from exporter.demo.show import show  # noqa: PLC0415

    sys.exit(show(port=port, seed=seed, incident_after_seconds=incident_after, seconds=seconds))


_EXISTING_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@main.command()
@click.option(
    "--csv",
    type=_EXISTING_FILE,
    help="Replay a file instead of the stored history, also a .gz: series,unix_seconds,duration_ms, a request a row.",
)
@click.option(
    "--labels",
    type=_EXISTING_FILE,
    help="Compare with known incidents, JSON: [{series, start_unix, end_unix, ignore}]. "
    "A stored series is called service_name/span_name.",
)
@click.option(
    "--learn",
    metavar="DURATION",
    help="Learning period at the start of each series, whose flags do not count. "
    "[default: 7d of a file; of the stored history as much as its first baseline takes]",
)
@click.option("--service", help="Only stored series with this service_name.")
@click.option("--span", help="Only stored series with this span_name.")
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Try a setting, such as detection.ratio=2; repeatable.",
)
@click.option("--json", is_flag=True, help="Print JSON instead of text.")
@_common
@click.pass_obj
def backtest(
    inherited: tuple[Path | None, str | None], /, config_file: Path | None, log_level: str | None, **options: Any
) -> None:
    """Replay recorded traffic through the detector, and say what it would have flagged.

    That is the stored history, also beside a running exporter, or a CSV file. Nothing is written.
    """
    # Only a backtest needs what it is made of.
    from exporter.backtest.command import run_command  # noqa: PLC0415

    sys.exit(run_command(config_file or inherited[0], log_level or inherited[1], **options))


def _dispatch(config_file: Path | None, log_level: str | None, *, once: bool, check_config: bool) -> None:
    try:
        config = load_config(config_file, os.environ)
    except ConfigError as error:
        _give_up(str(error), EXIT_CONFIGURATION)
    logs.configure(log_level or config.log.level, config.log.format)
    if check_config:
        click.echo(effective_yaml(config), nl=False)
        return
    sys.exit(_once(config) if once else _run(config))


def _run(config: Config) -> int:
    if config.web.config_file is not None:
        # Whoever asks for TLS and passwords must not be served without them.
        _give_up(
            "web.config_file: serving with TLS and passwords is not possible yet; leave the key out, let "
            "web.listen_address be one that only a proxy reaches, and let that proxy do both",
            EXIT_CONFIGURATION,
        )
    share_one_arena()
    log = logs.get_logger("main")
    stop = StopRequest()
    stop.listen()
    metrics = SelfMetrics()
    try:
        store = Store.open(config.storage.path, on_failure=metrics.storage_failed)
    except (DatabaseInUseError, DatabaseTooNewError, StoreError) as error:
        _give_up(str(error), EXIT_FAILED)
    try:
        exporter = Exporter(config, store, metrics)
    except (ReadingChangedError, StoreError) as error:
        store.close()
        _give_up(str(error), EXIT_FAILED if isinstance(error, StoreError) else EXIT_CONFIGURATION)
    failures: list[BaseException] = []

    def fail(error: BaseException) -> None:
        failures.append(error)
        stop.make()

    try:
        server = Server(exporter.site, config.web.host, config.web.port)
    except OSError as error:
        exporter.close()
        _give_up(
            f"cannot listen on {config.web.listen_address}: {error.strerror or error}; "
            "set web.listen_address to a free one",
            EXIT_FAILED,
        )
    log.info("started", version=__version__, tempo=config.tempo.url, listening=server.addresses)
    ignored = ignored_variables(os.environ)
    if ignored:
        log.info("environment variables that are no configuration keys are ignored", variables=ignored)
    exporter.start()
    server.start(fail)
    stop.wait()
    server.stop()
    exporter.close()
    if failures:
        log.error("serving failed, so the exporter ends", error=failures[0])
        return EXIT_FAILED
    log.info("stopped")
    return 0


def _once(config: Config) -> int:
    exporter = Exporter(config, Store.in_memory(), SelfMetrics())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        with progress_line(lambda: _progress(exporter), sys.stderr):
            result = exporter.one_pass()
    except KeyboardInterrupt:
        click.echo("interrupted; nothing was written", err=True)
        return EXIT_FAILED
    finally:
        exporter.close()
    click.echo(exporter.exposition(), nl=False)
    click.echo(summary(result), err=True)
    return 0 if result.complete else EXIT_FAILED


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _progress(exporter: Exporter) -> str:
    if exporter.backfill is None:
        return "reading the current traffic"
    progress = exporter.backfill.status.progress
    done = progress.windows - progress.pending
    return f"reading history {bar(progress.ratio)}  {done:,} of {progress.windows:,} windows"


def summary(result: PassResult) -> str:
    """What one pass came to, for people."""
    lines = []
    progress, snapshot = result.progress, result.snapshot
    if progress is not None:
        lines.append(
            f"history: {progress.done} windows read, {progress.empty} empty, {progress.partial} partial, "
            f"{progress.failed} failed, {progress.expired} older than Tempo's traces, {progress.pending} not read"
        )
    if snapshot is not None:
        levels = ", ".join(f"{count} on level {level:d}" for level, count in snapshot.series_by_level.items() if count)
        lines.append(f"series: {len(snapshot.series)} ({levels or 'none'}), {snapshot.series_learning} still learning")
        slow = [status for status in snapshot.series if status.explanation is not None]
        lines.append(f"slower than usual at this moment (a flag rises once that lasts): {len(slow)}")
        lines += [f"  {status.key.service_name} {status.key.span_name!r}: {status.explanation}" for status in slow]
    if not result.polled:
        lines.append("the current traffic could not be read; the log above says why")
    lines.append("complete" if result.complete else "NOT complete: what is missing stands above")
    return "\n".join(lines)


def _give_up(message: str, code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)
