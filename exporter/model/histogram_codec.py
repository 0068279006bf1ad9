"""Binary encoding of digests and marks, as stored in the database.

A digest is encoded in unsigned LEB128 varints: the number of non-zero buckets, the first bucket (zigzag), and for every
bucket ``count << 1 | has_gap``, followed, where the flag is set, by the number of empty buckets before this one.
Adjacent buckets with counts below 64, which are nearly all, take one byte each.

Marks split the samples of a window by the time at which they *ended*: mark ``m`` counts the samples that ended in the
five minutes up to mark ``m`` of the clock, inclusive. Offsets are relative to the mark at which the window starts, or
to the next one where it starts between two. History is evaluated at this resolution. Two formats exist:

- *assigned*: the window's digest already has the durations, so only the mark of each sample is stored, as a 4-bit index
  per sample in ascending order of buckets. Used for up to 1,500 samples.
- *digests*: one digest for each mark. Shorter where there are many samples, because most marks then have most buckets.

Either is compressed with raw deflate where that is shorter.

Stored bytes may be damaged. Decoding rejects what no encoder can have written, so that callers never meet a count of
zero or a bucket out of range.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import Final

from exporter.model.histogram import HIGHEST_BUCKET, ZERO_BUCKET, Digest

MARK_SECONDS: Final = 300
"""Distance of the marks, at which evaluation windows of the past end."""

_MAX_BITS: Final = 63


class DamagedDigestError(ValueError):
    """Stored bytes are not a valid encoding."""


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _put_digest(out: bytearray, digest: Digest) -> None:
    entries = list(digest)
    _put_varint(out, len(entries))
    if not entries:
        return
    previous = entries[0][0]
    _put_varint(out, previous << 1 if previous >= 0 else (-previous << 1) - 1)
    previous -= 1
    for bucket, count in entries:
        gap = bucket - previous - 1
        _put_varint(out, count << 1 | (gap > 0))
        if gap:
            _put_varint(out, gap)
        previous = bucket


# The parsing functions below return a value and the position after it, and raise IndexError where the bytes are
# truncated. Evaluating a week of history decodes millions of buckets, so these loops are kept minimal.


def _varint(data: bytes, position: int) -> tuple[int, int]:
    byte = data[position]
    position += 1
    value = byte & 0x7F
    shift = 7
    while byte > 0x7F:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
    if shift > _MAX_BITS:
        raise DamagedDigestError(f"the number before byte {position} has more than {_MAX_BITS} bits")
    return value, position


def _counts(data: bytes, position: int) -> tuple[dict[int, int], int]:
    entries, position = _varint(data, position)
    if not entries:
        return {}, position
    zigzag, position = _varint(data, position)
    first = zigzag >> 1 if not zigzag & 1 else -(zigzag + 1 >> 1)
    bucket = first - 1
    result: dict[int, int] = {}
    for _ in range(entries):
        token = data[position]
        if token <= 0x7F:
            position += 1
        else:
            token, position = _varint(data, position)
        bucket += 1
        if token & 1:
            gap = data[position]
            if gap <= 0x7F:
                position += 1
            else:
                gap, position = _varint(data, position)
            bucket += gap
        result[bucket] = token >> 1
    if first < ZERO_BUCKET or bucket > HIGHEST_BUCKET:
        raise DamagedDigestError(f"buckets {first} to {bucket} are out of range")
    if 0 in result.values():
        raise DamagedDigestError("a bucket has a count of zero")
    return result, position


def _truncated(data: bytes) -> DamagedDigestError:
    return DamagedDigestError(f"truncated within a number after {len(data)} bytes")


def _expect_end(data: bytes, position: int) -> None:
    if position != len(data):
        raise DamagedDigestError(f"{len(data) - position} bytes follow the end")


def encode_digest(digest: Digest) -> bytes:
    """Encode a digest."""
    out = bytearray()
    _put_digest(out, digest)
    return bytes(out)


def decode_digest(data: bytes) -> Digest:
    """Decode a digest.

    Raises:
        DamagedDigestError: the bytes are not a result of :func:`encode_digest`.
    """
    return Digest(decode_counts(data))


def decode_counts(data: bytes) -> dict[int, int]:
    """Decode the sparse counts of a digest, in ascending order of buckets; cheaper than the digest for pooling.

    Raises:
        DamagedDigestError: the bytes are not a result of :func:`encode_digest`.
    """
    try:
        counts, position = _counts(data, 0)
    except IndexError:
        raise _truncated(data) from None
    _expect_end(data, position)
    return counts


# The first byte of encoded marks has two flags.
_DEFLATED: Final = 1
_ASSIGNED: Final = 2
_MIN_DEFLATED_BYTES: Final = 64
_MAX_ASSIGNED_SAMPLES: Final = 1_500
"""With more samples, one digest for each mark is shorter."""
_DIGITS: Final = "0123456789abcdef"


def encode_marks(marks: Mapping[int, Digest]) -> bytes:
    """Encode the marks of a window.

    Args:
        marks: digests by offset, which is not negative and 1 for the first five minutes of a window that starts at a
            mark. Their sum is the digest of the window.
    """
    kind = 0
    if (
        len(marks) <= len(_DIGITS)
        and max(marks, default=0) < _MAX_BITS
        and sum(digest.count for digest in marks.values()) <= _MAX_ASSIGNED_SAMPLES
    ):
        kind = _ASSIGNED
        out = _assign(marks)
    else:
        out = bytearray()
        _put_varint(out, len(marks))
        for offset in sorted(marks):
            _put_varint(out, offset)
            _put_digest(out, marks[offset])
    if len(out) >= _MIN_DEFLATED_BYTES:
        deflated = zlib.compress(out, wbits=-zlib.MAX_WBITS)
        if len(deflated) < len(out):
            return bytes([kind | _DEFLATED]) + deflated
    return bytes([kind]) + bytes(out)


def decode_marks(data: bytes, window: Mapping[int, int]) -> dict[int, list[int]]:
    """Decode marks into the sorted buckets of their samples, by offset.

    Args:
        data: result of :func:`encode_marks`.
        window: counts of the window's digest, in ascending order of buckets.

    Raises:
        DamagedDigestError: the bytes are not a result of :func:`encode_marks`, or belong to another window.
    """
    try:
        kind, data = data[0], data[1:]
        if kind > (_ASSIGNED | _DEFLATED):
            raise DamagedDigestError(f"unknown kind {kind} of marks")
        if kind & _DEFLATED:
            data = zlib.decompress(data, wbits=-zlib.MAX_WBITS)
        return _decode_assigned(data, window) if kind & _ASSIGNED else _decode_digests(data, window)
    except zlib.error as error:
        raise DamagedDigestError(str(error)) from None
    except IndexError:
        raise _truncated(data) from None


def _decode_digests(data: bytes, window: Mapping[int, int]) -> dict[int, list[int]]:
    size, position = _varint(data, 0)
    marks: dict[int, dict[int, int]] = {}
    for _ in range(size):
        offset, position = _varint(data, position)
        marks[offset], position = _counts(data, position)
    _expect_end(data, position)
    # Expand counts to samples only after this check: a damaged count could exhaust the memory.
    if sum(sum(counts.values()) for counts in marks.values()) != sum(window.values()):
        raise DamagedDigestError("the marks and the window differ in their number of samples")
    return {offset: list(_samples(counts)) for offset, counts in marks.items()}


def _samples(counts: Mapping[int, int]) -> Iterator[int]:
    return chain.from_iterable(map(repeat, counts, counts.values()))


def _assign(marks: Mapping[int, Digest]) -> bytearray:
    """Encode a bit set of the offsets, then for each sample in ascending order the 4-bit index of its offset."""
    out = bytearray()
    offsets = sorted(marks)
    _put_varint(out, sum(1 << offset for offset in offsets))
    if len(offsets) > 1:
        samples = sorted(
            (bucket, digit, count)
            for digit, offset in zip(_DIGITS, offsets, strict=False)
            for bucket, count in marks[offset]
        )
        digits = "".join(digit * count for _, digit, count in samples)
        out += bytes.fromhex(digits if len(digits) % 2 == 0 else digits + _DIGITS[0])
    return out


def _decode_assigned(data: bytes, window: Mapping[int, int]) -> dict[int, list[int]]:
    bits, position = _varint(data, 0)
    offsets = _offsets(bits)
    digits = data[position:].hex()
    samples = sum(window.values())
    if samples > _MAX_ASSIGNED_SAMPLES or (samples and not offsets):
        raise DamagedDigestError(f"{samples} samples cannot be assigned to {len(offsets)} marks")
    if len(offsets) <= 1:
        _expect_end(data, position)
        return {offset: list(_samples(window)) for offset in offsets}
    if len(digits) != samples + samples % 2:
        raise DamagedDigestError(f"{len(digits)} half bytes do not assign {samples} samples")
    assigned: dict[str, list[int]] = {digit: [] for digit in _DIGITS[: len(offsets)]}
    try:
        for digit, bucket in zip(digits, _samples(window)):  # noqa: B905 - an odd number of samples leaves half a byte
            assigned[digit].append(bucket)
    except KeyError as error:
        raise DamagedDigestError(f"a sample is assigned to an unknown mark {error}") from None
    return dict(zip(offsets, assigned.values()))  # noqa: B905 - equal length by construction


@lru_cache(maxsize=4096)
def _offsets(bits: int) -> tuple[int, ...]:
    offsets = tuple(offset for offset in range(bits.bit_length()) if bits >> offset & 1)
    if len(offsets) > len(_DIGITS):
        raise DamagedDigestError(f"{len(offsets)} marks exceed the 4-bit index")
    return offsets


def encode_numbers(numbers: Sequence[int]) -> bytes:
    """Encode integers as varints; none may be negative."""
    out = bytearray()
    for number in numbers:
        _put_varint(out, number)
    return bytes(out)


def decode_numbers(data: bytes) -> list[int]:
    """Decode the result of :func:`encode_numbers`.

    Raises:
        DamagedDigestError: the bytes are truncated, or a number has more than 63 bits.
    """
    numbers = []
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        if byte > 0x7F:
            shift += 7
            if shift >= _MAX_BITS:
                raise DamagedDigestError(f"a number has more than {_MAX_BITS} bits")
        else:
            numbers.append(value)
            value = shift = 0
    if shift:
        raise _truncated(data)
    return numbers
