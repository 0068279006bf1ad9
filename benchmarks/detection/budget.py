"""How well ``backtest --budget`` keeps its budget on weeks that it has not seen.

Clusters of synthetic endpoints with random incidents are stored as the exporter would. The command proposes settings
from the first three weeks; then the flags of the following weeks are counted with them.
"""

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Final, NamedTuple

from benchmarks.detection.suites import BEGIN, Suite, cases
from benchmarks.report import table
from exporter.backtest.budget import Endpoint, Proposal, parse_budget, propose
from exporter.backtest.limits import Changes, Limits, tuned
from exporter.backtest.replay import SeriesReplay, replay_history
from exporter.backtest.score import group_episodes
from exporter.baseline.levels import FallbackRules
from exporter.config.units import parse_duration
from exporter.demo.latency import Incident
from exporter.demo.traffic import DAY_SECONDS, SeriesProfile, SeriesTraffic
from exporter.detection.detector import Detector
from exporter.detection.parameters import Parameters
from exporter.model.accumulator import Accumulator
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock
from exporter.model.ledger import LedgerEntry, Window, WindowState
from exporter.model.span import SeriesKey, Span
from exporter.store import Store, StoredSeries

SEEN_DAYS: Final = 21
UNSEEN_DAYS: Final = 14
_UNSEEN_FROM: Final = BEGIN + SEEN_DAYS * DAY_SECONDS
_END: Final = _UNSEEN_FROM + UNSEEN_DAYS * DAY_SECONDS
BUDGETS: Final = ("1/week", "2/week", "1/week/endpoint")
_TOLERANCE: Final = 0.25
_MISSED: Final = "MISSED"
_SUITES: Final = (
    Suite.PLAIN,
    Suite.RESTLESS,
    Suite.SHARED,
    Suite.DRIFT,
    Suite.HOURLY_BATCH,
    Suite.DAILY_BATCH,
    Suite.CACHE,
    Suite.SURGE,
)
_RATES_PER_MINUTE: Final = (0.5, 2.0)
_INCIDENTS_PER_DAY: Final = (0.05, 0.5)
"""The number of incidents of an endpoint differs by this much."""


class Count(NamedTuple):
    """The result of one budget in one cluster.

    Attributes:
        budget: the budget as text.
        before: flags of the unseen weeks with the present settings.
        flags: flags of the unseen weeks with the proposed settings.
        allowed: what the budget allows in these weeks.
        seen: flags of the seen weeks with the proposed settings.
        allowed_seen: what the budget allows in these.
        is_changed: whether anything had to be proposed.
        is_expected_to_hold: whether the proposal says so.
        replays: replays for the proposal.
    """

    budget: str
    before: int
    flags: int
    allowed: float
    seen: int
    allowed_seen: float
    is_changed: bool
    is_expected_to_hold: bool
    replays: int


class _Cluster:
    """Stored endpoints, which are replayed once with each pair of limits."""

    def __init__(self, stored: Sequence[StoredSeries]) -> None:
        self._detector = Detector(FallbackRules(), Parameters(), HourClock(Calendar()))
        self._base = Limits.of(self._detector.parameters)
        self._stored = {each.key: each for each in stored}
        self._seen: dict[tuple[SeriesKey, Limits], SeriesReplay] = {}
        self._unseen: dict[tuple[SeriesKey, Limits], int] = {}

    def count(self, text: str) -> Count:
        """Propose settings for a budget from the seen weeks, and count the flags of the unseen ones."""
        budget = parse_budget(text)
        present = {key: self._replay(key, self._base) for key in self._stored}
        used: set[tuple[SeriesKey, Limits]] = set()

        def replay_with(limits: Limits, key: SeriesKey) -> SeriesReplay:
            used.add((key, limits))
            return self._replay(key, limits)

        endpoints = [
            Endpoint(key, replay, self._base, frozenset(), (), partial(replay_with, key=key))
            for key, replay in present.items()
            if replay.firing_periods
        ]
        proposal = propose(budget, endpoints, self._base, list(present.values()))
        chosen = self._chosen(proposal)
        days = budget.allowed(UNSEEN_DAYS * DAY_SECONDS)
        raised = [key for key in chosen if key.text in {each.series for each in proposal.overrides}]
        keys = raised if budget.per_endpoint else list(chosen)
        return Count(
            text,
            before=sum(self._unseen_flags(key, self._base) for key in keys),
            flags=sum(self._unseen_flags(key, chosen[key]) for key in keys),
            allowed=days * (len(raised) if budget.per_endpoint else 1),
            seen=sum(each.flags for each in proposal.overrides) if budget.per_endpoint else proposal.flags,
            allowed_seen=proposal.allowed * (len(raised) if budget.per_endpoint else 1),
            is_changed=bool(proposal.overrides) or proposal.common is not None,
            is_expected_to_hold=proposal.is_expected_to_hold,
            replays=len(used),
        )

    def _chosen(self, proposal: Proposal) -> dict[SeriesKey, Limits]:
        common = _changed(self._base, proposal.common or {})
        chosen = dict.fromkeys(self._stored, common)
        for key in chosen:
            for each in proposal.overrides:
                if each.series == key.text:
                    chosen[key] = _changed(common, each.changes)
        return chosen

    def _replay(self, key: SeriesKey, limits: Limits) -> SeriesReplay:
        if (key, limits) not in self._seen:
            stored = self._stored[key]
            seen = stored._replace(windows=[window for window in stored.windows if window.start < _UNSEEN_FROM])
            detector = tuned(limits, self._detector, key)
            self._seen[key, limits] = replay_history(seen, detector, _UNSEEN_FROM)
        return self._seen[key, limits]

    def _unseen_flags(self, key: SeriesKey, limits: Limits) -> int:
        if (key, limits) not in self._unseen:
            detector = tuned(limits, self._detector, key)
            replay = replay_history(self._stored[key], detector, _END, SEEN_DAYS * DAY_SECONDS)
            self._unseen[key, limits] = len(group_episodes(replay.firing_periods))
        return self._unseen[key, limits]


def _changed(limits: Limits, changes: Changes) -> Limits:
    ratio, delta = float(changes.get("ratio", limits.ratio)), limits.min_delta_seconds
    if "min_delta" in changes:
        delta = parse_duration(str(changes["min_delta"])).total_seconds()
    return Limits(ratio, delta)


def measure_cluster(seed: str, max_rate_per_minute: float = max(_RATES_PER_MINUTE)) -> list[Count]:
    """Make a cluster with an endpoint of each suite and rate, and measure each budget in it."""
    cluster = _Cluster(_stored(dict(_endpoints(seed, max_rate_per_minute)), seed))
    return [cluster.count(budget) for budget in BUDGETS]


def _endpoints(seed: str, max_rate_per_minute: float) -> Iterator[tuple[SeriesKey, SeriesProfile]]:
    for suite in _SUITES:
        rates = [rate for rate in _RATES_PER_MINUTE if rate <= max_rate_per_minute]
        drawn = [case for case in cases(suite, 1, seed) if case.profile.rate_per_minute in rates]
        for number, case in enumerate(drawn):
            key = SeriesKey(suite.value, f"GET /{number}")
            yield key, replace(case.profile, incidents=tuple(_incidents(f"{seed}/{key.text}")))


def _incidents(seed: str) -> Iterator[Incident]:
    """Draw incidents at random times, mostly small ones."""
    rng = random.Random(seed)
    low, high = _INCIDENTS_PER_DAY
    rate = low * (high / low) ** rng.random()
    day = rng.expovariate(rate)
    while day < SEEN_DAYS + UNSEEN_DAYS:
        start = BEGIN + day * DAY_SECONDS
        factor = 1.3 * rng.random() ** -0.8
        yield Incident(start, start + 60 * rng.choice((10, 30, 60, 180)), min(20.0, factor))
        day += rng.expovariate(rate)


def _stored(profiles: dict[SeriesKey, SeriesProfile], seed: str) -> list[StoredSeries]:
    """Return the traffic of endpoints as the store has it."""
    traffic = {key: SeriesTraffic(profile, f"{seed}/{key.text}") for key, profile in profiles.items()}
    with closing(Store.in_memory()) as store:
        for begin in range(BEGIN, _END, DAY_SECONDS):
            hours = range(begin, begin + DAY_SECONDS, HOUR_SECONDS)
            accumulator = Accumulator([Window(hour, hour + HOUR_SECONDS) for hour in hours], lambda key: key)
            for key, of_key in traffic.items():
                for hour in hours:
                    accumulator.add(
                        Span("0" * 32, "0" * 16, key, request.start_ns, request.duration_ns)
                        for request in of_key.hour(hour // HOUR_SECONDS)
                    )
            contents = accumulator.finish()
            entries = [
                LedgerEntry(each.window, WindowState.DONE, read_at=0.0, traces=each.traces, stored=each.stored)
                for each in contents
            ]
            store.commit(entries, contents)
        return list(store.history(list(traffic), 0, _END, marks_from=0))


def _row(budget: str, counts: Sequence[Count]) -> tuple[str, ...]:
    """Return the row of a budget, from the clusters in which it had to be kept."""
    rated = [count for count in counts if count.is_changed]
    if not rated:
        return ("", budget, "", "", "", "", "nothing to propose")
    ratio = sum(count.flags for count in rated) / sum(count.allowed for count in rated)
    each = sorted(count.flags / count.allowed for count in rated)
    based_on = (
        f"{sum(count.flags for count in rated)} flags of {sum(count.before for count in rated)} in {len(rated)} "
        f"clusters; {sum(not count.is_expected_to_hold for count in rated)} not expected to hold; "
        f"{sum(count.replays for count in rated) / len(rated):.0f} replays each"
    )
    return (
        "met" if abs(ratio - 1) <= _TOLERANCE else _MISSED,
        budget,
        f"{ratio:.2f}",
        f"{1 - _TOLERANCE:g} to {1 + _TOLERANCE:g}",
        f"{each[len(each) // 10]:.2f}, {median(each):.2f}, {each[-1 - len(each) // 10]:.2f}",
        f"{sum(count.seen for count in rated) / sum(count.allowed_seen for count in rated):.2f}",
        based_on,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection.budget", description=__doc__)
    parser.add_argument("--seed", default="1", help="seed of the clusters")
    parser.add_argument("--clusters", type=int, default=16)
    parser.add_argument("--max-rate", type=float, default=max(_RATES_PER_MINUTE), help="requests a minute")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    seeds = [f"budget/{options.seed}/{number}" for number in range(options.clusters)]
    # Not fork: a child would inherit the signal handlers and locks of a process with threads.
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        measured = pool.map(partial(measure_cluster, max_rate_per_minute=options.max_rate), seeds, chunksize=1)
    counts = [count for of_cluster in measured for count in of_cluster]
    rows = [_row(budget, [count for count in counts if count.budget == budget]) for budget in BUDGETS]
    header = ("", "budget", "flags / budget", "target", "per cluster: 10 %, median, 90 %", "seen weeks", "based on")
    print(table(header, rows))
    print(f"\nseed {options.seed}, {time.monotonic() - began:.0f} s on {options.processes} processes")
    return 0 if all(row[0] != _MISSED for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
