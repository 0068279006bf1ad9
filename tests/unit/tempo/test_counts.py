"""What Tempo counts, out of whatever body comes."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.span import SeriesKey
from exporter.tempo.counts import Counts, decode_counts_answer


def series(service: str | None, name: str | None, *samples: dict[str, Any]) -> dict[str, Any]:
    labels = [("resource.service.name", service), ("name", name)]
    return {
        "labels": [{"key": key, "value": {"stringValue": value}} for key, value in labels if value is not None],
        "samples": list(samples),
        "exemplars": [{"labels": [], "value": 1}],
    }


def decode(**body: Any) -> Counts:
    return decode_counts_answer(json.dumps(body).encode())


def test_steps_add_up_over_all_series_and_series_over_all_steps() -> None:
    found = decode(
        series=[
            series("a", "x", {"timestampMs": "60000", "value": 3}, {"timestampMs": "120000"}),
            series("b", 'y"\n', {"timestampMs": "60000", "value": 1}, {"timestampMs": 120000, "value": 4}),
        ],
        metrics={},
    )
    assert found == Counts({60: 4, 120: 4}, {SeriesKey("a", "x"): 3, SeriesKey("b", 'y"\n'): 5})
    assert [found.between(0, 60), found.between(60, 120), found.between(0, 120)] == [4, 4, 8]


def test_what_has_no_service_is_counted_and_cannot_be_asked_for() -> None:
    sample = {"timestampMs": "60000", "value": 2}
    found = decode(series=[series("nil", "x", sample), series(None, "x", sample), series("", "x", sample)], metrics={})
    assert (found.ends, found.series) == ({60: 6}, {})


def test_nothing_counted_is_nothing_known() -> None:
    assert not decode(series=[], metrics={"completedJobs": 1}).known
    assert not decode(series=None, metrics={}).known
    assert not decode(series=[series("a", "x", {"timestampMs": "60000"})], metrics={}).known


def test_counts_may_be_of_a_part_only() -> None:
    assert decode(series=[], metrics={}).complete
    assert decode(series=[], metrics={}, status="COMPLETE").complete
    assert not decode(series=[], metrics={}, status="PARTIAL", message="too many series").complete


@pytest.mark.parametrize("value", [-1, 1e300, None, "3x", True, []])
def test_a_count_that_is_none_harms_nothing_else(value: object) -> None:
    body = {"series": [series("a", "x", {"timestampMs": "60000", "value": value})], "metrics": {}}
    try:
        found = decode_counts_answer(json.dumps(body).encode())
    except ValueError:
        return
    assert not found.known or found.ends == {60: 1}


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    with suppress(ValueError):
        decode_counts_answer(body)
