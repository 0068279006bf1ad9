"""Renders the metrics of the watched series in Prometheus's text format and in OpenMetrics, and keeps what is served.

A page of ten thousand series has 150,000 samples, which ``prometheus_client`` takes up to 1.5 s to render. Here the
samples of a snapshot are rendered once per format that scrapers request, and a scrape is served the finished bytes. A
test compares the output with that of ``prometheus_client``.

A response is such a prefix, shared by all scrapes, and the exporter's own metrics, rendered for each scrape. If it is
compressed, both together form one gzip member: RFC 1952 (2.2) allows several members, but browsers silently show only
the first, and curl fails.
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
from exporter.metrics import protobuf
from exporter.metrics.families import CAUSE_LABELS, SERIES_FAMILIES, SERIES_LABELS, Family, FamilyPart
from exporter.model.label import DEFAULT_LABEL_NAMES, LabelNames
from exporter.model.span import SeriesKey, encodable
from exporter.runtime.locks import LockRank, new_lock

_COMPRESSION_LEVEL: Final = 1
"""The page is repetitive: higher levels save little and cost many times as much CPU."""
_GZIP_WBITS: Final = zlib.MAX_WBITS + 16
"""Makes zlib write a gzip header and checksum."""


@dataclass(frozen=True, slots=True)
class CompressedPrefix:
    """The first part of a response body, gzipped or not.

    Attributes:
        data: the bytes to send; they do not depend on what follows.
    """

    data: bytes
    _compressor: "zlib._Compress | None" = field(default=None, repr=False)

    @classmethod
    def of(cls, content: bytes, *, gzipped: bool) -> Self:
        """Build the prefix from uncompressed content."""
        if not gzipped:
            return cls(content)
        compressor = zlib.compressobj(level=_COMPRESSION_LEVEL, wbits=_GZIP_WBITS)
        # The flush makes the data complete; nothing of it is left in the compressor.
        return cls(compressor.compress(content) + compressor.flush(zlib.Z_SYNC_FLUSH), compressor)

    def finish(self, content: bytes) -> bytes:
        """Return the bytes that follow the prefix when ``content`` is the rest of the body."""
        if self._compressor is None:
            return content
        compressor = self._compressor.copy()
        return compressor.compress(content) + compressor.flush()


class Format(Enum):
    """An exposition format."""

    TEXT = "text"
    OPENMETRICS = "openmetrics"
    PROTOBUF = "protobuf"


def render_families(
    statuses: Sequence[SeriesStatus],
    format_: Format,
    names: frozenset[str] | None = None,
    label_names: LabelNames = DEFAULT_LABEL_NAMES,
) -> bytes:
    """Render the metrics of series in one of the text formats, without the end mark of OpenMetrics.

    Args:
        statuses: the series.
        format_: the format.
        names: render only these families, named by family or by sample name; all if absent.
        label_names: maps the names of series to label values.
    """
    blocks: list[bytes] = []
    labels = [series_labels(status.key, label_names) for status in statuses]
    overridden = [each for each in zip(statuses, labels, strict=True) if each[0].policy is not None]
    for name, members in groupby(SERIES_FAMILIES, key=lambda family: family.name):
        families = list(members)
        first = families[0]
        if names is not None and not {name, first.sample_name} & names:
            continue
        shown = first.sample_name if format_ is Format.TEXT else name
        blocks.append(f"# HELP {shown} {first.help}\n# TYPE {shown} {first.kind}\n".encode())
        # Joined per family: joining all lines of a large page in one call would block every other thread.
        blocks.extend(
            "".join(
                _samples(
                    family,
                    overridden if family.is_of_overrides else zip(statuses, labels, strict=True),
                    format_,
                    label_names,
                )
            ).encode("utf-8")
            for family in families
        )
    return b"".join(blocks)


def _samples(
    family: Family,
    labelled: Iterable[tuple[SeriesStatus, str]],
    format_: Format,
    label_names: LabelNames,
) -> Iterable[str]:
    value_of = family.value
    # The label of the family comes first; without labels of `series.labels` that is the order of names.
    start = family.sample_name + "{" + ("" if family.label is None else '{}="{}",'.format(*family.label))
    exemplar_of = family.exemplar if format_ is Format.OPENMETRICS else None
    if family.parts is not None:
        for status, label in labelled:
            for part in family.parts(status):
                yield f"{start}{part_labels(part, label_names)},{label}}} {number_text(part.value)}\n"
        return
    for status, label in labelled:
        value = value_of(status)
        if value is not None:
            exemplar = "" if exemplar_of is None else _exemplar(exemplar_of(status))
            further = (
                ""
                if family.labels is None
                else "".join(f"{label_text(name, label_names.value(text))}," for name, text in family.labels(status))
            )
            yield f"{start}{further}{label}}} {number_text(value)}{exemplar}\n"


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None:
        return ""
    return f' # {{trace_id="{exemplar.trace_id}"}} {number_text(exemplar.seconds)} {exemplar.at!r}'


def number_text(value: float) -> str:
    """Format a number as Prometheus does."""
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


@lru_cache(maxsize=20_000)
def series_labels(key: SeriesKey, label_names: LabelNames = DEFAULT_LABEL_NAMES) -> str:
    """Format the labels of a series, sorted by name, without the braces."""
    named = label_names.of(key)
    labels = [*zip(SERIES_LABELS, named[:2], strict=True), *named.labels]
    return ",".join(label_text(name, value) for name, value in (sorted(labels) if named.labels else labels))


def part_labels(part: FamilyPart, label_names: LabelNames = DEFAULT_LABEL_NAMES) -> str:
    """Format the further labels of one of several samples of a series, without the braces."""
    service_name, span_name = label_names.of(SeriesKey(part.service_name, part.span_name))[:2]
    return ",".join(
        label_text(name, value) for name, value in zip(CAUSE_LABELS, (part.kind, service_name, span_name), strict=True)
    )


def label_text(name: str, value: str) -> str:
    """Format a label; any value is escaped."""
    return f'{name}="{_escaped(value)}"'


def _escaped(value: str) -> str:
    return encodable(value).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


Variant = tuple[Format, bool]
"""An exposition format, and whether it is gzipped."""

_RENDERED_AHEAD: Final = 20
"""A variant that no scraper has requested for this many snapshots is no longer rendered ahead."""


@dataclass
class RenderedPage:
    """A snapshot and its rendered samples; each variant is rendered once, ahead or on the first request."""

    snapshot: Snapshot
    label_names: LabelNames = DEFAULT_LABEL_NAMES
    _rendered: dict[Variant, CompressedPrefix] = field(default_factory=dict, init=False)
    _requested: set[Variant] = field(default_factory=set, init=False)
    _lock: AbstractContextManager[bool, None] = field(
        default_factory=partial(new_lock, LockRank.RENDERED_PAGE), init=False
    )

    def render(self, format_: Format, *, gzipped: bool) -> CompressedPrefix:
        """Return the samples of the series, without the end mark of OpenMetrics."""
        variant = format_, gzipped
        self._requested.add(variant)
        return self._rendered.get(variant) or self.render_ahead(variant)

    def render_ahead(self, variant: Variant) -> CompressedPrefix:
        """Render the samples if they are not rendered yet, without counting as a request."""
        with self._lock:
            prefix = self._rendered.get(variant)
            if prefix is None:
                format_, gzipped = variant
                # Text that is only rendered to be compressed is not kept: it is fifteen times as large.
                plain = self._rendered.get((format_, False))
                content = self.families(format_) if plain is None else plain.data
                prefix = CompressedPrefix.of(content, gzipped=gzipped)
                self._rendered[variant] = prefix
            return prefix

    def families(self, format_: Format, names: frozenset[str] | None = None) -> bytes:
        """Render the samples of the series now, of some families or all, without the end mark of OpenMetrics."""
        if format_ is Format.PROTOBUF:
            snapshot = self.snapshot
            return protobuf.render_families(snapshot.series, names, self.label_names, snapshot.durations)
        return render_families(self.snapshot.series, format_, names, self.label_names)

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
        # Plain variants first: the compressed ones are made from them.
        for variant in sorted(self._snapshots_since_request, key=lambda variant: variant[1]):
            page.render_ahead(variant)
        self._page = page
