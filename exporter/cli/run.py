"""``run``, the default: the exporter itself, one pass of it, or a look at its configuration."""

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

from exporter import __version__
from exporter.app.app import Exporter, PassResult, ReadingChangedError
from exporter.app.settings import web_config_state
from exporter.app.supervisor import Supervisor
from exporter.cli.common import Shared, give_up, shared_options
from exporter.config import Config, ConfigError, effective_yaml, ignored_variables, load_config
from exporter.metrics.self_metrics import SelfMetrics, WebConfigCollector
from exporter.runtime import logs
from exporter.runtime.exits import EXIT_FAILED, EXIT_USAGE, failed
from exporter.runtime.signals import StopRequest, interruptible
from exporter.runtime.terminal import bar, printable, progress_line
from exporter.runtime.tuning import share_one_arena, take_short_turns
from exporter.store import DatabaseInUseError, DatabaseTooNewError, ForeignFileError, Store, StoreError
from exporter.web.auth import BasicAuthMiddleware
from exporter.web.config_reload import WebConfigReloader
from exporter.web.server.server import Server

_F = TypeVar("_F", bound=Callable[..., Any])


def run_options(command: _F) -> _F:
    """The options of the exporter itself."""
    for option in (
        click.option("--check-config", is_flag=True, help="Validate and print the configuration, then exit."),
        click.option(
            "--once", is_flag=True, help="Dry run: read everything once, print the metrics, write nothing, then exit."
        ),
    ):
        command = option(command)
    return command


@click.command()
@run_options
@shared_options
def run(shared: Shared, *, once: bool, check_config: bool) -> None:
    """Run the exporter (the default)."""
    start(shared, once=once, check_config=check_config)


def start(shared: Shared, *, once: bool, check_config: bool) -> None:
    """Do what the options of the exporter itself say; does not return but for ``check_config``."""
    try:
        config = load_config(shared.config_file, os.environ)
    except ConfigError as error:
        give_up(str(error), EXIT_USAGE)
    logs.configure(shared.log_level or config.log.level, config.log.format)
    if once:
        sys.exit(_once(config))
    protection = _protection(config)
    if check_config:
        click.echo(effective_yaml(config), nl=False)
        return
    sys.exit(_run(config, protection))


def _protection(config: Config) -> WebConfigReloader | None:
    if config.web.config_file is None:
        return None
    try:
        return WebConfigReloader(partial(web_config_state, config.web.config_file), logs.get_logger("web"))
    except ConfigError as error:
        give_up(f"web.config_file: {error}", EXIT_USAGE)


def _run(config: Config, protection: WebConfigReloader | None) -> int:
    share_one_arena()
    take_short_turns()
    log = logs.get_logger("main")
    stop = StopRequest()
    stop.listen()
    metrics = SelfMetrics()
    try:
        keeper = Supervisor(config, metrics, log)
    except (DatabaseInUseError, DatabaseTooNewError, ReadingChangedError, StoreError) as error:
        give_up(str(error), EXIT_USAGE if isinstance(error, ReadingChangedError | ForeignFileError) else EXIT_FAILED)
    failures: list[BaseException] = []

    def fail(error: BaseException) -> None:
        failures.append(error)
        stop.make()

    try:
        server = _server(config, keeper, metrics, protection)
    except OSError as error:
        keeper.close()
        give_up(
            f"cannot listen on {config.web.listen_address}: {error.strerror or error}; "
            "set web.listen_address to a free port of an address of this machine",
            EXIT_FAILED,
        )
    log.info(
        "started",
        "exporter started",
        version=__version__,
        tempo=config.tempo.url,
        listening=server.addresses,
        tls=protection is not None and protection.state.tls is not None,
        passwords=protection is not None and protection.state.passwords is not None,
    )
    ignored = ignored_variables(os.environ)
    if ignored:
        log.info(
            "environment_ignored",
            "environment variables that match no configuration key are ignored",
            variables=ignored,
        )
    keeper.start(fail)
    server.start(fail)
    if protection is not None:
        protection.start()
    stop.wait()
    if protection is not None:
        protection.stop()
    server.stop()
    keeper.close()
    if failures:
        log.error("exporter_failed", "the exporter cannot continue", error=failures[0])
        return EXIT_FAILED
    log.info("stopped", "exporter stopped")
    return 0


def _server(config: Config, keeper: Supervisor, metrics: SelfMetrics, protection: WebConfigReloader | None) -> Server:
    log = logs.get_logger("web")
    if protection is None:
        return Server(keeper, config.web.host, config.web.port, log=log)
    metrics.registry.register(WebConfigCollector(lambda: protection.status))
    guard = BasicAuthMiddleware(keeper, protection, log, on_refused=metrics.request_refused)
    context = None if protection.state.tls is None else protection.tls_context
    return Server(guard, config.web.host, config.web.port, log=log, context=context)


def _once(config: Config) -> int:
    exporter = Exporter(config, Store.in_memory(), SelfMetrics())
    try:
        with interruptible(), progress_line(lambda: _progress(exporter), sys.stderr):
            result = exporter.one_pass()
    except KeyboardInterrupt:
        return failed("interrupted; nothing was written")
    finally:
        exporter.close()
    # With colour, or click would take what looks like an escape sequence out of a name.
    click.echo(exporter.exposition(), nl=False, color=True)
    click.echo(summary(result, config.detection.alpha), err=True)
    return 0 if result.complete else EXIT_FAILED


def _progress(exporter: Exporter) -> str:
    if exporter.backfill is None:
        return "reading the current traffic"
    progress = exporter.backfill.status.progress
    done = progress.windows - progress.pending
    return f"reading history {bar(progress.ratio)}  {done:,} of {progress.windows:,} windows"


def summary(result: PassResult, alpha: float) -> str:
    """What one pass came to, for people.

    Args:
        result: what was found.
        alpha: the chance below which there are too many slow requests to be one; an explanation may tell of more.
    """
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
        slow = [
            (status.key, status.explanation)
            for status in snapshot.series
            if status.explanation is not None and status.explanation.chance < alpha
        ]
        lines.append(f"slower than usual at this moment (a flag rises once that lasts): {len(slow)}")
        lines += [f"  {printable(key.service_name)} {key.span_name!r}: {explanation}" for key, explanation in slow]
    if not result.polled:
        lines.append("the current traffic could not be read; the log above says why")
    lines.append("complete" if result.complete else "NOT complete: what is missing stands above")
    return "\n".join(lines)
