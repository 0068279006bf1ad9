"""Parser for the subset of TraceQL that the exporter and its users need: one spanset filter, select, and counting.

    { nestedSetParent<0 && (resource.service.name="a" || name=~"GET .*") } | select(name, kind) with (most_recent=true)
    { kind=server } | count_over_time() by (resource.service.name, name)

Everything else is rejected.
"""

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, NamedTuple

from exporter.demo.traces import TraceShape

Value = str | int | float | bool


class TraceQLError(ValueError):
    """The query is not in the supported subset of TraceQL; the text is the response to the client."""


class Field(NamedTuple):
    """A field of a span. ``scope`` is ``resource``, ``span``, or empty for intrinsics."""

    scope: str
    name: str

    def __str__(self) -> str:
        return f"{self.scope}.{self.name}" if self.scope else self.name


NAME: Final = Field("", "name")
DURATION: Final = Field("", "duration")
_INTRINSICS: Final = {"name", "kind", "duration", "nestedSetParent"}
_KINDS: Final = {"unspecified", "internal", "server", "client", "producer", "consumer"}
_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_UNITS_NS: Final = {
    "ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip

_ESCAPE: Final = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED: Final = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", '"': '"', "\\": "\\",
}  # fmt: skip

Lookup = Callable[[Field], Value | None]


@dataclass(frozen=True)
class Comparison:
    """Comparison of a field with a constant. An absent field, or one of another type, does not match."""

    subject: Field
    comparison: str
    constant: Value

    def matches(self, lookup: Lookup) -> bool:
        """Return whether a span matches; ``lookup`` returns its fields."""
        value = lookup(self.subject)
        if value is None or isinstance(value, str) != isinstance(self.constant, str):
            return False
        if self.comparison in ("=~", "!~"):
            return (re.fullmatch(str(self.constant), str(value)) is not None) == (self.comparison == "=~")
        return bool(_COMPARISONS[self.comparison](value, self.constant))

    def fields(self) -> Iterator[Field]:
        """Yield the fields that the result depends on."""
        yield self.subject


@dataclass(frozen=True)
class BooleanCondition:
    """Conjunction (``all``) or disjunction (``any``) of conditions."""

    combine: Callable[[Iterable[bool]], bool]
    conditions: tuple["Condition", ...]

    def matches(self, lookup: Lookup) -> bool:
        """Return whether a span matches; ``lookup`` returns its fields."""
        return self.combine(condition.matches(lookup) for condition in self.conditions)

    def fields(self) -> Iterator[Field]:
        """Yield the fields that the result depends on."""
        return chain.from_iterable(condition.fields() for condition in self.conditions)


Condition = Comparison | BooleanCondition
ALL_SPANS: Final = BooleanCondition(all, ())
NO_SPANS: Final = BooleanCondition(any, ())


@dataclass(frozen=True)
class Query:
    """A parsed query.

    Attributes:
        condition: which spans match.
        selected: the fields of ``select()``.
        count_by: the fields of ``count_over_time() by ()``; None without counting.
        hints: the hints of ``with ()``.
    """

    condition: Condition
    selected: tuple[Field, ...] = ()
    count_by: tuple[Field, ...] | None = None
    hints: Mapping[str, Value] = field(default_factory=dict)

    @property
    def most_recent(self) -> bool:
        """Whether the newest matches are requested."""
        return self.hints.get("most_recent") is True

    def depends_on_duration(self) -> bool:
        """Return whether the match depends on durations, so that traces of one shape can differ."""
        return DURATION in self.condition.fields()

    def shown_fields(self) -> tuple[Field, ...]:
        """Return the fields in the response: those compared and those selected, without duplicates."""
        return tuple(dict.fromkeys((*self.condition.fields(), *self.selected)))


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
    if wanted_field.name == "nestedSetParent":
        return shape.nested_set_parents[position]
    return duration_ns


_TOKEN: Final = re.compile(
    r"""(?P<attribute>(?:resource|span)\.[^\s{}()=~!<>&|^,"`]+)
      | (?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)
      | (?P<duration>(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+(?![\w.]))
      | (?P<number>-?(?:\d+\.?\d*|\.\d+)(?![\w.]))
      | (?P<word>[A-Za-z_]\w*)
      | (?P<sign>&&|\|\||!=|!~|=~|<=|>=|[{}()<>=|,])""",
    re.VERBOSE,
)
_SPACE: Final = re.compile(r"\s*")


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


_DESCRIPTIONS: Final = {
    "attribute": "END_ATTRIBUTE", "string": "STRING", "duration": "DURATION", "number": "INTEGER", "word": "IDENTIFIER",
}  # fmt: skip


class _Parser:
    """Recursive descent parser; raises ``TraceQLError`` with the position."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._scan()
        self._next = 0

    def _scan(self) -> list[_Token]:
        tokens = []
        position = _skip_space(self._text, 0)
        while position < len(self._text):
            match = _TOKEN.match(self._text, position)
            if match is None:
                raise self._error(position, f"unexpected {self._text[position]!r}")
            tokens.append(_Token(match.lastgroup or "", match.group(), position))
            position = _skip_space(self._text, match.end())
        tokens.append(_Token("end", "", len(self._text)))
        return tokens

    def _error(self, position: int, problem: str) -> TraceQLError:
        line = self._text.count("\n", 0, position) + 1
        column = position - (self._text.rfind("\n", 0, position) + 1) + 1
        return TraceQLError(f"invalid TraceQL query: parse error at line {line}, col {column}: syntax error: {problem}")

    def _unexpected(self) -> TraceQLError:
        token = self._tokens[self._next]
        what = "$end" if token.kind == "end" else _DESCRIPTIONS.get(token.kind, token.text)
        return self._error(token.position, f"unexpected {what}")

    def _accept(self, *texts: str, kind: str = "sign") -> str | None:
        """Consume the next token if it is of that kind and one of these texts; return its text."""
        token = self._tokens[self._next]
        if token.kind != kind or (texts and token.text not in texts):
            return None
        self._next += 1
        return token.text

    def _expect(self, text: str, kind: str = "sign") -> None:
        if self._accept(text, kind=kind) is None:
            raise self._unexpected()

    def query(self) -> Query:
        self._expect("{")
        condition: Condition = ALL_SPANS
        if self._accept("}") is None:
            condition = self._or_expression()
            self._expect("}")
        selected: tuple[Field, ...] = ()
        count_by: tuple[Field, ...] | None = None
        while self._accept("|"):
            if count_by is None and self._accept("select", kind="word"):
                selected += self._fields()
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
        return Query(condition, selected, count_by, hints)

    def _unsupported(self) -> TraceQLError:
        token = self._tokens[self._next]
        if token.kind != "word":
            return self._unexpected()
        return TraceQLError(f"invalid TraceQL query: {token.text!r} is not supported")

    def _or_expression(self) -> Condition:
        conditions = [self._and_expression()]
        while self._accept("||"):
            conditions.append(self._and_expression())
        return conditions[0] if len(conditions) == 1 else BooleanCondition(any, tuple(conditions))

    def _and_expression(self) -> Condition:
        conditions = [self._condition()]
        while self._accept("&&"):
            conditions.append(self._condition())
        return conditions[0] if len(conditions) == 1 else BooleanCondition(all, tuple(conditions))

    def _condition(self) -> Condition:
        if self._accept("("):
            condition = self._or_expression()
            self._expect(")")
            return condition
        if constant := self._accept("true", "false", kind="word"):
            return ALL_SPANS if constant == "true" else NO_SPANS
        subject = self._field()
        comparison = self._accept("=", "!=", "<", "<=", ">", ">=", "=~", "!~")
        if comparison is None:
            raise self._unexpected()
        constant_position = self._tokens[self._next].position
        value = self._constant()
        if comparison in ("=~", "!~"):
            try:
                re.compile(str(value))
            except re.error as error:
                raise self._error(constant_position, f"not a regular expression: {error}") from None
        return Comparison(subject, comparison, value)

    def _fields(self) -> tuple[Field, ...]:
        self._expect("(")
        fields = [self._field()]
        while self._accept(","):
            fields.append(self._field())
        self._expect(")")
        return tuple(fields)

    def _field(self) -> Field:
        if attribute := self._accept(kind="attribute"):
            scope, _, name = attribute.partition(".")
            return Field(scope, name)
        if intrinsic := self._accept(*_INTRINSICS, kind="word"):
            return Field("", intrinsic)
        raise self._unsupported()

    def _constant(self) -> Value:
        if text := self._accept(kind="string"):
            return self._unquoted(text)
        if text := self._accept(kind="duration"):
            parts = re.findall(r"([\d.]+)(\D+)", text)
            return round(sum(float(number) * _UNITS_NS[unit] for number, unit in parts))
        if text := self._accept(kind="number"):
            return float(text) if "." in text else int(text)
        if text := self._accept("true", "false", kind="word"):
            return text == "true"
        if text := self._accept(*_KINDS, kind="word"):
            return text
        raise self._unexpected()

    def _unquoted(self, text: str) -> str:
        if text.startswith("`"):
            return text[1:-1]
        try:
            return _ESCAPE.sub(_unescaped, text[1:-1])
        except (KeyError, ValueError, OverflowError):
            raise self._error(self._tokens[self._next - 1].position, "invalid escape in a string") from None


def _unescaped(match: re.Match[str]) -> str:
    """Return the character of an escape in a Go string literal; raises KeyError or ValueError if it is invalid."""
    escape = match.group()[1:]
    return chr(int(escape[1:], 16)) if len(escape) > 1 else _ESCAPED[escape]


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def parse(text: str) -> Query:
    """Parse a query.

    Raises:
        TraceQLError: it is not in the supported subset of TraceQL.
    """
    return _Parser(text).query()
