"""Which messages of a Kafka log belong to aborted transactions: read from the log itself, batch by batch.

A broker tells consumers what was aborted, beside the messages; the broker of the tests does not, though its log has the
markers. So they are read here: Fetch, version 4, over a plain socket, and the headers of the record batches (magic 2).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

_FETCH, _VERSION = 1, 4
_BATCH = struct.Struct(">qiibIhiqqqhii")
"""Base offset, length, leader's epoch, magic, CRC, attributes, last offset delta, two times, producer, its epoch, sequence,
number of records."""
_TRANSACTIONAL, _CONTROL = 0x10, 0x20


class Batch(NamedTuple):
    """Offsets ``first`` to ``last`` of one producer. ``marker``: ``abort`` or ``commit``, empty for messages."""

    first: int
    last: int
    producer: int
    transactional: bool
    marker: str


def aborted(servers: str, topic: str, partition: int) -> set[int]:
    """Offsets of messages that no consumer that reads committed should see: of transactions that were aborted, or not ended."""
    found, unended = transactions(servers, topic, partition)
    return found | unended


def transactions(servers: str, topic: str, partition: int) -> tuple[set[int], set[int]]:
    """Offsets of messages whose transaction was aborted, and of those whose transaction has no end yet."""
    found: set[int] = set()
    open_ones: dict[int, set[int]] = {}
    for batch in batches(servers, topic, partition):
        if batch.marker == "abort":
            found |= open_ones.pop(batch.producer, set())
        elif batch.marker:
            open_ones.pop(batch.producer, None)
        elif batch.transactional:
            open_ones.setdefault(batch.producer, set()).update(range(batch.first, batch.last + 1))
    return found, set().union(*open_ones.values())


def batches(servers: str, topic: str, partition: int) -> Iterator[Batch]:
    """All batches of the log, in order."""
    host, _, port = servers.partition(":")
    offset = 0
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        while True:
            records = _fetch(connection, topic, partition, offset)
            found = list(_parsed(records))
            yield from (batch for batch in found if batch.last >= offset)
            if not found or found[-1].last < offset:
                return
            offset = found[-1].last + 1


def _fetch(connection: socket.socket, topic: str, partition: int, offset: int) -> bytes:
    name = topic.encode()
    body = struct.pack(">hhih", _FETCH, _VERSION, 1, 4) + b"test"
    body += struct.pack(">iiiib", -1, 100, 1, 64 << 20, 0)  # replica, wait (ms), least, most, read uncommitted
    body += struct.pack(">ih", 1, len(name)) + name + struct.pack(">iiqi", 1, partition, offset, 64 << 20)
    connection.sendall(struct.pack(">i", len(body)) + body)
    (size,) = struct.unpack(">i", _exactly(connection, 4))
    answer = _exactly(connection, size)
    at = 4 + 4 + 4  # correlation, throttle, number of topics
    (length,) = struct.unpack_from(">h", answer, at)
    at += 2 + length + 4
    _, error, _, _, listed = struct.unpack_from(">ihqqi", answer, at)
    assert error == 0, f"fetch of {topic}/{partition} at {offset}: error {error}"
    at += 26 + 16 * max(0, listed)
    (size,) = struct.unpack_from(">i", answer, at)
    return answer[at + 4 : at + 4 + max(0, size)]


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        assert part, "the broker closed the connection"
        parts += part
    return bytes(parts)


def _parsed(records: bytes) -> Iterator[Batch]:
    at = 0
    while at + _BATCH.size <= len(records):
        base, length, _, magic, _, attributes, delta, _, _, producer, _, _, _ = _BATCH.unpack_from(records, at)
        end = at + 12 + length
        if end > len(records):
            return  # cut off: the next fetch has it whole
        assert magic == 2, f"a batch of format {magic}"
        marker = _marker(records[at + _BATCH.size : end]) if attributes & _CONTROL else ""
        yield Batch(base, base + delta, producer, bool(attributes & _TRANSACTIONAL), marker)
        at = end


def _marker(record: bytes) -> str:
    """Of the one record of a control batch: length, attributes, two deltas and the key's length as varints, then the key."""
    at = 0
    for skipped in range(5):
        if skipped == 1:
            at += 1
            continue
        while record[at] & 0x80:
            at += 1
        at += 1
    _, kind = struct.unpack_from(">hh", record, at)
    return ("abort", "commit")[kind]
