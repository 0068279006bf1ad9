"""The status page: anomalous endpoints with the reason, progress of backfill, and the table of all endpoints."""

from collections.abc import Iterator
from typing import Final

import htpy as h

from exporter.baseline.levels import FallbackLevel
from exporter.detection.explanation import duration
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.explain.words import counted
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.model.ledger import LedgerProgress
from exporter.web.http import HttpRequest, HttpResponse
from exporter.web.pages import layout, links, table, words
from exporter.web.pages.selection import Selection, StateFilter
from exporter.web.pages.sources import Sources

_MAX_CARDS: Final = 20
_LATE_INTERVALS: Final = 4
_LATE_SECONDS: Final = 60
_WINDOW_STATES: Final = (
    ("done", "read", "read completely, or as a sample if the window is too dense"),
    ("empty", "empty", "Tempo has no traces of this time"),
    ("partial", "partial", "some traces could not be read"),
    ("failed", "failed", "could not be read; will be retried"),
    ("expired", "expired", "older than Tempo's oldest trace"),
    ("pending", "pending", "not read yet"),
)


class StatusPage:
    """Handler of ``/``."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Render the page."""
        sources = self._sources
        snapshot, backfill = sources.snapshot(), sources.backfill()
        times = words.Times(sources.clock(), sources.local)
        selection = Selection.from_query(request.query)
        shifted = [] if snapshot is None else [status for status in snapshot.series if status.shift]
        history = _history_section(backfill, snapshot, times)
        # While history is being read, its progress explains the gaps in the table, so it comes before the table.
        is_reading = backfill is not None and not backfill.progress.complete
        title = f"({len(shifted):,}) anomalous now" if shifted else "Status"
        return layout.html_page(
            f"{title} · tempo-anomaly-exporter",
            h.p(".watching")["Watching ", h.code[sources.tempo_url], " · ", _last_evaluation(snapshot, times)],
            _notice(snapshot, sources, times),
            _anomalous_section(snapshot, shifted, sources, times),
            snapshot is not None and _totals(snapshot, len(shifted)),
            is_reading and history,
            table.endpoints_section(() if snapshot is None else snapshot.series, selection, self._sources.series_url),
            not is_reading and history,
        )


def _last_evaluation(snapshot: Snapshot | None, times: words.Times) -> h.Node:
    if snapshot is None or snapshot.evaluated_at is None:
        return "the current traffic has not been read yet"
    return ["evaluated ", times.age(snapshot.evaluated_at), ", shown at ", times.at(times.now)]


def _notice(snapshot: Snapshot | None, sources: Sources, times: words.Times) -> h.Node:
    """Say why the page is not up to date, and what to do; None if it is."""
    if snapshot is None:
        return None
    interval = words.coarse_duration(sources.interval_seconds)
    if snapshot.read_error is not None:
        consequence = (
            "Nothing has been evaluated yet."
            if snapshot.evaluated_at is None
            else f"Flags stay as they were {times.age(snapshot.evaluated_at)} until it can be read again."
        )
        return h.div(".notice.bad", role="alert")[
            h.strong["Tempo cannot be read."],
            f" {consequence} The exporter retries every {interval}.",
            h.p[h.code[snapshot.read_error]],
            h.p(".quiet")[
                "Check that Tempo is running and that ",
                h.code["tempo.url"],
                " is the address of its HTTP API. The exporter's log has details.",
            ],
        ]
    is_late = snapshot.evaluated_at is not None and times.now - snapshot.evaluated_at > max(
        _LATE_SECONDS, _LATE_INTERVALS * sources.interval_seconds
    )
    if is_late:
        return h.div(".notice.odd", role="alert")[
            h.strong["This page is out of date."],
            f" The current traffic should be read every {interval}, but reading it takes too long or has stopped. ",
            "The exporter's log has details.",
        ]
    if snapshot.edge.blind:
        lag = snapshot.edge.lag_seconds
        found = "" if lag is None else f" Tempo finds traces about {words.coarse_duration(lag)} after their end."
        return h.div(".notice.bad", role="alert")[
            h.strong["Current traffic is not found."],
            f" Tempo can be read, but next to nothing of the usual traffic is current.{found} There are no verdicts, ",
            "and flags stay as they were.",
            h.p(".quiet")[
                "If traces become searchable late, raise ",
                h.code["polling.tempo_lookback"],
                ". Otherwise check whether traces reach Tempo, and the clocks. The exporter's log has details.",
            ],
        ]
    if not snapshot.has_baselines:
        return h.div(".notice.odd", role="alert")[
            h.strong["The baselines for this hour are still being computed."],
            " Until they are ready, there are no verdicts, and flags stay as they were.",
        ]
    return None


# Anomalous endpoints


def _anomalous_section(
    snapshot: Snapshot | None, shifted: list[SeriesStatus], sources: Sources, times: words.Times
) -> h.Element:
    return h.section("#anomalous")[
        h.h2["Anomalous now ", bool(shifted) and h.small[f"{len(shifted):,}"]],
        _nothing_anomalous(snapshot) if not shifted else None,
        (
            _card(status, sources, times)
            for status in sorted(shifted, key=lambda status: -(status.score or 0))[:_MAX_CARDS]
        ),
        len(shifted) > _MAX_CARDS
        and h.p[
            f"These are the {_MAX_CARDS} with the highest score. ",
            h.a(href=f"{Selection(state=StateFilter.SHIFT).url()}#endpoints")[f"Show all {len(shifted):,}"],
        ],
    ]


def _nothing_anomalous(snapshot: Snapshot | None) -> h.Element:
    if snapshot is None or snapshot.evaluated_at is None:
        return h.p(".quiet")["Not known yet: the current traffic has not been read."]
    if not snapshot.has_baselines:
        return h.p(".quiet")["Not known yet: the baselines for this hour are still being computed."]
    with_verdict = sum(status.shift is not None for status in snapshot.series)
    if not with_verdict:
        return h.p(".quiet")[
            "Not known yet: no endpoint has enough history for a verdict."
            if snapshot.series
            else "Not known yet: no endpoint has sent any traces."
        ]
    others = len(snapshot.series) - with_verdict
    rest = f" {counted(others, 'endpoint')} {'has' if others == 1 else 'have'} no verdict yet." if others else ""
    return h.p(".good")[f"No endpoint is slower than usual.{rest}"]


def _card(status: SeriesStatus, sources: Sources, times: words.Times) -> h.Element:
    ratio, baseline = words.p95_ratio(status), status.baseline
    return h.article(".card")[
        h.h3[h.a(href=sources.series_url(links.ENDPOINT, status.key))[words.series_names(status.key)]],
        h.p(".facts")[
            ratio is not None and h.span(".badge.bad")[f"p95 × {words.factor(ratio)}"],
            status.current_p95_seconds is not None
            and baseline is not None
            and h.span[h.b[duration(status.current_p95_seconds)], f" now, usually {duration(baseline.p95_seconds)}"],
            status.since is not None and h.span["since ", times.since(status.since)],
            _exemplar(status, sources),
        ],
        h.p(".why")[_reason(status)],
    ]


def _reason(status: SeriesStatus) -> str:
    if status.explanation is not None:
        return str(status.explanation)
    if not status.is_baseline_known:
        return "The baselines for this hour are still being computed, so it is not known whether the shift lasts."
    if status.current_traces is None:
        return "Tempo cannot be read, so it is not known whether the shift lasts."
    return "The latest evaluation shows no shift; the flag resolves if that lasts."


def _exemplar(status: SeriesStatus, sources: Sources) -> h.Node:
    if status.exemplar is None:
        return None
    text = f"a trace of {duration(status.exemplar.seconds)}"
    url = sources.explore.trace(status.exemplar.trace_id)
    return h.a(href=url)[text] if url else h.span[f"{text}: ", h.code[status.exemplar.trace_id]]


# Totals and history


def _totals(snapshot: Snapshot, shifted: int) -> h.Element:
    levels = snapshot.series_by_level
    always = (
        ("endpoints", len(snapshot.series), Selection()),
        ("anomalous", shifted, Selection(state=StateFilter.SHIFT)),
    )
    with_baselines = (
        (
            "with outliers",
            sum(bool(status.outlier) for status in snapshot.series),
            Selection(state=StateFilter.OUTLIER),
        ),
        ("learning", snapshot.series_learning, Selection(state=StateFilter.LEARNING)),
        (
            "without a baseline",
            levels[FallbackLevel.UNAVAILABLE],
            Selection(level=FallbackLevel.UNAVAILABLE),
        ),
    )
    return h.ul(".tally")[
        (
            h.li[h.a(href=f"{selection.url()}#endpoints")[h.b[f"{number:,}"], f" {label}"]]
            for label, number, selection in (*always, *(with_baselines if snapshot.has_baselines else ()))
        )
    ]


def _history_section(status: BackfillStatus | None, snapshot: Snapshot | None, times: words.Times) -> h.Element:
    return h.section("#history")[
        h.h2["History"],
        h.p(".quiet")["Backfill is disabled: baselines use only the history that is already stored."]
        if status is None
        else _progress(status, snapshot, times),
    ]


def _progress(status: BackfillStatus, snapshot: Snapshot | None, times: words.Times) -> Iterator[h.Node]:
    progress = status.progress
    yield h.div(".progress")[
        h.progress(value=f"{progress.ratio:.4f}", max="1", aria_label="History read")[f"{progress.ratio:.0%}"],
        h.b[_percent(progress)],
    ]
    done = progress.windows - progress.pending - progress.failed
    yield h.p[
        f"{done:,} of {counted(progress.windows, 'window')} done. By state: ",
        _joined(
            h.span(title=title)[f"{getattr(progress, state):,} {label}"]
            for state, label, title in _WINDOW_STATES
            if getattr(progress, state)
        ),
        ".",
        progress.coverage is not None and f" Of their traces, {_floored_percent(progress.coverage)} were read.",
    ]
    if status.failure is not None:
        yield h.div(".notice.odd")[
            h.strong["Part of the history cannot be read."],
            " The exporter retries it. Last error: ",
            h.code[status.failure],
        ]
    if snapshot is not None and snapshot.history.windows:
        yield h.p(".quiet")[_stored(snapshot, times)]
    if progress.complete:
        yield h.p(".quiet")["To check whether this is enough history, run ", h.code["tempo-anomaly-exporter verify"]]


def _percent(progress: LedgerProgress) -> str:
    return "complete" if progress.complete else _floored_percent(progress.ratio)


def _floored_percent(ratio: float) -> str:
    """Format a share, rounded down so that only a complete one is 100 %."""
    return f"{int(1000 * ratio) / 10:g} %"


def _stored(snapshot: Snapshot, times: words.Times) -> Iterator[h.Node]:
    history = snapshot.history
    yield f"Stored: {counted(history.traces, 'trace')} in {counted(history.windows, 'window')}"
    if history.oldest_trace_at is not None:
        yield [", the oldest from ", times.at(history.oldest_trace_at)]
    if history.storage_bytes is not None:
        yield f", in {history.storage_bytes / 1e6:,.1f} MB"
    yield "."
    if history.quarantined_windows:
        hours = counted(history.quarantined_windows, "anomalous hour")
        yield f" {hours} {'is' if history.quarantined_windows == 1 else 'are'} kept out of the baselines."


def _joined(parts: Iterator[h.Element]) -> Iterator[h.Node]:
    for position, part in enumerate(parts):
        if position:
            yield ", "
        yield part
