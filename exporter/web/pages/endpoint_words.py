"""Texts of the page of an endpoint, in English."""

from typing import Final, NamedTuple

import htpy as h

from exporter.detection.errors.verdict import percent
from exporter.detection.explanation import compared_with, duration, minutes_text
from exporter.detection.flag import FlagKind
from exporter.detection.parameters import Parameters
from exporter.evaluation.query import BaselineReport, LevelSupply, NoVerdict, RunLimits, ShiftThreshold
from exporter.evaluation.snapshot import SeriesStatus
from exporter.evaluation.timeline import Timeline, TimelineRange
from exporter.explain.words import (
    STREAM_REASONS,
    amount_of_time,
    coarse_duration,
    counted,
    disabled_by,
    regression_measure,
    run_limits_text,
)
from exporter.model.calendar import HOUR_SECONDS, Slot
from exporter.web.pages.formatting import UNKNOWN, Times, amount, factor, latency, p95_ratio
from exporter.web.pages.status_words import ENGLISH

COMPARED: Final = {
    FlagKind.SHIFT: "slow requests",
    FlagKind.ERRORS: "failed requests",
    FlagKind.TRAFFIC: "the traffic",
}
"""What Traces Drilldown compares for a flag."""


def summary(status: SeriesStatus, report: BaselineReport | None, parameters: Parameters) -> str:
    """Describe the current state of a series: the explanation of its shift, or its latency and baseline.

    Args:
        status: its status in the snapshot.
        report: its baseline in the stored history; None if that could not be read.
        parameters: settings of the shift detector for it.
    """
    if status.explanation is not None:
        return " ".join(filter(None, (str(status.explanation), _settings(status))))
    sentences = (_current_sentence(status, parameters), _baseline_sentences(status, report), _settings(status))
    return " ".join(filter(None, sentences))


def _settings(status: SeriesStatus) -> str:
    """Say what overrides change for a series; empty without any."""
    if status.policy is None:
        return ""
    if not status.is_enabled:
        return f"Its traces are only counted, without any verdict ({disabled_by(status.policy)})."
    return f"Its own settings: {'; '.join(map(str, status.policy.applied))}."


def _current_sentence(status: SeriesStatus, parameters: Parameters) -> str:
    window = coarse_duration(parameters.window_seconds)
    if status.current_traces is None:
        return "The current latency is unknown: Tempo could not be read."
    if not status.current_traces:
        return f"No requests in the last {window}."
    is_extended = status.current_traces <= parameters.min_traces and parameters.max_window_seconds > (
        parameters.window_seconds
    )
    longest = coarse_duration(parameters.max_window_seconds)
    within = f"the evaluation window (up to {longest})" if is_extended else f"the last {window}"
    return (
        f"{counted(status.current_traces, 'request')} in {within}: "
        f"p50 {latency(status.current_p50_seconds)}, p95 {latency(status.current_p95_seconds)}."
    )


BACK_TO_ALL: Final = "‹ all endpoints"
ALL_ENDPOINTS: Final = "All endpoints"
NORMAL_BADGE: Final = "normal"
NO_VERDICT_BADGE: Final = "no verdict"
SEARCH_FOR_IT: Final = "Search for it"
UNKNOWN_ENDPOINT: Final = "Unknown endpoint"
NO_SUCH_ENDPOINT: Final = "There is no such endpoint"
UNKNOWN_ENDPOINT_UNREAD: Final = "Nothing is known yet: the current traffic has not been read."
UNKNOWN_ENDPOINT_REASON: Final = (
    "It has sent no traces recently, is excluded by the configuration, or does not exist. Names must match exactly."
)
WHY_SLOW: Final = "Why it is slow"
EXTRA_TIME: Final = "What the extra time consists of"
WEEKDAYS: Final = "Weekdays"
WEEKENDS: Final = "Weekends and holidays"
BASELINE_BY_HOUR: Final = "Baseline by hour of day"
SHOW_AS_TABLE: Final = "Show as a table"
LEGEND_NOW: Final = "p50 and p95 now"
LEGEND_LEVELS: Final = "Baseline from"
HOUR: Final = "Hour"
PROFILE_COLUMNS: Final = ("p50", "p95", "outlier", "level", "traces", "hours")
THRESHOLDS: Final = "Shift thresholds and fallback levels"
QUANTILE: Final = "Quantile"
THRESHOLD_COLUMNS: Final = ("usual", "usual swing", "threshold")
PATTERN_COLUMN: Final = "pattern within the hour"
LEVEL: Final = "Level"
LEVEL_COLUMNS: Final = ("traces", "needed", "hours")
LEVEL_USED: Final = "used"
KEPT_OUT: Final = "Kept out of the baseline"
MARKED: Final = "Marked by people"
KEPT_OUT_NOTE: Final = "Anomalous hours that the baseline leaves out:"
OUTLIERS: Final = "Recent outliers"
SEARCH_SLOW: Final = "Search for slow traces"
ENDED: Final = "Ended"
DURATION: Final = "Duration"
TRACE: Final = "Trace"
WHERE_TIME_WENT: Final = "Where the time went"
SPANS: Final = "spans"
NONE: Final = "None."
NOT_KNOWN_YET: Final = "Not known yet."


def profile_plot_text(label: str, known: int) -> str:
    """Describe the plot of the baseline for screen readers."""
    return f"{label}: usual p50 and p95 by hour, known for {known} of 24 hours"


def evaluated_by_run(limits: RunLimits) -> str:
    """Say what a shift is of a series that is evaluated by run."""
    return f"Evaluated by run: a shift is {run_limits_text(limits)}."


def pattern(threshold: ShiftThreshold) -> str:
    """Say when in the hour the threshold is higher, and by how much."""
    if not threshold.pattern_minutes:
        return UNKNOWN
    return f"{minutes_text(threshold.pattern_minutes)} up to × {threshold.pattern_factor:.2g}"


def level_use(report: BaselineReport, supply: LevelSupply) -> str:
    """Say whether a fallback level serves, and why it does not."""
    if supply.level == report.level:
        return "yes" if supply.mature else "yes, but too few hours or days for a shift verdict"
    if supply.traces < supply.needed:
        return "no: too few traces"
    return "not needed" if supply.mature else "no: too few hours or days"


def earlier_hours(number: int) -> str:
    """Say how many hours are left out of a list."""
    return f"and {counted(number, 'earlier hour')}."


def outliers_note(threshold_seconds: float, status: SeriesStatus) -> str:
    """Say what an outlier is, and how many there were."""
    return (
        f"Single traces slower than {duration(threshold_seconds)}: {status.outliers_total:,} of "
        f"{counted(status.traces_total, 'trace')} since the exporter started. "
    )


class Tile(NamedTuple):
    """A figure at the top of the page.

    Attributes:
        name: what it is.
        value: the figure.
        more: what it is compared with, or where it is from.
    """

    name: str
    value: h.Node
    more: h.Node = None


def tiles(status: SeriesStatus, changepoint: int | None, times: Times) -> list[Tile]:
    """Return the figures of a series.

    Args:
        status: its status.
        changepoint: start of its present behaviour by the stored history, Unix seconds; None without a change.
        times: formats instants.
    """
    baseline, ratio = status.baseline, p95_ratio(status)
    found = [
        Tile(
            "p50 now",
            latency(status.current_p50_seconds),
            None if baseline is None else f"usually {duration(baseline.p50_seconds)}",
        ),
        Tile(
            "p95 now",
            latency(status.current_p95_seconds),
            None if baseline is None else f"usually {duration(baseline.p95_seconds)}",
        ),
        Tile(
            "p95 × usual",
            UNKNOWN if ratio is None else factor(ratio),
            None if status.score is None else f"score {status.score:.2f}",
        ),
        *_time_lost_tile(status, times),
        Tile("outlier above", latency(status.outlier_threshold_seconds), "a single trace"),
        Tile("baseline", UNKNOWN)
        if status.level is None
        else Tile("baseline", f"level {status.level:d}", ENGLISH.levels[status.level]),
        Tile(
            "based on",
            UNKNOWN if baseline is None else f"{baseline.count:,}",
            None if baseline is None else f"traces, {compared_with(baseline)}",
        ),
    ]
    since_change = status.changepoint or changepoint
    if since_change is not None:
        found.append(Tile("baseline since", times.at(since_change), "a lasting change was accepted"))
    return found


def _time_lost_tile(status: SeriesStatus, times: Times) -> list[Tile]:
    lost = status.time_lost
    if lost is not None:
        requests = counted(lost.requests, "request")
        more = h.fragment[f"by {requests} since ", times.at(lost.since)]
        return [Tile("time lost", amount_of_time(lost.seconds), more)]
    if status.excess_seconds_total is None or status.excess_traces_total is None:
        return []
    requests = counted(status.excess_traces_total, "request")
    return [Tile("time lost", amount_of_time(status.excess_seconds_total), f"by {requests} since the exporter started")]


def as_of(instant: float, times: Times) -> h.Node:
    """Say when this was evaluated."""
    return h.fragment["as of ", times.at(instant)]


RANGES: Final = {
    TimelineRange.HOURS_6: "6 hours",
    TimelineRange.HOURS_24: "24 hours",
    TimelineRange.DAYS_7: "7 days",
}
RANGES_LABEL: Final = "Range of time"
PAST_UNREADABLE: Final = "The stored history cannot be read. The exporter's log has details."
NO_PAST: Final = "No requests in this time."
LATENCY_OVER_TIME: Final = "Latency"
ERRORS_OVER_TIME: Final = "Error ratio"
TRAFFIC_OVER_TIME: Final = "Requests"
HEAT_MAP: Final = "Distribution of durations"
LEGEND_BAND: Final = "usual p50 to p95"
LEGEND_USUAL: Final = "usual"
LEGEND_FLAG: Final = "flag fired"
LEGEND_QUARANTINED: Final = "kept out of the baseline"
LEGEND_MARKED: Final = "marked by people"
LEGEND_UNREAD: Final = "not read, or not yet"
LEGEND_CURRENT: Final = "from the live edge"
HEAT_LEGEND: Final = "The stronger the colour, the larger the share of the requests"
AS_JSON: Final = "As JSON"
ERRORS_BY_HOUR: Final = "Usual error ratio by hour of day"
TRAFFIC_BY_HOUR: Final = "Usual requests by hour of day"
KINDS_HEADING: Final = "What is judged"
KINDS_COLUMNS: Final = ("", "Now", "Usual", "A flag would mean")


class KindStanding(NamedTuple):
    """What is known of one kind of anomaly.

    Attributes:
        name: what is judged.
        firing: whether it is anomalous now.
        now: the present value.
        usual: what it is compared with.
        rule: what would be an anomaly.
    """

    name: str
    firing: bool
    now: str
    usual: str
    rule: str


def kind_standings(status: SeriesStatus, parameters: Parameters, times: Times) -> list[KindStanding]:
    """Describe what is judged of a series, kind by kind."""
    errors = _errors_standing(status, parameters)
    others = [
        _latency_standing(status, parameters),
        _traffic_standing(status, parameters),
        _regression_standing(status, parameters, times),
    ]
    if not status.is_enabled:
        errors, *others = (each._replace(rule=f"{ENGLISH.disabled_title}.") for each in (errors, *others))
    elif status.stream is not None:
        others = [
            each._replace(rule=f"Not judged: its spans are those of a stream, {STREAM_REASONS[status.stream]}.")
            for each in others
        ]
    latency, *rest = others
    return [latency, errors, *rest]


def _latency_standing(status: SeriesStatus, parameters: Parameters) -> KindStanding:
    current, baseline = status.current_p95_seconds, status.baseline
    return KindStanding(
        "Latency",
        bool(status.shift),
        UNKNOWN if current is None else f"p95 {duration(current)}",
        UNKNOWN if baseline is None else f"p95 {duration(baseline.p95_seconds)}",
        f"p50, p90 or p99 is {factor(parameters.ratio)} times the usual or more, by "
        f"{duration(parameters.min_delta_seconds)} at least, and neither chance nor the usual swing explains it.",
    )


def _errors_standing(status: SeriesStatus, parameters: Parameters) -> KindStanding:
    current, usual = status.current_error_ratio, status.baseline_error_ratio
    return KindStanding(
        "Errors",
        bool(status.of_kind(FlagKind.ERRORS).firing),
        UNKNOWN if current is None else f"{percent(current)} failed",
        UNKNOWN if usual is None else percent(usual),
        f"{factor(parameters.errors_ratio)} times the usual share of the requests fails, "
        f"{100 * parameters.errors_min_delta:g} percentage points more at least, beyond chance and usual bursts.",
    )


def _traffic_standing(status: SeriesStatus, parameters: Parameters) -> KindStanding:
    current = status.current_traffic
    evidence = None if current is None else current.verdict.evidence
    rises = (
        "" if parameters.traffic_surge is None else f", or more than {factor(parameters.traffic_surge)} times as many"
    )
    return KindStanding(
        "Traffic",
        bool(status.of_kind(FlagKind.TRAFFIC).firing),
        UNKNOWN if evidence is None else f"{percent_of(evidence.ratio)} of the usual",
        UNKNOWN
        if current is None or evidence is None
        else f"{amount(current.usual)} requests in {coarse_duration(evidence.seconds)}",
        f"Fewer than {percent_of(parameters.traffic_drop)} of the usual requests{rises}, beyond chance, while other "
        "endpoints have theirs. The usual must be 20 requests in an hour at least."
        if parameters.traffic_enabled
        else "Traffic is not judged (detection.traffic.enabled: false).",
    )


def _regression_standing(status: SeriesStatus, parameters: Parameters, times: Times) -> KindStanding:
    found = status.regression
    now, before = UNKNOWN if status.regressed is None else "no", UNKNOWN
    if found is not None:
        since = f"{times.local(found.began_before):%Y-%m-%d}"
        now = f"{regression_measure(found)} × {factor(found.ratio)} since {since}"
        before = f"p{100 * found.quantile:g} {duration(found.before_seconds)} in the weeks before"
    return KindStanding(
        "Regression",
        found is not None,
        now,
        before,
        f"The last days take {parameters.regression_ratio:g} times as long as the same hours of the weeks "
        "before, lastingly. A ticket, never a page.",
    )


def percent_of(ratio: float) -> str:
    """Format a ratio that may exceed 1 in percent, to two digits."""
    return f"{100 * ratio:.2g} %" if ratio < 0.995 else f"{100 * ratio:,.0f} %"


def hourly_requests(status: SeriesStatus) -> float | None:
    """The current traffic of a series, as requests in an hour; None while unknown."""
    current = status.current_traffic
    if current is None:
        return None
    evidence = current.verdict.evidence
    return current.usual * evidence.ratio * HOUR_SECONDS / evidence.seconds


def signal_plot_text(day_type: str, heading: str, known: int) -> str:
    """Describe a plot by hour of the day for screen readers."""
    return f"{day_type}: {heading[0].lower()}{heading[1:]}, known for {known} of 48 slots"


def usual_text(slot: Slot, value: str | None) -> str:
    """Describe the usual value in a slot."""
    return f"{slot.day_type} {slot.hour:02d}–{(slot.hour + 1) % 24:02d} h: {'unknown' if value is None else value}"


def past_heading(range_: TimelineRange) -> str:
    """Name a range of the past."""
    return f"The last {RANGES[range_]}"


def past_notes(timeline: Timeline) -> str:
    """Say how long the points are, and by what requests count."""
    is_hourly = timeline.step_seconds >= HOUR_SECONDS
    count = "began" if is_hourly else "ended"
    return f"One point is {coarse_duration(timeline.step_seconds)}; requests count by when they {count}."


def _baseline_sentences(status: SeriesStatus, report: BaselineReport | None) -> str:
    baseline = status.baseline
    if not status.is_baseline_known:
        return "The baseline for this hour is still being computed, so there is no verdict yet."
    if baseline is None:
        return "There is too little history for a baseline (level 5), so there is no verdict."
    text = (
        f"Baseline: p50 {duration(baseline.p50_seconds)}, p95 {duration(baseline.p95_seconds)} "
        f"({compared_with(baseline)}, level {baseline.level:d}, {counted(baseline.count, 'trace')})."
    )
    if report is None:
        return text
    if report.shift:
        *limits, last = (f"p{100 * each.quantile:g} above {duration(each.limit_seconds)}" for each in report.shift)
        shift = f"{', '.join(limits)} or {last}" if limits else last
        return f"{text} A shift would be {shift}, unless chance or the usual swing explains it."
    reason = {
        NoVerdict.STREAM: "It is a stream: its spans last as long as a connection stays open, so there is no verdict.",
        NoVerdict.LEARNING: "It covers too few hours or days for a shift verdict, so only single outliers are flagged.",
        NoVerdict.NOT_EVALUATED: "Past hours are still being evaluated; there is no shift verdict until that is done.",
    }
    return f"{text} {reason[report.no_verdict]}" if report.no_verdict in reason else text
