"""The figures of the benchmark and their targets."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log
from statistics import median
from typing import ClassVar, Final

from benchmarks.detection.evaluation import Outcome, Response
from benchmarks.detection.scoring import Event, Tally, finding
from benchmarks.detection.suites import Kind, Suite

_LARGE: Final = (Kind(5.0), Kind(10.0))
_TAIL: Final = Kind(10.0, 0.1)
_ABLATION_FACTOR: Final = 5
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

    HEADER: ClassVar = ("", "what", "reached", "target", "based on")

    what: str
    reached: str
    target: str
    met: bool | None
    based_on: str

    def row(self) -> tuple[str, ...]:
        """Return the cells of the row."""
        return {True: "met", False: "MISSED", None: ""}[self.met], self.what, self.reached, self.target, self.based_on


def synthetic_results(outcomes: Sequence[Outcome]) -> list[Result]:
    """Return the figures on synthetic series."""
    by_suite: dict[Suite, list[Outcome]] = {suite: [o for o in outcomes if o.case.suite is suite] for suite in Suite}
    results = [
        *_false_results(by_suite),
        *_incident_results(by_suite[Suite.INCIDENTS]),
        *_memory_results(by_suite[Suite.INCIDENTS], by_suite[Suite.PERMANENT]),
    ]
    return [result for result in results if result is not None]


def labelled_results(tallies: Mapping[str, Tally]) -> list[Result]:
    """Return the figures on labelled real series."""
    results = []
    if (kpi := tallies.get("kpi")) is not None:
        based_on = f"{kpi.right + kpi.wrong} episodes, {kpi.labels} labels"
        results.append(_at_least("kpi: precision", kpi.precision, 0.88, based_on, "{:.2f}"))
        results.append(_at_least("kpi: recall", kpi.recall, 0.30, based_on, "{:.2f}"))
    if (nab := tallies.get("nab")) is not None:
        based_on = f"{nab.found} of {nab.labels} labels found"
        results.append(Result("nab: false episodes", str(nab.wrong), "≤ 12", nab.wrong <= 12, based_on))
    return results


def _false_results(by_suite: Mapping[Suite, Sequence[Outcome]]) -> Iterable[Result | None]:
    for suite, most in ((Suite.PLAIN, 10), (Suite.DRIFT, 15)):
        if found := by_suite[suite]:
            rate, count, days = _false_rate(found)
            low, high = poisson_interval(count)
            reached = f"{rate:.1f} ({1000 * low / days:.0f}–{1000 * high / days:.0f})"
            yield Result(f"{_FALSE}: {suite}", reached, f"≤ {most}", rate <= most, f"{count} in {days:.0f} series-days")
    for suite in (Suite.SURGE, Suite.GAPS, Suite.NEW):
        if found := by_suite[suite]:
            _, count, days = _false_rate(found)
            # What the same series shows without the surge is not the surge's fault.
            own = _unpaired(found, by_suite[Suite.PLAIN])
            based_on = f"{count} in {days:.0f} series-days, of which {own} are not in the same plain series"
            yield Result(f"{_FALSE}: due to {suite}", f"{1000 * own / days:.1f}", "0", own == 0, based_on)
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
    yield _found("× 2", responses, (Kind(2.0),), busy, 0.45)
    yield _found("tail (10 % × 10)", responses, (_TAIL,), busy, 0.45)
    yield _found("× 1.5", responses, (Kind(1.5),), busy)
    yield _found("× 1.3", responses, (Kind(1.3),), busy)
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
    flags = [r.flags for r in responses if r.kind in _LARGE and r.flags and r.requests >= busy[0]]
    if flags:
        mean = sum(flags) / len(flags)
        yield Result("flags raised per × 5–10 incident found", f"{mean:.2f}", "", None, f"{len(flags)} incidents")


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
        met = share >= 0.6 and hours <= 26
        reached = f"{share:.0%}, {hours:.1f} h"
        yield Result("permanent × 2: accepted, median time", reached, "≥ 60 %, ≤ 26 h", met, f"{len(permanent)} series")


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
