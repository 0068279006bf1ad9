"""TraceQL that is built, and user conditions that must not get out of it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.span import SeriesKey
from exporter.model.traceql_filter import filter_problem
from exporter.tempo.query import quoted, search_query, series_conditions


def test_root_scope_asks_for_root_spans_with_service_and_name() -> None:
    assert search_query("root") == "{nestedSetParent<0} | select(resource.service.name, name)"


def test_entry_scope_asks_for_server_and_consumer_spans_too() -> None:
    assert search_query("entry") == (
        "{nestedSetParent<0 || kind=server || kind=consumer} | select(resource.service.name, name)"
    )


def test_a_filter_with_or_stays_one_condition() -> None:
    assert search_query("root", ' resource.a="x" || resource.b="y" ') == (
        '{nestedSetParent<0 && (resource.a="x" || resource.b="y")} | select(resource.service.name, name)'
    )


def test_the_or_of_the_entry_scope_is_not_torn_apart_by_a_filter() -> None:
    assert search_query("entry", 'resource.a="x"').startswith(
        '{(nestedSetParent<0 || kind=server || kind=consumer) && (resource.a="x")} |'
    )


def test_one_series_is_singled_out_by_its_names() -> None:
    conditions = series_conditions(SeriesKey("shop", 'GET "/a\\b"\n'))
    assert search_query("root", "duration > 1ms", conditions).startswith(
        '{nestedSetParent<0 && (duration > 1ms) && (resource.service.name="shop") && '
        '(name="GET \\"/a\\\\b\\"\\U0000000a")}'
    )


def test_a_filter_that_cannot_be_joined_is_refused() -> None:
    with pytest.raises(ValueError, match="the filter has parentheses that do not match"):
        search_query("root", 'a="1") || (b="2"')


@given(st.text())
def test_a_filter_is_refused_or_leaves_the_rest_of_the_query_alone(user_filter: str) -> None:
    if filter_problem(user_filter) is not None:
        return
    query = search_query("root", user_filter)
    # Without its strings, what is left of the conditions has no way out of its parentheses.
    bare = re.sub(r'"(?:[^"\\]|\\.)*"|`[^`]*`', "", query, flags=re.DOTALL)
    assert bare.count("{") == bare.count("}") == 1
    assert bare.count("(") == bare.count(")")
    assert bare.endswith("} | select(resource.service.name, name)")


_GO_ESCAPE = re.compile(r'\\(?:U([0-9a-f]{8})|(["\\]))')


@given(st.text(st.characters()))
def test_any_text_can_be_quoted_on_one_line_and_read_back(text: str) -> None:
    literal = quoted(text)
    assert literal.isprintable()
    inner = literal[1:-1]
    assert re.fullmatch(r'(?:[^"\\]|\\["\\]|\\U[0-9a-f]{8})*', inner)
    read_back = _GO_ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else m[2], inner)
    assert read_back == re.sub("[\ud800-\udfff]", "\ufffd", text)
    literal.encode()
