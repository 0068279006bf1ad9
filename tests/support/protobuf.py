"""Decodes Prometheus's protobuf format, without knowing how the exporter encodes it."""

from collections.abc import Iterator
from struct import unpack
from typing import Any, NamedTuple

Fields = dict[int, list[Any]]
"""Values of a message by field number: integers, doubles, and the bytes of strings and messages."""

_MANTISSA_BITS = 7


class ProtobufFamily(NamedTuple):
    """A metric family: its name, type and help, and its metrics as pairs of labels and the fields of the value."""

    name: str
    type: int
    help: str
    metrics: list[tuple[dict[str, str], Fields]]


class NativeHistogram(NamedTuple):
    """A native histogram; buckets are given by the index of the format."""

    spans: int
    seconds: float
    schema: int
    zeros: int
    buckets: dict[int, int]


def decode_families(body: bytes) -> Iterator[ProtobufFamily]:
    """Decode a delimited sequence of families."""
    position = 0
    while position < len(body):
        length, position = _varint(body, position)
        fields = decode(body[position : position + length])
        position += length
        metrics = []
        for encoded in fields.get(4, ()):
            metric = decode(encoded)
            labels = [decode(label) for label in metric.pop(1, ())]
            ((value,),) = metric.values()
            metrics.append(({_text(label, 1): _text(label, 2) for label in labels}, decode(value)))
        yield ProtobufFamily(_text(fields, 1), fields[3][0], _text(fields, 2), metrics)
    assert position == len(body), "the last family is cut"


def decode(message: bytes) -> Fields:
    """Decode the fields of a message."""
    fields: Fields = {}
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        wire_type = tag & 7
        value: Any
        if wire_type == 0:
            value, position = _varint(message, position)
        elif wire_type == 1:
            (value,) = unpack("<d", message[position : position + 8])
            position += 8
        else:
            assert wire_type == 2, wire_type
            length, position = _varint(message, position)
            assert position + length <= len(message)
            value = message[position : position + length]
            position += length
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def native_histogram(fields: Fields) -> NativeHistogram:
    """Interpret the fields of a histogram."""
    deltas = []
    for packed in fields.get(13, ()):
        position = 0
        while position < len(packed):
            value, position = _varint(packed, position)
            deltas.append(_signed(value))
    buckets: dict[int, int] = {}
    index = count = used = 0
    for span in map(decode, fields[12]):
        index += _signed(span[1][0])
        for _ in range(span[2][0]):
            count += deltas[used]
            buckets[index] = count
            used += 1
            index += 1
    assert used == len(deltas), "there are more buckets than the spans hold"
    return NativeHistogram(fields[1][0], fields[2][0], _signed(fields[5][0]), fields[7][0], buckets)


def _text(fields: Fields, number: int) -> str:
    return str(fields[number][0], "utf-8")


def _signed(value: int) -> int:
    return value >> 1 if value % 2 == 0 else -(value >> 1) - 1


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += _MANTISSA_BITS
