"""Codec of digests and marks: round trips, size, and rejection of damaged bytes."""

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from exporter.model.histogram import HIGHEST_BUCKET, ZERO_BUCKET, Digest
from exporter.model.histogram_codec import (
    DamagedDigestError,
    count_marks,
    decode_counts,
    decode_digest,
    decode_failures,
    decode_marks,
    decode_numbers,
    decode_offsets,
    encode_counts,
    encode_digest,
    encode_failures,
    encode_marks,
    encode_numbers,
)

buckets = st.integers(ZERO_BUCKET, HIGHEST_BUCKET)
counts = st.dictionaries(buckets, st.one_of(st.integers(1, 130), st.integers(1, 2**50)), max_size=20)
digests = counts.map(Digest)
# Few samples at close marks are stored in the assigned format; many samples or distant marks as digests.
few = st.dictionaries(buckets, st.integers(1, 40), max_size=10)
many = st.dictionaries(buckets, st.integers(1, 400), max_size=20)
marks = st.one_of(
    st.dictionaries(st.integers(0, 70), few.map(Digest), max_size=18),
    st.dictionaries(st.integers(0, 1000), many.map(Digest), max_size=15),
)


@given(counts)
def test_digest_round_trip(by_bucket: dict[int, int]) -> None:
    data = encode_digest(Digest(by_bucket))
    assert decode_digest(data) == Digest(by_bucket)
    assert decode_counts(data) == by_bucket
    assert encode_counts(dict(sorted(by_bucket.items()))) == data


@given(marks)
def test_marks_round_trip(by_offset: dict[int, Digest]) -> None:
    window = _window(by_offset)
    decoded = decode_marks(encode_marks(by_offset), window)
    assert _digests(decoded) == by_offset
    assert all(samples == sorted(samples) for samples in decoded.values())
    assert list(count_marks(encode_marks(by_offset), sum(window.values())).items()) == [
        (offset, len(samples)) for offset, samples in decoded.items()
    ]


@given(st.dictionaries(st.integers(0, 3000), st.one_of(st.integers(1, 70), st.integers(1, 2**40)), max_size=20))
def test_failures_round_trip(by_offset: dict[int, int]) -> None:
    decoded = decode_failures(encode_failures(by_offset), sum(by_offset.values()))
    assert decoded == by_offset
    assert list(decoded) == sorted(by_offset)


def test_few_failures_take_few_bytes() -> None:
    assert encode_failures({}) == b""
    assert len(encode_failures({7: 3})) == 2
    assert len(encode_failures(dict.fromkeys(range(1, 13), 60))) == 13


@given(st.binary(max_size=12), st.integers(0, 300))
def test_damaged_failures_are_rejected_or_possible(data: bytes, samples: int) -> None:
    try:
        failures = decode_failures(data, samples)
    except DamagedDigestError:
        return
    assert sum(failures.values()) <= samples
    assert all(count > 0 for count in failures.values())


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"\x80", "truncated"), (b"\x03", "truncated"), (b"\x00", "no failures"), (b"\x0a", "5 of 4 samples")],
)
def test_impossible_failures_are_rejected(data: bytes, problem: str) -> None:
    with pytest.raises(DamagedDigestError, match=problem):
        decode_failures(data, 4)


@pytest.mark.parametrize(
    ("data", "by_offset"),
    [
        (bytes.fromhex("0002010127040401000a"), {1: {-20: 2}, 4: {0: 5}}),
        (b"\x01" + zlib.compress(bytes.fromhex("0101010004"), wbits=-15), {1: {0: 2}}),
    ],
)
def test_decodes_marks_of_older_versions(data: bytes, by_offset: dict[int, dict[int, int]]) -> None:
    """Older versions stored few samples as digests, too, plain or deflated."""
    expected = {offset: Digest(counts) for offset, counts in by_offset.items()}
    assert _digests(decode_marks(data, _window(expected))) == expected


def test_similar_marks_compress_well() -> None:
    digest = Digest({bucket: 20 + bucket % 7 for bucket in range(-100, 0)})
    alike = dict.fromkeys(range(1, 13), digest)
    data = encode_marks(alike)
    assert len(data) < 2 * len(encode_digest(digest))
    assert _digests(decode_marks(data, _window(alike))) == alike


def test_assigned_marks_take_half_a_byte_per_sample() -> None:
    by_offset = {offset: Digest({37 * offset % 50 - 100: 1, 90 * offset % 70 - 30: 1}) for offset in range(1, 13)}
    assert len(encode_marks(by_offset)) == 1 + 2 + 12


def test_incompressible_marks_are_stored_uncompressed() -> None:
    irregular = {1: Digest({bucket * (bucket + 7) % 1999 - 957: bucket**3 + 1 for bucket in range(60)})}
    assert len(encode_marks(irregular)) <= 2 + 1 + len(encode_digest(irregular[1]))


def test_adjacent_buckets_with_small_counts_take_one_byte_each() -> None:
    digest = Digest(dict.fromkeys(range(-180, -80), 63))
    assert len(encode_digest(digest)) <= 100 + 3


@given(st.lists(st.integers(0, 2**32 - 1) | st.just(0), min_size=2, max_size=30), st.binary(max_size=5))
def test_numbers_round_trip(some: list[int], following: bytes) -> None:
    assert decode_numbers(encode_numbers(some) + following, len(some)) == (tuple(some), following)


def test_zeros_take_two_bits_and_other_numbers_the_bytes_they_need() -> None:
    assert len(encode_numbers([0] * 24)) == 6
    assert len(encode_numbers([0, 255, 256, 65_535, 65_536, *[0] * 19])) == 6 + 1 + 2 + 2 + 4


@given(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=30), st.data())
def test_truncated_numbers_are_rejected(some: list[int], data: st.DataObject) -> None:
    encoded = encode_numbers(some)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(DamagedDigestError, match="truncated"):
        decode_numbers(encoded[:cut], len(some))


@given(marks)
def test_offsets_are_decoded_without_the_samples(by_offset: dict[int, Digest]) -> None:
    assert decode_offsets(encode_marks(by_offset)) == tuple(sorted(by_offset))


@given(digests, st.data())
def test_truncated_digest_is_rejected(digest: Digest, data: st.DataObject) -> None:
    encoded = encode_digest(digest)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(DamagedDigestError):
        decode_digest(encoded[:cut])


@given(digests, st.binary(min_size=1))
def test_digest_with_trailing_bytes_is_rejected(digest: Digest, more: bytes) -> None:
    with pytest.raises(DamagedDigestError, match="follow the end"):
        decode_digest(encode_digest(digest) + more)


@given(marks, st.data())
def test_truncated_marks_are_rejected(by_offset: dict[int, Digest], data: st.DataObject) -> None:
    encoded = encode_marks(by_offset)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(DamagedDigestError):
        decode_marks(encoded[:cut], _window(by_offset))
    with pytest.raises(DamagedDigestError):
        count_marks(encoded[:cut], sum(_window(by_offset).values()))


def _flipped(draw: Callable[[st.SearchStrategy[int]], int], encoded: bytes) -> bytes:
    bits = int.from_bytes(encoded, "big")
    for _ in range(draw(st.integers(1, 4))):
        bits ^= 1 << draw(st.integers(0, 8 * len(encoded) - 1))
    return bits.to_bytes(len(encoded), "big")


def _assert_usable(by_bucket: Mapping[int, int]) -> None:
    """Assert that all operations on a digest succeed with these counts."""
    digest = Digest(by_bucket)
    assert dict(digest) == by_bucket
    if digest:
        assert 0 <= digest.quantile_seconds(0.05) <= digest.quantile_seconds(0.99) < 2**34
        assert 0 <= digest.mad_seconds() < 2**34
    assert decode_digest(encode_digest(digest)) == digest


@given(digests, st.data())
def test_digest_with_flipped_bits_is_rejected_or_usable(digest: Digest, data: st.DataObject) -> None:
    damaged = _flipped(data.draw, encode_digest(digest))
    try:
        by_bucket = decode_counts(damaged)
    except DamagedDigestError:
        return
    _assert_usable(by_bucket)


@given(marks, st.data())
def test_marks_with_flipped_bits_are_rejected_or_usable(by_offset: dict[int, Digest], data: st.DataObject) -> None:
    damaged = _flipped(data.draw, encode_marks(by_offset))
    try:
        decoded = decode_marks(damaged, _window(by_offset))
    except DamagedDigestError:
        return
    assert sum(map(len, decoded.values())) == sum(digest.count for digest in by_offset.values())
    for offset, samples in decoded.items():
        assert 0 <= offset < 2**63
        _assert_usable(Counter(samples))


@given(marks, st.data())
def test_counts_of_marks_with_flipped_bits_are_rejected_or_complete(
    by_offset: dict[int, Digest], data: st.DataObject
) -> None:
    samples = sum(_window(by_offset).values())
    damaged = _flipped(data.draw, encode_marks(by_offset))
    try:
        counts = count_marks(damaged, samples)
    except DamagedDigestError:
        return
    assert sum(counts.values()) == samples


@given(marks, st.integers(0, 1000))
def test_marks_of_another_number_of_samples_are_rejected(by_offset: dict[int, Digest], other: int) -> None:
    samples = sum(_window(by_offset).values())
    # Of a single mark the number is not stored.
    assume(other != samples and len(by_offset) != 1)
    with pytest.raises(DamagedDigestError):
        count_marks(encode_marks(by_offset), other)


@given(marks, marks)
def test_marks_of_another_window_are_rejected_or_usable(one: dict[int, Digest], other: dict[int, Digest]) -> None:
    try:
        decoded = decode_marks(encode_marks(one), _window(other))
    except DamagedDigestError:
        return
    assert sum(map(len, decoded.values())) == sum(digest.count for digest in other.values())


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_rejected_or_usable(data: bytes) -> None:
    decodes: Sequence[Callable[[bytes], object]] = (
        decode_counts,
        lambda marks: decode_marks(marks, {0: 3}),
        decode_offsets,
        lambda some: decode_numbers(some, 24),
        decode_digest,
    )
    for decode in decodes:
        try:
            decode(data)
        except DamagedDigestError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "within a number after 0 bytes"),
        (b"\x01\x00\x00", "count of zero"),
        (b"\x01\xff\x7f\x02", "out of range"),
        (b"\x02\x00\x02\x03\xff\x7f", "out of range"),
        (b"\x01\x00" + b"\xff" * 300 + b"\x01", "more than 63 bits"),
    ],
)
def test_impossible_digest_is_rejected(data: bytes, message: str) -> None:
    with pytest.raises(DamagedDigestError, match=message):
        decode_digest(data)


def test_marks_of_unknown_kind_are_rejected() -> None:
    with pytest.raises(DamagedDigestError, match="unknown kind"):
        decode_marks(b"\x04" + encode_marks({1: Digest({0: 1})})[1:], {0: 1})


def _window(by_offset: Mapping[int, Digest]) -> dict[int, int]:
    """Return the counts of the window's digest, which is stored beside the marks."""
    return dict(Digest.pool(by_offset.values()))


def _digests(decoded: Mapping[int, Sequence[int]]) -> dict[int, Digest]:
    return {offset: Digest(Counter(samples)) for offset, samples in decoded.items()}
