"""The scoring rules, against the same rules spelt out second by second."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.backtest.labels import Label
from exporter.backtest.score import Interval, Score, episodes, score_series, total

SPAN = 2_400


def intervals(most: int) -> st.SearchStrategy[list[Interval]]:
    """Intervals of whole seconds; bounds that differ by just a margin are likely."""
    instant = st.one_of(st.integers(0, SPAN), st.sampled_from([0, 299, 300, 301, 599, 600, 601, 900, 1200, SPAN]))
    pair = st.tuples(instant, instant).map(sorted).map(lambda ends: Interval(*ends))
    return st.lists(pair, max_size=most)


labels = st.builds(
    lambda spans, ignored: [
        Label("s", span.start, span.end, ignore) for span, ignore in zip(spans, ignored, strict=False)
    ],
    intervals(4),
    st.lists(st.booleans(), min_size=4, max_size=4),
)


def seconds(start: float, end: float) -> set[int]:
    return set(range(int(start), int(end) + 1))


def painted_episodes(alerts: Iterable[Interval]) -> list[set[int]]:
    """Paint every second of every alert, and cut where there is no paint for ten minutes."""
    found: list[set[int]] = []
    last = -600
    for second in sorted(set().union(*(seconds(*alert) for alert in alerts))):
        if second - last >= 600:
            found.append({second})
        else:
            found[-1] |= seconds(last, second)
        last = second
    return found


def naive(alerts: Sequence[Interval], labels: Sequence[Label], since: int, until: int, step: int) -> Score:
    alerts = [alert for alert in alerts if alert.start >= since]
    behind = max(300, 2 * step)
    counting = [label for label in labels if since <= label.start < until]
    events = [label for label in counting if not label.ignore]
    delays = []
    for event in events:
        wanted = seconds(event.start, event.end + behind)
        hits = [alert for alert in alerts if seconds(*alert) & wanted]
        if hits:
            first = min(min(seconds(*hit)) for hit in hits)
            delays.append(float(first - event.start) if first > event.start else 0.0)
    kinds = []
    for episode in painted_episodes(alerts):
        touched = [label for label in labels if episode & seconds(label.start - 300, label.end + behind)]
        if any(label in events for label in touched):
            kinds.append("true")
        else:
            kinds.append("neutral" if touched else "false")
    return Score(
        events=len(events),
        delays_seconds=tuple(delays),
        true_episodes=kinds.count("true"),
        false_episodes=kinds.count("false"),
        neutral_episodes=kinds.count("neutral"),
        labels_left_out=len(labels) - len(counting),
        series_days=max(0, until - since) / 86_400,
    )


@given(
    intervals(4), labels, st.integers(0, SPAN), st.integers(0, SPAN), st.sampled_from([0, 1, 60, 149, 150, 151, 900])
)
def test_scores_as_second_by_second(
    alerts: list[Interval], labels: list[Label], since: int, until: int, step: int
) -> None:
    found = score_series(alerts, labels, since=since, until=until, step_seconds=step)
    assert found == naive(alerts, labels, since, until, step)


@given(intervals(6))
def test_episodes_are_the_alerts_with_short_pauses_closed(alerts: list[Interval]) -> None:
    found = episodes(alerts)
    assert sorted(alert for episode in found for alert in episode) == sorted(alerts)
    bounds = [(episode[0].start, max(alert.end for alert in episode)) for episode in found]
    assert bounds == [(min(episode), max(episode)) for episode in painted_episodes(alerts)]


@settings(max_examples=30)
@given(intervals(4), labels, st.integers(0, SPAN))
def test_nothing_depends_on_the_order(alerts: list[Interval], labels: list[Label], since: int) -> None:
    one = score_series(alerts, labels, since=since, until=SPAN, step_seconds=60)
    other = score_series(alerts[::-1], labels, since=since, until=SPAN, step_seconds=60)
    assert one == other


@settings(max_examples=30)
@given(st.lists(st.tuples(intervals(3), labels), max_size=4))
def test_a_total_adds_up(series: list[tuple[list[Interval], list[Label]]]) -> None:
    scores = [score_series(alerts, some, since=100, until=SPAN, step_seconds=60) for alerts, some in series]
    whole = total(scores)
    assert whole.events == sum(score.events for score in scores)
    assert whole.found == sum(score.found for score in scores)
    assert whole.series_days == pytest.approx(len(series) * (SPAN - 100) / 86_400)
    assert whole.true_episodes + whole.false_episodes + whole.neutral_episodes == sum(
        len(episodes(alert for alert in alerts if alert.start >= 100)) for alerts, _ in series
    )
    if whole.recall is not None:
        assert 0 <= whole.recall <= 1
    if whole.precision is not None:
        assert 0 <= whole.precision <= 1


def test_ratios_and_rates() -> None:
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


def test_what_is_unknown_is_absent() -> None:
    score = total([])
    assert score == Score()
    assert (score.recall, score.precision) == (None, None)
    assert (score.false_per_1000_series_days, score.median_delay_seconds) == (None, None)


def test_the_margin_behind_an_event_grows_with_the_step() -> None:
    event = [Label("s", 1000, 2000)]
    late = [Interval(2900, 2950)]
    assert score_series(late, event, since=0, until=SPAN, step_seconds=60).found == 0
    sparse = score_series(late, event, since=0, until=SPAN, step_seconds=450)
    assert (sparse.found, sparse.false_episodes) == (1, 0)


@pytest.mark.parametrize(
    ("alert", "found", "true", "false"),
    [
        (Interval(100, 699), 0, 0, 1),
        (Interval(100, 700), 0, 1, 0),
        (Interval(100, 1000), 1, 1, 0),
        (Interval(2300, 2400), 1, 1, 0),
        (Interval(2301, 2400), 0, 0, 1),
    ],
)
def test_the_margins_are_five_minutes(alert: Interval, found: int, true: int, false: int) -> None:
    score = score_series([alert], [Label("s", 1000, 2000)], since=0, until=SPAN, step_seconds=60)
    assert (score.found, score.true_episodes, score.false_episodes) == (found, true, false)


@pytest.mark.parametrize(("pause", "number"), [(599, 1), (600, 2)])
def test_a_pause_of_ten_minutes_makes_two_episodes(pause: int, number: int) -> None:
    assert len(episodes([Interval(0, 1000), Interval(10, 20), Interval(1000 + pause, 3000)])) == number


def test_an_alert_from_before_learning_was_over_finds_nothing() -> None:
    early = [Interval(900, 3000)]
    score = score_series(early, [Label("s", 2000, 2500)], since=1000, until=SPAN, step_seconds=60)
    assert (score.events, score.found, score.true_episodes, score.false_episodes) == (1, 0, 0, 0)
