"""Long lists in parts: each ends with a cursor from which the next one goes on."""

import base64
import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from exporter.model.span import SeriesKey
from exporter.web.api.parameters import Parameters, whole_number

_T = TypeVar("_T")

_USUAL: Final = 100
MOST: Final = 1000


class ResultPage:
    """Which part of a list by name is wanted."""

    def __init__(self, parameters: Parameters) -> None:
        """Read ``limit`` and ``cursor``."""
        self._limit = parameters.parsed("limit", whole_number(1, MOST)) or _USUAL
        self._after = parameters.parsed("cursor", _decode)

    @property
    def is_first(self) -> bool:
        """Whether it is the first part."""
        return self._after is None

    def of(self, items: Sequence[_T], key: Callable[[_T], SeriesKey], document: Callable[[_T], Any]) -> dict[str, Any]:
        """The part, as it stands in an answer.

        Args:
            items: the whole list, by name.
            key: the name of an item.
            document: an item as JSON.
        """
        begin = 0 if self._after is None else bisect_right(items, self._after, key=key)
        part = items[begin : begin + self._limit]
        more = begin + self._limit < len(items)
        return {
            "total": len(items),
            "next_cursor": _encode(key(part[-1])) if more else None,
            "series": [document(item) for item in part],
        }


def _encode(key: SeriesKey) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def _decode(text: str) -> SeriesKey:
    try:
        names = json.loads(base64.urlsafe_b64decode(text))
    except (ValueError, RecursionError):
        names = None
    match names:
        case [str(service_name), str(span_name)]:
            return SeriesKey(service_name, span_name)
    raise ValueError("must be what next_cursor of the part before says")
