"""The rule for ``tempo.filter``: TraceQL conditions that can be joined to a query and stay inside their parentheses.

Tempo decides whether they are valid TraceQL. The rule only keeps them from closing the parentheses that a query puts
around them, and from reaching beyond its spanset filter.
"""

import re
from typing import Final

_TOKEN: Final = re.compile(
    r"""
    (?P<string> "(?:[^"\\\n]|\\.)*" | `[^`]*` )
  | (?P<comment> // | /\* )
  | (?P<or> \|\| )
  | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)


def filter_problem(conditions: str) -> str | None:
    """Return what is wrong with a user's conditions, as a predicate: "must not ..."; None where they can be joined."""
    open_parentheses = 0
    for token in _TOKEN.finditer(conditions):
        text = token.group()
        if token.lastgroup == "comment":
            return "must not contain comments"
        if token.lastgroup != "other":
            continue
        if text in '"`':
            return "has a quotation mark that is not closed"
        if text in "{}":
            return 'must be conditions without braces, such as resource.deployment.environment="prod"'
        if text == "|":
            return "must be conditions without a pipeline; || means or"
        open_parentheses += (text == "(") - (text == ")")
        if open_parentheses < 0:
            break
    return "has parentheses that do not match" if open_parentheses else None
