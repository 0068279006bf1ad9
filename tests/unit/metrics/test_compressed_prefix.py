"""An answer whose beginning is made once, and its end for each who asks."""

import gzip
import zlib

from hypothesis import given
from hypothesis import strategies as st

from exporter.metrics.exposition import CompressedPrefix

CONTENT = st.binary(max_size=200) | st.binary(min_size=1, max_size=9).map(lambda some: some * 10_000)


@given(CONTENT, st.lists(CONTENT, min_size=1, max_size=3))
def test_the_same_beginning_has_any_end(content: bytes, ends: list[bytes]) -> None:
    plain, packed = (CompressedPrefix.of(content, gzipped=gzipped) for gzipped in (False, True))
    for end in ends:
        assert plain.data + plain.end(end) == content + end
        member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        assert member.decompress(packed.data + packed.end(end)) == content + end
        # One member and no more: browsers and curl read no further.
        assert (member.eof, member.unused_data) == (True, b"")


def test_what_repeats_itself_becomes_short() -> None:
    content = b"tempo_anomaly_score 1.0\n" * 10_000
    packed = CompressedPrefix.of(content, gzipped=True)
    answer = packed.data + packed.end(content)
    assert gzip.decompress(answer) == content * 2
    assert len(answer) < len(content) / 50
