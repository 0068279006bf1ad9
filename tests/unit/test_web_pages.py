from dataclasses import replace
from html.parser import HTMLParser

import pytest

from exporter import __version__
from exporter.core.span import SeriesKey
from exporter.detector.snapshot import SeriesStatus, Snapshot
from exporter.reading.backfill import BackfillStatus
from exporter.web.http import Request
from exporter.web.pages import StartPage, healthy, ready
from tests.unit.samples import HOSTILE_KEY, KEY, NOON, backfill_status, baseline, explanation, small_snapshot

REQUEST = Request("/", {}, "", accepts_gzip=False)
VOID = {"meta", "br", "input", "img", "link", "hr"}
CLOSED_BY_ITSELF = {"tr", "td", "th"}


class Reader(HTMLParser):
    """Reads a page as a browser would, and refuses one whose elements do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self._html = html
        self._open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID | CLOSED_BY_ITSELF:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in CLOSED_BY_ITSELF:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def read(
    snapshot: Snapshot | None,
    backfill: BackfillStatus | None = None,
    *,
    url: str = "http://tempo:3200",
    now: float = NOON,
) -> Reader:
    response = StartPage(lambda: snapshot, lambda: backfill, url, lambda: now)(REQUEST)
    assert response.content_type == "text/html; charset=utf-8"
    return Reader(response.body.decode("utf-8"))


class TestStartPage:
    def test_what_is_anomalous_since_when_and_why(self) -> None:
        text = read(small_snapshot()).text
        assert "checkout GET /cart" in text
        assert "2026-11-17 11:58:44 UTC" in text
        assert str(explanation()) in text
        assert "No endpoint is slower" not in text

    def test_nothing_is_anomalous(self) -> None:
        quiet = Snapshot(NOON, series=(SeriesStatus(KEY, baseline(), shift=False, score=0.2),))
        assert "No endpoint is slower than usual." in read(quiet).text

    def test_before_anything_is_known_it_does_not_say_that_all_is_well(self) -> None:
        page = read(None, backfill_status())
        assert "No endpoint is slower" not in page.text
        assert "Not known yet" in page.text
        assert "the current traffic has not been read yet" in page.text

    def test_how_long_ago_that_was(self) -> None:
        assert "judged 30 s ago" in read(Snapshot(float(NOON)), now=NOON + 30.9).text
        assert "judged 0 s ago" in read(Snapshot(float(NOON)), now=NOON - 5).text
        assert "has not been read yet" in read(Snapshot(None)).text

    def test_how_far_the_history_is_read(self) -> None:
        page = read(None, backfill_status())
        assert "93% of 168 windows: 120 read, 20 empty, 2 partial, 1 failed, 15 expired, 10 to go." in page.text
        assert ("value", "0.9345") in page.attributes
        assert "Backfill is switched off." in read(None, None).text

    def test_endpoints_with_what_is_known_of_them(self) -> None:
        page = read(small_snapshot())
        assert "Endpoints (3)" in page.text
        assert "200 ms" in page.text
        assert "625 ms" in page.text
        assert "exact hour" in page.text
        assert "everything (learning)" in page.text
        assert "unavailable" in page.text
        assert "–" in page.text

    def test_the_highest_scores_come_first_and_not_all_of_ten_thousand(self) -> None:
        series = tuple(SeriesStatus(SeriesKey("svc", f"GET /{number:03}"), score=number / 100) for number in range(250))
        text = read(Snapshot(NOON, series=series)).text
        assert text.index("GET /249") < text.index("GET /248") < text.index("GET /050")
        assert "GET /049" not in text
        assert "The 200 with the highest score are shown." in text

    @pytest.mark.parametrize("key", [HOSTILE_KEY, SeriesKey("</td></table>", "<img src=x onerror=alert(1)>"),
                                     SeriesKey("&lt;", "' onclick='x\ud800")])  # fmt: skip
    def test_hostile_names_are_only_text(self, key: SeriesKey) -> None:
        status = small_snapshot().series[1]
        harmless = read(Snapshot(NOON, series=(status,)))
        page = read(Snapshot(NOON, series=(replace(status, key=key),)), url='http://x/"><script>')
        assert page.tags == harmless.tags
        assert {name for name, _ in page.attributes} == {name for name, _ in harmless.attributes}
        assert "script" not in page.tags
        for name in key:
            encodable = name.encode("utf-8", "replace").decode()
            assert page.words.count(encodable) >= 1 or encodable in page.text

    def test_it_needs_nothing_from_elsewhere(self) -> None:
        page = read(small_snapshot(), backfill_status())
        links = [value for name, value in page.attributes if name in {"href", "src"}]
        assert links == ["/metrics", "/-/ready", "/-/healthy"]

    def test_it_says_what_it_watches_and_which_version_it_is(self) -> None:
        page = read(None, url="https://tempo.example/prefix")
        assert "https://tempo.example/prefix" in page.text
        assert f"version {__version__}" in page.text


class TestProbes:
    def test_healthy_while_the_process_works(self) -> None:
        assert healthy(REQUEST).status == 200

    def test_ready_once_there_is_a_snapshot(self) -> None:
        assert ready(None).status == 503
        assert b"not ready" in ready(None).body
        assert ready(Snapshot(None)).status == 200
