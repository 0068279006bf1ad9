"""Keeps the books: what is usual for every series in the present hour, worked out beside the poller.

One thread does that, and the book of the present hour comes before anything else. The poller only ever asks for it.
Where it is not there, at the start or after a jump of the clock, the poller waits for a moment, which is all it takes
where there are few series, and goes on with what is known. While history still comes in, the book is renewed from time
to time; shortly before the hour turns, the next one is prepared.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from typing import Final

import msgspec

from exporter import __version__
from exporter.detection.detector import Detector
from exporter.detection.flag import INACTIVE, Flag
from exporter.evaluation.baseline_table import BaselineCache, BaselineTable, SeriesBaseline, decode_table, encode_table
from exporter.evaluation.history import HistoryEvaluator
from exporter.evaluation.series import BaselineRequest, SeriesBaselines, build_baselines, judged_far_enough
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import HistoryFacts, Snapshot
from exporter.model.calendar import HourClock, LocalHour
from exporter.model.span import SeriesKey
from exporter.runtime.logs import Log
from exporter.store import Store, StoreError

_PREPARE_SECONDS: Final = 300
"""So long before the hour turns, the next hour's book is worked out."""
_LOOK_SECONDS: Final = 2.0
_PAUSE_AFTER_FAILURE_SECONDS: Final = 60.0
_PAUSE_WITHOUT_BOOK_SECONDS: Final = 10.0
"""After a failure, where the poller goes without the book of the hour."""
_LONGEST_PAUSE_SECONDS: Final = 300.0
_SAY_AGAIN_SECONDS: Final = 600.0
_WORK_SHARE: Final = 0.1
"""While history still comes in, the book is kept up with it for this share of one processor at most."""


def _never() -> bool:
    return False


class BaselineManager:
    """Judges the stored history and keeps the book of the present hour."""

    def __init__(
        self,
        store: Store,
        clock: HourClock,
        settings: EvaluationSettings,
        *,
        settled_until: Callable[[], int],
        on_accepted: Callable[[], None],
        monotonic: Callable[[], float],
        log: Log,
        basis: str = "",
        patience_seconds: float = 0.0,
    ) -> None:
        """Take stock of the history; nothing is judged, and there is no book yet.

        Args:
            store: the history.
            clock: tells the local hours.
            settings: what a verdict depends on.
            settled_until: the instant up to which the ledger has no gap; later hours are not judged yet.
            on_accepted: is told of each lasting change that became the new normal.
            monotonic: seconds that never jump.
            log: takes what is accepted and released.
            basis: what a book rests on besides the history and the settings: the calendar.
            patience_seconds: how long to wait for a book that is asked for and not there, once for each hour.
        """
        self._store = store
        self._clock = clock
        self._basis = f"{__version__} {settings!r} {basis}"
        self._settings = settings
        self._detector = Detector(settings.fallback, settings.shift, clock)
        self._quiet_log = log.limited(_SAY_AGAIN_SECONDS, monotonic)
        self._past = HistoryEvaluator(store, self._detector, on_accepted, log, self._quiet_log)
        self._settled_until = settled_until
        self._monotonic = monotonic
        self._log = log
        self._shelf = BaselineCache(patience_seconds, monotonic, self._tell_missed)
        self._facts = HistoryFacts()
        self._measure()
        self._news = threading.Event()
        # Whatever was kept from before a restart is to be looked over.
        self._news.set()

    # For the poller

    def book(self, now: float) -> BaselineTable:
        """The baselines in force at an instant.

        Where those of its hour are not there, and do not come within the patience, those of another hour stay in force;
        at the start, where there are none, it is not known yet what is usual.
        """
        return self._shelf.get(self._clock.hour(int(now)).start)

    def wait_for_book(self, seconds: float) -> bool:
        """Wait, at most for so long, for the book that was asked for last and was not there; whether it has come."""
        return self._shelf.wait_for_missed(seconds)

    def _tell_missed(self, book: BaselineTable) -> None:
        self._log.info(
            "baseline_pending",
            "what is usual at this hour is being worked out; until then, what was known stays in force"
            if book.known
            else "what is usual at this hour is being worked out; until then there are no baselines and no verdicts",
        )

    def describe(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot with what is known of the history filled in."""
        return replace(snapshot, history=self._facts)

    def remember(self, flags: Mapping[SeriesKey, Flag], suspects: Mapping[SeriesKey, Sequence[int]]) -> None:
        """Keep flags and suspect hours over a restart."""
        if not flags and not suspects:
            return
        kept = {key: None if flag == INACTIVE else msgspec.json.encode(flag).decode() for key, flag in flags.items()}
        try:
            self._store.remember(kept, suspects)
        except StoreError as error:
            self._quiet_log.error(
                "flags_not_saved", "cannot save flags; they would not survive a restart now", error=error
            )

    def flags(self) -> dict[SeriesKey, Flag]:
        """The flags from before a restart."""
        known = {}
        for key, text in self._store.flags().items():
            try:
                known[key] = msgspec.json.decode(text, type=Flag)
            except msgspec.DecodeError as error:
                self._log.warning(
                    "flag_unreadable", "a stored flag is unreadable; it is inactive now", series=key, error=error
                )
        return known

    # For the ledger

    def windows_written(self) -> None:
        """There is more history: keep up with it soon. For any thread."""
        self._news.set()

    # Its own work

    def run(self, stop: threading.Event, clock: Callable[[], float]) -> None:
        """Keep the books until stopped.

        Args:
            stop: ends this soon.
            clock: Unix seconds.
        """
        try:
            self._keep_books(stop, clock)
        finally:
            self._shelf.close()

    def _keep_books(self, stop: threading.Event, clock: Callable[[], float]) -> None:
        def has_book() -> bool:
            return self._has_book(clock())

        def has_news() -> bool:
            # Where no history is read, hours settle without a word.
            return self._news.is_set() or not self._past.has_judged(self._judgeable(self._clock.hour(int(clock()))))

        resume_at = retry_at = self._monotonic()
        while True:
            began = self._monotonic()
            renewed = False
            try:
                if began < retry_at:
                    pass
                elif not has_book():
                    self.open_book(clock(), stop.is_set)
                elif began >= resume_at and has_news():
                    # However long that takes: if the hour turns meanwhile, its book comes first.
                    renewed = self.catch_up(clock(), lambda: stop.is_set() or not has_book())
                else:
                    self.prepare(clock(), stop.is_set)
            except StoreError as error:
                self._quiet_log.error(
                    "baseline_failed", "cannot build baselines; keeping the previous ones", error=error
                )
                retry_at = began + (_PAUSE_AFTER_FAILURE_SECONDS if has_book() else _PAUSE_WITHOUT_BOOK_SECONDS)
            except Exception:  # noqa: BLE001 - a defect of ours must neither end the loop nor go unseen
                self._log.exception("baseline_crashed", "building baselines failed unexpectedly")
                retry_at = began + _PAUSE_AFTER_FAILURE_SECONDS
            if renewed:
                ended = self._monotonic()
                resume_at = ended + min(_LONGEST_PAUSE_SECONDS, (ended - began) * (1 / _WORK_SHARE - 1))
            if stop.wait(_LOOK_SECONDS):
                return

    def _has_book(self, now: float) -> bool:
        return self._shelf.has(self._clock.hour(int(now)).start)

    def open_book(self, now: float, give_up: Callable[[], bool] = _never) -> None:
        """Put the book of the present hour in force, unless it is: the stored one, or it is worked out.

        Args:
            now: Unix seconds.
            give_up: asked before each series; once it says yes, all is left as it was.

        Raises:
            StoreError: the database cannot be read.
        """
        if self._has_book(now):
            return
        hour = self._clock.hour(int(now))
        began = self._monotonic()
        self._measure()
        book = kept = self._kept(hour)
        if book is None:
            with self._heeding_news():
                book = self._work_out(hour, give_up)
        if kept is not None or book is None or not self._past.has_judged(self._judgeable(hour)):
            self._news.set()
        if book is None:
            return
        if self._shelf.put(book):
            self._log.info(
                "baseline_ready", "baseline for this hour is ready", seconds=round(self._monotonic() - began, 1)
            )
        if kept is None:
            self._keep(book)

    def catch_up(self, now: float, give_up: Callable[[], bool] = _never) -> bool:
        """Judge what has settled, and renew the book of the present hour.

        Args:
            now: Unix seconds.
            give_up: once it says yes, as much as is judged by then is kept, and no book is renewed.

        Returns:
            Whether all of that was done.

        Raises:
            StoreError: the database refused.
        """
        hour = self._clock.hour(int(now))
        with self._heeding_news():
            until = self._judgeable(hour)
            # Whoever judges has the same history at hand that the book is made of, if that ends where judging does.
            question = self._question(hour, judged=True) if until == hour.start else None
            answers = self._past.catch_up(until, give_up, question)
            if question is None or answers is None:
                book = self._work_out(hour, give_up)
            else:
                book = self._bound(question, answers)
        if book is None:
            self._news.set()
            return False
        if not self._shelf.renew(book):
            # Meanwhile the hour has turned, and the book that is in force by now knows less than this one.
            self._news.set()
        self._measure()
        self._keep(book)
        return True

    def prepare(self, now: float, give_up: Callable[[], bool] = _never) -> None:
        """If the hour is about to turn, work out the next one's book.

        Args:
            now: Unix seconds.
            give_up: asked before each series; once it says yes, there is none yet.

        Raises:
            StoreError: the database cannot be read.
        """
        hour = self._clock.hour(int(now))
        if hour.end - now > _PREPARE_SECONDS or self._has_book(hour.end):
            return
        book = self._work_out(self._clock.hour(hour.end), give_up)
        if book is None:
            return
        self._shelf.prepare(book)
        self._measure()
        self._keep(book)

    def _work_out(self, hour: LocalHour, give_up: Callable[[], bool]) -> BaselineTable | None:
        """What is usual in an hour, and in those before it that the current window reaches into; None if given up."""
        question = self._question(hour, judged=judged_far_enough(self._past.until, hour.start))
        histories = self._store.history(self._store.series(), question.since, hour.start)
        wanted = takewhile(lambda _: not give_up(), histories)
        book = self._bound(question, (build_baselines(question, stored, self._detector) for stored in wanted))
        return None if give_up() else book

    @contextmanager
    def _heeding_news(self) -> Iterator[None]:
        """What has become of the history by now is being seen to, unless that fails."""
        self._news.clear()
        try:
            yield
        except BaseException:
            self._news.set()
            raise

    def _judgeable(self, hour: LocalHour) -> int:
        """Up to when the past can be judged in an hour: hours are judged whole, however short the ledger's windows."""
        return self._clock.hour(min(self._settled_until(), hour.start)).start

    def _question(self, hour: LocalHour, *, judged: bool) -> BaselineRequest:
        """What the book of an hour needs to know of every series."""
        hours = self._within_reach(hour)
        since = hours[0].start - self._settings.fallback.lookback_seconds
        return BaselineRequest(hours, since, self._settings.outlier, judged)

    def _bound(self, question: BaselineRequest, answers: Iterable[SeriesBaselines]) -> BaselineTable:
        """The book that answers make, with those of the earlier hours."""
        pages: list[dict[SeriesKey, SeriesBaseline]] = [{} for _ in question.hours]
        for key, usual, damage in answers:
            if damage is not None:
                self._quiet_log.error(
                    "baseline_damaged",
                    "stored history of a series is damaged; it has no baseline",
                    per=key,
                    series=key,
                    error=damage,
                )
            for page, baseline in zip(pages, usual, strict=False):
                page[key] = baseline
        book: BaselineTable | None = None
        for hour, page in zip(question.hours, pages, strict=True):
            book = BaselineTable(hour.start, page, before=book, judged=question.judged)
        assert book is not None, "an hour is within its own reach"  # noqa: S101
        return book

    def _keep(self, book: BaselineTable) -> None:
        """Store a book, once there is nothing left to wait for."""
        if book.judged:
            self._store.save_book(book.start, encode_table(book, self._basis))

    def _kept(self, hour: LocalHour) -> BaselineTable | None:
        """The stored book of an hour; it is renewed soon, but a restart does not wait for that."""
        data = self._store.book(hour.start)
        return None if data is None else decode_table(data, self._basis)

    def _within_reach(self, hour: LocalHour) -> list[LocalHour]:
        """The hours, oldest first, that a window may reach into while the given one lasts; that one comes last."""
        hours = [hour]
        while hours[0].start > hour.start - self._settings.shift.max_window_seconds:
            hours.insert(0, self._clock.hour(hours[0].start - 1))
        return hours

    def _measure(self) -> None:
        """Take stock of the history that the book in force knows."""
        try:
            totals = self._store.totals()
        except StoreError as error:
            self._quiet_log.error("history_stats_failed", "cannot count the stored history", error=error)
            return
        self._facts = HistoryFacts(
            windows=totals.windows,
            traces=totals.traces,
            oldest_trace_at=totals.oldest_window_start,
            storage_bytes=self._store.size_bytes(),
            quarantined_windows=totals.quarantined,
        )
