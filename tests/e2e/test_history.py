"""Stored history, loaded into Prometheus as docs/history.md says, and queried there."""

import math
import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import pytest

from exporter.model.span import SeriesKey
from tests.support.backtest_traffic import MONDAY, Incident, requests, write_history
from tests.support.monitoring import PrometheusServer
from tests.support.paths import REPOSITORY
from tests.support.processes import run
from tests.support.programs import run_program

HOUR: Final = 3600
DAY: Final = 24 * HOUR
NS: Final = 1_000_000_000
MARK: Final = 300
DAYS: Final = 4
END: Final = MONDAY + DAYS * DAY
BUSY = SeriesKey("shop", "GET /pay")
QUOTED = SeriesKey("shop", 'POST "/a\\b"\n{x="y"} 订单')
LABELS: Final = {"job": "tempo-anomaly-exporter", "instance": "127.0.0.1:9817"}
DOCUMENT: Final = REPOSITORY / "docs" / "history.md"
BUCKET: Final = 0.0111
"""Relative error of a digest's quantile."""


class Loaded(NamedTuple):
    """A Prometheus that serves a history, and the requests behind it."""

    prometheus: PrometheusServer
    busy: Sequence[tuple[int, int]]


def documented() -> list[list[str]]:
    """Return the first commands of docs/history.md."""
    block = DOCUMENT.read_text("utf-8").split("```sh\n")[1].split("```")[0]
    return [shlex.split(line, comments=True) for line in block.splitlines()]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    directory = tmp_path_factory.mktemp("history")
    busy = requests(DAYS, 600, [Incident(3 * 24 + 10, 3 * 24 + 11.5, 3.0)])
    quoted = requests(DAYS, 30, seed=2)
    write_history(directory / "history.db", {BUSY: busy, QUOTED: quoted}, DAYS)
    (directory / "exporter.yaml").write_text("storage: {path: history.db}\nweb: {listen_address: 127.0.0.1:9817}\n")
    history, promtool, _, move = documented()
    written = run(*history[1:], directory=directory)
    assert written.returncode == 0, written.stderr
    done = run_program(*promtool, directory=directory)
    assert done.returncode == 0, done.stdout
    prometheus = PrometheusServer(directory / "prometheus", retention="100y")
    prometheus.directory.mkdir()
    assert move[:2] == ["mv", "blocks/*"]
    (directory / "blocks").rename(prometheus.data)
    with prometheus:
        yield Loaded(prometheus, busy)


def quantile(durations_ns: Sequence[int], q: float) -> float:
    """Return a quantile by the nearest rank, in seconds."""
    return sorted(durations_ns)[math.ceil(q * len(durations_ns)) - 1] / NS


def labels_of(key: SeriesKey) -> dict[str, str]:
    return {"service_name": key.service_name, "span_name": key.span_name, **LABELS}


def test_series_have_a_sample_every_five_minutes(loaded: Loaded) -> None:
    for metric in ("current_p95_seconds", "current_traces", "baseline_fallback_level"):
        result = loaded.prometheus.query_range(
            f'tempo_anomaly_{metric}{{span_name="{BUSY.span_name}"}}', MONDAY + MARK, END, MARK
        )
        ((labels, points),) = result
        assert labels == {"__name__": f"tempo_anomaly_{metric}", **labels_of(BUSY)}
        assert [time for time, _ in points] == list(range(MONDAY + MARK, END + 1, MARK))


@pytest.mark.parametrize("q", [0.5, 0.95])
def test_current_quantiles_match_the_requests(loaded: Loaded, q: float) -> None:
    metric = f"tempo_anomaly_current_p{q * 100:.0f}_seconds"
    ((_, points),) = loaded.prometheus.query_range(
        f'{metric}{{span_name="{BUSY.span_name}"}}', END - DAY + MARK, END, MARK
    )
    assert len(points) == DAY // MARK
    ended: defaultdict[int, list[int]] = defaultdict(list)
    for start, duration in loaded.busy:
        ended[-(-(start + duration) // (MARK * NS)) * MARK].append(duration)
    for time, value in points:
        assert value == pytest.approx(quantile(ended[int(time)], q), rel=BUCKET)


def test_baseline_uses_only_earlier_days(loaded: Loaded) -> None:
    """On the fourth weekday, the pool is the same hour of the three days before."""
    for hour in (2, 9, 15):
        at = MONDAY + 3 * DAY + hour * HOUR + MARK
        pool = [
            duration
            for start, duration in loaded.busy
            if any(0 <= start - (MONDAY + day * DAY + hour * HOUR) * NS < HOUR * NS for day in range(3))
        ]
        selector = f'{{span_name="{BUSY.span_name}"}}'
        values = {
            metric: loaded.prometheus.query(f"tempo_anomaly_baseline_{metric}{selector}", at)[0].value
            for metric in ("p50_seconds", "p95_seconds", "samples", "windows", "fallback_level")
        }
        assert (values["fallback_level"], values["windows"], values["samples"]) == (1, 3, len(pool))
        assert values["p50_seconds"] == pytest.approx(quantile(pool, 0.5), rel=BUCKET)
        assert values["p95_seconds"] == pytest.approx(quantile(pool, 0.95), rel=BUCKET)


def test_incident_is_flagged(loaded: Loaded) -> None:
    start, end = MONDAY + 3 * DAY + 10 * HOUR, MONDAY + 3 * DAY + 11.5 * HOUR
    ((labels, points),) = loaded.prometheus.query_range('tempo_anomaly_anomalous{kind="shift"} == 1', MONDAY, END, MARK)
    assert labels["span_name"] == BUSY.span_name
    assert start < points[0][0] <= start + 3 * MARK
    assert end < points[-1][0] <= end + 3 * MARK


def test_hostile_names_are_loaded_unchanged(loaded: Loaded) -> None:
    samples = loaded.prometheus.query("tempo_anomaly_baseline_fallback_level", END)
    assert sorted(each.labels["span_name"] for each in samples) == sorted((BUSY.span_name, QUOTED.span_name))
