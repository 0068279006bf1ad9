import json
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import __version__
from exporter.baseline.levels import FallbackLevel, FallbackRules
from exporter.detection.flag import FlagKind
from exporter.detection.parameters import Parameters
from exporter.detection.policy import AppliedValue, SeriesPolicy
from exporter.detection.streams import StreamReason
from exporter.evaluation.live.edge import LiveEdge
from exporter.evaluation.live.time_lost import TimeLost
from exporter.evaluation.query import ShiftThreshold
from exporter.evaluation.snapshot import NO_OUTLIERS, Exemplar, KindStatus, SeriesStatus, ServiceStatus, Snapshot
from exporter.explain.drilldown import Drilldown
from exporter.model.label import DEFAULT_LABEL_NAMES, LabelNames
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey, encodable
from exporter.store import StoreError
from exporter.web.pages.links import ENDPOINT, Explore, series_url
from exporter.web.pages.selection import PAGE_ROWS, Selection, Sort
from tests.support.page_reader import Pages, ParsedPage, report
from tests.support.samples import (
    ERRORS,
    HOSTILE_KEY,
    HOUR,
    KEY,
    LONG_KEY,
    NOON,
    QUOTED_KEY,
    REGRESSION,
    SERVICE_VERDICT,
    backfill_status,
    baseline,
    explanation,
)
from tests.support.samples import small_snapshot as unsorted_snapshot
from tests.support.wsgi import ask

HOSTILE = [
    HOSTILE_KEY,
    QUOTED_KEY,
    SeriesKey("</td></table>", "<img src=x onerror=alert(1)>"),
    SeriesKey("&lt;&", "' onclick='x\ud800"),
    SeriesKey("", "a=b&c=d#e?f%2F+ ü"),
    SeriesKey("x" * 10_000, "GET /"),
    LONG_KEY,
]
QUERIES = st.dictionaries(
    st.sampled_from(["q", "state", "level", "sort", "order", "page"]), st.lists(st.text(), min_size=1)
)
TRACE = f"{0xC0FFEE:032x}"


def small_snapshot() -> Snapshot:
    """The snapshot as the poller publishes it: sorted by name."""
    snapshot = unsorted_snapshot()
    return replace(snapshot, series=tuple(sorted(snapshot.series, key=lambda status: status.key)))


def snapshot_of(*statuses: SeriesStatus) -> Snapshot:
    return Snapshot(NOON, series=tuple(sorted(statuses, key=lambda status: status.key)))


COMPUTING = replace(snapshot_of(SeriesStatus(KEY, current_traces=3, is_baseline_known=False)), has_baselines=False)


def numbered_endpoints(count: int) -> Snapshot:
    return snapshot_of(
        *(SeriesStatus(SeriesKey("svc", f"GET /{number:03}"), score=number / 100) for number in range(count))
    )


def rows(page: ParsedPage) -> list[str]:
    """The span names of the table's rows, from their links."""
    section = [attrs.get("id") for _, attrs in page.elements].index("endpoints")
    in_table = page.elements[[tag for tag, _ in page.elements].index("tbody", section) :]
    urls = [attrs["href"] or "" for tag, attrs in in_table if tag == "a"]
    return [parse_qs(urlsplit(url).query)["span_name"][0] for url in urls if url.startswith(ENDPOINT)]


class TestAnomalous:
    def test_cards_show_since_when_why_and_an_example_trace(self) -> None:
        page = Pages(small_snapshot()).read()
        assert "Anomalous now 1" in page.text
        assert "checkout GET /cart" in page.text
        assert "since 11:58:44 (1 min ago)" in page.text
        assert str(explanation()) in page.text
        assert "a trace of 1.25 s" in page.text
        assert "42 requests lost 2 min" in page.text
        assert f"trace?trace_id={TRACE}&service_name=checkout&span_name=GET+%2Fcart" in page.attributes("href")
        assert "No endpoint is slower" not in page.text
        assert page.links("endpoint?service_name=checkout&span_name=GET+%2Fcart")

    def test_services_that_are_slower_as_a_whole_are_named(self) -> None:
        service = ServiceStatus(ServiceKey("shop"), SERVICE_VERDICT, firing=True, since=NOON - 90.0)
        calm = ServiceStatus(ServiceKey("bank"), SERVICE_VERDICT, firing=False)
        endpoint = SeriesStatus(SeriesKey("shop", "GET /"), baseline(), current_traces=9, shift=False, service=service)
        page = Pages(replace(snapshot_of(endpoint), services=(calm, service))).read()
        assert "shop The service as a whole is slower than usual, since 11:58:30" in page.text
        assert "its 5 endpoints with traffic take 1.62 × their usual" in page.text
        assert "No endpoint is slower" not in page.text
        assert "bank" not in page.text

    def test_only_those_with_the_most_time_lost_have_cards_with_a_link_to_all(self) -> None:
        shifted = [
            SeriesStatus(
                SeriesKey("s", f"{n}"),
                current_traces=9,
                shift=True,
                score=60.0 - n,
                time_lost=TimeLost(5, 7.0 * n, NOON),
            )
            for n in range(60)
        ]
        page = Pages(snapshot_of(*shifted)).read()
        assert page.text.count("The latest evaluation shows no shift") == 20
        cards = page.text[: page.text.index("These are the 20 with the most time lost. Show all 60")]
        assert "5 requests lost 6 min" in cards
        assert cards.index("s 59") < cards.index("s 58") < cards.index("s 40")
        assert "s 39" not in cards
        assert rows(page)[:2] == ["59", "58"]
        assert "./?state=anomalous#endpoints" in page.attributes("href")

    def test_time_lost_of_a_shift_from_before_a_restart_says_since_when(self) -> None:
        status = SeriesStatus(KEY, shift=True, since=NOON - 900.0, time_lost=TimeLost(1, 12.0, NOON - 60.0))
        assert "1 request lost 12 s since 11:59:00" in Pages(snapshot_of(status)).read().text
        status = replace(status, time_lost=TimeLost(0, 0.0, NOON - 60.0))
        assert "lost" not in Pages(snapshot_of(status)).read().text.split("Endpoints")[0]

    def test_no_endpoint_is_anomalous(self) -> None:
        quiet = SeriesStatus(KEY, baseline(), shift=False, score=0.2)
        assert "No endpoint is slower than usual." in Pages(snapshot_of(quiet)).read().text
        unknown = SeriesStatus(SeriesKey("a", "b"))
        assert "slower than usual. 1 endpoint has no verdict yet." in Pages(snapshot_of(quiet, unknown)).read().text

    @pytest.mark.parametrize(
        ("snapshot", "words"),
        [
            (None, "Not known yet: the current traffic has not been read."),
            (Snapshot(None), "Not known yet: the current traffic has not been read."),
            (Snapshot(NOON), "Not known yet: no endpoint has sent any traces."),
            (snapshot_of(SeriesStatus(KEY)), "Not known yet: no endpoint has enough history for a verdict."),
            (COMPUTING, "Not known yet: the baselines for this hour are still being computed."),
        ],
    )
    def test_without_verdicts_it_does_not_claim_that_nothing_is_anomalous(
        self, snapshot: Snapshot | None, words: str
    ) -> None:
        page = Pages(snapshot, backfill_status()).read()
        assert words in page.text
        assert "No endpoint is slower" not in page.text


class TestFreshness:
    def test_age_of_the_last_evaluation(self) -> None:
        pages = Pages(Snapshot(float(NOON)))
        pages.clock.now += 30.9
        assert "evaluated 30 s ago, shown at 12:00:30" in pages.read().text
        pages.clock.now -= 35
        assert "evaluated 0 s ago" in pages.read().text
        assert "has not been read yet" in Pages(Snapshot(None)).read().text

    def test_notice_when_tempo_cannot_be_read(self) -> None:
        pages = Pages(replace(small_snapshot(), read_error="GET http://tempo:3200/api/search: connection refused"))
        pages.clock.now += 120
        page = pages.read()
        assert "Tempo cannot be read. Flags stay as they were 1 min ago until it can be read again." in page.text
        assert "GET http://tempo:3200/api/search: connection refused" in page.text
        assert "tempo.url" in page.text
        never = Pages(Snapshot(None, read_error="no")).read().text
        assert "Nothing has been evaluated yet. The exporter retries every 15 s." in never

    def test_notice_when_current_traffic_is_not_found(self) -> None:
        page = Pages(replace(small_snapshot(), edge=LiveEdge(True, 240.0))).read()
        assert "Current traffic is not found." in page.text
        assert "Tempo finds traces about 4 min after their end." in page.text
        assert "polling.tempo_lookback" in page.text
        without = Pages(replace(small_snapshot(), edge=LiveEdge(True))).read().text
        assert "after their end" not in without
        assert "Current traffic is not found." not in Pages(small_snapshot()).read().text

    def test_notice_when_the_snapshot_is_old(self) -> None:
        pages = Pages(small_snapshot())
        pages.clock.now += 60
        assert "This page is out of date." not in pages.read().text
        pages.clock.now += 2
        assert "This page is out of date." in pages.read().text

    def test_while_baselines_are_computed_it_says_so_and_hides_totals_that_need_them(self) -> None:
        page = Pages(COMPUTING, backfill_status()).read()
        assert "Until they are ready, there are no verdicts, and flags stay as they were." in page.text
        assert "1 endpoints" in page.text
        for label in ("with outliers", "learning", "without a baseline"):
            assert f"0 {label}" not in page.text
        assert not any("dot" in (each or "").split() for each in page.attributes("class"))
        firing = SeriesStatus(KEY, current_traces=3, shift=True, since=NOON - 60.0, is_baseline_known=False)
        page = Pages(replace(snapshot_of(firing), has_baselines=False)).read()
        assert "Anomalous now 1" in page.text
        assert (
            "The baselines for this hour are still being computed, so it is not known whether the shift lasts."
            in page.text
        )


class TestHistory:
    def test_progress_of_backfill(self) -> None:
        page = Pages(small_snapshot(), backfill_status()).read()
        assert "93.4 % 157 of 168 windows done. By state:" in page.text
        assert "120 read, 20 empty, 2 partial, 1 failed, 15 expired, 10 pending." in page.text
        assert "Of their traces, 99 % were read." in page.text
        assert "4 windows may lack requests that ended later: checked again." in page.text
        assert "Stored: 1,000,000 traces in 168 windows, the oldest from 2026-11-10 12:00, in 4.2 MB." in page.text
        assert "3 anomalous hours are kept out of the baselines." in page.text
        assert ("progress", {"value": "0.9345", "max": "1", "aria-label": "History read"}) in page.elements

    def test_history_precedes_the_endpoints_only_during_backfill(self) -> None:
        status = backfill_status()
        done = replace(status, progress=replace(status.progress, pending=0, failed=0))
        for backfill, order in ((status, ["history", "endpoints"]), (done, ["endpoints", "history"])):
            ids = Pages(small_snapshot(), backfill).read().attributes("id")
            assert ids == ["anomalous", "last-day", *order]

    def test_last_error_of_backfill_is_shown(self) -> None:
        page = Pages(None, replace(backfill_status(), failure="GET http://tempo/api/search: <timeout>")).read()
        assert "The exporter retries it. Last error: GET http://tempo/api/search: <timeout>" in page.text

    def test_progress_is_complete_only_when_no_window_is_left(self) -> None:
        status = backfill_status()
        nearly = replace(status, progress=replace(status.progress, done=99_999, pending=1, failed=0))
        assert "99.9 %" in Pages(None, nearly).read().text
        done = replace(status, progress=replace(status.progress, pending=0, failed=0))
        assert "complete" in Pages(None, done).read().text
        assert "Backfill is disabled" in Pages(None, None).read().text


class TestTable:
    def test_rows_show_latency_baseline_and_totals(self) -> None:
        text = Pages(small_snapshot()).read().text
        for part in ("Endpoints 3", "200 ms 100 ms", "625 ms 200 ms", "this hour", "everything", "learning", "–"):
            assert part in text
        for total in ("3 endpoints", "1 anomalous", "1 with outliers", "1 learning", "1 without a baseline"):
            assert total in text

    def test_errors_and_traffic_are_shown_beside_the_usual(self) -> None:
        page = Pages(small_snapshot()).read()
        assert "1 % 0.4 % × 0.83 300" in page.text
        assert "1 with many errors" in page.text
        headers = [attrs["title"] for tag, attrs in page.elements if tag == "th" and "title" in attrs]
        assert len(headers) == 11
        assert "Requests divided by the usual number at this hour" in headers

    def test_sorting_by_traffic_begins_with_the_least(self) -> None:
        def with_ratio(name: str, ratio: float) -> SeriesStatus:
            (status,) = (each for each in small_snapshot().series if each.key == KEY)
            assert status.current_traffic is not None
            verdict = status.current_traffic.verdict
            evidence = verdict.evidence._replace(requests=ratio * verdict.evidence.usual)
            current = status.current_traffic._replace(verdict=verdict._replace(evidence=evidence))
            return SeriesStatus(SeriesKey("svc", name), current_traffic=current)

        pages = Pages(snapshot_of(with_ratio("a", 1.0), with_ratio("b", 0.1), with_ratio("c", 3.0)))
        assert rows(pages.read(query="sort=traffic")) == ["b", "a", "c"]
        assert rows(pages.read(query="sort=traffic&order=desc")) == ["c", "a", "b"]

    def test_streams_are_marked_counted_and_found_and_have_no_verdict_to_wait_for(self) -> None:
        stream = SeriesStatus(SeriesKey("chat", "GET /ws"), baseline(mature=False), stream=StreamReason.NAME)
        quiet = SeriesStatus(KEY, baseline(), shift=False, score=0.2)
        pages = Pages(snapshot_of(quiet, stream))
        page = pages.read()
        assert "chat GET /ws stream" in page.text
        assert "A stream by its name: its latency is not judged" in page.attributes("title")
        assert "1 streams" in page.text
        assert "0 learning" in page.text
        assert "no verdict yet" not in page.text
        assert rows(pages.read(query="state=stream")) == ["GET /ws"]
        assert "streams" not in Pages(snapshot_of(quiet)).read().text.partition("any state")[0]

    def test_regressions_are_marked_counted_and_found_and_are_not_anomalous_now(self) -> None:
        slower = SeriesStatus(KEY, baseline(), shift=False, score=0.2, regressed=True, regression=REGRESSION)
        steady = SeriesStatus(SeriesKey("checkout", "POST /pay"), baseline(), shift=False, regressed=False)
        pages = Pages(snapshot_of(slower, steady))
        page = pages.read()
        assert "checkout GET /cart slower than before" in page.text
        assert "1 slower than before" in page.text
        assert "No endpoint is slower than usual." in page.text
        assert rows(pages.read(query="state=regression")) == ["GET /cart"]
        assert "1 slower than before" not in Pages(snapshot_of(steady)).read().text

    def test_unusual_traffic_is_marked_counted_and_found_also_of_a_silent_endpoint(self) -> None:
        firing = KindStatus(FlagKind.TRAFFIC, firing=True, since=NOON)
        silent = SeriesStatus(KEY, baseline(), shift=False, kinds=(firing,))
        steady = SeriesStatus(SeriesKey("checkout", "POST /pay"), baseline(), shift=False)
        pages = Pages(snapshot_of(silent, steady))
        page = pages.read()
        assert "checkout GET /cart unusual traffic" in page.text
        assert "1 with unusual traffic" in page.text
        assert rows(pages.read(query="state=traffic")) == ["GET /cart"]
        assert "1 with unusual traffic" not in Pages(snapshot_of(steady)).read().text

    def test_services_with_too_many_names_are_named(self) -> None:
        assert "max_per_service" not in Pages(small_snapshot()).read().text
        services = [f"<b>{number:02}" for number in range(12)]
        text = Pages(small_snapshot(), folded=dict.fromkeys(services, 3)).read().text
        assert "further names of <b>00, <b>01, " in text
        assert "<b>09 and 2 other services share the endpoint {other}." in text

    def test_anomalous_endpoints_come_first_then_the_highest_scores(self) -> None:
        flagged = SeriesStatus(SeriesKey("svc", "flagged"), shift=True, score=0.1)
        page = Pages(
            snapshot_of(flagged, *numbered_endpoints(30).series, SeriesStatus(SeriesKey("svc", "silent")))
        ).read()
        assert rows(page)[:2] == ["flagged", "GET /029"]
        assert rows(page)[-1] == "silent"

    def test_pagination(self) -> None:
        pages = Pages(numbered_endpoints(PAGE_ROWS * 2 + 7))
        first, last = pages.read(), pages.read(query="page=3")
        assert (len(rows(first)), len(rows(last))) == (PAGE_ROWS, 7)
        assert "1–50 of 107" in first.text
        assert "101–107 of 107" in last.text
        assert "./?page=2#endpoints" in first.attributes("href")
        assert rows(pages.read(query="page=99")) == rows(last)

    @pytest.mark.parametrize(
        ("query", "names"),
        [
            ("q=get+CART", ["GET /cart"]),
            ("q=checkout&sort=name", ["GET /cart", "POST /pay"]),
            ("q=checkout&sort=name&order=desc", ["POST /pay", "GET /cart"]),
            ("state=shift", ["GET /cart"]),
            ("state=anomalous", ["GET /cart"]),
            ("state=errors", ["GET /cart"]),
            ("sort=errors", ["GET /cart", "POST /pay", QUOTED_KEY.span_name]),
            ("sort=traffic", ["GET /cart", "POST /pay", QUOTED_KEY.span_name]),
            ("state=outlier", ["GET /cart"]),
            ("state=learning", [QUOTED_KEY.span_name]),
            ("level=5", ["POST /pay"]),
            ("level=1&state=shift&q=cart", ["GET /cart"]),
            ("sort=p50&order=asc", ["POST /pay", "GET /cart", QUOTED_KEY.span_name]),
            ("sort=traces&order=desc", ["GET /cart", "POST /pay", QUOTED_KEY.span_name]),
            ("sort=level", ["GET /cart", QUOTED_KEY.span_name, "POST /pay"]),
        ],
    )
    def test_filters_and_sorts(self, query: str, names: Sequence[str]) -> None:
        assert rows(Pages(small_snapshot()).read(query=query)) == names

    def test_texts_for_no_match_and_for_no_endpoint(self) -> None:
        assert "No endpoint matches. Show all" in Pages(small_snapshot()).read(query="q=nonesuch").text
        assert "None yet" in Pages(Snapshot(NOON)).read().text

    def test_the_form_keeps_the_filter(self) -> None:
        page = Pages(small_snapshot()).read(query='q="><script>&state=shift&sort=p95&order=asc')
        inputs = {attrs["name"]: attrs["value"] for tag, attrs in page.elements if tag == "input"}
        assert inputs == {"q": '"><script>', "sort": "p95", "order": "asc"}
        assert [attrs["value"] for _, attrs in page.elements if "selected" in attrs] == ["shift", ""]

    @given(QUERIES)
    def test_any_query_is_parsed_and_its_url_means_the_same(self, query: dict[str, list[str]]) -> None:
        selection = Selection.from_query(query)
        again = Selection.from_query(parse_qs(urlsplit(selection.url()).query))
        assert again == replace(selection, text=encodable(selection.text).strip())
        selection.apply(small_snapshot().series)

    @pytest.mark.parametrize("sort", Sort)
    def test_a_second_click_reverses_the_order_and_returns_to_the_first_page(self, sort: Sort) -> None:
        selection = Selection(text="x", page=3)
        once = selection.sorted_by(sort)
        twice = once.sorted_by(sort)
        assert (once.sort, once.page, once.text) == (sort, 1, "x")
        assert once.descending != twice.descending


class TestEndpoint:
    @staticmethod
    def page(status: SeriesStatus, **changes: object) -> ParsedPage:
        pages = Pages(snapshot_of(status))
        for name, value in changes.items():
            setattr(pages, name, value)
        return pages.read("/endpoint", urlsplit(series_url(ENDPOINT, status.key)).query)

    def test_an_anomalous_endpoint_is_explained(self) -> None:
        (status,) = [status for status in small_snapshot().series if status.shift]
        page = self.page(status)
        for part in (
            "anomalous errors outliers since 11:58:44", str(explanation()), str(ERRORS),
            "p50 now 200 ms usually 100 ms",
            "p95 × usual 3.1 score 2.50", "time lost 2 min by 42 requests since 11:58:44",
            "baseline since 2026-11-16 12:00", "outlier above 400 ms",
        ):  # fmt: skip
            assert part in page.text

    def test_a_normal_endpoint_shows_baseline_and_thresholds(self) -> None:
        status = SeriesStatus(KEY, baseline(), 0.4, 38, 0.1, 0.12, score=0.3, shift=False, outlier=False)
        page = self.page(status)
        assert (
            "38 requests in the last 5 min: p50 100 ms, p95 120 ms. Baseline: p50 100 ms, p95 200 ms (5 weekdays "
            "12–13 h, level 1, 500 traces). A shift would be p50 above 140 ms or p90 above 230 ms, unless chance or "
            "the usual swing explains it." in page.text
        )
        assert "normal" in page.text

    @pytest.mark.parametrize(
        ("status", "words"),
        [
            (SeriesStatus(KEY, current_traces=3, current_p50_seconds=0.1, current_p95_seconds=0.1),
             "3 requests in the evaluation window (up to 1 h): p50 100 ms, p95 100 ms. There is too little history"),
            (SeriesStatus(KEY, baseline(mature=False), stream=StreamReason.DURATIONS), "stream"),
            (SeriesStatus(KEY, baseline(), current_traces=0), "No requests in the last 5 min."),
            (SeriesStatus(KEY, baseline()), "The current latency is unknown"),
            (SeriesStatus(KEY, current_traces=0, is_baseline_known=False),
             "The baseline for this hour is still being computed, so there is no verdict yet."),
            (SeriesStatus(KEY, current_traces=0, is_baseline_known=False), "baseline – based on"),
            (SeriesStatus(KEY, current_traces=0, is_baseline_known=False), "Recent outliers Not known yet."),
        ],
    )  # fmt: skip
    def test_unknown_values_are_explained(self, status: SeriesStatus, words: str) -> None:
        assert words in self.page(status).text

    def test_profiles_of_both_day_types_are_drawn_and_listed(self) -> None:
        page = self.page(SeriesStatus(KEY, baseline(), current_traces=0))
        assert [attrs["class"] for tag, attrs in page.elements if tag == "svg" and "class" in attrs].count(
            "profile"
        ) == 6
        weekday, weekend = (each for each in page.attributes("aria-label") if "usual p50 and p95" in each)
        assert weekday == "Weekdays: usual p50 and p95 by hour, known for 24 of 24 hours"
        assert weekend.endswith("known for 0 of 24 hours")
        assert "weekday 12–13 h: p50 100 ms, p95 200 ms, level 1 (this hour); 100 traces in 5 hours" in page.text
        assert "weekend 12–13 h: too little history" in page.text
        assert "12–13 100 ms 200 ms 400 ms 1 100 5" in page.text

    def test_fallback_levels_and_quarantined_hours(self) -> None:
        text = self.page(SeriesStatus(KEY, baseline(), current_traces=0)).text
        assert "Kept out of the baseline 2" in text
        assert "11:00:00" in text
        assert "too few traces" in text

    def test_recent_outliers_latest_first(self) -> None:
        outliers = NO_OUTLIERS
        for number in range(3):
            outliers = outliers.with_one_more(Exemplar(f"{number:032x}", 1.0 + number, NOON - 10 + number))
        status = SeriesStatus(KEY, baseline(), 0.4, traces_total=90, outliers_total=3, outliers=outliers)
        page = self.page(status, explore='https://grafana/explore?panes={"q":"{query}"}')
        traces = [url[-34:-2] for url in page.links("explore") if url.endswith('"}')][-3:]
        assert traces == [f"{number:032x}" for number in (2, 1, 0)]
        assert "Single traces slower than 400 ms: 3 of 90 traces" in page.text
        assert "Search for slow traces" in page.text
        paths = [f"trace?trace_id={number:032x}&service_name=checkout&span_name=GET+%2Fcart" for number in (2, 1, 0)]
        assert page.links("trace?") == paths
        plain = self.page(status)
        assert f"{2:032x}" in plain.text
        assert "Search for slow traces" not in plain.text
        assert "None." in self.page(replace(status, outliers=NO_OUTLIERS)).text

    def test_each_flag_that_fires_leads_to_its_comparison(self) -> None:
        (status,) = [status for status in small_snapshot().series if status.shift]
        drilldown = Drilldown("https://grafana")
        urls = list(drilldown.of_flags(status, NOON).values())
        page = self.page(status, drilldown=drilldown)
        assert page.links("https://grafana/a/") == urls
        assert len(urls) == 2
        assert "Compare with the time before, in Grafana: slow requests, failed requests" in page.text
        assert "in Grafana:" not in self.page(status).text

    def test_without_the_history_the_rest_is_shown(self) -> None:
        (status,) = [status for status in small_snapshot().series if status.shift]
        page = self.page(status, error=StoreError("other", "reading failed: disk I/O error"))
        assert page.response.status.startswith("200")
        assert "The stored history cannot be read" in page.text
        assert str(explanation()) in page.text

    def test_an_unknown_endpoint_is_not_found(self) -> None:
        page = Pages(small_snapshot()).read("/endpoint", "service_name=checkout&span_name=%3Cscript%3E")
        assert page.response.status.startswith("404")
        assert "There is no such endpoint" in page.text
        assert "script" not in page.tags
        early = Pages(None).read("/endpoint")
        assert early.response.status.startswith("404")
        assert "Nothing is known yet" in early.text


class TestNames:
    @pytest.mark.parametrize("key", HOSTILE)
    def test_hostile_names_are_rendered_as_text(self, key: SeriesKey) -> None:
        status = replace(small_snapshot().series[-1], key=KEY)
        for path in ("/", "/endpoint"):
            pages = []
            for name in (KEY, key):
                query = urlsplit(series_url(ENDPOINT, name)).query if path == "/endpoint" else ""
                pages.append(
                    Pages(snapshot_of(replace(status, key=name)), tempo_url='http://x/"><script>').read(path, query)
                )
            harmless, page = pages
            assert page.response.status.startswith("200")
            assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
            assert [sorted(attrs) for _, attrs in page.elements] == [sorted(attrs) for _, attrs in harmless.elements]
            shown = encodable(key.span_name)[:159]
            assert shown.replace("\r", "\n") in "".join(page.texts).replace("\r", "\n")

    @pytest.mark.parametrize("key", HOSTILE)
    def test_the_link_of_any_name_leads_to_its_page(self, key: SeriesKey) -> None:
        others = [SeriesStatus(SeriesKey("a", "b")), SeriesStatus(SeriesKey("zzz", "z"))]
        pages = Pages(snapshot_of(SeriesStatus(key, baseline()), *others))
        (url,) = [each for each in pages.read().links("endpoint?") if "=a&" not in each and "=zzz&" not in each]
        assert url.isascii()
        # Proxies let 8 kB through.
        assert len(url) < 7000
        assert pages.read("/endpoint", urlsplit(url).query).response.status.startswith("200")

    @pytest.mark.parametrize("path", ["/endpoint", "/plot"])
    @pytest.mark.parametrize("key", [LONG_KEY, SeriesKey("查詢訂單" * 400, "GET /")])
    def test_page_is_found_by_the_whole_name_and_by_the_label(self, path: str, key: SeriesKey) -> None:
        pages = Pages(snapshot_of(SeriesStatus(key, baseline()), SeriesStatus(key._replace(span_name="GET /x"))))
        for names in (key, DEFAULT_LABEL_NAMES.of(key)):
            response = ask(pages.site, path, query=urlencode(names.parameters))
            assert response.status == "200 OK"
            if path == "/endpoint":
                # On the page, the name is whole.
                assert key.service_name in response.body.decode()
                assert key.span_name in response.body.decode()


class TestPlot:
    def test_plot_is_an_image_cached_until_the_next_poll(self) -> None:
        pages = Pages(small_snapshot())
        (url,) = [each for each in pages.read().attributes("src") if "GET+%2Fcart" in each]
        image = pages.read("/plot", urlsplit(url).query)
        assert image.response.headers["Content-Type"] == "image/svg+xml"
        assert image.response.headers["Cache-Control"] == "private, max-age=15"
        assert {"svg", "path", "circle"} <= image.tags
        assert "style" not in {name for _, attrs in image.elements for name in attrs}

    def test_a_profile_is_computed_once_an_hour(self) -> None:
        pages = Pages(small_snapshot())
        query = urlsplit(series_url("plot", KEY)).query
        for seconds in (0, 60, HOUR - 61):
            pages.clock.now = NOON + seconds
            pages.read("/plot", query)
            pages.read("/endpoint", query)
        assert pages.computed_profiles == [KEY]
        pages.clock.now = NOON + HOUR
        pages.read("/plot", query)
        assert pages.computed_profiles == [KEY, KEY]
        pages.backfill = backfill_status()
        for seconds in (0, 59, 60):
            pages.clock.now = NOON + 2 * HOUR + seconds
            pages.read("/plot", query)
        assert pages.computed_profiles == [KEY] * 4

    def test_the_number_of_cached_profiles_is_bounded(self) -> None:
        keys = [SeriesKey("s", f"{number:03}") for number in range(101)]
        pages = Pages(snapshot_of(*(SeriesStatus(key, baseline()) for key in keys)))
        for key in [*keys, keys[-1], keys[0]]:
            pages.read("/plot", urlsplit(series_url("plot", key)).query)
        assert pages.computed_profiles == [*keys, keys[0]]

    def test_errors_of_the_plot_are_reported(self) -> None:
        pages = Pages(small_snapshot(), error=StoreError("other", "no"))
        assert pages.read("/plot", urlsplit(series_url("plot", KEY)).query).response.status.startswith("503")
        assert pages.read("/plot", "service_name=x").response.status.startswith("404")

    def test_a_value_far_above_the_baseline_is_drawn_within_the_image(self) -> None:
        status = replace(small_snapshot().series[1], key=KEY, baseline=baseline(), current_p95_seconds=1e9)
        for path in ("/plot", "/endpoint"):
            page = Pages(snapshot_of(status)).read(path, urlsplit(series_url("plot", KEY)).query)
            heights = [
                float(attrs[name] or 0)
                for _, attrs in page.elements
                for name in ("cy", "y1")
                # Those in percent are within the plot, too.
                if not (attrs.get(name) or "%").endswith("%")
            ]
            assert heights
            assert all(0 <= height <= 240 for height in heights)


class TestStatic:
    def test_pages_have_no_external_resource_and_no_script(self) -> None:
        for path, query in (("/", ""), ("/endpoint", urlsplit(series_url(ENDPOINT, KEY)).query)):
            page = Pages(small_snapshot(), backfill_status()).read(path, query)
            assert not any("//" in each for name in ("href", "src", "action") for each in page.attributes(name))
            assert not {"script", "style", "iframe", "object"} & page.tags
            names = {name for _, attrs in page.elements for name in attrs}
            assert not any(name == "style" or name.startswith("on") for name in names)

    def test_static_files_are_cached_by_version(self) -> None:
        pages = Pages(small_snapshot())
        for url in pages.read().links("static/"):
            path, _, query = url.partition("?")
            current, other = (static_headers(pages, f"/{path}", each) for each in (query, "v=0"))
            assert current["Cache-Control"] == "public, max-age=31536000, immutable"
            assert other["Cache-Control"] == "no-cache"

    def test_pages_name_tempo_and_the_version(self) -> None:
        text = Pages(None, tempo_url="https://tempo.example/prefix").read().text
        assert "Watching https://tempo.example/prefix" in text
        assert f"version {__version__}" in text


def static_headers(pages: Pages, path: str, query: str) -> dict[str, str]:
    response = ask(pages.site, path, query=query)
    assert response.status.startswith("200")
    assert len(response.body) > 100
    return response.headers


class TestExplore:
    def test_trace_fills_either_placeholder(self) -> None:
        assert Explore("https://g/t/{trace_id}").trace(TRACE) == f"https://g/t/{TRACE}"
        assert Explore('https://g/e?p={"q":"{query}"}').trace(TRACE) == f'https://g/e?p={{"q":"{TRACE}"}}'
        assert Explore().trace(TRACE) is None

    def test_a_search_is_escaped_for_json_and_url(self) -> None:
        key = SeriesKey('a"b', "GET /x?y&z#ü")
        url = Explore('https://g/e?p={"q":"{query}"}').slow_traces(key, 0.4)
        assert url is not None
        assert url.isascii()
        (found,) = parse_qs(urlsplit(url).query)["p"]
        assert json.loads(found) == {
            "q": '{ resource.service.name="a\\"b" && name="GET /x?y&z#ü" && duration>400000us }'
        }
        assert Explore("https://g/t/{trace_id}").slow_traces(key, 0.4) is None


def test_levels_are_named() -> None:
    page = Pages(
        snapshot_of(*(SeriesStatus(SeriesKey("s", f"{n}"), baseline(level=n)) for n in list(FallbackLevel)[:4]))
    ).read()
    for name in ("1 this hour", "2 nearby hours", "3 type of day", "4 everything"):
        assert name in page.text


ENV = "deployment_environment_name"
PROD, STAGING, HOSTILE_LABEL = (
    SeriesKey("shop", "GET /", ((ENV, each),)) for each in ("prod", "staging", '"><script>alert(1)</script>&=')
)


class TestLabels:
    @pytest.fixture
    def pages(self) -> Pages:
        statuses = [SeriesStatus(key, baseline()) for key in (PROD, STAGING, HOSTILE_LABEL, SeriesKey("shop", "job"))]
        return Pages(snapshot_of(*statuses), label_names=LabelNames(names=(ENV,)))

    def test_the_link_of_each_series_leads_to_its_page(self, pages: Pages) -> None:
        urls = pages.read().links("endpoint?")
        assert len(set(urls)) == 4
        titles = {pages.read("/endpoint", urlsplit(url).query).text for url in urls}
        assert len(titles) == 4

    def test_a_label_is_only_needed_where_series_differ_by_it(self, pages: Pages) -> None:
        def status(query: str) -> str:
            return ask(pages.site, "/endpoint", query=query).status

        assert status("service_name=shop&span_name=job").startswith("200")
        assert status("service_name=shop&span_name=GET+/").startswith("404")
        assert status(f"service_name=shop&span_name=GET+/&{ENV}=staging").startswith("200")

    def test_the_table_is_filtered_by_label(self, pages: Pages) -> None:
        page = pages.read("/", urlencode({ENV: "prod"}))
        assert rows(page) == ["GET /"]
        assert "No endpoint matches" in pages.read("/", urlencode({ENV: "nowhere"})).text
        assert rows(pages.read("/", "q=staging")) == ["GET /"]
        options = [attrs["value"] for tag, attrs in page.elements if tag == "option"]
        assert {"prod", "staging", HOSTILE_LABEL.labels[0][1]} <= set(options)


def policy(*applied: AppliedValue, is_enabled: bool = True) -> SeriesPolicy:
    own = Parameters(window_seconds=600)
    return SeriesPolicy(FallbackRules(), own, own, is_enabled=is_enabled, applied=applied)


class TestOverrides:
    def test_own_settings_are_named(self) -> None:
        status = SeriesStatus(
            KEY, baseline(), current_traces=0, shift=False, policy=policy(AppliedValue("ratio", "2", 1))
        )
        page = Pages(snapshot_of(status)).read("/endpoint", urlsplit(series_url(ENDPOINT, KEY)).query)
        assert "No requests in the last 10 min." in page.text
        assert "Its own settings: ratio 2, by overrides[1]." in page.text

    def test_settings_are_shown_while_the_flag_fires(self) -> None:
        own = policy(AppliedValue("ratio", "2", 1), AppliedValue("severity", "info", 0))
        status = SeriesStatus(KEY, baseline(), shift=True, explanation=explanation(), policy=own)
        page = Pages(snapshot_of(status)).read("/endpoint", urlsplit(series_url(ENDPOINT, KEY)).query)
        assert "Its own settings: ratio 2, by overrides[1]; severity info, by overrides[0]." in page.text

    def test_endpoint_that_is_only_counted_says_so(self) -> None:
        off = policy(AppliedValue("enabled", "false", 0), is_enabled=False)
        status = SeriesStatus(KEY, baseline(mature=False), policy=off)
        other = SeriesStatus(SeriesKey("shop", "x"), baseline(), shift=False)
        pages = Pages(snapshot_of(status, other))
        page = pages.read("/endpoint", urlsplit(series_url(ENDPOINT, KEY)).query)
        assert "Its traces are only counted, without any verdict (enabled false, by overrides[0])." in page.text
        start = pages.read()
        assert "not judged" in start.text
        assert "No endpoint is slower than usual." in start.text
        assert "no verdict yet" not in start.text


def limits_of(*thresholds: ShiftThreshold) -> str:
    """Return the section of the endpoint page with the thresholds of an endpoint."""
    pages = Pages(snapshot_of(SeriesStatus(KEY, baseline())), reports={KEY: replace(report(KEY), shift=thresholds)})
    text = pages.read("/endpoint", urlsplit(series_url(ENDPOINT, KEY)).query).text
    return text.partition("Shift thresholds")[2]


def test_pattern_within_the_hour_is_in_the_table_of_thresholds() -> None:
    median, p90 = ShiftThreshold(0.5, 0.1, 1.2, 0.14), ShiftThreshold(0.9, 0.16, 1.2, 0.23)
    batch = p90._replace(pattern_factor=3.1, pattern_minutes=((0, 10), (55, 60)))
    assert "pattern within the hour" not in limits_of(median, p90)
    section = limits_of(median, batch)
    assert "pattern within the hour" in section
    assert ":00 to :10 and :55 to :00 up to × 3.1" in section
