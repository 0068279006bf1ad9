"""The parameters of a request: everything that is wrong with them is said at once."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from exporter.config.wording import hint, shown, shown_name

_T = TypeVar("_T")


class Complaint(NamedTuple):
    """What is wrong with a parameter."""

    parameter: str
    detail: str


class BadParametersError(Exception):
    """The parameters make no sense.

    Attributes:
        complaints: all that is wrong.
    """

    def __init__(self, complaints: list[Complaint]) -> None:
        super().__init__("; ".join(f"{each.parameter} {each.detail}" for each in complaints))
        self.complaints = complaints


class Parameters:
    """Reads the parameters one by one; :meth:`done` raises for all mistakes together."""

    def __init__(self, query: Mapping[str, list[str]]) -> None:
        """Take a query string that is taken apart."""
        self._query = query
        self._known: list[str] = []
        self._complaints: list[Complaint] = []

    def text(self, name: str) -> str | None:
        """A text, which may be empty; None where it is not given."""
        self._known.append(name)
        values = self._query.get(name, [])
        if len(values) > 1:
            self._complaints.append(Complaint(name, f"must be given once, not {len(values)} times"))
        return values[0] if values else None

    def required(self, name: str) -> str:
        """A text that must be there, and may be empty: a span may have no name."""
        value = self.text(name)
        if value is None:
            self._complaints.append(Complaint(name, "is missing"))
        return value or ""

    def parsed(self, name: str, parse: Callable[[str], _T]) -> _T | None:
        """A value; None where it is not given or makes no sense.

        Args:
            name: the parameter.
            parse: makes a value of the text; what it raises as ValueError goes on where the name stands.
        """
        value = self.text(name)
        if value is None or value == "":
            return None
        try:
            return parse(value)
        except ValueError as error:
            self._complaints.append(Complaint(name, str(error)))
            return None

    def required_parsed(self, name: str, parse: Callable[[str], _T]) -> _T | None:
        """A value that must be there; None where it is not, which :meth:`done` complains about."""
        value = self.parsed(name, parse)
        if not any(self._query.get(name, ())):
            self.complain(name, "is missing")
        return value

    def complain(self, name: str, detail: str) -> None:
        """Add a mistake."""
        self._complaints.append(Complaint(name, detail))

    def done(self) -> None:
        """All parameters have been asked for.

        Raises:
            BadParametersError: something is wrong with them, or there are more.
        """
        for name in self._query:
            if name not in self._known:
                self._complaints.append(Complaint(shown_name(name), f"is not known here{hint(name, self._known)}"))
        if self._complaints:
            raise BadParametersError(self._complaints)


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Reads numbers from a range."""

    def parse(text: str) -> int:
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
        if not least <= number <= most:
            raise ValueError(f"must be a number from {least} to {most}, not {shown(text)}")
        return number

    return parse


def one_of(*names: str) -> Callable[[str], str]:
    """Reads one of some names."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"must be one of {', '.join(names)}, not {shown(text)}{hint(text, names)}")
        return text

    return parse
