"""DagRuntime: a whole Dag in one process. Every expected output is written out or computed by a plain loop."""

from __future__ import annotations

import asyncio
import gc
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tools.memory_job import ListSource
from tools.oracle import check_bars, plain_bars

from market_data_pipeline import (
    Channel,
    Collect,
    Dag,
    DagRuntime,
    JsonLines,
    Node,
    Pipeline,
    RunConfig,
    Synthetic,
    Trade,
)
from market_data_pipeline.dag.graph import NodeFn
from market_data_pipeline.errors import ConfigError, DagValidationError, OperatorFailed
from market_data_pipeline.operators.stateless import Filter, Map
from market_data_pipeline.runtime.local import RunResult

Channels = dict[str, Channel[Any]]


def dag_of(nodes: dict[str, Any], *edges: tuple[str, str]) -> Dag:
    dag = Dag("local")
    for name, fn in nodes.items():
        dag.add_node(Node(name, fn))
    for src, dst in edges:
        dag.add_edge(src, dst)
    return dag


def producer(n: int) -> NodeFn:
    async def produce(in_ch: Channels, out_ch: Channels) -> None:
        for item in range(n):
            for channel in out_ch.values():
                await channel.put(item)

    return produce


def collector(into: list[Any]) -> NodeFn:
    async def collect(in_ch: Channels, out_ch: Channels) -> None:
        for channel in in_ch.values():
            async for item in channel:
                into.append(item)

    return collect


async def double(in_ch: Channels, out_ch: Channels) -> None:
    (source,), (target,) = in_ch.values(), out_ch.values()
    async for item in source:
        await target.put(item * 2)


async def wait_for_ever(in_ch: Channels, out_ch: Channels) -> None:
    await asyncio.Event().wait()


# --- what flows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [1, 3, 2048])
async def test_a_chain_of_coroutines(capacity: int) -> None:
    got: list[int] = []
    dag = dag_of({"p": producer(500), "d": double, "c": collector(got)}, ("p", "d"), ("d", "c"))
    result = await DagRuntime(dag, RunConfig(channel_capacity=capacity)).start()
    assert got == [n * 2 for n in range(500)]
    assert result == RunResult(started=3, completed=3, cancelled=0, failed=0)


async def test_fan_out_gives_each_downstream_its_own_channel() -> None:
    left: list[int] = []
    right: list[int] = []
    seen: dict[str, Any] = {}

    async def fork(in_ch: Channels, out_ch: Channels) -> None:
        seen.update(out_ch)
        assert in_ch == {}
        for n in range(100):
            await out_ch["left"].put(n)
            if n % 2:
                await out_ch["right"].put(-n)

    dag = dag_of(
        {"fork": fork, "left": collector(left), "right": collector(right)}, ("fork", "left"), ("fork", "right")
    )
    await DagRuntime(dag, RunConfig(channel_capacity=4)).start()
    assert set(seen) == {"left", "right"}
    assert seen["left"] is not seen["right"]
    assert left == list(range(100))
    assert right == [-n for n in range(100) if n % 2]


async def test_fan_in_gives_one_channel_per_upstream() -> None:
    got: dict[str, list[int]] = {"a": [], "b": []}

    async def join(in_ch: Channels, out_ch: Channels) -> None:
        assert set(in_ch) == {"a", "b"}
        assert out_ch == {}

        async def drain(name: str) -> None:
            async for item in in_ch[name]:
                got[name].append(item)

        await asyncio.gather(drain("a"), drain("b"))

    dag = dag_of({"a": producer(50), "b": producer(30), "join": join}, ("a", "join"), ("b", "join"))
    await DagRuntime(dag, RunConfig(channel_capacity=2)).start()
    assert got == {"a": list(range(50)), "b": list(range(30))}


async def test_a_diamond_of_operators_gives_every_branch_everything() -> None:
    even, odd = Collect(), Collect()
    dag = dag_of(
        {
            "s": ListSource(range(100)),
            "even": Filter(lambda n: n % 2 == 0),
            "odd": Filter(lambda n: n % 2 == 1),
            "even_out": even,
            "odd_out": odd,
        },
        ("s", "even"), ("s", "odd"), ("even", "even_out"), ("odd", "odd_out"),
    )  # fmt: skip
    result = await DagRuntime(dag).start()
    assert even.items == list(range(0, 100, 2))
    assert odd.items == list(range(1, 100, 2))
    assert result == RunResult(5, 5, 0, 0)


@pytest.mark.parametrize("capacity", [1, 64])
async def test_coroutines_and_operators_mix(capacity: int) -> None:
    out = Collect()
    dag = dag_of(
        {"s": ListSource(range(200)), "inc": Map(lambda n: n + 1), "co": double, "neg": Map(lambda n: -n), "out": out},
        ("s", "inc"), ("inc", "co"), ("co", "neg"), ("neg", "out"),
    )  # fmt: skip
    runtime = DagRuntime(dag, RunConfig(channel_capacity=capacity))
    assert await runtime.start() == RunResult(5, 5, 0, 0)
    assert out.items == [-2 * (n + 1) for n in range(200)]
    assert runtime.counts["neg"] == {"in": 200, "out": 200}
    assert runtime.counts["out"]["in"] == 200


async def test_two_sources_meet_in_one_sink() -> None:
    out = Collect()
    dag = dag_of(
        {"a": ListSource([("a", n) for n in range(40)]), "b": ListSource([("b", n) for n in range(25)]), "out": out},
        ("a", "out"), ("b", "out"),
    )  # fmt: skip
    await DagRuntime(dag).start()
    assert [item for item in out.items if item[0] == "a"] == [("a", n) for n in range(40)]
    assert [item for item in out.items if item[0] == "b"] == [("b", n) for n in range(25)]
    assert len(out.items) == 65


async def test_bars_of_synthetic_trades_equal_the_oracle(tmp_path: Path) -> None:
    source = Synthetic(symbols=7, items=20_000, event_rate=2000, duplicates=0.05, seed=11)
    raw = Collect()
    await DagRuntime(Pipeline("raw").source(source).sink(raw).build()).start()
    pipeline = Pipeline("bars").source(source).key_by().dedupe().bars("1s").sink(JsonLines(tmp_path))
    await DagRuntime(pipeline.build()).start()
    assert len(raw.items) == 20_000
    expected, duplicates = plain_bars((row._asdict() for row in raw.items), 1_000_000_000)
    assert duplicates > 500
    check_bars(tmp_path, expected, 1_000_000_000)


async def test_a_coroutine_that_feeds_bars_gives_them_event_time() -> None:
    out = Collect()

    async def feed(in_ch: Channels, out_ch: Channels) -> None:
        for n in range(30):
            await out_ch["bars"].put(Trade("A", n * 100_000_000, 0, float(n), 1.0))

    dag = Pipeline("x").source(ListSource([])).bars("1s", name="bars").build()
    bars = dag.nodes["bars"].fn
    await DagRuntime(dag_of({"feed": feed, "bars": bars, "out": out}, ("feed", "bars"), ("bars", "out"))).start()
    assert [(bar.ts_open, bar.open, bar.close, bar.trade_count) for bar in out.items] == [
        (0, 0.0, 9.0, 10), (1_000_000_000, 10.0, 19.0, 10), (2_000_000_000, 20.0, 29.0, 10),
    ]  # fmt: skip


async def test_dead_letters_are_kept_with_their_reason() -> None:
    out = Collect()
    dag = Pipeline("d").source(ListSource([1, 0, 2])).map(lambda n: 2 // n, name="div").sink(out).build()
    runtime = DagRuntime(dag)
    await runtime.start()
    assert out.items == [2, 1]
    (letter,) = runtime.dead_letters
    assert (letter.node, letter.item) == ("div", 0)
    assert "ZeroDivisionError" in letter.reason
    assert runtime.counts["div"]["dead_letter"] == 1


async def test_of_more_dead_letters_than_are_kept_all_are_counted() -> None:
    dag = Pipeline("d").source(ListSource(range(-5, 10_500))).map(lambda n: n + "", name="bad").sink(Collect()).build()
    runtime = DagRuntime(dag)
    await runtime.start()
    assert [letter.item for letter in runtime.dead_letters] == list(range(-5, 9_995)), (
        "the first: they say what began it"
    )
    assert runtime.counts["bad"]["dead_letter"] == 10_505


async def test_stop_ends_an_endless_source_and_what_was_read_is_finished(tmp_path: Path) -> None:
    runtimes: list[DagRuntime] = []

    def stop_at(item: dict[str, int]) -> dict[str, int]:
        if item["n"] == 95:
            runtimes[0].stop()
        return item

    source = ListSource([{"n": n} for n in range(20_000)], batch_items=10)
    runtime = DagRuntime(Pipeline("s").source(source).map(stop_at).sink(JsonLines(tmp_path)).build())
    runtimes.append(runtime)
    assert await runtime.start() == RunResult(3, 3, 0, 0)
    found = [json.loads(line)["n"] for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert found == list(range(100))


async def test_stop_ends_a_coroutine_without_inputs_and_what_it_put_is_finished() -> None:
    got: list[int] = []
    told: list[str] = []

    async def endless(in_ch: Channels, out_ch: Channels) -> None:
        n = 0
        try:
            while True:
                await out_ch["d"].put(n)
                n += 1
        finally:
            await out_ch["d"].put(n)  # its outputs are open until it is done
            told.append("ended")

    dag = dag_of({"p": endless, "d": double, "c": collector(got)}, ("p", "d"), ("d", "c"))
    runtime = DagRuntime(dag, RunConfig(channel_capacity=8))
    run = asyncio.create_task(runtime.start())
    while len(got) < 100:  # noqa: ASYNC110 - the nodes know no event
        await asyncio.sleep(0)
    runtime.stop()
    assert await run == RunResult(3, 3, 0, 0)
    assert told == ["ended"]
    assert got == [2 * n for n in range(len(got))], "everything put has come, in order"
    assert runtime.cut


async def test_stop_before_the_start_and_after_the_end() -> None:
    got: list[int] = []
    early = DagRuntime(dag_of({"w": wait_for_ever, "c": collector(got)}, ("w", "c")))
    early.stop()
    assert await early.start() == RunResult(2, 2, 0, 0)
    assert early.cut
    late = DagRuntime(dag_of({"p": producer(3), "c": collector(got)}, ("p", "c")))
    await late.start()
    late.stop()
    assert got == [0, 1, 2]
    assert not late.cut, "everything had come to its own end"


async def test_stop_does_not_wait_for_a_silent_source() -> None:
    class Silent(ListSource):
        async def read(self) -> Any:
            await asyncio.Event().wait()

    runtime = DagRuntime(Pipeline("s").source(Silent([])).sink(Collect()).build())
    run = asyncio.create_task(runtime.start())
    for _ in range(5):
        await asyncio.sleep(0)
    runtime.stop()
    for _ in range(50):
        await asyncio.sleep(0)
    assert run.done(), "within a few turns of the loop: nobody waited until the source is asked again"
    assert runtime.cut


# --- what fails -------------------------------------------------------------------------------------------------


class Boom(Exception):
    """Raised by nodes here."""


async def test_a_failing_node_cancels_the_rest_and_its_error_comes_out() -> None:
    cancelled: list[str] = []
    error = Boom("as raised")

    def patient(name: str) -> NodeFn:
        async def wait(in_ch: Channels, out_ch: Channels) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(name)
                raise

        return wait

    async def fail(in_ch: Channels, out_ch: Channels) -> None:
        await asyncio.sleep(0)
        raise error

    runtime = DagRuntime(dag_of({"a": patient("a"), "f": fail, "b": patient("b")}, ("a", "b"), ("f", "b")))
    with pytest.raises(Boom) as caught:
        await runtime.start()
    assert caught.value is error
    assert sorted(cancelled) == ["a", "b"]
    assert runtime.result == RunResult(started=3, completed=0, cancelled=2, failed=1)


async def test_nodes_that_had_completed_stay_completed() -> None:
    async def fail_late(in_ch: Channels, out_ch: Channels) -> None:
        async for _ in in_ch["p"]:
            pass
        raise Boom

    runtime = DagRuntime(
        dag_of({"p": producer(3), "f": fail_late, "w": wait_for_ever, "o": wait_for_ever}, ("p", "f"), ("w", "o"))
    )
    with pytest.raises(Boom):
        await runtime.start()
    assert runtime.result == RunResult(started=4, completed=1, cancelled=2, failed=1)


async def test_policy_fail_comes_out_with_its_cause_and_fused_nodes_count_as_cancelled() -> None:
    dag = Dag("fail")
    dag.add_node(Node("s", ListSource([1, 0])))
    dag.add_node(Node("div", Map(lambda n: 1 // n), on_error="fail"))
    dag.add_node(Node("out", Collect()))
    dag.add_edge("s", "div")
    dag.add_edge("div", "out")
    runtime = DagRuntime(dag)
    with pytest.raises(OperatorFailed, match=r"'div'.*ZeroDivisionError") as caught:
        await runtime.start()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert runtime.result == RunResult(started=3, completed=0, cancelled=2, failed=1)


async def test_no_channel_hangs_after_a_failure() -> None:
    channels: list[Channel[Any]] = []

    async def remember(in_ch: Channels, out_ch: Channels) -> None:
        channels.extend((*in_ch.values(), *out_ch.values()))
        await asyncio.Event().wait()

    async def fail(in_ch: Channels, out_ch: Channels) -> None:
        channels.extend((*in_ch.values(), *out_ch.values()))
        await asyncio.sleep(0)
        raise Boom

    runtime = DagRuntime(dag_of({"a": remember, "f": fail, "b": remember}, ("a", "f"), ("f", "b")))
    with pytest.raises(Boom):
        await runtime.start()
    assert len(channels) == 4
    assert all(channel.closed for channel in channels)


async def test_cancelling_the_run_cancels_every_node_and_leaves_no_task() -> None:
    dag = dag_of({"p": producer(10**9), "w": wait_for_ever}, ("p", "w"))
    runtime = DagRuntime(dag, RunConfig(channel_capacity=2))
    run = asyncio.create_task(runtime.start())
    for _ in range(5):
        await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert runtime.result == RunResult(started=2, completed=0, cancelled=2, failed=0)
    gc.collect()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_source_that_fails_is_closed_and_its_error_comes_out() -> None:
    closed: list[bool] = []

    class Bad(ListSource):
        async def read(self) -> Any:
            raise Boom("cannot read")

        async def close(self) -> None:
            closed.append(True)

    with pytest.raises(Boom, match="cannot read"):
        await DagRuntime(Pipeline("b").source(Bad([])).sink(Collect()).build()).start()
    assert closed == [True]


async def test_a_source_that_cannot_be_opened_is_closed_too() -> None:
    """It may have taken something before it failed; workers close it too."""
    closed: list[bool] = []

    class Half(ListSource):
        async def open(self, ctx: Any, position: Any) -> None:
            raise Boom("cannot open")

        async def close(self) -> None:
            closed.append(True)

    with pytest.raises(Boom, match="cannot open"):
        await DagRuntime(Pipeline("b").source(Half([])).sink(Collect()).build()).start()
    assert closed == [True]


# --- configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channel_capacity": 0}, "channel_capacity: 0"),
        ({"max_concurrency": 0}, "max_concurrency: 0"),
        ({"high_watermark_pct": 0.2, "low_watermark_pct": 0.5}, "high 0.2, low 0.5"),
        ({"high_watermark_pct": 1.5}, "high 1.5"),
    ],
)
def test_a_wrong_config_names_setting_and_value(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        RunConfig(**arguments)


def test_more_nodes_than_max_concurrency_are_refused() -> None:
    dag = dag_of({"p": producer(1), "d": double, "c": collector([])}, ("p", "d"), ("d", "c"))
    with pytest.raises(ConfigError, match="3 nodes, max_concurrency is 2"):
        DagRuntime(dag, RunConfig(max_concurrency=2))


def test_an_invalid_dag_is_refused_before_anything_runs() -> None:
    with pytest.raises(DagValidationError, match=r"cycle: a -> b -> a"):
        DagRuntime(dag_of({"a": double, "b": double}, ("a", "b"), ("b", "a")))
