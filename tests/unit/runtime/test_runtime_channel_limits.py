"""An edge with a channel of its own: what holds for its streams, when its producers wait, and that it holds in a job."""

from __future__ import annotations

from typing import Any

import pytest
from test_runtime_gate import A, B, make
from tools.memory_job import CommittedRows, ListSource, MemoryJob, committed_rows
from tools.memory_store import MemoryServer

from market_data_pipeline import ChannelOptions, Collect, Dag, DagRuntime, Map, Node, RunConfig, Watermark
from market_data_pipeline.dag.plan import PlanEdge
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.runtime.channel_limits import ChannelLimits, channel_limits, check_channels, levels_of
from market_data_pipeline.runtime.contract import Limits
from market_data_pipeline.settings import Settings, limits_of

LIMITS = limits_of(Settings(high_watermark_pct=0.5, low_watermark_pct=0.1))
SMALL = Limits(
    frame_items=4, commit_items=16, commit_frames=2, channel_capacity=24, high=18, low=6, linger=0.0, mark_interval=0.0
)


def edge(channel: ChannelOptions | None) -> PlanEdge:
    return PlanEdge("source", "bars", "keyed", "symbol", channel=channel)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (None, (64, 2**25, Watermark(32, 6))),
        (ChannelOptions(capacity=200), (200, 2**25, Watermark(100, 20))),
        (ChannelOptions(bytes=2**26), (64, 2**26, Watermark(32, 6))),
        (ChannelOptions(levels=Watermark(40, 1)), (64, 2**25, Watermark(40, 1))),
        (ChannelOptions(capacity=32, levels=Watermark(32, 0)), (32, 2**25, Watermark(32, 0))),
    ],
    ids=str,
)
def test_what_an_edge_leaves_out_is_as_the_settings_say(own: ChannelOptions | None, expected: Any) -> None:
    """Levels are shares of the edge's own capacity."""
    assert channel_limits(edge(own), LIMITS) == ChannelLimits(*expected)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (ChannelOptions(capacity=31), "edge source -> bars: capacity=31 must be at least twice commit_frames=16"),
        (ChannelOptions(bytes=2**23 - 1), "edge source -> bars: bytes=8388607 .* = 8388608"),
        (ChannelOptions(levels=Watermark(65, 1)), "edge source -> bars: levels: high=65 is above the capacity of 64"),
    ],
)
def test_a_channel_in_which_a_commit_could_wait_for_ever_is_refused(own: ChannelOptions, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        channel_limits(edge(own), LIMITS)


def forked(own: ChannelOptions | None, items: int = 400) -> Dag:
    """source -> narrow and source -> wide, of which ``narrow`` has a channel of its own."""
    rows = [{"symbol": f"S{n % 5}", "n": n, "ts_event": n} for n in range(items)]
    dag = Dag("forked")
    dag.add_node(Node("source", ListSource(rows, batch_items=8)))
    for name in ("narrow", "wide"):
        dag.add_node(Node(name, CommittedRows()))
        dag.add_edge("source", name, key="symbol", channel=own if name == "narrow" else None)
    return dag


async def test_a_jobs_stream_never_holds_more_than_its_edge_says() -> None:
    dag = forked(ChannelOptions(capacity=5))
    plan = compile_dag(dag, 1)
    check_channels(plan, SMALL)
    assert levels_of(plan, SMALL) == {"source.narrow": Watermark(3, 1), "source.wide": Watermark(18, 6)}
    server = MemoryServer(plan, SMALL)
    job = MemoryJob(dag, plan, server, SMALL)
    fed = [task for task in plan.tasks() if task.subgraph == "source"]
    await job.run_until(lambda: bool(server.stream(("source.narrow", 0))) and job.clock.slept != [], fed)
    assert 3 <= server.longest["source.narrow", 0] <= 5, "its producer waits at its own level"
    await job.run()
    assert server.longest["source.narrow", 0] <= 5
    assert [row["n"] for row in committed_rows(server, "narrow")[0]] == list(range(400))
    assert [row["n"] for row in committed_rows(server, "wide")[0]] == list(range(400))


async def test_each_stream_is_waited_for_at_its_own_levels() -> None:
    low = ChannelLimits(10, 10_000, Watermark(9, 8))
    gate, server, clock, notes = make({A: 8, B: 9}, own=low)
    await gate.wait({A: 8, B: 9})
    assert notes.crossings == [(B, "high"), (B, "low")]
    assert len(server.stream(B)) == 8
    assert len(clock.slept) == 1


async def test_room_is_waited_for_until_a_commit_fits() -> None:
    """A low level so high that a commit does not fit above it must not make a task ask again and again."""
    gate, server, _, _ = make({A: 10}, own=ChannelLimits(10, 10_000, Watermark(10, 9)))
    await gate.wait_for_room([A])
    assert len(server.stream(A)) == 8


async def test_in_one_process_the_channel_is_the_edges_too() -> None:
    seen: list[tuple[int, Watermark]] = []

    async def produce(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
        for channel in out_ch.values():
            seen.append((channel.capacity, channel.watermark))
            await channel.put(1)

    dag = Dag("local")
    dag.add_node(Node("produce", produce))
    for name, own in (("own", ChannelOptions(capacity=8)), ("levels", ChannelOptions(levels=Watermark(3, 2)))):
        dag.add_node(Node(name, Map(str)))
        dag.add_edge("produce", name, channel=own)
    await DagRuntime(dag, RunConfig(channel_capacity=16, high_watermark_pct=0.5, low_watermark_pct=0.25)).start()
    assert seen == [(8, Watermark(4, 2)), (16, Watermark(3, 2))]


def test_levels_above_the_capacity_of_the_run_name_the_edge() -> None:
    dag = Dag("high")
    dag.add_node(Node("source", ListSource([])))
    dag.add_node(Node("out", Collect()))
    dag.add_edge("source", "out", boundary=True, channel=ChannelOptions(levels=Watermark(17, 2)))
    with pytest.raises(ConfigError, match="edge source -> out: levels: high=17 is over the capacity of 16"):
        DagRuntime(dag, RunConfig(channel_capacity=16))
