"""TraceQL queries; a user's filter cannot change the rest of a query."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.span import SeriesKey
from exporter.model.traceql_filter import filter_problem
from exporter.tempo.query import DurationRange, duration_conditions, quoted, search_query, series_conditions


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
