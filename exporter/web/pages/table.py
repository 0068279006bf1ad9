"""The table of endpoints: filter form, rows and pagination."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import htpy as h

from exporter.baseline.levels import FallbackLevel
from exporter.detection.flag import FlagKind
from exporter.evaluation.snapshot import SeriesStatus
from exporter.model.span import SeriesKey
from exporter.web.pages import formatting, links
from exporter.web.pages.selection import Selection, Sort, StateFilter, TablePage
from exporter.web.pages.status_words import StatusWords

_MAX_LABEL_VALUES: Final = 200


SeriesUrl = Callable[[str, SeriesKey], str]
"""Returns the URL of a page about a series."""


def endpoints_section(
    series: Sequence[SeriesStatus],
    selection: Selection,
    series_url: SeriesUrl,
    label_names: Sequence[str],
    words: StatusWords,
) -> h.Element:
    """Render the selected page of the endpoints, with a filter for each label."""
    page = selection.apply(series)
    return h.section("#endpoints")[
        h.h2[words.endpoints, " ", h.small[f"{len(series):,}"]],
        _filter_form(selection, {name: _label_values(series, name, selection) for name in label_names}, words),
        _table(page.rows, selection, series_url, words)
        if page.rows
        else h.p(".quiet")[_empty(series, selection, words)],
        _pagination(page, selection, words),
    ]


def _empty(series: Sequence[SeriesStatus], selection: Selection, words: StatusWords) -> h.Node:
    if not series:
        return words.no_endpoints
    return [words.no_match, h.a(href=links.START)[words.show_all]] if selection.is_filtered else None


def _label_values(series: Sequence[SeriesStatus], name: str, selection: Selection) -> Sequence[str]:
    """Return the values of a label to choose from: those of the series, and the selected one."""
    values = {value for status in series for label, value in status.key.labels if label == name}
    selected = {value for label, value in selection.labels if label == name}
    return sorted({*sorted(values)[:_MAX_LABEL_VALUES], *selected})


def _filter_form(selection: Selection, labels: Mapping[str, Sequence[str]], words: StatusWords) -> h.Element:
    hidden = [(name, value) for name, value in selection.parameters() if name in ("sort", "order")]
    return h.form(".filter", method="get", action=links.START, role="search")[
        h.input(
            type="search",
            name="q",
            value=selection.text,
            placeholder=words.filter_placeholder,
            aria_label=words.filter_button,
        ),
        h.select(name="state", aria_label=words.state_filter)[
            (
                h.option(value=state.value, selected=state is selection.state)[words.states[state]]
                for state in StateFilter
            )
        ],
        h.select(name="level", aria_label=words.level_filter)[
            h.option(value="", selected=selection.level is None)[words.any_level],
            (
                h.option(value=str(int(level)), selected=level is selection.level)[f"{level:d} {label}"]
                for level, label in words.levels.items()
            ),
        ],
        (
            h.select(name=name, aria_label=name)[
                h.option(value="")[words.any_value(name)],
                (
                    h.option(value=each, selected=(name, each) in selection.labels)[formatting.cut(each)]
                    for each in values
                ),
            ]
            for name, values in labels.items()
        ),
        (h.input(type="hidden", name=name, value=value) for name, value in hidden),
        h.button(type="submit")[words.filter_button],
        selection.is_filtered and h.a(href=links.START)[words.show_all],
    ]


def _table(rows: Sequence[SeriesStatus], selection: Selection, series_url: SeriesUrl, words: StatusWords) -> h.Element:
    return h.div(".wide")[
        h.table(".endpoints")[
            h.thead[h.tr[(_column_header(name, *texts, selection) for name, texts in words.columns.items())]],
            h.tbody[(_row(status, series_url, words) for status in rows)],
        ]
    ]


def _column_header(name: str, label: str, title: str, selection: Selection) -> h.Element:
    sort = Sort(name) if name in set(Sort) else None
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


def _row(status: SeriesStatus, series_url: SeriesUrl, words: StatusWords) -> h.Element:
    baseline, ratio, traffic = status.baseline, formatting.p95_ratio(status), formatting.traffic_ratio(status)
    plot_url = series_url(links.PLOT, status.key)
    return h.tr(class_={"anomalous": status.is_anomalous})[
        h.td(".who")[
            h.a(href=series_url(links.ENDPOINT, status.key))[formatting.series_names(status.key)],
            _badges(status, words),
        ],
        h.td(".plot")[
            baseline is not None
            and h.img(loading="lazy", decoding="async", src=plot_url, width="144", height="32", alt=words.plot_alt)
        ],
        _current_and_usual(
            words.cells["p50"], status.current_p50_seconds, None if baseline is None else baseline.p50_seconds
        ),
        _current_and_usual(
            words.cells["p95"], status.current_p95_seconds, None if baseline is None else baseline.p95_seconds
        ),
        h.td(".number", data_label=words.cells["ratio"])[
            formatting.UNKNOWN if ratio is None else formatting.factor(ratio)
        ],
        h.td(".number", data_label=words.cells["errors"])[
            formatting.ratio_text(status.current_error_ratio),
            h.small[f" {formatting.ratio_text(status.baseline_error_ratio)}"],
        ],
        h.td(".number", data_label=words.cells["traffic"])[
            formatting.UNKNOWN if traffic is None else f"× {formatting.factor(traffic)}"
        ],
        h.td(".number", data_label=words.cells["traces"])[
            formatting.UNKNOWN if status.current_traces is None else f"{status.current_traces:,}"
        ],
        h.td(".number.lost", data_label=words.cells["lost"])[
            status.time_lost is not None and words.amount_of_time(status.time_lost.seconds)
        ],
        h.td(".number.score")[formatting.UNKNOWN if status.score is None else f"{status.score:.2f}"],
        h.td(".level")[
            _level(status.level, words), baseline is not None and h.small[" ", words.traces(baseline.count)]
        ],
    ]


def _current_and_usual(label: str, current: float | None, usual: float | None) -> h.Element:
    return h.td(".number", data_label=label)[formatting.latency(current), h.small[f" {formatting.latency(usual)}"]]


def _level(level: FallbackLevel | None, words: StatusWords) -> h.Node:
    return (
        formatting.UNKNOWN if level is None else [h.span(f".dot.l{level:d}")[f"{level:d}"], f" {words.levels[level]}"]
    )


def _badges(status: SeriesStatus, words: StatusWords) -> Iterator[h.Node]:
    if status.shift:
        yield " ", h.span(".badge.bad")[words.anomalous_badge]
    if status.of_kind(FlagKind.ERRORS).firing:
        yield " ", h.span(".badge.bad")[words.errors_badge]
    if status.outlier:
        yield " ", h.span(".badge.odd")[words.outliers_badge]
    if status.regressed:
        yield " ", h.span(".badge.odd", title=words.regression_title)[words.regression_badge]
    if status.of_kind(FlagKind.TRAFFIC).firing:
        yield " ", h.span(".badge.bad", title=words.traffic_title)[words.traffic_badge]
    if status.learning:
        yield " ", h.span(".badge")[words.learning_badge]
    if status.is_quiet:
        yield " ", h.span(".badge", title=words.marked_title)[words.marked_badge]
    if not status.is_enabled:
        yield " ", h.span(".badge", title=words.disabled_title)[words.disabled_badge]
    elif status.stream is not None:
        yield " ", h.span(".badge", title=words.stream_titles[status.stream])[words.stream_badge]


def _pagination(page: TablePage, selection: Selection, words: StatusWords) -> h.Node:
    if page.pages == 1:
        return selection.is_filtered and h.p(".pages")[words.endpoints_count(page.total)]
    last = page.first + len(page.rows) - 1

    def link(number: int, label: str) -> h.Node:
        url = f"{replace(selection, page=number).url()}#endpoints"
        return h.a(href=url)[label] if 1 <= number <= page.pages and number != page.number else h.span[label]

    return h.nav(".pages", aria_label=words.pages)[
        link(1, words.first_page),
        link(page.number - 1, words.previous_page),
        words.page_position(page.first, last, page.total),
        link(page.number + 1, words.next_page),
        link(page.pages, words.last_page),
    ]
