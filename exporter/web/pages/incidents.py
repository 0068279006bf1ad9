"""The pages of incidents: the list with a timeline, and one for each."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import htpy as h

from exporter.cause.incidents import Incident, IncidentEndpoint, Severity
from exporter.explain.incidents import ROLE_NAMES, incident_title
from exporter.explain.words import amount_of_time, coarse_duration, counted
from exporter.store import StoreError
from exporter.web.api.paging import decode_place, encode_place
from exporter.web.http import HttpRequest, HttpResponse
from exporter.web.pages import formatting, layout, links
from exporter.web.pages.cause import account_section
from exporter.web.pages.sources import Sources

_PER_PAGE: Final = 50
_WIDTH: Final = 300
_HEIGHT: Final = 10
_MIN_BAR: Final = 2.0


class IncidentsPage:
    """Handler of ``/incidents``, and of its further pages ``/incidents?after=…``."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Render the list, the newest first."""
        now = self._sources.clock()
        times = formatting.Times(now, self._sources.local)
        try:
            page = self._sources.incidents.newest(_PER_PAGE, _place(request.query.get("after", [""])[-1]))
        except StoreError as error:
            return _unreadable(error)
        further = page.next and links.page_url(links.INCIDENTS, {"after": encode_place(page.next)})
        return layout.html_page(
            "Incidents",
            h.h1["Incidents"],
            h.p(".quiet")[
                "Shifts of endpoints that belong together: by cause, by calls and by time. The newest first."
            ],
            _list(page.incidents, now, times) if page.incidents else h.p["There are no incidents."],
            further and h.p[h.a(href=further)["Earlier incidents ›"]],
            h.p(".quiet")[h.a(href=links.INCIDENTS_API)["As JSON"]],
        )


class IncidentPage:
    """Handler of ``/incident?id=…``."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Render the page; 404 if there is no such incident."""
        now = self._sources.clock()
        times = formatting.Times(now, self._sources.local)
        try:
            incident = self._sources.incidents.find(request.query.get("id", [""])[-1])
        except StoreError as error:
            return _unreadable(error)
        back = h.p(".back")[h.a(href=links.INCIDENTS)["‹ all incidents"]]
        if incident is None:
            return layout.html_page("Incident", back, h.p["There is no such incident."], status=HTTPStatus.NOT_FOUND)
        title = formatting.cut(incident_title(incident))
        return layout.html_page(
            f"Incident: {title}",
            back,
            h.h1["Incident: ", formatting.name_element(title)],
            _state_section(incident, times),
            self._endpoints_section(incident, now, times),
            _account(incident),
            h.p(".quiet")[h.a(href=links.page_url(links.INCIDENT_API, {"id": incident.id}))["As JSON"]],
        )

    def _endpoints_section(self, incident: Incident, now: float, times: formatting.Times) -> h.Element:
        end = now if incident.end is None else incident.end
        return h.section("#endpoints")[
            h.h2["Endpoints"],
            h.div(".wide")[
                h.table(".plain")[
                    h.thead[
                        h.tr[
                            h.th["Endpoint"],
                            h.th["Role"],
                            h.th["When"],
                            h.th["Since"],
                            h.th["Until"],
                            h.th(".number")["Peak score"],
                            h.th["Time lost"],
                            h.th["Found"],
                        ]
                    ],
                    h.tbody[
                        (self._row(incident, each, (incident.start, end), now, times) for each in incident.endpoints)
                    ],
                ]
            ],
        ]

    def _row(
        self,
        incident: Incident,
        endpoint: IncidentEndpoint,
        span: tuple[float, float],
        now: float,
        times: formatting.Times,
    ) -> h.Element:
        until = now if endpoint.until is None else endpoint.until
        url = self._sources.series_url(links.ENDPOINT, endpoint.key)
        return h.tr[
            h.th(scope="row")[h.a(href=url)[formatting.series_names(endpoint.key)]],
            h.td[ROLE_NAMES[endpoint.role]],
            h.td[_bar(endpoint.since, until, *span)],
            h.td[times.at(endpoint.since)],
            h.td["now" if endpoint.until is None else times.at(endpoint.until)],
            h.td(".number")[f"{endpoint.peak_score:.1f}"],
            h.td[_lost(endpoint.lost_requests, endpoint.lost_seconds)],
            h.td[self._found(incident, endpoint)],
        ]

    def _found(self, incident: Incident, endpoint: IncidentEndpoint) -> h.Node:
        """Link what was found about an endpoint, as the incident has kept it."""
        if endpoint.finding is None:
            return formatting.UNKNOWN
        names = self._sources.label_names.of(endpoint.key).parameters
        return h.a(href=links.page_url(links.CAUSE, {**names, "incident": incident.id}))["why"]


def _place(text: str) -> tuple[float, str] | None:
    """Decode a place in the list; None for anything else, which is the first page."""
    try:
        return decode_place(text)
    except ValueError:
        return None


def _unreadable(error: StoreError) -> HttpResponse:
    return layout.html_page(
        "Incidents",
        h.h1["Incidents"],
        h.p(".why")[f"The stored incidents cannot be read: {error}"],
        status=HTTPStatus.SERVICE_UNAVAILABLE,
    )


def _list(incidents: Sequence[Incident], now: float, times: formatting.Times) -> h.Element:
    span = min(each.start for each in incidents), max(now if each.end is None else each.end for each in incidents)
    return h.div(".wide")[
        h.table(".plain")[
            h.thead[
                h.tr[
                    h.th["Incident"],
                    h.th["State"],
                    h.th["When"],
                    h.th["Began"],
                    h.th["Lasted"],
                    h.th(".number")["Peak score"],
                    h.th["Time lost"],
                ]
            ],
            h.tbody[
                (
                    h.tr[
                        h.th(scope="row")[
                            h.a(href=links.page_url(links.INCIDENT, {"id": each.id}))[
                                formatting.name_element(incident_title(each))
                            ]
                        ],
                        h.td[_badge(each)],
                        h.td[_bar(each.start, now if each.end is None else each.end, *span)],
                        h.td[times.at(each.start)],
                        h.td[coarse_duration((now if each.end is None else each.end) - each.start)],
                        h.td(".number")[f"{each.peak_score:.1f}"],
                        h.td[_lost(each.lost_requests, each.lost_seconds)],
                    ]
                    for each in incidents
                )
            ],
        ]
    ]


def _badge(incident: Incident) -> h.Element:
    if incident.is_reconstructed:
        return h.span(".badge")["from history"]
    if incident.merged_into is not None:
        return h.span(".badge")["merged"]
    if incident.end is not None:
        return h.span(".badge")["over"]
    return h.span(".badge.bad")["severe, lasts" if incident.severity is Severity.CRITICAL else "lasts"]


def _state_section(incident: Incident, times: formatting.Times) -> h.Element:
    merged = incident.merged_into
    return h.section(class_=["standing", {"bad": incident.end is None}])[
        h.p(".facts")[
            _badge(incident),
            h.span["began ", times.since(incident.start)],
            incident.end is not None and h.span["ended ", times.since(incident.end)],
            h.span[f"peak score {incident.peak_score:.1f}"],
            h.span[_lost(incident.lost_requests, incident.lost_seconds)],
        ],
        h.p(".why")[_sentence(incident)],
        incident.cause is not None
        and h.p(".quiet")[
            f"{incident.cause.share:.0%} of the extra time; the same service comes first in "
            f"{incident.cause.certainty:.0%} of the resampled comparisons."
        ],
        merged is not None
        and h.p[
            "It turned out to be a part of ",
            h.a(href=links.page_url(links.INCIDENT, {"id": merged}))["another incident"],
            ".",
        ],
    ]


def _account(incident: Incident) -> h.Node:
    """Render the account of the endpoint whose sentence the incident has, or say that it is missing."""
    cause = incident.cause
    if cause is None:
        return None
    accounts = [
        (endpoint.key, finding, finding.account)
        for endpoint in incident.endpoints
        if (finding := endpoint.finding) is not None
        and finding.account is not None
        and (finding.service_name or "") == cause.service_name
    ]
    # The sentence itself may have been that of a comparison before the last one.
    accounts.sort(key=lambda each: each[1].text != cause.text)
    for key, finding, account in accounts:
        return h.fragment[
            h.p(".quiet")["Traces of ", formatting.series_names(key), ":"],
            account_section(account, finding.service_name, now="now" if incident.end is None else "then"),
        ]
    return h.p(".quiet")["The account that this sentence comes from was not stored."]


def _sentence(incident: Incident) -> str:
    if incident.is_reconstructed:
        return (
            "Found in the history; the cause is not known. No traces were compared at that time, and the time lost was "
            "not counted."
        )
    return "The cause is not known." if incident.cause is None else incident.cause.text


def _lost(requests: int, seconds: float) -> str:
    return f"{counted(requests, 'request')} lost {amount_of_time(seconds)}" if requests else "–"


def _bar(begin: float, until: float, start: float, end: float) -> h.Element:
    """Draw when something lasted within a range."""
    scale = _WIDTH / max(end - start, 1.0)
    width = max(_MIN_BAR, (until - begin) * scale)
    left = min(max(0.0, (begin - start) * scale), _WIDTH - _MIN_BAR)
    return h.svg(
        ".bars",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        width=str(_WIDTH),
        height=str(_HEIGHT),
        role="img",
        aria_label=f"for {coarse_duration(max(0.0, until - begin))}",
    )[
        h.rect(
            ".incident-bar",
            x=f"{left:.1f}",
            y="0",
            width=f"{min(width, _WIDTH - left):.1f}",
            height=str(_HEIGHT),
        )
    ]
