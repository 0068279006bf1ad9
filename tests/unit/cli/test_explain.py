"""The command ``explain``: its output and its errors."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from exporter.cli.main import main
from exporter.demo.routes import ApiOptions
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ORPHAN, ROOT, Operation, SpanTimes, TraceShape, TraceStore, make_trace
from exporter.model.label import LabelNames
from exporter.model.span import SeriesKey
from exporter.store import Store
from tests.support.samples import DAY, HOSTILE_KEY, HOUR, KEY, LONG_KEY, NOON, NS, around, commit_hour, evaluate_history

Explain = Callable[..., Result]
AT = ("--at", str(NOON + 60))
RARE = SeriesKey("checkout", "POST /refunds")
MS = 1_000_000


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with nine days of history."""
    file = tmp_path_factory.mktemp("explain") / "history.db"
    store = Store.open(file)
    for start in range(NOON - 9 * DAY, NOON, HOUR):
        slow = NOON - DAY <= start < NOON - DAY + 2 * HOUR
        commit_hour(
            store, start, {KEY: around(1.0 if slow else 0.1, 30), HOSTILE_KEY: around(0.1, 4), LONG_KEY: around(0.1, 4)}
        )
    commit_hour(store, NOON - 2 * DAY, {RARE: around(0.1, 10)})
    evaluate_history(store, NOON)
    store.close()
    return file


@pytest.fixture
def explain(clean_environment: None, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Explain:
    """Runs the command."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, **environment: str) -> Result:
        environment = {"STORAGE_PATH": str(stored), **environment}
        return CliRunner().invoke(main, ["explain", *arguments], env=environment)

    return call


def named(key: SeriesKey) -> tuple[str, ...]:
    return ("--service", key.service_name, "--span", key.span_name)


class TestEndpoint:
    def test_baseline_thresholds_and_verdict_on_a_duration(self, explain: Explain) -> None:
        result = explain(*named(KEY), *AT, "--duration", "320ms")
        assert (result.exit_code, result.stderr) == (0, "")
        lines = result.stdout.splitlines()
        assert lines[:2] == ["checkout GET /cart", "Tuesday 2026-11-17 12:00–13:00 UTC, weekday in the calendar"]
        text = " ".join(result.stdout.split())
        assert "by 5 weekdays 12–13 h: level 1, 150 traces" in text
        assert "1 exact hour 150 of 50 traces, 5 hours <- serves" in text
        # The incident of the day before and its neighbouring hours.
        assert "kept out 2026-11-16" in text
        assert "320 ms is an outlier for checkout GET /cart on weekdays 12–13 h: it is above the threshold of" in text
        assert "none of the 150 traces that it is compared with took longer" in text
        assert [line for line in lines if len(line) > 120] == []

    def test_a_time_without_an_offset_is_local(self, explain: Explain) -> None:
        found = [
            explain(*named(KEY), "--at", at, "--json", TIMEZONE="Europe/Berlin").stdout
            for at in ("2026-11-17T13:01", "2026-11-17T12:01Z", str(NOON + 60))
        ]
        assert found[0] == found[1] == found[2]
        assert json.loads(found[0])["bucket"]["hour"] == 13

    def test_json_output(self, explain: Explain) -> None:
        found = json.loads(explain(*named(KEY), *AT, "--duration", "320ms", "--json").stdout)
        assert (found["duration"]["outlier"], found["level"], found["present"]) == (True, 1, False)
        assert len(found["baseline"]["pooled_hours"]) == 5

    def test_level_5_names_the_reason_and_what_to_do(self, explain: Explain) -> None:
        result = explain(*named(RARE), *AT)
        assert result.exit_code == 0
        text = " ".join(result.stdout.split())
        assert "Nothing is known of what is usual for checkout POST /refunds" in text
        assert "everything 10 of 30 traces. Wait for traffic" in text

    def test_a_disabled_level_is_suggested(self, explain: Explain) -> None:
        text = explain(*named(RARE), *AT, FALLBACK_FULL_GLOBAL_ENABLED="false").stdout
        assert "enable more levels" in " ".join(text.split())

    def test_hostile_names_stay_on_one_line(self, explain: Explain) -> None:
        result = explain(*named(HOSTILE_KEY), *AT)
        assert result.exit_code == 0
        first = result.stdout.splitlines()[0]
        assert first.startswith('<script>alert("1")</script> GET "/a\\b"\\n# TYPE x gauge')
        assert first.isprintable()

    def test_series_is_found_by_its_label(self, explain: Explain, stored: Path) -> None:
        labels = LabelNames(64).of(LONG_KEY)
        assert explain(*named(labels), *AT).exit_code == 1
        result = explain(*named(labels), *AT, "--json", SERIES_MAX_LABEL_BYTES="64")
        assert json.loads(result.stdout)["span_name"] == LONG_KEY.span_name

    def test_an_unknown_series_lists_similar_names_to_copy(self, explain: Explain) -> None:
        result = explain("--service", "checkout", "--span", "GET /carts")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "did you mean one of these?\n  --service checkout --span 'GET /cart'\n" in result.stderr

    def test_without_a_history_it_fails(self, explain: Explain, tmp_path: Path) -> None:
        missing = explain(*named(KEY), STORAGE_PATH=str(tmp_path / "none.db"))
        assert missing.exit_code == 1
        assert "run the exporter until it has read some" in missing.stderr
        assert not (tmp_path / "none.db").exists()
        Store.open(tmp_path / "empty.db").close()
        empty = explain(*named(KEY), STORAGE_PATH=str(tmp_path / "empty.db"))
        assert empty.exit_code == 1
        assert "let the exporter read some history" in empty.stderr

    def test_all_mistakes_are_reported_together(self, explain: Explain) -> None:
        result = explain("--service", "x", "--at", "noon", "--duration", "1", "--trace", "xyz")
        assert result.exit_code == 2
        assert result.stderr.splitlines() == [
            "an endpoint is a service and a span name: set both --service and --span",
            "a trace has its own duration and time; leave out --duration and --at with --trace",
            "--duration needs a unit, such as s, m, h or d, not '1'",
            "--trace must be up to 32 hex digits and not all 0, not 'xyz'",
            "--at must be a time such as 2026-11-24T14:00 (local), 2026-11-24T14:00Z, Unix seconds or now, not 'noon'",
        ]
        assert explain().exit_code == 2

    def test_an_invalid_configuration_is_reported(self, explain: Explain, tmp_path: Path) -> None:
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({"stats": {"k": "many"}}))
        result = explain(*named(KEY), "--config", "c.yaml")
        assert result.exit_code == 2
        assert "stats.k" in result.stderr


class TestTrace:
    @pytest.fixture
    def tempo(self) -> Iterator[str]:
        shape = TraceShape(
            (
                Operation(*KEY),
                Operation("checkout", "POST /reserve", "client"),
                Operation("stock", "POST /reserve", "server"),
                Operation("mail", "send\n\x1b[31m", "consumer"),
                Operation("lost", "found", "server"),
            ),
            (ROOT, 0, 1, 0, ORPHAN),
        )
        start = (NOON - DAY + 5 * HOUR) * NS
        times = [
            SpanTimes(10, start, 1000 * MS),
            SpanTimes(20, start + 100 * MS, 800 * MS),
            # The clock of this service is half a second ahead.
            SpanTimes(30, start + 650 * MS, 700 * MS),
            SpanTimes(40, start + 900 * MS, 5000 * MS),
            SpanTimes(50, start, MS),
        ]
        with TempoServer(TraceStore([make_trace(0xC0FFEE, shape, times)]), ApiOptions()) as server:
            yield server.url

    def test_critical_path_of_a_trace(self, explain: Explain, tempo: str) -> None:
        result = explain("--trace", "c0ffee", TEMPO_URL=tempo)
        assert (result.exit_code, result.stderr) == (0, "")
        assert all(line.isprintable() for line in result.stdout.splitlines())
        text = [" ".join(line.split()) for line in result.stdout.splitlines()]
        assert text[:2] == [
            "checkout GET /cart",
            f"trace {0xC0FFEE:032x}: 1 s from 2026-11-16 17:00:00 UTC, 5 spans",
        ]
        assert "70.0% 700 ms stock" in text
        assert "30.0% 300 ms checkout" in text
        path = text[text.index("critical path") + 1 :][:3]
        assert path == [
            "20.0% 200 ms checkout GET /cart (server)",
            "10.0% 100 ms checkout POST /reserve (client)",
            "70.0% 700 ms stock POST /reserve (server)",
        ]
        assert "5 s mail send\\n\\x1b[31m (consumer)" in text
        assert "note: 1 span of a parent that was not received" in text
        assert "note: 1 span outliving the parent, and not waited for" in text
        assert "note: 1 span moved in time, since the clocks of services differ" in text
        assert "1 s is an outlier for checkout GET /cart on weekdays 17–18 h" in " ".join(text)

    def test_a_trace_is_explained_without_a_history(self, explain: Explain, tempo: str, tmp_path: Path) -> None:
        result = explain("--trace", "c0ffee", "--json", TEMPO_URL=tempo, STORAGE_PATH=str(tmp_path / "none.db"))
        found = json.loads(result.stdout)
        assert (found["check"], found["services"][0]["self_seconds"]) == (None, 0.7)

    def test_one_endpoint_of_a_trace(self, explain: Explain, tempo: str) -> None:
        found = json.loads(
            explain(
                "--trace", "c0ffee", "--service", "stock", "--span", "POST /reserve", "--json", TEMPO_URL=tempo
            ).stdout
        )
        assert (found["root"]["duration_seconds"], found["service_name"]) == (0.7, "stock")
        missing = explain("--trace", "c0ffee", "--service", "stock", "--span", "GET /", TEMPO_URL=tempo)
        assert missing.exit_code == 1
        assert "has no span of stock GET /" in missing.stderr

    def test_a_renamed_endpoint_is_found_under_either_name(self, explain: Explain, tempo: str, tmp_path: Path) -> None:
        rename = [{"match": "/reserve", "replace": "/{action}"}]
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({"series": {"rename": rename}}))
        for span in ("POST /reserve", "POST /{action}"):
            result = explain(
                "--config",
                "c.yaml",
                "--trace",
                "c0ffee",
                "--service",
                "stock",
                "--span",
                span,
                "--json",
                TEMPO_URL=tempo,
            )
            assert json.loads(result.stdout)["span_name"] == "POST /{action}"

    def test_an_unknown_trace_and_an_unreachable_tempo(self, explain: Explain, tempo: str) -> None:
        unknown = explain("--trace", "abc", TEMPO_URL=tempo)
        assert unknown.exit_code == 1
        assert "Tempo has no trace" in unknown.stderr
        unreachable = explain("--trace", "abc", TEMPO_URL="http://127.0.0.1:1")
        assert unreachable.exit_code == 1
        assert "connection refused" in unreachable.stderr
