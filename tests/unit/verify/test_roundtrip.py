"""``verify --tempo``: what is written is found once and unchanged, and what Tempo does wrong is named."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from exporter.cli.main import main
from exporter.demo.routes import ApiOptions
from exporter.ingest.probes import VERIFY_SERVICE
from exporter.ingest.series_filter import SeriesFilter, SeriesRules
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.tempo import ClientSettings, Scope, TempoClient
from exporter.tempo.otlp import OtlpSender
from exporter.verify.checks import CheckResult, Outcome
from exporter.verify.roundtrip import (
    LATE_SECONDS,
    TRACES,
    RoundTrip,
    RoundTripSettings,
    encode,
    known_spans,
    run_filter,
)
from tests.support.fakes import FrozenClock
from tests.support.fakes import Recorder as ReaderRecorder
from tests.support.otlp_receiver import Answer, ReceivedSpan, decoded
from tests.support.paths import REPOSITORY
from tests.support.samples import NOON
from tests.support.tempo_server import Recorder, unused_url
from tests.support.writable_tempo import Change, WritableTempo, unchanged, writable_tempo

RUN = "00ff"
IDLE = ApiOptions(idle_seconds=8.0)


def check(
    options: ApiOptions = IDLE,
    change: Change = unchanged,
    *,
    scope: Scope = "entry",
    timeout: float = 60.0,
    script: Sequence[Answer] = (),
    lookback: float = 120.0,
    url: str = "",
) -> dict[str, CheckResult]:
    """Check a Tempo while its clock stands still, except in pauses."""
    clock = FrozenClock(NOON + 0.4)

    def wait(seconds: float) -> bool:
        clock.advance(seconds)
        return False

    with writable_tempo(clock.time, options, change) as tempo:
        tempo.receiver.script.extend(script)
        results = round_trip(replace(tempo, url=url or tempo.url), clock, wait, scope, timeout, lookback)
    return {result.name: result for result in results}


def round_trip(
    tempo: WritableTempo,
    clock: FrozenClock,
    wait: Callable[[float], bool],
    scope: Scope,
    timeout: float,
    lookback: float,
) -> list[CheckResult]:
    settings = ClientSettings(url=tempo.url, scope=scope, filter=run_filter(RUN), requests_per_second=10_000)
    client = TempoClient(settings, Recorder(), get_logger("test"), pause=lambda _: False)
    sender = OtlpSender(
        tempo.otlp_url,
        {},
        wait=wait,
        report=lambda _: None,
        option="--otlp-url",
        monotonic=clock.monotonic,
        now=clock.time,
    )
    with sender:
        found = RoundTrip(
            client,
            sender,
            ReaderRecorder(),
            RoundTripSettings(RUN, scope, lookback, timeout, seed=1),
            wait=wait,
            clock=clock.time,
            monotonic=clock.monotonic,
        ).run()
    client.close()
    return found


def outcomes(results: dict[str, CheckResult]) -> dict[str, Outcome]:
    return {name: result.outcome for name, result in results.items() if result.outcome is not Outcome.PASS}


@pytest.mark.parametrize("scope", ["entry", "root"])
@pytest.mark.parametrize("visible_after", [0.0, 30.0])
def test_tempo_that_works_passes(scope: Scope, visible_after: float) -> None:
    results = check(ApiOptions(visible_after_seconds=visible_after, idle_seconds=8.0), scope=scope)
    assert outcomes(results) == {}
    assert list(results) == ["write", "live edge", "history", "each once", "unchanged", "counts"]
    assert results["live edge"].detail.startswith(f"all {120 if scope == 'entry' else 100} found, half of them after ")
    assert VERIFY_SERVICE in results["write"].detail
    document = (REPOSITORY / "docs/explain.md").read_text("utf-8").partition("\n## verify --tempo\n")[2]
    assert all(f"\nPASS  {name:<14}  " in document and f"`{name}`" in document for name in results)


def test_what_is_written_is_bounded_and_has_what_usually_goes_wrong() -> None:
    written = known_spans(NOON + 0.4, random.Random(1))
    assert len({each.span.trace_id for each in written}) == TRACES
    assert all(NOON - 20 < each.span.start_ns / 1e9 <= each.span.end_ns / 1e9 <= NOON for each in written)
    assert any(each.span.trace_id.startswith("0" * 16) for each in written)
    assert any(each.span.duration_ns == 0 for each in written)
    assert any(each.span.start_ns % (5 * 10**9) == 0 for each in written)
    assert sum(each.is_late for each in written) == 10
    assert {span.resource["service.name"] for span in decoded(encode(written, RUN))} == {VERIFY_SERVICE}


def test_time_until_found_is_that_of_tempo() -> None:
    results = check(ApiOptions(visible_after_seconds=40.0, idle_seconds=None), lookback=20.0)
    assert outcomes(results) == {"live edge": Outcome.WARN}
    assert "later than polling.tempo_lookback" in results["live edge"].detail
    assert "set polling.tempo_lookback to more than 39s" in results["live edge"].advice


def without(spans: Sequence[ReceivedSpan], lost: Callable[[ReceivedSpan], bool]) -> list[ReceivedSpan]:
    return [span for span in spans if not lost(span)]


def test_lost_spans_are_named() -> None:
    results = check(change=lambda spans: without(spans, lambda span: span.span_id % 10 == 3))
    assert outcomes(results) == {"live edge": Outcome.FAIL, "history": Outcome.FAIL}
    assert " of 120 spans" in results["history"].detail
    assert "first trace " in results["history"].detail


def test_lost_late_roots_are_named() -> None:
    late = {each.span.span_id for each in known_spans(NOON + 0.4, random.Random(1)) if each.is_late}
    results = check(change=lambda spans: without(spans, lambda span: f"{span.span_id:016x}" in late))
    assert "10 of 120 spans (10 of them roots that arrive after their children)" in results["live edge"].detail


def renamed(spans: Sequence[ReceivedSpan]) -> list[ReceivedSpan]:
    return [span._replace(name="GET") if span.name == "GET /verify" else span for span in spans]


def longer(spans: Sequence[ReceivedSpan]) -> list[ReceivedSpan]:
    return [span._replace(end_ns=span.end_ns + 1) for span in spans]


@pytest.mark.parametrize(("change", "field"), [(renamed, "25 name"), (longer, "120 duration")])
def test_changed_spans_are_named(change: Change, field: str) -> None:
    results = check(change=change)
    assert outcomes(results) == {"unchanged": Outcome.FAIL}
    assert field in results["unchanged"].detail


def test_span_that_is_counted_twice_is_named() -> None:
    """Copies of roots in the window before are further records of the same spans; what is older is not read."""

    def doubled(spans: Sequence[ReceivedSpan]) -> list[ReceivedSpan]:
        copies = [
            span._replace(start_ns=span.start_ns - 5 * 10**9, end_ns=span.end_ns - 5 * 10**9)
            for span in spans
            if span.parent_id is None
        ]
        return [*spans, *copies]

    results = check(ApiOptions(), doubled)
    assert results["each once"].outcome is Outcome.FAIL
    assert results["each once"].detail.startswith("37 counted more than once, 0 not written")


def test_spans_delivered_twice_are_counted_once_by_the_reader_and_twice_by_tempo() -> None:
    results = check(ApiOptions(), lambda spans: [*spans, *spans])
    assert outcomes(results) == {"counts": Outcome.WARN}
    assert results["counts"].detail == "Tempo counts 240 spans, and returns 120"
    assert "each was counted once" in results["each once"].detail


@pytest.mark.parametrize("metrics", ["empty", "refused"])
def test_tempo_that_does_not_count_passes(metrics: str) -> None:
    results = check(replace(IDLE, metrics=metrics))  # type: ignore[arg-type]
    assert outcomes(results) == {}
    assert results["counts"].detail.startswith("Tempo does not count spans")


def test_receiver_that_refuses_is_named_with_the_option() -> None:
    results = check(script=[Answer(401, b"no org id")])
    assert outcomes(results) == {"write": Outcome.FAIL}
    assert "401 no org id. Check --otlp-url and --header" in results["write"].detail


def test_tempo_that_cannot_be_read_is_named_with_the_reason() -> None:
    results = check(url=unused_url())
    assert outcomes(results) == {"read": Outcome.FAIL}
    assert "Tempo has not answered within 60 s" in results["read"].detail
    assert "connection refused" in results["read"].detail
    assert "tempo.url" in results["read"].advice


def test_spans_rejected_by_the_receiver_are_counted() -> None:
    partial = Answer(body=b'{"partialSuccess":{"rejectedSpans":"3"}}')
    results = check(script=[partial])
    assert outcomes(results) == {"write": Outcome.FAIL}
    assert "it rejected 3 of them" in results["write"].detail


def test_its_series_are_left_out_with_any_rules() -> None:
    key = SeriesKey(VERIFY_SERVICE, "GET /verify")
    for rules in (SeriesRules(), SeriesRules(exclude_probes=False), SeriesRules(include=[Pattern("verify")])):
        assert SeriesFilter(rules).resolve(key) == "filtered"


# The command


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["verify", *arguments])


def test_command_prints_results_and_sends_the_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FrozenClock(NOON + 0.4)
    monkeypatch.setattr("time.time", clock.time)
    monkeypatch.setattr("time.monotonic", clock.monotonic)
    monkeypatch.setattr("time.sleep", clock.advance)
    monkeypatch.setenv("TEMPO_TENANT", "team-a")
    monkeypatch.setenv("TEMPO_FILTER", 'resource.service.name="shop"')
    monkeypatch.setenv("SERIES_LABELS", "[resource.verify.run]")
    with writable_tempo(clock.time, IDLE) as tempo:
        monkeypatch.setenv("TEMPO_URL", tempo.url)
        result = run("--tempo", "--otlp-url", tempo.otlp_url, "--header", "X-Extra=1", "--json")
        headers = tempo.receiver.headers[0]
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["url"], document["passed"]) == (tempo.url, True)
    assert [each["name"] for each in document["checks"]][:3] == ["write", "live edge", "history"]
    assert (headers["x-scope-orgid"], headers["x-extra"]) == ("team-a", "1")
    assert clock.passed >= LATE_SECONDS


def test_command_fails_if_the_receiver_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FrozenClock(NOON)
    monkeypatch.setattr("time.monotonic", clock.monotonic)
    monkeypatch.setattr("time.sleep", clock.advance)
    result = run("--tempo", "--otlp-url", unused_url())
    assert result.exit_code == 1
    assert "accepted no request for 30 s: connection refused" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--otlp-url", "http://localhost:4318"], "--otlp-url needs --tempo"),
        (["--header", "a=b"], "--header needs --tempo"),
        (["--tempo", "--url", "http://localhost:1"], "--url checks an exporter; leave it out with --tempo"),
        (["--tempo", "--otlp-url", "localhost"], "'localhost' is no address"),
        (["--tempo", "--header", "a"], "'a' is not NAME=VALUE"),
    ],
)
def test_command_refuses_options_that_do_not_belong_together(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
