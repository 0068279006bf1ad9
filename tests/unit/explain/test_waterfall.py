from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.explain.waterfall import Row, Waterfall, other_parts, waterfall
from exporter.model.critical_path import TraceSpan, critical_path
from tests.unit.model.test_critical_path import MS, span, traces


def arrange(*spans: TraceSpan, max_rows: int = 1000) -> Waterfall:
    path = critical_path(spans)
    assert path is not None
    return waterfall(path, other_parts(spans, path), max_rows=max_rows)


def ids(rows: tuple[Row, ...]) -> list[tuple[str, int]]:
    """Ids and depths of the spans, in order."""
    return [(row.span.span_id, row.depth) for row in rows]


class TestRows:
    def test_children_follow_their_parent_in_order_of_time(self) -> None:
        found = arrange(
            span("root", "", 0, 10),
            span("late", "root", 5, 9),
            span("early", "root", 1, 4),
            span("below", "early", 2, 3),
        )
        assert ids(found.parts[0].rows) == [("root", 0), ("early", 1), ("below", 2), ("late", 1)]
        assert [row.begins_ns / MS for row in found.rows] == [0, 1, 2, 5]

    def test_stretches_of_the_path_are_those_of_no_child(self) -> None:
        found = arrange(
            span("root", "", 0, 10), span("x", "root", 2, 8), span("y", "x", 3, 5), span("off", "root", 2, 4)
        )
        path = {row.span.span_id: row.on_path for row in found.rows}
        assert path == {
            "root": ((0, 2 * MS), (8 * MS, 10 * MS)),
            "x": ((2 * MS, 3 * MS), (5 * MS, 8 * MS)),
            "y": ((3 * MS, 5 * MS),),
            "off": None,
        }
        assert {row.span.span_id: row.self_ns / MS for row in found.rows} == {"root": 4, "x": 4, "y": 2, "off": 0}

    def test_axis_ends_with_the_last_span_but_keeps_the_root_visible(self) -> None:
        root = span("root", "", 0, 10)
        assert arrange(root).parts[0].axis_ns == 10 * MS
        assert arrange(root, span("async", "root", 5, 25)).parts[0].axis_ns == 25 * MS
        assert arrange(root, span("async", "root", 5, 86_400_000)).parts[0].axis_ns == 40 * MS
        assert arrange(span("root", "", 0, 0), span("async", "root", 0, 7)).parts[0].axis_ns == 7 * MS

    def test_services_with_most_time_on_the_path_come_first(self) -> None:
        found = arrange(
            span("root", "", 0, 10, "front"),
            span("x", "root", 1, 9, "stock"),
            span("async", "root", 1, 90, "mail"),
            span("off", "root", 1, 2, "audit"),
        )
        assert found.services == ("stock", "front", "mail", "audit")


class TestFolding:
    def test_path_is_shown_first_then_level_by_level_the_longest(self) -> None:
        spans = [
            span("root", "", 0, 100),
            span("path", "root", 0, 100),
            span("deep", "path", 10, 100),
            span("short", "root", 0, 5),
            span("long", "root", 0, 50),
            span("under long", "long", 0, 40),
            span("further", "under long", 0, 30),
        ]
        assert ids(arrange(*spans, max_rows=5).parts[0].rows) == [
            ("root", 0),
            ("path", 1),
            ("deep", 2),
            ("long", 1),
            ("short", 1),
        ]
        folded = arrange(*spans, max_rows=4)
        assert {row.span.span_id: row.folded for row in folded.rows} == {"root": 1, "path": 0, "deep": 0, "long": 2}
        assert (folded.spans, folded.left_out) == (7, 0)

    def test_ten_thousand_spans_are_shown_in_a_thousand_rows(self) -> None:
        count = 10_000
        deep = [span(str(n), str(n - 1) if n else "", n * 0.01, 200 - n * 0.01) for n in range(count)]
        wide = [span(str(n), "0" if n else "", n or 0, n + 1 if n else count + 1) for n in range(count)]
        for spans in (deep, wide):
            found = arrange(*spans)
            rows = list(found.rows)
            assert len(rows) == 1000
            assert len(rows) + sum(row.folded for row in rows) == count == found.spans


class TestParts:
    def test_what_is_not_connected_with_the_root_is_a_part_of_its_own(self) -> None:
        found = arrange(
            span("root", "", 0, 10),
            span("orphan", "lost", 3, 9),
            span("its child", "orphan", 4, 5),
            span("small", "lost too", 3, 4),
        )
        assert [ids(part.rows) for part in found.parts] == [
            [("root", 0)],
            [("orphan", 0), ("its child", 1)],
            [("small", 0)],
        ]
        assert (found.spans, found.left_out) == (4, 0)

    def test_of_very_many_parts_the_longest_are_shown_and_the_rest_is_counted(self) -> None:
        found = arrange(*(span(str(n), "lost", 0, n + 1) for n in range(500)), max_rows=5)
        assert [part.path.root.span_id for part in found.parts] == [str(n) for n in range(499, 490, -1)]
        assert found.spans + found.left_out == 500

    def test_a_record_that_was_received_twice_is_no_part(self) -> None:
        found = arrange(span("root", "", 0, 10), span("x", "root", 1, 3), span("x", "root", 1, 9))
        assert len(found.parts) == 1
        assert (found.spans, found.left_out) == (2, 0)


@settings(max_examples=100, deadline=None)
@given(spans=traces(), max_rows=st.integers(1, 30))
def test_any_trace_is_arranged_and_every_span_is_shown_or_counted(spans: list[TraceSpan], max_rows: int) -> None:
    found = arrange(*spans, max_rows=max_rows)
    rows = list(found.rows)
    assert len(rows) <= max(max_rows, len(found.parts))
    assert len({row.span for row in rows}) == len(rows)
    assert len(rows) + sum(row.folded for row in rows) == found.spans
    assert found.spans + found.left_out == found.parts[0].path.spans
    for part in found.parts:
        assert sum(row.self_ns for row in part.rows) <= part.path.root.duration_ns
        assert part.axis_ns >= max(1, part.path.root.duration_ns)
        for above, row in zip(part.rows, part.rows[1:], strict=False):
            assert 1 <= row.depth <= above.depth + 1
            assert row.begins_ns >= 0
    if not any(row.folded for row in found.parts[0].rows):
        main = found.parts[0]
        assert sum(row.self_ns for row in main.rows) == main.path.root.duration_ns
