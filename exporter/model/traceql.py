"""Conditions on the fields of a span, in the notation of TraceQL.

    status = error || span.http.response.status_code >= 500

The syntax is that of a spanset filter: comparisons of a field with a constant, ``&&``, ``||`` and parentheses. A
comparison of numbers with text does not match, and no comparison matches a field that the span does not have.
"""

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Final, NamedTuple

from exporter.model.pattern import Pattern, PatternError

Value = str | int | float | bool

_UNQUOTED: Final = re.compile(r"""[^\s{}()=~!<>&|^,"`]+""")


class TraceQLError(ValueError):
    """The text is not in the supported subset of TraceQL; the message says where and why."""


class Field(NamedTuple):
    """A field of a span. ``scope`` is ``resource``, ``span``, or empty for intrinsics such as ``span:id``."""

    scope: str
    name: str

    def __str__(self) -> str:
        if not self.scope or _UNQUOTED.fullmatch(self.name):
            return f"{self.scope}.{self.name}" if self.scope else self.name
        escaped = self.name.replace("\\", "\\\\").replace('"', '\\"')
        return f'{self.scope}."{escaped}"'


NAME: Final = Field("", "name")
STATUS: Final = Field("", "status")
_INTRINSICS: Final = frozenset({"name", "kind", "status", "duration", "nestedSetParent"})
_STATUSES: Final = ("unset", "ok", "error")
_KINDS: Final = ("unspecified", "internal", "server", "client", "producer", "consumer")
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


def _type_of(value: Value) -> type:
    """Return the type that two values must share to be comparable; whole and other numbers are."""
    return float if type(value) is int else type(value)


@lru_cache(maxsize=256)
def _whole(expression: str) -> Pattern:
    """Compile a regular expression that must match all of a text; raises PatternError."""
    return Pattern(f"^(?:{expression})$")


@dataclass(frozen=True)
class Comparison:
    """Comparison of a field with a constant. An absent field, or one of another type, does not match."""

    subject: Field
    comparison: str
    constant: Value

    def matches(self, lookup: Lookup) -> bool:
        """Return whether a span matches; ``lookup`` returns its fields."""
        value = lookup(self.subject)
        if value is None or _type_of(value) is not _type_of(self.constant):
            return False
        if self.comparison in ("=~", "!~"):
            return _whole(str(self.constant)).search(str(value)) == (self.comparison == "=~")
        return bool(_COMPARISONS[self.comparison](value, self.constant))

    def fields(self) -> Iterator[Field]:
        """Yield the fields that the result depends on."""
        yield self.subject

    def matching_fields(self, lookup: Lookup) -> Iterator[Field]:
        """Yield the fields of the comparisons that a span meets."""
        if self.matches(lookup):
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

    def matching_fields(self, lookup: Lookup) -> Iterator[Field]:
        """Yield the fields of the comparisons that a span meets."""
        return chain.from_iterable(condition.matching_fields(lookup) for condition in self.conditions)


Condition = Comparison | BooleanCondition
ALL_SPANS: Final = BooleanCondition(all, ())
NO_SPANS: Final = BooleanCondition(any, ())


_TOKEN: Final = re.compile(
    r"""(?P<id>(?:span:id|span:parentID|trace:id)\b)
      | (?P<attribute>(?:resource|span)\.(?:"(?:[^"\\]|\\["\\])+"|[^\s{}()=~!<>&|^,"`]+))
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
    "id": "SPAN_ID",
}  # fmt: skip


class ConditionParser:
    """Recursive descent parser of conditions, to be extended by one of queries.

    Raises:
        TraceQLError: the text is not in the supported subset; the message names the position.
    """

    def __init__(self, text: str) -> None:
        """Divide a text into tokens."""
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
        return TraceQLError(f"parse error at line {line}, col {column}: syntax error: {problem}")

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

    def condition(self) -> Condition:
        """Parse all of the text as a condition."""
        condition = self._or_expression()
        if self._accept(kind="end") is None:
            raise self._unexpected()
        return condition

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
                _whole(str(value))
            except PatternError as error:
                raise self._error(constant_position, f"not a regular expression: {error}") from None
        return Comparison(subject, comparison, value)

    def _field(self) -> Field:
        if attribute := self._accept(kind="attribute"):
            scope, _, name = attribute.partition(".")
            return Field(scope, re.sub(r"\\(.)", r"\1", name[1:-1]) if name.startswith('"') else name)
        if intrinsic := self._accept(*_INTRINSICS, kind="word"):
            return Field("", intrinsic)
        raise self._unsupported()

    def _unsupported(self) -> TraceQLError:
        token = self._tokens[self._next]
        if token.kind != "word":
            return self._unexpected()
        return TraceQLError(f"{token.text!r} is not supported")

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
        if text := self._accept(*_KINDS, *_STATUSES, kind="word"):
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
