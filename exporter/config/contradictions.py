"""Contradictions: keys whose values are valid by themselves, but not together."""

from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from exporter.config.schema import Config, Series, Tempo
from exporter.config.units import format_duration
from exporter.model.identity import MAX_LABELS, METHODS, OWN_NAME, RESERVED_LABELS, Attribute, parse_attribute


class Contradiction(NamedTuple):
    """Keys that contradict each other, by dotted path, and what to do."""

    keys: tuple[str, ...]
    message: str


def contradictions(config: Config) -> Iterator[Contradiction]:
    """Yield all contradictions."""
    yield from _credentials(config.tempo)
    yield from _tls(config.tempo)
    yield from _durations(config)
    yield from _labels(config.series)
    yield from _overrides(config)
    yield from _surges(config)
    yield from _marks(config)


def _marks(config: Config) -> Iterator[Contradiction]:
    """Yield the marks whose range is none in the local time zone, and marks by users without a password."""
    zone = ZoneInfo(config.timezone)
    for index, mark in enumerate(config.marks):
        if found := mark.problem(zone):
            yield Contradiction((f"marks[{index}]", "timezone"), found.within(("marks", index)).message({}))
    if config.web.allow_marks and config.web.config_file is None:
        yield Contradiction(
            ("web.allow_marks", "web.config_file"),
            "web.allow_marks needs web.config_file with basic_auth_users: a mark silences alerts, so only people with "
            "a password may add one",
        )


def _surges(config: Config) -> Iterator[Contradiction]:
    """Yield the multiples of the usual traffic that are none."""
    places = [("", config.detection)] + [
        (f"overrides[{index}].", override.detection) for index, override in enumerate(config.overrides)
    ]
    for place, detection in places:
        if 0 < detection.traffic.surge <= 1:
            key = f"{place}detection.traffic.surge"
            yield Contradiction((key,), f"{key} must be 0, or above 1: it is a multiple of the usual traffic")


def _labels(series: Series) -> Iterator[Contradiction]:
    """Yield the labels that Prometheus could not tell apart, and attributes that Tempo's answers do not tell apart."""
    key = "series.labels"
    labels = [[parse_attribute(text) for text in alternatives] for alternatives in series.labels]
    if len(labels) > MAX_LABELS:
        yield Contradiction((key,), f"{key} has {len(labels)} labels; at most {MAX_LABELS} are possible")
    first: dict[str, Attribute] = {}
    for attribute, *_ in labels:
        name = attribute.label_name
        if name in first:
            yield Contradiction(
                (key,), f"{key} has two attributes that make the label {name}: {first[name]} and {attribute}"
            )
        elif name.startswith("__") or name in RESERVED_LABELS:
            yield Contradiction(
                (key,),
                f"{key} must not contain {attribute}: its label would be {name}, which has another meaning. Make it an "
                f"alternative of an attribute that names the label: [resource.my.{name}, {attribute}]",
            )
        first.setdefault(name, attribute)
    names = [parse_attribute(text) for text in series.span_name if text != OWN_NAME.name]
    scoped: dict[str, Attribute] = {}
    of_labels = [each for alternatives in labels for each in alternatives]
    for attribute in (*of_labels, *names, *(METHODS if names else ())):
        other = scoped.setdefault(attribute.name, attribute)
        if other != attribute:
            yield Contradiction(
                (key, "series.span_name"),
                f"{key} and series.span_name must not contain both {other} and {attribute}: Tempo returns them under "
                "the same name",
            )


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
        "polling.late": polling.late,
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
        ("polling.late", "polling.settle", "no trace could be late"),
        ("polling.backfill_duration", "polling.backfill_batch", "no window would fit"),
        ("detection.max_window", "detection.window", "the window may grow to it"),
        ("detection.lookback", "polling.backfill_batch", "no window would fit"),
        ("storage.retention", "polling.backfill_duration", "history would not be kept"),
        ("storage.retention", "detection.lookback", "baselines are built from it"),
    ):
        if durations[longer] < durations[shorter]:
            yield _too_short(longer, durations[longer], shorter, durations[shorter], reason)


def _overrides(config: Config) -> Iterator[Contradiction]:
    """Yield the overrides that need more traces or history than is read and kept for all series."""
    everywhere = config.detection
    for position, override in enumerate(config.overrides):
        own, key = override.detection, f"overrides[{position}].detection"
        has = own.model_fields_set
        for name in ("max_window", "lookback"):
            if name in has and getattr(own, name) > getattr(everywhere, name):
                yield _too_short(
                    f"detection.{name}",
                    getattr(everywhere, name),
                    f"{key}.{name}",
                    getattr(own, name),
                    "no more is kept of any endpoint",
                )
        window = (f"{key}.window", own.window) if "window" in has else ("detection.window", everywhere.window)
        longest = (
            (f"{key}.max_window", own.max_window)
            if "max_window" in has
            else ("detection.max_window", everywhere.max_window)
        )
        if has & {"window", "max_window"} and longest[1] < window[1]:
            yield _too_short(*longest, *window, "the window may grow to it")
        if "lookback" in has and own.lookback < config.polling.backfill_batch:
            batch = "polling.backfill_batch"
            yield _too_short(
                f"{key}.lookback", own.lookback, batch, config.polling.backfill_batch, "no window would fit"
            )


def _too_short(longer: str, has: timedelta, shorter: str, needs: timedelta, reason: str) -> Contradiction:
    return Contradiction(
        (longer, shorter),
        f"{longer} ({format_duration(has)}) must be at least {shorter} ({format_duration(needs)}): {reason}",
    )
