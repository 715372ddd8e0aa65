"""The append-only file, read by a parser of our own: what a server must hold when the file ends at any byte.

A file is a row of units: one command, or everything from MULTI to EXEC. A server that loads a file cut somewhere has the
units that are whole, and nothing of the one that is not. :class:`Keyspace` replays units in plain Python, so the expectation
owes nothing to a server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import redis

from market_data_pipeline.codec import decode
from market_data_pipeline.packing import unseal

Arguments = Sequence[bytes]
StreamEntry = tuple[bytes, bytes]
"""Id and frame."""

_WITHOUT_EFFECT = {b"SELECT", b"PING", b"PEXPIRE", b"PEXPIREAT", b"FUNCTION", b"SCRIPT"}
_FLEETING = re.compile(rb":(leader|wake|worker:[^:]*)$")
"""Keys that run out by themselves, and the list that wakes the coordinator."""


class Unit(NamedTuple):
    """What is loaded together: its commands, and the bytes ``[start, end)`` of the file."""

    start: int
    end: int
    commands: list[list[bytes]]


class Commit(NamedTuple):
    """A task's record key, and the commit id that a unit wrote there."""

    task: bytes
    id: bytes


def last_increment(data_dir: Path) -> Path:
    """The file that the server appends to, as the manifest says."""
    folder = data_dir / "appendonlydir"
    manifest = (folder / "appendonly.aof.manifest").read_text()
    names = re.findall(r"^file (\S+) seq \d+ type i", manifest, re.MULTILINE)
    return folder / str(names[-1])


def commands(data: bytes) -> Iterator[tuple[int, int, list[bytes]]]:
    """Every command with its first byte and the one behind it. Raises ``ValueError`` for what is none."""
    at = 0
    while at < len(data):
        start = at
        count, at = _number(data, at, b"*")
        arguments = []
        for _ in range(count):
            size, at = _number(data, at, b"$")
            arguments.append(data[at : at + size])
            if data[at + size : at + size + 2] != b"\r\n":
                raise ValueError(f"byte {at + size}: an argument does not end there")
            at += size + 2
        yield start, at, arguments


def _number(data: bytes, at: int, mark: bytes) -> tuple[int, int]:
    end = data.index(b"\r\n", at)
    if data[at : at + 1] != mark:
        raise ValueError(f"byte {at}: {data[at : at + 20]!r} instead of {mark!r}")
    return int(data[at + 1 : end]), end + 2


def units(data: bytes) -> list[Unit]:
    """The whole file, which must not end inside a command or a transaction."""
    found: list[Unit] = []
    opened: int | None = None
    inside: list[list[bytes]] = []
    for start, end, arguments in commands(data):
        name = arguments[0].upper()
        if name == b"MULTI":
            opened, inside = start, []
        elif name == b"EXEC":
            assert opened is not None
            found.append(Unit(opened, end, inside))
            opened = None
        elif opened is None:
            found.append(Unit(start, end, [arguments]))
        else:
            inside.append(arguments)
    assert opened is None, "the file ends inside a transaction"
    return found


def commits_of(unit: Unit) -> list[Commit]:
    """The commits that a unit makes: one, none, or (when the job is published) the beginning of every task."""
    return [
        Commit(arguments[1], arguments[arguments.index(b"commit") + 1])
        for arguments in unit.commands
        if arguments[0].upper() == b"HSET" and b":task:" in arguments[1] and b"commit" in arguments[2::2]
    ]


def check_unit(unit: Unit) -> None:
    """Streams, state and counters change in one unit with exactly one commit, or not at all."""
    touched = [a[1] for a in unit.commands if len(a) > 1 and re.search(rb":(q:|state:|bytes$|dlq$|ended$)", a[1])]
    if touched:
        assert len(commits_of(unit)) == 1, f"bytes {unit.start} to {unit.end}: {touched[0]!r} without its commit"


@dataclass
class Keyspace:
    """What the units so far have made. ``appended`` and ``removed`` count the entries of each stream."""

    hashes: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    streams: dict[bytes, list[StreamEntry]] = field(default_factory=dict)
    sets: dict[bytes, set[bytes]] = field(default_factory=dict)
    strings: dict[bytes, bytes] = field(default_factory=dict)
    appended: dict[bytes, int] = field(default_factory=dict)
    removed: dict[bytes, int] = field(default_factory=dict)

    def apply(self, unit: Unit) -> None:
        """Raises ``ValueError`` for a command that is not known here."""
        for arguments in unit.commands:
            name = arguments[0].upper()
            if name in _WITHOUT_EFFECT or _FLEETING.search(arguments[1]):
                continue
            self._apply(name, arguments[1], arguments[2:])

    def _apply(self, name: bytes, key: bytes, rest: Arguments) -> None:
        if name.startswith(b"H"):
            self._apply_hash(name, self.hashes.setdefault(key, {}), rest)
        elif name.startswith(b"X"):
            self._apply_stream(name, key, rest)
        elif name in (b"SADD", b"SREM"):
            members = self.sets.setdefault(key, set())
            self.sets[key] = members | set(rest) if name == b"SADD" else members - set(rest)
        elif name == b"SET":
            self.strings[key] = rest[0]
        elif name == b"INCR":
            self.strings[key] = b"%d" % (int(self.strings.get(key, 0)) + 1)
        elif name in (b"DEL", b"UNLINK"):
            for gone in (key, *rest):
                for part in (self.hashes, self.streams, self.sets, self.strings):
                    part.pop(gone, None)
        else:
            raise ValueError(f"{name!r} is not known here")

    def _apply_hash(self, name: bytes, fields: dict[bytes, bytes], rest: Arguments) -> None:
        match name:
            case b"HSET" | b"HMSET":
                fields.update(zip(rest[::2], rest[1::2], strict=True))
            case b"HINCRBY":
                fields[rest[0]] = b"%d" % (int(fields.get(rest[0], 0)) + int(rest[1]))
            case b"HDEL":
                for gone in rest:
                    fields.pop(gone, None)
            case _:
                raise ValueError(f"{name!r} is not known here")

    def _apply_stream(self, name: bytes, key: bytes, rest: Arguments) -> None:
        match name:
            case b"XADD":
                self.streams.setdefault(key, []).append((rest[0], rest[2]))
                self.appended[key] = self.appended.get(key, 0) + 1
            case b"XTRIM":
                self._trim(key, rest)
            case _:
                raise ValueError(f"{name!r} is not known here")

    def _trim(self, key: bytes, rest: Arguments) -> None:
        if rest[0].upper() != b"MINID" or b"~" in rest:
            raise ValueError(f"XTRIM {rest!r}: only an exact MINID is known here")
        least = _order(rest[-1])
        entries = self.streams.get(key, [])
        kept = [entry for entry in entries if _order(entry[0]) >= least]
        self.removed[key] = self.removed.get(key, 0) + len(entries) - len(kept)
        self.streams[key] = kept

    def contents(self) -> dict[bytes, object]:
        """Everything that is not empty, comparable."""
        parts = (self.hashes, self.streams, self.sets, self.strings)
        return {key: value for part in parts for key, value in part.items() if value}

    def check(self) -> None:
        """The parts agree with each other: counters with streams, what came with what went, every checksum."""
        for key, entries in self.streams.items():
            left = self.appended.get(key, 0) - self.removed.get(key, 0)
            assert left == len(entries), f"{key!r}: {left} entries left, {len(entries)} there"
        check_contents(self.contents())


def check_contents(contents: dict[bytes, object]) -> None:
    """A keyspace is consistent in itself: bytes counted are bytes there, and every checksum is right."""
    for key, value in contents.items():
        if key.endswith(b":bytes"):
            assert isinstance(value, dict)
            for stream, counted in value.items():
                entries = contents.get(stream, [])
                assert isinstance(entries, list)
                assert int(counted) == sum(len(frame) for _, frame in entries), f"{stream!r}: bytes"
        elif b":state:" in key:
            assert isinstance(value, dict)
            for name, blob in value.items():
                unseal(blob, f"{key!r} {name!r}")
        elif b":task:" in key:
            assert isinstance(value, dict)
            assert not value[b"meta"] or unseal(value[b"meta"], f"{key!r} meta")
        elif b":q:" in key:
            assert isinstance(value, list)
            for _, frame in value:
                decode(frame)


def _order(entry_id: bytes) -> tuple[int, int]:
    millis, _, sequence = entry_id.partition(b"-")
    return int(millis), int(sequence or 0)


def server_contents(client: redis.Redis) -> dict[bytes, object]:
    """The same of a server that runs."""
    keys = [key for key in client.scan_iter("*", count=1000) if not _FLEETING.search(key)]
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.type(key)
    kinds = pipe.execute()
    for key, kind in zip(keys, kinds, strict=True):
        match kind:
            case b"hash":
                pipe.hgetall(key)
            case b"stream":
                pipe.xrange(key)
            case b"set":
                pipe.smembers(key)
            case _:
                pipe.get(key)
    found: dict[bytes, object] = {}
    for key, kind, value in zip(keys, kinds, pipe.execute(), strict=True):
        found[key] = [(i, next(iter(f.values()))) for i, f in value] if kind == b"stream" else value
    return {key: value for key, value in found.items() if value}
