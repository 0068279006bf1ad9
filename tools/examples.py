"""``python -m tools.examples [SCENARIO ...]``: renew the output of real runs in ``docs/examples.md``.

Each block between ``<!-- begin: NAME -->`` and ``<!-- end -->`` is replaced by output that :mod:`tools.scenarios`
recorded; the prose stays. All scenarios together take about five minutes.
"""

import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from tools.scenarios import SCENARIOS, Scenario

DOCUMENT: Final = Path(__file__).parents[1] / "docs/examples.md"
_CONCURRENT_SCENARIOS: Final = 2


def with_blocks(document: str, blocks: Mapping[str, str]) -> str:
    """Replace blocks of a document by name; the language of each fence stays.

    Raises:
        ValueError: the document does not contain a block exactly once.
    """
    for name, text in blocks.items():
        place = re.compile(rf"(<!-- begin: {re.escape(name)} -->\n```\w+\n).*?(```\n<!-- end -->)", re.DOTALL)
        if (places := len(place.findall(document))) != 1:
            raise ValueError(f"the document has {places} places for {name!r}; it needs one: begin, fence, end")
        document = place.sub(partial(_with_text, text.rstrip()), document)
    return document


def _with_text(text: str, place: re.Match[str]) -> str:
    return f"{place[1]}{text}\n{place[2]}"


def main(names: Sequence[str]) -> int:
    """Run the named scenarios, or all, and update the document after each; returns the exit status."""
    if unknown := set(names) - SCENARIOS.keys():
        sys.stderr.write(f"there is no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}\n")
        return 2
    with ThreadPoolExecutor(_CONCURRENT_SCENARIOS) as pool:
        for blocks in pool.map(_run, [SCENARIOS[name] for name in names or SCENARIOS]):
            DOCUMENT.write_text(with_blocks(DOCUMENT.read_text("utf-8"), blocks), "utf-8")
    return 0


def _run(scenario: Scenario) -> Mapping[str, str]:
    with tempfile.TemporaryDirectory(prefix="tempo-anomaly-examples-") as folder:
        return scenario(Path(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
