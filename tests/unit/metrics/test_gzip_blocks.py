import gzip
import zlib

from hypothesis import given
from hypothesis import strategies as st

from exporter.metrics.gzip_blocks import HEADER, Checksum, GzipBlock, last_block

CONTENT = st.binary(max_size=200) | st.binary(min_size=1, max_size=9).map(lambda some: some * 10_000)


def member(blocks: list[GzipBlock], rest: bytes) -> bytes:
    checksum = Checksum()
    for block in blocks:
        checksum = checksum.then(block)
    return b"".join((HEADER, *(block.data for block in blocks), last_block(rest, checksum)))


@given(st.lists(CONTENT, max_size=5), CONTENT)
def test_blocks_can_be_joined_in_any_order(contents: list[bytes], rest: bytes) -> None:
    blocks = [(content, GzipBlock.of(content)) for content in contents]
    for ordered in (blocks, blocks[::-1], blocks * 2):
        found = member([block for _, block in ordered], rest)
        assert gzip.decompress(found) == b"".join(content for content, _ in ordered) + rest


def test_the_member_ends_with_the_last_block() -> None:
    decompressor = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    assert decompressor.decompress(member([GzipBlock.of(b"a"), GzipBlock.of(b"b")], b"c")) == b"abc"
    assert (decompressor.eof, decompressor.unused_data) == (True, b"")
