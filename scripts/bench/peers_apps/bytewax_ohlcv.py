"""The main job for Bytewax 0.21: 1,000 symbols, 1-second OHLCV by event time with a Python fold, counting sink.

ITEMS from the environment; two processes, each with a partition of the source:

    python -m bytewax.run bytewax_ohlcv -i0 -a "127.0.0.1:2101;127.0.0.1:2102"     and the same with -i1

Each worker appends one line ``bars N`` to the file named by COUNTS (processes' standard outputs would mix).
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
from bytewax.outputs import DynamicSink, StatelessSinkPartition

ITEMS = int(os.environ["ITEMS"])
SYMBOLS, PARTITIONS, BATCH = 1000, 2, 1000
START = datetime(2026, 1, 2, 14, 30, tzinfo=UTC)
START_SECONDS = START.timestamp()
NAMES = [f"S{n:04d}" for n in range(SYMBOLS)]

Trade = tuple[str, float, float, float]
Bar = list[float]


class Trades(StatefulSourcePartition[Trade, int]):
    """Every second trade: 10,000 a second of event time in all, prices and sizes of the number."""

    def __init__(self, partition: int, resume: int | None) -> None:
        self.partition, self.next = partition, resume or 0

    def next_batch(self) -> list[Trade]:
        of_partition = range(self.partition, ITEMS, PARTITIONS)
        numbers = of_partition[self.next : self.next + BATCH]
        if not numbers:
            raise StopIteration
        self.next += BATCH
        return [
            (NAMES[n * 7919 % SYMBOLS], START_SECONDS + n * 1e-4, 100.0 + (n % 97) * 0.01, 1.0 + n % 5) for n in numbers
        ]

    def snapshot(self) -> int:
        return self.next


class Source(FixedPartitionedSource[Trade, int]):
    def list_parts(self) -> list[str]:
        return [str(n) for n in range(PARTITIONS)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Trades:
        return Trades(int(for_part), resume_state)


class Counter(StatelessSinkPartition[object]):
    def __init__(self) -> None:
        self.bars = 0

    def write_batch(self, items: list[object]) -> None:
        self.bars += len(items)

    def close(self) -> None:
        with Path(os.environ["COUNTS"]).open("a") as out:
            out.write(f"bars {self.bars}\n")


class Counting(DynamicSink[object]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> Counter:
        return Counter()


def merge(bar: Bar | None, trade: Trade) -> Bar:
    """Open, high, low, close, volume, number of trades."""
    _, _, price, size = trade
    if bar is None:
        return [price, price, price, price, size, 1]
    if price > bar[1]:  # noqa: PLR1730 - quicker than max()
        bar[1] = price
    if price < bar[2]:  # noqa: PLR1730
        bar[2] = price
    bar[3] = price
    bar[4] += size
    bar[5] += 1
    return bar


# A symbol's trades are all of one partition (7919 is odd and 1000 even), so they come in order. The second is for the clock:
# it follows the system's as well, and without it a machine that stalls makes trades late, and bars too many.
clock = EventClock(
    ts_getter=lambda trade: datetime.fromtimestamp(trade[1], UTC),
    wait_for_system_duration=timedelta(seconds=1),
)
flow = Dataflow("ohlcv")
trades = op.key_on("by_symbol", op.input("trades", flow, Source()), lambda trade: trade[0])
windows = TumblingWindower(length=timedelta(seconds=1), align_to=START)
bars = fold_window("bars", trades, clock, windows, lambda: None, merge, lambda a, _b: a)
op.output("out", bars.down, Counting())
