"""Measures how often the account of causes names the right service, on labelled faults (benchmarks/data/README.md).

``python -m benchmarks.cause [FILE…]`` reads any file of that form.
"""

import argparse
import gzip
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from benchmarks.detection.results import Result, compared, header
from benchmarks.report import table
from exporter.cause.comparison import find_cause
from exporter.cause.profile import Component, TraceProfile, profile_of
from exporter.cause.rare_kinds import MAX_TRACES, KindTraces, RareKind
from exporter.cause.sampling import ChosenPairs, choose_alike, choose_pairs
from exporter.cause.verdict import CauseVerdict, Outcome
from exporter.detection.parameters import PRIOR_SWING_OCTAVES, Parameters
from exporter.detection.schedule import HourThresholds
from exporter.detection.thresholds import quantile_threshold, thresholds_of
from exporter.detection.verdict import evaluate_window
from exporter.detection.window import RecentTraces
from exporter.model.critical_path import TraceSpan, critical_path
from exporter.model.histogram import Digest, bucket_of_ns
from exporter.model.hour_evaluation import QUANTILES

_DATA: Final = Path(__file__).parent / "data" / "cause.json.gz"
_LATENCY: Final = frozenset({"network_delay", "cpu_contention", "cpu_consumed"})
"""Faults that make requests take longer; the others are there for what must not be claimed."""
_SEEDS: Final = 10
_NOW: Final = 1800
"""An instant within the first hour."""
_MIN_HEALTHY: Final = 40


class Request(Protocol):
    """One trace that could be looked at."""

    @property
    def duration_ns(self) -> int:
        """Duration of its root, in nanoseconds."""

    @property
    def spans(self) -> Sequence[TraceSpan]:
        """Its spans."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One trace that could be looked at; it is taken apart only if it is chosen."""

    duration_ns: int
    spans: Sequence[TraceSpan]


@dataclass(frozen=True, slots=True)
class Fault:
    """A labelled fault.

    Attributes:
        kind: what was injected.
        service_name: the service it was injected into.
        incident: traces during the fault.
        reference: healthy traces before it.
    """

    kind: str
    service_name: str
    incident: Sequence[Candidate]
    reference: Sequence[Candidate]

    @property
    def is_flagged(self) -> bool:
        """Whether the shift test sees the fault, with the swing of a series without history."""
        return is_shifted([each.duration_ns for each in self.incident], [each.duration_ns for each in self.reference])


def is_shifted(durations: Sequence[int], reference: Sequence[int]) -> bool:
    """Apply the shift test to one window of durations, with the swing of a series without history.

    Args:
        durations: those of the window, in nanoseconds.
        reference: those of the baseline.
    """
    pool, parameters = Digest.of_ns(reference), Parameters()
    quantiles = tuple(
        quantile_threshold(q, pool.quantile_bucket(q), PRIOR_SWING_OCTAVES, parameters) for q in QUANTILES
    )
    schedule = (HourThresholds(0, thresholds_of(quantiles, pool.count)),)
    recent = RecentTraces()
    recent.extend(_NOW, [bucket_of_ns(each) for each in durations])
    return evaluate_window(recent, _NOW, recent.window(_NOW, parameters), schedule, parameters).shifted


def load(path: Path) -> list[Fault]:
    """Read a file of labelled faults."""
    with gzip.open(path) as file:
        data = json.load(file)
    operations = [tuple(each) for each in data["operations"]]

    def candidates(traces: Sequence[Any]) -> list[Candidate]:
        return [_candidate(start, numbers, operations) for start, numbers in traces]

    return [
        Fault(each["kind"], each["service"], candidates(each["incident"]), candidates(each["reference"]))
        for each in data["faults"]
    ]


def _candidate(start_seconds: float, numbers: Sequence[int], operations: Sequence[Sequence[str]]) -> Candidate:
    spans = []
    for index in range(0, len(numbers), 4):
        parent, operation, start_us, duration_us = numbers[index : index + 4]
        service_name, span_name, kind = operations[operation]
        start_ns = round(start_seconds * 1e9) + start_us * 1_000
        parent_id = "" if parent < 0 else str(parent)
        spans.append(
            TraceSpan(str(index // 4), parent_id, service_name, span_name, kind, start_ns, duration_us * 1_000)
        )
    return Candidate(spans[0].duration_ns, spans)


Chooser = Callable[[Sequence[int], Sequence[int], int, str], ChosenPairs]
Change = Callable[[TraceProfile], TraceProfile]


@dataclass(frozen=True, slots=True)
class Method:
    """A way to find the cause.

    Attributes:
        choose: chooses the traces.
        change: changes a trace that was taken apart.
    """

    choose: Chooser = choose_pairs
    change: Change = lambda profile: profile

    def find(self, incident: Sequence[Request], reference: Sequence[Request], seed: str) -> CauseVerdict:
        """Find the cause as the exporter does, with the traces that the method chooses."""
        slow = {f"incident {number}": each for number, each in enumerate(incident)}
        usual = {f"healthy {number}": each for number, each in enumerate(reference)}

        def read(slow_ids: Sequence[str], usual_ids: Sequence[str]) -> dict[str, TraceProfile]:
            chosen = {**{each: slow[each] for each in slow_ids}, **{each: usual[each] for each in usual_ids}}
            return {each: self._profile(each, candidate) for each, candidate in chosen.items()}

        def read_kinds(kinds: Sequence[RareKind]) -> list[KindTraces]:
            return [
                found
                for kind in kinds
                if (found := self._of_kind(kind, slow, usual, MAX_TRACES // len(kinds))).profiles
            ]

        verdict, _ = find_cause(
            {each: candidate.duration_ns for each, candidate in slow.items()},
            {each: candidate.duration_ns for each, candidate in usual.items()},
            seed,
            read,
            read_kinds=read_kinds,
            choose=self.choose,
        )
        return verdict

    def _of_kind(
        self, kind: RareKind, slow: Mapping[str, Request], usual: Mapping[str, Request], wanted: int
    ) -> KindTraces:
        """Choose healthy traces of a kind among all that there are, as the exporter lets Tempo look for them."""

        names = frozenset(kind.operations)
        incident, healthy = (
            {
                trace_id: each
                for trace_id, each in candidates.items()
                if names <= {(span.service_name, span.name) for span in each.spans}
            }
            for candidates in (slow, usual)
        )
        ids = [*healthy]
        chosen = choose_alike(
            [slow[each].duration_ns for each in kind.trace_ids],
            [each.duration_ns for each in incident.values()],
            [each.duration_ns for each in healthy.values()],
            wanted,
        )
        profiles = {ids[position]: self._profile(ids[position], healthy[ids[position]]) for position in chosen}
        alike = {trace_id: profile for trace_id, profile in profiles.items() if names <= profile.shape}
        return KindTraces(kind, alike, len(healthy) / len(usual), len(incident) / len(slow))

    def _profile(self, trace_id: str, candidate: Request) -> TraceProfile:
        path = critical_path(candidate.spans)
        if path is None:
            raise ValueError("a trace without spans")
        return self.change(profile_of(trace_id, path))


def choose_slowest(incident: Sequence[int], reference: Sequence[int], count: int, seed: str) -> ChosenPairs:
    """Choose the slowest traces of the incident, and any healthy ones: an ablation."""
    order = sorted(range(len(incident)), key=lambda index: incident[index])
    return ChosenPairs(order[-count:], random.Random(seed).sample(range(len(reference)), count))


def choose_any(incident: Sequence[int], reference: Sequence[int], count: int, seed: str) -> ChosenPairs:
    """Choose any traces of both kinds: an ablation."""
    chance = random.Random(seed)
    return ChosenPairs(chance.sample(range(len(incident)), count), chance.sample(range(len(reference)), count))


def gaps_to_callers(profile: TraceProfile) -> TraceProfile:
    """Charge what passes between two services to the caller: an ablation."""

    def plain(component: Component) -> Component:
        return component._replace(callee="")

    self_ns: dict[Component, int] = {}
    path_calls: dict[Component, int] = {}
    for component, nanoseconds in profile.self_ns.items():
        self_ns[plain(component)] = self_ns.get(plain(component), 0) + nanoseconds
        path_calls[plain(component)] = path_calls.get(plain(component), 0) + profile.path_calls[component]
    calls = {plain(component): each for component, each in profile.calls.items()}
    return replace(profile, self_ns=self_ns, path_calls=path_calls, calls=calls, root=plain(profile.root))


def ranked(verdict: CauseVerdict) -> list[str]:
    """Return the services in the order of blame, whether or not the verdict is sure."""
    return [each.service_name for each in verdict.account.services] if verdict.account else []


@dataclass(frozen=True, slots=True)
class Score:
    """Scores of a method on a set of faults, over several seeds.

    Attributes:
        attempts: number of verdicts.
        first: verdicts with the right service first.
        among_three: verdicts with the right service among the first three.
        spoken: verdicts that name a cause.
        right: those of them that name the right service.
    """

    attempts: int
    first: int
    among_three: int
    spoken: int
    right: int


def score(method: Method, faults: Sequence[Fault], seed: str) -> Score:
    """Score a method on faults."""
    attempts = first = among_three = spoken = right = 0
    for number, fault in enumerate(faults):
        for repeat in range(_SEEDS):
            verdict = method.find(fault.incident, fault.reference, f"{seed}/{number}/{repeat}")
            services = ranked(verdict)
            attempts += 1
            first += services[:1] == [fault.service_name]
            among_three += fault.service_name in services[:3]
            spoken += verdict.outcome is Outcome.KNOWN
            right += verdict.outcome is Outcome.KNOWN and verdict.service_name == fault.service_name
    return Score(attempts, first, among_three, spoken, right)


@dataclass(frozen=True, slots=True)
class HealthyScore:
    """What a method says about healthy traffic.

    Attributes:
        attempts: number of verdicts.
        spoken: verdicts that name a cause.
        longer: verdicts that say that requests take longer, whether or not they name a cause.
        large: accounts in which a service has at least 70 % of the extra time.
    """

    attempts: int
    spoken: int
    longer: int
    large: int


def score_healthy(method: Method, faults: Sequence[Fault], seed: str) -> HealthyScore:
    """Compare one half of the healthy traces with the other."""
    spoken = longer = large = attempts = 0
    for number, fault in enumerate(faults):
        if len(fault.reference) < _MIN_HEALTHY:
            continue
        for repeat in range(_SEEDS):
            shuffled = random.Random(f"{seed}/{number}/{repeat}").sample(fault.reference, len(fault.reference))
            half = len(shuffled) // 2
            verdict = method.find(shuffled[:half], shuffled[half:], f"{seed}/{number}/{repeat}")
            attempts += 1
            spoken += verdict.outcome is Outcome.KNOWN
            longer += verdict.outcome in (Outcome.KNOWN, Outcome.UNCLEAR)
            account = verdict.account
            large += account is not None and account.extra_seconds > 0 and account.services[0].share >= 0.7
    return HealthyScore(attempts, spoken, longer, large)


def cpu_seconds(faults: Sequence[Fault]) -> float:
    """Return the median CPU time of one account, traces taken apart included."""
    times = []
    for fault in faults:
        began = time.process_time()
        Method().find(fault.incident, fault.reference, "cpu")
        times.append(time.process_time() - began)
    return sorted(times)[len(times) // 2]


def measure(faults: Sequence[Fault], seed: str) -> list[Result]:
    """Return the figures, with their targets."""
    latency = [each for each in faults if each.kind in _LATENCY]
    flagged = [each for each in latency if each.is_flagged]
    results = []

    def share(what: str, part: int, whole: int, target: str = "", met: bool | None = None) -> None:
        reached = f"{part / whole:.0%}" if whole else "-"
        results.append(Result(what, reached, target, met, f"{part} of {whole} accounts"))

    ours = score(Method(), flagged, seed)
    share("flagged: service first", ours.first, ours.attempts, "≥ 95%", ours.first >= 0.95 * ours.attempts)
    share("flagged: service among three", ours.among_three, ours.attempts)
    share("flagged: names a cause", ours.spoken, ours.attempts, "≥ 90%", ours.spoken >= 0.9 * ours.attempts)
    share("flagged: right when it names one", ours.right, ours.spoken, "≥ 98%", ours.right >= 0.98 * ours.spoken)
    every = score(Method(), latency, seed)
    share("all latency faults: service first", every.first, every.attempts)
    share("all latency faults: service among three", every.among_three, every.attempts)
    healthy = score_healthy(Method(), faults, seed)
    attempts = healthy.attempts
    share("healthy: names a cause", healthy.spoken, attempts, "≤ 2%", healthy.spoken <= 0.02 * attempts)
    share("healthy: says that requests take longer", healthy.longer, attempts)
    what = "ablation, no rule: healthy, one service ≥ 70 %"
    share(what, healthy.large, attempts, "worse", healthy.large > healthy.spoken)
    found = score(Method(change=gaps_to_callers), flagged, seed)
    what = "ablation, gaps to callers: flagged, service first"
    share(what, found.first, found.attempts, "worse", found.first < ours.first)
    found = score(Method(choose=choose_any), latency, seed)
    what = "ablation, any traces: all latency faults, service first"
    share(what, found.first, found.attempts, "worse", found.first < every.first)
    slowest = score_healthy(Method(choose=choose_slowest), faults, seed)
    what = "ablation, slowest traces: healthy, says that requests take longer"
    share(what, slowest.longer, attempts, "worse", slowest.longer > healthy.longer)
    share("slowest traces: healthy, names a cause", slowest.spoken, attempts)
    found = score(Method(choose=choose_slowest), flagged, seed)
    share("slowest traces: flagged, service first", found.first, found.attempts)
    seconds = cpu_seconds(flagged)
    results.append(
        Result("CPU of one account", f"{seconds:.2f} s", "≤ 0.3 s", seconds <= 0.3, f"{len(flagged)} accounts")
    )
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cause", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=[_DATA])
    parser.add_argument("--seed", default="1", help="seed of the choice of traces and of the bootstrap")
    options = parser.parse_args(arguments)
    met = True
    for path in options.files:
        faults = load(path)
        results = measure(faults, options.seed)
        flagged = sum(each.is_flagged for each in faults)
        print(f"{path.name}: {len(faults)} faults, {flagged} of them flagged; seed {options.seed}")
        print(table(header([""]), compared([results])))
        met &= all(result.met is not False for result in results)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
