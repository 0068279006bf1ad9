"""The page of a trace: what it shows, how it fails, and that no trace can break it."""

import os
import re
import threading
from dataclasses import replace
from itertools import combinations
from math import dist
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.explain.waterfall import MAX_ROWS
from exporter.model.critical_path import TraceSpan
from exporter.model.histogram_codec import DamagedDigestError
from exporter.store import StoreError
from exporter.tempo import StoppedError, TempoError
from exporter.web.pages.links import TRACE, page_url
from exporter.web.pages.trace import COLOURS, MAX_PAGE_BYTES
from exporter.web.server.workers import WorkerGroup, worker_group
from tests.support.page_reader import Pages, ParsedPage, report
from tests.support.samples import DAY, HOSTILE_KEY, KEY, NOON, NS, baseline, small_snapshot
from tests.unit.model.test_critical_path import traces

GOLDEN = Path(__file__).parent / "golden" / "trace.html"
MS = 1_000_000
ID = f"{0xC0FFEE:032x}"
START = (NOON - 60) * NS


def span(
    span_id: str,
    parent_id: str,
    names: tuple[str, str],
    kind: str,
    begins: float,
    duration: float,
    *,
    error: bool = False,
) -> TraceSpan:
    """A span; times in milliseconds."""
    return TraceSpan(span_id, parent_id, *names, kind, START + round(begins * MS), round(duration * MS), error)


SHOP = [
    span("1", "", KEY[:2], "server", 0, 640),
    span("2", "1", ("checkout", "POST /reserve"), "client", 20, 580),
    span("3", "2", ("stock", "POST /reserve"), "server", 22, 571),
    span("4", "3", ("stock", "SELECT items"), "client", 60, 490, error=True),
    span("5", "1", ("mail", "send receipt"), "consumer", 630, 2100),
    span("6", "lost", ("gateway", "retry"), "server", 100, 50),
]


def wide(count: int, name: str = "GET /api/v1/resource/{id}") -> list[TraceSpan]:
    """A root with many children of a few services, one after the other, some of them with children."""
    root = span("1", "", KEY[:2], "server", 0, count)
    rest = [
        span(f"{n:016x}", "1" if n % 3 else f"{n - 1:016x}", (f"service-{n % 12}", name), "server", n, 0.8)
        for n in range(2, count + 1)
    ]
    return [root, *rest]


def pages(trace: list[TraceSpan] | Exception, snapshot: Snapshot | None = None) -> Pages:
    return Pages(snapshot or small_snapshot(), trace=trace)


def read(found: Pages, **parameters: str) -> ParsedPage:
    return found.read("/trace", page_url("", {"trace_id": "C0FFEE", **parameters})[1:])


def status(page: ParsedPage) -> str:
    return page.response.status.split()[0]


class TestContent:
    def test_page_equals_golden_file(self) -> None:
        """Set UPDATE_GOLDEN=1 to rewrite the golden file, and review the diff before committing it."""
        body = read(replace(pages(SHOP), explore="https://grafana/explore?q={trace_id}")).response.body
        body = re.sub(rb"\?v=[0-9a-f]{8}|version [0-9.]+", b"", body).replace(b"<tr", b"\n<tr")
        if os.environ.get("UPDATE_GOLDEN"):
            GOLDEN.write_bytes(body)
        assert body.decode() == GOLDEN.read_text()

    def test_spans_services_errors_and_oddities(self) -> None:
        page = read(pages(SHOP))
        assert "checkout GET /cart took 640 ms, 89% of it in stock" in page.text
        assert "6 spans of 4 services 1 error" in page.text
        assert "SELECT items error 490 ms" in page.text
        assert "1 span of a parent that was not received" in page.text
        assert "1 span outliving the parent, and not waited for" in page.text
        assert "Not connected 1 span, 100 ms after the start of the root" in page.text
        assert "stock 89% checkout 11%" in page.text

    def test_usual_duration_is_that_of_the_hour_of_the_trace(self) -> None:
        """Within this hour it is the baseline of the snapshot; for another one the history is asked."""
        busy = SeriesStatus(KEY, baseline(0.3, 0.5), 0.6)
        found = pages(SHOP, Snapshot(NOON, series=(busy,)))
        found.reports = {KEY: replace(report(KEY), baseline=baseline(0.7, 0.9), outlier_threshold_seconds=1.0)}
        assert "640 ms own 60 ms 700 ms – 900 ms" in read(found).text
        found.clock.now = NOON + 30
        found.trace = [each._replace(start_ns=each.start_ns + 80 * NS) for each in SHOP]
        page = read(found)
        assert "640 ms own 60 ms 300 ms – 500 ms outlier" in page.text
        # Spans that no series consists of have no usual duration.
        assert "SELECT items error 490 ms Not connected" not in page.text
        assert re.search(
            r"SELECT items error 490 ms mail send receipt 2\.1 s begins|SELECT items error 490 ms mail", page.text
        )

    def test_another_span_of_the_trace_can_be_explained(self) -> None:
        for parameters in ({"service_name": "stock", "span_name": "POST /reserve"}, {"span_id": "3"}):
            page = read(pages(SHOP), **parameters)
            assert "stock POST /reserve took 571 ms" in page.text
            assert "not belonging to what is explained" not in page.text
            assert "Not connected" not in page.text
            assert page_url(TRACE, {"trace_id": ID}) in page.attributes("href")

    def test_the_rest_of_the_trace_is_not_irregular_where_a_part_is_asked_for(self) -> None:
        trace = [span for span in SHOP if span.span_id != "6"]
        assert "Irregular" not in read(pages(trace), service_name="stock", span_name="POST /reserve").text
        elsewhere = [*trace, SHOP[0]._replace(span_id="9", duration_ns=1)]
        assert "Irregular" in read(pages(elsewhere)).text

    def test_links(self) -> None:
        page = read(replace(pages(SHOP), explore="https://grafana/{trace_id}"), **KEY.parameters)
        links = page.attributes("href")
        assert f"https://grafana/{ID}" in links
        assert f"api/v1/trace?trace_id={ID}&service_name=checkout&span_name=GET+%2Fcart" in links
        assert "endpoint?service_name=checkout&span_name=GET+%2Fcart" in links
        assert not read(pages(SHOP)).links("grafana")

    def test_what_is_folded_is_counted_and_opens_as_a_part(self) -> None:
        page = read(pages(wide(5_000)))
        assert page.text.count("service-") > 900
        assert "1,000 of 5,000 spans are shown" in page.text
        folded = [url for url in page.links("span_id=") if url.endswith("span_id=1")]
        assert folded == [page_url(TRACE, {"trace_id": ID, "span_id": "1"})]
        assert "are shown" not in read(pages(SHOP)).text

    def test_services_beyond_the_colours_share_one(self) -> None:
        page = read(pages(wide(30)))
        classes = {each for value in page.attributes("class") for each in value.split()}
        assert {each for each in classes if re.fullmatch(r"s\d", each)} == {f"s{n}" for n in range(COLOURS + 1)}
        assert "6 more services" in page.text


class TestProblems:
    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ("", "trace_id must be up to 32 hex digits"),
            ("trace_id=0", "trace_id must be up to 32 hex digits"),
            ("trace_id=..%2f..%2fsearch", "not all 0, not"),
            ("trace_id=%00%f0", "trace_id must be"),
        ],
    )
    def test_no_trace_id(self, query: str, words: str) -> None:
        page = pages(SHOP).read("/trace", query)
        assert status(page) == "400"
        assert words in page.text

    def test_unknown_trace_and_unknown_span(self) -> None:
        page = read(pages([]))
        assert (status(page), f"Tempo has no trace {ID}" in page.text) == ("404", True)
        page = read(pages(SHOP), service_name="stock", span_name="GET /other")
        assert (status(page), "has no span of stock GET /other" in page.text) == ("404", True)
        assert status(read(pages(SHOP), span_id="nope")) == "404"

    def test_tempo_fails_or_the_exporter_stops(self) -> None:
        page = read(pages(TempoError("GET http://tempo: connection refused", reason="connection")))
        assert (status(page), "GET http://tempo: connection refused" in page.text) == ("502", True)
        page = read(pages(StoppedError()))
        assert (status(page), page.response.headers["Retry-After"]) == ("503", "1")

    @pytest.mark.parametrize("error", [StoreError("other", "disk failed"), DamagedDigestError("cut short")])
    def test_without_a_readable_history_the_trace_is_shown_all_the_same(self, error: Exception) -> None:
        found = replace(pages(SHOP), error=error)
        page = read(found)
        assert status(page) == "200"
        assert "The stored history cannot be read" in page.text
        assert "checkout GET /cart took 640 ms" in page.text
        assert "The stored history" not in read(pages(SHOP)).text

    def test_no_more_requests_at_once_than_may_wait_for_tempo(self) -> None:
        assert worker_group("/trace") is WorkerGroup.API
        found = replace(pages(SHOP), running=threading.BoundedSemaphore(1))
        with found.running:
            page = read(found)
            assert (status(page), page.response.headers["Retry-After"]) == ("503", "1")
        for _ in range(3):
            assert status(read(found)) == "200"
        found.trace = TempoError("no", reason="connection")
        for _ in range(3):
            assert status(read(found)) == "502"


class TestHostileTraces:
    @settings(max_examples=100, deadline=None)
    @given(
        spans=traces(),
        name=st.text(max_size=80) | st.sampled_from(HOSTILE_KEY[:2]),
        offset_ns=st.sampled_from([0, START, -START]),
    )
    def test_any_trace_makes_a_page_that_is_well_formed(
        self, spans: list[TraceSpan], name: str, offset_ns: int
    ) -> None:
        named = [each._replace(name=name, start_ns=max(0, each.start_ns + offset_ns)) for each in spans]
        page = read(pages(named))
        assert status(page) == "200"
        assert {"script", "style"}.isdisjoint(page.tags)
        assert not page.attributes("style")

    @pytest.mark.parametrize("name", ["GET /api/v1/resource/{id}", "订" * 5_000, "<" * 5_000, "\x00\ud800" * 4_000])
    def test_page_of_a_huge_trace_stays_small(self, name: str) -> None:
        page = read(pages(wide(10_000, name)))
        assert status(page) == "200"
        assert len(page.response.body) <= MAX_PAGE_BYTES
        assert "of 10,000 spans" in page.text

    def test_a_thousand_spans_with_usual_names_are_all_shown(self) -> None:
        page = read(pages(wide(MAX_ROWS)))
        assert "are shown" not in page.text
        assert len(page.response.body) <= MAX_PAGE_BYTES

    def test_far_apart_clocks_leave_the_root_visible(self) -> None:
        off = span("2", "1", ("mail", "send"), "consumer", DAY * 1000.0, 5)
        page = read(pages([SHOP[0], off]))
        assert "begins at 86,400 s" in page.text
        widths = [float(width.rstrip("%")) for tag, each in page.elements if tag == "rect" and (width := each["width"])]
        assert widths[0] == 25.0
        places = [float(x.rstrip("%")) for tag, each in page.elements if tag == "rect" and (x := each["x"])]
        assert all(0 <= each <= 99.8 for each in places)


class TestColours:
    """The colours of services, for all kinds of colour vision, in both colour schemes.

    Simulated with the matrices of Machado, Oliveira and Fernandes (2009) for complete dichromacy; distances are those
    of Oklab, in which 0.02 is just noticeable.
    """

    SIMULATIONS = (
        ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
        ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
        ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
    )

    @pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
    def test_contrast_and_distance(self, scheme: int) -> None:
        style = (Path(__file__).parents[3] / "exporter/web/static/style.css").read_text()
        card = self.linear(self.values(style, "card")[scheme])
        colours = [self.linear(self.values(style, f"s{number}")[scheme]) for number in range(COLOURS + 1)]
        for colour in colours:
            light, dark = sorted((self.luminance(colour), self.luminance(card)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3
        for matrix in self.SIMULATIONS:
            seen = [self.oklab(self.times(matrix, colour)) for colour in colours]
            assert min(dist(one, other) for one, other in combinations(seen, 2)) > 0.1

    @staticmethod
    def values(style: str, name: str) -> list[str]:
        return [
            each if len(each) == 6 else "".join(2 * c for c in each)
            for each in re.findall(rf"--{name}: #(\w+);", style)
        ]

    @staticmethod
    def linear(colour: str) -> list[float]:
        parts = (int(colour[position : position + 2], 16) / 255 for position in (0, 2, 4))
        return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]

    @staticmethod
    def luminance(colour: list[float]) -> float:
        return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]

    @staticmethod
    def times(matrix: tuple[tuple[float, ...], ...], colour: list[float]) -> list[float]:
        return [min(1.0, max(0.0, sum(a * b for a, b in zip(row, colour, strict=True)))) for row in matrix]

    @classmethod
    def oklab(cls, colour: list[float]) -> list[float]:
        cones = (
            (0.4122214708, 0.5363325363, 0.0514459929),
            (0.2119034982, 0.6806995451, 0.1073969566),
            (0.0883024619, 0.2817188376, 0.6299787005),
        )
        roots = [sum(a * b for a, b in zip(row, colour, strict=True)) ** (1 / 3) for row in cones]
        axes = (
            (0.2104542553, 0.7936177850, -0.0040720468),
            (1.9779984951, -2.4285922050, 0.4505937099),
            (0.0259040371, 0.7827717662, -0.8086757660),
        )
        return [sum(a * b for a, b in zip(row, roots, strict=True)) for row in axes]
