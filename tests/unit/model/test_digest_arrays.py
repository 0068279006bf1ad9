"""Digests and marks decoded into arrays: the same as one by one, and nothing that is damaged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.digest_arrays import UnsuitableError, decode_digests, decode_marks
from exporter.model.histogram import HIGHEST_BUCKET, ZERO_BUCKET, Digest
from exporter.model.histogram_codec import DamagedDigestError, decode_counts, encode_digest, encode_marks
from exporter.model.histogram_codec import decode_marks as decode_some_marks

BUCKETS = st.integers(ZERO_BUCKET, HIGHEST_BUCKET)
COUNTS = st.one_of(st.integers(1, 3), st.integers(1, 2**40))
DIGESTS = st.dictionaries(BUCKETS, COUNTS, min_size=1, max_size=12).map(Digest)


def decoded(encoded: list[bytes]) -> list[dict[int, int]]:
    """Decode with arrays, into the form of single digests."""
    lengths, buckets, counts = decode_digests(encoded)
    pairs = iter(zip(buckets.tolist(), counts.tolist(), strict=True))
    return [dict(next(pairs) for _ in range(length)) for length in lengths.tolist()]


@given(st.lists(DIGESTS, min_size=1, max_size=5))
def test_digests_are_decoded_as_one_by_one(digests: list[Digest]) -> None:
    encoded = [encode_digest(digest) for digest in digests]
    assert decoded(encoded) == [decode_counts(data) for data in encoded]


@given(st.lists(DIGESTS, min_size=1, max_size=3), st.integers(0, 10**6), st.binary(max_size=2), st.integers(0, 2))
def test_damaged_digests_are_not_decoded(digests: list[Digest], position: int, new: bytes, dropped: int) -> None:
    encoded = [encode_digest(digest) for digest in digests]
    data = encoded[position % len(encoded)]
    at = position % len(data)
    encoded[position % len(encoded)] = data[:at] + new + data[at + dropped :]
    try:
        found = decoded(encoded)
    except UnsuitableError:
        return
    assert found == [decode_counts(data) for data in encoded]


@pytest.mark.parametrize("encoded", [[], [b""], [encode_digest(Digest({}))]])
def test_empty_digests_are_left_to_others(encoded: list[bytes]) -> None:
    with pytest.raises(UnsuitableError):
        decode_digests(encoded)


MARKS = st.dictionaries(
    st.integers(0, 40), st.dictionaries(st.integers(-200, 200), st.integers(1, 3), min_size=1).map(Digest), min_size=1
)


def by_offset(encoded: bytes, window: Digest) -> dict[int, list[int]]:
    """Decode the marks of a window with arrays, into the form of single ones."""
    offsets, samples, indices = decode_marks([encoded], np.array([window.count]))
    buckets = [bucket for bucket, count in window for _ in range(count)]
    found: dict[int, list[int]] = {}
    for bucket, index in zip(buckets, indices.tolist(), strict=True):
        found.setdefault(int(offsets[0, index]), []).append(bucket)
    assert {offset: len(some) for offset, some in found.items()} == {
        int(offset): int(number) for offset, number in zip(offsets[0], samples[0], strict=True) if number
    }
    return found


@given(MARKS)
def test_marks_are_decoded_as_one_by_one(marks: dict[int, Digest]) -> None:
    encoded, window = encode_marks(marks), Digest.pool(marks.values())
    expected = decode_some_marks(encoded, dict(window))
    if len(marks) > 16:
        with pytest.raises(UnsuitableError):
            by_offset(encoded, window)
    else:
        assert by_offset(encoded, window) == expected


@given(MARKS, st.integers(0, 10**6), st.binary(max_size=2), st.integers(0, 2))
def test_damaged_marks_are_not_decoded(marks: dict[int, Digest], position: int, new: bytes, dropped: int) -> None:
    encoded, window = encode_marks(marks), Digest.pool(marks.values())
    at = position % len(encoded)
    damaged = encoded[:at] + new + encoded[at + dropped :]
    try:
        found = by_offset(damaged, window)
    except UnsuitableError:
        return
    try:
        expected = decode_some_marks(damaged, dict(window))
    except DamagedDigestError:
        pytest.fail("damaged marks were decoded")
    assert found == {offset: buckets for offset, buckets in expected.items() if buckets}
