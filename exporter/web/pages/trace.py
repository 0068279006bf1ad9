"""The page of one trace: its spans over time, the critical path, and the baseline of each span at that hour."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final, NamedTuple

import htpy as h

from exporter.baseline.levels import Baseline
from exporter.detection.explanation import duration
from exporter.evaluation.snapshot import Snapshot
from exporter.explain.inputs import parse_trace_id
from exporter.explain.trace import NotInTraceError, TraceExplanation, explain_trace, oddities, trace_sentence
from exporter.explain.waterfall import MAX_ROWS, Part, Row, Waterfall, other_parts, waterfall
from exporter.explain.words import counted
from exporter.model.calendar import Calendar
from exporter.model.critical_path import CriticalPath, TraceSpan, longest_span
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.span import SeriesKey
from exporter.runtime.logs import LimitedLog
from exporter.store import StoreError
from exporter.tempo import StoppedError, TempoError
from exporter.web.http import HttpRequest, HttpResponse
from exporter.web.pages import formatting, layout, links
from exporter.web.pages.sources import Sources

_NS: Final = 1_000_000_000
MAX_PAGE_BYTES: Final = 300_000
"""A larger page shows fewer spans: names can be much longer than usual."""
COLOURS: Final = 7
"""Services with a colour of their own; the others share one."""
_MAX_DEPTH: Final = 20
"""Spans further down are indented as if they were at this depth."""
_LONGEST_NAME: Final = 60
_LONGEST_SENTENCE: Final = 2000
_MAX_QUERIED: Final = 40
"""Series whose baseline is queried at most; of more, those with the longest spans. A query takes a few milliseconds."""
_MERGED: Final = 0.002
"""Stretches of the critical path that are closer than this share of the axis are drawn as one."""
_TICKS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_ENTRY_KINDS: Final = frozenset({"server", "consumer"})


@dataclass(frozen=True, slots=True)
class TraceSources:
    """What the page needs besides :class:`Sources`.

    Attributes:
        fetch: fetches the spans of a trace from Tempo; raises TempoError or StoppedError.
        renamed: maps the names of a span to those of its series.
        calendar: the local calendar.
        running: admits as many requests at once as may wait for Tempo.
    """

    fetch: Callable[[str], Iterable[TraceSpan]]
    renamed: Callable[[SeriesKey], SeriesKey]
    calendar: Calendar
    running: threading.BoundedSemaphore


class _Usual(NamedTuple):
    """The baseline of a series at the hour of the trace."""

    baseline: Baseline
    outlier_threshold_seconds: float | None


class _ProblemError(Exception):
    """The trace cannot be shown."""

    def __init__(self, status: HTTPStatus, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title


class TracePage:
    """Handler of ``/trace?trace_id=…``, where ``service_name`` and ``span_name``, or ``span_id``, may choose a span."""

    def __init__(self, sources: Sources, traces: TraceSources, log: LimitedLog) -> None:
        self._sources = sources
        self._traces = traces
        self._log = log

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Render the page, or say why the trace cannot be shown."""
        if not self._traces.running.acquire(blocking=False):
            return _problem_page(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Too many questions at once",
                "As many traces as possible are being fetched from Tempo. Reload this page in a moment.",
            )
        try:
            return self._page(request)
        except _ProblemError as problem:
            return _problem_page(problem.status, problem.title, str(problem))
        except NotInTraceError as error:
            return _problem_page(HTTPStatus.NOT_FOUND, "Not in this trace", f"{error}.")
        except TempoError as error:
            return _problem_page(HTTPStatus.BAD_GATEWAY, "Tempo cannot be read", str(error))
        except StoppedError:
            return _problem_page(
                HTTPStatus.SERVICE_UNAVAILABLE, "The exporter is stopping", "Reload this page once it is up again."
            )
        finally:
            self._traces.running.release()

    def _page(self, request: HttpRequest) -> HttpResponse:
        asked = _Asked.of(request, self._sources.snapshot())
        now = self._sources.clock()
        spans = list(self._traces.fetch(asked.trace_id))
        root = None
        if asked.span_id is not None and spans:
            root = longest_span(span for span in spans if span.span_id == asked.span_id)
            if root is None:
                raise _ProblemError(
                    HTTPStatus.NOT_FOUND, "Not in this trace", f"The trace has no span {asked.span_id}."
                )
        trace, is_complete = self._explain(asked, spans, root, now)
        if trace is None:
            raise _ProblemError(
                HTTPStatus.NOT_FOUND,
                "There is no such trace",
                f"Tempo has no trace {asked.trace_id}: it is older than Tempo's retention, not written yet, or belongs "
                "to another tenant.",
            )
        others = [] if asked.is_part else other_parts(spans, trace.path)
        usual: Mapping[SeriesKey, _Usual] = {}
        try:
            usual = self._usual(waterfall(trace.path, others), now)
        except (StoreError, DamagedDigestError) as error:
            is_complete = False
            self._log.warning("page_incomplete", "a page cannot show baselines", trace_id=trace.trace_id, error=error)
        return self._fitting(asked, trace, others, usual, now, is_complete=is_complete)

    def _explain(
        self, asked: "_Asked", spans: Sequence[TraceSpan], root: TraceSpan | None, now: float
    ) -> tuple[TraceExplanation | None, bool]:
        """Explain the trace; without the comparison with the baseline if the history cannot be read."""

        def explained(*, with_history: bool) -> TraceExplanation | None:
            return explain_trace(
                asked.trace_id,
                spans,
                renamed=self._traces.renamed,
                querier=self._sources.history if with_history else None,
                now=now,
                wanted=asked.series,
                root=root,
                label_names=self._sources.label_names,
            )

        try:
            return explained(with_history=True), True
        except (StoreError, DamagedDigestError) as error:
            self._log.warning("page_incomplete", "a page cannot show baselines", trace_id=asked.trace_id, error=error)
            return explained(with_history=False), False

    def _usual(self, shown: Waterfall, now: float) -> Mapping[SeriesKey, _Usual]:
        """Return the baselines of the series in a trace at its hour, as far as they are known."""
        root = shown.parts[0].path.root
        at = max(0.0, min(now, (root.start_ns + root.duration_ns) / _NS))
        longest: dict[SeriesKey, int] = {}
        for row in shown.rows:
            key = self._series(row.span)
            if key is not None:
                longest[key] = max(longest.get(key, 0), row.span.duration_ns)
        snapshot, hours = self._sources.snapshot(), self._sources.hours
        if snapshot is not None and snapshot.has_baselines and hours.hour(int(at)) == hours.hour(int(now)):
            # The baselines of this hour are all in memory.
            return {
                status.key: _Usual(status.baseline, status.outlier_threshold_seconds)
                for status in snapshot.series
                if status.key in longest and status.baseline is not None
            }
        usual: dict[SeriesKey, _Usual] = {}
        for key in sorted(longest, key=lambda key: (-longest[key], key))[:_MAX_QUERIED]:
            report = self._sources.history.report(key, int(at), int(now))
            if report.baseline is not None:
                usual[key] = _Usual(report.baseline, report.outlier_threshold_seconds)
        return usual

    def _series(self, span: TraceSpan) -> SeriesKey | None:
        """Return the series of a span in scope; None for another one, with which no baseline can be compared."""
        if span.parent_id and span.kind not in _ENTRY_KINDS:
            return None
        return self._traces.renamed(span.key)

    def _fitting(
        self,
        asked: "_Asked",
        trace: TraceExplanation,
        others: Sequence[CriticalPath],
        usual: Mapping[SeriesKey, _Usual],
        now: float,
        *,
        is_complete: bool,
    ) -> HttpResponse:
        """Render the page with as many spans as fit into its size."""
        rows = MAX_ROWS
        while True:
            shown = waterfall(trace.path, others, max_rows=rows)
            response = self._render(asked, trace, shown, usual, now, is_complete=is_complete)
            size = len(response.content)
            if size <= MAX_PAGE_BYTES or rows <= 1:
                return response
            rows = max(1, int(0.95 * rows * MAX_PAGE_BYTES / size))

    def _render(
        self,
        asked: "_Asked",
        trace: TraceExplanation,
        shown: Waterfall,
        usual: Mapping[SeriesKey, _Usual],
        now: float,
        *,
        is_complete: bool,
    ) -> HttpResponse:
        path, times = trace.path, formatting.Times(now, self._sources.local)
        errors = sum(span.error for part in shown.parts for span in part.path.starts)
        grafana = self._sources.explore.trace(trace.trace_id)
        rows = sum(len(part.rows) for part in shown.parts)
        colours = {service: min(number, COLOURS) for number, service in enumerate(shown.services)}
        table = _Table(asked.trace_id, colours, usual, self._series)
        return layout.html_page(
            f"Trace {asked.trace_id[-8:]} · {formatting.cut(trace.key.service_name)}",
            h.p(".back")[h.a(href=links.START)["‹ all endpoints"]],
            h.h1[formatting.series_names(trace.key)],
            h.section(".standing")[
                h.p(".facts")[
                    h.span[h.b[duration(path.root.duration_ns / _NS)], " from ", times.at(path.root.start_ns / _NS)],
                    h.span[counted(shown.spans, "span"), " of ", counted(len(shown.services), "service")],
                    bool(errors) and h.span(".badge.bad")[counted(errors, "error")],
                    h.code(".id")[trace.trace_id],
                ],
                h.p(".why")[formatting.cut(trace_sentence(trace, self._traces.calendar), _LONGEST_SENTENCE)],
                h.p(".facts")[
                    bool(grafana) and h.a(href=grafana)["Open in Grafana"],
                    asked.is_part and h.a(href=links.page_url(links.TRACE, {"trace_id": asked.trace_id}))[
                        "The whole trace"
                    ],
                    h.a(href=self._sources.series_url(links.ENDPOINT, trace.key))["This endpoint"],
                    asked.span_id is None and h.a(href=links.page_url(links.TRACE_API, asked.parameters))["As JSON"],
                ],
            ],
            not is_complete
            and h.p(".notice.odd")["The stored history cannot be read, so baselines are missing. The log has details."],
            _oddities(path, shown, asked),
            _legend(shown, colours, usual),
            (_part_section(part, number, path, table) for number, part in enumerate(shown.parts)),
            rows < shown.spans
            and h.p(".quiet")[
                f"{rows:,} of {shown.spans:,} spans are shown: those on the critical path first, then level by level "
                "the longest. A number behind a name opens the spans that are left out below it."
            ],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request asks for.

    Attributes:
        trace_id: 32 hex digits.
        series: explain the longest span of this endpoint.
        span_id: explain the longest span with this id.
        parameters: the parameters of the request that were understood.
    """

    trace_id: str
    series: SeriesKey | None
    span_id: str | None
    parameters: Mapping[str, str]

    @property
    def is_part(self) -> bool:
        """Whether only a part of the trace is explained."""
        return self.series is not None or self.span_id is not None

    @classmethod
    def of(cls, request: HttpRequest, snapshot: Snapshot | None) -> "_Asked":
        """Read the parameters of a request; raises _ProblemError for an invalid trace id."""
        given = {name: values[-1] for name, values in request.query.items()}
        try:
            trace_id = parse_trace_id(given.get("trace_id", ""))
        except ValueError as error:
            raise _ProblemError(HTTPStatus.BAD_REQUEST, "This is no trace id", f"trace_id {error}.") from None
        is_named = "service_name" in given and "span_name" in given
        series = links.requested_series(request, snapshot) if is_named else None
        parameters = {"trace_id": trace_id, **(series.parameters if series is not None else {})}
        return cls(trace_id, series, given.get("span_id") or None, parameters)


def _problem_page(status: HTTPStatus, title: str, detail: str) -> HttpResponse:
    page = layout.html_page(
        title,
        h.h1[title],
        h.p[formatting.cut(detail, 1000)],
        h.p[h.a(href=links.START)["All endpoints"]],
        status=status,
    )
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        return replace(page, headers=(("Retry-After", "1"),))
    return page


def _oddities(path: CriticalPath, shown: Waterfall, asked: _Asked) -> h.Node:
    if asked.is_part:
        # That a part is not the whole is what was asked for.
        path = replace(path, oddities=replace(path.oddities, elsewhere=0))
    found = oddities(path)
    if shown.left_out and not asked.is_part:
        found.append(f"{counted(shown.left_out, 'span')} in further parts, which are not shown")
    if not found:
        return None
    return h.div(".notice.odd")[h.strong["Irregular:"], h.ul[(h.li[line] for line in found)]]


def _legend(shown: Waterfall, colours: Mapping[str, int], usual: Mapping[SeriesKey, _Usual]) -> h.Element:
    own = dict(shown.parts[0].path.services)
    coloured, rest = shown.services[:COLOURS], shown.services[COLOURS:]
    return h.p(".legend")[
        (
            h.span[
                h.i(class_=f"key s{colours[service]}"),
                formatting.name_element(service, _LONGEST_NAME) if service else "(no service)",
                service in own and h.small[f" {shown.parts[0].path.share(own[service]) or 0:.0%}"],
            ]
            for service in coloured
        ),
        bool(rest) and h.span[h.i(class_=f"key s{COLOURS}"), counted(len(rest), "more service")],
        h.span[h.i(".key.path-key"), "critical path"],
        bool(usual) and h.span["usual: p50 – p95 at that hour"],
    ]


def _part_section(part: Part, number: int, main: CriticalPath, table: "_Table") -> h.Element:
    title: h.Node = None
    if number:
        root = part.path.root
        offset = (root.start_ns - main.root.start_ns) / _NS
        when = f"{duration(abs(offset))} {'after' if offset >= 0 else 'before'} the start of the root"
        title = h.h2[
            "Not connected ", h.small[f"{counted(len(part.path.starts), 'span')}, {when}"],
        ]  # fmt: skip
    return h.section[title, table.element(part)]


class _Table:
    """Renders a part of a trace. A row takes about 200 bytes and its name, because there may be a thousand."""

    def __init__(
        self,
        trace_id: str,
        colours: Mapping[str, int],
        usual: Mapping[SeriesKey, _Usual],
        series: Callable[[TraceSpan], SeriesKey | None],
    ) -> None:
        self._trace_id = trace_id
        self._colours = colours
        self._usual = usual
        self._series = series

    def element(self, part: Part) -> h.Element:
        """Render a part."""
        return h.div(".wide")[
            h.table(".waterfall")[
                h.thead[
                    h.tr[
                        h.th["Span"],
                        h.th["Duration"],
                        h.th["Usual"],
                        h.th[_axis(part)],
                    ]
                ],
                h.tbody[self._rows(part)],
            ]
        ]

    def _rows(self, part: Part) -> Iterator[h.Element]:
        services: list[str] = []
        for row in part.rows:
            # The service is named where it differs from that of the parent.
            del services[row.depth :]
            is_new = not services or services[-1] != row.span.service_name
            services.append(row.span.service_name)
            yield self._row(row, part, is_new=is_new)

    def _row(self, row: Row, part: Part, *, is_new: bool) -> h.Element:
        span, seconds = row.span, row.span.duration_ns / _NS
        is_late = row.begins_ns >= part.axis_ns > 1
        marks = f"d{min(row.depth, _MAX_DEPTH)} s{self._colours[span.service_name]}"
        return h.tr(class_=f"{marks} k" if row.on_path is not None else marks)[
            h.td[
                is_new
                and h.b[formatting.name_element(span.service_name, _LONGEST_NAME) if span.service_name else "–", " "],
                formatting.name_element(span.name, _LONGEST_NAME),
                span.error and h.em[" error"],
                bool(row.folded) and [" ", self._folded(row)],
            ],
            h.td[
                duration(seconds),
                row.self_ns * 100 >= part.path.root.duration_ns > 0
                and row.self_ns < span.duration_ns
                and h.small[f"own {duration(row.self_ns / _NS)}"],
                is_late and h.small[f"begins at {duration(row.begins_ns / _NS)}"],
            ],
            h.td[self._usual_text(span, seconds)],
            h.td[h.svg[_bar(row, part.axis_ns), (_mark(*each) for each in _merged(row.on_path or (), part.axis_ns))]],
        ]

    def _folded(self, row: Row) -> h.Element:
        text = f"+{row.folded:,}"
        if not row.span.span_id:
            return h.span[text]
        return h.a(href=links.page_url(links.TRACE, {"trace_id": self._trace_id, "span_id": row.span.span_id}))[text]

    def _usual_text(self, span: TraceSpan, seconds: float) -> h.Node:
        key = self._series(span)
        usual = None if key is None else self._usual.get(key)
        if usual is None:
            return None
        baseline, threshold = usual
        is_outlier = threshold is not None and seconds > threshold
        return [
            f"{duration(baseline.p50_seconds)} – {duration(baseline.p95_seconds)}",
            is_outlier and h.em[" outlier"],
        ]


def _axis(part: Part) -> h.Element:
    return h.svg[
        (
            h.text(x=f"{100 * share:g}%", y="12", class_="first" if not share else "last" if share == 1 else None)[
                duration(share * part.axis_ns / _NS) if share else "0"
            ]
            for share in _TICKS
        )
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _bar(row: Row, axis_ns: int) -> h.Element:
    begin = min(0.998, row.begins_ns / axis_ns)
    end = min(1.0, max(begin + 0.002, (row.begins_ns + row.span.duration_ns) / axis_ns))
    return h.rect(x=_percent(begin), width=_percent(end - begin))


def _mark(begin: float, end: float) -> h.Element:
    return h.rect(".k", x=_percent(begin), width=_percent(max(0.002, end - begin)))


def _merged(stretches: Iterable[tuple[int, int]], axis_ns: int) -> list[tuple[float, float]]:
    """Return stretches as shares of the axis; those that are close to each other as one."""
    merged: list[tuple[float, float]] = []
    for begin_ns, end_ns in stretches:
        begin, end = begin_ns / axis_ns, min(1.0, end_ns / axis_ns)
        if merged and begin - merged[-1][1] < _MERGED:
            merged[-1] = merged[-1][0], end
        else:
            merged.append((begin, end))
    return merged
