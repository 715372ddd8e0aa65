"""Messages per second that ``KafkaTopic`` takes, for ``scripts/bench/sinks``; alone: ``python scripts/bench/sink_kafka.py``.

Synthetic trades of 1,000 symbols, as columns, 65,536 a step (written, prepared, committed), to a topic of four partitions
of the tests' broker on loopback, which shares the cores. One step is made before the clock starts: a new idempotent
producer waits half a second for its number.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from market_data_pipeline import Columns, Frame, KafkaTopic, SinkContext, Synthetic
from market_data_pipeline.sources.base import SourceContext

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from tools.broker import Broker

STEP, SMOKE_ROWS, ROWS = 65_536, 20_000, 400_000
FORMS = {"kafka json": {}, "kafka msgpack": {"format": "msgpack"}, "kafka json, transactions": {"transactional": True}}


async def trades(rows: int) -> list[Columns]:
    source = Synthetic(symbols=1_000, items=rows, seed=1)
    await source.open(SourceContext("source"), None)
    found = []
    while (batch := await source.read()) is not None:
        found.append(batch.items)
    return found


async def measure(sink: KafkaTopic, batches: list[Columns]) -> float:
    """Seconds."""
    await sink.open(SinkContext("sink"), None)
    try:
        started = 0.0
        for number, items in enumerate([batches[0].take(slice(0, 100)), *batches]):
            started = time.perf_counter() if number == 1 else started
            await sink.write([Frame(items)])
            await sink.prepare(number == len(batches))
            await sink.committed()
        return time.perf_counter() - started
    finally:
        await sink.close()


def figures(smoke: bool) -> Iterator[tuple[str, int, float]]:
    """Name, rows written, seconds; one run of each form of the sink."""
    rows = SMOKE_ROWS if smoke else ROWS
    whole = asyncio.run(trades(rows))
    batches = [part.take(slice(at, at + STEP)) for part in whole for at in range(0, len(part), STEP)]
    for name, given in FORMS.items():
        with Broker() as broker:
            broker.create("trades")
            yield name, rows, asyncio.run(measure(KafkaTopic(broker.servers, "trades", **given), batches))


if __name__ == "__main__":
    for name, rows, seconds in figures("--smoke" in sys.argv):
        print(f"{name}: {rows / seconds:,.0f}/s")
