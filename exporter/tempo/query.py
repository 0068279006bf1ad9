"""Builds the TraceQL queries that select the spans in scope."""

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple
from urllib.parse import quote_plus

from exporter.model.failure_rule import FailureRule
from exporter.model.identity import BY_NAME, METHODS, OWN_NAME, Attribute, SeriesIdentity, methods_of
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
_FIELDS: Final = ("resource.service.name", "name")
_STATUS: Final = "status"
_MAX_COUNT_FIELDS: Final = 5
"""Tempo counts by so many fields at most (``maxGroupBys``)."""

_INTEGER: Final = re.compile("-?[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"-?[0-9]{1,18}\.[0-9]{1,18}")
_UNWRITABLE: Final = re.compile(r"\[|[-+]?(?:[0-9.]+[eE][-+]?[0-9]+|inf|nan|Infinity|NaN)$")
"""Text that may stand for an array or a number that no TraceQL literal compares equal to."""

Grouping = Literal["span", "service", "none"]
"""How the spans of a trace are divided into span sets."""

# Where the spans of a trace are in several blocks, Tempo does not put them together: of all span sets with the same
# values of by() it returns the one with most spans. With one set for each span, none is left out.
_GROUPINGS: Final[dict[Grouping, str]] = {
    "span": " | by(span:id)",
    "service": " | by(resource.service.name)",
    "none": "",
}


class OperationName(NamedTuple):
    """Names of the spans of one operation, as Tempo has them."""

    service_name: str
    span_name: str


class DurationRange(NamedTuple):
    """Durations of spans in ``[at_least_ns, below_ns)``, in nanoseconds; without an end if that is None."""

    at_least_ns: int = 0
    below_ns: int | None = None

    def contains(self, duration_ns: int) -> bool:
        """Whether a duration is in the range."""
        return self.at_least_ns <= duration_ns and (self.below_ns is None or duration_ns < self.below_ns)


ANY_DURATION: Final = DurationRange()


def search_query(
    scope: Scope,
    user_filter: str = "",
    conditions: Iterable[str] = (),
    *,
    grouping: Grouping = "none",
    identity: SeriesIdentity = BY_NAME,
    failures: FailureRule | None = None,
    operations: Iterable[OperationName] = (),
    selected: Iterable[Attribute] = (),
) -> str:
    """Return the search query for the spans in scope, selecting what decides their series and whether they failed.

    Args:
        scope: which spans.
        user_filter: the configured ``tempo.filter``; it can narrow the scope, not widen it.
        conditions: further conditions that must all hold, from :func:`series_conditions`.
        grouping: how the spans of a trace are divided into span sets.
        identity: the rules by which a span gets its series.
        failures: the rule by which a span has failed; None where that is not wanted.
        operations: each must occur in the trace as well, in scope or not; the answer contains these spans, too.
        selected: further attributes of the spans that the answer shall contain.

    Raises:
        ValueError: ``user_filter`` cannot be joined to a query; see :func:`filter_problem`.
    """
    others = "".join(
        f" && {{resource.service.name={quoted(each.service_name)} && name={quoted(each.span_name)}}}"
        for each in operations
    )
    fields = dict.fromkeys((*_fields(identity), *_failure_fields(failures), *map(str, selected)))
    select = f"select({', '.join(fields)})"
    return f"{_selector(scope, user_filter, conditions)}{others}{_GROUPINGS[grouping]} | {select}"


def any_span_query() -> str:
    """Return a search query that every span matches, without the configured scope and filter."""
    return f"{{}} | select({', '.join(_FIELDS)})"


def whole_traces_query(user_filter: str = "") -> str:
    """Return a search query that every span matches that meets the filter, in scope or not."""
    return f"{{{user_filter.strip()}}}"


def _fields(identity: SeriesIdentity) -> tuple[str, ...]:
    return (*_FIELDS, *map(str, identity.attributes))


def _failure_fields(failures: FailureRule | None) -> tuple[str, ...]:
    if failures is None:
        return ()
    return (*((_STATUS,) if failures.needs_status else ()), *map(str, failures.attributes))


def can_count_by_series(identity: SeriesIdentity) -> bool:
    """Return whether few enough attributes decide the series for Tempo to count by them."""
    return len(_fields(identity)) <= _MAX_COUNT_FIELDS


def count_query(
    scope: Scope, user_filter: str = "", *, by_series: bool = False, identity: SeriesIdentity = BY_NAME
) -> str:
    """Return the metrics query for the number of spans in scope, in total or by what decides their series.

    Raises:
        ValueError: ``user_filter`` cannot be joined to a query; see :func:`filter_problem`.
    """
    by = f" by ({', '.join(_fields(identity))})" if by_series else ""
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


def series_conditions(key: SeriesKey, identity: SeriesIdentity = BY_NAME) -> tuple[str, ...]:
    """Return the conditions that match the spans of one series.

    Where attributes decide, they may match other spans as well: not every version of TraceQL can ask for spans
    without an attribute, and none can ask for the first present one of several.
    """
    return (*service_conditions(key, identity), *_name_condition(key, identity))


def service_conditions(key: SeriesKey, identity: SeriesIdentity = BY_NAME) -> tuple[str, ...]:
    """Return the conditions that match the spans of the service of a series, with its labels and any name.

    They may match other spans as well, as those of :func:`series_conditions`.
    """
    conditions = [f"resource.service.name={quoted(key.service_name)}"]
    values = dict(key.labels)
    for label_name, alternatives in zip(identity.label_names, identity.labels, strict=True):
        if value := values.get(label_name):
            conditions += _any_of(comparison for each in alternatives for comparison in _comparisons(each, value))
    return tuple(conditions)


def value_conditions(attribute: Attribute, value: str) -> list[str]:
    """Return the condition that an attribute has a value with this text; empty where there is no literal for it."""
    return _any_of(_comparisons(attribute, value))


def _name_condition(key: SeriesKey, identity: SeriesIdentity) -> list[str]:
    return _any_of(comparison for each in identity.span_name for comparison in _name_comparisons(each, key.span_name))


def _any_of(comparisons: Iterable[str | None]) -> list[str]:
    """Return the disjunction as a list of one; an empty list where one of them cannot be written."""
    written = list(comparisons)
    if None in written:
        return []
    return [" || ".join(filter(None, written)) if len(written) == 1 else f"({' || '.join(filter(None, written))})"]


def _comparisons(attribute: Attribute, value: str) -> Iterable[str | None]:
    """Yield comparisons of an attribute with every value whose text this is; None where there is no literal for it."""
    if _UNWRITABLE.match(value):
        yield None
    yield f"{attribute}={quoted(value)}"
    if value in ("true", "false") or _DECIMAL.fullmatch(value):
        yield f"{attribute}={value}"
    if _INTEGER.fullmatch(value):
        yield from (f"{attribute}={value}", f"{attribute}={value}.0")


def _name_comparisons(attribute: Attribute, span_name: str) -> Iterable[str | None]:
    """Yield comparisons with every value of an attribute that may name an endpoint like this."""
    if attribute == OWN_NAME:
        yield f"name={quoted(span_name)}"
        return
    yield from _comparisons(attribute, span_name)
    methods, rest = methods_of(span_name)
    if rest:
        method = _any_of(f"{each}={quoted(method)}" for each in METHODS for method in methods)[0]
        for comparison in _comparisons(attribute, rest):
            yield None if comparison is None else f"({method} && {comparison})"


def duration_conditions(durations: DurationRange) -> list[str]:
    """Return the conditions that match the spans with these durations."""
    conditions = [f"duration>={durations.at_least_ns}ns"] if durations.at_least_ns else []
    if durations.below_ns is not None:
        conditions.append(f"duration<{durations.below_ns}ns")
    return conditions


def any_series_condition(keys: Sequence[SeriesKey], identity: SeriesIdentity = BY_NAME) -> str:
    """Return one condition that matches the spans of any of these series (at least one)."""
    return " || ".join(f"({' && '.join(series_conditions(key, identity))})" for key in keys)


def condition_length(key: SeriesKey, identity: SeriesIdentity = BY_NAME) -> int:
    """Return the URL-encoded length that one series adds to :func:`any_series_condition`.

    It is beyond all bounds for a series that cannot be searched for by its name.
    """
    if not _name_condition(key, identity):
        return sys.maxsize
    return len(quote_plus(f" || ({' && '.join(series_conditions(key, identity))})"))


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
