"""The page of one endpoint: how it stands and why, what is usual for it around the clock, and traces to look at."""

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Final

import htpy as h

from exporter.detection.explanation import compared_with, duration
from exporter.evaluation.query import BaselineReport, Profile, SlotBaseline
from exporter.evaluation.snapshot import SeriesStatus
from exporter.model.calendar import DayType
from exporter.model.histogram_codec import DamagedDigestError
from exporter.runtime.logs import LimitedLog
from exporter.store import StoreError
from exporter.web.http import HttpRequest, HttpResponse
from exporter.web.pages import layout, links, plot, words
from exporter.web.pages.hourly_cache import HourlyCache
from exporter.web.pages.sources import Sources

_MOST_KEPT_OUT: Final = 24
_DAY_TYPES: Final = {DayType.WEEKDAY: "Weekdays", DayType.WEEKEND: "Weekends and holidays"}


class EndpointPage:
    """``/endpoint?service_name=…&span_name=…``."""

    def __init__(
        self, sources: Sources, profiles: HourlyCache[Profile], usual: HourlyCache[BaselineReport], log: LimitedLog
    ) -> None:
        self._sources = sources
        self._profiles = profiles
        self._usual = usual
        self._log = log

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """The page; 404 in words for an endpoint that is not on the page of metrics."""
        status = links.found(self._sources.snapshot(), links.asked(request))
        if status is None:
            return self._unknown(request)
        now = self._sources.clock()
        times = words.Times(now, self._sources.local)
        profile: Profile | None = None
        usual: BaselineReport | None = None
        try:
            profile = self._profiles.of(status.key, now)
            usual = self._usual.of(status.key, now)
        except (StoreError, DamagedDigestError) as error:
            self._log.warning("page_incomplete", "a page cannot show baselines", series=status.key, error=error)
        return layout.html(
            f"{words.cut(status.key.span_name)} · {words.cut(status.key.service_name)}",
            h.p(".back")[h.a(href=links.START)["‹ all endpoints"]],
            h.h1[words.names(status.key, longest=None)],
            self._standing(status, usual, times),
            _facts(status, usual, times),
            _around_the_clock(profile, status, self._present(status, now)),
            _limits(usual),
            self._outliers(status, times),
            _kept_out(usual, times),
        )

    def _unknown(self, request: HttpRequest) -> HttpResponse:
        key = links.asked(request)
        snapshot = self._sources.snapshot()
        why = (
            "Nothing is known yet: the current traffic has not been read."
            if snapshot is None
            else "It has sent no traces for a while, was left out, or never was: names must match exactly."
        )
        return layout.html(
            "Unknown endpoint",
            h.h1["There is no such endpoint"],
            h.p[words.names(key)],
            h.p[why],
            h.p[h.a(href=links.address(links.START, {"q": words.cut(key.span_name)}))["Look for it"], " · ",
                h.a(href=links.START)["All endpoints"]],
            status=HTTPStatus.NOT_FOUND,
        )  # fmt: skip

    def _present(self, status: SeriesStatus, now: float) -> plot.Present:
        return plot.Present.of(status, self._sources.slot(now))

    def _standing(self, status: SeriesStatus, usual: BaselineReport | None, times: words.Times) -> h.Element:
        return h.section(class_=["standing", {"bad": bool(status.shift)}])[
            h.p(".facts")[
                _state(status),
                status.since is not None and h.span["since ", times.since(status.since)],
                h.span(".quiet")["as of ", times.at(self._judged_at() or times.now)],
            ],
            h.p(".why")[words.standing(status, usual, self._sources.parameters)],
        ]

    def _judged_at(self) -> float | None:
        snapshot = self._sources.snapshot()
        return None if snapshot is None else snapshot.evaluated_at

    def _outliers(self, status: SeriesStatus, times: words.Times) -> h.Element:
        threshold = status.outlier_threshold_seconds
        found = sorted(status.outliers, key=lambda each: -each.at)
        slow = None if threshold is None else self._sources.explore.slow(status.key, threshold)
        return h.section("#outliers")[
            h.h2["Recent outliers"],
            threshold is not None
            and h.p(".quiet")[
                f"Single traces slower than {duration(threshold)}: {status.outliers_total:,} of ",
                f"{words.count(status.traces_total, 'trace')} since the exporter was started. ",
                slow is not None and h.a(href=slow)["Search for slow traces"],
            ],
            h.table(".plain")[
                h.thead[h.tr[h.th["Ended"], h.th(".number")["Took"], h.th["Trace"], h.th["Where its time went"]]],
                h.tbody[
                    (
                        h.tr[
                            h.td[times.at(each.at)],
                            h.td(".number")[duration(each.seconds)],
                            h.td[self._trace(each.trace_id)],
                            h.td[h.a(href=links.of_trace(status.key, each.trace_id))["critical path, as JSON"]],
                        ]
                        for each in found
                    )
                ],
            ]
            if found
            else h.p["None." if status.is_baseline_known else "Not known yet."],
        ]

    def _trace(self, trace_id: str) -> h.Element:
        address = self._sources.explore.trace(trace_id)
        return h.a(".id", href=address)[trace_id] if address else h.code(".id")[trace_id]


def _state(status: SeriesStatus) -> Iterator[h.Element]:
    if status.shift:
        yield h.span(".badge.bad")["anomalous"]
    elif status.shift is not None:
        yield h.span(".badge.fine")["as usual"]
    elif status.learning:
        yield h.span(".badge")["learning"]
    else:
        yield h.span(".badge")["no verdict"]
    if status.outlier:
        yield h.span(".badge.odd")["outliers"]


def _facts(status: SeriesStatus, usual: BaselineReport | None, times: words.Times) -> h.Element:
    baseline, ratio = status.baseline, words.ratio(status)
    return h.dl(".tiles")[
        _tile("p50 now", words.seconds(status.current_p50_seconds),
              baseline is not None and f"usually {duration(baseline.p50_seconds)}"),
        _tile("p95 now", words.seconds(status.current_p95_seconds),
              baseline is not None and f"usually {duration(baseline.p95_seconds)}"),
        _tile("p95 × usual", words.UNKNOWN if ratio is None else words.times(ratio),
              status.score is not None and f"score {status.score:.2f}"),
        _tile("outlier above", words.seconds(status.outlier_threshold_seconds), "a single trace"),
        _tile("baseline", words.UNKNOWN) if status.level is None
        else _tile("baseline", f"level {status.level:d}", words.LEVELS[status.level]),
        _tile("rests on", words.UNKNOWN if baseline is None else f"{baseline.count:,}",
              baseline is not None and f"traces, {compared_with(baseline)}"),
        _behaviour(status, usual, times),
    ]  # fmt: skip


def _tile(name: str, value: h.Node, more: h.Node = None) -> h.Element:
    return h.div[h.dt[name], h.dd[h.b[value], h.small[more]]]


def _behaviour(status: SeriesStatus, usual: BaselineReport | None, times: words.Times) -> h.Node:
    changepoint = status.changepoint or (usual.changepoint if usual is not None else None)
    if changepoint is None:
        return None
    return _tile("behaves so since", times.at(changepoint), "a lasting change was accepted")


# Around the clock


def _around_the_clock(profile: Profile | None, status: SeriesStatus, present: plot.Present) -> h.Element:
    if profile is None:
        return h.p(".notice.odd")["The stored history cannot be read; the exporter's log says why."]
    top = plot.top_of(profile, present)
    return h.section("#profile")[
        h.h2["Around the clock"],
        h.div(".profiles")[
            (
                _profile(plot.of_day_type(profile, day_type), label, present, top)
                for day_type, label in _DAY_TYPES.items()
            )
        ],
        _legend(status),
        h.details[
            h.summary["The same as a table"],
            h.div(".profiles")[
                (_slots(plot.of_day_type(profile, day_type), label) for day_type, label in _DAY_TYPES.items())
            ],
        ],
    ]


def _profile(slots: Sequence[SlotBaseline], label: str, present: plot.Present, top: float) -> h.Element:
    known = sum(each.baseline is not None for each in slots)
    about = f"{label}: usual p50 and p95 by hour, known for {known} of 24 hours"
    return h.figure[h.figcaption[label], plot.large(slots, present, top, label=about)]


def _legend(status: SeriesStatus) -> h.Element:
    return h.p(".legend")[
        h.span[h.i(".key.band-key"), "usual p50 to p95"],
        status.current_p95_seconds is not None
        and h.span[h.i(class_=["key", "now-key", {"anomalous": bool(status.shift)}]), "p50 and p95 now"],
        "Baseline from",
        (h.span[h.span(f".dot.l{level:d}")[f"{level:d}"], f" {label}"] for level, label in words.LEVELS.items()),
    ]


def _slots(slots: Sequence[SlotBaseline], label: str) -> h.Element:
    return h.table(".plain")[
        h.caption[label],
        h.thead[
            h.tr[
                h.th["Hour"],
                (h.th(".number")[each] for each in ("p50", "p95", "outlier", "level", "traces", "hours")),
            ]
        ],
        h.tbody[(_slot(each) for each in slots)],
    ]


def _slot(each: SlotBaseline) -> h.Element:
    usual = each.baseline
    return h.tr[
        h.th(scope="row")[f"{each.slot.hour:02d}–{(each.slot.hour + 1) % 24:02d}"],
        h.td(".number")[words.seconds(None if usual is None else usual.p50_seconds)],
        h.td(".number")[words.seconds(None if usual is None else usual.p95_seconds)],
        h.td(".number")[words.seconds(each.outlier_threshold_seconds)],
        h.td(".number")["5" if usual is None else f"{usual.level:d}"],
        h.td(".number")[f"{each.traces:,}"],
        h.td(".number")[f"{each.hours:,}"],
    ]


# What a verdict rests on


def _limits(usual: BaselineReport | None) -> h.Node:
    if usual is None:
        return None
    return h.section("#limits")[
        h.h2["What it is held against"],
        h.div(".side")[
            bool(usual.shift)
            and h.table(".plain")[
                h.thead[h.tr[h.th["Quantile"], (h.th(".number")[each] for each in ("usual", "usual swing", "limit"))]],
                h.tbody[
                    (
                        h.tr[
                            h.th(scope="row")[f"p{100 * each.quantile:g}"],
                            h.td(".number")[duration(each.baseline_seconds)],
                            h.td(".number")[f"× {each.swing_factor:.2g}"],
                            h.td(".number")[duration(each.limit_seconds)],
                        ]
                        for each in usual.shift
                    )
                ],
            ],
            h.table(".plain")[
                h.thead[
                    h.tr[
                        h.th["Level"], (h.th(".number")[each] for each in ("traces", "needed", "hours")), h.th["serves"]
                    ]
                ],
                h.tbody[
                    (
                        h.tr[
                            h.th(scope="row")[f"{each.level:d} {words.LEVELS[each.level]}"],
                            h.td(".number")[f"{each.traces:,}"],
                            h.td(".number")[f"{each.needed:,}"],
                            h.td(".number")[f"{each.hours:,}"],
                            h.td[_serves(usual, each.level, enough=each.traces >= each.needed, mature=each.mature)],
                        ]
                        for each in usual.supply
                    )
                ],
            ],
        ],
    ]


def _serves(usual: BaselineReport, level: int, *, enough: bool, mature: bool) -> str:
    if level == usual.level:
        return "yes" if mature else "yes, but too few hours or days for a shift verdict"
    if not enough:
        return "too few traces"
    return "could" if mature else "too few hours or days"


def _kept_out(usual: BaselineReport | None, times: words.Times) -> h.Node:
    if usual is None or not usual.kept_out:
        return None
    latest = usual.kept_out[-_MOST_KEPT_OUT:]
    earlier = len(usual.kept_out) - len(latest)
    return h.section("#quarantined")[
        h.h2["Kept out of the baseline ", h.small[f"{len(usual.kept_out):,}"]],
        h.p(".quiet")["Hours that were anomalous do not count as usual:"],
        h.ul(".hours")[(h.li[times.at(start)] for start in reversed(latest))],
        bool(earlier) and h.p(".quiet")[f"and {words.count(earlier, 'hour')} before."],
    ]
