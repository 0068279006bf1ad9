"""What is stored comes back as it was, and what was damaged is refused or makes sense all the same."""

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.core.codec import (
    DamagedDigestError,
    decode_counts,
    decode_digest,
    decode_marks,
    decode_numbers,
    encode_digest,
    encode_marks,
    encode_numbers,
)
from exporter.core.digest import HIGHEST_BUCKET, ZERO_BUCKET, Digest

buckets = st.integers(ZERO_BUCKET, HIGHEST_BUCKET)
counts = st.dictionaries(buckets, st.one_of(st.integers(1, 130), st.integers(1, 2**50)), max_size=20)
digests = counts.map(Digest)
marks = st.dictionaries(st.integers(0, 1000), digests, max_size=15)
numbers = st.lists(st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1)))


@given(counts)
def test_a_digest_comes_back_as_it_was(by_bucket: dict[int, int]) -> None:
    data = encode_digest(Digest(by_bucket))
    assert decode_digest(data) == Digest(by_bucket)
    assert decode_counts(data) == by_bucket


@given(marks)
def test_marks_come_back_as_they_were(by_offset: dict[int, Digest]) -> None:
    assert _digests(decode_marks(encode_marks(by_offset))) == by_offset


def test_marks_that_resemble_one_another_are_stored_in_little_space() -> None:
    digest = Digest({bucket: 20 + bucket % 7 for bucket in range(-100, 0)})
    alike = dict.fromkeys(range(1, 13), digest)
    data = encode_marks(alike)
    assert len(data) < 2 * len(encode_digest(digest))
    assert _digests(decode_marks(data)) == alike


def test_deflating_never_makes_marks_longer() -> None:
    """What does not repeat itself is stored as it is, with one byte in front."""
    few = {1: Digest({-20: 3}), 12: Digest({40: 1})}
    plain = 1 + 1 + sum(1 + len(encode_digest(digest)) for digest in few.values())
    assert len(encode_marks(few)) == plain
    irregular = {1: Digest({bucket * (bucket + 7) % 1999 - 957: bucket**3 + 1 for bucket in range(60)})}
    assert len(encode_marks(irregular)) <= 2 + 1 + len(encode_digest(irregular[1]))


def test_neighbouring_buckets_with_small_counts_take_a_byte_each() -> None:
    digest = Digest(dict.fromkeys(range(-180, -80), 63))
    assert len(encode_digest(digest)) <= 100 + 3


@given(numbers)
def test_numbers_come_back_as_they_were(some: list[int]) -> None:
    assert decode_numbers(encode_numbers(some)) == some


@given(digests, st.data())
def test_a_cut_digest_is_refused(digest: Digest, data: st.DataObject) -> None:
    encoded = encode_digest(digest)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(DamagedDigestError):
        decode_digest(encoded[:cut])


@given(digests, st.binary(min_size=1))
def test_a_digest_with_something_behind_it_is_refused(digest: Digest, more: bytes) -> None:
    with pytest.raises(DamagedDigestError, match="left over"):
        decode_digest(encode_digest(digest) + more)


@given(marks, st.data())
def test_cut_marks_are_refused(by_offset: dict[int, Digest], data: st.DataObject) -> None:
    encoded = encode_marks(by_offset)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(DamagedDigestError):
        decode_marks(encoded[:cut])


def _flipped(draw: Callable[[st.SearchStrategy[int]], int], encoded: bytes) -> bytes:
    bits = int.from_bytes(encoded, "big")
    for _ in range(draw(st.integers(1, 4))):
        bits ^= 1 << draw(st.integers(0, 8 * len(encoded) - 1))
    return bits.to_bytes(len(encoded), "big")


def _is_usable(by_bucket: Mapping[int, int]) -> None:
    """Nothing that is done with counts later fails on these."""
    digest = Digest(by_bucket)
    assert dict(digest) == by_bucket
    if digest:
        assert 0 <= digest.quantile_seconds(0.05) <= digest.quantile_seconds(0.99) < 2**34
        assert 0 <= digest.mad_seconds() < 2**34
    assert decode_digest(encode_digest(digest)) == digest


@given(digests, st.data())
def test_a_digest_with_flipped_bits_is_refused_or_usable(digest: Digest, data: st.DataObject) -> None:
    damaged = _flipped(data.draw, encode_digest(digest))
    try:
        by_bucket = decode_counts(damaged)
    except DamagedDigestError:
        return
    _is_usable(by_bucket)


@given(marks, st.data())
def test_marks_with_flipped_bits_are_refused_or_usable(by_offset: dict[int, Digest], data: st.DataObject) -> None:
    damaged = _flipped(data.draw, encode_marks(by_offset))
    try:
        decoded = decode_marks(damaged)
    except DamagedDigestError:
        return
    for offset, by_bucket in decoded.items():
        assert 0 <= offset < 2**63
        _is_usable(by_bucket)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_usable(data: bytes) -> None:
    for decode in (decode_counts, decode_marks, decode_numbers, decode_digest):
        try:
            decode(data)
        except DamagedDigestError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "ends after 0 bytes"),
        (b"\x01\x00\x00", "without samples"),
        (b"\x01\xff\x7f\x02", "none of durations"),
        (b"\x02\x00\x02\x03\xff\x7f", "none of durations"),
        (b"\x01\x00" + b"\xff" * 300 + b"\x01", "more than 63 bits"),
    ],
)
def test_what_no_digest_can_hold_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(DamagedDigestError, match=what):
        decode_digest(data)


def test_marks_of_an_unknown_kind_are_refused() -> None:
    with pytest.raises(DamagedDigestError, match="unknown kind"):
        decode_marks(b"\x02" + encode_marks({1: Digest({0: 1})})[1:])


def _digests(decoded: Mapping[int, Mapping[int, int]]) -> dict[int, Digest]:
    return {offset: Digest(by_bucket) for offset, by_bucket in decoded.items()}
