"""The beginning of an answer that is made once for all who ask, and what makes an answer of it for each of them.

Compressed, both together are one gzip member. Members may follow one another by RFC 1952 (2.2), so each part could be
one of its own, but of several a browser shows the first without a word, and curl fails.
"""

import zlib
from dataclasses import dataclass
from typing import Final, Self

_HEADER: Final = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x04\xff"
"""Deflate, no name and no time, compressed for speed, on no system in particular."""
_LEVEL: Final = 1
"""A page of metrics is repetitive enough, and higher levels cost many times as much."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """The beginning of an answer as it is sent.

    Attributes:
        data: it; nothing of it changes with what follows.
        gzipped: whether it is compressed.
        checksum: CRC-32 of what it says.
        size: the length of that, in bytes.
    """

    data: bytes
    gzipped: bool
    checksum: int = 0
    size: int = 0

    @classmethod
    def of(cls, content: bytes, *, gzipped: bool) -> Self:
        """What says something, compressed or not."""
        if not gzipped:
            return cls(content, gzipped)
        # Flushed, so that it ends with a whole byte, and what follows is compressed without knowing it.
        return cls(_HEADER + _deflated(content, zlib.Z_SYNC_FLUSH), gzipped, zlib.crc32(content), len(content))

    def end(self, content: bytes) -> bytes:
        """What is sent after it to say something more, and be done."""
        if not self.gzipped:
            return content
        checksum, size = zlib.crc32(content, self.checksum), self.size + len(content)
        return b"".join(
            (
                _deflated(content, zlib.Z_FINISH),
                checksum.to_bytes(4, "little"),
                (size % (1 << 32)).to_bytes(4, "little"),
            )
        )


def _deflated(content: bytes, flush: int) -> bytes:
    compressor = zlib.compressobj(level=_LEVEL, wbits=-zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush(flush)
