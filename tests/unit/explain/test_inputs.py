"""Parsing of instants, the same for the command line and the API."""

from datetime import UTC
from zoneinfo import ZoneInfo

import pytest

from exporter.explain.inputs import parse_instant
from tests.support.samples import HOUR, NOON

BERLIN = ZoneInfo("Europe/Berlin")
NOW = NOON + 0.5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-17T12:00:00Z", NOON),
        ("2026-11-17T12:00Z", NOON),
        ("2026-11-17t12:00:00.25z", NOON + 0.25),
        ("2026-11-17 12:00+00:00", NOON),
        ("2026-11-17T07:00:00-05:00", NOON),
        # A plus sign in a URL that was not encoded.
        ("2026-11-17T13:00:00 01:00", NOON),
        # Local time: UTC+1 in winter, UTC+2 in summer.
        ("2026-11-17T13:00", NOON),
        (" 2026-11-17 13:00:00 ", NOON),
        ("2026-11-17", NOON - 13 * HOUR),
        ("2026-07-17", 1784239200),
        # The first occurs twice that night. The second never occurs: clocks go from 02:00 to 03:00.
        ("2026-10-25T02:30", 1792888200),
        ("2026-03-29T02:30", 1774747800),
        (str(NOON), NOON),
        (f"{NOON}.75", NOON + 0.75),
        ("now", NOW),
    ],
)
def test_valid_instants(text: str, seconds: float) -> None:
    assert parse_instant(text, BERLIN, NOW) == seconds


@pytest.mark.parametrize(
    "text", ["", "noon", "12:00", "2026-11-17T12", "2026-13-17T12:00Z", "20261117T120000Z", "1e9", "Now", "2026-W01"]
)
def test_invalid_instants(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a time such as .* now, not "):
        parse_instant(text, UTC, NOW)


@pytest.mark.parametrize("text", ["-1", "1795532340000", "9999-12-31T23:59:59-23:59", "1969-12-31", "2101-01-01T00:00"])
def test_instants_out_of_range(text: str) -> None:
    with pytest.raises(ValueError, match="must lie between 1970 and 2100"):
        parse_instant(text, UTC, NOW)
