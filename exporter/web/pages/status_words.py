"""Texts of the status page, of its table of endpoints and of the frame around every page, in English.

The classes of other languages override every text: a test compares them.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import htpy as h

from exporter.baseline.levels import FallbackLevel
from exporter.detection.errors.verdict import percent
from exporter.detection.explanation import duration
from exporter.detection.flag import FlagKind, FlagPeriod
from exporter.detection.streams import StreamReason
from exporter.evaluation.live.time_lost import TimeLost
from exporter.evaluation.snapshot import HistoryFacts, SeriesStatus, ServiceStatus
from exporter.explain.words import LEVEL_NAMES, STREAM_REASONS, amount_of_time, counted, time_lost_text
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.model.ledger import LedgerProgress
from exporter.model.span import FOLDED_NAME
from exporter.web.pages.formatting import Times, TimeWords, floored_percent, joined, name_element


class StatusWords(TimeWords):
    """The texts in English.

    Explanations of verdicts, causes and errors are the sentences of the log and the API, which are English always.
    """

    language: ClassVar[str] = "en"
    """Tag of the language (RFC 5646)."""
    navigation: ClassVar[Mapping[str, str]] = {
        "incidents": "incidents",
        "metrics": "metrics",
        "-/ready": "ready",
        "-/healthy": "healthy",
    }
    """Links of the frame, by path."""

    def version(self, number: str) -> str:
        """Name the version of the exporter."""
        return f"version {number}"

    def in_english(self, sentence: str) -> h.Node:
        """Mark a sentence that is English in any language."""
        return sentence

    levels: ClassVar[Mapping[FallbackLevel, str]] = {**LEVEL_NAMES, FallbackLevel.EXACT: "this hour"}
    """Names of the fallback levels; on the pages, the exact hour is always the present one."""
    stream_titles: ClassVar[Mapping[StreamReason, str]] = {
        reason: f"A stream {text}: its latency is not judged" for reason, text in STREAM_REASONS.items()
    }
    marked_title = "There is no verdict now: this time is marked as expected or normal"
    disabled_title = "Its traces are only counted: an override has enabled: false"
    regression_title = "The last days are slower than the weeks before"
    traffic_title = "The traffic differs from the usual at this hour"

    def errors_summary(self, status: SeriesStatus, times: Times) -> h.Node:
        """Say how many requests fail, and whether that is usual; None while failures are unknown."""
        found = status.of_kind(FlagKind.ERRORS)
        if found.firing:
            evidence = found.explanation is not None and h.fragment[" ", self.in_english(str(found.explanation))]
            since = found.since is not None and h.fragment[" since ", times.since(found.since)]
            return h.fragment["Far more requests fail than usual", since, ".", evidence]
        if status.current_error_ratio is None or status.baseline_error_ratio is None:
            return None
        usual = percent(status.baseline_error_ratio)
        return f"{percent(status.current_error_ratio)} of the requests failed, usually {usual}."

    status = "Status"
    not_read_yet = "the current traffic has not been read yet"
    log_has_details = "The exporter's log has details."
    anomalous_now = "Anomalous now"
    unknown_unread = "Not known yet: the current traffic has not been read."
    unknown_baselines = "Not known yet: the baselines for this hour are still being computed."
    unknown_history = "Not known yet: no endpoint has enough history for a verdict."
    unknown_no_traces = "Not known yet: no endpoint has sent any traces."
    the_account = "The account"
    time_lost_title = "Time beyond the usual p95, of all requests"
    lasts_unknown_baselines = (
        "The baselines for this hour are still being computed, so it is not known whether the shift lasts."
    )
    lasts_unknown_tempo = "Tempo cannot be read, so it is not known whether the shift lasts."
    lasts_until_clear = "The latest evaluation shows no shift; the flag resolves if that lasts."
    total_endpoints = "endpoints"
    total_without_baseline = "without a baseline"
    history = "History"
    history_read = "History read"
    backfill_disabled = "Backfill is disabled: baselines use only the history that is already stored."
    complete = "complete"
    window_states: ClassVar[Sequence[tuple[str, str, str]]] = (
        ("done", "read", "read completely, or as a sample if the window is too dense"),
        ("empty", "empty", "Tempo has no traces of this time"),
        ("partial", "partial", "some traces could not be read"),
        ("failed", "failed", "could not be read; will be retried"),
        ("expired", "expired", "older than Tempo's oldest trace"),
        ("pending", "pending", "not read yet"),
    )
    """States of the windows of history, with a name and an explanation."""

    def status_title(self, anomalous: int) -> str:
        """Return the title of the status page."""
        return f"({anomalous:,}) anomalous now" if anomalous else self.status

    def watching(self, tempo_url: str, evaluated: h.Node) -> h.Node:
        """Say which Tempo is read, and when it was last."""
        return h.fragment["Watching ", h.code[tempo_url], " · ", evaluated]

    def last_evaluation(self, evaluated_at: float | None, times: Times) -> h.Node:
        """Say when current traffic was last evaluated."""
        if evaluated_at is None:
            return self.not_read_yet
        return h.fragment["evaluated ", times.age(evaluated_at), ", shown at ", times.at(times.now)]

    def tempo_unreadable(self, error: str, evaluated_at: float | None, interval_seconds: float, times: Times) -> h.Node:
        """Say that Tempo cannot be read, and what to do."""
        consequence = (
            "Nothing has been evaluated yet."
            if evaluated_at is None
            else f"Flags stay as they were {times.age(evaluated_at)} until it can be read again."
        )
        return h.fragment[
            h.strong["Tempo cannot be read."],
            f" {consequence} The exporter retries every {self.coarse_duration(interval_seconds)}.",
            h.p[h.code[error]],
            h.p(".quiet")[
                "Check that Tempo is running and that ",
                h.code["tempo.url"],
                f" is the address of its HTTP API. {self.log_has_details}",
            ],
        ]

    def out_of_date(self, interval_seconds: float) -> h.Node:
        """Say that the page is out of date."""
        interval = self.coarse_duration(interval_seconds)
        return h.fragment[
            h.strong["This page is out of date."],
            f" The current traffic should be read every {interval}, but reading it takes too long or has stopped. ",
            self.log_has_details,
        ]

    def nothing_found(self, lag_seconds: float | None) -> h.Node:
        """Say that current traffic is not found, and what to do."""
        found = (
            ""
            if lag_seconds is None
            else f" Tempo finds traces about {self.coarse_duration(lag_seconds)} after their end."
        )
        return h.fragment[
            h.strong["Current traffic is not found."],
            f" Tempo can be read, but next to nothing of the usual traffic is current.{found} ",
            "There are no verdicts, and flags stay as they were.",
            h.p(".quiet")[
                "If traces become searchable late, raise ",
                h.code["polling.tempo_lookback"],
                f". Otherwise check whether traces reach Tempo, and the clocks. {self.log_has_details}",
            ],
        ]

    def without_baselines(self) -> h.Node:
        """Say that the baselines are not ready."""
        return h.fragment[
            h.strong["The baselines for this hour are still being computed."],
            " Until they are ready, there are no verdicts, and flags stay as they were.",
        ]

    def only_some_cards(self, shown: int) -> str:
        """Say that not all anomalous endpoints have a card."""
        return f"These are the {shown} with the most time lost. "

    def show_all_anomalous(self, number: int) -> str:
        """Name the link to all anomalous endpoints."""
        return f"Show all {number:,}"

    def nothing_anomalous(self, without_verdict: int) -> str:
        """Say that no endpoint is anomalous, and how many have no verdict yet."""
        verb = "has" if without_verdict == 1 else "have"
        rest = f" {counted(without_verdict, 'endpoint')} {verb} no verdict yet." if without_verdict else ""
        return f"No endpoint is slower than usual.{rest}"

    def now_and_usual(self, current_seconds: float, usual_seconds: float) -> h.Node:
        """Compare a latency with the usual one."""
        return h.fragment[h.b[duration(current_seconds)], f" now, usually {duration(usual_seconds)}"]

    def amount_of_time(self, seconds: float) -> str:
        """Format a sum of durations."""
        return amount_of_time(seconds)

    def since(self, instant: float, times: Times) -> h.Node:
        """Say since when, and for how long."""
        return h.fragment["since ", times.since(instant)]

    def time_lost(self, lost: TimeLost, times: Times, *, names_beginning: bool) -> h.Node:
        """Say what requests lost since a shift began, and since when that was counted."""
        return h.fragment[h.b[time_lost_text(lost)], names_beginning and h.fragment[" since ", times.at(lost.since)]]

    def error_share(self, ratio: float) -> str:
        """Say how many requests fail, in short."""
        return f"{percent(ratio)} errors"

    def example_trace(self, seconds: float) -> str:
        """Name a link to a trace."""
        return f"a trace of {duration(seconds)}"

    def folded_services(self, services: Sequence[str], others: int) -> h.Node:
        """Name the services whose further span names share one series."""
        return h.fragment[
            "More span names than ",
            h.code["series.max_per_service"],
            ": further names of ",
            joined([h.code[name_element(service)] for service in services]),
            f" and {counted(others, 'other service')}" if others > 0 else None,
            " share the endpoint ",
            h.code[FOLDED_NAME],
            ". The log has examples.",
        ]

    def progress_percent(self, progress: LedgerProgress) -> str:
        """Say how much of the history is read."""
        return self.complete if progress.complete else floored_percent(progress.ratio)

    def windows_done(self, status: BackfillStatus) -> h.Node:
        """Say how many windows of history are read, by state."""
        progress = status.progress
        done = progress.windows - progress.pending - progress.failed
        states = [
            h.span(title=title)[f"{getattr(progress, state):,} {label}"]
            for state, label, title in self.window_states
            if getattr(progress, state)
        ]
        return h.fragment[
            f"{done:,} of {counted(progress.windows, 'window')} done. By state: ",
            joined(states),
            ".",
            progress.coverage is not None and f" Of their traces, {floored_percent(progress.coverage)} were read.",
            status.late_windows > 0
            and f" {counted(status.late_windows, 'window')} may lack requests that ended later: checked again.",
        ]

    def history_failure(self, error: str) -> h.Node:
        """Say that part of the history cannot be read."""
        return h.fragment[
            h.strong["Part of the history cannot be read."], " The exporter retries it. Last error: ", h.code[error]
        ]

    def stored_history(self, history: HistoryFacts, times: Times) -> h.Node:
        """Say what is stored."""
        hours = counted(history.quarantined_windows, "anomalous hour")
        verb = "is" if history.quarantined_windows == 1 else "are"
        return h.fragment[
            f"Stored: {counted(history.traces, 'trace')} in {counted(history.windows, 'window')}",
            history.oldest_trace_at is not None and h.fragment[", the oldest from ", times.at(history.oldest_trace_at)],
            history.storage_bytes is not None and f", in {history.storage_bytes / 1e6:,.1f} MB",
            ".",
            bool(history.quarantined_windows) and f" {hours} {verb} kept out of the baselines.",
        ]

    def run_verify(self) -> h.Node:
        """Say how to check whether the history is enough."""
        return h.fragment["To check whether this is enough history, run ", h.code["tempo-anomaly-exporter verify"]]

    endpoints = "Endpoints"
    no_endpoints = "None yet: an endpoint appears once its first traces are read."
    no_match = "No endpoint matches. "
    show_all = "Show all"
    filter_button = "Filter"
    filter_placeholder = "Service or endpoint"
    state_filter = "State"
    level_filter = "Baseline"
    any_level = "any baseline"
    pages = "Pages"
    plot_alt = "Baseline by hour"
    states: ClassVar[Mapping[str, str]] = {
        "": "any state",
        "anomalous": "anomalous",
        "shift": "with shifted latency",
        "errors": "with many errors",
        "traffic": "with unusual traffic",
        "regression": "slower than before",
        "outlier": "with outliers",
        "learning": "learning",
        "stream": "streams",
    }
    """Names of the filters by state, also those of the totals."""
    columns: ClassVar[Mapping[str, tuple[str, str]]] = {
        "name": ("Endpoint", "Service and span name"),
        "plot": ("24 hours", "Baseline from p50 to p95 at each hour of this day type; the dot is the current p95"),
        "p50": ("p50", "Current median, and that of the baseline"),
        "p95": ("p95", "Current 95th percentile, and that of the baseline"),
        "ratio": ("× usual", "Current p95 divided by that of the baseline"),
        "errors": ("Errors", "Share of the requests in the evaluation window that failed, and the usual one"),
        "traffic": ("Traffic", "Requests divided by the usual number at this hour"),
        "traces": ("Traces", "Requests in the evaluation window"),
        "lost": ("Lost", "Time that requests took beyond the usual p95 since the shift began"),
        "score": ("Score", "Strength of the shift; from 1 on it is significant"),
        "level": ("Baseline", "Fallback level of the baseline: 1 this hour … 5 unavailable"),
    }
    """Columns of the table, in order, with an explanation."""
    cells: ClassVar[Mapping[str, str]] = {
        "p50": "p50",
        "p95": "p95",
        "ratio": "× usual",
        "errors": "errors",
        "traffic": "traffic",
        "traces": "traces",
        "lost": "lost",
    }
    """Labels of the cells on a phone, which has no row of headers."""
    anomalous_badge = "anomalous"
    errors_badge = "errors"
    outliers_badge = "outliers"
    regression_badge = "slower than before"
    traffic_badge = "unusual traffic"
    learning_badge = "learning"
    disabled_badge = "not judged"
    marked_badge = "marked"
    stream_badge = "stream"

    def traces(self, number: int) -> str:
        """Say how many traces a baseline has."""
        return f"{number:,} traces"

    def any_value(self, label: str) -> str:
        """Name the choice of any value of a label."""
        return f"any {label}"

    def endpoints_count(self, number: int) -> str:
        """Say how many endpoints match."""
        return counted(number, "endpoint")

    def page_position(self, first: int, last: int, total: int) -> str:
        """Say which rows a page of the table shows."""
        return f"{first:,}–{last:,} of {total:,}"

    first_page = "« first"
    previous_page = "‹ previous"
    next_page = "next ›"
    last_page = "last »"
    kinds: ClassVar[Mapping[FlagKind, str]] = {
        FlagKind.SHIFT: "latency",
        FlagKind.ERRORS: "errors",
        FlagKind.TRAFFIC: "traffic",
    }
    """What the flags are about."""
    last_day = "Flags of the last 24 hours"

    def further_endpoints(self, number: int) -> str:
        """Say how many endpoints are left out."""
        return f"and {counted(number, 'other endpoint')}"

    def flag(self, period: FlagPeriod, times: Times) -> str:
        """Describe a time in which a flag fired."""
        until = "now" if period.until is None else f"{times.local(period.until):%H:%M}"
        return f"{self.kinds[period.kind]}: {times.local(period.since):%a %H:%M} to {until}"

    def traffic(self, status: SeriesStatus) -> h.Node:
        """Return the sentence about the traffic of a series whose flag about it fires; None unless it does."""
        flag, current = status.of_kind(FlagKind.TRAFFIC), status.current_traffic
        if not flag.firing:
            return None
        if current is None:
            return f"Traffic: {self.traffic_title.lower()}"
        return h.fragment["Traffic: ", self.in_english(str(current.verdict.evidence))]

    def service_shift(self, service: ServiceStatus, times: Times) -> h.Node:
        """Say that a service as a whole is slower than usual."""
        since = service.since is not None and h.fragment[", ", self.since(service.since, times)]
        verdict = service.verdict
        if verdict is None or verdict.ratio < 1:
            return h.fragment["The service as a whole is slower than usual", since, "."]
        return h.fragment[
            "The service as a whole is slower than usual",
            since,
            f": as a median, its {verdict.endpoints} endpoints with traffic take {verdict.ratio:.2f} × their usual.",
        ]


ENGLISH: Final = StatusWords()
