"""TraceQL queries; a user's filter cannot change the rest of a query."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.span import SeriesKey
from exporter.tempo.query import filter_problem, quoted, search_query, series_conditions


def test_root_scope_selects_root_spans_with_service_and_name() -> None:
    assert search_query("root") == "{nestedSetParent<0} | select(resource.service.name, name)"


def test_entry_scope_also_selects_server_and_consumer_spans() -> None:
    assert search_query("entry") == (
        "{nestedSetParent<0 || kind=server || kind=consumer} | select(resource.service.name, name)"
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


@pytest.mark.parametrize(
    "user_filter",
    [
        "",
        'resource.deployment.environment="prod"',
        '(a="1" || (b="2")) && c != "x"',
        'name =~ "GET /[a-z]{2,}|POST .*"',
        'name = `raw } | // " text`',
        'name = "a \\" } | b" && span.http.status_code >= 500',
        "duration > 1s &&\n name != nil",
    ],
)
def test_filter_problem_accepts_conditions(user_filter: str) -> None:
    assert filter_problem(user_filter) is None
    search_query("root", user_filter)


@pytest.mark.parametrize(
    ("user_filter", "text"),
    [
        ('{resource.a="x"}', "without braces"),
        ('a="1"} || {b="2"', "without braces"),
        ('a="1" | count() > 2', "without a pipeline"),
        ('a="1") || (b="2"', "did not open"),
        ('(a="1"', "does not close"),
        ('a="1', "does not end"),
        ('a="1\n"', "does not end"),
        ("a=`1", "does not end"),
        ('a="1" // the rest', "comments"),
        ("a=1 /* the rest", "comments"),
    ],
)
def test_filter_problem_rejects_what_could_leave_the_parentheses(user_filter: str, text: str) -> None:
    problem = filter_problem(user_filter)
    assert problem is not None
    assert text in problem
    with pytest.raises(ValueError, match=re.escape(problem)):
        search_query("root", user_filter)


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
