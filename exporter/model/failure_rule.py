"""The rule by which a span counts as failed, from its status and its attributes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from exporter.model.identity import Attribute
from exporter.model.traceql import STATUS, BooleanCondition, Comparison, Condition, ConditionParser, TraceQLError, Value

STATUSES: Final = ("unset", "ok", "error")
"""The statuses that a span can have."""

_MAX_CHARACTERS: Final = 1000
_EXAMPLE: Final = "such as status = error || span.http.response.status_code >= 500"


@dataclass(frozen=True)
class FailureRule:
    """Which spans count as failed: a condition in the notation of :mod:`exporter.model.traceql`.

    Attributes:
        text: the condition.

    Raises:
        ValueError: it is no condition on the status and attributes of a span; the message is worded to follow its
            name.
    """

    text: str = "status = error"
    _condition: Condition = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_condition", _parse(self.text))

    def __str__(self) -> str:
        """Return the condition with single spaces, so that those with the same meaning are equal more often."""
        return " ".join(self.text.split())

    @cached_property
    def attributes(self) -> tuple[Attribute, ...]:
        """The attributes that the condition names."""
        named = dict.fromkeys(each for each in self._condition.fields() if each != STATUS)
        return tuple(Attribute("resource" if each.scope == "resource" else "span", each.name) for each in named)

    @cached_property
    def needs_status(self) -> bool:
        """Whether the condition names the status."""
        return STATUS in self._condition.fields()

    def failed(self, status: str | None, values: Mapping[Attribute, Value]) -> bool | None:
        """Return whether a span failed; None where its status decides and is unknown.

        Args:
            status: one of :data:`STATUSES`; None if unknown.
            values: values of the attributes that the condition names; absent ones are missing.
        """
        found: Mapping[tuple[str, str], Value] = {(each.scope, each.name): value for each, value in values.items()}
        results = {
            self._condition.matches(lambda field, status=each: status if field == STATUS else found.get(field))  # type: ignore[misc]
            for each in (STATUSES if status is None else (status,))
        }
        return results.pop() if len(results) == 1 else None


def _parse(text: str) -> Condition:
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"must have at most {_MAX_CHARACTERS} characters")
    try:
        condition = ConditionParser(text).condition()
    except TraceQLError as error:
        raise ValueError(f"must be a condition, {_EXAMPLE}: {error}") from None
    except RecursionError:
        raise ValueError("has too many parentheses within each other") from None
    for comparison in _comparisons(condition):
        if comparison.subject == STATUS:
            if comparison.comparison not in ("=", "!=") or comparison.constant not in STATUSES:
                raise ValueError(f"must compare status by = or != with one of {', '.join(STATUSES)}")
        elif not comparison.subject.scope:
            raise ValueError(
                f"must be about status and attributes with their scope, {_EXAMPLE}, not about {comparison.subject}"
            )
    if not any(True for _ in condition.fields()):
        raise ValueError(f"must be a condition on status or attributes, {_EXAMPLE}")
    return condition


def _comparisons(condition: Condition) -> list[Comparison]:
    if isinstance(condition, BooleanCondition):
        return [each for part in condition.conditions for each in _comparisons(part)]
    return [condition]


STATUS_IS_ERROR: Final = FailureRule()
"""The default: a span has failed if its status is ``error``."""
