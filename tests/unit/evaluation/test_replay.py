from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.backtest.replay import replay_history
from exporter.detection.detector import Detector
from exporter.evaluation.live import LiveEvaluator
from exporter.evaluation.manager import BaselineManager
from exporter.evaluation.replay import PastStatus, StatusReplay
from exporter.evaluation.snapshot import NO_OUTLIERS, SeriesStatus
from exporter.model.accumulator import Accumulator
from exporter.model.calendar import Calendar, HourClock
from exporter.model.histogram import bucket_middle_seconds, bucket_of_ns
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.hours import StoredWindow
from exporter.model.ledger import Window
from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import get_logger
from exporter.store import Store, StoredSeries
from tests.support.backtest_traffic import MONDAY, Incident, requests
from tests.support.samples import DAY, HOUR, KEY, NS, SETTINGS, Clock, entry

MARK = 300
DAYS = 4
LAST_DAY = MONDAY + 3 * DAY
END = MONDAY + DAYS * DAY
CLOCK = HourClock(Calendar())
ALL = 0, END

Made = Sequence[tuple[int, int]]


def history(made: Made, until: int = END, *, key: SeriesKey = KEY) -> StoredSeries:
    """As it would be stored, an hour a window, up to an instant."""
    windows = [Window(start, start + HOUR) for start in range(MONDAY, until, HOUR)]
    accumulator = Accumulator(windows, lambda key: key)
    accumulator.add(Span("0" * 32, "0" * 16, key, *each) for each in made if each[0] < until * NS)
    store = Store.in_memory()
    contents = accumulator.finish()
    store.commit([entry(content.window, content.traces) for content in contents], contents)
    (found,) = store.history([key], 0, until, marks_from=0)
    store.close()
    return found


def recall(stored: StoredSeries, since: int = 0, until: int = END, step: int = MARK) -> list[PastStatus]:
    return list(StatusReplay(SETTINGS, CLOCK).moments(stored, since, until, step))


@pytest.fixture(scope="module")
def busy() -> Made:
    """Some fifty requests in every five minutes, and an hour and a half of trouble on the last day."""
    return requests(DAYS, 600, [Incident(3 * 24 + 10, 3 * 24 + 11.5, 3.0)])


@pytest.fixture(scope="module")
def shown(busy: Made) -> dict[int, SeriesStatus]:
    """What a live edge makes of the last day, that looks at every mark of the clock."""
    spans = sorted(
        (Span(f"{number:032x}", f"{number:016x}", KEY, *each) for number, each in enumerate(busy)),
        key=lambda span: span.end_ns,
    )
    ends = [span.end_ns for span in spans]
    store = Store.in_memory()
    settled = LAST_DAY
    historian = BaselineManager(
        store,
        CLOCK,
        SETTINGS,
        settled_until=lambda: settled,
        on_accepted=lambda: None,
        monotonic=Clock(),
        log=get_logger("test"),
    )
    live = LiveEvaluator(SETTINGS, lambda key: key, started_at=0, remembered_seconds=HOUR, flags={})
    shown = {}
    for start in range(MONDAY, END, HOUR):
        settled = start
        if start >= LAST_DAY:
            historian.catch_up(start + 1.0)
            for mark in range(start + MARK, start + HOUR + 1, MARK):
                # The last mark of an hour is judged while that hour lasts.
                historian.open_book(mark - 1.0)
                book = historian.book(mark - 1.0)
                new = spans[bisect_right(ends, (mark - MARK) * NS) : bisect_right(ends, mark * NS)]
                live.take_in(new, mark, book)
                judged = live.tick(mark, book)
                historian.remember(judged.flags, judged.suspects)
                (shown[mark],) = judged.statuses
        window = Window(start, start + HOUR)
        accumulator = Accumulator([window], lambda key: key)
        accumulator.add(span for span in spans if start * NS <= span.start_ns < (start + HOUR) * NS)
        contents = accumulator.finish()
        store.commit([entry(window, contents[0].traces)], contents)
    store.close()
    return shown


class TestAsTheLiveEdge:
    """The claim itself: what is recalled of an instant is what the page showed at it."""

    def test_shows_what_the_page_showed(self, busy: Made, shown: dict[int, SeriesStatus]) -> None:
        recalled = {at: status for at, status in recall(history(busy)) if at in shown}
        assert recalled.keys() == shown.keys()
        for at, status in list(shown.items())[12:]:
            # Counters are its own doings, and an explanation is no metric; of outliers the next test tells.
            page = replace(
                status,
                traces_total=0,
                outliers_total=0,
                exemplar=None,
                outliers=NO_OUTLIERS,
                explanation=None,
                outlier=recalled[at].outlier,
            )
            assert recalled[at] == page, at

    def test_an_outlier_is_one_beyond_doubt(self, busy: Made, shown: dict[int, SeriesStatus]) -> None:
        recalled = dict(recall(history(busy)))
        for at, status in shown.items():
            if recalled[at].outlier:
                assert status.outlier, at
            elif status.outlier:
                # One that hardly is one: in the same bucket as the threshold, which is 2.2 % wide.
                assert status.exemplar is not None
                assert status.outlier_threshold_seconds is not None
                assert status.exemplar.seconds <= status.outlier_threshold_seconds * 1.023, at
        assert any(status.outlier for status in recalled.values())

    def test_an_incident_is_seen(self, busy: Made, shown: dict[int, SeriesStatus]) -> None:
        began, ended = LAST_DAY + 10 * HOUR, LAST_DAY + 11.5 * HOUR
        up = [at for at, status in recall(history(busy)) if status.shift]
        assert began < up[0] <= began + 3 * MARK
        assert ended < up[-1] <= ended + 3 * MARK
        assert {after - before for before, after in pairwise(up)} == {MARK}
        since = {status.since for at, status in recall(history(busy)) if at in up}
        assert len(since) == 1
        assert began < since.pop() <= up[0]  # type: ignore[operator]


class TestHonesty:
    @settings(max_examples=12, deadline=None)
    @given(hour=st.integers(25, DAYS * 24 - 1), minutes=st.sampled_from([0, 5, 35]))
    def test_nothing_later_matters(self, hour: int, minutes: int) -> None:
        made = requests(DAYS, 60, [Incident(20, 26, 4.0), Incident(60, 62, 5.0)], seed=3)
        now = MONDAY + hour * HOUR
        until = now - minutes * 60
        assert recall(history(made, now), until=until) == recall(history(made), until=until)

    def test_flags_are_those_of_a_backtest(self) -> None:
        made = requests(DAYS, 60, [Incident(50, 53, 4.0), Incident(80, 81, 6.0)], seed=5)
        stored = history(made)
        moments = recall(stored)
        edges = [at for (_, before), (at, after) in pairwise(moments) if bool(before.shift) != bool(after.shift)]
        alerts = replay_history(stored, Detector(SETTINGS.fallback, SETTINGS.shift, CLOCK), END).alerts
        assert edges == [at for alert in alerts for at in (alert.start, alert.end)]
        assert len(alerts) == 2

    def test_what_was_found_before_plays_no_part(self, busy: Made) -> None:
        stored = history(busy, MONDAY + DAY)
        judged = stored._replace(state=b"{}", suspects=frozenset({MONDAY}))
        assert recall(judged, until=MONDAY + DAY) == recall(stored, until=MONDAY + DAY)


def expected_window(made: Made, at: int) -> list[int]:
    """Buckets of the current window: five minutes, and whole ones before until there are ten, an hour at most."""
    marks = sorted(
        (-(-(start_ns + duration_ns) // (MARK * NS)) * MARK, bucket_of_ns(duration_ns))
        for start_ns, duration_ns in made
    )
    windows = [
        sorted(bucket for mark, bucket in marks if at - back < mark <= at) for back in range(MARK, HOUR + 1, MARK)
    ]
    return next((window for window in windows if len(window) >= 10), windows[-1])


def test_a_quiet_series_has_a_longer_window() -> None:
    made = requests(1, 20, seed=9)
    moments = recall(history(made, MONDAY + DAY), until=MONDAY + DAY)
    assert len(moments) > 250
    for at, status in moments:
        window = expected_window(made, at)
        assert status.current_traces == len(window)
        if window:
            assert status.current_p50_seconds == bucket_middle_seconds(window[-(-len(window) // 2) - 1])
            assert status.current_p95_seconds == bucket_middle_seconds(window[-(-len(window) * 95 // 100) - 1])
        else:
            assert status.current_p50_seconds is status.current_p95_seconds is None


def test_a_long_request_counts_when_it_has_ended() -> None:
    made = [(MONDAY * NS, 2 * HOUR * NS)]
    moments = recall(history(made, MONDAY + 3 * HOUR), until=MONDAY + 3 * HOUR)
    assert moments[0].at == MONDAY + 2 * HOUR
    assert moments[0].status.current_traces == 1


class TestPresence:
    def test_begins_with_the_first_trace_and_ends_when_it_is_stale(self) -> None:
        begin = MONDAY + 5 * HOUR
        made = [((begin + second) * NS, NS // 10) for second in range(0, 600, 10)]
        moments = recall(history(made))
        assert moments[0].at == begin + MARK
        assert moments[-1].at == begin + 600 + DAY
        assert [after.at - before.at for before, after in pairwise(moments)] == [MARK] * (len(moments) - 1)
        assert moments[-1].status.current_traces == 0
        assert moments[-1].status.current_p50_seconds is None

    def test_comes_back(self) -> None:
        made = [((MONDAY + hour * HOUR) * NS, NS // 10) for hour in (0, 60)]
        times = [moment.at for moment in recall(history(made))]
        assert times[0] == MONDAY + MARK
        gaps = [(before, after) for before, after in pairwise(times) if after - before > MARK]
        assert gaps == [(MONDAY + MARK + DAY, MONDAY + 60 * HOUR + MARK)]

    def test_too_little_history_is_level_5_and_no_verdict(self) -> None:
        made = [((MONDAY + second) * NS, NS // 10) for second in range(0, 600, 60)]
        (first, *_) = recall(history(made))
        assert first.status.level == 5
        assert first.status.shift is first.status.outlier is first.status.score is None

    def test_nothing_stored_is_nothing(self) -> None:
        assert recall(StoredSeries(KEY, [], {}, frozenset(), None)) == []


@pytest.mark.parametrize(("step", "per_hour"), [(300, 12), (900, 4), (1200, 3), (HOUR, 1)])
def test_the_range_is_half_open_and_steps_are_whole(busy: Made, step: int, per_hour: int) -> None:
    stored = history(busy, MONDAY + DAY)
    since, until = MONDAY + 6 * HOUR, MONDAY + 9 * HOUR
    times = [moment.at for moment in recall(stored, since, until, step)]
    assert len(times) == 3 * per_hour
    assert times[0] == since + step
    assert times[-1] == until
    whole = {moment.at: moment.status for moment in recall(stored, since, until)}
    assert all(moment.status == whole[moment.at] for moment in recall(stored, since, until, step))


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/St_Johns"])
def test_every_mark_once_in_any_time_zone(busy: Made, zone: str) -> None:
    clock = HourClock(Calendar(ZoneInfo(zone)))
    moments = list(StatusReplay(SETTINGS, clock).moments(history(busy, MONDAY + DAY), 0, MONDAY + DAY, MARK))
    assert [moment.at for moment in moments] == list(range(moments[0].at, MONDAY + DAY + 1, MARK))


def test_damaged_bytes_are_an_error(busy: Made) -> None:
    stored = history(busy, MONDAY + DAY)
    broken = StoredWindow(MONDAY + 3 * HOUR, 600, b"\xff\xff", b"")
    windows = [broken if window.start == broken.start else window for window in stored.windows]
    with pytest.raises(DamagedDigestError):
        recall(stored._replace(windows=windows))
