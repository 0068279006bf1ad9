"""``python -m tools.examples [SCENARIO ...]``: renews what ``docs/examples.md`` shows of real runs.

The document keeps its prose; each block between ``<!-- begin: NAME -->`` and ``<!-- end -->`` is written anew from what
:mod:`tools.scenarios` has seen. Without arguments all scenarios run, which takes about five minutes.
"""

import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final

DOCUMENT: Final = Path(__file__).parents[1] / "docs/examples.md"
_FIELD: Final = re.compile(r'([^\s=]+)=("(?:[^"\\]|\\.)*"|\S*)')
_AT_ONCE: Final = 2
_WIDTH: Final = 118


def fields(line: str) -> dict[str, Any]:
    """The fields of a line of logfmt; what JSON can read of them becomes what it means there."""
    return {name: _meaning(json.loads(value) if value[:1] == '"' else value) for name, value in _FIELD.findall(line)}


def _meaning(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def shortened(lines: Sequence[str], most: int = 3) -> str:
    """A log without the repetitions in it.

    Args:
        lines: lines of logfmt.
        most: so many lines of the same event are shown one after another; of more, the first ones and the last.

    Returns:
        The lines, each whole, with a note where some were left out.
    """
    shown: list[str] = []
    for event, same in groupby(lines, lambda line: fields(line)["event"]):
        run = list(same)
        if len(run) > most + 1:
            run = [*run[: most - 1], f"… {len(run) - most:,} more of event={event}", run[-1]]
        shown += run
    return "\n".join(shown)


def laid_out(value: Any, indent: int = 0, before: int = 0) -> str:
    """JSON for people: what fits into a line stands in one.

    Args:
        value: what to write.
        indent: how far the lines of it will be indented.
        before: how much stands before it in its first line.
    """
    line = json.dumps(value, ensure_ascii=False)
    if len(line) + indent + before <= _WIDTH or not isinstance(value, dict | list) or not value:
        return line
    if isinstance(value, dict):
        begin, end = "{}"
        named = [(f"{json.dumps(name, ensure_ascii=False)}: ", part) for name, part in value.items()]
        items = [name + laid_out(part, indent + 2, len(name)) for name, part in named]
    else:
        begin, end = "[]"
        items = [laid_out(part, indent + 2) for part in value]
    # By hand: what else ends a line for textwrap may stand in a name.
    inner = ",\n".join("  " + item.replace("\n", "\n  ") for item in items)
    return f"{begin}\n{inner}\n{end}"


def filled(document: str, blocks: Mapping[str, str]) -> str:
    """A document with some of its blocks written anew; the language of each fence stays.

    Raises:
        ValueError: a block has no place in the document, or more than one.
    """
    for name, text in blocks.items():
        place = re.compile(rf"(<!-- begin: {re.escape(name)} -->\n```\w+\n).*?(```\n<!-- end -->)", re.DOTALL)
        if (places := len(place.findall(document))) != 1:
            raise ValueError(f"the document has {places} places for {name!r}; it needs one: begin, fence, end")
        document = place.sub(partial(_written, text.rstrip()), document)
    return document


def _written(text: str, place: re.Match[str]) -> str:
    return f"{place[1]}{text}\n{place[2]}"


def main(names: Sequence[str]) -> int:
    """Run scenarios, two at a time, and renew the document by what each has seen; returns the exit status."""
    # What they need is none of the business of those who only want the functions above.
    from tools.scenarios import SCENARIOS  # noqa: PLC0415

    if unknown := set(names) - SCENARIOS.keys():
        sys.stderr.write(f"there is no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}\n")
        return 2
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for blocks in pool.map(_played, [SCENARIOS[name] for name in names or SCENARIOS]):
            DOCUMENT.write_text(filled(DOCUMENT.read_text("utf-8"), blocks), "utf-8")
    return 0


def _played(scenario: Callable[[Path], Mapping[str, str]]) -> Mapping[str, str]:
    with tempfile.TemporaryDirectory(prefix="tempo-anomaly-examples-") as folder:
        return scenario(Path(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
