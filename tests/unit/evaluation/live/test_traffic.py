"""Current traffic against the usual, for all series together, and the flags about it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackLevel
from exporter.baseline.traffic import MARKS, NO_PATTERN, TrafficBaseline
from exporter.detection.flag import Flag, FlagEvent, FlagKind
from exporter.detection.parameters import Parameters
from exporter.evaluation.baseline_table import EMPTY_TABLE, BaselineTable, SeriesBaseline
from exporter.evaluation.live.evaluator import LiveEvaluator
from exporter.evaluation.live.traffic import LiveTraffic
from exporter.model.span import SeriesKey, Span
from tests.support.samples import HOUR, NOON, NS, SETTINGS, baseline

NOW = NOON + 1800
KEYS = [SeriesKey("shop", f"GET /{name}") for name in "abcdefgh"]
PATTERN = NO_PATTERN
for _ in range(12):
    PATTERN = PATTERN.with_hour([10] * MARKS)
USUAL = TrafficBaseline(NOON, 1200, 1200, 1200, 0.02, FallbackLevel.EXACT, 5, PATTERN)
TABLE = BaselineTable(NOON, {key: SeriesBaseline(float(NOON), baseline(), traffic=USUAL) for key in KEYS})
STEP = 3
"""1200 requests an hour are one every three seconds."""


def live_traffic(silent: dict[SeriesKey, int], until: int = NOW, back: int = 2 * HOUR) -> LiveTraffic:
    """Return the traffic of all series, of which some are silent since an instant."""
    traffic = LiveTraffic(lambda _: Parameters())
    traffic.cover([(until - back, until)])
    for key in KEYS:
        for second in range(until - back, silent.get(key, until), STEP):
            traffic.add(key, second, 1)
    return traffic


def changed(traffic: LiveTraffic, until: int = NOW) -> list[SeriesKey]:
    traffic.judge(until, dict.fromkeys(KEYS, USUAL))
    return [key for key, each in traffic.current.items() if each.verdict.is_changed]


def test_a_series_that_falls_silent_is_found_within_six_minutes() -> None:
    assert changed(live_traffic({})) == []
    assert changed(live_traffic({KEYS[0]: NOW - 270})) == [KEYS[0]]


def test_silence_of_all_is_one_statement_about_the_source() -> None:
    for lasted in range(30, 3600, 210):
        traffic = live_traffic(dict.fromkeys(KEYS, NOW - lasted))
        assert changed(traffic) == []
        assert traffic.source is not None
        assert traffic.source.is_lost == (lasted > 90)
        assert traffic.source.ratio == pytest.approx(max(0, 1 - lasted / 300), abs=0.03)


def test_after_an_outage_windows_that_contain_it_find_nothing() -> None:
    traffic = LiveTraffic(lambda _: Parameters())
    rare = USUAL._replace(before=60, requests=60, after=60)
    baselines = dict.fromkeys(KEYS[:4], USUAL) | dict.fromkeys(KEYS[4:], rare)
    for second in range(NOW - 2 * HOUR, NOW + HOUR):
        if not NOW - 1200 <= second < NOW:
            for key in KEYS[:4] if second % STEP == 0 else ():
                traffic.add(key, second, 1)
            for key in KEYS[4:] if second % 60 == 0 else ():
                traffic.add(key, second, 1)
        traffic.cover([(second - 2 * HOUR, second)])
        if second % 30 == 0 and second > NOW - 1300:
            traffic.judge(second, baselines)
            assert not any(each.verdict.is_changed for each in traffic.current.values())


def test_a_window_with_a_part_that_was_not_read_has_no_verdict() -> None:
    traffic = live_traffic({KEYS[0]: NOW - 600})
    traffic.cover([(NOW - 20, NOW)], missed=[(NOW - 100, NOW - 40)])
    assert changed(traffic) == []
    assert KEYS[0] not in traffic.current
    traffic.cover([(NOW - 101, NOW + 2)])
    assert changed(traffic, NOW + 30) == [KEYS[0]]


def test_after_a_start_what_was_not_read_is_not_silence() -> None:
    traffic = live_traffic({KEYS[0]: NOW - 240}, back=240)
    assert changed(traffic) == []


def test_a_sample_stands_for_all_requests() -> None:
    traffic = LiveTraffic(lambda _: Parameters())
    traffic.cover([(NOW - HOUR, NOW)], share=0.25)
    for second in range(NOW - HOUR, NOW, 4 * STEP):
        traffic.add(KEYS[0], second, 4)
    traffic.judge(NOW, {KEYS[0]: USUAL, KEYS[1]: USUAL})
    usual, verdict = traffic.current[KEYS[0]]
    assert usual == pytest.approx(100)
    assert verdict.evidence.usual == pytest.approx(25)
    assert verdict.evidence.ratio == pytest.approx(1, abs=0.05)
    assert not verdict.is_changed


@given(st.permutations(range(40)))
def test_the_order_of_reading_is_irrelevant(order: Sequence[int]) -> None:
    one, other = LiveTraffic(lambda _: Parameters()), LiveTraffic(lambda _: Parameters())
    for traffic, seconds in ((one, range(40)), (other, order)):
        traffic.cover([(NOW - HOUR, NOW)])
        for second in seconds:
            traffic.add(KEYS[0], NOW - 40 * 30 + 30 * second + 1, 1)
        traffic.judge(NOW, {KEYS[0]: USUAL})
    assert one.current == other.current


def run(
    silent_since: int,
    silent_until: int,
    until: int,
    *,
    flags: dict[SeriesKey, dict[FlagKind, Flag]] | None = None,
    begin: int = NOW,
    table: BaselineTable = TABLE,
) -> tuple[list[tuple[int, SeriesKey, FlagKind, FlagEvent]], LiveEvaluator]:
    """Let the first series be silent for a while; returns the transitions of flags."""
    live = LiveEvaluator(
        SETTINGS, lambda key: key, started_at=begin, remembered_seconds=330.0, flags=flags or {}, max_pause_seconds=120
    )
    found: list[tuple[int, SeriesKey, FlagKind, FlagEvent]] = []
    number = 0
    for now in range(begin, until, 15):
        since = now - 300 if now == begin else now - 15
        spans = []
        for key in KEYS:
            for second in range(since, now):
                if second % STEP == 0 and not (key == KEYS[0] and silent_since <= second < silent_until):
                    number += 1
                    spans.append(Span(f"{number:032x}", "1" * 16, key, second * NS, NS // 10))
        live.add_spans(spans, now, table)
        live.traffic.cover([(since, now)])
        result = live.tick(now, table, lag_seconds=15)
        found += [
            (now, change.key, change.kind, change.event) for change in result.changes if change.kind is FlagKind.TRAFFIC
        ]
    return found, live


def test_the_flag_fires_within_six_minutes_and_resolves_after_the_silence() -> None:
    found, _ = run(NOW + 300, NOW + 900, NOW + 1500)
    assert [(key, event) for _, key, _, event in found] == [(KEYS[0], FlagEvent.FIRING), (KEYS[0], FlagEvent.RESOLVED)]
    fired, resolved = (at for at, *_ in found)
    assert fired <= NOW + 300 + 360
    assert NOW + 900 < resolved <= NOW + 900 + 360


def test_a_silent_series_is_published_while_its_flag_fires_and_after_a_restart() -> None:
    _, live = run(NOW - HOUR, NOW + HOUR, NOW + 600)
    flags = {key: dict(each) for key, each in live.flags().items()}
    assert flags[KEYS[0]][FlagKind.TRAFFIC].firing
    since = flags[KEYS[0]][FlagKind.TRAFFIC].since
    found, restarted = run(NOW - HOUR, NOW + HOUR, NOW + 900, flags=flags, begin=NOW + 600)
    assert found == []
    (status,) = [each for each in restarted.hold(NOW + 900, NOW + 900, TABLE) if each.key == KEYS[0]]
    assert status.of_kind(FlagKind.TRAFFIC).firing
    assert status.of_kind(FlagKind.TRAFFIC).since == since
    assert status.current_traffic is not None
    assert status.current_traffic.verdict.evidence.requests == 0


def test_before_the_first_verdict_a_firing_flag_stays() -> None:
    flag = Flag(firing=True, since=NOW - 600.0)
    found, live = run(0, 0, NOW + 600, flags={KEYS[0]: {FlagKind.TRAFFIC: flag}}, table=EMPTY_TABLE)
    assert found == []
    (status,) = [each for each in live.hold(NOW, NOW, EMPTY_TABLE) if each.key == KEYS[0]]
    assert (status.of_kind(FlagKind.TRAFFIC).firing, status.of_kind(FlagKind.TRAFFIC).since) == (True, NOW - 600.0)


def test_a_flag_resolves_when_the_series_learns_again() -> None:
    series = {key: replace(each, traffic=None) for key, each in TABLE.series.items()}
    flag = Flag(firing=True, since=NOW - 600.0)
    found, _ = run(0, 0, NOW + 300, flags={KEYS[0]: {FlagKind.TRAFFIC: flag}}, table=BaselineTable(NOON, series))
    assert [event for *_, event in found] == [FlagEvent.RESOLVED]


@pytest.mark.parametrize("is_enabled", [True, False])
def test_a_flag_resolves_at_once_if_traffic_is_not_judged_with_changed_settings(is_enabled: bool) -> None:
    _, live = run(NOW - HOUR, NOW + HOUR, NOW + 600)
    assert live.flags()[KEYS[0]][FlagKind.TRAFFIC].firing
    live.use(replace(SETTINGS, shift=replace(SETTINGS.shift, traffic_drop=0.4, traffic_enabled=is_enabled)))
    table = TABLE
    if not is_enabled:
        table = replace(TABLE, series={key: replace(each, traffic=None) for key, each in TABLE.series.items()})
    result = live.tick(NOW + 600, table, lag_seconds=15)
    events = [change.event for change in result.changes if change.key == KEYS[0]]
    assert events == ([] if is_enabled else [FlagEvent.RESOLVED])


def test_what_people_have_marked_is_not_compared() -> None:
    began = NOW - 1500
    traffic = live_traffic({KEYS[0]: began})
    assert changed(traffic) == [KEYS[0]]

    def judged(excluded_until: float) -> set[SeriesKey]:
        traffic.judge(NOW, dict.fromkeys(KEYS, USUAL), None, object(), lambda key: excluded_until * (key == KEYS[0]))
        return set(traffic.current)

    assert judged(NOW) == set(KEYS[1:])
    assert judged(NOW - 60) == set(KEYS[1:])
    assert judged(NOW - 900) == set(KEYS)
    assert traffic.current[KEYS[0]].verdict.evidence.seconds <= 900


def test_source_is_judged_without_marked_series() -> None:
    traffic = live_traffic(dict.fromkeys(KEYS, NOW - 900))
    traffic.judge(NOW, dict.fromkeys(KEYS, USUAL), None, 1, lambda key: NOW if key in KEYS[2:] else 0.0)
    assert traffic.source is not None
    assert traffic.source.is_lost
    traffic.judge(NOW, dict.fromkeys(KEYS, USUAL), None, 2, lambda _: NOW)
    assert traffic.source is None
