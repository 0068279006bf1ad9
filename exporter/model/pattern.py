"""Regular expressions of the user, matched in time proportional to the length of a name.

Names come from anyone who can send a request, and Python's ``re`` takes exponential time for some expressions, while it
holds the interpreter: no probe, no scrape, no signal. RE2 never does (https://github.com/google/re2/wiki/Syntax); in
exchange it has no lookaround and no backreferences. It is the syntax of Prometheus, Tempo and Grafana.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Final

import re2

from exporter.model.span import encodable

MAX_CHARACTERS: Final = 4096
"""Only so much of a text is searched. Replacing every match takes the square of this in the worst case, 0.1 s."""

_MAX_PROGRAM_BYTES: Final = 1 << 20
"""Limits the size of an expression: matching takes its product with the length of the text in the worst case."""

_ESCAPE: Final = re.compile(r"\\(?:g<(?P<name>[^>]*)>|(?P<number>[1-9][0-9]?)|(?P<other>.?))", re.DOTALL)

_SEPARATE: Final = "Write several expressions, or swap series.include and series.exclude"
_SPELL_OUT: Final = "Write the repeated text out"
_UNSUPPORTED: Final = (
    (r"\(\?<?[=!]", "a lookaround", _SEPARATE),
    (r"\(\?P$|\\[1-9]|\\k", "a backreference", _SPELL_OUT),
    (r"\(\?>", "an atomic group", "Write (?:…): matching is fast without it"),
    (r"[*+?}]\+$", "a possessive repetition", "Leave out the second +: matching is fast without it"),
    (r"\(\?\(", "a condition", "Write the alternatives out, separated by |"),
    (r"\(\?#", "a comment", "Write it behind # in the YAML"),
    (r"\(\?[aiLmsux-]*[aLux]", "a flag other than i, m and s", "Leave it out"),
    (r"\\Z", r"\Z", r"Write \z or $"),
    (r"\\[uUN]", "a character by number or name", r"Write \x{e9}, or the character itself"),
    (r"^\{[0-9,]*[0-9]{3,}", "more than 1,000 repetitions", "Write * or +"),
    (r"too large", "an expression this large", "Write * or + for a high number of repetitions, or several expressions"),
)
"""What RE2 reports, what Python calls it, and what to write instead."""

_UPPER_BOUND: Final = re.compile(r"(?:[^\\]|\\.)*?(\{,[0-9]+\})", re.DOTALL)


class PatternError(ValueError):
    """An expression or a replacement is invalid; the message, on one line, says why and what to write."""

    def __init__(self, problem: str) -> None:
        # RE2 quotes the expression, which may contain control characters.
        super().__init__("".join(each if each.isprintable() else ascii(each)[1:-1] for each in problem))


@dataclass(frozen=True)
class Pattern:
    r"""A regular expression in the syntax of RE2.

    ``\d``, ``\w``, ``\s`` and ``\b`` are about ASCII characters only. Matching does not hold the interpreter.

    Raises:
        PatternError: it is invalid, or RE2 does not support it.
    """

    text: str
    _regex: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        options = re2.Options()
        options.log_errors = False  # RE2 writes to standard error by itself
        options.max_mem = _MAX_PROGRAM_BYTES
        _check(self.text)
        try:
            object.__setattr__(self, "_regex", re2.compile(self.text, options))
        except re2.error as error:
            raise PatternError(_explained(error)) from None

    def __reduce__(self) -> "tuple[type[Pattern], tuple[str]]":
        """Make it picklable: a worker process compiles it again."""
        return type(self), (self.text,)

    def search(self, text: str) -> bool:
        """Return whether it matches anywhere in a text."""
        return self._regex.search(encodable(text[:MAX_CHARACTERS])) is not None

    def sub(self, replacement: str, text: str) -> str:
        r"""Replace every match in a text. The result is cut to the length of the text or the limit of this module.

        Args:
            replacement: ``\1`` and ``\g<1>`` are the first group, ``\g<name>`` is a named one, ``\g<0>`` all that
                matched; a group that matched nothing is empty. ``\\`` is a backslash.
            text: where to replace.

        Raises:
            PatternError: the replacement names a group that does not exist, or is no replacement.
        """
        template = self._template(replacement)
        limit = max(MAX_CHARACTERS, len(text))
        searched, rest = encodable(text[:MAX_CHARACTERS]), text[MAX_CHARACTERS:]
        pieces: list[str] = []
        size, end, last = 0, 0, None
        for match in self._regex.finditer(searched):
            if match.span() == last:
                continue  # the library finds an empty match again if it went ahead to it
            last = match.span()
            replaced = "".join(part if isinstance(part, str) else match[part] or "" for part in template)
            pieces += (searched[end : match.start()], replaced)
            size += len(pieces[-1]) + len(pieces[-2])
            end = match.end()
            if size > limit:
                break
        if not pieces:
            return text
        result = "".join((*pieces, searched[end:], rest))
        return result if len(result) <= limit else result[: limit - 1] + "…"

    def check_replacement(self, replacement: str) -> None:
        """Check a replacement.

        Raises:
            PatternError: it names a group that does not exist, or is no replacement.
        """
        self._template(replacement)

    def _template(self, replacement: str) -> list[str | int]:
        """Return the parts of a replacement: text, and the numbers of groups."""
        parts: list[str | int] = []
        end = 0
        for escape in _ESCAPE.finditer(replacement):
            parts.append(replacement[end : escape.start()])
            end = escape.end()
            other = escape["other"]
            if other is None:
                parts.append(self._group(escape["name"] or escape["number"] or ""))
            elif other == "\\":
                parts.append(other)
            elif not other or (other.isascii() and other.isalnum()):
                raise PatternError(f"\\{other} means nothing in a replacement; a backslash is \\\\")
            else:
                parts.append(escape[0])
        return [*parts, replacement[end:]]

    def _group(self, name: str) -> int:
        number = int(name) if re.fullmatch("[0-9]{1,3}", name) else self._regex.groupindex.get(name)
        if number is None or number > self._regex.groups:
            raise PatternError(f"there is no group {name}")
        return number


def _check(text: str) -> None:
    """Refuse what RE2 accepts with another meaning than Python, or cannot take.

    Raises:
        PatternError: it does.
    """
    if encodable(text) != text:
        raise PatternError("it is not valid UTF-8")
    if bound := _UPPER_BOUND.match(text):
        raise PatternError(f"{bound[1]} is literal text in RE2. Write {{0{bound[1][1:]}, or \\{bound[1]} for the text")
    if re.match(r"(?:[^\\]|\\[^C])*?\\C", text, re.DOTALL):
        raise PatternError(r"\C would match half a character. Write (?s:.)")


def _explained(error: Exception) -> str:
    reported = error.args[0] if error.args else b""
    reason = reported.decode("utf-8", "replace") if isinstance(reported, bytes) else str(reported)
    construct = reason.rpartition(": ")[2] if reason.startswith(("invalid", "bad")) else reason
    for expression, name, advice in _UNSUPPORTED:
        if re.search(expression, construct):
            return f"{name} ({construct}) is not supported: expressions are in RE2 syntax. {advice}"
    return reason
