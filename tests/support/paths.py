"""Paths of files that tests read."""

from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[2]
RECORDINGS: Final = REPOSITORY / "tests" / "recordings"
