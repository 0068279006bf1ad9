"""The command ``explain``: its output and its errors."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from exporter.cli.main import main
from exporter.demo.routes import ApiOptions
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ORPHAN, ROOT, Operation, SpanTimes, Trace, TraceShape, TraceStore, make_trace
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
    def test_settings_by_overrides(self, explain: Explain) -> None:
        overrides = (
            '[{match: nothing, severity: info}, {match: "^checkout/GET ", detection: {ratio: 2}, severity: info}]'
        )
        found = explain(*named(KEY), *AT, OVERRIDES=overrides)
        assert found.exit_code == 0, found.output
        assert "  settings   ratio 2, by overrides[1]\n             severity info, by overrides[1]\n" in found.stdout
        document = json.loads(explain(*named(KEY), *AT, "--json", OVERRIDES=overrides).stdout)
        assert (document["enabled"], document["severity"]) == (True, "info")
        assert document["overrides"] == [
            {"key": "ratio", "value": "2", "override": 1},
            {"key": "severity", "value": "info", "override": 1},
        ]
        limits = [each["limit_seconds"] / each["baseline_seconds"] for each in document["shift_thresholds"]]
        assert min(limits) >= 2

    def test_usual_traffic(self, explain: Explain) -> None:
        text = explain(*named(KEY), *AT).stdout
        assert (
            "  traffic    fewer than 15 requests in this hour, or in proportion for some minutes (usually 30, by "
            in text
        )
        thresholds = json.loads(explain(*named(KEY), *AT, "--json").stdout)["traffic_thresholds"]
        assert (thresholds["usual_requests"], thresholds["low_requests"]) == (30, 15)
        assert "  traffic " not in explain(*named(KEY), *AT, DETECTION_TRAFFIC_ENABLED="false").stdout

    def test_first_match_decides_each_key(self, explain: Explain) -> None:
        keys = {
            "window": "6m",
            "min_traces": 12,
            "max_window": "50m",
            "ratio": 2,
            "min_delta": "7ms",
            "swing": 3,
            "alpha": 0.01,
            "hold": "1m30s",
            "clear_hold": "3m",
            "lookback": "10d",
            "accept_after": "2d",
        }
        later = {"match": "checkout/", "detection": keys, "enabled": False, "severity": "info"}
        for key, value in keys.items():
            first = {"match": "GET /cart$", "detection": {key: value}}
            found = explain(*named(KEY), *AT, "--json", OVERRIDES=json.dumps([first, later]))
            applied = json.loads(found.stdout)["overrides"]
            assert {each["key"]: each["override"] for each in applied} == {
                **dict.fromkeys(keys, 1),
                "enabled": 1,
                "severity": 1,
                key: 0,
            }
            assert {each["key"]: each["value"] for each in applied}[key] == str(value)
        verdicts: dict[str, object] = {"match": "GET /cart$", "enabled": True, "severity": "critical"}
        found = explain(*named(KEY), *AT, OVERRIDES=json.dumps([verdicts, later]))
        assert "enabled true, by overrides[0]\n" in found.stdout
        assert "severity critical, by overrides[0]\n" in found.stdout
        assert "hold 1m30s, by overrides[1]\n" in found.stdout

    def test_endpoint_without_verdicts_says_so(self, explain: Explain) -> None:
        found = explain(*named(KEY), *AT, "--duration", "5s", OVERRIDES="[{match: cart, enabled: false}]")
        assert "There is no verdict: its traces are only counted (enabled false, by overrides[0])." in " ".join(
            found.stdout.split()
        )
        document = json.loads(explain(*named(KEY), *AT, "--json", OVERRIDES="[{match: cart, enabled: false}]").stdout)
        assert "  settings   enabled false, by overrides[0]\n" in found.stdout
        assert (document["enabled"], document["no_shift_verdict"]) == (False, "disabled")
        assert "checkout GET /cart usually takes" in document["sentence"]

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
        other = labels._replace(span_name=labels.span_name[:-1] + "x")
        assert explain(*named(other), *AT).exit_code == 1
        for environment in ({}, {"SERIES_MAX_LABEL_BYTES": "64"}):
            result = explain(*named(labels), *AT, "--json", **environment)
            assert json.loads(result.stdout)["span_name"] == LONG_KEY.span_name

    def test_a_label_selects_one_of_several(self, explain: Explain, tmp_path: Path) -> None:
        prod, staging = (KEY._replace(labels=(("env", each),)) for each in ("prod", "it's"))
        with closing(Store.open(tmp_path / "labels.db")) as store:
            for start in range(NOON - 9 * DAY, NOON, HOUR):
                commit_hour(store, start, {prod: around(0.1, 10), staging: around(0.3, 10)})
        environment = {"STORAGE_PATH": str(tmp_path / "labels.db")}
        several = explain(*named(KEY), *AT, **environment)
        assert (several.exit_code, several.stdout) == (1, "")
        assert several.stderr == (
            "2 endpoints are called checkout GET /cart; select one by its labels:\n"
            "  --service checkout --span 'GET /cart' --label 'env=it'\"'\"'s'\n"
            "  --service checkout --span 'GET /cart' --label env=prod\n"
        )
        one = explain(*named(KEY), *AT, "--label", "env=it's", **environment)
        assert one.stdout.startswith("checkout GET /cart env=it's\n")
        assert json.loads(explain(*named(KEY), *AT, "--label", "env=prod", "--json", **environment).stdout)[
            "labels"
        ] == {"env": "prod"}
        assert explain(*named(KEY), "--label", "env", **environment).exit_code == 2
        assert explain("--trace", "1", "--label", "env=prod", **environment).exit_code == 2

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
                Operation(*KEY[:2]),
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


class TestWhy:
    @pytest.fixture
    def tempo(self) -> Iterator[str]:
        """A Tempo with healthy requests of an earlier day, and slow ones since noon: the database takes longer."""
        operations = (Operation(KEY.service_name, KEY.span_name), Operation("checkout", "SELECT carts", "client"))
        shape = TraceShape(operations, (ROOT, 0))

        def traces(start: int, end: int, number: int, database_ms: float) -> Iterator[Trace]:
            for position in range(number):
                at = round((start + (end - start) * position / number) * NS)
                waits = round(database_ms * (0.8 + 0.4 * (position * 7 % number) / number) * MS)
                times = [SpanTimes(10, at, waits + 40 * MS), SpanTimes(20, at + 20 * MS, waits)]
                yield make_trace((start << 32) + position, shape, times)

        store = TraceStore([*traces(NOON - 4 * DAY, NOON - 4 * DAY + HOUR, 60, 60), *traces(NOON, NOON + 300, 60, 600)])
        with TempoServer(store, ApiOptions()) as server:
            yield server.url

    def test_cause_in_words_and_as_json(self, explain: Explain, tempo: str) -> None:
        arguments = (*named(KEY), "--why", "--at", str(NOON + 300))
        result = explain(*arguments, TEMPO_URL=tempo, TEMPO_SCOPE="root")
        assert (result.exit_code, result.stderr) == (0, "")
        lines = result.stdout.splitlines()
        assert lines[0].startswith("Of the extra ")
        assert '(100%) are in checkout, mostly in "SELECT carts"' in lines[0]
        assert any(line.endswith("checkout SELECT carts") for line in lines)
        assert "healthy traces: the same hour." in result.stdout
        found = json.loads(explain(*arguments, "--json", TEMPO_URL=tempo, TEMPO_SCOPE="root").stdout)
        assert (found["outcome"], found["cause"], found["cause_service_name"]) == ("known", "slower_calls", "checkout")
        assert found["tempo_requests"] <= 8

    def test_tempo_that_cannot_be_read_is_an_error(self, explain: Explain) -> None:
        result = explain(*named(KEY), "--why", *AT, TEMPO_URL="http://127.0.0.1:9")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "Not known why: traces could not be read" in result.stderr

    def test_it_is_about_an_endpoint(self, explain: Explain) -> None:
        result = explain("--trace", "1", "--why")
        assert result.exit_code == 2
        assert "--why needs an endpoint" in result.stderr
