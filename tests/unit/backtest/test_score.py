"""Scoring, compared with a naive implementation that works second by second."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.backtest.labels import Label
from exporter.backtest.score import Interval, Score, group_episodes, score_series, total_score

SPAN = 2_400


def intervals(max_size: int) -> st.SearchStrategy[list[Interval]]:
    """Generate intervals of whole seconds; bounds that differ by exactly a margin are likely."""
    instant = st.one_of(st.integers(0, SPAN), st.sampled_from([0, 299, 300, 301, 599, 600, 601, 900, 1200, SPAN]))
    pair = st.tuples(instant, instant).map(sorted).map(lambda ends: Interval(*ends))
    return st.lists(pair, max_size=max_size)


labels = st.builds(
    lambda spans, ignored: [
        Label("s", span.start, span.end, ignore) for span, ignore in zip(spans, ignored, strict=False)
    ],
    intervals(4),
    st.lists(st.booleans(), min_size=4, max_size=4),
)


def seconds(start: float, end: float) -> set[int]:
    return set(range(int(start), int(end) + 1))


def naive_episodes(periods: Iterable[Interval]) -> list[set[int]]:
    """Collect the seconds of all periods, and split at gaps of ten minutes."""
    found: list[set[int]] = []
    last = -600
    for second in sorted(set().union(*(seconds(*period) for period in periods))):
        if second - last >= 600:
            found.append({second})
        else:
            found[-1] |= seconds(last, second)
        last = second
    return found


def naive_score(periods: Sequence[Interval], labels: Sequence[Label], since: int, until: int, step: int) -> Score:
    periods = [period for period in periods if period.start >= since]
    margin_after = max(300, 2 * step)
    scored_labels = [label for label in labels if since <= label.start < until]
    events = [label for label in scored_labels if not label.ignore]
    delays = []
    for event in events:
        event_seconds = seconds(event.start, event.end + margin_after)
        hits = [period for period in periods if seconds(*period) & event_seconds]
        if hits:
            first = min(min(seconds(*hit)) for hit in hits)
            delays.append(float(first - event.start) if first > event.start else 0.0)
    outcomes = []
    for episode in naive_episodes(periods):
        overlapped = [label for label in labels if episode & seconds(label.start - 300, label.end + margin_after)]
        if any(label in events for label in overlapped):
            outcomes.append("true")
        else:
            outcomes.append("neutral" if overlapped else "false")
    return Score(
        events=len(events),
        delays_seconds=tuple(delays),
        true_episodes=outcomes.count("true"),
        false_episodes=outcomes.count("false"),
        neutral_episodes=outcomes.count("neutral"),
        labels_left_out=len(labels) - len(scored_labels),
        series_days=max(0, until - since) / 86_400,
    )


@given(
    intervals(4), labels, st.integers(0, SPAN), st.integers(0, SPAN), st.sampled_from([0, 1, 60, 149, 150, 151, 900])
)
def test_score_equals_the_naive_score(
    periods: list[Interval], labels: list[Label], since: int, until: int, step: int
) -> None:
    found = score_series(periods, labels, since=since, until=until, step_seconds=step)
    assert found == naive_score(periods, labels, since, until, step)


@given(intervals(6))
def test_episodes_join_periods_with_short_gaps(periods: list[Interval]) -> None:
    found = group_episodes(periods)
    assert sorted(period for episode in found for period in episode) == sorted(periods)
    bounds = [(episode[0].start, max(period.end for period in episode)) for episode in found]
    assert bounds == [(min(episode), max(episode)) for episode in naive_episodes(periods)]


@settings(max_examples=30)
@given(intervals(4), labels, st.integers(0, SPAN))
def test_score_does_not_depend_on_the_order(periods: list[Interval], labels: list[Label], since: int) -> None:
    score = score_series(periods, labels, since=since, until=SPAN, step_seconds=60)
    reversed_score = score_series(periods[::-1], labels, since=since, until=SPAN, step_seconds=60)
    assert score == reversed_score


@settings(max_examples=30)
@given(st.lists(st.tuples(intervals(3), labels), max_size=4))
def test_total_score_is_the_sum(series: list[tuple[list[Interval], list[Label]]]) -> None:
    scores = [
        score_series(periods, series_labels, since=100, until=SPAN, step_seconds=60)
        for periods, series_labels in series
    ]
    total = total_score(scores)
    assert total.events == sum(score.events for score in scores)
    assert total.found == sum(score.found for score in scores)
    assert total.series_days == pytest.approx(len(series) * (SPAN - 100) / 86_400)
    assert total.true_episodes + total.false_episodes + total.neutral_episodes == sum(
        len(group_episodes(period for period in periods if period.start >= 100)) for periods, _ in series
    )
    if total.recall is not None:
        assert 0 <= total.recall <= 1
    if total.precision is not None:
        assert 0 <= total.precision <= 1


def test_score_ratios_and_rates() -> None:
    score = Score(
        events=4,
        delays_seconds=(60.0, 180.0, 0.0),
        true_episodes=3,
        false_episodes=1,
        neutral_episodes=5,
        series_days=50,
    )
    assert (score.recall, score.precision) == (0.75, 0.75)
    assert score.false_per_1000_series_days == 20
    assert score.median_delay_seconds == 60


def test_score_without_series_has_no_ratios() -> None:
    score = total_score([])
    assert score == Score()
    assert (score.recall, score.precision) == (None, None)
    assert (score.false_per_1000_series_days, score.median_delay_seconds) == (None, None)


def test_margin_after_an_event_grows_with_the_step() -> None:
    event = [Label("s", 1000, 2000)]
    late = [Interval(2900, 2950)]
    assert score_series(late, event, since=0, until=SPAN, step_seconds=60).found == 0
    sparse = score_series(late, event, since=0, until=SPAN, step_seconds=450)
    assert (sparse.found, sparse.false_episodes) == (1, 0)


@pytest.mark.parametrize(
    ("period", "found", "true", "false"),
    [
        (Interval(100, 699), 0, 0, 1),
        (Interval(100, 700), 0, 1, 0),
        (Interval(100, 1000), 1, 1, 0),
        (Interval(2300, 2400), 1, 1, 0),
        (Interval(2301, 2400), 0, 0, 1),
    ],
)
def test_margins_are_five_minutes(period: Interval, found: int, true: int, false: int) -> None:
    score = score_series([period], [Label("s", 1000, 2000)], since=0, until=SPAN, step_seconds=60)
    assert (score.found, score.true_episodes, score.false_episodes) == (found, true, false)


@pytest.mark.parametrize(("gap", "number"), [(599, 1), (600, 2)])
def test_gap_of_ten_minutes_makes_two_episodes(gap: int, number: int) -> None:
    assert len(group_episodes([Interval(0, 1000), Interval(10, 20), Interval(1000 + gap, 3000)])) == number


def test_period_that_starts_while_learning_finds_nothing() -> None:
    early = [Interval(900, 3000)]
    score = score_series(early, [Label("s", 2000, 2500)], since=1000, until=SPAN, step_seconds=60)
    assert (score.events, score.found, score.true_episodes, score.false_episodes) == (1, 0, 0, 0)
