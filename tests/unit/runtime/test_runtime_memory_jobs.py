"""Whole jobs on the in-memory model of the commit: killed, fenced, refused and rolled back, yet exactly once."""

from __future__ import annotations

import asyncio
import math
import random
from typing import Any

import pytest
from tools.memory_job import CommittedRows, ListSource, MemoryJob, committed_rows, until
from tools.memory_store import Fault, MemoryServer
from tools.oracle import plain_bars

from market_data_pipeline.codec import encode, with_mark
from market_data_pipeline.dag.graph import Dag, Node
from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import Fenced, JobChanged, LostTask, StaleTask
from market_data_pipeline.frame import Frame
from market_data_pipeline.operators.bars import TumblingBars
from market_data_pipeline.operators.dedupe import Dedupe
from market_data_pipeline.operators.stateless import Map
from market_data_pipeline.records import Trade
from market_data_pipeline.runtime.contract import CommitRequest, Consumed, Limits, StreamsFull
from market_data_pipeline.runtime.outputs import OUTBOX

SECOND = 1_000_000_000
PARTITIONS = 3
SMALL = Limits(
    frame_items=16, frame_bytes=4096, commit_items=40, commit_frames=2, channel_capacity=6, channel_bytes=64 * 1024,
    high=4, low=1, linger=0.0, mark_interval=0.0,
)  # fmt: skip


def trades(n: int, symbols: int = 7, seed: int = 1) -> list[Trade]:
    """Trades in order of time, about one in five repeated soon after; prices are exact in binary."""
    rng = random.Random(seed)
    made: list[Trade] = []
    for number in range(n):
        if made and rng.random() < 0.2:
            made.append(rng.choice(made[-20:]))
            continue
        ts = number * 40_000_000
        made.append(
            Trade(f"S{rng.randrange(symbols)}", ts, ts, rng.randrange(1, 400) / 4, rng.randrange(1, 9), "", number)
        )
    return made


def first_of_each(items: list[Trade]) -> dict[str, list[Trade]]:
    """The oracle of dedupe: by symbol, the first item of each id, in order."""
    seen: set[Any] = set()
    kept: dict[str, list[Trade]] = {}
    for item in items:
        if (item.symbol, item.trade_id) not in seen:
            seen.add((item.symbol, item.trade_id))
            kept.setdefault(item.symbol, []).append(item)
    return kept


def by_symbol(rows: dict[int, list[Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for partition in sorted(rows):
        for row in rows[partition]:
            found.setdefault(row.symbol, []).append(row)
    return found


def job_of(dag: Dag, limits: Limits = SMALL, partitions: int = PARTITIONS) -> tuple[MemoryJob, MemoryServer]:
    plan = compile_dag(dag, partitions)
    server = MemoryServer(plan, limits)
    return MemoryJob(dag, plan, server, limits), server


def bars_dag(items: list[Trade]) -> Dag:
    """source -> dedupe -> two sinks: the trades themselves and the bars of them."""
    dag = Dag("bars")
    dag.add_node(Node("source", ListSource(items, max_delay=2 * SECOND)))
    dag.add_node(Node("dedupe", Dedupe("symbol", "trade_id")))
    dag.add_node(Node("bars", TumblingBars("1s")))
    dag.add_node(Node("kept", CommittedRows()))
    dag.add_node(Node("out", CommittedRows()))
    dag.add_edge("source", "dedupe", key="symbol")
    dag.add_edge("dedupe", "kept")
    dag.add_edge("dedupe", "bars")
    dag.add_edge("bars", "out")
    return dag


def check_output(server: MemoryServer, items: list[Trade]) -> None:
    assert by_symbol(committed_rows(server, "kept")) == first_of_each(items)
    bars = [bar for rows in committed_rows(server, "out").values() for bar in rows]
    expected, _ = plain_bars((item._asdict() for item in items), SECOND)
    assert len(bars) == len(expected), "a bar is missing or twice"
    for bar in bars:
        wanted = expected[bar.symbol, bar.ts_open]
        assert (bar.open, bar.high, bar.low, bar.close) == tuple(wanted[k] for k in ("open", "high", "low", "close"))
        assert (bar.volume, bar.trade_count) == (wanted["volume"], wanted["trade_count"])
        assert math.isclose(bar.vwap, wanted["vwap"], rel_tol=1e-12)
    for rows in committed_rows(server, "out").values():
        per_symbol = by_symbol({0: rows})
        assert all([b.ts_open for b in bars] == sorted(b.ts_open for b in bars) for bars in per_symbol.values())


def check_streams(server: MemoryServer, limits: Limits = SMALL) -> None:
    assert server.longest, "nothing crossed a stream"
    assert max(server.longest.values()) <= limits.channel_capacity
    assert max(server.heaviest.values()) <= limits.channel_bytes
    assert server.largest_append <= limits.commit_frames


async def test_job_without_trouble_equals_the_oracle() -> None:
    items = trades(400)
    job, server = job_of(bars_dag(items))
    await job.run()
    check_output(server, items)
    check_streams(server)
    assert not any(server.contents.streams.values()), "every entry was consumed"


@pytest.mark.parametrize("seed", range(25))
async def test_tasks_killed_at_random_points_are_exactly_once(seed: int) -> None:
    items = trades(300, seed=seed)
    job, server = job_of(bars_dag(items))
    rng = random.Random(seed)
    running = asyncio.create_task(job.run())
    kills = 0
    while not running.done():
        for _ in range(rng.randrange(1, 30)):
            await asyncio.sleep(0)
        if job.running and not running.done():
            await job.take_over(rng.randrange(PARTITIONS))
            kills += 1
    await running
    assert kills >= 3
    check_output(server, items)
    check_streams(server)


@pytest.mark.parametrize("fault", [Fault.HANG_BEFORE, Fault.HANG_AFTER])
@pytest.mark.parametrize("at", range(0, 24, 2))
async def test_a_task_killed_in_its_commit_is_exactly_once(fault: Fault, at: int) -> None:
    items = trades(200, seed=at)
    job, server = job_of(bars_dag(items))
    asked: list[TaskId] = []

    def choose(task: TaskId, request: CommitRequest) -> Fault | None:
        asked.append(task)
        return fault if len(asked) == at + 1 else None

    server.choose_fault = choose
    running = asyncio.create_task(job.run())
    await asyncio.wait_for(server.hung.wait(), 10)
    await job.take_over(asked[at].partition)
    await running
    check_output(server, items)
    check_streams(server)


@pytest.mark.parametrize("fault", [Fault.LOSE_REPLY, Fault.FULL])
@pytest.mark.parametrize("seed", range(4))
async def test_lost_replies_and_refusals_are_exactly_once(fault: Fault, seed: int) -> None:
    items = trades(250, seed=seed)
    job, server = job_of(bars_dag(items))
    rng = random.Random(seed)
    server.choose_fault = lambda task, request: fault if rng.random() < 0.3 else None
    await job.run()
    check_output(server, items)
    check_streams(server)
    if fault is Fault.LOSE_REPLY:
        assert server.duplicates_answered > 3


@pytest.mark.parametrize("seed", range(6))
async def test_a_server_that_lost_its_last_commits_is_exactly_once(seed: int) -> None:
    items = trades(300, seed=seed)
    job, server = job_of(bars_dag(items))
    rng = random.Random(seed)
    running = asyncio.create_task(job.run())
    rollbacks = 0
    for _ in range(3):
        for _ in range(rng.randrange(10, 60)):
            await asyncio.sleep(0)
        before = server.snapshot()
        for _ in range(rng.randrange(10, 60)):
            await asyncio.sleep(0)
        if all(record.ended for record in server.contents.tasks.values()):
            break
        server.rollback(before)
        rollbacks += 1
        for task, _ in job.running.values():
            task.reload()
    # a task that had ended before the rollback has to go on: a worker starts it again with the next assignment
    while not running.done():
        await asyncio.sleep(0.005)
        for task, (_, work) in list(job.running.items()):
            if work.done() and not server.contents.tasks[task].ended:
                await job.kill(task)
                job.start(task)
    await running
    assert rollbacks
    check_output(server, items)
    check_streams(server)


async def test_a_zombie_is_fenced_and_does_no_harm() -> None:
    items = trades(300)
    job, server = job_of(bars_dag(items))
    for task in job.plan.tasks():
        job.start(task)
    await until(lambda: len(server.history) >= 6)
    zombies = [work for task, (_, work) in job.running.items() if task.partition == 0]
    fenced_tasks = [task for task in job.running if task.partition == 0]
    server.lease(0)  # the new owner starts while the old one still works
    for task in fenced_tasks:
        job.start(task)
    await job.run()
    outcomes = await asyncio.gather(*zombies, return_exceptions=True)
    assert all(isinstance(outcome, Fenced) for outcome in outcomes)
    check_output(server, items)


# --- a flush bigger than a commit ---------------------------------------------------------------------------------


def explode_dag(n: int, times: int) -> Dag:
    """Each item becomes ``times`` items before the keyed edge: far more frames than one commit takes."""
    return (
        Pipeline("explode")
        .source(ListSource([{"symbol": f"S{i % 5}", "n": i} for i in range(n)], batch_items=n))
        .flat_map(lambda item: [{**item, "part": part} for part in range(times)])
        .key_by("symbol")
        .sink(CommittedRows(), "out")
        .build()
    )


def check_exploded(server: MemoryServer, n: int, times: int) -> None:
    found: dict[str, list[tuple[int, int]]] = {}
    for rows in committed_rows(server, "out").values():
        for row in rows:
            found.setdefault(row["symbol"], []).append((row["n"], row["part"]))
    assert found == {f"S{s}": [(i, p) for i in range(s, n, 5) for p in range(times)] for s in range(5)}


async def test_a_flush_bigger_than_a_commit_goes_through_the_outbox_once() -> None:
    job, server = job_of(explode_dag(10, 200))
    await job.run()
    check_exploded(server, 10, 200)
    check_streams(server)
    assert max(server.longest.values()) > 1
    for record in server.contents.tasks.values():
        assert not any(name.startswith(OUTBOX) for name in record.state), "the outbox is empty at the end"


@pytest.mark.parametrize("fault", [Fault.HANG_BEFORE, Fault.HANG_AFTER])
@pytest.mark.parametrize("at", [0, 1, 2, 5, 9])
async def test_a_task_killed_while_its_outbox_drains_is_exactly_once(fault: Fault, at: int) -> None:
    job, server = job_of(explode_dag(10, 200))
    mine: list[bool] = []

    def choose(task: TaskId, request: CommitRequest) -> Fault | None:
        if task.subgraph != "source":
            return None
        mine.append(any(name.startswith(OUTBOX) for name in request.state))
        return fault if len(mine) == at + 1 else None

    server.choose_fault = choose
    running = asyncio.create_task(job.run())
    await asyncio.wait_for(server.hung.wait(), 10)
    assert mine[at], "the commit that hangs has to do with the outbox"
    await job.take_over(0)
    await running
    check_exploded(server, 10, 200)
    check_streams(server)


# --- what else a chain task promises ------------------------------------------------------------------------------


async def test_a_filter_that_drops_everything_still_ends_the_job() -> None:
    dag = (
        Pipeline("none").source(ListSource(trades(60))).filter(lambda item: False).key_by().sink(CommittedRows(), "out")
    ).build()
    job, server = job_of(dag)
    await job.run()
    assert committed_rows(server, "out") == {0: [], 1: [], 2: []}


async def test_bad_frames_become_dead_letters_and_their_neighbours_survive() -> None:
    items = trades(60)
    dag = Pipeline("bad").source(ListSource(items)).key_by().sink(CommittedRows(), "out").build()
    job, server = job_of(dag)
    stream = ("source.out", 1)
    foreign = encode("nobody/0", Frame([{"symbol": "X"}]))
    flipped = bytearray(with_mark("source/0", 5))
    flipped[3] ^= 1
    server.append(stream, [b"", b"garbage", foreign, bytes(flipped)])
    ids = [entry.id for entry in server.stream(stream)]
    await job.run()
    letters = server.contents.dead_letters
    assert [letter.where for letter in letters] == [f"source.out/1 entry {entry_id}" for entry_id in ids]
    assert [letter.item for letter in letters] == [b"", b"garbage", foreign, bytes(flipped)]
    assert all(letter.node == "out" and letter.reason.startswith("bad frame: ") for letter in letters)
    kept: dict[str, list[Trade]] = {}
    for item in items:
        kept.setdefault(item.symbol, []).append(item)
    assert by_symbol(committed_rows(server, "out")) == kept


async def test_items_that_raise_are_dead_letters_exactly_once() -> None:
    items = [{"symbol": f"S{i % 3}", "n": i} for i in range(50)]

    def refuse(item: dict[str, Any]) -> dict[str, Any]:
        if item["n"] % 10 == 3:
            raise ValueError(f"no {item['n']}")
        return item

    dag = Pipeline("raise").source(ListSource(items)).map(refuse).key_by().sink(CommittedRows(), "out").build()
    job, server = job_of(dag)
    server.choose_fault = lambda task, request: Fault.LOSE_REPLY
    await job.run()
    assert sorted(letter.item["n"] for letter in server.contents.dead_letters) == [3, 13, 23, 33, 43]
    assert all(
        "ValueError: no " in letter.reason and "refuse" in letter.traceback for letter in server.contents.dead_letters
    )
    found = sorted(row["n"] for rows in committed_rows(server, "out").values() for row in rows)
    assert found == [n for n in range(50) if n % 10 != 3]


async def test_an_item_without_the_key_is_a_dead_letter() -> None:
    items = [{"symbol": "A", "n": 1}, {"n": 2}, {"symbol": "A", "n": 3}]
    dag = Pipeline("unkeyed").source(ListSource(items)).key_by().sink(CommittedRows(), "out").build()
    job, server = job_of(dag)
    await job.run()
    assert [letter.item for letter in server.contents.dead_letters] == [{"n": 2}]
    assert "symbol" in server.contents.dead_letters[0].reason
    assert sorted(row["n"] for rows in committed_rows(server, "out").values() for row in rows) == [1, 3]


async def test_policy_fail_ends_the_task_with_the_users_error() -> None:
    dag = Dag("fail")
    dag.add_node(Node("source", ListSource([1, 2, 0, 4])))
    dag.add_node(Node("map", Map(lambda x: 1 // x), on_error="fail"))
    dag.add_edge("source", "map")
    job, _ = job_of(dag)
    with pytest.raises(Exception, match=r"map.*ZeroDivisionError") as caught:
        await job.run()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    await job.stop()


async def test_a_full_dead_letter_stream_holds_the_job_until_there_is_room() -> None:
    items = [{"symbol": "A"}, {"n": 1}, {"n": 2}, {"symbol": "A"}]
    limits = SMALL._replace(dead_letter_capacity=1, commit_items=1)
    dag = Pipeline("dlq").source(ListSource(items, batch_items=1)).key_by().sink(CommittedRows(), "out").build()
    job, server = job_of(dag, limits)
    running = asyncio.create_task(job.run())
    await until(lambda: bool(job.clock.slept and server.contents.dead_letters))
    for _ in range(50):
        await asyncio.sleep(0)
    assert [letter.item for letter in server.contents.dead_letters] == [{"n": 1}]
    assert not running.done()
    server.contents.dead_letters.clear()
    await running
    assert [letter.item for letter in server.contents.dead_letters] == [{"n": 2}]
    assert sum(map(len, committed_rows(server, "out").values())) == 2


async def test_stop_commits_what_was_read_and_a_successor_goes_on() -> None:
    items = trades(400)
    job, server = job_of(bars_dag(items))
    for task in job.plan.tasks():
        job.start(task)
    await until(lambda: len(server.history) >= 8)
    tasks = list(job.running)
    for made, _ in job.running.values():
        made.stop()
    outcomes = [await asyncio.wait_for(work, 5) for _, work in job.running.values()]
    assert outcomes == [False] * len(tasks)
    committed = len(server.history)
    for task in tasks:
        await job.kill(task)
    for partition in range(PARTITIONS):
        server.lease(partition)
    await job.run()
    assert len(server.history) > committed
    check_output(server, items)


async def test_an_ended_task_that_is_started_again_ends_at_once() -> None:
    items = trades(50)
    job, server = job_of(bars_dag(items))
    await job.run()
    commits = len(server.history)
    for partition in range(PARTITIONS):
        server.lease(partition)
    for task in job.plan.tasks():
        job.start(task)
    assert await asyncio.gather(*(work for _, work in job.running.values())) == [True] * len(job.running)
    assert len(server.history) == commits
    check_output(server, items)


async def test_a_paused_consumer_pauses_the_source() -> None:
    items = trades(2000)
    job, server = job_of(Pipeline("pause").source(ListSource(items)).key_by().sink(CommittedRows(), "out").build())
    source = TaskId("source", 0)
    job.start(source)
    await until(lambda: len(job.clock.slept) >= 20)
    before = len(server.history)
    for _ in range(200):
        await asyncio.sleep(0)
    assert len(server.history) == before, "it waits"
    assert max(server.longest.values()) <= SMALL.channel_capacity
    await job.run()
    assert sum(map(len, committed_rows(server, "out").values())) == len(items)
    check_streams(server)


# --- the model itself ---------------------------------------------------------------------------------------------


async def test_the_model_checks_in_order_and_changes_nothing_when_it_refuses() -> None:
    plan = compile_dag(Pipeline("m").source(ListSource([])).key_by().sink(CommittedRows(), "out").build(), 1)
    limits = SMALL._replace(channel_capacity=4, commit_frames=2)
    server = MemoryServer(plan, limits)
    task, stream = TaskId("source", 0), ("source.out", 0)
    old = server.lease(0)
    store = server.store(task, old)
    assert await store.commit(CommitRequest("", "c1", b"m", outputs={stream: [b"a", b"b"]})) == {stream: 2}
    with pytest.raises(StaleTask):
        await store.commit(CommitRequest("", "c2", b"m", outputs={stream: [b"x"]}))
    assert await store.commit(CommitRequest("c1", "c2", b"m", outputs={stream: [b"c"]})) == {stream: 3}
    with pytest.raises(StreamsFull):
        await store.commit(CommitRequest("c2", "c3", b"m", outputs={stream: [b"d"]}))
    new = server.lease(0)
    with pytest.raises(Fenced):
        await store.commit(CommitRequest("c2", "c3", b"m"))
    assert await store.commit(CommitRequest("c2", "c2", b"m")) == {}, "a duplicate is known before the fence"
    reader = server.store(TaskId("out", 0), new)
    wrong = Consumed(stream, "2-0", "2-0", 1, 1)
    with pytest.raises(StaleTask):
        await reader.commit(CommitRequest("", "r1", b"m", consumed=[wrong]))
    server.job = "job-2"
    with pytest.raises(JobChanged):
        await reader.commit(CommitRequest("", "r1", b"m"))
    server.job = "job-1"
    del server.contents.tasks[TaskId("out", 0)]
    with pytest.raises(LostTask):
        await reader.commit(CommitRequest("", "r1", b"m"))
    assert [entry.blob for entry in server.stream(stream)] == [b"a", b"b", b"c"]
