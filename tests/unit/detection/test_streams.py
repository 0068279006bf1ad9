"""Recognition of spans that are no requests: by configuration, by name, by durations."""

import random
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from math import exp, log

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackRules
from exporter.detection.detector import Detector, SeriesState, decode_state, encode_state
from exporter.detection.history import HistoryProgress, advance
from exporter.detection.parameters import Parameters
from exporter.detection.replay import Replay
from exporter.detection.streams import (
    CUTS,
    LAST_SEGMENTS,
    MESSAGING_OPERATIONS,
    MIN_TRACES,
    NO_HINT,
    RPC_METHODS,
    SEGMENTS,
    SUGGESTIVE_METHODS,
    SUGGESTIVE_SEGMENTS,
    StreamHint,
    StreamReason,
    StreamRules,
    StreamState,
    has_stream_durations,
)
from exporter.model.calendar import Calendar, HourClock
from exporter.model.histogram import Digest
from exporter.model.hours import SeriesHours, hours_of
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey
from tests.support.detection_traffic import MONDAY, Request, stored
from tests.support.paths import REPOSITORY

DETECTOR = Detector(FallbackRules(), Parameters(), HourClock(Calendar()))
HOUR = 3600
BY_NAME = StreamHint(StreamReason.NAME)
SUGGESTED = StreamHint(is_suggested=True)
SEEDS = st.integers(0, 2**32)


def hint(span_name: str, rules: StreamRules = StreamRules()) -> StreamHint:  # noqa: B008
    return rules.hint(SeriesKey("shop", span_name))


def digest(draw: Callable[[], float], traces: int) -> Digest:
    return Digest.of_ns(int(draw() * 1e9) for _ in range(traces))


# By name


@pytest.mark.parametrize(
    "name",
    [
        "GET /ws", "/ws", "ws", "GET /api/v1/WS", "get /chat/websocket?token={id}", "HTTP GET /wss/", "GET /sse",
        "GET /socket.io/", "GET /socket.io/?EIO=4&transport=polling", "GET /chat/socket.io", "/cable",
        "GET /sockjs/{number}/{id}/xhr_streaming", "orders receive", "receive orders", "topic.orders.v1 poll",
        "(temporary) receive", "poll {id}", "Orders RECEIVE", "/ws/{id} websocket receive", "websocket connect",
        "SQS.ReceiveMessage", "ReceiveMessage", "google.pubsub.v1.Subscriber/StreamingPull",
        "envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        "flagd.evaluation.v1.Service/EventStream",
        "temporal.api.workflowservice.v1.WorkflowService/PollWorkflowTaskQueue",
        "/etcdserverpb.Lease/LeaseKeepAlive", "GET /notifications/event-stream",
    ],
)  # fmt: skip
def test_names_of_streams(name: str) -> None:
    assert hint(name) == BY_NAME


@pytest.mark.parametrize(
    "name",
    [
        "GET /events", "/api/stream", "GET /v2/{id}/updates?since={number}", "shop.v1.Orders/WatchOrders",
        "shop.v1.Chat/Subscribe", "GET /poll", "poll", "k8s.Logs/TailLogs",
    ],
)  # fmt: skip
def test_names_that_suggest_a_stream(name: str) -> None:
    assert hint(name) == SUGGESTED


@pytest.mark.parametrize(
    "name",
    [
        "", "GET /", "POST /ws", "POST /ws/OrderService", "GET /ws/OrderService", "POST /events",
        "GET /events/{number}",
        "PUT /stream", "GET /streams/{id}/settings", "POST /payments/receive", "POST /receive", "receive",
        "receive the parcel", "order received", "polls list", "GET /polls", "POST /websocket-tickets", "GET /news",
        "GET /assess", "GET /browse", "renew cable", "orders process", "orders publish", "GET /eventsource.js",
        "shop.v1.Orders/GetStream", "StreamingService", "watch dog", "POST /socket.io/", "message.receive.count",
    ],
)  # fmt: skip
def test_names_of_requests(name: str) -> None:
    assert hint(name) == NO_HINT


def test_configuration_takes_precedence_and_requests_over_streams() -> None:
    rules = StreamRules(
        streams=(Pattern("^shop/GET /(feed|ws)$"), Pattern("^chat/")),
        requests=(Pattern("ws$"), Pattern("^shop/orders")),
    )
    assert hint("GET /feed", rules) == StreamHint(StreamReason.CONFIGURED)
    assert hint("GET /ws", rules) == StreamHint(is_request=True)
    assert hint("orders receive", rules) == StreamHint(is_request=True)
    assert hint("parcels receive", rules) == BY_NAME
    assert rules.hint(SeriesKey("chat", "x")) == StreamHint(StreamReason.CONFIGURED)
    assert hint("GET /cart", rules) == NO_HINT


@pytest.mark.parametrize("part", ["/", "/ws", "a ", "receive ", "websocket ", "A.", "Stream", "?"])
def test_hostile_names_take_no_time(part: str) -> None:
    assert hint(part * 2000 + "!") == NO_HINT


def test_all_names_are_documented() -> None:
    text = (REPOSITORY / "docs" / "names.md").read_text(encoding="utf-8")
    table = text.partition("<!-- begin: streams -->")[2].partition("<!-- end -->")[0]
    listed = [set(re.findall("`([^`]+)`", line.split("|")[3])) for line in table.splitlines() if line.startswith("| ")][
        2:
    ]
    groups = (LAST_SEGMENTS, SEGMENTS, MESSAGING_OPERATIONS, RPC_METHODS, SUGGESTIVE_SEGMENTS, SUGGESTIVE_METHODS)
    assert listed == [set(group) for group in groups]


# By durations


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0.001, 600), st.floats(0.01, 1.2), st.integers(100, 400))
def test_a_slow_batch_endpoint_is_no_stream(seed: int, median: float, sigma: float, traces: int) -> None:
    rng = random.Random(seed)
    assert sigma < 0.03 or not has_stream_durations(digest(lambda: median * exp(rng.gauss(0, sigma)), traces))


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0.001, 1), st.sampled_from(CUTS), st.floats(0, 0.8))
def test_fast_requests_of_which_some_time_out_are_no_stream(seed: int, median: float, cut: int, share: float) -> None:
    rng = random.Random(seed)

    def draw() -> float:
        return cut + 0.01 if rng.random() < share else median * exp(rng.gauss(0, 0.5))

    assert not has_stream_durations(digest(draw, 300))


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.lists(st.floats(0.1, 3000), min_size=1, max_size=3), st.integers(100, 400))
def test_a_few_kinds_of_jobs_under_one_name_are_no_stream(seed: int, medians: list[float], traces: int) -> None:
    rng = random.Random(seed)
    assert not has_stream_durations(digest(lambda: rng.choice(medians) * exp(rng.gauss(0, 0.2)), traces))


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from(CUTS), st.floats(0, 0.45), st.integers(100, 400))
def test_a_long_poll_that_mostly_ends_at_its_cut_is_a_stream(seed: int, cut: int, events: float, traces: int) -> None:
    """With 0.45 events before the cut on average, 64 % of the polls end at it."""
    rng = random.Random(seed)
    rate = max(events, 1e-9) / cut
    found = [
        has_stream_durations(digest(lambda: min(cut + rng.expovariate(200), rng.expovariate(rate)), traces))
        for _ in range(5)
    ]
    # Few polls with events say little about when those arrive.
    assert sum(found) >= 3


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(120, 3600), st.floats(2.1, 3))
def test_sessions_of_minutes_to_hours_are_a_stream(seed: int, median: float, sigma: float) -> None:
    rng = random.Random(seed)
    assert has_stream_durations(digest(lambda: median * exp(rng.gauss(0, sigma)), 500))


@given(st.lists(st.floats(0, 9), min_size=1, max_size=100), st.booleans())
def test_what_takes_less_than_ten_seconds_is_no_stream(seconds: list[float], is_suggested: bool) -> None:
    assert not has_stream_durations(Digest.of_ns(int(each * 1e9) for each in seconds), is_suggested=is_suggested)


def test_few_traces_say_nothing_and_a_name_that_suggests_a_stream_needs_less() -> None:
    polls = [30.001] * (MIN_TRACES - 1)
    assert not has_stream_durations(Digest.of_ns(int(each * 1e9) for each in polls))
    assert has_stream_durations(Digest.of_ns(int(each * 1e9) for each in [*polls, 30.001]))
    slow = Digest.of_ns(int((5 + number) * 1e9) for number in range(60))
    assert not has_stream_durations(slow)
    assert has_stream_durations(slow, is_suggested=True)


# Hysteresis

STREAM, REQUESTS = (Digest.of_ns([int(seconds * 1e9)] * 300) for seconds in (30.001, 0.1))


def after(state: StreamState, *digests: Digest) -> StreamState:
    for each in digests:
        state = state.after(each, is_suggested=False)
    return state


def test_the_first_baseline_decides_and_a_day_of_others_changes_it() -> None:
    first = after(StreamState(), STREAM)
    assert first == StreamState(True)
    assert after(first, *[REQUESTS] * 23).is_stream is True
    assert after(first, *[REQUESTS] * 24) == StreamState(False)
    assert after(first, *[REQUESTS, STREAM] * 100).is_stream is True
    long = Digest.of_ns([int(65 * 1e9)] * 300)
    assert after(first, *[long] * (14 * 24 - 1)).is_stream is True
    assert after(first, *[long] * (14 * 24)) == StreamState(False)
    few = Digest.of_ns([10**8] * 60)
    assert after(StreamState(), few) == StreamState()
    assert after(StreamState(), few, STREAM) == StreamState(True)
    assert after(first, Digest.of_ns([10**8] * 10)) == first


@given(st.lists(st.booleans(), max_size=200))
def test_it_changes_once_a_day_at_most(streams: list[bool]) -> None:
    state, kinds = StreamState(), []
    for is_stream in streams:
        state = after(state, STREAM if is_stream else REQUESTS)
        kinds.append(state.is_stream)
    changes = [position for position, (before, now) in enumerate(pairwise(kinds)) if before is not now]
    assert all(second - first >= 24 for first, second in pairwise(changes))


# History and live ticks


def sessions(seed: int, days: int, per_hour: float, *, slower_from: float = 1e9) -> dict[int, list[Request]]:
    """Long polls of 30 s; five times as long as that from some hour on."""
    rng = random.Random(seed)
    made: dict[int, list[Request]] = {}
    for hour in range(24 * days):
        cut = 150 if hour >= slower_from else 30
        made[hour] = [
            (
                int((MONDAY + (hour + rng.random()) * HOUR) * 1e9),
                int(1e9 * min(cut + rng.expovariate(100), rng.expovariate(log(2) / 400))),
            )
            for _ in range(int(per_hour))
        ]
    return made


def flat(made: dict[int, list[Request]]) -> Iterator[Request]:
    for requests in made.values():
        yield from requests


POLLS = sessions(1, 6, 60, slower_from=110)
WINDOWS = stored(flat(POLLS))


def evaluated(detector: Detector, until_hours: Iterable[int]) -> HistoryProgress:
    history = SeriesHours(hours_of(WINDOWS, DETECTOR.clock))
    state: SeriesState | None = None
    results = []
    for hours in until_hours:
        results.append(advance(detector, history, MONDAY + hours * HOUR, state))
        state = decode_state(encode_state(results[-1].state))
    return results[-1]


def test_history_of_a_stream_has_no_flag_and_no_quarantine_and_does_not_depend_on_its_division() -> None:
    whole = evaluated(DETECTOR, [6 * 24])
    assert whole.state.stream.is_stream is True
    assert (whole.changes, whole.evaluations, whole.accepted) == ([], {}, [])
    assert evaluated(DETECTOR, range(1, 6 * 24 + 1)).state == whole.state


def test_the_same_history_as_requests_has_a_shift() -> None:
    requests = DETECTOR.of(SeriesKey("shop", "GET /feed"))
    assert requests is DETECTOR
    requests = Detector(DETECTOR.rules, DETECTOR.parameters, DETECTOR.clock, StreamRules(requests=(Pattern("feed"),)))
    assert evaluated(requests.of(SeriesKey("shop", "GET /feed")), [6 * 24]).changes


@pytest.mark.parametrize(("name", "is_flagged"), [("GET /feed", False), ("orders receive", False), ("forced", True)])
def test_live_ticks_agree(name: str, is_flagged: bool) -> None:
    rules = StreamRules(requests=(Pattern("forced"),))
    detector = Detector(DETECTOR.rules, DETECTOR.parameters, DETECTOR.clock, rules).of(SeriesKey("shop", name))
    replay = Replay(detector, tick_seconds=60)
    for hour, requests in POLLS.items():
        replay.add_hour(DETECTOR.clock.hour(MONDAY + hour * HOUR), requests, live=hour > 90)
    assert bool(replay.changes) is is_flagged


def test_an_incident_does_not_make_a_stream_of_requests() -> None:
    """Every request times out at 30 s for ten hours: those hours are quarantined, and the flag fires."""
    rng = random.Random(3)
    made = {
        hour: [
            (
                int((MONDAY + (hour + rng.random()) * HOUR) * 1e9),
                int(1e9 * (30.01 if 100 <= hour < 110 else 0.2 * exp(rng.gauss(0, 0.4)))),
            )
            for _ in range(60)
        ]
        for hour in range(144)
    }
    progress = advance(DETECTOR, SeriesHours(hours_of(stored(flat(made)), DETECTOR.clock)), MONDAY + 144 * HOUR)
    assert progress.state.stream == StreamState(False)
    assert len(progress.changes) == 2


def test_a_state_that_an_older_version_stored_is_read() -> None:
    state = SeriesState(MONDAY, changepoint=MONDAY - HOUR)
    older = msgspec.msgpack.encode(list(state)[:-1])
    assert decode_state(older) == state


def test_a_learning_stream_has_no_outliers() -> None:
    history = SeriesHours(hours_of(stored(flat(sessions(1, 1, 60)))[:2], DETECTOR.clock))
    expected = DETECTOR.expect(history, DETECTOR.clock.hour(MONDAY + 4 * HOUR))
    assert expected.pool is not None
    assert (expected.pool.mature, expected.prediction) == (False, None)
    assert DETECTOR.stream_reason(expected) is StreamReason.DURATIONS
    assert DETECTOR.of(SeriesKey("shop", "GET /ws")).stream_reason(expected) is StreamReason.NAME
