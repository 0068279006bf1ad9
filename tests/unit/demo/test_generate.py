"""Generator and OTLP sender: the receiver gets the traces that the embedded Tempo API serves."""

import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from email.utils import formatdate
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from exporter.cli.generate import generate
from exporter.cli.main import main
from exporter.demo.generate import RATE, GenerateOptions, Generator, SystemClock, ended_between
from exporter.demo.otlp import OtlpEncoder
from exporter.demo.routes import ApiOptions
from exporter.demo.scenario import SEED, demo_scenario
from exporter.demo.search import SearchLimits
from exporter.demo.sent_history import SentHistory
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ORPHAN, ROOT, Operation, SpanTimes, Trace, TraceShape, make_trace
from exporter.demo.traffic import SATURDAY_AND_SUNDAY
from exporter.tempo.http_endpoint import SendError, SendStoppedError
from exporter.tempo.otlp import OtlpSender, SendResult
from tests.support.otlp_receiver import Answer, OtlpReceiver, ReceivedSpan, decoded, served
from tests.support.processes import command
from tests.support.tempo_server import fake_tempo, replying
from tools.processes import environment

NS = 1_000_000_000
HOUR = 3600
FULL_HOUR = 1_772_402_400
NOW = FULL_HOUR + 1234.5
BUSY = Answer(503, b"no", {"Retry-After": "7"})


class ManualClock(SystemClock):
    """A clock that advances only in waits; requests a stop at ``stop_at``."""

    def __init__(self, now: float = NOW, stop_at: float | None = None) -> None:
        self.at = now
        self.stop_at = stop_at
        self.waits: list[float] = []

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.at += seconds
        return self.stop_at is not None and self.at >= self.stop_at


def sender(
    url: str, time: ManualClock, messages: list[str] | None = None, headers: Mapping[str, str] = MappingProxyType({})
) -> OtlpSender:
    messages = [] if messages is None else messages
    return OtlpSender(url, headers, wait=time.wait, report=messages.append, monotonic=time.monotonic, now=time.now)


def send(
    url: str, body: bytes = b"{}", *, time: ManualClock | None = None, messages: list[str] | None = None
) -> SendResult:
    with sender(url, time or ManualClock(), messages) as otlp_sender:
        return otlp_sender.send(body)


def run_generator(
    options: dict[str, Any], time: ManualClock, script: Sequence[Answer] = (), into: OtlpReceiver | None = None
) -> tuple[Generator, OtlpReceiver, list[str]]:
    messages: list[str] = []
    with ExitStack() as stack:
        receiver = into or stack.enter_context(OtlpReceiver(script))
        receiver_options = GenerateOptions(receiver.url, **options)
        tempo = None
        if receiver_options.query_url is not None:
            tempo = stack.enter_context(sent_history(receiver_options, time, messages))
        otlp_sender = stack.enter_context(sender(receiver.url, time, messages, receiver_options.headers))
        generator = Generator(
            receiver_options, otlp_sender, wait=time.wait, report=messages.append, clock=time, tempo=tempo
        )
        try:
            generator.run()
        except SendStoppedError:
            messages.append("stopped")
        except SendError as error:
            messages.append(f"failed: {error}")
    return generator, receiver, messages


def sent_history(options: GenerateOptions, time: ManualClock, messages: list[str]) -> SentHistory:
    assert options.query_url is not None
    return SentHistory(
        options.query_url,
        options.headers,
        wait=time.wait,
        report=messages.append,
        monotonic=time.monotonic,
        now=time.now,
    )


class ReceivedTraces:
    """The source of a Tempo that has what a receiver accepted."""

    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    def _received(self, traces: Sequence[Trace]) -> list[Trace]:
        ids = {span.trace_id for span in self._receiver.spans}
        return [trace for trace in traces if trace.trace_id in ids]

    def overlapping(self, start_ns: int, end_ns: int) -> Sequence[Trace]:
        return self._received(WEEK.overlapping(start_ns, end_ns))

    def find(self, trace_id: int) -> Trace | None:
        trace = WEEK.find(trace_id)
        return None if trace is None else next(iter(self._received([trace])), None)


WEEK = demo_scenario(FULL_HOUR, weekend=SATURDAY_AND_SUNDAY, incident_after_seconds=999_999)


def expected(
    after: float, until: float, *, incident_after_seconds: float = 600.0, seed: int = SEED
) -> list[ReceivedSpan]:
    """Return the spans of the traces that ended in a range, as the embedded Tempo API serves them."""
    source = demo_scenario(
        FULL_HOUR,
        incident_after_seconds=NOW - FULL_HOUR + incident_after_seconds,
        seed=seed,
        weekend=SATURDAY_AND_SUNDAY,
    )
    traces = source.overlapping(int(after * NS), int(until * NS))
    return [span for trace in traces if int(after * NS) < trace.end_ns <= int(until * NS) for span in served(trace)]


def by_id(spans: Sequence[ReceivedSpan]) -> list[ReceivedSpan]:
    return sorted(spans, key=lambda span: (span.trace_id, span.span_id))


class TestGenerator:
    def test_history_equals_that_of_the_embedded_tempo(self) -> None:
        generator, receiver, messages = run_generator({"days": 0.25, "live_seconds": 0, "seed": 3}, ManualClock())
        expected_spans = expected(NOW - 6 * HOUR, NOW, seed=3)
        assert by_id(receiver.spans) == by_id(expected_spans)
        assert generator.sent.spans == len(expected_spans) > 10_000
        assert generator.sent.traces == len({span.trace_id for span in expected_spans})
        assert messages == []

    def test_live_traffic_follows_without_gap_and_with_the_incident(self) -> None:
        time = ManualClock()
        generator, receiver, messages = run_generator(
            {"days": 0.02, "incident_after_seconds": 30.0, "live_seconds": 120.0, "rate": 100.0}, time
        )
        started_at = NOW + max(0.0, sum(wait for wait in time.waits if wait != 1.0))
        expected_spans = expected(NOW - 0.02 * 86_400, started_at + 120, incident_after_seconds=started_at - NOW + 30)
        assert by_id(receiver.spans) == by_id(expected_spans)
        assert re.fullmatch(r"Sending live traffic; the incident starts at \d\d:\d\d:\d\d\.", messages[0])
        slow = [
            span
            for span in receiver.spans
            if span.name == "POST /checkout" and span.parent_id is None and span.end_ns - span.start_ns > NS
        ]
        assert len(slow) > 5
        assert min(span.start_ns for span in slow) > (started_at + 25) * NS
        assert generator.progress == 1

    def test_traces_are_sent_after_they_ended(self) -> None:
        time = ManualClock(stop_at=NOW + 90)
        _, receiver, messages = run_generator({"days": 0, "live_seconds": None}, time)
        assert messages[-1] == "stopped"
        assert by_id(receiver.spans) == by_id(expected(NOW, time.at - 1, incident_after_seconds=600))

    def test_history_is_sent_at_the_configured_rate(self) -> None:
        time = ManualClock()
        generator, _, _ = run_generator({"days": 0.1, "live_seconds": 0, "rate": 50.0}, time)
        assert sum(time.waits) == pytest.approx(generator.sent.traces / 50)
        assert max(time.waits) <= 200 / 50 + 0.001

    def test_delay_by_a_slow_receiver_is_not_made_up_for(self) -> None:
        """Tempo's limit on live traces depends on the momentary rate, not on the average."""
        time = ManualClock()
        at: list[float] = []

        class Slow(OtlpSender):
            def send(self, body: bytes) -> SendResult:
                at.append(time.at)
                time.at += 60 if len(at) == 3 else 0
                return SendResult(0, "")

        with Slow("http://127.0.0.1:1", {}, wait=time.wait, report=print) as otlp_sender:
            options = GenerateOptions(otlp_sender.address, days=0.05, live_seconds=0, rate=100.0)
            Generator(options, otlp_sender, wait=time.wait, report=print, clock=time).run()
        gaps = [later - earlier for earlier, later in pairwise(at)]
        assert len(gaps) > 5
        assert max(gaps) == 60
        # The last request of each hour is not full.
        assert sum(gap < 1.99 for gap in gaps) <= 2

    def test_default_rate_fits_default_limits_of_tempo(self) -> None:
        """Tempo allows 10,000 live traces, each of which is live for at most 20 s."""
        assert GenerateOptions("").rate == RATE <= 10_000 / 20
        (option,) = [each for each in generate.params if each.name == "rate"]
        assert option.default == RATE

    def test_rejected_spans_are_counted_and_reported_once(self) -> None:
        partial = Answer(body=b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too\\nold"}}')
        generator, _, messages = run_generator(
            {"days": 0.02, "live_seconds": 0}, ManualClock(), [partial, Answer(), partial]
        )
        assert generator.sent.rejected_spans == 6
        assert len(messages) == 1
        assert messages[0].endswith("rejected 3 spans of a request: too old")

    def test_existing_history_is_not_sent_again(self) -> None:
        with TempoServer(WEEK, ApiOptions(), clock=lambda: NOW) as tempo:
            generator, receiver, messages = run_generator(
                {"days": 0.25, "live_seconds": 0, "query_url": tempo.url}, ManualClock()
            )
        assert (generator.sent.traces, receiver.spans) == (0, [])
        assert generator.sent.found_traces > 5_000
        assert messages == [f"{tempo.url} already has the history; it is not sent again."]

    def test_headers_are_sent_with_queries(self) -> None:
        """A Tempo with multitenancy answers 401 without the tenant."""
        with fake_tempo() as tempo:
            run_generator(
                {"days": 0.1, "live_seconds": 0, "query_url": tempo.url, "headers": {"X-Scope-OrgID": "a"}},
                ManualClock(),
            )
        assert len(tempo.requests) > 3
        assert {request.headers.get("x-scope-orgid") for request in tempo.requests} == {"a"}

    @pytest.mark.parametrize(
        ("status", "body", "reason"),
        [
            (401, "no org id", "rejected a search: 401 no org id. Check --query-url and --header"),
            (404, "404 page not found", "rejected a search: 404 404 page not found. Check --query-url and --header"),
            (200, "<html>Log in</html>", "returned no search result of Tempo: <html>Log in</html>. Check --query-url"),
            (200, '{"traces": [7]}', 'returned no search result of Tempo: {"traces": [7]}. Check --query-url'),
        ],
    )  # fmt: skip
    def test_refused_query_is_an_error(self, status: int, body: str, reason: str) -> None:
        time = ManualClock()
        with fake_tempo() as tempo:
            tempo.answer(replying(body, status))
            _, receiver, messages = run_generator({"days": 0.25, "live_seconds": 0, "query_url": tempo.url}, time)
        assert messages == [f"failed: {tempo.url}/api/search {reason}"]
        assert (time.waits, receiver.paths, len(tempo.requests)) == ([], [], 1)

    @pytest.mark.parametrize("max_limit", [262_144, 300])
    def test_a_run_after_an_interruption_sends_only_what_is_missing(self, max_limit: int) -> None:
        api = ApiOptions(limits=SearchLimits(max_result_limit=max_limit))
        later = NOW + 3000
        with OtlpReceiver() as receiver, TempoServer(ReceivedTraces(receiver), api, clock=lambda: NOW + 9999) as tempo:
            options = {"days": 0.1, "live_seconds": 0, "query_url": tempo.url}
            first, _, messages = run_generator(options, ManualClock(stop_at=NOW + 7), into=receiver)
            assert messages == ["stopped"]
            # The history of this run begins and ends later, in the next hour.
            second, _, _ = run_generator(options, ManualClock(later), into=receiver)
        assert 500 < second.sent.found_traces < first.sent.traces
        ids = [(span.trace_id, span.span_id) for span in receiver.spans]
        assert len(ids) == len(set(ids))
        assert {span.trace_id for span in expected(later - 2.4 * HOUR, later)} <= {trace_id for trace_id, _ in ids}

    def test_the_newest_traces_are_asked_for_once_tempo_can_find_them(self) -> None:
        time = ManualClock()
        with TempoServer(WEEK, ApiOptions(visible_after_seconds=30), clock=lambda: time.at) as tempo:
            generator, _, _ = run_generator({"days": 0.02, "live_seconds": 0, "query_url": tempo.url}, time)
        assert generator.sent.traces == 0
        assert 30 <= time.at - NOW <= 62

    def test_query_of_a_server_that_is_down_gives_up(self) -> None:
        with TempoServer(WEEK, ApiOptions(), clock=lambda: NOW) as tempo:
            url = tempo.url
        time = ManualClock()
        _, _, messages = run_generator({"days": 0.25, "live_seconds": 0, "query_url": url}, time)
        advice = "Check that --query-url is the address of Tempo's HTTP API (usually port 3200)"
        assert messages == [
            f"{url}/api/search: connection refused; retrying",
            f"failed: {url}/api/search accepted no search for 300 s: connection refused. {advice}",
        ]
        assert 200 < time.at - NOW < 300

    def test_generator_waits_until_tempo_finds_the_history(self) -> None:
        time = ManualClock()
        visible_at = NOW + 600
        # Nothing is found while the clock of this Tempo is before the history.
        with TempoServer(WEEK, ApiOptions(), clock=lambda: NOW if time.at >= visible_at else 0.0) as tempo:
            _, _, messages = run_generator({"days": 0.25, "live_seconds": 0, "query_url": tempo.url + "/"}, time)
            searches = tempo.searches()[6:]
        assert messages == [f"Waiting until the history can be found at {tempo.url}/."]
        assert visible_at <= time.at <= visible_at + 10
        assert {int(search["start"]) for search in searches} == {int(NOW) - hours * HOUR for hours in (6, 5, 4, 3)}

    def test_history_that_tempo_never_finds_is_an_error(self) -> None:
        """Tempo files history under the present, unless its ingestion_time_range_slack is longer."""
        time = ManualClock()
        with TempoServer(WEEK, ApiOptions(), clock=lambda: 0.0) as tempo:
            generator, _, messages = run_generator(
                {"days": 0.25, "live_seconds": 0, "query_url": tempo.url, "rate": 1e9}, time
            )
        assert messages[-1].startswith(f"failed: {tempo.url} has found nothing of 4 of the hours sent for 60 minutes.")
        assert "ingestion_time_range_slack" in messages[-1]
        assert 3600 < time.at - NOW < 3800
        assert generator.progress_text().endswith("waiting until Tempo finds 4 more hours")


class TestEncoding:
    def test_all_span_kinds_and_names_are_encoded(self) -> None:
        kinds = ("unspecified", "internal", "server", "client", "producer", "consumer")
        names = ('"quoted" \\', "100 %s %d", "line\nbreak 订单", "", "</script>", "x")
        operations = tuple(
            Operation(f"service {number % 2}", name, kind, (("deployment.environment", "50 %"),), (("a %b", name),))  # type: ignore[arg-type]
            for number, (kind, name) in enumerate(zip(kinds, names, strict=True))
        )
        shape = TraceShape(operations, (ROOT, 0, 1, ORPHAN, ROOT, 4))
        traces = [
            make_trace(trace_id, shape, [SpanTimes(trace_id % 99 * 8 + each, 10**18 + each, each) for each in range(6)])
            for trace_id in (1, 2**127 + 5)
        ]
        spans = decoded(OtlpEncoder().encode(traces))
        assert by_id(spans) == by_id([span for trace in traces for span in served(trace)])

    def test_empty_request_is_valid(self) -> None:
        assert decoded(OtlpEncoder().encode([])) == []


@given(st.lists(st.integers(0, 3600), min_size=2, max_size=6))
def test_every_trace_is_sent_once_for_any_division_of_time(cuts: list[int]) -> None:
    cuts = sorted(cuts)
    instants = [int((NOW - HOUR + cut) * NS) for cut in cuts]
    whole = ended_between(SOURCE, instants[0], instants[-1])
    pieces = [trace for after, until in pairwise(instants) for trace in ended_between(SOURCE, after, until)]

    def ids(traces: Sequence[Trace]) -> list[int]:
        return sorted(trace.trace_id for trace in traces)

    assert ids(pieces) == ids(whole)
    assert all(instants[0] < trace.end_ns <= instants[-1] for trace in whole)


SOURCE = demo_scenario(NOW)


class TestSending:
    @pytest.mark.parametrize(
        ("base", "path"),
        [
            ("", "/v1/traces"),
            ("/", "/v1/traces"),
            ("/otlp", "/otlp/v1/traces"),
            ("/v1/traces", "/v1/traces"),
            ("/v1/traces/", "/v1/traces"),
        ],
    )
    def test_path_of_otlp_is_used(self, base: str, path: str) -> None:
        with OtlpReceiver() as receiver:
            send(receiver.url + base, b'{"resourceSpans":[]}')
        assert receiver.paths == [path]

    def test_request_headers(self) -> None:
        with (
            OtlpReceiver() as receiver,
            sender(receiver.url, ManualClock(), headers={"X-Scope-OrgID": "demo"}) as otlp_sender,
        ):
            otlp_sender.send(b'{"resourceSpans":[]}')
        (headers,) = receiver.headers
        assert headers["content-type"] == "application/json"
        assert headers["content-encoding"] == "gzip"
        assert headers["x-scope-orgid"] == "demo"

    @pytest.mark.parametrize("status", [429, 502, 503, 504])
    def test_retryable_status_is_retried_after_retry_after(self, status: int) -> None:
        time, messages = ManualClock(), list[str]()
        script = [Answer(status, b"slow\ndown", {"Retry-After": "7"})] * 2
        with OtlpReceiver(script) as receiver:
            send(receiver.url, b'{"resourceSpans":[]}', time=time, messages=messages)
        assert len(receiver.paths) == 3
        assert time.waits == [7.0, 7.0]
        assert messages == [f"{receiver.url}/v1/traces: {status} slow down; retrying"]

    def test_retry_after_can_be_a_date(self) -> None:
        time = ManualClock(1_772_402_400.0)
        with OtlpReceiver([Answer(503, b"", {"Retry-After": formatdate(time.at + 12, usegmt=True)})]) as receiver:
            send(receiver.url, b'{"resourceSpans":[]}', time=time)
        assert time.waits == [12.0]

    def test_pauses_grow_without_retry_after(self) -> None:
        time = ManualClock()
        with OtlpReceiver([Answer(503), Answer(0), Answer(502, b"", {"Retry-After": "soon"}), Answer(429)]) as receiver:
            send(receiver.url, b'{"resourceSpans":[]}', time=time)
        assert len(time.waits) == 4
        for wait, around in zip(time.waits, (0.5, 1, 2, 4), strict=True):
            assert 0.75 * around <= wait <= 1.25 * around

    @pytest.mark.parametrize("status", [400, 401, 404, 500])
    def test_other_status_is_not_retried(self, status: int) -> None:
        with OtlpReceiver([Answer(status, b"because")]) as receiver, pytest.raises(SendError) as caught:
            send(receiver.url)
        assert (
            str(caught.value)
            == f"{receiver.url}/v1/traces rejected a request: {status} because. Check --url and --header"
        )
        assert len(receiver.paths) == 1

    def test_redirect_is_not_followed(self) -> None:
        with OtlpReceiver() as elsewhere, OtlpReceiver([Answer(307, b"", {"Location": elsewhere.url})]) as receiver:
            with pytest.raises(SendError, match="rejected a request: 307"):
                send(receiver.url)
            assert elsewhere.paths == []

    def test_proxy_of_the_environment_is_ignored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with OtlpReceiver() as proxy, OtlpReceiver() as receiver:
            monkeypatch.setenv("http_proxy", proxy.url)
            send(receiver.url, b'{"resourceSpans":[]}')
            assert (len(receiver.paths), proxy.paths) == (1, [])

    def test_sender_gives_up(self) -> None:
        time = ManualClock()
        with OtlpReceiver() as receiver:
            url = receiver.url
        with pytest.raises(
            SendError, match=r"accepted no request for 300 s: connection refused\. Check that --url is the address"
        ):
            send(url, time=time)
        assert 250 < time.at - NOW <= 300

    def test_sender_stops_during_a_pause(self) -> None:
        with OtlpReceiver([BUSY]) as receiver, pytest.raises(SendStoppedError):
            send(receiver.url, time=ManualClock(stop_at=NOW))

    @pytest.mark.parametrize(
        ("body", "rejected"),
        [(b"", 0), (b"{}", 0), (b'{"partialSuccess":null}', 0), (b'{"partialSuccess":{"rejectedSpans":"12"}}', 12),
         (b'{"partialSuccess":{"rejectedSpans":12}}', 12), (b"\x0a\x02\x08\x01", 0), (b"[]", 0),
         (b'{"partialSuccess":{"rejectedSpans":"many"}}', 0), (b'{"partialSuccess":{"rejectedSpans":-1}}', 0)],
    )  # fmt: skip
    def test_any_response_body_is_accepted(self, body: bytes, rejected: int) -> None:
        with OtlpReceiver([Answer(body=body)]) as receiver:
            assert send(receiver.url, b'{"resourceSpans":[]}').rejected_spans == rejected


class TestCommand:
    def test_command_sends_and_prints_totals(self) -> None:
        arguments = ("--days", "0.02", "--for", "0", "--rate", "1000000", "--seed", "5")
        with OtlpReceiver() as receiver:
            done = subprocess.run(
                command("generate", "--url", receiver.url, "--header", "X-Scope-OrgID=a=b", *arguments),
                env=environment(), capture_output=True, text=True, timeout=60,
            )  # fmt: skip
        assert done.returncode == 0
        traces = {span.trace_id for span in receiver.spans}
        assert done.stderr == f"Sent {len(traces):,} traces of {len(receiver.spans):,} spans.\n"
        assert {headers["x-scope-orgid"] for headers in receiver.headers} == {"a=b"}

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_command_ends_on_signal(self, number: signal.Signals) -> None:
        with OtlpReceiver() as receiver:
            process = subprocess.Popen(
                command("generate", "--url", receiver.url, "--days", "0.02", "--rate", "1"),
                env=environment(), stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            deadline = time.monotonic() + 30
            while not receiver.paths and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(number)
            _, messages = process.communicate(timeout=30)
        assert process.returncode == 0
        assert re.fullmatch(r"Sent [1-9]\d* traces of \d+ spans\.\n", messages.replace(",", ""))

    @pytest.mark.usefixtures("restored_signals")
    @pytest.mark.parametrize("header", ["x-a=line\nbreak", "x-a=\u65e5"])
    def test_invalid_header_is_reported_without_its_value(self, header: str) -> None:
        result = CliRunner().invoke(
            main, ["generate", "--url", "http://127.0.0.1:1", "--days", "0.02", "--for", "0", "--header", header]
        )
        assert result.exit_code == 1
        assert "check --url and --header" in result.stderr
        assert header.partition("=")[2] not in result.stderr

    def test_rejected_request_is_a_failure(self) -> None:
        with OtlpReceiver([Answer(404, b"not here")]) as receiver:
            done = subprocess.run(
                command("generate", "--url", receiver.url, "--days", "0.02", "--for", "0"),
                env=environment(), capture_output=True, text=True, timeout=60,
            )  # fmt: skip
        assert done.returncode == 1
        assert "rejected a request: 404 not here" in done.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--url", "localhost:4318"), "'localhost:4318' is no address such as http://"),
            (("--url", "http://"), "'http://' is no address such as http://"),
            (("--query-url", "ftp://x"), "'ftp://x' is no address such as http://"),
            (("--header", "nonsense"), "'nonsense' is not NAME=VALUE"),
            (("--days", "9"), "not in the range 0<=x<=8"),
            (("--days", "nan"), "'nan' is not a finite number"),
            (("--rate", "inf"), "'inf' is not a finite number"),
            (("--config", "x.yaml"), "generate needs no configuration"),
        ],
    )
    def test_invalid_options_exit_with_2(self, arguments: tuple[str, ...], message: str) -> None:
        result = CliRunner().invoke(main, ["generate", *arguments])
        assert result.exit_code == 2
        assert message in result.stderr
