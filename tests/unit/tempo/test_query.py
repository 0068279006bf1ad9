"""TraceQL queries; a user's filter cannot change the rest of a query."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.failure_rule import STATUS_IS_ERROR, FailureRule
from exporter.model.identity import OWN_NAME, Attribute, SeriesIdentity
from exporter.model.span import SeriesKey
from exporter.model.traceql_filter import filter_problem
from exporter.tempo.query import (
    DurationRange,
    OperationName,
    can_count_by_series,
    condition_length,
    count_query,
    duration_conditions,
    quoted,
    search_query,
    series_conditions,
)


def test_failures_are_selected_by_what_their_rule_names() -> None:
    assert search_query("root", failures=STATUS_IS_ERROR).endswith("select(resource.service.name, name, status)")
    rule = FailureRule('span.http.response.status_code >= 500 || span.http.route = `/x` || span."two words" = 1')
    identity = SeriesIdentity(labels=((Attribute("span", "http.route"),),))
    assert search_query("root", identity=identity, failures=rule).endswith(
        'select(resource.service.name, name, span.http.route, span.http.response.status_code, span."two words")'
    )


def test_root_scope_selects_root_spans_with_service_and_name() -> None:
    assert search_query("root") == "{nestedSetParent<0} | select(resource.service.name, name)"


def test_entry_scope_also_selects_server_and_consumer_spans() -> None:
    assert search_query("entry") == (
        "{nestedSetParent<0 || kind=server || kind=consumer} | select(resource.service.name, name)"
    )


def test_durations_are_divided_without_gap_or_overlap() -> None:
    parts = [DurationRange(), DurationRange(0, 5), DurationRange(5), DurationRange(5, 9)]
    assert [duration_conditions(part) for part in parts] == [
        [],
        ["duration<5ns"],
        ["duration>=5ns"],
        ["duration>=5ns", "duration<9ns"],
    ]
    assert [part.contains(5) for part in parts] == [True, False, True, True]
    assert search_query("root", "", duration_conditions(parts[3])) == (
        "{nestedSetParent<0 && (duration>=5ns) && (duration<9ns)} | select(resource.service.name, name)"
    )


def test_filter_with_or_is_parenthesized() -> None:
    assert search_query("root", ' resource.a="x" || resource.b="y" ') == (
        '{nestedSetParent<0 && (resource.a="x" || resource.b="y")} | select(resource.service.name, name)'
    )


def test_entry_scope_is_parenthesized_when_a_filter_is_joined() -> None:
    assert search_query("entry", 'resource.a="x"').startswith(
        '{(nestedSetParent<0 || kind=server || kind=consumer) && (resource.a="x")} |'
    )


def test_series_conditions_quote_names() -> None:
    conditions = series_conditions(SeriesKey("shop", 'GET "/a\\b"\n'))
    assert search_query("root", "duration > 1ms", conditions).startswith(
        '{nestedSetParent<0 && (duration > 1ms) && (resource.service.name="shop") && '
        '(name="GET \\"/a\\\\b\\"\\U0000000a")}'
    )


def test_operations_of_the_same_trace_are_further_spanset_filters() -> None:
    """The filter narrows the spans in scope only: other spans of a trace may have other attributes."""
    operations = [OperationName("stock", 'GET "/a"'), OperationName("db", "")]
    assert search_query("root", "duration>1ms", ['name="x"'], grouping="service", operations=operations) == (
        '{nestedSetParent<0 && (duration>1ms) && (name="x")} && '
        '{resource.service.name="stock" && name="GET \\"/a\\""} && {resource.service.name="db" && name=""}'
        " | by(resource.service.name) | select(resource.service.name, name)"
    )


def test_a_filter_that_cannot_be_joined_is_refused() -> None:
    with pytest.raises(ValueError, match="the filter has parentheses that do not match"):
        search_query("root", 'a="1") || (b="2"')


@given(st.text())
def test_any_filter_is_rejected_or_stays_inside_its_parentheses(user_filter: str) -> None:
    if filter_problem(user_filter) is not None:
        return
    query = search_query("root", user_filter)
    # Strings removed, braces and parentheses must balance.
    bare = re.sub(r'"(?:[^"\\]|\\.)*"|`[^`]*`', "", query, flags=re.DOTALL)
    assert bare.count("{") == bare.count("}") == 1
    assert bare.count("(") == bare.count(")")
    assert bare.endswith("} | select(resource.service.name, name)")


_GO_ESCAPE = re.compile(r'\\(?:U([0-9a-f]{8})|(["\\]))')


@given(st.text(st.characters()))
def test_quoted_text_is_one_line_and_round_trips(text: str) -> None:
    literal = quoted(text)
    assert literal.isprintable()
    inner = literal[1:-1]
    assert re.fullmatch(r'(?:[^"\\]|\\["\\]|\\U[0-9a-f]{8})*', inner)
    read_back = _GO_ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else m[2], inner)
    assert read_back == re.sub("[\ud800-\udfff]", "\ufffd", text)
    literal.encode()


# Attributes that decide the series


ENVIRONMENT = (Attribute("resource", "deployment.environment.name"), Attribute("resource", "deployment.environment"))
WEIRD = Attribute("span", "two words")
BY_LABEL = SeriesIdentity((ENVIRONMENT,))
BY_ROUTE = SeriesIdentity((), (Attribute("span", "http.route"), OWN_NAME))
PROD = (("deployment_environment_name", "prod"),)


def test_attributes_are_selected_and_counted_by() -> None:
    assert search_query("root", identity=BY_LABEL) == (
        "{nestedSetParent<0} | select(resource.service.name, name, resource.deployment.environment.name, "
        "resource.deployment.environment)"
    )
    assert count_query("root", by_series=True, identity=SeriesIdentity(((WEIRD,),))) == (
        '{nestedSetParent<0} | count_over_time() by (resource.service.name, name, span."two words")'
    )
    assert count_query("root", identity=BY_LABEL) == "{nestedSetParent<0} | count_over_time()"


def test_tempo_counts_by_at_most_five_fields() -> None:
    assert can_count_by_series(BY_LABEL)
    assert can_count_by_series(BY_ROUTE)
    assert not can_count_by_series(SeriesIdentity(BY_LABEL.labels, BY_ROUTE.span_name))


def test_a_label_is_searched_for_in_all_its_attributes() -> None:
    assert series_conditions(SeriesKey("shop", "GET /", PROD), BY_LABEL) == (
        'resource.service.name="shop"',
        '(resource.deployment.environment.name="prod" || resource.deployment.environment="prod")',
        'name="GET /"',
    )
    # Tempo cannot be asked for spans without an attribute on every version.
    assert series_conditions(SeriesKey("shop", "GET /"), BY_LABEL) == ('resource.service.name="shop"', 'name="GET /"')


@pytest.mark.parametrize(
    ("value", "condition"),
    [
        ("prod", 'span."two words"="prod"'),
        ("true", '(span."two words"="true" || span."two words"=true)'),
        ("-5", '(span."two words"="-5" || span."two words"=-5 || span."two words"=-5.0)'),
        ("1.5", '(span."two words"="1.5" || span."two words"=1.5)'),
        ('["a"]', None),
        ("1e+300", None),
        ("NaN", None),
    ],
)
def test_a_value_is_compared_as_each_type_that_it_may_have(value: str, condition: str | None) -> None:
    key = SeriesKey("shop", "x", (("two_words", value),))
    found = series_conditions(key, SeriesIdentity(((WEIRD,),)))
    assert found == ('resource.service.name="shop"', *([condition] if condition else []), 'name="x"')


def test_a_name_is_searched_for_in_all_its_attributes_with_and_without_the_method() -> None:
    service, name = series_conditions(SeriesKey("shop", "GET /a"), BY_ROUTE)
    method = '(span.http.request.method="GET" || span.http.method="GET")'
    assert service == 'resource.service.name="shop"'
    assert name == f'(span.http.route="GET /a" || ({method} && span.http.route="/a") || name="GET /a")'
    (_, other) = series_conditions(SeriesKey("shop", "HTTP /a"), BY_ROUTE)
    assert 'span.http.request.method="_OTHER"' in other


def test_a_name_that_no_condition_can_match_is_not_searched_for() -> None:
    assert condition_length(SeriesKey("shop", "[1]"), BY_ROUTE) > 10**9
    assert condition_length(SeriesKey("shop", "[1]")) < 100
