"""Searches divide the spans of a trace so that Tempo leaves none out, and ask for less where that costs too much."""

import logging
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from exporter.runtime.logs import get_logger
from exporter.tempo import ClientSettings, TempoClient, TempoError
from exporter.tempo.client import SearchResult
from exporter.tempo.grouping import MOST_SPAN_SETS
from tests.support.fakes import FrozenClock
from tests.support.samples import events
from tests.support.tempo_server import FakeTempo, Recorder, a_span, a_trace, fake_tempo, replying, search_body

SELECT = " | select(resource.service.name, name, status)"
ENTRY = "{nestedSetParent<0 || kind=server || kind=consumer}"
BY_SPAN, BY_SERVICE = f"{ENTRY} | by(span:id){SELECT}", f"{ENTRY} | by(resource.service.name){SELECT}"
BODY = search_body(a_trace(1))
REFUSAL = replying("invalid TraceQL query: parse error at line 1, col 9: unexpected by", 400, "text/plain")


@pytest.fixture
def tempo() -> Iterator[FakeTempo]:
    with fake_tempo() as server:
        server.answer(replying(BODY))
        yield server


class Searcher:
    def __init__(self, url: str, **settings: str) -> None:
        self.clock = FrozenClock(0, tick=0.001)
        given = ClientSettings(url=url, requests_per_second=10_000, **settings)  # type: ignore[arg-type]
        self._client = TempoClient(
            given, Recorder(), get_logger("tempo"), pause=lambda _: False, monotonic=self.clock.monotonic
        )

    def search(self) -> SearchResult:
        return self._client.search(1_795_077_000, 1_795_077_060, loop="backfill", may_split=True)


def queries(tempo: FakeTempo) -> list[str]:
    return [request.params["q"] for request in tempo.requests]


def test_scope_entry_asks_for_a_span_set_of_each_span_and_scope_root_does_not(tempo: FakeTempo) -> None:
    Searcher(tempo.url).search()
    Searcher(tempo.url, scope="root").search()
    assert queries(tempo) == [BY_SPAN, f"{{nestedSetParent<0}}{SELECT}"]


def test_span_sets_of_a_trace_are_read_together(tempo: FakeTempo) -> None:
    """The same span may be in several sets, where an operator's Tempo stores it twice."""

    def span_set(*numbers: int, matched: int) -> dict[str, object]:
        by = {"key": "by(span:id)", "value": {"stringValue": str(numbers[0])}}
        return {"spans": [a_span(number) for number in numbers], "matched": matched, "attributes": [by]}

    sets = [span_set(1, matched=1), span_set(2, 3, matched=9), span_set(3, matched=1)]
    tempo.answer(replying(search_body(a_trace(1, spanSets=sets, spanSet=sets[0]))))
    result = Searcher(tempo.url).search()
    assert sorted(span.span_id for span in result.spans) == [f"{number:016x}" for number in (1, 2, 3)]
    assert (result.traces, result.duplicates, result.missing, result.largest) == (1, 1, 7, 11)


@pytest.mark.parametrize("refused", [1, 2])
def test_tempo_that_refuses_to_group_is_asked_for_less(
    tempo: FakeTempo, refused: int, caplog: pytest.LogCaptureFixture
) -> None:
    tempo.answer(*[REFUSAL] * refused, replying(BODY))
    searcher = Searcher(tempo.url)
    with caplog.at_level(logging.WARNING):
        results = [searcher.search() for _ in range(3)]
    assert [len(result.spans) for result in results] == [1, 1, 1]
    tried = [BY_SPAN, BY_SERVICE, ENTRY + SELECT]
    assert queries(tempo) == [*tried[:refused], *[tried[refused]] * 3]
    assert events(caplog).count("search_grouping_refused") == 1


def test_query_that_is_refused_in_any_case_is_reported_and_not_blamed_on_grouping(
    tempo: FakeTempo, caplog: pytest.LogCaptureFixture
) -> None:
    tempo.answer(REFUSAL)
    searcher = Searcher(tempo.url)
    with pytest.raises(TempoError, match=r"tempo\.filter"):
        searcher.search()
    tempo.answer(replying(BODY))
    searcher.search()
    assert queries(tempo) == [BY_SPAN, BY_SERVICE, ENTRY + SELECT, BY_SPAN]
    tempo.answer(REFUSAL)
    with pytest.raises(TempoError):
        searcher.search()
    assert len(tempo.requests) == 5
    assert "search_grouping_refused" not in events(caplog)


def test_after_a_very_large_trace_spans_are_grouped_by_service_for_an_hour(
    tempo: FakeTempo, caplog: pytest.LogCaptureFixture
) -> None:
    sets = [{"spans": [a_span(number)], "matched": 1} for number in range(1, MOST_SPAN_SETS + 2)]
    tempo.answer(replying(search_body(a_trace(1, spanSets=sets))), replying(BODY))
    searcher = Searcher(tempo.url)
    with caplog.at_level(logging.INFO):
        assert searcher.search().largest == MOST_SPAN_SETS + 1
        searcher.search()
        searcher.clock.advance(3601)
        searcher.search()
    assert queries(tempo) == [BY_SPAN, BY_SERVICE, BY_SPAN]
    assert events(caplog, logging.INFO).count("search_grouping_coarse") == 1


def test_after_a_search_that_took_too_long_spans_are_grouped_by_service(tempo: FakeTempo) -> None:
    tempo.answer(replying("", HTTPStatus.GATEWAY_TIMEOUT), replying(BODY))
    searcher = Searcher(tempo.url)
    with pytest.raises(TempoError):
        searcher.search()
    searcher.search()
    assert queries(tempo) == [BY_SPAN, BY_SERVICE]
