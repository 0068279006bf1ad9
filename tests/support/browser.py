"""A real browser, without a window, for the tests of the pages and for pictures of them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

_PROGRAMS: Final = ("chromium", "chromedriver")


def require_browser() -> None:
    """Skip where there is no browser, but never in continuous integration."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing and os.environ.get("CI") != "true":
        pytest.skip(f"not installed: {', '.join(missing)} (Debian packages chromium and chromium-driver)")
    assert not missing, f"not installed: {', '.join(missing)}"


@contextmanager
def browser(width: int = 1280, height: int = 900) -> Iterator[Chrome]:
    """A browser that ends with the context.

    Args:
        width: of the view, in pixels.
        height: of the view, in pixels.
    """
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (
        "--headless=new",
        # As root there is no other way, and in containers /dev/shm is small.
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
    # With a path given, selenium looks for no driver elsewhere.
    service = ChromeService(executable_path=shutil.which("chromedriver"))
    driver = Chrome(options=options, service=service)
    try:
        driver.set_page_load_timeout(30)
        yield driver
    finally:
        driver.quit()


def resize(driver: Chrome, width: int, height: int, *, scale: float = 1.0) -> None:
    """Give the view a size, as a phone or a large screen has it."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600},
    )


def prefer(driver: Chrome, scheme: str) -> None:
    """Prefer ``light`` or ``dark``."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def complaints(driver: Chrome) -> list[dict[str, Any]]:
    """What the browser has complained of since it was asked last: errors of scripts, of loading, of the policy."""
    entries: list[dict[str, Any]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return entries
