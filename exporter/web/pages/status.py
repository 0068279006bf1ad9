"""The status page: anomalous endpoints with the reason, progress of backfill, and the table of all endpoints."""

from collections.abc import Iterator, Sequence
from typing import Final

import htpy as h

from exporter.baseline.levels import FallbackLevel
from exporter.detection.flag import FlagKind, FlagPeriod, merged_periods
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.runtime.logs import LimitedLog
from exporter.store import StoreError
from exporter.web.http import HttpRequest, HttpResponse
from exporter.web.pages import formatting, layout, links, table, timeline_plot
from exporter.web.pages.formatting import Times
from exporter.web.pages.languages import words_for
from exporter.web.pages.selection import Selection, StateFilter
from exporter.web.pages.sources import HistoryCache, LastDay, Sources
from exporter.web.pages.status_words import StatusWords

_MAX_CARDS: Final = 20
_MAX_STRIPS: Final = 8
_DAY_SECONDS: Final = 86_400
_MAX_FOLDED: Final = 10
_LATE_INTERVALS: Final = 4
_LATE_SECONDS: Final = 60


class StatusPage:
    """Handler of ``/``."""

    def __init__(self, sources: Sources, last_day: HistoryCache[None, LastDay], log: LimitedLog) -> None:
        self._sources = sources
        self._last_day = last_day
        self._log = log

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Render the page, in the language that the request prefers."""
        words = words_for(request.accept_language)
        sources = self._sources
        # In this order: a newer ledger beside older baselines would look complete too early.
        backfill = sources.backfill()
        snapshot = sources.snapshot()
        times = Times(sources.clock(), sources.local, words)
        selection = Selection.from_query(request.query, sources.label_names.names)
        shifted = [] if snapshot is None else [status for status in snapshot.series if status.is_anomalous]
        history = _history_section(backfill, snapshot, times, words)
        # While history is being read, its progress explains the gaps in the table, so it comes before the table.
        is_reading = backfill is not None and not backfill.progress.complete
        return layout.html_page(
            f"{words.status_title(len(shifted))} · tempo-anomaly-exporter",
            h.p(".watching")[words.watching(sources.tempo_url, _last_evaluation(snapshot, times, words))],
            _notice(snapshot, sources, times, words),
            _anomalous_section(snapshot, shifted, sources, times, words),
            snapshot is not None and _totals(snapshot, len(shifted), words),
            self._last_day_section(shifted, times, words),
            is_reading and history,
            _folded(sources, words),
            table.endpoints_section(
                () if snapshot is None else snapshot.series,
                selection,
                sources.series_url,
                sources.label_names.names,
                words,
            ),
            not is_reading and history,
            words=words,
            headers=(("Vary", "Accept-Language"),),
        )

    def _last_day_section(self, firing: Sequence[SeriesStatus], times: Times, words: StatusWords) -> h.Node:
        """Show which flags fired in the last 24 hours; None if none did. Those that fire are known in any case."""
        past: LastDay = ()
        try:
            past = self._last_day.get(None, times.now)
        except StoreError as error:
            self._log.warning("page_incomplete", "a page cannot show the flags of the last day", error=error)
        flags = _with_firing(past, firing)
        if not flags:
            return None
        start, rest = times.now - _DAY_SECONDS, len(flags) - _MAX_STRIPS
        return h.section("#last-day")[
            h.h2[words.last_day, " ", h.small[f"{len(flags):,}"]],
            h.table(".plain.strips")[
                h.tbody[
                    (
                        h.tr[
                            h.th(scope="row")[
                                h.a(href=self._sources.series_url(links.ENDPOINT, key))[formatting.series_names(key)]
                            ],
                            h.td[_strip(periods, start, times, words)],
                        ]
                        for key, periods in flags[:_MAX_STRIPS]
                    ),
                    h.tr[
                        h.td[rest > 0 and words.further_endpoints(rest)],
                        h.td[timeline_plot.time_axis(start, times.now, times)],
                    ],
                ],
            ],
            h.p(".legend")[
                (h.span[h.i(class_=f"key flag-{kind.value}-key"), name] for kind, name in words.kinds.items())
            ],
        ]


def _strip(periods: Sequence[FlagPeriod], start: float, times: Times, words: StatusWords) -> h.Element:
    return timeline_plot.flag_strip([(period, words.flag(period, times)) for period in periods], start, times.now)


def _with_firing(past: LastDay, firing: Sequence[SeriesStatus]) -> LastDay:
    """Add the flags that fire to those of the last day; the latest come first."""
    periods = {key: list(each) for key, each in past}
    for status in firing:
        for found in map(status.of_kind, FlagKind):
            if found.firing and found.since is not None:
                periods.setdefault(status.key, []).append(FlagPeriod(found.kind, found.since, None))
    merged = [(key, merged_periods(each)) for key, each in periods.items()]
    return sorted(merged, key=lambda each: max(period.since for period in each[1]), reverse=True)


def _last_evaluation(snapshot: Snapshot | None, times: Times, words: StatusWords) -> h.Node:
    return words.last_evaluation(None if snapshot is None else snapshot.evaluated_at, times)


def _notice(snapshot: Snapshot | None, sources: Sources, times: Times, words: StatusWords) -> h.Node:
    """Say why the page is not up to date, and what to do; None if it is."""
    if snapshot is None:
        return None
    evaluated_at = snapshot.evaluated_at
    if snapshot.read_error is not None:
        text = words.tempo_unreadable(snapshot.read_error, evaluated_at, sources.interval_seconds, times)
        return h.div(".notice.bad", role="alert")[text]
    is_late = evaluated_at is not None and times.now - evaluated_at > max(
        _LATE_SECONDS, _LATE_INTERVALS * sources.interval_seconds
    )
    if is_late:
        return h.div(".notice.odd", role="alert")[words.out_of_date(sources.interval_seconds)]
    if snapshot.edge.blind:
        return h.div(".notice.bad", role="alert")[words.nothing_found(snapshot.edge.lag_seconds)]
    if not snapshot.has_baselines:
        return h.div(".notice.odd", role="alert")[words.without_baselines()]
    return None


# Anomalous endpoints


def _anomalous_section(
    snapshot: Snapshot | None,
    shifted: list[SeriesStatus],
    sources: Sources,
    times: Times,
    words: StatusWords,
) -> h.Element:
    return h.section("#anomalous")[
        h.h2[words.anomalous_now, " ", bool(shifted) and h.small[f"{len(shifted):,}"]],
        (services := _shifted_services(snapshot, times, words)),
        _nothing_anomalous(snapshot, words) if not shifted and services is None else None,
        (_card(status, sources, times, words) for status in sorted(shifted, key=Selection.urgency)[:_MAX_CARDS]),
        len(shifted) > _MAX_CARDS
        and h.p[
            words.only_some_cards(_MAX_CARDS),
            h.a(href=f"{Selection(state=StateFilter.ANOMALOUS).url()}#endpoints")[
                words.show_all_anomalous(len(shifted))
            ],
        ],
    ]


def _shifted_services(snapshot: Snapshot | None, times: Times, words: StatusWords) -> h.Node:
    """Name the services that are slower than usual as a whole, also where no endpoint of them is anomalous."""
    services = [] if snapshot is None else [service for service in snapshot.services if service.firing]
    if not services:
        return None
    return h.ul(".services")[
        (
            h.li[h.b[formatting.service_names(service.key)], " ", words.service_shift(service, times)]
            for service in services[:_MAX_CARDS]
        )
    ]


def _nothing_anomalous(snapshot: Snapshot | None, words: StatusWords) -> h.Element:
    if snapshot is None or snapshot.evaluated_at is None:
        return h.p(".quiet")[words.unknown_unread]
    if not snapshot.has_baselines:
        return h.p(".quiet")[words.unknown_baselines]
    with_verdict = sum(status.shift is not None for status in snapshot.series)
    if not with_verdict:
        return h.p(".quiet")[words.unknown_history if snapshot.series else words.unknown_no_traces]
    others = len(snapshot.series) - with_verdict - snapshot.series_without_verdict
    return h.p(".good")[words.nothing_anomalous(others)]


def _card(status: SeriesStatus, sources: Sources, times: Times, words: StatusWords) -> h.Element:
    ratio, baseline = formatting.p95_ratio(status), status.baseline
    return h.article(".card")[
        h.h3[h.a(href=sources.series_url(links.ENDPOINT, status.key))[formatting.series_names(status.key)]],
        h.p(".facts")[
            ratio is not None and h.span(".badge.bad")[f"p95 × {formatting.factor(ratio)}"],
            status.current_p95_seconds is not None
            and baseline is not None
            and h.span[words.now_and_usual(status.current_p95_seconds, baseline.p95_seconds)],
            status.since is not None and h.span[words.since(status.since, times)],
            status.of_kind(FlagKind.ERRORS).firing
            and status.current_error_ratio is not None
            and h.span(".badge.bad")[words.error_share(status.current_error_ratio)],
            _time_lost(status, times, words),
            _exemplar(status, sources, words),
        ],
        bool(status.shift) and h.p(".why")[_reason(status, words)],
        status.of_kind(FlagKind.ERRORS).firing and h.p(".why")[words.errors_summary(status, times)],
        (sentence := words.traffic(status)) is not None and h.p(".why")[sentence],
        status.service is not None and h.p(".why")[words.service_shift(status.service, times)],
        status.cause is not None
        and h.p(".why")[
            words.in_english(status.cause.text),
            " ",
            h.a(href=sources.series_url(links.CAUSE, status.key))[words.the_account],
        ],
    ]


def _reason(status: SeriesStatus, words: StatusWords) -> h.Node:
    if status.explanation is not None:
        return words.in_english(str(status.explanation))
    if not status.is_baseline_known:
        return words.lasts_unknown_baselines
    if status.current_traces is None:
        return words.lasts_unknown_tempo
    return words.lasts_until_clear


def _time_lost(status: SeriesStatus, times: Times, words: StatusWords) -> h.Node:
    lost = status.time_lost
    if lost is None or not lost.requests:
        return None
    # After a restart the shift is older than what was counted of it.
    is_older = status.since is not None and status.since < lost.since
    return h.span(title=words.time_lost_title)[words.time_lost(lost, times, names_beginning=is_older)]


def _exemplar(status: SeriesStatus, sources: Sources, words: StatusWords) -> h.Node:
    if status.exemplar is None:
        return None
    url = links.trace_url(status.key, status.exemplar.trace_id, sources.label_names)
    return h.a(href=url)[words.example_trace(status.exemplar.seconds)]


# Totals and history


def _totals(snapshot: Snapshot, shifted: int, words: StatusWords) -> h.Element:
    series = snapshot.series
    states: list[tuple[StateFilter, int, bool]] = [(StateFilter.ANOMALOUS, shifted, True)]
    if snapshot.has_baselines:
        failing = sum(bool(status.of_kind(FlagKind.ERRORS).firing) for status in series)
        unusual = sum(bool(status.of_kind(FlagKind.TRAFFIC).firing) for status in series)
        states += [
            (StateFilter.OUTLIER, sum(bool(status.outlier) for status in series), True),
            (StateFilter.ERRORS, failing, False),
            (StateFilter.REGRESSION, sum(bool(status.regressed) for status in series), False),
            (StateFilter.TRAFFIC, unusual, False),
            (StateFilter.LEARNING, snapshot.series_learning, True),
            (StateFilter.STREAM, snapshot.series_streams, False),
        ]
    totals = [
        (words.total_endpoints, len(series), Selection()),
        *(
            (words.states[state], number, Selection(state=state))
            for state, number, is_always_shown in states
            if number or is_always_shown
        ),
    ]
    if snapshot.has_baselines:
        unavailable = FallbackLevel.UNAVAILABLE
        totals.append(
            (words.total_without_baseline, snapshot.series_by_level[unavailable], Selection(level=unavailable))
        )
    return h.ul(".tally")[
        (
            h.li[h.a(href=f"{selection.url()}#endpoints")[h.b[f"{number:,}"], f" {label}"]]
            for label, number, selection in totals
        )
    ]


def _folded(sources: Sources, words: StatusWords) -> h.Node:
    """Name the services whose further span names share one series; None if there are none."""
    folded = sorted(sources.folded_names())
    if not folded:
        return None
    return h.p(".quiet")[words.folded_services(folded[:_MAX_FOLDED], len(folded) - _MAX_FOLDED)]


def _history_section(
    status: BackfillStatus | None, snapshot: Snapshot | None, times: Times, words: StatusWords
) -> h.Element:
    return h.section("#history")[
        h.h2[words.history],
        h.p(".quiet")[words.backfill_disabled] if status is None else _progress(status, snapshot, times, words),
    ]


def _progress(status: BackfillStatus, snapshot: Snapshot | None, times: Times, words: StatusWords) -> Iterator[h.Node]:
    progress = status.progress
    yield h.div(".progress")[
        h.progress(value=f"{progress.ratio:.4f}", max="1", aria_label=words.history_read)[f"{progress.ratio:.0%}"],
        h.b[words.progress_percent(progress)],
    ]
    yield h.p[words.windows_done(status)]
    if status.failure is not None:
        yield h.div(".notice.odd")[words.history_failure(status.failure)]
    if snapshot is not None and snapshot.history.windows:
        yield h.p(".quiet")[words.stored_history(snapshot.history, times)]
    if progress.complete:
        yield h.p(".quiet")[words.run_verify()]
