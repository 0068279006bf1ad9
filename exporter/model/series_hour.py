"""The stored traces of one series in one local hour, decoded on use."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple

from exporter.model.calendar import HOUR_SECONDS, LocalHour
from exporter.model.deviations import MARKS
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import (
    MARK_SECONDS,
    count_marks,
    decode_counts,
    decode_failures,
    decode_marks,
    decode_offsets,
)
from exporter.model.hour_evaluation import LOW_QUANTILE, NOT_EVALUATED, QUANTILES, EncodedEvaluation, HourEvaluation
from exporter.model.runs import Run, count_runs, runs_of

MAX_RUN_TRACES: Final = 64
"""Marks of windows with more traces are not loaded for runs: what so many requests show, a window shows as well."""
_NOT_COUNTED: Final = -1
_WHOLE_HOUR: Final = tuple(range(1, MARKS + 1))


class StoredWindow(NamedTuple):
    """Stored traces of one series in one window of the ledger.

    Attributes:
        start: start of the window, Unix seconds.
        traces: number of traces.
        digest: their durations, encoded by :func:`.histogram_codec.encode_digest`.
        marks: the same by end time, encoded by :func:`.histogram_codec.encode_marks`; empty where the caller did not
            load it, because only hours that are not evaluated yet need it, and those with few traces.
        failures: number of failed ones by end time, encoded by :func:`.histogram_codec.encode_failures`; None where
            it is unknown.
        requests: number of requests that Tempo counts, where that was stored; see :func:`.traffic.window_traffic`.
    """

    start: int
    traces: int
    digest: bytes
    marks: bytes = b""
    failures: bytes | None = None
    requests: int | None = None

    @property
    def first_mark(self) -> int:
        """The instant to which offset 0 of its marks refers, Unix seconds."""
        # A window of, say, six minutes may start between two marks; offsets then count from the next mark.
        return -(-self.start // MARK_SECONDS) * MARK_SECONDS


class SeriesHour:
    """The traces of one series that started in one local hour.

    Consists of several windows where the ledger's windows are shorter than an hour. Digests are decoded on first use:
    most hours of a history are only counted.

    Attributes:
        start: start of the hour, Unix seconds.
        slot: hour of the local day and day type.
        day: local date as a proleptic Gregorian ordinal.
        count: number of traces.
    """

    __slots__ = (
        "_counts",
        "_decoded_windows",
        "_digest",
        "_evaluation",
        "_failed",
        "_low_bucket",
        "_quantile_buckets",
        "_run_number",
        "_runs",
        "_windows",
        "count",
        "day",
        "slot",
        "start",
    )

    def __init__(
        self,
        hour: LocalHour,
        windows: Sequence[StoredWindow],
        evaluation: HourEvaluation | EncodedEvaluation = NOT_EVALUATED,
    ) -> None:
        """Combine the windows of one local hour, at least one."""
        self.start = hour.start
        self.slot = hour.slot
        self.day = hour.day
        self.count = windows[0].traces if len(windows) == 1 else sum([window.traces for window in windows])
        self._evaluation = evaluation
        self._windows = windows
        self._decoded_windows: list[tuple[StoredWindow, dict[int, int]]] | None = None
        self._counts: dict[int, int] | None = None
        self._digest: Digest | None = None
        self._quantile_buckets: tuple[int, ...] | None = None
        self._low_bucket: int | None = None
        self._runs: Sequence[Run] | None = None
        self._run_number = _NOT_COUNTED
        self._failed: int | None = _NOT_COUNTED

    def __repr__(self) -> str:
        return f"SeriesHour({self.start}, {self.slot}, count={self.count}, {self.evaluation})"

    @property
    def evaluation(self) -> HourEvaluation:
        """Result of the detector; set by :meth:`.SeriesHours.set_evaluation`."""
        evaluation = self._evaluation
        if isinstance(evaluation, EncodedEvaluation):
            evaluation = self._evaluation = evaluation.decoded()
        return evaluation

    @evaluation.setter
    def evaluation(self, evaluation: HourEvaluation) -> None:
        self._evaluation = evaluation

    @property
    def is_quarantined(self) -> bool:
        """Whether it is evaluated and quarantined."""
        return self._evaluation.quarantined

    @property
    def is_counted(self) -> bool:
        """Whether it counts for the swings and the pattern of its series."""
        return self._evaluation.is_counted

    @property
    def windows(self) -> Sequence[StoredWindow]:
        """The windows of the ledger that it consists of."""
        return self._windows

    @property
    def counts(self) -> dict[int, int]:
        """Counts by bucket in ascending order; must not be modified.

        Raises:
            DamagedDigestError: the stored digest is damaged.
        """
        if self._counts is None:
            by_window = [counts for _, counts in self._decoded()]
            if len(by_window) == 1:
                self._counts = by_window[0]
            else:
                self._counts = dict(Digest.pool(map(Digest, by_window)))
        return self._counts

    @property
    def digest(self) -> Digest:
        """Durations of the traces."""
        if self._digest is None:
            self._digest = Digest.of_ascending(self.counts)
        return self._digest

    @property
    def quantile_buckets(self) -> tuple[int, ...]:
        """Buckets of the hour's own :data:`.QUANTILES`."""
        if self._quantile_buckets is None:
            self._quantile_buckets = tuple(self.digest.quantile_buckets(QUANTILES))
        return self._quantile_buckets

    @property
    def low_bucket(self) -> int:
        """Bucket of the hour's own :data:`.LOW_QUANTILE`."""
        if self._low_bucket is None:
            self._low_bucket = self.digest.quantile_bucket(LOW_QUANTILE)
        return self._low_bucket

    def set_quantile_buckets(self, low: int, buckets: tuple[int, ...]) -> None:
        """Set :attr:`low_bucket` and :attr:`quantile_buckets`, where they are known already."""
        self._low_bucket, self._quantile_buckets = low, buckets

    @property
    def may_have_failures(self) -> bool:
        """Whether some of the traces may have failed: False if none has, or where that is unknown."""
        return any(window.failures for window in self._windows)

    @property
    def runs(self) -> Sequence[Run]:
        """Runs of the requests that started in the hour; one run if it has more than :data:`MAX_RUN_TRACES`.

        Raises:
            DamagedDigestError: the stored marks are damaged.
        """
        if self._runs is None:
            if self.count > MAX_RUN_TRACES:
                whole = (self.start + MARK_SECONDS, self.start + HOUR_SECONDS)
                self._runs = (Run(*whole, self.count, self.quantile_buckets[0]),)
            else:
                self._runs = runs_of(merged_marks([self]), self.start)
        return self._runs

    @property
    def run_number(self) -> int:
        """Number of its :attr:`runs` by :func:`.count_runs`, without decoding them.

        Raises:
            DamagedDigestError: the stored marks are damaged.
        """
        number = self._run_number
        if number == _NOT_COUNTED:
            if self.count > MAX_RUN_TRACES:
                offsets: tuple[int, ...] = _WHOLE_HOUR
            elif len(self._windows) == 1 and self._windows[0].start == self.start:
                # Nearly always.
                offsets = decode_offsets(self._windows[0].marks) if self._windows[0].marks else ()
            else:
                found: set[int] = set()
                for window in self._windows:
                    if window.marks:
                        first = (window.first_mark - self.start) // MARK_SECONDS
                        found.update([first + offset for offset in decode_offsets(window.marks)])
                offsets = tuple(sorted(found))
            number = self._run_number = count_runs(offsets)
        return number

    def marks(self) -> list[tuple[int, list[int]]]:
        """Return marks in Unix seconds with the sorted buckets of the traces that ended up to each.

        Marks may lie in later hours, because traces are assigned to the hour in which they started.

        Raises:
            DamagedDigestError: the stored marks are damaged.
        """
        found: list[tuple[int, list[int]]] = []
        for window, counts in self._decoded_windows or self._decoded():
            if window.marks:
                first = window.first_mark
                decoded = decode_marks(window.marks, counts)
                found += [(first + offset * MARK_SECONDS, buckets) for offset, buckets in decoded.items()]
        return found

    def requests(self) -> list[tuple[int, int]]:
        """Return the same marks with the numbers of the traces alone, without decoding the digest.

        Raises:
            DamagedDigestError: the stored marks are damaged.
        """
        found: list[tuple[int, int]] = []
        for window in self._windows:
            if window.marks:
                first = window.first_mark
                counts = count_marks(window.marks, window.traces)
                found += [(first + offset * MARK_SECONDS, count) for offset, count in counts.items()]
        return found

    def failures(self) -> dict[int, int] | None:
        """Return how many of the traces failed, by mark in Unix seconds; None where that is unknown of any window.

        Marks are those of :meth:`marks`; those without failures are left out.

        Raises:
            DamagedDigestError: the stored failures are damaged.
        """
        found: dict[int, int] = {}
        for window in self._windows:
            if not window.failures:
                if window.failures is None:
                    self._failed = None
                    return None
                continue
            first = window.first_mark
            for offset, count in decode_failures(window.failures, window.traces).items():
                mark = first + offset * MARK_SECONDS
                found[mark] = found.get(mark, 0) + count
        self._failed = sum(found.values()) if found else 0
        return found

    @property
    def failed(self) -> int | None:
        """How many of the traces failed; None where that is unknown.

        Raises:
            DamagedDigestError: the stored failures are damaged.
        """
        if self._failed == _NOT_COUNTED:
            self.failures()
        return self._failed

    def _decoded(self) -> list[tuple[StoredWindow, dict[int, int]]]:
        if self._decoded_windows is None:
            self._decoded_windows = [(window, decode_counts(window.digest)) for window in self._windows]
        return self._decoded_windows


def merged_marks(hours: Iterable[SeriesHour]) -> list[tuple[int, list[int]]]:
    """Return the marks of some hours in ascending order, each with the buckets of all traces that ended up to it.

    Raises:
        DamagedDigestError: the stored marks are damaged.
    """
    found: dict[int, list[int]] = {}
    for mark, buckets in chain.from_iterable([hour.marks() for hour in hours]):
        found.setdefault(mark, []).extend(buckets)
    return sorted(found.items())
