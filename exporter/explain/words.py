"""Sentences for people. Names are made printable, since span names may contain control characters."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final

from exporter.baseline.levels import (
    MATURE_DAYS,
    MATURE_TRACES,
    MATURE_WINDOWS,
    FallbackLevel,
)
from exporter.detection.errors.verdict import percent
from exporter.detection.explanation import compared_with, duration, rise_text
from exporter.detection.flag import FlagKind
from exporter.detection.policy import SeriesPolicy
from exporter.detection.regression.verdict import Regression
from exporter.detection.streams import StreamReason
from exporter.evaluation.live.time_lost import TimeLost
from exporter.evaluation.query import BaselineReport, ErrorLimits, LevelSupply, NoVerdict, RunLimits, TrafficLimits
from exporter.evaluation.snapshot import SeriesStatus, ServiceStatus
from exporter.explain.check import Check, DurationVerdict
from exporter.model.calendar import HOUR_SECONDS, Calendar, DayType, Slot
from exporter.model.span import SeriesKey
from exporter.model.time_mark import MarkRange
from exporter.runtime.terminal import printable

SHORT_SECONDS: Final = 60
"""Below this, an amount of time has three digits."""

_MOST_MARKS: Final = 3
"""Marks of one instant that are described; there may be thousands."""

LATENCY_LEVEL: Final = "latency level"
"""The 20th percentile, median and p90 of durations, taken together; see :mod:`exporter.detection.regression`."""
LEVEL_NAMES: Final = {
    FallbackLevel.EXACT: "exact hour",
    FallbackLevel.NEARBY: "nearby hours",
    FallbackLevel.DAYTYPE: "type of day",
    FallbackLevel.GLOBAL: "everything",
    FallbackLevel.UNAVAILABLE: "unavailable",
}


STREAM_REASONS: Final = {
    StreamReason.CONFIGURED: "by series.streams",
    StreamReason.NAME: "by its name",
    StreamReason.DURATIONS: "by its durations",
}


def check_sentence(check: Check, calendar: Calendar) -> str:
    """Describe the result of checking an endpoint in one or more sentences."""
    return " ".join(_sentences(check, calendar))


def _sentences(check: Check, calendar: Calendar) -> Iterator[str]:
    report, name = check.report, series_name(check.report.key)
    if check.duration is not None:
        yield _duration_sentence(name, check.duration, report)
    elif report.stream is not None and report.baseline is not None:
        yield (
            f"{name} usually lasts {duration(report.baseline.p50_seconds)} (p50) to "
            f"{duration(report.baseline.p95_seconds)} (p95) {slot_text(report.hour.slot)}, {_pooled_from(report)}."
        )
    elif report.baseline is not None and report.no_verdict is NoVerdict.DISABLED:
        baseline = report.baseline
        yield (
            f"{name} usually takes {duration(baseline.p50_seconds)} (p50) to {duration(baseline.p95_seconds)} (p95) "
            f"{slot_text(report.hour.slot)}, {_pooled_from(report)}."
        )
    elif report.baseline is None and report.runs is not None:
        yield f"{name} has too few requests for a baseline."
    elif report.baseline is None or report.outlier_threshold_seconds is None:
        yield f"Nothing is known of what is usual for {name} {slot_text(report.hour.slot)}."
    else:
        baseline = report.baseline
        yield (
            f"{name} usually takes {duration(baseline.p50_seconds)} (p50) to {duration(baseline.p95_seconds)} (p95) "
            f"{slot_text(report.hour.slot)}, {_pooled_from(report)}; a single trace above "
            f"{duration(report.outlier_threshold_seconds)} is an outlier."
        )
    if report.key.is_folded:
        yield "It has the traces of all span names of its service beyond series.max_per_service."
    applying = [each for each in report.marks if each.start <= check.at < each.end]
    yield from marks_sentences(applying, calendar.local)
    reason = why_no_verdict(report)
    if reason:
        yield reason
    if report.runs is not None:
        yield f"It is evaluated by run: a shift is {run_limits_text(report.runs)}."
    if report.regression is not None:
        yield regression_sentence(report.regression, calendar.local)
        if report.regression_version is not None:
            yield report.regression_version.sentence
    status = check.status
    if status is None:
        return
    if status.shift:
        since = "" if status.since is None else f" since {instant_text(status.since, calendar)}"
        yield f"Its latency is shifted{since}" + ("." if status.explanation is None else f": {status.explanation}")
        if status.cause is not None:
            yield status.cause.text
        if status.time_lost is not None and status.time_lost.requests:
            yield (
                f"Since {instant_text(status.time_lost.since, calendar)} {time_lost_text(status.time_lost)} beyond the "
                "usual p95."
            )
    elif status.shift is not None:
        score = "" if status.score is None else f" (score {status.score:.2f}; 1 is where it matters)"
        yield f"Its latency as a whole is not shifted now{score}."
    if status.service is not None:
        yield service_sentence(status.service)
    errors = status.of_kind(FlagKind.ERRORS)
    if errors.firing:
        since = "" if errors.since is None else f" since {instant_text(errors.since, calendar)}"
        yield f"Far more of its requests fail than usual{since}" + (
            "." if errors.explanation is None else f": {errors.explanation}"
        )
    elif status.current_failures and status.baseline_error_ratio is not None:
        yield (
            f"{status.current_failures:,} of its last {status.current_traces:,} requests failed; usual are "
            f"{percent(status.baseline_error_ratio)}."
        )
    yield from _traffic_sentences(status, calendar)


def _traffic_sentences(status: SeriesStatus, calendar: Calendar) -> Iterator[str]:
    flag, current = status.of_kind(FlagKind.TRAFFIC), status.current_traffic
    if flag.firing:
        since = "" if flag.since is None else f" since {instant_text(flag.since, calendar)}"
        yield f"Its traffic is far from the usual{since}" + (
            "." if current is None else f": {current.verdict.evidence}"
        )
    elif current is not None and not status.shift and (rise := rise_text(current.verdict.evidence.ratio)):
        # The explanation of a shift says it itself.
        yield rise


def service_sentence(service: ServiceStatus) -> str:
    """Say that a service as a whole is slower than usual, and by which factor."""
    verdict = service.verdict
    if verdict is None:
        return "Its service as a whole was slower than usual when that was last known."
    if verdict.ratio < 1:
        return "Its service as a whole was slower than usual until a moment ago."
    return (
        f"Its service as a whole is slower than usual: as a median, its {verdict.endpoints} endpoints with traffic "
        f"take {verdict.ratio:.2f} × their usual (a shift from {verdict.threshold_ratio:.2f} × on)."
    )


def error_limits_text(limits: ErrorLimits) -> str:
    """Describe which share of the requests usually fails, and which is too much."""
    bursts = f"; bursts up to {percent(limits.swing_ratio)} are usual" if limits.swing_ratio else ""
    return (
        f"more than {percent(limits.limit_ratio)} of the requests (usually {percent(limits.ratio)}, by "
        f"{compared_with(limits)}{bursts})"
    )


def traffic_limits_text(limits: TrafficLimits) -> str:
    """Describe how many requests are usual in an hour, and which number is too low."""
    by = f"by {counted(limits.windows, 'hour')}, level {limits.level:d}"
    if not limits.is_judged:
        return f"usually {limits.requests:,.3g} requests in this hour ({by}), too few for a verdict"
    return (
        f"fewer than {limits.low_requests:,.0f} requests in this hour, or in proportion for some minutes "
        f"(usually {limits.requests:,.0f}, {by})"
    )


def run_limits_text(limits: RunLimits) -> str:
    """Describe what a shift of a series is that is evaluated by run."""
    return (
        f"two runs in a row above {duration(limits.slow_seconds)}, or one above {duration(limits.far_seconds)} "
        f"(usually {duration(limits.usual_seconds)}; runs up to × {limits.swing_factor:.2g} are usual; "
        f"the longest of these hours took {duration(limits.longest_seconds)}; {limits.past_runs:,} past runs)"
    )


def regression_sentence(regression: Regression, local: Callable[[float], datetime]) -> str:
    """Say since when the latency is higher, by how much, and how certain that is."""
    measure = regression_measure(regression)
    name = f"{measure} (p20, median and p90 together)" if measure == LATENCY_LEVEL else measure
    began = _interval_text(local(regression.began_after), local(regression.began_before))
    return (
        f"Since {began} its {name} is higher than in the weeks before: in the last {regression.hours} hours "
        f"{regression.ratio:.2f} × {regression_reference(regression, 'the same hours')} (when it was found, "
        f"{regression.deviations:.1f} times as far off as such means usually are)."
    )


def regression_measure(regression: Regression) -> str:
    """Return what a regression has raised: the level of the durations, or the p90 alone."""
    return LATENCY_LEVEL if regression.quantile == 0.5 else f"p{100 * regression.quantile:g}"


def regression_reference(regression: Regression, of: str) -> str:
    """Return what a regression is relative to, such as ``that of the weeks before, whose median was 200 ms``."""
    before = duration(regression.before_seconds)
    is_level = regression_measure(regression) == LATENCY_LEVEL
    return f"that of {of}, whose median was {before}" if is_level else f"the {before} of {of}"


def _interval_text(first: datetime, last: datetime) -> str:
    day = "%A %Y-%m-%d %H:%M"
    if first.date() == last.date():
        return f"{first:{day}}–{last:%H:%M %Z}"
    return f"a time between {first:{day}} and {last:{day} %Z}"


def time_lost_text(lost: TimeLost) -> str:
    """Describe the time lost, such as ``312 requests lost 14 min``."""
    return f"{counted(lost.requests, 'request')} lost {amount_of_time(lost.seconds)}"


def amount_of_time(seconds: float) -> str:
    """Format a sum of durations."""
    return duration(seconds) if seconds < SHORT_SECONDS else coarse_duration(seconds)


def coarse_duration(seconds: float) -> str:
    """Format a duration of seconds to days in its largest unit, or in the largest two if there are few of the first."""
    return " ".join(f"{count} {unit}" for count, unit in coarse_parts(seconds))


def coarse_parts(seconds: float) -> Iterator[tuple[int, str]]:
    """Yield the parts of a coarse duration: a count, and its unit, which is ``d``, ``h``, ``min`` or ``s``."""
    whole = int(seconds)
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if whole >= size:
            count, rest = divmod(whole, size)
            yield count, name
            smaller = {"d": ("h", 3600), "h": ("min", 60)}.get(name)
            if smaller and count < 3 and rest >= smaller[1]:
                yield rest // smaller[1], smaller[0]
            return
    yield whole, "s"


def _duration_sentence(name: str, verdict: DurationVerdict, report: BaselineReport) -> str:
    shown = duration(verdict.seconds)
    baseline, threshold = report.baseline, report.outlier_threshold_seconds
    if report.stream is not None or report.no_verdict is NoVerdict.DISABLED:
        return f"Whether {shown} is much for {name} is not judged."
    if baseline is None or threshold is None or verdict.slower_traces is None:
        return f"Whether {shown} is much for {name} {slot_text(report.hour.slot)} cannot be told: there is no baseline."
    verb = "is an outlier" if verdict.is_outlier else "is no outlier"
    side = "above" if verdict.is_outlier else "not above"
    slower = f"{verdict.slower_traces:,}" if verdict.slower_traces else "none"
    ratio = "" if verdict.p50_ratio is None else f"{verdict.p50_ratio:.2g} × the usual median, and "
    return (
        f"{shown} {verb} for {name} {slot_text(report.hour.slot)}: it is {side} the threshold of {duration(threshold)} "
        f"(usual p50 {duration(baseline.p50_seconds)}, p95 {duration(baseline.p95_seconds)}); that is {ratio}"
        f"{slower} of the {baseline.count:,} traces that it is compared with took longer "
        f"({compared_with(baseline)}, level {baseline.level:d})."
    )


def _pooled_from(report: BaselineReport) -> str:
    if report.baseline is None:
        return ""
    return f"by {compared_with(report.baseline)} (level {report.level:d}, {report.baseline.count:,} traces)"


def why_no_verdict(report: BaselineReport) -> str:
    """Say why there is no verdict on a shift, and what to do; empty if there is a verdict."""
    match report.no_verdict:
        case None:
            return ""
        case NoVerdict.UNAVAILABLE:
            return _unavailable(report.supply)
        case NoVerdict.DISABLED:
            return f"There is no verdict: its traces are only counted ({disabled_by(report.policy)})."
        case NoVerdict.STREAM:
            why = STREAM_REASONS[report.stream or StreamReason.DURATIONS]
            return (
                f"It is a stream {why}: its spans last as long as a connection stays open or nothing arrives, so there "
                "is no verdict on their durations. If they are requests, add it to series.requests."
            )
        case NoVerdict.LEARNING:
            baseline = report.baseline
            so_far = "" if baseline is None else f", and so far there are {counted(baseline.windows, 'hour')}"
            return (
                f"It is still learning: a verdict on a shift takes {MATURE_TRACES} traces from {MATURE_WINDOWS} hours, "
                f"around the clock from {MATURE_DAYS} days{so_far}. Time helps, and so does a longer "
                "polling.backfill_duration where Tempo still has older traces."
            )
        case NoVerdict.NOT_EVALUATED:
            return (
                "There is no verdict on a shift, since the past is not judged up to this hour: an incident might stand "
                "in the baseline. It is once backfill has caught up (tempo_anomaly_backfill_progress_ratio)."
            )


def disabled_by(policy: SeriesPolicy | None) -> str:
    """Say which override disables the verdicts on a series, such as ``enabled false, by overrides[1]``."""
    return next((str(each) for each in policy.applied if each.key == "enabled"), "") if policy is not None else ""


def _unavailable(supply: Sequence[LevelSupply]) -> str:
    have = ", ".join(f"{LEVEL_NAMES[each.level]} {each.traces:,} of {each.needed:,} traces" for each in supply)
    switched_off = {*FallbackLevel} - {FallbackLevel.UNAVAILABLE} - {each.level for each in supply}
    enable = ", enable more levels (fallback.*_enabled)" if switched_off else ""
    return (
        f"It is at level 5, so there is no verdict: {have}. Wait for traffic, read further back "
        f"(polling.backfill_duration){enable}, or lower the minimums (stats.min_samples, fallback.*_min_samples)."
    )


def slot_text(slot: Slot) -> str:
    """Describe a slot, such as ``on weekdays 14–15 h``."""
    days = "on weekdays" if slot.day_type is DayType.WEEKDAY else "on weekend days"
    return f"{days} {slot.hour}–{(slot.hour + 1) % 24} h"


def series_name(key: SeriesKey) -> str:
    """Service, span name and labels of a series, on one line."""
    names = f"{printable(key.service_name) or '(no service)'} {printable(key.span_name) or '(no name)'}"
    return " ".join([names, *(f"{name}={printable(value)}" for name, value in key.labels)])


def instant_text(unix_seconds: float, calendar: Calendar) -> str:
    """Format an instant as local time, to the second."""
    return f"{calendar.local(unix_seconds):%Y-%m-%d %H:%M:%S %Z}"


def hour_ranges(starts: Sequence[int], calendar: Calendar) -> list[str]:
    """Join consecutive hours into ranges, such as ``2026-01-05 14:00–17:00``."""
    ranges: list[tuple[int, int]] = []
    for start in starts:
        if ranges and ranges[-1][1] == start:
            ranges[-1] = ranges[-1][0], start + HOUR_SECONDS
        else:
            ranges.append((start, start + HOUR_SECONDS))
    shown = []
    for start, end in ranges:
        begin, until = calendar.local(start), calendar.local(end)
        same_day = begin.date() == until.date()
        shown.append(f"{begin:%Y-%m-%d %H:%M}–" + (f"{until:%H:%M}" if same_day else f"{until:%Y-%m-%d %H:%M}"))
    return shown


def mark_text(each: MarkRange, calendar: Calendar) -> str:
    """Describe a range that people have marked."""
    comment = f" ({printable(each.mark.comment)})" if each.mark.comment else ""
    recurs = ", recurring" if each.mark.rule else ""
    return (
        f"{each.mark.kind.value} {instant_text(each.start, calendar)} to {instant_text(each.end, calendar)}{recurs}, "
        f"by {each.mark.source.value}{comment}"
    )


def marks_sentences(ranges: Sequence[MarkRange], local: Callable[[float], datetime]) -> Iterator[str]:
    """Say what people have marked of an instant, and what follows, from ranges that contain it."""
    for each in ranges[:_MOST_MARKS]:
        comment = f" ({printable(each.mark.comment)})" if each.mark.comment else ""
        follows = "there is no verdict while that lasts" if each.is_quiet else "its hours are left out of the baselines"
        until = f"{local(each.end):%A %Y-%m-%d %H:%M %Z}"
        yield f"People have marked it as {each.mark.kind.value} until {until}{comment}: {follows}."


def counted(number: int, noun: str) -> str:
    """A number and a noun, in the plural unless the number is 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
