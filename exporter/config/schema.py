"""The shape of the configuration: every key with its type, its default and the one sentence that explains it.

The sentences here are the only ones: the annotated example and the reference are made from them. Checks that concern
one key stand with its type in `exporter.config.values`, those between keys in `exporter.config.contradictions`.
"""

import re
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from exporter.config import values
from exporter.config.values import (
    Batch,
    Boolean,
    Count,
    DayName,
    Duration,
    ExploreUrl,
    FilePath,
    Headers,
    HeaderText,
    Integer,
    ListenAddress,
    LogFormat,
    LogLevel,
    OptionalFilePath,
    Password,
    PositiveDuration,
    Real,
    Regex,
    Region,
    Scope,
    Seconds,
    Text,
    TimeZone,
    Token,
    TraceqlConditions,
    Url,
    Username,
)


def _key(default: Any, description: str, **constraints: Any) -> Any:
    """A key. The default is written as a user would write it and goes through the same checks."""
    return Field(default, validate_default=True, description=description, **constraints)


def _section(model: type[BaseModel], description: str) -> Any:
    return Field(default_factory=model, description=description)


class Section(BaseModel):
    """A mapping with a closed set of keys. Immutable; its errors do not repeat what was put in."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class CalendarSettings(Section):
    """``calendar``."""

    weekend: tuple[DayName, ...] = _key(("saturday", "sunday"), "Days of the week that are judged as weekend.")
    holidays: Region = _key(
        None,
        "Country whose public holidays count as weekend, such as TW, or with a subdivision, DE-BY; null for none.",
    )


class BasicAuth(Section):
    """``tempo.basic_auth``."""

    username: Username = _key("", "User name for HTTP basic authentication; empty to send none.")
    password: Password = _key("", "Its password.")
    password_file: OptionalFilePath = _key(None, "File that holds the password instead; reread when it changes.")


class Tls(Section):
    """``tempo.tls``."""

    ca_file: OptionalFilePath = _key(
        None, "Certificate authorities (PEM) to trust instead of the usual ones, for a private CA."
    )
    cert_file: OptionalFilePath = _key(None, "Client certificate (PEM), where Tempo asks for one; needs key_file.")
    key_file: OptionalFilePath = _key(None, "Private key (PEM) of the client certificate; needs cert_file.")
    insecure_skip_verify: Boolean = _key(
        False, "Accept any certificate of the server. Anybody in between can then read and change the traffic."
    )


class Tempo(Section):
    """``tempo``."""

    url: Url = _key(
        "http://localhost:3200", "Address of Tempo's HTTP API (the query frontend), with a path prefix if it has one."
    )
    auth_token: Token = _key("", "Bearer token; empty to send none.")
    auth_token_file: OptionalFilePath = _key(None, "File that holds the bearer token instead; reread when it changes.")
    basic_auth: BasicAuth = _section(BasicAuth, "HTTP basic authentication, instead of a bearer token.")
    tenant: HeaderText = _key("", "Tenant, sent as X-Scope-OrgID; needed where Tempo has multitenancy on.")
    headers: Headers = _key({}, "Further HTTP headers for every request, name to value; the values are kept secret.")
    tls: Tls = _section(Tls, "TLS towards Tempo, for an https url.")
    timeout: PositiveDuration = _key("15s", "How long one request to Tempo may take.")
    scope: Scope = _key(
        "root",
        "root: a series for each root span. entry: also server and consumer spans inside a trace, for what stands "
        "behind a gateway.",
    )
    filter: TraceqlConditions = _key(
        "", 'TraceQL conditions that spans must also meet, such as resource.deployment.environment="prod".'
    )
    limit: Integer = _key(5000, "Traces to ask for in one search; a window with more is split.", ge=1, le=1_000_000)
    max_concurrency: Integer = _key(4, "Requests to Tempo at the same time, from everything together.", ge=1, le=1000)
    requests_per_second: Real = _key(20, "Requests to Tempo per second, from everything together.", gt=0)


class Polling(Section):
    """``polling``."""

    tempo_interval: PositiveDuration = _key("15s", "How often the current traffic is read and judged.")
    tempo_lookback: Seconds = _key(
        "120s", "How far back each of these reads goes; must cover the time until Tempo finds a new trace."
    )
    backfill_enabled: Boolean = _key(
        True, "Read history. Without it there are baselines only from what the database already holds."
    )
    backfill_duration: Seconds = _key("168h", "How far back history is wanted.")
    backfill_batch: Batch = _key(
        "1h", "Length of a window of history: a divisor of an hour; whole hours read several windows in one search."
    )
    max_traces_per_window: Integer = _key(
        50_000,
        "Traces to read of one window of history; a denser one is read as a sample spread evenly over it.",
        ge=1000,
    )
    max_requests_per_window: Integer = _key(
        100, "Requests to Tempo for one window of history; as many as this, however little each returns.", ge=20
    )
    max_traces_per_poll: Integer = _key(
        20_000,
        "Traces to read in one poll of the current traffic; when there are more, a sample spread evenly.",
        ge=1000,
    )
    max_requests_per_poll: Integer = _key(50, "Requests to Tempo in one poll of the current traffic.", ge=20)
    settle: Seconds = _key("15m", "Age at which a window is complete in Tempo and is read for the record, once.")


class Stats(Section):
    """``stats``."""

    factor: Real = _key(
        2.0,
        "Outlier threshold of a trace: this multiple of the baseline p95, or what k gives, whichever is higher.",
        gt=0,
    )
    k: Real = _key(10, "The other part of that threshold: the baseline p50 plus this many MAD.", ge=0)
    min_samples: Count = _key(50, "Traces that the exact hour and day type needs to serve as baseline (level 1).")
    mad_epsilon: Duration = _key("1ms", "Smallest MAD reckoned with, for endpoints that hardly vary.")


class Fallback(Section):
    """``fallback``."""

    enabled: Boolean = _key(True, "Use wider pools of hours where the exact one has too few traces; false: none.")
    nearby_hours_enabled: Boolean = _key(True, "Level 2: the hours around, of the same day type.")
    nearby_hours_range: Integer = _key(2, "How many hours to each side level 2 reaches.", ge=1, le=11)
    nearby_min_samples: Count = _key(20, "Traces that level 2 needs.")
    daytype_global_enabled: Boolean = _key(True, "Level 3: all hours of the same day type.")
    daytype_global_min_samples: Count = _key(50, "Traces that level 3 needs.")
    full_global_enabled: Boolean = _key(True, "Level 4: all hours of all days.")
    full_global_min_samples: Count = _key(30, "Traces that level 4 needs.")


class Detection(Section):
    """``detection``."""

    window: Seconds = _key("5m", "Length of the current window, which is compared with the baseline.")
    min_traces: Count = _key(
        10, "Traces wanted in the current window; with fewer it reaches further back, up to max_window."
    )
    max_window: Seconds = _key("60m", "How far back the current window may reach for an endpoint with little traffic.")
    ratio: Real = _key(
        1.4, "A shift must slow a quantile by this factor to matter; 2 for fewer alerts, about large shifts only.", gt=1
    )
    min_delta: Duration = _key("5ms", "A shift must also slow it by this much, so that fast endpoints do not alert.")
    swing: Real = _key(2.5, "Tolerate this many times the usual swing of the endpoint; more: fewer alerts.", ge=0)
    alpha: Real = _key(
        0.001, "Tail probability below which too many slow traces are no chance; not a false-alarm rate.", gt=0, lt=1
    )
    hold: Duration = _key("60s", "A shift must last this long before the flag rises.")
    clear_hold: Duration = _key("120s", "A shift must be gone this long before the flag falls.")
    lookback: PositiveDuration = _key("14d", "How much history a baseline may be made of.")
    accept_after: PositiveDuration = _key("24h", "A change that lasts this long becomes the new normal.")


class Rename(Section):
    """An item of ``series.rename``: what matches in a span name is replaced."""

    match: Regex
    replace: Text

    @model_validator(mode="after")
    def _replacement_fits(self) -> Self:
        try:
            values.compile_regex(self.match).sub(self.replace, "")
        except (re.error, IndexError) as error:
            raise ValueError(f"has a replacement that does not fit its expression: {error}") from None
        return self


class Series(Section):
    """``series``."""

    max: Integer = _key(10_000, "Most series at a time; traces of further ones are counted and left out.", ge=1)
    stale_after: PositiveDuration = _key("24h", "A series without traces for this long leaves the metrics.")
    include: tuple[Regex, ...] = _key(
        (), "Regular expressions; when there are any, only series whose service_name/span_name one matches are kept."
    )
    exclude: tuple[Regex, ...] = _key(
        (), "Regular expressions; series whose service_name/span_name one of them matches are left out."
    )
    rename: tuple[Rename, ...] = _key(
        (), "List of {match, replace}: what the expression matches in a span name is replaced, \\1 is its first group."
    )
    placeholders: Boolean = _key(
        True,
        "Turn ids in span names into {number}, {uuid}, {hex}, {email} or {date}: "
        "/orders/17 and /orders/18 are one endpoint.",
    )


class Storage(Section):
    """``storage``."""

    path: FilePath = _key("tempo-anomaly.db", "The SQLite database; relative to the working directory.")
    retention: PositiveDuration = _key("28d", "How long history is kept.")


class Web(Section):
    """``web``."""

    listen_address: ListenAddress = _key("0.0.0.0:9817", "Where to serve; [::]:9817 for IPv6, :9817 for any IPv4.")
    config_file: OptionalFilePath = _key(None, "TLS and basic authentication, in the format of the exporter toolkit.")

    @property
    def host(self) -> str:
        """Host of the listen address; an IPv6 address without its brackets."""
        return values.split_address(self.listen_address)[0]

    @property
    def port(self) -> int:
        """Port of the listen address; 0 for one that the system chooses."""
        return values.split_address(self.listen_address)[1]


class Grafana(Section):
    """``grafana``."""

    explore_url: ExploreUrl = _key(
        "", "Address that opens a trace: {trace_id} is replaced by its id, or {query} by that or by TraceQL."
    )


class LogSettings(Section):
    """``log``."""

    level: LogLevel = _key("info", "Least important messages to write: debug, info, warning or error.")
    format: LogFormat = _key("logfmt", "logfmt or json; one line per message on standard error either way.")


class Config(Section):
    """The whole configuration.

    Constructing it checks each key by itself; `exporter.config.load_config` also checks the keys against each other.
    """

    timezone: TimeZone = _key("UTC", "IANA time zone whose wall clock decides hour and day, such as Europe/Berlin.")
    calendar: CalendarSettings = _section(CalendarSettings, "Which days are quiet days.")
    tempo: Tempo = _section(Tempo, "How to reach Tempo and what to read from it.")
    polling: Polling = _section(Polling, "How often and how far back Tempo is read.")
    stats: Stats = _section(Stats, "When a single trace is an outlier.")
    fallback: Fallback = _section(Fallback, "Where the baseline comes from while an hour has too few traces.")
    detection: Detection = _section(Detection, "When the latency of an endpoint as a whole has shifted.")
    series: Series = _section(Series, "Which endpoints are watched, and how many.")
    storage: Storage = _section(Storage, "Where history is kept, and for how long.")
    web: Web = _section(Web, "What the exporter serves.")
    grafana: Grafana = _section(Grafana, "Where the pages' links to traces lead.")
    log: LogSettings = _section(LogSettings, "What the exporter writes to standard error.")
