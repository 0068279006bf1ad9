"""Decoding of search responses, valid and invalid."""

import copy
import json
import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.model.failure_rule import STATUS_IS_ERROR, FailureRule
from exporter.model.identity import BY_NAME, OWN_NAME, Attribute, SeriesIdentity
from exporter.model.label import cut_mark
from exporter.model.span import SeriesKey, Span
from exporter.tempo.decode import MAX_NAME_CHARACTERS, DecodedSearch, SearchDecoder
from exporter.tempo.settings import Scope
from tests.support.tempo_server import a_span, a_trace, search_body


def decode(body: Any, scope: Scope = "root") -> DecodedSearch:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return SearchDecoder(scope).decode(data)


def decode_span(**changes: Any) -> DecodedSearch:
    """Decode a trace with decode_span span, with some fields changed."""
    return decode(search_body(a_trace(spanSets=[{"spans": [a_span(**changes)], "matched": 1}])))


def without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


def test_decode_returns_a_span_with_its_series() -> None:
    decoded = decode(search_body(a_trace(7)))
    assert decoded.spans == [
        Span(f"{7:032x}", f"{7:016x}", SeriesKey("shop", "GET /"), 1_795_077_007_000_000_000, 5_000_000)
    ]
    assert (decoded.traces, decoded.invalid, decoded.missing, decoded.complete) == (1, 0, 0, True)


@pytest.mark.parametrize("digits", ["963a4e79e6e2177f4e976ce9b52e6a7", "F9D81F55033D3516E1C502CDF2", "1"])
def test_trace_ids_are_padded_and_lower_case(digits: str) -> None:
    assert decode(search_body(a_trace(traceID=digits))).spans[0].trace_id == digits.lower().zfill(32)


@pytest.mark.parametrize("bad", ["", "0123456789abcdefg", "1" * 33, "<script>", "12 34", "0x12", "１２"])
def test_trace_with_an_invalid_id_is_counted_and_left_out(bad: str) -> None:
    decoded = decode(search_body(a_trace(traceID=bad), a_trace(2)))
    assert (decoded.traces, len(decoded.spans), decoded.invalid) == (2, 1, 1)
    assert "trace id" in decoded.problem


def test_absent_fields_are_zero_or_empty() -> None:
    span = without(a_span(), "durationNanos", "name", "spanID")
    trace = without(a_trace(spanSets=[{"spans": [span], "matched": 1}]), "rootTraceName")
    decoded = decode(search_body(trace))
    assert decoded.spans[0].duration_ns == 0
    assert decoded.spans[0].key == SeriesKey("shop", "")
    assert decoded.spans[0].span_id == "0" * 16
    assert decoded.invalid == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"startTimeUnixNano": "0"},
        {"startTimeUnixNano": "-1"},
        {"startTimeUnixNano": str(2**63)},
        {"durationNanos": "-1"},
        {"durationNanos": str(2**64 - 1)},
        {"durationNanos": str(2**63 - 1)},
        {"durationNanos": "9" * 400},
        {"durationNanos": 9 * 10**100},
        {"durationNanos": "soon"},
        {"durationNanos": None},
        {"startTimeUnixNano": 1.5},
        {"startTimeUnixNano": float("inf")},
        {"startTimeUnixNano": float("nan")},
        {"spanID": "xyz"},
        {"spanID": "1" * 17},
        {"spanID": 5},
        {"name": ["GET"]},
    ],
)
def test_invalid_span_is_counted_and_left_out(changes: dict[str, Any]) -> None:
    decoded = decode_span(**changes)
    assert (decoded.traces, decoded.spans, decoded.invalid) == (1, [], 1)
    assert decoded.problem


def test_extreme_but_valid_times_are_accepted() -> None:
    assert decode_span(startTimeUnixNano="1", durationNanos=str(2**62)).spans[0].duration_ns == 2**62


def test_invalid_trace_does_not_affect_the_others() -> None:
    bad = a_trace(2, spanSets="none")
    decoded = decode(search_body(a_trace(1), bad, a_trace(3)))
    assert [span.trace_id for span in decoded.spans] == [f"{n:032x}" for n in (1, 3)]
    assert (decoded.traces, decoded.invalid) == (3, 1)
    assert "unreadable" in decoded.problem


def test_trace_without_spans_is_counted_as_invalid() -> None:
    without_sets = without(a_trace(), "spanSets")
    for trace in (
        without_sets,
        {**without_sets, "spanSets": []},
        {**without_sets, "spanSets": [{}]},
        {**without_sets, "spanSet": 5},
    ):
        decoded = decode(search_body(trace))
        assert (decoded.traces, decoded.spans, decoded.invalid) == (1, [], 1)


def test_several_root_spans_in_one_trace() -> None:
    spans = [a_span(1), a_span(2, name="GET /two")]
    decoded = decode(search_body(a_trace(spanSets=[{"spans": spans, "matched": 2}])))
    assert [span.key.span_name for span in decoded.spans] == ["GET /", "GET /two"]
    assert decoded.traces == 1


def test_span_in_several_span_sets_is_returned_once() -> None:
    sets = [{"spans": [a_span(1), a_span(2)], "matched": 2}, {"spans": [a_span(2), a_span(3)], "matched": 2}]
    decoded = decode(search_body(a_trace(spanSets=sets, spanSet=sets[0])))
    assert [int(span.span_id, 16) for span in decoded.spans] == [1, 2, 3]
    assert (decoded.duplicates, decoded.invalid, decoded.missing) == (1, 0, 0)


def of_service(name: str) -> list[dict[str, Any]]:
    return [{"key": "service.name", "value": {"stringValue": name}}]


@pytest.mark.parametrize("scope", ["root", "entry"])
@pytest.mark.parametrize(
    "change",
    [
        {"attributes": of_service("orders-api")},
        {"name": "GET /orders"},
        {"startTimeUnixNano": str(1_795_077_001_005_000_000)},
    ],
    ids=["service", "name", "start"],
)
def test_spans_that_share_an_id_are_both_returned(scope: Scope, change: dict[str, Any]) -> None:
    spans = [a_span(1), a_span(1, **change)]
    for sets in ([{"spans": spans, "matched": 2}], [{"spans": [each], "matched": 1} for each in spans]):
        for order in (sets, sets[::-1]):
            decoded = decode(search_body(a_trace(spanSets=order)), scope)
            assert len(decoded.spans) == len(set(decoded.spans)) == 2
            assert {span.span_id for span in decoded.spans} == {f"{1:016x}"}
            assert (decoded.duplicates, decoded.invalid, decoded.missing) == (0, 0, 0)


def test_trace_that_occurs_twice_is_returned_once() -> None:
    spans = [a_span(1), a_span(1, name="GET /orders"), a_span(2)]
    trace = a_trace(0xAB, spanSets=[{"spans": spans, "matched": 3}])
    shortened = {**trace, "traceID": "ab"}
    more = a_trace(0xAB, spanSets=[{"spans": [a_span(2), a_span(3)], "matched": 2}])
    decoded = decode(search_body(a_trace(7), trace, shortened, a_trace(8), more, a_trace(7)))
    assert [(int(span.trace_id, 16), int(span.span_id, 16), span.key.span_name) for span in decoded.spans] == [
        (7, 7, "GET /"),
        (0xAB, 1, "GET /"),
        (0xAB, 1, "GET /orders"),
        (0xAB, 2, "GET /"),
        (8, 8, "GET /"),
        (0xAB, 3, "GET /"),
    ]
    # As many traces as the limit means that there may be more, so every occurrence counts.
    assert (decoded.traces, decoded.duplicates, decoded.invalid) == (6, 5, 0)


def test_invalid_traces_are_no_duplicates() -> None:
    decoded = decode(search_body(a_trace(traceID="x"), a_trace(1), a_trace(traceID="y"), a_trace(2)))
    assert (len(decoded.spans), decoded.traces, decoded.duplicates, decoded.invalid) == (2, 4, 0, 2)


@pytest.mark.parametrize("scope", ["root", "entry"])
def test_span_that_began_too_early_or_took_too_long_is_invalid(scope: Scope) -> None:
    day, oldest = 86_400 * 10**9, 1_795_000_000 * 10**9
    spans = [
        a_span(1, startTimeUnixNano="8000000000", durationNanos=str(1_795_077_000 * 10**9), name="since 1970"),
        a_span(2, startTimeUnixNano=str(oldest - 1), name="too early"),
        a_span(3, startTimeUnixNano=str(oldest), name="in time"),
        a_span(4, durationNanos=str(day), name="as long as can be"),
        a_span(5, durationNanos=str(day + 1), name="too long"),
        a_span(6, durationNanos=str(2 * day), name="too long"),
        a_span(7, startTimeUnixNano="1", durationNanos=str(2**62), name="for ever"),
    ]
    body = json.dumps(search_body(a_trace(spanSets=[{"spans": spans, "matched": 7}]))).encode()
    decoded = SearchDecoder(scope, day).decode(body, oldest)
    assert [span.key.span_name for span in decoded.spans] == ["in time", "as long as can be"]
    assert (decoded.traces, decoded.invalid, decoded.problem) == (1, 5, "")
    assert {key.span_name: problem.partition("a span that ")[2] for key, problem in decoded.implausible.items()} == {
        "since 1970": "starts at 1970-01-01 00:00:08 UTC and takes 1795077000 s",
        "too early": "starts at 2026-11-18 11:06:39 UTC and takes 0 s",
        "too long": "starts at 2026-11-19 08:30:05 UTC and takes 86400 s",
        "for ever": "starts at 1970-01-01 00:00:00 UTC and takes 4611686018 s",
    }


@pytest.mark.parametrize(
    ("scope", "root", "names", "expected"),
    [
        ("root", "GET /", [""], ["GET /"]),
        ("root", "GET /", [None], ["GET /"]),
        ("root", "GET /", ["", ""], ["GET /", "GET /"]),
        # Two root spans, one of which has no name.
        ("root", "GET /", ["GET /", ""], ["GET /", ""]),
        ("root", "<root span not yet received>", [""], [""]),
        ("root", "", [""], [""]),
        ("entry", "GET /", [""], [""]),
    ],
)
def test_span_without_a_name_has_that_of_its_trace(
    scope: Scope, root: str, names: list[str | None], expected: list[str]
) -> None:
    spans = [
        a_span(n, name=name) if name is not None else without(a_span(n), "name") for n, name in enumerate(names, 1)
    ]
    trace = a_trace(rootTraceName=root, spanSets=[{"spans": spans, "matched": len(spans)}])
    assert [span.key.span_name for span in decode(search_body(trace), scope).spans] == expected


@pytest.mark.parametrize(
    ("scope", "root", "service"), [("root", "shop", "shop"), ("root", "nil", "nil"), ("entry", "shop", "")]
)
def test_service_nil_is_no_service(scope: Scope, root: str, service: str) -> None:
    trace = a_trace(rootServiceName=root, spanSets=[{"spans": [a_span(attributes=of_service("nil"))], "matched": 1}])
    decoder, body = SearchDecoder(scope), json.dumps(search_body(trace)).encode()
    for _ in range(2):
        assert decoder.decode(body).spans[0].key == SeriesKey(service, "GET /")


def test_spans_without_ids_are_not_merged() -> None:
    spans = [without(a_span(n), "spanID") for n in (1, 2)]
    assert len(decode(search_body(a_trace(spanSets=[{"spans": spans, "matched": 2}]))).spans) == 2


def test_span_set_of_an_older_tempo_is_read() -> None:
    trace = without(a_trace(), "spanSets") | {"spanSet": {"spans": [a_span(4)], "matched": 3}}
    decoded = decode(search_body(trace))
    assert [span.span_id for span in decoded.spans] == [f"{4:016x}"]
    assert decoded.missing == 2


@pytest.mark.parametrize(("matched", "missing"), [(1, 0), (0, 0), (-5, 0), (131, 130), (10**30, 2**32 - 2)])
def test_matched_spans_not_returned_are_counted_as_missing(matched: int, missing: int) -> None:
    trace = a_trace(spanSets=[{"spans": [a_span()], "matched": matched}])
    assert decode(search_body(trace)).missing == missing


@pytest.mark.parametrize(
    ("scope", "root", "service"),
    [
        ("root", "shop", "shop"),
        ("root", "", ""),
        ("root", "<root span not yet received>", ""),
        ("entry", "shop", ""),
    ],
)
@pytest.mark.parametrize("attributes", [[], None, "odd", [{"key": "kind", "value": {"stringValue": "server"}}]])
def test_service_of_a_span_without_service_name(scope: Scope, root: str, service: str, attributes: Any) -> None:
    trace = a_trace(rootServiceName=root, spanSets=[{"spans": [a_span(attributes=attributes)], "matched": 1}])
    assert decode(search_body(trace), scope).spans[0].key == SeriesKey(service, "GET /")


@pytest.mark.parametrize("value", [{"intValue": "5"}, {"stringValue": 5}, {}, None, "shop"])
def test_service_name_that_is_not_text_is_ignored(value: Any) -> None:
    attributes = [{"key": "service.name", "value": value}]
    assert decode_span(attributes=attributes).spans[0].key.service_name == "shop"


def test_order_of_attributes_does_not_matter() -> None:
    decoder = SearchDecoder("entry")
    span = a_span()
    other = {**span, "attributes": span["attributes"][::-1]}
    for each in (span, other, span, other):
        trace = a_trace(spanSets=[{"spans": [each], "matched": 1}])
        decoded = decoder.decode(json.dumps(search_body(trace)).encode())
        assert decoded.spans[0].key == SeriesKey("shop", "GET /")


def test_spans_of_a_series_share_one_key() -> None:
    decoder = SearchDecoder("root")
    body = json.dumps(search_body(a_trace(1), a_trace(2))).encode()
    keys = [span.key for _ in range(2) for span in decoder.decode(body).spans]
    assert len({id(key) for key in keys}) == 1


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("", ""),
        ('GET "/quoted\\path"\nline', 'GET "/quoted\\path"\nline'),
        ("订单 查询 ünïcode 🙂", "订单 查询 ünïcode 🙂"),
        ("a\0b", "a\ufffdb"),
        ("a\ud800b", "a\ufffdb"),
        ("x" * MAX_NAME_CHARACTERS, "x" * MAX_NAME_CHARACTERS),
        ("x" * (MAX_NAME_CHARACTERS + 1), "x" * (MAX_NAME_CHARACTERS - 13) + cut_mark("x" * (MAX_NAME_CHARACTERS + 1))),
        ("x" * 1_000_000, "x" * (MAX_NAME_CHARACTERS - 13) + cut_mark("x" * 1_000_000)),
    ],
)
def test_hostile_names_are_cleaned(name: str, cleaned: str) -> None:
    attributes = [{"key": "service.name", "value": {"stringValue": name}}]
    trace = a_trace(rootTraceName="", spanSets=[{"spans": [a_span(name=name, attributes=attributes)], "matched": 1}])
    key = decode(search_body(trace)).spans[0].key
    assert key == SeriesKey(cleaned or "shop", cleaned)
    key.service_name.encode()


def test_long_names_that_differ_at_the_end_are_different_series() -> None:
    names = ["x" * 100_000 + end for end in ("a", "b", "a")]
    spans = [a_span(n, name=name) for n, name in enumerate(names, 1)]
    keys = [span.key for span in decode(search_body(a_trace(spanSets=[{"spans": spans, "matched": 3}]))).spans]
    assert keys[0] != keys[1]
    # However many spans a series has, its name is in memory once.
    assert keys[0] is keys[2]


def test_invalid_utf_8_is_replaced() -> None:
    body = json.dumps(search_body(a_trace(), a_trace(2)), ensure_ascii=False).encode()
    broken = body.replace(b'"name": "GET /"', b'"name": "GET \xff/"', 1)
    assert [span.key.span_name for span in decode(broken).spans] == ["GET \ufffd/", "GET /"]
    broken = body.replace(b'"stringValue": "shop"', b'"stringValue": "sh\xffop"', 1)
    assert [span.key.service_name for span in decode(broken).spans] == ["sh\ufffdop", "shop"]


@pytest.mark.parametrize(
    ("metrics", "complete"),
    [
        ({"completedJobs": 2, "totalJobs": 2}, True),
        ({"completedJobs": 1}, True),
        ({}, True),
        (None, True),
        ({"completedJobs": 1, "totalJobs": 2}, False),
        ({"totalJobs": 2}, False),
    ],
)
def test_complete_by_finished_jobs(metrics: Any, complete: bool) -> None:
    assert decode({"traces": [], "metrics": metrics}).complete is complete


@pytest.mark.parametrize("body", [b"{}", b" {\n} ", b'{"metrics":{}}', b'{"traces":[]}', b'{"traces":null}'])
def test_empty_response(body: bytes) -> None:
    decoded = decode(body)
    assert (decoded.spans, decoded.traces, decoded.invalid, decoded.complete) == ([], 0, 0, True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"traces"',
        b"<html></html>",
        b'{"traces":',
        b'{"traces":[]} and more',
        b'{"traces":{}}',
        b'{"traces":[],"metrics":5}',
        b'{"message":"please log in"}',
        b'{"traces":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    ],
)
def test_body_that_is_not_a_search_response_raises(body: bytes) -> None:
    with pytest.raises(ValueError) as caught:
        decode(body)
    assert str(caught.value)


def test_cache_of_series_keys_is_bounded() -> None:
    decoder = SearchDecoder("root")

    def decode_key(name: str) -> SeriesKey:
        return (
            decoder.decode(json.dumps(search_body(a_trace(spanSets=[{"spans": [a_span(name=name)]}]))).encode())
            .spans[0]
            .key
        )

    first = decode_key("first")
    assert decode_key("first") is first
    for batch in range(8):
        spans = [{"spanID": f"{n:x}", "name": f"{batch}/{n}", "startTimeUnixNano": "1"} for n in range(9000)]
        decoded = decoder.decode(json.dumps(search_body(a_trace(spanSets=[{"spans": spans}]))).encode())
        assert decoded.spans[-1].key == SeriesKey("shop", f"{batch}/8999")
    for number in range(3):
        long = [{"spanID": f"{n:x}", "name": f"{number}/{n}".ljust(8000), "startTimeUnixNano": "1"} for n in range(900)]
        decoder.decode(json.dumps(search_body(a_trace(spanSets=[{"spans": long}]))).encode())
    again = decode_key("first")
    assert decode_key("first") is again
    # The cache was emptied, so the same name has a new key.
    assert again is not first
    assert again == first


# Arbitrary input


_anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["", "0", "-1", str(2**64), "1e5", "<root span not yet received>"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["traces", "metrics", "traceID", "spanSets", "spanSet", "spans", "matched", "name", "attributes", "key"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in a JSON value, as container and index."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for index, inner in items:
        found.append((value, index))
        found += _places(inner)
    return found


def _check_invariants(decoded: DecodedSearch) -> None:
    """Check what must hold for any decoded response."""
    for span in decoded.spans:
        assert len(span.trace_id) == 32
        assert len(span.span_id) == 16
        assert set(span.trace_id + span.span_id) <= set(string.hexdigits.lower())
        assert 0 < span.start_ns <= span.end_ns < 2**63
        for name in span.key.parts:
            name.encode()
            assert "\0" not in name
            assert len(name) <= MAX_NAME_CHARACTERS
            assert name != "<root span not yet received>"
    assert min(decoded.traces, decoded.duplicates, decoded.invalid, decoded.missing) >= 0
    assert len({span.identity for span in decoded.spans}) == len(decoded.spans)


@given(_anything)
def test_any_json_is_decoded_or_rejected(value: Any) -> None:
    try:
        decoded = decode(value)
    except ValueError:
        return
    _check_invariants(decoded)


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_rejected(body: bytes) -> None:
    try:
        decoded = decode(body)
    except ValueError:
        return
    _check_invariants(decoded)


@settings(max_examples=300)
@given(st.data())
def test_any_value_anywhere_in_a_trace_does_not_affect_the_others(data: st.DataObject) -> None:
    spans = [a_span(1), a_span(2)]
    good = a_trace(2, spanSets=[{"spans": spans, "matched": 3}], spanSet={"spans": spans, "matched": 3})
    bad = copy.deepcopy(good)
    container, index = data.draw(st.sampled_from(_places(bad)), label="place")
    container[index] = data.draw(_anything, label="value")
    decoded = decode(search_body(a_trace(1), bad, a_trace(3)))
    _check_invariants_except_names(decoded)
    assert decoded.traces == 3
    ids = [span.trace_id for span in decoded.spans]
    assert ids[0] == f"{1:032x}"
    assert ids[-1] == f"{3:032x}"


def _check_invariants_except_names(decoded: DecodedSearch) -> None:
    """Check the invariants, but allow the placeholder as a name: an attribute may really contain it."""
    kept = [
        span._replace(key=SeriesKey("", "")) if "<root span not yet received>" in span.key else span
        for span in decoded.spans
    ]
    _check_invariants(DecodedSearch(kept, decoded.traces, decoded.duplicates, decoded.invalid, decoded.missing))


_mutations: list[Callable[[bytes, int], bytes]] = [
    lambda body, at: body[:at],
    lambda body, at: body[:at] + b"\xff" + body[at + 1 :],
    lambda body, at: body[:at] + b"\\ud800" + body[at:],
    lambda body, at: body[:at] + body[at + 1 :],
]


@settings(max_examples=300)
@given(st.sampled_from(_mutations), st.integers(0, 10_000))
def test_damaged_body_is_decoded_or_rejected(mutation: Callable[[bytes, int], bytes], at: int) -> None:
    body = json.dumps(search_body(a_trace(1), a_trace(2), a_trace(3))).encode()
    try:
        decoded = decode(mutation(body, at % len(body)))
    except ValueError:
        return
    _check_invariants(decoded)


# Whether spans failed


def failed(rule: FailureRule | None, *spans: dict[str, Any]) -> list[bool | None]:
    """Return which of the spans with these attributes, by name, failed."""
    traces = []
    for number, values in enumerate(spans, start=1):
        attributes = [{"key": key, "value": value} for key, value in values.items()]
        span = a_span(number, attributes=[*a_span()["attributes"], *attributes])
        traces.append(a_trace(number, spanSets=[{"spans": [span], "matched": 1}]))
    decoded = SearchDecoder("root", failures=rule).decode(json.dumps(search_body(*traces)).encode())
    assert len({id(span.key) for span in decoded.spans}) == 1, "spans of one series share its key"
    return [span.failed for span in decoded.spans]


def test_status_says_whether_a_span_failed() -> None:
    statuses = [{"status": text(each)} for each in ("error", "unset", "ok", "ERROR", "nil")]
    assert failed(STATUS_IS_ERROR, *statuses, {}, {"status": {"intValue": 2}}) == [
        True, False, False, None, None, None, None,
    ]  # fmt: skip
    assert failed(None, {"status": text("error")}) == [None]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"intValue": "503"}, True),
        ({"intValue": 503}, True),
        ({"doubleValue": 500.0}, True),
        ({"intValue": "499"}, False),
        ({"stringValue": "503"}, False),
        ({"stringValue": "nil"}, False),
        ({"boolValue": True}, False),
        ({"doubleValue": "NaN"}, False),
        ({"intValue": "many"}, False),
        ({"arrayValue": {"values": [{"intValue": "503"}]}}, False),
        ({}, False),
        (None, False),
    ],
)
def test_attributes_may_say_whether_a_span_failed(value: object, expected: bool) -> None:
    rule = FailureRule("status = error || span.http.response.status_code >= 500")
    unset = {"status": text("unset"), "http.response.status_code": value}
    error = {"status": text("error"), "http.response.status_code": value}
    assert failed(rule, unset, error, unset) == [expected, True, expected]


# Attributes that decide the series


ENVIRONMENT = Attribute("resource", "deployment.environment.name")
OLD_ENVIRONMENT = Attribute("resource", "deployment.environment")
ROUTE = Attribute("span", "http.route")
IDENTITY = SeriesIdentity(((ENVIRONMENT, OLD_ENVIRONMENT),), (ROUTE, OWN_NAME))
Values = dict[str, Any]


def keys_of(*spans: tuple[str, Values], identity: SeriesIdentity = IDENTITY) -> list[SeriesKey]:
    """Return the series of spans with these names and attributes."""
    traces = []
    for number, (name, values) in enumerate(spans, start=1):
        attributes = [{"key": key, "value": value} for key, value in values.items()]
        span = a_span(number, name=name, attributes=[*a_span()["attributes"], *attributes])
        traces.append(a_trace(number, spanSets=[{"spans": [span], "matched": 1}]))
    decoded = SearchDecoder("root", identity=identity).decode(json.dumps(search_body(*traces)).encode())
    return [span.key for span in decoded.spans]


def text(value: str) -> Values:
    return {"stringValue": value}


def test_attributes_become_labels_and_names() -> None:
    prod, get = text("prod"), text("GET")
    assert keys_of(
        ("GET", {"deployment.environment.name": prod, "http.route": text("/a/{id}"), "http.request.method": get}),
        ("GET", {"http.method": get, "http.route": text("/a/{id}"), "deployment.environment": prod}),
        ("GET", {"deployment.environment.name": text("nil"), "http.route": text("nil")}),
        ("work", {"deployment.environment.name": text("")}),
    ) == [
        SeriesKey("shop", "GET /a/{id}", (("deployment_environment_name", "prod"),)),
        SeriesKey("shop", "GET /a/{id}", (("deployment_environment_name", "prod"),)),
        SeriesKey("shop", "GET"),
        SeriesKey("shop", "work"),
    ]


def test_attributes_in_any_order_share_one_key() -> None:
    values = {"deployment.environment.name": text("prod"), "http.route": text("/a"), "http.method": text("GET")}
    one, other = keys_of(("GET", values), ("HTTP GET", dict(reversed(values.items()))))
    assert one is other


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"intValue": "5"}, "5"),
        ({"intValue": 5}, "5"),
        ({"boolValue": False}, "false"),
        ({"boolValue": True}, "true"),
        ({"doubleValue": 1.5}, "1.5"),
        ({"doubleValue": 2.0}, "2"),
        ({"doubleValue": 1e300}, "1e+300"),
        ({"doubleValue": "NaN"}, "NaN"),
        ({"arrayValue": {"values": [{"stringValue": "a"}, {"intValue": "1"}]}}, '["a", "1"]'),
        ({"arrayValue": {}}, "[]"),
        ({"arrayValue": None}, ""),
        ({"kvlistValue": {"values": []}}, ""),
        ({"stringValue": 5}, ""),
        ({}, ""),
        (None, ""),
        ("x", ""),
        ({"stringValue": "a\0" + "b" * 9000}, "a\ufffd" + "b" * (MAX_NAME_CHARACTERS - 15)),
    ],
)
def test_any_value_becomes_text_or_is_absent(value: Any, expected: str) -> None:
    (key,) = keys_of(("x", {"deployment.environment.name": value}))
    values = [each[: len(expected)] for _, each in key.labels]
    assert values == ([expected] if expected else [])
    assert all(len(each) <= MAX_NAME_CHARACTERS for _, each in key.labels)


def test_attributes_that_were_not_asked_for_have_no_effect() -> None:
    values = {"deployment.environment.name": text("prod"), "http.route": text("/a")}
    assert keys_of(("GET", values), identity=BY_NAME) == [SeriesKey("shop", "GET")]
