"""Proposals that keep to a budget: which endpoints pay, what is expected later, and how a budget is written."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.backtest.budget import (
    MAX_STEPS,
    Endpoint,
    Proposal,
    parse_budget,
    pattern_of,
    propose,
)
from exporter.backtest.labels import Label
from exporter.backtest.limits import Changes, ErrorLimits, Limits, TrafficLimits, nested
from exporter.backtest.replay import FiringPeriod, SeriesReplay
from exporter.baseline.levels import Baseline, FallbackLevel
from exporter.config.units import parse_duration
from exporter.detection.errors.verdict import ErrorBaseline, ErrorExplanation
from exporter.detection.explanation import Explanation
from exporter.detection.flag import FlagKind
from exporter.detection.small_shift import ShiftTest
from exporter.model.calendar import DayType, Slot
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey

DAY = 86_400
BASE = Limits(1.4, 0.005)
USUAL_SECONDS = 0.1


def explanation(test: ShiftTest = ShiftTest.WINDOW) -> Explanation:
    baseline = Baseline(FallbackLevel.EXACT, Slot(0, DayType.WEEKDAY), True, 9, 900, USUAL_SECONDS, 0.2, 0.02)
    return Explanation(0.5, 100, 60, 50, 0.14, USUAL_SECONDS, 0.3, 1.2, 1e-6, baseline, test)


@dataclass
class FakeEndpoint:
    """An endpoint whose flags have a known ratio: they are raised while the limits are lower.

    Attributes:
        name: its span name.
        ratios: one for each flag, a day apart.
        test: the test that raises them; others than the window do not depend on the ratio.
        start: beginning of its history; its flags are counted from 0 on.
        replays: limits that were replayed.
    """

    name: str
    ratios: Sequence[float]
    test: ShiftTest = ShiftTest.WINDOW
    labels: Sequence[Label] = ()
    overridden: frozenset[str] = frozenset()
    start: int = -7 * DAY
    replays: list[Limits] = field(default_factory=list)

    def replay(self, limits: Limits) -> SeriesReplay:
        periods = [
            FiringPeriod(day * DAY, day * DAY + 600, explanation(self.test))
            for day, ratio in enumerate(self.ratios)
            if ratio > self.least(limits)
        ]
        return SeriesReplay(
            f"shop/{self.name}", 1000, self.start, 28 * DAY, max(0, self.start), 600, 60.0, tuple(periods), (), (), ()
        )

    def least(self, limits: Limits) -> float:
        by_delta = 1 + limits.min_delta_seconds / USUAL_SECONDS
        return max(limits.ratio if self.test is ShiftTest.WINDOW else 1.25, by_delta)

    def endpoint(self) -> Endpoint[Limits]:
        def again(limits: Limits) -> SeriesReplay:
            self.replays.append(limits)
            return self.replay(limits)

        key = SeriesKey("shop", self.name)
        return Endpoint(key, self.replay(BASE), BASE, self.overridden, self.labels, again)


def proposed(budget: str, *endpoints: FakeEndpoint) -> Proposal:
    return propose(
        parse_budget(budget),
        [each.endpoint() for each in endpoints if each.ratios],
        BASE,
        [each.replay(BASE) for each in endpoints],
    )


def seconds_of(text: str) -> float:
    return parse_duration(text).total_seconds()


def values_of(changes: Changes | None) -> tuple[float | None, str | None]:
    values = changes or {}
    ratio, min_delta = values.get("ratio"), values.get("min_delta")
    return None if ratio is None else float(ratio), None if min_delta is None else str(min_delta)


def limits(proposal: Proposal) -> dict[str, tuple[float | None, str | None]]:
    return {each.series: values_of(each.changes) for each in proposal.overrides}


@pytest.mark.parametrize(
    ("text", "flags", "seconds", "per_endpoint"),
    [
        ("2/week", 2, 7 * DAY, False),
        ("1/day", 1, DAY, False),
        ("0.5/month", 0.5, 30 * DAY, False),
        ("10/30d", 10, 30 * DAY, False),
        ("3/12h/endpoint", 3, DAY // 2, True),
    ],
)
def test_budget_is_parsed(text: str, flags: float, seconds: int, per_endpoint: bool) -> None:
    budget = parse_budget(text)
    assert (budget.flags, budget.seconds, budget.per_endpoint) == (flags, seconds, per_endpoint)
    assert budget.allowed(2 * seconds) == 2 * flags


@pytest.mark.parametrize(
    "text",
    ["", "2", "2/", "/week", "x/week", "0/week", "-1/day", "nan/day", "inf/day", "2/fortnight", "2/week/x", "2/0s"],
)
def test_malformed_budget_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="must be a number of flags and a time, such as 2/week"):
        parse_budget(text)


def test_nothing_is_proposed_within_the_budget() -> None:
    quiet = FakeEndpoint("quiet", [2.0, 3.0])
    proposal = proposed("1/week", quiet)
    assert (proposal.flags_before, proposal.flags, proposal.allowed) == (2, 2, 4)
    assert (proposal.overrides, proposal.common, quiet.replays) == ((), None, [])
    assert proposal.is_kept


def test_the_endpoint_with_the_most_flags_pays() -> None:
    loud = FakeEndpoint("loud", [1.5 * 1.2**number for number in range(10)])
    proposal = proposed("1/week", loud, FakeEndpoint("quiet", [9.0]))
    assert list(limits(proposal)) == ["shop/loud"]
    ratio, min_delta = limits(proposal)["shop/loud"]
    # Four are allowed, of which one is that of the other endpoint. The one that is left, the one that the ratio just
    # keeps out, and one that other limits would let through are expected of this one.
    assert ratio is not None
    assert 1.5 * 1.2**8 <= ratio < 1.5 * 1.2**9
    assert min_delta is None
    assert (proposal.flags, proposal.expected) == (2, 4)
    assert proposal.is_kept
    assert proposal.is_expected_to_hold


def test_shifts_that_the_ratio_does_not_affect_raise_the_minimum_difference() -> None:
    proposal = proposed("1/week", FakeEndpoint("small", [1.3 + 0.1 * n for n in range(10)], ShiftTest.LEVEL))
    ((ratio, min_delta),) = limits(proposal).values()
    assert ratio is None
    assert min_delta is not None
    assert 90 <= int(min_delta.removesuffix("ms")) <= 110
    assert proposal.flags <= 4


def test_labelled_incidents_do_not_count() -> None:
    ratios = [5.0] * 10
    known = [Label("shop/loud", day * DAY, day * DAY + 600) for day in range(8)]
    proposal = proposed("1/week", FakeEndpoint("loud", ratios, labels=known))
    assert (proposal.flags_before, proposal.overrides) == (2, ())


def test_each_endpoint_has_a_budget_of_its_own() -> None:
    loud, quiet = FakeEndpoint("loud", [2.0 + n for n in range(9)]), FakeEndpoint("quiet", [9.0] * 4)
    proposal = proposed("1/week/endpoint", loud, quiet)
    assert list(limits(proposal)) == ["shop/loud"]
    (override,) = proposal.overrides
    # A part of the nine is chance, so that limits which leave four are expected to keep to four.
    assert (override.flags_before, override.flags) == (9, 4)
    assert quiet.replays == []


def test_many_flags_of_one_endpoint_are_partly_chance() -> None:
    """Of six endpoints with four flags as a mean, one has seven, which is no more than chance."""
    ratios = [2 * 1.5**n for n in range(7)]
    numbers = [7, 2, 3, 5, 4, 3]
    alike = [FakeEndpoint(f"{position}", ratios[:number]) for position, number in enumerate(numbers)]
    alone = FakeEndpoint("0", ratios)
    (with_others, _), (by_itself, _) = (
        limits(proposal)["shop/0"]
        for proposal in (
            proposed("1/week/endpoint", *alike),
            proposed("1/week/endpoint", alone, *[FakeEndpoint(f"quiet {n}", []) for n in range(5)]),
        )
    )
    assert with_others is not None
    assert by_itself is not None
    assert with_others < by_itself


def test_limits_lie_between_those_of_two_numbers_of_flags() -> None:
    """One and a half of three flags with far apart ratios are allowed."""
    endpoint = FakeEndpoint("x", [2.0, 4.0, 8.0, 16.0]).endpoint()
    endpoint.climb()
    one, between, two = (endpoint.steps[endpoint.chosen(cap)].limits.ratio for cap in (1, 1.5, 2))
    assert two < between < one
    assert endpoint.expected(1) < endpoint.expected(1.5) < endpoint.expected(2)


def test_endpoint_with_a_short_history_has_a_higher_rate() -> None:
    """Six flags in four weeks are fewer than six in two."""
    flags = [2.0 + n for n in range(6)]
    long, short = FakeEndpoint("long", flags), FakeEndpoint("short", flags, start=14 * DAY)
    assert proposed("1/week", long, short).seconds == pytest.approx(12 / (6 / 28 + 6 / 14) * DAY, abs=1)
    assert list(limits(proposed("2/week/endpoint", long, short))) == ["shop/short"]


def test_many_endpoints_with_one_flag_each_raise_the_limits_of_all() -> None:
    """Limits of their own would only silence those whose flag happened to be in the history."""
    endpoints = [FakeEndpoint(f"{number:02}", [1.5 + 0.1 * number]) for number in range(20)]
    proposal = proposed("1/week", *endpoints)
    ratio, min_delta = values_of(proposal.common)
    assert ratio is not None
    assert min_delta is not None
    assert 3.1 <= ratio < 3.4
    assert seconds_of(min_delta) > BASE.min_delta_seconds
    assert proposal.flags <= proposal.expected <= 4
    assert proposal.overrides == ()


def test_limits_of_all_do_not_replace_present_overrides() -> None:
    endpoints = [FakeEndpoint(f"{number:02}", [1.5 + 0.1 * number]) for number in range(20)]
    own = FakeEndpoint("own", [1.9], overridden=frozenset({"ratio", "min_delta"}))
    proposal = proposed("1/week", *endpoints, own)
    assert all(limits == BASE for limits in own.replays[:1])
    assert proposal.flags <= 4


def test_budget_that_no_limits_keep_is_reported() -> None:
    endpoint = FakeEndpoint("broken", [1e9] * 20)
    proposal = proposed("1/month", endpoint)
    assert not proposal.is_kept
    assert not proposal.is_expected_to_hold
    assert proposal.flags == 20
    assert len(endpoint.replays) <= 2 * MAX_STEPS


RATIOS = st.lists(st.floats(1.41, 20.0), min_size=1, max_size=8)


@settings(max_examples=20)
@given(st.lists(RATIOS, min_size=1, max_size=6), st.sampled_from(["1/week", "2/week", "1/month", "1/week/endpoint"]))
def test_flags_with_the_proposed_limits_are_those_of_a_replay(ratios: list[list[float]], budget: str) -> None:
    endpoints = [FakeEndpoint(f"{number}", each) for number, each in enumerate(ratios)]
    proposal = proposed(budget, *endpoints)
    for_all = values_of(proposal.common)
    common = Limits(for_all[0] or BASE.ratio, seconds_of(for_all[1]) if for_all[1] else BASE.min_delta_seconds)
    left = 0
    for endpoint in endpoints:
        ratio, min_delta = limits(proposal).get(f"shop/{endpoint.name}", (None, None))
        own = Limits(ratio or common.ratio, seconds_of(min_delta) if min_delta else common.min_delta_seconds)
        left += len(endpoint.replay(own).firing_periods)
    assert left == proposal.flags
    assert proposal.is_kept
    if not proposal.budget.per_endpoint:
        assert left <= proposal.allowed
    assert proposed(budget, *reversed(endpoints)) == proposal


@given(st.lists(st.floats(1.41, 20.0), min_size=2, max_size=20, unique=True), st.integers(0, 20))
def test_expected_flags_leave_out_the_flag_that_decides(ratios: list[float], cap: int) -> None:
    """With peaks of its own kind, each of the highest ``cap + 1`` would be flagged without itself in the history."""
    endpoint = FakeEndpoint("x", ratios).endpoint()
    endpoint.climb()
    left = len(endpoint.steps[endpoint.chosen(cap)].episodes)
    assert left <= cap
    assert left <= endpoint.expected(cap) <= cap + 1


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(NAMES, NAMES, NAMES)
def test_pattern_matches_its_series_only(service_name: str, span_name: str, other: str) -> None:
    key = SeriesKey(service_name, span_name)
    pattern = Pattern(pattern_of(key))
    assert pattern.search(key.text)
    assert pattern.search(other) is (other == key.text)
    assert pattern_of(key).isprintable()


def test_pattern_of_a_series_with_labels_includes_them() -> None:
    key = SeriesKey("shop", "GET /", (("env", "a.b"),))
    pattern = Pattern(pattern_of(key))
    assert [pattern.search(text) for text in key.matched_texts] == [False, True]
    assert not pattern.search('shop/GET /{env="axb"}')


class TestOtherKinds:
    """Limits of errors and traffic climb their own ladders."""

    def test_a_smaller_drop_is_wanted_of_an_endpoint_whose_traffic_often_drops(self) -> None:
        def replay(limits: TrafficLimits) -> SeriesReplay:
            # The traffic of day n falls to n percent of the usual.
            periods = [
                FiringPeriod(day * DAY, day * DAY + 600, None, kind=FlagKind.TRAFFIC)
                for day in range(28)
                if day / 100 < limits.drop
            ]
            return SeriesReplay(
                "shop/x", 1000, -7 * DAY, 28 * DAY, 0, 600, 60.0, (), (), (), (), traffic_periods=tuple(periods)
            )

        base = TrafficLimits(0.5)
        key = SeriesKey("shop", "x")
        endpoint = Endpoint(key, replay(base), base, frozenset(), (), replay)
        proposal = propose(parse_budget("2/week"), [endpoint], base, [replay(base)])
        (override,) = proposal.overrides
        assert (proposal.kind, override.flags_before) == (FlagKind.TRAFFIC, 28)
        assert nested(override.changes) == {"traffic": {"drop": override.changes["traffic.drop"]}}
        assert 0.05 <= float(override.changes["traffic.drop"]) <= 0.08
        assert override.flags == len(replay(TrafficLimits(float(override.changes["traffic.drop"]))).traffic_periods)

    def test_what_decides_the_limit_of_errors_is_raised(self) -> None:
        first = ErrorLimits(2.0, 0.02)

        def episode(usual: float) -> list[FiringPeriod]:
            baseline = ErrorBaseline(FallbackLevel.EXACT, Slot(0, DayType.WEEKDAY), 9, 1000, round(1000 * usual))
            evidence = ErrorExplanation(100, 30, 5, usual, 0.1, 0.0, 1e-9, usual, baseline)
            return [FiringPeriod(0, 600, evidence, kind=FlagKind.ERRORS)]

        rare, common = first.raised(8, [episode(0.0)], first), first.raised(8, [episode(0.1)], first)
        assert (rare.ratio, common.min_delta) == (first.ratio, first.min_delta)
        assert rare.min_delta == pytest.approx(0.04, rel=0.01)
        assert common.ratio == pytest.approx(4.0, rel=0.01)

    @given(st.integers(1, MAX_STEPS), st.floats(0.01, 0.99), st.floats(1.1, 20.0), st.floats(0.0, 0.99))
    def test_common_limits_never_fall(self, step: int, drop: float, ratio: float, min_delta: float) -> None:
        assert 0 < TrafficLimits(drop).scaled(step).drop <= drop
        scaled = ErrorLimits(ratio, min_delta).scaled(step)
        assert (scaled.ratio, scaled.min_delta) >= (ratio, min_delta)
