"""Durations in the notation of Prometheus."""

from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.config.units import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("90s", 90),
        ("15m", 900),
        ("168h", 604_800),
        ("7d", 604_800),
        ("1w", 604_800),
        ("1y", 31_536_000),
        ("1ms", 0.001),
        ("5m5ms", 300.005),
        ("1h30m", 5400),
        ("1d2h3m4s5ms", 93_784.005),
        ("007s", 7),
    ],
)
def test_parses_the_notation_of_prometheus(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", " ", "s", "-5m", "+5m", "1.5h", "5 m", "5m ", "5M", "30m1h", "1h1h", "1h30", "5min", "٥m", "5m\n", "x"]
)
def test_refuses_any_other_text(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration such as 90s"):
        parse_duration(text)


def test_a_number_without_a_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a unit, such as s, m, h or d, not '90'"):
        parse_duration("90")


@pytest.mark.parametrize("text", ["9999999999d", "9" * 5000 + "s"])
def test_a_duration_that_overflows_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is too long"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(), "0s"),
        (timedelta(milliseconds=250), "250ms"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(hours=24), "1d"),
        (timedelta(days=28), "28d"),
        (timedelta(days=400, hours=1), "400d1h"),
        (timedelta(microseconds=1600), "2ms"),
        (timedelta(microseconds=999_900), "1s"),
    ],
)
def test_formats_with_the_largest_units_up_to_days(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text


def test_a_negative_duration_cannot_be_formatted() -> None:
    with pytest.raises(ValueError, match="negative"):
        format_duration(timedelta(seconds=-1))


@given(st.integers(min_value=0, max_value=10**15))
def test_parses_what_it_formats(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration


@example("300000y1ms")
@given(st.text(max_size=20) | st.from_regex(r"([0-9]{1,12}(y|w|d|h|m|s|ms)){1,8}", fullmatch=True))
def test_any_text_is_a_duration_or_raises_value_error(text: str) -> None:
    try:
        duration = parse_duration(text)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert parse_duration(format_duration(duration)) == duration
