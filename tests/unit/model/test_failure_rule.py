"""The rule by which a span has failed: conditions on status and attributes."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.failure_rule import STATUS_IS_ERROR, STATUSES, FailureRule
from exporter.model.identity import Attribute
from exporter.model.traceql import Value

HTTP = Attribute("span", "http.response.status_code")
OLD_HTTP = Attribute("span", "http.status_code")
GRPC = Attribute("span", "rpc.grpc.status_code")
RPC = Attribute("span", "rpc.response.status_code")
TEAM = Attribute("resource", "team")
HTTP_CLASS = (
    "status = error || span.http.response.status_code >= 500 || span.http.status_code >= 500 "
    "|| span.rpc.grpc.status_code != 0"
)


@pytest.mark.parametrize(
    ("rule", "status", "values", "expected"),
    [
        ("status = error", "error", {}, True),
        ("status = error", "unset", {}, False),
        ("status=error", "ok", {}, False),
        ("status != ok", "unset", {}, True),
        ("status = error", None, {}, None),
        (HTTP_CLASS, "unset", {HTTP: 503}, True),
        (HTTP_CLASS, "unset", {OLD_HTTP: 500}, True),
        (HTTP_CLASS, "unset", {HTTP: 404}, False),
        (HTTP_CLASS, "error", {HTTP: 404}, True),
        (HTTP_CLASS, "unset", {GRPC: 14}, True),
        (HTTP_CLASS, "unset", {GRPC: 0}, False),
        (HTTP_CLASS, "unset", {}, False),
        # The status does not matter if an attribute decides.
        (HTTP_CLASS, None, {HTTP: 503}, True),
        (HTTP_CLASS, None, {HTTP: 200}, None),
        ("status = error && span.http.response.status_code >= 500", "error", {HTTP: 404}, False),
        ("status = error && span.http.response.status_code >= 500", None, {HTTP: 404}, False),
        # Text and numbers are never equal, as in TraceQL.
        ("span.http.response.status_code >= 500", None, {HTTP: "503"}, False),
        ('span.rpc.response.status_code = "UNAVAILABLE"', None, {RPC: "UNAVAILABLE"}, True),
        ('span.rpc.response.status_code =~ "UNAV.*|INTERNAL"', None, {RPC: "INTERNAL"}, True),
        ('span.rpc.response.status_code =~ "UNAV"', None, {RPC: "UNAVAILABLE"}, False),
        ('span.rpc.response.status_code !~ "OK"', None, {RPC: "INTERNAL"}, True),
        ('span.rpc.response.status_code !~ "OK"', None, {}, False),
        ('status = error && (resource.team = "a" || resource.team = "b")', "error", {TEAM: "b"}, True),
        ("span.http.response.status_code > 499.5", None, {HTTP: 500}, True),
        ("span.http.response.status_code >= 1", None, {HTTP: True}, False),
    ],
)
def test_rule(rule: str, status: str | None, values: Mapping[Attribute, Value], expected: bool | None) -> None:
    assert FailureRule(rule).failed(status, values) is expected


def test_a_rule_names_what_must_be_read() -> None:
    rule = FailureRule(f"{HTTP_CLASS} || span.http.status_code = 499 || resource.team = `x`")
    assert rule.needs_status
    assert rule.attributes == (HTTP, OLD_HTTP, GRPC, TEAM)
    assert (STATUS_IS_ERROR.needs_status, STATUS_IS_ERROR.attributes) == (True, ())
    assert not FailureRule("span.http.response.status_code >= 500").needs_status


def test_rules_that_differ_in_spaces_are_described_alike() -> None:
    assert str(FailureRule("status  =   error")) == str(STATUS_IS_ERROR)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must be a condition, such as"),
        ("true", "must be a condition on status or attributes"),
        ("status", "must be a condition"),
        ("status = wrong", "unexpected IDENTIFIER"),
        ("status = 2", "must compare status by = or !="),
        ("status > ok", "must compare status by = or !="),
        ("status =~ `err.*`", "must compare status by = or !="),
        ("status = server", "must compare status by = or !="),
        ("{status = error}", "unexpected {"),
        ("status = error | select(name)", "unexpected"),
        ("status = error) || (status = ok", r"unexpected \)"),
        ("name = `x`", "not about name"),
        ("duration > 1s", "not about duration"),
        ("http.status_code >= 500", "unexpected '.'"),
        ("span.x =~ `(`", "not a regular expression"),
        ("(" * 900, "parentheses|condition"),
        ("status = error || " * 100, "at most 1000 characters"),
    ],
)
def test_invalid_rule_is_rejected(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        FailureRule(text)


@given(st.sampled_from(STATUSES), st.dictionaries(st.sampled_from([HTTP, GRPC, TEAM]), st.integers() | st.text()))
def test_unknown_status_never_contradicts_a_known_one(status: str, values: dict[Attribute, Value]) -> None:
    rule = FailureRule(HTTP_CLASS)
    assert rule.failed(None, values) in (None, rule.failed(status, values))
