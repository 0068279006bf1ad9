"""StatusReplay: the replayed status is what the page showed at that time."""

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
from exporter.detection.policy import Override, OverrideValue, SeriesPolicies
from exporter.evaluation.flag_store import FlagStore
from exporter.evaluation.live.evaluator import LiveEvaluator
from exporter.evaluation.manager import BaselineManager
from exporter.evaluation.replay import PastStatus, StatusReplay
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import NO_OUTLIERS, SeriesStatus
from exporter.model.accumulator import Accumulator
from exporter.model.calendar import Calendar, HourClock
from exporter.model.histogram import bucket_middle_seconds, bucket_of_ns
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.ledger import Window
from exporter.model.pattern import Pattern
from exporter.model.series_hour import StoredWindow
from exporter.model.span import SeriesKey, Span
from exporter.model.time_mark import MarkKind, TimeMark, TimeMarks
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

Requests = Sequence[tuple[int, int]]
"""Start and duration in nanoseconds."""


def history(made: Requests, until: int = END, *, key: SeriesKey = KEY) -> StoredSeries:
    """Return requests as the store would have them, with windows of an hour, up to an instant."""
    windows = [Window(start, start + HOUR) for start in range(MONDAY, until, HOUR)]
    accumulator = Accumulator(windows, lambda key: key)
    accumulator.add(Span("0" * 32, "0" * 16, key, *each) for each in made if each[0] < until * NS)
    store = Store.in_memory()
    contents = accumulator.finish()
    store.commit([entry(content.window, content.traces) for content in contents], contents)
    (found,) = store.history([key], 0, until, marks_from=0)
    store.close()
    return found


def replay(stored: StoredSeries, since: int = 0, until: int = END, step: int = MARK) -> list[PastStatus]:
    return list(StatusReplay(SETTINGS, CLOCK).replay(stored, since, until, step))


@pytest.fixture(scope="module")
def busy() -> Requests:
    """Some fifty requests in five minutes, and an incident of 90 minutes on the last day."""
    return requests(DAYS, 600, [Incident(3 * 24 + 10, 3 * 24 + 11.5, 3.0)])


@pytest.fixture(scope="module")
def shown(busy: Requests) -> dict[int, SeriesStatus]:
    """The statuses of the last day from a live edge that ticks at every mark."""
    return live_statuses(busy, LAST_DAY, END)


def live_statuses(
    made: Requests, since: int, end: int, *, lag: int = 0, restart_at: int | None = None
) -> dict[int, SeriesStatus]:
    """Return statuses from a live edge that ticks at every mark.

    Args:
        made: requests of the series.
        since: start of the first live hour; what ended before is only history.
        end: end of the last live hour.
        lag: seconds by which the evaluated history ends before the current hour.
        restart_at: start of an hour with which the exporter restarts, and reads the last hour again.
    """
    spans = sorted(
        (Span(f"{number:032x}", f"{number:016x}", KEY, *each) for number, each in enumerate(made)),
        key=lambda span: span.end_ns,
    )
    ends = [span.end_ns for span in spans]
    store = Store.in_memory()
    settled = since
    manager = BaselineManager(
        store,
        CLOCK,
        SETTINGS,
        settled_until=lambda: settled,
        on_accepted=lambda: None,
        monotonic=Clock(),
        log=get_logger("test"),
    )
    flag_store = FlagStore(store, monotonic=Clock(), log=get_logger("test"))
    live = LiveEvaluator(SETTINGS, lambda key: key, started_at=0, remembered_seconds=HOUR, flags={})
    shown = {}
    for start in range(MONDAY, end, HOUR):
        settled = start - lag
        if start >= since:
            read_from = start
            if start == restart_at:
                flags = flag_store.load()
                live = LiveEvaluator(SETTINGS, lambda key: key, started_at=0, remembered_seconds=HOUR, flags=flags)
                read_from = start - HOUR
            manager.catch_up(start + 1.0)
            for mark in range(start + MARK, start + HOUR + 1, MARK):
                # The last mark of an hour is evaluated with the baseline of that hour.
                manager.open_table(mark - 1.0)
                table = manager.table(mark - 1.0)
                new = spans[bisect_right(ends, read_from * NS) : bisect_right(ends, mark * NS)]
                read_from = mark
                live.add_spans(new, mark, table)
                result = live.tick(mark, table)
                flag_store.save(result.flags, result.suspects, mark)
                (shown[mark],) = result.statuses
        window = Window(start, start + HOUR)
        accumulator = Accumulator([window], lambda key: key)
        accumulator.add(span for span in spans if start * NS <= span.start_ns < (start + HOUR) * NS)
        contents = accumulator.finish()
        store.commit([entry(window, contents[0].traces)], contents)
    store.close()
    return shown


@pytest.fixture(scope="module")
def hourly_job() -> Requests:
    """A job that runs at :50 of each hour; some of its runs are slow."""
    slow = {9 * 24 + 5, 9 * 24 + 6, 9 * 24 + 7, 9 * 24 + 12, 9 * 24 + 20, 9 * 24 + 21}
    return [
        ((MONDAY + hour * HOUR + 3000) * NS, int((10 + hour % 5 / 4) * (1.9 if hour in slow else 1.0) * NS))
        for hour in range(10 * 24)
    ]


class TestSeriesEvaluatedByRun:
    SINCE, END = MONDAY + 9 * DAY, MONDAY + 10 * DAY

    @pytest.mark.parametrize(("lag", "restart"), [(0, None), (2 * HOUR, None), (0, 6), (0, 7), (0, 21)], ids=str)
    def test_replayed_flag_is_the_one_on_the_page(self, hourly_job: Requests, lag: int, restart: int | None) -> None:
        restart_at = None if restart is None else self.SINCE + restart * HOUR
        shown = live_statuses(hourly_job, self.SINCE, self.END, lag=lag, restart_at=restart_at)
        replayed = {
            at: status.shift for at, status in replay(history(hourly_job, self.END), until=self.END) if at in shown
        }
        assert {at: status.shift for at, status in shown.items()} == replayed
        firing = [at for at, shift in replayed.items() if shift]
        assert min(firing) == self.SINCE + 6 * HOUR + 3000 + MARK
        assert {(at - self.SINCE) // HOUR for at in firing} == {6, 7, 8, 21, 22}
        explained = {at for at, status in shown.items() if status.explanation and status.explanation.run_seconds}
        assert explained.issuperset(firing)

    def test_backtest_has_the_same_firing_periods(self, hourly_job: Requests) -> None:
        detector = SETTINGS.detector(CLOCK)
        found = replay_history(history(hourly_job, self.END), detector, self.END, None).firing_periods
        ends = [(period.start - self.SINCE, period.end - self.SINCE) for period in found]
        run = 3000 + MARK
        assert ends == [(6 * HOUR + run, 8 * HOUR + run), (21 * HOUR + run, 22 * HOUR + run)]


class TestAgreesWithTheLiveEdge:
    def test_replayed_status_is_the_one_on_the_page(self, busy: Requests, shown: dict[int, SeriesStatus]) -> None:
        replayed = {at: status for at, status in replay(history(busy)) if at in shown}
        assert replayed.keys() == shown.keys()
        for at, status in list(shown.items())[12:]:
            # Counters and explanations are not replayed; outliers are covered by the next test.
            page = replace(
                status,
                traces_total=0,
                outliers_total=0,
                excess_traces_total=None,
                excess_seconds_total=None,
                time_lost=None,
                exemplar=None,
                outliers=NO_OUTLIERS,
                explanation=None,
                outlier=replayed[at].outlier,
            )
            assert replayed[at] == page, at

    def test_replayed_outlier_is_an_outlier_on_the_page(self, busy: Requests, shown: dict[int, SeriesStatus]) -> None:
        replayed = dict(replay(history(busy)))
        for at, status in shown.items():
            if replayed[at].outlier:
                assert status.outlier, at
            elif status.outlier:
                # It lies in the same bucket as the threshold, which is 2.2 % wide.
                assert status.exemplar is not None
                assert status.outlier_threshold_seconds is not None
                assert status.exemplar.seconds <= status.outlier_threshold_seconds * 1.023, at
        assert any(status.outlier for status in replayed.values())

    def test_incident_sets_the_flag(self, busy: Requests, shown: dict[int, SeriesStatus]) -> None:
        start, end = LAST_DAY + 10 * HOUR, LAST_DAY + 11.5 * HOUR
        firing = [at for at, status in replay(history(busy)) if status.shift]
        assert start < firing[0] <= start + 3 * MARK
        assert end < firing[-1] <= end + 3 * MARK
        assert {after - before for before, after in pairwise(firing)} == {MARK}
        since = {status.since for at, status in replay(history(busy)) if at in firing}
        assert len(since) == 1
        assert start < since.pop() <= firing[0]  # type: ignore[operator]


class TestIndependence:
    @settings(max_examples=12, deadline=None)
    @given(hour=st.integers(25, DAYS * 24 - 1), minutes=st.sampled_from([0, 5, 35]))
    def test_later_windows_do_not_change_earlier_statuses(self, hour: int, minutes: int) -> None:
        made = requests(DAYS, 60, [Incident(20, 26, 4.0), Incident(60, 62, 5.0)], seed=3)
        now = MONDAY + hour * HOUR
        until = now - minutes * 60
        assert replay(history(made, now), until=until) == replay(history(made), until=until)

    def test_flags_agree_with_a_backtest(self) -> None:
        made = requests(DAYS, 60, [Incident(50, 53, 4.0), Incident(80, 81, 6.0)], seed=5)
        stored = history(made)
        moments = replay(stored)
        edges = [at for (_, before), (at, after) in pairwise(moments) if bool(before.shift) != bool(after.shift)]
        alerts = replay_history(stored, Detector(SETTINGS.fallback, SETTINGS.shift, CLOCK), END).firing_periods
        assert edges == [at for alert in alerts for at in (alert.start, alert.end)]
        assert len(alerts) == 2

    def test_stored_evaluations_are_ignored(self, busy: Requests) -> None:
        stored = history(busy, MONDAY + DAY)
        evaluated = stored._replace(state=b"{}", suspects=frozenset({MONDAY}))
        assert replay(evaluated, until=MONDAY + DAY) == replay(stored, until=MONDAY + DAY)


def expected_window(made: Requests, at: int) -> list[int]:
    """Return the buckets of the evaluation window, extended by five minutes until it has ten, to at most an hour."""
    marks = sorted(
        (-(-(start_ns + duration_ns) // (MARK * NS)) * MARK, bucket_of_ns(duration_ns))
        for start_ns, duration_ns in made
    )
    windows = [
        sorted(bucket for mark, bucket in marks if at - back < mark <= at) for back in range(MARK, HOUR + 1, MARK)
    ]
    return next((window for window in windows if len(window) >= 10), windows[-1])


def test_window_of_a_quiet_series_is_extended() -> None:
    made = requests(1, 20, seed=9)
    moments = replay(history(made, MONDAY + DAY), until=MONDAY + DAY)
    assert len(moments) > 250
    for at, status in moments:
        window = expected_window(made, at)
        assert status.current_traces == len(window)
        if window:
            assert status.current_p50_seconds == bucket_middle_seconds(window[-(-len(window) // 2) - 1])
            assert status.current_p95_seconds == bucket_middle_seconds(window[-(-len(window) * 95 // 100) - 1])
        else:
            assert status.current_p50_seconds is status.current_p95_seconds is None


def test_long_request_counts_when_it_ends() -> None:
    made = [(MONDAY * NS, 2 * HOUR * NS)]
    moments = replay(history(made, MONDAY + 3 * HOUR), until=MONDAY + 3 * HOUR)
    assert moments[0].at == MONDAY + 2 * HOUR
    assert moments[0].status.current_traces == 1


class TestPresence:
    def test_statuses_begin_with_the_first_trace_and_end_when_stale(self) -> None:
        begin = MONDAY + 5 * HOUR
        made = [((begin + second) * NS, NS // 10) for second in range(0, 600, 10)]
        moments = replay(history(made))
        assert moments[0].at == begin + MARK
        assert moments[-1].at == begin + 600 + DAY
        assert [after.at - before.at for before, after in pairwise(moments)] == [MARK] * (len(moments) - 1)
        assert moments[-1].status.current_traces == 0
        assert moments[-1].status.current_p50_seconds is None

    def test_stale_series_returns_with_new_traffic(self) -> None:
        made = [((MONDAY + hour * HOUR) * NS, NS // 10) for hour in (0, 60)]
        times = [moment.at for moment in replay(history(made))]
        assert times[0] == MONDAY + MARK
        gaps = [(before, after) for before, after in pairwise(times) if after - before > MARK]
        assert gaps == [(MONDAY + MARK + DAY, MONDAY + 60 * HOUR + MARK)]

    def test_too_little_history_is_level_5_without_verdict(self) -> None:
        made = [((MONDAY + second) * NS, NS // 10) for second in range(0, 600, 60)]
        (first, *_) = replay(history(made))
        assert first.status.level == 5
        assert first.status.shift is first.status.outlier is first.status.score is None

    def test_series_without_windows_has_no_status(self) -> None:
        assert replay(StoredSeries(KEY, [], {}, frozenset(), None)) == []


@pytest.mark.parametrize(("step", "per_hour"), [(300, 12), (900, 4), (1200, 3), (HOUR, 1)])
def test_range_is_half_open_and_aligned_to_the_step(busy: Requests, step: int, per_hour: int) -> None:
    stored = history(busy, MONDAY + DAY)
    since, until = MONDAY + 6 * HOUR, MONDAY + 9 * HOUR
    times = [moment.at for moment in replay(stored, since, until, step)]
    assert len(times) == 3 * per_hour
    assert times[0] == since + step
    assert times[-1] == until
    whole = {moment.at: moment.status for moment in replay(stored, since, until)}
    assert all(moment.status == whole[moment.at] for moment in replay(stored, since, until, step))


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/St_Johns"])
def test_every_mark_occurs_once_in_any_time_zone(busy: Requests, zone: str) -> None:
    clock = HourClock(Calendar(ZoneInfo(zone)))
    moments = list(StatusReplay(SETTINGS, clock).replay(history(busy, MONDAY + DAY), 0, MONDAY + DAY, MARK))
    assert [moment.at for moment in moments] == list(range(moments[0].at, MONDAY + DAY + 1, MARK))


def test_damaged_bytes_raise(busy: Requests) -> None:
    stored = history(busy, MONDAY + DAY)
    damaged = StoredWindow(MONDAY + 3 * HOUR, 600, b"\xff\xff", b"")
    windows = [damaged if window.start == damaged.start else window for window in stored.windows]
    with pytest.raises(DamagedDigestError):
        replay(stored._replace(windows=windows))


def overridden(*values: OverrideValue) -> EvaluationSettings:
    overrides = (Override(Pattern("cart"), values),)
    return replace(SETTINGS, policies=SeriesPolicies(overrides, SETTINGS.fallback, SETTINGS.shift))


class TestOverrides:
    def test_status_is_that_of_the_same_settings_for_all(self, busy: Requests) -> None:
        shift = replace(SETTINGS.shift, window_seconds=600, hold_seconds=900.0)
        everywhere = replace(SETTINGS, shift=shift)
        values = [
            OverrideValue("window", "10m", "window_seconds", 600),
            OverrideValue("hold", "15m", "hold_seconds", 900.0),
        ]
        stored = history(busy)
        found, wanted = (
            list(StatusReplay(each, CLOCK).replay(stored, LAST_DAY, END, MARK))
            for each in (overridden(*values), everywhere)
        )
        assert [moment.status.policy is not None for moment in found] == [True] * len(wanted)
        assert [replace(moment.status, policy=None) for moment in found] == [moment.status for moment in wanted]
        assert any(moment.status.shift for moment in found)
        assert found != replay(stored, LAST_DAY)

    def test_a_disabled_series_is_counted_and_never_flagged(self, busy: Requests) -> None:
        settings = overridden(OverrideValue("enabled", "false", "is_enabled", False))
        moments = list(StatusReplay(settings, CLOCK).replay(history(busy), LAST_DAY, END, HOUR))
        assert {(moment.status.shift, moment.status.outlier) for moment in moments} == {(None, None)}
        assert all(moment.status.current_traces for moment in moments)


def test_marked_time_is_on_the_page_without_a_verdict() -> None:
    incident = Incident(82.0, 83.0, 5.0)
    start, end = MONDAY + 82 * HOUR, MONDAY + 83 * HOUR
    stored = history(requests(days=DAYS, incidents=[incident]))
    plain = {each.at: each.status for each in replay(stored, LAST_DAY)}
    assert any(status.shift for status in plain.values())
    mark = TimeMark(MarkKind.EXPECTED, Pattern(""), start, end)
    found = StatusReplay(SETTINGS, CLOCK, marks=TimeMarks([mark])).replay(stored, LAST_DAY, END, MARK)
    marked = {each.at: each.status for each in found}
    assert marked.keys() == plain.keys()
    for at, status in marked.items():
        if start <= at < end:
            assert (status.shift, status.score, status.outlier) == (None, None, None)
            assert status.current_p50_seconds == plain[at].current_p50_seconds
        else:
            assert not status.shift
