"""Which traces are compared."""

from hypothesis import given
from hypothesis import strategies as st

from exporter.cause.sampling import choose_alike, choose_pairs

durations = st.lists(st.integers(0, 10**12), min_size=1, max_size=60)


@given(durations, durations, st.integers(1, 40), st.text())
def test_any_durations_give_the_wanted_number(incident: list[int], reference: list[int], count: int, seed: str) -> None:
    pairs = choose_pairs(incident, reference, count, seed)
    for chosen, candidates in ((pairs.incident, incident), (pairs.reference, reference)):
        assert len(chosen) == count
        assert {*chosen} <= {*range(len(candidates))}
        # None twice while there are others.
        assert len({*chosen}) == min(count, len(candidates))
    assert choose_pairs(incident, reference, count, seed) == pairs


def test_half_of_the_traces_come_from_where_the_extra_time_is() -> None:
    reference = list(range(1_000, 2_000))
    # A tenth of the requests takes ten times as long.
    incident = reference[:900] + [10 * each for each in reference[900:]]
    pairs = choose_pairs(incident, reference, 20, "seed")
    slow = sum(index >= 900 for index in pairs.incident)
    assert slow in (11, 12, 13)
    # The pair of each has about the same rank.
    for one, other in zip(pairs.incident, pairs.reference, strict=True):
        assert abs(one - other) <= 30


def test_all_ranks_where_nothing_takes_longer() -> None:
    reference = list(range(1_000))
    pairs = choose_pairs([each // 2 for each in reference], reference, 20, "seed")
    assert sorted(index * 20 // 1_000 for index in pairs.incident) == list(range(20))


@given(st.lists(st.integers(0, 10**12), max_size=60), durations, st.lists(st.integers(0, 10**12)), st.integers(1, 40))
def test_as_many_traces_of_a_kind_as_there_are(
    incident: list[int], reference: list[int], chosen: list[int], count: int
) -> None:
    alike = choose_alike(chosen, incident, reference, count)
    assert len(alike) == len({*alike}) == min(count, len(reference))
    assert {*alike} <= {*range(len(reference))}


def test_traces_of_a_kind_have_the_ranks_of_the_chosen_ones() -> None:
    incident = list(range(0, 1_000, 10))
    reference = list(range(5_000, 6_000))
    # The slowest tenth was chosen.
    assert all(index >= 880 for index in choose_alike(incident[-10:], incident, reference, 20))
    spread = choose_alike([], [], reference, 10)
    assert [index // 100 for index in spread] == list(range(10))


def test_another_seed_chooses_other_traces() -> None:
    reference = list(range(1_000))
    assert choose_pairs(reference, reference, 20, "one") != choose_pairs(reference, reference, 20, "other")
