"""Renders the metrics of the watched series and services, and keeps what is served.

A page of ten thousand series has 220,000 samples, which ``prometheus_client`` takes up to two seconds to render. Here
the samples of a snapshot are rendered once per format that scrapers request, and a scrape is served the finished bytes.
A test compares the output with that of ``prometheus_client``.

The samples of each family are a block. Most families are the same from one snapshot to the next, such as those of the
baselines, which change once an hour: their blocks are used again, and formats that write a family alike share them.

A response is such a prefix, shared by all scrapes, and the exporter's own metrics, rendered for each scrape.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, Final, NamedTuple, Self

from exporter.evaluation.live.durations import DurationHistogram
from exporter.evaluation.snapshot import SeriesStatus, ServiceStatus, Snapshot
from exporter.metrics.families import (
    DURATION_FAMILY,
    SERVICE_FAMILIES,
    Column,
    Encoder,
    Family,
    families_by_name,
)
from exporter.metrics.gzip_blocks import HEADER, Checksum, GzipBlock, last_block
from exporter.metrics.protobuf import ProtobufEncoder
from exporter.metrics.text import TextEncoder
from exporter.model.label import DEFAULT_LABEL_NAMES, LabelNames
from exporter.model.span import SeriesKey
from exporter.runtime.locks import LockRank, new_lock


@dataclass(frozen=True, slots=True)
class PagePrefix:
    """The first part of a response body, gzipped or not.

    Attributes:
        parts: the bytes to send, one after the other; they do not depend on what follows.
    """

    parts: tuple[bytes, ...]
    _checksum: Checksum | None = field(default=None, repr=False)

    @classmethod
    def of(cls, contents: Sequence[bytes | GzipBlock], *, gzipped: bool) -> Self:
        """Join contents; those that are compressed already may only be in a gzipped prefix."""
        if not gzipped:
            return cls(tuple(each for each in contents if isinstance(each, bytes) and each))
        blocks = [each if isinstance(each, GzipBlock) else GzipBlock.of(each) for each in contents]
        checksum = Checksum()
        for block in blocks:
            checksum = checksum.then(block)
        # Compressed, a page is so small that one part is the least work.
        return cls((b"".join((HEADER, *(block.data for block in blocks))),), checksum)

    def finish(self, content: bytes) -> bytes:
        """Return the bytes that follow the prefix when ``content`` is the rest of the body."""
        return content if self._checksum is None else last_block(content, self._checksum)


class Format(Enum):
    """An exposition format."""

    TEXT = "text"
    OPENMETRICS = "openmetrics"
    PROTOBUF = "protobuf"


_ENCODERS: Final[Mapping[Format, Encoder[Any]]] = {
    Format.TEXT: TextEncoder(is_openmetrics=False),
    Format.OPENMETRICS: TextEncoder(is_openmetrics=True),
    Format.PROTOBUF: ProtobufEncoder(),
}


def render_families(
    statuses: Sequence[SeriesStatus],
    format_: Format,
    names: frozenset[str] | None = None,
    label_names: LabelNames = DEFAULT_LABEL_NAMES,
    durations: Mapping[SeriesKey, DurationHistogram] | None = None,
) -> bytes:
    """Render the metrics of series, without the end mark of OpenMetrics.

    Args:
        statuses: the series.
        format_: the format.
        names: render only these families, named by family or by sample name; all if absent.
        label_names: maps the names of series to label values.
        durations: the native histogram of each series; None if they are not counted.
    """
    encoder = _ENCODERS[format_]
    labels = [encoder.labels(status.key, label_names) for status in statuses]
    parts: list[bytes] = []
    for families in families_by_name(has_histograms=_has_histograms(format_, durations), names=names):
        # Each on its own: one call for a large page would block every other thread.
        blocks = [
            encoder.samples(family, labels, _column(family, format_, statuses, durations), label_names)
            for family in families
        ]
        parts += (encoder.head(families[0], sum(map(len, blocks))), *blocks)
    return b"".join(parts)


def render_services(
    services: Sequence[ServiceStatus],
    format_: Format,
    names: frozenset[str] | None = None,
    label_names: LabelNames = DEFAULT_LABEL_NAMES,
) -> bytes:
    """Render the metrics of services, without the end mark of OpenMetrics.

    Args:
        services: the services.
        format_: the format.
        names: render only these families; all if absent.
        label_names: maps the names of series to label values.
    """
    encoder = _ENCODERS[format_]
    labels = [encoder.service_labels(status.key, label_names) for status in services]
    parts: list[bytes] = []
    for family, value in SERVICE_FAMILIES:
        if names is None or family.name in names:
            samples = encoder.samples(family, labels, Column(list(map(value, services))), label_names)
            parts += (encoder.head(family, len(samples)), samples)
    return b"".join(parts)


def _has_histograms(format_: Format, durations: Mapping[SeriesKey, DurationHistogram] | None) -> bool:
    return format_ is Format.PROTOBUF and durations is not None


def _column(
    family: Family,
    format_: Format,
    statuses: Sequence[SeriesStatus],
    durations: Mapping[SeriesKey, DurationHistogram] | None,
) -> Column:
    if family is DURATION_FAMILY:
        return Column(histograms=[(durations or {}).get(status.key) for status in statuses])
    return family.column(statuses, has_exemplars=_ENCODERS[format_].has_exemplars)


Variant = tuple[Format, bool]
"""An exposition format, and whether it is gzipped."""

_RENDERED_AHEAD: Final = 20
"""A variant that no scraper has requested for this many snapshots is no longer rendered ahead."""


class _BlockKey(NamedTuple):
    """What tells the blocks of a page apart.

    Attributes:
        family: name and label of the family.
        is_protobuf: whether it is not one of the text formats.
        has_exemplars: whether it has exemplars; a family that never has any is written alike without them.
        gzipped: whether it is compressed.
    """

    family: tuple[str, tuple[str, str] | None]
    is_protobuf: bool
    has_exemplars: bool
    gzipped: bool


class _Block(NamedTuple):
    """The samples of a family, what they contain, and the length of their text."""

    labels: Sequence[Any]
    column: Column
    content: bytes | GzipBlock
    size: int


@dataclass
class PageBlocks:
    """The blocks of a page. Not thread-safe, except that the next page may read them.

    Attributes:
        keys: the series.
        labels: their labels by whether these are for protobuf.
        blocks: the blocks that are rendered.
    """

    keys: Sequence[SeriesKey] = ()
    labels: dict[bool, Sequence[Any]] = field(default_factory=dict)
    blocks: dict[_BlockKey, _Block] = field(default_factory=dict)


@dataclass
class RenderedPage:
    """A snapshot and its rendered samples; each variant is rendered once, ahead or on the first request."""

    snapshot: Snapshot
    label_names: LabelNames = DEFAULT_LABEL_NAMES
    blocks: PageBlocks = field(init=False, repr=False)
    _rendered: dict[Variant, PagePrefix] = field(default_factory=dict, init=False)
    _requested: set[Variant] = field(default_factory=set, init=False)
    _lock: AbstractContextManager[bool, None] = field(
        default_factory=partial(new_lock, LockRank.RENDERED_PAGE), init=False
    )

    def __post_init__(self) -> None:
        self.blocks = PageBlocks([status.key for status in self.snapshot.series])

    def render(self, format_: Format, *, gzipped: bool) -> PagePrefix:
        """Return the samples of the series, without the end mark of OpenMetrics."""
        variant = format_, gzipped
        self._requested.add(variant)
        return self._rendered.get(variant) or self.render_ahead(variant)

    def render_ahead(self, variant: Variant, previous: PageBlocks | None = None) -> PagePrefix:
        """Render the samples if they are not rendered yet, without counting as a request.

        Args:
            variant: what to render.
            previous: those of an earlier snapshot with the same label names; what has not changed is used again.
        """
        with self._lock:
            prefix = self._rendered.get(variant)
            if prefix is None:
                format_, gzipped = variant
                contents = list(self._contents(format_, previous or PageBlocks(), gzipped=gzipped))
                prefix = self._rendered[variant] = PagePrefix.of(contents, gzipped=gzipped)
            return prefix

    def _contents(self, format_: Format, previous: PageBlocks, *, gzipped: bool) -> Iterator[bytes | GzipBlock]:
        encoder = _ENCODERS[format_]
        labels = self._labels(format_, previous)
        for families in families_by_name(has_histograms=_has_histograms(format_, self.snapshot.durations)):
            blocks = [self._block(family, format_, labels, previous, gzipped=gzipped) for family in families]
            yield encoder.head(families[0], sum(block.size for block in blocks))
            yield from (block.content for block in blocks if block.size)
        yield render_services(self.snapshot.services, format_, label_names=self.label_names)

    def _labels(self, format_: Format, previous: PageBlocks) -> Sequence[Any]:
        """Return the labels of all series; if they have not changed, the same object as before."""
        own, is_protobuf = self.blocks, format_ is Format.PROTOBUF
        labels = own.labels.get(is_protobuf)
        if labels is None:
            labels = previous.labels.get(is_protobuf) if previous.keys == own.keys else None
        if labels is None:
            labels = [_ENCODERS[format_].labels(key, self.label_names) for key in own.keys]
        own.labels[is_protobuf] = labels
        return labels

    def _block(
        self, family: Family, format_: Format, labels: Sequence[Any], previous: PageBlocks, *, gzipped: bool
    ) -> _Block:
        own, encoder = self.blocks.blocks, _ENCODERS[format_]
        has_exemplars = encoder.has_exemplars and family.exemplar is not None
        key = _BlockKey((family.name, family.label), format_ is Format.PROTOBUF, has_exemplars, gzipped)
        block = own.get(key)
        if block is not None:
            return block
        # Text that is only rendered to be compressed is not kept: it is fifteen times as large.
        plain = own.get(key._replace(gzipped=False))
        snapshot = self.snapshot
        column = _column(family, format_, snapshot.series, snapshot.durations) if plain is None else plain.column
        block = previous.blocks.get(key)
        if block is None or block.labels is not labels or block.column != column:
            content: Any = encoder.samples(family, labels, column, self.label_names) if plain is None else plain.content
            block = _Block(labels, column, GzipBlock.of(content) if gzipped else content, len(content))
        own[key] = block
        return block

    def families(self, format_: Format, names: frozenset[str] | None = None) -> bytes:
        """Render the samples of series and services now, of some families or all, without OpenMetrics' end mark."""
        snapshot = self.snapshot
        series = render_families(snapshot.series, format_, names, self.label_names, snapshot.durations)
        return series + render_services(snapshot.services, format_, names, self.label_names)

    @property
    def rendered(self) -> frozenset[Variant]:
        """The variants that are rendered."""
        with self._lock:
            return frozenset(self._rendered)

    @property
    def requested(self) -> frozenset[Variant]:
        """The variants that scrapers have requested so far."""
        # Copied first: a scrape may add to it while this runs.
        return frozenset(self._requested.copy())


class Publisher:
    """Holds the page that is served, and replaces it with that of the next snapshot."""

    def __init__(self, label_names: LabelNames = DEFAULT_LABEL_NAMES) -> None:
        self._label_names = label_names
        self._page: RenderedPage | None = None
        self._snapshots_since_request: dict[Variant, int] = {}

    @property
    def page(self) -> RenderedPage | None:
        """The page to serve; absent until the first snapshot is published."""
        return self._page

    def publish(self, snapshot: Snapshot) -> None:
        """Render a snapshot in the variants requested recently, then serve it."""
        requested = self._page.requested if self._page else frozenset()
        self._snapshots_since_request = {
            variant: count + 1 for variant, count in self._snapshots_since_request.items() if count < _RENDERED_AHEAD
        }
        self._snapshots_since_request |= dict.fromkeys(requested, 0)
        page = RenderedPage(snapshot, self._label_names)
        previous = None if self._page is None else self._page.blocks
        # Plain variants first: the compressed ones are made from them.
        for variant in sorted(self._snapshots_since_request, key=lambda variant: variant[1]):
            page.render_ahead(variant, previous)
        self._page = page
