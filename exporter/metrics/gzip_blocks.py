"""One gzip member of blocks that were compressed apart, so that a block that has not changed is compressed once.

Each block is a deflate stream of its own (RFC 1951) that ends at a byte and not with the last bit set, so such streams
can be joined in any order. The checksum of the whole follows from those of the blocks, without the content: a CRC is a
polynomial over GF(2), and appending ``n`` bytes multiplies it by ``x^8n``, as zlib's ``crc32_combine`` does.

All of it is one member: RFC 1952 (2.2) allows several, but browsers silently show only the first, and curl fails.
"""

import zlib
from functools import cache
from struct import Struct
from typing import Final, NamedTuple

_COMPRESSION_LEVEL: Final = 1
"""The page is repetitive: higher levels save little and cost many times as much CPU."""
_RAW_WBITS: Final = -zlib.MAX_WBITS
"""Makes zlib write deflate data alone."""
HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
"""Deflate, without a name or a time; compressed fast, on an unknown system."""
_TRAILER: Final = Struct("<II")
_SIZE_BITS: Final = 32

_POLYNOMIAL: Final = 0xEDB88320
"""That of CRC-32, with the lowest power in the highest bit."""
_ONE: Final = 1 << 31


class GzipBlock(NamedTuple):
    """A compressed part of a member.

    Attributes:
        data: deflate data that is complete and not the last.
        crc: CRC-32 of the content.
        size: length of the content in bytes.
        shift: what the CRC of preceding content is multiplied by.
    """

    data: bytes
    crc: int
    size: int
    shift: int

    @classmethod
    def of(cls, content: bytes) -> "GzipBlock":
        """Compress content."""
        compressor = zlib.compressobj(level=_COMPRESSION_LEVEL, wbits=_RAW_WBITS)
        data = compressor.compress(content) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return cls(data, zlib.crc32(content), len(content), _power_of_x(8 * len(content)))


class Checksum(NamedTuple):
    """The CRC-32 of some content, and its length in bytes."""

    crc: int = 0
    size: int = 0

    def then(self, block: GzipBlock) -> "Checksum":
        """Return the checksum of this content and then that of a block."""
        return Checksum(_product(block.shift, self.crc) ^ block.crc, self.size + block.size)


def last_block(content: bytes, before: Checksum) -> bytes:
    """Return the end of a member.

    Args:
        content: what it still has to contain.
        before: the checksum of all that precedes it.
    """
    compressor = zlib.compressobj(level=_COMPRESSION_LEVEL, wbits=_RAW_WBITS)
    data = compressor.compress(content) + compressor.flush()
    crc = _product(_power_of_x(8 * len(content)), before.crc) ^ zlib.crc32(content)
    return data + _TRAILER.pack(crc, (before.size + len(content)) % (1 << _SIZE_BITS))


def _product(a: int, b: int) -> int:
    """Multiply two polynomials modulo that of CRC-32."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ _POLYNOMIAL if b & 1 else b >> 1
    return product


def _power_of_x(exponent: int) -> int:
    """Return ``x^exponent`` modulo the polynomial of CRC-32."""
    power, bit = _ONE, 0
    while exponent:
        if exponent & 1:
            power = _product(_power_of_two(bit), power)
        exponent >>= 1
        bit += 1
    return power


@cache
def _power_of_two(bit: int) -> int:
    """Return ``x^(2^bit)`` modulo the polynomial of CRC-32."""
    if not bit:
        return _ONE >> 1
    half = _power_of_two(bit - 1)
    return _product(half, half)
