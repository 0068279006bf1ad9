"""Current verdicts on services as a whole, from the evaluation windows of their endpoints, and their flags."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from exporter.detection.flag import INACTIVE, Flag, FlagEvent, resumed_flag
from exporter.detection.parameters import MIN_EVALUATED_TRACES, Parameters
from exporter.detection.service_shift import EndpointLatency, ServiceVerdict, advance_service_flag, judge_service
from exporter.evaluation.baseline_table import BaselineTable
from exporter.evaluation.snapshot import SeriesStatus, ServiceStatus
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey
from exporter.runtime.logs import Log
from exporter.store import Store, StoreError

_REPEAT_SECONDS: Final = 600.0

ServiceFlags = Mapping[ServiceKey, Flag]


class ServiceFlagStore:
    """Saves the flags of services as they change, and loads them after a restart."""

    def __init__(self, store: Store, *, monotonic: Callable[[], float], log: Log) -> None:
        self._store = store
        self._log = log
        self._quiet_log = log.limited(_REPEAT_SECONDS, monotonic)

    def save(self, flags: ServiceFlags) -> None:
        """Save all flags. A failure is logged, never raised."""
        try:
            self._store.save_service_flags(msgspec.json.encode(list(flags.items())).decode())
        except StoreError as error:
            self._quiet_log.error(
                "flags_not_saved", "cannot save flags; they would not survive a restart now", error=error
            )

    def load(self) -> dict[ServiceKey, Flag]:
        """The saved flags; none if they are unreadable.

        Raises:
            StoreError: the store cannot be read.
        """
        text = self._store.service_flags()
        try:
            return {} if text is None else dict(msgspec.json.decode(text, type=list[tuple[ServiceKey, Flag]]))
        except ValueError as error:
            self._log.warning("flag_unreadable", "the stored flags of services are unreadable", error=error)
            return {}


class _Place(NamedTuple):
    """Where the window of a series is compared: the usual median, and the endpoints of its service in this tick."""

    usual_seconds: float
    endpoints: list[EndpointLatency]


class LiveServices:
    """The flags of all services. Not thread-safe.

    Like those of series, they are advanced at every tick, and stay as they are while nothing is evaluated.
    """

    def __init__(
        self, parameters: Parameters, flags: ServiceFlagStore, log: Log, *, max_pause_seconds: float = float("inf")
    ) -> None:
        """Continue with the saved flags.

        Args:
            parameters: settings of the detector.
            flags: saves flags over restarts.
            log: receives flags that started firing or were resolved.
            max_pause_seconds: after more time without a tick, hold times start again, as after a restart.

        Raises:
            StoreError: the store cannot be read.
        """
        self._parameters = parameters
        self._store = flags
        self._log = log
        self._max_pause_seconds = max_pause_seconds
        self._flags: dict[ServiceKey, Flag] = flags.load()
        self._ticked_at: float | None = None
        self._table: BaselineTable | None = None
        self._places: dict[SeriesKey, _Place] = {}
        self._endpoints: dict[ServiceKey, list[EndpointLatency]] = {}

    def use(self, parameters: Parameters) -> None:
        """Evaluate with other settings from the next tick on."""
        self._parameters = parameters

    def hold(self) -> tuple[ServiceStatus, ...]:
        """Return the flags that fire, while nothing is evaluated."""
        return tuple(
            ServiceStatus(key, None, flag.firing, flag.since)
            for key, flag in sorted(self._flags.items())
            if flag.firing
        )

    def tick(self, statuses: Sequence[SeriesStatus], table: BaselineTable, now: float) -> tuple[ServiceStatus, ...]:
        """Judge all services; those of which nothing is known are left out.

        Args:
            statuses: the current state of the series.
            table: the baselines that they were evaluated with.
            now: the time of the tick, Unix seconds.
        """
        if not table.is_evaluated:
            return self.hold()
        if table is not self._table:
            self._use_table(table)
        self._compare(statuses)
        was_paused = self._ticked_at is None or now - self._ticked_at > self._max_pause_seconds
        self._ticked_at = now
        found = []
        before = dict(self._flags)
        for key in sorted(self._endpoints.keys() | self._flags.keys()):
            baseline, verdict = table.services.get(key), None
            if baseline is not None:
                verdict = judge_service(self._endpoints[key], baseline, table.start, now, self._parameters)
            status = self._advance(key, verdict, now, was_paused=was_paused)
            if verdict is not None or status.firing:
                found.append(status)
        if self._flags != before:
            self._store.save(self._flags)
        return tuple(found)

    def _use_table(self, table: BaselineTable) -> None:
        self._table = table
        self._endpoints = {key: [] for key in table.services}
        self._places = {}
        for key, series in table.series.items():
            endpoints = self._endpoints.get(ServiceKey.of(key))
            # The same series that have deviations in the history: those that are evaluated by window.
            if endpoints is not None and series.thresholds is not None and series.baseline is not None:
                usual = series.baseline.p50_seconds
                if usual > 0:
                    self._places[key] = _Place(usual, endpoints)

    def _compare(self, statuses: Sequence[SeriesStatus]) -> None:
        """Compare the evaluation windows of all series with their baselines, by service."""
        for endpoints in self._endpoints.values():
            endpoints.clear()
        places = self._places
        for status in statuses:
            place = places.get(status.key)
            seconds = status.current_p50_seconds
            if place is None or seconds is None or (status.marks and status.is_quiet):
                continue
            if (status.current_traces or 0) >= MIN_EVALUATED_TRACES:
                place.endpoints.append((seconds, place.usual_seconds))

    def _advance(
        self, key: ServiceKey, verdict: ServiceVerdict | None, now: float, *, was_paused: bool
    ) -> ServiceStatus:
        flag = self._flags.get(key, INACTIVE)
        flag, event = advance_service_flag(resumed_flag(flag) if was_paused else flag, now, verdict, self._parameters)
        if flag == INACTIVE:
            self._flags.pop(key, None)
        else:
            self._flags[key] = flag
        if event is not None:
            self._report(key, event, verdict)
        return ServiceStatus(key, verdict, flag.firing, flag.since)

    def _report(self, key: ServiceKey, event: FlagEvent, verdict: ServiceVerdict | None) -> None:
        if event is FlagEvent.RESOLVED:
            self._log.info("service_shift_resolved", "a service is back at its usual latency", **key.fields)
        elif verdict is not None:
            self._log.warning(
                "service_shift_firing",
                "most endpoints of a service are slower than usual, by about the same factor",
                **key.fields,
                ratio=round(verdict.ratio, 2),
                limit_ratio=round(verdict.threshold_ratio, 2),
                endpoints=verdict.endpoints,
            )
