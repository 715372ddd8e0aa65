"""Two feeds of the same trades, one of which is heard at a time; what happens to them is printed. Takes some 15 s.

    python examples/failover.py
    python examples/failover.py --output out

The feeds are made up: both bring the same trades of three symbols, fifty a second each. ``first`` is away from second 3 to 7,
and for a moment at second 12. ``SourceRouter`` leaves it after two seconds, and goes back after it was there for three; so the
moment at second 12 is no switch. At the end the trades are counted: each is there, once.
"""

import argparse
import asyncio
import json
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from market_data_pipeline import (
    CircuitRule,
    ConnectionHealth,
    Dag,
    DagRuntime,
    Dedupe,
    Discard,
    Failover,
    FeedDown,
    FeedEvent,
    JsonLines,
    Map,
    Node,
    Reconnect,
    SourceRouter,
    Trade,
    VenueLimits,
)

STEP = 20_000_000
"""Nanoseconds between two trades of a symbol."""
SYMBOLS = ["BTC/USD", "ETH/USD", "SOL/USD"]


@dataclass(frozen=True)
class Demo:
    """A feed that begins at ``start`` (ns since the epoch) and ends behind ``trades`` trades. ``away``: from when to when
    (seconds) it is not there."""

    name: str
    start: int
    trades: int
    away: tuple[tuple[float, float], ...] = ()
    kinds = frozenset({"trade"})
    splittable = True
    limits = VenueLimits(per_second=100.0)

    def check(self, symbols: Sequence[str], kinds: Sequence[str]) -> None:
        """Any symbol will do."""

    async def connect(self) -> "DemoConnection":
        self.look()
        return DemoConnection(self)

    def look(self) -> None:
        """Raises ``FeedDown`` while it is away."""
        now = (time.time_ns() - self.start) / 1e9
        if any(begin <= now < end for begin, end in self.away):
            raise FeedDown("nobody answers")


class DemoConnection:
    def __init__(self, feed: Demo) -> None:
        self._feed, self._symbols = feed, list[str]()

    async def subscribe(self, kind: str, symbols: Sequence[str]) -> None:
        self._symbols += symbols

    async def records(self) -> AsyncIterator[list[Trade]]:
        start = self._feed.start
        sent = (time.time_ns() - start) // STEP
        while sent < self._feed.trades:
            await asyncio.sleep(0.02)
            self._feed.look()
            due = min((time.time_ns() - start) // STEP, self._feed.trades)
            yield [
                Trade(symbol, start + n * STEP, 0, 100.0 + n % 7, 0.5, trade_id=n)
                for n in range(sent + 1, due + 1)
                for symbol in self._symbols
            ]
            sent = due

    def health(self) -> ConnectionHealth:
        return ConnectionHealth(connected=True, last_message=time.monotonic())

    async def close(self) -> None:
        self._symbols = []


def show(event: FeedEvent, start: int) -> FeedEvent:
    line = f"{(event.ts_event - start) / 1e9:5.1f} s  {event.feed:7} {event.event:13} {event.detail}"
    print(line.rstrip(), flush=True)
    return event


def dag(output: Path, start: int, seconds: float) -> Dag:
    trades = int(seconds * 1e9 / STEP)
    feeds = SourceRouter(
        [Demo("first", start, trades, ((3.0, 7.0), (12.0, 12.3))), Demo("second", start, trades)],
        SYMBOLS,
        route=Failover(fail_after="2s", recover_after="3s"),
        overlap="500ms",
        reconnect=Reconnect(first="100ms", most="500ms"),
        circuit=CircuitRule(open_for="1s"),
    )
    made = Dag("failover")
    made.add_node(Node("feeds", feeds))
    made.add_node(Node("once", Dedupe("symbol", "trade_id", content=("price", "size"))))
    made.add_node(Node("trades", JsonLines(output / "trades")))
    made.add_edge("feeds", "once", key="symbol")
    made.add_edge("once", "trades")
    made.add_node(Node("show", Map(partial(show, start=start))))
    made.add_node(Node("end", Discard()))
    made.add_edge("feeds", "show", output="events")
    made.add_edge("show", "end")
    return made


def verdict(output: Path) -> str:
    """What stands in the folder of trades."""
    rows = [json.loads(line) for path in output.glob("trades/*.jsonl") for line in path.read_text().splitlines()]
    numbers: dict[str, list[int]] = {symbol: [] for symbol in SYMBOLS}
    for row in rows:
        if "trade_id" not in row:
            return f"a gap: {row}"
        numbers[row["symbol"]].append(row["trade_id"])
    whole = all(found == list(range(min(found), max(found) + 1)) for found in numbers.values())
    first = sum(row["venue"] == "first" for row in rows)
    said = "each is there, once" if whole else "some are missing"
    return f"{len(rows)} trades, {first} of them from first and {len(rows) - first} from second: {said}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--output", type=Path, help="folder for the trades; else they go when this ends")
    arguments.add_argument("--seconds", type=float, default=15.0)
    given = arguments.parse_args()
    logging.basicConfig(level=logging.ERROR)  # what happens to feeds is printed from their events
    with tempfile.TemporaryDirectory() as folder:
        output = given.output or Path(folder)
        asyncio.run(DagRuntime(dag(output, time.time_ns(), given.seconds)).start())
        print(verdict(output))


if __name__ == "__main__":
    main()
