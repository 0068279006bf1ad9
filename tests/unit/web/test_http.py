import logging
from collections.abc import Callable
from http import HTTPStatus

import pytest

from exporter.runtime.logs import get_logger
from exporter.web.http import Accepted, HttpRequest, HttpResponse, Site, accepted, text
from tests.support.samples import events
from tests.support.wsgi import ask


def site(**pages: Callable[[HttpRequest], HttpResponse]) -> Site:
    """A site with pages by their names."""
    return Site({f"/{name}": page for name, page in pages.items()}, get_logger("web"))


def echo(request: HttpRequest) -> HttpResponse:
    return text(f"{request.path} {dict(request.query)} {request.accept!r} {request.accepts_gzip}")


def broken(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


class TestRouting:
    def test_a_page_is_found_by_its_exact_path(self) -> None:
        query = "name[]=a&name[]=&b=%22"
        answer = ask(site(echo=echo), "/echo", query=query, accept="text/plain", accept_encoding="gzip")
        assert answer.status == "200 OK"
        assert answer.body == b"/echo {'name[]': ['a', ''], 'b': ['\"']} 'text/plain' True\n"

    @pytest.mark.parametrize("path", ["/", "/ech", "/echo/", "/ECHO", "/echo/../echo", "", "//echo", "/\udcff\n"])
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_any_other_path_is_not_there(self, path: str, method: str) -> None:
        answer = ask(site(echo=echo), path, method)
        assert answer.status == "404 Not Found"
        assert b"status page is at /" in answer.body

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
    def test_a_page_can_only_be_read(self, method: str) -> None:
        answer = ask(site(echo=broken), "/echo", method)
        assert answer.status == "405 Method Not Allowed"
        assert answer.headers["Allow"] == "GET, HEAD"

    @pytest.mark.parametrize("path", ["/echo", "/broken", "/nothing"])
    def test_head_has_the_headers_of_get_and_no_body(self, path: str) -> None:
        pages = site(echo=echo, broken=broken)
        got, headed = ask(pages, path), ask(pages, path, "HEAD")
        assert headed == got._replace(body=b"")
        assert headed.headers["Content-Length"] == str(len(got.body))
        assert got.body

    def test_a_page_that_raises_is_a_500_and_the_next_one_is_served(self, caplog: pytest.LogCaptureFixture) -> None:
        pages = site(echo=echo, broken=broken)
        answer = ask(pages, "/broken")
        assert answer.status == "500 Internal Server Error"
        assert b"ZeroDivisionError" not in answer.body
        assert b"Traceback" not in answer.body
        assert ask(pages, "/echo").status == "200 OK"
        assert events(caplog, logging.ERROR) == ["page_failed"]
        (record,) = caplog.records
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError


class TestHeaders:
    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("path", ["/echo", "/broken", "/nothing"])
    def test_every_answer_is_safe_to_look_at(self, path: str, method: str) -> None:
        headers = ask(site(echo=echo, broken=broken), path, method).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Content-Security-Policy"] == (
            "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'"
        )
        assert headers["Cache-Control"] == "no-store"

    def test_a_page_may_say_itself_how_long_it_is_true(self) -> None:
        def style(request: HttpRequest) -> HttpResponse:
            return HttpResponse(b"", "text/css", headers=(("Cache-Control", "max-age=3600"),))

        assert ask(site(style=style), "/style").headers["Cache-Control"] == "max-age=3600"

    def test_a_page_has_its_own_type_status_and_headers(self) -> None:
        def teapot(request: HttpRequest) -> HttpResponse:
            return HttpResponse(b"\x00", "application/x", HTTPStatus.IM_A_TEAPOT, (("X-Mine", "1"),))

        answer = ask(site(teapot=teapot), "/teapot")
        assert (answer.status, answer.body) == ("418 I'm a Teapot", b"\x00")
        assert answer.headers["Content-Type"] == "application/x"
        assert answer.headers["X-Mine"] == "1"


class TestAccepted:
    def test_items_with_their_parameters_and_weights(self) -> None:
        header = "Application/OpenMetrics-Text;version=1.0.0;Q=0.6 , text/plain ; version=0.0.4;q=0.3,*/*;q=0.2"
        assert accepted(header) == [
            Accepted("application/openmetrics-text", {"version": "1.0.0"}, 0.6),
            Accepted("text/plain", {"version": "0.0.4"}, 0.3),
            Accepted("*/*", {}, 0.2),
        ]

    @pytest.mark.parametrize("weight", ["", "x", "2", "-1", "1.5", "0.1234", "nan", "inf", "1e0", "0,5"])
    def test_what_has_no_valid_weight_is_refused(self, weight: str) -> None:
        assert accepted(f"gzip;q={weight}")[0].weight == 0

    @pytest.mark.parametrize(
        ("header", "yes"),
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
    def test_gzip(self, header: str, yes: bool) -> None:
        assert ask(site(echo=echo), "/echo", accept_encoding=header).body.endswith(f"{yes}\n".encode())
