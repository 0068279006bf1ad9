"""Builds baseline tables from the stored history, and stores finished tables for the next start."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import takewhile

from exporter.detection.detector import Detector
from exporter.evaluation.baseline_table import BaselineTable, SeriesBaseline, decode_table, encode_table
from exporter.evaluation.history import HistoryEvaluator
from exporter.evaluation.series import BaselineRequest, SeriesBaselines, build_baselines, is_evaluated_far_enough
from exporter.evaluation.service_history import ServiceHistory
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import HistoryFacts
from exporter.evaluation.stored_source import read_source
from exporter.model.calendar import HourClock, LocalHour
from exporter.model.span import SeriesKey
from exporter.model.time_mark import NO_MARKS, TimeMarks
from exporter.runtime.logs import LimitedLog
from exporter.store import Store


class BaselineTableBuilder:
    """Builds the baseline table of an hour. Not thread-safe."""

    def __init__(
        self,
        store: Store,
        detector: Detector,
        evaluator: HistoryEvaluator,
        settings: EvaluationSettings,
        *,
        settled_until: Callable[[], int],
        basis: str,
        quiet_log: LimitedLog,
        marks: Callable[[], TimeMarks] = lambda: NO_MARKS,
        services: ServiceHistory | None = None,
    ) -> None:
        """Use a store; nothing is built yet.

        Args:
            store: the history.
            detector: the rules.
            evaluator: evaluates settled hours before a table is built from them.
            settings: what a verdict depends on.
            settled_until: the instant before which the ledger has no gap, Unix seconds.
            basis: identifies what stored tables depend on besides the history; others are ignored.
            quiet_log: receives damage that would otherwise repeat at every build.
            marks: returns what people know about ranges of time.
            services: learns the baselines of services; it is notified of what the evaluator stores.
        """
        self._marks = marks
        self._services = ServiceHistory(store, detector.clock) if services is None else services
        self._store = store
        self._detector = detector
        self._evaluator = evaluator
        self._settings = settings
        self._settled_until = settled_until
        self._basis = basis
        self._quiet_log = quiet_log

    @property
    def _clock(self) -> HourClock:
        return self._detector.clock

    def is_evaluated(self, hour: LocalHour) -> bool:
        """Whether all history that an hour's table may use is evaluated.

        Raises:
            StoreError: the database cannot be read.
        """
        return self._evaluator.is_evaluated(self._evaluable_until(hour))

    def build(self, hour: LocalHour, should_stop: Callable[[], bool]) -> BaselineTable | None:
        """Build the table of an hour from the history as it is evaluated now; None if stopped.

        Args:
            hour: the hour.
            should_stop: asked before each series.

        Raises:
            StoreError: the database cannot be read.
        """
        is_evaluated = is_evaluated_far_enough(self._evaluator.evaluated_until, hour.start)
        request = self._request(hour, is_evaluated=is_evaluated)
        histories = self._store.history(self._store.series(), request.since, hour.start)
        wanted = takewhile(lambda _: not should_stop(), histories)
        detector = replace(self._detector, marks=self._marks())
        known = map(self._evaluator.with_sums, wanted)
        table = self._table(request, (build_baselines(request, stored, detector) for stored in known))
        return None if should_stop() else table

    def evaluate_and_build(self, hour: LocalHour, should_stop: Callable[[], bool]) -> BaselineTable | None:
        """Evaluate the hours that have settled, then build the table of an hour; None if stopped.

        Args:
            hour: the hour.
            should_stop: asked before each series; what was evaluated until then is kept.

        Raises:
            StoreError: the database failed.
        """
        until = self._evaluable_until(hour)
        # If evaluation ends where the table's history ends, both can share one read of each series.
        request = self._request(hour, is_evaluated=True) if until == hour.start else None
        baselines = self._evaluator.catch_up(until, should_stop, request)
        if request is None or baselines is None:
            return self.build(hour, should_stop)
        return self._table(request, baselines)

    def load(self, hour: LocalHour) -> BaselineTable | None:
        """Load the stored table of an hour, if there is one and it was built on the same basis.

        Raises:
            StoreError: the database cannot be read.
        """
        data = self._store.baseline_table(hour.start)
        return None if data is None else decode_table(data, self._basis)

    def save(self, table: BaselineTable) -> None:
        """Store a table, unless the history was not evaluated far enough when it was built.

        Raises:
            StoreError: the database failed.
        """
        if table.is_evaluated:
            self._store.save_baseline_table(table.start, encode_table(table, self._basis))

    def count_history(self) -> HistoryFacts:
        """Count the stored history.

        Raises:
            StoreError: the database cannot be read.
        """
        totals = self._store.totals()
        return HistoryFacts(
            windows=totals.windows,
            traces=totals.traces,
            oldest_trace_at=totals.oldest_window_start,
            storage_bytes=self._store.size_bytes(),
            quarantined_windows=totals.quarantined,
        )

    def _evaluable_until(self, hour: LocalHour) -> int:
        """The end of the history that can be evaluated: whole hours only, however short the ledger's windows are."""
        return self._clock.hour(min(self._settled_until(), hour.start)).start

    def _request(self, hour: LocalHour, *, is_evaluated: bool) -> BaselineRequest:
        hours = self._hours_in_reach(hour)
        since = hours[0].start - self._settings.fallback.lookback_seconds
        around = (self._clock.hour(hour.start - 1), hour, self._clock.hour(hour.end))
        return BaselineRequest(
            hours,
            since,
            self._settings.outlier,
            is_evaluated,
            read_source(self._store, self._detector, hour.start, hour.start),
            around,
        )

    def _hours_in_reach(self, hour: LocalHour) -> list[LocalHour]:
        """The hours that an evaluation window may reach into during an hour, oldest first; the hour itself is last."""
        hours = [hour]
        while hours[0].start > hour.start - self._settings.shift.max_window_seconds:
            hours.insert(0, self._clock.hour(hours[0].start - 1))
        return hours

    def _table(self, request: BaselineRequest, all_baselines: Iterable[SeriesBaselines]) -> BaselineTable:
        """Collect the baselines of all series into the table of the last hour, linked to those before it."""
        by_hour: list[dict[SeriesKey, SeriesBaseline]] = [{} for _ in request.hours]
        for key, baselines, damage in all_baselines:
            if damage is not None:
                self._quiet_log.error(
                    "baseline_damaged",
                    "stored history of a series is damaged; it has no baseline",
                    per=key,
                    series=key.parts,
                    error=damage,
                )
            for series, baseline in zip(by_hour, baselines, strict=False):
                series[key] = baseline
        table: BaselineTable | None = None
        for hour, series in zip(request.hours, by_hour, strict=True):
            table = BaselineTable(hour.start, series, before=table, is_evaluated=request.is_evaluated)
        assert table is not None, "a request has at least one hour"  # noqa: S101
        until = self._evaluator.evaluated_until
        if not request.is_evaluated or until is None:
            return table
        hour_of_day = request.hours[-1].slot.hour
        learned = self._services.learn(self._store.series(), min(until, table.start))
        services = {key: found for key, each in learned.items() if (found := each.get(hour_of_day)) is not None}
        return replace(table, services=services)
