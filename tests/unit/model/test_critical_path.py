"""Critical path of a trace."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.model.critical_path import CriticalPath, TraceSpan, critical_path, longest_span

MS = 1_000_000
T0 = 1_795_000_000_000_000_000


def span(
    span_id: str, parent_id: str, begins: float, ends: float, service: str = "a", kind: str = "internal"
) -> TraceSpan:
    """A span given by its start and end in milliseconds."""
    start, end = round(begins * MS), round(ends * MS)
    return TraceSpan(span_id, parent_id, service, f"do {span_id}", kind, T0 + start, end - start)


def path(*spans: TraceSpan) -> CriticalPath:
    found = critical_path(spans)
    assert found is not None
    return found


def times(found: CriticalPath) -> dict[str, float]:
    """Self times on the path in milliseconds."""
    return {step.span.span_id: step.self_ns / MS for step in found.steps}


class TestPath:
    def test_path_of_a_single_span_is_that_span(self) -> None:
        found = path(span("root", "", 0, 10))
        assert times(found) == {"root": 10}
        assert found.services == (("a", 10 * MS),)
        assert (found.spans, found.longest) == (1, ())

    def test_sequential_children_and_gaps_between_them(self) -> None:
        found = path(span("root", "", 0, 10), span("x", "root", 1, 4), span("y", "root", 6, 9), span("z", "y", 7, 8))
        assert times(found) == {"root": 1 + 2 + 1, "x": 3, "y": 2, "z": 1}
        assert [(step.span.span_id, step.depth, step.begins_ns / MS) for step in found.steps] == [
            ("root", 0, 0),
            ("x", 1, 1),
            ("y", 1, 6),
            ("z", 2, 7),
        ]

    def test_of_parallel_children_the_last_to_finish_is_on_the_path(self) -> None:
        found = path(
            span("root", "", 0, 10), span("fast", "root", 1, 3), span("slow", "root", 1, 9), span("mid", "root", 2, 8)
        )
        assert times(found) == {"root": 2, "slow": 8}
        # Long spans are listed even if they are not on the path.
        assert [each.span_id for each in found.longest] == ["slow", "mid", "fast"]

    def test_descendants_on_the_path_or_not_have_their_parents(self) -> None:
        root, slow, fast = span("root", "", 0, 10), span("slow", "root", 1, 9), span("fast", "root", 1, 3)
        # Outlives its parent, so nothing waits for it nor for its child.
        late, below = span("late", "fast", 2, 30), span("below", "late", 3, 4)
        found = path(root, slow, fast, late, below, span("elsewhere", "unknown", 0, 5))
        assert found.parents == {slow: root, fast: root, late: fast, below: late}

    def test_descendants_start_by_the_clock_of_the_root_and_never_before_their_parent(self) -> None:
        root, ahead = span("root", "", 100, 10), span("ahead", "root", 70, 5)
        below, late = span("below", "ahead", 72, 2), span("late", "ahead", 60, 90)
        found = path(root, ahead, below, late)
        starts = {each.span_id: (start - T0) / MS for each, start in found.starts.items()}
        assert starts == {"root": 100, "ahead": 100, "below": 102, "late": 100}

    def test_child_still_running_when_the_next_began_is_not_on_the_path(self) -> None:
        found = path(span("root", "", 0, 10), span("x", "root", 5, 10), span("y", "root", 2, 7))
        assert times(found) == {"root": 5, "x": 5}

    def test_child_that_outlives_its_parent_is_not_on_the_path(self) -> None:
        found = path(
            span("root", "", 0, 10),
            span("later", "root", 12, 2500, kind="consumer"),
            span("async", "root", 2, 30),
            span("below", "async", 3, 9),
        )
        assert times(found) == {"root": 10}
        assert found.oddities.not_waited_for == 3
        assert [each.span_id for each in found.longest] == ["later", "async", "below"]

    def test_spans_of_zero_duration(self) -> None:
        found = path(span("root", "", 0, 10), span("zero", "root", 4, 4))
        assert times(found) == {"root": 10}
        instant = path(span("root", "", 5, 5), span("x", "root", 5, 5))
        assert (times(instant), instant.share(0), instant.services) == ({"root": 0}, None, (("a", 0),))

    def test_self_times_sum_by_service(self) -> None:
        found = path(
            span("root", "", 0, 100, "shop", "server"),
            span("call", "root", 10, 90, "shop", "client"),
            span("answer", "call", 12, 88, "stock", "server"),
            span("query", "answer", 20, 80, "db", "server"),
        )
        assert found.services == (("db", 60 * MS), ("shop", 24 * MS), ("stock", 16 * MS))
        assert found.share(60 * MS) == 0.6


class TestClocks:
    def test_server_span_of_a_late_clock_is_shifted_back_into_the_call(self) -> None:
        found = path(
            span("root", "", 0, 100, "shop", "server"),
            span("call", "root", 10, 90, "shop", "client"),
            span("answer", "call", 10 + 500, 80 + 500, "stock", "server"),
            span("query", "answer", 20 + 500, 60 + 500, "stock", "client"),
        )
        assert times(found) == {"root": 20, "call": 10, "answer": 30, "query": 40}
        assert (found.oddities.moved, found.oddities.not_waited_for) == (1, 0)

    def test_child_of_an_early_clock_is_shifted_forward(self) -> None:
        found = path(
            span("root", "", 0, 100, "shop", "server"),
            span("answer", "root", -30, 40, "stock", "server"),
            span("query", "answer", -20, 20, "stock", "client"),
        )
        assert times(found) == {"root": 30, "answer": 30, "query": 40}
        assert found.oddities.moved == 1

    def test_child_without_call_is_shifted_only_within_the_tolerance(self) -> None:
        little = path(span("root", "", 0, 100, "shop"), span("answer", "root", 30, 102, "stock", "server"))
        assert times(little) == {"root": 28, "answer": 72}
        much = path(span("root", "", 0, 100, "shop"), span("answer", "root", 30, 140, "stock", "server"))
        assert times(much) == {"root": 100}

    def test_what_is_shifted_to_before_its_parent_takes_no_time(self) -> None:
        found = path(
            span("root", "", 0, 100, "shop"),
            span("answer", "root", 0, 105, "stock", "server"),
            span("query", "answer", 0, 2, "stock"),
        )
        assert times(found) == {"root": 0, "answer": 100, "query": 0}

    def test_siblings_that_overlap_within_the_tolerance_are_sequential(self) -> None:
        found = path(span("root", "", 0, 10), span("x", "root", 0, 5.02), span("y", "root", 5, 10))
        assert times(found) == {"root": 0, "x": 5, "y": 5}

    def test_server_span_longer_than_its_call_is_not_on_the_path(self) -> None:
        found = path(
            span("root", "", 0, 100, "shop", "client"),
            span("answer", "root", 1, 2000, "stock", "server"),
        )
        assert times(found) == {"root": 100}


def structure(found: CriticalPath) -> list[tuple[str, str, int]]:
    """Service, kind and depth of the steps, from the root on."""
    return [(step.span.service_name, step.span.kind, step.depth) for step in found.steps]


class TestSharedIds:
    """The client and the server span of a call have one id, as Zipkin, Brave and Envoy make them."""

    CLIENT = span("call", "root", 10, 90, "shop", "client")
    SERVER = span("call", "root", 20, 80, "stock", "server")
    ROOT = span("root", "", 0, 100, "shop", "server")

    def test_server_span_is_the_child_of_the_client_span(self) -> None:
        for spans in ((self.CLIENT, self.SERVER, self.ROOT), (self.SERVER, self.ROOT, self.CLIENT)):
            found = path(*spans)
            assert structure(found) == [("shop", "server", 0), ("shop", "client", 1), ("stock", "server", 2)]
            assert found.services == (("stock", 60 * MS), ("shop", 40 * MS))
            assert (found.spans, found.oddities.duplicates, found.oddities.in_cycles) == (3, 0, 0)

    def test_both_are_roots(self) -> None:
        client, server = (each._replace(parent_id="") for each in (self.CLIENT, self.SERVER))
        found = path(server, client)
        assert found.root == client
        assert structure(found) == [("shop", "client", 0), ("stock", "server", 1)]
        assert (found.oddities.roots, found.oddities.elsewhere) == (1, 0)

    def test_children_belong_to_the_span_of_their_service_or_else_to_the_server_span(self) -> None:
        of_server = span("query", "call", 30, 40, "stock", "client")
        of_client = span("connect", "call", 10, 15, "shop")
        of_neither = span("log", "call", 50, 55, "logger")
        found = path(self.ROOT, self.CLIENT, self.SERVER, of_server, of_client, of_neither)
        depths = {step.span.span_id: step.depth for step in found.steps if step.span.span_id != "call"}
        assert depths == {"root": 0, "connect": 2, "query": 3, "log": 3}

    def test_children_of_a_call_within_one_service_belong_to_the_server_span(self) -> None:
        server = self.SERVER._replace(service_name="shop")
        child = span("query", "call", 30, 40, "shop", "client")
        assert structure(path(self.ROOT, self.CLIENT, server, child))[-1] == ("shop", "client", 3)

    def test_chain_of_calls(self) -> None:
        found = path(
            self.ROOT,
            self.CLIENT,
            self.SERVER,
            span("next", "call", 30, 70, "stock", "client"),
            span("next", "call", 35, 65, "db", "server"),
        )
        assert [(step.span.service_name, step.depth) for step in found.steps] == [
            ("shop", 0),
            ("shop", 1),
            ("stock", 2),
            ("stock", 3),
            ("db", 4),
        ]

    def test_message_and_all_its_consumers(self) -> None:
        sent = self.CLIENT._replace(kind="producer")
        consumers = [self.SERVER._replace(kind="consumer", service_name=name) for name in ("stock", "mail")]
        found = path(self.ROOT, sent, *consumers)
        assert found.spans == 4
        assert found.oddities.elsewhere == 0

    def test_server_span_can_be_explained_on_its_own(self) -> None:
        child = span("query", "call", 30, 40, "stock", "client")
        found = critical_path([self.ROOT, self.CLIENT, self.SERVER, child], root=self.SERVER)
        assert found is not None
        assert structure(found) == [("stock", "server", 0), ("stock", "client", 1)]
        assert found.oddities.elsewhere == 2

    @pytest.mark.parametrize("itself", ["client", "server"])
    def test_span_that_names_its_own_id_as_parent_is_the_child_of_the_other(self, itself: str) -> None:
        spans = [each._replace(parent_id="call" if each.kind == itself else "") for each in (self.CLIENT, self.SERVER)]
        found = path(*spans)
        assert (found.root.kind, found.oddities.in_cycles) == ("server" if itself == "client" else "client", 0)
        assert found.oddities.elsewhere == 0

    def test_cycle_through_a_call_is_broken(self) -> None:
        found = path(
            self.CLIENT._replace(parent_id="query"), self.SERVER, span("query", "call", 30, 40, "stock", "client")
        )
        assert (found.root, found.spans, found.oddities.in_cycles) == (
            self.CLIENT._replace(parent_id="query"), 3, 3
        )  # fmt: skip


class TestIrregularTraces:
    def test_no_spans(self) -> None:
        assert critical_path([]) is None

    def test_longest_of_several_roots_is_explained(self) -> None:
        found = path(span("one", "", 0, 10), span("two", "", 100, 130), span("x", "two", 100, 110))
        assert found.root.span_id == "two"
        assert (found.oddities.roots, found.oddities.elsewhere) == (2, 1)

    def test_explains_a_requested_span(self) -> None:
        spans = [span("root", "", 0, 100), span("x", "root", 10, 50, "b"), span("y", "x", 20, 40, "c")]
        found = critical_path(spans, root=longest_span(spans[1:]))
        assert found is not None
        assert times(found) == {"x": 20, "y": 20}
        assert longest_span([]) is None

    def test_longest_orphan_is_explained_if_no_root_was_received(self) -> None:
        found = path(span("x", "lost", 0, 10), span("y", "lost", 0, 20), span("z", "y", 5, 15))
        assert times(found) == {"y": 10, "z": 10}
        assert (found.oddities.roots, found.oddities.missing_parents, found.oddities.elsewhere) == (0, 2, 1)

    def test_cycles_are_broken(self) -> None:
        found = path(
            span("root", "", 0, 10),
            span("x", "y", 1, 9),
            span("y", "x", 2, 8),
            span("self", "self", 3, 4),
            span("below", "self", 3, 4),
        )
        assert times(found) == {"root": 10}
        assert (found.oddities.in_cycles, found.oddities.elsewhere) == (3, 4)
        only_cycle = path(span("x", "y", 1, 9), span("y", "x", 2, 8))
        assert times(only_cycle) == {"x": 2, "y": 6}

    def test_longest_record_of_a_span_received_twice_is_used(self) -> None:
        short, long = span("x", "root", 1, 3), span("x", "root", 1, 9)
        for records in ([short, long], [long, short], [long, long]):
            found = path(span("root", "", 0, 10), *records)
            assert times(found) == {"root": 2, "x": 8}
            assert (found.spans, found.oddities.duplicates) == (2, 1)
        explained = critical_path([span("root", "", 0, 10), short, long], root=short)
        assert explained is not None
        assert explained.root == long

    def test_many_spans_with_one_id(self) -> None:
        count = 30_000
        kinds = ("server", "client", "internal")
        spans = [
            span("x", "x" if number % 2 else "", number, number + 1, kind=kinds[number % 3]) for number in range(count)
        ]
        found = path(*spans)
        assert (found.spans, found.oddities.duplicates) == (count, 0)

    @pytest.mark.parametrize("deep", [True, False])
    def test_many_spans(self, deep: bool) -> None:
        count = 30_000
        spans = [span("0", "", 0, count)]
        for number in range(1, count):
            if deep:
                spans.append(span(str(number), str(number - 1), number * 0.4, count - number * 0.4))
            else:
                spans.append(span(str(number), "0", number, number + 1))
        found = path(*spans)
        assert sum(step.self_ns for step in found.steps) == count * MS
        assert len(found.steps) == count


@st.composite
def traces(draw: st.DrawFn) -> list[TraceSpan]:
    """Traces with missing parents, cycles, several roots, clock skew and duplicate ids."""
    count = draw(st.integers(1, 25))
    ids = [str(number) for number in range(count)]
    parents = st.sampled_from([*ids, "", "lost"])
    instants = st.integers(-20, 120)
    kinds = st.sampled_from(["server", "client", "internal", "consumer"])
    return [
        TraceSpan(
            draw(st.sampled_from(ids)) if draw(st.integers(0, 9)) == 0 else each,
            draw(st.sampled_from([ids[number // 2], ids[max(0, number - 1)]]) | parents) if number else "",
            draw(st.sampled_from("abc")),
            "name",
            draw(kinds),
            T0 + draw(instants),
            draw(st.integers(0, 120)),
        )
        for number, each in enumerate(ids)
    ]


class TestProperties:
    @settings(max_examples=300, deadline=None)
    @given(spans=traces(), seed=st.integers(0, 1000))
    def test_self_times_sum_to_the_root_regardless_of_the_order_of_spans(
        self, spans: list[TraceSpan], seed: int
    ) -> None:
        found = path(*spans)
        assert sum(step.self_ns for step in found.steps) == found.root.duration_ns
        assert sum(nanoseconds for _, nanoseconds in found.services) == found.root.duration_ns
        assert all(step.self_ns >= 0 for step in found.steps)
        assert all(0 <= step.begins_ns <= found.root.duration_ns for step in found.steps)
        assert len({step.span.identity for step in found.steps}) == len(found.steps)
        shuffled = spans.copy()
        random.Random(seed).shuffle(shuffled)
        assert path(*shuffled) == found

    @settings(max_examples=200, deadline=None)
    @given(spans=traces(), offset=st.integers(-1000, 1000))
    def test_path_does_not_depend_on_absolute_time(self, spans: list[TraceSpan], offset: int) -> None:
        found = path(*spans)
        moved = path(*(each._replace(start_ns=each.start_ns + offset) for each in spans))
        assert [step[1:] for step in moved.steps] == [step[1:] for step in found.steps]
        assert [each.span_id for each in moved.parents] == [each.span_id for each in found.parents]
        same = replace(
            moved, root=found.root, steps=found.steps, longest=found.longest, parents=found.parents, starts=found.starts
        )
        assert same == found
