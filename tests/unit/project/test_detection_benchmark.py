"""The detector's benchmark: suites, data sets, scores and evaluation."""

import random
from itertools import pairwise, product
from math import exp, inf, log

import pytest

from benchmarks.detection import error_oracle, errors, oracle, regressions
from benchmarks.detection.evaluation import evaluate_case
from benchmarks.detection.labelled import LabelledSeries, evaluate_series, load
from benchmarks.detection.results import Result, compared, header, is_steady, poisson_interval
from benchmarks.detection.scoring import Episode, Event, Tally, episodes, finding, tally
from benchmarks.detection.suites import (
    BATCHES,
    CRONS,
    KINDS,
    LIVE_FROM,
    MIX,
    RAMP,
    REGRESSIONS,
    TAIL,
    TIMEOUTS,
    Suite,
    cases,
)
from exporter.demo.latency import Bimodal, HeavyTailed, LatencyShape, Lognormal
from exporter.detection.flag import FlagChange, FlagEvent
from exporter.detection.parameters import Parameters
from exporter.ingest.probes import is_probe
from tests.support.detection_traffic import MONDAY, traffic


def changes(*times: int) -> list[FlagChange[object]]:
    kinds = (FlagEvent.FIRING, FlagEvent.RESOLVED)
    return [FlagChange(at, kinds[index % 2], None) for index, at in enumerate(times)]


def test_episodes_close_together_are_merged() -> None:
    assert episodes(changes(0, 100, 699, 800, 1400, 1500)) == [Episode(0, 800), Episode(1400, 1500)]
    assert episodes(changes(0, 100, 5000)) == [Episode(0, 100), Episode(5000, inf)]
    assert episodes(changes(0, 100, 5000, 5100), since=1) == [Episode(5000, 5100)]


@pytest.mark.parametrize(
    ("episode", "found"),
    [
        (Episode(1000, 1100), True),
        (Episode(900, 1000), True),
        (Episode(2300, 2400), True),
        (Episode(2301, 2400), False),
        (Episode(900, 999), False),
    ],
)
def test_event_is_found_by_an_episode_that_overlaps_it_or_starts_soon_after(episode: Episode, found: bool) -> None:
    assert (finding(Event(1000, 2000), [episode]) is not None) is found


def test_tally_counts_found_labels_and_right_and_wrong_episodes() -> None:
    labels = [Event(1000, 2000), Event(10_000, 11_000), Event(20_000, 21_000, ignored=True)]
    alerts = [
        Episode(1500, 1600),
        Episode(1700, 1800),
        Episode(11_500, 11_600),
        Episode(20_100, 20_200),
        Episode(5e4, 6e4),
    ]
    assert tally(labels, alerts, step_seconds=60) == Tally(labels=2, found=1, right=2, wrong=2)
    assert tally(labels, alerts, step_seconds=300) == Tally(labels=2, found=2, right=2, wrong=2)
    both = Tally(2, 1, 2, 1).plus(Tally(2, 1, 0, 1))
    assert (both.recall, both.precision) == (0.5, 0.5)
    assert (Tally().recall, Tally().precision) == (1.0, 1.0)


@pytest.mark.parametrize(("count", "low", "high"), [(0, 0, 3.689), (3, 0.619, 8.767), (10, 4.795, 18.390)])
def test_poisson_intervals_match_published_tables(count: int, low: float, high: float) -> None:
    assert poisson_interval(count) == pytest.approx((low, high), abs=0.001)


def test_suites_draw_the_traffic_that_they_are_named_after() -> None:
    for suite in Suite:
        drawn = cases(suite, 2, "a seed")
        assert drawn == cases(suite, 2, "a seed")
        assert len(drawn) == (6 if suite in (*REGRESSIONS, Suite.ALIKE, Suite.ALIKE_INCIDENTS) else 10)
        for case in drawn:
            profile = case.profile
            assert (profile.surge is not None) is (suite is Suite.SURGE)
            assert (profile.drift is not None) is (suite in (Suite.DRIFT, Suite.SLOW_DRIFT))
            assert bool(profile.gaps) is (suite is Suite.GAPS)
            assert (profile.begins_at >= LIVE_FROM) is (suite is Suite.NEW)
            assert (case.parameters.swing == 0) is (suite is Suite.ABLATION)
            assert (profile.batch is not None) is (suite in BATCHES)
            assert (profile.cron is not None) is (suite in CRONS)
            assert (profile.load_seed is not None) is (suite is Suite.SHARED)
            assert bool(profile.holidays) is (suite is Suite.CALENDAR)
            assert len(case.kinds) == len(profile.incidents)
            assert (case.waiting is not None) is (suite is Suite.STREAMS)
            assert (case.alike is not None) is (suite in (Suite.ALIKE, Suite.ALIKE_INCIDENTS))
            assert is_probe(case.key) is (suite is Suite.PROBES)
    partial = {kind for case in cases(Suite.PARTIAL, 6, "a seed") for kind in case.kinds}
    assert partial == {RAMP, MIX, TAIL, TIMEOUTS}
    incidents = cases(Suite.INCIDENTS, 1, "a seed")[0].profile.incidents
    assert len(incidents) == 4 * len(KINDS) == len({(i.factor, i.share, round(i.end - i.start)) for i in incidents})
    assert all(before.end < after.start for before, after in pairwise(incidents))


def test_data_sets_are_complete() -> None:
    def wanted(data_set: list[LabelledSeries]) -> int:
        return sum(not event.ignored for series in data_set for event in series.events)

    kpi, nab = load("kpi"), load("nab")
    assert (len(kpi), sum(len(s.requests) for s in kpi), wanted(kpi)) == (5, 318_121, 121)
    assert (len(nab), sum(len(s.requests) for s in nab), wanted(nab)) == (8, 28_854, 8)
    assert {series.step_seconds for series in kpi} == {60}


def test_labelled_series_is_evaluated_after_a_week() -> None:
    made = traffic(1, 9, 60, {(30.0, 31.0): 8.0, (200.0, 201.0): 8.0}, sigma=0.3)
    requests = [request for some in made.values() for request in some]
    events = [Event(MONDAY + 30 * 3600, MONDAY + 31 * 3600), Event(MONDAY + 200 * 3600, MONDAY + 201 * 3600)]
    assert evaluate_series(LabelledSeries("mine", "one", requests, events, 60)) == ("mine", Tally(1, 1, 1, 0))


def test_evaluation_of_a_case_is_deterministic() -> None:
    (case, *_) = cases(Suite.INCIDENTS, 1, "a seed")
    outcomes = evaluate_case(case, ("1", "2"))
    assert outcomes == evaluate_case(case, ("1", "2"))
    assert [outcome.method for outcome in outcomes] == ["1", "2"]
    assert all(len(outcome.responses) == len(case.profile.incidents) for outcome in outcomes)


def test_methods_are_compared_row_by_row() -> None:
    old = [Result("found", "50%", "≥ 90%", False, "6 incidents")]
    new = [Result("found", "100%", "≥ 90%", True, "6 incidents"), Result("new", "1", "", None, "")]
    assert header(["1", "2"]) == ("", "what", "method 1", "method 2", "target", "based on")
    assert compared([old, new]) == [
        ("met", "found", "50%", "100%", "≥ 90%", "6 incidents"),
        ("", "new", "", "1", "", ""),
    ]


@pytest.mark.parametrize("suite", [Suite.STREAMS, Suite.PROBES])
def test_no_flag_comes_from_streams_and_probes(suite: Suite) -> None:
    drawn = [case for case in cases(suite, 6, "1") if case.profile.rate_per_minute == 0.5]
    assert [evaluate_case(case)[0].episodes for case in drawn] == [[]] * 6


def test_batches_that_share_a_duration_fire_less_often_with_the_learned_correlation() -> None:
    case = next(case for case in cases(Suite.ALIKE, 4, "3") if case.seed == "3/2.0/3")
    without, with_it = evaluate_case(case, ("2 without likeness", "2"))
    assert len(without.episodes) >= 6
    assert len(with_it.episodes) <= 0.5 * len(without.episodes)


def test_an_error_incident_is_found_and_the_benchmark_is_deterministic() -> None:
    series = errors.Series("seed", 2.0, 0.01, "daily batch", errors.LARGER, 180)
    outcome = errors.evaluate(series, Parameters())
    assert outcome == errors.evaluate(series, Parameters())
    assert outcome.requests > 20
    assert outcome.delay_minutes is not None
    assert {each.suite for each in errors.healthy_series("seed", 1)} == {*errors.HEALTHY}
    assert {(each.per_minute, each.minutes) for each in errors.incident_series("seed", 1)} == {
        *product(errors.RATES, errors.MINUTES)
    }


def test_the_oracle_finds_nearly_all_larger_incidents_and_is_deterministic() -> None:
    found = error_oracle.simulate("seed", errors.LARGER, 4, 1)
    assert found == error_oracle.simulate("seed", errors.LARGER, 4, 1)
    delays = [each.delay_minutes for each in found if each.requests >= 100]
    assert sum(delay is not None for delay in delays) > 0.9 * len(delays)


@pytest.mark.parametrize("shape", [Lognormal(0.6), Bimodal(), HeavyTailed()])
def test_oracle_knows_the_density_of_each_distribution(shape: LatencyShape) -> None:
    steps = [step / 100 for step in range(-700, 900)]
    assert sum(oracle.density(shape, z) for z in steps) / 100 == pytest.approx(1, abs=1e-3)
    ratio, rng = oracle.log_ratio(shape, 2.0), random.Random(1)
    sample = shape.sampler(rng)
    # The mean of a likelihood ratio is 1 if nothing has changed.
    assert sum(exp(ratio(log(sample()))) for _ in range(20_000)) / 20_000 == pytest.approx(1, abs=0.15)


def test_oracle_of_incidents_of_some_requests_counts_what_is_beyond_a_limit() -> None:
    shares = oracle.shares_beyond(Lognormal(0.5))
    assert oracle.quantile(shares, 0.98) == pytest.approx(0.5 * 2.054, abs=0.02)
    assert oracle.share_beyond(shares, 0.5 * 2.054) == pytest.approx(0.02, rel=0.05)
    assert oracle.share_beyond(shares, -99) == pytest.approx(1, abs=1e-3)
    assert oracle.share_beyond(shares, 99) < 1e-9
    ratio = oracle.exceedance_ratio(1.0, 0.001, 0.02)
    assert ratio(1.0) == pytest.approx(log(20))
    assert ratio(0.9) == pytest.approx(log(0.98 / 0.999))
    # A share that is no larger than usual shows nothing.
    assert oracle.exceedance_ratio(1.0, 0.05, 0.02)(1.0) == 0
    case = next(each for each in cases(Suite.PARTIAL, 1, "oracle") if each.profile.rate_per_minute == 10)
    found = oracle.delays(case, TAIL)
    assert len(found) == 2
    assert all(delay is None or delay > 60 for _, delay in found)


def test_oracle_finds_what_varies_little_and_says_after_how_many_seconds() -> None:
    steady = [case for case in cases(Suite.CRON, 6, "test") if is_steady(case)]
    assert {oracle.found_by_second_run(case) for case in steady} <= {True, None}
    case = next(case for case in cases(Suite.INCIDENTS, 1, "test") if case.profile.rate_per_minute == 10)
    tenfold = next(kind for kind in KINDS if kind.factor == 10 and kind.share == 1)
    found = oracle.delays(case, tenfold)
    assert len(found) == sum(kind == tenfold for kind in case.kinds)
    assert all(delay is not None and delay < 600 for requests, delay in found if requests >= 50)


def test_regressions_are_measured_on_a_series_and_on_steps_in_it() -> None:
    case = cases(Suite.WEEKS, 1, "1")[0]
    methods = ("2", "2 without regression level")
    outcomes = regressions.measure_case(case, methods)
    assert [outcome.method for outcome in outcomes] == list(methods)
    found = [each for each in outcomes[0].responses[1.15] if each.delay_seconds is not None]
    assert len(outcomes[0].responses[1.15]) == 4
    assert found
    assert all(0 < each.delay_seconds <= regressions.FOUND_WITHIN_SECONDS for each in found if each.delay_seconds)
    table = {row[0]: row[1] for row in regressions.rows(outcomes[:1])}
    assert table["× 1.2, ratio 1.15: found within 48 h"].startswith(f"{len(found) / 4:.1%}")
