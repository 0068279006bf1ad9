"""Which endpoints of a dense window get searches of their own."""

from urllib.parse import quote_plus

from hypothesis import given
from hypothesis import strategies as st

from exporter.ingest.exact_reader import Budget
from exporter.ingest.sampling import ENOUGH_TRACES, MAX_CONDITION_LENGTH, groups_by_length, rare_groups
from exporter.model.span import SeriesKey
from exporter.tempo.query import any_series_condition, condition_length


def key(number: int) -> SeriesKey:
    return SeriesKey("shop", f"GET /{number}")


counts = st.dictionaries(st.integers(0, 300).map(key), st.integers(1, 10**6), max_size=80)
lengths = st.integers(1, MAX_CONDITION_LENGTH + 1000)


@given(counts, st.floats(0.0001, 1), st.integers(0, 50_000), st.integers(1, 25), st.integers(1, 3500), st.randoms())
def test_the_rarest_come_first_and_the_budget_holds(
    found: dict[SeriesKey, int], share: float, traces: int, requests: int, per_search: int, chance: object
) -> None:
    groups = rare_groups(found, share, Budget(traces, requests), per_search, lambda key: 90)
    chosen = [key for group in groups for key in group]
    assert len(chosen) == len(set(chosen))
    assert len(groups) <= requests
    assert sum(found[key] for key in chosen) <= traces
    for group in groups:
        assert group
        assert sum(found[key] for key in group) <= per_search
        assert len(group) * 90 <= MAX_CONDITION_LENGTH
    assert all(found[key] * share < ENOUGH_TRACES for key in chosen)
    left = [count for key, count in found.items() if key not in chosen]
    assert not chosen or not left or max(found[key] for key in chosen) <= min(left)


def test_all_endpoints_that_a_sample_would_miss_are_read_where_the_budget_reaches() -> None:
    found = {key(number): 10 for number in range(100)} | {key(1000): 4_000_000}
    groups = rare_groups(found, 0.01, Budget(25_000, 25), 3500, condition_length)
    assert sorted(key for group in groups for key in group) == sorted(key(number) for number in range(100))


def test_a_name_too_long_for_a_url_is_left_to_the_sample() -> None:
    endless = SeriesKey("shop", "🐌" * 1000)
    assert condition_length(endless) > MAX_CONDITION_LENGTH
    assert rare_groups({endless: 1, key(1): 2}, 0.01, Budget(1000, 5), 100, condition_length) == [(key(1),)]
    assert groups_by_length([endless, key(1)], condition_length) == [(key(1),)]


@given(st.lists(lengths, max_size=30))
def test_groups_of_unknown_size_are_as_long_as_fits(sizes: list[int]) -> None:
    keys = [key(number) for number in range(len(sizes))]
    of = dict(zip(keys, sizes, strict=True))
    groups = groups_by_length(keys, of.__getitem__)
    assert [key for group in groups for key in group] == [key for key in keys if of[key] <= MAX_CONDITION_LENGTH]
    assert all(sum(map(of.__getitem__, group)) <= MAX_CONDITION_LENGTH for group in groups)


def test_a_condition_is_as_long_as_it_says() -> None:
    keys = [key(1), SeriesKey('na"me', "POST \\ ü\n"), key(3)]
    assert len(quote_plus(any_series_condition(keys))) <= sum(map(condition_length, keys))
