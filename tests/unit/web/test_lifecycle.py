from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import pytest

from exporter.web.http import send_response, text_response
from exporter.web.lifecycle import LifecycleMiddleware
from exporter.web.server.workers import WorkerGroup, worker_group
from tests.support.wsgi import ask

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def site(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    return send_response(text_response("the site"), environ, start_response)


def lifecycle(reload: Callable[[], str] | None) -> LifecycleMiddleware:
    return LifecycleMiddleware(site, reload)


def test_other_paths_are_passed_on() -> None:
    assert ask(lifecycle(None), "/-/healthy").body == b"the site\n"


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_request_reloads(method: str) -> None:
    reloads: list[str] = []

    def reload() -> str:
        reloads.append(method)
        return "in use now: detection.ratio"

    response = ask(lifecycle(reload), "/-/reload", method)
    assert (response.status, response.body) == ("200 OK", b"in use now: detection.ratio\n")
    assert reloads == [method]


def test_what_failed_is_in_the_response() -> None:
    def reload() -> str:
        raise ValueError("detection.ratio must be at least 1")

    response = ask(lifecycle(reload), "/-/reload", "POST")
    assert response.status.startswith("500")
    assert b"the previous one stays in use. detection.ratio must be at least 1" in response.body


def test_get_does_not_reload() -> None:
    response = ask(lifecycle(lambda: "reloaded"), "/-/reload")
    assert response.status.startswith("405")
    assert response.headers["Allow"] == "POST, PUT"


def test_it_is_refused_unless_it_is_enabled() -> None:
    response = ask(lifecycle(None), "/-/reload", "POST")
    assert response.status.startswith("403")
    assert b"web.enable_lifecycle" in response.body


def test_it_does_not_hold_up_scrapes() -> None:
    assert worker_group("/-/reload") is WorkerGroup.API
