"""Builds the TraceQL queries that select the spans in scope."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from urllib.parse import quote_plus

from exporter.model.span import SeriesKey
from exporter.model.traceql_filter import filter_problem
from exporter.tempo.settings import Scope

MAX_SPANS_PER_TRACE: Final = 100
"""Tempo's default maximum for ``spss``, the spans returned per trace. Without that parameter it returns three."""

# Root spans have nestedSetParent -1. A trace whose root has not arrived yet has no such span.
_SCOPES: Final[dict[Scope, str]] = {
    "root": "nestedSetParent<0",
    "entry": "nestedSetParent<0 || kind=server || kind=consumer",
}
_SELECT: Final = "select(resource.service.name, name)"


class DurationRange(NamedTuple):
    """Durations of spans in ``[at_least_ns, below_ns)``, in nanoseconds; without an end if that is None."""

    at_least_ns: int = 0
    below_ns: int | None = None

    def contains(self, duration_ns: int) -> bool:
        """Whether a duration is in the range."""
        return self.at_least_ns <= duration_ns and (self.below_ns is None or duration_ns < self.below_ns)


ANY_DURATION: Final = DurationRange()


def search_query(scope: Scope, user_filter: str = "", conditions: Iterable[str] = ()) -> str:
    """Return the search query for the spans in scope, selecting their service and name.

    Args:
        scope: which spans.
        user_filter: the configured ``tempo.filter``; it can narrow the scope, not widen it.
        conditions: further conditions that must all hold, from :func:`series_conditions`.

    Raises:
        ValueError: ``user_filter`` cannot be joined to a query; see :func:`filter_problem`.
    """
    return f"{_selector(scope, user_filter, conditions)} | {_SELECT}"


def any_span_query() -> str:
    """Return a search query that every span matches, without the configured scope and filter."""
    return f"{{}} | {_SELECT}"


def count_query(scope: Scope, user_filter: str = "", *, by_series: bool = False) -> str:
    """Return the metrics query for the number of spans in scope, in total or by series.

    Raises:
        ValueError: ``user_filter`` cannot be joined to a query; see :func:`filter_problem`.
    """
    by = " by (resource.service.name, name)" if by_series else ""
    return f"{_selector(scope, user_filter)} | count_over_time(){by}"


def _selector(scope: Scope, user_filter: str, conditions: Iterable[str] = ()) -> str:
    problem = filter_problem(user_filter)
    if problem is not None:
        raise ValueError(f"the filter {problem}")
    narrowing = [f"({condition})" for condition in (user_filter.strip(), *conditions) if condition]
    spans = _SCOPES[scope]
    if narrowing and "||" in spans:
        spans = f"({spans})"
    return f"{{{' && '.join([spans, *narrowing])}}}"


def series_conditions(key: SeriesKey) -> tuple[str, str]:
    """Return the conditions that match the spans of one series."""
    return f"resource.service.name={quoted(key.service_name)}", f"name={quoted(key.span_name)}"


def duration_conditions(durations: DurationRange) -> list[str]:
    """Return the conditions that match the spans with these durations."""
    conditions = [f"duration>={durations.at_least_ns}ns"] if durations.at_least_ns else []
    if durations.below_ns is not None:
        conditions.append(f"duration<{durations.below_ns}ns")
    return conditions


def any_series_condition(keys: Sequence[SeriesKey]) -> str:
    """Return one condition that matches the spans of any of these series (at least one)."""
    return " || ".join(f"({' && '.join(series_conditions(key))})" for key in keys)


def condition_length(key: SeriesKey) -> int:
    """Return the URL-encoded length that one series adds to :func:`any_series_condition`."""
    return len(quote_plus(f" || ({' && '.join(series_conditions(key))})"))


def quoted(text: str) -> str:
    """Return a text as a TraceQL string literal on one line; the syntax is that of Go."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if "\ud800" <= character <= "\udfff":
        return "\ufffd"  # an unpaired surrogate cannot be encoded
    if character.isprintable():
        return character
    return f"\\U{ord(character):08x}"
