"""Looks for the causes of firing shifts, one at a time, in a thread of its own.

The poller hands over which flags fire and takes the causes that are known by then; neither waits for the other. A flag
is looked at as soon as it fires, those that belong to no incident first, then those with the highest score, and again
while it fires.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from exporter.cause.verdict import Outcome
from exporter.evaluation.attempts import Attempt, Attempts
from exporter.evaluation.causes.shift_cause import Shift, ShiftCause
from exporter.evaluation.wakeup import Wakeup, run_steps
from exporter.model.span import SeriesKey
from exporter.runtime.logs import Log
from exporter.runtime.telemetry import Loop, Telemetry

UNKNOWN_SECONDS: Final = 300.0
"""A shift without a known cause is looked at again after this time."""
KNOWN_SECONDS: Final = 1800.0
"""A shift with a known cause is looked at again after this time."""
FAILED_SECONDS: Final = 20.0
"""A shift whose first attempt failed is looked at again after this time."""
_PENDING_SECONDS: Final = 180.0
"""A shift is pending for this time at most, because an alert about its endpoint waits for that."""
_MAX_KEPT: Final = 200
"""Causes that are kept in memory, of firing flags and of resolved ones."""
_IDLE_SECONDS: Final = 60.0


class CauseSource(Protocol):
    """Looks for the cause of one shift; see :class:`exporter.evaluation.causes.search.CauseSearch`."""

    def find(self, shift: Shift, *, loop: Loop) -> ShiftCause:
        """Look for the cause; raises StoppedError."""


class CauseFinder:
    """Keeps the causes of the firing shifts.

    :meth:`observe`, :attr:`causes` and :attr:`pending` are thread-safe; :meth:`run` and :meth:`look_at_next` belong to
    one thread.
    """

    def __init__(
        self,
        search: CauseSource,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        log: Log,
    ) -> None:
        """Start without shifts.

        Args:
            search: looks for one cause.
            telemetry: counts attempts.
            clock: Unix seconds.
            monotonic: seconds that never jump.
            log: receives the causes.
        """
        self._search = search
        self._telemetry = telemetry
        self._clock = clock
        self._monotonic = monotonic
        self._log = log
        self._wakeup = Wakeup()
        # Both are replaced as a whole, never changed.
        self._shifts: Mapping[SeriesKey, Shift] = {}
        self._first_seen: Mapping[SeriesKey, float] = {}
        self._causes: Mapping[SeriesKey, ShiftCause] = {}
        self._attempts = Attempts(monotonic)

    def use(self, search: CauseSource) -> None:
        """Look for causes with another search from the next one on. Thread-safe."""
        self._search = search

    @property
    def causes(self) -> Mapping[SeriesKey, ShiftCause]:
        """The latest cause of each shift that was looked at, also of some that are over."""
        return self._causes

    @property
    def pending(self) -> frozenset[SeriesKey]:
        """The shifts whose cause is looked for for the first time, for three minutes at most."""
        oldest = self._monotonic() - _PENDING_SECONDS
        return frozenset(
            key
            for key, shift in self._shifts.items()
            if self._first_seen.get(key, oldest) > oldest and not self._attempts_at(shift).is_settled
        )

    def observe(self, shifts: Sequence[Shift]) -> None:
        """Take the shifts that fire now. Returns at once."""
        before, seen, at = self._shifts, self._first_seen, self._monotonic()
        self._first_seen = {
            shift.key: seen[shift.key] if shift.key in before and before[shift.key].since == shift.since else at
            for shift in shifts
        }
        self._shifts = now = {shift.key: shift for shift in shifts}
        if any(key not in before or before[key].since != shift.since for key, shift in now.items()):
            self._wakeup.set()

    def run(self, stop: threading.Event) -> None:
        """Look for causes until stopped.

        Args:
            stop: ends the loop once set; a request under way is cut off.
        """

        def log_crash() -> None:
            self._log.exception("cause_crashed", "looking for the cause of a shift failed unexpectedly")

        run_steps(self.look_at_next, self._wakeup, stop, log_crash)

    def look_at_next(self) -> float:
        """Look at the most urgent shift that is due, if any.

        Returns:
            The seconds until another one is due; 0 if one is due now.

        Raises:
            StoppedError: the exporter is stopping.
        """
        now = self._monotonic()
        shifts = self._shifts
        self._attempts.retain(shifts)
        # A flag that belongs to no incident has an alert of its own.
        due = sorted(
            [shift for shift in shifts.values() if self._attempts_at(shift).due_at <= now],
            key=lambda shift: (self._was_looked_at(shift), shift.in_incident, -shift.score, shift.key),
        )
        self._telemetry.causes_pending(sum(not self._was_looked_at(shift) for shift in due))
        if due:
            self._look_at(due[0])
            self._telemetry.causes_pending(sum(not self._was_looked_at(shift) for shift in due[1:]))
            if len(due) > 1:
                return 0.0
        next_at = min((self._attempts_at(shift).due_at for shift in shifts.values()), default=now + _IDLE_SECONDS)
        return max(0.0, next_at - now)

    def _attempts_at(self, shift: Shift) -> Attempt:
        return self._attempts.of(shift.key, shift.since)

    def _was_looked_at(self, shift: Shift) -> bool:
        return self._attempts_at(shift).number > 0

    def _look_at(self, shift: Shift) -> None:
        number = self._attempts.begin(shift.key, shift.since, UNKNOWN_SECONDS)
        cause = self._search.find(replace(shift, at=self._clock()), loop="cause")
        is_repeated_soon = number == 1 and cause.verdict.outcome is Outcome.FAILED
        seconds = UNKNOWN_SECONDS
        if cause.verdict.outcome is Outcome.KNOWN:
            seconds = KNOWN_SECONDS
        elif is_repeated_soon:
            seconds = FAILED_SECONDS
        self._attempts.end(shift.key, shift.since, seconds, is_settled=not is_repeated_soon)
        self._telemetry.cause_sought(cause.verdict.outcome.value, cause.seconds)
        before = self._causes.get(shift.key)
        if before is not None and before.shift.since == shift.since and _is_better(before, cause):
            return
        self._keep(cause)
        if before is None or before.shift.since != shift.since or _said(before) != _said(cause):
            self._log_cause(cause)

    def _keep(self, cause: ShiftCause) -> None:
        others = [each for key, each in self._causes.items() if key != cause.shift.key]
        kept = sorted(others, key=lambda each: (each.shift.key in self._shifts, each.shift.at))[-(_MAX_KEPT - 1) :]
        self._causes = {each.shift.key: each for each in (*kept, cause)}

    def _log_cause(self, cause: ShiftCause) -> None:
        self._log.info(
            "shift_cause",
            cause.text,
            **cause.shift.key.fields,
            outcome=cause.verdict.outcome.value,
            cause_service_name=cause.verdict.service_name,
            cause=None if cause.verdict.kind is None else cause.verdict.kind.value,
            requests=cause.requests,
            seconds=round(cause.seconds, 1),
            slow_trace_id=cause.slow_trace_id,
        )


def _is_better(before: ShiftCause, after: ShiftCause) -> bool:
    """Whether a failed or empty attempt must not replace what was found before."""
    says_nothing = after.verdict.outcome in (Outcome.FAILED, Outcome.NO_TRACES)
    return says_nothing and before.verdict.outcome not in (Outcome.FAILED, Outcome.NO_TRACES)


def _said(cause: ShiftCause) -> tuple[object, ...]:
    """What makes a cause worth another log line if it changes."""
    return cause.verdict.outcome, cause.verdict.service_name, cause.verdict.kind
