"""``explain``: explain the baseline of an endpoint, a duration or a trace."""

import json
import os
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from exporter.app.marks import marks_for_command
from exporter.app.settings import (
    cause_settings,
    client_settings,
    drilldown,
    evaluation_settings,
    label_names,
    series_rules,
)
from exporter.cause.verdict import Outcome
from exporter.cli.common import EXIT_USAGE, TIME_HELP, Shared, failed, shared_options
from exporter.config import Config, ConfigError, build_calendar, load_config
from exporter.detection.flag import INACTIVE, FlagKind, decode_flags
from exporter.evaluation.causes.search import CauseSearch
from exporter.evaluation.causes.shift_cause import Shift
from exporter.evaluation.query import BaselineQuerier
from exporter.explain.cause import cause_document, cause_text
from exporter.explain.check import check
from exporter.explain.document import check_document, trace_document
from exporter.explain.inputs import nearest_series, parse_instant, parse_labels, parse_seconds, parse_trace_id
from exporter.explain.text import check_text, trace_text
from exporter.explain.trace import NotInTraceError, explain_trace
from exporter.explain.words import series_name
from exporter.ingest.series_filter import SeriesFilter
from exporter.metrics.self_metrics import SelfMetrics
from exporter.model.calendar import Calendar, HourClock
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.label import AmbiguousSeriesError
from exporter.model.span import SeriesKey
from exporter.runtime import logs
from exporter.runtime.terminal import printable
from exporter.store import DatabaseVersionError, Store, StoreError
from exporter.tempo import TempoClient, TempoError

_T = TypeVar("_T")

_MAX_NAMED_SERIES: Final = 10


class _NoResultError(Exception):
    """There is nothing to explain; the message says why and what to do."""


@click.command()
@click.option("--service", metavar="NAME", help="The service_name of an endpoint.")
@click.option("--span", metavar="NAME", help="The span_name of an endpoint.")
@click.option(
    "--label",
    "labels",
    metavar="NAME=VALUE",
    multiple=True,
    help="A label of the endpoint, an empty value for none; repeatable. Only needed to tell several apart.",
)
@click.option("--duration", metavar="DURATION", help="Is this an outlier? A duration such as 320ms or 1s500ms.")
@click.option("--at", metavar="TIME", help=f"Instant to explain: {TIME_HELP}. [default: now]")
@click.option(
    "--trace",
    metavar="ID",
    help="Explain where this trace's time went. It is read from Tempo; with --service and --span, that endpoint's span "
    "is explained.",
)
@click.option(
    "--why",
    is_flag=True,
    help="Compare slow traces of the endpoint, now or at --at, with healthy ones from Tempo: what takes longer?",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@shared_options
def explain(
    shared: Shared,
    *,
    service: str | None,
    span: str | None,
    labels: Sequence[str],
    duration: str | None,
    at: str | None,
    trace: str | None,
    why: bool,
    as_json: bool,
) -> int:
    """Explain the baseline of an endpoint, a duration or a trace.

    In words or as JSON: the baseline and thresholds of an endpoint at an hour, whether a duration is an outlier, and
    where a trace's time went. The stored history is only read, also beside a running exporter.
    """
    problems: list[str] = []
    if (service is None) != (span is None):
        problems.append("an endpoint is a service and a span name: set both --service and --span")
    if trace is None and service is None and span is None:
        problems.append("select an endpoint with --service and --span, or a trace with --trace")
    if trace is not None and (duration is not None or at is not None):
        problems.append("a trace has its own duration and time; leave out --duration and --at with --trace")
    if why and (trace is not None or duration is not None):
        problems.append("--why needs an endpoint and compares its traces; leave out --trace and --duration")
    if labels and (service is None or span is None):
        problems.append("--label belongs to an endpoint: set --service and --span")
    series_labels = _parsed("--label", labels or None, parse_labels, problems) or ()
    seconds = _parsed("--duration", duration, parse_seconds, problems)
    trace_id = _parsed("--trace", trace, parse_trace_id, problems)
    try:
        config = load_config(shared.config_file, os.environ)
    except ConfigError as error:
        return failed("\n".join([*problems, str(error)]), EXIT_USAGE)
    calendar = build_calendar(config)
    now = time.time()
    instant = _parsed("--at", at, lambda text: parse_instant(text, calendar.zone, now), problems)
    if problems:
        return failed("\n".join(problems), EXIT_USAGE)
    logs.configure(shared.log_level or "warning", config.log.format)
    key = None if service is None or span is None else SeriesKey(service, span, series_labels)
    try:
        if why and key is not None:
            document, text = _explain_why(config, calendar, key, now if instant is None else min(instant, now))
        elif trace_id is not None:
            document, text = _explain_trace(config, calendar, trace_id, key, now)
        else:
            assert key is not None  # noqa: S101 - checked above
            document, text = _explain_endpoint(config, calendar, key, seconds, instant, now)
    except (_NoResultError, NotInTraceError, TempoError, StoreError, DatabaseVersionError, ConfigError) as error:
        return failed(str(error))
    except DamagedDigestError as error:
        return failed(f"the stored history of this endpoint is damaged: {error}")
    click.echo(json.dumps(document, indent=2, allow_nan=False) if as_json else text)
    return 0


def _explain_endpoint(
    config: Config, calendar: Calendar, key: SeriesKey, seconds: float | None, at: float | None, now: float
) -> tuple[dict[str, Any], str]:
    path = config.storage.path
    with closing(Store.open_readonly(path)) as store:
        marks = marks_for_command(config, store)
        querier = BaselineQuerier(store, HourClock(calendar), evaluation_settings(config), lambda: marks)
        known = querier.series()
        try:
            found = label_names(config).find(key, known)
        except AmbiguousSeriesError as error:
            raise _NoResultError(_ambiguous(key, error.matching)) from None
        if found is None:
            raise _NoResultError(_unknown(key, known, path))
        result = check(querier, found, now=now, at=at, duration_seconds=seconds)
    return check_document(result, calendar), check_text(result, calendar)


def _explain_trace(
    config: Config, calendar: Calendar, trace_id: str, wanted: SeriesKey | None, now: float
) -> tuple[dict[str, Any], str]:
    with ExitStack() as stack:
        client = stack.enter_context(closing(_client(config)))
        querier = None
        series_filter = SeriesFilter(series_rules(config))
        if config.storage.path.exists():
            store = stack.enter_context(closing(Store.open_readonly(config.storage.path)))
            marks = marks_for_command(config, store)
            querier = BaselineQuerier(store, HourClock(calendar), evaluation_settings(config), lambda: marks)
            series_filter.preload(store.series())
        explanation = explain_trace(
            trace_id,
            client.fetch_trace(trace_id, loop="api"),
            renamed=series_filter.name_of,
            querier=querier,
            now=now,
            wanted=wanted,
            label_names=label_names(config),
        )
    if explanation is None:
        raise _NoResultError(
            f"Tempo has no trace {trace_id}: it is older than Tempo's retention, not written yet (try again in half a "
            f"minute), or of another tenant (tempo.tenant); or {config.tempo.url} is no Tempo (tempo.url)"
        )
    return trace_document(explanation, calendar), trace_text(explanation, calendar)


def _explain_why(config: Config, calendar: Calendar, key: SeriesKey, at: float) -> tuple[dict[str, Any], str]:
    path = config.storage.path
    with closing(Store.open_readonly(path)) as store, closing(_client(config)) as client:
        known = sorted(store.series())
        found = label_names(config).find(key, known)
        if found is None:
            raise _NoResultError(_unknown(key, known, path))
        search = CauseSearch(
            client,
            store,
            HourClock(calendar),
            cause_settings(config),
            resolve=SeriesFilter(series_rules(config), logs.get_logger("series")).resolve,
            monotonic=time.monotonic,
        )
        cause = search.find(Shift(found, at, _firing_since(store, found, at)), loop="api")
    if cause.verdict.outcome is Outcome.FAILED:
        raise _NoResultError(cause.text)
    links = drilldown(config)
    return cause_document(cause, links), cause_text(cause, calendar, links)


def _firing_since(store: Store, key: SeriesKey, at: float) -> float | None:
    """Return since when the shift flag of a series fires, if it did at an instant."""
    text = store.flags().get(key)
    if text is None:
        return None
    try:
        flag = decode_flags(text).get(FlagKind.SHIFT, INACTIVE)
    except ValueError:
        return None
    return flag.since if flag.firing and flag.since is not None and flag.since <= at else None


def _client(config: Config) -> TempoClient:
    return TempoClient(client_settings(config), SelfMetrics(), logs.get_logger("tempo"))


def _unknown(key: SeriesKey, known: list[SeriesKey], path: Path) -> str:
    nothing = f"{path} has no history of {series_name(key)}"
    if not known:
        return f"{nothing} or any other endpoint: let the exporter read some history"
    names = "\n".join(map(_options, nearest_series(key, known)))
    if not names:
        return f"{nothing}, and none of the {len(known):,} stored endpoints has a similar name"
    return f"{nothing}; did you mean one of these?\n{names}"


def _ambiguous(key: SeriesKey, matching: Sequence[SeriesKey]) -> str:
    names = "\n".join(map(_options, matching[:_MAX_NAMED_SERIES]))
    return f"{len(matching):,} endpoints are called {series_name(key)}; select one by its labels:\n{names}"


def _options(key: SeriesKey) -> str:
    """Return the options that select a series."""
    labels = "".join(f" --label {shlex.quote(printable(f'{name}={value}'))}" for name, value in key.labels)
    return (
        f"  --service {shlex.quote(printable(key.service_name))} --span {shlex.quote(printable(key.span_name))}{labels}"
    )


def _parsed(option: str, text: _T | None, parse: Callable[[_T], Any], problems: list[str]) -> Any:
    """Parse the value of an option; adds to ``problems`` and returns None where it is invalid."""
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        problems.append(f"{option} {error}")
        return None
