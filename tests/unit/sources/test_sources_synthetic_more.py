"""Synthetic: sessions, bursts, quotes and gaps; and that what was there before has not changed by a bit."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tools.fake_clock import FakeClock
from tools.memory_job import CommittedRows, MemoryJob, committed_rows
from tools.memory_store import MemoryServer

from market_data_pipeline import (
    AsofJoin,
    Bursts,
    Collect,
    Dag,
    DagRuntime,
    Filter,
    Gap,
    Node,
    Quote,
    RunConfig,
    Synthetic,
    Trade,
)
from market_data_pipeline.codec import encode
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError, SourceError
from market_data_pipeline.frame import Columns, Frame, to_rows
from market_data_pipeline.operators.calendars import SessionBuckets
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.runtime.contract import Limits
from market_data_pipeline.sources.base import Batch, SourceContext
from market_data_pipeline.sources.synthetic import DEFAULT_START

DAY, HOUR, MINUTE, SECOND = 86_400 * 10**9, 3600 * 10**9, 60 * 10**9, 10**9


async def batches(source: Synthetic, position: Any = None, clock: FakeClock | None = None) -> list[Batch]:
    fresh = source.fresh()
    await fresh.open(SourceContext("src", clock=clock or FakeClock()), position)
    found = []
    while (batch := await fresh.read()) is not None:
        found.append(batch)
    await fresh.close()
    return found


async def rows(source: Synthetic) -> list[Any]:
    return [row for batch in await batches(source) for row in to_rows(batch.items)]


BEFORE = {
    "20df4d5d3be7c64a1107b96d13a8ef338f6c16d9c23f12152b79e24190cdecb1": {"items": 100_000},
    "4b488d31675a9592fbb09fee18301e33ddd8a4cd3c4031df3e367108f71df74b": {
        "symbols": 50, "items": 70_000, "duplicates": 0.05, "disorder": 0.1, "seed": 7, "event_rate": 1000,
    },
    "a56b91bf32c6572828d2e4a2808fb786e42da4148191e9e2c2434aba9b408147": {
        "symbols": 5, "items": 2000, "rate": 1e6, "disorder": 0.3, "disorder_by": "20ms", "start": 5,
    },
}  # fmt: skip
"""Hashes of the frames and positions that these arguments gave before there were sessions, bursts, quotes and gaps."""


@pytest.mark.parametrize("recorded", BEFORE)
async def test_what_was_there_before_is_the_same_to_the_byte(recorded: str) -> None:
    found = hashlib.sha256()
    for batch in await batches(Synthetic(**BEFORE[recorded])):  # type: ignore[arg-type]
        found.update(encode("s/0", Frame(batch.items)))
        found.update(repr(batch.position).encode())
    assert found.hexdigest() == recorded


FULL: dict[str, Any] = {
    "symbols": 20, "items": 3000, "event_rate": 2000, "duplicates": 0.05, "disorder": 0.1, "disorder_by": "20ms", "seed": 3,
    "kinds": ("trade", "quote"), "sessions": ("14:30-14:31", "15:00-15:01"), "bursts": Bursts("10s", "1s", 5), "gaps": 0.1,
    "gap_records": True,
}  # fmt: skip


@pytest.mark.parametrize("rate", [None, 40_000.0, 700.0])
async def test_resume_at_any_batch_gives_the_same_rest_with_everything_on(rate: float | None) -> None:
    source = Synthetic(**{**FULL, "items": 100_000 if rate is None else 2000}, rate=rate)
    whole = await batches(source)
    at_most = range(0, len(whole), max(1, len(whole) // 15))
    for at in at_most:
        rest = await batches(source, unpack(pack(whole[at].position)))
        assert [(to_rows(b.items), b.outputs) for b in rest] == [(to_rows(b.items), b.outputs) for b in whole[at + 1 :]]
    assert whole[0].outputs.keys() == {"quotes"}


async def test_daily_sessions_have_items_from_open_to_close_only() -> None:
    spans = ["09:30-12:00", "13:00:00-16:00:30"]
    start = DEFAULT_START // DAY * DAY + 15 * HOUR
    found = await rows(Synthetic(symbols=2, items=4 * 19_830, event_rate=1, sessions=spans, start=start))
    wanted = []
    for day in range(6):
        midnight = DEFAULT_START // DAY * DAY + day * DAY
        for begin, end in ((9.5, 12), (13, 16 + 30 / 3600)):
            wanted += range(midnight + int(begin * HOUR), midnight + round(end * HOUR), SECOND)
    wanted = [ts for ts in wanted if ts >= start]
    assert [trade.ts_event for trade in found] == wanted[: len(found)]


@pytest.mark.parametrize("name", ["XHKG", "XNYS"])
async def test_sessions_of_an_exchange_are_those_of_its_calendar(name: str) -> None:
    found = await rows(Synthetic(symbols=2, items=20_000, event_rate=1 / 60, sessions=name))
    ts = np.array([trade.ts_event for trade in found])
    assert (SessionBuckets(name, "1m").indices(ts) != np.iinfo(np.int64).min).all()
    steps = Counter(b - a for a, b in pairwise(ts.tolist()))
    assert steps.most_common(1)[0][0] == MINUTE
    assert all(step % MINUTE == 0 for step in steps)
    assert len({t // DAY for t in ts.tolist()}) > 40
    with pytest.raises(SourceError, match="knows no session as late"):
        await rows(Synthetic(symbols=2, items=300, event_rate=1e-7, sessions=name))


async def test_bursts_are_denser_as_often_and_as_much_as_asked() -> None:
    source = Synthetic(symbols=2, items=60_000, event_rate=100, bursts=Bursts("1m", "2s", 10), seed=4)
    ts = np.array([trade.ts_event for trade in await rows(source)]) - DEFAULT_START
    per_minute = 58 * 100 + 2 * 1000
    assert (np.diff(ts) > 0).all()
    minutes = np.bincount(ts // MINUTE)
    assert minutes[:-1].tolist() == [per_minute] * (len(minutes) - 1)
    assert set(np.diff(ts[:per_minute]).tolist()) <= {SECOND // 100, SECOND // 1000}
    begins = {int(ts[first + np.argmax(np.diff(ts[first : first + per_minute]) == SECOND // 1000)] % MINUTE)
              for first in range(0, len(ts) - per_minute, per_minute)}  # fmt: skip
    assert len(begins) > 3, "not always in the same place"


async def test_bursts_are_bursts_of_wall_time_too() -> None:
    clock = FakeClock()
    await batches(Synthetic(symbols=2, items=7800, rate=100, bursts=Bursts("1m", "2s", 10)), clock=clock)
    assert clock.monotonic() == pytest.approx(60.0)
    clock = FakeClock()
    slow = Synthetic(symbols=2, items=7800, rate=50, event_rate=100, bursts=Bursts("1m", "2s", 10))
    await batches(slow, clock=clock)
    assert clock.monotonic() == pytest.approx(120.0)


async def test_quotes_stand_around_the_trades() -> None:
    both = await batches(Synthetic(symbols=20, items=70_000, kinds=("trade", "quote")))
    trades = [row for batch in both for row in to_rows(batch.items)]
    quotes = [row for batch in both for row in to_rows(batch.outputs["quotes"])]
    assert trades == await rows(Synthetic(symbols=20, items=70_000))
    assert quotes == await rows(Synthetic(symbols=20, items=70_000, kinds=("quote",)))
    assert all(type(quote) is Quote for quote in quotes)
    assert [quote.update_id for quote in quotes] == list(range(70_000))
    for before, trade, quote in zip([DEFAULT_START - 1, *(t.ts_event for t in trades)], trades, quotes, strict=False):
        assert before < quote.ts_event <= trade.ts_event
        assert trade.price == (quote.ask if trade.side == "buy" else quote.bid)
        assert 0.005 < quote.ask - quote.bid < 0.055
        assert quote.symbol == trade.symbol
        assert abs(quote.bid * 100 - round(quote.bid * 100)) < 1e-6
    swapped = Synthetic(symbols=20, items=10, kinds=("quote", "trade"))
    assert swapped.outputs == ("trades",)
    assert [type(row) for row in await rows(swapped)] == [Quote] * 10


@pytest.mark.parametrize("key", ["symbol", None])
@pytest.mark.parametrize("processes", [True, False])
async def test_a_join_finds_each_trades_own_quote(key: str | None, processes: bool) -> None:
    """So what goes to the further output is there before the mark that says that it came."""
    dag, collected = Dag("join"), Collect()
    dag.add_node(Node("feed", Synthetic(symbols=1, items=3000, rate=1e6, kinds=("trade", "quote"))))
    dag.add_node(Node("quotes", Filter(lambda quote: True)))
    dag.add_node(Node("join", AsofJoin(["update_id"])))
    dag.add_node(Node("out", CommittedRows() if processes else collected))
    dag.add_edge("feed", "join", key=key)
    dag.add_edge("feed", "quotes", output="quotes")
    dag.add_edge("quotes", "join", key=key, input="right")
    dag.add_edge("join", "out")
    if processes:
        limits = Limits(linger=0.0, mark_interval=0.0)
        plan = compile_dag(dag, 1)
        server = MemoryServer(plan, limits)
        await MemoryJob(dag, plan, server, limits).run()
        found = [row for rows in committed_rows(server, "out").values() for row in rows]
    else:
        await DagRuntime(dag, RunConfig()).start()
        found = collected.items
    assert [(row["trade_id"], row["update_id"]) for row in found] == [(n, n) for n in range(3000)]


@pytest.mark.parametrize("rate", [None, 2000.0])
async def test_gaps_have_their_share_and_their_runs_and_do_not_depend_on_batches(rate: float | None) -> None:
    found = await rows(Synthetic(symbols=30, items=40_000, event_rate=10_000, gaps=0.05, rate=rate))
    ids = [trade.trade_id for trade in found]
    assert ids == sorted(set(ids))
    if rate is None:
        come = set(ids)
        assert found == [t for t in await rows(Synthetic(symbols=30, items=40_000)) if t.trade_id in come]
    runs = [b - a - 1 for a, b in pairwise(ids) if b - a > 1]
    assert 1 - len(ids) / 40_000 == pytest.approx(0.05, rel=0.15)
    assert (min(runs), max(runs)) == (1, 19)
    other = await rows(Synthetic(symbols=30, items=40_000, gaps=0.05, rate=None if rate else 3000.0, event_rate=10_000))
    assert [trade.trade_id for trade in other] == ids


@pytest.mark.parametrize("rate", [None, 500.0])
async def test_gap_records_say_what_is_missing_before_what_comes_behind_it(rate: float | None) -> None:
    arguments: dict[str, Any] = {"symbols": 30, "items": 6000, "event_rate": 10_000, "rate": rate, "seed": 5}
    everything = {t.trade_id: t.symbol for t in await rows(Synthetic(**arguments))}
    found = await rows(Synthetic(**arguments, gaps=0.05, gap_records=True))
    trades = [row for row in found if type(row) is Trade]
    assert trades == await rows(Synthetic(**arguments, gaps=0.05))
    lost = set(everything) - {trade.trade_id for trade in trades}
    told: Counter[Any] = Counter()
    for at, row in enumerate(found):
        if type(row) is Gap:
            behind = next(item for item in found[at:] if type(item) is Trade)
            before = [item for item in found[:at] if type(item) is Trade]
            own = [n for n in range(row.first, row.last + 1) if everything[n] == row.symbol]
            assert (own[0], own[-1], len(own)) == (row.first, row.last, row.missing)
            assert set(own) <= lost
            assert not before or before[-1].trade_id < row.first
            assert behind.trade_id > row.last
            assert row.ts_event == behind.ts_event
            told.update(own)
    assert told == Counter(n for n in lost if n < max(trade.trade_id for trade in trades))
    assert lost


async def test_gap_records_with_disorder_stand_before_anything_from_behind_the_run() -> None:
    found = await rows(
        Synthetic(
            symbols=5, items=40_000, gaps=0.02, gap_records=True, disorder=0.2, disorder_by="5ms", duplicates=0.02
        )
    )
    newest = -1
    for row in found:
        if type(row) is Gap:
            assert newest < row.first
        else:
            newest = max(newest, row.trade_id)
    assert any(type(row) is Gap for row in found)
    plain = await batches(Synthetic(symbols=5, items=40_000, gaps=0.02))
    assert all(isinstance(batch.items, Columns) for batch in plain)


async def test_seeds_below_zero_are_seeds() -> None:
    assert await rows(Synthetic(items=10, seed=-3, gaps=0.1)) == await rows(
        Synthetic(items=10, seed=2**64 - 3, gaps=0.1)
    )
    assert await rows(Synthetic(items=10, seed=-3)) != await rows(Synthetic(items=10, seed=-4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gaps": 0.2}, "gaps=0.2 is not between 0 and 0.15"),
        ({"gap_records": True}, "gap_records=True needs gaps above 0"),
        ({"kinds": ()}, r"kinds=\(\) is not allowed"),
        ({"kinds": ("trade", "bar")}, "kinds=.*'bar'.* is not allowed"),
        ({"kinds": "trade"}, "kinds='trade' is not allowed"),
        ({"bursts": 5}, "bursts=5 is not allowed"),
        ({"bursts": Bursts("1s", "1ms", 2), "event_rate": 1}, "less than one item in or between"),
        ({"sessions": []}, r"sessions: \[\] must be spans"),
        ({"sessions": ["9:30-16:00"]}, "'9:30-16:00' is no span like"),
        ({"sessions": ["09:30-24:01"]}, "'09:30-24:01' is no time of day"),
        ({"sessions": ["09:60-24:00"]}, "'09:60-24:00' is no time of day"),
        ({"sessions": ["16:00-09:30"]}, "end behind their beginning"),
        ({"sessions": ["09:00-12:00", "11:00-13:00"]}, "in order and apart"),
        ({"sessions": [5]}, "sessions: 5 is no span"),
        ({"sessions": "XNYZ"}, "calendar: 'XNYZ' is not known"),
        ({"sessions": "XNYS", "start": 2**62}, "has no session behind"),
    ],
)
def test_wrong_arguments_of_the_new_kinds_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Synthetic(**arguments)


@pytest.mark.parametrize(
    "arguments", [("1s", "1s", 2), ("1s", "2s", 2), ("1m", "1s", 1), ("1m", 0, 2), ("1m", "1s", float("nan"))]
)
def test_wrong_bursts_are_named(arguments: Any) -> None:
    with pytest.raises(ConfigError, match="bursts: "):
        Bursts(*arguments)


def test_what_was_asked_for_is_part_of_the_plan() -> None:
    config = Synthetic(bursts=Bursts("1m"), sessions=("09:00-10:00",), kinds=("quote",), gaps=0.1).config()
    assert config["bursts"]["lasting"] == 2 * SECOND
    assert (config["sessions"], config["kinds"], config["gaps"]) == (["09:00-10:00"], ["quote"], 0.1)
