"""The values of single keys: what is accepted, and what a refusal says."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from exporter.app.settings import client_settings
from exporter.config import Config, ConfigError, load_config
from exporter.config.keys import VARIABLES
from exporter.config.schema import Web
from exporter.config.units import parse_duration
from exporter.metrics.self_metrics import SelfMetrics
from exporter.runtime.logs import get_logger
from exporter.tempo import TempoClient


def refusal(variable: str, text: str) -> str:
    """Return the reason why a value is refused."""
    with pytest.raises(ConfigError) as refused:
        load_config(None, {variable: text})
    (problem,) = refused.value.problems
    head, _, reason = problem.partition(f"(environment variable {variable}) ")
    assert head
    return reason


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("TIMEZONE", "Mars/Base", "must be an IANA time zone such as Europe/Berlin, not 'Mars/Base'"),
        ("TIMEZONE", "Europe", "must be an IANA time zone"),
        ("TIMEZONE", "../../etc/passwd", "must be an IANA time zone"),
        ("CALENDAR_HOLIDAYS", "XX", "must be a country code such as TW, or with a subdivision DE-BY, not 'XX'"),
        ("CALENDAR_HOLIDAYS", "DE-XX", "must be DE or one of its subdivisions (BB, BE, BW, BY,"),
        ("CALENDAR_HOLIDAYS", "TW-X", "must be TW or one of its subdivisions (it has none), not 'TW-X'"),
        ("TEMPO_URL", "tempo:3200", "must begin with http:// or https://"),
        ("TEMPO_URL", "ftp://tempo", "must begin with http:// or https://"),
        ("TEMPO_URL", "http:tempo", "must begin with http:// or https://"),
        ("TEMPO_URL", "http://", "must have a host"),
        ("TEMPO_URL", "http://:3200", "must have a host"),
        ("TEMPO_URL", "http://tempo:99999", "is not a valid URL: check host and port"),
        ("TEMPO_URL", "http://tempo:port", "is not a valid URL: check host and port"),
        ("TEMPO_URL", "http://[::1", "is not a valid URL: check host and port"),
        ("TEMPO_URL", "http://tempo/?x=1", "must not contain a query or a fragment"),
        ("TEMPO_URL", "http://tempo/#x", "must not contain a query or a fragment"),
        ("TEMPO_URL", "http://tem po/", "must not contain spaces or control characters"),
        ("TEMPO_URL", "http://me:hunter2@tempo", "must not contain user or password: use tempo.basic_auth"),
        ("TEMPO_AUTH_TOKEN", "two words", "must not contain spaces; leave out the word Bearer"),
        ("TEMPO_AUTH_TOKEN", "abc\n", "must be plain ASCII without line breaks"),
        ("TEMPO_AUTH_TOKEN", "<secret>", "is <secret>, which masks a secret"),
        ("TEMPO_BASIC_AUTH_USERNAME", "a:b", "must not contain a colon"),
        ("TEMPO_BASIC_AUTH_PASSWORD", "a\x00b", "must not contain line breaks or other control characters"),
        ("TEMPO_TENANT", "a\nb", "must be plain ASCII without line breaks"),
        ("TEMPO_TENANT", " a", "must not begin or end with a space"),
        ("TEMPO_HEADERS", "{X-A: 'a\u2028b'}", "must be plain ASCII without line breaks"),
        ("TEMPO_HEADERS", "{'X A': a}", "is not a valid HTTP header name"),
        ("TEMPO_HEADERS", "{X-A: a, x-a: b}", "has the same header twice: X-A and x-a"),
        ("TEMPO_HEADERS", "{X-A: [a]}", "must be text"),
        ("TEMPO_TIMEOUT", "0", "must be longer than 0s"),
        ("TEMPO_TIMEOUT", "0s", "must be longer than 0s"),
        ("TEMPO_TIMEOUT", "-1s", "must be a duration such as 90s, 15m, 7d or 1h30m, not '-1s'"),
        ("TEMPO_SCOPE", "roots", "must be one of root, entry, not 'roots'"),
        ("TEMPO_FILTER", '{name="x"}', "must be conditions without braces"),
        ("TEMPO_FILTER", 'name="x', "has a quotation mark that is not closed"),
        ("TEMPO_FILTER", 'true) || (name="x"', "has parentheses that do not match"),
        ("TEMPO_FILTER", '(name="x"', "has parentheses that do not match"),
        ("TEMPO_FILTER", 'name="x" // only x', "must not contain comments"),
        ("TEMPO_FILTER", 'name="x" | count() > 2', "must be conditions without a pipeline"),
        ("TEMPO_FILTER", 'name="x"\n&& true', "must not contain line breaks"),
        ("TEMPO_LIMIT", "0", "must be at least 1, not '0'"),
        ("TEMPO_LIMIT", "10000000", "must be at most 1000000, not '10000000'"),
        ("TEMPO_LIMIT", "5.0", "must be a whole number, not '5.0'"),
        ("TEMPO_LIMIT", "true", "must be a whole number, not 'true'"),
        ("TEMPO_LIMIT", "9" * 5000, "must be a whole number, not '9999"),
        ("TEMPO_MAX_CONCURRENCY", "0", "must be at least 1"),
        ("TEMPO_REQUESTS_PER_SECOND", "0", "must be greater than 0"),
        ("TEMPO_REQUESTS_PER_SECOND", "nan", "must be a number, not 'nan'"),
        ("TEMPO_REQUESTS_PER_SECOND", "1e999", "must be finite"),
        ("POLLING_TEMPO_LOOKBACK", "1500ms", "must be whole seconds: Tempo searches by the second"),
        ("POLLING_BACKFILL_ENABLED", "maybe", "must be true or false, not 'maybe'"),
        ("POLLING_BACKFILL_DURATION", "11y", "must be at most 10y, not '11y'"),
        ("POLLING_BACKFILL_BATCH", "7m", "must divide an hour evenly"),
        ("POLLING_BACKFILL_BATCH", "90m", "must divide an hour evenly"),
        ("STATS_FACTOR", "0", "must be greater than 0"),
        ("STATS_K", "-1", "must be at least 0"),
        ("STATS_MIN_SAMPLES", "0", "must be at least 1"),
        ("FALLBACK_NEARBY_HOURS_RANGE", "12", "must be at most 11"),
        ("DETECTION_RATIO", "1", "must be greater than 1"),
        ("DETECTION_ALPHA", "0", "must be greater than 0"),
        ("DETECTION_ALPHA", "1", "must be less than 1"),
        ("DETECTION_WINDOW", "100ms", "must be whole seconds"),
        ("SERIES_MAX", "0", "must be at least 1"),
        ("SERIES_EXCLUDE", "*", "must be a regular expression, not '*': no argument for repetition operator: *"),
        ("SERIES_INCLUDE", "^(?!shop/)", "must be a regular expression, not '^(?!shop/)': a lookaround ((?!) is not"),
        ("SERIES_EXCLUDE", r"(a)\1", r"must be a regular expression, not '(a)\\1': a backreference (\1) is not"),
        ("SERIES_RENAME", r'[{match: a, replace: "\\1"}]', "has a replacement that does not fit its regular"),
        ("STORAGE_PATH", "a\0b", "must not contain a zero byte"),
        ("WEB_LISTEN_ADDRESS", "9817", "must be host:port"),
        ("WEB_LISTEN_ADDRESS", "::1:9817", "must be host:port, with an IPv6 address in brackets"),
        ("WEB_LISTEN_ADDRESS", "[::x]:9817", "must have a valid IP address, not '::x'"),
        ("WEB_LISTEN_ADDRESS", "300.0.0.1:9817", "must have a valid IP address, not '300.0.0.1'"),
        ("WEB_LISTEN_ADDRESS", "localhost:65536", "must have a port of at most 65535, not 65536"),
        ("WEB_LISTEN_ADDRESS", "http://x:1", "must be host:port"),
        ("GRAFANA_EXPLORE_URL", "grafana/{trace_id}", "must begin with http:// or https://"),
        ("GRAFANA_EXPLORE_URL", "javascript://x/%0aalert({trace_id})", "must begin with http:// or https://"),
        ("GRAFANA_EXPLORE_URL", "https://me:hunter2@grafana/{trace_id}", "must not contain user or password: everyone"),
        ("GRAFANA_EXPLORE_URL", "https://grafana/explore", "must contain either {trace_id} or {query}, in its path"),
        ("GRAFANA_EXPLORE_URL", "https://grafana/{query}/{trace_id}", "must contain either {trace_id} or {query}"),
        ("GRAFANA_EXPLORE_URL", "https://{query}.example/", "must contain either {trace_id} or {query}, in its"),
        ("GRAFANA_EXPLORE_URL", "https://grafana/ {query}", "must not contain spaces or control characters"),
        ("SERIES_LABELS", "[service.namespace]", "must be an attribute with its scope, such as resource.service"),
        ("SERIES_LABELS", "[[]]", "must not be empty"),
        ("SERIES_LABELS", "[resource.service.name]", "is service.name, by which series differ in any case"),
        ("SERIES_SPAN_NAME", "[]", "must not be empty"),
        ("SERIES_SPAN_NAME", "[http.route, name]", "must be an attribute with its scope, such as resource.service"),
        ("LOG_LEVEL", "verbose", "must be one of debug, info, warning, error, not 'verbose'"),
        ("LOG_FORMAT", "JSONN", "must be one of logfmt, json, not 'JSONN'"),
    ],
)  # fmt: skip
def test_an_invalid_value_is_refused_with_what_to_write(variable: str, text: str, reason: str) -> None:
    assert refusal(variable, text).startswith(reason)


@pytest.mark.parametrize(
    ("variable", "text", "end"),
    [
        ("TIMEZONE", "europe/berlin", "did you mean Europe/Berlin?"),
        ("TIMEZONE", "Asia/Tapei", "did you mean Asia/Taipei?"),
        ("TEMPO_SCOPE", "roots", "did you mean root?"),
        ("LOG_FORMAT", "JSONN", "did you mean json?"),
    ],
)
def test_a_misspelt_value_is_refused_with_the_nearest_valid_one(variable: str, text: str, end: str) -> None:
    assert refusal(variable, text).endswith(end)


def test_a_misspelt_day_is_refused_with_the_nearest_valid_one() -> None:
    with pytest.raises(ConfigError, match=r"calendar\.weekend\[1\] .* not 'sonday'; did you mean sunday\?"):
        load_config(None, {"CALENDAR_WEEKEND": "saturday,sonday"})


@pytest.mark.parametrize("url", ["http://[::1]:3200", "https://tempo.example.com/prefix", "HTTP://tempo"])
def test_a_url_is_unchanged(url: str) -> None:
    assert load_config(None, {"TEMPO_URL": url}).tempo.url == url


@pytest.mark.parametrize(
    "conditions",
    [
        'resource.deployment.environment="prod"',
        '(name =~ "/api/.*" || name = "a {b} (") && duration > 1ms',
        r'name = "quoted \" brace }" && span.x = `)"{`',
    ],
)
def test_traceql_conditions_are_unchanged(conditions: str) -> None:
    assert load_config(None, {"TEMPO_FILTER": conditions}).tempo.filter == conditions


@pytest.mark.parametrize("batch", ["1s", "5m", "1h", "6h", "24h"])
def test_a_batch_divides_an_hour_or_is_whole_hours(batch: str) -> None:
    assert load_config(None, {"POLLING_BACKFILL_BATCH": batch}).polling.backfill_batch == parse_duration(batch)


def test_a_hold_may_be_zero() -> None:
    assert load_config(None, {"DETECTION_HOLD": "0"}).detection.hold == timedelta()


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("0.0.0.0:9817", "0.0.0.0", 9817),
        ("[::]:9817", "::", 9817),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ("localhost:0", "localhost", 0),
        (":9817", "0.0.0.0", 9817),
    ],
)
def test_a_listen_address_has_host_and_port(address: str, host: str, port: int) -> None:
    web = Web(listen_address=address)
    assert (web.host, web.port) == (host, port)


def test_an_empty_path_means_no_file_where_the_file_is_optional() -> None:
    assert Web.model_validate({"config_file": ""}).config_file is None
    with pytest.raises(ValidationError, match="must name a file"):
        Config.model_validate({"storage": {"path": ""}})


def test_python_values_are_accepted() -> None:
    config = Config.model_validate(
        {
            "tempo": {"limit": 7, "timeout": timedelta(seconds=3), "requests_per_second": 5},
            "storage": {"path": Path("x.db")},
            "fallback": {"enabled": False},
        }
    )
    assert (config.tempo.limit, config.tempo.timeout) == (7, timedelta(seconds=3))
    assert (config.storage.path, config.fallback.enabled) == (Path("x.db"), False)


@pytest.mark.parametrize(
    "wrong", [{"limit": True}, {"timeout": 15}, {"timeout": timedelta(seconds=-1)}, {"requests_per_second": False}]
)
def test_python_values_of_the_wrong_type_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"tempo": wrong})


def test_the_configuration_is_immutable() -> None:
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.tempo.limit = 3  # type: ignore[misc]


@given(variable=st.sampled_from(sorted(VARIABLES)), text=st.text(max_size=30).filter(lambda text: "\0" not in text))
def test_any_value_is_accepted_or_refused_in_printable_lines(variable: str, text: str) -> None:
    try:
        load_config(None, {variable: text})
    except ConfigError as refused:
        for problem in refused.problems:
            assert "\n" not in problem
            assert "\x1b" not in problem


FILTER_PIECES = st.sampled_from(
    [
        "name",
        "=",
        '"x"',
        '"',
        "`",
        "\\",
        "(",
        ")",
        "{",
        "}",
        "|",
        "||",
        "&&",
        "//",
        "/*",
        " ",
        "\n",
        ">",
        "2",
        "count()",
    ]
)


@given(st.lists(FILTER_PIECES, max_size=8).map("".join) | st.text(max_size=20))
@example('name="x" // only x')
@example('name="x" | count() > 2')
def test_a_filter_builds_a_client_or_is_reported_with_its_key(conditions: str) -> None:
    try:
        config = load_config(None, {"TEMPO_FILTER": conditions})
    except ConfigError as refused:
        (problem,) = refused.problems
        assert problem.startswith("tempo.filter (environment variable TEMPO_FILTER) ")
        assert problem.isprintable()
    else:
        TempoClient(client_settings(config), SelfMetrics(), get_logger("tempo")).close()
