"""The embedded Tempo API's TraceQL: supported queries, what they match, and rejection of the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.demo.traceql import field_value, parse
from exporter.demo.traces import ROOT, Operation, TraceShape
from exporter.model.span import SeriesKey
from exporter.model.traceql import Field, TraceQLError, Value
from exporter.tempo.query import OperationName, search_query, series_conditions

RESOURCE = (("deployment.environment", "prod"),)
SHAPE = TraceShape(
    (
        Operation("gateway", "GET /api/cart", "server", RESOURCE, (("http.request.method", "GET"),)),
        Operation("gateway", "carts", "client", RESOURCE),
        Operation("carts", "carts", "consumer", (("deployment.environment", "canary"),)),
    ),
    (ROOT, 0, 1),
)
DURATIONS_NS = (150_000_000, 100_000_000, 2_000_000)


def matching(query: str) -> list[int]:
    condition = parse(query).condition

    def lookup(position: int, field: Field) -> Value | None:
        return field_value(SHAPE, position, field, DURATIONS_NS[position])

    return [p for p in range(len(DURATIONS_NS)) if condition.matches(lambda field: lookup(p, field))]  # noqa: B023


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("{}", [0, 1, 2]),
        ("{ true }", [0, 1, 2]),
        ("{ false }", []),
        ("{nestedSetParent<0}", [0]),
        ("{nestedSetParent=-1}", [0]),
        ("{nestedSetParent>=1}", [1, 2]),
        ("{kind=server}", [0]),
        ("{kind!=server}", [1, 2]),
        ("{nestedSetParent<0 || kind=server || kind=consumer}", [0, 2]),
        ('{resource.service.name="gateway"}', [0, 1]),
        ('{resource.service.name = "gateway" && kind = client}', [1]),
        ('{name="carts" && resource.service.name="gateway" || kind=server}', [0, 1]),
        ('{name="carts" && (resource.service.name="gateway" || kind=server)}', [1]),
        ('{name=~"GET .*"}', [0]),
        ('{name=~"GET"}', []),
        ("{name!~`GET .*`}", [1, 2]),
        ('{resource.deployment.environment="canary"}', [2]),
        ('{resource.deployment.environment!="canary"}', [0, 1]),
        ('{span.http.request.method="GET"}', [0]),
        ('{span.http.request.method!="POST"}', [0]),
        ('{resource.missing="x"}', []),
        ("{duration>100ms}", [0]),
        ("{duration>=100ms && duration<0.2s}", [0, 1]),
        ("{duration<=2000us}", [2]),
        ("{duration<1m30s}", [0, 1, 2]),
        ("{name=5}", []),
        ("{ nestedSetParent<0 } | select(name, kind) with (most_recent=true)", [0]),
    ],
)
def test_conditions_match_spans(query: str, expected: list[int]) -> None:
    assert matching(query) == expected


@given(
    service=st.text(st.characters(codec="utf-8"), max_size=30),
    name=st.text(st.characters(codec="utf-8"), max_size=30),
    other=st.text(st.characters(codec="utf-8"), max_size=3),
)
def test_queries_of_the_exporter_are_supported_for_any_names(service: str, name: str, other: str) -> None:
    query = parse(search_query("entry", conditions=series_conditions(SeriesKey(service, name))))

    def matches(service_name: str, span_name: str) -> bool:
        shape = TraceShape((Operation(service_name, span_name),), (ROOT,))
        return query.condition.matches(lambda field: field_value(shape, 0, field))

    assert matches(service, name)
    assert matches(service, other) == (other == name)


def test_queries_for_traces_with_certain_operations_are_supported() -> None:
    operations = [OperationName("carts", "carts"), OperationName("stock", "GET /a")]
    query = parse(search_query("entry", grouping="service", operations=operations))
    assert len(query.conditions) == 3
    assert query.group_by == (Field("resource", "service.name"),)
    assert query.trace_ids() is None
    assert parse('{name="a"} && {duration>1s}').depends_on_duration()


def test_select_and_hints_are_parsed() -> None:
    query = parse(
        "{ kind=server } | select(resource.service.name, name) | select(span.a)"
        ' with (most_recent=true, sample=1, x="y")'
    )

    assert query.selected == (Field("resource", "service.name"), Field("", "name"), Field("span", "a"))
    assert query.shown_fields() == (Field("", "kind"), *query.selected)
    assert query.most_recent
    assert query.hints == {"most_recent": True, "sample": 1, "x": "y"}
    assert query.count_by is None


@pytest.mark.parametrize(
    ("query", "by"),
    [
        ("{} | count_over_time()", ()),
        (
            "{} | count_over_time() by (resource.service.name, name)",
            (Field("resource", "service.name"), Field("", "name")),
        ),
    ],
)
def test_count_over_time_is_parsed(query: str, by: tuple[Field, ...]) -> None:
    assert parse(query).count_by == by


def test_depends_on_duration() -> None:
    assert parse("{kind=server || duration>1s}").depends_on_duration()
    assert not parse('{kind=server && name="duration"} | select(duration)').depends_on_duration()


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("", "line 1, col 1: syntax error: unexpected $end"),
        ("{nestedSetParent<", "line 1, col 18: syntax error: unexpected $end"),
        ("{nestedSetParent<0", "line 1, col 19: syntax error: unexpected $end"),
        ("{nestedSetParent 0}", "col 18: syntax error: unexpected INTEGER"),
        ("{}\n}", "line 2, col 1: syntax error: unexpected }"),
        ("{kind=server} | select()", "unexpected )"),
        ("{kind=server} with (x)", "unexpected )"),
        ("{kind=server} with ()", "unexpected )"),
        ("{kind=} ", "unexpected }"),
        ("{(kind=server}", "unexpected }"),
        ("{kind=server} | (", "unexpected ("),
        ('{name="open}', "unexpected '\"'"),
        ('{name="\\q"}', "invalid escape"),
        ('{name="\\U00110000"}', "invalid escape"),
        ('{name=~"("}', "not a regular expression"),
        ("{statusMessage=`x`}", "'statusMessage' is not supported"),
        ("{} | rate()", "'rate' is not supported"),
        ("{} | count_over_time() | select(name)", "'select' is not"),
        ("{} | count_over_time(1)", "unexpected INTEGER"),
        ("{} && {} | count_over_time()", "'&&' of spanset filters is supported by searches only"),
        ("{} &&", "unexpected $end"),
        ('{trace:id="1"} && {}', "trace:id alone"),
    ],
)
def test_unsupported_query_is_rejected(query: str, problem: str) -> None:
    with pytest.raises(TraceQLError) as error:
        parse(query)

    assert str(error.value).startswith("invalid TraceQL query: ")
    assert problem in str(error.value)


@given(st.text(st.sampled_from('{}()|&<>=!~,"`\\ .09aemnsx-'), max_size=40) | st.text(max_size=40))
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    try:
        parse(text)
    except TraceQLError as error:
        assert str(error).startswith("invalid TraceQL query: ")


def test_quoted_attributes() -> None:
    query = parse(r'{span."a \"b\""="x"} | select(resource."two words", resource.plain)')
    assert [str(each) for each in query.shown_fields()] == [
        'span."a \\"b\\""',
        'resource."two words"',
        "resource.plain",
    ]
