"""What people read about a regression."""

from zoneinfo import ZoneInfo

import pytest

from exporter.evaluation.snapshot import SeriesStatus
from exporter.explain.document import series_document
from exporter.explain.words import regression_sentence
from exporter.model.calendar import Calendar
from tests.support.samples import DAY, HOUR, KEY, NOON, REGRESSION


def test_sentence_says_since_when_by_how_much_and_how_certain() -> None:
    assert regression_sentence(REGRESSION, Calendar().local) == (
        "Since Sunday 2026-11-15 10:00–12:00 UTC its latency level (p20, median and p90 together) is higher than in "
        "the weeks before: in the last 24 hours 1.25 × that of the same hours, whose median was 200 ms (when it was "
        "found, 6.5 times as far off as such means usually are)."
    )


def test_sentence_has_local_times_and_names_both_days_of_a_long_interval() -> None:
    long = REGRESSION._replace(quantile=0.9, began_before=REGRESSION.began_after + 2 * DAY + 3 * HOUR)
    text = regression_sentence(long, Calendar(ZoneInfo("Asia/Tokyo")).local)
    assert text.startswith(
        "Since a time between Sunday 2026-11-15 19:00 and Tuesday 2026-11-17 22:00 JST its p90 is higher than in the "
        "weeks before: in the last 24 hours 1.25 × the 200 ms of the same hours (when"
    )


@pytest.mark.parametrize(("regressed", "regression"), [(None, None), (False, None), (True, REGRESSION)])
def test_document_tells_unknown_from_none(regressed: bool | None, regression: object) -> None:
    status = SeriesStatus(KEY, regressed=regressed, regression=REGRESSION if regressed else None)
    document = series_document(status)
    assert document["regressed"] is regressed
    assert (document["regression"] is None) is (regression is None)
    if regressed:
        assert document["regression"] == {
            "raised_at_unix": NOON - DAY,
            "began_after_unix": NOON - 2 * DAY - 2 * HOUR,
            "began_before_unix": NOON - 2 * DAY,
            "quantile": 0.5,
            "ratio": 1.25,
            "before_seconds": 0.2,
            "hours": 24,
            "deviations": 6.5,
            "version_outcome": None,
            "version": None,
            "version_before": None,
        }
