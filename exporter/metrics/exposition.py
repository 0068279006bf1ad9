"""Renders the watched series for Prometheus.

At ten thousand series a page has 150,000 samples, and ``prometheus_client`` takes up to 1.5 s for them on every
scrape. Here the samples of a snapshot are rendered once, in the formats that somebody has asked for, and a scrape hands
out bytes. A test holds the result to what ``prometheus_client`` renders for the same samples.

The beginning of an answer that is made once for all who ask, and what makes an answer of it for each of them.

Compressed, both together are one gzip member. Members may follow one another by RFC 1952 (2.2), so each part could be
one of its own, but of several a browser shows the first without a word, and curl fails.
"""

import zlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache, partial
from itertools import groupby
from typing import Final, Self

from prometheus_client.utils import floatToGoString

from exporter.evaluation.snapshot import Exemplar, SeriesStatus, Snapshot
from exporter.metrics.families import SERIES_FAMILIES, SERIES_LABELS, Family
from exporter.model.span import SeriesKey, encodable
from exporter.runtime.locks import LockRank, new_lock

_LEVEL: Final = 1
"""A page of metrics is repetitive enough, and higher levels cost many times as much."""
_GZIP: Final = zlib.MAX_WBITS + 16
"""How zlib is asked for gzip's header and checksum around what it deflates."""


@dataclass(frozen=True, slots=True)
class CompressedPrefix:
    """The beginning of an answer as it is sent.

    Attributes:
        data: it; nothing of it changes with what follows.
    """

    data: bytes
    _compressor: "zlib._Compress | None" = field(default=None, repr=False)

    @classmethod
    def of(cls, content: bytes, *, gzipped: bool) -> Self:
        """What says something, compressed or not."""
        if not gzipped:
            return cls(content)
        compressor = zlib.compressobj(level=_LEVEL, wbits=_GZIP)
        # Flushed, so that all of it is out before anything follows.
        return cls(compressor.compress(content) + compressor.flush(zlib.Z_SYNC_FLUSH), compressor)

    def end(self, content: bytes) -> bytes:
        """What is sent after it to say something more, and be done."""
        if self._compressor is None:
            return content
        compressor = self._compressor.copy()
        return compressor.compress(content) + compressor.flush()


class Format(Enum):
    """An exposition format."""

    TEXT = "text"
    OPENMETRICS = "openmetrics"


def render_families(statuses: Sequence[SeriesStatus], format_: Format, names: frozenset[str] | None = None) -> bytes:
    """The series' samples in an exposition format, without OpenMetrics' end mark.

    Args:
        statuses: the series.
        format_: the format.
        names: only families with one of these names, of the family or of its samples.
    """
    blocks: list[bytes] = []
    labels = [series_labels(status.key) for status in statuses]
    for name, members in groupby(SERIES_FAMILIES, key=lambda family: family.name):
        families = list(members)
        first = families[0]
        if names is not None and not {name, first.sample_name} & names:
            continue
        shown = first.sample_name if format_ is Format.TEXT else name
        blocks.append(f"# HELP {shown} {first.help}\n# TYPE {shown} {first.kind}\n".encode())
        # One by one: to join all lines of a large page at once would hold up every other thread for so long.
        blocks.extend("".join(_samples(family, statuses, labels, format_)).encode("utf-8") for family in families)
    return b"".join(blocks)


def _samples(family: Family, statuses: Iterable[SeriesStatus], labels: Iterable[str], format_: Format) -> Iterable[str]:
    value_of = family.value
    # Labels stand in the order of their names.
    before = family.sample_name + "{" + ("" if family.label is None else '{}="{}",'.format(*family.label))
    exemplar_of = family.exemplar if format_ is Format.OPENMETRICS else None
    for status, label in zip(statuses, labels, strict=True):
        value = value_of(status)
        if value is not None:
            exemplar = "" if exemplar_of is None else _exemplar(exemplar_of(status))
            yield f"{before}{label}}} {number_text(value)}{exemplar}\n"


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None:
        return ""
    return f' # {{trace_id="{exemplar.trace_id}"}} {number_text(exemplar.seconds)} {exemplar.at!r}'


def number_text(value: float) -> str:
    """A number as Prometheus writes it."""
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


@lru_cache(maxsize=20_000)
def series_labels(key: SeriesKey) -> str:
    """The labels of a series as they stand between braces."""
    return ",".join(label_text(name, value) for name, value in zip(SERIES_LABELS, key, strict=True))


def label_text(name: str, value: str) -> str:
    """A label with its value, whatever that consists of."""
    return f'{name}="{_escaped(value)}"'


def _escaped(value: str) -> str:
    return encodable(value).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


Kind = tuple[Format, bool]
"""An exposition format, and whether it is compressed."""

_KEPT_SNAPSHOTS: Final = 20
"""For so many snapshots a page is rendered beforehand in a format that nobody has asked for again."""


@dataclass
class RenderedPage:
    """The rendered samples of one snapshot, each format rendered once, when it is first asked for or beforehand."""

    snapshot: Snapshot
    _rendered: dict[Kind, CompressedPrefix] = field(default_factory=dict, init=False)
    _asked: set[Kind] = field(default_factory=set, init=False)
    _mutex: AbstractContextManager[bool, None] = field(
        default_factory=partial(new_lock, LockRank.RENDERED_PAGE), init=False
    )

    def render(self, format_: Format, *, gzipped: bool) -> CompressedPrefix:
        """The series' samples, compressed or not, without OpenMetrics' end mark."""
        kind = format_, gzipped
        self._asked.add(kind)
        return self._rendered.get(kind) or self.prepare(kind)

    def prepare(self, kind: Kind) -> CompressedPrefix:
        """Render the samples before somebody asks for them."""
        with self._mutex:
            done = self._rendered.get(kind)
            if done is None:
                format_, gzipped = kind
                # What is rendered only to be compressed is not kept: it is fifteen times as large.
                plain = self._rendered.get((format_, False))
                content = render_families(self.snapshot.series, format_) if plain is None else plain.data
                done = CompressedPrefix.of(content, gzipped=gzipped)
                self._rendered[kind] = done
            return done

    @property
    def rendered(self) -> frozenset[Kind]:
        """What it is rendered in."""
        with self._mutex:
            return frozenset(self._rendered)

    @property
    def asked(self) -> frozenset[Kind]:
        """What somebody has asked for; whoever scrapes may ask for more at this very moment."""
        return frozenset(self._asked.copy())


class Publisher:
    """Holds the page that is served, and swaps it for the next."""

    def __init__(self) -> None:
        self._page: RenderedPage | None = None
        self._unasked: dict[Kind, int] = {}

    @property
    def page(self) -> RenderedPage | None:
        """The page to serve; nothing until the first snapshot is there."""
        return self._page

    def publish(self, snapshot: Snapshot) -> None:
        """Render a snapshot in the formats that were asked for of late, then serve it."""
        asked = self._page.asked if self._page else frozenset()
        self._unasked = {
            kind: snapshots + 1 for kind, snapshots in self._unasked.items() if snapshots < _KEPT_SNAPSHOTS
        }
        self._unasked |= dict.fromkeys(asked, 0)
        page = RenderedPage(snapshot)
        # Uncompressed first, so that it need not be rendered again to be compressed.
        for kind in sorted(self._unasked, key=lambda kind: kind[1]):
            page.prepare(kind)
        self._page = page
