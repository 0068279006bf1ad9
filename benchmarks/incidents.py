"""Measures what becomes of days on which many endpoints are flagged at once: how many notifications a fault causes, and
whether they name the right service.

The days are synthetic, except for the labelled faults of benchmarks/data/README.md. Traces are generated; the shift
test, the account of causes, the queue of flags whose cause is looked for and the incidents are those of the exporter,
cycle by cycle. Alerts are counted as configs/prometheus and configs/alertmanager have them.
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from benchmarks.cause import Candidate, Fault, Method, Request, is_shifted, load
from benchmarks.detection.results import Result, compared, header
from benchmarks.report import table
from benchmarks.service_graph import GraphFault, ServiceGraph, generated, pet_shop, train_ticket
from exporter.cause.incidents import Incident
from exporter.cause.sentence import sentence
from exporter.cause.verdict import CauseVerdict, Outcome
from exporter.evaluation.causes.finder import CauseFinder
from exporter.evaluation.causes.shift_cause import Shift, ShiftCause
from exporter.evaluation.incident_tracker import IncidentTracker
from exporter.evaluation.snapshot import SeriesStatus
from exporter.metrics.self_metrics import SelfMetrics
from exporter.model.critical_path import TraceSpan
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.runtime.telemetry import Loop
from exporter.store import Store

_DATA: Final = Path(__file__).parent / "data" / "cause.json.gz"
_CYCLE_SECONDS: Final = 15
_WINDOW_SECONDS: Final = 300
_BEFORE_SECONDS: Final = 60
"""An incident's traces begin this long before its flag, as in the search for causes."""
_FAULT_SECONDS: Final = 1200
_APART_SECONDS: Final = 3600
_OVERLAP_SECONDS: Final = 180
"""The second of two faults at the same time begins this much later."""
_FIRST_SECONDS: Final = 100_000
_POOL: Final = 200
_PER_ENTRY: Final = 12.0
"""Requests per minute of each endpoint that users call."""
_MAX_RATE: Final = 40.0
_RISE_CYCLES: Final = 2
_RESOLVE_CYCLES: Final = 6
_ALERT_SECONDS: Final = 60
"""``for`` of the alerts, and ``group_wait`` of their routes."""
_INHIBITED_SECONDS: Final = 660
"""``keep_firing_for`` of the alert that inhibits those about endpoints."""
_FLAPPING: Final = 0.15
"""Share of the endpoints whose flag is resolved for a while in the middle of a fault."""
_FAILED: Final = 0.05
"""Share of the searches for a cause that fail."""
_CHANCE: Final = 8
"""Flags by chance each day."""
_CHANCE_SECONDS: Final = 420
_SEARCH_SECONDS: Final = (1.0, 5.0)
"""How long a search for a cause takes."""


class Injected(NamedTuple):
    """A fault in time.

    Attributes:
        right_services: the services that may be named as its cause.
        begin: Unix seconds.
        end: Unix seconds.
        kind: what is wrong.
    """

    right_services: tuple[str, ...]
    begin: float
    end: float
    kind: str

    def is_active(self, at: float) -> bool:
        """Whether requests are affected."""
        return self.begin <= at < self.end


@dataclass(frozen=True)
class Day:
    """A day of a system.

    Attributes:
        rates: requests per minute of each endpoint.
        faults: what goes wrong.
        extra: how much longer requests of an endpoint take on average because of a fault.
        pool: requests of an endpoint while certain faults, by number, are active.
        chance: flags by chance: endpoint and beginning.
        seed: of all that is random.
    """

    rates: Mapping[SeriesKey, float]
    faults: Sequence[Injected]
    extra: Callable[[SeriesKey, int], float]
    pool: Callable[[SeriesKey, tuple[int, ...]], Sequence[Request]]
    chance: Sequence[tuple[SeriesKey, float]]
    seed: str

    def active(self, key: SeriesKey, at: float) -> tuple[int, ...]:
        """Return the faults that affect an endpoint."""
        return tuple(n for n, fault in enumerate(self.faults) if fault.is_active(at) and self.extra(key, n) > 0)

    def culprit(self, key: SeriesKey, at: float) -> int | None:
        """Return the fault that costs an endpoint most now or in its evaluation window; None for a flag by chance."""
        near = [
            number
            for number, fault in enumerate(self.faults)
            if fault.begin <= at < fault.end + 2 * _WINDOW_SECONDS and self.extra(key, number) > 0
        ]
        return max(near, key=lambda number: (self.extra(key, number), -number), default=None)

    def window(self, key: SeriesKey, start: float, end: float) -> list[Request]:
        """Return the requests that an endpoint has had in a range of time."""
        step = 60 / self.rates[key]
        found = []
        for number in range(int(start / step) + 1, int(end / step) + 1):
            pool = self.pool(key, self.active(key, number * step))
            if pool:
                found.append(pool[number % len(pool)])
        return found


# Flags


@dataclass(slots=True)
class _Flag:
    """The flag of an endpoint."""

    day: Day
    key: SeriesKey
    since: float | None = None
    pending_since: float = 0.0
    shifted: int = 0
    calm: int = 0
    suppressed_until: float = 0.0
    score: float = 0.0
    traces: int = 0
    has_flapped: bool = False

    def evaluate(self, at: float, is_chance: bool) -> None:
        day, key = self.day, self.key
        durations = [each.duration_ns for each in day.window(key, at - _WINDOW_SECONDS, at)]
        usual = [each.duration_ns for each in day.pool(key, ())]
        self.traces = len(durations)
        self.score = sum(durations) / max(1, len(durations)) / (1.5 * sum(usual) / len(usual))
        is_slow = is_chance or (bool(durations) and is_shifted(durations, usual))
        is_slow = is_slow and at >= self.suppressed_until
        if is_slow:
            self.pending_since = self.pending_since if self.shifted else at
        self.shifted = self.shifted + 1 if is_slow else 0
        self.calm = 0 if is_slow else self.calm + 1
        if self.since is None and self.shifted >= _RISE_CYCLES:
            self.since = self.pending_since
        elif self.since is not None and (self.calm >= _RESOLVE_CYCLES or at < self.suppressed_until):
            self.since = None
        random = Random(f"{day.seed}/flap/{key.text}/{day.culprit(key, at)}").random()
        lasts = self.since is not None and at - self.since >= _WINDOW_SECONDS
        if lasts and random < _FLAPPING and not self.has_flapped:
            self.suppressed_until = at + 60 + 120 * random / _FLAPPING
            self.has_flapped = True

    @property
    def is_idle(self) -> bool:
        return self.since is None and not self.shifted


# Searching for causes


class _Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class _Search:
    """Finds causes as the exporter's search, in traces of the day instead of Tempo's."""

    def __init__(self, day: Day, clock: _Clock) -> None:
        self._day = day
        self._clock = clock

    def find(self, shift: Shift, *, loop: Loop) -> ShiftCause:  # noqa: ARG002 - the exporter's interface
        rng = Random(f"{self._day.seed}/search/{shift.key.text}/{shift.at}")
        self._clock.now += rng.uniform(*_SEARCH_SECONDS)
        if rng.random() < _FAILED:
            return ShiftCause(shift, CauseVerdict(Outcome.FAILED, None, 0, 0), "Not known why: Tempo did not answer.")
        since = shift.at if shift.since is None else shift.since
        start = max(shift.at - _WINDOW_SECONDS, since - _BEFORE_SECONDS)
        incident = self._day.window(shift.key, start, shift.at)
        if len(incident) < 60:
            incident = self._day.window(shift.key, shift.at - _WINDOW_SECONDS, shift.at)
        verdict = Method().find(incident, self._day.pool(shift.key, ()), f"{shift.key.text}/{round(since)}")
        return ShiftCause(shift, verdict, sentence(verdict))


# What becomes of a day


@dataclass
class Outcomes:
    """What became of the faults of some days.

    Attributes:
        flagged: endpoints that were flagged because of each fault.
        notifications: of each fault.
        first_right: whether the first notification of each fault named the right service.
        put_right: endpoints of each fault that were last in an incident with the right cause.
        merged: pairs of faults that were one incident.
        by_chance: flags by chance, and those of them that were in an incident with a cause.
        chance_notifications: notifications of flags by chance alone.
    """

    flagged: list[int] = field(default_factory=list)
    notifications: list[int] = field(default_factory=list)
    first_right: list[bool] = field(default_factory=list)
    put_right: list[int] = field(default_factory=list)
    merged: int = 0
    overlapping: int = 0
    by_chance: list[bool] = field(default_factory=list)
    chance_notifications: int = 0
    details: list[str] = field(default_factory=list)

    def add(self, other: "Outcomes") -> None:
        """Add those of another day."""
        self.flagged += other.flagged
        self.notifications += other.notifications
        self.first_right += other.first_right
        self.put_right += other.put_right
        self.merged += other.merged
        self.overlapping += other.overlapping
        self.by_chance += other.by_chance
        self.chance_notifications += other.chance_notifications
        self.details += other.details


class _Notifications:
    """Counts the notifications of a day, by fault; None stands for those that no fault explains."""

    def __init__(self, day: Day) -> None:
        self._day = day
        self._since: dict[str | SeriesKey, float] = {}
        self._sent: set[str | tuple[SeriesKey, float]] = set()
        self._member_at: dict[SeriesKey, float] = {}
        self.found: dict[int | None, list[tuple[str, bool]]] = {}

    def observe(
        self,
        statuses: Sequence[SeriesStatus],
        incidents: Sequence[Incident],
        pending: frozenset[SeriesKey],
        at: float,
    ) -> None:
        firing = {each.key: each for each in statuses}
        members = {
            each.id: [end.key for end in each.endpoints if end.until is None and end.key in firing]
            for each in incidents
        }
        # The alert about an endpoint whose cause is being looked for waits, unless it belongs to an incident.
        homeless = pending.difference(*members.values())
        present: set[str | SeriesKey] = {*firing} - homeless | {each for each, keys in members.items() if keys}
        self._since = {each: self._since.get(each, at) for each in present}
        self._member_at.update({key: at for keys in members.values() for key in keys})
        for incident in incidents:
            keys = members[incident.id]
            if keys and self._is_due(incident.id, at) and incident.id not in self._sent:
                self._sent.add(incident.id)
                counts = Counter(self._day.culprit(key, at) for key in keys)
                fault = max(counts, key=lambda each: (counts[each], each is not None))
                self._notify(fault, incident.id, None if incident.cause is None else incident.cause.service_name)
        for key, status in firing.items():
            sent = key, status.since or 0.0
            is_inhibited = at - self._member_at.get(key, -_INHIBITED_SECONDS) < _INHIBITED_SECONDS
            if key in present and self._is_due(key, at) and not is_inhibited and sent not in self._sent:
                self._sent.add(sent)
                cause = status.cause.verdict.service_name if status.cause is not None else None
                self._notify(self._day.culprit(key, at), key.text, cause)

    def _is_due(self, what: str | SeriesKey, at: float) -> bool:
        return at - self._since[what] >= _ALERT_SECONDS

    def _notify(self, fault: int | None, what: str, cause: str | None) -> None:
        is_right = fault is not None and cause in self._day.faults[fault].right_services
        self.found.setdefault(fault, []).append((f"{what}: {cause}", is_right))


def run(day: Day) -> Outcomes:
    """Run the exporter's parts through a day."""
    clock = _Clock(_FIRST_SECONDS)
    flags = {key: _Flag(day, key) for key in day.rates}
    notifications = _Notifications(day)
    placed: dict[tuple[SeriesKey, int], tuple[bool, str]] = {}
    chance: dict[tuple[SeriesKey, float], bool] = {}
    store = Store.in_memory()
    log = get_logger("benchmark")
    tracker = IncidentTracker(store, renamed=lambda key: key, monotonic=clock, log=log)
    search = _Search(day, clock)
    finder = CauseFinder(search, SelfMetrics(), clock=clock, monotonic=clock, log=log)
    for at in _cycles(day):
        clock.now = max(clock.now, at)
        statuses = _firing(day, flags, at, finder)
        shown = tracker.observe(statuses, at)
        finder.observe([_shift(each, at) for each in shown])
        homes = {end.key: each for each in tracker.open for end in each.endpoints if end.until is None}
        notifications.observe(statuses, tracker.open, finder.pending, at)
        for status in statuses:
            fault, home = day.culprit(status.key, at), homes.get(status.key)
            cause = None if home is None or home.cause is None else home.cause.service_name
            if fault is None:
                known = chance.get((status.key, status.since or 0.0), False)
                chance[status.key, status.since or 0.0] = known or bool(cause)
            elif day.active(status.key, at):
                right = cause in day.faults[fault].right_services
                placed[status.key, fault] = right, "" if home is None else home.id
        while statuses and clock.now < at + _CYCLE_SECONDS and finder.look_at_next() <= 0:
            pass
    store.close()
    return _outcomes(day, notifications, placed, chance)


def _firing(day: Day, flags: Mapping[SeriesKey, _Flag], at: float, finder: CauseFinder) -> list[SeriesStatus]:
    statuses = []
    for key, flag in flags.items():
        is_chance = any(each == key and begin <= at < begin + _CHANCE_SECONDS for each, begin in day.chance)
        if day.culprit(key, at) is None and not is_chance and flag.is_idle:
            flag.has_flapped = False
            continue
        flag.evaluate(at, is_chance)
        if flag.since is None:
            continue
        cause = finder.causes.get(key)
        known = cause if cause is not None and cause.shift.since == flag.since else None
        statuses.append(
            SeriesStatus(key, current_traces=flag.traces, score=flag.score, shift=True, since=flag.since, cause=known)
        )
    return statuses


def _shift(status: SeriesStatus, at: float) -> Shift:
    in_incident = status.incident is not None
    return Shift(status.key, at, status.since, status.score or 0.0, status.current_traces, in_incident=in_incident)


def _cycles(day: Day) -> Iterable[float]:
    """Yield the cycles in which something may happen."""
    spans = [(each.begin, each.end + 3 * _WINDOW_SECONDS) for each in day.faults]
    spans += [(begin, begin + _CHANCE_SECONDS + 2 * _WINDOW_SECONDS) for _, begin in day.chance]
    last = max(end for _, end in spans)
    at = float(_FIRST_SECONDS)
    while at < last:
        if any(begin <= at < end for begin, end in spans):
            yield at
        at += _CYCLE_SECONDS


def _outcomes(
    day: Day,
    notifications: _Notifications,
    placed: Mapping[tuple[SeriesKey, int], tuple[bool, str]],
    chance: Mapping[tuple[SeriesKey, float], bool],
) -> Outcomes:
    outcomes = Outcomes(by_chance=list(chance.values()), chance_notifications=len(notifications.found.get(None, [])))
    homes: list[str] = []
    for number, fault in enumerate(day.faults):
        mine = [right for (_, of), right in placed.items() if of == number]
        if not mine:
            homes.append("")
            continue
        sent = notifications.found.get(number, [])
        outcomes.flagged.append(len(mine))
        outcomes.notifications.append(len(sent))
        outcomes.first_right.append(bool(sent) and sent[0][1])
        outcomes.put_right.append(sum(right for right, _ in mine))
        homes.append(Counter(home for _, home in mine).most_common(1)[0][0])
        outcomes.details.append(
            f"{fault.kind} {fault.right_services}: {len(mine)} flagged, {sum(right for right, _ in mine)} right, "
            f"{len(sent)} notifications: {[text for text, _ in sent]}"
        )
    for second, later in enumerate(day.faults):
        for first, earlier in enumerate(day.faults[:second]):
            if later.begin < earlier.end and homes[first] and homes[second]:
                outcomes.overlapping += 1
                outcomes.merged += homes[first] == homes[second]
    return outcomes


# Days


def graph_day(graph: ServiceGraph, seed: str) -> Day:
    """Return a day of a service graph: one fault of each kind, one in the hub, and two at the same time."""
    rng = Random(f"{graph.name}/{seed}")
    by_key = {each.key: each for each in graph.operations}
    planned = _planned(graph, rng)
    begin = float(_FIRST_SECONDS) + _WINDOW_SECONDS
    faults: list[Injected] = []
    for fault, is_second in planned:
        start = faults[-1].begin + _OVERLAP_SECONDS if is_second else begin
        faults.append(Injected(fault.right_services, start, start + _FAULT_SECONDS, fault.kind))
        begin = start + _APART_SECONDS
    rates = {each.key: min(_MAX_RATE, graph.rate_per_minute(each, _PER_ENTRY)) for each in graph.operations}

    @cache
    def extra(key: SeriesKey, number: int) -> float:
        return planned[number][0].extra_ms(by_key[key])

    @lru_cache(maxsize=300)
    def pool(key: SeriesKey, active: tuple[int, ...]) -> Sequence[Request]:
        wrong = tuple(planned[number][0] for number in active)
        return [generated(by_key[key], wrong, f"{seed}/{key.text}/{active}/{each}") for each in range(_POOL)]

    # Most flags by chance rise while there is a fault, where they can be mistaken.
    chance = [
        (rng.choice(graph.operations).key, rng.choice(faults).begin + rng.uniform(-300, 900)) for _ in range(_CHANCE)
    ]
    return Day(rates, faults, extra, pool, chance, seed)


def _planned(graph: ServiceGraph, rng: Random) -> list[tuple[GraphFault, bool]]:
    """Return the faults, and whether each begins while the one before lasts."""
    entries = {each.key.service_name for each in graph.entries}
    inner = [each for each in graph.services if each not in entries]
    with_database = sorted({each.key.service_name for each in graph.operations if each.queries} - {graph.hub})
    calls = sorted(
        {
            (each.key.service_name, call.key.service_name)
            for each in graph.operations
            for call in each.calls
            if each.key.service_name not in entries
        }
    )
    caller, callee = rng.choice(calls)
    first, second = _apart(graph, rng, with_database)

    def strength(most: float) -> float:
        # Weak ones, too: some of their victims are flagged late, and their causes are unclear.
        return most * rng.uniform(0.3, 1.0)

    return [
        (GraphFault("slow_query", rng.choice(with_database), strength(15)), False),
        (GraphFault("slow_instance", rng.choice(inner), strength(40)), False),
        (GraphFault("slow_network", callee, strength(120), caller), False),
        (GraphFault("more_calls", rng.choice(with_database), strength(25)), False),
        (GraphFault("slow_query", graph.hub, strength(20)), False),
        (GraphFault("busy", rng.choice(inner), strength(20)), False),
        (GraphFault("slow_query", first, strength(15)), False),
        (GraphFault("more_calls", second, strength(25)), True),
    ]


def _apart(graph: ServiceGraph, rng: Random, services: Sequence[str]) -> tuple[str, str]:
    """Return two services that have as few endpoints in common as any, of those drawn."""
    drawn = [tuple(rng.sample(services, 2)) for _ in range(10)]
    first, second = min(drawn, key=lambda pair: len(graph.users_of(pair[0]) & graph.users_of(pair[1])))
    return first, second


def labelled_day(fault: Fault, seed: str) -> Day:
    """Return a day with one labelled fault; all operations in its traces are endpoints."""
    slow, usual = _by_operation(fault.incident), _by_operation(fault.reference)
    begin = float(_FIRST_SECONDS) + _WINDOW_SECONDS
    injected = Injected((fault.service_name,), begin, begin + _FAULT_SECONDS, fault.kind)
    # In the source the traces of a fault are those of 165 seconds.
    rates = {
        key: min(_MAX_RATE, len(found) / 165 * 60)
        for key, found in slow.items()
        if len(found) >= 30 and len(usual.get(key, ())) >= 60
    }
    rng = Random(seed)

    def shuffled(of: Mapping[SeriesKey, list[Candidate]]) -> dict[SeriesKey, list[Candidate]]:
        return {key: rng.sample(found, min(_POOL, len(found))) for key, found in of.items() if key in rates}

    slow, usual = shuffled(slow), shuffled(usual)
    return Day(
        rates,
        [injected],
        lambda _key, _number: 1.0,
        lambda key, active: slow[key] if active else usual[key],
        [],
        seed,
    )


def _by_operation(candidates: Iterable[Candidate]) -> dict[SeriesKey, list[Candidate]]:
    """Return the requests to each operation, with what is below them; the root's, which has no other name, too."""
    found: dict[SeriesKey, list[Candidate]] = {}
    for candidate in candidates:
        below: dict[str, list[TraceSpan]] = {}
        for span in candidate.spans:
            below.setdefault(span.parent_id, []).append(span)
        for span in candidate.spans:
            if span.kind != "server" and span.parent_id:
                continue
            spans = [span._replace(parent_id="")]
            waiting = [span.span_id]
            while waiting:
                children = below.get(waiting.pop(), [])
                spans += children
                waiting += [each.span_id for each in children]
            found.setdefault(SeriesKey(span.service_name, span.name), []).append(Candidate(span.duration_ns, spans))
    return found


# Figures


def figures(name: str, outcomes: Outcomes) -> list[Result]:
    """Return the figures of some days."""
    faults, flagged = len(outcomes.flagged), sum(outcomes.flagged)
    sent, most = sum(outcomes.notifications), max(outcomes.notifications, default=0)
    single = sum(count == 1 for count in outcomes.notifications)
    right, placed = sum(outcomes.first_right), sum(outcomes.put_right)
    results = [
        Result(
            f"{name}: notifications per fault",
            f"{sent / max(1, faults):.2f}, at most {most}",
            "1",
            sent == faults,
            f"{faults} faults, {single} of them with one",
        ),
        Result(
            f"{name}: with one alert per endpoint",
            f"{flagged / max(1, faults):.1f}, at most {max(outcomes.flagged, default=0)}",
            "",
            None,
            f"{flagged} flagged endpoints",
        ),
        _share(f"{name}: first notification names the right service", right, faults, 0.9, "faults"),
        _share(f"{name}: endpoints put to the right cause", placed, flagged, 0.9, "endpoints"),
    ]
    if outcomes.overlapping:
        target = Result(
            f"{name}: unrelated faults merged",
            str(outcomes.merged),
            "0",
            outcomes.merged == 0,
            f"{outcomes.overlapping} pairs that overlap in time",
        )
        results.append(target)
    if outcomes.by_chance:
        joined = sum(outcomes.by_chance)
        results.append(
            Result(
                f"{name}: flags by chance in an incident with a cause",
                str(joined),
                "",
                None,
                f"{len(outcomes.by_chance)} flags; {outcomes.chance_notifications} notifications of their own",
            )
        )
    return results


def _share(what: str, part: int, whole: int, least: float, of: str) -> Result:
    reached = f"{part / whole:.0%}" if whole else "-"
    return Result(what, reached, f"≥ {least:.0%}", part >= least * whole, f"{part} of {whole} {of}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.incidents", description=__doc__)
    parser.add_argument("--seed", default="1", help="seed of the days")
    parser.add_argument("--days", type=int, default=3, help="days of each service graph")
    parser.add_argument("--details", action="store_true", help="print what became of each fault")
    options = parser.parse_args(arguments)
    # What begins and ends is no news here.
    logging.disable(logging.WARNING)
    graph = train_ticket(options.seed)
    days = {
        each.name: [graph_day(each, f"{options.seed}/{day}") for day in range(options.days)]
        for each in (graph, pet_shop())
    }
    days["labelled faults"] = [labelled_day(each, options.seed) for each in load(_DATA)]
    results = []
    for name, of_name in days.items():
        outcomes = Outcomes()
        for day in of_name:
            outcomes.add(run(day))
        results += figures(name, outcomes)
        if options.details:
            print(name, *outcomes.details, sep="\n")
    print(table(header([""]), compared([results])))
    return 0 if all(result.met is not False for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
