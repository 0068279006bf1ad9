"""The schema of the configuration: every key with its type, default and description.

The annotated example and the reference are generated from the descriptions. The validation of a single value is part of
its type in `exporter.config.values`; `exporter.config.contradictions` validates keys against each other.
"""

from datetime import datetime, timedelta, tzinfo
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from exporter.config import values
from exporter.config.problem import EntryProblem
from exporter.config.values import (
    DEFAULT_ATTRIBUTES,
    Attribute,
    Attributes,
    Batch,
    Boolean,
    Count,
    DayName,
    Duration,
    ExploreUrl,
    FailureCondition,
    FilePath,
    GrafanaUrl,
    Headers,
    HeaderText,
    Integer,
    ListenAddress,
    LogFormat,
    LogLevel,
    MarkName,
    NameAttributes,
    OptionalFilePath,
    OptionalUrl,
    Password,
    PositiveDuration,
    Real,
    Regex,
    Region,
    Rule,
    Scope,
    Seconds,
    Severity,
    Text,
    Time,
    TimeZone,
    Token,
    TraceqlConditions,
    Url,
    Username,
)
from exporter.model.pattern import PatternError
from exporter.model.time_mark import MAX_RECURRING_SECONDS, check_rule


def _key(default: Any, description: str, **constraints: Any) -> Any:
    """Declare a key. The default is in the notation of users and is validated like any other value."""
    return Field(default, validate_default=True, description=description, **constraints)


def _section(model: type[BaseModel], description: str) -> Any:
    return Field(default_factory=model, description=description)


class Section(BaseModel):
    """A mapping with a closed set of keys. Immutable; its validation errors do not contain the input."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class CalendarSettings(Section):
    """``calendar``."""

    weekend: tuple[DayName, ...] = _key(("saturday", "sunday"), "Days of the week that count as weekend.")
    holidays: Region = _key(
        None,
        "Country whose public holidays count as weekend, such as TW, or with a subdivision, DE-BY; null for none.",
    )


class BasicAuth(Section):
    """``tempo.basic_auth``."""

    username: Username = _key("", "User name for HTTP basic authentication; empty to send none.")
    password: Password = _key("", "Password for HTTP basic authentication.")
    password_file: OptionalFilePath = _key(None, "File that contains the password instead; reread when it changes.")


class Tls(Section):
    """``tempo.tls``."""

    ca_file: OptionalFilePath = _key(None, "CA certificates (PEM) to trust in place of the system's, for a private CA.")
    cert_file: OptionalFilePath = _key(None, "Client certificate (PEM), if Tempo requires one; needs key_file.")
    key_file: OptionalFilePath = _key(None, "Private key (PEM) of the client certificate; needs cert_file.")
    insecure_skip_verify: Boolean = _key(
        False, "Do not verify the server's certificate. Anyone in between can then read and change the traffic."
    )


class Tempo(Section):
    """``tempo``."""

    url: Url = _key(
        "http://localhost:3200",
        "Address of Tempo's HTTP API (the query frontend), including a path prefix if there is one.",
    )
    auth_token: Token = _key("", "Bearer token; empty to send none.")
    auth_token_file: OptionalFilePath = _key(
        None, "File that contains the bearer token instead; reread when it changes."
    )
    basic_auth: BasicAuth = _section(BasicAuth, "HTTP basic authentication, instead of a bearer token.")
    tenant: HeaderText = _key("", "Tenant, sent as X-Scope-OrgID; required if multitenancy is enabled in Tempo.")
    headers: Headers = _key({}, "Additional HTTP headers for every request, name to value; the values are secret.")
    tls: Tls = _section(Tls, "TLS settings for an https url.")
    timeout: PositiveDuration = _key("15s", "Timeout of one request to Tempo.")
    scope: Scope = _key(
        "entry",
        "entry: root spans, and server and consumer spans of every service. root: only root spans.",
    )
    filter: TraceqlConditions = _key(
        "", 'TraceQL conditions that spans must also meet, such as resource.deployment.environment="prod".'
    )
    limit: Integer = _key(
        20_000, "Maximum number of traces per search; a window with more is split.", ge=1, le=1_000_000
    )
    max_concurrency: Integer = _key(
        4, "Maximum number of concurrent requests to Tempo, all loops together.", ge=1, le=1000
    )
    requests_per_second: Real = _key(20, "Maximum number of requests to Tempo per second, all loops together.", gt=0)


class Polling(Section):
    """``polling``."""

    tempo_interval: PositiveDuration = _key("15s", "How often the current traffic is read and evaluated.")
    tempo_lookback: Seconds = _key(
        "120s", "How long after their end spans are looked for; must cover the time until Tempo can find a new trace."
    )
    backfill_enabled: Boolean = _key(
        True, "Read history from Tempo; if false, baselines come only from what the database already contains."
    )
    backfill_duration: Seconds = _key("168h", "How far back history is read.")
    backfill_batch: Batch = _key(
        "1h", "Length of a window of history: a divisor of an hour; whole hours: several windows in one search."
    )
    max_traces_per_window: Integer = _key(
        50_000,
        "Maximum number of traces to read per window of history; of a denser one, an evenly spread sample is read.",
        ge=1000,
    )
    max_requests_per_window: Integer = _key(
        100, "Maximum number of requests to Tempo per window of history, however little each returns.", ge=20
    )
    max_traces_per_poll: Integer = _key(
        20_000,
        "Maximum number of traces to read per poll of current traffic; of more, an evenly spread sample is read.",
        ge=1000,
    )
    max_requests_per_poll: Integer = _key(50, "Maximum number of requests to Tempo per poll of current traffic.", ge=20)
    settle: Seconds = _key(
        "15m", "Age at which a window is read into the history: by then Tempo can find most of its traces."
    )
    late: Seconds = _key(
        "24h",
        "How long after the end of a window its traces may reach Tempo; until then it is checked for them and reread.",
    )


class Stats(Section):
    """``stats``."""

    factor: Real = _key(
        2.0,
        "Outlier threshold of a trace: this multiple of the baseline p95, or the one from k, whichever is higher.",
        gt=0,
    )
    k: Real = _key(10, "Other part of the outlier threshold: the baseline p50 plus this many MAD.", ge=0)
    min_samples: Count = _key(50, "Traces that the exact hour and day type needs to serve as baseline (level 1).")
    mad_epsilon: Duration = _key("1ms", "Lower bound of the MAD, for endpoints whose latency hardly varies.")
    max_duration: PositiveDuration = _key(
        "24h", "Spans that take longer are invalid: their clocks are wrong. They are counted and skipped."
    )


class Fallback(Section):
    """``fallback``."""

    enabled: Boolean = _key(True, "Use wider pools of hours if the exact hour has too few traces.")
    nearby_hours_enabled: Boolean = _key(True, "Level 2: nearby hours of the same day type.")
    nearby_hours_range: Integer = _key(2, "Number of hours on each side that level 2 includes.", ge=1, le=11)
    nearby_min_samples: Count = _key(20, "Traces that level 2 needs.")
    daytype_global_enabled: Boolean = _key(True, "Level 3: all hours of the same day type.")
    daytype_global_min_samples: Count = _key(50, "Traces that level 3 needs.")
    full_global_enabled: Boolean = _key(True, "Level 4: all hours of all days.")
    full_global_min_samples: Count = _key(30, "Traces that level 4 needs.")


class RegressionSettings(Section):
    """``detection.regression``."""

    ratio: Real = _key(
        1.15,
        "Minimum factor by which a regression must raise the latency level or the p90, compared with the weeks before.",
        gt=1,
    )
    min_delta: Duration = _key("1ms", "Minimum time by which a regression must slow it.")
    accept_after: PositiveDuration = _key(
        "14d", "A regression that lasts this long is accepted as the new normal; at most 21d.", le=timedelta(days=21)
    )


class Errors(Section):
    """``detection.errors``."""

    enabled: Boolean = _key(True, "Read whether requests failed; false saves Tempo the work.")
    when: FailureCondition = _key(
        "status = error",
        "When a request has failed, in TraceQL: status = error || span.http.response.status_code >= 500 would add 5xx.",
    )
    ratio: Real = _key(2, "Minimum factor by which the share of failed requests must exceed the usual one.", gt=1)
    min_delta: Real = _key(
        0.02, "Minimum difference of the share of failed requests from the usual one; 0.02 is 2 %.", gt=0, lt=1
    )


class TrafficSettings(Section):
    """``detection.traffic``."""

    enabled: Boolean = _key(True, "Flag endpoints that have far less traffic than usual at this hour.")
    drop: Real = _key(0.5, "Traffic has dropped if there are fewer than this share of the usual requests.", gt=0, lt=1)
    surge: Real = _key(
        0, "Traffic has risen if there are more than this multiple of the usual requests; 0 flags no rise.", ge=0
    )


class Detection(Section):
    """``detection``."""

    window: Seconds = _key("5m", "Length of the evaluation window, which is compared with the baseline.")
    min_traces: Count = _key(
        10, "Traces wanted in the evaluation window; with fewer it reaches further back, up to max_window."
    )
    max_window: Seconds = _key("60m", "Maximum length of the evaluation window of an endpoint with little traffic.")
    ratio: Real = _key(
        1.4, "Minimum factor by which a shift must slow a quantile; 2 for fewer alerts, about large shifts only.", gt=1
    )
    min_delta: Duration = _key(
        "5ms", "Minimum time by which a shift must slow a quantile, so that fast endpoints do not alert."
    )
    swing: Real = _key(
        2.5, "Tolerate this many times the normal swing of the endpoint; a higher value means fewer alerts.", ge=0
    )
    alpha: Real = _key(
        0.001, "Tail probability below which too many slow traces are not chance; not a false-alarm rate.", gt=0, lt=1
    )
    hold: Duration = _key("60s", "A shift must last this long before the flag fires.")
    clear_hold: Duration = _key("120s", "A shift must be gone this long before the flag is resolved.")
    lookback: PositiveDuration = _key("14d", "How much history a baseline may be built from.")
    accept_after: PositiveDuration = _key("24h", "A change that lasts this long is accepted as the new normal.")
    regression: RegressionSettings = _section(RegressionSettings, "When the latency of the last days has regressed.")
    errors: Errors = _section(Errors, "Which requests count as failed, and when too many do.")
    traffic: TrafficSettings = _section(TrafficSettings, "When the traffic of an endpoint has dropped.")


class Override(Section):
    """An item of ``overrides``: only the keys that are set count (``model_fields_set``), also of ``detection``."""

    match: Regex
    detection: Detection = Field(default_factory=Detection)
    enabled: Boolean = True
    severity: Severity = "warning"

    @model_validator(mode="after")
    def _sets_something(self) -> Self:
        if not self.model_fields_set & {"enabled", "severity"} and not self.detection.model_fields_set:
            raise ValueError("overrides nothing: set a key of detection, enabled or severity")
        if self.detection.errors.model_fields_set & {"enabled", "when"}:
            raise ValueError(
                "must set only ratio and min_delta of detection.errors: whether requests failed is read for all "
                "endpoints alike"
            )
        return self


class MarkSettings(Section):
    """An item of ``marks``: a range of time, once or recurring, of which people know something.

    Times without a UTC offset are local, in ``timezone``.
    """

    match: Regex
    since: Time = Field(alias="from")
    until: Time = Field(alias="to")
    kind: MarkName = Field(alias="as")
    rrule: Rule = ""
    comment: Text = ""

    def instants(self, zone: tzinfo) -> tuple[datetime, datetime]:
        """Return its beginning and end, or those of the first range."""
        since, until = (
            each if each.tzinfo is not None else each.replace(tzinfo=zone) for each in (self.since, self.until)
        )
        return since, until

    def problem(self, zone: tzinfo) -> EntryProblem | None:
        """Return what is wrong with its range, if anything is.

        Args:
            zone: time zone of times without an offset.
        """
        since, until = (each.timestamp() for each in self.instants(zone))
        if until <= since:
            return EntryProblem(("to",), f"must be after from, not {self.until.isoformat(' ')}")
        if not self.rrule:
            return None
        if until - since > MAX_RECURRING_SECONDS:
            return EntryProblem(("to",), "must be at most 31 days after from, so that the range can recur")
        try:
            check_rule(self.rrule, self.instants(zone)[0])
        except ValueError as error:
            return EntryProblem(("rrule",), str(error))
        return None


class MarksFile(Section):
    """The content of ``marks_file``."""

    marks: tuple[MarkSettings, ...]


class Rename(Section):
    """An item of ``series.rename``: a regular expression and the replacement of its matches in a span name."""

    match: Regex
    replace: Text

    @model_validator(mode="after")
    def _replacement_fits(self) -> Self:
        try:
            values.compile_regex(self.match).check_replacement(self.replace)
        except PatternError as error:
            raise ValueError(f"has a replacement that does not fit its regular expression: {error}") from None
        return self


class Cause(Section):
    """``cause``."""

    enabled: Boolean = _key(True, "Look for the cause of a shift by comparing slow traces with healthy ones.")
    max_requests: Integer = _key(12, "Maximum number of requests to Tempo per attempt to find a cause.", ge=4, le=100)
    attributes: tuple[Attribute, ...] = _key(
        DEFAULT_ATTRIBUTES,
        "Attributes whose values are compared between slow and healthy traces, with their scope: resource. or span.",
    )


class Series(Section):
    """``series``."""

    max: Integer = _key(10_000, "Maximum number of series; traces of further series are counted and skipped.", ge=1)
    max_per_service: Integer = _key(
        1000,
        "Maximum number of series of one service; its further span names share one series, {other} (docs/names.md).",
        ge=1,
    )
    stale_after: PositiveDuration = _key("24h", "A series without traces for this long disappears from the metrics.")
    max_label_bytes: Integer = _key(
        1000,
        "Maximum bytes of a label value; longer names end with a hash. Keep it below Prometheus' "
        "label_value_length_limit.",
        ge=64,
    )
    include: tuple[Regex, ...] = _key(
        (),
        "Regular expressions (RE2); if set, only series whose service_name/span_name matches one of them are kept.",
    )
    exclude: tuple[Regex, ...] = _key(
        (), "Regular expressions (RE2); series whose service_name/span_name matches one of them are skipped."
    )
    labels: tuple[Attributes, ...] = _key(
        (),
        "Attributes that tell series apart and become labels, such as [resource.service.namespace] (docs/names.md).",
    )
    span_name: NameAttributes = _key(
        ("name",),
        "What an endpoint is called: the first present one of these, such as [span.http.route, name] (docs/names.md).",
    )
    rename: tuple[Rename, ...] = _key(
        (), "List of {match, replace}: replaces what the expression matches in span names; \\1 is its first group."
    )
    placeholders: Boolean = _key(
        True,
        "Replace ids in span names by {number}, {uuid}, {hex}, {id} and others: "
        "/orders/17 and /orders/18 are one endpoint.",
    )
    exclude_probes: Boolean = _key(
        True,
        "Leave out health checks, scrapes and tempo-vulture (listed in docs/names.md), unless include matches them.",
    )
    streams: tuple[Regex, ...] = _key(
        (),
        "Regular expressions (RE2); series whose service_name/span_name matches one are streams: their latency is not "
        "judged.",
    )
    requests: tuple[Regex, ...] = _key(
        (),
        "Regular expressions (RE2); series whose service_name/span_name matches one are never taken for streams.",
    )


class Storage(Section):
    """``storage``."""

    path: FilePath = _key("tempo-anomaly.db", "SQLite database; relative to the working directory.")
    retention: PositiveDuration = _key("28d", "How long history is kept.")


class Web(Section):
    """``web``."""

    listen_address: ListenAddress = _key("0.0.0.0:9817", "Address to serve on; [::]:9817 for IPv6, :9817 for any IPv4.")
    config_file: OptionalFilePath = _key(None, "TLS and basic authentication, in the format of the exporter toolkit.")
    enable_lifecycle: Boolean = _key(False, "Serve POST /-/reload, which reloads the configuration as SIGHUP does.")
    native_histograms: Boolean = _key(
        False, "Offer the durations of all spans as native histograms to a Prometheus that scrapes with protobuf."
    )
    allow_marks: Boolean = _key(
        False, "Let people add and delete marks over the API; only with passwords in config_file (docs/marks.md)."
    )

    @property
    def host(self) -> str:
        """Host of the listen address; an IPv6 address without brackets."""
        return values.split_address(self.listen_address)[0]

    @property
    def port(self) -> int:
        """Port of the listen address; 0 for any free port."""
        return values.split_address(self.listen_address)[1]


class Grafana(Section):
    """``grafana``."""

    explore_url: ExploreUrl = _key(
        "", "URL that opens a trace: {trace_id} is replaced by its id, or {query} by its id or a TraceQL query."
    )
    url: GrafanaUrl = _key("", "Address of Grafana, for links that compare traces in Traces Drilldown; empty for none.")
    tempo_datasource_uid: Text = _key(
        "", "UID of the Tempo data source in Grafana, for these links; empty for the default one."
    )


class Alertmanager(Section):
    """``alertmanager``."""

    url: OptionalUrl = _key(
        "", "Address of an Alertmanager whose silences of endpoints are read as expected; empty to read none."
    )
    interval: Seconds = _key("1m", "How often silences are read.")
    timeout: PositiveDuration = _key("10s", "Timeout of reading them.")


class LogSettings(Section):
    """``log``."""

    level: LogLevel = _key("info", "Lowest level to log: debug, info, warning or error.")
    format: LogFormat = _key("logfmt", "logfmt or json; one line per event on standard error.")


class Config(Section):
    """The configuration.

    Its constructor validates single values; `exporter.config.load_config` also validates keys against each other.
    """

    timezone: TimeZone = _key("UTC", "IANA time zone that determines hours and days, such as Europe/Berlin.")
    overrides: tuple[Override, ...] = _key(
        (),
        "Other settings for some endpoints: list of {match, detection, enabled, severity}; the first match decides.",
    )
    marks: tuple[MarkSettings, ...] = _key(
        (),
        "What people know about ranges of time: list of {match, from, to, rrule, as, comment} (docs/marks.md).",
    )
    marks_file: OptionalFilePath = _key(None, "YAML file with more marks; reread when it changes.")
    calendar: CalendarSettings = _section(CalendarSettings, "Weekend and holidays.")
    tempo: Tempo = _section(Tempo, "Connection to Tempo, and what is read from it.")
    polling: Polling = _section(Polling, "How often and how far back Tempo is read.")
    stats: Stats = _section(Stats, "When a single trace is an outlier.")
    fallback: Fallback = _section(Fallback, "Where the baseline comes from if an hour has too few traces.")
    detection: Detection = _section(Detection, "When the latency of an endpoint as a whole has shifted.")
    cause: Cause = _section(Cause, "Why the latency of an endpoint has shifted.")
    series: Series = _section(Series, "Which endpoints are watched, and how many.")
    storage: Storage = _section(Storage, "Where history is stored, and for how long.")
    web: Web = _section(Web, "HTTP server.")
    alertmanager: Alertmanager = _section(Alertmanager, "Silences that are read as marks.")
    grafana: Grafana = _section(Grafana, "Links from the pages to traces.")
    log: LogSettings = _section(LogSettings, "Log output on standard error.")
