"""The figures of the benchmark and their targets."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log
from statistics import median
from typing import Final

from benchmarks.detection.evaluation import Outcome, Response
from benchmarks.detection.scoring import Event, Tally, finding
from benchmarks.detection.suites import (
    ALIKE_KINDS,
    BATCHES,
    BEGIN,
    CRON_RUNS,
    CRONS,
    DRIFT_DAYS,
    FIRST_JUDGED_DAYS,
    HEALTHY,
    KINDS,
    MIX,
    RAMP,
    REGRESSION_DAYS,
    TAIL,
    TAIL_TENTH,
    TIMEOUTS,
    Case,
    Kind,
    Suite,
    run_sd,
)
from exporter.demo.traffic import DAY_SECONDS

_LARGE: Final = tuple(kind for kind in KINDS if kind.factor >= 5 and kind.share == 1)
_DOUBLE, _HALF_MORE, _THIRD_MORE = (next(kind for kind in KINDS if kind.factor == factor) for factor in (2.0, 1.5, 1.3))
_ABLATION_FACTOR: Final = 5
_LONG_SECONDS: Final = 10_800
_STEADY_RUN_SD: Final = 0.35
_FALSE: Final = "false episodes per 1000 healthy series-days"


@dataclass(frozen=True)
class Result:
    """One row of the table.

    Attributes:
        what: name of the figure.
        reached: the formatted figure.
        target: the formatted target; empty without one.
        met: whether the target is met; None without a target or without data.
        based_on: the sample behind the figure.
    """

    what: str
    reached: str
    target: str
    met: bool | None
    based_on: str


def header(methods: Sequence[str]) -> tuple[str, ...]:
    """Return the header of the table that compares methods."""
    reached = ("reached",) if len(methods) == 1 else tuple(f"method {method}" for method in methods)
    return ("", "what", *reached, "target", "based on")


def compared(results: Sequence[Sequence[Result]]) -> list[tuple[str, ...]]:
    """Return the rows of the table, from the results of some methods on the same series; the last one is rated."""
    by_what = [{result.what: result for result in of_method} for of_method in results]
    rows = []
    for what, result in by_what[-1].items():
        rating = {True: "met", False: "MISSED", None: ""}[result.met]
        reached = [found[what].reached if what in found else "" for found in by_what]
        rows.append((rating, what, *reached, result.target, result.based_on))
    return rows


def synthetic_results(outcomes: Sequence[Outcome]) -> list[Result]:
    """Return the figures on synthetic series."""
    by_suite: dict[Suite, list[Outcome]] = {suite: [o for o in outcomes if o.case.suite is suite] for suite in Suite}
    results = [
        *_false_results(by_suite),
        *_incident_results(by_suite[Suite.INCIDENTS]),
        *_partial_results(by_suite[Suite.PARTIAL]),
        *[row for suite in CRONS for row in _cron_results(suite, by_suite[suite])],
        *_alike_results(by_suite[Suite.ALIKE], by_suite[Suite.ALIKE_INCIDENTS]),
        *_memory_results(by_suite[Suite.INCIDENTS], by_suite[Suite.PERMANENT]),
        *_regression_results(by_suite),
    ]
    return [result for result in results if result is not None]


def labelled_results(tallies: Mapping[str, Tally]) -> list[Result]:
    """Return the figures on labelled real series."""
    results = []
    if (kpi := tallies.get("kpi")) is not None:
        based_on = f"{kpi.right + kpi.wrong} episodes, {kpi.labels} labels"
        results.append(_at_least("kpi: precision", kpi.precision, 0.98, based_on, "{:.2f}"))
        results.append(_at_least("kpi: recall", kpi.recall, 0.70, based_on, "{:.2f}"))
    if (nab := tallies.get("nab")) is not None:
        based_on = f"{nab.found} of {nab.labels} labels found"
        results.append(Result("nab: false episodes", str(nab.wrong), "≤ 6", nab.wrong <= 6, based_on))
    return results


def _false_results(by_suite: Mapping[Suite, list[Outcome]]) -> Iterable[Result | None]:
    healthy = [outcome for suite in HEALTHY for outcome in by_suite[suite]]
    for what, found, most in (
        ("all suites", healthy, 5),
        ("without batches", [outcome for outcome in healthy if outcome.case.suite not in BATCHES], 3),
    ):
        if healthy:
            rate, count, days = _false_rate(found)
            low, high = poisson_interval(count)
            reached = f"{rate:.1f} ({1000 * low / days:.0f}–{1000 * high / days:.0f})" if days else ""
            yield Result(f"{_FALSE}: {what}", reached, f"≤ {most}", rate <= most, f"{count} in {days:.0f} series-days")
    for suite, most in ((Suite.PLAIN, 10), (Suite.DRIFT, 15)):
        if found := by_suite[suite]:
            rate, count, days = _false_rate(found)
            low, high = poisson_interval(count)
            reached = f"{rate:.1f} ({1000 * low / days:.0f}–{1000 * high / days:.0f})"
            yield Result(f"{_FALSE}: {suite}", reached, f"≤ {most}", rate <= most, f"{count} in {days:.0f} series-days")
    for suite in HEALTHY:
        if (found := by_suite[suite]) and suite not in (Suite.PLAIN, Suite.DRIFT, Suite.SURGE, Suite.GAPS, Suite.NEW):
            rate, count, days = _false_rate(found)
            yield Result(f"{_FALSE}: {suite}", f"{rate:.1f}", "", None, f"{count} in {days:.0f} series-days")
    for suite in (Suite.SURGE, Suite.GAPS, Suite.NEW):
        if found := by_suite[suite]:
            _, count, days = _false_rate(found)
            # What the same series shows without the surge is not the surge's fault.
            own = _unpaired(found, by_suite[Suite.PLAIN])
            based_on = f"{count} in {days:.0f} series-days, of which {own} are not in the same plain series"
            yield Result(f"{_FALSE}: due to {suite}", f"{1000 * own / days:.1f}", "0", own == 0, based_on)
    for suite in (Suite.STREAMS, Suite.PROBES):
        if found := by_suite[suite]:
            _, count, days = _false_rate(found)
            yield Result(f"flags on {suite}", str(count), "0", count == 0, f"{days:.0f} series-days")
    ablated = by_suite[Suite.ABLATION]
    if ablated:
        seeds = {outcome.case.seed for outcome in ablated}
        same = [outcome for outcome in by_suite[Suite.PLAIN] if outcome.case.seed in seeds]
        rate, count, days = _false_rate(ablated)
        _, with_swing, _ = _false_rate(same)
        worse = count >= _ABLATION_FACTOR * max(1, with_swing)
        target = f"≥ {_ABLATION_FACTOR} × as many"
        based_on = f"{count} against {with_swing} in the same {days:.0f} series-days"
        yield Result("the same without the swing", f"{rate:.0f}", target, worse, based_on)


def _unpaired(outcomes: Iterable[Outcome], plain: Iterable[Outcome]) -> int:
    """How many episodes there are not when the same series is plain."""
    of_plain = {outcome.case.seed: outcome.episodes for outcome in plain}
    return sum(
        finding(Event(*episode), of_plain.get(outcome.case.seed, [])) is None
        for outcome in outcomes
        for episode in outcome.episodes
    )


def _false_rate(outcomes: Iterable[Outcome]) -> tuple[float, int, float]:
    """False episodes per 1000 series-days, their number, and the series-days."""
    outcomes = list(outcomes)
    count = sum(len(outcome.episodes) for outcome in outcomes)
    days = sum(outcome.case.evaluated_days for outcome in outcomes)
    return (1000 * count / days if days else 0.0), count, days


def _incident_results(outcomes: Sequence[Outcome]) -> Iterable[Result | None]:
    responses = [response for outcome in outcomes for response in outcome.responses]
    busy = (100, inf)
    yield _found("× 5–10", responses, _LARGE, busy, 0.97, 3.5)
    yield _found("× 5–10", responses, _LARGE, (20, 100), 0.80, 6)
    yield _found("× 5–10", responses, _LARGE, (5, 20), 0.55)
    yield _found("× 2", responses, (_DOUBLE,), busy, 0.90)
    yield _found("× 2", responses, (_DOUBLE,), (1000, inf), 1.0, 5)
    yield _found("10 % of the requests × 10", responses, (TAIL_TENTH,), busy, 0.45)
    yield _found("× 1.5", responses, (_HALF_MORE,), busy, 0.50)
    yield _found("× 1.5", responses, (_HALF_MORE,), (1000, inf), 0.75)
    yield _found("× 1.3", responses, (_THIRD_MORE,), busy)
    cleared = [
        response.clear_seconds
        for outcome in outcomes
        if outcome.case.profile.rate_per_minute >= 2
        for response in outcome.responses
        if response.clear_seconds is not None
    ]
    if cleared:
        minutes = median(cleared) / 60
        what = "median time to clear, from 2 requests a minute"
        yield Result(what, f"{minutes:.1f} min", "≤ 6 min", minutes <= 6, f"{len(cleared)} incidents")
    flags = [r.flags for r in responses if r.flags and r.requests >= busy[0] and r.seconds >= _LONG_SECONDS]
    if flags:
        what = "flags raised per incident of three hours: median, mean"
        reached = f"{median(flags):g}, {sum(flags) / len(flags):.2f}"
        yield Result(what, reached, "1", median(flags) <= 1, f"{len(flags)} incidents found")


def _partial_results(outcomes: Sequence[Outcome]) -> Iterable[Result | None]:
    responses = [response for outcome in outcomes for response in outcome.responses]
    for kind, least in ((RAMP, None), (MIX, 0.85), (TAIL, 0.50), (TIMEOUTS, 0.85)):
        yield _found(kind.name, responses, (kind,), (100, inf), least)


def is_steady(case: Case) -> bool:
    """Whether the runs of a cron job vary little."""
    return run_sd(case.profile) <= _STEADY_RUN_SD


def _cron_results(suite: Suite, outcomes: Sequence[Outcome]) -> Iterable[Result]:
    steady = [outcome for outcome in outcomes if is_steady(outcome.case)]
    what = f"{suite} × {CRON_RUNS.factor:g}: found by the second run"
    for name, some, least in (
        (what, outcomes, 0.9),
        (f"… {suite}, runs that vary by at most {_STEADY_RUN_SD:.0%}", steady, None),
    ):
        runs = [response.run for outcome in some for response in outcome.responses if response.requests]
        if runs:
            share = sum(run is not None and run <= 2 for run in runs) / len(runs)
            ever = sum(run is not None for run in runs) / len(runs)
            reached = f"{share:.0%} ({ever:.0%} in all)"
            target, met = ("", None) if least is None else (f"≥ {least:.0%}", share >= least)
            yield Result(name, reached, target, met, f"{len(runs)} series")
    if outcomes:
        outside = sum(
            finding(Event(i.start, i.end), [episode]) is None
            for outcome in outcomes
            for i in outcome.case.profile.incidents
            for episode in outcome.episodes
        )
        days = sum(outcome.case.evaluated_days for outcome in outcomes)
        reached = f"{1000 * outside / days:.1f}"
        yield Result(
            f"{_FALSE}: {suite}", reached, "≤ 5", 1000 * outside / days <= 5, f"{outside} in {days:.0f} series-days"
        )


def _alike_results(healthy: Sequence[Outcome], incidents: Sequence[Outcome]) -> Iterable[Result | None]:
    if healthy:
        rate, count, days = _false_rate(healthy)
        yield Result(f"{_FALSE}: {Suite.ALIKE}", f"{rate:.0f}", "", None, f"{count} in {days:.0f} series-days")
    responses = [response for outcome in incidents for response in outcome.responses]
    yield _found("requests that share a value × 2–5", responses, ALIKE_KINDS, (20, inf))


def _found(
    what: str,
    responses: Iterable[Response],
    kinds: Sequence[Kind],
    requests: tuple[float, float],
    least: float | None = None,
    most_minutes: float | None = None,
) -> Result | None:
    """Return the share of incidents found, of some kinds and numbers of requests, and the median delay."""
    selected = [r for r in responses if r.kind in kinds and requests[0] <= r.requests < requests[1]]
    if not selected:
        return None
    delays = [response.delay_seconds for response in selected if response.delay_seconds is not None]
    share = len(delays) / len(selected)
    minutes = median(delays) / 60 if delays else inf
    size = f"≥ {requests[0]:g}" if requests[1] == inf else f"{requests[0]:g}–{requests[1]:g}"
    target = "" if least is None else f"≥ {least:.0%}"
    met = None if least is None else share >= least
    if most_minutes is not None:
        target += f", ≤ {most_minutes:g} min"
        met = bool(met) and minutes <= most_minutes
    reached = f"{share:.0%}" + (f", {minutes:.1f} min" if delays else "")
    return Result(f"{what}, {size} requests: found, median delay", reached, target, met, f"{len(selected)} incidents")


def _memory_results(incidents: Sequence[Outcome], permanent: Sequence[Outcome]) -> Iterable[Result | None]:
    busy = [outcome for outcome in incidents if outcome.case.profile.rate_per_minute >= 10]
    bad = sum(outcome.bad_hours for outcome in busy)
    if bad:
        share = sum(outcome.learnt_hours for outcome in busy) / bad
        what = "× 5–10 incident hours that entered a baseline, from 10 requests a minute"
        yield Result(what, f"{share:.1%}", "≤ 3 %", share <= 0.03, f"{bad} hours")
    if permanent:
        after = [o.accepted_after_seconds for o in permanent if o.accepted_after_seconds is not None]
        share = len(after) / len(permanent)
        hours = median(after) / 3600 if after else inf
        met = share >= 0.9 and hours <= 26
        reached = f"{share:.0%}, {hours:.1f} h"
        yield Result("permanent × 2: accepted, median time", reached, "≥ 90 %, ≤ 26 h", met, f"{len(permanent)} series")


def _regression_results(by_suite: Mapping[Suite, list[Outcome]]) -> Iterable[Result]:
    if healthy := by_suite[Suite.WEEKS]:
        count = sum(len(outcome.regressions) for outcome in healthy)
        days = len(healthy) * (REGRESSION_DAYS - FIRST_JUDGED_DAYS)
        low, high = poisson_interval(count)
        rate = 1000 * count / days
        reached = f"{rate:.1f} ({1000 * low / days:.1f}–{1000 * high / days:.1f})"
        based_on = f"{count} in {days:.0f} series-days"
        yield Result("regressions per 1000 healthy series-days", reached, "≤ 1", rate <= 1, based_on)
    for suite, least in ((Suite.STEP_FIFTH, 0.9), (Suite.STEP_TENTH, 0.5)):
        if found := by_suite[suite]:
            yield _step_result(suite, found, least)
    if found := by_suite[Suite.SLOW_DRIFT]:
        since = BEGIN + DRIFT_DAYS * DAY_SECONDS
        added = [
            1.01 ** ((min(raised) - since) / DAY_SECONDS) - 1
            for outcome in found
            if (raised := [each.raised_at for each in outcome.regressions if each.raised_at > since])
        ]
        share = sum(each < 0.3 for each in added) / len(found)
        reached = f"{share:.0%}" + (f", at {median(added):.0%}" if added else "")
        what = f"{Suite.SLOW_DRIFT}: found before it has added 30 %, median"
        yield Result(what, reached, "≥ 90%", share >= 0.9, f"{len(found)} series")


def _step_result(suite: Suite, outcomes: Sequence[Outcome], least: float) -> Result:
    """Return the share of steps found within 48 hours, the median delay, and how well the beginning was named."""
    found = []
    for outcome in outcomes:
        (step,) = outcome.case.profile.incidents
        found += [
            (each.raised_at - step.start, each.began_after <= step.start <= each.began_before)
            for each in [r for r in outcome.regressions if step.start < r.raised_at <= step.start + 2 * DAY_SECONDS][:1]
        ]
    share = len(found) / len(outcomes)
    reached = f"{share:.0%}"
    if found:
        named = sum(is_inside for _, is_inside in found) / len(found)
        reached += f", {median(delay for delay, _ in found) / 3600:.0f} h, {named:.0%}"
    what = f"{suite} for three days: found within 48 h, median delay, beginning within the interval"
    return Result(what, reached, f"≥ {least:.0%}", share >= least, f"{len(outcomes)} series")


def _at_least(what: str, value: float, least: float, based_on: str, form: str) -> Result:
    return Result(what, form.format(value), f"≥ {form.format(least)}", value >= least, based_on)


def poisson_interval(count: int, tail: float = 0.025) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean of a Poisson count by bisection (Garwood, 1936)."""
    low = 0.0 if not count else _solve(lambda mean: 1 - _at_most(count - 1, mean) - tail, count)
    return low, _solve(lambda mean: tail - _at_most(count, mean), count)


def _at_most(count: int, mean: float) -> float:
    """Return the probability that a Poisson count is at most ``count``."""
    term = total = exp(-mean)
    for k in range(1, count + 1):
        term *= mean / k
        total += term
    return total


def _solve(rising: Callable[[float], float], count: int) -> float:
    low, high = 0.0, 2.0 * count + 10 + 10 * log(count + 1)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high
