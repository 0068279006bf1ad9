"""Query parameters, read and validated one by one; all errors are reported together."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from exporter.config.wording import hint, shown, shown_name

_T = TypeVar("_T")


class ParameterError(NamedTuple):
    """What is wrong with one parameter.

    Attributes:
        parameter: its name.
        detail: the problem, worded to follow the name.
    """

    parameter: str
    detail: str


class BadParametersError(Exception):
    """The parameters are invalid.

    Attributes:
        errors: all problems.
    """

    def __init__(self, errors: list[ParameterError]) -> None:
        super().__init__("; ".join(f"{each.parameter} {each.detail}" for each in errors))
        self.errors = errors


class Parameters:
    """Reads parameters and collects errors; call :meth:`finish` after the last one."""

    def __init__(self, query: Mapping[str, list[str]]) -> None:
        """Take the values of a parsed query string."""
        self._query = query
        self._known: list[str] = []
        self._errors: list[ParameterError] = []

    @property
    def names(self) -> set[str]:
        """The names of all given parameters."""
        return set(self._query)

    def text(self, name: str) -> str | None:
        """Return a text, which may be empty, or None if it is not given."""
        self._known.append(name)
        values = self._query.get(name, [])
        if len(values) > 1:
            self.add_error(name, f"must be given once, not {len(values)} times")
        return values[0] if values else None

    def required(self, name: str) -> str:
        """Return a text that must be given, but may be empty: a span can have an empty name."""
        value = self.text(name)
        if value is None:
            self.add_error(name, "is missing")
        return value or ""

    def parsed(self, name: str, parse: Callable[[str], _T]) -> _T | None:
        """Return a parsed value, or None if it is not given, empty or invalid.

        Args:
            name: the parameter.
            parse: parses the text; raises ValueError with a message worded to follow the name.
        """
        value = self.text(name)
        if value is None or value == "":
            return None
        try:
            return parse(value)
        except ValueError as error:
            self.add_error(name, str(error))
            return None

    def required_parsed(self, name: str, parse: Callable[[str], _T]) -> _T | None:
        """Return a parsed value that must be given; None only after an error."""
        value = self.parsed(name, parse)
        if not any(self._query.get(name, ())):
            self.add_error(name, "is missing")
        return value

    def add_error(self, name: str, detail: str) -> None:
        """Record an error."""
        self._errors.append(ParameterError(name, detail))

    def finish(self) -> None:
        """Check that no error occurred and that no unknown parameter was given.

        Raises:
            BadParametersError: otherwise.
        """
        for name in self._query:
            if name not in self._known:
                self.add_error(shown_name(name), f"is not a parameter of this path{hint(name, self._known)}")
        if self._errors:
            raise BadParametersError(self._errors)


def integer(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of integers within a range."""

    def parse(text: str) -> int:
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
        if not least <= number <= most:
            raise ValueError(f"must be a number from {least} to {most}, not {shown(text)}")
        return number

    return parse


def one_of(*names: str) -> Callable[[str], str]:
    """Return a parser that accepts some names."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"must be one of {', '.join(names)}, not {shown(text)}{hint(text, names)}")
        return text

    return parse
