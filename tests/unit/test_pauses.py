"""The collector is spared what stays, and loses nothing of what does not."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from exporter.pauses import set_aside


class Node:
    """Something that can stand in a cycle."""

    def __init__(self) -> None:
        self.other: Node = self


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_stays_is_not_looked_at_again() -> None:
    kept = [Node() for _ in range(10_000)]
    set_aside()
    looked_at = {id(each) for each in gc.get_objects()}
    assert not looked_at & {id(node) for node in kept}


def test_a_cycle_that_falls_away_is_collected_the_next_time() -> None:
    node = Node()
    seen = weakref.ref(node)
    set_aside()
    del node
    gc.collect()
    assert seen() is not None
    set_aside()
    assert seen() is None


def test_what_stands_in_no_cycle_is_freed_at_once() -> None:
    node = Node()
    del node.other
    seen = weakref.ref(node)
    set_aside()
    del node
    assert seen() is None
