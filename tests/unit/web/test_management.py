import os
import platform
import re
import zlib
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import exporter.metrics.self_metrics
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.metrics.exposition import Format
from exporter.metrics.families import PREFIX
from exporter.web.management import chosen_format
from tests.support.samples import KEY, NOON, baseline
from tests.support.whole_page import OPENMETRICS, WholePage

GOLDEN = Path(__file__).parent / "golden"
PROMETHEUS_2 = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"  # noqa: E501 - as it is sent
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;"
    "q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
NATIVE_HISTOGRAMS = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6," + PROMETHEUS_2
)
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def without_process(page: bytes) -> bytes:
    """A page without what changes from one moment to the next."""
    return re.sub(rb"^(# \w+ )?process_.*\n", b"", page, flags=re.MULTILINE)


def gunzipped(body: bytes) -> bytes:
    """What a browser makes of it: it reads one gzip member, and leaves what comes behind that."""
    member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    content = member.decompress(body)
    assert member.eof
    assert not member.unused_data
    return content


class TestFormat:
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
    def test_it_is_the_one_that_the_scraper_prefers(self, accept: str, format_: Format) -> None:
        assert chosen_format(accept) is format_

    def test_the_answer_says_which_it_is(self) -> None:
        page = WholePage.full()
        assert page.get(PROMETHEUS_3).content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert page.get(FIREFOX).content_type == "text/plain; version=0.0.4; charset=utf-8"
        assert ("Vary", "Accept, Accept-Encoding") in page.get().headers

    @pytest.mark.parametrize("escaping", ["allow-utf-8", "underscores", "dots", "values"])
    def test_names_are_the_same_whatever_escaping_is_asked_for(self, escaping: str) -> None:
        page = WholePage.full()
        asked_for = page.get(f"{OPENMETRICS}; escaping={escaping}").body
        assert without_process(asked_for) == without_process(page.get(OPENMETRICS).body)


class TestPage:
    def test_openmetrics_is_read_by_the_client_library_and_ends_once(self) -> None:
        page = WholePage.full().text(OPENMETRICS)
        assert page.endswith("# EOF\n")
        assert page.count("# EOF") == 1
        families = list(text_string_to_metric_families(page))  # type: ignore[no-untyped-call]
        text = WholePage.full().families()
        assert {family.name for family in families} == {name.removesuffix("_total") for name in text}

    @pytest.mark.parametrize("accept", ["", OPENMETRICS])
    def test_compressed_it_is_the_same(self, accept: str) -> None:
        page = WholePage.full()
        answer = page.get(accept, gzip=True)
        assert ("Content-Encoding", "gzip") in answer.headers
        plain = page.get(accept).body
        assert without_process(gunzipped(answer.body)) == without_process(plain)
        assert len(answer.body) < len(plain) / 3

    @pytest.mark.parametrize("accept", ["", OPENMETRICS])
    def test_before_the_first_snapshot_the_exporter_speaks_of_itself(self, accept: str) -> None:
        text = WholePage().text(accept)
        assert "tempo_anomaly_build_info" in text
        assert "tempo_anomaly_build_info" in gunzipped(WholePage().get(accept, gzip=True).body).decode()
        assert "tempo_anomaly_baseline" not in text.replace("tempo_anomaly_baseline_shifts_accepted", "")

    def test_what_was_asked_for_is_rendered_with_the_next_snapshot(self) -> None:
        page = WholePage.full()
        page.get(OPENMETRICS, gzip=True)
        page.publisher.publish(Snapshot(NOON))
        assert page.publisher.page is not None
        assert (Format.OPENMETRICS, True) in page.publisher.page.rendered

    def test_a_new_snapshot_is_served(self) -> None:
        page = WholePage.full()
        page.publisher.publish(Snapshot(NOON, series=(SeriesStatus(KEY, baseline(p50=7.5)),)))
        assert page.values()["tempo_anomaly_baseline_p50_seconds", *KEY] == 7.5


class TestNames:
    def names(self, *asked_for: str, accept: str = "") -> set[str]:
        text = WholePage.full().text(accept, *asked_for)
        return {line.split(" ")[2].removeprefix(PREFIX) for line in text.splitlines() if line.startswith("# TYPE")}

    def test_of_the_series(self) -> None:
        assert self.names("tempo_anomaly_anomalous", "tempo_anomaly_score") == {"anomalous", "score"}

    @pytest.mark.parametrize("name", ["backfill_complete", "series_by_fallback_level", "tempo_up", "build_info"])
    def test_of_the_exporter_itself(self, name: str) -> None:
        assert self.names(PREFIX + name) == {name}

    def test_of_counters(self) -> None:
        asked_for = [PREFIX + name for name in ("traces_total", "tempo_requests_total", "series_dropped_total")]
        assert self.names(*asked_for) == {"traces_total", "tempo_requests_total", "series_dropped_total"}
        assert self.names(*asked_for, accept=OPENMETRICS) == {"traces", "tempo_requests", "series_dropped"}

    def test_unknown_ones_are_an_empty_page(self) -> None:
        assert WholePage.full().text("", "up") == ""
        assert WholePage.full().text(OPENMETRICS, "up") == "# EOF\n"

    def test_an_empty_one_asks_for_nothing_in_particular(self) -> None:
        assert len(self.names("")) > 40

    def test_compressed(self) -> None:
        page = WholePage.full()
        answer = page.get("", PREFIX + "score", PREFIX + "tempo_up", gzip=True)
        assert gunzipped(answer.body) == page.get("", PREFIX + "score", PREFIX + "tempo_up").body


@pytest.mark.parametrize(("accept", "file"), [("", "page.prom"), (OPENMETRICS, "page-openmetrics.prom")])
def test_the_page_is_the_golden_one(accept: str, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set UPDATE_GOLDEN=1 to write what there is now, and read the difference before you commit it."""
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
