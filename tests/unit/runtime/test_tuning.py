"""Garbage collection: frozen objects are not visited, young ones rarely, and nothing leaks."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from exporter.runtime.tuning import collect_seldom, freeze_gc


class Node:
    """An object that can be part of a cycle."""

    def __init__(self) -> None:
        self.other: Node = self


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_frozen_objects_are_not_visited() -> None:
    kept = [Node() for _ in range(10_000)]
    freeze_gc()
    visited = {id(each) for each in gc.get_objects()}
    assert not visited & {id(node) for node in kept}


def test_a_frozen_cycle_is_freed_by_the_next_freeze() -> None:
    node = Node()
    seen = weakref.ref(node)
    freeze_gc()
    del node
    gc.collect()
    assert seen() is not None
    freeze_gc()
    assert seen() is None


def test_a_frozen_object_without_a_cycle_is_freed_at_once() -> None:
    node = Node()
    del node.other
    seen = weakref.ref(node)
    freeze_gc()
    del node
    assert seen() is None


def test_young_objects_are_collected_rarely() -> None:
    collect_seldom()
    gc.collect()
    before = gc.get_stats()[0]["collections"]
    kept = [Node() for _ in range(5_000)]
    assert gc.get_stats()[0]["collections"] == before
    kept += [Node() for _ in range(10_000)]
    assert gc.get_stats()[0]["collections"] > before
    assert len(kept) == 15_000
