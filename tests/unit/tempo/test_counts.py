"""Decoding of span counts, from valid and invalid bodies."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.identity import Attribute, SeriesIdentity
from exporter.model.span import SeriesKey
from exporter.tempo.counts import SpanCounts, decode_counts


def series(service: str | None, name: str | None, *samples: dict[str, Any]) -> dict[str, Any]:
    labels = [("resource.service.name", service), ("name", name)]
    return {
        "labels": [{"key": key, "value": {"stringValue": value}} for key, value in labels if value is not None],
        "samples": list(samples),
        "exemplars": [{"labels": [], "value": 1}],
    }


def decode(**body: Any) -> SpanCounts:
    return decode_counts(json.dumps(body).encode())


def test_steps_are_summed_over_series_and_series_over_steps() -> None:
    counts = decode(
        series=[
            series("a", "x", {"timestampMs": "60000", "value": 3}, {"timestampMs": "120000"}),
            series("b", 'y"\n', {"timestampMs": "60000", "value": 1}, {"timestampMs": 120000, "value": 4}),
        ],
        metrics={},
    )
    assert counts == SpanCounts({60: 4, 120: 4}, {SeriesKey("a", "x"): 3, SeriesKey("b", 'y"\n'): 5})
    assert [counts.between(0, 60), counts.between(60, 120), counts.between(0, 120)] == [4, 4, 8]


def test_spans_without_a_service_count_in_steps_but_not_as_a_series() -> None:
    sample = {"timestampMs": "60000", "value": 2}
    counts = decode(series=[series("nil", "x", sample), series(None, "x", sample), series("", "x", sample)], metrics={})
    assert (counts.by_step_end, counts.by_series) == ({60: 6}, {})


def test_counts_are_unknown_when_tempo_counted_nothing() -> None:
    assert not decode(series=[], metrics={"completedJobs": 1}).known
    assert not decode(series=None, metrics={}).known
    assert not decode(series=[series("a", "x", {"timestampMs": "60000"})], metrics={}).known


def test_partial_status_makes_counts_incomplete() -> None:
    assert decode(series=[], metrics={}).complete
    assert decode(series=[], metrics={}, status="COMPLETE").complete
    assert not decode(series=[], metrics={}, status="PARTIAL", message="too many series").complete


@pytest.mark.parametrize("value", [-1, 1e300, None, "3x", True, []])
def test_invalid_count_is_ignored_or_rejected(value: object) -> None:
    body = {"series": [series("a", "x", {"timestampMs": "60000", "value": value})], "metrics": {}}
    try:
        counts = decode_counts(json.dumps(body).encode())
    except ValueError:
        return
    assert not counts.known or counts.by_step_end == {60: 1}


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_body_is_decoded_or_rejected(body: bytes) -> None:
    with suppress(ValueError):
        decode_counts(body)


def test_attributes_decide_the_series() -> None:
    environment, weird = Attribute("resource", "deployment.environment.name"), Attribute("span", "two words")
    identity = SeriesIdentity(((environment,), (weird,)))

    def counted(count: int, **values: Any) -> dict[str, Any]:
        found = series("shop", "GET /", {"timestampMs": "60000", "value": count})
        found["labels"] += [{"key": key, "value": value} for key, value in values.items()]
        return found

    prod = {"resource.deployment.environment.name": {"stringValue": "prod"}}
    body = [
        counted(1, **prod, **{'span."two words"': {"intValue": "5"}}),
        counted(2, **prod, **{"span.two words": {"intValue": "5"}}),
        counted(4, **prod, **{'span."two words"': {"stringValue": "nil"}}),
        counted(8, **{"resource.deployment.environment.name": {"stringValue": "nil"}}),
    ]
    counts = decode_counts(json.dumps({"series": body, "metrics": {}}).encode(), identity)
    env = ("deployment_environment_name", "prod")
    assert counts.by_series == {
        SeriesKey("shop", "GET /", (env, ("two_words", "5"))): 3,
        SeriesKey("shop", "GET /", (env,)): 4,
        SeriesKey("shop", "GET /"): 8,
    }
