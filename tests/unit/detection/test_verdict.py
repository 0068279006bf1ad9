"""The verdict on one window."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.detection.flag import INACTIVE, FlagEvent
from exporter.detection.parameters import Parameters
from exporter.detection.schedule import HourThresholds, Schedule
from exporter.detection.thresholds import Floors, QuantileThreshold, Thresholds
from exporter.detection.tick import tick
from exporter.detection.verdict import Verdict, can_be_shifted, evaluate_window
from exporter.detection.window import RecentTraces
from exporter.model.hours import QUANTILES

HOUR = 1_767_571_200
NOW = HOUR + 1800
PARAMETERS = Parameters()
USUAL = -100
GATE, STAT, CLEAR = USUAL + 16, USUAL + 10, USUAL + 9


def thresholds(usual: int = USUAL, apart: int = 30) -> Thresholds:
    """Thresholds whose p90 and p99 are usually so many buckets apart from the quantile before."""
    found = []
    for index, q in enumerate(QUANTILES):
        bucket = usual + index * apart
        found.append(QuantileThreshold(q, bucket, 0.1, bucket + 10, bucket + 16, bucket + 9))
    return Thresholds(tuple(found), 0.004, usual - 16)


def recent_of(buckets: Sequence[int], second: int = NOW - 10) -> RecentTraces:
    recent = RecentTraces()
    for bucket in buckets:
        recent.add(second, bucket)
    return recent


def verdict_on(
    recent: RecentTraces | Sequence[int],
    schedule: Schedule = (),
    now: float = NOW,
    **more: bool,
) -> Verdict:
    traces = recent if isinstance(recent, RecentTraces) else recent_of(recent)
    schedule = schedule or (HourThresholds(HOUR, thresholds()),)
    return evaluate_window(traces, now, traces.view(now, PARAMETERS), schedule, PARAMETERS, **more)


def test_the_usual_is_no_shift() -> None:
    verdict = verdict_on([USUAL] * 50 + [USUAL + 30] * 40 + [USUAL + 60] * 9)
    assert (verdict.traces, verdict.shifted, verdict.still, verdict.evidence) == (99, False, False, None)
    assert verdict.score is not None
    assert verdict.score < 1


def test_everything_slower_is_a_shift() -> None:
    verdict = verdict_on([USUAL + 32] * 40)
    assert (verdict.shifted, verdict.still) == (True, True)
    assert verdict.score == pytest.approx(2 ** (16 / 32))
    assert verdict.evidence is not None
    assert verdict.evidence.threshold.q == 0.5
    assert (verdict.evidence.slow, verdict.evidence.traces, verdict.evidence.bucket) == (40, 40, USUAL + 32)
    assert verdict.evidence.chance < 1e-8


def test_a_slow_tail_is_a_shift() -> None:
    verdict = verdict_on([USUAL] * 88 + [USUAL + 200] * 12)
    assert verdict.shifted
    assert verdict.evidence is not None
    assert verdict.evidence.threshold.q == 0.99


def test_too_few_traces_are_not_judged() -> None:
    verdict = verdict_on([USUAL + 500] * 2)
    assert (verdict.score, verdict.shifted, verdict.evidence) == (None, False, None)
    assert verdict_on([USUAL + 500] * 3).score is not None


def test_fewer_than_three_slow_traces_are_no_shift() -> None:
    verdict = verdict_on([USUAL] * 18 + [USUAL + 500] * 2)
    assert not verdict.shifted
    assert verdict.evidence is None
    assert verdict.score is not None
    assert verdict.score > 1


def test_what_chance_explains_is_no_shift() -> None:
    # 12 of 20 above the gate of the median, where 10 would be usual.
    verdict = verdict_on([USUAL] * 8 + [GATE + 1] * 12)
    assert not verdict.shifted
    assert verdict.evidence is not None
    assert verdict.evidence.chance > PARAMETERS.alpha


def test_what_does_not_matter_is_no_shift_however_sure_it_is() -> None:
    verdict = verdict_on([GATE] * 300)
    assert not verdict.shifted
    assert verdict.score == 1.0


def test_a_shift_that_is_over_is_not_still_going_on() -> None:
    recent = recent_of([USUAL + 32] * 60, NOW - 200)
    for bucket in [USUAL] * 20:
        recent.add(NOW - 5, bucket)
    verdict = verdict_on(recent)
    assert (verdict.shifted, verdict.still) == (True, False)


def test_what_lies_between_clear_and_gate_keeps_a_flag_up_but_raises_none() -> None:
    between = [CLEAR + 3] * 40
    assert not verdict_on(between).still
    verdict = verdict_on(between, firing=True)
    assert (verdict.shifted, verdict.still) == (False, True)


def test_evidence_on_request() -> None:
    verdict = verdict_on([USUAL] * 40, thorough=True)
    assert verdict.evidence is not None
    assert verdict.evidence.slow == 0
    assert not verdict.shifted


def test_each_trace_is_held_against_the_hour_in_which_it_ended() -> None:
    # Until the hour turned, twice as slow was usual.
    schedule = (HourThresholds(HOUR, thresholds()), HourThresholds(HOUR - 3600, thresholds(USUAL + 32)))
    recent = recent_of([USUAL + 32] * 20, HOUR)
    for bucket in [USUAL] * 5:
        recent.add(HOUR + 1, bucket)
    verdict = verdict_on(recent, schedule, now=HOUR + 60)
    assert verdict.traces == 25
    assert not verdict.shifted
    assert verdict.score == pytest.approx(2 ** (-16 / 32))
    assert verdict_on(recent, schedule[:1], now=HOUR + 60).traces == 5


windows = st.lists(st.integers(USUAL - 60, USUAL + 120), min_size=3, max_size=60)


@given(windows, st.integers(0, 60), st.integers(1, 80))
def test_more_slow_traces_never_lower_the_score(buckets: list[int], position: int, slower: int) -> None:
    score = verdict_on(buckets).score
    assert score is not None
    one_slower = buckets.copy()
    one_slower[position % len(buckets)] += slower
    one_more = [*buckets, max(buckets) + slower]
    for worse in (one_slower, one_more):
        worse_score = verdict_on(worse).score
        assert worse_score is not None
        assert worse_score >= score


@given(windows, st.integers(-10, 10))
def test_the_verdict_is_the_same_on_any_scale(buckets: list[int], octaves: int) -> None:
    steps = 32 * octaves
    before = verdict_on(buckets, firing=True)
    after = verdict_on(
        [bucket + steps for bucket in buckets], [HourThresholds(HOUR, thresholds(USUAL + steps))], firing=True
    )
    assert after._replace(evidence=None) == before._replace(evidence=None)
    assert (after.evidence is None) is (before.evidence is None)
    if after.evidence is not None and before.evidence is not None:
        assert (after.evidence.slow, after.evidence.chance) == (before.evidence.slow, before.evidence.chance)


@given(windows)
def test_the_score_passes_one_exactly_where_a_quantile_passes_its_gate(buckets: list[int]) -> None:
    found = thresholds()
    passed = any(
        sum(bucket > threshold.gate for bucket in buckets) > round((1 - threshold.q) * len(buckets), 9)
        for threshold in found.quantiles
    )
    score = verdict_on(buckets).score
    assert score is not None
    assert (score > 1) is passed


@given(windows, st.integers(0, 20), st.integers(0, 40))
def test_what_is_a_shift_can_be_one_by_any_floors(buckets: list[int], stat: int, gate: int) -> None:
    found = thresholds()
    floors = Floors.of(
        found._replace(
            quantiles=tuple(each._replace(stat=each.stat - stat, gate=each.gate - gate) for each in found.quantiles)
        )
    )
    for each in (Floors.of(found), floors, Floors.of(found).lowered(floors), floors.lowered(Floors.of(found))):
        assert can_be_shifted(sorted(buckets), each, PARAMETERS) or not verdict_on(buckets).shifted


@given(windows)
def test_a_window_can_be_a_shift_by_its_own_thresholds_only_if_it_is_one(buckets: list[int]) -> None:
    assert can_be_shifted(sorted(buckets), Floors.of(thresholds()), PARAMETERS) is verdict_on(buckets).shifted


def test_a_tick_without_thresholds_gives_no_verdict_and_lets_a_flag_fall() -> None:
    recent = recent_of([USUAL + 64] * 50)
    found = tick(recent, NOW, (), INACTIVE, PARAMETERS)
    assert (found.verdict, found.flag, found.window.traces) == (None, INACTIVE, 50)
    up = INACTIVE._replace(firing=True, since=NOW - 500.0, keep_firing_since=NOW - 120.0)
    found = tick(recent, NOW, (), up, PARAMETERS)
    assert (found.flag, found.event) == (INACTIVE, FlagEvent.RESOLVED)


def test_a_rising_flag_makes_the_hours_of_its_window_suspect() -> None:
    schedule = (HourThresholds(HOUR, thresholds()), HourThresholds(HOUR - 3600, thresholds()))
    recent = recent_of([USUAL + 64] * 20, HOUR - 60)
    flag = INACTIVE
    suspects = []
    for now in (HOUR + 15, HOUR + 45, HOUR + 75, HOUR + 90):
        found = tick(recent, now, schedule, flag, PARAMETERS)
        flag = found.flag
        suspects.append(found.suspects)
    assert flag.firing
    assert suspects == [(), (), (HOUR, HOUR - 3600), (HOUR,)]


def test_traces_of_hours_without_thresholds_are_seen_but_not_judged() -> None:
    recent = recent_of([USUAL + 64] * 20, HOUR - 60)
    recent.add(HOUR + 5, USUAL, 5)
    found = tick(recent, HOUR + 30, (HourThresholds(HOUR, thresholds()),), INACTIVE, PARAMETERS)
    assert found.window.traces == 25
    assert found.verdict is not None
    assert found.verdict.traces == 5
