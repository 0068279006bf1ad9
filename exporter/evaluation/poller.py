"""The poller's cycle: read the live edge, judge every series, publish.

The edge overlaps itself from one cycle to the next, since traces arrive late; each is counted once. A cycle that takes
longer than the interval makes the next tick be skipped and not queued. While Tempo does not answer, nothing is judged:
what is not known is neither slow nor fast.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from exporter.detection.flag import Flag, FlagEvent
from exporter.evaluation.baseline_table import BaselineTable
from exporter.evaluation.live import LiveEvaluator, SeriesFlagChange
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.ingest.exact_reader import Budget
from exporter.ingest.live_reader import LiveReader
from exporter.ingest.sampling import WHOLE
from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import Log
from exporter.runtime.telemetry import Telemetry
from exporter.tempo.errors import StoppedError, TempoError

_WARN_AGAIN_SECONDS: Final = 600
_FUTURE_SECONDS: Final = 2
"""How far beyond now a search reaches: clocks of traced services run ahead, and Tempo's seconds are whole."""
_JUMP_SECONDS: Final = 10
"""A clock that is further off than this from one cycle to the next was set, or the machine slept."""


@dataclass(frozen=True, slots=True)
class PollSettings:
    """How the live edge is read.

    Attributes:
        interval_seconds: from one cycle to the next.
        lookback_seconds: how far back a cycle reads.
        window_seconds: the evaluation window; the first cycle reads all of it.
        max_window_seconds: how far back the window of a series with little traffic reaches; the first cycle reads so
            far back where that is affordable, so that a restart costs no blindness.
        affordable_traces: how many traces that may be.
        budget: what one cycle may cost Tempo.
    """

    interval_seconds: float
    lookback_seconds: float
    window_seconds: float
    max_window_seconds: float
    affordable_traces: int
    budget: Budget

    @property
    def remembered_seconds(self) -> float:
        """How long spans are known after they ended, so that none is counted twice."""
        return max(self.lookback_seconds, self.window_seconds) + 2 * self.interval_seconds


class BaselineSource(Protocol):
    """What the stored history knows, for the poller."""

    def book(self, now: float) -> BaselineTable:
        """The baselines in force at an instant; must not raise, nor wait for long."""

    def wait_for_book(self, seconds: float) -> bool:
        """Wait, at most for so long, for the book that was asked for last and was not there; whether it has come.

        If it was there, there is nothing to wait for.
        """

    def describe(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot with what is known of the history filled in."""

    def remember(self, flags: Mapping[SeriesKey, Flag], suspects: Mapping[SeriesKey, tuple[int, ...]]) -> None:
        """Keep flags and suspect hours over a restart; must not raise."""


class Poller:
    """Reads, judges and publishes."""

    def __init__(
        self,
        reader: LiveReader,
        live: LiveEvaluator,
        history: BaselineSource,
        publish: Callable[[Snapshot], None],
        settings: PollSettings,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        stop: threading.Event,
        log: Log,
        on_clock_jump: Callable[[], None] = lambda: None,
        on_new_book: Callable[[], None] = lambda: None,
    ) -> None:
        self._reader = reader
        self._live = live
        self._history = history
        self._publish = publish
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._monotonic = monotonic
        self._stop = stop
        self._log = log
        self._quiet_log = log.limited(_WARN_AGAIN_SECONDS, monotonic)
        self._on_clock_jump = on_clock_jump
        self._on_new_book = on_new_book
        self._judged_by: BaselineTable | None = None
        self._clock_ahead = clock() - monotonic()
        self._last_success: float | None = None
        self._unread_since: float | None = None
        self._outage_told = False
        self._poll_seconds: float | None = None
        self._slices = WHOLE
        self._by_name: frozenset[SeriesKey] = frozenset()

    def run(self) -> None:
        """Cycle until stopped."""
        due = self._monotonic()
        while not self._stop.is_set():
            self._look_at_clock()
            try:
                self.cycle()
            except Exception:  # noqa: BLE001 - a defect of ours must neither end the loop nor go unseen
                if self._stop.is_set():
                    return
                self._log.exception("poll_crashed", "a poll cycle failed unexpectedly")
            due += self._settings.interval_seconds
            late = self._monotonic() - due
            if late > 0:
                skipped = int(late // self._settings.interval_seconds) + 1
                due += skipped * self._settings.interval_seconds
                self._quiet_log.warning(
                    "poll_skipped",
                    "a poll cycle took longer than polling.tempo_interval; cycles are skipped",
                    skipped=skipped,
                    interval=self._settings.interval_seconds,
                )
            if self._history.wait_for_book(max(0.0, due - self._monotonic())):
                # What has been published lacks what is usual; from here on the ticks are counted anew.
                due = self._monotonic()
                continue
            self._stop.wait(max(0.0, due - self._monotonic()))

    def _look_at_clock(self) -> None:
        """Notice a clock that was set, and a machine that slept: meanwhile only the clock on the wall went on."""
        ahead = self._clock() - self._monotonic()
        jumped, self._clock_ahead = ahead - self._clock_ahead, ahead
        if abs(jumped) > _JUMP_SECONDS:
            self._log.warning(
                "clock_jumped", "the clock jumped, or this machine slept; the gap is read", seconds=jumped
            )
            self._on_clock_jump()

    def cycle(self) -> bool:
        """One cycle; says whether all of the live edge could be read."""
        # Reading asks for the book, too. Where it has to be waited for, that is no part of the reading's time.
        self._history.book(self._clock())
        began = self._monotonic()
        now = self._clock()
        spans: list[Span] = []
        try:
            complete = self._read_edge(now, began, spans)
        except StoppedError:
            return False
        except TempoError as error:
            self._note_outage(began, error)
            self._publish_unjudged(now, str(error))
            return False
        if self._stop.is_set():
            return False
        self._poll_seconds = self._monotonic() - began
        self._last_success = now
        self._note_answer()
        self._judge(spans, now)
        return complete

    def _note_outage(self, began: float, error: TempoError) -> None:
        if self._unread_since is None:
            self._unread_since, self._outage_told = began, False
        self._outage_told |= self._quiet_log.warning(
            "poll_failed", "cannot read current traffic; nothing is evaluated until Tempo answers", error=error
        )

    def _note_answer(self) -> None:
        """Say that an outage is over, if it was said that there is one."""
        if self._unread_since is not None and self._outage_told:
            self._log.info(
                "poll_recovered",
                "Tempo answers again; current traffic is evaluated",
                after_seconds=round(self._monotonic() - self._unread_since),
            )
        self._unread_since = None

    # Reading

    def _read_edge(self, now: float, began: float, spans: list[Span]) -> bool:
        """Read what the cycle needs; says whether all of it came."""
        settings = self._settings
        if self._last_success is None:
            deadline = began + 2 * settings.window_seconds
            complete = self._read(now, now - settings.window_seconds, spans, deadline)
            self._reach_back(now - settings.window_seconds, spans, deadline)
            return complete
        # After a pause, so much more: a machine that slept, or Tempo that was away, leaves no hole in the window.
        missed = now - self._last_success - settings.interval_seconds
        back = min(settings.lookback_seconds + max(0.0, missed), settings.max_window_seconds)
        return self._read(now, now - max(settings.lookback_seconds, back), spans, began + settings.interval_seconds)

    def _reach_back(self, now: float, spans: list[Span], deadline: float) -> None:
        """What series with little traffic need besides: welcome, but nothing waits for it."""
        rest_seconds = self._settings.max_window_seconds - self._settings.window_seconds
        affordable = (self._reader.density or 0) * rest_seconds <= self._settings.affordable_traces
        if rest_seconds <= 0 or not affordable or not self._slices.is_whole:
            return
        try:
            self._read(now, now - rest_seconds, spans, deadline)
        except TempoError as error:
            self._log.warning(
                "poll_history_failed",
                "cannot read traffic before the evaluation window; endpoints with little traffic are evaluated later",
                error=error,
            )

    def _read(self, now: float, start: float, spans: list[Span], deadline: float) -> bool:
        reading = self._reader.read(
            int(start),
            int(now) + _FUTURE_SECONDS,
            lambda: self._stop.is_set() or self._monotonic() > deadline,
            lambda: self._live.per_hour(self._history.book(now)),
        )
        spans += reading.spans
        if reading.sample.share < self._slices.share or not self._by_name <= reading.by_name:
            self._live.thin(reading.sample, reading.by_name)
        self._slices, self._by_name = reading.sample, reading.by_name
        if not reading.sample.is_whole:
            self._quiet_log.info(
                "poll_sampled",
                "current traffic exceeds polling.max_traces_per_poll; an evenly spread sample is evaluated",
                traces_per_second=round(self._reader.density or 0),
                share=reading.sample.share,
            )
        if reading.splits:
            self._quiet_log.warning(
                "poll_saturated",
                "searches of current traffic hit their limit and were split; raise tempo.limit to need fewer",
                splits=reading.splits,
            )
        if reading.unread and not self._stop.is_set():
            self._telemetry.truncated("poll")
            self._quiet_log.warning(
                "poll_truncated",
                "current traffic cannot be read in time and part of it is not evaluated; raise tempo.limit or lower "
                "polling.max_traces_per_poll",
                unread_ranges=reading.unread,
            )
        return not reading.unread

    # Judging and publishing

    def _judge(self, spans: Sequence[Span], now: float) -> None:
        began = self._monotonic()
        book = self._history.book(now)
        skipped = self._live.take_in(spans, now, book)
        for reason, count in skipped.items():
            self._telemetry.traces_skipped("poll", reason, count)
        judged = self._live.tick(now, book)
        for change in judged.changes:
            self._tell(change)
        self._history.remember(judged.flags, judged.suspects)
        self._publish_snapshot(judged.statuses, now, began, book)
        if book is not self._judged_by:
            self._judged_by = book
            self._on_new_book()

    def _publish_unjudged(self, now: float, reason: str) -> None:
        """While Tempo does not answer: what is usual goes on, and what was found last stands for as long as it may."""
        began = self._monotonic()
        recent = self._last_success is not None and now - self._last_success <= self._settings.window_seconds
        book = self._history.book(now)
        statuses = self._live.hold(self._last_success if recent else None, now, book)
        self._publish_snapshot(statuses, self._last_success, began, book, unread=reason)

    def _publish_snapshot(
        self,
        statuses: tuple[SeriesStatus, ...],
        judged_at: float | None,
        began: float,
        book: BaselineTable,
        unread: str | None = None,
    ) -> None:
        snapshot = Snapshot(
            judged_at=judged_at,
            build_seconds=self._monotonic() - began,
            series=statuses,
            poll_seconds=self._poll_seconds,
            poll_share=None if self._last_success is None else self._slices.share,
            unread=unread,
            known=book.known,
        )
        self._publish(self._history.describe(snapshot))

    def _tell(self, change: SeriesFlagChange) -> None:
        fields = {
            "service_name": change.key.service_name,
            "span_name": change.key.span_name,
            "explanation": None if change.explanation is None else str(change.explanation),
        }
        if change.event is FlagEvent.FIRING:
            self._log.warning("shift_firing", "latency has shifted", **fields)
        else:
            self._log.info("shift_resolved", "latency is back within its baseline", **fields)
