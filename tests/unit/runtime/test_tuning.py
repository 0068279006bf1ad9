"""The collector is spared what stays, looks seldom at what is new, and loses nothing of what falls away."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from exporter.runtime.tuning import collect_seldom, freeze_gc


class Node:
    """Something that can stand in a cycle."""

    def __init__(self) -> None:
        self.other: Node = self


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_what_stays_is_not_looked_at_again() -> None:
    kept = [Node() for _ in range(10_000)]
    freeze_gc()
    looked_at = {id(each) for each in gc.get_objects()}
    assert not looked_at & {id(node) for node in kept}


def test_a_cycle_that_falls_away_is_collected_the_next_time() -> None:
    node = Node()
    seen = weakref.ref(node)
    freeze_gc()
    del node
    gc.collect()
    assert seen() is not None
    freeze_gc()
    assert seen() is None


def test_what_stands_in_no_cycle_is_freed_at_once() -> None:
    node = Node()
    del node.other
    seen = weakref.ref(node)
    freeze_gc()
    del node
    assert seen() is None


def test_what_is_new_is_looked_at_seldom_but_is() -> None:
    collect_seldom()
    gc.collect()
    before = gc.get_stats()[0]["collections"]
    kept = [Node() for _ in range(5_000)]
    assert gc.get_stats()[0]["collections"] == before
    kept += [Node() for _ in range(10_000)]
    assert gc.get_stats()[0]["collections"] > before
    assert len(kept) == 15_000
