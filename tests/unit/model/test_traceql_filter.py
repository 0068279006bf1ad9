"""The rule for conditions that users join to a query."""

import pytest

from exporter.model.traceql_filter import filter_problem


@pytest.mark.parametrize(
    "conditions",
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
def test_conditions_are_accepted(conditions: str) -> None:
    assert filter_problem(conditions) is None


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ('{resource.a="x"}', "without braces"),
        ('a="1"} || {b="2"', "without braces"),
        ('a="1" | count() > 2', "without a pipeline"),
        ('a="1") || (b="2"', "parentheses that do not match"),
        (')a="1"(', "parentheses that do not match"),
        ('(a="1"', "parentheses that do not match"),
        ('a="1', "not closed"),
        ('a="1\n"', "not closed"),
        ("a=`1", "not closed"),
        ('a="1" // the rest', "comments"),
        ("a=1 /* the rest", "comments"),
    ],
)
def test_conditions_that_would_leave_their_parentheses_are_refused(conditions: str, reason: str) -> None:
    assert reason in (filter_problem(conditions) or "")
