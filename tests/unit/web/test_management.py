import os
import platform
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as text_string_to_families
from prometheus_client.registry import Collector

import exporter.metrics.self_metrics
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.metrics.exposition import Format
from exporter.metrics.families import PREFIX
from exporter.web.http import HttpRequest
from exporter.web.management import healthy, negotiate_format, ready
from tests.support.samples import KEY, NOON, baseline
from tests.support.whole_page import OPENMETRICS, WholePage

GOLDEN = Path(__file__).parent / "golden"
PROMETHEUS_2 = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"  # noqa: E501 - as Prometheus sends it
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;"
    "q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
NATIVE_HISTOGRAMS = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6," + PROMETHEUS_2
)
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def without_process(page: bytes) -> bytes:
    """Remove the process metrics, whose values change all the time."""
    return re.sub(rb"^(# \w+ )?process_.*\n", b"", page, flags=re.MULTILINE)


def gunzipped(body: bytes) -> bytes:
    """Decompress one gzip member, as browsers do, and check that nothing follows it."""
    member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    content = member.decompress(body)
    assert member.eof
    assert not member.unused_data
    return content


class TestNegotiation:
    @pytest.mark.parametrize(
        ("accept", "format_"),
        [
            (PROMETHEUS_2, Format.OPENMETRICS),
            (PROMETHEUS_3, Format.OPENMETRICS),
            (NATIVE_HISTOGRAMS, Format.OPENMETRICS),
            ("application/openmetrics-text", Format.OPENMETRICS),
            ("application/openmetrics-text; version=1.0.0, text/plain", Format.OPENMETRICS),
            ("text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5", Format.TEXT),
            ("application/openmetrics-text;version=0.0.1", Format.TEXT),
            ("application/openmetrics-text;version=9.0.0", Format.TEXT),
            ("application/openmetrics-text;version=abc", Format.TEXT),
            ("application/openmetrics-text;q=0", Format.TEXT),
            ("application/openmetrics-text;q=much", Format.TEXT),
            (FIREFOX, Format.TEXT),
            ("*/*", Format.TEXT),
            ("", Format.TEXT),
            (";,=;;q", Format.TEXT),
        ],
    )
    def test_format_is_the_one_that_the_scraper_prefers(self, accept: str, format_: Format) -> None:
        assert negotiate_format(accept) is format_

    @pytest.mark.parametrize(
        ("accept", "format_"),
        [
            (NATIVE_HISTOGRAMS, Format.PROTOBUF),
            (NATIVE_HISTOGRAMS.replace("delimited", "text"), Format.OPENMETRICS),
            (NATIVE_HISTOGRAMS.replace("MetricFamily", "Other"), Format.OPENMETRICS),
            (PROMETHEUS_2, Format.OPENMETRICS),
            ("application/vnd.google.protobuf", Format.TEXT),
            ("*/*", Format.TEXT),
        ],
    )
    def test_protobuf_is_offered_with_native_histograms(self, accept: str, format_: Format) -> None:
        assert negotiate_format(accept, has_protobuf=True) is format_

    def test_content_type_names_the_format(self) -> None:
        page = WholePage.full()
        assert page.get(PROMETHEUS_3).content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert page.get(FIREFOX).content_type == "text/plain; version=0.0.4; charset=utf-8"
        assert ("Vary", "Accept, Accept-Encoding") in page.get().headers

    @pytest.mark.parametrize("escaping", ["allow-utf-8", "underscores", "dots", "values"])
    def test_requested_escaping_does_not_change_names(self, escaping: str) -> None:
        page = WholePage.full()
        requested = page.get(f"{OPENMETRICS}; escaping={escaping}").body
        assert without_process(requested) == without_process(page.get(OPENMETRICS).body)


class TestPage:
    def test_the_client_library_parses_openmetrics_and_it_ends_once(self) -> None:
        page = WholePage.full().text(OPENMETRICS)
        assert page.endswith("# EOF\n")
        assert page.count("# EOF") == 1
        families = list(text_string_to_metric_families(page))  # type: ignore[no-untyped-call]
        text = WholePage.full().families()
        assert {family.name for family in families} == {name.removesuffix("_total") for name in text}

    @pytest.mark.parametrize("accept", ["", OPENMETRICS])
    def test_compressed_content_is_the_same(self, accept: str) -> None:
        page = WholePage.full()
        response = page.get(accept, gzip=True)
        assert ("Content-Encoding", "gzip") in response.headers
        plain = page.get(accept).body
        assert without_process(gunzipped(response.body)) == without_process(plain)
        assert len(response.body) < len(plain) / 3

    @pytest.mark.parametrize("accept", ["", OPENMETRICS])
    def test_before_the_first_snapshot_only_the_exporters_own_metrics_are_served(self, accept: str) -> None:
        text = WholePage().text(accept)
        assert "tempo_anomaly_build_info" in text
        assert "tempo_anomaly_build_info" in gunzipped(WholePage().get(accept, gzip=True).body).decode()
        assert "tempo_anomaly_baseline" not in text.replace("tempo_anomaly_baseline_shifts_accepted", "")

    def test_a_requested_format_is_rendered_with_the_next_snapshot(self) -> None:
        page = WholePage.full()
        page.get(OPENMETRICS, gzip=True)
        page.publisher.publish(Snapshot(NOON))
        assert page.publisher.page is not None
        assert (Format.OPENMETRICS, True) in page.publisher.page.rendered

    def test_a_new_snapshot_is_served(self) -> None:
        page = WholePage.full()
        page.publisher.publish(Snapshot(NOON, series=(SeriesStatus(KEY, baseline(p50=7.5)),)))
        assert page.values()["tempo_anomaly_baseline_p50_seconds", *KEY[:2]] == 7.5

    @pytest.mark.parametrize("names", [(), ("tempo_anomaly_series", "tempo_anomaly_baseline_p50_seconds")])
    @pytest.mark.parametrize("before", [None, Snapshot(NOON - 15.0)])
    def test_a_snapshot_published_meanwhile_is_served_whole(
        self, before: Snapshot | None, names: tuple[str, ...]
    ) -> None:
        page = WholePage(before)
        newer = [Snapshot(NOON, series=(SeriesStatus(KEY, baseline(p50=7.5)),))]

        class PublishesMeanwhile(Collector):
            def collect(self) -> Iterator[Metric]:
                while newer:
                    page.publisher.publish(newer.pop())
                return iter(())

        page.metrics.registry.register(PublishesMeanwhile())
        families = {family.name: family for family in text_string_to_families(page.text("", *names))}
        assert [each.value for each in families["tempo_anomaly_series"].samples] == [1]
        assert [each.value for each in families["tempo_anomaly_baseline_p50_seconds"].samples] == [7.5]


class TestNameFilter:
    def names(self, *requested: str, accept: str = "") -> set[str]:
        text = WholePage.full().text(accept, *requested)
        return {line.split(" ")[2].removeprefix(PREFIX) for line in text.splitlines() if line.startswith("# TYPE")}

    def test_families_of_the_series(self) -> None:
        assert self.names("tempo_anomaly_anomalous", "tempo_anomaly_score") == {"anomalous", "score"}

    @pytest.mark.parametrize("name", ["backfill_complete", "series_by_fallback_level", "tempo_up", "build_info"])
    def test_families_of_the_exporter_itself(self, name: str) -> None:
        assert self.names(PREFIX + name) == {name}

    def test_counters_are_named_by_sample(self) -> None:
        requested = [PREFIX + name for name in ("traces_total", "tempo_requests_total", "series_dropped_total")]
        assert self.names(*requested) == {"traces_total", "tempo_requests_total", "series_dropped_total"}
        assert self.names(*requested, accept=OPENMETRICS) == {"traces", "tempo_requests", "series_dropped"}

    def test_unknown_names_return_an_empty_page(self) -> None:
        assert WholePage.full().text("", "up") == ""
        assert WholePage.full().text(OPENMETRICS, "up") == "# EOF\n"

    def test_an_empty_name_filters_nothing(self) -> None:
        assert len(self.names("")) > 40

    def test_compressed_content_is_filtered_the_same(self) -> None:
        page = WholePage.full()
        response = page.get("", PREFIX + "score", PREFIX + "tempo_up", gzip=True)
        assert gunzipped(response.body) == page.get("", PREFIX + "score", PREFIX + "tempo_up").body


@pytest.mark.parametrize(("accept", "file"), [("", "page.prom"), (OPENMETRICS, "page-openmetrics.prom")])
def test_page_equals_golden_file(accept: str, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set UPDATE_GOLDEN=1 to rewrite the golden files, and review the diff before committing it."""
    monkeypatch.setattr(exporter.metrics.self_metrics, "__version__", "1.2.3")
    monkeypatch.setattr(platform, "python_version", lambda: "3.11.0")
    page = WholePage.full()
    page.metrics.request("poll", 0.25)
    page.metrics.request_failed("poll", "timeout")
    page.metrics.tempo_answered(False)
    body = without_process(page.get(accept).body)
    golden = GOLDEN / file
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_bytes(body)
    assert body.decode() == golden.read_bytes().decode()


class TestProbes:
    REQUEST = HttpRequest("/", {}, "", accepts_gzip=False)

    def test_healthy_responds_200(self) -> None:
        assert healthy(self.REQUEST).status == 200

    def test_ready_responds_503_until_there_is_a_snapshot(self) -> None:
        assert ready(None).status == 503
        assert b"not ready" in ready(None).body
        assert ready(Snapshot(None)).status == 200
