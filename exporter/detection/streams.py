"""Recognizes series of spans that are no requests: streams, long polls and spans that wait for messages.

Such a span lasts as long as its connection stays open, or until something arrives. Its duration says nothing about how
fast anything was answered, so there is no verdict on it. A series is one because the configuration says so, because of
its name, or because of its durations.

Durations, as quantiles of a baseline of at least 50 traces, are those of streams in either of these cases:

- *Cut*: there is a round number of seconds ``c`` (:data:`CUTS`) at which they end. At least half of them lie in
  ``[0.999 c, 1.02 c]``, at most 2 % beyond it, and at most 5 % in the tenth before it: a job that takes about as long
  varies to both sides. If more than a tenth of all are shorter, 60 % of those exceed ``c / 8`` and 30 % are below
  ``c / 2``, as when waiting for a random event. Requests that are either fast or time out do not.
- *Open end*: the median is a minute or more, p90 is ten minutes or more, p90 is at least 64 times p10, and durations
  are spread evenly in between: p25 is at least twice p10, p50 and p75 are 2.4 times the quantile before, p90 is twice
  p75. That is a lognormal distribution of sigma 1.7. Batch jobs vary less (with a sigma of 1.3, one of 300 baselines of
  100 traces looks like a stream), or have few separate durations.

Where the name suggests a stream, a median of 10 s and a p90 of 30 s are enough.

docs/names.md lists the names for users; a test compares the two.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

from exporter.model.histogram import BUCKETS_PER_OCTAVE, Digest, bucket_of_seconds
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey

LAST_SEGMENTS: Final = ("ws", "wss", "websocket", "websockets", "sse", "event-stream", "cable", "longpoll", "long-poll")
"""Last segments of a path that is requested with GET."""

SEGMENTS: Final = ("socket.io", "sockjs")
"""Segments anywhere in a path that is requested with GET."""

MESSAGING_OPERATIONS: Final = ("receive", "poll")
"""Operations on a destination, before or after its name, as OpenTelemetry has them: ``orders receive``."""

RPC_METHODS: Final = (
    "DeltaAggregatedResources",
    "EventStream",
    "LeaseKeepAlive",
    "PollActivityTaskQueue",
    "PollNexusTaskQueue",
    "PollWorkflowTaskQueue",
    "ReceiveMessage",
    "ServerReflectionInfo",
    "StreamAggregatedResources",
    "StreamingPull",
)
"""Methods of RPC services that keep a stream open or wait."""

SUGGESTIVE_SEGMENTS: Final = (
    "changes",
    "events",
    "listen",
    "live",
    "notifications",
    "poll",
    "polling",
    "push",
    "realtime",
    "stream",
    "streaming",
    "streams",
    "subscribe",
    "subscription",
    "subscriptions",
    "sync",
    "tail",
    "updates",
    "watch",
)
"""Last segments of a path that is requested with GET, if durations are long, too."""

SUGGESTIVE_METHODS: Final = ("Follow", "Listen", "Poll", "Receive", "Stream", "Subscribe", "Tail", "Watch")
"""Beginnings of methods of RPC services, if durations are long, too."""

_GET: Final = r"(?i:(?:HTTP )?(?:GET )?)"
_LAST: Final = r"/?(?:\?.*)?"
_NAME: Final = re.compile(
    rf"{_GET}(?:[^\s?]*/)?(?i:{'|'.join(map(re.escape, LAST_SEGMENTS))}){_LAST}"
    rf"|{_GET}(?:[^\s?]*/)?(?i:{'|'.join(map(re.escape, SEGMENTS))})(?:/.*|{_LAST})"
    rf"|(?i:\S+ (?:{'|'.join(MESSAGING_OPERATIONS)})|(?:{'|'.join(MESSAGING_OPERATIONS)}) \S+)"
    r"|.*\b(?i:websocket (?:connect|disconnect|receive|send))"
    rf"|(?:\S*[./])?(?:{'|'.join(RPC_METHODS)})",
    re.DOTALL,
)
_SUGGESTIVE_NAME: Final = re.compile(
    rf"{_GET}(?:[^\s?]*/)?(?i:{'|'.join(SUGGESTIVE_SEGMENTS)}){_LAST}"
    rf"|(?:\S*[./])(?:{'|'.join(SUGGESTIVE_METHODS)})[A-Z]?\w*",
    re.DOTALL,
)
_LONGEST_NAME: Final = 1024
"""Longer names are not those of streams."""

CUTS: Final = (
    *(10, 15, 20, 25, 30, 40, 45, 50, 55, 60, 75, 90, 100, 110, 120, 150, 180, 240, 300),
    *(600, 900, 1200, 1800, 3600),
)
"""Usual time-outs of connections and long polls, in seconds."""

MIN_TRACES: Final = 50
"""Traces from which durations say anything."""
CERTAIN_TRACES: Final = 200
"""Traces from which durations also say that a series consists of requests; fewer may look so by chance."""
_HOLD: Final = 14 * 24
"""Weight of contrary hours that changes what a series is: a day of clear hours, or two weeks of others."""
_CLEAR: Final = 14
_CUT_SHARE: Final = 0.5
_MAX_BEYOND: Final = 0.02
_PURE_CUT_SHARE: Final = 0.9
_MAX_JUST_BELOW: Final = 0.05
_JUST_BELOW: Final = 5
"""Buckets: a factor of 1.1."""
_MIN_WAITED: Final = 0.6
_WAITED: Final = 3 * BUCKETS_PER_OCTAVE
_MIN_EARLY: Final = 0.3
_EARLY: Final = BUCKETS_PER_OCTAVE
_CUT_WINDOWS: Final = tuple((bucket_of_seconds(0.999 * cut), bucket_of_seconds(1.02 * cut)) for cut in CUTS)
_CUT_OF: Final = {bucket: window for window in _CUT_WINDOWS for bucket in range(window[0], window[1] + 1)}
SHORTEST_CUT: Final = _CUT_WINDOWS[0][0]
_QUANTILES: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
_STEPS: Final = (32, 40, 40, 32)
"""Least distance between these quantiles, in buckets: factors of 2 and 2.4."""
_SPREAD: Final = 6 * BUCKETS_PER_OCTAVE
_OPEN_MEDIAN: Final = bucket_of_seconds(60)
_OPEN_P90: Final = bucket_of_seconds(600)
_SUGGESTED_MEDIAN: Final = bucket_of_seconds(10)
_SUGGESTED_P90: Final = bucket_of_seconds(30)


class StreamReason(StrEnum):
    """Why a series is a stream."""

    CONFIGURED = "configured"
    """``series.streams`` matches it."""
    NAME = "name"
    """Its name is that of a stream."""
    DURATIONS = "durations"
    """Its durations are those of streams."""


class StreamHint(NamedTuple):
    """What is known of a series before its durations are.

    Attributes:
        reason: why it is a stream in any case; None if it need not be one.
        is_request: whether it is none in any case.
        is_suggested: whether its name suggests a stream.
    """

    reason: StreamReason | None = None
    is_request: bool = False
    is_suggested: bool = False

    @property
    def is_decided(self) -> bool:
        """Whether durations do not matter."""
        return self.is_request or self.reason is not None


NO_HINT: Final = StreamHint()


@dataclass(frozen=True)
class StreamRules:
    """Which series are streams by configuration or by name.

    Patterns are searched for in ``service_name/span_name``, and in the same with the labels behind it.

    Attributes:
        streams: what they match is a stream.
        requests: what they match is never a stream; they take precedence.
    """

    streams: tuple[Pattern, ...] = ()
    requests: tuple[Pattern, ...] = ()

    def hint(self, key: SeriesKey) -> StreamHint:
        """Return what is known of a series without its durations."""
        if self.streams or self.requests:
            texts = key.matched_texts
            if any(pattern.search(text) for pattern in self.requests for text in texts):
                return StreamHint(is_request=True)
            if any(pattern.search(text) for pattern in self.streams for text in texts):
                return StreamHint(StreamReason.CONFIGURED)
        span_name = key.span_name
        if len(span_name) > _LONGEST_NAME:
            return NO_HINT
        if _NAME.fullmatch(span_name):
            return StreamHint(StreamReason.NAME)
        return StreamHint(is_suggested=True) if _SUGGESTIVE_NAME.fullmatch(span_name) else NO_HINT


DEFAULT_STREAM_RULES: Final = StreamRules()


class StreamState(NamedTuple):
    """Whether a series is a stream by its durations, with hysteresis: one hour does not change it.

    Encoded by position as part of the state of a series.

    Attributes:
        is_stream: what it is; None until durations say so.
        contrary: weight of the hours whose baselines said otherwise, minus that of hours that agreed, not below 0.
    """

    is_stream: bool | None = None
    contrary: int = 0

    def after(self, digest: Digest, *, is_suggested: bool) -> "StreamState":
        """Return the state after an hour with a baseline: it changes when a day of hours said otherwise.

        A stream whose durations are still long, but no longer those of a stream, remains one for two weeks: when its
        time-out is changed, its baseline has both for as long.
        """
        if digest.count < MIN_TRACES:
            return self
        if self == REQUESTS and 4 * digest.count_above(SHORTEST_CUT - 1) < digest.count:
            # Nearly always, and history evaluation asks for every hour of every series.
            return self
        found = has_stream_durations(digest, is_suggested=is_suggested)
        if self.is_stream is None:
            return StreamState(found) if found or digest.count >= CERTAIN_TRACES else self
        if found is self.is_stream:
            return StreamState(found, max(0, self.contrary - _CLEAR)) if self.contrary else self
        is_clear = found or digest.quantile_bucket(0.75) < SHORTEST_CUT
        contrary = self.contrary + (_CLEAR if is_clear else 1)
        return StreamState(self.is_stream, contrary) if contrary < _HOLD else StreamState(found)


REQUESTS: Final = StreamState(is_stream=False)
UNDECIDED: Final = StreamState()
"""The state of a series without history."""


def has_stream_durations(digest: Digest, *, is_suggested: bool = False) -> bool:
    """Return whether durations are those of streams; the module describes when.

    Args:
        digest: durations of a baseline; with few traces the answer is no.
        is_suggested: whether the name suggests a stream.
    """
    # The 75th percentile is at the cut if half of the durations are, and beyond a minute if the median is.
    if digest.count < MIN_TRACES or (upper := digest.quantile_bucket(0.75)) < SHORTEST_CUT:
        return False
    p10, _, p50, _, p90 = quantiles = digest.quantile_buckets(_QUANTILES)
    if is_suggested and p50 >= _SUGGESTED_MEDIAN and p90 >= _SUGGESTED_P90:
        return True
    window = _CUT_OF.get(upper)
    if window is not None and _is_cut(digest, *window):
        return True
    steps = [after - before for before, after in pairwise(quantiles)]
    is_even = all(step >= least for step, least in zip(steps, _STEPS, strict=True))
    return p50 >= _OPEN_MEDIAN and p90 >= _OPEN_P90 and p90 - p10 >= _SPREAD and is_even


def _is_cut(digest: Digest, first: int, last: int) -> bool:
    """Whether durations end within some buckets, and the shorter ones are those of waiting."""

    def since(bucket: int) -> int:
        return digest.count_above(bucket - 1)

    total, beyond = digest.count, since(last + 1)
    at_cut = since(first) - beyond
    if at_cut < _CUT_SHARE * total or beyond > _MAX_BEYOND * total:
        return False
    if since(first - _JUST_BELOW) - since(first) > _MAX_JUST_BELOW * total:
        return False
    shorter = total - since(first)
    waited, early = since(first - _WAITED) - since(first), total - since(first - _EARLY)
    is_waiting = waited >= _MIN_WAITED * shorter and early >= _MIN_EARLY * shorter
    return is_waiting or at_cut >= _PURE_CUT_SHARE * total
