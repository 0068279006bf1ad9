"""The command: asks the stored history, beside a running exporter or without one, and Tempo about a trace."""

import json
import os
import shlex
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import click

from exporter.app.settings import client_settings, evaluation_settings, series_rules
from exporter.config import Config, ConfigError, build_calendar, load_config
from exporter.evaluation.query import BaselineQuerier
from exporter.explain.check import check
from exporter.explain.document import check_document, trace_document
from exporter.explain.inputs import parse_instant, parse_seconds, parse_trace_id
from exporter.explain.names import nearest_series
from exporter.explain.text import check_text, trace_text
from exporter.explain.trace import NotInTraceError, explain_trace
from exporter.explain.words import series_name
from exporter.metrics.self_metrics import SelfMetrics
from exporter.model.calendar import Calendar, HourClock
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.span import SeriesKey
from exporter.runtime import logs
from exporter.runtime.exits import EXIT_USAGE, failed
from exporter.runtime.terminal import printable
from exporter.store import DatabaseVersionError, Store, StoreError
from exporter.tempo import TempoClient, TempoError


class _NoAnswerError(Exception):
    """There is no answer; the message says why and what to do."""


def run_command(
    config_file: Path | None,
    log_level: str | None,
    *,
    service: str | None,
    span: str | None,
    duration: str | None,
    at: str | None,
    trace: str | None,
    as_json: bool,
    clock: Callable[[], float] = time.time,
) -> int:
    """Answer a question as it was asked on the command line.

    Args:
        config_file: the configuration.
        log_level: instead of the configured one.
        service: the service of an endpoint.
        span: its span name.
        duration: a duration to judge.
        at: the instant that is asked about.
        trace: the id of a trace to explain.
        as_json: print JSON instead of text.
        clock: Unix seconds.

    Returns:
        The exit status: 1 where there is no answer, 2 for a mistake in the question or the configuration.
    """
    complaints: list[str] = []
    if (service is None) != (span is None):
        complaints.append("an endpoint is a service and a span name: give both --service and --span")
    if trace is None and service is None and span is None:
        complaints.append("ask about an endpoint with --service and --span, or about a trace with --trace")
    if trace is not None and (duration is not None or at is not None):
        complaints.append("a trace has its own duration and time; leave out --duration and --at with --trace")
    seconds = _parsed("--duration", duration, parse_seconds, complaints)
    trace_id = _parsed("--trace", trace, parse_trace_id, complaints)
    try:
        config = load_config(config_file, os.environ)
    except ConfigError as error:
        return failed("\n".join([*complaints, str(error)]), EXIT_USAGE)
    calendar = build_calendar(config)
    now = clock()
    instant = _parsed("--at", at, lambda text: parse_instant(text, calendar.zone, now), complaints)
    if complaints:
        return failed("\n".join(complaints), EXIT_USAGE)
    logs.configure(log_level or "warning", config.log.format)
    key = None if service is None or span is None else SeriesKey(service, span)
    try:
        if trace_id is not None:
            document, text = _about_trace(config, calendar, trace_id, key, now)
        else:
            assert key is not None  # noqa: S101 - otherwise it was complained about
            document, text = _about_endpoint(config, calendar, key, seconds, instant, now)
    except (_NoAnswerError, NotInTraceError, TempoError, StoreError, DatabaseVersionError) as error:
        return failed(str(error))
    except DamagedDigestError as error:
        return failed(f"what is stored of this endpoint is damaged: {error}")
    click.echo(json.dumps(document, indent=2, allow_nan=False) if as_json else text)
    return 0


def _about_endpoint(
    config: Config, calendar: Calendar, key: SeriesKey, seconds: float | None, at: float | None, now: float
) -> tuple[dict[str, Any], str]:
    path = config.storage.path
    with closing(Store.open_readonly(path)) as store:
        inquiry = BaselineQuerier(store, HourClock(calendar), evaluation_settings(config))
        known = inquiry.series()
        if key not in known:
            raise _NoAnswerError(_unknown(key, known, path))
        found = check(inquiry, key, now=now, at=at, duration_seconds=seconds)
    return check_document(found, calendar), check_text(found, calendar)


def _about_trace(
    config: Config, calendar: Calendar, trace_id: str, wanted: SeriesKey | None, now: float
) -> tuple[dict[str, Any], str]:
    with ExitStack() as open_things:
        client = open_things.enter_context(
            closing(TempoClient(client_settings(config), SelfMetrics(), logs.get_logger("tempo")))
        )
        inquiry = None
        if config.storage.path.exists():
            store = open_things.enter_context(closing(Store.open_readonly(config.storage.path)))
            inquiry = BaselineQuerier(store, HourClock(calendar), evaluation_settings(config))
        answer = explain_trace(
            trace_id,
            client.trace(trace_id, loop="api"),
            renamed=series_rules(config).renamed,
            inquiry=inquiry,
            now=now,
            wanted=wanted,
        )
    if answer is None:
        raise _NoAnswerError(
            f"Tempo has no trace {trace_id}: it is older than Tempo's retention, not written yet (try again in half a "
            f"minute), or of another tenant (tempo.tenant); or there is no Tempo at {config.tempo.url} (tempo.url)"
        )
    return trace_document(answer, calendar), trace_text(answer, calendar)


def _unknown(key: SeriesKey, known: list[SeriesKey], path: Path) -> str:
    nothing = f"nothing is stored of {series_name(key)} in {path}"
    if not known:
        return f"{nothing}, nor of any other endpoint: let the exporter read some history"
    names = "\n".join(
        f"  --service {shlex.quote(printable(each.service_name))} --span {shlex.quote(printable(each.span_name))}"
        for each in nearest_series(key, known)
    )
    if not names:
        return f"{nothing}, and of the {len(known):,} endpoints that are stored none has a similar name"
    return f"{nothing}; did you mean one of these?\n{names}"


def _parsed(option: str, text: str | None, parse: Callable[[str], Any], complaints: list[str]) -> Any:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        complaints.append(f"{option} {error}")
        return None
