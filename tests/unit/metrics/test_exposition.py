import gzip
import re
import threading
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as ClientExemplar

from exporter.baseline.levels import Baseline, FallbackLevel
from exporter.cause.incidents import Role
from exporter.evaluation.live.durations import DurationHistogram
from exporter.evaluation.snapshot import Exemplar, IncidentPart, SeriesStatus, ServiceStatus, Snapshot
from exporter.metrics.exposition import Format, PagePrefix, Publisher, RenderedPage, render_families, render_services
from exporter.metrics.families import (
    CAUSE_LABELS,
    INCIDENT_LABELS,
    PREFIX,
    SERIES_FAMILIES,
    SERIES_LABELS,
    SERVICE_FAMILIES,
)
from exporter.model.calendar import DayType, Slot
from exporter.model.label import LabelNames
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey
from tests.support.samples import HOSTILE_KEY, KEY, LONG_KEY, NOON, SERVICE_VERDICT, baseline, small_snapshot

EMPTY_HISTOGRAM = DurationHistogram((), 0, 0.0)
TEXT_FORMATS = (Format.TEXT, Format.OPENMETRICS)

names = st.text(max_size=12) | st.sampled_from(
    ['"', "\\", "\n", "\\n", "\r\n", "a\ud800b", "\udfff", "}", '",x="', "é\0"]
)
seconds = st.floats(0, 1e12, allow_nan=False) | st.just(0.0) | st.floats(1e-9, 1e-3)
counts = st.integers(0, 10**15)
baselines = st.builds(
    Baseline,
    level=st.sampled_from([level for level in FallbackLevel if level is not FallbackLevel.UNAVAILABLE]),
    slot=st.just(Slot(12, DayType.WEEKDAY)),
    mature=st.booleans(),
    windows=st.integers(1, 1000),
    count=counts,
    p50_seconds=seconds,
    p95_seconds=seconds,
    mad_seconds=seconds,
)
exemplars = st.builds(
    Exemplar, trace_id=st.text("0123456789abcdef", min_size=32, max_size=32), seconds=seconds, at=st.floats(0, 2e9)
)
statuses = st.lists(
    st.builds(
        SeriesStatus,
        key=st.builds(SeriesKey, names, names, st.just(())),
        baseline=st.none() | baselines,
        outlier_threshold_seconds=st.none() | seconds,
        current_traces=st.none() | counts,
        current_p50_seconds=st.none() | seconds,
        current_p95_seconds=st.none() | seconds,
        score=st.none() | seconds,
        shift=st.none() | st.booleans(),
        outlier=st.none() | st.booleans(),
        since=st.none() | st.floats(0, 2e9),
        incident=st.none() | st.builds(IncidentPart, st.text("0123456789abcdef", min_size=12), st.sampled_from(Role)),
        traces_total=counts,
        outliers_total=counts,
        exemplar=st.none() | exemplars,
    ),
    max_size=4,
    unique_by=lambda status: encodable(status.key),
)


def encodable(key: SeriesKey) -> tuple[str, ...]:
    """The names of a series, with an escape for every character that cannot be encoded."""
    return tuple(name.encode("utf-8", "backslashreplace").decode() for name in key[:2])


def test_long_names_are_cut_in_every_format_and_family() -> None:
    other = LONG_KEY._replace(span_name=LONG_KEY.span_name + "x")
    snapshot = replace(
        small_snapshot(), series=tuple(replace(small_snapshot().series[-1], key=key) for key in (LONG_KEY, other))
    )
    for max_bytes in (64, 1000):
        publisher = Publisher(LabelNames(max_bytes))
        publisher.publish(snapshot)
        page = publisher.page
        assert page is not None
        texts = [b"".join(page.render(format_, gzipped=False).parts) for format_ in TEXT_FORMATS]
        names = frozenset({PREFIX + "score", PREFIX + "traces"})
        for text in (*texts, *(page.families(format_, names) for format_ in TEXT_FORMATS)):
            labels = re.findall(r'span_name="([^"]*)"', text.decode())
            assert {len(label.encode()) for label in labels} == {max_bytes}
            assert len(set(labels)) == 2


@dataclass
class Families(Collector):
    """Collects fixed families."""

    families: Sequence[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


def client_families(series: Iterable[SeriesStatus]) -> Families:
    """The samples of series as families of ``prometheus_client``."""
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for family in SERIES_FAMILIES:
        label = [] if family.label is None else [family.label[0]]
        label = label if family.parts is None else [*CAUSE_LABELS]
        label = label if family.labels is None else [*INCIDENT_LABELS]
        kind = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
        made = families.setdefault(family.name, kind(family.name, family.help, labels=[*label, *SERIES_LABELS]))
        for status in series:
            for part in family.parts(status) if family.parts else ():
                names = encodable(SeriesKey(part.service_name, part.span_name))
                made.add_metric([part.kind, *names, *encodable(status.key)], part.value)
            value = family.value(status)
            if value is None:
                continue
            further = [] if family.labels is None else [text for _, text in family.labels(status)]
            labels = [*([] if family.label is None else [family.label[1]]), *further, *encodable(status.key)]
            latest = family.exemplar(status) if family.exemplar else None
            if isinstance(made, GaugeMetricFamily) or latest is None:
                made.add_metric(labels, value)
            else:
                exemplar = ClientExemplar({"trace_id": latest.trace_id}, latest.seconds, latest.at)
                made.add_metric(labels, value, exemplar=exemplar)
    return Families(list(families.values()))


def client_openmetrics(series: Iterable[SeriesStatus]) -> bytes:
    page: bytes = generate_openmetrics(client_families(series))  # type: ignore[no-untyped-call]
    return page


def parsed(page: bytes, format_: Format) -> list[Metric]:
    text = page.decode("utf-8")
    if format_ is Format.TEXT:
        return list(parse_text(text))
    return list(parse_openmetrics(text + "# EOF\n"))  # type: ignore[no-untyped-call]


def readings(families: Iterable[Metric], format_: Format) -> list[object]:
    """The content of all samples of families, as far as a format has it."""
    found: list[object] = []
    for family in families:
        for sample in family.samples:
            exemplar = sample.exemplar if format_ is Format.OPENMETRICS else None
            found.append(
                (family.name, family.type, family.documentation, sample.name, sample.labels, sample.value)
                + ((exemplar.labels, exemplar.value) if exemplar else ())
            )
    return found


class TestParity:
    @given(statuses)
    def test_text_equals_that_of_the_client_library(self, series: list[SeriesStatus]) -> None:
        assert render_families(series, Format.TEXT) == generate_latest(client_families(series))

    @given(statuses)
    def test_openmetrics_equals_that_of_the_client_library(self, series: list[SeriesStatus]) -> None:
        assert render_families(series, Format.OPENMETRICS) + b"# EOF\n" == client_openmetrics(series)

    @given(statuses, st.sampled_from(TEXT_FORMATS))
    def test_the_client_library_parses_it_back(self, series: list[SeriesStatus], format_: Format) -> None:
        read_back = parsed(render_families(series, format_), format_)
        assert readings(read_back, format_) == readings(client_families(series).collect(), format_)


class TestServices:
    def test_samples_by_service(self) -> None:
        page = render_services(small_snapshot().services, Format.TEXT).decode()
        assert [line for line in page.splitlines() if not line.startswith("#")] == [
            'tempo_anomaly_service_shift_ratio{service_name="checkout"} 1.625',
            'tempo_anomaly_service_shift_limit_ratio{service_name="checkout"} 1.25',
            'tempo_anomaly_service_anomalous{kind="shift",service_name="checkout"} 1.0',
            'tempo_anomaly_service_anomalous{kind="shift",service_name="naïve \\"svc\\""} 1.0',
        ]

    def test_verdict_without_a_shift_is_0(self) -> None:
        calm = ServiceStatus(ServiceKey("checkout"), SERVICE_VERDICT, firing=False)
        assert b'service_anomalous{kind="shift",service_name="checkout"} 0.0' in render_services([calm], Format.TEXT)

    def test_labels_of_series_are_labels_of_the_service(self) -> None:
        service = ServiceStatus(ServiceKey("checkout", (("env", "prod"),)), SERVICE_VERDICT, firing=False)
        page = render_services([service], Format.TEXT, label_names=LabelNames(names=("env",)))
        assert b'service_shift_ratio{env="prod",service_name="checkout"} 1.625' in page

    @pytest.mark.parametrize("format_", TEXT_FORMATS)
    def test_are_part_of_the_page(self, format_: Format) -> None:
        families = parsed(RenderedPage(small_snapshot()).families(format_), format_)
        found = {family.name for family in families}
        assert {family.name for family, _ in SERVICE_FAMILIES} <= found

    def test_only_named_families(self) -> None:
        page = RenderedPage(small_snapshot()).families(Format.TEXT, frozenset({PREFIX + "service_shift_ratio"}))
        assert {family.name for family in parsed(page, Format.TEXT)} == {PREFIX + "service_shift_ratio"}


class TestSamples:
    def test_absent_values_make_no_sample(self) -> None:
        page = parsed(render_families([SeriesStatus(KEY)], Format.TEXT), Format.TEXT)
        assert {sample.name.removeprefix(PREFIX): sample.value for family in page for sample in family.samples} == {
            "baseline_fallback_level": 5.0,
            "traces_total": 0.0,
            "outlier_traces_total": 0.0,
        }

    def test_families_are_rendered_without_series(self) -> None:
        page = render_families([], Format.TEXT).decode()
        assert page.count("# TYPE ") == len({family.name for family in SERIES_FAMILIES})

    def test_names_that_cannot_be_encoded_stay_distinct(self) -> None:
        series = [SeriesStatus(SeriesKey("s", name)) for name in ("\ud800", "\ud801", "?")]
        page = parsed(render_families(series, Format.TEXT), Format.TEXT)
        (levels,) = [family for family in page if family.name == PREFIX + "baseline_fallback_level"]
        assert len({sample.labels["span_name"] for sample in levels.samples}) == 3

    def test_a_hostile_name_cannot_leave_its_label(self) -> None:
        page = parsed(render_families([SeriesStatus(HOSTILE_KEY)], Format.TEXT), Format.TEXT)
        labels = [sample.labels for family in page for sample in family.samples]
        assert labels == [HOSTILE_KEY.parameters] * 3

    def test_only_openmetrics_has_exemplars(self) -> None:
        series = [SeriesStatus(KEY, outliers_total=1, exemplar=Exemplar("f" * 32, 1.5, NOON + 0.5))]
        assert b" # " not in render_families(series, Format.TEXT)
        (line,) = [each for each in render_families(series, Format.OPENMETRICS).splitlines() if b" # " in each]
        assert line.endswith(b' 1.0 # {trace_id="ffffffffffffffffffffffffffffffff"} 1.5 1794916800.5')
        assert line.startswith(b"tempo_anomaly_outlier_traces_total{")


class TestNameFilter:
    @pytest.mark.parametrize("format_", TEXT_FORMATS)
    @pytest.mark.parametrize("requested", ["traces", "traces_total"])
    def test_a_family_is_found_by_its_name_and_by_that_of_its_samples(self, format_: Format, requested: str) -> None:
        page = parsed(render_families([SeriesStatus(KEY)], format_, frozenset({PREFIX + requested})), format_)
        assert [family.name for family in page] == [PREFIX + "traces"]

    def test_families_keep_their_order_and_unknown_names_are_ignored(self) -> None:
        requested = frozenset({PREFIX + "score", PREFIX + "current_traces", PREFIX + "scor", "up"})
        page = parsed(render_families(small_snapshot().series, Format.TEXT, requested), Format.TEXT)
        assert [family.name for family in page] == [PREFIX + "current_traces", PREFIX + "score"]


class TestRenderedPage:
    @pytest.mark.parametrize("format_", Format)
    def test_each_format_is_rendered_once(self, format_: Format) -> None:
        page = RenderedPage(small_snapshot())
        plain = page.render(format_, gzipped=False)
        text = b"".join(plain.parts)
        assert text == page.families(format_)
        assert page.render(format_, gzipped=False) is plain
        compressed = page.render(format_, gzipped=True)
        assert gzip.decompress(b"".join(compressed.parts) + compressed.finish(b"")) == text
        assert page.render(format_, gzipped=True) is compressed

    def test_concurrent_scrapes_get_the_same_rendering(self) -> None:
        page = RenderedPage(
            Snapshot(NOON, series=tuple(SeriesStatus(SeriesKey("s", str(n)), baseline()) for n in range(500)))
        )
        start = threading.Barrier(8)
        prefixes: list[PagePrefix] = []

        def scrape() -> None:
            start.wait()
            prefixes.append(page.render(Format.TEXT, gzipped=True))

        threads = [threading.Thread(target=scrape) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(each) for each in prefixes}) == 1
        assert len(prefixes) == 8


class TestPublisher:
    def test_there_is_no_page_before_the_first_snapshot(self) -> None:
        assert Publisher().page is None

    def test_the_next_snapshot_is_rendered_ahead_in_requested_variants(self) -> None:
        publisher = Publisher()
        publisher.publish(Snapshot(NOON))
        assert publisher.page is not None
        assert publisher.page.rendered == frozenset()
        publisher.page.render(Format.OPENMETRICS, gzipped=True)
        for _ in range(2):
            publisher.publish(small_snapshot())
            page = publisher.page
            # The compressed variant is made from plain text, which is not kept unless it was requested.
            assert page.rendered == {(Format.OPENMETRICS, True)}
            assert page.snapshot == small_snapshot()
            compressed = page.render(Format.OPENMETRICS, gzipped=True)
            text = RenderedPage(small_snapshot()).families(Format.OPENMETRICS)
            assert gzip.decompress(b"".join(compressed.parts) + compressed.finish(b"")) == text

    def test_a_variant_that_is_no_longer_requested_is_no_longer_rendered_ahead(self) -> None:
        publisher = Publisher()
        publisher.publish(Snapshot(NOON))
        rendered = []
        for number in range(60):
            assert publisher.page is not None
            publisher.page.render(Format.TEXT, gzipped=True)
            if number < 20:
                publisher.page.render(Format.OPENMETRICS, gzipped=False)
            publisher.publish(small_snapshot())
            rendered.append(publisher.page.rendered)
        assert rendered[20] == {(Format.TEXT, True), (Format.OPENMETRICS, False)}
        assert rendered[-1] == {(Format.TEXT, True)}

    @given(st.lists(statuses, min_size=2, max_size=4))
    def test_each_page_is_that_of_its_snapshot(self, snapshots: list[list[SeriesStatus]]) -> None:
        variants = [(format_, gzipped) for format_ in Format for gzipped in (False, True)]
        publisher = Publisher()
        # Each one twice, so that some of it stays the same, and then all of it.
        for series in [each for pair in pairwise(snapshots) for each in (pair[0], [*pair[0], *pair[1]], pair[1])]:
            distinct = {encodable(status.key): status for status in series}
            snapshot = Snapshot(NOON, series=tuple(distinct.values()), durations={KEY: EMPTY_HISTOGRAM})
            publisher.publish(snapshot)
            assert publisher.page is not None
            for format_, gzipped in variants:
                prefix = publisher.page.render(format_, gzipped=gzipped)
                body = b"".join(prefix.parts) + prefix.finish(b"the end")
                expected = RenderedPage(snapshot).families(format_)
                assert (gzip.decompress(body) if gzipped else body) == expected + b"the end"

    def test_families_that_have_not_changed_are_rendered_once(self) -> None:
        publisher = Publisher()
        publisher.publish(small_snapshot())
        assert publisher.page is not None
        before = publisher.page.render(Format.TEXT, gzipped=False).parts
        changed = [replace(status, traces_total=status.traces_total + 1) for status in small_snapshot().series]
        publisher.publish(replace(small_snapshot(), series=tuple(changed)))
        samples = [part for part in before if not part.startswith(b"#")]
        after = {id(part) for part in publisher.page.render(Format.TEXT, gzipped=False).parts}
        assert [part[:28] for part in samples if id(part) not in after] == [b"tempo_anomaly_traces_total{s"]
        # The text formats share what they write alike: all but the exemplars.
        shared = {id(part) for part in publisher.page.render(Format.OPENMETRICS, gzipped=False).parts} & after
        assert len(shared) >= len(samples) - 1

    def test_a_published_page_does_not_change(self) -> None:
        publisher = Publisher()
        publisher.publish(small_snapshot())
        page = publisher.page
        publisher.publish(Snapshot(NOON))
        assert page is not None
        assert page.snapshot == small_snapshot()


CONTENT = st.binary(max_size=200) | st.binary(min_size=1, max_size=9).map(lambda some: some * 10_000)


class TestPagePrefix:
    @given(CONTENT, st.lists(CONTENT, min_size=1, max_size=3))
    def test_one_prefix_can_be_finished_with_any_content(self, content: bytes, rests: list[bytes]) -> None:
        plain, compressed = (PagePrefix.of([content], gzipped=gzipped) for gzipped in (False, True))
        for rest in rests:
            assert b"".join(plain.parts) + plain.finish(rest) == content + rest
            member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            assert member.decompress(b"".join(compressed.parts) + compressed.finish(rest)) == content + rest
            # A single gzip member: browsers and curl read no further.
            assert (member.eof, member.unused_data) == (True, b"")

    def test_repetitive_content_is_compressed_well(self) -> None:
        content = b"tempo_anomaly_score 1.0\n" * 10_000
        prefix = PagePrefix.of([content], gzipped=True)
        body = b"".join(prefix.parts) + prefix.finish(content)
        assert gzip.decompress(body) == content * 2
        assert len(body) < len(content) / 50


class TestLabels:
    KEYS = (
        SeriesKey("shop", "GET /", (("a_first", 'x"\n\\'), ("zone", "\ud800"))),
        SeriesKey("shop", "GET /", (("a_first", "y"),)),
        SeriesKey("shop", "GET /"),
    )

    def test_labels_of_a_series_are_on_every_metric(self) -> None:
        statuses = [SeriesStatus(key, baseline(), shift=False) for key in self.KEYS]
        expected = [
            {name: value.encode("utf-8", "backslashreplace").decode() for name, value in key.parameters.items()}
            for key in self.KEYS
        ]
        for format_ in TEXT_FORMATS:
            for family in parsed(render_families(statuses, format_), format_):
                kinds = [sample.labels.pop("kind", None) for sample in family.samples]
                assert [sample.labels for sample in family.samples] == expected * (len(kinds) // 3), family.name

    def test_labels_are_sorted_by_name(self) -> None:
        text = render_families([SeriesStatus(self.KEYS[0])], Format.TEXT, frozenset({PREFIX + "traces"})).decode()
        assert text.splitlines()[-1] == (
            PREFIX + r'traces_total{a_first="x\"\n\\",service_name="shop",span_name="GET /",zone="\\ud800"} 0.0'
        )

    def test_values_are_cut(self) -> None:
        key = SeriesKey("shop", "GET /", (("a_first", "x" * 2000),))
        text = render_families([SeriesStatus(key)], Format.TEXT, label_names=LabelNames(100)).decode()
        assert {len(each.encode()) for each in re.findall('a_first="([^"]*)"', text)} == {100}
