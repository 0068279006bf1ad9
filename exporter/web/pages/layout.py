"""The frame of every HTML page, and the static files it refers to."""

from http import HTTPStatus
from importlib.resources import files
from typing import Final
from zlib import crc32

import htpy as h

from exporter import __version__
from exporter.web.http import Handler, HttpRequest, HttpResponse
from exporter.web.pages.status_words import ENGLISH, StatusWords

_ASSETS: Final = {"style.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}
_CONTENTS: Final = {name: files("exporter.web").joinpath("static", name).read_bytes() for name in _ASSETS}
_VERSIONS: Final = {name: f"{crc32(content):08x}" for name, content in _CONTENTS.items()}
_YEAR_SECONDS: Final = 31_536_000


def html_page(
    title: str,
    *body: h.Node,
    status: HTTPStatus = HTTPStatus.OK,
    words: StatusWords = ENGLISH,
    headers: tuple[tuple[str, str], ...] = (),
) -> HttpResponse:
    """Render a page.

    Args:
        title: title of the browser window.
        body: content between header and footer.
        status: status code of the response.
        words: texts in the language of the page.
        headers: further headers of the response.
    """
    page = h.html(lang=words.language)[
        h.head[
            h.meta(charset="utf-8"),
            h.title[title],
            h.meta(name="viewport", content="width=device-width, initial-scale=1"),
            h.meta(name="color-scheme", content="light dark"),
            h.link(rel="icon", type="image/svg+xml", href=_asset_url("icon.svg")),
            h.link(rel="stylesheet", href=_asset_url("style.css")),
        ],
        h.body[
            h.header(".top")[
                h.a(".brand", href="./")["tempo-anomaly-exporter"],
                h.nav[(h.a(href=path)[name] for path, name in words.navigation.items())],
            ],
            h.main[body],
            h.footer[words.version(__version__)],
        ],
    ]
    content = str(page).encode("utf-8", "backslashreplace")
    return HttpResponse(content, "text/html; charset=utf-8", status, (("Content-Language", words.language), *headers))


def asset_handlers() -> dict[str, Handler]:
    """The handlers of the static files, by path."""
    return {f"/static/{name}": _asset_handler(name) for name in _ASSETS}


def _asset_url(name: str) -> str:
    return f"static/{name}?v={_VERSIONS[name]}"


def _asset_handler(name: str) -> Handler:
    def handle(request: HttpRequest) -> HttpResponse:
        is_current = request.query.get("v") == [_VERSIONS[name]]
        caching = f"public, max-age={_YEAR_SECONDS}, immutable" if is_current else "no-cache"
        return HttpResponse(_CONTENTS[name], _ASSETS[name], headers=(("Cache-Control", caching),))

    return handle
