"""Pages asked of a whole site, and read as a browser would read them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from html.parser import HTMLParser

from exporter.baseline.availability import SLOTS
from exporter.detection.parameters import Parameters
from exporter.evaluation.query import BaselineReport, LevelSupply, Profile, ShiftThreshold, SlotBaseline
from exporter.evaluation.snapshot import Snapshot
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.model.calendar import Calendar, DayType
from exporter.model.hours import HourClock
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.web.http import Site
from exporter.web.pages.explore import Explore
from exporter.web.pages.pages import pages
from exporter.web.pages.sources import Sources
from tests.support.samples import NOON, Clock, baseline
from tests.support.wsgi import Answer, ask

WITHIN_A_LINE = {"a", "bdi", "code", "strong", "time"}
VOID = {"meta", "br", "input", "img", "link", "hr"}
HOURS = HourClock(Calendar())


class Reader(HTMLParser):
    """Reads a page, and refuses one whose elements do not nest."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer
        self._open: list[str] = []
        self.tags: set[str] = set()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(answer.body.decode("utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.elements.append((tag, dict(attrs)))
        self._space(tag)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self._space(tag)

    def _space(self, tag: str) -> None:
        if tag not in WITHIN_A_LINE:
            self.words.append(" ")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        """All of its text, with single spaces."""
        return " ".join("".join(self.words).split()).replace(" ,", ",").replace(" .", ".")

    def attributes(self, name: str) -> list[str]:
        """The values of an attribute, in their order."""
        return [value for _, attrs in self.elements if (value := attrs.get(name)) is not None]

    def links(self, text_part: str) -> list[str]:
        """Addresses of links that hold some text."""
        return [address for address in self.attributes("href") if text_part in address]


def profile(key: SeriesKey, known: int = 24) -> Profile:
    """Weekdays are known for so many hours, at level 1; weekends not at all."""
    slots = []
    for slot in SLOTS:
        there = slot.day_type is DayType.WEEKDAY and slot.hour < known
        usual = replace(baseline(), slot=slot) if there else None
        slots.append(SlotBaseline(slot, usual, 0.4 if there else None, 100 * there, 5 * there))
    return Profile(key, tuple(slots), None)


def usual(key: SeriesKey) -> BaselineReport:
    """What is usual at noon: all levels have something, and two hours are kept out."""
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


@dataclass
class World:
    """What the pages show, each part to be set by a test."""

    snapshot: Snapshot | None = None
    backfill: BackfillStatus | None = None
    explore: str = ""
    tempo_url: str = "http://tempo:3200"
    clock: Clock = field(default_factory=Clock)
    asked_profiles: list[SeriesKey] = field(default_factory=list)
    error: Exception | None = None
    usuals: Mapping[SeriesKey, BaselineReport] = field(default_factory=dict)

    def usual(self, key: SeriesKey, at: int, now: int) -> BaselineReport:
        if self.error:
            raise self.error
        return self.usuals.get(key) or usual(key)

    def profile(self, key: SeriesKey, now: int) -> Profile:
        self.asked_profiles.append(key)
        if self.error:
            raise self.error
        return profile(key)

    def site(self) -> Site:
        sources = Sources(
            snapshot=lambda: self.snapshot,
            backfill=lambda: self.backfill,
            history=self,
            clock=self.clock,
            hours=HOURS,
            local=lambda at: datetime.fromtimestamp(at, UTC),
            parameters=Parameters(),
            interval_seconds=15.0,
            tempo_url=self.tempo_url,
            explore=Explore(self.explore),
        )
        return Site(pages(sources, get_logger("web"), self.clock), get_logger("web"))

    def read(self, path: str = "/", query: str = "") -> Reader:
        """A page."""
        return Reader(ask(self.site(), path, query=query))
