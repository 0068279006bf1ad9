import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric, SummaryMetricFamily

from exporter.evaluation.live.durations import DurationHistogram
from exporter.metrics.exposition import Format, RenderedPage, render_families, render_services
from exporter.metrics.families import DURATION_NAME, PREFIX
from exporter.metrics.protobuf import render_collector
from exporter.model.histogram import HIGHEST_BUCKET, ZERO_BUCKET, bucket_middle_seconds
from exporter.model.label import LabelNames
from exporter.model.span import SeriesKey
from tests.support.protobuf import NativeHistogram, ProtobufFamily, decode, decode_families, native_histogram
from tests.support.samples import HOSTILE_KEY, KEY, LONG_KEY, small_snapshot
from tests.support.whole_page import WholePage
from tests.unit.metrics.test_exposition import Families, parsed

PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
TYPES = {"counter": 0, "gauge": 1, "histogram": 4}
VALUE = 1
EXEMPLAR = 2


def families(body: bytes) -> dict[str, ProtobufFamily]:
    decoded = list(decode_families(body))
    names = [family.name for family in decoded]
    assert len(names) == len(set(names))
    return dict(zip(names, decoded, strict=True))


def values(family: ProtobufFamily) -> dict[frozenset[tuple[str, str]], float]:
    return {frozenset(labels.items()): fields[VALUE][0] for labels, fields in family.metrics}


def durations_of(counts: Mapping[int, int]) -> DurationHistogram:
    total = math.fsum(bucket_middle_seconds(bucket) * count for bucket, count in counts.items())
    return DurationHistogram(tuple(sorted(counts.items())), sum(counts.values()), total)


def page_with(histograms: Mapping[SeriesKey, DurationHistogram]) -> RenderedPage:
    return RenderedPage(replace(small_snapshot(), durations=histograms))


def rendered(histogram: DurationHistogram) -> NativeHistogram:
    page = page_with({KEY: histogram})
    found = families(page.families(Format.PROTOBUF, frozenset({DURATION_NAME})))[DURATION_NAME]
    ((labels, fields),) = found.metrics
    assert labels == {"service_name": KEY.service_name, "span_name": KEY.span_name}
    return native_histogram(fields)


class TestSamples:
    def test_a_page_has_the_samples_of_the_text_format(self) -> None:
        page = WholePage.full()
        page.page = type(page.page)(page.publisher, page.metrics.registry, has_native_histograms=True)
        response = page.get(PROTOBUF)
        assert response.content_type == (
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
        )
        found = families(response.body)
        for name, expected in page.families().items():
            family = found.pop(name)
            assert family.type == TYPES[expected.type]
            assert family.help == expected.documentation
            if expected.type == "histogram":
                assert _histograms(family) == _text_histograms(expected)
            elif not name.startswith("process_"):
                assert values(family) == {frozenset(sample.labels.items()): sample.value for sample in expected.samples}
        assert not found

    def test_hostile_names(self) -> None:
        status = replace(small_snapshot().series[0], key=HOSTILE_KEY)
        text = {family.name: family for family in parsed(render_families([status], Format.TEXT), Format.TEXT)}
        page = RenderedPage(replace(small_snapshot(), series=(status,)))
        family = families(page.families(Format.PROTOBUF))[PREFIX + "score"]
        assert values(family) == {
            frozenset(sample.labels.items()): sample.value for sample in text[PREFIX + "score"].samples
        }

    def test_long_names_are_cut(self) -> None:
        status = replace(small_snapshot().series[0], key=LONG_KEY)
        page = RenderedPage(replace(small_snapshot(), series=(status,), services=()), LabelNames(64))
        for family in decode_families(page.families(Format.PROTOBUF)):
            for labels, _ in family.metrics:
                assert len(labels["span_name"].encode()) == 64

    def test_services(self) -> None:
        snapshot = replace(small_snapshot(), series=())
        found = families(RenderedPage(snapshot).families(Format.PROTOBUF))
        text = {family.name: family for family in parsed(render_services(snapshot.services, Format.TEXT), Format.TEXT)}
        for name in ("service_shift_ratio", "service_shift_limit_ratio", "service_anomalous"):
            assert values(found[PREFIX + name]) == {
                frozenset(sample.labels.items()): sample.value for sample in text[PREFIX + name].samples
            }

    def test_an_exemplar(self) -> None:
        status = next(each for each in small_snapshot().series if each.exemplar is not None)
        page = RenderedPage(replace(small_snapshot(), series=(status,)))
        family = families(page.families(Format.PROTOBUF))[PREFIX + "outlier_traces_total"]
        ((_, fields),) = family.metrics
        exemplar = decode(fields[EXEMPLAR][0])
        assert status.exemplar is not None
        assert decode(exemplar[1][0]) == {1: [b"trace_id"], 2: [status.exemplar.trace_id.encode()]}
        assert exemplar[2] == [status.exemplar.seconds]
        timestamp = decode(exemplar[3][0])
        assert timestamp[1][0] + timestamp[2][0] / 1e9 == pytest.approx(status.exemplar.at, abs=1e-6)

    def test_only_requested_families(self) -> None:
        page = page_with({KEY: durations_of({0: 1})})
        for name in (PREFIX + "score", DURATION_NAME, PREFIX + "traces_total"):
            assert [*families(page.families(Format.PROTOBUF, frozenset({name})))] == [name]

    def test_a_type_that_the_exporter_does_not_have_is_refused(self) -> None:
        with pytest.raises(ValueError, match="metric x is of type summary"):
            render_collector(Families([SummaryMetricFamily("x", "X.", count_value=1, sum_value=1.0)]))


def _histograms(family: ProtobufFamily) -> dict[frozenset[tuple[str, str]], list[float]]:
    return {
        frozenset(labels.items()): [
            fields[1][0],
            fields[2][0],
            *(number for bucket in map(decode, fields[3]) for number in (bucket[2][0], bucket[1][0])),
        ]
        for labels, fields in family.metrics
    }


def _text_histograms(family: Metric) -> dict[frozenset[tuple[str, str]], list[float]]:
    found: dict[frozenset[tuple[str, str]], dict[str, list[float]]] = {}
    for sample in family.samples:
        labels = frozenset((name, value) for name, value in sample.labels.items() if name != "le")
        numbers = found.setdefault(labels, {})
        part = sample.name.rsplit("_", 1)[1]
        further = [float(sample.labels["le"]), sample.value] if part == "bucket" else [sample.value]
        numbers.setdefault(part, []).extend(further)
    return {labels: [*each["count"], *each["sum"], *each["bucket"]] for labels, each in found.items()}


class TestNativeHistograms:
    @given(
        st.dictionaries(
            st.sampled_from([ZERO_BUCKET, -957, -3, -2, 0, 1, 2, 5, 40, HIGHEST_BUCKET]) | st.integers(-100, 100),
            st.integers(1, 10**9),
        )
    )
    def test_it_has_the_buckets_of_the_digest(self, counts: dict[int, int]) -> None:
        found = rendered(durations_of(counts))
        assert found.schema == 5
        assert found.spans == sum(counts.values())
        assert found.zeros == counts.get(ZERO_BUCKET, 0)
        # Bucket i of the format ends at 2^(i/32), that of a digest at 2^((i+1)/32).
        assert {index - 1: count for index, count in found.buckets.items() if count} == {
            bucket: count for bucket, count in counts.items() if bucket != ZERO_BUCKET
        }
        assert found.spans == found.zeros + sum(found.buckets.values())

    def test_without_spans_it_is_native_nevertheless(self) -> None:
        found = rendered(durations_of({}))
        assert found == NativeHistogram(0, 0.0, 5, 0, {})

    def test_series_without_spans_and_pages_without_durations_have_none(self) -> None:
        assert families(page_with({}).families(Format.PROTOBUF))[DURATION_NAME].metrics == []
        assert DURATION_NAME not in families(RenderedPage(small_snapshot()).families(Format.PROTOBUF))

    def test_text_formats_have_none(self) -> None:
        page = page_with({KEY: durations_of({0: 1})})
        for format_ in (Format.TEXT, Format.OPENMETRICS):
            assert DURATION_NAME.encode() not in page.families(format_)
