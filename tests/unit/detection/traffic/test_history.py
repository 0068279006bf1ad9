"""Past traffic: the same verdicts as live, a quarantine of its own, and one statement where the source lost traffic."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import msgspec
import pytest

from exporter.baseline.levels import FallbackRules
from exporter.baseline.traffic import MARKS, NO_PATTERN, HourPattern, TrafficHour, TrafficRecord
from exporter.detection.flag import FlagChange, FlagEvent
from exporter.detection.parameters import Parameters
from exporter.detection.traffic.history import (
    NO_TRAFFIC_STATE,
    SeriesTraffic,
    TrafficState,
    TrafficTick,
    TrafficTracker,
)
from exporter.detection.traffic.source import SampledSeries, SourceHistory, source_history, source_losses
from exporter.detection.traffic.verdict import SourceWindow, TrafficEvidence
from exporter.evaluation.live.traffic import LiveTraffic
from exporter.model.calendar import Calendar, HourClock
from exporter.model.span import SeriesKey

MONDAY = 1_750_636_800
HOUR, DAY, MARK = 3600, 86_400, 300
CLOCK = HourClock(Calendar())
RULES = FallbackRules()
PARAMETERS = Parameters()
RATES = (30.0, 12.0, 60.0, 8.0, 25.0, 40.0)
"""Requests in five minutes."""

Share = Callable[[int, int], float]
"""Share of the usual requests of a series in the five minutes before a mark."""


def steady(mark: int, series: int) -> float:
    return 1.0


def between(first: float, last: float, share: float = 0.0, series: int | None = 0) -> Share:
    """Let a series, or all, have a share of their traffic between two hours since the start."""
    since, until = MONDAY + first * HOUR, MONDAY + last * HOUR
    return lambda mark, which: share if since < mark <= until and series in (None, which) else 1.0


def poisson(random: Random, mean: float) -> int:
    if mean > 30:
        return max(0, round(random.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), random.random(), 0
    while product > limit:
        product *= random.random()
        count += 1
    return count


@dataclass
class System:
    """Some series with one source, and their requests by mark.

    Attributes:
        days: days since Monday.
        share: how much of the usual traffic there is.
        seed: of the noise.
        coverage: share that was read, by hour since the start.
        losses: whether the source is judged.
        parameters: settings of the detector.
        scale: how many requests there are, all together.
        rates: requests of each series in five minutes.
    """

    days: float
    share: Share = steady
    seed: str = "1"
    coverage: Callable[[int], float | None] = lambda _: 1.0
    losses: bool = True
    parameters: Parameters = PARAMETERS
    scale: float = 1.0
    rates: Sequence[float] = RATES
    counts: list[dict[int, int]] = field(init=False)
    source: SourceHistory = field(init=False)

    def __post_init__(self) -> None:
        random = Random(self.seed)
        self.counts = [
            {
                mark: poisson(
                    random,
                    self.scale * rate * self.share(mark, series) * (1 + 0.5 * math.sin(mark / DAY * 2 * math.pi)),
                )
                for mark in range(MONDAY + MARK, self.end + 1, MARK)
            }
            for series, rate in enumerate(self.rates)
        ]
        windows = [
            SourceWindow(
                start, start + HOUR, sum(map(sum, self._by_mark(start))), self.coverage((start - MONDAY) // HOUR)
            )
            for start in range(MONDAY, self.end, HOUR)
        ]
        self.source = source_history(
            windows,
            CLOCK,
            MONDAY,
            self.end,
            lookback_seconds=RULES.lookback_seconds,
            accept_after_seconds=self.parameters.accept_after_seconds,
        )
        if self.losses:
            sample = [
                SampledSeries(self.record(series), NO_PATTERN, self.counts[series], self.source)
                for series in range(len(self.rates))
            ]
            self.source = self.source.with_losses(source_losses(sample, self.source, CLOCK, MONDAY, self.end))

    @property
    def end(self) -> int:
        return MONDAY + int(self.days * DAY)

    def _by_mark(self, start: int) -> list[list[int]]:
        return [[counts[start + MARK * (mark + 1)] for mark in range(MARKS)] for counts in self.counts]

    def record(self, series: int) -> TrafficRecord:
        complete = {each.hour.start for each in self.source.hours}
        hours = [
            TrafficHour(CLOCK.hour(start), float(sum(self._by_mark(start)[series])))
            for start in range(MONDAY, self.end, HOUR)
            if start in complete
        ]
        return TrafficRecord(
            hours,
            RULES,
            drop=self.parameters.traffic_drop,
            accept_after_seconds=self.parameters.accept_after_seconds,
        )

    def traffic(self, series: int) -> SeriesTraffic:
        return SeriesTraffic(self.record(series), self.source)

    def evaluate(
        self, series: int = 0, *, hourly: bool = False
    ) -> tuple[list[FlagChange[TrafficEvidence]], TrafficState, list[int]]:
        """Evaluate the hours of a series at once, or each with the stored state of the one before."""
        changes: list[FlagChange[TrafficEvidence]] = []
        accepted: list[int] = []
        state, pattern = NO_TRAFFIC_STATE, NO_PATTERN
        tracker = TrafficTracker(self.traffic(series), self.parameters, CLOCK, state)
        for start in range(MONDAY, self.end, HOUR):
            hour = CLOCK.hour(start)
            if hourly:
                tracker = TrafficTracker(self.traffic(series), self.parameters, CLOCK, state)
            tracker.evaluate(hour, self._requests(start, series), pattern, is_judged=True)
            pattern = pattern.with_hour(self._by_mark(start)[series])
            if hourly:
                state = tracker.state(hour.end, RULES.lookback_seconds)
                state = msgspec.json.decode(msgspec.json.encode(state), type=TrafficState)
                changes += tracker.changes
                accepted += tracker.accepted
        if not hourly:
            return tracker.changes, tracker.state(self.end, RULES.lookback_seconds), tracker.accepted
        return changes, state, accepted

    def _requests(self, start: int, series: int) -> list[tuple[int, int]]:
        marks = range(start + MARK, start + HOUR + 1, MARK)
        return [(mark, self.counts[series][mark]) for mark in marks if self.counts[series][mark]]


def fired(changes: Sequence[FlagChange[TrafficEvidence]]) -> list[float]:
    """Return the hours since the start at which a flag fired."""
    return [(change.at - MONDAY) / HOUR for change in changes if change.event is FlagEvent.FIRING]


def resolved(changes: Sequence[FlagChange[TrafficEvidence]]) -> list[float]:
    return [(change.at - MONDAY) / HOUR for change in changes if change.event is FlagEvent.RESOLVED]


class TestOneSeries:
    def test_silence_is_flagged_and_its_hours_are_kept_out_of_the_usual_traffic(self) -> None:
        system = System(5, between(106, 108))
        changes, state, accepted = system.evaluate()
        (at,), (end,) = fired(changes), resolved(changes)
        assert 106 < at <= 106.25
        assert 108 < end <= 108.5
        assert {(start - MONDAY) // HOUR for start in state.quarantined} >= {106, 107}
        assert accepted == []
        evidence = changes[0].explanation
        assert evidence is not None
        assert str(evidence).startswith("no requests in 5 minutes, 0 % of the usual traffic")
        for series in range(1, len(RATES)):
            assert system.evaluate(series)[0] == []

    def test_healthy_traffic_has_no_flag(self) -> None:
        for seed in ("a", "b"):
            system = System(6, seed=seed)
            assert [system.evaluate(series)[0] for series in range(len(RATES))] == [[]] * len(RATES)

    def test_quarantined_hours_are_not_pooled(self) -> None:
        """Three of four mornings without traffic would make silence the usual, if they were pooled."""
        mornings = [MONDAY + (day * 24 + 10) * HOUR for day in range(4)]
        hours = [
            TrafficHour(CLOCK.hour(start), 0.0 if start in mornings[1:] else 300.0)
            for start in range(MONDAY, MONDAY + 4 * DAY, HOUR)
        ]
        friday = MONDAY + 106 * HOUR
        around = [CLOCK.hour(friday + offset) for offset in (-1, 0, HOUR)]
        record = TrafficRecord(hours, RULES, drop=0.5, accept_after_seconds=DAY)
        pattern = HourPattern(24, (1,) * MARKS)
        traffic = SeriesTraffic(record, SourceHistory())
        pooled = traffic.baseline(around, pattern, frozenset())
        kept_out = traffic.baseline(around, pattern, frozenset(mornings[1:3]))
        recurring = traffic.baseline(around, pattern, frozenset(mornings[1:]))
        assert pooled is not None
        assert kept_out is not None
        assert recurring is not None
        assert (pooled.requests, kept_out.requests, recurring.requests) == (0, 300, 0)
        assert kept_out.level > pooled.level

    def test_drop_every_night_is_released(self) -> None:
        nights = [between(24 * day + 3, 24 * day + 4, 0.05) for day in range(3, 12)]
        system = System(12, lambda mark, series: min(night(mark, series) for night in nights), seed="n")
        changes, state, _ = system.evaluate()
        flagged = {int(at // 24) for at in fired(changes)}
        assert min(flagged) in (3, 4)
        # Weekdays: from day 3 on. Nights from day 9 on are compared with at least as many quarantined as other ones.
        assert not flagged & {10, 11}
        assert state.changepoint is None

    def test_lasting_drop_is_accepted(self) -> None:
        system = System(7, between(74, 999, 0.2))
        changes, state, accepted = system.evaluate()
        assert 74 < fired(changes)[0] < 74.5
        (end,) = resolved(changes)
        assert 95 <= end <= 102
        (changepoint,) = accepted
        assert abs(changepoint - (MONDAY + 74 * HOUR)) <= 2 * HOUR
        assert state.changepoint == changepoint
        assert all(start < changepoint for start in state.quarantined)

    def test_rise_is_flagged_only_where_it_is_wanted(self) -> None:
        rise = between(106, 107, 4.0)
        assert System(5, rise).evaluate()[0] == []
        changes, _, _ = System(5, rise, parameters=Parameters(traffic_surge=2.0)).evaluate()
        assert 106 < fired(changes)[0] < 106.5

    @pytest.mark.parametrize("share", [between(106, 108), between(74, 999, 0.2), between(100.4, 101.2, 0.1, None)])
    def test_division_of_the_history_is_irrelevant(self, share: Share) -> None:
        system = System(5, share)
        for series in (0, 3):
            assert system.evaluate(series) == system.evaluate(series, hourly=True)

    @pytest.mark.parametrize("scale", [0.5, 2.0, 8.0])
    def test_scaling_all_counts_changes_no_direction(self, scale: float) -> None:
        """Also where the sampling was changed for all series at once, long ago."""
        silent = System(5, between(106, 108), scale=scale)
        assert [change.event for change in silent.evaluate()[0]] == [FlagEvent.FIRING, FlagEvent.RESOLVED]
        assert [silent.evaluate(series)[0] for series in range(1, len(RATES))] == [[]] * (len(RATES) - 1)

    def test_hours_that_were_not_read_have_no_verdict(self) -> None:
        system = System(5, between(106, 108), coverage=lambda hour: None if 105 <= hour < 108 else 1.0)
        assert system.evaluate()[0] == []

    def test_sample_has_the_verdict_of_its_share(self) -> None:
        """Half of the requests are read, and none is missing."""
        system = System(5, between(106, 108, 0.5, None), coverage=lambda hour: 0.5 if 106 <= hour < 108 else 1.0)
        assert [system.evaluate(series)[0] for series in range(len(RATES))] == [[]] * len(RATES)

    def test_damaged_state_is_an_error(self) -> None:
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(b'[[false,null,null,null],"x"]', type=TrafficState)


class TestSource:
    OUTAGE = staticmethod(between(106.2, 107.5, 0.05, None))

    def test_outage_raises_no_flag_of_any_series(self) -> None:
        system = System(5, self.OUTAGE)
        assert system.source.losses
        assert [system.evaluate(series)[0] for series in range(len(RATES))] == [[]] * len(RATES)

    def test_without_the_source_every_series_would_be_flagged(self) -> None:
        system = System(5, self.OUTAGE, losses=False)
        assert all(fired(system.evaluate(series)[0]) for series in range(len(RATES)))

    def test_healthy_source_loses_nothing(self) -> None:
        assert System(6).source.losses == {}

    def test_series_that_falls_further_than_the_source_is_flagged(self) -> None:
        def share(mark: int, series: int) -> float:
            return between(106, 108, 0.5, None)(mark, series) * between(106.5, 108, 0.0, 2)(mark, series)

        system = System(5, share)
        assert fired(system.evaluate(2)[0])
        assert not fired(system.evaluate(5)[0])

    def test_busy_series_that_falls_silent_is_not_the_source(self) -> None:
        system = System(5, between(106, 108, 0.0, 2))
        assert system.source.losses == {}
        assert fired(system.evaluate(2)[0])

    def test_busy_series_that_fall_silent_together_are_not_the_source(self) -> None:
        def share(mark: int, series: int) -> float:
            return between(106, 108, 0.0, None)(mark, series) if series < 5 else 1.0

        system = System(5, share, rates=(*[60.0] * 5, *[6.0] * 12))
        assert system.source.losses == {}
        assert all(fired(system.evaluate(series)[0]) for series in range(5))

    def test_lasting_change_of_all_series_is_accepted(self) -> None:
        """The sampling has changed for good."""

        def share(mark: int, series: int) -> float:
            return between(192, 999, 0.4, None)(mark, series) * between(230, 231, 0.0, 2)(mark, series)

        system = System(10, share)
        (*_, last) = sorted(system.source.losses)
        assert 216 <= (last - MONDAY) / HOUR < 218
        assert 230 < fired(system.evaluate(2)[0])[0] < 230.5
        assert fired(system.evaluate(5)[0]) == []

    def test_hours_without_traffic_of_the_source_are_not_usual(self) -> None:
        system = System(5, between(58, 59, 0.0, None))
        hour = MONDAY + 58 * HOUR
        low = system.source.low_before(MONDAY + 110 * HOUR)
        assert low == {hour}
        assert system.source.low_before(MONDAY + 58 * HOUR) == frozenset()


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_verdicts_are_those_of_current_traffic(seed: str) -> None:
    """On random drops, rises and outages: with ticks at the marks, windows, figures and verdicts agree."""
    random = Random(seed)
    first = MONDAY + 4 * DAY
    events = [
        between((first - MONDAY) / HOUR + start, (first - MONDAY) / HOUR + start + random.uniform(0.3, 2), share, which)
        for start, share, which in [
            (random.uniform(1, 6), 0.0, random.randrange(6)),
            (random.uniform(7, 12), random.uniform(0.0, 0.6), random.randrange(6)),
            (random.uniform(13, 17), random.uniform(0.0, 0.5), None),
            (random.uniform(18, 21), 3.0, random.randrange(6)),
        ]
    ]
    system = System(5, lambda mark, series: math.prod(event(mark, series) for event in events), seed=f"parity {seed}")
    keys = [SeriesKey("shop", f"{series}") for series in range(len(RATES))]
    live = LiveTraffic(lambda _: PARAMETERS)
    trackers = [TrafficTracker(system.traffic(series), PARAMETERS, CLOCK, NO_TRAFFIC_STATE) for series in range(6)]
    patterns = [NO_PATTERN] * len(RATES)
    compared = changed = 0
    for start in range(MONDAY, system.end, HOUR):
        hour = CLOCK.hour(start)
        around = (CLOCK.hour(start - 1), hour, CLOCK.hour(hour.end))
        baselines, found = {}, []
        for series, key in enumerate(keys):
            requests = system._requests(start, series)
            if start < first:
                trackers[series].evaluate(hour, requests, patterns[series], is_judged=True)
            else:
                ticks = trackers[series].ticks(hour, requests, patterns[series], is_judged=True)
                found.append({tick.at: tick for tick in ticks})
                baseline = system.traffic(series).baseline(
                    around, patterns[series], frozenset(trackers[series].state(start, DAY * 14).quarantined)
                )
                if baseline is not None:
                    baselines[key] = baseline
            patterns[series] = patterns[series].with_hour(system._by_mark(start)[series])
        if start < first - 2 * HOUR:
            continue
        for mark in range(start + MARK, hour.end + 1, MARK):
            for series, key in enumerate(keys):
                count = system.counts[series][mark]
                for number in range(count):
                    live.add(key, mark - MARK + 1 + number * (MARK - 1) // max(1, count), 1)
            live.cover([(start - 2 * HOUR, mark)])
            if start < first:
                continue
            live.judge(mark, baselines, start)
            for series, key in enumerate(keys):
                tick: TrafficTick = found[series][mark]
                current = live.current.get(key)
                assert (tick.verdict is None) == (current is None)
                if tick.verdict is None or current is None:
                    continue
                then, now = tick.verdict.evidence, current.verdict.evidence
                assert (then.seconds, then.requests) == (now.seconds, now.requests)
                assert then.usual == pytest.approx(now.usual)
                assert then.source == pytest.approx(now.source, abs=0.1)
                assert tick.usual == pytest.approx(current.usual)
                if then.source == now.source == 1:
                    assert then.chance == pytest.approx(now.chance)
                    assert tick.verdict.is_changed == current.verdict.is_changed
                compared += 1
                changed += tick.verdict.is_changed
    assert compared > 1000
    assert changed
