"""The past on the pages: plots over time, the flags of the last day, the usual and what is judged."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from exporter.baseline.levels import FallbackRules
from exporter.detection.flag import FlagKind, FlagPeriod
from exporter.detection.parameters import Parameters
from exporter.detection.policy import AppliedValue, SeriesPolicy
from exporter.detection.streams import StreamReason
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.evaluation.timeline import PointState, TimelinePoint, TimelineRange
from exporter.model.histogram import Digest
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey
from exporter.model.time_mark import MarkKind, MarkRange, TimeMark
from exporter.store import StoreError
from exporter.web.pages.links import ENDPOINT, series_url
from tests.support.page_reader import Pages, ParsedPage, report
from tests.support.samples import DAY, HOSTILE_KEY, HOUR, KEY, NOON, REGRESSION, Clock, baseline, small_snapshot

GOLDEN = Path(__file__).parent / "golden" / "past.html"
STATUS = next(each for each in small_snapshot().series if each.key == KEY)


def measured(point: TimelinePoint) -> TimelinePoint:
    """A day: a gap at 3, no requests at 4, a slow hour at 6 that is kept out of the baseline; the present is live."""
    hour = point.start // HOUR % 24
    if point.end > NOON:
        return point._replace(state=PointState.CURRENT, traces=40, failures=8, p50_seconds=0.2, p95_seconds=0.6)
    if hour == 3:
        return point
    if hour == 4:
        return point._replace(state=PointState.READ, requests=0.0, failures=0)
    factor = 8 if hour == 6 else 1
    digest = Digest.of_ns([int(1e8 * factor * (1 + number / 50)) for number in range(100)])
    return point._replace(
        state=PointState.READ,
        digest=digest,
        traces=100,
        requests=400.0 - 10 * hour,
        failures=hour,
        p50_seconds=digest.quantile_seconds(0.5),
        p95_seconds=digest.quantile_seconds(0.95),
        is_quarantined=hour == 6,
    )


def pages_of(points: Callable[[TimelinePoint], TimelinePoint] = measured, **changes: object) -> Pages:
    pages = Pages(Snapshot(NOON, series=(STATUS,)), points=points, clock=Clock(NOON + 600))
    for name, value in changes.items():
        setattr(pages, name, value)
    return pages


def read(pages: Pages, range_: str = "", key: SeriesKey = KEY) -> ParsedPage:
    query = urlsplit(series_url(ENDPOINT, key)).query
    return pages.read("/endpoint", f"{query}&range={range_}" if range_ else query)


def classes(page: ParsedPage, tag: str) -> list[str]:
    return [attrs.get("class") or "" for name, attrs in page.elements if name == tag]


def section(page: ParsedPage, name: str) -> str:
    """The markup of one section."""
    found = re.search(rf'<section id="{name}">.*?</section>', page.response.body.decode(), re.DOTALL)
    assert found
    return found[0]


class TestPast:
    def test_section_equals_golden_file(self) -> None:
        """Set UPDATE_GOLDEN=1 to rewrite the golden file, and review the diff before committing it."""
        flags = [
            FlagPeriod(FlagKind.ERRORS, NOON - 1800.0, None),
            FlagPeriod(FlagKind.SHIFT, NOON - 6 * HOUR, NOON - 5 * HOUR),
            FlagPeriod(FlagKind.TRAFFIC, NOON - 9 * HOUR, NOON - 8 * HOUR),
        ]
        markup = (
            section(read(pages_of(flags={KEY: flags})), "past").replace("<rect", "\n<rect").replace("<path", "\n<path")
        )
        if os.environ.get("UPDATE_GOLDEN"):
            GOLDEN.write_text(markup)
        assert markup == GOLDEN.read_text()

    @pytest.mark.parametrize(
        ("query", "range_"),
        [("", "24h"), ("6h", "6h"), ("24h", "24h"), ("7d", "7d"), ("1y", "24h"), ("%22%3E%3Cscript%3E", "24h")],
    )
    def test_range_is_chosen_by_a_link_each(self, query: str, range_: str) -> None:
        pages = pages_of()
        page = read(pages, query)
        assert pages.ranges == [TimelineRange(range_)]
        links = {
            parse_qs(urlsplit(attrs["href"] or "").query)["range"][0]: attrs
            for tag, attrs in page.elements
            if tag == "a" and (attrs["href"] or "").endswith("#past")
        }
        assert list(links) == ["6h", "24h", "7d"]
        assert [name for name, attrs in links.items() if "aria-current" in attrs] == [range_]
        assert f"api/v1/timeline?service_name=checkout&span_name=GET+%2Fcart&range={range_}" in page.attributes("href")
        names = {"6h": "6 hours", "24h": "24 hours", "7d": "7 days"}
        assert f"The last {names[range_]}" in page.text

    def test_tooltips_have_the_figures_of_each_point(self) -> None:
        text = read(pages_of()).text
        assert "Tue 2026-11-17 11:00–12:00: p50 199 ms, p95 288 ms; usual p50 100 ms, p95 200 ms" in text
        assert "Tue 2026-11-17 03:00–04:00: not read; usual p50 100 ms, p95 200 ms" in text
        assert "Tue 2026-11-17 04:00–05:00: no requests; usual" in text
        assert "p50 1.59 s, p95 2.3 s; usual p50 100 ms, p95 200 ms; kept out of the baseline" in text
        assert "11:00–12:00: 11 of 100 requests failed (11 %); usual 0.4 %" in text
        assert "11:00–12:00: 290 requests; usual 360" in text
        assert "03:00–04:00: unknown; usual 360" in text

    def test_what_people_have_marked_is_shaded_and_named(self) -> None:
        load_test = TimeMark(MarkKind.EXPECTED, Pattern("cart"), 0, 1, comment="load test")
        outage = TimeMark(MarkKind.INCIDENT, Pattern("cart"), 0, 1)
        marks = [
            MarkRange(NOON - 3 * HOUR, NOON - 2 * HOUR, load_test),
            MarkRange(NOON - 150 * 60, NOON - 2 * HOUR, outage),
            MarkRange(NOON - 3600, NOON - 3590, outage),
        ]
        page = read(pages_of(marks={KEY: marks}))
        shaded = [attrs for name, attrs in page.elements if name == "rect" and attrs.get("class") == "marked"]
        # Latency, errors and traffic: overlapping ranges are one, and the shortest can be seen.
        assert len(shaded) == 3 * 2
        assert min(float(each["width"] or 0) for each in shaded) >= 2
        assert "key marked-key" in classes(page, "i")
        assert "09:00–10:00 (marked by people: expected, incident): p50" in page.text
        assert "11:00–12:00 (marked by people: incident): p50" in page.text
        assert "10:00–11:00: p50" in page.text
        assert "marked" not in " ".join(classes(read(pages_of()), "i"))

    def test_page_says_that_a_mark_leaves_the_endpoint_without_a_verdict(self) -> None:
        mark = MarkRange(NOON, NOON + HOUR, TimeMark(MarkKind.EXPECTED, Pattern("cart"), 0, 1, comment="<b>load"))
        status = SeriesStatus(KEY, baseline(), current_traces=20, current_p50_seconds=0.1, current_p95_seconds=0.2)
        pages = pages_of(snapshot=Snapshot(NOON, series=(replace(status, marks=(mark,)),)))
        text = read(pages).text
        assert "no verdict" in text
        assert "People have marked it as expected until Tuesday 2026-11-17 13:00 UTC (<b>load): there is" in text

    def test_changed_marks_are_shown_before_the_hour_ends(self) -> None:
        pages = pages_of(history_version=(object(),))
        assert "Marked by people" not in read(pages).text
        mark = TimeMark(MarkKind.EXPECTED, Pattern("cart"), NOON - HOUR, NOON, comment="load test")
        pages.reports = {KEY: replace(report(KEY), marks=(MarkRange(mark.start, mark.end, mark),))}
        assert "Marked by people" not in read(pages).text
        pages.history_version = (object(),)
        assert "Marked by people 1" in re.sub(r"\s+", " ", read(pages).text)

    def test_gaps_are_gaps(self) -> None:
        page = read(pages_of())
        # Those of other plots come later.
        drawn = [attrs for tag, attrs in page.elements if tag == "path" and "class" in attrs]
        lines = {attrs["class"]: attrs["d"] or "" for attrs in reversed(drawn)}
        # From noon on, after the gap, and what the live edge has seen.
        assert (lines["p95"].count("M"), lines["p95 current"].count("M")) == (2, 1)
        assert "NaN" not in page.response.body.decode()

    def test_shaded_are_gaps_quarantined_hours_and_the_flags_of_the_plot(self) -> None:
        flags = [
            FlagPeriod(FlagKind.SHIFT, NOON - 7200.0, NOON - 3600.0),
            FlagPeriod(FlagKind.ERRORS, NOON - 900.0, None),
        ]
        page = read(pages_of(flags={KEY: flags}))
        found = classes(page, "rect")
        assert [name for name in found if name.startswith("flag")] == ["flag shift", "flag errors"]
        assert found.count("quarantined") == 1
        # In each of the three plots, the gap and the present.
        assert found.count("unread") == 6
        shift, errors = (
            attrs for tag, attrs in page.elements if tag == "rect" and (attrs.get("class") or "").startswith("flag")
        )
        # Of 25 hours, the flag fired from the 22nd to the 23rd; it is as wide as one.
        assert (shift["x"], shift["width"]) == ("880", "40")
        assert float(errors["x"] or 0) + float(errors["width"] or 0) == pytest.approx(1000 * (24 + 1 / 6) / 25, abs=0.2)

    def test_an_endpoint_without_known_failures_has_no_plot_of_them(self) -> None:
        def unknown(point: TimelinePoint) -> TimelinePoint:
            return measured(point)._replace(failures=None, usual=point.usual._replace(error_ratio=None))

        page = read(pages_of(unknown))
        assert not [name for name in classes(page, "svg") if "bars-errors" in name]
        assert [name for name in classes(page, "svg") if "bars-traffic" in name]

    def test_without_requests_it_says_so(self) -> None:
        page = read(pages_of(lambda point: point._replace(usual=type(point.usual)(), usual_requests=None)))
        assert "No requests in this time." in page.text
        assert not [name for name in classes(page, "svg") if "heat" in name]

    @pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e9])
    def test_any_duration_is_drawn_within_the_plot(self, seconds: float) -> None:
        digest = Digest.of_ns([round(seconds * 1e9)])

        def extreme(point: TimelinePoint) -> TimelinePoint:
            return point._replace(
                state=PointState.READ, digest=digest, traces=1, requests=1e12, failures=1,
                p50_seconds=seconds, p95_seconds=seconds,
            )  # fmt: skip

        page = read(pages_of(extreme))
        for tag, attrs in page.elements:
            if tag == "path" and "vector" not in (attrs.get("class") or ""):
                heights = [float(each) for each in re.findall(r"(?<=V)[\d.]+", attrs.get("d") or "")]
                assert all(0 <= height <= 240 for height in heights)

    def test_damaged_history_leaves_the_rest_of_the_page(self) -> None:
        page = read(pages_of(error=StoreError("locked", "reading failed")))
        assert page.response.status == "200 OK"
        assert page.text.count("The stored history cannot be read.") == 2
        assert "p95 now 625 ms" in page.text

    def test_a_change_is_marked(self) -> None:
        pages = pages_of()
        build = pages.timeline
        pages.timeline = lambda *args: replace(build(*args), changepoint=NOON - 5 * HOUR)  # type: ignore[method-assign]
        page = read(pages)
        assert "A lasting change, since 2026-11-17 07:00" in page.text
        assert classes(page, "line").count("change") == 2


class TestLastDay:
    FLAGS: Sequence[FlagPeriod] = (
        FlagPeriod(FlagKind.SHIFT, NOON - 2 * DAY, NOON - 6 * HOUR),
        FlagPeriod(FlagKind.TRAFFIC, NOON - 3 * HOUR, None),
    )

    def test_a_strip_for_each_endpoint_with_a_link(self) -> None:
        page = Pages(Snapshot(NOON), flags={KEY: self.FLAGS}).read()
        assert "Flags of the last 24 hours 1" in page.text
        assert "latency: Sun 12:00 to 06:00" in page.text
        assert "traffic: Tue 09:00 to now" in page.text
        assert "latency: Sun 12:00 to 06:00; traffic: Tue 09:00 to now" in page.attributes("aria-label")
        shift, traffic = (attrs for tag, attrs in page.elements if tag == "rect")
        # What began earlier is cut at the left edge.
        assert (shift["x"], shift["width"]) == ("0", "750")
        assert (traffic["x"], traffic["width"]) == ("875", "125")
        assert shift["y"] != traffic["y"]

    def test_without_flags_there_is_no_section(self) -> None:
        assert "last 24 hours" not in Pages(Snapshot(NOON, series=(SeriesStatus(KEY, shift=False),))).read().text

    def test_flags_that_fire_are_known_even_if_the_database_fails(self) -> None:
        for pages in (Pages(small_snapshot(), error=StoreError("locked", "no")), Pages(small_snapshot())):
            page = pages.read()
            assert "Flags of the last 24 hours 1" in page.text
            assert "errors: Tue 11:58 to now" in page.text
            assert "latency: Tue 11:58 to now" in page.text
            assert "Endpoints 3" in page.text

    def test_a_flag_that_is_saved_and_fires_is_one(self) -> None:
        flags = {KEY: [FlagPeriod(FlagKind.SHIFT, NOON - 75.5, None)], SeriesKey("a", "b"): self.FLAGS[:1]}
        page = Pages(small_snapshot(), flags=flags).read()
        assert classes(page, "rect").count("flag shift") == 2
        first, second = (each for each in page.attributes("aria-label") if " to " in each)
        assert first.startswith("errors: Tue 11:58 to now")
        assert second == "latency: Sun 12:00 to 06:00"

    def test_only_the_latest_have_a_strip(self) -> None:
        flags = {SeriesKey("svc", f"GET /{number:02}"): self.FLAGS for number in range(15)}
        page = Pages(Snapshot(NOON), flags=flags).read()
        assert "Flags of the last 24 hours 15" in page.text
        assert "and 7 other endpoints" in page.text
        assert sum("strip" in name for name in classes(page, "svg")) == 8

    def test_hostile_names_are_text(self) -> None:
        page = Pages(small_snapshot(), flags={HOSTILE_KEY: self.FLAGS}).read()
        assert "script" not in page.tags
        assert '<script>alert("1")</script>' in page.text


class TestUsualByHour:
    def test_errors_and_traffic_around_the_clock(self) -> None:
        text = read(pages_of()).text
        assert "Usual error ratio by hour of day" in text
        assert "Usual requests by hour of day" in text
        assert "weekday 12–13 h: 0.4 %" in text
        assert "weekday 12–13 h: 360" in text
        assert "weekend 12–13 h: unknown" in text

    def test_the_present_value_is_drawn_at_its_hour_and_day_type(self) -> None:
        page = read(pages_of())
        marks = [name for name in classes(page, "g") if name.startswith("now")]
        # The latency, the errors, whose flag fires, and the traffic.
        assert marks == ["now anomalous", "now anomalous", "now"]


class TestKinds:
    def test_each_kind_has_now_usual_and_rule(self) -> None:
        text = section_text(read(pages_of()), "kinds")
        for part in (
            "Latency p95 625 ms p95 200 ms p50, p90 or p99 is 1.4 times the usual or more, by 5 ms at least",
            "Errors 1 % failed 0.4 % 2 times the usual share of the requests fails, 2 percentage points more at least",
            "Traffic 83 % of the usual 360 requests in 5 min Fewer than 50 % of the usual requests, beyond chance",
            "Regression – – The last days take 1.15 times as long as the same hours of the weeks before",
        ):
            assert part in text

    def test_a_regression_is_named(self) -> None:
        for regression, expected in (
            (REGRESSION, "latency level × 1.2 since 2026-11-15 p50 200 ms in the weeks before"),
            (REGRESSION._replace(quantile=0.9), "p90 × 1.2 since 2026-11-15 p90 200 ms in the weeks before"),
        ):
            status = replace(STATUS, regressed=True, regression=regression)
            pages = pages_of(snapshot=Snapshot(NOON, series=(status,)))
            assert f"Regression {expected}" in section_text(read(pages), "kinds")

    def test_what_is_not_judged_says_so(self) -> None:
        stream = SeriesStatus(KEY, baseline(), stream=StreamReason.NAME)
        text = section_text(read(pages_of(snapshot=Snapshot(NOON, series=(stream,)))), "kinds")
        assert text.count("Not judged: its spans are those of a stream, by its name.") == 3
        policy = SeriesPolicy(
            FallbackRules(),
            Parameters(),
            Parameters(),
            is_enabled=False,
            applied=(AppliedValue("enabled", "false", 0),),
        )
        counted = SeriesStatus(KEY, baseline(), policy=policy)
        text = section_text(read(pages_of(snapshot=Snapshot(NOON, series=(counted,)))), "kinds")
        assert text.count("an override has enabled: false") == 4


def section_text(page: ParsedPage, name: str) -> str:
    """The text of one section, with single spaces."""
    return " ".join(re.sub(r"<[^>]+>", " ", section(page, name)).split())
