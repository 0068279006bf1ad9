"""Reads labelled incidents from a JSON file: ``[{"series", "start_unix", "end_unix", "kind", "ignore"}, …]``."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from exporter.detection.flag import FlagKind

_SHOWN_PROBLEMS: Final = 5


class LabelsError(Exception):
    """The file cannot be read or has invalid labels; the message says why."""


class Label(NamedTuple):
    """A known incident in the recorded traffic.

    Attributes:
        series: ``service_name/span_name``, or the name in a CSV file.
        start: Unix seconds.
        end: Unix seconds.
        ignore: the incident need not be found, and flags at it are not false.
        kind: the flag that it should be found by.
    """

    series: str
    start: float
    end: float
    ignore: bool = False
    kind: FlagKind = FlagKind.SHIFT


class _Entry(msgspec.Struct):
    series: str
    start_unix: float
    end_unix: float
    ignore: bool = False
    kind: FlagKind = FlagKind.SHIFT


def read_labels(path: Path) -> list[Label]:
    """Read a file of labels; unknown keys are ignored.

    Raises:
        LabelsError: the file cannot be read, or any label is invalid: without it the score would be different.
    """
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[_Entry])
    except OSError as error:
        raise LabelsError(f"{path} cannot be read: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LabelsError(
            f"{path} is not a file of labels: {error}; it must be a JSON list of "
            '{"series": text, "start_unix": seconds, "end_unix": seconds, "kind": "shift", "errors" or "traffic", '
            '"ignore": true or false}'
        ) from error
    problems = list(_problems(entries))
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        shown = [*problems[:_SHOWN_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
        raise LabelsError("\n".join([f"{path} has invalid labels:", *(f"  - {each}" for each in shown)]))
    return [Label(entry.series, entry.start_unix, entry.end_unix, entry.ignore, entry.kind) for entry in entries]


def _problems(entries: Sequence[_Entry]) -> Iterator[str]:
    for number, entry in enumerate(entries):
        if not (math.isfinite(entry.start_unix) and math.isfinite(entry.end_unix)):
            yield f"$[{number}] has no finite start and end"
        elif entry.end_unix < entry.start_unix:
            yield f"$[{number}] ends ({entry.end_unix:.0f}) before it starts ({entry.start_unix:.0f})"
