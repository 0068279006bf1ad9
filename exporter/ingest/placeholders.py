"""Ids in span names become placeholders, so that ``GET /orders/17`` and ``GET /orders/18`` are one endpoint.

A span name should be one of few (OpenTelemetry's semantic conventions ask for a low cardinality), but instrumentation
that puts the raw path into it is common. What looks like an id by its form alone is replaced; what may as well be part
of a name is left: versions (``v2``, ``HTTP/1.1``), short numbers that stand alone (``step 2``) and words.
"""

import re
from typing import Final

_START: Final = r"(?<![0-9A-Za-z_])"
_END: Final = r"(?![0-9A-Za-z_])"

# In this order: an email may hold digits, a UUID is hexadecimal, a date is numbers.
_PLACEHOLDERS: Final = (
    # Bounded, as addresses are (RFC 5321, 4.5.3.1): without that, a long hostile name takes the square of its length.
    ("{email}", re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}(?:@|%40)[\w-]{1,63}(?:\.[\w-]{1,63})+")),
    ("{uuid}", re.compile(rf"{_START}[0-9a-fA-F]{{8}}-(?:[0-9a-fA-F]{{4}}-){{3}}[0-9a-fA-F]{{12}}{_END}")),
    (
        "{date}",
        re.compile(
            rf"{_START}\d{{4}}-\d\d-\d\d(?:[T ]\d\d(?::|%3[Aa])?\d\d(?:(?::|%3[Aa])?\d\d(?:[.,]\d+)?)?"
            rf"(?:Z|[+-]\d\d:?\d\d)?)?{_END}"
        ),
    ),
    # Words such as "facade" are hexadecimal, too: short ones need a digit and a letter.
    (
        "{hex}",
        re.compile(
            rf"{_START}(?:0[xX][0-9a-fA-F]+|(?=[0-9]*[a-fA-F])(?=[a-fA-F]*[0-9])[0-9a-fA-F]{{8,}}|[0-9a-fA-F]{{32,}})"
            rf"{_END}"
        ),
    ),
    # A whole segment of a path, a value, or at least four digits that are no part of a word or of a version.
    (
        "{number}",
        re.compile(rf"(?:(?<=[/=:#,(])\d+|(?<![\w.])\d{{4,}}){_END}(?!\.\d)"),
    ),
)


def with_placeholders(span_name: str) -> str:
    """A span name with its ids replaced; one that has none is returned as it is, and so is one that went through."""
    if not any(map(str.isdigit, span_name)) and "@" not in span_name:
        return span_name
    for placeholder, pattern in _PLACEHOLDERS:
        span_name = pattern.sub(placeholder, span_name)
    return span_name
