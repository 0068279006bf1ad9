"""The pages in Chromium: content, clicks, layout, and no console errors."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.color import Color
from selenium.webdriver.support.select import Select

from exporter.web.pages.links import ENDPOINT, series_url
from tests.e2e.test_http import HOSTILE, hostile_traces
from tests.support.browser import browser, console_messages, prefer_color_scheme, resize
from tests.support.ongoing import INCIDENT, ongoing_incident
from tests.support.processes import ExporterProcess, eventually, settings
from tests.support.tempo_server import fake_tempo, replying, search_body

WIDE = (1280, 900)
PHONE = (360, 740)


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser(*WIDE) as driver:
        yield driver


@pytest.fixture
def view(chrome: Chrome) -> Iterator[Chrome]:
    """The browser with a wide, light view; the test must not cause console messages."""
    resize(chrome, *WIDE)
    prefer_color_scheme(chrome, "light")
    console_messages(chrome)
    yield chrome
    assert console_messages(chrome) == []


@pytest.fixture(scope="module")
def incident(chrome: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExporterProcess]:
    """An exporter reading the demo during its incident; the browser is requested first, so the test can skip."""
    with ongoing_incident(tmp_path_factory.mktemp("incident"), history="96h") as process:
        yield process


@pytest.fixture(scope="module")
def hostile(chrome: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExporterProcess]:
    """An exporter whose endpoints have hostile names."""
    with fake_tempo() as tempo:
        tempo.answer(replying(search_body(*hostile_traces(time.time()))))
        configuration = settings(tempo.url, polling={"backfill_duration": "6h"})
        with ExporterProcess(tmp_path_factory.mktemp("hostile"), configuration) as process:
            process.wait_until_filled()
            yield process


def rows(view: Chrome) -> list[WebElement]:
    return view.find_elements(By.CSS_SELECTOR, ".endpoints tbody tr")


def endpoint_names(view: Chrome) -> list[str]:
    return [each.text for each in view.find_elements(By.CSS_SELECTOR, ".endpoints tbody .who a .span")]


def shown_images(view: Chrome) -> list[int]:
    """Wait for the images in the view and return their natural widths; 0 for a broken image."""
    widths: list[int] = view.execute_async_script(
        "const done = arguments[0];"
        "const inView = [...document.images].filter(i => i.getBoundingClientRect().top < innerHeight);"
        "Promise.all(inView.map(i => i.decode().catch(() => 0))).then(() => done(inView.map(i => i.naturalWidth)))"
    )
    return widths


def test_anomalous_endpoint_is_at_the_top_with_its_explanation(view: Chrome, incident: ExporterProcess) -> None:
    view.get(f"{incident.url}/")
    assert "anomalous now" in view.title
    card = incident_card(view)
    assert "requests took longer than" in card.text
    # The endpoints that it calls are anomalous, too; the one that loses most time comes first.
    assert INCIDENT.span_name in endpoint_names(view)[: len(view.find_elements(By.CSS_SELECTOR, ".card"))]
    view.execute_script("document.querySelector('#endpoints').scrollIntoView()")
    widths = shown_images(view)
    assert widths
    assert set(widths) == {144}
    assert card.value_of_css_property("border-left-width") == "4px", "the stylesheet is not applied"


def incident_card(view: Chrome) -> WebElement:
    """Return the card of the endpoint of the incident."""
    cards = view.find_elements(By.CSS_SELECTOR, ".card")
    (card,) = (each for each in cards if INCIDENT.span_name in each.find_element(By.CSS_SELECTOR, "a").text)
    return card


def follow(view: Chrome, link: WebElement) -> None:
    """Click, and wait until the browser has left the page: a click returns before that."""
    address = view.current_url
    link.click()
    eventually(lambda: view.current_url != address, lambda: f"still at {address}", 10)


def test_table_can_be_filtered_and_sorted(view: Chrome, incident: ExporterProcess) -> None:
    view.get(f"{incident.url}/")
    all_rows = len(rows(view))
    view.find_element(By.NAME, "q").send_keys("checkout")
    Select(view.find_element(By.NAME, "level")).select_by_value("1")
    follow(view, view.find_element(By.CSS_SELECTOR, ".filter button"))
    assert 0 < len(rows(view)) < all_rows
    assert {each.text for each in view.find_elements(By.CSS_SELECTOR, ".endpoints .service")} == {"checkout"}
    assert view.find_element(By.NAME, "q").get_attribute("value") == "checkout"
    follow(view, view.find_element(By.PARTIAL_LINK_TEXT, "Endpoint"))
    names = endpoint_names(view)
    assert names == sorted(names)
    follow(view, view.find_element(By.PARTIAL_LINK_TEXT, "Endpoint"))
    assert endpoint_names(view) == names[::-1]
    follow(view, view.find_element(By.LINK_TEXT, "Show all"))
    assert len(rows(view)) == all_rows


def test_endpoint_page_shows_profile_traces_and_hours(view: Chrome, incident: ExporterProcess) -> None:
    view.get(f"{incident.url}/")
    incident_card(view).find_element(By.CSS_SELECTOR, "a").click()
    assert view.find_element(By.TAG_NAME, "h1").text == f"{INCIDENT.service_name} {INCIDENT.span_name}"
    # Latency, errors and traffic, by day type.
    assert len(view.find_elements(By.CSS_SELECTOR, "svg.profile")) == 6
    assert len(view.find_elements(By.CSS_SELECTOR, "#profile svg.profile .now")) == 1
    traces = [each.get_attribute("href") or "" for each in view.find_elements(By.CSS_SELECTOR, "a.id")]
    assert traces
    assert all(address.startswith("https://grafana.example/explore?") for address in traces)
    view.find_element(By.TAG_NAME, "summary").click()
    hours = view.find_elements(By.CSS_SELECTOR, "details tbody tr")
    assert len(hours) == 48
    assert hours[0].is_displayed()


def test_endpoint_page_shows_the_past_with_its_flag(view: Chrome, incident: ExporterProcess) -> None:
    view.get(f"{incident.url}/")
    strip = view.find_elements(By.CSS_SELECTOR, "#last-day .strip .flag.shift")
    assert strip
    assert all(flag.size["width"] >= 1 for flag in strip)
    incident_card(view).find_element(By.CSS_SELECTOR, "a").click()
    for name, hours in (("7 days", 168), ("6 hours", 6), ("24 hours", 24)):
        follow(view, view.find_element(By.LINK_TEXT, name))
        charts = view.find_elements(By.CSS_SELECTOR, "#past .chart:not(.time)")
        assert len(charts) == 4
        assert {chart.size["width"] for chart in charts} == {charts[0].size["width"]}
        # As the stylesheet says; without it, all are 150 pixels high.
        assert charts[0].size["height"] > 2 * charts[1].size["height"] > 100
        for line in ("p50", "p95"):
            drawn = view.find_element(By.CSS_SELECTOR, f"#past .latency path.{line}")
            # Of seven days, four are read.
            assert drawn.size["width"] > 0.5 * charts[0].size["width"]
        flags = view.find_elements(By.CSS_SELECTOR, "#past .latency .flag")
        assert flags
        # The flag fires now: it ends where the present is.
        assert flags[-1].rect["x"] > charts[0].rect["x"] + 0.8 * charts[0].size["width"]
        # The history ends before the present, which the live edge has.
        assert view.find_elements(By.CSS_SELECTOR, "#past .latency .p95.current")
        answer = requests.get(view.find_element(By.LINK_TEXT, "As JSON").get_attribute("href") or "", timeout=10).json()
        assert answer["end_unix"] - answer["start_unix"] >= hours * 3600
        hovers = view.find_elements(By.CSS_SELECTOR, "#past .latency .hover")
        assert len(hovers) == len(answer["points"])


def test_trace_page_draws_the_spans_and_marks_the_critical_path(view: Chrome, incident: ExporterProcess) -> None:
    view.get(f"{incident.url}/")
    incident_card(view).find_element(By.CSS_SELECTOR, "a[href*=trace_id]").click()
    assert view.find_element(By.TAG_NAME, "h1").text == f"{INCIDENT.service_name} {INCIDENT.span_name}"
    spans = view.find_elements(By.CSS_SELECTOR, ".waterfall tbody tr")
    bars = view.find_elements(By.CSS_SELECTOR, ".waterfall tbody rect:first-child")
    assert len(spans) == len(bars) > 1
    # Sizes and colours come from the stylesheet.
    assert all(bar.size["height"] == 9 and bar.size["width"] >= 1 for bar in bars)
    assert bars[0].value_of_css_property("fill") != "rgb(0, 0, 0)"
    path = view.find_elements(By.CSS_SELECTOR, ".waterfall rect.k")
    assert path
    assert path[0].size["height"] == 3
    assert "–" in spans[0].find_elements(By.TAG_NAME, "td")[2].text, "the usual duration is missing"
    assert view.find_element(By.LINK_TEXT, "Open in Grafana").get_attribute("href")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["/", f"/{series_url(ENDPOINT, INCIDENT)}", "trace"])
def test_narrow_view_fits_its_width_and_text_has_contrast(
    view: Chrome, incident: ExporterProcess, page: str, scheme: str
) -> None:
    resize(view, *PHONE)
    prefer_color_scheme(view, scheme)
    if page == "trace":
        view.get(f"{incident.url}/")
        incident_card(view).find_element(By.CSS_SELECTOR, "a[href*=trace_id]").click()
    else:
        view.get(incident.url + page)
    assert view.execute_script("return document.documentElement.scrollWidth") == PHONE[0]
    background = luminance(view.find_element(By.TAG_NAME, "body").value_of_css_property("background-color"))
    assert (background < 0.1) == (scheme == "dark")
    for selector in ("body", ".quiet", ".why", ".badge.bad", "main a", ".badge.odd", ".waterfall b", ".waterfall em"):
        for element in view.find_elements(By.CSS_SELECTOR, selector)[:3]:
            assert contrast(view, element) >= 4.5, (selector, element.text)


def luminance(css: str) -> float:
    """Return the relative luminance by the Web Content Accessibility Guidelines."""
    channels = [int(Color.from_string(css).hex[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(view: Chrome, element: WebElement) -> float:
    """Return the contrast of a text and its background, from 1 to 21."""
    background = view.execute_script(
        "let e = arguments[0]; const of = e => getComputedStyle(e).backgroundColor;"
        "while (e.parentElement && of(e) === 'rgba(0, 0, 0, 0)') e = e.parentElement; return of(e)",
        element,
    )
    lights = sorted(luminance(css) for css in (element.value_of_css_property("color"), background))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def test_hostile_names_are_escaped_and_link_to_their_pages(view: Chrome, hostile: ExporterProcess) -> None:
    view.get(f"{hostile.url}/")
    assert len(rows(view)) == 2 * len(HOSTILE)
    assert view.execute_script("return document.scripts.length + document.querySelectorAll('td td, b b').length") == 0
    assert len(view.find_elements(By.CSS_SELECTOR, ".endpoints tbody tr > td")) == 11 * len(rows(view))
    addresses = [each.get_attribute("href") for each in view.find_elements(By.CSS_SELECTOR, ".endpoints .who a")]
    for address in addresses:
        view.get(address or "")
        assert "There is no such endpoint" not in view.find_element(By.TAG_NAME, "main").text, json.dumps(address)
        assert view.execute_script("return document.scripts.length") == 0
        assert view.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_page_without_tempo_shows_the_error_and_no_all_clear(view: Chrome, tmp_path: Path) -> None:
    with ExporterProcess(tmp_path, settings("http://127.0.0.1:1")) as process:
        eventually(lambda: process.get("/-/ready").ok, lambda: "no snapshot", timeout=120)
        view.get(f"{process.url}/")
        text = view.find_element(By.TAG_NAME, "main").text
        # The browser may still ask for the icon.
        view.get("about:blank")
    assert "Tempo cannot be read. Nothing has been evaluated yet." in text
    assert "http://127.0.0.1:1" in text
    assert "Not known yet" in text
    assert "No endpoint is slower" not in text
