import json
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import __version__
from exporter.baseline.levels import FallbackLevel
from exporter.evaluation.snapshot import NO_OUTLIERS, Exemplar, SeriesStatus, Snapshot
from exporter.model.span import SeriesKey, encodable
from exporter.store import StoreError
from exporter.web.pages.explore import Explore
from exporter.web.pages.links import ENDPOINT, of_series
from exporter.web.pages.selection import PAGE_ROWS, Selection, Sort
from tests.support.page_reader import Reader, World
from tests.support.samples import HOSTILE_KEY, HOUR, KEY, NOON, QUOTED_KEY, backfill_status, baseline, explanation
from tests.support.samples import small_snapshot as unsorted_snapshot
from tests.support.wsgi import ask

HOSTILE = [
    HOSTILE_KEY,
    QUOTED_KEY,
    SeriesKey("</td></table>", "<img src=x onerror=alert(1)>"),
    SeriesKey("&lt;&", "' onclick='x\ud800"),
    SeriesKey("", "a=b&c=d#e?f%2F+ ü"),
    SeriesKey("x" * 10_000, "GET /"),
]
QUERIES = st.dictionaries(
    st.sampled_from(["q", "state", "level", "sort", "order", "page"]), st.lists(st.text(), min_size=1)
)
TRACE = f"{0xC0FFEE:032x}"


def small_snapshot() -> Snapshot:
    """As the poller publishes it: by name."""
    snapshot = unsorted_snapshot()
    return replace(snapshot, series=tuple(sorted(snapshot.series, key=lambda status: status.key)))


def of(*statuses: SeriesStatus, evaluated_at: float | None = NOON) -> Snapshot:
    return Snapshot(evaluated_at, series=tuple(sorted(statuses, key=lambda status: status.key)))


NOT_KNOWN = replace(of(SeriesStatus(KEY, current_traces=3, is_baseline_known=False)), has_baselines=False)


def many(count: int) -> Snapshot:
    return of(*(SeriesStatus(SeriesKey("svc", f"GET /{number:03}"), score=number / 100) for number in range(count)))


def rows(page: Reader) -> list[str]:
    """The span names of the table's rows, as their links have them."""
    in_table = page.elements[[tag for tag, _ in page.elements].index("tbody") :]
    addresses = [attrs["href"] or "" for tag, attrs in in_table if tag == "a"]
    return [parse_qs(urlsplit(each).query)["span_name"][0] for each in addresses if each.startswith(ENDPOINT)]


class TestAnomalous:
    def test_since_when_and_why_and_where_to_look(self) -> None:
        page = World(small_snapshot()).read()
        assert "Anomalous now 1" in page.text
        assert "checkout GET /cart" in page.text
        assert "since 11:58:44 (1 min ago)" in page.text
        assert str(explanation()) in page.text
        assert f"a trace of 1.25 s: {TRACE}" in page.text
        assert "No endpoint is slower" not in page.text
        assert page.links("endpoint?service_name=checkout&span_name=GET+%2Fcart")

    def test_the_trace_is_a_link_where_grafana_is_known(self) -> None:
        page = World(small_snapshot(), explore="https://grafana/explore?q={query}").read()
        assert f"https://grafana/explore?q={TRACE}" in page.attributes("href")

    def test_not_hundreds_of_them_and_a_way_to_all(self) -> None:
        shifted = [
            SeriesStatus(SeriesKey("s", f"{n}"), current_traces=9, shift=True, score=float(n)) for n in range(60)
        ]
        page = World(of(*shifted)).read()
        assert page.text.count("There is no sign of it any more") == 20
        assert "The 20 with the highest score are shown. All 60" in page.text
        assert "./?state=shift#endpoints" in page.attributes("href")

    def test_nothing_is_anomalous(self) -> None:
        quiet = SeriesStatus(KEY, baseline(), shift=False, score=0.2)
        assert "No endpoint is slower than usual." in World(of(quiet)).read().text
        unknown = SeriesStatus(SeriesKey("a", "b"))
        assert "slower than usual. 1 endpoint cannot be judged yet." in World(of(quiet, unknown)).read().text

    @pytest.mark.parametrize(
        ("snapshot", "words"),
        [
            (None, "Not known yet: the current traffic has not been read."),
            (Snapshot(None), "Not known yet: the current traffic has not been read."),
            (Snapshot(NOON), "Not known yet: no endpoint has sent any traces."),
            (of(SeriesStatus(KEY)), "Not known yet: no endpoint has enough history to be judged by."),
            (NOT_KNOWN, "Not known yet: what is usual at this hour is still being worked out."),
        ],
    )
    def test_before_anything_is_known_it_does_not_say_that_all_is_well(
        self, snapshot: Snapshot | None, words: str
    ) -> None:
        page = World(snapshot, backfill_status()).read()
        assert words in page.text
        assert "No endpoint is slower" not in page.text


class TestFreshness:
    def test_how_long_ago_that_was(self) -> None:
        world = World(Snapshot(float(NOON)))
        world.clock.now += 30.9
        assert "judged 30 s ago at 12:00:30" in world.read().text
        world.clock.now -= 35
        assert "judged 0 s ago" in world.read().text
        assert "has not been read yet" in World(Snapshot(None)).read().text

    def test_what_to_do_while_tempo_does_not_answer(self) -> None:
        world = World(replace(small_snapshot(), read_error="GET http://tempo:3200/api/search: connection refused"))
        world.clock.now += 120
        page = world.read()
        assert "Tempo cannot be read. Nothing is judged until it works again" in page.text
        assert "GET http://tempo:3200/api/search: connection refused" in page.text
        assert "tempo.url" in page.text
        never = World(Snapshot(None, read_error="no")).read().text
        assert "Nothing has been judged yet. It is tried again every 15 s." in never

    def test_a_page_that_is_old_says_so(self) -> None:
        world = World(small_snapshot())
        world.clock.now += 60
        assert "This is old." not in world.read().text
        world.clock.now += 2
        assert "This is old." in world.read().text

    def test_while_it_is_not_known_what_is_usual_it_says_so_and_counts_nothing_that_depends_on_it(self) -> None:
        page = World(NOT_KNOWN, backfill_status()).read()
        assert "Until then there are no baselines and no verdicts; flags stay as they were." in page.text
        assert "1 endpoints" in page.text
        for tally in ("with outliers", "learning", "without a baseline"):
            assert f"0 {tally}" not in page.text
        assert not any("dot" in (each or "").split() for each in page.attributes("class"))
        up = SeriesStatus(KEY, current_traces=3, shift=True, since=NOON - 60.0, is_baseline_known=False)
        page = World(replace(of(up), has_baselines=False)).read()
        assert "Anomalous now 1" in page.text
        assert (
            "What is usual at this hour is still being worked out, so whether it still lasts is not known." in page.text
        )


class TestHistory:
    def test_how_far_it_is_read(self) -> None:
        page = World(small_snapshot(), backfill_status()).read()
        assert "93.4 % 157 of 168 windows are settled and done:" in page.text
        assert "120 read, 20 empty, 2 partial, 1 failed, 15 expired, 10 to go." in page.text
        assert "Of the traces that are there, 99 % were read." in page.text
        assert "Stored are 1,000,000 traces in 168 windows, the oldest from 2026-11-10 12:00, in 4.2 MB." in page.text
        assert "3 anomalous hours are kept out of the baselines." in page.text
        assert ("progress", {"value": "0.9345", "max": "1", "aria-label": "History read"}) in page.elements

    def test_it_comes_before_the_endpoints_only_while_it_is_read(self) -> None:
        status = backfill_status()
        done = replace(status, progress=replace(status.progress, pending=0, failed=0))
        for backfill, order in ((status, ["history", "endpoints"]), (done, ["endpoints", "history"])):
            ids = World(small_snapshot(), backfill).read().attributes("id")
            assert ids == ["anomalous", *order]

    def test_why_the_rest_is_not(self) -> None:
        page = World(None, replace(backfill_status(), failure="GET http://tempo/api/search: <timeout>")).read()
        assert "tried again: GET http://tempo/api/search: <timeout>" in page.text

    def test_it_is_not_called_whole_before_it_is(self) -> None:
        status = backfill_status()
        nearly = replace(status, progress=replace(status.progress, done=99_999, pending=1, failed=0))
        assert "99.9 %" in World(None, nearly).read().text
        done = replace(status, progress=replace(status.progress, pending=0, failed=0))
        assert "complete" in World(None, done).read().text
        assert "Backfill is switched off" in World(None, None).read().text


class TestTable:
    def test_endpoints_with_what_is_known_of_them(self) -> None:
        text = World(small_snapshot()).read().text
        for part in ("Endpoints 3", "200 ms 100 ms", "625 ms 200 ms", "this hour", "everything", "learning", "–"):
            assert part in text
        for tally in ("3 endpoints", "1 anomalous", "1 with outliers", "1 learning", "1 without a baseline"):
            assert tally in text

    def test_what_is_anomalous_comes_first_then_the_highest_scores(self) -> None:
        flagged = SeriesStatus(SeriesKey("svc", "flagged"), shift=True, score=0.1)
        page = World(of(flagged, *many(30).series, SeriesStatus(SeriesKey("svc", "silent")))).read()
        assert rows(page)[:2] == ["flagged", "GET /029"]
        assert rows(page)[-1] == "silent"

    def test_a_page_at_a_time(self) -> None:
        world = World(many(PAGE_ROWS * 2 + 7))
        first, last = world.read(), world.read(query="page=3")
        assert (len(rows(first)), len(rows(last))) == (PAGE_ROWS, 7)
        assert "1–50 of 107" in first.text
        assert "101–107 of 107" in last.text
        assert "./?page=2#endpoints" in first.attributes("href")
        assert rows(world.read(query="page=99")) == rows(last)

    @pytest.mark.parametrize(
        ("query", "names"),
        [
            ("q=get+CART", ["GET /cart"]),
            ("q=checkout&sort=name", ["GET /cart", "POST /pay"]),
            ("q=checkout&sort=name&order=desc", ["POST /pay", "GET /cart"]),
            ("state=shift", ["GET /cart"]),
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
        assert rows(World(small_snapshot()).read(query=query)) == names

    def test_nothing_as_asked_and_nothing_at_all(self) -> None:
        assert "None of them is as asked. Show all" in World(small_snapshot()).read(query="q=nonesuch").text
        assert "None yet" in World(Snapshot(NOON)).read().text

    def test_the_form_keeps_what_was_asked(self) -> None:
        page = World(small_snapshot()).read(query='q="><script>&state=shift&sort=p95&order=asc')
        inputs = {attrs["name"]: attrs["value"] for tag, attrs in page.elements if tag == "input"}
        assert inputs == {"q": '"><script>', "sort": "p95", "order": "asc"}
        assert [attrs["value"] for _, attrs in page.elements if "selected" in attrs] == ["shift", ""]

    @given(QUERIES)
    def test_any_query_is_understood_and_its_address_means_the_same(self, query: dict[str, list[str]]) -> None:
        selection = Selection.of(query)
        again = Selection.of(parse_qs(urlsplit(selection.address()).query))
        assert again == replace(selection, text=encodable(selection.text).strip())
        selection.apply(small_snapshot().series)

    @pytest.mark.parametrize("sort", Sort)
    def test_a_second_click_turns_the_order_and_leads_to_the_first_page(self, sort: Sort) -> None:
        selection = Selection(text="x", page=3)
        once = selection.sorted_by(sort)
        twice = once.sorted_by(sort)
        assert (once.sort, once.page, once.text) == (sort, 1, "x")
        assert once.descending != twice.descending


class TestEndpoint:
    @staticmethod
    def page(status: SeriesStatus, **changes: object) -> Reader:
        world = World(of(status))
        for name, value in changes.items():
            setattr(world, name, value)
        return world.read("/endpoint", urlsplit(of_series(ENDPOINT, status.key)).query)

    def test_an_anomaly_is_explained(self) -> None:
        (status,) = [status for status in small_snapshot().series if status.shift]
        page = self.page(status)
        for part in (
            "anomalous outliers since 11:58:44", str(explanation()), "p50 now 200 ms usually 100 ms",
            "p95 × usual 3.1 score 2.50", "behaves so since 2026-11-16 12:00", "outlier above 400 ms",
        ):  # fmt: skip
            assert part in page.text

    def test_it_says_how_things_stand_when_nothing_is_wrong(self) -> None:
        status = SeriesStatus(KEY, baseline(), 0.4, 38, 0.1, 0.12, score=0.3, shift=False, outlier=False)
        page = self.page(status)
        assert (
            "38 requests in the last 5 min: p50 100 ms, p95 120 ms. Usual are p50 100 ms and p95 200 ms (5 weekdays "
            "12–13 h, level 1, 500 traces). Slower than usual would be p50 above 140 ms, p90 above 230 ms, if chance "
            "and the usual swing do not explain it." in page.text
        )
        assert "as usual" in page.text

    @pytest.mark.parametrize(
        ("status", "words"),
        [
            (SeriesStatus(KEY, current_traces=3, current_p50_seconds=0.1, current_p95_seconds=0.1),
             "3 requests in the current window (up to 1 h): p50 100 ms, p95 100 ms. There is too little history"),
            (SeriesStatus(KEY, baseline(), current_traces=0), "No requests in the last 5 min."),
            (SeriesStatus(KEY, baseline()), "What it does now is not known"),
            (SeriesStatus(KEY, current_traces=0, is_baseline_known=False),
             "What is usual at this hour is still being worked out, so there is no verdict yet."),
            (SeriesStatus(KEY, current_traces=0, is_baseline_known=False), "baseline – rests on"),
            (SeriesStatus(KEY, current_traces=0, is_baseline_known=False), "Recent outliers Not known yet."),
        ],
    )  # fmt: skip
    def test_what_is_not_known_is_said(self, status: SeriesStatus, words: str) -> None:
        assert words in self.page(status).text

    def test_both_profiles_are_drawn_and_are_there_as_a_table(self) -> None:
        page = self.page(SeriesStatus(KEY, baseline(), current_traces=0))
        assert sum(tag == "svg" for tag, _ in page.elements) == 2
        weekday, weekend = page.attributes("aria-label")[-2:]
        assert weekday == "Weekdays: usual p50 and p95 by hour, known for 24 of 24 hours"
        assert weekend.endswith("known for 0 of 24 hours")
        assert "weekday 12–13 h: p50 100 ms, p95 200 ms, level 1 (this hour); 100 traces in 5 hours" in page.text
        assert "weekend 12–13 h: too little history" in page.text
        assert "12–13 100 ms 200 ms 400 ms 1 100 5" in page.text

    def test_what_it_rests_on_and_what_is_left_out(self) -> None:
        text = self.page(SeriesStatus(KEY, baseline(), current_traces=0)).text
        assert "Kept out of the baseline 2" in text
        assert "11:00:00" in text
        assert "too few traces" in text

    def test_recent_outliers_the_latest_first(self) -> None:
        outliers = NO_OUTLIERS
        for number in range(3):
            outliers = outliers.with_one_more(Exemplar(f"{number:032x}", 1.0 + number, NOON - 10 + number))
        status = SeriesStatus(KEY, baseline(), 0.4, traces_total=90, outliers_total=3, outliers=outliers)
        page = self.page(status, explore='https://grafana/explore?panes={"q":"{query}"}')
        traces = [address[-34:-2] for address in page.links("explore") if address.endswith('"}')][-3:]
        assert traces == [f"{number:032x}" for number in (2, 1, 0)]
        assert "Single traces slower than 400 ms: 3 of 90 traces" in page.text
        assert "Search for slow traces" in page.text
        paths = [
            f"api/v1/trace?trace_id={number:032x}&service_name=checkout&span_name=GET+%2Fcart" for number in (2, 1, 0)
        ]
        assert page.links("api/v1/trace") == paths
        plain = self.page(status)
        assert f"{2:032x}" in plain.text
        assert "Search for slow traces" not in plain.text
        assert "None." in self.page(replace(status, outliers=NO_OUTLIERS)).text

    def test_where_the_history_cannot_be_read_the_rest_is_shown(self) -> None:
        (status,) = [status for status in small_snapshot().series if status.shift]
        page = self.page(status, error=StoreError("other", "reading failed: disk I/O error"))
        assert page.answer.status.startswith("200")
        assert "The stored history cannot be read" in page.text
        assert str(explanation()) in page.text

    def test_an_unknown_one_is_not_found_in_words(self) -> None:
        page = World(small_snapshot()).read("/endpoint", "service_name=checkout&span_name=%3Cscript%3E")
        assert page.answer.status.startswith("404")
        assert "There is no such endpoint" in page.text
        assert "script" not in page.tags
        early = World(None).read("/endpoint")
        assert early.answer.status.startswith("404")
        assert "Nothing is known yet" in early.text


class TestNames:
    @pytest.mark.parametrize("key", HOSTILE)
    def test_hostile_ones_are_only_text(self, key: SeriesKey) -> None:
        status = replace(small_snapshot().series[-1], key=KEY)
        for path in ("/", "/endpoint"):
            pages = []
            for name in (KEY, key):
                query = urlsplit(of_series(ENDPOINT, name)).query if path == "/endpoint" else ""
                pages.append(World(of(replace(status, key=name)), tempo_url='http://x/"><script>').read(path, query))
            harmless, page = pages
            assert page.answer.status.startswith("200")
            assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
            assert [sorted(attrs) for _, attrs in page.elements] == [sorted(attrs) for _, attrs in harmless.elements]
            shown = encodable(key.span_name)[:159]
            assert shown.replace("\r", "\n") in "".join(page.words).replace("\r", "\n")

    @pytest.mark.parametrize("key", HOSTILE)
    def test_every_one_has_an_address_that_leads_to_it(self, key: SeriesKey) -> None:
        others = [SeriesStatus(SeriesKey("a", "b")), SeriesStatus(SeriesKey("zzz", "z"))]
        world = World(of(SeriesStatus(key, baseline()), *others))
        (address,) = [each for each in world.read().links("endpoint?") if "=a&" not in each and "=zzz&" not in each]
        assert address.isascii()
        assert world.read("/endpoint", urlsplit(address).query).answer.status.startswith("200")


class TestPlot:
    def test_it_is_an_image_that_is_kept_until_the_next_reading(self) -> None:
        world = World(small_snapshot())
        (address,) = [each for each in world.read().attributes("src") if "GET+%2Fcart" in each]
        image = world.read("/plot", urlsplit(address).query)
        assert image.answer.headers["Content-Type"] == "image/svg+xml"
        assert image.answer.headers["Cache-Control"] == "private, max-age=15"
        assert {"svg", "path", "circle"} <= image.tags
        assert "style" not in {name for _, attrs in image.elements for name in attrs}

    def test_a_profile_is_worked_out_once_an_hour(self) -> None:
        world = World(small_snapshot())
        site_of_one_process = world.site()
        world.site = lambda: site_of_one_process  # type: ignore[method-assign]
        query = urlsplit(of_series("plot", KEY)).query
        for seconds in (0, 60, HOUR - 61):
            world.clock.now = NOON + seconds
            world.read("/plot", query)
            world.read("/endpoint", query)
        assert world.asked_profiles == [KEY]
        world.clock.now = NOON + HOUR
        world.read("/plot", query)
        assert world.asked_profiles == [KEY, KEY]
        world.backfill = backfill_status()
        for seconds in (0, 59, 60):
            world.clock.now = NOON + 2 * HOUR + seconds
            world.read("/plot", query)
        assert world.asked_profiles == [KEY] * 4

    def test_not_the_profiles_of_all_are_kept(self) -> None:
        keys = [SeriesKey("s", f"{number:03}") for number in range(101)]
        world = World(of(*(SeriesStatus(key, baseline()) for key in keys)))
        site_of_one_process = world.site()
        world.site = lambda: site_of_one_process  # type: ignore[method-assign]
        for key in [*keys, keys[-1], keys[0]]:
            world.read("/plot", urlsplit(of_series("plot", key)).query)
        assert world.asked_profiles == [*keys, keys[0]]

    def test_what_cannot_be_drawn_says_so(self) -> None:
        world = World(small_snapshot(), error=StoreError("other", "no"))
        assert world.read("/plot", urlsplit(of_series("plot", KEY)).query).answer.status.startswith("503")
        assert world.read("/plot", "service_name=x").answer.status.startswith("404")

    def test_what_is_far_beyond_the_usual_stays_within_the_image(self) -> None:
        status = replace(small_snapshot().series[1], key=KEY, baseline=baseline(), current_p95_seconds=1e9)
        for path in ("/plot", "/endpoint"):
            page = World(of(status)).read(path, urlsplit(of_series("plot", KEY)).query)
            heights = [float(attrs[name] or 0) for _, attrs in page.elements for name in ("cy", "y1") if name in attrs]
            assert heights
            assert all(0 <= height <= 240 for height in heights)


class TestStatic:
    def test_pages_need_nothing_from_elsewhere_and_no_script(self) -> None:
        for path, query in (("/", ""), ("/endpoint", urlsplit(of_series(ENDPOINT, KEY)).query)):
            page = World(small_snapshot(), backfill_status()).read(path, query)
            assert not any("//" in each for name in ("href", "src", "action") for each in page.attributes(name))
            assert not {"script", "style", "iframe", "object"} & page.tags
            names = {name for _, attrs in page.elements for name in attrs}
            assert not any(name == "style" or name.startswith("on") for name in names)

    def test_what_they_refer_to_is_there_and_kept(self) -> None:
        world = World(small_snapshot())
        for address in world.read().links("static/"):
            path, _, query = address.partition("?")
            kept, other = (ask_static(world, f"/{path}", each) for each in (query, "v=0"))
            assert kept["Cache-Control"] == "public, max-age=31536000, immutable"
            assert other["Cache-Control"] == "no-cache"

    def test_it_says_what_it_watches_and_which_version_it_is(self) -> None:
        text = World(None, tempo_url="https://tempo.example/prefix").read().text
        assert "Watching https://tempo.example/prefix" in text
        assert f"version {__version__}" in text


def ask_static(world: World, path: str, query: str) -> dict[str, str]:
    answer = ask(world.site(), path, query=query)
    assert answer.status.startswith("200")
    assert len(answer.body) > 100
    return answer.headers


class TestExplore:
    def test_a_trace_goes_into_either_place(self) -> None:
        assert Explore("https://g/t/{trace_id}").trace(TRACE) == f"https://g/t/{TRACE}"
        assert Explore('https://g/e?p={"q":"{query}"}').trace(TRACE) == f'https://g/e?p={{"q":"{TRACE}"}}'
        assert Explore().trace(TRACE) is None

    def test_a_search_is_escaped_for_the_json_and_the_address_it_stands_in(self) -> None:
        key = SeriesKey('a"b', "GET /x?y&z#ü")
        address = Explore('https://g/e?p={"q":"{query}"}').slow(key, 0.4)
        assert address is not None
        assert address.isascii()
        (found,) = parse_qs(urlsplit(address).query)["p"]
        assert json.loads(found) == {
            "q": '{ resource.service.name="a\\"b" && name="GET /x?y&z#ü" && duration>400000us }'
        }
        assert Explore("https://g/t/{trace_id}").slow(key, 0.4) is None


def test_a_level_has_a_name() -> None:
    page = World(of(*(SeriesStatus(SeriesKey("s", f"{n}"), baseline(level=n)) for n in list(FallbackLevel)[:4]))).read()
    for name in ("1 this hour", "2 nearby hours", "3 type of day", "4 everything"):
        assert name in page.text
