"""Which attributes of a span decide its series."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.metrics.families import SERIES_FAMILIES, SERIES_LABELS
from exporter.model.identity import (
    BY_NAME,
    METHODS,
    OWN_NAME,
    RESERVED_LABELS,
    Attribute,
    SeriesIdentity,
    methods_of,
    parse_attribute,
)
from exporter.model.span import SeriesKey
from tests.support.alerting import rules
from tests.support.whole_page import WholePage

ENVIRONMENT = Attribute("resource", "deployment.environment.name")
OLD_ENVIRONMENT = Attribute("resource", "deployment.environment")
NAMESPACE = Attribute("resource", "service.namespace")
ROUTE = Attribute("span", "http.route")
RPC = Attribute("span", "rpc.method")
METHOD, OLD_METHOD = METHODS
IDENTITY = SeriesIdentity(((ENVIRONMENT, OLD_ENVIRONMENT), (NAMESPACE,)), (ROUTE, RPC, OWN_NAME))


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("GET", {ROUTE: "/orders/{id}", METHOD: "GET"}, "GET /orders/{id}"),
        ("GET", {ROUTE: "/orders/{id}", OLD_METHOD: "get"}, "get /orders/{id}"),
        ("GET", {ROUTE: "/orders/{id}", METHOD: "PUT", OLD_METHOD: "GET"}, "PUT /orders/{id}"),
        ("GET", {ROUTE: "GET /orders/{id}", METHOD: "GET"}, "GET /orders/{id}"),
        ("GET", {ROUTE: "Get /orders", METHOD: "GET"}, "Get /orders"),
        ("GET", {ROUTE: "GETTING", METHOD: "GET"}, "GET GETTING"),
        ("GET", {ROUTE: "GET", METHOD: "GET"}, "GET"),
        ("x", {ROUTE: "/orders", METHOD: "_OTHER"}, "HTTP /orders"),
        ("x", {ROUTE: "/orders"}, "/orders"),
        ("x", {ROUTE: "", RPC: "GetOrder"}, "GetOrder"),
        ("x", {RPC: "GetOrder", METHOD: "POST"}, "POST GetOrder"),
        ("/orders", {METHOD: "GET"}, "/orders"),
        ("", {METHOD: "GET"}, ""),
    ],
)
def test_the_first_present_attribute_names_the_endpoint(name: str, values: dict[Attribute, str], expected: str) -> None:
    assert IDENTITY.span_name_of(name, values) == expected


def test_the_name_of_the_span_may_come_first() -> None:
    identity = SeriesIdentity(span_name=(OWN_NAME, ROUTE))
    assert identity.span_name_of("GET", {ROUTE: "/x", METHOD: "GET"}) == "GET"
    assert identity.span_name_of("", {ROUTE: "/x", METHOD: "GET"}) == "GET /x"


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ({ENVIRONMENT: "prod", OLD_ENVIRONMENT: "old"}, (("deployment_environment_name", "prod"),)),
        ({OLD_ENVIRONMENT: "prod"}, (("deployment_environment_name", "prod"),)),
        ({NAMESPACE: "a", ENVIRONMENT: "prod"}, (("deployment_environment_name", "prod"), ("service_namespace", "a"))),
        ({NAMESPACE: "", ENVIRONMENT: ""}, ()),
        ({}, ()),
    ],
)
def test_labels_are_those_present_and_sorted_by_name(
    values: dict[Attribute, str], labels: tuple[tuple[str, str], ...]
) -> None:
    assert IDENTITY.key("shop", "GET /", values) == SeriesKey("shop", "GET /", labels)
    assert SeriesIdentity(tuple(reversed(IDENTITY.labels))).labels_of(values) == labels


def test_attributes_are_those_of_labels_and_names_once_and_the_method_only_for_names() -> None:
    assert BY_NAME.attributes == ()
    assert IDENTITY.attributes == (ENVIRONMENT, OLD_ENVIRONMENT, NAMESPACE, ROUTE, RPC, METHOD, OLD_METHOD)
    assert SeriesIdentity(((ROUTE,),), (ROUTE, OWN_NAME)).attributes == (ROUTE, METHOD, OLD_METHOD)


@given(st.text("GETPOST /_", max_size=12), st.sampled_from(["GET", "POST", "_OTHER", ""]))
def test_a_name_says_from_which_value_and_method_it_may_be(value: str, method: str) -> None:
    name = IDENTITY.span_name_of("", {ROUTE: value, METHOD: method})
    methods, rest = methods_of(name)
    assert name == value or (rest == value and method in methods)


@pytest.mark.parametrize(
    ("text", "attribute", "query", "label"),
    [
        ("resource.service.namespace", NAMESPACE, "resource.service.namespace", "service_namespace"),
        ("span.a-b", Attribute("span", "a-b"), "span.a-b", "a_b"),
        ("resource.two words", Attribute("resource", "two words"), 'resource."two words"', "two_words"),
        ('resource."two words"', Attribute("resource", "two words"), 'resource."two words"', "two_words"),
        (r'span."a\"b\\c"', Attribute("span", r'a"b\c'), r'span."a\"b\\c"', "a_b_c"),
        ("span.1st", Attribute("span", "1st"), "span.1st", "_1st"),
        ("span.größe", Attribute("span", "größe"), 'span."größe"', "gr__e"),
        ("span.{x}=1", Attribute("span", "{x}=1"), 'span."{x}=1"', "_x__1"),
    ],
)
def test_attributes_are_quoted_where_needed_and_make_valid_labels(
    text: str, attribute: Attribute, query: str, label: str
) -> None:
    assert parse_attribute(text) == attribute
    assert str(attribute) == query
    assert parse_attribute(query) == attribute
    assert attribute.label_name == label
    assert re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", label)


@pytest.mark.parametrize("text", ["", "name", "service.name", "event.x", "resource", "resource.", ".x", "span.a\nb"])
def test_what_is_no_attribute_with_its_scope_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_attribute(text)


def test_every_label_of_the_exporters_metrics_is_reserved() -> None:
    names = {*SERIES_LABELS, *(family.label[0] for family in SERIES_FAMILIES if family.label)}
    names |= set(re.findall(r'([a-z_]+)="', WholePage.full().text()))
    names |= {"job", "instance"}
    for lists in re.findall(
        r"(?:without|by|on) \(([\w, ]+)\)", "".join(each["expr"] for each in rules("record").values())
    ):
        names |= set(lists.split(", "))
    assert names <= RESERVED_LABELS


def test_a_series_with_labels_as_text_parts_fields_and_parameters() -> None:
    key = SeriesKey("shop", "GET /", (("env", 'a"b\\c\nd'), ("zone", "x")))
    assert key.text == 'shop/GET /{env="a\\"b\\\\c\\nd",zone="x"}'
    assert key.parts == ("shop", "GET /", 'env=a"b\\c\nd', "zone=x")
    assert key.fields == {"service_name": "shop", "span_name": "GET /", "labels": dict(key.labels)}
    assert key.parameters == {"service_name": "shop", "span_name": "GET /", "env": 'a"b\\c\nd', "zone": "x"}


def test_a_series_without_labels_is_what_it_was() -> None:
    key = SeriesKey("shop", "GET /")
    assert key.text == "shop/GET /"
    assert key.parts == key[:2]
    assert key.fields == key.parameters == {"service_name": "shop", "span_name": "GET /"}
