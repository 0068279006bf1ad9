"""Decoding of many digests and marks at once into arrays; the same as :mod:`.histogram_codec`, for long histories.

What no encoder has written, and what an encoder writes only for very many samples, is left to that module.
"""

import zlib
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.model.histogram import HIGHEST_BUCKET, ZERO_BUCKET
from exporter.model.histogram_codec import MAX_ASSIGNED_MARKS, assigned_marks

Integers = npt.NDArray[np.int64]

_MAX_BYTES = 8


class UnsuitableError(ValueError):
    """Stored bytes cannot be decoded here; maybe they can elsewhere."""


class Digests(NamedTuple):
    """Decoded digests.

    Attributes:
        lengths: number of buckets of each.
        buckets: the buckets of all, in order.
        counts: their counts.
    """

    lengths: Integers
    buckets: Integers
    counts: Integers


def decode_digests(encoded: Sequence[bytes]) -> Digests:
    """Decode digests that are not empty.

    Raises:
        UnsuitableError: some of them is empty or damaged.
    """
    data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    begins = np.concatenate([[0], np.cumsum([len(each) for each in encoded])])
    last_bytes = np.flatnonzero(data < 0x80)
    if not len(encoded) or (np.diff(begins) == 0).any() or (data[begins[1:] - 1] >= 0x80).any():
        raise UnsuitableError
    sizes = np.diff(last_bytes, prepend=-1)
    if sizes.max() > _MAX_BYTES:
        raise UnsuitableError
    numbers = data[last_bytes].astype(np.int64) << 7 * (sizes - 1)
    for earlier in range(1, int(sizes.max())):
        longer = np.flatnonzero(sizes > earlier)
        bits = (data[last_bytes[longer] - earlier] & 0x7F).astype(np.int64)
        numbers[longer] += bits << 7 * (sizes[longer] - 1 - earlier)
    # Of each digest: the number of its buckets, the first bucket, and then counts, some of them followed by a gap.
    heads = np.searchsorted(last_bytes, begins)
    firsts, behind = heads[:-1], heads[1:]
    if (behind - firsts < 3).any():
        raise UnsuitableError
    has_gap = (numbers & 1).astype(bool)
    has_gap[firsts] = has_gap[firsts + 1] = False
    # A number is a gap if the one before is a count that has one. Of consecutive numbers that could have one, every
    # second is a gap.
    positions = np.arange(len(numbers))
    without = np.maximum.accumulate(np.where(has_gap, 0, positions))
    is_count = np.ones(len(numbers), dtype=bool)
    is_count[1:] = (positions[:-1] - without[:-1]) % 2 == 0
    if (is_count & has_gap)[behind - 1].any():
        raise UnsuitableError
    is_count[firsts] = is_count[firsts + 1] = False
    counted = np.flatnonzero(is_count)
    lengths = np.diff(np.searchsorted(counted, heads))
    counts = numbers[counted] >> 1
    if (lengths != numbers[firsts]).any() or not counts.all():
        raise UnsuitableError
    gapped = has_gap[counted]
    steps = np.ones(len(counted), dtype=np.int64)
    steps[gapped] += numbers[counted[gapped] + 1]
    zigzag = numbers[firsts + 1]
    first_buckets = np.where(zigzag & 1, -(zigzag + 1 >> 1), zigzag >> 1)
    # From the end of one digest to the first bucket of the next: it has no gap before it that counts.
    sums = np.cumsum(steps)
    starts = np.cumsum(lengths) - lengths
    buckets = sums + np.repeat(first_buckets - 1 - (sums[starts] - steps[starts]), lengths)
    if buckets.min() < ZERO_BUCKET or buckets.max() > HIGHEST_BUCKET or first_buckets.min() < ZERO_BUCKET:
        raise UnsuitableError
    return Digests(lengths, buckets, counts)


class AssignedMarks(NamedTuple):
    """Decoded marks of windows.

    Attributes:
        offsets: of each window the offsets of its marks, in ascending order, without those behind its last.
        samples: number of samples at each of these marks; 0 behind the last.
        indices: of each sample, in the order of windows and then of buckets, the index of its mark.
    """

    offsets: Integers
    samples: Integers
    indices: Integers


def decode_marks(encoded: Sequence[bytes], samples: Integers) -> AssignedMarks:
    """Decode the marks of windows.

    Args:
        encoded: marks of each window, with a mark for each sample.
        samples: number of samples of each window.

    Raises:
        UnsuitableError: some of them are damaged, missing, or have a digest for each mark.
    """
    all_offsets: list[tuple[int, ...]] = []
    digits: list[bytes] = []
    try:
        for data, size in zip(encoded, samples.tolist(), strict=True):
            found = assigned_marks(data)
            if found is None:
                raise UnsuitableError
            offsets, of_window = found
            needed = (size + 1) // 2
            if len(offsets) == 1 and not of_window:
                of_window = bytes(needed)
            if len(of_window) != needed:
                raise UnsuitableError
            all_offsets.append(offsets)
            digits.append(of_window)
    except (ValueError, IndexError, zlib.error):
        raise UnsuitableError from None
    packed = np.frombuffer(b"".join(digits), dtype=np.uint8)
    halves = np.empty(2 * len(packed), dtype=np.uint8)
    halves[::2], halves[1::2] = packed >> 4, packed & 0xF
    # An odd number of samples leaves half a byte.
    odd = samples % 2 == 1
    kept = np.ones(len(halves), dtype=bool)
    kept[(np.cumsum(samples + odd) - 1)[odd]] = False
    indices = halves[kept].astype(np.int64)
    number = len(encoded)
    known = np.array([len(each) for each in all_offsets])
    is_known = np.arange(MAX_ASSIGNED_MARKS) < known[:, None]
    offsets_of = np.zeros((number, MAX_ASSIGNED_MARKS), dtype=np.int64)
    offsets_of[is_known] = np.fromiter(chain.from_iterable(all_offsets), dtype=np.int64)
    by_mark = np.bincount(
        np.repeat(np.arange(number), samples) * MAX_ASSIGNED_MARKS + indices, minlength=MAX_ASSIGNED_MARKS * number
    ).reshape(number, MAX_ASSIGNED_MARKS)
    if ((by_mark > 0) != is_known).any():
        raise UnsuitableError
    return AssignedMarks(offsets_of, by_mark, indices)
