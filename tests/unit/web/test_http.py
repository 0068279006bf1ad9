import logging
from collections.abc import Callable
from http import HTTPStatus

import pytest

from exporter.runtime.logs import get_logger
from exporter.web.http import AcceptItem, HttpRequest, HttpResponse, Site, parse_accept, text_response
from tests.support.samples import events
from tests.support.wsgi import ask


def site(**handlers: Callable[[HttpRequest], HttpResponse]) -> Site:
    """A site with a handler per path."""
    return Site({f"/{name}": handler for name, handler in handlers.items()}, get_logger("web"))


def echo(request: HttpRequest) -> HttpResponse:
    return text_response(f"{request.path} {dict(request.query)} {request.accept!r} {request.accepts_gzip}")


def broken(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


class TestRouting:
    def test_a_handler_is_found_by_its_exact_path(self) -> None:
        query = "name[]=a&name[]=&b=%22"
        response = ask(site(echo=echo), "/echo", query=query, accept="text/plain", accept_encoding="gzip")
        assert response.status == "200 OK"
        assert response.body == b"/echo {'name[]': ['a', ''], 'b': ['\"']} 'text/plain' True\n"

    @pytest.mark.parametrize("path", ["/", "/ech", "/echo/", "/ECHO", "/echo/../echo", "", "//echo", "/\udcff\n"])
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_any_other_path_is_not_found(self, path: str, method: str) -> None:
        response = ask(site(echo=echo), path, method)
        assert response.status == "404 Not Found"
        assert b"status page is at /" in response.body

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
    def test_other_methods_are_not_allowed(self, method: str) -> None:
        response = ask(site(echo=broken), "/echo", method)
        assert response.status == "405 Method Not Allowed"
        assert response.headers["Allow"] == "GET, HEAD"

    @pytest.mark.parametrize("path", ["/echo", "/broken", "/nothing"])
    def test_head_has_the_headers_of_get_without_the_body(self, path: str) -> None:
        application = site(echo=echo, broken=broken)
        got, headed = ask(application, path), ask(application, path, "HEAD")
        assert headed == got._replace(body=b"")
        assert headed.headers["Content-Length"] == str(len(got.body))
        assert got.body

    def test_a_handler_that_raises_responds_500_and_the_next_request_is_served(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        application = site(echo=echo, broken=broken)
        response = ask(application, "/broken")
        assert response.status == "500 Internal Server Error"
        assert b"ZeroDivisionError" not in response.body
        assert b"Traceback" not in response.body
        assert ask(application, "/echo").status == "200 OK"
        assert events(caplog, logging.ERROR) == ["page_failed"]
        (record,) = caplog.records
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError


class TestHeaders:
    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("path", ["/echo", "/broken", "/nothing"])
    def test_every_response_has_the_security_headers(self, path: str, method: str) -> None:
        headers = ask(site(echo=echo, broken=broken), path, method).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Content-Security-Policy"] == (
            "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'"
        )
        assert headers["Cache-Control"] == "no-store"

    def test_a_handler_may_set_its_own_cache_control(self) -> None:
        def style(request: HttpRequest) -> HttpResponse:
            return HttpResponse(b"", "text/css", headers=(("Cache-Control", "max-age=3600"),))

        assert ask(site(style=style), "/style").headers["Cache-Control"] == "max-age=3600"

    def test_a_handler_sets_type_status_and_headers(self) -> None:
        def teapot(request: HttpRequest) -> HttpResponse:
            return HttpResponse(b"\x00", "application/x", HTTPStatus.IM_A_TEAPOT, (("X-Mine", "1"),))

        response = ask(site(teapot=teapot), "/teapot")
        assert (response.status, response.body) == ("418 I'm a Teapot", b"\x00")
        assert response.headers["Content-Type"] == "application/x"
        assert response.headers["X-Mine"] == "1"


class TestParseAccept:
    def test_items_have_parameters_and_weights(self) -> None:
        header = "Application/OpenMetrics-Text;version=1.0.0;Q=0.6 , text/plain ; version=0.0.4;q=0.3,*/*;q=0.2"
        assert parse_accept(header) == [
            AcceptItem("application/openmetrics-text", {"version": "1.0.0"}, 0.6),
            AcceptItem("text/plain", {"version": "0.0.4"}, 0.3),
            AcceptItem("*/*", {}, 0.2),
        ]

    @pytest.mark.parametrize("weight", ["", "x", "2", "-1", "1.5", "0.1234", "nan", "inf", "1e0", "0,5"])
    def test_an_invalid_weight_counts_as_zero(self, weight: str) -> None:
        assert parse_accept(f"gzip;q={weight}")[0].weight == 0

    @pytest.mark.parametrize(
        ("header", "is_accepted"),
        [
            ("gzip", True),
            ("GZIP", True),
            ("deflate, gzip;q=0.001", True),
            ("br;q=1.0, *;q=0.1", True),
            ("identity;q=0.5, gzip;q=0, *", False),
            ("*;q=0, gzip", True),
            ("*, gzip;q=0", False),
            ("gzip;q=0.000", False),
            ("gzip; q = 0", False),
            ("x-gzip-like, gzipped", False),
            ("identity", False),
            ("", False),
            (";;q=,,=", False),
        ],
    )
    def test_gzip_is_negotiated(self, header: str, is_accepted: bool) -> None:
        assert ask(site(echo=echo), "/echo", accept_encoding=header).body.endswith(f"{is_accepted}\n".encode())
