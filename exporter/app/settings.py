"""Translates the configuration into the settings that each component defines; no component knows the configuration."""

import ssl
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from exporter.baseline.levels import FallbackRules
from exporter.baseline.outlier import OutlierRule
from exporter.config import Config, ConfigError
from exporter.config.web import ClientAuth, TlsServer, load_web_config
from exporter.detection.parameters import Parameters
from exporter.evaluation.settings import EvaluationSettings, PollSettings
from exporter.ingest.backfill import BackfillSettings
from exporter.ingest.exact_reader import Budget
from exporter.ingest.series_filter import SeriesRules
from exporter.model.label import LabelNames
from exporter.model.pattern import Pattern
from exporter.tempo import ClientSettings
from exporter.web.config_reload import WebConfigState, file_state
from exporter.web.passwords import Passwords
from exporter.web.server.tls import TlsError, TlsSettings, server_context

_AFFORDABLE_SEARCHES: Final = 10
"""Full searches that the first poll may spend on the time before the evaluation window."""

_MIN_MAX_AGE_SECONDS: Final = 30 * 86_400.0
"""Spans this old are always plausible: Tempo may hold more than the history that is wanted."""

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
    )


def poll_settings(config: Config) -> PollSettings:
    """Settings of the poller."""
    return PollSettings(
        interval_seconds=config.polling.tempo_interval.total_seconds(),
        lookback_seconds=config.polling.tempo_lookback.total_seconds(),
        window_seconds=config.detection.window.total_seconds(),
        max_window_seconds=config.detection.max_window.total_seconds(),
        affordable_traces=_AFFORDABLE_SEARCHES * config.tempo.limit,
        budget=Budget(config.polling.max_traces_per_poll, config.polling.max_requests_per_poll),
        stale_after_seconds=config.series.stale_after.total_seconds(),
    )


def evaluation_settings(config: Config) -> EvaluationSettings:
    """Settings of baselines and verdicts."""
    fallback, stats, detection = config.fallback, config.stats, config.detection
    return EvaluationSettings(
        fallback=FallbackRules(
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
        ),
        outlier=OutlierRule(factor=stats.factor, k=stats.k, mad_epsilon_seconds=stats.mad_epsilon.total_seconds()),
        shift=Parameters(
            window_seconds=_whole_seconds(detection.window),
            min_traces=detection.min_traces,
            max_window_seconds=_whole_seconds(detection.max_window),
            ratio=detection.ratio,
            min_delta_seconds=detection.min_delta.total_seconds(),
            swing=detection.swing,
            alpha=detection.alpha,
            hold_seconds=detection.hold.total_seconds(),
            clear_hold_seconds=detection.clear_hold.total_seconds(),
            accept_after_seconds=_whole_seconds(detection.accept_after),
        ),
        stale_after_seconds=config.series.stale_after.total_seconds(),
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
        exclude_probes=series.exclude_probes,
    )


def label_names(config: Config) -> LabelNames:
    """How the names of series become label values."""
    return LabelNames(config.series.max_label_bytes)


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


def reading_description(config: Config) -> str:
    """Describe what a history is read with: a history with another scope, tenant or filter is a different one."""
    return f"tempo.scope={config.tempo.scope} tempo.tenant={config.tempo.tenant!r} tempo.filter={config.tempo.filter!r}"


def _whole_seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())


def _text(path: object) -> str | None:
    return None if path is None else str(path)
