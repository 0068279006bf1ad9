"""Renders the watched series for Prometheus.

At ten thousand series a page has 140,000 samples, and ``prometheus_client`` takes 1.7 s for them on every scrape. Here
the samples of a snapshot are rendered once, in the formats that somebody has asked for, and a scrape hands out bytes.
A test holds the result to what ``prometheus_client`` renders for the same samples.
"""

import threading
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from itertools import groupby

from prometheus_client.utils import floatToGoString

from exporter.core.span import SeriesKey, encodable
from exporter.detector.snapshot import Exemplar, SeriesStatus, Snapshot
from exporter.publish.families import SERIES_FAMILIES, SERIES_LABELS, Family


class Format(Enum):
    """An exposition format."""

    TEXT = "text"
    OPENMETRICS = "openmetrics"


def gzip_member(data: bytes) -> bytes:
    """One gzip member; members may follow one another (RFC 1952, 2.2), so parts can be compressed apart."""
    # Level 1: a page of metrics is repetitive enough, and higher levels cost many times as much.
    compressor = zlib.compressobj(level=1, wbits=31)
    return compressor.compress(data) + compressor.flush()


def render_families(statuses: Sequence[SeriesStatus], format_: Format, names: frozenset[str] | None = None) -> bytes:
    """The series' samples in an exposition format, without OpenMetrics' end mark.

    Args:
        statuses: the series.
        format_: the format.
        names: only families with one of these names, of the family or of its samples.
    """
    lines: list[str] = []
    labels = [_labels(status.key) for status in statuses]
    for name, members in groupby(SERIES_FAMILIES, key=lambda family: family.name):
        families = list(members)
        first = families[0]
        if names is not None and not {name, first.sample_name} & names:
            continue
        shown = first.sample_name if format_ is Format.TEXT else name
        lines.append(f"# HELP {shown} {first.help}\n# TYPE {shown} {first.kind}\n")
        for family in families:
            lines.extend(_samples(family, statuses, labels, format_))
    return "".join(lines).encode("utf-8")


def _samples(family: Family, statuses: Iterable[SeriesStatus], labels: Iterable[str], format_: Format) -> Iterable[str]:
    value_of = family.value
    # Labels stand in the order of their names.
    before = family.sample_name + "{" + ("" if family.label is None else '{}="{}",'.format(*family.label))
    exemplar_of = family.exemplar if format_ is Format.OPENMETRICS else None
    for status, label in zip(statuses, labels, strict=True):
        value = value_of(status)
        if value is not None:
            exemplar = "" if exemplar_of is None else _exemplar(exemplar_of(status))
            yield f"{before}{label}}} {_number(value)}{exemplar}\n"


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None:
        return ""
    return f' # {{trace_id="{exemplar.trace_id}"}} {_number(exemplar.seconds)} {exemplar.at!r}'


def _number(value: float) -> str:
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


@lru_cache(maxsize=20_000)
def _labels(key: SeriesKey) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(SERIES_LABELS, key, strict=True))


def _escaped(value: str) -> str:
    return encodable(value).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


@dataclass
class Page:
    """The rendered samples of one snapshot, each format rendered once, when it is first asked for or beforehand."""

    snapshot: Snapshot
    _rendered: dict[tuple[Format, bool], bytes] = field(default_factory=dict, init=False)
    _mutex: threading.Lock = field(default_factory=threading.Lock, init=False)

    def render(self, format_: Format, *, gzipped: bool) -> bytes:
        """The series' samples, compressed or not, without OpenMetrics' end mark."""
        done = self._rendered.get((format_, gzipped))
        if done is not None:
            return done
        with self._mutex:
            return self._render(format_, gzipped=gzipped)

    def _render(self, format_: Format, *, gzipped: bool) -> bytes:
        done = self._rendered.get((format_, gzipped))
        if done is None:
            if gzipped:
                done = gzip_member(self._render(format_, gzipped=False))
            else:
                done = render_families(self.snapshot.series, format_)
            self._rendered[format_, gzipped] = done
        return done

    @property
    def rendered(self) -> frozenset[tuple[Format, bool]]:
        """What somebody has asked for; whoever scrapes may ask for more at this very moment."""
        with self._mutex:
            return frozenset(self._rendered)


class Publisher:
    """Holds the page that is served, and swaps it for the next."""

    def __init__(self) -> None:
        self._page: Page | None = None

    @property
    def page(self) -> Page | None:
        """The page to serve; nothing until the first snapshot is there."""
        return self._page

    def publish(self, snapshot: Snapshot) -> None:
        """Render a snapshot in the formats that were asked of the last one, then serve it."""
        page = Page(snapshot)
        for format_, gzipped in sorted(self._page.rendered if self._page else (), key=str):
            page.render(format_, gzipped=gzipped)
        self._page = page
