"""The status page: what is anomalous and why, how far the history has been read, and all endpoints."""

from collections.abc import Iterator
from typing import Final

import htpy as h

from exporter.baseline.levels import FallbackLevel
from exporter.detection.explanation import duration
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.model.ledger import LedgerProgress
from exporter.web.http import HttpRequest, HttpResponse
from exporter.web.pages import layout, links, table, words
from exporter.web.pages.selection import Selection, State
from exporter.web.pages.sources import Sources

_MOST_CARDS: Final = 20
_LATE_INTERVALS: Final = 4
_LATE_SECONDS: Final = 60
_WINDOW_STATES: Final = (
    ("done", "read", "read completely"),
    ("empty", "empty", "Tempo has no traces from then"),
    ("partial", "partial", "part of the traces could not be read"),
    ("failed", "failed", "could not be read, and will be tried again"),
    ("expired", "expired", "older than Tempo's oldest trace"),
    ("pending", "to go", "not read yet"),
)


class StatusPage:
    """``/``."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """The page."""
        sources = self._sources
        snapshot, backfill = sources.snapshot(), sources.backfill()
        times = words.Times(sources.clock(), sources.local)
        selection = Selection.of(request.query)
        shifted = [] if snapshot is None else [status for status in snapshot.series if status.shift]
        history = _history(backfill, snapshot, times)
        # Until it is read, it explains the rest of the page; then it is only to be looked up.
        reading = backfill is not None and not backfill.progress.complete
        title = f"({len(shifted):,}) anomalous now" if shifted else "Status"
        return layout.html(
            f"{title} · tempo-anomaly-exporter",
            h.p(".watching")["Watching ", h.code[sources.tempo_url], " · ", _judged(snapshot, times)],
            _trouble(snapshot, sources, times),
            _anomalous(snapshot, shifted, sources, times),
            snapshot is not None and _tally(snapshot, len(shifted)),
            reading and history,
            table.endpoints(() if snapshot is None else snapshot.series, selection),
            not reading and history,
        )


def _judged(snapshot: Snapshot | None, times: words.Times) -> h.Node:
    if snapshot is None or snapshot.judged_at is None:
        return "the current traffic has not been read yet"
    return ["judged ", times.age(snapshot.judged_at), " at ", times.at(times.now)]


def _trouble(snapshot: Snapshot | None, sources: Sources, times: words.Times) -> h.Node:
    """What keeps the page from being up to date, and what to do about it."""
    if snapshot is None:
        return None
    if snapshot.unread is not None:
        held = (
            "Nothing has been judged yet."
            if snapshot.judged_at is None
            else f"Nothing is judged until it works again; flags stay as they were {times.age(snapshot.judged_at)}."
        )
        return h.div(".notice.bad", role="alert")[
            h.strong["Tempo cannot be read."],
            f" {held} It is tried again every {words.span(sources.interval_seconds)}.",
            h.p[h.code[snapshot.unread]],
            h.p(".quiet")[
                "Is Tempo up, and is ",
                h.code["tempo.url"],
                " the address of its HTTP API? The exporter's log has more.",
            ],
        ]
    late = snapshot.judged_at is not None and times.now - snapshot.judged_at > max(
        _LATE_SECONDS, _LATE_INTERVALS * sources.interval_seconds
    )
    if late:
        return h.div(".notice.odd", role="alert")[
            h.strong["This is old."],
            f" The current traffic is to be read every {words.span(sources.interval_seconds)}, ",
            "and reading it takes long or has stopped. The exporter's log has more.",
        ]
    if not snapshot.known:
        return h.div(".notice.odd", role="alert")[
            h.strong["What is usual at this hour is still being worked out."],
            " Until then there are no baselines and no verdicts; flags stay as they were.",
        ]
    return None


# What is anomalous


def _anomalous(
    snapshot: Snapshot | None, shifted: list[SeriesStatus], sources: Sources, times: words.Times
) -> h.Element:
    return h.section("#anomalous")[
        h.h2["Anomalous now ", bool(shifted) and h.small[f"{len(shifted):,}"]],
        _verdict(snapshot, shifted),
        (
            _card(status, sources, times)
            for status in sorted(shifted, key=lambda status: -(status.score or 0))[:_MOST_CARDS]
        ),
        len(shifted) > _MOST_CARDS
        and h.p[
            f"The {_MOST_CARDS} with the highest score are shown. ",
            h.a(href=f"{Selection(state=State.SHIFT).address()}#endpoints")[f"All {len(shifted):,}"],
        ],
    ]


def _verdict(snapshot: Snapshot | None, shifted: list[SeriesStatus]) -> h.Node:
    if shifted:
        return None
    if snapshot is None or snapshot.judged_at is None:
        return h.p(".quiet")["Not known yet: the current traffic has not been read."]
    if not snapshot.known:
        return h.p(".quiet")["Not known yet: what is usual at this hour is still being worked out."]
    judged = sum(status.shift is not None for status in snapshot.series)
    if not judged:
        return h.p(".quiet")[
            "Not known yet: no endpoint has enough history to be judged by."
            if snapshot.series
            else "Not known yet: no endpoint has sent any traces."
        ]
    others = len(snapshot.series) - judged
    without = f" {words.count(others, 'endpoint')} cannot be judged yet." if others else ""
    return h.p(".good")[f"No endpoint is slower than usual.{without}"]


def _card(status: SeriesStatus, sources: Sources, times: words.Times) -> h.Element:
    ratio, baseline = words.ratio(status), status.baseline
    return h.article(".card")[
        h.h3[h.a(href=links.of_series(links.ENDPOINT, status.key))[words.names(status.key)]],
        h.p(".facts")[
            ratio is not None and h.span(".badge.bad")[f"p95 × {words.times(ratio)}"],
            status.current_p95_seconds is not None
            and baseline is not None
            and h.span[h.b[duration(status.current_p95_seconds)], f" now, usually {duration(baseline.p95_seconds)}"],
            status.since is not None and h.span["since ", times.since(status.since)],
            _exemplar(status, sources),
        ],
        h.p(".why")[_why(status)],
    ]


def _why(status: SeriesStatus) -> str:
    if status.explanation is not None:
        return str(status.explanation)
    if not status.known:
        return "What is usual at this hour is still being worked out, so whether it still lasts is not known."
    if status.current_traces is None:
        return "Tempo cannot be read, so whether it still lasts is not known."
    return "There is no sign of it any more; the flag falls once that has lasted."


def _exemplar(status: SeriesStatus, sources: Sources) -> h.Node:
    if status.exemplar is None:
        return None
    shown = f"a trace of {duration(status.exemplar.seconds)}"
    address = sources.explore.trace(status.exemplar.trace_id)
    return h.a(href=address)[shown] if address else h.span[f"{shown}: ", h.code[status.exemplar.trace_id]]


# How things stand as a whole


def _tally(snapshot: Snapshot, shifted: int) -> h.Element:
    levels = snapshot.series_by_level
    tiles = (
        ("endpoints", len(snapshot.series), Selection()),
        ("anomalous", shifted, Selection(state=State.SHIFT)),
    )
    more = (
        ("with outliers", sum(bool(status.outlier) for status in snapshot.series), Selection(state=State.OUTLIER)),
        ("learning", snapshot.series_learning, Selection(state=State.LEARNING)),
        (
            "without a baseline",
            levels[FallbackLevel.UNAVAILABLE],
            Selection(level=FallbackLevel.UNAVAILABLE),
        ),
    )
    return h.ul(".tally")[
        (
            h.li[h.a(href=f"{selection.address()}#endpoints")[h.b[f"{number:,}"], f" {label}"]]
            for label, number, selection in (*tiles, *(more if snapshot.known else ()))
        )
    ]


def _history(status: BackfillStatus | None, snapshot: Snapshot | None, times: words.Times) -> h.Element:
    return h.section("#history")[
        h.h2["History"],
        h.p(".quiet")["Backfill is switched off: baselines rest on what the database already holds."]
        if status is None
        else _progress(status, snapshot, times),
    ]


def _progress(status: BackfillStatus, snapshot: Snapshot | None, times: words.Times) -> Iterator[h.Node]:
    progress = status.progress
    yield h.div(".progress")[
        h.progress(value=f"{progress.ratio:.4f}", max="1", aria_label="History read")[f"{progress.ratio:.0%}"],
        h.b[_percent(progress)],
    ]
    yield h.p[
        f"{progress.windows - progress.pending - progress.failed:,} of {words.count(progress.windows, 'window')} ",
        "are settled and done: ",
        _joined(
            h.span(title=meaning)[f"{getattr(progress, state):,} {label}"]
            for state, label, meaning in _WINDOW_STATES
            if getattr(progress, state)
        ),
        ".",
        progress.coverage is not None
        and f" Of the traces that are there, {_floored_percent(progress.coverage)} were read.",
    ]
    if status.failure is not None:
        yield h.div(".notice.odd")[
            h.strong["Part of the history cannot be read"], ", and is tried again: ", h.code[status.failure]
        ]
    if snapshot is not None and snapshot.history.windows:
        yield h.p(".quiet")[_stored(snapshot, times)]
    if progress.complete:
        yield h.p(".quiet")[
            "What baselines rest on, and whether that is enough: ", h.code["tempo-anomaly-exporter verify"]
        ]


def _percent(progress: LedgerProgress) -> str:
    return "complete" if progress.complete else _floored_percent(progress.ratio)


def _floored_percent(ratio: float) -> str:
    """A share that is only called whole when it is."""
    return f"{int(1000 * ratio) / 10:g} %"


def _stored(snapshot: Snapshot, times: words.Times) -> Iterator[h.Node]:
    history = snapshot.history
    yield f"Stored are {words.count(history.traces, 'trace')} in {words.count(history.windows, 'window')}"
    if history.oldest_trace_at is not None:
        yield [", the oldest from ", times.at(history.oldest_trace_at)]
    if history.storage_bytes is not None:
        yield f", in {history.storage_bytes / 1e6:,.1f} MB"
    yield "."
    if history.quarantined_windows:
        hours = words.count(history.quarantined_windows, "anomalous hour")
        yield f" {hours} {'is' if history.quarantined_windows == 1 else 'are'} kept out of the baselines."


def _joined(parts: Iterator[h.Element]) -> Iterator[h.Node]:
    for position, part in enumerate(parts):
        if position:
            yield ", "
        yield part
