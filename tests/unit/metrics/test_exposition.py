import gzip
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
from exporter.evaluation.snapshot import Exemplar, SeriesStatus, Snapshot
from exporter.metrics.exposition import CompressedPrefix, Format, Publisher, RenderedPage, render_families
from exporter.metrics.families import PREFIX, SERIES_FAMILIES, SERIES_LABELS
from exporter.model.calendar import DayType, Slot
from exporter.model.span import SeriesKey
from tests.support.samples import HOSTILE_KEY, KEY, NOON, baseline, small_snapshot

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
        key=st.builds(SeriesKey, names, names),
        baseline=st.none() | baselines,
        outlier_threshold_seconds=st.none() | seconds,
        current_traces=st.none() | counts,
        current_p50_seconds=st.none() | seconds,
        current_p95_seconds=st.none() | seconds,
        score=st.none() | seconds,
        shift=st.none() | st.booleans(),
        outlier=st.none() | st.booleans(),
        since=st.none() | st.floats(0, 2e9),
        traces_total=counts,
        outliers_total=counts,
        exemplar=st.none() | exemplars,
    ),
    max_size=4,
    unique_by=lambda status: encodable(status.key),
)


def encodable(key: SeriesKey) -> tuple[str, ...]:
    """A name with what stands for characters that cannot be encoded."""
    return tuple(name.encode("utf-8", "backslashreplace").decode() for name in key)


@dataclass
class Families(Collector):
    """Some families, as a registry has them."""

    families: Sequence[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


def by_the_client(series: Iterable[SeriesStatus]) -> Families:
    """The samples of some series in the families of ``prometheus_client``."""
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for family in SERIES_FAMILIES:
        label = [] if family.label is None else [family.label[0]]
        kind = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
        made = families.setdefault(family.name, kind(family.name, family.help, labels=[*label, *SERIES_LABELS]))
        for status in series:
            value = family.value(status)
            if value is None:
                continue
            labels = [*([] if family.label is None else [family.label[1]]), *encodable(status.key)]
            latest = family.exemplar(status) if family.exemplar else None
            if isinstance(made, GaugeMetricFamily) or latest is None:
                made.add_metric(labels, value)
            else:
                exemplar = ClientExemplar({"trace_id": latest.trace_id}, latest.seconds, latest.at)
                made.add_metric(labels, value, exemplar=exemplar)
    return Families(list(families.values()))


def openmetrics_by_the_client(series: Iterable[SeriesStatus]) -> bytes:
    page: bytes = generate_openmetrics(by_the_client(series))  # type: ignore[no-untyped-call]
    return page


def parsed(page: bytes, format_: Format) -> list[Metric]:
    text = page.decode("utf-8")
    if format_ is Format.TEXT:
        return list(parse_text(text))
    return list(parse_openmetrics(text + "# EOF\n"))  # type: ignore[no-untyped-call]


def readings(families: Iterable[Metric], format_: Format) -> list[object]:
    """All that is said by the samples of some families in a format."""
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
    def test_text_is_what_the_client_library_renders(self, series: list[SeriesStatus]) -> None:
        assert render_families(series, Format.TEXT) == generate_latest(by_the_client(series))

    @given(statuses)
    def test_openmetrics_is_what_the_client_library_renders(self, series: list[SeriesStatus]) -> None:
        assert render_families(series, Format.OPENMETRICS) + b"# EOF\n" == openmetrics_by_the_client(series)

    @given(statuses, st.sampled_from(Format))
    def test_the_client_library_reads_it_back(self, series: list[SeriesStatus], format_: Format) -> None:
        read_back = parsed(render_families(series, format_), format_)
        assert readings(read_back, format_) == readings(by_the_client(series).collect(), format_)


class TestSamples:
    def test_what_is_absent_makes_no_sample(self) -> None:
        page = parsed(render_families([SeriesStatus(KEY)], Format.TEXT), Format.TEXT)
        assert {sample.name.removeprefix(PREFIX): sample.value for family in page for sample in family.samples} == {
            "baseline_fallback_level": 5.0,
            "traces_total": 0.0,
            "outlier_traces_total": 0.0,
        }

    def test_families_are_there_without_series(self) -> None:
        page = render_families([], Format.TEXT).decode()
        assert page.count("# TYPE ") == len({family.name for family in SERIES_FAMILIES})

    def test_names_that_cannot_be_encoded_stay_apart(self) -> None:
        series = [SeriesStatus(SeriesKey("s", name)) for name in ("\ud800", "\ud801", "?")]
        page = parsed(render_families(series, Format.TEXT), Format.TEXT)
        (levels,) = [family for family in page if family.name == PREFIX + "baseline_fallback_level"]
        assert len({sample.labels["span_name"] for sample in levels.samples}) == 3

    def test_a_hostile_name_cannot_leave_its_label(self) -> None:
        page = parsed(render_families([SeriesStatus(HOSTILE_KEY)], Format.TEXT), Format.TEXT)
        labels = [sample.labels for family in page for sample in family.samples]
        assert labels == [HOSTILE_KEY._asdict()] * 3

    def test_exemplars_are_for_openmetrics_alone(self) -> None:
        series = [SeriesStatus(KEY, outliers_total=1, exemplar=Exemplar("f" * 32, 1.5, NOON + 0.5))]
        assert b" # " not in render_families(series, Format.TEXT)
        (line,) = [each for each in render_families(series, Format.OPENMETRICS).splitlines() if b" # " in each]
        assert line.endswith(b' 1.0 # {trace_id="ffffffffffffffffffffffffffffffff"} 1.5 1794916800.5')
        assert line.startswith(b"tempo_anomaly_outlier_traces_total{")


class TestNames:
    @pytest.mark.parametrize("format_", Format)
    @pytest.mark.parametrize("asked_for", ["traces", "traces_total"])
    def test_a_family_is_found_by_its_own_name_and_by_that_of_its_samples(
        self, format_: Format, asked_for: str
    ) -> None:
        page = parsed(render_families([SeriesStatus(KEY)], format_, frozenset({PREFIX + asked_for})), format_)
        assert [family.name for family in page] == [PREFIX + "traces"]

    def test_several_come_in_their_order_and_unknown_ones_do_not(self) -> None:
        asked_for = frozenset({PREFIX + "score", PREFIX + "current_traces", PREFIX + "scor", "up"})
        page = parsed(render_families(small_snapshot().series, Format.TEXT, asked_for), Format.TEXT)
        assert [family.name for family in page] == [PREFIX + "current_traces", PREFIX + "score"]


class TestPage:
    @pytest.mark.parametrize("format_", Format)
    def test_each_format_is_rendered_once(self, format_: Format) -> None:
        page = RenderedPage(small_snapshot())
        plain = page.render(format_, gzipped=False)
        assert plain.data == render_families(small_snapshot().series, format_)
        assert page.render(format_, gzipped=False) is plain
        packed = page.render(format_, gzipped=True)
        assert gzip.decompress(packed.data + packed.end(b"")) == plain.data
        assert page.render(format_, gzipped=True) is packed

    def test_many_at_once_get_the_same(self) -> None:
        page = RenderedPage(
            Snapshot(NOON, series=tuple(SeriesStatus(SeriesKey("s", str(n)), baseline()) for n in range(500)))
        )
        together = threading.Barrier(8)
        got: list[CompressedPrefix] = []

        def scrape() -> None:
            together.wait()
            got.append(page.render(Format.TEXT, gzipped=True))

        threads = [threading.Thread(target=scrape) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(each) for each in got}) == 1
        assert len(got) == 8


class TestPublisher:
    def test_there_is_nothing_before_the_first_snapshot(self) -> None:
        assert Publisher().page is None

    def test_the_next_snapshot_comes_rendered_in_what_was_asked_for(self) -> None:
        publisher = Publisher()
        publisher.publish(Snapshot(NOON))
        assert publisher.page is not None
        assert publisher.page.rendered == frozenset()
        publisher.page.render(Format.OPENMETRICS, gzipped=True)
        for _ in range(2):
            publisher.publish(small_snapshot())
            page = publisher.page
            # The packed one is made from the plain one, which nobody has asked for.
            assert page.rendered == {(Format.OPENMETRICS, True)}
            assert page.snapshot == small_snapshot()
            packed = page.render(Format.OPENMETRICS, gzipped=True)
            text = render_families(small_snapshot().series, Format.OPENMETRICS)
            assert gzip.decompress(packed.data + packed.end(b"")) == text

    def test_what_nobody_asks_for_any_more_is_no_longer_rendered(self) -> None:
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

    def test_who_holds_a_page_keeps_it(self) -> None:
        publisher = Publisher()
        publisher.publish(small_snapshot())
        page = publisher.page
        publisher.publish(Snapshot(NOON))
        assert page is not None
        assert page.snapshot == small_snapshot()
