"""The verdict on traffic: a drop far beyond chance, of the series and not of the source."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackLevel
from exporter.baseline.traffic import MARKS, NO_PATTERN, TrafficBaseline
from exporter.detection.parameters import Parameters
from exporter.detection.traffic.verdict import (
    SourceWindow,
    TrafficVerdict,
    WindowPart,
    judge_traffic,
    lower_tail,
    source_hours,
    source_traffic,
    upper_tail,
)
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock

MONDAY = 1_750_636_800
CLOCK = HourClock(Calendar())


def baseline(dispersion: float = 0.02) -> TrafficBaseline:
    pattern = NO_PATTERN
    for _ in range(12):
        pattern = pattern.with_hour([10] * MARKS)
    return TrafficBaseline(MONDAY, 240, 240, 240, dispersion, FallbackLevel.EXACT, 5, pattern)


def judge(
    *requests: float,
    usual: float = 8,
    source: float = 1.0,
    dispersion: float = 0.02,
    parameters: Parameters | None = None,
) -> TrafficVerdict | None:
    """Judge parts of two minutes, the newest first."""
    parts = [WindowPart(120, each, usual, source) for each in requests]
    return judge_traffic(parts, baseline(dispersion), parameters or Parameters())


class TestTails:
    @given(st.floats(0.5, 200), st.floats(1e-4, 2))
    def test_the_two_tails_add_up(self, mean: float, dispersion: float) -> None:
        for count in (0, int(mean / 2), int(mean)):
            if count < mean <= count + 1:
                below = lower_tail(count, mean, dispersion)
                above = upper_tail(count + 1, mean, dispersion)
                if above < 1 and below < 1:
                    assert below + above == pytest.approx(1, abs=1e-6)

    def test_silence_has_the_probability_of_no_request(self) -> None:
        assert lower_tail(0, 20, 0.1) == pytest.approx(3.0**-10)

    def test_without_dispersion_it_is_the_poisson_distribution(self) -> None:
        # P(K <= 2) for a mean of 10: e^-10 (1 + 10 + 50).
        assert lower_tail(2, 10, 0) == pytest.approx(2.7694e-3, rel=1e-3)

    @given(st.floats(1, 500), st.floats(0, 3))
    def test_fewer_requests_are_less_likely(self, mean: float, dispersion: float) -> None:
        tails = [lower_tail(count, mean, dispersion) for count in range(0, int(mean), max(1, int(mean) // 10))]
        assert all(one <= other for one, other in pairwise(tails))
        assert all(0 <= tail <= 1 for tail in tails)

    @given(st.integers(0, 9), st.floats(0.01, 1), st.floats(0.01, 1))
    def test_a_larger_dispersion_makes_silence_likelier(self, count: int, one: float, other: float) -> None:
        smaller, larger = sorted((one, other))
        assert lower_tail(0, 50 + count, smaller) <= lower_tail(0, 50 + count, larger)


class TestVerdict:
    def test_a_drop_to_a_tenth_is_found(self) -> None:
        found = judge(1, 1, 0)
        assert found is not None
        assert (found.is_changed, found.persists, found.is_certain) == (True, True, True)
        assert str(found.evidence).startswith("2 requests in 6 minutes, 8.3 % of the usual traffic, which is 24")

    def test_silence_is_found(self) -> None:
        found = judge(0, 0, 0)
        assert found is not None
        assert found.is_changed
        assert str(found.evidence).startswith("no requests in 6 minutes")

    def test_usual_traffic_is_none(self) -> None:
        found = judge(7, 9, 8)
        assert found is not None
        assert (found.is_changed, found.persists) == (False, False)

    def test_more_than_half_of_the_usual_is_none_however_certain(self) -> None:
        found = judge(5200, 5200, 5200, usual=10_000, dispersion=0)
        assert found is not None
        assert not found.is_changed

    def test_the_drop_of_a_restless_endpoint_is_chance(self) -> None:
        found = judge(1, 1, 0, dispersion=1.0)
        assert found is not None
        assert not found.is_changed

    def test_the_window_reaches_back_until_enough_requests_are_usual(self) -> None:
        found = judge(*[0] * 10, usual=2.5)
        assert found is not None
        assert found.evidence.seconds == 8 * 120

    def test_too_few_usual_requests_in_the_longest_window_have_no_verdict(self) -> None:
        assert judge(*[0] * 60, usual=0.6) is None

    def test_a_window_that_was_not_read_whole_has_no_verdict(self) -> None:
        assert judge(0, 0) is None

    def test_requests_that_come_again_end_it(self) -> None:
        found = judge(8, 0, 0)
        assert found is not None
        assert not found.persists

    def test_a_source_that_lost_as_much_explains_it(self) -> None:
        found = judge(400, 400, 400, usual=1000, source=0.4)
        assert found is not None
        assert (found.is_changed, found.is_certain) == (False, True)
        assert "the source has 40 % of its usual traffic" in str(found.evidence)

    def test_without_a_source_a_drop_cannot_be_seen(self) -> None:
        found = judge(0, 0, 0, source=0.0)
        assert found is not None
        assert (found.is_changed, found.is_certain) == (False, False)

    def test_a_rise_flags_only_if_that_is_wanted(self) -> None:
        plain, wanted = judge(40, 40, 40), judge(40, 40, 40, parameters=Parameters(traffic_surge=3.0))
        assert plain is not None
        assert wanted is not None
        assert (plain.is_changed, wanted.is_changed, wanted.persists) == (False, True, True)
        assert "5 times the usual traffic" in str(plain.evidence)

    @given(st.lists(st.integers(0, 4000), min_size=3, max_size=3))
    def test_sampling_by_half_never_turns_a_drop_into_a_rise(self, requests: list[int]) -> None:
        whole = judge(*requests, usual=1000)
        half = judge(*[each / 2 for each in requests], usual=500)
        assert whole is not None
        assert half is not None
        assert whole.evidence.ratio == pytest.approx(half.evidence.ratio)
        assert whole.persists == half.persists


class TestSource:
    def test_all_series_fall(self) -> None:
        found = source_traffic([(10, 100, 0.02)] * 8)
        assert found is not None
        assert found.ratio == pytest.approx(0.1)
        assert found.is_lost

    def test_a_busy_series_that_falls_silent_is_not_the_source(self) -> None:
        found = source_traffic([(0, 100_000, 0.02), *[(100, 100, 0.02)] * 7])
        assert found is not None
        assert (found.ratio, found.is_lost) == (1, False)

    def test_most_of_few_series_that_fall_silent_are_not_the_source(self) -> None:
        found = source_traffic([(0, 100, 0.02)] * 3 + [(100, 100, 0.02)])
        assert found is not None
        assert not found.is_lost

    def test_busy_series_that_call_one_another_are_not_the_source_while_others_have_their_traffic(self) -> None:
        chain = [(0, 100, 0.02)] * 5
        found = source_traffic([*chain, *[(4, 4, 0.02)] * 10])
        assert found is not None
        assert (found.ratio, found.is_lost) == (1, False)
        for others in ([(1, 4, 0.02)] * 10, [(4, 4, 2.0)] * 4, [(4, 4, 0.02)] * 4):
            found = source_traffic([*chain, *others])
            assert found is not None
            assert found.is_lost

    def test_the_source_has_lost_no_more_than_the_others_lack(self) -> None:
        chain = [(10, 100, 0.02)] * 5
        found = source_traffic([*chain, *[(26, 40, 0.0)] * 2, *[(6, 10, 0.0)] * 20])
        assert found is not None
        assert found.ratio == pytest.approx(0.6)
        assert found.is_lost
        # So few others may have that little traffic by chance.
        found = source_traffic([*chain, *[(2, 3, 0.02)] * 10])
        assert found is not None
        assert found.ratio == pytest.approx(2 / 3)
        assert not found.is_lost

    def test_restless_series_say_nothing(self) -> None:
        found = source_traffic([(60, 100, 2.0)] * 5)
        assert found is not None
        assert not found.is_lost

    def test_one_series_or_little_traffic_has_none(self) -> None:
        assert source_traffic([(0, 1000, 0.02)]) is None
        assert source_traffic([(0, 19, 0.02)] * 50) is None

    def test_hours_in_which_the_source_lost_its_traffic_are_left_out(self) -> None:
        starts = [MONDAY + day * 24 * HOUR_SECONDS for day in range(5)]
        windows = [
            (CLOCK.hour(start), SourceWindow(start, start + HOUR_SECONDS, requests, 1.0))
            for start, requests in zip(starts, (100, 110, 20, 90, 100), strict=True)
        ]
        assert [source.hour.start for source in source_hours(windows, 24 * HOUR_SECONDS)] == [
            start for index, start in enumerate(starts) if index != 2
        ]

    def test_hours_that_were_read_in_part_or_with_unknown_coverage_are_left_out(self) -> None:
        half = HOUR_SECONDS // 2
        windows = [
            (CLOCK.hour(MONDAY), SourceWindow(MONDAY, MONDAY + half, 10, 1.0)),
            (
                CLOCK.hour(MONDAY + HOUR_SECONDS),
                SourceWindow(MONDAY + HOUR_SECONDS, MONDAY + 2 * HOUR_SECONDS, 10, None),
            ),
        ]
        assert source_hours(windows, 24 * HOUR_SECONDS) == ()
