"""``make screenshots``: take the screenshots of the documentation, with the demo's week and a firing incident."""

import sys
import tempfile
from pathlib import Path
from typing import Final

from selenium.webdriver import Chrome

from exporter.web.pages.links import ENDPOINT, series_url
from tests.support.browser import browser, prefer_color_scheme, resize
from tests.support.ongoing import INCIDENT, ongoing_incident
from tests.support.paths import REPOSITORY

IMAGES: Final = REPOSITORY / "docs" / "images"
_WIDE: Final = (1180, 940)
_PHONE: Final = (390, 844)
_START: Final = (1180, 1180)
"""With the first rows of the table."""
_ENDPOINT: Final = (1180, 1320)
"""With the whole past."""
_CAUSE: Final = "tempo_anomaly_shift_cause_ratio"
_SHIFTS: Final = 3


def take(driver: Chrome, url: str, file: Path, size: tuple[int, int], scheme: str, *, whole: bool = False) -> None:
    """Take a screenshot of a page.

    Args:
        driver: the browser.
        url: URL of the page.
        file: path of the PNG.
        size: size of the view.
        scheme: light or dark.
        whole: capture the whole page instead of the view.
    """
    resize(driver, *size)
    prefer_color_scheme(driver, scheme)
    driver.get(url)
    if whole:
        resize(driver, size[0], driver.execute_script("return document.documentElement.scrollHeight"))
    # Images load lazily: wait for those in the view.
    driver.execute_async_script(
        "const done = arguments[0];"
        "Promise.all([...document.images].filter(i => i.getBoundingClientRect().top < innerHeight)"
        ".map(i => i.decode().catch(() => 0))).then(() => requestAnimationFrame(() => done()))"
    )
    driver.save_screenshot(str(file))


def main(folder_of_all: Path | None) -> None:
    """Take the documentation's screenshots, or every page in every size and scheme into a folder."""
    with tempfile.TemporaryDirectory() as folder, ongoing_incident(Path(folder)) as exporter, browser() as driver:
        start = f"{exporter.url}/"
        endpoint = start + series_url(ENDPOINT, INCIDENT)
        # The causes of all three shifts, each with one part at least.
        exporter.wait_for(lambda page: len([name for name, _ in page.samples if name == _CAUSE]) >= _SHIFTS, 60)
        if folder_of_all is None:
            IMAGES.mkdir(parents=True, exist_ok=True)
            take(driver, start, IMAGES / "status-page.png", _START, "light")
            take(driver, endpoint, IMAGES / "endpoint-page.png", _ENDPOINT, "light")
            return
        folder_of_all.mkdir(parents=True, exist_ok=True)
        driver.get(endpoint)
        trace = driver.find_element("css selector", "#outliers td:last-child a").get_attribute("href") or start
        for page, url in (("start", start), ("endpoint", endpoint), ("trace", trace)):
            for view, size in (("wide", _WIDE), ("phone", _PHONE)):
                for scheme in ("light", "dark"):
                    take(driver, url, folder_of_all / f"{page}-{view}-{scheme}.png", size, scheme, whole=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
