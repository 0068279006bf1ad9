"""The selection of endpoints of a dense window that are read by name, and their grouping into searches."""

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
def test_rare_groups_contain_the_rarest_endpoints_within_the_budget(
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
    others = [count for key, count in found.items() if key not in chosen]
    assert not chosen or not others or max(found[key] for key in chosen) <= min(others)


def test_rare_groups_contain_every_rare_endpoint_if_the_budget_allows() -> None:
    found = {key(number): 10 for number in range(100)} | {key(1000): 4_000_000}
    groups = rare_groups(found, 0.01, Budget(25_000, 25), 3500, condition_length)
    assert sorted(key for group in groups for key in group) == sorted(key(number) for number in range(100))


def test_endpoint_whose_name_is_too_long_for_a_url_is_in_no_group() -> None:
    long_name = SeriesKey("shop", "🐌" * 1000)
    assert condition_length(long_name) > MAX_CONDITION_LENGTH
    assert rare_groups({long_name: 1, key(1): 2}, 0.01, Budget(1000, 5), 100, condition_length) == [(key(1),)]
    assert groups_by_length([long_name, key(1)], condition_length) == [(key(1),)]


@given(st.lists(lengths, max_size=30))
def test_groups_by_length_fit_into_a_condition_and_keep_the_order(sizes: list[int]) -> None:
    keys = [key(number) for number in range(len(sizes))]
    length_of = dict(zip(keys, sizes, strict=True))
    groups = groups_by_length(keys, length_of.__getitem__)
    assert [key for group in groups for key in group] == [key for key in keys if length_of[key] <= MAX_CONDITION_LENGTH]
    assert all(sum(map(length_of.__getitem__, group)) <= MAX_CONDITION_LENGTH for group in groups)


def test_condition_length_is_an_upper_bound_of_the_encoded_length() -> None:
    keys = [key(1), SeriesKey('na"me', "POST \\ ü\n"), key(3)]
    assert len(quote_plus(any_series_condition(keys))) <= sum(map(condition_length, keys))
