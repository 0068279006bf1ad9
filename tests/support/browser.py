"""A headless Chromium for tests and screenshots of the pages."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from tests.support.programs import program


@contextmanager
def browser(width: int = 1280, height: int = 900) -> Iterator[Chrome]:
    """Run a browser with a view of a size in pixels; a missing browser skips the test."""
    options = ChromeOptions()
    options.binary_location = program("chromium")
    for argument in (
        "--headless=new",
        # Root needs --no-sandbox; containers have a small /dev/shm.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--hide-scrollbars",
        f"--window-size={width},{height}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # With an explicit path, Selenium does not try to download a driver.
    service = ChromeService(executable_path=program("chromedriver"))
    driver = Chrome(options=options, service=service)
    try:
        driver.set_page_load_timeout(30)
        yield driver
    finally:
        driver.quit()


def resize(driver: Chrome, width: int, height: int, *, scale: float = 1.0) -> None:
    """Set the size of the view in pixels; narrow views emulate a phone."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600},
    )


def prefer_color_scheme(driver: Chrome, scheme: str) -> None:
    """Emulate a preference for ``light`` or ``dark``."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def console_messages(driver: Chrome) -> list[dict[str, Any]]:
    """Return the console messages since the last call: script, network and content policy errors."""
    entries: list[dict[str, Any]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return entries
