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
    """A span by when it begins and ends, in milliseconds."""
    start, end = round(begins * MS), round(ends * MS)
    return TraceSpan(span_id, parent_id, service, f"do {span_id}", kind, T0 + start, end - start)


def path(*spans: TraceSpan) -> CriticalPath:
    found = critical_path(spans)
    assert found is not None
    return found


def times(found: CriticalPath) -> dict[str, float]:
    """How long each span on the path was waited for itself, in milliseconds."""
    return {step.span.span_id: step.self_ns / MS for step in found.steps}


class TestPath:
    def test_a_root_alone_is_its_own_path(self) -> None:
        found = path(span("root", "", 0, 10))
        assert times(found) == {"root": 10}
        assert found.services == (("a", 10 * MS),)
        assert (found.spans, found.longest) == (1, ())

    def test_children_one_after_another_and_the_gaps_between(self) -> None:
        found = path(span("root", "", 0, 10), span("x", "root", 1, 4), span("y", "root", 6, 9), span("z", "y", 7, 8))
        assert times(found) == {"root": 1 + 2 + 1, "x": 3, "y": 2, "z": 1}
        assert [(step.span.span_id, step.depth, step.begins_ns / MS) for step in found.steps] == [
            ("root", 0, 0),
            ("x", 1, 1),
            ("y", 1, 6),
            ("z", 2, 7),
        ]

    def test_of_children_side_by_side_the_last_to_finish_counts(self) -> None:
        found = path(
            span("root", "", 0, 10), span("fast", "root", 1, 3), span("slow", "root", 1, 9), span("mid", "root", 2, 8)
        )
        assert times(found) == {"root": 2, "slow": 8}
        # It is not on the path, but it is long.
        assert [each.span_id for each in found.longest] == ["slow", "mid", "fast"]

    def test_what_was_still_running_when_the_next_began_was_not_waited_for(self) -> None:
        found = path(span("root", "", 0, 10), span("x", "root", 5, 10), span("y", "root", 2, 7))
        assert times(found) == {"root": 5, "x": 5}

    def test_what_outlives_its_parent_was_not_waited_for(self) -> None:
        found = path(
            span("root", "", 0, 10),
            span("later", "root", 12, 2500, kind="consumer"),
            span("meanwhile", "root", 2, 30),
            span("below", "meanwhile", 3, 9),
        )
        assert times(found) == {"root": 10}
        assert found.oddities.not_waited_for == 3
        assert [each.span_id for each in found.longest] == ["later", "meanwhile", "below"]

    def test_a_time_of_nothing_is_nothing(self) -> None:
        found = path(span("root", "", 0, 10), span("zero", "root", 4, 4))
        assert times(found) == {"root": 10}
        nothing = path(span("root", "", 5, 5), span("x", "root", 5, 5))
        assert (times(nothing), nothing.share(0), nothing.services) == ({"root": 0}, None, (("a", 0),))

    def test_services_share_the_time(self) -> None:
        found = path(
            span("root", "", 0, 100, "shop", "server"),
            span("call", "root", 10, 90, "shop", "client"),
            span("answer", "call", 12, 88, "stock", "server"),
            span("query", "answer", 20, 80, "db", "server"),
        )
        assert found.services == (("db", 60 * MS), ("shop", 24 * MS), ("stock", 16 * MS))
        assert found.share(60 * MS) == 0.6


class TestClocks:
    def test_a_service_whose_clock_is_late_is_moved_back_into_the_call(self) -> None:
        found = path(
            span("root", "", 0, 100, "shop", "server"),
            span("call", "root", 10, 90, "shop", "client"),
            span("answer", "call", 10 + 500, 80 + 500, "stock", "server"),
            span("query", "answer", 20 + 500, 60 + 500, "stock", "client"),
        )
        assert times(found) == {"root": 20, "call": 10, "answer": 30, "query": 40}
        assert (found.oddities.moved, found.oddities.not_waited_for) == (1, 0)

    def test_one_whose_clock_is_early_is_moved_forward(self) -> None:
        found = path(
            span("root", "", 0, 100, "shop", "server"),
            span("answer", "root", -30, 40, "stock", "server"),
            span("query", "answer", -20, 20, "stock", "client"),
        )
        assert times(found) == {"root": 30, "answer": 30, "query": 40}
        assert found.oddities.moved == 1

    def test_without_the_call_a_little_is_forgiven_and_more_is_not(self) -> None:
        little = path(span("root", "", 0, 100, "shop"), span("answer", "root", 30, 102, "stock", "server"))
        assert times(little) == {"root": 28, "answer": 72}
        much = path(span("root", "", 0, 100, "shop"), span("answer", "root", 30, 140, "stock", "server"))
        assert times(much) == {"root": 100}

    def test_neighbours_that_overlap_by_a_hair_follow_one_another(self) -> None:
        found = path(span("root", "", 0, 10), span("x", "root", 0, 5.02), span("y", "root", 5, 10))
        assert times(found) == {"root": 0, "x": 5, "y": 5}

    def test_a_call_that_was_given_up_did_not_wait(self) -> None:
        found = path(
            span("root", "", 0, 100, "shop", "client"),
            span("answer", "root", 1, 2000, "stock", "server"),
        )
        assert times(found) == {"root": 100}


class TestOddTraces:
    def test_nothing(self) -> None:
        assert critical_path([]) is None

    def test_of_several_roots_the_longest_is_explained(self) -> None:
        found = path(span("one", "", 0, 10), span("two", "", 100, 130), span("x", "two", 100, 110))
        assert found.root.span_id == "two"
        assert (found.oddities.roots, found.oddities.elsewhere) == (2, 1)

    def test_any_span_can_be_explained(self) -> None:
        spans = [span("root", "", 0, 100), span("x", "root", 10, 50, "b"), span("y", "x", 20, 40, "c")]
        found = critical_path(spans, root=longest_span(spans[1:]))
        assert found is not None
        assert times(found) == {"x": 20, "y": 20}
        assert longest_span([]) is None

    def test_without_a_root_the_longest_part_is_explained(self) -> None:
        found = path(span("x", "lost", 0, 10), span("y", "lost", 0, 20), span("z", "y", 5, 15))
        assert times(found) == {"y": 10, "z": 10}
        assert (found.oddities.roots, found.oddities.missing_parents, found.oddities.elsewhere) == (0, 2, 1)

    def test_circles_end(self) -> None:
        found = path(
            span("root", "", 0, 10),
            span("x", "y", 1, 9),
            span("y", "x", 2, 8),
            span("self", "self", 3, 4),
            span("below", "self", 3, 4),
        )
        assert times(found) == {"root": 10}
        assert (found.oddities.in_cycles, found.oddities.elsewhere) == (3, 4)
        nothing_else = path(span("x", "y", 1, 9), span("y", "x", 2, 8))
        assert times(nothing_else) == {"x": 2, "y": 6}

    def test_of_spans_with_one_id_the_longest_counts(self) -> None:
        found = path(span("root", "", 0, 10), span("x", "root", 1, 3), span("x", "root", 1, 9))
        assert times(found) == {"root": 2, "x": 8}
        assert found.oddities.duplicates == 1

    @pytest.mark.parametrize("deep", [True, False])
    def test_a_hundred_thousand_spans(self, deep: bool) -> None:
        count = 100_000
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
    """Traces of every shape: lost parents, circles, several roots, clocks that differ, the same id twice."""
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
    def test_the_shares_add_up_and_the_order_of_spans_does_not_matter(self, spans: list[TraceSpan], seed: int) -> None:
        found = path(*spans)
        assert sum(step.self_ns for step in found.steps) == found.root.duration_ns
        assert sum(nanoseconds for _, nanoseconds in found.services) == found.root.duration_ns
        assert all(step.self_ns >= 0 for step in found.steps)
        assert all(0 <= step.begins_ns <= found.root.duration_ns for step in found.steps)
        assert len({step.span.span_id for step in found.steps}) == len(found.steps)
        shuffled = spans.copy()
        random.Random(seed).shuffle(shuffled)
        assert path(*shuffled) == found

    @settings(max_examples=200, deadline=None)
    @given(spans=traces(), offset=st.integers(-1000, 1000))
    def test_when_it_was_does_not_matter(self, spans: list[TraceSpan], offset: int) -> None:
        found = path(*spans)
        moved = path(*(each._replace(start_ns=each.start_ns + offset) for each in spans))
        assert [step[1:] for step in moved.steps] == [step[1:] for step in found.steps]
        assert replace(moved, root=found.root, steps=found.steps, longest=found.longest) == found
