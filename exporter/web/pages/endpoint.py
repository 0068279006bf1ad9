"""The page of one endpoint: its current state and the reason, its past, its day, and traces."""

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Final

import htpy as h

from exporter.detection.errors.verdict import percent
from exporter.detection.explanation import duration
from exporter.detection.flag import FlagKind
from exporter.detection.parameters import Parameters
from exporter.evaluation.query import BaselineReport, Profile, SlotBaseline
from exporter.evaluation.snapshot import SeriesStatus
from exporter.evaluation.timeline import PointState, Timeline, TimelineRange
from exporter.evaluation.timeline_query import UsualProfile
from exporter.explain.words import marks_sentences, regression_sentence
from exporter.model.calendar import DayType, Slot
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.span import SeriesKey
from exporter.runtime.logs import LimitedLog
from exporter.store import StoreError
from exporter.web.http import HttpRequest, HttpResponse
from exporter.web.pages import endpoint_words as words
from exporter.web.pages import formatting, layout, links, plot
from exporter.web.pages.sources import HistoryCache, Sources
from exporter.web.pages.status_words import ENGLISH
from exporter.web.pages.timeline_plot import TimelinePlots

_MAX_QUARANTINED: Final = 24
_MAX_MARKS: Final = 10
_LEAST_ERROR_SCALE: Final = 0.01
_DAY_TYPES: Final = {DayType.WEEKDAY: words.WEEKDAYS, DayType.WEEKEND: words.WEEKENDS}


class EndpointPage:
    """Handler of ``/endpoint?service_name=…&span_name=…``."""

    def __init__(
        self,
        sources: Sources,
        usual: HistoryCache[SeriesKey, UsualProfile],
        reports: HistoryCache[SeriesKey, BaselineReport],
        log: LimitedLog,
    ) -> None:
        self._sources = sources
        self._usual = usual
        self._reports = reports
        self._log = log

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Render the page; 404 if the endpoint is not in the snapshot."""
        status = self._sources.requested_series(request)
        if status is None:
            return self._not_found(request)
        now = self._sources.clock()
        times = formatting.Times(now, self._sources.local)
        range_ = _range(request)
        usual: UsualProfile | None = None
        report: BaselineReport | None = None
        timeline: Timeline | None = None
        try:
            usual = self._usual.get(status.key, now)
            report = self._reports.get(status.key, now)
            timeline = self._sources.timelines.timeline(status.key, range_, int(now), usual, status)
        except (StoreError, DamagedDigestError) as error:
            self._log.warning("page_incomplete", "a page cannot show baselines", series=status.key.parts, error=error)
        return layout.html_page(
            " · ".join(
                map(
                    formatting.cut,
                    (status.key.span_name, status.key.service_name, *(each for _, each in status.key.labels)),
                )
            ),
            h.p(".back")[h.a(href=links.START)[words.BACK_TO_ALL]],
            h.h1[formatting.series_names(status.key, longest=None)],
            self._state_section(status, report, times),
            _tiles(status, report, times),
            self._past_section(timeline, range_, status, times),
            _profile_section(
                None if usual is None else usual.profile,
                status,
                plot.CurrentLatency.of(status, self._sources.slot(now)),
            ),
            usual is not None and _signals_section(usual, status, self._sources.slot(now)),
            _kinds_section(status, self._sources.series_parameters(status), times),
            _thresholds_section(report),
            self._outliers_section(status, times),
            _quarantine_section(report, times),
            _marks_section(report, times),
        )

    def _not_found(self, request: HttpRequest) -> HttpResponse:
        key = links.requested_series(request, self._sources.snapshot())
        reason = words.UNKNOWN_ENDPOINT_UNREAD if self._sources.snapshot() is None else words.UNKNOWN_ENDPOINT_REASON
        return layout.html_page(
            words.UNKNOWN_ENDPOINT,
            h.h1[words.NO_SUCH_ENDPOINT],
            h.p[formatting.series_names(key)],
            h.p[reason],
            h.p[h.a(href=links.page_url(links.START, {"q": formatting.cut(key.span_name)}))[words.SEARCH_FOR_IT], " · ",
                h.a(href=links.START)[words.ALL_ENDPOINTS]],
            status=HTTPStatus.NOT_FOUND,
        )  # fmt: skip

    def _state_section(self, status: SeriesStatus, report: BaselineReport | None, times: formatting.Times) -> h.Element:
        return h.section(class_=["standing", {"bad": status.is_anomalous}])[
            h.p(".facts")[
                _badges(status),
                status.since is not None and h.span[ENGLISH.since(status.since, times)],
                h.span(".quiet")[words.as_of(self._evaluated_at() or times.now, times)],
            ],
            h.p(".why")[words.summary(status, report, self._sources.series_parameters(status))],
            (errors := ENGLISH.errors_summary(status, times)) is not None and h.p(".why")[errors],
            status.regression is not None
            and h.p(".why")[
                regression_sentence(status.regression, times.local),
                status.regression_version is not None and f" {status.regression_version.sentence}",
            ],
            (sentence := ENGLISH.traffic(status)) is not None and h.p(".why")[sentence],
            status.service is not None and h.p(".why")[ENGLISH.service_shift(status.service, times)],
            (h.p(".why")[each] for each in marks_sentences(status.marks, times.local)),
            bool(status.shift)
            and h.p(".why")[
                status.cause is not None and f"{status.cause.text} ",
                h.a(href=self._sources.series_url(links.CAUSE, status.key))[
                    words.WHY_SLOW if status.cause is None else words.EXTRA_TIME
                ],
            ],
            bool(comparisons := self._sources.drilldown.of_flags(status, self._evaluated_at()))
            and h.p(".why")[
                "Compare with the time before, in Grafana: ",
                (
                    [", " if position else None, h.a(href=url)[words.COMPARED[FlagKind(kind)]]]
                    for position, (kind, url) in enumerate(comparisons.items())
                ),
            ],
        ]

    def _evaluated_at(self) -> float | None:
        snapshot = self._sources.snapshot()
        return None if snapshot is None else snapshot.evaluated_at

    def _past_section(
        self, timeline: Timeline | None, range_: TimelineRange, status: SeriesStatus, times: formatting.Times
    ) -> h.Element:
        key, names = status.key, self._sources.label_names
        return h.section("#past")[
            h.h2[words.past_heading(range_)],
            h.nav(".ranges", aria_label=words.RANGES_LABEL)[
                (
                    h.a(
                        href=f"{links.past_url(links.ENDPOINT, key, names, each.value)}#past",
                        aria_current="true" if each is range_ else None,
                    )[label]
                    for each, label in words.RANGES.items()
                )
            ],
            h.p(".notice.odd")[words.PAST_UNREADABLE] if timeline is None else _past(timeline, times),
            timeline is not None
            and h.p(".quiet")[
                words.past_notes(timeline),
                " ",
                h.a(href=links.past_url(links.TIMELINE_API, key, names, range_.value))[words.AS_JSON],
            ],
        ]

    def _outliers_section(self, status: SeriesStatus, times: formatting.Times) -> h.Element:
        threshold = status.outlier_threshold_seconds
        latest_first = sorted(status.outliers, key=lambda each: -each.at)
        search_url = None if threshold is None else self._sources.explore.slow_traces(status.key, threshold)
        return h.section("#outliers")[
            h.h2[words.OUTLIERS],
            threshold is not None
            and h.p(".quiet")[
                words.outliers_note(threshold, status),
                search_url is not None and h.a(href=search_url)[words.SEARCH_SLOW],
            ],
            h.table(".plain")[
                h.thead[
                    h.tr[
                        h.th[words.ENDED],
                        h.th(".number")[words.DURATION],
                        h.th[words.TRACE],
                        h.th[words.WHERE_TIME_WENT],
                    ]
                ],
                h.tbody[
                    (
                        h.tr[
                            h.td[times.at(each.at)],
                            h.td(".number")[duration(each.seconds)],
                            h.td[self._trace(each.trace_id)],
                            h.td[
                                h.a(href=links.trace_url(status.key, each.trace_id, self._sources.label_names))[
                                    words.SPANS
                                ]
                            ],
                        ]
                        for each in latest_first
                    )
                ],
            ]
            if latest_first
            else h.p[words.NONE if status.is_baseline_known else words.NOT_KNOWN_YET],
        ]

    def _trace(self, trace_id: str) -> h.Element:
        url = self._sources.explore.trace(trace_id)
        return h.a(".id", href=url)[trace_id] if url else h.code(".id")[trace_id]


def _badges(status: SeriesStatus) -> Iterator[h.Element]:
    if status.shift:
        yield h.span(".badge.bad")[ENGLISH.anomalous_badge]
    elif status.shift is not None:
        yield h.span(".badge.fine")[words.NORMAL_BADGE]
    elif not status.is_enabled:
        yield h.span(".badge", title=ENGLISH.disabled_title)[ENGLISH.disabled_badge]
    elif status.stream is not None:
        yield h.span(".badge", title=ENGLISH.stream_titles[status.stream])[ENGLISH.stream_badge]
    elif status.learning:
        yield h.span(".badge")[ENGLISH.learning_badge]
    else:
        yield h.span(".badge")[words.NO_VERDICT_BADGE]
    if status.of_kind(FlagKind.ERRORS).firing:
        yield h.span(".badge.bad")[ENGLISH.errors_badge]
    if status.regression is not None:
        yield h.span(".badge.odd", title=ENGLISH.regression_title)[ENGLISH.regression_badge]
    if status.of_kind(FlagKind.TRAFFIC).firing:
        yield h.span(".badge.bad", title=ENGLISH.traffic_title)[ENGLISH.traffic_badge]
    if status.outlier:
        yield h.span(".badge.odd")[ENGLISH.outliers_badge]


def _tiles(status: SeriesStatus, report: BaselineReport | None, times: formatting.Times) -> h.Element:
    return h.dl(".tiles")[
        (
            h.div[h.dt[each.name], h.dd[h.b[each.value], h.small[each.more]]]
            for each in words.tiles(status, None if report is None else report.changepoint, times)
        )
    ]


# The past


def _range(request: HttpRequest) -> TimelineRange:
    """Return the range that a request names; a day without one, and for an unknown one."""
    name = request.query.get("range", [""])[-1]
    return TimelineRange(name) if name in set(TimelineRange) else TimelineRange.HOURS_24


def _past(timeline: Timeline, times: formatting.Times) -> h.Element:
    plots = TimelinePlots(timeline, times)
    latency, errors, traffic, heat = plots.latency(), plots.errors(), plots.traffic(), plots.heat()
    axis = plots.time_axis()
    is_partial = any(point.state is PointState.CURRENT for point in timeline.points)
    return h.div[
        h.figure(".past")[
            h.figcaption[words.LATENCY_OVER_TIME],
            h.p(".quiet")[words.NO_PAST] if latency is None else latency,
            errors is not None and h.fragment[h.figcaption[words.ERRORS_OVER_TIME], errors],
            traffic is not None and h.fragment[h.figcaption[words.TRAFFIC_OVER_TIME], traffic],
            axis,
        ],
        h.p(".legend")[
            h.span[h.i(".key.p50-key"), "p50"],
            h.span[h.i(".key.p95-key"), "p95"],
            is_partial and h.span[h.i(".key.current-key"), words.LEGEND_CURRENT],
            h.span[h.i(".key.band-key"), words.LEGEND_BAND],
            (errors is not None or traffic is not None) and h.span[h.i(".key.line-key"), words.LEGEND_USUAL],
            h.span[h.i(".key.flag-key"), words.LEGEND_FLAG],
            h.span[h.i(".key.quarantined-key"), words.LEGEND_QUARANTINED],
            bool(timeline.marks) and h.span[h.i(".key.marked-key"), words.LEGEND_MARKED],
            h.span[h.i(".key.unread-key"), words.LEGEND_UNREAD],
        ],
        heat is not None
        and h.figure(".past")[
            h.figcaption[words.HEAT_MAP, h.small[f" {words.HEAT_LEGEND}"]],
            heat,
            axis,
        ],
    ]


# Errors and traffic by hour of day


def _signals_section(usual: UsualProfile, status: SeriesStatus, slot: Slot) -> h.Node:
    ratios = {each.slot: each.error_ratio for each in usual.signals if each.error_ratio is not None}
    requests = {each.slot: each.requests for each in usual.signals if each.requests is not None}
    plots = (
        (words.ERRORS_BY_HOUR, ratios, status.current_error_ratio, FlagKind.ERRORS, percent, _LEAST_ERROR_SCALE),
        (words.TRAFFIC_BY_HOUR, requests, words.hourly_requests(status), FlagKind.TRAFFIC, formatting.amount, 1.0),
    )
    return h.section("#signals")[
        (
            h.fragment[
                h.h2[heading],
                h.div(".profiles")[
                    (
                        h.figure[
                            h.figcaption[label],
                            plot.SignalPlot(
                                values,
                                1.05 * max(least, *values.values(), min(now or 0.0, 3 * max(values.values()))),
                                number,
                                (slot, now),
                                bool(status.of_kind(kind).firing),
                            ).draw(day_type, words.signal_plot_text(label, heading, len(values))),
                        ]
                        for day_type, label in _DAY_TYPES.items()
                    )
                ],
            ]
            if values
            else None
            for heading, values, now, kind, number, least in plots
        )
    ]


def _kinds_section(status: SeriesStatus, parameters: Parameters, times: formatting.Times) -> h.Element:
    """Say for each kind what is judged, the present and the usual value, and what would be a flag."""
    return h.section("#kinds")[
        h.h2[words.KINDS_HEADING],
        h.table(".plain.kinds")[
            h.thead[h.tr[(h.th[each] for each in words.KINDS_COLUMNS)]],
            h.tbody[
                (
                    h.tr(class_={"anomalous": each.firing})[
                        h.th(scope="row")[each.name],
                        h.td(data_label=words.KINDS_COLUMNS[1])[each.now],
                        h.td(data_label=words.KINDS_COLUMNS[2])[each.usual],
                        h.td[each.rule],
                    ]
                    for each in words.kind_standings(status, parameters, times)
                )
            ],
        ],
    ]


# Baseline by hour of day


def _profile_section(profile: Profile | None, status: SeriesStatus, current: plot.CurrentLatency) -> h.Element:
    if profile is None:
        return h.p(".notice.odd")[words.PAST_UNREADABLE]
    top = plot.top_of_scale(profile, current)
    return h.section("#profile")[
        h.h2[words.BASELINE_BY_HOUR],
        h.div(".profiles")[
            (
                _profile_plot(plot.slots_of_day_type(profile, day_type), label, current, top)
                for day_type, label in _DAY_TYPES.items()
            )
        ],
        _legend(status),
        h.details[
            h.summary[words.SHOW_AS_TABLE],
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
    return h.figure[h.figcaption[label], plot.large(slots, current, top, label=words.profile_plot_text(label, known))]


def _legend(status: SeriesStatus) -> h.Element:
    return h.p(".legend")[
        h.span[h.i(".key.band-key"), words.LEGEND_BAND],
        status.current_p95_seconds is not None
        and h.span[h.i(class_=["key", "now-key", {"anomalous": bool(status.shift)}]), words.LEGEND_NOW],
        words.LEGEND_LEVELS,
        (h.span[h.span(f".dot.l{level:d}")[f"{level:d}"], f" {label}"] for level, label in ENGLISH.levels.items()),
    ]


def _profile_table(slots: Sequence[SlotBaseline], label: str) -> h.Element:
    return h.table(".plain")[
        h.caption[label],
        h.thead[
            h.tr[
                h.th[words.HOUR],
                (h.th(".number")[each] for each in words.PROFILE_COLUMNS),
            ]
        ],
        h.tbody[(_slot_row(each) for each in slots)],
    ]


def _slot_row(each: SlotBaseline) -> h.Element:
    baseline = each.baseline
    return h.tr[
        h.th(scope="row")[f"{each.slot.hour:02d}–{(each.slot.hour + 1) % 24:02d}"],
        h.td(".number")[formatting.latency(None if baseline is None else baseline.p50_seconds)],
        h.td(".number")[formatting.latency(None if baseline is None else baseline.p95_seconds)],
        h.td(".number")[formatting.latency(each.outlier_threshold_seconds)],
        h.td(".number")["5" if baseline is None else f"{baseline.level:d}"],
        h.td(".number")[f"{each.traces:,}"],
        h.td(".number")[f"{each.hours:,}"],
    ]


# Thresholds, fallback levels and quarantined hours


def _thresholds_section(report: BaselineReport | None) -> h.Node:
    if report is None:
        return None
    has_pattern = any(each.pattern_minutes for each in report.shift)
    columns = (*words.THRESHOLD_COLUMNS, *([words.PATTERN_COLUMN] if has_pattern else []))
    return h.section("#limits")[
        h.h2[words.THRESHOLDS],
        report.runs is not None and h.p[words.evaluated_by_run(report.runs)],
        h.div(".side")[
            bool(report.shift)
            and h.table(".plain")[
                h.thead[h.tr[h.th[words.QUANTILE], (h.th(".number")[each] for each in columns)]],
                h.tbody[
                    (
                        h.tr[
                            h.th(scope="row")[f"p{100 * each.quantile:g}"],
                            h.td(".number")[duration(each.baseline_seconds)],
                            h.td(".number")[f"× {each.swing_factor:.2g}"],
                            h.td(".number")[duration(each.limit_seconds)],
                            has_pattern and h.td(".number")[words.pattern(each)],
                        ]
                        for each in report.shift
                    )
                ],
            ],
            h.table(".plain")[
                h.thead[
                    h.tr[
                        h.th[words.LEVEL],
                        (h.th(".number")[each] for each in words.LEVEL_COLUMNS),
                        h.th[words.LEVEL_USED],
                    ]
                ],
                h.tbody[
                    (
                        h.tr[
                            h.th(scope="row")[f"{each.level:d} {ENGLISH.levels[each.level]}"],
                            h.td(".number")[f"{each.traces:,}"],
                            h.td(".number")[f"{each.needed:,}"],
                            h.td(".number")[f"{each.hours:,}"],
                            h.td[words.level_use(report, each)],
                        ]
                        for each in report.supply
                    )
                ],
            ],
        ],
    ]


def _marks_section(report: BaselineReport | None, times: formatting.Times) -> h.Node:
    if report is None or not report.marks:
        return None
    latest = report.marks[-_MAX_MARKS:]
    return h.section("#marks")[
        h.h2[words.MARKED, " ", h.small[f"{len(report.marks):,}"]],
        h.ul[
            (
                h.li[
                    f"{each.mark.kind.value}: ",
                    times.at(each.start),
                    " to ",
                    times.at(each.end),
                    bool(each.mark.comment) and f" · {formatting.cut(each.mark.comment)}",
                ]
                for each in reversed(latest)
            )
        ],
    ]


def _quarantine_section(report: BaselineReport | None, times: formatting.Times) -> h.Node:
    if report is None or not report.kept_out:
        return None
    latest = report.kept_out[-_MAX_QUARANTINED:]
    earlier = len(report.kept_out) - len(latest)
    return h.section("#quarantined")[
        h.h2[words.KEPT_OUT, " ", h.small[f"{len(report.kept_out):,}"]],
        h.p(".quiet")[words.KEPT_OUT_NOTE],
        h.ul(".hours")[(h.li[times.at(start)] for start in reversed(latest))],
        bool(earlier) and h.p(".quiet")[words.earlier_hours(earlier)],
    ]
