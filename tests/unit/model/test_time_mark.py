"""Marks on time: which series they are about, when they are, and what an evaluation depends on."""

import pickle
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.calendar import Calendar, HourClock
from exporter.model.pattern import Pattern
from exporter.model.series_hour import StoredWindow
from exporter.model.span import SeriesKey
from exporter.model.time_mark import (
    REACH_SECONDS,
    LabelMatcher,
    MarkKind,
    SeriesMarks,
    TimeMark,
    TimeMarks,
    check_rule,
)

HOUR, DAY = 3600, 86_400
MONDAY = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp())
BERLIN = ZoneInfo("Europe/Berlin")
PAY = SeriesKey("checkout", "POST /pay", (("env", "prod"),))
START = datetime(2026, 1, 5, tzinfo=UTC)


def mark(start: int, end: int, kind: MarkKind = MarkKind.EXPECTED, **others: object) -> TimeMark:
    return TimeMark(kind, Pattern("checkout"), start, end, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expression", "is_selected"),
    [("^checkout/POST /pay$", True), ("pay", True), ('env="prod"', True), ("^pay", False), ("cart", False)],
)
def test_expression_is_searched_for_as_in_overrides(expression: str, is_selected: bool) -> None:
    found = TimeMarks([TimeMark(MarkKind.EXPECTED, Pattern(expression), 0, 10)]).of(PAY)
    assert (found is not None) is is_selected


@pytest.mark.parametrize(
    ("name", "value", "is_regex", "is_equal", "is_selected"),
    [
        ("service_name", "checkout", False, True, True),
        ("service_name", "check", False, True, False),
        ("service_name", "check.*", True, True, True),
        ("service_name", "check", True, True, False),
        ("service_name", "a|checkout", True, True, True),
        ("span_name", "GET /", False, False, True),
        ("env", "prod|test", True, False, False),
        ("region", "", False, True, True),
    ],
)
def test_matchers_have_the_meaning_of_alertmanager(
    name: str, value: str, is_regex: bool, is_equal: bool, is_selected: bool
) -> None:
    matcher = LabelMatcher.of(name, value, is_regex=is_regex, is_equal=is_equal)
    assert TimeMark(MarkKind.EXPECTED, (matcher,), 0, 10).selects(PAY) is is_selected


def test_recurring_range_follows_the_clock_on_the_wall() -> None:
    first = int(datetime(2026, 3, 22, 2, tzinfo=BERLIN).timestamp())
    weekly = mark(first, first + 2 * HOUR, zone=BERLIN, rule="FREQ=WEEKLY;BYDAY=SU")
    ranges = SeriesMarks((weekly,)).ranges(first, first + 20 * DAY)
    starts = [datetime.fromtimestamp(each.start, BERLIN) for each in ranges]
    # On 29 March there is no 02:00: the clocks go forward.
    assert [(each.day, each.hour) for each in starts] == [(22, 2), (29, 3), (5, 2)]
    assert {each.end - each.start for each in ranges} == {2 * HOUR}


@pytest.mark.parametrize(
    ("rule", "days"),
    [
        ("FREQ=DAILY;COUNT=3", [0, 1, 2]),
        ("FREQ=DAILY;UNTIL=20260107", [0, 1, 2]),
        ("FREQ=DAILY;UNTIL=20260106T120000", [0, 1]),
        ("FREQ=DAILY;UNTIL=20260106T120000Z", [0, 1]),
        ("RRULE:FREQ=WEEKLY;INTERVAL=2", [0, 14]),
        ("FREQ=MONTHLY;BYDAY=-1FR", [25]),
        ("FREQ=MONTHLY;BYMONTHDAY=1,15", [10, 27]),
        ("FREQ=YEARLY;BYMONTH=1;BYDAY=2WE", [9]),
    ],
)
def test_rule_recurs(rule: str, days: list[int]) -> None:
    check_rule(rule, START)
    found = mark(MONDAY, MONDAY + HOUR, rule=rule).ranges(MONDAY, MONDAY + 28 * DAY)
    assert [(each.start - MONDAY) // DAY for each in found] == days


@pytest.mark.parametrize(
    "rule",
    [
        "weekly",
        "FREQ=HOURLY",
        "FREQ=SECONDLY",
        "FREQ=WEEKLY;BYHOUR=1,2",
        "FREQ=WEEKLY;FREQ=DAILY",
        "FREQ=WEEKLY;COUNT=1;UNTIL=20270101",
        "FREQ=WEEKLY;UNTIL=tomorrow",
        "FREQ=WEEKLY;COUNT=x",
        "FREQ=DAILY;INTERVAL=7;BYDAY=SU",
        "FREQ=MONTHLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=MONTHLY;BYMONTH=13",
        "FREQ=WEEKLY;INTERVAL=0",
        "FREQ=WEEKLY;UNTIL=20200101",
        "FREQ=WEEKLY;" + "BYDAY=MO," * 50,
        "FREQ=WEEKLY\nDTSTART:20260101T000000",
        "",
    ],
)
def test_invalid_rule_is_refused_quickly(rule: str) -> None:
    with pytest.raises(ValueError, match="must"):
        check_rule(rule, START)


@given(st.text(alphabet="FREQDAILYWKMONTH=;,0123456789-BUSCTP", max_size=60))
def test_any_text_is_checked_without_another_error(text: str) -> None:
    try:
        check_rule(text, START)
    except ValueError:
        return
    assert list(mark(MONDAY, MONDAY + HOUR, rule=text).ranges(MONDAY, MONDAY + REACH_SECONDS)) is not None


def test_signature_depends_on_what_was_evaluated_only() -> None:
    until = MONDAY + 10 * HOUR
    past = mark(MONDAY, MONDAY + HOUR)
    signature = SeriesMarks((past,)).signature(until)
    assert signature
    later = mark(until, until + HOUR)
    assert SeriesMarks((later,)).signature(until) == ""
    assert SeriesMarks((past, later)).signature(until) == signature
    assert SeriesMarks((past,)).signature(MONDAY) == ""
    assert SeriesMarks((past,)).signature(MONDAY + HOUR + REACH_SECONDS) == ""
    lasting = [mark(until - HOUR, until + days * DAY) for days in (1, 2)]
    assert len({SeriesMarks((each,)).signature(until) for each in lasting}) == 1
    others = [
        mark(MONDAY, MONDAY + HOUR, MarkKind.NORMAL),
        mark(MONDAY, MONDAY + 2 * HOUR),
        mark(MONDAY - HOUR, MONDAY + HOUR),
    ]
    assert len({signature, *(SeriesMarks((each,)).signature(until) for each in others)}) == 4


def test_every_window_of_a_touched_hour_is_left_out() -> None:
    clock = HourClock(Calendar())
    windows = [StoredWindow(MONDAY + minutes * 60, 1, b"") for minutes in range(0, 300, 20)]
    marks = SeriesMarks((mark(MONDAY + 90 * 60, MONDAY + 121 * 60),))
    kept = marks.kept(windows, clock)
    assert [(each.start - MONDAY) // HOUR for each in kept] == [0] * 3 + [3] * 3 + [4] * 3
    assert SeriesMarks((mark(MONDAY, MONDAY + DAY, MarkKind.NORMAL),)).kept(windows, clock) == windows


def test_ranges_that_touch_are_one_quiet_range() -> None:
    marks = SeriesMarks(
        (
            mark(100, 200),
            mark(150, 300, MarkKind.NORMAL),
            mark(300, 400),
            mark(500, 600, MarkKind.INCIDENT),
        )
    )
    assert marks.quiet_ranges(0, 1000) == [(100, 400)]
    assert marks.quiet_ranges(400, 1000) == []
    assert [each.mark.kind for each in marks.at(550)] == [MarkKind.INCIDENT]


def test_survives_pickling_for_the_worker_process() -> None:
    marks = TimeMarks([mark(0, HOUR, zone=BERLIN, rule="FREQ=DAILY")])
    copy = pickle.loads(pickle.dumps(marks))
    assert copy == marks
    assert copy.of(PAY).ranges(10 * DAY, 10 * DAY + HOUR)
    assert copy.of(SeriesKey("other", "x")) is None
