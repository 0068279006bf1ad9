"""Takes the pictures of the documentation, ``make screenshots``: the demo's week with an incident going on."""

import sys
import tempfile
from pathlib import Path
from typing import Final

from selenium.webdriver import Chrome

from exporter.web.pages.links import ENDPOINT, series_url
from tests.support.browser import browser, prefer, resize
from tests.support.ongoing import INCIDENT, ongoing_incident
from tests.support.paths import REPOSITORY

IMAGES: Final = REPOSITORY / "docs" / "images"
_WIDE: Final = (1180, 940)
_PHONE: Final = (390, 844)


def take(driver: Chrome, url: str, file: Path, size: tuple[int, int], scheme: str, *, whole: bool = False) -> None:
    """A picture of a page.

    Args:
        driver: the browser.
        url: the page.
        file: where to.
        size: of the view.
        scheme: light or dark.
        whole: all of the page, not only what fits into the view.
    """
    resize(driver, *size)
    prefer(driver, scheme)
    driver.get(url)
    if whole:
        resize(driver, size[0], driver.execute_script("return document.documentElement.scrollHeight"))
    # Images are loaded when they come into view, so they are waited for.
    driver.execute_async_script(
        "const done = arguments[0];"
        "Promise.all([...document.images].filter(i => i.getBoundingClientRect().top < innerHeight)"
        ".map(i => i.decode().catch(() => 0))).then(() => requestAnimationFrame(() => done()))"
    )
    driver.save_screenshot(str(file))


def main(everything: Path | None) -> None:
    """Take the pictures of the documentation, or every page in every way into another folder, to look at them."""
    with tempfile.TemporaryDirectory() as folder, ongoing_incident(Path(folder)) as exporter, browser() as driver:
        start = f"{exporter.url}/"
        endpoint = start + series_url(ENDPOINT, INCIDENT)
        if everything is None:
            IMAGES.mkdir(parents=True, exist_ok=True)
            take(driver, start, IMAGES / "status-page.png", _WIDE, "light")
            take(driver, endpoint, IMAGES / "endpoint-page.png", _WIDE, "light")
            return
        everything.mkdir(parents=True, exist_ok=True)
        for page, url in (("start", start), ("endpoint", endpoint)):
            for view, size in (("wide", _WIDE), ("phone", _PHONE)):
                for scheme in ("light", "dark"):
                    take(driver, url, everything / f"{page}-{view}-{scheme}.png", size, scheme, whole=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
