"""The table of endpoints: its filter, its rows, and the way from page to page."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import htpy as h

from exporter.baseline.levels import FallbackLevel
from exporter.evaluation.snapshot import SeriesStatus
from exporter.web.pages import links, words
from exporter.web.pages.selection import Selected, Selection, Sort, State

_COLUMNS: Final[Sequence[tuple[Sort | None, str, str]]] = (
    (Sort.NAME, "Endpoint", "Service and span name"),
    (None, "24 hours", "What is usual at each hour of this type of day, from p50 to p95; the dot is the p95 now"),
    (Sort.P50, "p50", "Median now, and what is usual at this hour"),
    (Sort.P95, "p95", "95th percentile now, and what is usual at this hour"),
    (Sort.RATIO, "× usual", "p95 now over the usual p95"),
    (Sort.TRACES, "Traces", "Requests in the current window"),
    (Sort.SCORE, "Score", "Strength of the shift; 1 is where it matters"),
    (Sort.LEVEL, "Baseline", "Where the baseline comes from: 1 this hour … 5 unavailable"),
)
_STATES: Final = {
    State.ANY: "any state",
    State.SHIFT: "anomalous",
    State.OUTLIER: "with outliers",
    State.LEARNING: "learning",
}


def endpoints(series: Sequence[SeriesStatus], selection: Selection) -> h.Element:
    """All endpoints that were asked for, a page of them."""
    selected = selection.apply(series)
    return h.section("#endpoints")[
        h.h2["Endpoints ", h.small[f"{len(series):,}"]],
        _filter(selection),
        _table(selected.rows, selection) if selected.rows else h.p(".quiet")[_nothing(series, selection)],
        _pages(selected, selection),
    ]


def _nothing(series: Sequence[SeriesStatus], selection: Selection) -> h.Node:
    if not series:
        return "None yet: they appear as soon as their first traces are read."
    return ["None of them is as asked. ", h.a(href=links.START)["Show all"]] if selection.narrowed else None


def _filter(selection: Selection) -> h.Element:
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
        selection.narrowed and h.a(href=links.START)["Show all"],
    ]


def _table(rows: Sequence[SeriesStatus], selection: Selection) -> h.Element:
    return h.div(".wide")[
        h.table(".endpoints")[
            h.thead[h.tr[(_head(sort, label, meaning, selection) for sort, label, meaning in _COLUMNS)]],
            h.tbody[(_row(status) for status in rows)],
        ]
    ]


def _head(sort: Sort | None, label: str, meaning: str, selection: Selection) -> h.Element:
    number = sort not in (None, Sort.NAME, Sort.LEVEL)
    if sort is None:
        return h.th(title=meaning, scope="col")[label]
    sorted_now = sort is selection.sort
    return h.th(
        class_={"number": number},
        title=meaning,
        scope="col",
        aria_sort=("descending" if selection.descending else "ascending") if sorted_now else None,
    )[
        h.a(href=f"{selection.sorted_by(sort).address()}#endpoints")[
            label, sorted_now and h.span(aria_hidden="true")[" ▾" if selection.descending else " ▴"]
        ]
    ]


def _row(status: SeriesStatus) -> h.Element:
    baseline, ratio = status.baseline, words.ratio(status)
    plot = links.of_series(links.PLOT, status.key)
    return h.tr(class_={"anomalous": bool(status.shift)})[
        h.td(".who")[
            h.a(href=links.of_series(links.ENDPOINT, status.key))[words.names(status.key)],
            _badges(status),
        ],
        h.td(".plot")[
            baseline is not None
            and h.img(loading="lazy", decoding="async", src=plot, width="144", height="32", alt="Usual over the day")
        ],
        _now_and_usual("p50", status.current_p50_seconds, None if baseline is None else baseline.p50_seconds),
        _now_and_usual("p95", status.current_p95_seconds, None if baseline is None else baseline.p95_seconds),
        h.td(".number", data_label="× usual")[words.UNKNOWN if ratio is None else words.times(ratio)],
        h.td(".number", data_label="traces")[
            words.UNKNOWN if status.current_traces is None else f"{status.current_traces:,}"
        ],
        h.td(".number.score")[words.UNKNOWN if status.score is None else f"{status.score:.2f}"],
        h.td(".level")[_level(status.level), baseline is not None and h.small[f" {baseline.count:,} traces"]],
    ]


def _now_and_usual(label: str, now: float | None, usual: float | None) -> h.Element:
    return h.td(".number", data_label=label)[words.seconds(now), h.small[f" {words.seconds(usual)}"]]


def _level(level: FallbackLevel | None) -> h.Node:
    return words.UNKNOWN if level is None else [h.span(f".dot.l{level:d}")[f"{level:d}"], f" {words.LEVELS[level]}"]


def _badges(status: SeriesStatus) -> Iterator[h.Node]:
    if status.shift:
        yield " ", h.span(".badge.bad")["anomalous"]
    if status.outlier:
        yield " ", h.span(".badge.odd")["outliers"]
    if status.learning:
        yield " ", h.span(".badge")["learning"]


def _pages(selected: Selected, selection: Selection) -> h.Node:
    if selected.pages == 1:
        return selection.narrowed and h.p(".pages")[words.count(selected.total, "endpoint")]
    last = selected.first + len(selected.rows) - 1

    def to(page: int, label: str) -> h.Node:
        address = f"{replace(selection, page=page).address()}#endpoints"
        return h.a(href=address)[label] if 1 <= page <= selected.pages and page != selected.page else h.span[label]

    return h.nav(".pages", aria_label="Pages")[
        to(1, "« first"),
        to(selected.page - 1, "‹ previous"),
        f"{selected.first:,}–{last:,} of {selected.total:,}",
        to(selected.page + 1, "next ›"),
        to(selected.pages, "last »"),
    ]
