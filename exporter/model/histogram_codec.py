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

Failures are the numbers of failed samples by mark, in ascending order: ``count << 1 | has_gap``, followed, where the
flag is set, by the number of marks without failures before this one. A window without failures takes no byte.

Sums of squares are encoded with the width of each number first, two bits each, and then the numbers that are not zero.

Stored bytes may be damaged. Decoding rejects what no encoder can have written, so that callers never meet a count of
zero or a bucket out of range.
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, chain, repeat
from operator import itemgetter
from typing import Final

from exporter.model.histogram import HIGHEST_BUCKET, ZERO_BUCKET, Digest

MARK_SECONDS: Final = 300
"""Distance of the marks, at which evaluation windows of the past end."""

_MAX_BITS: Final = 63
_WIDTHS: Final = ("", "B", "H", "I")
"""Formats of the numbers of each width, for :mod:`struct`."""
_CODE_OF_LENGTH: Final = bytes((length > 0) + (length > 8) + (length > 16) for length in range(256))
"""The widths of numbers by their length in bits, as positions in :data:`_WIDTHS`."""


class DamagedDigestError(ValueError):
    """Stored bytes are not a valid encoding."""


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _put_counts(out: bytearray, counts: Mapping[int, int]) -> None:
    _put_varint(out, len(counts))
    if not counts:
        return
    previous = next(iter(counts))
    _put_varint(out, previous << 1 if previous >= 0 else (-previous << 1) - 1)
    previous -= 1
    for bucket, count in counts.items():
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
    entries = data[position]
    if entries <= 0x7F:
        position += 1
    else:
        entries, position = _varint(data, position)
    if not entries:
        return {}, position
    zigzag = data[position]
    if zigzag <= 0x7F:
        position += 1
    elif (following := data[position + 1]) <= 0x7F:
        zigzag = zigzag & 0x7F | following << 7
        position += 2
    else:
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
    return encode_counts(dict(digest))


def encode_counts(counts: Mapping[int, int]) -> bytes:
    """Encode a digest, given as positive counts in ascending order of buckets."""
    out = bytearray()
    _put_counts(out, counts)
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
MAX_ASSIGNED_MARKS: Final = len(_DIGITS)
"""Each sample has four bits for the index of its mark."""


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
            _put_counts(out, dict(marks[offset]))
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
        if data[0] == _ASSIGNED:
            return _decode_assigned(data, 1, window)
        kind, data = _inflated(data)
        return _decode_assigned(data, 0, window) if kind & _ASSIGNED else _decode_digests(data, window)
    except zlib.error as error:
        raise DamagedDigestError(str(error)) from None
    except IndexError:
        raise _truncated(data) from None


def count_marks(data: bytes, samples: int) -> dict[int, int]:
    """Decode the number of samples alone, by offset.

    Args:
        data: result of :func:`encode_marks`.
        samples: number of samples in the window.

    Raises:
        DamagedDigestError: the bytes are not a result of :func:`encode_marks`, or belong to another window.
    """
    try:
        assigned = assigned_marks(data)
        if assigned is None:
            counts = {offset: sum(counts.values()) for offset, counts in _digests(_inflated(data)[1]).items()}
        else:
            offsets, half_bytes = assigned
            digits = half_bytes.hex() if len(offsets) > 1 else _DIGITS[0] * (samples + samples % 2)
            if len(digits) != samples + samples % 2:
                raise DamagedDigestError(f"{len(digits)} half bytes do not assign {samples} samples")
            counts = {offset: digits.count(digit, 0, samples) for offset, digit in zip(offsets, _DIGITS, strict=False)}
    except zlib.error as error:
        raise DamagedDigestError(str(error)) from None
    except IndexError:
        raise _truncated(data) from None
    if sum(counts.values()) != samples:
        raise DamagedDigestError("the marks and the window differ in their number of samples")
    return counts


def decode_offsets(data: bytes) -> tuple[int, ...]:
    """Decode the offsets alone, in ascending order.

    Args:
        data: result of :func:`encode_marks`.

    Raises:
        DamagedDigestError: the bytes are not a result of :func:`encode_marks`.
    """
    try:
        if data[0] == _ASSIGNED:
            return _offsets(_varint(data, 1)[0])
        kind, data = _inflated(data)
        return _offsets(_varint(data, 0)[0]) if kind & _ASSIGNED else tuple(_digests(data))
    except zlib.error as error:
        raise DamagedDigestError(str(error)) from None
    except IndexError:
        raise _truncated(data) from None


def _inflated(data: bytes) -> tuple[int, bytes]:
    """Return the flags of encoded marks, and what follows them."""
    kind, data = data[0], data[1:]
    if kind > (_ASSIGNED | _DEFLATED):
        raise DamagedDigestError(f"unknown kind {kind} of marks")
    return kind, zlib.decompress(data, wbits=-zlib.MAX_WBITS) if kind & _DEFLATED else data


def assigned_marks(data: bytes) -> tuple[tuple[int, ...], bytes] | None:
    """Return the offsets of assigned marks, in ascending order, and a half byte for each sample: the index of its mark.

    There are no half bytes for a single mark. None for marks that are stored as digests.

    Args:
        data: result of :func:`encode_marks`.

    Raises:
        IndexError: the bytes are truncated.
        zlib.error: they are damaged.
        DamagedDigestError: they are damaged.
    """
    kind, data = _inflated(data)
    if not kind & _ASSIGNED:
        return None
    bits, position = _varint(data, 0)
    return _offsets(bits), data[position:]


def _digests(data: bytes) -> dict[int, dict[int, int]]:
    """Decode a digest for each mark."""
    size, position = _varint(data, 0)
    marks: dict[int, dict[int, int]] = {}
    for _ in range(size):
        offset, position = _varint(data, position)
        marks[offset], position = _counts(data, position)
    _expect_end(data, position)
    return marks


def _decode_digests(data: bytes, window: Mapping[int, int]) -> dict[int, list[int]]:
    marks = _digests(data)
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


def _decode_assigned(data: bytes, position: int, window: Mapping[int, int]) -> dict[int, list[int]]:
    bits, position = _varint(data, position)
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


def encode_failures(failures: Mapping[int, int]) -> bytes:
    """Encode the number of failed samples by mark.

    Args:
        failures: positive numbers by offset, as in :func:`encode_marks`.
    """
    out = bytearray()
    expected = 0
    for offset in sorted(failures):
        gap = offset - expected
        _put_varint(out, failures[offset] << 1 | (gap > 0))
        if gap:
            _put_varint(out, gap)
        expected = offset + 1
    return bytes(out)


def decode_failures(data: bytes, samples: int) -> dict[int, int]:
    """Decode the number of failed samples by offset, in ascending order.

    Args:
        data: result of :func:`encode_failures`.
        samples: number of samples in the window.

    Raises:
        DamagedDigestError: the bytes are not a result of :func:`encode_failures`, or belong to another window.
    """
    failures: dict[int, int] = {}
    position = offset = 0
    try:
        while position < len(data):
            token, position = _varint(data, position)
            if token & 1:
                gap, position = _varint(data, position)
                offset += gap
            failures[offset] = token >> 1
            offset += 1
    except IndexError:
        raise _truncated(data) from None
    if 0 in failures.values():
        raise DamagedDigestError("a mark has no failures")
    if sum(failures.values()) > samples:
        raise DamagedDigestError(f"{sum(failures.values())} of {samples} samples have failed")
    return failures


def encode_numbers(numbers: Sequence[int]) -> bytes:
    """Encode at least two integers in the range of 32 bits without a sign; zeros take two bits."""
    head, layout = _head(bytes(map(int.bit_length, numbers)).translate(_CODE_OF_LENGTH))
    return head + layout.pack(*filter(None, numbers))


@lru_cache(maxsize=4096)
def _head(codes: bytes) -> tuple[bytes, struct.Struct]:
    """Return the encoded widths of some numbers, and how those that are not zero are packed."""
    widths = sum(code << 2 * index for index, code in enumerate(codes))
    head = widths.to_bytes(head_bytes(len(codes)), "little")
    return head, _layout(head, len(codes))[0]


def decode_numbers(data: bytes, count: int) -> tuple[tuple[int, ...], bytes]:
    """Decode the result of :func:`encode_numbers`, and return the numbers and what follows them.

    Args:
        data: the bytes.
        count: how many numbers were encoded.

    Raises:
        DamagedDigestError: the bytes are truncated.
    """
    size = head_bytes(count)
    head = data[:size]
    if len(head) < size:
        raise _truncated(data)
    layout, place = _layout(head, count)
    try:
        found = place((0, *layout.unpack_from(data, size)))
    except struct.error:
        raise _truncated(data) from None
    return found, data[size + layout.size :]


def head_bytes(count: int) -> int:
    """Return the length of the widths of some numbers, with which the result of :func:`encode_numbers` begins."""
    return -(-count // 4)


@lru_cache(maxsize=4096)
def size_of_numbers(head: bytes, count: int) -> int:
    """Return the length of the result of :func:`encode_numbers`.

    Args:
        head: its first :func:`head_bytes`; fewer yield more than there are.
        count: how many numbers were encoded.
    """
    return head_bytes(count) + _layout(head, count)[0].size


@lru_cache(maxsize=4096)
def _layout(head: bytes, count: int) -> tuple[struct.Struct, Callable[[Sequence[int]], tuple[int, ...]]]:
    """Return how the numbers that are not zero are packed, and a function that puts zeros between them.

    Args:
        head: the widths, in two bits each: 0, 1, 2 or 4 bytes.
        count: how many numbers there are.
    """
    widths = int.from_bytes(head, "little")
    codes = [widths >> 2 * index & 3 for index in range(count)]
    positions = accumulate(map(bool, codes))
    layout = struct.Struct("<" + "".join([_WIDTHS[code] for code in codes]))
    return layout, itemgetter(*[position if code else 0 for position, code in zip(positions, codes, strict=True)])
