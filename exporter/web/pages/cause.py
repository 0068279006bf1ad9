"""The page of the cause of one shift: what is known, what the extra time consists of, and traces to look at.

Of a shift that is over it shows what was found while it lasted: from memory, or else as the incident has kept it.
"""

from http import HTTPStatus
from typing import Final

import htpy as h

from exporter.cause.account import Account, ComponentChange
from exporter.cause.attributes import AttributeContrast
from exporter.cause.incidents import MAX_FINDINGS, Finding, Incident
from exporter.cause.profile import Component
from exporter.cause.verdict import Outcome
from exporter.detection.explanation import duration
from exporter.evaluation.causes.shift_cause import ShiftCause
from exporter.evaluation.incident_tracker import finding_of
from exporter.evaluation.snapshot import SeriesStatus
from exporter.explain.cause import signed_duration
from exporter.explain.words import counted
from exporter.model.span import SeriesKey
from exporter.store import StoreError
from exporter.web.http import HttpRequest, HttpResponse
from exporter.web.pages import formatting, layout, links
from exporter.web.pages.sources import Sources

_MAX_ROWS: Final = 15
_SEARCHED_INCIDENTS: Final = 100
"""An endpoint without an incident in the address is looked for in so many incidents, the newest."""
_BAR_WIDTH: Final = 240
_BAR_HEIGHT: Final = 9
_OUTCOMES: Final = {
    Outcome.KNOWN: "cause known",
    Outcome.UNCLEAR: "unclear",
    Outcome.NO_DIFFERENCE: "no difference found",
    Outcome.NO_TRACES: "too few traces",
    Outcome.FAILED: "traces could not be read",
}


class CausePage:
    """Handler of ``/cause?service_name=…&span_name=…``, and with ``&incident=…`` of what that incident has kept."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Render the page; 404 if the endpoint is neither in the snapshot nor in an incident."""
        status = self._sources.requested_series(request)
        incident_id = request.query.get("incident", [""])[-1]
        if status is None or status.cause is None or incident_id:
            return self._past_page(request, status, incident_id)
        times = formatting.Times(self._sources.clock(), self._sources.local)
        cause = status.cause
        account = cause.verdict.account
        return self._page(
            status.key,
            _state_section(status, cause, times),
            account is not None and account_section(account, cause.verdict.service_name),
            bool(cause.verdict.contrasts) and _contrasts_section(cause),
            self._traces_section(status.key, cause.slow_trace_id, cause.usual_trace_id),
            (url := self._sources.drilldown.of_cause(cause)) is not None
            and h.p[h.a(href=url)["Compare slow traces with the others in Grafana"]],
            h.p(".quiet")[h.a(href=self._sources.series_url(links.WHY_API, status.key))["As JSON"]],
        )

    def _past_page(self, request: HttpRequest, status: SeriesStatus | None, incident_id: str) -> HttpResponse:
        """Render what is known of an endpoint that has no cause now, or of one in an incident."""
        key = links.requested_series(request, self._sources.snapshot()) if status is None else status.key
        times = formatting.Times(self._sources.clock(), self._sources.local)
        try:
            kept = self._kept(key, incident_id)
        except StoreError as error:
            kept = None
            unreadable: h.Node = h.p(".why")[f"The stored incidents cannot be read: {error}"]
        else:
            unreadable = None
        last = None if status is None or incident_id else self._sources.last_causes().get(status.key)
        incident, finding = (None, None) if kept is None else kept
        if last is not None and last.shift.since is not None:
            incident, finding = None, finding_of(last)
        if status is None and kept is None and unreadable is None:
            return self._page(key, h.p["There is no such endpoint."], status=HTTPStatus.NOT_FOUND)
        account = None if finding is None else finding.account
        return self._page(
            key,
            status is not None and not incident_id and _present(status),
            unreadable,
            finding is not None and _finding_section(finding, incident, times),
            finding is None and unreadable is None and h.p[_why_not_kept(incident)],
            account is not None and finding is not None and account_section(account, finding.service_name, now="then"),
            finding is not None and self._traces_section(key, finding.slow_trace_id, finding.usual_trace_id),
            status is not None and _look_now(status, self._sources),
            title="Why {} was slow" if status is None or not status.shift else "Why {} is slow",
        )

    def _kept(self, key: SeriesKey, incident_id: str) -> tuple[Incident, Finding | None] | None:
        """Return the incident of an endpoint and what it has kept of it, from the newest that has; None without any.

        Raises:
            StoreError: the incidents cannot be read.
        """
        source = self._sources.incidents
        if incident_id:
            incident = source.find(incident_id)
            incidents = [] if incident is None else [incident]
        else:
            incidents = list(source.newest(_SEARCHED_INCIDENTS).incidents)
        names = self._sources.label_names
        first: tuple[Incident, Finding | None] | None = None
        for each in incidents:
            for endpoint in each.endpoints:
                if endpoint.key == key or names.is_named(endpoint.key, key):
                    first = first or (each, endpoint.finding)
                    if endpoint.finding is not None:
                        return each, endpoint.finding
        return first

    def _page(
        self, key: SeriesKey, *body: h.Node, title: str = "Why {} is slow", status: HTTPStatus = HTTPStatus.OK
    ) -> HttpResponse:
        before, after = title.split("{}")
        return layout.html_page(
            f"Why: {formatting.cut(key.span_name)} · {formatting.cut(key.service_name)}",
            h.p(".back")[h.a(href=self._sources.series_url(links.ENDPOINT, key))["‹ the endpoint"]],
            h.h1[before, formatting.series_names(key, longest=None), after],
            *body,
            status=status,
        )

    def _traces_section(self, key: SeriesKey, slow_trace_id: str | None, usual_trace_id: str | None) -> h.Node:
        examples = (("A slow trace", slow_trace_id), ("A healthy trace", usual_trace_id))
        if slow_trace_id is None and usual_trace_id is None:
            return None
        return h.section("#traces")[
            h.h2["Traces to compare"],
            h.div(".side")[
                (
                    h.div[h.h3[title], h.p[self._trace(trace_id)], h.p[self._spans(key, trace_id)]]
                    for title, trace_id in examples
                    if trace_id is not None
                )
            ],
        ]

    def _trace(self, trace_id: str) -> h.Element:
        url = self._sources.explore.trace(trace_id)
        return h.a(".id", href=url)[trace_id] if url else h.code(".id")[trace_id]

    def _spans(self, key: SeriesKey, trace_id: str) -> h.Element:
        url = links.trace_url(key, trace_id, self._sources.label_names)
        return h.a(href=url)["where its time went"]


def _present(status: SeriesStatus) -> h.Element:
    if status.shift and status.cause is None:
        return h.p[
            "Its latency is shifted. The cause has not been looked for yet, or that is disabled (cause.enabled)."
        ]
    return h.p["Its latency is shifted." if status.shift else "Its latency is not shifted now."]


def _why_not_kept(incident: Incident | None) -> str:
    """Say why there is no finding."""
    if incident is None:
        return (
            "Nothing is known of an earlier shift: what was found is kept with the incident, for storage.retention, "
            "and no incident has this endpoint."
        )
    if incident.is_reconstructed:
        return "Its last incident was found in the history, so no traces were compared at that time."
    return (
        "Of its last incident nothing is kept about this endpoint: its traces were not compared, or it was not among "
        f"the first {MAX_FINDINGS} endpoints for which an incident keeps the account."
    )


def _finding_section(finding: Finding, incident: Incident | None, times: formatting.Times) -> h.Element:
    return h.section("#found.standing")[
        h.p(".facts")[
            h.span(".badge")[_outcome(finding.outcome)],
            h.span(".quiet")["traces compared ", times.since(finding.at)],
            incident is not None
            and h.span[h.a(href=links.page_url(links.INCIDENT, {"id": incident.id}))["the incident"]],
        ],
        h.p(".why")[finding.text],
        finding.account is None and h.p(".quiet")["There is no account: too few traces could be read."],
    ]


def _outcome(value: str) -> str:
    try:
        return _OUTCOMES[Outcome(value)]
    except ValueError:
        return value


def _look_now(status: SeriesStatus, sources: Sources) -> h.Element:
    return h.p[
        h.a(href=sources.series_url(links.WHY_API, status.key))["Compare its traces now"],
        ": takes some seconds, as JSON.",
    ]


def _state_section(status: SeriesStatus, cause: ShiftCause, times: formatting.Times) -> h.Element:
    verdict = cause.verdict
    return h.section(".standing.bad")[
        h.p(".facts")[
            h.span(class_=["badge", {"bad": verdict.outcome is Outcome.KNOWN}])[_OUTCOMES[verdict.outcome]],
            status.since is not None and h.span["slow since ", times.since(status.since)],
            h.span(".quiet")["looked at ", times.since(cause.shift.at)],
        ],
        h.p(".why")[cause.text],
        h.p(".quiet")[
            f"{counted(verdict.incident_traces, 'slow trace')} against ",
            counted(verdict.reference_traces, "healthy one"),
            f" of {cause.reference}" if cause.reference else "",
            f"; {counted(cause.requests, 'request')} to Tempo in {cause.seconds:.1f} s.",
        ],
    ]


def account_section(account: Account, culprit: str | None, *, now: str = "now") -> h.Element:
    """Render what a request waits for, usually and at another time.

    Args:
        account: the account.
        culprit: the service that is named as the cause.
        now: what that other time is called.
    """
    rows = [each for each in account.changes if each.usual_seconds or each.now_seconds]
    rows = sorted(rows, key=lambda each: -max(each.usual_seconds, each.now_seconds, abs(each.delta_seconds)))[
        :_MAX_ROWS
    ]
    rows.sort(key=lambda each: -each.delta_seconds)
    top = max((max(each.usual_seconds, each.now_seconds) for each in rows), default=0.0)
    return h.section("#account")[
        h.h2["What a request waits for"],
        h.p(".quiet")[
            f"On average a request usually takes {duration(account.usual_seconds)}, {now} "
            f"{duration(account.usual_seconds + account.extra_seconds)}."
            + (
                f" Another mix of requests makes {signed_duration(account.mix_seconds)} of the difference."
                if abs(account.mix_seconds) > 0.01 * abs(account.extra_seconds)
                else ""
            )
        ],
        h.p(".legend")[
            h.span[h.i(".key.usual-key"), "usual"],
            h.span[h.i(".key.incident-key"), now],
        ],
        h.div(".wide")[
            h.table(".plain.account")[
                h.thead[
                    h.tr[
                        h.th["Waiting for"],
                        h.th["Time per request"],
                        (h.th(".number")[each] for each in ("usual", now, "extra", "calls usual", f"calls {now}")),
                    ]
                ],
                h.tbody[(_row(each, top, culprit, now) for each in rows)],
            ]
        ],
    ]


def _row(change: ComponentChange, top: float, culprit: str | None, now: str) -> h.Element:
    component = change.component
    is_culprit = culprit is not None and culprit in (component.service_name, component.callee)
    return h.tr(class_={"culprit": is_culprit and change.delta_seconds > 0})[
        h.th(scope="row")[_component(component)],
        h.td[_bars(change, top, now)],
        h.td(".number")[duration(change.usual_seconds)],
        h.td(".number")[duration(change.now_seconds)],
        h.td(".number")[signed_duration(change.delta_seconds)],
        h.td(".number")[f"{change.usual_calls:.2g}"],
        h.td(".number")[f"{change.now_calls:.2g}"],
    ]


def _bars(change: ComponentChange, top: float, now: str) -> h.Element:
    label = f"usually {duration(change.usual_seconds)}, {now} {duration(change.now_seconds)}"
    return h.svg(
        ".bars",
        viewBox=f"0 0 {_BAR_WIDTH} {2 * _BAR_HEIGHT + 2}",
        width=str(_BAR_WIDTH),
        height=str(2 * _BAR_HEIGHT + 2),
        role="img",
        aria_label=label,
    )[
        (
            h.rect(f".{name}", x="0", y=str(y), width=f"{_width(seconds, top):.1f}", height=str(_BAR_HEIGHT))
            for name, y, seconds in (
                ("usual-bar", 0, change.usual_seconds),
                ("incident-bar", _BAR_HEIGHT + 2, change.now_seconds),
            )
        )
    ]


def _width(seconds: float, top: float) -> float:
    return _BAR_WIDTH * min(1.0, seconds / top) if top > 0 and seconds > 0 else 0.0


def _component(component: Component) -> h.Fragment:
    names = formatting.series_names(SeriesKey(component.service_name, component.span_name))
    if not component.callee:
        return names
    caller, callee, span = map(formatting.name_element, (component.service_name, component.callee, component.span_name))
    return h.fragment["between ", caller, " and ", callee, ": ", span]


def _contrasts_section(cause: ShiftCause) -> h.Element:
    return h.section("#contrasts")[
        h.h2["What goes with it"],
        h.table(".plain")[
            h.thead[
                h.tr[
                    h.th["Attribute"],
                    h.th["Value"],
                    (h.th(".number")[each] for each in ("times as long", "now", "usual", "chance")),
                ]
            ],
            h.tbody[(_contrast_row(each) for each in cause.verdict.contrasts)],
        ],
    ]


def _contrast_row(each: AttributeContrast) -> h.Element:
    return h.tr[
        h.th(scope="row")[formatting.name_element(each.name), " of requests" if each.of_root else " of calls"],
        h.td[formatting.name_element(each.value)],
        h.td(".number")[formatting.UNKNOWN if each.factor is None else formatting.factor(each.factor)],
        h.td(".number")[f"{each.incident_share:.0%}"],
        h.td(".number")[f"{each.reference_share:.0%}"],
        h.td(".number")[f"{each.chance:.1g}"],
    ]
