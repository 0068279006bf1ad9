"""The demo's traffic over OTLP: what arrives is what the embedded Tempo API serves, whatever the receiver does."""

import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
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
from exporter.demo.generate import RATE, Clock, GenerateOptions, Generator, ended_between
from exporter.demo.otlp import Encoder
from exporter.demo.routes import ApiOptions
from exporter.demo.scenario import demo_scenario
from exporter.demo.sender import Accepted, Sender, SendError, StoppedError
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ORPHAN, ROOT, Operation, SpanTimes, Trace, TraceShape, make_trace
from exporter.demo.traffic import SATURDAY_AND_SUNDAY
from tests.support.otlp_receiver import Answer, OtlpReceiver, ReceivedSpan, decoded, served
from tests.support.processes import command
from tools.processes import environment

NS = 1_000_000_000
HOUR = 3600
NOW = 1_772_402_400 + 1234.5
BUSY = Answer(503, b"no", {"Retry-After": "7"})


class Time(Clock):
    """Time that passes only while somebody waits; stops everything at an instant, if one is given."""

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
    url: str, time: Time, said: list[str] | None = None, headers: Mapping[str, str] = MappingProxyType({})
) -> Sender:
    said = [] if said is None else said
    return Sender(url, headers, wait=time.wait, complain=said.append, monotonic=time.monotonic, now=time.now)


def send(url: str, body: bytes = b"{}", *, time: Time | None = None, said: list[str] | None = None) -> Accepted:
    with sender(url, time or Time(), said) as to:
        return to.send(body)


def generated(
    options: dict[str, Any], time: Time, script: Sequence[Answer] = ()
) -> tuple[Generator, OtlpReceiver, list[str]]:
    said: list[str] = []
    with OtlpReceiver(script) as receiver, sender(receiver.url, time, said) as to:
        generator = Generator(GenerateOptions(receiver.url, **options), to, wait=time.wait, say=said.append, clock=time)
        try:
            generator.run()
        except StoppedError:
            said.append("stopped")
    return generator, receiver, said


def expected(after: float, until: float, **options: Any) -> list[ReceivedSpan]:
    """All spans of the traces that ended in a range, as the embedded Tempo API serves them."""
    source = demo_scenario(NOW, weekend=SATURDAY_AND_SUNDAY, **options)
    found = source.overlapping(int(after * NS), int(until * NS))
    return [span for trace in found if int(after * NS) < trace.end_ns <= int(until * NS) for span in served(trace)]


def by_id(spans: Sequence[ReceivedSpan]) -> list[ReceivedSpan]:
    return sorted(spans, key=lambda span: (span.trace_id, span.span_id))


class TestWhatArrives:
    def test_history_is_what_the_embedded_tempo_serves(self) -> None:
        generator, receiver, said = generated({"days": 0.125, "live_seconds": 0, "seed": 3}, Time())
        wanted = expected(NOW - 3 * HOUR, NOW, seed=3)
        assert by_id(receiver.spans) == by_id(wanted)
        assert generator.sent.spans == len(wanted) > 5_000
        assert generator.sent.traces == len({span.trace_id for span in wanted})
        assert said == []

    def test_live_traffic_follows_without_a_gap_and_with_the_incident(self) -> None:
        time = Time()
        generator, receiver, said = generated(
            {"days": 0.02, "incident_after_seconds": 30.0, "live_seconds": 120.0, "rate": 100.0}, time
        )
        began = NOW + max(0.0, sum(wait for wait in time.waits if wait != 1.0))
        wanted = expected(NOW - 0.02 * 86_400, began + 120, incident_after_seconds=began - NOW + 30)
        assert by_id(receiver.spans) == by_id(wanted)
        assert re.fullmatch(r"Live traffic; the incident begins at \d\d:\d\d:\d\d\.", said[0])
        slow = [
            span
            for span in receiver.spans
            if span.name == "POST /checkout" and span.parent_id is None and span.end_ns - span.start_ns > NS
        ]
        assert len(slow) > 5
        assert min(span.start_ns for span in slow) > (began + 25) * NS
        assert generator.progress == 1

    def test_nothing_is_sent_before_it_has_ended(self) -> None:
        time = Time(stop_at=NOW + 90)
        _, receiver, said = generated({"days": 0, "live_seconds": None}, time)
        assert said[-1] == "stopped"
        assert by_id(receiver.spans) == by_id(expected(NOW, time.at - 1, incident_after_seconds=600))

    def test_history_is_sent_no_faster_than_is_wanted(self) -> None:
        time = Time()
        generator, _, _ = generated({"days": 0.1, "live_seconds": 0, "rate": 50.0}, time)
        assert sum(time.waits) == pytest.approx(generator.sent.traces / 50)
        assert max(time.waits) <= 200 / 50 + 0.001

    def test_a_slow_receiver_is_not_made_up_for(self) -> None:
        """What Tempo keeps in memory depends on how much comes at once, not on the average."""
        time = Time()
        at: list[float] = []

        class Slow(Sender):
            def send(self, body: bytes) -> Accepted:
                at.append(time.at)
                time.at += 60 if len(at) == 3 else 0
                return Accepted(0, "")

        with Slow("http://127.0.0.1:1", {}, wait=time.wait, complain=print) as to:
            options = GenerateOptions(to.address, days=0.05, live_seconds=0, rate=100.0)
            Generator(options, to, wait=time.wait, say=print, clock=time).run()
        gaps = [later - earlier for earlier, later in pairwise(at)]
        assert len(gaps) > 5
        assert max(gaps) == 60
        # Of either hour some are left that do not fill a request.
        assert sum(gap < 1.99 for gap in gaps) <= 2

    def test_a_default_tempo_keeps_up_with_the_default(self) -> None:
        """10,000 traces that are not over, each of which counts for 20 s at the most."""
        assert GenerateOptions("").rate == RATE <= 10_000 / 20
        (option,) = [each for each in generate.params if each.name == "rate"]
        assert option.default == RATE

    def test_what_the_receiver_leaves_out_is_counted_and_told_once(self) -> None:
        partial = Answer(body=b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too\\nold"}}')
        generator, _, said = generated({"days": 0.02, "live_seconds": 0}, Time(), [partial, Answer(), partial])
        assert generator.sent.rejected_spans == 6
        assert len(said) == 1
        assert said[0].endswith("rejects spans (3 of a request): too old")

    def test_history_that_tempo_has_already_is_not_sent_again(self) -> None:
        with TempoServer(demo_scenario(NOW), ApiOptions(), clock=lambda: NOW) as tempo:
            generator, receiver, said = generated({"days": 0.25, "live_seconds": 0, "query_url": tempo.url}, Time())
        assert (generator.sent.traces, receiver.spans) == (0, [])
        assert said == [f"{tempo.url} finds a history there already; it is not sent again."]

    def test_waits_until_tempo_finds_the_history(self) -> None:
        time = Time()
        visible_at = NOW + 60
        source = demo_scenario(NOW)
        # Nothing is found as long as the clock of this Tempo stands before all of it.
        with TempoServer(source, ApiOptions(), clock=lambda: NOW if time.at >= visible_at else 0.0) as tempo:
            _, _, said = generated({"days": 0.25, "live_seconds": 0, "query_url": tempo.url + "/"}, time)
            searches = tempo.searches()[1:]
        assert said == [f"Waiting until {tempo.url}/ finds the history."]
        assert visible_at <= time.at <= visible_at + 10
        assert {int(search["start"]) for search in searches} == {int(NOW) - hours * HOUR for hours in (6, 5, 4, 3)}


class TestEncoding:
    def test_every_kind_of_span_and_any_name(self) -> None:
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
        spans = decoded(Encoder().encode(traces))
        assert by_id(spans) == by_id([span for trace in traces for span in served(trace)])

    def test_nothing_is_a_valid_request(self) -> None:
        assert decoded(Encoder().encode([])) == []


@given(st.lists(st.integers(0, 3600), min_size=2, max_size=6))
def test_every_trace_is_sent_once_however_the_time_is_cut(cuts: list[int]) -> None:
    cuts = sorted(cuts)
    instants = [int((NOW - HOUR + cut) * NS) for cut in cuts]
    whole = ended_between(SOURCE, instants[0], instants[-1])
    parts = [trace for after, until in pairwise(instants) for trace in ended_between(SOURCE, after, until)]

    def ids(traces: Sequence[Trace]) -> list[int]:
        return sorted(trace.trace_id for trace in traces)

    assert ids(parts) == ids(whole)
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
    def test_to_the_path_of_the_protocol(self, base: str, path: str) -> None:
        with OtlpReceiver() as receiver:
            send(receiver.url + base, b'{"resourceSpans":[]}')
        assert receiver.paths == [path]

    def test_says_what_it_sends(self) -> None:
        with OtlpReceiver() as receiver, sender(receiver.url, Time(), headers={"X-Scope-OrgID": "demo"}) as to:
            to.send(b'{"resourceSpans":[]}')
        (headers,) = receiver.headers
        assert headers["content-type"] == "application/json"
        assert headers["content-encoding"] == "gzip"
        assert headers["x-scope-orgid"] == "demo"

    @pytest.mark.parametrize("status", [429, 502, 503, 504])
    def test_again_where_the_protocol_says_so_after_the_pause_that_is_asked_for(self, status: int) -> None:
        time, said = Time(), list[str]()
        script = [Answer(status, b"slow\ndown", {"Retry-After": "7"})] * 2
        with OtlpReceiver(script) as receiver:
            send(receiver.url, b'{"resourceSpans":[]}', time=time, said=said)
        assert len(receiver.paths) == 3
        assert time.waits == [7.0, 7.0]
        assert said == [f"{receiver.url}/v1/traces: {status} slow down; trying again"]

    def test_the_pause_may_be_a_date(self) -> None:
        time = Time(1_772_402_400.0)
        with OtlpReceiver([Answer(503, b"", {"Retry-After": formatdate(time.at + 12, usegmt=True)})]) as receiver:
            send(receiver.url, b'{"resourceSpans":[]}', time=time)
        assert time.waits == [12.0]

    def test_pauses_grow_where_none_is_asked_for(self) -> None:
        time = Time()
        with OtlpReceiver([Answer(503), Answer(0), Answer(502, b"", {"Retry-After": "soon"}), Answer(429)]) as receiver:
            send(receiver.url, b'{"resourceSpans":[]}', time=time)
        assert len(time.waits) == 4
        for wait, around in zip(time.waits, (0.5, 1, 2, 4), strict=True):
            assert 0.75 * around <= wait <= 1.25 * around

    @pytest.mark.parametrize("status", [400, 401, 404, 500])
    def test_not_again_where_the_answer_would_be_the_same(self, status: int) -> None:
        with OtlpReceiver([Answer(status, b"because")]) as receiver, pytest.raises(SendError) as caught:
            send(receiver.url)
        assert str(caught.value) == f"{receiver.url}/v1/traces refuses what is sent: {status} because"
        assert len(receiver.paths) == 1

    def test_a_redirect_is_not_followed(self) -> None:
        with OtlpReceiver() as elsewhere, OtlpReceiver([Answer(307, b"", {"Location": elsewhere.url})]) as receiver:
            with pytest.raises(SendError, match="refuses what is sent: 307"):
                send(receiver.url)
            assert elsewhere.paths == []

    def test_no_proxy_of_the_environment_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with OtlpReceiver() as proxy, OtlpReceiver() as receiver:
            monkeypatch.setenv("http_proxy", proxy.url)
            send(receiver.url, b'{"resourceSpans":[]}')
            assert (len(receiver.paths), proxy.paths) == (1, [])

    def test_gives_up_in_the_end(self) -> None:
        time = Time()
        with OtlpReceiver() as receiver:
            url = receiver.url
        with pytest.raises(SendError, match="not taken anything for 300 s: connection refused; is --url the address"):
            send(url, time=time)
        assert 250 < time.at - NOW <= 300

    def test_stops_while_it_waits(self) -> None:
        with OtlpReceiver([BUSY]) as receiver, pytest.raises(StoppedError):
            send(receiver.url, time=Time(stop_at=NOW))

    @pytest.mark.parametrize(
        ("body", "rejected"),
        [(b"", 0), (b"{}", 0), (b'{"partialSuccess":null}', 0), (b'{"partialSuccess":{"rejectedSpans":"12"}}', 12),
         (b'{"partialSuccess":{"rejectedSpans":12}}', 12), (b"\x0a\x02\x08\x01", 0), (b"[]", 0),
         (b'{"partialSuccess":{"rejectedSpans":"many"}}', 0), (b'{"partialSuccess":{"rejectedSpans":-1}}', 0)],
    )  # fmt: skip
    def test_answers_of_any_kind(self, body: bytes, rejected: int) -> None:
        with OtlpReceiver([Answer(body=body)]) as receiver:
            assert send(receiver.url, b'{"resourceSpans":[]}').rejected_spans == rejected


class TestCommand:
    def test_sends_and_says_what_came_of_it(self) -> None:
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
    def test_ends_when_it_is_told_to(self, number: signal.Signals) -> None:
        with OtlpReceiver() as receiver:
            process = subprocess.Popen(
                command("generate", "--url", receiver.url, "--days", "0.02", "--rate", "1"),
                env=environment(), stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            deadline = time.monotonic() + 30
            while not receiver.paths and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(number)
            _, said = process.communicate(timeout=30)
        assert process.returncode == 0
        assert re.fullmatch(r"Sent [1-9]\d* traces of \d+ spans\.\n", said.replace(",", ""))

    @pytest.mark.usefixtures("restored_signals")
    @pytest.mark.parametrize("header", ["x-a=line\nbreak", "x-a=\u65e5"])
    def test_a_header_that_cannot_be_sent(self, header: str) -> None:
        result = CliRunner().invoke(
            main, ["generate", "--url", "http://127.0.0.1:1", "--days", "0.02", "--for", "0", "--header", header]
        )
        assert result.exit_code == 1
        assert "check --url and --header" in result.stderr
        assert header.partition("=")[2] not in result.stderr

    def test_a_refusal_is_a_failure(self) -> None:
        with OtlpReceiver([Answer(404, b"not here")]) as receiver:
            done = subprocess.run(
                command("generate", "--url", receiver.url, "--days", "0.02", "--for", "0"),
                env=environment(), capture_output=True, text=True, timeout=60,
            )  # fmt: skip
        assert done.returncode == 1
        assert "refuses what is sent: 404 not here" in done.stderr

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
    def test_mistakes(self, arguments: tuple[str, ...], message: str) -> None:
        result = CliRunner().invoke(main, ["generate", *arguments])
        assert result.exit_code == 2
        assert message in result.stderr
