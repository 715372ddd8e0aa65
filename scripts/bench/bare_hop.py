"""The bare hop: the least that the main job must do between two processes, to compare with.

One producer makes columns of 1,000 symbols, partitions them by mmh3 of the symbol, and appends eight frames per fenced Lua
call, bounded at 64 entries a stream. One consumer reads them with XREAD, makes 1-second OHLCV bars with numpy, writes the
open bars to the server, deletes the closed ones there, and deletes the entries. No recovery, no watermarks, no checks beyond
the fence; plain msgpack, no checksum, four columns (the main job's trades have seven).
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from typing import Any

import mmh3
import msgpack
import numpy as np
import redis

from market_data_pipeline.store.embedded import EmbeddedServer

P = 8
CAPACITY = 64
COMMIT_ITEMS = 65536
SYMBOLS = 1000
SECOND = 1_000_000_000
START = 1_767_364_200 * SECOND
STREAMS = [f"s{p}" for p in range(P)]
END = b"END"
FRAME_LIMIT = 4
"""Entries of a stream that the consumer takes at once."""
APPEND = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
for i = 2, #KEYS do if redis.call('XLEN', KEYS[i]) >= tonumber(ARGV[2]) then return 0 end end
for i = 2, #KEYS do redis.call('XADD', KEYS[i], '*', 'f', ARGV[1 + i]) end
return 1
"""

Array = np.ndarray[Any, Any]
Bars = dict[int, list[float]]
"""By ``second * SYMBOLS + symbol``: open, high, low, close, volume, number of trades."""


def connected(port: int) -> redis.Redis:
    return redis.Redis(port=port, protocol=2)


# --- the producer -------------------------------------------------------------------------------------------------


def _batches(items: int) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Symbol codes, times (10,000 items a second), prices and sizes, a commit's worth at a time."""
    for start in range(0, items, COMMIT_ITEMS):
        number = np.arange(start, min(start + COMMIT_ITEMS, items))
        codes = ((number * 7919) % SYMBOLS).astype(np.uint32)
        yield codes, START + number * 100_000, 100.0 + (number % 97) * 0.01, 1.0 + (number % 5)


def _encoded(codes: Array, times: Array, prices: Array, sizes: Array) -> bytes:
    columns = [column.tobytes() for column in (codes, times, prices, sizes)]
    return bytes(msgpack.packb([1, len(codes), int(times[-1]), *columns]))


def produce(port: int, items: int) -> None:
    client = connected(port)
    append = client.register_script(APPEND)
    partition = np.array([mmh3.hash(f"S{n:04d}", signed=False) % P for n in range(SYMBOLS)])

    def commit(frames: list[bytes]) -> None:
        while append(keys=["lease", *STREAMS], args=["e1", CAPACITY, *frames]) != 1:
            time.sleep(0.002)

    for columns in _batches(items):
        of_rows = partition[columns[0]]
        order = np.argsort(of_rows, kind="stable")
        bounds = np.searchsorted(of_rows[order], np.arange(P + 1))
        sorted_columns = [column[order] for column in columns]
        parts = [[column[bounds[p] : bounds[p + 1]] for column in sorted_columns] for p in range(P)]
        commit([_encoded(*part) for part in parts])
    commit([END] * P)


# --- the consumer -------------------------------------------------------------------------------------------------


def add_bars(bars: Bars, codes: Array, times: Array, prices: Array, sizes: Array) -> list[int]:
    """Merge trades into ``bars``; removes those of seconds that are over, and returns their keys."""
    keys = times // SECOND * SYMBOLS + codes
    order = np.argsort(keys, kind="stable")
    sorted_keys, prices_in, sizes_in = keys[order], prices[order], sizes[order]
    first = np.flatnonzero(np.r_[True, sorted_keys[1:] != sorted_keys[:-1]])
    last = np.r_[first[1:], len(keys)] - 1
    grouped = (
        sorted_keys[first], prices_in[first], np.maximum.reduceat(prices_in, first), np.minimum.reduceat(prices_in, first),
        prices_in[last], np.add.reduceat(sizes_in, first), last - first + 1,
    )  # fmt: skip
    for key, open_, high, low, close, volume, trades in zip(*(a.tolist() for a in grouped), strict=True):
        bar = bars.get(key)
        if bar is None:
            bars[key] = [open_, high, low, close, volume, trades]
            continue
        bar[1], bar[2], bar[3] = max(bar[1], high), min(bar[2], low), close
        bar[4] += volume
        bar[5] += trades
    now = int(times[-1]) // SECOND
    closed = [key for key in bars if key // SYMBOLS < now]
    for key in closed:
        del bars[key]
    return closed


def consume(port: int) -> int:
    """Until the end of every stream; the number of bars."""
    client = connected(port)
    bars: list[Bars] = [{} for _ in range(P)]
    last = dict.fromkeys(STREAMS, "0-0")
    ended = made = 0
    while ended < P:
        pipe = client.pipeline()
        for name, entries in client.xread(last, count=FRAME_LIMIT, block=1000):
            stream = name.decode()
            p, closed = STREAMS.index(stream), []
            for _, fields in entries:
                if fields[b"f"] == END:
                    ended += 1
                    continue
                _, _, _, *columns = msgpack.unpackb(fields[b"f"])
                codes, times, prices, sizes = map(np.frombuffer, columns, (np.uint32, np.int64, np.float64, np.float64))
                closed += add_bars(bars[p], codes.astype(np.int64), times, prices, sizes)
            last[stream] = entries[-1][0]
            pipe.xdel(stream, *(entry_id for entry_id, _ in entries))
            if bars[p]:
                pipe.hset(f"state{p}", mapping={str(key): msgpack.packb(bar) for key, bar in bars[p].items()})
            if closed:
                pipe.hdel(f"state{p}", *map(str, closed))
            made += len(closed)
        pipe.execute()
    return made + sum(map(len, bars))


def expected_bars(items: int) -> int:
    """Each of the 1,000 symbols trades every tenth of a second, in every second of the data."""
    full, rest = divmod(items, 10_000)
    return full * SYMBOLS + min(rest, SYMBOLS)


def measure(items: int) -> float:
    """Items per second from the start of the two processes to the end of both, over a server of its own."""
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    with EmbeddedServer() as server:
        with connected(server.port) as client:
            client.set("lease", "e1")
        jobs: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
            (_answer_bars, (server.port, answer)),
            (produce, (server.port, items)),
        ]
        started = time.perf_counter()
        processes = [context.Process(target=target, args=args) for target, args in jobs]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        seconds = time.perf_counter() - started
        assert not any(process.exitcode for process in processes), "the bare hop failed"
    made = answer.get()
    assert made == expected_bars(items), f"{made} bars, not {expected_bars(items)}"
    return items / seconds


def _answer_bars(port: int, answer: Any) -> None:
    answer.put(consume(port))
