"""Sinks, write coordinators and transforms of other packages behind a job."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tools import foreign
from tools.foreign import Coordinator, Doubler, Feed, Lines, Place, TheirBar, trade

from market_data_pipeline import (
    Bar,
    ConfigError,
    CoordinatedSink,
    DagRuntime,
    OutsideProvider,
    OutsideSink,
    OutsideTransform,
    Pipeline,
    ProviderSource,
    SinkContext,
    SinkError,
    as_dto,
    trade_of,
)
from market_data_pipeline.feedback import StoreReading
from market_data_pipeline.frame import Frame
from market_data_pipeline.operators.base import OperatorContext

BAR = Bar("A", foreign.BEGIN_NS, foreign.BEGIN_NS + 60 * 10**9, 1.0, 2.0, 0.5, 1.5, 3.0, 1.2, 4)


async def opened(sink: Any, rejected: list[Any] | None = None) -> Any:
    mine = sink.fresh()
    letters = [] if rejected is None else rejected
    await mine.open(SinkContext("out", reject=lambda item, reason: letters.append((item, reason))), None)
    return mine


async def test_a_sink_gets_its_own_records_and_is_flushed_before_each_commit() -> None:
    theirs, letters = Lines(Place()), list[Any]()
    sink = await opened(OutsideSink(theirs, make=lambda bar: as_dto(bar, TheirBar)), letters)
    await sink.write([Frame([BAR, "no bar"]), Frame([BAR._replace(symbol="B")])])
    assert theirs.place.rows == []
    await sink.prepare(False)
    await sink.close()
    assert [(row.symbol, row.timestamp, row.resolution) for row in theirs.place.rows] == [
        ("A", foreign.BEGIN, "1m"),
        ("B", foreign.BEGIN, "1m"),
    ]
    assert (theirs.calls, [item for item, _ in letters]) == (["write", "flush", "close"], ["no bar"])


async def test_a_sink_with_write_alone_and_no_coroutine_will_do() -> None:
    class Bare:
        def __init__(self) -> None:
            self.rows: list[Any] = []

        def write(self, items: list[Any]) -> None:
            self.rows += items

    theirs = Bare()
    sink = await opened(OutsideSink(theirs))
    await sink.write([Frame([1, 2])])
    assert await sink.prepare(True) is None
    await sink.close()
    assert theirs.rows == [1, 2]


async def test_what_a_sink_raises_can_be_tried_again_and_what_is_no_sink_cannot() -> None:
    theirs = Lines(Place())
    theirs.away = OSError("no route")
    sink = await opened(OutsideSink(theirs))
    with pytest.raises(SinkError, match=r"a tools\.foreign\.Lines: write: OSError: no route"):
        await sink.write([Frame([1])])
    with pytest.raises(ConfigError, match=r"a builtins\.object has no method write"):
        await opened(OutsideSink(factory="tools.foreign:unlike"))


async def test_nothing_is_prepared_that_a_worker_of_the_coordinator_still_holds() -> None:
    """Its queue is empty, and 3 of 10 items wait in its worker for a batch of 7."""
    theirs = Coordinator(Place())
    sink = await opened(CoordinatedSink(theirs))
    await sink.write([Frame(list(range(10)))])
    await sink.prepare(False)
    assert theirs.place.rows == list(range(10))
    starts = theirs.starts
    await sink.prepare(True)
    assert theirs.starts == starts, "nothing came, so nothing is emptied"
    await sink.close()
    assert theirs.running is None


async def test_a_queue_that_does_not_empty_in_time_is_a_sink_error() -> None:
    theirs = Coordinator(Place(), batch=1)
    theirs.gate.clear()
    sink = await opened(CoordinatedSink(theirs, timeout="50ms"))
    await sink.write([Frame([1, 2, 3])])
    with pytest.raises(SinkError, match=r"its queue is not empty after 0.05 s"):
        await sink.prepare(False)
    await sink.close()
    assert theirs.place.rows == []


async def test_a_coordinator_that_cannot_be_emptied_is_started_again_for_others() -> None:
    """Its queue empties, and stop(drain=True) hangs in what its worker holds."""
    theirs = Coordinator(Place(), batch=5)
    sink, other = await opened(shared := CoordinatedSink(theirs, timeout="50ms")), None
    other = await opened(shared)
    assert theirs.starts == 1, "one coordinator, started once"
    theirs.gate.clear()
    await sink.write([Frame([1, 2])])
    with pytest.raises(SinkError, match="not empty after"):
        await sink.prepare(False)
    await sink.close()
    assert theirs.running is not None
    theirs.gate.set()
    await other.write([Frame([3])])
    await other.prepare(True)
    await other.close()
    assert (sorted(theirs.place.rows), theirs.running) == ([1, 2, 3], None)


async def test_two_sinks_of_one_coordinator_do_not_stop_it_for_each_other() -> None:
    """What the one has handed over must not go with the end of the other: an empty queue would look as if it was written."""
    theirs = Coordinator(Place(), batch=1)
    theirs.gate.clear()
    bars, trades = await opened(CoordinatedSink(theirs)), await opened(CoordinatedSink(theirs))
    await bars.write([Frame([1, 2, 3])])
    preparing = asyncio.create_task(bars.prepare(False))
    await asyncio.sleep(0)
    closing = asyncio.create_task(trades.close())
    await asyncio.sleep(0)
    theirs.gate.set()
    await asyncio.gather(preparing, closing)
    assert (theirs.place.rows, theirs.starts) == ([1, 2, 3], 2), "started, and once more when it was emptied"
    await bars.close()
    assert theirs.running is None


def test_a_coordinator_is_used_again_in_another_event_loop() -> None:
    theirs = Coordinator(Place())
    template = CoordinatedSink(theirs, settle="queue")

    async def task() -> None:
        sink = await opened(template)
        await sink.write([Frame([1])])
        await sink.prepare(True)
        await sink.close()

    async def tasks() -> None:
        theirs.__post_init__()
        await asyncio.gather(*(task() for _ in range(3)))

    for times in (1, 2):
        asyncio.run(tasks())
        assert theirs.starts == times


async def test_an_empty_queue_is_enough_where_that_is_said() -> None:
    theirs = Coordinator(Place(), batch=1)
    sink = await opened(CoordinatedSink(theirs, settle="queue"))
    await sink.write([Frame([1, 2])])
    await sink.prepare(True)
    assert theirs.starts == 1
    await sink.close()


async def test_a_coordinator_without_workers_is_a_sink_error_at_once() -> None:
    theirs = Coordinator(Place())
    sink = await opened(CoordinatedSink(theirs))
    await sink.write([Frame([1])])
    await theirs.stop(drain=False)
    with pytest.raises(SinkError, match="none of its workers is alive"):
        await sink.prepare(False)


async def test_a_coordinator_says_how_full_it_is() -> None:
    theirs = Coordinator(Place(), capacity=10, batch=1)
    template = CoordinatedSink(theirs, high=0.9, low=0.2)
    assert await template.reading() is None
    sink = await opened(template)
    await theirs.stop()
    await theirs.submit_many([1, 2, 3])
    assert await sink.reading() == StoreReading(3, 9.0, 2.0).checked()
    theirs.health = lambda: {"queue_size": "3", "capacity": 10}  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(SinkError, match="queue_size='3'; a number is needed"):
        await sink.reading()


@pytest.mark.parametrize("given", [{"high": 0.5}, {"low": -0.1}, {"high": 1.1}, {"settle": "hope"}, {"timeout": 0}])
def test_wrong_choices_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        CoordinatedSink(Coordinator(Place()), **given)


async def test_a_transform_is_asked_in_order_and_none_is_dropped() -> None:
    operator = OutsideTransform(Doubler(), convert=lambda number: number + 1).fresh()
    ctx = OperatorContext("double")
    operator.open(ctx)
    frames = [Frame([1, 2, 3, -4]), Frame([5, 6, 7])]
    made = await asyncio.gather(*map(operator.prepare, frames))
    assert [frame.items for frame in made] == [[3, 5], [11, 15]]
    assert [(letter.item, letter.reason) for letter in ctx.dead_letters] == [(-4, "ValueError: negative")]


async def test_a_job_from_their_provider_to_their_coordinator_stores_what_came() -> None:
    """Three connections, of which two break; what they bring twice is dropped."""
    came = [trade(number, symbol) for number in range(300) for symbol in ("AAPL", "MSFT")]
    feed = Feed([*came[:250], ValueError("cut")], [*came[200:400], None], came[380:])
    theirs = Coordinator(Place(), capacity=50)
    pipeline = Pipeline("theirs").source(
        ProviderSource(OutsideProvider(feed), ["AAPL", "MSFT"], reconnect=foreign.QUICK)
    )
    pipeline = pipeline.filter(lambda record: hasattr(record, "trade_id")).key_by("symbol")
    runtime = DagRuntime(pipeline.dedupe("symbol", "trade_id").sink(CoordinatedSink(theirs)))
    running = asyncio.create_task(runtime.start())
    async with asyncio.timeout(20):
        while len(theirs.place.rows) < len(came):  # noqa: ASYNC110 - their rows are no event of ours
            await asyncio.sleep(0.01)
        runtime.stop()
        await running
    oracle = [trade_of(one) for one in came]
    stored = [row._replace(ts_recv=0, venue="") for row in theirs.place.rows]
    for symbol in ("AAPL", "MSFT"):
        assert [row for row in stored if row.symbol == symbol] == [row for row in oracle if row.symbol == symbol]
