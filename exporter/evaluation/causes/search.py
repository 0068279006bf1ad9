"""Looks for the cause of one shift: which traces to compare, reading them whole, and the verdict.

It takes few requests to Tempo: a search for traces of the incident, one or a few for healthy ones, and one for each of
these to read the chosen traces whole. A trace is read by its id only where the search did not return all of it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from exporter.cause.comparison import ReadKinds, find_cause
from exporter.cause.draws import uniform
from exporter.cause.profile import TraceProfile
from exporter.cause.rare_kinds import MAX_TRACES, KindTraces, RareKind
from exporter.cause.sampling import choose_alike
from exporter.cause.sentence import sentence
from exporter.cause.verdict import CauseVerdict, Outcome, compare
from exporter.detection.explanation import rise_text
from exporter.evaluation.causes.candidates import Candidates, CandidateSearch, KindCandidates
from exporter.evaluation.causes.healthy_time import HealthyTime
from exporter.evaluation.causes.requests import RequestBudget, TraceSource
from exporter.evaluation.causes.shift_cause import CauseSettings, Shift, ShiftCause
from exporter.evaluation.causes.traces import WholeTraceReader
from exporter.model.calendar import HourClock
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import Loop
from exporter.store import Store, StoreError
from exporter.tempo.errors import TempoError
from exporter.tempo.query import OperationName

_SEARCHED_FOR_KIND: Final = 5000
"""Healthy requests among which traces of a rare kind are looked for with one search."""
_MAX_CHANGES: Final = 30
"""Components that are kept of an account, to be shown."""


class CauseSearch:
    """Looks for causes. Thread-safe."""

    def __init__(
        self,
        tempo: TraceSource,
        store: Store,
        hour_clock: HourClock,
        settings: CauseSettings,
        *,
        resolve: Callable[[SeriesKey], object],
        monotonic: Callable[[], float],
    ) -> None:
        """Take the sources.

        Args:
            tempo: the traces.
            store: the history, which knows the healthy windows; may be read-only.
            hour_clock: local hours.
            settings: how causes are looked for.
            resolve: returns the series under whose name the spans of a series are kept.
            monotonic: seconds that never jump.
        """
        self._tempo = tempo
        self._healthy_time = HealthyTime(store, hour_clock, settings.evaluation)
        self._settings = settings
        self._resolve = resolve
        self._monotonic = monotonic

    def find(self, shift: Shift, *, loop: Loop) -> ShiftCause:
        """Look for the cause of a shift. A failure of Tempo or the database is part of the result.

        Raises:
            StoppedError: the exporter is stopping.
        """
        began = self._monotonic()
        budget = RequestBudget(self._tempo, self._settings.max_requests, self._monotonic)
        parameters = self._settings.evaluation.parameters(shift.key)
        candidates = CandidateSearch(self._tempo, budget, shift, parameters, loop, self._resolve)
        reader = WholeTraceReader(self._tempo, budget, self._settings.attributes, loop)
        try:
            cause = self._attempt(shift, candidates, reader)
        except (TempoError, StoreError) as error:
            verdict = CauseVerdict(Outcome.FAILED, None, 0, 0)
            cause = ShiftCause(shift, verdict, f"Not known why: traces could not be read: {error}")
        return replace(cause, requests=budget.requests, seconds=self._monotonic() - began)

    def _attempt(self, shift: Shift, candidates: CandidateSearch, reader: WholeTraceReader) -> ShiftCause:
        seed = f"{shift.key.text}/{round(shift.since or shift.at)}"
        incident = [candidates.incident()]
        reference = candidates.healthy(self._healthy_time.stretches(shift))
        profiles: Mapping[str, TraceProfile] = {}
        if incident[0].spans and reference:
            kinds = partial(self._read_kinds, shift, candidates, reader, incident[0])
            verdict, profiles = self._compare(incident, reference, reader, kinds, seed)
        else:
            verdict = replace(
                compare([], [], seed),
                incident_traces=len(incident[0].spans),
                reference_traces=sum(len(each.spans) for each in reference),
            )
        slow, usual = _examples(verdict, *(_profiles_of(each, profiles) for each in (incident, reference)))
        return ShiftCause(
            shift=shift,
            verdict=_shortened(verdict),
            text=" ".join(part for part in (sentence(verdict), rise_text(shift.traffic_ratio)) if part),
            slow_trace_id=slow,
            usual_trace_id=usual,
            reference=reference[0].reference if reference else "",
        )

    def _compare(
        self,
        incident: Sequence[Candidates],
        reference: Sequence[Candidates],
        reader: WholeTraceReader,
        read_kinds: ReadKinds,
        seed: str,
    ) -> tuple[CauseVerdict, Mapping[str, TraceProfile]]:
        """Read traces of both kinds and compare them."""
        slow, usual = _one_of_each_trace(incident), _one_of_each_trace(reference)

        def read(slow_ids: Sequence[str], usual_ids: Sequence[str]) -> Mapping[str, TraceProfile]:
            chosen = [slow[each] for each in slow_ids], [usual[each] for each in usual_ids]
            wholes = [reader.fetch(each, spans) for each, spans in zip((incident, reference), chosen, strict=True)]
            # Pair by pair, so that both sides get their part of what may be read by id.
            profiles = {
                span.trace_id: reader.take_apart(span, whole)
                for pair in zip(*chosen, strict=True)
                for span, whole in zip(pair, wholes, strict=True)
            }
            return {trace_id: profile for trace_id, profile in profiles.items() if profile is not None}

        return find_cause(
            {trace_id: span.duration_ns for trace_id, span in slow.items()},
            {trace_id: span.duration_ns for trace_id, span in usual.items()},
            seed,
            read,
            read_kinds=read_kinds,
            may_add=lambda: self._tempo.can_search_by_id,
        )

    def _read_kinds(
        self,
        shift: Shift,
        candidates: CandidateSearch,
        reader: WholeTraceReader,
        incident: Candidates,
        kinds: Sequence[RareKind],
    ) -> list[KindTraces]:
        """Read healthy traces of kinds of which the chosen ones have too few, if there are any."""
        found: list[KindTraces] = []
        stretches = self._healthy_time.stretches(shift, _SEARCHED_FOR_KIND)
        wanted = MAX_TRACES // len(kinds)
        # Without these traces there is an answer as well. The client counts the failure.
        with suppress(TempoError):
            for kind in kinds:
                operations = [OperationName(*each) for each in kind.operations]
                spans = candidates.of_kind(operations, incident, stretches, wanted)
                known = None if spans is None else _known_of_kind(kind, incident, spans, reader, wanted)
                if known is not None:
                    found.append(known)
        return found


def _profiles_of(candidates: Sequence[Candidates], profiles: Mapping[str, TraceProfile]) -> list[TraceProfile]:
    ids = dict.fromkeys(span.trace_id for each in candidates for span in each.spans)
    return [profiles[trace_id] for trace_id in ids if trace_id in profiles]


def _known_of_kind(
    kind: RareKind, incident: Candidates, spans: KindCandidates, reader: WholeTraceReader, wanted: int
) -> KindTraces | None:
    """Read some healthy traces of a kind; None if none of those that were found is of that kind."""
    slow, healthy = _one_of_each_trace([incident]), list(_one_of_each_trace(spans.healthy).values())
    positions = choose_alike(
        [slow[each].duration_ns for each in kind.trace_ids],
        [each.duration_ns for each in spans.incident],
        [each.duration_ns for each in healthy],
        wanted,
    )
    chosen = [healthy[position] for position in positions]
    whole = reader.fetch(spans.healthy, chosen)
    profiles = {span.trace_id: reader.take_apart(span, whole) for span in chosen}
    alike = {
        trace_id: profile
        for trace_id, profile in profiles.items()
        if profile is not None and profile.shape.issuperset(kind.operations)
    }
    return KindTraces(kind, alike, spans.usual_share, spans.now_share) if alike else None


def _examples(
    verdict: CauseVerdict, incident: Sequence[TraceProfile], reference: Sequence[TraceProfile]
) -> tuple[str | None, str | None]:
    """Return a trace of the incident and a healthy one, each the middle one by the time of the named component."""
    part = verdict.parts[0] if verdict.parts else None

    def middle(profiles: Sequence[TraceProfile], share: float) -> str | None:
        if part is not None:
            component = part.change.component
            order = sorted(profiles, key=lambda each: (each.self_ns.get(component, 0), each.duration_ns, each.trace_id))
        else:
            order = sorted(profiles, key=lambda each: (each.duration_ns, each.trace_id))
        return order[int(share * len(order))].trace_id if order else None

    # Part of the incident's traces may be healthy.
    return middle(incident, 0.75), middle(reference, 0.5)


def _one_of_each_trace(candidates: Sequence[Candidates]) -> dict[str, Span]:
    """Return one span of each trace, by trace id.

    All spans of a trace are equally likely: the first that Tempo returns may be the one retry that succeeded.
    """
    spans: dict[str, list[Span]] = {}
    for each in candidates:
        for span in each.spans:
            spans.setdefault(span.trace_id, []).append(span)
    return {trace_id: min(same, key=_draw) if len(same) > 1 else same[0] for trace_id, same in spans.items()}


def _draw(span: Span) -> float:
    return uniform(f"{span.trace_id}/{span.span_id}/{span.start_ns}", 1)[0]


def _shortened(verdict: CauseVerdict) -> CauseVerdict:
    """Return a verdict whose account holds only the components that changed most: traces may have thousands."""
    account = verdict.account
    if account is None:
        return verdict
    most = sorted(account.changes, key=lambda each: -abs(each.delta_seconds))[:_MAX_CHANGES]
    kept = sorted(most, key=lambda each: (-each.delta_seconds, each.component))
    return replace(verdict, account=replace(account, changes=kept, services=account.services[:_MAX_CHANGES]))
