"""TraceQL: the queries that find the spans in scope."""

from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote_plus

from exporter.model.span import SeriesKey
from exporter.model.traceql_filter import filter_problem
from exporter.tempo.settings import Scope

MAX_SPANS_PER_TRACE: Final = 100
"""The most spans of a trace that Tempo returns in its default configuration; without asking, it returns three."""

# A root span has no parent, and Tempo numbers that -1. A trace whose root has not arrived has no such span.
_SCOPES: Final[dict[Scope, str]] = {
    "root": "nestedSetParent<0",
    "entry": "nestedSetParent<0 || kind=server || kind=consumer",
}
_SELECT: Final = "select(resource.service.name, name)"


def search_query(scope: Scope, user_filter: str = "", conditions: Iterable[str] = ()) -> str:
    """The query for the spans in scope, with their service and name.

    Args:
        scope: which spans.
        user_filter: conditions as a user wrote them; they cannot widen the scope, only narrow it.
        conditions: further conditions, from :func:`series_conditions`.

    Raises:
        ValueError: ``user_filter`` is not something that can be joined; see :func:`filter_problem`.
    """
    return f"{_selector(scope, user_filter, conditions)} | {_SELECT}"


def count_query(scope: Scope, user_filter: str = "", *, by_series: bool = False) -> str:
    """The query for the number of spans in scope, altogether or of each series.

    Raises:
        ValueError: ``user_filter`` is not something that can be joined; see :func:`filter_problem`.
    """
    by = " by (resource.service.name, name)" if by_series else ""
    return f"{_selector(scope, user_filter)} | count_over_time(){by}"


def _selector(scope: Scope, user_filter: str, conditions: Iterable[str] = ()) -> str:
    problem = filter_problem(user_filter)
    if problem is not None:
        raise ValueError(f"the filter {problem}")
    narrower = [f"({condition})" for condition in (user_filter.strip(), *conditions) if condition]
    spans = _SCOPES[scope]
    if narrower and "||" in spans:
        spans = f"({spans})"
    return f"{{{' && '.join([spans, *narrower])}}}"


def series_conditions(key: SeriesKey) -> tuple[str, str]:
    """The conditions that single out the spans of one series."""
    return f"resource.service.name={quoted(key.service_name)}", f"name={quoted(key.span_name)}"


def any_series_condition(keys: Sequence[SeriesKey]) -> str:
    """The condition that singles out the spans of some series, at least one."""
    return " || ".join(f"({' && '.join(series_conditions(key))})" for key in keys)


def condition_length(key: SeriesKey) -> int:
    """How much longer a URL becomes by one more series in :func:`any_series_condition`."""
    return len(quote_plus(f" || ({' && '.join(series_conditions(key))})"))


def quoted(text: str) -> str:
    """A TraceQL string literal, which follows the rules of Go's: any text, on one line."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if "\ud800" <= character <= "\udfff":
        return "\ufffd"  # half of a surrogate pair is not text, and cannot be sent
    if character.isprintable():
        return character
    return f"\\U{ord(character):08x}"
