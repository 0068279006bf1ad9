"""Digests as bytes: what the database stores.

A digest is a variable-length integer with the number of its entries, the first bucket (zigzag), and for every entry
``count * 2 + (1 if a gap precedes it)`` with the gap behind it. Neighbouring buckets with counts below 64, which is
nearly all there is, take one byte each.

Marks are a window's samples by the five-minute mark of the clock at or before which they *ended*, counted from the
mark at which the window starts, or from the next one where it starts between two: the finer grain that judging the
past needs. They are stored as pairs of offset and digest, deflated where that is shorter: a busy series has much the
same digest at every mark.

Stored bytes may be damaged. What cannot have been encoded is refused here, so that nothing behind this module meets a
count of zero or a bucket beyond all durations.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Final

from exporter.core.digest import HIGHEST_BUCKET, ZERO_BUCKET, Digest

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


class _Reader:
    """Takes integers and digests off the front of some bytes."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def varint(self) -> int:
        data, position = self.data, self.position
        try:
            byte = data[position]
            position += 1
            value = byte & 0x7F
            shift = 7
            while byte > 0x7F:
                byte = data[position]
                position += 1
                value |= (byte & 0x7F) << shift
                shift += 7
        except IndexError:
            raise DamagedDigestError(f"it ends after {len(data)} bytes, in the middle of a number") from None
        if shift > _MOST_BITS:
            raise DamagedDigestError(f"the number before byte {position} has more than {_MOST_BITS} bits")
        self.position = position
        return value

    def counts(self) -> dict[int, int]:
        entries = self.varint()
        if not entries:
            return {}
        zigzag = self.varint()
        first = zigzag >> 1 if not zigzag & 1 else -(zigzag + 1 >> 1)
        bucket = first - 1
        result: dict[int, int] = {}
        data, size = self.data, len(self.data)
        for _ in range(entries):
            # Nearly all tokens are one byte; judging a week decodes millions of them, and a call costs more than this.
            if self.position < size and (token := data[self.position]) <= 0x7F:
                self.position += 1
            else:
                token = self.varint()
            bucket += 1 + (self.varint() if token & 1 else 0)
            result[bucket] = token >> 1
        if first < ZERO_BUCKET or bucket > HIGHEST_BUCKET:
            raise DamagedDigestError(f"buckets from {first} to {bucket} are none of durations")
        if 0 in result.values():
            raise DamagedDigestError("a bucket without samples")
        return result

    def finish(self) -> None:
        if self.position != len(self.data):
            raise DamagedDigestError(f"{len(self.data) - self.position} bytes are left over")


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
    """The sparse counts by bucket of an encoded digest: cheaper than the digest where it is only added to a pool.

    Raises:
        DamagedDigestError: the bytes are not what :func:`encode_digest` returns.
    """
    reader = _Reader(data)
    counts = reader.counts()
    reader.finish()
    return counts


_PLAIN: Final = b"\0"
_DEFLATED: Final = b"\1"
_WORTH_DEFLATING_BYTES: Final = 64


def encode_marks(marks: Mapping[int, Digest]) -> bytes:
    """The bytes of a window's marks: digests by offset, none negative.

    In a window that starts at a mark, 1 is what ended in its first five minutes.
    """
    out = bytearray()
    _put_varint(out, len(marks))
    for offset in sorted(marks):
        _put_varint(out, offset)
        _put_digest(out, marks[offset])
    if len(out) >= _WORTH_DEFLATING_BYTES:
        deflated = zlib.compress(out, wbits=-zlib.MAX_WBITS)
        if len(deflated) < len(out):
            return _DEFLATED + deflated
    return _PLAIN + bytes(out)


def decode_marks(data: bytes) -> dict[int, dict[int, int]]:
    """Sparse counts by bucket for each mark's offset.

    Raises:
        DamagedDigestError: the bytes are not what :func:`encode_marks` returns.
    """
    kind, data = data[:1], data[1:]
    if kind == _DEFLATED:
        try:
            data = zlib.decompress(data, wbits=-zlib.MAX_WBITS)
        except zlib.error as error:
            raise DamagedDigestError(str(error)) from None
    elif kind != _PLAIN:
        raise DamagedDigestError(f"it is of the unknown kind {kind!r}")
    reader = _Reader(data)
    marks = {reader.varint(): reader.counts() for _ in range(reader.varint())}
    reader.finish()
    return marks


def encode_numbers(numbers: Sequence[int]) -> bytes:
    """The bytes of some whole numbers, none negative."""
    out = bytearray()
    for number in numbers:
        _put_varint(out, number)
    return bytes(out)


def decode_numbers(data: bytes) -> list[int]:
    """The numbers that :func:`encode_numbers` wrote.

    Raises:
        DamagedDigestError: the bytes end in the middle of a number.
    """
    reader = _Reader(data)
    numbers = []
    while reader.position < len(data):
        numbers.append(reader.varint())
    return numbers
