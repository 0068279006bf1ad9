"""Stored and synthetic traces: overlap with a range, span relations, and reproducibility."""

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.demo.endpoints import Call, Endpoint, SyntheticTraces
from exporter.demo.traces import ORPHAN, ROOT, Operation, SpanTimes, Trace, TraceShape, TraceStore, make_trace
from exporter.demo.traffic import SeriesProfile

NS = 1_000_000_000
HOUR = 3600
START = 1_772_402_400  # a full hour

ONE_SPAN = TraceShape((Operation("shop", "GET /"),), (ROOT,))


def trace(trace_id: int, start_ns: int, duration_ns: int) -> Trace:
    return make_trace(trace_id, ONE_SPAN, [SpanTimes(trace_id, start_ns, duration_ns)])


def endpoints() -> list[Endpoint]:
    database = Call(Operation("shop", "SELECT", "client"), 0.1, 0.8)
    outgoing = Call(
        Operation("gateway", "GET /shop", "client"),
        0.05,
        0.9,
        (Call(Operation("shop", "GET /shop"), 0.1, 0.8, (database,)),),
    )
    follow_up = Call(Operation("mailer", "send", "consumer"), 1.5, 2.0)
    return [
        Endpoint(Operation("gateway", "GET /"), SeriesProfile(rate_per_minute=3, load_sd=0.1), (outgoing, follow_up)),
        Endpoint(Operation("gateway", "POST /"), SeriesProfile(rate_per_minute=0.5, base_seconds=90), trace_id_bits=64),
    ]


def synthetic() -> SyntheticTraces:
    return SyntheticTraces(endpoints(), seed=1, begin=START + 600.5)


def contents(traces: Iterable[Trace]) -> list[tuple[object, ...]]:
    """Return the content of traces for comparison; shape objects are equal only within one source."""
    return [(t.trace_id, t.spans, t.shape.operations, t.shape.parents) for t in traces]


def test_failing_requests_differ_in_nothing_else() -> None:
    failing = [replace(endpoint, error_ratio=0.5) for endpoint in endpoints()]
    traces = SyntheticTraces(failing, seed=1, begin=START + 600.5).overlapping(START * NS, (START + 20 * HOUR) * NS)
    usual = synthetic().overlapping(START * NS, (START + 20 * HOUR) * NS)
    assert [(t.trace_id, t.spans, t.shape.parents) for t in traces] == [
        (t.trace_id, t.spans, t.shape.parents) for t in usual
    ]
    failed = [trace.shape.operations[0].status == "error" for trace in traces]
    assert 0.4 < sum(failed) / len(failed) < 0.6
    assert all(
        trace.shape.operations[1:] == other.shape.operations[1:] for trace, other in zip(traces, usual, strict=True)
    )
    assert len({trace.shape for trace in traces}) == 4


def test_codes_of_failed_requests() -> None:
    http = Operation("shop", "GET /", attributes=(("http.route", "/"),)).failed()
    grpc = Operation("shop", "S/M", attributes=(("rpc.system", "grpc"),)).failed()
    assert (http.status, http.span_attributes["http.response.status_code"]) == ("error", 500)
    assert (grpc.status, grpc.span_attributes["rpc.grpc.status_code"]) == ("error", 13)
    assert Operation("shop", "job").failed() == Operation("shop", "job", status="error")


def test_trace_lasts_from_first_start_to_last_end() -> None:
    shape = TraceShape((Operation("a", "x"), Operation("b", "y")), (ROOT, 0))

    trace_ = make_trace(1, shape, [SpanTimes(1, 100, 10), SpanTimes(2, 105, 50)])

    assert (trace_.start_ns, trace_.end_ns) == (100, 155)


@pytest.mark.parametrize("spans", [[], [SpanTimes(1, 0, 1), SpanTimes(2, 0, 1)]])
def test_make_trace_rejects_a_wrong_number_of_spans(spans: list[SpanTimes]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        make_trace(1, ONE_SPAN, spans)


def test_nested_set_parents() -> None:
    #  0 ── 1 ── 2          left numbers: 0:1 1:2 2:3, then 3:6 after leaving 2 and 1
    #  └─── 3               4 is another root, 5 has lost its parent
    operations = tuple(Operation("s", str(position)) for position in range(7))
    shape = TraceShape(operations, (ROOT, 0, 1, 0, ROOT, ORPHAN, 4))

    assert shape.nested_set_parents == (-1, 1, 2, 1, -1, 0, 9)
    assert shape.root == operations[4]


def test_trace_without_root_has_no_root_operation() -> None:
    assert TraceShape((Operation("s", "x"),), (ORPHAN,)).root is None


@given(
    spans=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 40)), max_size=30),
    window=st.tuples(st.integers(0, 120), st.integers(0, 120)).map(sorted),
)
def test_store_finds_overlapping_traces(spans: list[tuple[int, int]], window: list[int]) -> None:
    traces = [trace(position, start, duration) for position, (start, duration) in enumerate(spans)]
    start, end = window

    result = TraceStore(traces).overlapping(start, end)

    assert sorted(result) == sorted(t for t in traces if t.start_ns <= end and t.end_ns >= start)
    assert [t.start_ns for t in result] == sorted(t.start_ns for t in result)


def test_store_finds_a_trace_by_id() -> None:
    expected = trace(7, 5, 1)
    store = TraceStore([trace(6, 9, 1), expected])

    assert len(store) == 2
    assert store.find(7) == expected
    assert store.find(8) is None


@settings(deadline=None, max_examples=15)
@given(cuts=st.lists(st.integers(0, 4 * HOUR), min_size=2, max_size=5, unique=True).map(sorted))
def test_synthetic_traces_do_not_depend_on_earlier_queries(cuts: list[int]) -> None:
    piecewise, single_query = synthetic(), synthetic()
    everything = single_query.overlapping(START * NS, (START + 4 * HOUR) * NS)

    for first, last in pairwise(cuts):
        start_ns, end_ns = (START + first) * NS, (START + last) * NS
        result = piecewise.overlapping(start_ns, end_ns)
        assert contents(result) == contents(t for t in everything if t.start_ns <= end_ns and t.end_ns >= start_ns)


def test_long_traces_are_found_after_their_start() -> None:
    source = synthetic()
    long = max(source.overlapping(START * NS, (START + 4 * HOUR) * NS), key=lambda t: t.end_ns - t.start_ns)

    assert long.end_ns - long.start_ns > 90 * NS
    assert long in source.overlapping(long.end_ns, long.end_ns + 1)
    assert long not in source.overlapping(long.end_ns + 1, long.end_ns + 2)


def test_synthetic_traces_start_at_the_begin() -> None:
    traces = synthetic().overlapping(0, (START + 2 * HOUR) * NS)

    assert traces
    assert min(t.start_ns for t in traces) >= (START + 600.5) * NS


def test_synthetic_traces_are_found_by_id() -> None:
    source = synthetic()

    for expected in synthetic().overlapping(START * NS, (START + 30 * HOUR) * NS)[::100]:
        result = source.find(expected.trace_id)
        assert result is not None
        assert contents([result]) == contents([expected])
    assert source.find(12345) is None


def test_ids_are_unique_and_some_start_with_zeros() -> None:
    traces = synthetic().overlapping(START * NS, (START + 48 * HOUR) * NS)

    assert len({t.trace_id for t in traces}) == len(traces)
    assert all(0 < t.trace_id < 2**128 for t in traces)
    assert all(len({span.span_id for span in t.spans}) == len(t.spans) for t in traces)
    lengths = {len(f"{t.trace_id:x}") for t in traces}
    assert {32, 31, 16} <= lengths


def test_calls_are_within_their_parents_and_follow_ups_after() -> None:
    traces = synthetic().overlapping(START * NS, (START + 4 * HOUR) * NS)
    gateway = [t for t in traces if len(t.spans) > 1]

    assert gateway
    for result in gateway:
        root, outgoing, shop, database, mail = result.spans
        assert result.shape.parents == (ROOT, 0, 1, 2, 0)
        for parent, child in ((root, outgoing), (outgoing, shop), (shop, database)):
            assert parent.start_ns <= child.start_ns
            assert child.start_ns + child.duration_ns <= parent.start_ns + parent.duration_ns
        assert mail.start_ns >= root.start_ns + root.duration_ns
        assert result.end_ns == mail.start_ns + mail.duration_ns
        assert math.isclose(outgoing.duration_ns, 0.9 * root.duration_ns, rel_tol=0.26)
