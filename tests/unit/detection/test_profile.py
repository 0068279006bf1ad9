"""Pattern within the hour: what is learned, and by how much it raises thresholds."""

import pytest

from exporter.detection.profile import deviations_from_hours_around, highest, minutes_of, pattern_of_hour, raised_at
from exporter.model.calendar import DayType, LocalHour, Slot
from exporter.model.deviations import MARKS, deviations_of, encode_deviations
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import encode_digest
from exporter.model.hour_evaluation import HourEvaluation, HourProfile
from exporter.model.hours import SeriesHours
from exporter.model.series_hour import SeriesHour, StoredWindow

HOUR = 1_767_571_200
SLOT = Slot(0, DayType.WEEKDAY)
SWINGS = (1, 1) * 9
PROFILE = ((32,) + (0,) * 10 + (8,), (16, 4) + (0,) * 10, (0,) * 12)


def hours(number: int, at_first_mark: int, *, quarantined: bool = False, begin: int = 0) -> list[SeriesHour]:
    deviations = encode_deviations([at_first_mark] + [1] * (MARKS - 1))
    found = []
    for index in range(begin, begin + number):
        local_hour = LocalHour(HOUR + 3600 * index, HOUR + 3600 * (index + 1), SLOT, 1)
        evaluation = HourEvaluation(quarantined, SWINGS, deviations)
        found.append(SeriesHour(local_hour, [StoredWindow(local_hour.start, 1, b"")], evaluation))
    return found


def test_pattern_is_the_median_over_hours_that_are_not_quarantined() -> None:
    history = SeriesHours(hours(13, 40) + hours(9, 0, begin=13) + hours(9, 0, quarantined=True, begin=22))
    # Higher quantiles, which nothing is known of here, have the pattern of the median.
    assert history.profile(HOUR + 40 * 3600, 12) == ((40, *[0] * 11),) * 3
    assert history.profile(HOUR + 40 * 3600, 12, inherit=False) == ((40, *[0] * 11), (0,) * 12, (0,) * 12)
    assert history.profile(HOUR + 40 * 3600, 30) == ()


def test_hours_from_the_given_instant_on_do_not_count_and_released_ones_do() -> None:
    history = SeriesHours(hours(6, 40) + hours(6, 40, quarantined=True, begin=6) + hours(20, 0, begin=12))
    until = HOUR + 12 * 3600
    assert history.profile(until, 12) == ()
    released = [hour for hour in history if hour.evaluation.quarantined]
    assert history.profile(until, 12, released)[0][0] == 40
    # Asking changes nothing.
    assert history.profile(HOUR + 40 * 3600, 12) == ()
    assert history.profile(until, 6)[0][0] == 40


def test_small_deviations_are_no_pattern() -> None:
    assert SeriesHours(hours(20, 4)).profile(HOUR + 40 * 3600, 12) == ()
    assert SeriesHours(hours(20, 5)).profile(HOUR + 40 * 3600, 12)[0][0] == 5


@pytest.mark.parametrize(
    ("first", "last", "raised"),
    [
        (1, 300, (32, 16, 0)),
        (300, 301, (32, 16, 0)),
        (301, 600, (0, 4, 0)),
        (601, 3000, (0, 0, 0)),
        (3300, 3301, (8, 0, 0)),
        (3301, 3600, (8, 0, 0)),
        (3301, 3601, (32, 16, 0)),
        (1200, 4500, (32, 16, 0)),
        (-3000, 3600, (32, 16, 0)),
    ],
)
def test_thresholds_are_raised_by_the_highest_mark_of_the_window(
    first: int, last: int, raised: tuple[int, ...]
) -> None:
    for hours_later in (0, 5):
        shift = HOUR + 3600 * hours_later
        assert raised_at(PROFILE, HOUR, shift + first, shift + last) == raised
    assert raised_at((), HOUR, first, last) == (0, 0, 0)


def test_minutes_are_those_of_the_marks() -> None:
    assert minutes_of(PROFILE, 0) == ((0, 5), (55, 60))
    assert minutes_of(PROFILE, 1) == ((0, 10),)
    assert minutes_of(PROFILE, 2) == minutes_of((), 0) == ()


def test_pattern_of_an_hour_of_the_day_needs_few_days_but_large_deviations() -> None:
    def pattern(*number_and_deviation: tuple[int, int]) -> HourProfile:
        return pattern_of_hour(
            [hour.evaluation.deviations for each in number_and_deviation for hour in hours(*each)], inherit=False
        )

    assert pattern((3, 40)) == ((40, *[0] * 11), (0,) * 12, (0,) * 12)
    assert pattern((2, 40)) == ()
    assert pattern((3, 12)) == ()
    assert pattern((2, 40), (3, 0)) == ()
    assert pattern() == ()


def test_deviations_from_a_baseline_with_the_batch_are_raised_by_what_the_hour_exceeds_its_neighbours() -> None:
    day_hours = {2: -200, 3: -168, 4: -200}
    history = SeriesHours()
    for day in range(5):
        for hour_of_day, bucket in day_hours.items():
            start = HOUR + 86_400 * day + 3600 * hour_of_day
            local_hour = LocalHour(start, start + 3600, Slot(hour_of_day, DayType.WEEKDAY), day)
            window = StoredWindow(start, 50, encode_digest(Digest({bucket: 50})))
            evaluation = HourEvaluation(swings=SWINGS, deviations=encode_deviations([32 if day < 3 else 0] + [0] * 11))
            history.append(SeriesHour(local_hour, [window], evaluation))
    same_hour = history.of_slots([Slot(3, DayType.WEEKDAY)], HOUR + 86_400 * 6)
    found = deviations_from_hours_around(history, same_hour)
    # The first three days were compared with the hours around, the others with days that contain the batch.
    assert [deviations_of(each, 0)[0] for each in found] == [32] * 5
    assert pattern_of_hour(found)[0][0] == 32


def test_the_higher_of_two_patterns_counts() -> None:
    other = ((0,) * 12, (20, 20) + (0,) * 10, (0,) * 12)
    assert highest(PROFILE, other) == (PROFILE[0], (20, 20) + (0,) * 10, (0,) * 12)
    assert highest(PROFILE, ()) == highest((), PROFILE) == PROFILE
    assert highest((), ()) == ()
