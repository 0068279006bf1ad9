"""Parser for the subset of TraceQL that the exporter and its users need: spanset filters, by, select, and counting.

    { nestedSetParent<0 && (resource.service.name="a" || name=~"GET .*") } | select(name, kind) with (most_recent=true)
    { kind=server } | by(span:id) | select(name)
    { kind=server && name="a" } && { name="b" } | select(name)
    { kind=server } | count_over_time() by (resource.service.name, name)

Everything else is rejected.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from exporter.demo.traces import TraceShape
from exporter.model.traceql import (
    ALL_SPANS,
    BooleanCondition,
    Comparison,
    Condition,
    ConditionParser,
    Field,
    TraceQLError,
    Value,
)

DURATION: Final = Field("", "duration")
SPAN_ID: Final = Field("", "span:id")
PARENT_ID: Final = Field("", "span:parentID")
TRACE_ID: Final = Field("", "trace:id")
_TRACE_ID_TEXT: Final = re.compile("[0-9a-fA-F]{1,32}")


@dataclass(frozen=True)
class Query:
    """A parsed query.

    Attributes:
        condition: which spans match.
        also: further conditions; each must match spans of the same trace, which are found as well.
        selected: the fields of ``select()``.
        count_by: the fields of ``count_over_time() by ()``; None without counting.
        group_by: the fields of ``by()``, which divide the spans of a trace into span sets.
        hints: the hints of ``with ()``.
    """

    condition: Condition
    selected: tuple[Field, ...] = ()
    count_by: tuple[Field, ...] | None = None
    group_by: tuple[Field, ...] = ()
    hints: Mapping[str, Value] = field(default_factory=dict)
    also: tuple[Condition, ...] = ()

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions of all spanset filters."""
        return (self.condition, *self.also)

    @property
    def most_recent(self) -> bool:
        """Whether the newest matches are requested."""
        return self.hints.get("most_recent") is True

    def depends_on_duration(self) -> bool:
        """Return whether the match depends on durations, so that traces of one shape can differ."""
        return any(DURATION in condition.fields() for condition in self.conditions)

    def trace_ids(self) -> frozenset[int] | None:
        """Return the trace ids of a query for traces by their ids; None for another query."""
        if self.also:
            return None
        conditions = self.condition.conditions if isinstance(self.condition, BooleanCondition) else (self.condition,)
        is_any = not isinstance(self.condition, BooleanCondition) or self.condition.combine is any
        ids = [
            int(each.constant, 16)
            for each in conditions
            if isinstance(each, Comparison) and each.subject == TRACE_ID and each.comparison == "="
            if isinstance(each.constant, str) and _TRACE_ID_TEXT.fullmatch(each.constant)
        ]
        return frozenset(ids) if ids and is_any and len(ids) == len(conditions) else None

    def shown_fields(self) -> tuple[Field, ...]:
        """Return the fields in the response: those compared and those selected, without duplicates."""
        compared = chain.from_iterable(condition.fields() for condition in self.conditions)
        fields = dict.fromkeys((*compared, *self.selected))
        return tuple(each for each in fields if each != TRACE_ID)


def field_value(shape: TraceShape, position: int, wanted_field: Field, duration_ns: int = 0) -> Value | None:
    """Return a field of the span at a position of a shape; None if the span does not have it."""
    operation = shape.operations[position]
    if wanted_field.scope == "resource":
        return operation.resource_attributes.get(wanted_field.name)
    if wanted_field.scope == "span":
        return operation.span_attributes.get(wanted_field.name)
    if wanted_field.name == "name":
        return operation.name
    if wanted_field.name == "kind":
        return operation.kind
    if wanted_field.name == "status":
        return operation.status
    if wanted_field.name == "nestedSetParent":
        return shape.nested_set_parents[position]
    return duration_ns


class _Parser(ConditionParser):
    """Recursive descent parser of queries."""

    def query(self) -> Query:
        condition = self._spanset_filter()
        also: list[Condition] = []
        while self._accept("&&"):
            also.append(self._spanset_filter())
        selected: tuple[Field, ...] = ()
        count_by: tuple[Field, ...] | None = None
        group_by: tuple[Field, ...] = ()
        while self._accept("|"):
            if count_by is None and self._accept("select", kind="word"):
                selected += self._fields()
            elif count_by is None and self._accept("by", kind="word"):
                self._expect("(")
                group_by += (self._grouping_field(),)
                self._expect(")")
            elif count_by is None and self._accept("count_over_time", kind="word"):
                self._expect("(")
                self._expect(")")
                count_by = self._fields() if self._accept("by", kind="word") else ()
            else:
                raise self._unsupported()
        hints: dict[str, Value] = {}
        if self._accept("with", kind="word"):
            self._expect("(")
            while True:
                name = self._accept(kind="word")
                if name is None:
                    raise self._unexpected()
                self._expect("=")
                hints[name] = self._constant()
                if not self._accept(","):
                    break
            self._expect(")")
        if self._accept(kind="end") is None:
            raise self._unexpected()
        if also and count_by is not None:
            raise TraceQLError("invalid TraceQL query: '&&' of spanset filters is supported by searches only")
        query = Query(condition, selected, count_by, group_by, hints, tuple(also))
        fields = {*chain.from_iterable(each.fields() for each in query.conditions)}
        if PARENT_ID in fields or TRACE_ID in {*selected, *group_by} or (TRACE_ID in fields and not query.trace_ids()):
            raise TraceQLError(f"{PARENT_ID} is supported in select() only, {TRACE_ID} alone")
        return query

    def _spanset_filter(self) -> Condition:
        self._expect("{")
        if self._accept("}"):
            return ALL_SPANS
        condition = self._or_expression()
        self._expect("}")
        return condition

    def _fields(self) -> tuple[Field, ...]:
        self._expect("(")
        fields = [self._field()]
        while self._accept(","):
            fields.append(self._field())
        self._expect(")")
        return tuple(fields)

    def _field(self) -> Field:
        if intrinsic := self._accept(PARENT_ID.name, TRACE_ID.name, kind="id"):
            return Field("", intrinsic)
        return super()._field()

    def _grouping_field(self) -> Field:
        return SPAN_ID if self._accept(SPAN_ID.name, kind="id") else self._field()


def parse(text: str) -> Query:
    """Parse a query.

    Raises:
        TraceQLError: it is not in the supported subset of TraceQL.
    """
    try:
        return _Parser(text).query()
    except TraceQLError as error:
        raise TraceQLError(f"invalid TraceQL query: {error}") from None
