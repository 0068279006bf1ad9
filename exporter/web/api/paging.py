"""Pagination of long lists: each page ends with a cursor that the request for the next page passes on."""

import base64
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from exporter.model.span import SeriesKey
from exporter.web.api.parameters import Parameters, integer

_T = TypeVar("_T")

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000


class PageRequest:
    """The requested page of a list that is sorted by series."""

    def __init__(self, parameters: Parameters) -> None:
        """Read ``limit`` and ``cursor``."""
        self._limit = parameters.parsed("limit", integer(1, MAX_LIMIT)) or DEFAULT_LIMIT
        self._after = parameters.parsed("cursor", _decode)

    @property
    def is_first(self) -> bool:
        """Whether it is the first page."""
        return self._after is None

    def slice(
        self, items: Sequence[_T], key: Callable[[_T], SeriesKey], document: Callable[[_T], Any]
    ) -> dict[str, Any]:
        """Return the page as JSON members: ``total``, ``next_cursor`` and ``series``.

        Args:
            items: the whole list, sorted by series.
            key: returns the series of an item.
            document: returns an item as JSON.
        """
        begin = 0 if self._after is None else bisect_right(items, self._after, key=key)
        page = items[begin : begin + self._limit]
        has_more = begin + self._limit < len(items)
        return {
            "total": len(items),
            "next_cursor": _encode(key(page[-1])) if has_more else None,
            "series": [document(item) for item in page],
        }


def _encode(key: SeriesKey) -> str:
    # Escapes would make the URL of a long name longer than a server accepts.
    text = json.dumps(key if key.labels else key[:2], ensure_ascii=False).encode("utf-8", "surrogatepass")
    return base64.urlsafe_b64encode(text).decode()


def _decode(text: str) -> SeriesKey:
    try:
        names = json.loads(base64.urlsafe_b64decode(text).decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        names = None
    match names:
        case [str(service_name), str(span_name)]:
            return SeriesKey(service_name, span_name)
        case [str(service_name), str(span_name), [*labels]] if all(map(_is_label, labels)):
            return SeriesKey(service_name, span_name, tuple((name, value) for name, value in labels))
    raise ValueError("must be the next_cursor of the previous page")


def _is_label(label: object) -> bool:
    match label:
        case [str(), str()]:
            return True
    return False


def encode_place(place: tuple[float, str]) -> str:
    """Encode the beginning and the id of the last incident of a page as the cursor of the next one."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def decode_place(text: str) -> tuple[float, str]:
    """Decode such a cursor.

    Raises:
        ValueError: it is none.
    """
    try:
        place = json.loads(base64.urlsafe_b64decode(text).decode())
    except (ValueError, RecursionError):
        place = None
    match place:
        case [int() | float() as start, str(incident_id)] if math.isfinite(start):
            return float(start), incident_id
    raise ValueError("must be the next_cursor of the previous page")
