"""Translates the configuration into the settings that each component defines; no component knows the configuration."""

import ssl
from collections.abc import Iterator
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import Any, Final, Literal

from exporter.baseline.levels import FallbackRules
from exporter.baseline.outlier import OutlierRule
from exporter.config import Config, ConfigError
from exporter.config.schema import Detection
from exporter.config.schema import Override as OverrideSettings
from exporter.config.units import format_duration
from exporter.config.web import ClientAuth, TlsServer, load_web_config
from exporter.detection.parameters import Parameters
from exporter.detection.policy import Override, OverrideValue, SeriesPolicies
from exporter.detection.streams import StreamRules
from exporter.evaluation.causes.shift_cause import CauseSettings
from exporter.evaluation.settings import EvaluationSettings, PollSettings
from exporter.explain.drilldown import Drilldown
from exporter.ingest.backfill import BackfillSettings
from exporter.ingest.exact_reader import Budget
from exporter.ingest.series_filter import SeriesRules
from exporter.model.failure_rule import FailureRule
from exporter.model.identity import OWN_NAME, SeriesIdentity, parse_attribute
from exporter.model.label import LabelNames
from exporter.model.pattern import Pattern
from exporter.runtime.reload import file_state
from exporter.tempo import ClientSettings
from exporter.tempo.settings import Scope
from exporter.web.config_reload import WebConfigState
from exporter.web.passwords import Passwords
from exporter.web.server.tls import TlsError, TlsSettings, server_context

_AFFORDABLE_TRACES: Final = 50_000
"""Traces that the first poll may read of the time before the evaluation window."""

_MIN_MAX_AGE_SECONDS: Final = 30 * 86_400.0
"""Spans this old are always plausible: Tempo may hold more than the history that is wanted."""

_LOOKBACK: Final = "lookback_seconds"
"""The key of ``detection`` that belongs to `FallbackRules`."""

_CLIENT_AUTH: Final[dict[ClientAuth, Literal["none", "if_given", "required"]]] = {
    "NoClientCert": "none",
    "VerifyClientCertIfGiven": "if_given",
    "RequireAndVerifyClientCert": "required",
}
_TLS_VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}


def client_settings(config: Config) -> ClientSettings:
    """Settings of the Tempo client."""
    tempo = config.tempo
    return ClientSettings(
        url=tempo.url,
        scope=tempo.scope,
        filter=tempo.filter,
        identity=series_identity(config),
        failures=failure_rule(config),
        limit=tempo.limit,
        timeout_seconds=tempo.timeout.total_seconds(),
        max_concurrency=tempo.max_concurrency,
        requests_per_second=tempo.requests_per_second,
        tenant=tempo.tenant,
        headers={name: value.get_secret_value() for name, value in tempo.headers.items()},
        auth_token=tempo.auth_token.get_secret_value(),
        auth_token_file=_text(tempo.auth_token_file),
        username=tempo.basic_auth.username,
        password=tempo.basic_auth.password.get_secret_value(),
        password_file=_text(tempo.basic_auth.password_file),
        ca_file=_text(tempo.tls.ca_file),
        cert_file=_text(tempo.tls.cert_file),
        key_file=_text(tempo.tls.key_file),
        insecure_skip_verify=tempo.tls.insecure_skip_verify,
        max_age_seconds=max(
            _MIN_MAX_AGE_SECONDS,
            config.polling.backfill_duration.total_seconds(),
            config.stats.max_duration.total_seconds(),
        ),
        max_duration_seconds=config.stats.max_duration.total_seconds(),
    )


def backfill_settings(config: Config) -> BackfillSettings:
    """Settings of the backfill."""
    polling = config.polling
    return BackfillSettings(
        duration_seconds=polling.backfill_duration.total_seconds(),
        batch_seconds=polling.backfill_batch.total_seconds(),
        settle_seconds=polling.settle.total_seconds(),
        retention_seconds=config.storage.retention.total_seconds(),
        max_concurrency=config.tempo.max_concurrency,
        budget=Budget(polling.max_traces_per_window, polling.max_requests_per_window),
        late_seconds=polling.late.total_seconds(),
        lookback_seconds=polling.tempo_lookback.total_seconds(),
    )


def poll_settings(config: Config) -> PollSettings:
    """Settings of the poller."""
    return PollSettings(
        interval_seconds=config.polling.tempo_interval.total_seconds(),
        lookback_seconds=config.polling.tempo_lookback.total_seconds(),
        window_seconds=config.detection.window.total_seconds(),
        max_window_seconds=config.detection.max_window.total_seconds(),
        affordable_traces=_AFFORDABLE_TRACES,
        budget=Budget(config.polling.max_traces_per_poll, config.polling.max_requests_per_poll),
        stale_after_seconds=config.series.stale_after.total_seconds(),
    )


def evaluation_settings(config: Config) -> EvaluationSettings:
    """Settings of baselines and verdicts."""
    fallback, stats, detection = config.fallback, config.stats, config.detection
    rules = FallbackRules(
        min_samples=stats.min_samples,
        enabled=fallback.enabled,
        nearby_enabled=fallback.nearby_hours_enabled,
        nearby_hours_range=fallback.nearby_hours_range,
        nearby_min_samples=fallback.nearby_min_samples,
        daytype_enabled=fallback.daytype_global_enabled,
        daytype_min_samples=fallback.daytype_global_min_samples,
        global_enabled=fallback.full_global_enabled,
        global_min_samples=fallback.full_global_min_samples,
        lookback_seconds=_whole_seconds(detection.lookback),
    )
    parameters = Parameters(**{field: value for _, field, value in _detection_fields(detection) if field != _LOOKBACK})
    overrides = tuple(Override(Pattern(each.match), tuple(_override_values(each))) for each in config.overrides)
    return EvaluationSettings(
        fallback=rules,
        outlier=OutlierRule(factor=stats.factor, k=stats.k, mad_epsilon_seconds=stats.mad_epsilon.total_seconds()),
        shift=parameters,
        stale_after_seconds=config.series.stale_after.total_seconds(),
        streams=StreamRules(
            streams=tuple(Pattern(pattern) for pattern in config.series.streams),
            requests=tuple(Pattern(pattern) for pattern in config.series.requests),
        ),
        policies=SeriesPolicies(overrides, rules, parameters) if overrides else None,
    )


def _detection_fields(detection: Detection) -> Iterator[tuple[str, str, Any]]:
    """Yield each key of ``detection``, the name of its parameter, and the value of that."""
    yield "window", "window_seconds", _whole_seconds(detection.window)
    yield "min_traces", "min_traces", detection.min_traces
    yield "max_window", "max_window_seconds", _whole_seconds(detection.max_window)
    yield "ratio", "ratio", detection.ratio
    yield "min_delta", "min_delta_seconds", detection.min_delta.total_seconds()
    yield "swing", "swing", detection.swing
    yield "alpha", "alpha", detection.alpha
    yield "hold", "hold_seconds", detection.hold.total_seconds()
    yield "clear_hold", "clear_hold_seconds", detection.clear_hold.total_seconds()
    yield "lookback", _LOOKBACK, _whole_seconds(detection.lookback)
    yield "accept_after", "accept_after_seconds", _whole_seconds(detection.accept_after)
    regression = detection.regression
    yield "regression.ratio", "regression_ratio", regression.ratio
    yield "regression.min_delta", "regression_min_delta_seconds", regression.min_delta.total_seconds()
    yield "regression.accept_after", "regression_accept_after_seconds", _whole_seconds(regression.accept_after)
    yield "errors.enabled", "errors_enabled", detection.errors.enabled
    yield "errors.ratio", "errors_ratio", detection.errors.ratio
    yield "errors.min_delta", "errors_min_delta", detection.errors.min_delta
    traffic = detection.traffic
    yield "traffic.enabled", "traffic_enabled", traffic.enabled
    yield "traffic.drop", "traffic_drop", traffic.drop
    yield "traffic.surge", "traffic_surge", traffic.surge or None


def _override_values(override: OverrideSettings) -> Iterator[OverrideValue]:
    """Yield the values that an override sets."""
    for key, field, value in _detection_fields(override.detection):
        *sections, name = key.split(".")
        section = reduce(getattr, sections, override.detection)
        if name in section.model_fields_set:
            given = getattr(section, name)
            text = format_duration(given) if isinstance(given, timedelta) else f"{given:g}"
            if isinstance(given, bool):
                text = str(given).lower()
            yield OverrideValue(key, text, field, value)
    if "enabled" in override.model_fields_set:
        yield OverrideValue("enabled", str(override.enabled).lower(), "is_enabled", override.enabled)
    if "severity" in override.model_fields_set:
        yield OverrideValue("severity", override.severity, "severity", override.severity)


def cause_settings(config: Config) -> CauseSettings:
    """How the causes of shifts are looked for."""
    return CauseSettings(
        max_requests=config.cause.max_requests,
        attributes=config.cause.attributes,
        evaluation=evaluation_settings(config),
    )


def series_rules(config: Config) -> SeriesRules:
    """Rules of the series filter."""
    series = config.series
    return SeriesRules(
        include=[Pattern(pattern) for pattern in series.include],
        exclude=[Pattern(pattern) for pattern in series.exclude],
        rename=[(Pattern(rule.match), rule.replace) for rule in series.rename],
        placeholders=series.placeholders,
        max_series=series.max,
        max_per_service=series.max_per_service,
        exclude_probes=series.exclude_probes,
        identity=series_identity(config),
    )


def series_identity(config: Config) -> SeriesIdentity:
    """The rules by which a span gets its series."""
    return SeriesIdentity(
        labels=tuple(tuple(map(parse_attribute, alternatives)) for alternatives in config.series.labels),
        span_name=tuple(
            OWN_NAME if text == OWN_NAME.name else parse_attribute(text) for text in config.series.span_name
        ),
    )


def failure_rule(config: Config) -> FailureRule | None:
    """The rule by which a request has failed; None where that is not read."""
    errors = config.detection.errors
    return FailureRule(errors.when) if errors.enabled else None


def drilldown(config: Config) -> Drilldown:
    """Links into Traces Drilldown."""
    return Drilldown(
        grafana_url=config.grafana.url,
        datasource_uid=config.grafana.tempo_datasource_uid,
        identity=series_identity(config),
        only_roots=config.tempo.scope == "root",
        condition=config.tempo.filter,
        failed=config.detection.errors.when,
        window_seconds=config.detection.window.total_seconds(),
    )


def label_names(config: Config) -> LabelNames:
    """How the names of series become label values."""
    return LabelNames(config.series.max_label_bytes, series_identity(config).label_names)


def web_config_state(path: Path) -> WebConfigState:
    """Load ``web.config_file`` and the certificates and keys that it names.

    Raises:
        ConfigError: one of the files is invalid; the message lists all errors.
    """
    # The state before reading: a change while reading is then seen as a change later.
    states = {path: file_state(path)}
    config = load_web_config(path)
    tls = _tls_settings(config.tls_server_config)
    if tls is not None:
        files = (tls.cert_file, tls.key_file, tls.client_ca_file)
        states |= {file: file_state(file) for file in files if file is not None}
    try:
        context = None if tls is None else server_context(tls)
    except TlsError as error:
        raise ConfigError(error.problems, str(path)) from error
    users = {name: hash_.get_secret_value().encode() for name, hash_ in config.basic_auth_users.items()}
    return WebConfigState(states, context, Passwords(users) if users else None, config.http_server_config.headers)


def _tls_settings(tls: TlsServer) -> TlsSettings | None:
    if tls.cert_file is None or tls.key_file is None:
        return None
    return TlsSettings(
        cert_file=tls.cert_file,
        key_file=tls.key_file,
        client_ca_file=tls.client_ca_file,
        client_auth=_CLIENT_AUTH[tls.client_auth_type],
        minimum=_TLS_VERSIONS[tls.min_version],
        maximum=_TLS_VERSIONS[tls.max_version],
        suites=tls.tls12_suites,
        prefer_server_suites=tls.prefer_server_cipher_suites,
        curve=tls.curve_preferences[0] if tls.curve_preferences else None,
    )


def reading_description(config: Config, scope: Scope | None = None) -> str:
    """Describe what a history is read with: a history with another scope, tenant or filter is a different one.

    Args:
        config: the configuration.
        scope: by default that of the configuration.
    """
    tempo = config.tempo
    return f"tempo.scope={scope or tempo.scope} tempo.tenant={tempo.tenant!r} tempo.filter={tempo.filter!r}"


def _whole_seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())


def _text(path: object) -> str | None:
    return None if path is None else str(path)
