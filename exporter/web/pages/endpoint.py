"""The page of one endpoint: its current state and the reason, its baseline by hour of day, and traces to look at."""

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Final

import htpy as h

from exporter.detection.explanation import compared_with, duration
from exporter.evaluation.query import BaselineReport, LevelSupply, Profile, SlotBaseline
from exporter.evaluation.snapshot import SeriesStatus
from exporter.explain.words import counted
from exporter.model.calendar import DayType
from exporter.model.histogram_codec import DamagedDigestError
from exporter.runtime.logs import LimitedLog
from exporter.store import StoreError
from exporter.web.http import HttpRequest, HttpResponse
from exporter.web.pages import layout, links, plot, words
from exporter.web.pages.sources import HourlyCache, Sources

_MAX_QUARANTINED: Final = 24
_DAY_TYPES: Final = {DayType.WEEKDAY: "Weekdays", DayType.WEEKEND: "Weekends and holidays"}


class EndpointPage:
    """Handler of ``/endpoint?service_name=…&span_name=…``."""

    def __init__(
        self, sources: Sources, profiles: HourlyCache[Profile], reports: HourlyCache[BaselineReport], log: LimitedLog
    ) -> None:
        self._sources = sources
        self._profiles = profiles
        self._reports = reports
        self._log = log

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Render the page; 404 if the endpoint is not in the snapshot."""
        status = self._sources.requested_series(request)
        if status is None:
            return self._not_found(request)
        now = self._sources.clock()
        times = words.Times(now, self._sources.local)
        profile: Profile | None = None
        report: BaselineReport | None = None
        try:
            profile = self._profiles.get(status.key, now)
            report = self._reports.get(status.key, now)
        except (StoreError, DamagedDigestError) as error:
            self._log.warning("page_incomplete", "a page cannot show baselines", series=status.key, error=error)
        return layout.html_page(
            f"{words.cut(status.key.span_name)} · {words.cut(status.key.service_name)}",
            h.p(".back")[h.a(href=links.START)["‹ all endpoints"]],
            h.h1[words.series_names(status.key, longest=None)],
            self._state_section(status, report, times),
            _tiles(status, report, times),
            _profile_section(profile, status, plot.CurrentLatency.of(status, self._sources.slot(now))),
            _thresholds_section(report),
            self._outliers_section(status, times),
            _quarantine_section(report, times),
        )

    def _not_found(self, request: HttpRequest) -> HttpResponse:
        key = links.requested_series(request)
        reason = (
            "Nothing is known yet: the current traffic has not been read."
            if self._sources.snapshot() is None
            else "It has sent no traces recently, is excluded by the configuration, or does not exist. "
            "Names must match exactly."
        )
        return layout.html_page(
            "Unknown endpoint",
            h.h1["There is no such endpoint"],
            h.p[words.series_names(key)],
            h.p[reason],
            h.p[h.a(href=links.page_url(links.START, {"q": words.cut(key.span_name)}))["Search for it"], " · ",
                h.a(href=links.START)["All endpoints"]],
            status=HTTPStatus.NOT_FOUND,
        )  # fmt: skip

    def _state_section(self, status: SeriesStatus, report: BaselineReport | None, times: words.Times) -> h.Element:
        return h.section(class_=["standing", {"bad": bool(status.shift)}])[
            h.p(".facts")[
                _badges(status),
                status.since is not None and h.span["since ", times.since(status.since)],
                h.span(".quiet")["as of ", times.at(self._evaluated_at() or times.now)],
            ],
            h.p(".why")[words.summary(status, report, self._sources.parameters)],
        ]

    def _evaluated_at(self) -> float | None:
        snapshot = self._sources.snapshot()
        return None if snapshot is None else snapshot.evaluated_at

    def _outliers_section(self, status: SeriesStatus, times: words.Times) -> h.Element:
        threshold = status.outlier_threshold_seconds
        latest_first = sorted(status.outliers, key=lambda each: -each.at)
        search_url = None if threshold is None else self._sources.explore.slow_traces(status.key, threshold)
        return h.section("#outliers")[
            h.h2["Recent outliers"],
            threshold is not None
            and h.p(".quiet")[
                f"Single traces slower than {duration(threshold)}: {status.outliers_total:,} of ",
                f"{counted(status.traces_total, 'trace')} since the exporter started. ",
                search_url is not None and h.a(href=search_url)["Search for slow traces"],
            ],
            h.table(".plain")[
                h.thead[h.tr[h.th["Ended"], h.th(".number")["Duration"], h.th["Trace"], h.th["Critical path"]]],
                h.tbody[
                    (
                        h.tr[
                            h.td[times.at(each.at)],
                            h.td(".number")[duration(each.seconds)],
                            h.td[self._trace(each.trace_id)],
                            h.td[
                                h.a(href=links.critical_path_url(status.key, each.trace_id, self._sources.label_names))[
                                    "as JSON"
                                ]
                            ],
                        ]
                        for each in latest_first
                    )
                ],
            ]
            if latest_first
            else h.p["None." if status.is_baseline_known else "Not known yet."],
        ]

    def _trace(self, trace_id: str) -> h.Element:
        url = self._sources.explore.trace(trace_id)
        return h.a(".id", href=url)[trace_id] if url else h.code(".id")[trace_id]


def _badges(status: SeriesStatus) -> Iterator[h.Element]:
    if status.shift:
        yield h.span(".badge.bad")["anomalous"]
    elif status.shift is not None:
        yield h.span(".badge.fine")["normal"]
    elif status.learning:
        yield h.span(".badge")["learning"]
    else:
        yield h.span(".badge")["no verdict"]
    if status.outlier:
        yield h.span(".badge.odd")["outliers"]


def _tiles(status: SeriesStatus, report: BaselineReport | None, times: words.Times) -> h.Element:
    baseline, ratio = status.baseline, words.p95_ratio(status)
    return h.dl(".tiles")[
        _tile("p50 now", words.latency(status.current_p50_seconds),
              baseline is not None and f"usually {duration(baseline.p50_seconds)}"),
        _tile("p95 now", words.latency(status.current_p95_seconds),
              baseline is not None and f"usually {duration(baseline.p95_seconds)}"),
        _tile("p95 × usual", words.UNKNOWN if ratio is None else words.factor(ratio),
              status.score is not None and f"score {status.score:.2f}"),
        _tile("outlier above", words.latency(status.outlier_threshold_seconds), "a single trace"),
        _tile("baseline", words.UNKNOWN) if status.level is None
        else _tile("baseline", f"level {status.level:d}", words.LEVELS[status.level]),
        _tile("based on", words.UNKNOWN if baseline is None else f"{baseline.count:,}",
              baseline is not None and f"traces, {compared_with(baseline)}"),
        _changepoint_tile(status, report, times),
    ]  # fmt: skip


def _tile(name: str, value: h.Node, more: h.Node = None) -> h.Element:
    return h.div[h.dt[name], h.dd[h.b[value], h.small[more]]]


def _changepoint_tile(status: SeriesStatus, report: BaselineReport | None, times: words.Times) -> h.Node:
    changepoint = status.changepoint or (report.changepoint if report is not None else None)
    if changepoint is None:
        return None
    return _tile("baseline since", times.at(changepoint), "a lasting change was accepted")


# Baseline by hour of day


def _profile_section(profile: Profile | None, status: SeriesStatus, current: plot.CurrentLatency) -> h.Element:
    if profile is None:
        return h.p(".notice.odd")["The stored history cannot be read. The exporter's log has details."]
    top = plot.top_of_scale(profile, current)
    return h.section("#profile")[
        h.h2["Baseline by hour of day"],
        h.div(".profiles")[
            (
                _profile_plot(plot.slots_of_day_type(profile, day_type), label, current, top)
                for day_type, label in _DAY_TYPES.items()
            )
        ],
        _legend(status),
        h.details[
            h.summary["Show as a table"],
            h.div(".profiles")[
                (
                    _profile_table(plot.slots_of_day_type(profile, day_type), label)
                    for day_type, label in _DAY_TYPES.items()
                )
            ],
        ],
    ]


def _profile_plot(slots: Sequence[SlotBaseline], label: str, current: plot.CurrentLatency, top: float) -> h.Element:
    known = sum(each.baseline is not None for each in slots)
    description = f"{label}: usual p50 and p95 by hour, known for {known} of 24 hours"
    return h.figure[h.figcaption[label], plot.large(slots, current, top, label=description)]


def _legend(status: SeriesStatus) -> h.Element:
    return h.p(".legend")[
        h.span[h.i(".key.band-key"), "usual p50 to p95"],
        status.current_p95_seconds is not None
        and h.span[h.i(class_=["key", "now-key", {"anomalous": bool(status.shift)}]), "p50 and p95 now"],
        "Baseline from",
        (h.span[h.span(f".dot.l{level:d}")[f"{level:d}"], f" {label}"] for level, label in words.LEVELS.items()),
    ]


def _profile_table(slots: Sequence[SlotBaseline], label: str) -> h.Element:
    return h.table(".plain")[
        h.caption[label],
        h.thead[
            h.tr[
                h.th["Hour"],
                (h.th(".number")[each] for each in ("p50", "p95", "outlier", "level", "traces", "hours")),
            ]
        ],
        h.tbody[(_slot_row(each) for each in slots)],
    ]


def _slot_row(each: SlotBaseline) -> h.Element:
    baseline = each.baseline
    return h.tr[
        h.th(scope="row")[f"{each.slot.hour:02d}–{(each.slot.hour + 1) % 24:02d}"],
        h.td(".number")[words.latency(None if baseline is None else baseline.p50_seconds)],
        h.td(".number")[words.latency(None if baseline is None else baseline.p95_seconds)],
        h.td(".number")[words.latency(each.outlier_threshold_seconds)],
        h.td(".number")["5" if baseline is None else f"{baseline.level:d}"],
        h.td(".number")[f"{each.traces:,}"],
        h.td(".number")[f"{each.hours:,}"],
    ]


# Thresholds, fallback levels and quarantined hours


def _thresholds_section(report: BaselineReport | None) -> h.Node:
    if report is None:
        return None
    return h.section("#limits")[
        h.h2["Shift thresholds and fallback levels"],
        h.div(".side")[
            bool(report.shift)
            and h.table(".plain")[
                h.thead[
                    h.tr[h.th["Quantile"], (h.th(".number")[each] for each in ("usual", "usual swing", "threshold"))]
                ],
                h.tbody[
                    (
                        h.tr[
                            h.th(scope="row")[f"p{100 * each.quantile:g}"],
                            h.td(".number")[duration(each.baseline_seconds)],
                            h.td(".number")[f"× {each.swing_factor:.2g}"],
                            h.td(".number")[duration(each.limit_seconds)],
                        ]
                        for each in report.shift
                    )
                ],
            ],
            h.table(".plain")[
                h.thead[
                    h.tr[h.th["Level"], (h.th(".number")[each] for each in ("traces", "needed", "hours")), h.th["used"]]
                ],
                h.tbody[
                    (
                        h.tr[
                            h.th(scope="row")[f"{each.level:d} {words.LEVELS[each.level]}"],
                            h.td(".number")[f"{each.traces:,}"],
                            h.td(".number")[f"{each.needed:,}"],
                            h.td(".number")[f"{each.hours:,}"],
                            h.td[_level_use(report, each)],
                        ]
                        for each in report.supply
                    )
                ],
            ],
        ],
    ]


def _level_use(report: BaselineReport, supply: LevelSupply) -> str:
    if supply.level == report.level:
        return "yes" if supply.mature else "yes, but too few hours or days for a shift verdict"
    if supply.traces < supply.needed:
        return "no: too few traces"
    return "not needed" if supply.mature else "no: too few hours or days"


def _quarantine_section(report: BaselineReport | None, times: words.Times) -> h.Node:
    if report is None or not report.kept_out:
        return None
    latest = report.kept_out[-_MAX_QUARANTINED:]
    earlier = len(report.kept_out) - len(latest)
    return h.section("#quarantined")[
        h.h2["Kept out of the baseline ", h.small[f"{len(report.kept_out):,}"]],
        h.p(".quiet")["Anomalous hours that the baseline leaves out:"],
        h.ul(".hours")[(h.li[times.at(start)] for start in reversed(latest))],
        bool(earlier) and h.p(".quiet")[f"and {counted(earlier, 'earlier hour')}."],
    ]
