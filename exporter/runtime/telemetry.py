"""What the working parts report of themselves, in their own words; only the publisher knows metric names."""

from typing import Final, Literal, Protocol, get_args

Loop = Literal["poll", "backfill", "api"]
"""Who asked Tempo: the live edge, the ledger, or somebody at the command line or the API."""

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
"""Why a request to Tempo failed. ``refused`` is a 4xx other than those with a name of their own; ``malformed`` is an
answer that was not what it should be: not JSON, cut off, or not read completely by Tempo itself."""

SkipReason = Literal[
    "outside_window", "duplicate", "invalid", "filtered", "series_limit", "span_limit", "memory_limit", "saturated"
]
"""Why a span that was read is not in the result. ``span_limit``: Tempo had more matching spans in the trace than it
may return. ``memory_limit``: the cap of the live window. ``saturated``: it came with a search of a single second that
was as long as its limit, which is no sample of that second."""

StorageFailure = Literal["full", "readonly", "locked", "corrupt", "other"]

LOOPS: Final[tuple[Loop, ...]] = get_args(Loop)
FAILURE_REASONS: Final[tuple[FailureReason, ...]] = get_args(FailureReason)
SKIP_REASONS: Final[tuple[SkipReason, ...]] = get_args(SkipReason)
STORAGE_FAILURES: Final[tuple[StorageFailure, ...]] = get_args(StorageFailure)


class Telemetry(Protocol):
    """Receives what happens; every method may be called from any thread and never raises."""

    def request(self, loop: Loop, seconds: float) -> None:
        """One HTTP request to Tempo ended, well or not, after so many seconds."""

    def request_failed(self, loop: Loop, reason: FailureReason) -> None:
        """One HTTP request to Tempo failed."""

    def tempo_answered(self, answered: bool) -> None:
        """Whether the last request to Tempo was answered."""

    def saturated(self, loop: Loop) -> None:
        """A response was as long as its limit."""

    def split(self, loop: Loop) -> None:
        """A window was split because of that."""

    def truncated(self, loop: Loop) -> None:
        """A window stayed incomplete."""

    def sampled(self, loop: Loop) -> None:
        """A window was too dense to be read whole, and was read as a representative sample."""

    def source_counts_available(self, available: bool) -> None:
        """Whether Tempo says how many traces it has."""

    def traces_read(self, loop: Loop, count: int) -> None:
        """So many spans in scope were read from Tempo."""

    def traces_skipped(self, loop: Loop, reason: SkipReason, count: int) -> None:
        """So many of them were left out."""

    def storage_failed(self, reason: StorageFailure) -> None:
        """The database refused a read or a write."""
