import io
from collections.abc import Iterator, Mapping, Sequence

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exporter.baseline.levels import FallbackLevel
from exporter.evaluation.replay import PastStatus
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.metrics.exposition import Format, render_families
from exporter.metrics.families import SERIES_FAMILIES
from exporter.metrics.timed_exposition import OWN_LABELS, PAST_FAMILIES, TimedWriter
from exporter.model.label import DEFAULT_LABEL_NAMES
from exporter.model.span import SeriesKey
from tests.support.samples import HOSTILE_KEY, KEY, NOON, QUOTED_KEY, baseline, small_snapshot

TARGET = {"job": "tempo-anomaly-exporter", "instance": "localhost:9817"}
MARK = 300


def parsed(text: str) -> Iterator[Metric]:
    """Parse the families; the parser rejects repeated families and samples that are not in order of time."""
    yield from text_string_to_metric_families(text)  # type: ignore[no-untyped-call]


def written(series: Mapping[SeriesKey, Sequence[PastStatus]], labels: Mapping[str, str] = TARGET) -> str:
    out = io.BytesIO()
    with TimedWriter(labels) as writer:
        for key, moments in series.items():
            writer.add(key, moments)
        writer.write(out)
    return out.getvalue().decode("utf-8")


def status(key: SeriesKey = KEY, p95: float = 0.2) -> SeriesStatus:
    return SeriesStatus(
        key, baseline(p95=p95), 0.4, 30, 0.1, p95, score=0.5, shift=False, outlier=False, since=None, traces_total=5
    )


def moments(key: SeriesKey = KEY, count: int = 4) -> list[PastStatus]:
    return [PastStatus(NOON + number * MARK, status(key, 0.2 + number / 10)) for number in range(count)]


def test_families_are_contiguous_and_series_are_in_order_of_time() -> None:
    keys = (KEY, QUOTED_KEY, SeriesKey("a", "b"))
    families = {family.name: family for family in parsed(written({k: moments(k) for k in keys}))}
    assert set(families) == {family.name for family in PAST_FAMILIES}
    p95 = families["tempo_anomaly_current_p95_seconds"].samples
    assert len(p95) == len(keys) * 4
    for key in keys:
        own = [sample for sample in p95 if sample.labels["span_name"] == key.span_name]
        assert [float(str(sample.timestamp)) for sample in own] == [NOON + number * MARK for number in range(4)]
        assert [sample.value for sample in own] == pytest.approx([0.2, 0.3, 0.4, 0.5])
        labels = {"service_name": key.service_name, "span_name": key.span_name, **TARGET}
        assert all(sample.labels == labels for sample in own)


def test_samples_are_those_of_the_page_plus_target_labels() -> None:
    """Past and scraped samples must belong to the same time series."""
    snapshot: Snapshot = small_snapshot()
    page = render_families(snapshot.series, Format.OPENMETRICS).decode("utf-8")
    gauges = {family.name for family in SERIES_FAMILIES if family.kind == "gauge"}
    expected = {
        (sample.name, tuple(sorted({**sample.labels, **TARGET}.items())), sample.value)
        for family in parsed(f"{page}# EOF\n")
        for sample in family.samples
        if family.name in gauges
    }
    past = {each.key: [PastStatus(NOON, each)] for each in snapshot.series}
    found = {
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in parsed(written(past))
        for sample in family.samples
    }
    assert found == expected
    assert len(found) > 25


def test_counters_are_left_out() -> None:
    assert "_total" not in written({KEY: moments()})


def test_unknown_values_are_left_out() -> None:
    text = written({KEY: [PastStatus(NOON, SeriesStatus(KEY))]})
    (line,) = [line for line in text.splitlines() if not line.startswith("#")]
    assert line.startswith("tempo_anomaly_baseline_fallback_level{")
    assert line.endswith(f"}} {float(FallbackLevel.UNAVAILABLE)} {NOON}")


def test_a_value_that_changes_and_returns_is_written_each_time() -> None:
    values = [0.5, 0.5, 0.7, 0.5]
    past = [PastStatus(NOON + number * MARK, status(p95=value)) for number, value in enumerate(values)]
    lines = [line.split() for line in written({KEY: past}).splitlines() if line.startswith("tempo_anomaly_current_p95")]
    assert [float(line[-2]) for line in lines] == values


def test_any_name_is_escaped() -> None:
    long, *_ = DEFAULT_LABEL_NAMES.of(SeriesKey("x" * 10_000, ""))
    keys = (HOSTILE_KEY, SeriesKey("\ud800", ""), SeriesKey("x" * 10_000, "# EOF\n"))
    families = parsed(written({key: moments(key, 1) for key in keys}, {"job": 'a"\n\\'}))
    (level,) = [family for family in families if family.name.endswith("baseline_fallback_level")]
    assert {sample.labels["service_name"] for sample in level.samples} == {HOSTILE_KEY[0], r"\ud800", long}
    assert {sample.labels["job"] for sample in level.samples} == {'a"\n\\'}


def test_a_series_that_fails_halfway_is_left_out() -> None:
    def failing() -> Iterator[PastStatus]:
        yield from moments()
        raise ValueError("damaged")

    out = io.BytesIO()
    with TimedWriter(TARGET) as writer:
        with pytest.raises(ValueError, match="damaged"):
            writer.add(KEY, failing())
        assert (writer.series, writer.samples) == (0, 0)
        writer.add(QUOTED_KEY, moments(QUOTED_KEY))
        assert (writer.series, writer.samples) == (1, 13 * 4)
        writer.write(out)
    assert b"GET /cart" not in out.getvalue()


def test_many_samples_survive_compression() -> None:
    """More than the buffers hold, and more than one chunk of decompression."""
    many = [PastStatus(NOON + number * MARK, status(p95=0.2 + number / 1e4)) for number in range(20_000)]
    lines = [line for line in written({KEY: many}).splitlines() if line.startswith("tempo_anomaly_current_p95")]
    assert [int(line.rsplit(" ", 1)[1]) for line in lines] == [moment.at for moment in many]


def test_without_series_the_output_is_valid_and_empty() -> None:
    text = written({})
    assert text.endswith("# EOF\n")
    assert all(not family.samples for family in parsed(text))


def test_own_labels() -> None:
    assert {"service_name", "span_name", "kind", "severity"} == OWN_LABELS


def test_labels_of_a_series_are_on_every_metric() -> None:
    key = KEY._replace(labels=(("env", "prod"),))
    for family in parsed(written({key: moments(key)})):
        for sample in family.samples:
            sample.labels.pop("kind", None)
            assert sample.labels == {**key.parameters, **TARGET}
