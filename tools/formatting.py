"""Text of ``docs/examples.md``: parse logfmt, shorten logs, lay out JSON."""

import json
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

_FIELD: Final = re.compile(r'([^\s=]+)=("(?:[^"\\]|\\.)*"|\S*)')
_WIDTH: Final = 118


def fields(line: str) -> dict[str, Any]:
    """Parse a line of logfmt; values that are JSON are decoded."""
    return {name: _decoded(json.loads(value) if value[:1] == '"' else value) for name, value in _FIELD.findall(line)}


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def shortened(lines: Sequence[str], most: int = 3) -> str:
    """Cut runs of log lines with the same event.

    Args:
        lines: lines of logfmt.
        most: lines kept of a longer run: the first ones and the last, with a note between them.
    """
    shown: list[str] = []
    for event, same in groupby(lines, lambda line: fields(line)["event"]):
        run = list(same)
        if len(run) > most + 1:
            run = [*run[: most - 1], f"… {len(run) - most:,} more of event={event}", run[-1]]
        shown += run
    return "\n".join(shown)


def laid_out(value: Any, indent: int = 0, before: int = 0) -> str:
    """Format JSON with every value that fits on one line on one line.

    Args:
        value: the decoded JSON.
        indent: columns by which the result will be indented.
        before: columns that precede the value on its first line.
    """
    line = json.dumps(value, ensure_ascii=False)
    if len(line) + indent + before <= _WIDTH or not isinstance(value, dict | list) or not value:
        return line
    if isinstance(value, dict):
        begin, end = "{}"
        named = [(f"{json.dumps(name, ensure_ascii=False)}: ", item) for name, item in value.items()]
        items = [name + laid_out(item, indent + 2, len(name)) for name, item in named]
    else:
        begin, end = "[]"
        items = [laid_out(item, indent + 2) for item in value]
    # Not textwrap.indent: it splits at every Unicode line boundary, and names may contain those.
    inner = ",\n".join("  " + item.replace("\n", "\n  ") for item in items)
    return f"{begin}\n{inner}\n{end}"
