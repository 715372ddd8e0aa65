"""Hostile bytes behind a valid checksum: 100,000 mutated frames and state blobs, each decoded or a ``CodecError``, in bounded
memory.

The checksum is made anew after most mutations, so that they reach the parser; it guards against damage, not against malice.
"""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.codec import FRAME_BYTES, decode, encode
from market_data_pipeline.errors import CodecError
from market_data_pipeline.frame import Columns, Dictionary, Frame, columns_from_rows, to_rows
from market_data_pipeline.packing import crc32c, pack, seal, unpack, unseal
from market_data_pipeline.records import Bar, Quote, Trade, Window

MIB = 1024 * 1024
ROUNDS, PER_ROUND = 1000, 100


def samples() -> list[bytes]:
    """One body (an entry without its checksum) of every kind of frame."""
    trades = [Trade(f"S{i % 3}", i, i, i / 7, 1.0, "sell", f"id{i}" if i % 2 else i) for i in range(12)]
    quotes = [Quote("A", i, 0, 1.0, 2.0, 3.0, 4.0) for i in range(3)]
    bars = [Bar("B\u00e9\U0001f600", i, i + 1, 1.0, 2.0, 0.5, 1.5, 9.0, 1.2, 4) for i in range(3)]
    loose = Columns(
        "", {"b": np.array([True, False]), "i": np.arange(2, dtype="<i4"), "d": Dictionary.encode(["x", "y"])}
    )
    nested: Any = 1
    for _ in range(50):
        nested = [nested, {"k": nested if isinstance(nested, int) else None}]
    items: list[Any] = [
        columns_from_rows(trades)[0], columns_from_rows(quotes)[0], columns_from_rows(bars)[0], loose,
        trades[:2], [Window("k", 0, 1, [1, "a", None])], [{"a": b"\x00\xff", "n": -1, "f": 1e300}, nested], [],
    ]  # fmt: skip
    return [encode("origin/0", Frame(made, 7, 8))[:-5] for made in items]


BODIES = samples()
STATES = [pack(unpack(body + b"\x00")) for body in BODIES] + [pack({"k": [1, 2.5, "x", b"y", None, True, -(2**40)]})]
HEADERS = [b"\xdc", b"\xdd", b"\xde", b"\xdf", b"\xc5", b"\xc6", b"\xda", b"\xdb", b"\xc9"]
"""Bytes that announce arrays, maps, bytes, text and extensions, with a length behind them."""


def announce(rng: random.Random) -> bytes:
    """A header whose length is small, plausible or absurd."""
    header = rng.choice(HEADERS)
    length = rng.choice([0, 1, rng.randrange(300), 0xFFFF, rng.randrange(2**31), 2**31 - 1, 2**32 - 1])
    wide = header in (b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9")
    return header + (struct.pack(">I", length) if wide else struct.pack(">H", length & 0xFFFF))


def mutated(rng: random.Random, originals: list[bytes]) -> bytes:
    """One of ``originals`` with one to six mutations."""
    body = bytearray(rng.choice(originals))
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        at = rng.randrange(len(body)) if body else 0
        kind = rng.choice([0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6])
        if kind == 0 and body:
            body[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and body:
            body[at] = rng.randrange(256)
        elif kind == 2:
            del body[at : at + rng.randint(1, 8)]
        elif kind == 3:
            del body[at:]
        elif kind == 4:
            body[at:at] = announce(rng) * rng.choice([1, 1, 1, 40, 2000])
        elif kind == 5:
            other = rng.choice(originals)
            start = rng.randrange(len(other))
            body[at : at + rng.randrange(20)] = other[start : start + rng.randrange(60)]
        elif body:
            body[at] = rng.choice(HEADERS)[0]
    return bytes(body)


def checked(rng: random.Random, body: bytes) -> bool:
    """Whether ``body`` decodes; fails unless it does, or is a ``CodecError``."""
    checksum = struct.pack(">I", crc32c(body) ^ (rng.random() < 0.05))
    try:
        frame = decode(body + b"\xce" + checksum).frame
    except CodecError:
        return False
    rows = to_rows(frame.items)
    assert len(rows) == len(frame.items)
    assert all(type(name) is str for row in rows for name in (row if isinstance(row, dict) else ()))
    return True


def stored(body: bytes) -> bool:
    """The same for a state blob."""
    try:
        value = unpack(unseal(seal(body), "state"))
    except CodecError:
        return False
    assert value == value or value != value  # it can be looked at  # noqa: PLR0124
    return True


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak / MIB:.1f} MiB were in use at once"


def test_mutated_frames_decode_or_are_codec_errors() -> None:
    frames, states = {True: 0, False: 0}, {True: 0, False: 0}

    @settings(max_examples=ROUNDS, derandomize=True, deadline=None, database=None)
    @given(st.integers(0, 2**64))
    def rounds(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(PER_ROUND):
            frames[checked(rng, mutated(rng, BODIES))] += 1
        for _ in range(PER_ROUND // 5):
            states[stored(mutated(rng, STATES))] += 1

    with memory_below(64 * MIB):
        rounds()
    assert sum(frames.values()) >= ROUNDS * PER_ROUND
    assert min(frames.values()) > 10_000, f"both outcomes must be met: {frames}"
    assert min(states.values()) > 2_000, f"both outcomes must be met: {states}"


LEVELS = 1000
FULL = 2 * FRAME_BYTES - 100


def rows_of(payload: bytes) -> bytes:
    body = b"\x97" + pack(1) + pack(0) + pack("o") + pack(0) + pack(0) + payload
    return body + b"\xce" + struct.pack(">I", crc32c(body))


def array(count: int) -> bytes:
    return b"\xdd" + struct.pack(">I", count)


BOMBS = {
    "arrays that promise more": array(FULL - 5 * LEVELS) * LEVELS + b"\xc0" * (FULL - 5 * LEVELS),
    "maps that promise more": (b"\x81\xa0\xdf" + struct.pack(">I", 40_000)) * LEVELS + b"\xc0" * (FULL - 7 * LEVELS),
    "empty maps": array(FULL) + b"\x80" * FULL,
    "small maps": array(FULL // 3) + b"\x81\xa0\xc0" * (FULL // 3),
    "empty lists": array(FULL) + b"\x90" * FULL,
    "small lists": array(FULL // 2) + b"\x91\xc0" * (FULL // 2),
    "short texts": array(FULL // 4) + b"\xa3\xc4\x80a" * (FULL // 4),
    "wide text": b"\x91\xdb" + struct.pack(">I", FULL - 10) + b"a" * (FULL - 14) + "\U0001f600".encode(),
    "deep": b"\x91" * FULL,
}


@pytest.mark.parametrize("payload", BOMBS.values(), ids=BOMBS)
def test_small_entries_do_not_become_large(payload: bytes) -> None:
    entry = rows_of(payload)
    with memory_below(64 * MIB):
        try:
            assert len(decode(entry).frame.items) > 0
        except CodecError:
            assert payload in (BOMBS["arrays that promise more"], BOMBS["maps that promise more"], BOMBS["deep"])


def test_lists_of_names_are_not_kept_without_end() -> None:
    """Each of 20 frames brings 80,000 names of its own; all of them, as strings, would be 100 MiB."""
    rest = b"".join(b"\xa5%05x" % n for n in range(1, 80_000))
    with memory_below(64 * MIB):
        for i in range(20):
            names = array(80_000) + b"\xa5%05x" % i + rest
            column = ["dict", "<u4", b"\0\0\0\0", names]
            body = pack([1, 1, "o", 0, 0, ["", 1, {"symbol": column}], 0])[:-1]
            decoded = decode(body + b"\xce" + struct.pack(">I", crc32c(body)))
            assert to_rows(decoded.frame.items) == [{"symbol": f"{i:05x}"}]


@pytest.mark.parametrize("blob", [b"\x02", b"\xff"])
def test_a_truth_value_is_0_or_1(blob: bytes) -> None:
    body = pack([1, 1, "o", 0, 0, ["", 1, {"b": ["|b1", blob]}], 0])[:-1]
    with pytest.raises(CodecError, match="neither 0 nor 1"):
        decode(body + b"\xce" + struct.pack(">I", crc32c(body)))
