"""The beginning of an answer that is made once for all who ask, and what makes an answer of it for each of them.

Compressed, both together are one gzip member. Members may follow one another by RFC 1952 (2.2), so each part could be
one of its own, but of several a browser shows the first without a word, and curl fails.
"""

import zlib
from dataclasses import dataclass, field
from typing import Final, Self

_LEVEL: Final = 1
"""A page of metrics is repetitive enough, and higher levels cost many times as much."""
_GZIP: Final = zlib.MAX_WBITS + 16
"""How zlib is asked for gzip's header and checksum around what it deflates."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """The beginning of an answer as it is sent.

    Attributes:
        data: it; nothing of it changes with what follows.
    """

    data: bytes
    _compressor: "zlib._Compress | None" = field(default=None, repr=False)

    @classmethod
    def of(cls, content: bytes, *, gzipped: bool) -> Self:
        """What says something, compressed or not."""
        if not gzipped:
            return cls(content)
        compressor = zlib.compressobj(level=_LEVEL, wbits=_GZIP)
        # Flushed, so that all of it is out before anything follows.
        return cls(compressor.compress(content) + compressor.flush(zlib.Z_SYNC_FLUSH), compressor)

    def end(self, content: bytes) -> bytes:
        """What is sent after it to say something more, and be done."""
        if self._compressor is None:
            return content
        compressor = self._compressor.copy()
        return compressor.compress(content) + compressor.flush()
