"""The HTML pages over WSGI, built from fake data and read back as a browser would."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from html.parser import HTMLParser

from exporter.baseline.levels import SLOTS
from exporter.detection.flag import FlagPeriod
from exporter.detection.parameters import Parameters
from exporter.evaluation.causes.shift_cause import ShiftCause
from exporter.evaluation.incident_tracker import IncidentHistory, IncidentTracker
from exporter.evaluation.query import BaselineReport, LevelSupply, Profile, ShiftThreshold, SlotBaseline
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.evaluation.timeline import SeriesPast, Timeline, TimelinePoint, TimelineRange, build_timeline
from exporter.evaluation.timeline_query import SlotSignals, UsualProfile
from exporter.explain.drilldown import NO_LINKS, Drilldown
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.model.calendar import Calendar, DayType, HourClock
from exporter.model.critical_path import TraceSpan
from exporter.model.label import DEFAULT_LABEL_NAMES, LabelNames
from exporter.model.span import SeriesKey
from exporter.model.time_mark import MarkRange
from exporter.runtime.logs import get_logger
from exporter.store import Store
from exporter.web.http import Site
from exporter.web.pages.links import Explore
from exporter.web.pages.routes import page_handlers
from exporter.web.pages.sources import LastDay, Sources
from exporter.web.pages.trace import TraceSources
from tests.support.samples import HOUR, NOON, Clock, baseline
from tests.support.wsgi import WsgiResponse, ask

INLINE = {"a", "bdi", "code", "strong", "time"}
VOID = {"meta", "br", "input", "img", "link", "hr"}
HOURS = HourClock(Calendar())


class ParsedPage(HTMLParser):
    """A parsed page; parsing fails if its elements are not properly nested."""

    def __init__(self, response: WsgiResponse) -> None:
        super().__init__()
        self.response = response
        self._open: list[str] = []
        self.tags: set[str] = set()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(response.body.decode("utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.elements.append((tag, dict(attrs)))
        self._add_space(tag)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self._add_space(tag)

    def _add_space(self, tag: str) -> None:
        if tag not in INLINE:
            self.texts.append(" ")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        """The whole text, with single spaces."""
        return " ".join("".join(self.texts).split()).replace(" ,", ",").replace(" .", ".")

    def attributes(self, name: str) -> list[str]:
        """The values of an attribute, in document order."""
        return [value for _, attrs in self.elements if (value := attrs.get(name)) is not None]

    def links(self, text_part: str) -> list[str]:
        """The link targets that contain a text."""
        return [url for url in self.attributes("href") if text_part in url]


def profile(key: SeriesKey, known: int = 24) -> Profile:
    """A profile with level 1 in the first ``known`` hours of weekdays, and no baseline on weekends."""
    slots = []
    for slot in SLOTS:
        has_baseline = slot.day_type is DayType.WEEKDAY and slot.hour < known
        slot_baseline = replace(baseline(), slot=slot) if has_baseline else None
        threshold = 0.4 if has_baseline else None
        slots.append(SlotBaseline(slot, slot_baseline, threshold, 100 * has_baseline, 5 * has_baseline))
    return Profile(key, tuple(slots), None)


def report(key: SeriesKey) -> BaselineReport:
    """The baseline at noon: two levels have traces, and two hours are quarantined."""
    return BaselineReport(
        key=key,
        hour=HOURS.hour(NOON),
        baseline=baseline(),
        digest=None,
        hours=(),
        outlier_threshold_seconds=0.4,
        shift=(ShiftThreshold(0.5, 0.1, 1.2, 0.14), ShiftThreshold(0.9, 0.16, 1.2, 0.23)),
        no_verdict=None,
        supply=tuple(LevelSupply(level, needed, 500, 5, True) for level, needed in ((1, 50), (2, 2000))),  # type: ignore[arg-type]
        kept_out=(NOON - 7200, NOON - 3600),
        changepoint=None,
        known_until=NOON,
    )


def incident_tracker(store: Store | None = None) -> IncidentTracker:
    """Return a keeper of incidents with its clock at 0."""
    return IncidentTracker(
        store or Store.in_memory(),
        renamed=lambda key: key,
        monotonic=Clock(0.0),
        log=get_logger("test"),
    )


@dataclass
class Pages:
    """The pages of an exporter. A test sets their data; the site is built for the first request.

    Attributes:
        label_names: maps the names of series to label values.
        computed_profiles: the series whose profiles were computed, in order.
        error: raised by every query of the history.
        reports: reports by series; the others get :func:`report`.
        trace: the spans that Tempo returns for any trace, or the error.
        last_causes: the latest cause of each shift.
        flags: the flags of the past, by series.
        marks: what people have marked of the past, by series.
        points: changes a point of a timeline, which is not read otherwise.
        ranges: the ranges of the timelines that were built, in order.
        running: admits requests that wait for Tempo.
        history_version: objects that are replaced when the history has changed.
    """

    snapshot: Snapshot | None = None
    backfill: BackfillStatus | None = None
    explore: str = ""
    drilldown: Drilldown = NO_LINKS
    tempo_url: str = "http://tempo:3200"
    label_names: LabelNames = DEFAULT_LABEL_NAMES
    clock: Clock = field(default_factory=Clock)
    computed_profiles: list[SeriesKey] = field(default_factory=list)
    error: Exception | None = None
    reports: Mapping[SeriesKey, BaselineReport] = field(default_factory=dict)
    folded: Mapping[str, int] = field(default_factory=dict)
    trace: Iterable[TraceSpan] | Exception = ()
    incidents: IncidentHistory = field(default_factory=incident_tracker)
    last_causes: Mapping[SeriesKey, ShiftCause] = field(default_factory=dict)
    flags: Mapping[SeriesKey, Sequence[FlagPeriod]] = field(default_factory=dict)
    marks: Mapping[SeriesKey, Sequence[MarkRange]] = field(default_factory=dict)
    points: Callable[[TimelinePoint], TimelinePoint] = lambda point: point
    ranges: list[TimelineRange] = field(default_factory=list)
    history_version: Sequence[object] = ()
    running: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(2))

    def report(self, key: SeriesKey, at: int, now: int) -> BaselineReport:
        if self.error:
            raise self.error
        return self.reports.get(key) or report(key)

    def profile(self, key: SeriesKey, now: int) -> Profile:
        self.computed_profiles.append(key)
        if self.error:
            raise self.error
        return profile(key)

    def usual(self, key: SeriesKey, now: int) -> UsualProfile:
        if self.error:
            raise self.error
        signals = (
            SlotSignals(slot, 0.004, 360.0) if slot.day_type is DayType.WEEKDAY else SlotSignals(slot) for slot in SLOTS
        )
        return UsualProfile(profile(key), tuple(signals))

    def timeline(
        self, key: SeriesKey, range_: TimelineRange, now: int, usual: UsualProfile, status: SeriesStatus | None = None
    ) -> Timeline:
        self.ranges.append(range_)
        past = SeriesPast(
            key, (), {}, (), usual.of_hours(), flags=self.flags.get(key, ()), marks=self.marks.get(key, ())
        )
        timeline = build_timeline(past, HOURS, now - range_.seconds, now, HOUR)
        return replace(timeline, points=[self.points(point) for point in timeline.points])

    def last_day(self, now: float) -> LastDay:
        if self.error:
            raise self.error
        return [(key, periods) for key, periods in self.flags.items() if periods]

    def fetch(self, trace_id: str) -> Iterable[TraceSpan]:
        if isinstance(self.trace, Exception):
            raise self.trace
        return self.trace

    @cached_property
    def site(self) -> Site:
        sources = Sources(
            snapshot=lambda: self.snapshot,
            backfill=lambda: self.backfill,
            history=self,
            timelines=self,
            clock=self.clock,
            hours=HOURS,
            local=lambda at: datetime.fromtimestamp(at, UTC),
            parameters=Parameters(),
            interval_seconds=15.0,
            tempo_url=self.tempo_url,
            label_names=self.label_names,
            explore=Explore(self.explore),
            drilldown=self.drilldown,
            incidents=self.incidents,
            folded_names=lambda: self.folded,
            last_causes=lambda: self.last_causes,
            history_version=lambda: self.history_version,
        )
        traces = TraceSources(self.fetch, lambda key: key, Calendar(), self.running)
        return Site(page_handlers(sources, traces, get_logger("web"), self.clock), get_logger("web"))

    def read(self, path: str = "/", query: str = "", accept_language: str = "") -> ParsedPage:
        """Request a page and parse it."""
        return ParsedPage(ask(self.site, path, query=query, accept_language=accept_language))
