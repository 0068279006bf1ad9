"""A tally is the pool of what was added and not taken off again, whatever came and went before."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from exporter.model.histogram import HIGHEST_BUCKET, ZERO_BUCKET, Digest, RollingDigest

any_bucket = st.one_of(
    st.sampled_from([ZERO_BUCKET, HIGHEST_BUCKET]), st.integers(-40, 40), st.integers(ZERO_BUCKET, HIGHEST_BUCKET)
)
some_counts = st.dictionaries(any_bucket, st.integers(1, 100), max_size=8).map(
    lambda counts: dict(sorted(counts.items()))
)
quantiles = st.lists(st.integers(0, 100).map(lambda percent: percent / 100), max_size=5)


@given(st.lists(st.tuples(some_counts, st.booleans()), max_size=12), quantiles)
def test_what_was_added_and_stays_is_pooled(parts: list[tuple[dict[int, int], bool]], qs: list[float]) -> None:
    tally = RollingDigest()
    for counts, _ in parts:
        tally.add(counts)
    for counts, stays in parts:
        if not stays:
            tally.subtract(counts)
    found, expected = tally.digest(), Digest.pool(Digest(counts) for counts, stays in parts if stays)
    assert found == expected
    assert hash(found) == hash(expected)
    assert list(found) == list(expected)
    assert found.count == expected.count
    assert [found.count_above(bucket) for bucket in range(-50, 50)] == [
        expected.count_above(bucket) for bucket in range(-50, 50)
    ]
    if expected:
        assert found.quantile_buckets(qs) == expected.quantile_buckets(qs)
        assert found.mad_seconds() == expected.mad_seconds()


@given(some_counts, some_counts)
def test_a_digest_stays_what_it_was(before: dict[int, int], more: dict[int, int]) -> None:
    tally = RollingDigest()
    tally.add(before)
    digest = tally.digest()
    tally.add(more)
    assert digest == Digest(before)
    assert dict(tally.digest()) == Counter(before) + Counter(more)
