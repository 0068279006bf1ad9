"""Overrides of the detection settings: which one decides, and what a series is judged by."""

import pickle
from typing import Any

import pytest

from exporter.baseline.levels import FallbackRules
from exporter.detection.detector import Detector
from exporter.detection.parameters import Parameters
from exporter.detection.policy import Override, OverrideValue, SeriesPolicies, SeriesPolicy
from exporter.detection.replay import Replay
from exporter.model.calendar import Calendar, HourClock
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey
from tests.support.detection_traffic import MONDAY_HOUR, traffic

RULES, PARAMETERS = FallbackRules(), Parameters()
CART, PAY = SeriesKey("shop", "GET /cart"), SeriesKey("shop", "POST /pay")
CLOCK = HourClock(Calendar())


def value(field: str, given: Any) -> OverrideValue:
    return OverrideValue(field, str(given), field, given)


def override(match: str, **fields: Any) -> Override:
    return Override(Pattern(match), tuple(value(name, given) for name, given in fields.items()))


def policies(*overrides: Override) -> SeriesPolicies:
    return SeriesPolicies(overrides, RULES, PARAMETERS)


def policy(key: SeriesKey, *overrides: Override) -> SeriesPolicy:
    found = policies(*overrides).of(key)
    assert found is not None
    return found


def test_the_first_match_that_has_a_key_decides_it() -> None:
    found = policy(
        PAY,
        override("^other/", ratio=9.0),
        override("^shop/POST ", ratio=2.0, severity="critical"),
        override("^shop/", ratio=3.0, swing=4.0, is_enabled=False),
    )
    assert (found.parameters.ratio, found.parameters.swing) == (2.0, 4.0)
    assert (found.is_enabled, found.severity) == (False, "critical")
    assert [str(each) for each in found.applied] == [
        "ratio 2.0, by overrides[1]",
        "severity critical, by overrides[1]",
        "swing 4.0, by overrides[2]",
        "is_enabled False, by overrides[2]",
    ]


def test_a_series_without_a_match_has_no_policy() -> None:
    assert policies(override("^shop/POST ", ratio=2.0)).of(CART) is None


def test_series_with_the_same_overrides_share_one_policy() -> None:
    both = policies(override("^shop/", ratio=2.0))
    assert both.of(CART) is both.of(PAY)


def test_labels_can_be_matched_and_need_not_be() -> None:
    labelled = PAY._replace(labels=(("env", "test"),))
    assert policy(labelled, override("pay$", ratio=2.0)).parameters.ratio == 2.0
    (by_label,) = policy(labelled, override('env="test"', ratio=3.0)).applied
    assert by_label.text == "3.0"
    assert policies(override('env="test"', ratio=3.0)).of(PAY) is None


def test_lookback_is_a_rule_of_the_baseline() -> None:
    found = policy(PAY, override("pay", lookback_seconds=86_400))
    assert (found.rules.lookback_seconds, found.rules.min_samples) == (86_400, RULES.min_samples)


def test_windows_of_two_overrides_fit() -> None:
    found = policy(PAY, override("pay", window_seconds=1200), override("shop", max_window_seconds=600))
    assert (found.parameters.window_seconds, found.parameters.max_window_seconds) == (1200, 1200)


def test_traces_are_kept_as_long_as_those_of_other_series() -> None:
    found = policy(PAY, override("pay", window_seconds=60, max_window_seconds=120))
    assert (found.kept.window_seconds, found.kept.max_window_seconds) == (300, 3600)


def test_it_survives_the_way_to_a_worker_process() -> None:
    here = policies(override("pay", ratio=2.0))
    here.of(PAY)
    there = pickle.loads(pickle.dumps(here))
    assert there.of(PAY) == here.of(PAY)
    assert (there.of(CART), repr(there)) == (None, repr(here))
    detector = pickle.loads(pickle.dumps(Detector(RULES, PARAMETERS, CLOCK, policies=here)))
    assert detector.of(PAY).parameters.ratio == 2.0


def test_other_overrides_have_another_representation() -> None:
    """Stored baseline tables are recognized by it."""
    assert repr(policies(override("pay", ratio=2.0))) != repr(policies(override("pay", ratio=3.0)))


@pytest.mark.parametrize("ratio", [1.4, 5.0])
def test_a_series_is_judged_as_with_these_settings_for_all(ratio: float) -> None:
    made = traffic(1, 3, 40, {(50.3, 50.9): 3.0})
    replays = []
    for detector in (
        Detector(RULES, Parameters(ratio=ratio), CLOCK),
        Detector(RULES, PARAMETERS, CLOCK, policies=policies(override("cart", ratio=ratio))).of(CART),
    ):
        replay = Replay(detector, tick_seconds=60)
        for hour, requests in made.items():
            replay.add_hour(CLOCK.hour((MONDAY_HOUR + hour) * 3600), requests)
        replays.append(replay)
    plain, overridden = replays
    assert overridden.changes == plain.changes
    assert overridden.evaluations == plain.evaluations
    assert bool(plain.changes) is (ratio < 3)


def test_a_disabled_series_never_fires() -> None:
    detector = Detector(RULES, PARAMETERS, CLOCK, policies=policies(override("cart", is_enabled=False)))
    replay = Replay(detector.of(CART), tick_seconds=60)
    for hour, requests in traffic(1, 3, 40, {(50.3, 50.9): 3.0}).items():
        replay.add_hour(CLOCK.hour((MONDAY_HOUR + hour) * 3600), requests)
    assert replay.changes == []
