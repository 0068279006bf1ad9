"""What is to be said about the facts: a line each, PASS, WARN or FAIL, with advice where something is to be done."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Final

from exporter.config.units import format_duration
from exporter.verify.facts import NIGHT_HOUR, Facts

_FRESH_SECONDS: Final = 60
_STALE_SECONDS: Final = 300
_FAILURES_SHARE: Final = 0.01
_FAILURES: Final = 10
"""Fewer failures mean nothing, whatever share of few requests they are: many a Tempo refuses to count what it has."""
_COVERED: Final = 0.99
_QUIET_SECONDS: Final = 24 * 3600
_QUIET_SHARE: Final = 0.25
"""So much of the wanted history may be without traces at its beginning: services sleep at night."""
_MOST_SERIES: Final = 0.8
_UNAVAILABLE: Final = 5


class Outcome(StrEnum):
    """How good something is."""

    PASS = "PASS"  # noqa: S105 - a word, no secret
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing that was looked at.

    Attributes:
        name: what.
        outcome: how good it is.
        detail: what was found.
        advice: what to do; empty where nothing is.
    """

    name: str
    outcome: Outcome
    detail: str
    advice: str = ""


def lines(facts: Facts) -> list[CheckResult]:
    """All lines, in the order in which they are worth reading."""
    checks: Sequence[Callable[[Facts], Iterator[CheckResult]]] = (
        _health,
        _tempo,
        _freshness,
        _backfill,
        _retention,
        _completeness,
        _saturation,
        _series,
        _hours,
        _nights,
        _levels,
        _storage,
    )
    return [line for check in checks for line in check(facts)]


def _health(facts: Facts) -> Iterator[CheckResult]:
    if facts.healthy.status == HTTPStatus.OK:
        version = next(iter(facts.metrics.by("build_info", "version")), "unknown")
        yield CheckResult("health", Outcome.PASS, f"the process works, version {version}")
    else:
        yield CheckResult(
            "health", Outcome.FAIL, f"/-/healthy answered {facts.healthy.status}", "see the exporter's log"
        )
    if facts.ready.status == HTTPStatus.OK:
        yield CheckResult("ready", Outcome.PASS, "there is something to scrape")
    else:
        yield CheckResult(
            "ready", Outcome.FAIL, facts.ready.said or f"/-/ready answered {facts.ready.status}", _READ_TEMPO
        )


_READ_TEMPO: Final = (
    "Tempo must answer first: see the exporter's log, and check tempo.url, tempo.tenant and credentials"
)


def _tempo(facts: Facts) -> Iterator[CheckResult]:
    requests, failures = (
        facts.metrics.total("tempo_requests_total"),
        facts.metrics.total("tempo_request_failures_total"),
    )
    share = failures / requests if requests else 0.0
    asked = f"{requests:,.0f} requests, {failures:,.0f} failed"
    reasons = Counter(facts.metrics.by("tempo_request_failures_total", "reason"))
    worst = next((reason for reason, count in reasons.most_common(1) if count), "")
    if facts.metrics.get("tempo_up") != 1:
        yield CheckResult("tempo", Outcome.FAIL, f"the last request was not answered ({asked})", _READ_TEMPO)
    elif share > _FAILURES_SHARE and failures >= _FAILURES:
        advice = f"most failed as {worst}: see the exporter's log for what was said" if worst else ""
        yield CheckResult("tempo", Outcome.WARN, f"it answers, but {share:.1%} of requests failed ({asked})", advice)
    else:
        yield CheckResult("tempo", Outcome.PASS, f"it answers ({asked})")


def _freshness(facts: Facts) -> Iterator[CheckResult]:
    judged = facts.metrics.get("snapshot_timestamp_seconds")
    if judged is None:
        yield CheckResult("freshness", Outcome.FAIL, "the current traffic has not been judged yet", _READ_TEMPO)
        return
    age = max(0.0, facts.healthy.at - judged)
    detail = f"the current traffic was judged {age:,.0f} s ago"
    if age <= _FRESH_SECONDS:
        yield CheckResult("freshness", Outcome.PASS, detail)
    elif age <= _STALE_SECONDS:
        advice = "polling.tempo_interval is long, or Tempo slow: see tempo_anomaly_poll_duration_seconds"
        yield CheckResult("freshness", Outcome.WARN, detail, advice)
    else:
        yield CheckResult("freshness", Outcome.FAIL, detail, _READ_TEMPO)


def _backfill(facts: Facts) -> Iterator[CheckResult]:
    metrics = facts.metrics
    if metrics.get("backfill_enabled") != 1:
        advice = "set polling.backfill_enabled: true, or baselines stay as they are"
        yield CheckResult("backfill", Outcome.WARN, "it is switched off", advice)
        return
    windows = metrics.by("backfill_windows", "state")
    wanted, pending, failed = sum(windows.values()), windows.get("pending", 0), windows.get("failed", 0)
    ratio = metrics.get("backfill_progress_ratio") or 0.0
    found = ", ".join(f"{count:,.0f} {state}" for state, count in sorted(windows.items()) if count)
    detail = f"{ratio:.0%} of {wanted:,.0f} windows ({found or 'none'})"
    if failed:
        advice = "failed windows are tried again by themselves; the exporter's log says why they failed"
        outcome = Outcome.WARN if windows.get("done", 0) else Outcome.FAIL
        yield CheckResult("backfill", outcome, detail, advice)
    elif metrics.get("backfill_complete") != 1:
        advice = f"{pending:,.0f} windows are still to be read; verify again when they are"
        yield CheckResult("backfill", Outcome.WARN, detail, advice)
    else:
        yield CheckResult("backfill", Outcome.PASS, detail)


def _patience(facts: Facts) -> str:
    """What to do about too little history while more of it is to be read; nothing where all is."""
    metrics = facts.metrics
    if metrics.get("backfill_enabled") != 1 or metrics.get("backfill_complete") == 1:
        return ""
    if metrics.get("tempo_up") != 1:
        return _READ_TEMPO
    return "history is still being read: verify again when backfill is complete"


def _retention(facts: Facts) -> Iterator[CheckResult]:
    metrics = facts.metrics
    oldest = metrics.get("backfill_oldest_trace_timestamp_seconds")
    expired = metrics.by("backfill_windows", "state").get("expired", 0)
    if oldest is None:
        advice = "is tempo.filter too narrow, or does Tempo hold no traces that old?"
        yield CheckResult("history", Outcome.FAIL, "no trace is stored", _patience(facts) or advice)
        return
    # The oldest trace lies within its window, so it is a little younger than this.
    hours = max(1, int((facts.healthy.at - oldest) / 3600))
    back = format_duration(timedelta(hours=hours))
    detail = f"{metrics.get('history_traces') or 0:,.0f} traces, back to {back} ago"
    if expired:
        retention = f"{hours}h"
        advice = (
            f"Tempo's retention seems to be {hours} h ({expired:,.0f} windows are older): set "
            f"polling.backfill_duration: {retention}"
        )
        yield CheckResult("history", Outcome.WARN, detail, advice)
    elif without := _hours_without_traces(facts, oldest):
        advice = (
            "Tempo may keep traces no longer than that, or there was no traffic then, or none that tempo.filter lets "
            f"through. If it keeps no longer, set polling.backfill_duration: {hours}h"
        )
        detail = f"{detail}; in the {without} h before, which are wanted too, Tempo had none"
        yield CheckResult("history", Outcome.WARN, detail, advice)
    else:
        yield CheckResult("history", Outcome.PASS, detail)


def _hours_without_traces(facts: Facts, oldest: float) -> int:
    """How long the wanted history has no traces at its beginning; 0 where that is no longer than a night."""
    wanted_since = facts.metrics.get("backfill_wanted_since_timestamp_seconds")
    if wanted_since is None or facts.metrics.get("backfill_complete") != 1:
        return 0
    without = oldest - wanted_since
    remarkable = min(_QUIET_SECONDS, (facts.healthy.at - wanted_since) * _QUIET_SHARE)
    return int(without / 3600) if without >= max(3600.0, remarkable) else 0


def _completeness(facts: Facts) -> Iterator[CheckResult]:
    metrics = facts.metrics
    coverage, whole = metrics.get("backfill_coverage_ratio"), metrics.get("backfill_unsampled_coverage_ratio")
    if coverage is None:
        return
    sampled = metrics.get("backfill_sampled_windows") or 0
    detail = f"{coverage:.1%} of the traces in the windows that were read"
    if sampled:
        detail += (
            f"; {sampled:,.0f} windows are too dense for polling.max_traces_per_window and were sampled on purpose"
        )
    if whole is None or whole >= _COVERED:
        yield CheckResult("coverage", Outcome.PASS, detail)
        return
    if sampled:
        detail += f"; {whole:.1%} in the others"
    if metrics.by("backfill_windows", "state").get("partial", 0):
        advice = "raise tempo.limit, so that the busiest seconds can be read whole"
    else:
        advice = "Tempo counts more than it returned: if traces reach it late, raise polling.settle"
    yield CheckResult("coverage", Outcome.WARN, detail, advice)


def _saturation(facts: Facts) -> Iterator[CheckResult]:
    metrics = facts.metrics
    truncated = metrics.by("search_truncated_windows_total", "loop")
    incomplete = sum(truncated.values())
    detail = (
        f"{metrics.total('search_saturations_total'):,.0f} searches came back full, "
        f"{metrics.total('search_splits_total'):,.0f} were split, {incomplete:,.0f} windows stayed incomplete"
    )
    if incomplete:
        loops = " and ".join(loop for loop, count in sorted(truncated.items()) if count)
        advice = f"raise tempo.limit ({loops}), and query_frontend.search.max_result_limit in Tempo with it"
        yield CheckResult("saturation", Outcome.WARN, detail, advice)
    else:
        yield CheckResult("saturation", Outcome.PASS, detail)


def _series(facts: Facts) -> Iterator[CheckResult]:
    metrics = facts.metrics
    seen, limit, dropped = (
        metrics.get("series") or 0,
        metrics.get("series_limit") or 0,
        metrics.total("series_dropped_total"),
    )
    learning = metrics.get("series_learning") or 0
    detail = f"{seen:,.0f} endpoints of at most {limit:,.0f}, {learning:,.0f} still learning"
    if not seen:
        advice = "no endpoint was found: check tempo.scope, tempo.filter and series.include"
        yield CheckResult("series", Outcome.FAIL, detail, _patience(facts) or advice)
    elif dropped:
        advice = "raise series.max, or keep names apart that hold ids, with series.rename"
        yield CheckResult("series", Outcome.WARN, f"{detail}, {dropped:,.0f} left out", advice)
    else:
        yield CheckResult("series", Outcome.PASS, detail)


def _hours(facts: Facts) -> Iterator[CheckResult]:
    """How many endpoints have a baseline, by hour and type of day; the worst hour counts."""
    for day_type, hours in facts.by_level.items():
        known = [sum(levels) - levels[_UNAVAILABLE - 1] for levels in hours]
        worst = min(range(len(hours)), key=known.__getitem__, default=0)
        share = known[worst] / facts.series if facts.series else 0.0
        exact = sum(levels[0] for levels in hours) / max(1, sum(map(sum, hours)))
        detail = (
            f"at every hour at least {share:.0%} of {facts.series:,} endpoints have a baseline (fewest at "
            f"{worst:02d}:00), {exact:.0%} of them from that very hour"
        )
        if not known[worst]:
            detail = f"at {worst:02d}:00 no endpoint has a baseline" if facts.series else "no endpoint has a history"
            advice = "read further back (polling.backfill_duration), or let levels 2 to 4 serve (fallback.*)"
            yield CheckResult(f"{day_type}s", Outcome.FAIL, detail, _patience(facts) or advice)
        elif share < _MOST_SERIES:
            advice = "new or rare endpoints take time; a longer polling.backfill_duration helps them"
            yield CheckResult(f"{day_type}s", Outcome.WARN, detail, _patience(facts) or advice)
        else:
            yield CheckResult(f"{day_type}s", Outcome.PASS, detail)


def _nights(facts: Facts) -> Iterator[CheckResult]:
    for day_type in facts.by_level:
        name = f"{NIGHT_HOUR:02d}:00 {day_type}"
        able, judged = facts.able.get(day_type, 0), facts.nights.get(day_type)
        detail = f"{able:,} of {facts.series:,} endpoints could be flagged"
        if judged is not None and not judged.verdict:
            advice = "the past is not judged yet: wait a few minutes, then verify again"
            yield CheckResult(name, Outcome.FAIL, f"{detail}, were the past judged", _patience(facts) or advice)
        elif not able or judged is None:
            advice = f"there is too little history of {day_type}s: read further back (polling.backfill_duration)"
            yield CheckResult(name, Outcome.FAIL, "no endpoint could be flagged", _patience(facts) or advice)
        elif able < _MOST_SERIES * facts.series:
            advice = "the others have too few traces or days; time helps"
            yield CheckResult(name, Outcome.WARN, detail, _patience(facts) or advice)
        else:
            yield CheckResult(name, Outcome.PASS, detail)


def _levels(facts: Facts) -> Iterator[CheckResult]:
    """On which levels endpoints and hours stand that were picked at random, once and for all."""
    counts = Counter(judged.level for judged in facts.sampled)
    total = sum(counts.values())
    spread = ", ".join(f"{counts[level]} on level {level}" for level in range(1, _UNAVAILABLE + 1))
    detail = f"of {total} sampled endpoints and hours {spread}"
    known = total - counts[_UNAVAILABLE]
    if not known:
        advice = "nothing can be judged: read further back (polling.backfill_duration)"
        yield CheckResult(
            "levels", Outcome.FAIL, detail if total else "no endpoint to look at", _patience(facts) or advice
        )
    elif known < _MOST_SERIES * total:
        advice = "level 5 means no verdict; a longer polling.backfill_duration or lower minimums (fallback.*) help"
        yield CheckResult("levels", Outcome.WARN, detail, _patience(facts) or advice)
    else:
        yield CheckResult("levels", Outcome.PASS, detail)


def _storage(facts: Facts) -> Iterator[CheckResult]:
    reasons = {reason: count for reason, count in facts.metrics.by("storage_failures_total", "reason").items() if count}
    if reasons:
        told = ", ".join(f"{count:,.0f} {reason}" for reason, count in sorted(reasons.items()))
        yield CheckResult(
            "storage", Outcome.WARN, f"the database has refused something ({told})", "see the exporter's log"
        )
    else:
        yield CheckResult("storage", Outcome.PASS, "the database has refused nothing")
