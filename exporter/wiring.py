"""The configuration, translated for each part in the part's own terms. No part knows the configuration itself."""

import re
from datetime import timedelta

from exporter.config import Config
from exporter.core.baseline import FallbackRules
from exporter.core.budget import Budget
from exporter.core.detection.parameters import Parameters
from exporter.core.outlier import OutlierRule
from exporter.detector.settings import JudgeSettings
from exporter.poller import PollSettings
from exporter.reading.admission import SeriesRules
from exporter.reading.backfill import BackfillSettings
from exporter.tempo import ClientSettings

_AFFORDABLE_SEARCHES = 10
"""How many full searches the first reading of the live edge may take beyond the evaluation window."""


def client_settings(config: Config) -> ClientSettings:
    """How to reach Tempo."""
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
    )


def backfill_settings(config: Config) -> BackfillSettings:
    """What history is wanted and how it is read."""
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
    """How the live edge is read."""
    return PollSettings(
        interval_seconds=config.polling.tempo_interval.total_seconds(),
        lookback_seconds=config.polling.tempo_lookback.total_seconds(),
        window_seconds=config.detection.window.total_seconds(),
        max_window_seconds=config.detection.max_window.total_seconds(),
        affordable_traces=_AFFORDABLE_SEARCHES * config.tempo.limit,
        budget=Budget(config.polling.max_traces_per_poll, config.polling.max_requests_per_poll),
    )


def judge_settings(config: Config) -> JudgeSettings:
    """What a verdict depends on."""
    fallback, stats, detection = config.fallback, config.stats, config.detection
    return JudgeSettings(
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
    """Which series are watched."""
    series = config.series
    return SeriesRules(
        include=[re.compile(pattern) for pattern in series.include],
        exclude=[re.compile(pattern) for pattern in series.exclude],
        rename=[(re.compile(rule.match), rule.replace) for rule in series.rename],
        most=series.max,
    )


def reading_description(config: Config) -> str:
    """What a history is read with: with another scope or filter it would be another history."""
    return f"tempo.scope={config.tempo.scope} tempo.tenant={config.tempo.tenant!r} tempo.filter={config.tempo.filter!r}"


def _whole_seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())


def _text(path: object) -> str | None:
    return None if path is None else str(path)
