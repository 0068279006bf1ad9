"""Digests as bytes: what the database stores.

A digest is a variable-length integer with the number of its entries, the first bucket (zigzag), and for every entry
``count * 2 + (1 if a gap precedes it)`` with the gap behind it. Neighbouring buckets with counts below 64, which is
nearly all there is, take one byte each.

Marks are a window's samples by the five-minute mark of the clock at or before which they *ended*, counted from the
mark at which the window starts, or from the next one where it starts between two: the finer grain that judging the
past needs. What their durations are, the window's digest tells already, so where there are few samples only the mark
of each is stored, in half a byte: the samples are *dealt* out to the marks. Where there are many, so that most marks
hold most buckets, each mark has a digest of its own. Either is deflated where that is shorter.

Stored bytes may be damaged. What cannot have been encoded is refused here, so that nothing behind this module meets a
count of zero or a bucket beyond all durations.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import Final

from exporter.model.histogram import HIGHEST_BUCKET, ZERO_BUCKET, Digest

MARK_SECONDS: Final = 300
"""Distance of the marks in the past at which a window is judged."""


_MOST_BITS: Final = 63


class DamagedDigestError(ValueError):
    """Stored bytes that are no digest."""


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


# What takes something off the front of bytes returns it with the position behind it, and lets an IndexError through
# where the bytes end too soon: judging a week reads millions of entries, so these loops hold no more than they must.


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
    if shift > _MOST_BITS:
        raise DamagedDigestError(f"the number before byte {position} has more than {_MOST_BITS} bits")
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
        raise DamagedDigestError(f"buckets from {first} to {bucket} are none of durations")
    if 0 in result.values():
        raise DamagedDigestError("a bucket without samples")
    return result, position


def _cut(data: bytes) -> DamagedDigestError:
    return DamagedDigestError(f"it ends after {len(data)} bytes, in the middle of a number")


def _finish(data: bytes, position: int) -> None:
    if position != len(data):
        raise DamagedDigestError(f"{len(data) - position} bytes are left over")


def encode_digest(digest: Digest) -> bytes:
    """The bytes of a digest."""
    out = bytearray()
    _put_digest(out, digest)
    return bytes(out)


def decode_digest(data: bytes) -> Digest:
    """The digest of some bytes.

    Raises:
        DamagedDigestError: they are not what :func:`encode_digest` returns.
    """
    return Digest(decode_counts(data))


def decode_counts(data: bytes) -> dict[int, int]:
    """The sparse counts of an encoded digest, by rising bucket: cheaper than the digest where it is only pooled.

    Raises:
        DamagedDigestError: the bytes are not what :func:`encode_digest` returns.
    """
    try:
        counts, position = _counts(data, 0)
    except IndexError:
        raise _cut(data) from None
    _finish(data, position)
    return counts


# The first byte of marks says how they are stored: two bits.
_DEFLATED: Final = 1
_DEALT: Final = 2
_WORTH_DEFLATING_BYTES: Final = 64
_WORTH_DEALING_SAMPLES: Final = 1_500
"""With more of them, digests of the marks are shorter."""
_DIGITS: Final = "0123456789abcdef"


def encode_marks(marks: Mapping[int, Digest]) -> bytes:
    """The bytes of a window's marks: digests by offset, none negative; together they are the window's digest.

    In a window that starts at a mark, 1 is what ended in its first five minutes.
    """
    kind = 0
    if (
        len(marks) <= len(_DIGITS)
        and max(marks, default=0) < _MOST_BITS
        and sum(digest.count for digest in marks.values()) <= _WORTH_DEALING_SAMPLES
    ):
        kind = _DEALT
        out = _deal(marks)
    else:
        out = bytearray()
        _put_varint(out, len(marks))
        for offset in sorted(marks):
            _put_varint(out, offset)
            _put_digest(out, marks[offset])
    if len(out) >= _WORTH_DEFLATING_BYTES:
        deflated = zlib.compress(out, wbits=-zlib.MAX_WBITS)
        if len(deflated) < len(out):
            return bytes([kind | _DEFLATED]) + deflated
    return bytes([kind]) + bytes(out)


def decode_marks(data: bytes, window: Mapping[int, int]) -> dict[int, list[int]]:
    """The buckets of the samples at each mark's offset, from fast to slow.

    Args:
        data: the bytes of a window's marks.
        window: the sparse counts of all its samples, by rising bucket.

    Raises:
        DamagedDigestError: the bytes are not what :func:`encode_marks` returns, or are those of another window.
    """
    try:
        kind, data = data[0], data[1:]
        if kind > (_DEALT | _DEFLATED):
            raise DamagedDigestError(f"it is of the unknown kind {kind}")
        if kind & _DEFLATED:
            data = zlib.decompress(data, wbits=-zlib.MAX_WBITS)
        return _dealt(data, window) if kind & _DEALT else _digests(data, window)
    except zlib.error as error:
        raise DamagedDigestError(str(error)) from None
    except IndexError:
        raise _cut(data) from None


def _digests(data: bytes, window: Mapping[int, int]) -> dict[int, list[int]]:
    size, position = _varint(data, 0)
    marks: dict[int, dict[int, int]] = {}
    for _ in range(size):
        offset, position = _varint(data, position)
        marks[offset], position = _counts(data, position)
    _finish(data, position)
    # Only now is it safe to go from counts to samples: a damaged count may be beyond all memory.
    if sum(sum(counts.values()) for counts in marks.values()) != sum(window.values()):
        raise DamagedDigestError("its marks hold other samples than the window")
    return {offset: list(_samples(counts)) for offset, counts in marks.items()}


def _samples(counts: Mapping[int, int]) -> Iterator[int]:
    return chain.from_iterable(map(repeat, counts, counts.values()))


def _deal(marks: Mapping[int, Digest]) -> bytearray:
    """A set of bits with the offsets, then for each of the window's samples, from fast to slow, which of them it is."""
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


def _dealt(data: bytes, window: Mapping[int, int]) -> dict[int, list[int]]:
    bits, position = _varint(data, 0)
    offsets = _offsets(bits)
    digits = data[position:].hex()
    samples = sum(window.values())
    if samples > _WORTH_DEALING_SAMPLES or (samples and not offsets):
        raise DamagedDigestError(f"{samples} samples are not dealt out to {len(offsets)} marks")
    if len(offsets) <= 1:
        _finish(data, position)
        return {offset: list(_samples(window)) for offset in offsets}
    if len(digits) != samples + samples % 2:
        raise DamagedDigestError(f"{len(digits)} half bytes do not deal out {samples} samples")
    deal: dict[str, list[int]] = {digit: [] for digit in _DIGITS[: len(offsets)]}
    try:
        for digit, bucket in zip(digits, _samples(window)):  # noqa: B905 - there may be half a byte left
            deal[digit].append(bucket)
    except KeyError as error:
        raise DamagedDigestError(f"there is no mark {error}") from None
    return dict(zip(offsets, deal.values()))  # noqa: B905 - they are as many


@lru_cache(maxsize=4096)
def _offsets(bits: int) -> tuple[int, ...]:
    offsets = tuple(offset for offset in range(bits.bit_length()) if bits >> offset & 1)
    if len(offsets) > len(_DIGITS):
        raise DamagedDigestError(f"{len(offsets)} marks are too many to deal out samples to")
    return offsets


def encode_numbers(numbers: Sequence[int]) -> bytes:
    """The bytes of some whole numbers, none negative."""
    out = bytearray()
    for number in numbers:
        _put_varint(out, number)
    return bytes(out)


def decode_numbers(data: bytes) -> list[int]:
    """The numbers that :func:`encode_numbers` wrote.

    Raises:
        DamagedDigestError: the bytes end in the middle of a number, or one is too large.
    """
    numbers = []
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        if byte > 0x7F:
            shift += 7
            if shift >= _MOST_BITS:
                raise DamagedDigestError(f"a number has more than {_MOST_BITS} bits")
        else:
            numbers.append(value)
            value = shift = 0
    if shift:
        raise _cut(data)
    return numbers
