"""Regenerates the table of ``exporter/ingest/letter_pairs.py``: ``python -m tools.letter_pairs``.

The words are those of all identifiers and comments in Python's standard library, each counted once, so that technical
terms weigh as much as English ones.
"""

import math
import re
import sysconfig
from collections import Counter
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase
from typing import Final

TARGET: Final = Path(__file__).parents[1] / "exporter" / "ingest" / "letter_pairs.py"
_LEFT_OUT: Final = frozenset({"site-packages", "test", "tests", "encodings", "idlelib"})
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


def words() -> set[str]:
    """Return the words, in lower case; acronyms and words of two letters are left out."""
    found: set[str] = set()
    library = Path(sysconfig.get_path("stdlib"))
    for path in library.rglob("*.py"):
        if _LEFT_OUT.isdisjoint(path.relative_to(library).parts):
            text = path.read_text(encoding="utf-8", errors="ignore")
            found.update(word.lower() for word in re.findall(r"[A-Z]?[a-z]{2,}", text) if len(word) > 2)
    return found


def table(vocabulary: set[str]) -> list[str]:
    """Return a row for each letter before, the first for the beginning of a word, in half bits as base 36."""
    pairs = Counter(pair for word in vocabulary for pair in pairwise(f"^{word}"))
    rows = []
    for before in f"^{ascii_lowercase}":
        counts = [pairs[before, letter] + 0.5 for letter in ascii_lowercase]
        rows.append("".join(_DIGITS[round(-2 * math.log2(count / sum(counts)))] for count in counts))
    return rows


def main() -> None:
    """Rewrite the rows of the target."""
    rows = "".join(f'    "{row}",\n' for row in table(words()))
    text = TARGET.read_text(encoding="utf-8")
    TARGET.write_text(re.sub(r"(?s)(_ROWS: Final = \(\n).*?(?=\))", rf"\g<1>{rows}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
