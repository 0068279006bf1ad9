"""``run``, the default command: run the exporter, make a single pass, or check the configuration."""

import contextlib
import os
import sys
from functools import partial

import click

from exporter import __version__
from exporter.app.app import App, PassResult, ReadingChangedError, build_app
from exporter.app.config_reload import ConfigReloader, ReloadError
from exporter.app.marks import marks_file_problems
from exporter.app.settings import web_config_state
from exporter.app.supervisor import Supervisor
from exporter.cli.common import EXIT_FAILED, EXIT_USAGE, Shared, failed, run_options, shared_options
from exporter.config import Config, ConfigError, effective_yaml, ignored_variables, load_config
from exporter.config.files import file_problems
from exporter.detection.flag import FlagKind
from exporter.detection.traffic.verdict import ratio_text
from exporter.metrics.self_metrics import ReloadCollector, SelfMetrics
from exporter.model.span import SeriesKey
from exporter.runtime import logs
from exporter.runtime.signals import StopRequest, interruptible
from exporter.runtime.stop_budget import StopBudget
from exporter.runtime.terminal import bar, printable, progress_line
from exporter.runtime.tuning import share_one_arena, take_short_turns
from exporter.store import DatabaseInUseError, DatabaseTooNewError, ForeignFileError, Store, StoreError
from exporter.web.auth import BasicAuthMiddleware
from exporter.web.config_reload import WebConfigReloader
from exporter.web.lifecycle import LifecycleMiddleware
from exporter.web.server.server import Server


@click.command()
@run_options
@shared_options
def run(shared: Shared, *, once: bool, check_config: bool) -> int:
    """Run the exporter (the default).

    It reads Tempo, stores the history, evaluates all endpoints and serves /metrics, pages and an API over HTTP.
    """
    if once and check_config:
        raise click.UsageError("--once and --check-config exclude each other: choose one")
    try:
        config = load_config(shared.config_file, os.environ)
    except ConfigError as error:
        return failed(str(error), EXIT_USAGE)
    logs.configure(shared.log_level or config.log.level, config.log.format)
    if once:
        return _run_once(config)
    try:
        web_config = _web_config_reloader(config)
    except ConfigError as error:
        return failed(f"web.config_file: {error}", EXIT_USAGE)
    if config.web.allow_marks and (web_config is None or web_config.state.passwords is None):
        return failed(
            "web.allow_marks needs basic_auth_users in web.config_file: a mark silences alerts, so only people with a "
            "password may add one",
            EXIT_USAGE,
        )
    if check_config:
        if problems := [*file_problems(config), *marks_file_problems(config)]:
            return failed(str(ConfigError(problems)), EXIT_USAGE)
        click.echo(effective_yaml(config), nl=False)
        return 0
    return _run(config, web_config, shared)


def _web_config_reloader(config: Config) -> WebConfigReloader | None:
    """Load ``web.config_file``, where there is one.

    Raises:
        ConfigError: the file, or one that it names, is invalid.
    """
    if config.web.config_file is None:
        return None
    return WebConfigReloader(partial(web_config_state, config.web.config_file), logs.get_logger("web"))


def _run(config: Config, web_config: WebConfigReloader | None, shared: Shared) -> int:
    share_one_arena()
    take_short_turns()
    log = logs.get_logger("main")
    stop = StopRequest()
    stop.listen(reloads=True)
    metrics = SelfMetrics()
    try:
        supervisor = Supervisor(config, metrics, log, accepts_marks=config.web.allow_marks)
    except (ReadingChangedError, ForeignFileError) as error:
        return failed(str(error), EXIT_USAGE)
    except (DatabaseInUseError, DatabaseTooNewError, StoreError) as error:
        return failed(str(error))

    def apply(changed: Config) -> None:
        supervisor.reload(changed)
        logs.configure(shared.log_level or changed.log.level, changed.log.format)

    reloader = ConfigReloader(config, lambda: load_config(shared.config_file, os.environ), apply, log)
    metrics.registry.register(ReloadCollector.of_config(lambda: reloader.status))
    try:
        server = _build_server(config, supervisor, metrics, web_config, reloader)
    except OSError as error:
        supervisor.close()
        return failed(
            f"cannot listen on {config.web.listen_address}: {error.strerror or error}; "
            "set web.listen_address to a free port of an address of this machine"
        )
    log.info(
        "started",
        "exporter started",
        version=__version__,
        tempo=config.tempo.url,
        listening=server.addresses,
        tls=web_config is not None and web_config.state.tls is not None,
        passwords=web_config is not None and web_config.state.passwords is not None,
    )
    ignored = ignored_variables(os.environ)
    if ignored:
        log.info(
            "environment_ignored",
            "environment variables that match no configuration key are ignored",
            variables=ignored,
        )
    failures: list[BaseException] = []

    def on_failure(error: BaseException) -> None:
        failures.append(error)
        stop.make()

    supervisor.start(on_failure)
    server.start(on_failure)
    if web_config is not None:
        web_config.start()
    while stop.is_reload():
        # What failed is in the log, and in a metric with an alert.
        with contextlib.suppress(ReloadError):
            reloader.reload()
    budget = StopBudget()
    supervisor.request_stop()
    if web_config is not None:
        web_config.stop(budget)
    server.stop(budget)
    supervisor.close(budget)
    if failures:
        log.error("exporter_failed", "the exporter cannot continue", error=failures[0])
        return EXIT_FAILED
    log.info("stopped", "exporter stopped")
    return 0


def _build_server(
    config: Config,
    supervisor: Supervisor,
    metrics: SelfMetrics,
    web_config: WebConfigReloader | None,
    reloader: ConfigReloader,
) -> Server:
    """Bind the listen address.

    Raises:
        OSError: the address cannot be used.
    """
    log = logs.get_logger("web")
    reload = (lambda: str(reloader.reload())) if config.web.enable_lifecycle else None
    site = LifecycleMiddleware(supervisor, reload)
    if web_config is None:
        return Server(site, config.web.host, config.web.port, log=log)
    metrics.registry.register(ReloadCollector.of_web_config(lambda: web_config.status))
    application = BasicAuthMiddleware(site, web_config, log, on_refused=metrics.request_refused)
    context = None if web_config.state.tls is None else web_config.tls_context
    return Server(application, config.web.host, config.web.port, log=log, context=context)


def _run_once(config: Config) -> int:
    app = build_app(config, Store.in_memory(), SelfMetrics())
    try:
        with interruptible(), progress_line(lambda: _progress(app), sys.stderr):
            result = app.one_pass()
    except KeyboardInterrupt:
        return failed("interrupted; nothing was written")
    finally:
        app.close()
    # As bytes: metrics are UTF-8 in any locale, and click would remove what looks like an escape sequence.
    click.echo(app.exposition().encode(), nl=False)
    click.echo(summary(result, config.detection.alpha), err=True)
    return 0 if result.complete else EXIT_FAILED


def _progress(app: App) -> str:
    progress = app.progress
    if progress is None:
        return "reading the current traffic"
    done = progress.windows - progress.pending
    return f"reading history {bar(progress.ratio)}  {done:,} of {progress.windows:,} windows"


def summary(result: PassResult, alpha: float) -> str:
    """Summarize a single pass for people.

    Args:
        result: the result.
        alpha: list only series whose slow requests are less likely than this to be chance.
    """
    lines = []
    progress, snapshot = result.progress, result.snapshot
    if progress is not None:
        lines.append(
            f"history: {progress.done} windows read, {progress.empty} empty, {progress.partial} partial, "
            f"{progress.failed} failed, {progress.expired} older than Tempo's traces, {progress.pending} not read"
        )
        if progress.is_empty:
            lines.append(f"all of the history is empty; {result.empty_reason or 'see the log above'}")
    if snapshot is not None:
        levels = ", ".join(f"{count} on level {level:d}" for level, count in snapshot.series_by_level.items() if count)
        lines.append(f"series: {len(snapshot.series)} ({levels or 'none'}), {snapshot.series_learning} still learning")
        # The other lines leave these endpoints out.
        quiet = sum(status.is_quiet for status in snapshot.series)
        if quiet:
            lines.append(f"marked as expected or normal, so without a verdict at this moment: {quiet}")
        slow = [
            (status.key, status.explanation)
            for status in snapshot.series
            if status.explanation is not None and status.explanation.chance < alpha
        ]
        lines.append(f"slower than usual at this moment (a flag fires once that lasts): {len(slow)}")
        lines += [f"  {_name(key)}: {explanation}" for key, explanation in slow]
        failing = [
            (status.key, errors.explanation)
            for status in snapshot.series
            if (errors := status.of_kind(FlagKind.ERRORS)).explanation is not None and (errors.score or 0) >= 1
        ]
        lines.append(f"failing more often than usual at this moment: {len(failing)}")
        lines += [f"  {_name(key)}: {evidence}" for key, evidence in failing]
        if snapshot.source_traffic_ratio is not None:
            lines.append(f"all endpoints together: {ratio_text(snapshot.source_traffic_ratio)}")
        changed = [
            (status.key, traffic.verdict.evidence)
            for status in snapshot.series
            if (traffic := status.current_traffic) is not None
            and traffic.verdict.is_certain
            and traffic.verdict.is_changed
            and traffic.verdict.persists
        ]
        lines.append(f"far from the usual traffic at this moment: {len(changed)}")
        lines += [f"  {_name(key)}: {found}" for key, found in changed]
    if not result.polled:
        lines.append("the current traffic could not be read; see the log above")
    lines.append("complete" if result.complete else "NOT complete: see above for what is missing")
    return "\n".join(lines)


def _name(key: SeriesKey) -> str:
    labels = "".join(f" {name}={printable(value)}" for name, value in key.labels)
    return f"{printable(key.service_name)} {key.span_name!r}{labels}"
