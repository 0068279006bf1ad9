import random
from collections.abc import Sequence
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.detection.flag import INACTIVE, FlagEvent
from exporter.detection.parameters import Parameters
from exporter.detection.service_shift import (
    MIN_ENDPOINTS,
    EndpointLatency,
    ServiceBaseline,
    ServiceHour,
    ServiceVerdict,
    advance_service_flag,
    judge_service,
    learn_service,
    service_deviations,
)
from exporter.model.deviations import MARKS, encode_deviations
from exporter.model.histogram import BUCKETS_PER_OCTAVE

PARAMETERS = Parameters()
NOON = 1_763_380_800
MIDNIGHT = NOON - 43_200
DEVIATIONS = st.lists(st.none() | st.integers(-127, 127), min_size=MARKS, max_size=MARKS)


def of_service(*buckets: int, usual_seconds: float = 1.0) -> list[EndpointLatency]:
    return [(usual_seconds * 2 ** (each / BUCKETS_PER_OCTAVE), usual_seconds) for each in buckets]


def judge(buckets: Sequence[int], baseline: ServiceBaseline, now: float = NOON + 1800) -> ServiceVerdict:
    verdict = judge_service(of_service(*buckets), baseline, NOON, now, PARAMETERS)
    assert verdict is not None
    return verdict


def hours_of(days: int, deviation: int = 0, seed: int = 1, sd: float = 3.0) -> list[list[int | None]]:
    """The deviations of a service that vary by chance, by hour."""
    rng = random.Random(seed)
    return [[round(rng.gauss(deviation, sd)) for _ in range(MARKS)] for _ in range(24 * days)]


def learn(hours: Sequence[Sequence[int | None]]) -> dict[int, ServiceBaseline]:
    encoded = [encode_deviations(each).ljust(MARKS, b"\0") for each in hours]
    found = [ServiceHour(MIDNIGHT + 3600 * number, number % 24, each) for number, each in enumerate(encoded)]
    return dict(learn_service(found))


class TestDeviations:
    @pytest.mark.parametrize(
        ("deviations", "median"), [((3, 20, 22, 23), 21), ((3, 20, 21, 22), 20), ((-9, -3, 4, 8, 9), 4)]
    )
    def test_is_the_median_rounded_down(self, deviations: tuple[int, ...], median: int) -> None:
        series = [encode_deviations([each] * MARKS) for each in deviations]
        assert service_deviations(series) == encode_deviations([median] * MARKS)

    def test_is_unknown_at_marks_with_too_few_series(self) -> None:
        series = [encode_deviations([5] * 6 + [5 if number else None] * 6) for number in range(MIN_ENDPOINTS)]
        assert service_deviations(series) == encode_deviations([5] * 6).ljust(MARKS, b"\0")

    @given(st.lists(DEVIATIONS, min_size=1, max_size=9), st.randoms(use_true_random=False))
    def test_order_of_the_series_is_irrelevant(self, series: list[list[int | None]], rng: random.Random) -> None:
        encoded = [encode_deviations(each) for each in series]
        shuffled = rng.sample(encoded, len(encoded))
        assert service_deviations(shuffled) == service_deviations(encoded)

    @given(st.lists(DEVIATIONS, min_size=MIN_ENDPOINTS, max_size=9), st.integers(0, 11))
    def test_agrees_with_the_verdict_on_the_same_deviations(self, series: list[list[int | None]], mark: int) -> None:
        of_hour = service_deviations([encode_deviations(each) for each in series])
        known = [each[mark] for each in series if each[mark] is not None]
        verdict = judge_service(
            of_service(*[each for each in known if each is not None]),
            ServiceBaseline(0.1),
            NOON,
            NOON + 300.0 * (mark + 1),
            PARAMETERS,
        )
        if verdict is None:
            assert of_hour[mark] == 0
        else:
            assert of_hour[mark] - 128 == round(BUCKETS_PER_OCTAVE * log2(verdict.ratio))


class TestLearning:
    def test_needs_a_day(self) -> None:
        assert learn(hours_of(1)[:-1]) == {}
        assert set(learn(hours_of(1))) == set(range(24))

    def test_swing_is_the_root_mean_square(self) -> None:
        baseline = learn(hours_of(7, sd=8.0))[12]
        assert baseline.swing_octaves == pytest.approx(0.25, rel=0.1)
        assert baseline.pattern == ()

    def test_swing_is_that_of_a_typical_day(self) -> None:
        hours = hours_of(7, sd=8.0)
        for hour in hours[24:48]:
            hour[:] = [each + 40 for each in hour if each is not None]
        assert learn(hours)[12].swing_octaves == pytest.approx(0.25, rel=0.1)

    def test_little_history_has_the_swing_of_an_unknown_service(self) -> None:
        baseline = learn([[0] * MARKS] * 24)[0]
        assert 0.03 < baseline.swing_octaves < 0.05

    def test_batch_of_every_hour_is_a_pattern_and_no_swing(self) -> None:
        hours = hours_of(7)
        for hour in hours:
            hour[0] = 40
        baseline = learn(hours)[5]
        assert (baseline.pattern[0], set(baseline.pattern[1:])) == (40, {0})
        assert baseline.swing_octaves < 0.12
        assert not judge([40] * 4, baseline, NOON + 300).persists
        assert judge([40] * 4, baseline, NOON + 900).shifted

    def test_batch_of_one_hour_of_the_day_is_a_pattern_there(self) -> None:
        hours = hours_of(7)
        for hour in hours[3::24]:
            hour[2] = 64
        learned = learn(hours)
        assert (learned[3].pattern[2], learned[4].pattern) == (64, ())

    @given(st.lists(st.tuples(st.integers(0, 23), DEVIATIONS), min_size=30, max_size=60), st.randoms())
    def test_order_of_reading_is_irrelevant(
        self, hours: list[tuple[int, list[int | None]]], rng: random.Random
    ) -> None:
        encoded = [
            ServiceHour(3600 * number, hour, encode_deviations(each).ljust(MARKS, b"\0"))
            for number, (hour, each) in enumerate(hours)
        ]
        assert learn_service(rng.sample(encoded, len(encoded))) == learn_service(encoded)


class TestVerdict:
    def test_needs_endpoints(self) -> None:
        endpoints = of_service(*[40] * (MIN_ENDPOINTS - 1))
        assert judge_service(endpoints, ServiceBaseline(0.05), NOON, NOON + 60.0, PARAMETERS) is None

    def test_shift_of_most_endpoints_is_one_of_the_service(self) -> None:
        verdict = judge([20, 20, 20, 20, 0, -5, 22], ServiceBaseline(0.05))
        assert verdict.shifted
        assert verdict.ratio == pytest.approx(2 ** (20 / 32))
        assert verdict.threshold_ratio == pytest.approx(1.25)
        assert verdict.endpoints == 7

    def test_shift_of_half_of_the_endpoints_is_not(self) -> None:
        assert not judge([20, 20, 20, 0, 0, 0], ServiceBaseline(0.05)).shifted

    def test_swing_raises_the_threshold(self) -> None:
        assert not judge([35] * 5, ServiceBaseline(0.3)).shifted
        assert judge([36] * 5, ServiceBaseline(0.3)).shifted

    def test_difference_must_matter(self) -> None:
        endpoints = of_service(*[32] * 5, usual_seconds=0.004)
        verdict = judge_service(endpoints, ServiceBaseline(0.05), NOON, NOON + 60.0, PARAMETERS)
        assert verdict is not None
        assert not verdict.shifted

    @given(
        st.lists(st.integers(-127, 127), min_size=MIN_ENDPOINTS, max_size=12),
        st.integers(0, 60),
        st.floats(0.01, 1.0),
        st.randoms(use_true_random=False),
    )
    def test_is_monotone_and_symmetric(self, buckets: list[int], more: int, swing: float, rng: random.Random) -> None:
        baseline = ServiceBaseline(swing)
        verdict = judge(buckets, baseline)
        assert judge(rng.sample(buckets, len(buckets)), baseline) == verdict
        slower = judge([each + more for each in buckets], baseline)
        assert slower.ratio == pytest.approx(verdict.ratio * 2 ** (more / 32))
        assert slower.shifted >= verdict.shifted
        assert not verdict.shifted or verdict.persists


class TestFlag:
    def test_fires_after_twice_the_hold_time_and_resolves(self) -> None:
        shifted, calm = judge([40] * 5, ServiceBaseline(0.05)), judge([0] * 5, ServiceBaseline(0.05))
        flag, events = INACTIVE, []
        for now in range(0, 600, 30):
            flag, event = advance_service_flag(flag, NOON + now, shifted if now < 300 else calm, PARAMETERS)
            if event is not None:
                events.append((now, event))
        assert events == [(120, FlagEvent.FIRING), (420, FlagEvent.RESOLVED)]

    def test_resolves_when_the_verdict_stays_unknown(self) -> None:
        flag, _ = advance_service_flag(INACTIVE, NOON, judge([40] * 5, ServiceBaseline(0.05)), PARAMETERS)
        flag, _ = advance_service_flag(flag, NOON + 120, judge([40] * 5, ServiceBaseline(0.05)), PARAMETERS)
        assert flag.firing
        flag, _ = advance_service_flag(flag, NOON + 135, None, PARAMETERS)
        assert flag.firing
        flag, event = advance_service_flag(flag, NOON + 255, None, PARAMETERS)
        assert event is FlagEvent.RESOLVED
