"""Files that are loaded again while the process runs: whether they have changed, and how the last load went."""

from dataclasses import dataclass
from pathlib import Path

FileState = tuple[int, int, int] | None
"""Modification time, size and inode of a file: differs between versions. None if the file does not exist."""


@dataclass(frozen=True, slots=True)
class ReloadStatus:
    """Outcome of the last load.

    Attributes:
        successful: whether what is in use is what the files say.
        succeeded_at: when what is in use was loaded, Unix seconds.
    """

    successful: bool
    succeeded_at: float


def file_state(path: Path) -> FileState:
    """Return the state of a file. Take it before reading the file, so that a write in between is noticed later."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
