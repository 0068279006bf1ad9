"""Alertmanager's silences as marks; what it returns is not trusted."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.evaluation.silences import parse_silences, read_silences
from exporter.evaluation.time_marks import SilencesUnavailableError
from exporter.model.span import SeriesKey
from exporter.model.time_mark import MarkKind, MarkSource

ALERTS = ("TempoAnomalyLatencyShift", "TempoAnomalyLatencyShiftSevere")
KEY = SeriesKey("checkout", "GET /cart", (("env", "prod"),))


def matcher(name: str, value: str, *, is_regex: bool = False, is_equal: bool = True) -> dict[str, Any]:
    return {"name": name, "value": value, "isRegex": is_regex, "isEqual": is_equal}


def silence(*matchers: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {
        "id": "b3b9a1f0",
        "status": {"state": "active"},
        "comment": "load test",
        "createdBy": "ops",
        "startsAt": "2026-11-17T12:00:00.500Z",
        "endsAt": "2026-11-17T14:00:00.000+01:00",
        "updatedAt": "2026-11-17T12:00:00.000Z",
        "matchers": list(matchers),
        **others,
    }


OF_SERVICE = matcher("service_name", "checkout")


def test_silence_of_an_endpoint_is_expected() -> None:
    (mark,) = parse_silences([silence(OF_SERVICE, matcher("span_name", "GET .*", is_regex=True))], ["env"], ALERTS)
    assert (mark.kind, mark.source, mark.id, mark.comment) == (
        MarkKind.EXPECTED,
        MarkSource.ALERTMANAGER,
        "b3b9a1f0",
        "load test",
    )
    assert (mark.end - mark.start, mark.start % 60) == (3600, 0)
    assert mark.selects(KEY)
    assert not mark.selects(KEY._replace(span_name="POST /pay"))


@pytest.mark.parametrize(
    "matchers",
    [
        [matcher("alertname", "TempoAnomalyLatencyShift"), matcher("severity", "critical")],
        [matcher("alertname", "TempoAnomaly.*", is_regex=True)],
        [matcher("env", "prod")],
        [matcher("env", "test", is_equal=False)],
    ],
)
def test_silence_of_the_shift_alert_of_an_endpoint_is_read(matchers: list[dict[str, Any]]) -> None:
    (mark,) = parse_silences([silence(OF_SERVICE, *matchers)], ["env"], ALERTS)
    assert mark.selects(KEY)


@pytest.mark.parametrize(
    "matchers",
    [
        [],
        [matcher("alertname", "TempoAnomalyLatencyShift")],
        [matcher("span_name", "GET /cart")],
        [matcher("service_name", "")],
        [matcher("service_name", "other", is_equal=False)],
        [OF_SERVICE, matcher("alertname", "HighCpu")],
        [OF_SERVICE, matcher("alertname", "TempoAnomalyLatencyRegression")],
        [OF_SERVICE, matcher("instance", "a:9817")],
        [OF_SERVICE, matcher("region", "eu")],
        [matcher("service_name", "(", is_regex=True)],
        [{"name": "service_name"}],
    ],
)
def test_silence_of_anything_else_is_left_out(matchers: list[dict[str, Any]]) -> None:
    assert parse_silences([silence(*matchers)], ["env"], ALERTS) == []


@pytest.mark.parametrize(
    "others",
    [
        {"startsAt": "2026-11-17T15:00:00Z"},
        {"startsAt": "yesterday"},
        {"startsAt": "2026-11-17T12:00:00"},
        {"endsAt": None},
        {"endsAt": "9999-12-31T23:59:59Z", "startsAt": "1960-01-01T00:00:00Z"},
        {"id": ""},
        {"id": "x" * 1000},
        {"matchers": "all"},
    ],
)
def test_malformed_silence_is_left_out(others: dict[str, Any]) -> None:
    assert parse_silences([silence(OF_SERVICE, **others)], [], ALERTS) == []


@given(
    st.lists(
        st.recursive(
            st.none() | st.integers() | st.text(),
            lambda each: st.lists(each) | st.dictionaries(st.text(), each),
            max_leaves=5,
        )
    )
)
def test_any_json_is_survived(document: list[Any]) -> None:
    assert parse_silences(document, [], ALERTS) == []


class Answer(BaseHTTPRequestHandler):
    status, body = 200, b"[]"

    def do_GET(self) -> None:
        assert self.path == "/prefix/api/v2/silences"
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/prefix"
    server.shutdown()
    thread.join()
    server.server_close()


def test_silences_are_read_over_http(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answer, "body", json.dumps([silence(OF_SERVICE), {}, 3]).encode())
    assert len(read_silences(url, 5.0, [], ALERTS)()) == 1


@pytest.mark.parametrize(("status", "body"), [(500, b"[]"), (200, b"<html>"), (200, b"{}"), (200, b"[" * 100_000)])
def test_other_response_is_an_error(url: str, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes) -> None:
    monkeypatch.setattr(Answer, "status", status)
    monkeypatch.setattr(Answer, "body", body)
    with pytest.raises(SilencesUnavailableError, match="/prefix/api/v2/silences"):
        read_silences(url, 5.0, [], ALERTS)()


def test_no_alertmanager_is_an_error() -> None:
    with pytest.raises(SilencesUnavailableError, match="refused"):
        read_silences("http://127.0.0.1:9", 5.0, [], ALERTS)()
