"""Contradictions: keys whose values are valid by themselves, but not together."""

from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

from exporter.config.schema import Config, Tempo
from exporter.config.units import format_duration


class Contradiction(NamedTuple):
    """Keys that contradict each other, by dotted path, and what to do."""

    keys: tuple[str, ...]
    message: str


def contradictions(config: Config) -> Iterator[Contradiction]:
    """Yield all contradictions."""
    yield from _credentials(config.tempo)
    yield from _tls(config.tempo)
    yield from _durations(config)


def _credentials(tempo: Tempo) -> Iterator[Contradiction]:
    basic = tempo.basic_auth
    sets_header = {name.casefold(): f"tempo.headers.{name}" for name in tempo.headers}
    bearer = [
        key
        for key, value in (
            ("tempo.auth_token", tempo.auth_token.get_secret_value()),
            ("tempo.auth_token_file", tempo.auth_token_file),
        )
        if value
    ]
    passwords = [
        key
        for key, value in (
            ("tempo.basic_auth.password", basic.password.get_secret_value()),
            ("tempo.basic_auth.password_file", basic.password_file),
        )
        if value
    ]
    user = ["tempo.basic_auth.username"] if basic.username else []
    if len(bearer) == 2:
        yield _one_of(bearer)
    if len(passwords) == 2:
        yield _one_of(passwords)
    if bearer and (user or passwords):
        yield _one_of([bearer[0], (user or passwords)[0]])
    if user and not passwords:
        yield Contradiction(
            ("tempo.basic_auth.username", "tempo.basic_auth.password", "tempo.basic_auth.password_file"),
            "tempo.basic_auth.username needs tempo.basic_auth.password or tempo.basic_auth.password_file",
        )
    if passwords and not user:
        yield Contradiction(
            (passwords[0], "tempo.basic_auth.username"), f"{passwords[0]} needs tempo.basic_auth.username"
        )
    if "authorization" in sets_header and (bearer or user or passwords):
        yield _one_of([sets_header["authorization"], (bearer or user or passwords)[0]])
    if "x-scope-orgid" in sets_header and tempo.tenant:
        yield _one_of([sets_header["x-scope-orgid"], "tempo.tenant"])


def _one_of(keys: list[str]) -> Contradiction:
    return Contradiction(tuple(keys), f"{' and '.join(keys)} exclude each other: set one of them")


def _tls(tempo: Tempo) -> Iterator[Contradiction]:
    certificate, key = "tempo.tls.cert_file", "tempo.tls.key_file"
    if tempo.tls.cert_file and not tempo.tls.key_file:
        yield Contradiction((certificate, key), f"{certificate} needs {key}")
    if tempo.tls.key_file and not tempo.tls.cert_file:
        yield Contradiction((key, certificate), f"{key} needs {certificate}")


def _durations(config: Config) -> Iterator[Contradiction]:
    """Yield the pairs of durations of which the one that must be longer is shorter."""
    polling, detection, retention = config.polling, config.detection, config.storage.retention
    durations: dict[str, timedelta] = {
        "polling.tempo_interval": polling.tempo_interval,
        "polling.tempo_lookback": polling.tempo_lookback,
        "polling.settle": polling.settle,
        "polling.backfill_batch": polling.backfill_batch,
        "polling.backfill_duration": polling.backfill_duration,
        "detection.window": detection.window,
        "detection.max_window": detection.max_window,
        "detection.lookback": detection.lookback,
        "storage.retention": retention,
    }
    for longer, shorter, reason in (
        ("polling.tempo_lookback", "polling.tempo_interval", "traces would be missed"),
        ("polling.settle", "polling.tempo_lookback", "late traces may still arrive"),
        ("polling.backfill_duration", "polling.backfill_batch", "no window would fit"),
        ("detection.max_window", "detection.window", "the window may grow to it"),
        ("detection.lookback", "polling.backfill_batch", "no window would fit"),
        ("storage.retention", "polling.backfill_duration", "history would not be kept"),
        ("storage.retention", "detection.lookback", "baselines are built from it"),
    ):
        if durations[longer] < durations[shorter]:
            yield Contradiction(
                (longer, shorter),
                f"{longer} ({format_duration(durations[longer])}) must be at least {shorter} "
                f"({format_duration(durations[shorter])}): {reason}",
            )
