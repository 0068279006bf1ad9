"""Cost of keeping incidents in a poll cycle, and whether it grows with the number of flags only."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import Final

from benchmarks.context import Context
from benchmarks.report import Budget, Figure, Reference, amount
from exporter.cause.account import Account, ComponentChange, ServiceBlame
from exporter.cause.profile import Component
from exporter.cause.verdict import CauseKind, CausePart, CauseVerdict, Outcome
from exporter.evaluation.causes.shift_cause import Shift, ShiftCause
from exporter.evaluation.incident_tracker import IncidentTracker
from exporter.evaluation.live.time_lost import TimeLost
from exporter.evaluation.snapshot import SeriesStatus
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.store import Store

_FLAGS: Final = 1000
_FLAGS_PER_INCIDENT: Final = 5
_BLAMED: Final = 6
"""Services that an account blames."""
_SMALLER: Final = 10
"""The reference has so many times fewer flags and incidents."""
_BUDGET: Final = Budget(20.0, "ratio")
"""Twice what is proportional; with the square of the number it would be 100 times as much."""
_SINCE: Final = 1_000_000.0
_INTERVAL_SECONDS: Final = 15.0

Layout = Callable[[int], list[SeriesStatus]]


def measure(context: Context) -> Iterator[Figure]:
    """Yield the time of a cycle in which all flags fire and nothing changes but scores and time lost."""
    flags = min(_FLAGS, context.series[-1] * _SMALLER)
    layouts: Sequence[tuple[str, Layout]] = (
        ("each with its own cause", _with_causes),
        ("that are held together by calls, without a cause", _by_calls),
        ("all in one incident", _in_one),
    )
    for what, layout in layouts:
        fewer, _ = _cycles(layout, flags // _SMALLER, context.repeats)
        seconds, incidents = _cycles(layout, flags, context.repeats)
        yield Figure(
            f"incidents in a poll cycle, {flags:,} flags in {incidents:,} open incidents {what}: CPU, median"
            if incidents > 1
            else f"incidents in a poll cycle, {flags:,} flags {what}: CPU, median",
            median(seconds),
            "seconds",
            Reference(f"with {flags // _SMALLER:,} flags", median(fewer)),
            _BUDGET,
            detail=f"first cycle {amount(seconds[0], 'seconds')}",
        )


def _cycles(layout: Layout, flags: int, repeats: int) -> tuple[list[float], int]:
    """Return the CPU time of each cycle, and the number of open incidents."""
    statuses = layout(flags)
    # Without a handler, warnings go to standard error.
    logging.getLogger("exporter").addHandler(logging.NullHandler())
    store = Store.in_memory()
    tracker = IncidentTracker(
        store, renamed=lambda key: key, monotonic=lambda: 0.0, log=get_logger("benchmarks.tracker")
    )
    seconds: list[float] = []
    for number in range(max(3, min(20, repeats))):
        lost = TimeLost(number, float(number), _SINCE)
        present = [replace(status, time_lost=lost, score=2.0 + number / 100) for status in statuses]
        began = time.process_time()
        tracker.observe(present, _SINCE + 60.0 + number * _INTERVAL_SECONDS)
        seconds.append(time.process_time() - began)
    incidents = len(tracker.open)
    store.close()
    return seconds, incidents


def _with_causes(flags: int) -> list[SeriesStatus]:
    """Flags of which each five share a cause, and blame some services of others, too."""
    groups = max(1, flags // _FLAGS_PER_INCIDENT)
    return [
        _status(number, [f"service-{(number + step) % groups}" for step in range(_BLAMED)], is_known=True)
        for number in range(flags)
    ]


def _by_calls(flags: int) -> list[SeriesStatus]:
    """Flags of which each five call one another in a chain, the last one first."""
    return [
        _status(number, [], calls=None if number % _FLAGS_PER_INCIDENT == 0 else number - 1) for number in range(flags)
    ]


def _in_one(flags: int) -> list[SeriesStatus]:
    return [_status(number, [], calls=None if number == 0 else number - 1) for number in range(flags)]


def _key(number: int) -> SeriesKey:
    return SeriesKey(f"endpoints-{number}", f"GET /{number}")


def _status(number: int, blamed: Sequence[str], *, is_known: bool = False, calls: int | None = None) -> SeriesStatus:
    """Return a firing flag with an account.

    Args:
        number: of the endpoint.
        blamed: services with a part of the extra time, the first with most of it.
        is_known: whether the first one is named as the cause.
        calls: number of the endpoint that this one calls.
    """
    called = _key(number if calls is None else calls)
    operations = [(name, "INSERT") for name in blamed] + [(called.service_name, called.span_name)]
    changes = [ComponentChange(Component(*names, "server"), 0.1, 0.5, 1.0, 1.0, 1.0, 1.0) for names in operations]
    share = 1.0 / (len(blamed) + 2)
    services = [
        ServiceBlame(name, 3 * share if place == 0 else share, 0.6 if place == 0 else 0.1, 0.5, 0.95)
        for place, name in enumerate(blamed)
    ]
    account = Account(20, 20, 0.1, 1.0, 0.0, changes, services, 1.0, 1.0, 0.0)
    verdict = CauseVerdict(Outcome.UNCLEAR, account, 20, 20)
    if is_known:
        part = CausePart(changes[0], CauseKind.SLOWER_CALLS, 0.6)
        verdict = replace(
            verdict, outcome=Outcome.KNOWN, service_name=blamed[0], share=0.6, kind=part.kind, parts=[part]
        )
    key = _key(number)
    return SeriesStatus(
        key,
        current_traces=100,
        shift=True,
        since=_SINCE + number % 60,
        cause=ShiftCause(Shift(key, _SINCE + 60.0, _SINCE + number % 60), verdict, "it is slow"),
    )
