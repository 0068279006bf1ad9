"""The types of the keys: each validates a single value and says in its message what to write.

A message is the predicate of a sentence whose subject is the key: "tempo.limit must be at least 1, not 0". It never
contains a value that may be secret.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from exporter.config.holiday import canonical_region
from exporter.config.units import parse_duration
from exporter.config.wording import hint, shown
from exporter.model.failure_rule import FailureRule
from exporter.model.identity import OWN_NAME, parse_attribute
from exporter.model.pattern import Pattern, PatternError
from exporter.model.time_mark import check_rule
from exporter.model.traceql_filter import filter_problem

SECRET_MASK: Final = "<secret>"  # noqa: S105 - it replaces a secret
"""Replaces a secret wherever the configuration is shown; Prometheus uses the same text."""

EXPLORE_PLACES: Final = ("{trace_id}", "{query}")
"""Placeholders of ``grafana.explore_url``: a trace id, or a trace id or TraceQL query."""

DEFAULT_ATTRIBUTES: Final = (
    "resource.service.version",
    "resource.service.instance.id",
    "resource.k8s.pod.name",
    "resource.k8s.node.name",
    "resource.host.name",
    "resource.cloud.availability_zone",
    "span.http.response.status_code",
    "span.http.status_code",
    "span.rpc.response.status_code",
    "span.rpc.grpc.status_code",
    "span.error.type",
    "span.db.system.name",
    "span.db.system",
    "span.db.operation.name",
    "span.db.operation",
    "span.messaging.destination.name",
    "span.messaging.destination",
    "span.server.address",
    "span.net.peer.name",
)
"""Default of ``cause.attributes``: where a span ran, what it called and how it ended, by the present and the former
semantic conventions of OpenTelemetry."""

_LONGEST: Final = timedelta(days=3650)
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([ Tt][0-9]{2}:[0-9]{2}(:[0-9]{2})?([Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
)
_YEARS: Final = range(1971, 2100)
_RULE_START: Final = datetime(2026, 1, 1, tzinfo=UTC)

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
WEEKDAYS: Final[tuple[Weekday, ...]] = (
    "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday",
)  # fmt: skip


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    folded = value.casefold() if isinstance(value, str) else None
    if folded in {"true", "yes", "on", "1"}:
        return True
    if folded in {"false", "no", "off", "0"}:
        return False
    raise ValueError(f"must be true or false, not {shown(value)}")


def _integer(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch("[+-]?[0-9]{1,18}", value):
        return int(value)
    raise ValueError(f"must be a whole number, not {shown(value)}")


def _real(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", value):
        return float(value)
    raise ValueError(f"must be a number, not {shown(value)}")


def _duration(value: object) -> timedelta:
    duration = value if isinstance(value, timedelta) else None
    if duration is None:
        if not isinstance(value, str):
            raise ValueError(f"must be a duration such as 90s, 15m, 7d or 1h30m, not {shown(value)}")
        duration = parse_duration(value)
    if duration < timedelta():
        raise ValueError("must not be negative")
    if duration > _LONGEST:
        raise ValueError(f"must be at most 10y, not {shown(value)}")
    return duration


def _positive(duration: timedelta) -> timedelta:
    if not duration:
        raise ValueError("must be longer than 0s")
    return duration


def _whole_seconds(duration: timedelta) -> timedelta:
    if duration % timedelta(seconds=1):
        raise ValueError("must be whole seconds: Tempo searches by the second")
    return duration


def _batch(duration: timedelta) -> timedelta:
    hour = timedelta(hours=1)
    if hour % duration and duration % hour:
        raise ValueError("must divide an hour evenly (such as 5m, 15m, 30m) or be whole hours (such as 1h, 6h)")
    return duration


def choice(names: tuple[str, ...], aliases: Mapping[str, str] | None = None) -> BeforeValidator:
    """Return a validator for a closed list of names, in any case."""

    def check(value: object) -> str:
        folded = value.casefold() if isinstance(value, str) else ""
        name = (aliases or {}).get(folded, folded)
        if name not in names:
            raise ValueError(f"must be one of {', '.join(names)}, not {shown(value)}{hint(folded, names)}")
        return name

    return BeforeValidator(check)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not contain line breaks or other control characters")
    return text


def _header_text(text: str) -> str:
    """Validate text for an HTTP header; it may be secret, so the message does not contain it."""
    if not all(" " <= character <= "~" for character in text):
        raise ValueError("must be plain ASCII without line breaks: it is sent in an HTTP header")
    if text != text.strip():
        raise ValueError("must not begin or end with a space")
    return text


def _not_the_mask(text: str) -> None:
    if text == SECRET_MASK:
        raise ValueError(f"is {SECRET_MASK}, which masks a secret in the output; set the secret itself")


def _header_value(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    _not_the_mask(text)
    _header_text(text)
    return secret


def _token(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    _header_value(secret)
    if " " in text:
        raise ValueError("must not contain spaces; leave out the word Bearer")
    return secret


def _password(secret: SecretStr) -> SecretStr:
    _not_the_mask(secret.get_secret_value())
    _printable(secret.get_secret_value())
    return secret


def _username(text: str) -> str:
    if ":" in text:
        raise ValueError("must not contain a colon: basic authentication cannot send one")
    return _printable(text)


def _header_name(name: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise ValueError("is not a valid HTTP header name")
    return name


def _headers(headers: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
    seen: dict[str, str] = {}
    for name in headers:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise ValueError(f"has the same header twice: {other} and {name}")
    return headers


def _split_url(text: str) -> SplitResult:
    """Split an http or https URL; it may contain a password by mistake, so the message does not contain it."""
    if not text.isprintable() or " " in text:
        raise ValueError("must not contain spaces or control characters")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("is not a valid URL: check host and port") from None
    if parts.scheme not in {"http", "https"} or not text[len(parts.scheme) :].startswith("://"):
        raise ValueError("must begin with http:// or https://")
    if not parts.hostname or port == 0:
        raise ValueError("must have a host, and a port unless it is the default one: http://tempo:3200")
    return parts


def _url(text: str) -> str:
    """Validate a base URL."""
    parts = _split_url(text)
    if "@" in parts.netloc:
        raise ValueError(
            "must not contain user or password: use tempo.basic_auth.username and tempo.basic_auth.password"
        )
    if "?" in text or "#" in text:
        raise ValueError("must not contain a query or a fragment: paths such as /api/search are appended to it")
    return text.rstrip("/")


def _optional_url(text: str) -> str:
    """Validate a base URL without credentials; empty for none."""
    if not text:
        return text
    parts = _split_url(text)
    if "@" in parts.netloc or "?" in text or "#" in text:
        raise ValueError("must not contain user or password, a query or a fragment")
    return text.rstrip("/")


def _grafana_url(text: str) -> str:
    """Validate the address of Grafana; empty for none. It is visible on the pages."""
    if not text:
        return text
    if "@" in _split_url(text).netloc:
        raise ValueError("must not contain user or password: everyone who opens a page can see it")
    if "?" in text or "#" in text:
        raise ValueError("must not contain a query or a fragment: paths such as /a/grafana-exploretraces-app follow it")
    return text.rstrip("/")


def _explore_url(text: str) -> str:
    """Validate a URL with one placeholder; empty for none. It is visible on the pages."""
    if not text:
        return text
    parts = _split_url(text)
    if "@" in parts.netloc:
        raise ValueError("must not contain user or password: everyone who opens a page can see it")
    places = [place for place in EXPLORE_PLACES if place in text]
    if len(places) != 1 or places[0] in parts.netloc:
        raise ValueError(
            f"must contain either {' or '.join(EXPLORE_PLACES)}, in its path or query: the placeholder is replaced by "
            "what to look up"
        )
    return text


def _traceql_conditions(text: str) -> str:
    text = _printable(text.strip())
    problem = filter_problem(text)
    if problem is not None:
        raise ValueError(problem)
    return text


def _failure_condition(text: str) -> str:
    text = _printable(text.strip())
    FailureRule(text)
    return text


def _time(value: object) -> datetime:
    if isinstance(value, datetime):
        return value
    text = value.strip() if isinstance(value, str) else ""
    try:
        moment = datetime.fromisoformat(text.upper()) if _TIME.fullmatch(text) else None
    except ValueError:
        moment = None
    if moment is None or moment.year not in _YEARS:
        raise ValueError(f"must be a time such as 2026-11-24T14:00 (local) or 2026-11-24T14:00Z, not {shown(value)}")
    return moment


def _rule(text: str) -> str:
    if text:
        check_rule(text, _RULE_START)
    return text


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # not found, not a zone file, a directory, or not a file name
        raise ValueError(
            f"must be an IANA time zone such as Europe/Berlin, not {shown(name)}{hint(name, available_timezones())}"
        ) from None
    return name


def _region(value: object) -> str | None:
    return None if value is None or value == "" else canonical_region(str(value))


def _path(value: object) -> object:
    if isinstance(value, str):
        if not value:
            raise ValueError("must name a file")
        if "\0" in value:
            raise ValueError("must not contain a zero byte")
    return value


def _path_or_none(value: object) -> object:
    return None if value == "" else _path(value)


def compile_regex(text: str) -> Pattern:
    """Compile a regular expression.

    Raises:
        ValueError: it is invalid; the message says why and what to write.
    """
    try:
        return Pattern(text)
    except PatternError as error:
        raise ValueError(f"must be a regular expression, not {shown(text)}: {error}") from None


def _regex(text: str) -> str:
    compile_regex(text)
    return text


def _attribute(text: str) -> str:
    parse_attribute(text)
    return text


def _name_attribute(text: str) -> str:
    return text if text == OWN_NAME.name else _attribute(text)


def _not_empty(attributes: tuple[str, ...]) -> tuple[str, ...]:
    if not attributes:
        raise ValueError("must not be empty")
    return attributes


def _alternatives(value: object) -> object:
    """Return the alternatives as a list; a single attribute needs none."""
    return [value] if isinstance(value, str) else value


def split_address(text: str) -> tuple[str, int]:
    """Split a listen address into host and port; an empty host becomes 0.0.0.0, every IPv4 address.

    Raises:
        ValueError: not ``host:port``.
    """
    match = re.fullmatch(r"(?:\[(?P<v6>[^][]+)]|(?P<host>[A-Za-z0-9._-]*)):(?P<port>[0-9]{1,5})", text)
    if match is None:
        raise ValueError(
            f"must be host:port, with an IPv6 address in brackets ([::]:9817), or only :port, not {shown(text)}"
        )
    port = int(match["port"])
    if port > 65535:
        raise ValueError(f"must have a port of at most 65535, not {port}")
    host = match["v6"] or match["host"] or "0.0.0.0"  # noqa: S104 - as in Prometheus and Go
    try:
        if match["v6"]:
            IPv6Address(host)
        elif re.fullmatch("[0-9.]+", host):
            IPv4Address(host)
    except AddressValueError:
        raise ValueError(f"must have a valid IP address, not {shown(host)}") from None
    return host, port


def _address(text: str) -> str:
    split_address(text)
    return text


Boolean = Annotated[bool, BeforeValidator(_boolean)]
Integer = Annotated[int, BeforeValidator(_integer)]
Count = Annotated[Integer, Field(ge=1, le=1_000_000_000)]
Real = Annotated[float, BeforeValidator(_real), Field(allow_inf_nan=False)]

Duration = Annotated[timedelta, BeforeValidator(_duration)]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Seconds = Annotated[PositiveDuration, AfterValidator(_whole_seconds)]
Batch = Annotated[Seconds, AfterValidator(_batch)]

Text = Annotated[str, AfterValidator(_printable)]
HeaderText = Annotated[str, AfterValidator(_header_text)]
Username = Annotated[str, AfterValidator(_username)]
Token = Annotated[SecretStr, AfterValidator(_token)]
Password = Annotated[SecretStr, AfterValidator(_password)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[SecretStr, AfterValidator(_header_value)]
Headers = Annotated[Mapping[HeaderName, HeaderValue], AfterValidator(_headers)]
Url = Annotated[str, AfterValidator(_url)]
OptionalUrl = Annotated[str, AfterValidator(_optional_url)]
ExploreUrl = Annotated[str, AfterValidator(_explore_url)]
GrafanaUrl = Annotated[str, AfterValidator(_grafana_url)]
TraceqlConditions = Annotated[str, AfterValidator(_traceql_conditions)]
FailureCondition = Annotated[str, AfterValidator(_failure_condition)]
Time = Annotated[datetime, BeforeValidator(_time)]
Rule = Annotated[str, AfterValidator(_printable), AfterValidator(_rule)]
MarkName = Annotated[Literal["expected", "incident", "normal"], choice(("expected", "incident", "normal"))]
TimeZone = Annotated[str, AfterValidator(_timezone)]
Region = Annotated[str | None, BeforeValidator(_region)]
FilePath = Annotated[Path, BeforeValidator(_path)]
OptionalFilePath = Annotated[Path | None, BeforeValidator(_path_or_none)]
Regex = Annotated[str, AfterValidator(_regex)]
Attribute = Annotated[str, AfterValidator(_attribute)]
Attributes = Annotated[tuple[Attribute, ...], BeforeValidator(_alternatives), AfterValidator(_not_empty)]
NameAttributes = Annotated[tuple[Annotated[str, AfterValidator(_name_attribute)], ...], AfterValidator(_not_empty)]
ListenAddress = Annotated[str, AfterValidator(_address)]
DayName = Annotated[Weekday, choice(WEEKDAYS)]
Scope = Annotated[Literal["root", "entry"], choice(("root", "entry"))]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    choice(("debug", "info", "warning", "error"), aliases={"warn": "warning"}),
]
Severity = Annotated[Literal["critical", "warning", "info"], choice(("critical", "warning", "info"))]
LogFormat = Annotated[Literal["logfmt", "json"], choice(("logfmt", "json"))]
