"""Telemetry interface: the events that components report; only the metrics package knows the metric names."""

from collections.abc import Mapping
from typing import Final, Literal, Protocol, get_args

Loop = Literal["poll", "backfill", "api", "cause", "version"]
"""The origin of a request to Tempo: the live edge, the ledger, a person at the command line or the API, the search
for the cause of a shift, or that for the version with which a regression began."""

FailureReason = Literal[
    "connection",
    "timeout",
    "tls",
    "unauthorized",
    "refused",
    "rate_limited",
    "server_error",
    "malformed",
    "redirect",
]
"""Why a request to Tempo failed. ``refused`` is a 4xx without a name of its own. ``malformed`` is a response that is
not JSON, is cut off, or for which Tempo did not search the whole range."""

SkipReason = Literal[
    "outside_window", "duplicate", "invalid", "filtered", "series_limit", "span_limit", "memory_limit", "saturated"
]
"""Why a span that was read is not used. ``span_limit``: Tempo returns fewer spans per trace than matched.
``memory_limit``: the live window is full. ``saturated``: the span came from a search of a single second that hit its
limit, which is not a sample of that second."""

CauseOutcome = Literal["known", "unclear", "no_difference", "no_traces", "failed"]
"""Result of an attempt to find the cause of a shift."""

VersionOutcome = Literal["appeared", "same", "no_version", "no_traces", "failed"]
"""Result of an attempt to find the version with which a regression began: one appeared then; it is the same as before;
the spans have none; Tempo has no traces of that time; or a search failed."""

StorageFailure = Literal["full", "readonly", "locked", "corrupt", "other"]

LOOPS: Final[tuple[Loop, ...]] = get_args(Loop)
FAILURE_REASONS: Final[tuple[FailureReason, ...]] = get_args(FailureReason)
SKIP_REASONS: Final[tuple[SkipReason, ...]] = get_args(SkipReason)
CAUSE_OUTCOMES: Final[tuple[CauseOutcome, ...]] = get_args(CauseOutcome)
VERSION_OUTCOMES: Final[tuple[VersionOutcome, ...]] = get_args(VersionOutcome)
STORAGE_FAILURES: Final[tuple[StorageFailure, ...]] = get_args(StorageFailure)


class Telemetry(Protocol):
    """Receives events; every method may be called from any thread and never raises."""

    def request(self, loop: Loop, seconds: float) -> None:
        """An HTTP request to Tempo ended, successfully or not."""

    def request_failed(self, loop: Loop, reason: FailureReason) -> None:
        """An HTTP request to Tempo failed."""

    def tempo_answered(self, answered: bool) -> None:
        """Whether Tempo answered the last request."""

    def saturated(self, loop: Loop) -> None:
        """A response hit its limit."""

    def split(self, loop: Loop) -> None:
        """A range was split because its response was saturated."""

    def truncated(self, loop: Loop) -> None:
        """A window stayed incomplete."""

    def sampled(self, loop: Loop) -> None:
        """A window was too dense to be read whole and was read as a representative sample."""

    def source_counts_available(self, available: bool) -> None:
        """Whether Tempo can count its traces."""

    def rootless_traces(self, ratio: float) -> None:
        """A share of the traces has no root span in Tempo."""

    def traces_read(self, loop: Loop, count: int) -> None:
        """Spans in scope were read from Tempo."""

    def traces_skipped(self, loop: Loop, reason: SkipReason, count: int) -> None:
        """Spans that were read are not used."""

    def searchable_delays(self, delays: Mapping[float, int]) -> None:
        """Spans were found for the first time: their number by the seconds since their end."""

    def storage_failed(self, reason: StorageFailure) -> None:
        """The database refused a read or a write."""

    def search_by_id_available(self, available: bool) -> None:
        """Whether Tempo finds traces by their ids with a search."""

    def cause_sought(self, outcome: CauseOutcome, seconds: float) -> None:
        """An attempt to find the cause of a shift ended."""

    def causes_pending(self, count: int) -> None:
        """So many firing flags were not looked at yet."""

    def version_sought(self, outcome: VersionOutcome) -> None:
        """An attempt to find the version with which a regression began ended."""
