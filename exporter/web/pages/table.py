"""The table of endpoints: filter form, rows and pagination."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import htpy as h

from exporter.baseline.levels import FallbackLevel
from exporter.evaluation.snapshot import SeriesStatus
from exporter.explain.words import counted
from exporter.model.span import SeriesKey
from exporter.web.pages import links, words
from exporter.web.pages.selection import Selection, Sort, StateFilter, TablePage

_COLUMNS: Final[Sequence[tuple[Sort | None, str, str]]] = (
    (Sort.NAME, "Endpoint", "Service and span name"),
    (None, "24 hours", "Baseline from p50 to p95 at each hour of this day type; the dot is the current p95"),
    (Sort.P50, "p50", "Current median, and that of the baseline"),
    (Sort.P95, "p95", "Current 95th percentile, and that of the baseline"),
    (Sort.RATIO, "× usual", "Current p95 divided by that of the baseline"),
    (Sort.TRACES, "Traces", "Requests in the evaluation window"),
    (Sort.SCORE, "Score", "Strength of the shift; from 1 on it is significant"),
    (Sort.LEVEL, "Baseline", "Fallback level of the baseline: 1 this hour … 5 unavailable"),
)
_STATES: Final = {
    StateFilter.ANY: "any state",
    StateFilter.SHIFT: "anomalous",
    StateFilter.OUTLIER: "with outliers",
    StateFilter.LEARNING: "learning",
}


SeriesUrl = Callable[[str, SeriesKey], str]
"""Returns the URL of a page about a series."""


def endpoints_section(series: Sequence[SeriesStatus], selection: Selection, series_url: SeriesUrl) -> h.Element:
    """Render the selected page of the endpoints."""
    page = selection.apply(series)
    return h.section("#endpoints")[
        h.h2["Endpoints ", h.small[f"{len(series):,}"]],
        _filter_form(selection),
        _table(page.rows, selection, series_url) if page.rows else h.p(".quiet")[_empty(series, selection)],
        _pagination(page, selection),
    ]


def _empty(series: Sequence[SeriesStatus], selection: Selection) -> h.Node:
    if not series:
        return "None yet: an endpoint appears once its first traces are read."
    return ["No endpoint matches. ", h.a(href=links.START)["Show all"]] if selection.is_filtered else None


def _filter_form(selection: Selection) -> h.Element:
    hidden = [(name, value) for name, value in selection.parameters() if name in ("sort", "order")]
    return h.form(".filter", method="get", action=links.START, role="search")[
        h.input(type="search", name="q", value=selection.text, placeholder="Service or endpoint", aria_label="Filter"),
        h.select(name="state", aria_label="State")[
            (h.option(value=state.value, selected=state is selection.state)[label] for state, label in _STATES.items())
        ],
        h.select(name="level", aria_label="Baseline")[
            h.option(value="", selected=selection.level is None)["any baseline"],
            (
                h.option(value=str(int(level)), selected=level is selection.level)[f"{level:d} {label}"]
                for level, label in words.LEVELS.items()
            ),
        ],
        (h.input(type="hidden", name=name, value=value) for name, value in hidden),
        h.button(type="submit")["Filter"],
        selection.is_filtered and h.a(href=links.START)["Show all"],
    ]


def _table(rows: Sequence[SeriesStatus], selection: Selection, series_url: SeriesUrl) -> h.Element:
    return h.div(".wide")[
        h.table(".endpoints")[
            h.thead[h.tr[(_column_header(sort, label, title, selection) for sort, label, title in _COLUMNS)]],
            h.tbody[(_row(status, series_url) for status in rows)],
        ]
    ]


def _column_header(sort: Sort | None, label: str, title: str, selection: Selection) -> h.Element:
    is_number = sort not in (None, Sort.NAME, Sort.LEVEL)
    if sort is None:
        return h.th(title=title, scope="col")[label]
    is_sorted = sort is selection.sort
    return h.th(
        class_={"number": is_number},
        title=title,
        scope="col",
        aria_sort=("descending" if selection.descending else "ascending") if is_sorted else None,
    )[
        h.a(href=f"{selection.sorted_by(sort).url()}#endpoints")[
            label, is_sorted and h.span(aria_hidden="true")[" ▾" if selection.descending else " ▴"]
        ]
    ]


def _row(status: SeriesStatus, series_url: SeriesUrl) -> h.Element:
    baseline, ratio = status.baseline, words.p95_ratio(status)
    plot_url = series_url(links.PLOT, status.key)
    return h.tr(class_={"anomalous": bool(status.shift)})[
        h.td(".who")[
            h.a(href=series_url(links.ENDPOINT, status.key))[words.series_names(status.key)],
            _badges(status),
        ],
        h.td(".plot")[
            baseline is not None
            and h.img(loading="lazy", decoding="async", src=plot_url, width="144", height="32", alt="Baseline by hour")
        ],
        _current_and_usual("p50", status.current_p50_seconds, None if baseline is None else baseline.p50_seconds),
        _current_and_usual("p95", status.current_p95_seconds, None if baseline is None else baseline.p95_seconds),
        h.td(".number", data_label="× usual")[words.UNKNOWN if ratio is None else words.factor(ratio)],
        h.td(".number", data_label="traces")[
            words.UNKNOWN if status.current_traces is None else f"{status.current_traces:,}"
        ],
        h.td(".number.score")[words.UNKNOWN if status.score is None else f"{status.score:.2f}"],
        h.td(".level")[_level(status.level), baseline is not None and h.small[f" {baseline.count:,} traces"]],
    ]


def _current_and_usual(label: str, current: float | None, usual: float | None) -> h.Element:
    return h.td(".number", data_label=label)[words.latency(current), h.small[f" {words.latency(usual)}"]]


def _level(level: FallbackLevel | None) -> h.Node:
    return words.UNKNOWN if level is None else [h.span(f".dot.l{level:d}")[f"{level:d}"], f" {words.LEVELS[level]}"]


def _badges(status: SeriesStatus) -> Iterator[h.Node]:
    if status.shift:
        yield " ", h.span(".badge.bad")["anomalous"]
    if status.outlier:
        yield " ", h.span(".badge.odd")["outliers"]
    if status.learning:
        yield " ", h.span(".badge")["learning"]


def _pagination(page: TablePage, selection: Selection) -> h.Node:
    if page.pages == 1:
        return selection.is_filtered and h.p(".pages")[counted(page.total, "endpoint")]
    last = page.first + len(page.rows) - 1

    def link(number: int, label: str) -> h.Node:
        url = f"{replace(selection, page=number).url()}#endpoints"
        return h.a(href=url)[label] if 1 <= number <= page.pages and number != page.number else h.span[label]

    return h.nav(".pages", aria_label="Pages")[
        link(1, "« first"),
        link(page.number - 1, "‹ previous"),
        f"{page.first:,}–{last:,} of {page.total:,}",
        link(page.number + 1, "next ›"),
        link(page.pages, "last »"),
    ]
