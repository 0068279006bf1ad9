"""The shift test on one window."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.detection.parameters import ALL_PARTS, Parameters
from exporter.detection.schedule import HourThresholds, Schedule
from exporter.detection.small_shift import ShiftTest
from exporter.detection.thresholds import (
    UNREACHABLE,
    Floors,
    LevelThreshold,
    LongThreshold,
    QuantileThreshold,
    SmallShiftThresholds,
    Thresholds,
)
from exporter.detection.verdict import Verdict, can_be_shifted, evaluate_window
from exporter.detection.window import RecentTraces
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hour_evaluation import QUANTILES, HourProfile

HOUR = 1_767_571_200
NOW = HOUR + 1800
PARAMETERS = Parameters()
BASELINE = -100
GATE, STAT, CLEAR = BASELINE + 16, BASELINE + 10, BASELINE + 9


def thresholds(baseline: int = BASELINE, apart: int = 30) -> Thresholds:
    """Return thresholds with baselines of p50, p90 and p99 that are ``apart`` buckets from one another."""
    found = []
    for index, q in enumerate(QUANTILES):
        bucket = baseline + index * apart
        found.append(QuantileThreshold(q, bucket, 0.1, bucket + 10, bucket + 16, bucket + 9))
    return Thresholds(tuple(found), 0.004, baseline - 16)


def recent_of(buckets: Sequence[int], second: int = NOW - 10) -> RecentTraces:
    recent = RecentTraces()
    for bucket in buckets:
        recent.add(second, bucket)
    return recent


def verdict_on(
    recent: RecentTraces | Sequence[int],
    schedule: Schedule = (),
    now: float = NOW,
    parameters: Parameters = PARAMETERS,
    **options: bool,
) -> Verdict:
    traces = recent if isinstance(recent, RecentTraces) else recent_of(recent)
    schedule = schedule or (HourThresholds(HOUR, thresholds()),)
    return evaluate_window(traces, now, traces.window(now, parameters), schedule, parameters, **options)


def test_window_like_the_baseline_is_not_shifted() -> None:
    verdict = verdict_on([BASELINE] * 50 + [BASELINE + 30] * 40 + [BASELINE + 60] * 9)
    assert (verdict.traces, verdict.shifted, verdict.persists, verdict.evidence) == (99, False, False, None)
    assert verdict.score is not None
    assert verdict.score < 1


def test_uniformly_slower_window_is_shifted() -> None:
    verdict = verdict_on([BASELINE + 32] * 40)
    assert (verdict.shifted, verdict.persists) == (True, True)
    assert verdict.score == pytest.approx(2 ** (16 / 32))
    assert verdict.evidence is not None
    assert verdict.evidence.threshold.q == 0.5
    assert (verdict.evidence.slow, verdict.evidence.traces, verdict.evidence.bucket) == (40, 40, BASELINE + 32)
    assert verdict.evidence.chance < 1e-8


def test_slow_tail_is_a_shift() -> None:
    verdict = verdict_on([BASELINE] * 88 + [BASELINE + 200] * 12)
    assert verdict.shifted
    assert verdict.evidence is not None
    assert verdict.evidence.threshold.q == 0.99


def test_window_with_too_few_traces_has_no_score() -> None:
    verdict = verdict_on([BASELINE + 500] * 2)
    assert (verdict.score, verdict.shifted, verdict.evidence) == (None, False, None)
    assert verdict_on([BASELINE + 500] * 3).score is not None


def test_fewer_than_three_exceedances_are_no_shift() -> None:
    verdict = verdict_on([BASELINE] * 18 + [BASELINE + 500] * 2)
    assert not verdict.shifted
    assert verdict.evidence is None
    assert verdict.score is not None
    assert verdict.score > 1


def test_exceedances_explained_by_chance_are_no_shift() -> None:
    # 12 of 20 above the gate of the median, where 10 are allowed.
    verdict = verdict_on([BASELINE] * 8 + [GATE + 1] * 12)
    assert not verdict.shifted
    assert verdict.evidence is not None
    assert verdict.evidence.chance > PARAMETERS.alpha


def test_few_traces_have_to_rule_out_chance_further_or_hold_until_all_of_them_are_others() -> None:
    # Three of ten traces exceed the gate of the p99: a chance of 3e-4, of which a fifth of 1e-3 is allowed.
    few = [BASELINE] * 7 + [BASELINE + 100] * 3
    more = [BASELINE] * 8 + [BASELINE + 100] * 4
    # In a window of fifty the same chance is enough.
    many = [BASELINE] * 35 + [BASELINE + 47] * 15
    plain = thresholds()
    for buckets, seconds in ((few, 240.0), (more, 60.0), (many, 60.0)):
        verdict = verdict_on(
            recent_of(buckets, NOW - 240), [HourThresholds(HOUR, plain._replace(needs_certainty=True))]
        )
        assert (verdict.shifted, verdict.hold_seconds) == (True, seconds)
        assert verdict_on(recent_of(buckets, NOW - 240), [HourThresholds(HOUR, plain)]).hold_seconds == 60
        if buckets is not more:
            assert verdict.evidence is not None
            assert 2e-4 < verdict.evidence.chance < 1e-3


def test_significant_change_up_to_the_gate_is_no_shift() -> None:
    verdict = verdict_on([GATE] * 300)
    assert not verdict.shifted
    assert verdict.score == 1.0


def test_shift_does_not_persist_if_the_newest_traces_are_not_slow() -> None:
    recent = recent_of([BASELINE + 32] * 60, NOW - 200)
    for bucket in [BASELINE] * 20:
        recent.add(NOW - 5, bucket)
    verdict = verdict_on(recent)
    assert (verdict.shifted, verdict.persists) == (True, False)


def test_latency_between_clear_and_gate_only_keeps_a_flag_firing() -> None:
    between = [CLEAR + 3] * 40
    assert not verdict_on(between).persists
    verdict = verdict_on(between, firing=True)
    assert (verdict.shifted, verdict.persists) == (False, True)


def test_flag_about_some_requests_keeps_firing_where_the_newest_happen_to_contain_none() -> None:
    recent = recent_of([BASELINE] * 84 + [BASELINE + 200] * 12, NOW - 200)
    for bucket in [BASELINE] * 9:
        recent.add(NOW - 5, bucket)
    # One in eight was slow, and none of the newest nine is: that happens every third time.
    assert not verdict_on(recent).persists
    verdict = verdict_on(recent, firing=True)
    assert (verdict.shifted, verdict.persists) == (True, True)
    # None of forty does not.
    for bucket in [BASELINE] * 31:
        recent.add(NOW - 5, bucket)
    verdict = verdict_on(recent, firing=True)
    assert (verdict.shifted, verdict.persists) == (True, False)


def test_evidence_on_request_without_exceedances() -> None:
    verdict = verdict_on([BASELINE] * 40, always_evidence=True)
    assert verdict.evidence is not None
    assert verdict.evidence.slow == 0
    assert not verdict.shifted


def test_traces_are_compared_with_the_thresholds_of_the_hour_of_their_end() -> None:
    # In the hour before, the baseline was twice as slow.
    schedule = (HourThresholds(HOUR, thresholds()), HourThresholds(HOUR - 3600, thresholds(BASELINE + 32)))
    recent = recent_of([BASELINE + 32] * 20, HOUR)
    for bucket in [BASELINE] * 5:
        recent.add(HOUR + 1, bucket)
    verdict = verdict_on(recent, schedule, now=HOUR + 60)
    assert verdict.traces == 25
    assert not verdict.shifted
    assert verdict.score == pytest.approx(2 ** (-16 / 32))
    assert verdict_on(recent, schedule[:1], now=HOUR + 60).traces == 5


windows = st.lists(st.integers(BASELINE - 60, BASELINE + 120), min_size=3, max_size=60)


@given(windows, st.integers(0, 60), st.integers(1, 80))
def test_score_does_not_decrease_with_slower_traces(buckets: list[int], position: int, slower: int) -> None:
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
def test_verdict_does_not_depend_on_the_scale_of_durations(buckets: list[int], octaves: int) -> None:
    steps = 32 * octaves
    before = verdict_on(buckets, firing=True)
    after = verdict_on(
        [bucket + steps for bucket in buckets], [HourThresholds(HOUR, thresholds(BASELINE + steps))], firing=True
    )
    assert after._replace(evidence=None) == before._replace(evidence=None)
    assert (after.evidence is None) is (before.evidence is None)
    if after.evidence is not None and before.evidence is not None:
        assert (after.evidence.slow, after.evidence.chance) == (before.evidence.slow, before.evidence.chance)


@given(windows)
def test_score_exceeds_one_if_and_only_if_a_quantile_exceeds_its_gate(buckets: list[int]) -> None:
    found = thresholds()
    exceeded = any(
        sum(bucket > threshold.gate for bucket in buckets) > round((1 - threshold.q) * len(buckets), 9)
        for threshold in found.quantiles
    )
    score = verdict_on(buckets).score
    assert score is not None
    assert (score > 1) is exceeded


@given(windows, st.integers(0, 20), st.integers(0, 40))
def test_shifted_window_passes_the_test_with_any_floors(buckets: list[int], stat: int, gate: int) -> None:
    found = thresholds()
    floors = Floors.of(
        found._replace(
            quantiles=tuple(each._replace(stat=each.stat - stat, gate=each.gate - gate) for each in found.quantiles)
        )
    )
    for each in (Floors.of(found), floors, Floors.of(found).minimum(floors), floors.minimum(Floors.of(found))):
        assert can_be_shifted(sorted(buckets), each, PARAMETERS) or not verdict_on(buckets).shifted


@given(windows)
def test_can_be_shifted_is_exact_with_the_actual_thresholds(buckets: list[int]) -> None:
    assert can_be_shifted(sorted(buckets), Floors.of(thresholds()), PARAMETERS) is verdict_on(buckets).shifted


def with_small(
    long: tuple[int, int, int] = (BASELINE + 6, BASELINE + 11, 8),
    level: tuple[int, int, int, int, int] | None = (BASELINE + 6, BASELINE + 11, BASELINE + 5, BASELINE + 11, 8),
    profile: HourProfile = (),
    ladder: tuple[float, ...] = (),
) -> Schedule:
    """Return thresholds with tests for small shifts of the median; those of the other quantiles are out of reach."""
    plain = thresholds(apart=300)
    small = SmallShiftThresholds(
        tuple(threshold.baseline for threshold in plain.quantiles),
        plain.correlation,
        (LongThreshold(*long), *[LongThreshold(1000, 1000)] * 2),
        () if level is None else (LevelThreshold(*level), *[UNREACHABLE] * 2),
        profile,
    )
    quantiles = tuple(threshold._replace(ladder=ladder) for threshold in plain.quantiles)
    return [HourThresholds(HOUR, plain._replace(quantiles=quantiles, small=small, profile=profile))]


def spread(buckets: Sequence[int]) -> RecentTraces:
    """Return 20 traces of a bucket in each five minutes before now, oldest first."""
    recent = RecentTraces()
    for index, bucket in enumerate(buckets):
        recent.add(NOW - MARK_SECONDS * (len(buckets) - 1 - index) - 10, bucket, 20)
    return recent


def test_half_an_hour_shows_a_small_shift() -> None:
    slow = BASELINE + 13
    schedule = with_small(level=None)
    verdict = verdict_on(spread([slow] * 6), schedule)
    assert (verdict.shifted, verdict.persists, verdict.hold_seconds) == (True, True, 120)
    assert verdict.score == 2 ** (2 / 32)
    assert verdict.evidence is not None
    evidence = verdict.evidence
    assert (evidence.test, evidence.traces, evidence.slow, evidence.gate) == (ShiftTest.LONG, 120, 120, BASELINE + 11)
    assert evidence.swing_factor == 2 ** (8 / 32)
    # Not if the last minutes are as usual, most of the half hour is, or there is too little traffic in it.
    assert not verdict_on(spread([slow] * 5 + [BASELINE]), schedule).shifted
    assert not verdict_on(spread([BASELINE] * 4 + [slow] * 2), schedule).shifted
    assert not verdict_on(spread([slow] * 4), schedule).shifted


@pytest.mark.parametrize(("fast", "hold_seconds"), [(0, 60), (2, 120)])
def test_shifts_from_the_level_that_may_be_chance_hold_twice_as_long(fast: int, hold_seconds: float) -> None:
    recent = spread([BASELINE] * 6 + [BASELINE + 14])
    recent.drop(NOW - 20, NOW)
    recent.add(NOW - 10, BASELINE, fast)
    recent.add(NOW - 10, BASELINE + 14, 20 - fast)
    verdict = verdict_on(recent, with_small((1000, 1000, 8)))
    assert verdict.evidence is not None
    assert (verdict.evidence.test, verdict.evidence.chance < 1e-5) == (ShiftTest.LEVEL, fast == 0)
    assert verdict.hold_seconds == hold_seconds
    without = replace(PARAMETERS, parts=ALL_PARTS._replace(single_hold=False))
    assert verdict_on(recent, with_small((1000, 1000, 8)), parameters=without).hold_seconds == 120


def test_shift_from_the_level_of_now() -> None:
    never = (1000, 1000, 8)
    jump = spread([BASELINE] * 6 + [BASELINE + 14])
    verdict = verdict_on(jump, with_small(never))
    assert (verdict.shifted, verdict.hold_seconds) == (True, 60)
    assert verdict.evidence is not None
    assert (verdict.evidence.test, verdict.evidence.level, verdict.evidence.traces) == (ShiftTest.LEVEL, 0, 20)
    # Seven of ten buckets above the baseline are the level, and the gate is raised by them.
    raised = spread([BASELINE + 10] * 6 + [BASELINE + 14])
    assert not verdict_on(raised, with_small(never)).shifted
    higher = verdict_on(spread([BASELINE + 3] * 6 + [BASELINE + 14]), with_small(never)).evidence
    assert higher is not None
    assert (higher.level, higher.gate) == (2, BASELINE + 13)
    # A level below the baseline does not lower the gate below it.
    below = (BASELINE + 6, BASELINE + 11, BASELINE + 5, BASELINE + 15, 8)
    assert not verdict_on(spread([BASELINE - 20] * 6 + [BASELINE + 14]), with_small(never, below)).shifted
    # Unknown without five of the six marks.
    assert not verdict_on(spread([BASELINE] * 4 + [BASELINE + 14]), with_small(never)).shifted


def test_that_the_slowest_requests_were_faster_than_usual_is_not_expected_to_last() -> None:
    limits = LevelThreshold(BASELINE + 6, BASELINE + 30, BASELINE + 5, BASELINE + 11, 8)
    (start, plain), *_ = with_small((1000, 1000, 8), level=None)
    assert plain.small is not None
    before, after = [BASELINE - 40] * 6, [BASELINE + 14]
    for index, is_shifted in ((0, True), (1, False)):
        # Without the rule, the gate would be 28 buckets lower.
        levels = [UNREACHABLE] * 3
        levels[index] = limits
        small = plain.small._replace(baseline=(BASELINE,) * 3, level=tuple(levels))
        schedule = [HourThresholds(start, plain._replace(small=small))]
        assert verdict_on(spread(before + after), schedule).shifted is is_shifted
        without = replace(PARAMETERS, parts=ALL_PARTS._replace(level_floor=False))
        assert verdict_on(spread(before + after), schedule, parameters=without).shifted


def test_pattern_within_the_hour_raises_all_tests() -> None:
    # The window ends at the sixth mark.
    profile = ((0,) * 5 + (32,) + (0,) * 6, (0,) * 12, (0,) * 12)
    jump = spread([BASELINE] * 6 + [BASELINE + 40])
    assert verdict_on(jump, with_small()).shifted
    assert not verdict_on(jump, with_small(profile=profile)).shifted
    verdict = verdict_on(spread([BASELINE] * 6 + [BASELINE + 60]), with_small(profile=profile))
    assert (verdict.shifted, verdict.persists) == (True, True)
    assert verdict.evidence is not None
    assert (verdict.evidence.raised, verdict.evidence.minutes) == (32, ((25, 30),))
    assert verdict.evidence.gate == BASELINE + 48


def test_few_traces_far_above_the_gate() -> None:
    # Of 30 traces four are slow: too few for chance to be excluded at the gate of the p90, but not at four times it.
    p90 = QuantileThreshold(0.9, BASELINE, 0.1, BASELINE + 10, BASELINE + 16, BASELINE + 9)
    buckets = [BASELINE] * 26 + [BASELINE + 90] * 4

    def verdict(ladder: tuple[float, ...], traces: Sequence[int] = buckets) -> Verdict:
        never = p90._replace(stat=1000, gate=1000, clear=1000)
        quantiles = (never, p90._replace(ladder=ladder), never)
        return verdict_on(traces, [HourThresholds(HOUR, Thresholds(quantiles, 0.004, BASELINE - 16))])

    assert not verdict(()).shifted
    assert not verdict((0.1, 0.1, 0.1)).shifted
    found = verdict((0.1, 0.05, 0.002))
    assert (found.shifted, found.hold_seconds) == (True, 60)
    assert found.evidence is not None
    evidence = found.evidence
    assert (evidence.test, evidence.slow, evidence.gate) == (ShiftTest.LADDER, 4, BASELINE + 80)
    assert evidence.expected == 0.002
    assert not verdict((0.1, 0.05, 0.002), buckets[12:]).shifted
    assert can_be_shifted(
        buckets, Floors.of(Thresholds((p90._replace(ladder=(0.1, 0.05, 0.002)),) * 3, 0.004, 0)), PARAMETERS
    )
