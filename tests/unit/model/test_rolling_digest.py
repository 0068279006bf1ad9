"""RollingDigest: equals the pool of the digests that were added and not subtracted."""

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
def test_equals_the_pool_of_the_remaining_digests(parts: list[tuple[dict[int, int], bool]], qs: list[float]) -> None:
    rolling = RollingDigest()
    for counts, _ in parts:
        rolling.add(counts)
    for counts, is_kept in parts:
        if not is_kept:
            rolling.subtract(counts)
    found, expected = rolling.digest(), Digest.pool(Digest(counts) for counts, is_kept in parts if is_kept)
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
def test_returned_digest_is_not_changed_by_later_additions(before: dict[int, int], more: dict[int, int]) -> None:
    rolling = RollingDigest()
    rolling.add(before)
    digest = rolling.digest()
    rolling.add(more)
    assert digest == Digest(before)
    assert dict(rolling.digest()) == Counter(before) + Counter(more)
