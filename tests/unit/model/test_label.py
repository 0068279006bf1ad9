"""The names of series as labels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.label import DEFAULT_LABEL_NAMES, AmbiguousSeriesError, LabelNames, is_shortened, shortened
from exporter.model.span import SeriesKey, encodable

STATEMENT = "SELECT " + "column, " * 600
names = st.text(st.characters(), max_size=30) | st.text("查詢a🙂\ud800", min_size=15, max_size=90)


def cut(name: str, max_bytes: int = 64) -> str:
    labels = LabelNames(max_bytes).of(SeriesKey(name, name))
    assert labels.service_name == labels.span_name
    return labels.span_name


@given(names, st.integers(64, 200))
def test_label_is_short_enough_and_cut_at_the_edge_of_a_character(name: str, max_bytes: int) -> None:
    label = cut(name, max_bytes)
    text = encodable(name)
    if len(text.encode()) <= max_bytes:
        assert label == text
    else:
        kept, _, mark = label.rpartition("…")
        assert text.startswith(kept)
        assert len(mark) == 12
        # Nothing is lost but what does not fit, a part of one character at most.
        assert max_bytes - 3 <= len(label.encode()) <= max_bytes
    assert cut(label, max_bytes) == label


@given(st.lists(names, unique_by=encodable, max_size=8), st.text("ab查", min_size=70, max_size=70))
def test_names_that_differ_only_behind_the_cut_stay_distinct(ends: list[str], start: str) -> None:
    assert len({cut(start + end) for end in ends}) == len(ends)


def test_default_length_is_below_the_limits_of_large_providers() -> None:
    labels = DEFAULT_LABEL_NAMES.of(SeriesKey(STATEMENT, "查詢訂單" * 400))
    assert [len(label.encode()) for label in labels[:2]] == [1000, 999]
    assert labels.service_name.startswith(STATEMENT[:980])


@pytest.mark.parametrize("given", [SeriesKey("shop", STATEMENT), DEFAULT_LABEL_NAMES.of(SeriesKey("shop", STATEMENT))])
def test_series_is_found_by_its_whole_and_by_its_cut_name(given: SeriesKey) -> None:
    key = SeriesKey("shop", STATEMENT)
    others = [SeriesKey("shop", STATEMENT + "x"), SeriesKey("shop", "GET /cart")]
    assert DEFAULT_LABEL_NAMES.find(given, [*others, key]) == key
    assert DEFAULT_LABEL_NAMES.find(given, others) is None
    assert DEFAULT_LABEL_NAMES.is_named(key, given)
    assert not any(DEFAULT_LABEL_NAMES.is_named(other, given) for other in others)


def test_whole_name_takes_precedence_over_a_cut_one() -> None:
    key = SeriesKey("shop", STATEMENT)
    same = DEFAULT_LABEL_NAMES.of(key)
    assert DEFAULT_LABEL_NAMES.find(same, [key, same]) == same


ENV = "deployment_environment_name"
PROD, STAGING = (SeriesKey("shop", "GET /", ((ENV, each),)) for each in ("prod", "staging"))
BARE = SeriesKey("shop", "GET /")


def test_labels_select_one_of_several_series() -> None:
    labels = LabelNames(names=(ENV,))
    assert labels.find(PROD, [STAGING, PROD]) == PROD
    assert labels.find(BARE, [PROD]) == PROD
    assert labels.find(BARE, [PROD, STAGING, BARE]) == BARE
    assert labels.find(SeriesKey("shop", "GET /", ((ENV, ""),)), [PROD, BARE]) == BARE
    assert labels.find(SeriesKey("shop", "GET /", ((ENV, ""),)), [PROD]) is None
    assert labels.find(SeriesKey("shop", "GET /", (("zone", "a"),)), [PROD, STAGING]) is None
    with pytest.raises(AmbiguousSeriesError) as ambiguous:
        labels.find(BARE, [STAGING, PROD])
    assert ambiguous.value.matching == [PROD, STAGING]


def test_values_of_labels_are_cut_and_found_like_names() -> None:
    labels = LabelNames(64, (ENV,))
    long, longer = (SeriesKey("shop", "GET /", ((ENV, "x" * size),)) for size in (100, 101))
    ((_, value),) = labels.of(long).labels
    assert len(value.encode()) == 64
    for names in (long, labels.of(long)):
        assert labels.find(names, [long, longer]) == long
        assert labels.is_named(long, names)
        assert not labels.is_named(longer, names)


@given(st.text(st.characters(codec=None), max_size=300), st.integers(15, 400))
def test_a_name_is_found_by_a_cut_of_any_length(name: str, max_bytes: int) -> None:
    cut = shortened(name, max_bytes)
    assert len(cut.encode()) <= max_bytes
    assert DEFAULT_LABEL_NAMES.is_name(name, cut)
    assert not is_shortened(name + "x", cut)
