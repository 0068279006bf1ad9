"""Renders the past of the watched series as OpenMetrics with timestamps, for ``promtool tsdb create-blocks-from``.

Families, names and labels are those of the page that is scraped, so that the past and what is scraped later are the
same time series. The format wants each family in one piece while the past is worked out series by series: each family
goes into a temporary file of its own, compressed, and these are joined at the end. So memory holds one series.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Final, Self

from exporter.evaluation.replay import PastStatus
from exporter.metrics.exposition import label_text, number_text, series_labels
from exporter.metrics.families import SERIES_FAMILIES, SERIES_LABELS, Family
from exporter.model.span import SeriesKey

PAST_FAMILIES: Final[Sequence[Family]] = tuple(family for family in SERIES_FAMILIES if family.kind == "gauge")
"""What is known of the past. Counters count what an exporter has done, and then it had not."""

OWN_LABELS: Final = frozenset({*SERIES_LABELS, *(family.label[0] for family in SERIES_FAMILIES if family.label)})
"""The labels that the exporter sets itself."""

_CHUNK_BYTES: Final = 256 * 1024


class TimedWriter:
    """Collects the past of all series, then writes it.

    Attributes:
        samples: how many samples were collected.
        series: how many series have any.
    """

    def __init__(self, target_labels: Mapping[str, str]) -> None:
        """Begin with nothing.

        Args:
            target_labels: what Prometheus adds to every sample that it scrapes: ``job``, ``instance`` and the like.

        Raises:
            OSError: there is no room for temporary files.
        """
        self.samples = 0
        self.series = 0
        self._target = "".join(f",{label_text(name, value)}" for name, value in sorted(target_labels.items()))
        with ExitStack() as files:
            self._parts = [(family, _Part(files.enter_context(TemporaryFile()))) for family in PAST_FAMILIES]
            self._files = files.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.close()

    def add(self, key: SeriesKey, past: Iterable[PastStatus]) -> None:
        """Take the whole past of one series, in time order.

        If working it out fails half way, nothing of it is taken.

        Raises:
            OSError: there is no room for temporary files.
        """
        known = list(past)
        labels = series_labels(key) + self._target
        before = self.samples
        for family, part in self._parts:
            lines = list(_lines(family, labels, known))
            part.write("".join(lines).encode("utf-8"))
            self.samples += len(lines)
        self.series += self.samples > before

    def write(self, out: IO[bytes]) -> None:
        """Write everything; nothing can be added afterwards.

        Raises:
            OSError: it cannot be written.
        """
        for name, members in groupby(self._parts, key=lambda part: part[0].name):
            parts = list(members)
            first, _ = parts[0]
            out.write(f"# HELP {name} {first.help}\n# TYPE {name} {first.kind}\n".encode())
            for _, part in parts:
                for chunk in part.read():
                    out.write(chunk)
        out.write(b"# EOF\n")
        out.flush()


def _lines(family: Family, labels: str, past: Iterable[PastStatus]) -> Iterator[str]:
    value_of = family.value
    # Labels stand in no order that matters; that of the family comes first, as on the page.
    own = "" if family.label is None else f"{label_text(*family.label)},"
    before = f"{family.sample_name}{{{own}{labels}}} "
    shown, text = None, ""
    for at, status in past:
        value = value_of(status)
        if value is None:
            continue
        # What is usual stays the same for an hour, and writing a number is what takes longest.
        if value != shown:
            shown, text = value, number_text(value)
        yield f"{before}{text} {at}\n"


class _Part:
    """A temporary file, compressed: the same labels over and over shrink to a fiftieth."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._compressor = zlib.compressobj(level=1)

    def write(self, data: bytes) -> None:
        self._file.write(self._compressor.compress(data))

    def read(self) -> Iterator[bytes]:
        """What was written; nothing can be written any more."""
        self._file.write(self._compressor.flush())
        self._file.seek(0)
        decompressor = zlib.decompressobj()
        while chunk := self._file.read(_CHUNK_BYTES):
            while chunk:
                yield decompressor.decompress(chunk, _CHUNK_BYTES)
                chunk = decompressor.unconsumed_tail
        yield decompressor.flush()
