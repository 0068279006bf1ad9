"""Compares a few traces of an incident with healthy ones, and more of them if the cause is unclear."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from exporter.cause.profile import TraceProfile
from exporter.cause.rare_kinds import KindTraces, RareKind, rare_kinds
from exporter.cause.sampling import ChosenPairs, choose_pairs
from exporter.cause.verdict import CauseKind, CauseVerdict, Outcome, compare

PAIRS: Final = 20
"""Traces of each kind that are compared at first."""
MORE_PAIRS: Final = 30
"""Traces of each kind that are added if the cause is unclear."""

ReadTraces = Callable[[Sequence[str], Sequence[str]], Mapping[str, TraceProfile]]
"""Takes ids of traces of the incident and of healthy ones, in pairs of equal rank, and returns those that could be read
and taken apart."""

ReadKinds = Callable[[Sequence[RareKind]], Sequence[KindTraces]]
"""Reads healthy traces of kinds of which the chosen ones have few; returns those kinds that healthy requests have."""


def find_cause(
    incident: Mapping[str, int],
    reference: Mapping[str, int],
    seed: str,
    read: ReadTraces,
    *,
    read_kinds: ReadKinds = lambda _: (),
    may_add: Callable[[], bool] = lambda: True,
    choose: Callable[[Sequence[int], Sequence[int], int, str], ChosenPairs] = choose_pairs,
) -> tuple[CauseVerdict, Mapping[str, TraceProfile]]:
    """Choose traces, read them and compare them; once more if the cause is unclear then.

    If the incident has kinds of requests of which the chosen healthy traces have too few, further ones are read.

    Args:
        incident: durations of the candidates of the incident in nanoseconds, by trace id.
        reference: the same of the healthy candidates.
        seed: determines the choice of traces and of replicates, such as the endpoint and the start of its flag.
        read: reads traces; what it raises ends the search.
        read_kinds: reads healthy traces of rare kinds; what it raises ends the search.
        may_add: asked before more traces are added.
        choose: chooses pairs of traces; see :func:`exporter.cause.sampling.choose_pairs`.

    Returns:
        The verdict, and the traces that were read, by id.
    """
    profiles: dict[str, TraceProfile] = {}
    kinds: Sequence[KindTraces] = ()

    def compared(seed: str) -> CauseVerdict:
        supplement = {trace_id: profile for kind in kinds for trace_id, profile in kind.profiles.items()}
        verdict = compare(
            [profiles[each] for each in incident if each in profiles],
            [profiles[each] for each in reference if each in profiles],
            seed,
            supplement=[profile for trace_id, profile in supplement.items() if trace_id not in profiles],
        )
        if verdict.kind is not CauseKind.MIX:
            return verdict
        return replace(verdict, more_frequent=next((each for each in kinds if each.is_more_frequent), None))

    def step(count: int, seed: str) -> CauseVerdict:
        slow, usual = ([each for each in ids if each not in profiles] for ids in (incident, reference))
        size = min(count, len(slow), len(usual))
        if size:
            pairs = choose([incident[each] for each in slow], [reference[each] for each in usual], size, seed)
            chosen = [slow[index] for index in pairs.incident], [usual[index] for index in pairs.reference]
            profiles.update(read(*chosen))
        return compared(seed)

    verdict = step(PAIRS, seed)
    if verdict.outcome in (Outcome.KNOWN, Outcome.UNCLEAR) and may_add():
        wanted = rare_kinds(*([profiles[each] for each in ids if each in profiles] for ids in (incident, reference)))
        kinds = read_kinds(wanted) if wanted else ()
        verdict = compared(seed) if kinds else verdict
    if verdict.outcome is Outcome.UNCLEAR and may_add():
        more = step(MORE_PAIRS, f"{seed}/more")
        verdict = more if more.incident_traces > verdict.incident_traces else verdict
    return verdict, profiles
