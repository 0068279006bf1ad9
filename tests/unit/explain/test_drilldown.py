"""Links into Traces Drilldown: what the app makes of their parameters."""

import json
import math
import re
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.demo.traceql import field_value, parse
from exporter.demo.traces import ROOT, Operation, TraceShape
from exporter.detection.flag import FlagKind
from exporter.evaluation.causes.shift_cause import Shift
from exporter.evaluation.snapshot import KindStatus, SeriesStatus
from exporter.explain.drilldown import NO_LINKS, Drilldown
from exporter.model.identity import SeriesIdentity, parse_attribute
from exporter.model.span import FOLDED_NAME, SeriesKey
from tests.support.causes import a_cause
from tests.support.samples import NOON, baseline

GRAFANA = "https://grafana.example/sub"
LINKS = Drilldown(GRAFANA, "tempo-uid")
KEY = SeriesKey("checkout", "POST /checkout")
SHIFTED = SeriesStatus(KEY, baseline(p95=0.25), shift=True, since=NOON - 600.5)


def is_number(text: str) -> bool:
    """Whether JavaScript's ``Number`` has a value for a text."""
    text = text.strip()
    if re.fullmatch("0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+", text):
        return True
    try:
        number = float(text or "0")
    except ValueError:
        return False
    # Only Python takes other digits, underscores, and other ways to write what is no finite number.
    return text.isascii() and "_" not in text and (math.isfinite(number) or text.lstrip("+-") == "Infinity")


class Opened:
    """What Traces Drilldown reads from an address, as its sources do it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.page = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self.parameters = parse_qs(parts.query, keep_blank_values=True)
        self.selection = json.loads(self["selection"])

    def __getitem__(self, name: str) -> str:
        (value,) = self.parameters[name]
        return value

    @property
    def filters(self) -> list[tuple[str, str, str]]:
        """Key, operator and value of each filter."""
        found = []
        for text in self.parameters.get("var-filters", []):
            # Versions of the app differ in which of these separates the parts behind the value.
            assert "\\" not in text and "#" not in text and "," not in text
            key, operator, value = text.split("|")
            for escape, character in (("__gfp__", "|"), ("__gfc__", ","), ("__gfh__", "#")):
                value = value.replace(escape, character)
            found.append((key, operator, value))
        return found

    @property
    def spans(self) -> str:
        """The TraceQL of its queries: values are quoted unless they look like numbers or booleans."""
        conditions = [self["var-primarySignal"]]
        for key, operator, value in self.filters:
            assert value not in ("", "true", "false")
            assert not is_number(value)
            conditions.append(f"{key}{operator}{json.dumps(value, ensure_ascii=False)}")
        return f"{{{' && '.join(conditions)}}}"


def opened(links: Drilldown, status: SeriesStatus, kind: FlagKind = FlagKind.SHIFT) -> Opened:
    return Opened(links.of_flags(status, NOON)[kind.value])


def matches(query: str, operation: Operation) -> bool:
    """Whether the query of the app matches a root span."""
    shape = TraceShape((operation,), (ROOT,))
    return parse(query).condition.matches(lambda field: field_value(shape, 0, field, 1))


def test_a_shift_is_compared_with_the_hour_before_and_with_faster_requests() -> None:
    page = opened(LINKS, SHIFTED)
    assert page.page == f"{GRAFANA}/a/grafana-exploretraces-app/explore"
    assert page.parameters.keys() == {
        "var-ds", "var-primarySignal", "var-filters", "var-metric", "actionView", "from", "to", "selection"
    }  # fmt: skip
    assert (page["var-ds"], page["var-metric"], page["actionView"]) == ("tempo-uid", "duration", "comparison")
    assert page.spans == '{true && resource.service.name="checkout" && name="POST /checkout"}'
    assert page.selection == {
        "type": "manual",
        "timeRange": {"from": NOON - 601, "to": NOON},
        "duration": {"from": "250000us", "to": ""},
    }
    assert (page["from"], page["to"]) == (f"{NOON - 601 - 3600}000", f"{NOON}000")


@pytest.mark.parametrize(
    ("since", "start"),
    [(NOON - 20.0, NOON - 300), (NOON - 86_400.0, NOON - 1800), (None, NOON - 300)],
    ids=["at least the evaluation window", "at most half an hour", "unknown"],
)
def test_the_selected_time(since: float | None, start: int) -> None:
    page = opened(LINKS, replace(SHIFTED, since=since))
    assert page.selection["timeRange"] == {"from": start, "to": NOON}
    # Tempo 2.10 refuses more than 3 h, after rounding both ends to a step as long as the range.
    assert 2 * (int(page["to"]) - int(page["from"])) <= 3 * 3600 * 1000


def test_each_flag_that_fires_has_a_link() -> None:
    errors = KindStatus(FlagKind.ERRORS, firing=True, since=NOON - 900.0)
    traffic = KindStatus(FlagKind.TRAFFIC, firing=True, since=NOON - 1200.0)
    status = replace(SHIFTED, kinds=(errors, traffic))
    links = replace(LINKS, failed="status = error || span.http.response.status_code >= 500")
    assert list(links.of_flags(status, NOON)) == ["shift", "errors", "traffic"]
    failed = opened(links, status, FlagKind.ERRORS)
    assert failed["var-metric"] == "errors"
    assert failed.selection["query"] == links.failed
    assert failed.selection["timeRange"]["from"] == NOON - 900
    fewer = opened(links, status, FlagKind.TRAFFIC)
    assert fewer["var-metric"] == "rate"
    assert fewer.selection.keys() == {"type", "timeRange"}


def test_without_flag_address_or_evaluation_there_is_no_link() -> None:
    assert LINKS.of_flags(replace(SHIFTED, shift=False, since=None), NOON) == {}
    assert LINKS.of_flags(SHIFTED, None) == {}
    assert NO_LINKS.of_flags(SHIFTED, NOON) == {}


def test_without_an_uid_grafana_takes_its_default() -> None:
    assert "var-ds" not in opened(replace(LINKS, datasource_uid=""), SHIFTED).parameters


def test_a_cause_has_the_link_of_its_shift() -> None:
    cause = a_cause(Shift(KEY, float(NOON), NOON - 600.0))
    url = LINKS.of_cause(cause)
    assert url is not None
    page = Opened(url)
    assert cause.verdict.account is not None
    assert page.selection["duration"] == {"from": f"{cause.verdict.account.usual_seconds * 1e6:.0f}us", "to": ""}
    assert page.selection["timeRange"] == {"from": NOON - 600, "to": NOON}
    without = replace(cause, verdict=replace(cause.verdict, account=None))
    assert LINKS.of_cause(without) is None
    assert NO_LINKS.of_cause(cause) is None


TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.text("|,#\\\"'`{}()[]^$.*+?=&%/ a1\n", max_size=30),
    st.sampled_from(["", " ", "true", "false", "123", "1e5", " 7 ", "-0x1F", "0x1F", "Infinity", ".5", "5.", "NaN"]),
)


@given(TEXTS, TEXTS)
def test_spans_of_the_series_and_no_others_are_selected(service_name: str, span_name: str) -> None:
    key = SeriesKey(service_name, span_name)
    query = opened(LINKS, replace(SHIFTED, key=key)).spans
    assert matches(query, Operation(service_name, span_name, "server"))
    assert not matches(query, Operation(service_name + "x", span_name, "server"))
    if FOLDED_NAME not in span_name:
        assert not matches(query, Operation(service_name, span_name + "\nx", "server"))


@pytest.mark.parametrize(
    ("span_name", "matching", "other"),
    [
        ("GET /orders/{number}", ["GET /orders/17", "GET /orders/{number}"], "GET /orders"),
        ("GET /a.b(c)|d^e/{uuid}/x", ["GET /a.b(c)|d^e/1f/x"], "GET /axb(c)|d^e/1f/x"),
        (FOLDED_NAME, ["GET /anything"], None),
    ],
)
def test_placeholders_stand_for_anything(span_name: str, matching: list[str], other: str | None) -> None:
    query = opened(LINKS, replace(SHIFTED, key=SeriesKey("checkout", span_name))).spans
    assert [name for name in matching if not matches(query, Operation("checkout", name, "server"))] == []
    assert other is None or not matches(query, Operation("checkout", other, "server"))
    assert not matches(query, Operation("other", matching[0], "server"))


def test_scope_filter_labels_and_attributes_are_conditions_too() -> None:
    identity = SeriesIdentity(
        labels=([parse_attribute("resource.deployment.environment")],),
        span_name=(parse_attribute("span.http.route"),),
    )
    links = replace(LINKS, identity=identity, only_roots=True, condition='span.a="b" || span.a="c"')
    key = SeriesKey("checkout", "GET /cart", (("deployment_environment", "prod"),))
    page = opened(links, replace(SHIFTED, key=key))
    assert page.filters == [
        ("resource.service.name", "=", "checkout"),
        ("resource.deployment.environment", "=", "prod"),
    ]
    assert page["var-primarySignal"].startswith('nestedSetParent<0 && (span.a="b" || span.a="c") && (')
    prod, route = (("deployment.environment", "prod"),), (("a", "b"), ("http.route", "GET /cart"))
    assert matches(page.spans, Operation("checkout", "anything", "server", prod, route))
    assert not matches(page.spans, Operation("checkout", "anything", "server", prod, route[1:]))
    assert not matches(page.spans, Operation("checkout", "anything", "server", (), route))
    assert not matches(page.spans, Operation("checkout", "GET /cart", "server", prod, route[:1]))


def test_the_address_is_plain_ascii() -> None:
    key = SeriesKey('<script>"', "GET /ü\x00\ud800")
    url = LINKS.of_flags(replace(SHIFTED, key=key), NOON)["shift"]
    assert re.fullmatch(r"https://[\w./?&=%+-]+", url)
