"""Renders past values of the series' metrics as OpenMetrics with timestamps, for ``promtool tsdb create-blocks-from``.

Families, names and labels are those of ``/metrics``, so past and scraped samples belong to the same time series.
OpenMetrics wants the samples of a family together, but they are computed series by series: each family goes into a
compressed temporary file of its own, and the files are concatenated at the end. Memory holds one series at a time.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Final, Self

from exporter.evaluation.replay import PastStatus
from exporter.metrics.families import SERIES_FAMILIES, SERIES_LABELS, Family
from exporter.metrics.text import label_text, number_text, series_labels
from exporter.model.label import DEFAULT_LABEL_NAMES, LabelNames
from exporter.model.span import SeriesKey

PAST_FAMILIES: Final[Sequence[Family]] = tuple(family for family in SERIES_FAMILIES if family.kind == "gauge")
"""Gauges only: a counter counts what an exporter process did, and none was running."""

OWN_LABELS: Final = frozenset({*SERIES_LABELS, *(family.label[0] for family in SERIES_FAMILIES if family.label)})
"""Labels that the exporter sets; target labels must not use these names."""

_CHUNK_BYTES: Final = 256 * 1024


class TimedWriter:
    """Collects the past samples of all series, then writes them out.

    Attributes:
        samples: samples collected.
        series: series that have samples.
    """

    def __init__(self, target_labels: Mapping[str, str], label_names: LabelNames = DEFAULT_LABEL_NAMES) -> None:
        """Open the temporary files.

        Args:
            target_labels: labels that Prometheus adds to every scraped sample, such as ``job`` and ``instance``.
            label_names: maps the names of series to label values.

        Raises:
            OSError: the temporary files cannot be created.
        """
        self.samples = 0
        self.series = 0
        self._label_names = label_names
        self._target_labels = "".join(f",{label_text(name, value)}" for name, value in sorted(target_labels.items()))
        with ExitStack() as files:
            self._spools = [(family, _SpoolFile(files.enter_context(TemporaryFile()))) for family in PAST_FAMILIES]
            self._files = files.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.close()

    def add(self, key: SeriesKey, past: Iterable[PastStatus]) -> None:
        """Add all past statuses of one series, in time order.

        If the iterable raises, nothing of the series is added.

        Raises:
            OSError: a temporary file cannot be written.
        """
        statuses = list(past)
        labels = series_labels(key, self._label_names) + self._target_labels
        samples_before = self.samples
        for family, spool in self._spools:
            lines = list(_lines(family, labels, statuses))
            spool.write("".join(lines).encode("utf-8"))
            self.samples += len(lines)
        self.series += self.samples > samples_before

    def write(self, out: IO[bytes]) -> None:
        """Write all families to a stream; nothing can be added afterwards.

        Raises:
            OSError: the stream or a temporary file fails.
        """
        for name, members in groupby(self._spools, key=lambda spool: spool[0].name):
            spools = list(members)
            first, _ = spools[0]
            out.write(f"# HELP {name} {first.help}\n# TYPE {name} {first.kind}\n".encode())
            for _, spool in spools:
                for chunk in spool.read():
                    out.write(chunk)
        out.write(b"# EOF\n")
        out.flush()


def _lines(family: Family, labels: str, past: Iterable[PastStatus]) -> Iterator[str]:
    value_of = family.value
    # The order of labels has no meaning; the family's own label comes first, as on /metrics.
    own = "" if family.label is None else f"{label_text(*family.label)},"
    start = f"{family.sample_name}{{{own}{labels}}} "
    formatted, text = None, ""
    for at, status in past:
        value = value_of(status)
        if value is None:
            continue
        # Formatting numbers takes most of the time, and a baseline stays the same for an hour.
        if value != formatted:
            formatted, text = value, number_text(value)
        yield f"{start}{text} {at}\n"


class _SpoolFile:
    """A compressed temporary file: repeated labels shrink to a fiftieth."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._compressor = zlib.compressobj(level=1)

    def write(self, data: bytes) -> None:
        self._file.write(self._compressor.compress(data))

    def read(self) -> Iterator[bytes]:
        """Yield what was written, in chunks; nothing can be written afterwards."""
        self._file.write(self._compressor.flush())
        self._file.seek(0)
        decompressor = zlib.decompressobj()
        while chunk := self._file.read(_CHUNK_BYTES):
            while chunk:
                yield decompressor.decompress(chunk, _CHUNK_BYTES)
                chunk = decompressor.unconsumed_tail
        yield decompressor.flush()
