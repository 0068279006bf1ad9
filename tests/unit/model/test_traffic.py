"""Traffic: how many requests there were, from what was read, counted, and covered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.traffic import Certainty, window_traffic


@pytest.mark.parametrize(
    ("read", "counted", "coverage", "expected"),
    [
        (12, None, 1.0, (12, Certainty.EXACT)),
        (0, None, 1.0, (0, Certainty.EXACT)),
        (12, None, 0.25, (48, Certainty.ESTIMATED)),
        (0, None, 0.25, (0, Certainty.ESTIMATED)),
        (12, None, None, (None, Certainty.UNKNOWN)),
        (12, None, 0.0, (None, Certainty.UNKNOWN)),
        (12, 50, 0.25, (50, Certainty.EXACT)),
        (12, 50, None, (50, Certainty.EXACT)),
        # Tempo has counted less than there is.
        (12, 5, 1.0, (12, Certainty.EXACT)),
    ],
)
def test_traffic(read: int, counted: int | None, coverage: float | None, expected: object) -> None:
    assert window_traffic(read, counted, coverage) == expected


@given(st.integers(0, 10**6), st.none() | st.integers(0, 10**7), st.none() | st.floats(0, 1))
def test_traffic_is_never_less_than_what_was_read(read: int, counted: int | None, coverage: float | None) -> None:
    requests, certainty = window_traffic(read, counted, coverage)
    assert (requests is None) == (certainty is Certainty.UNKNOWN)
    assert requests is None or requests >= read
