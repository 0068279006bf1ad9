"""Reads the silences of an Alertmanager (API v2) as marks: who silences the alerts of an endpoint expects what happens.

Only silences whose conditions are all about the series themselves are read: one that also names an instance or another
label of alerts is about less than the endpoint.
"""

import http.client
import json
import math
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.error import URLError
from urllib.request import Request, urlopen

from exporter.evaluation.time_marks import SilencesUnavailableError
from exporter.model.pattern import PatternError
from exporter.model.time_mark import LabelMatcher, MarkKind, MarkSource, TimeMark

PATH: Final = "/api/v2/silences"
_MAX_BYTES: Final = 8 << 20
_MAX_ID_CHARACTERS: Final = 100
_MAX_COMMENT_CHARACTERS: Final = 500


def read_silences(
    url: str, timeout_seconds: float, label_names: Collection[str], alert_names: Collection[str]
) -> Callable[[], Sequence[TimeMark]]:
    """Return a function that reads the silences of an Alertmanager.

    Args:
        url: its address.
        timeout_seconds: of the request.
        label_names: labels that tell series apart, besides service and span name.
        alert_names: names of the alerts about an endpoint.

    Returns:
        The function; it raises :class:`.SilencesUnavailableError`.
    """

    def read() -> Sequence[TimeMark]:
        try:
            request = Request(url + PATH, headers={"Accept": "application/json"})  # noqa: S310 - http or https, checked
            with urlopen(request, timeout=timeout_seconds) as response:  # noqa: S310 - as above
                body = response.read(_MAX_BYTES + 1)
        except (OSError, URLError, http.client.HTTPException, ValueError) as error:
            raise SilencesUnavailableError(f"{url}{PATH}: {error}") from error
        if len(body) > _MAX_BYTES:
            raise SilencesUnavailableError(f"{url}{PATH}: the response is larger than 8 MiB")
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise SilencesUnavailableError(f"{url}{PATH}: the response is not JSON") from error
        if not isinstance(document, list):
            raise SilencesUnavailableError(f"{url}{PATH}: the response is not a list of silences")
        return parse_silences(document, label_names, alert_names)

    return read


def parse_silences(
    silences: Sequence[object], label_names: Collection[str], alert_names: Collection[str]
) -> list[TimeMark]:
    """Convert the silences that are about endpoints; others, and those that are malformed, are left out."""
    found = {}
    for silence in silences:
        try:
            mark = _mark(silence, label_names, alert_names)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, PatternError):
            continue
        if mark is not None:
            found[mark.id] = mark
    return list(found.values())


def _mark(silence: Any, label_names: Collection[str], alert_names: Collection[str]) -> TimeMark | None:
    matchers = []
    for each in silence["matchers"]:
        matcher = LabelMatcher.of(
            str(each["name"]),
            str(each["value"]),
            is_regex=each.get("isRegex", False) is True,
            is_equal=each.get("isEqual", True) is not False,
        )
        if matcher.name == "severity":
            # The alerts of an endpoint have one severity each; it says nothing about the endpoint.
            continue
        if matcher.name == "alertname":
            if not any(_meets(matcher, name) for name in alert_names):
                return None
        elif matcher.name in {"service_name", "span_name", *label_names}:
            matchers.append(matcher)
        else:
            return None
    if not any(each.name == "service_name" and each.is_equal and each.value for each in matchers):
        return None
    start, end = _seconds(silence["startsAt"]), _seconds(silence["endsAt"])
    identity = str(silence["id"])
    if end <= start or not identity or len(identity) > _MAX_ID_CHARACTERS:
        return None
    return TimeMark(
        MarkKind.EXPECTED,
        tuple(matchers),
        math.floor(start),
        math.ceil(end),
        UTC,
        comment=str(silence.get("comment") or "")[:_MAX_COMMENT_CHARACTERS],
        source=MarkSource.ALERTMANAGER,
        id=identity,
    )


def _meets(matcher: LabelMatcher, value: str) -> bool:
    is_met = value == matcher.value if matcher.pattern is None else matcher.pattern.search(value)
    return is_met is matcher.is_equal


def _seconds(text: str) -> float:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    seconds = moment.timestamp()
    if not 0 <= seconds < 2**40:
        raise ValueError
    return seconds
