"""Programs of users, for mypy alone: what is right is accepted, and what is wrong refused.

Nothing here runs. A wrong use has a ``type: ignore`` of its kind of error; mypy says so where that is not needed any more,
because nothing refuses the use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from market_data_pipeline import (
    Batch,
    BySymbol,
    Channel,
    ChannelOptions,
    CircuitBreaker,
    CircuitRule,
    ConnectionHealth,
    Count,
    Dag,
    DagRuntime,
    Discard,
    Distributed,
    Failover,
    Frame,
    GuardedSink,
    InProcess,
    Map,
    Node,
    NodeOptions,
    Operator,
    OrchestratorSettings,
    Pipeline,
    PipelineBuilder,
    PipelineRuntime,
    Priority,
    ProviderSource,
    RateCoordinator,
    Retries,
    RoundRobin,
    RunConfig,
    RunResult,
    RunStatus,
    RuntimeOrchestrator,
    Settings,
    Sink,
    SinkContext,
    Source,
    SourceContext,
    SourceRouter,
    StoreReading,
    Synthetic,
    Trade,
    Tumble,
    VenueLimits,
    Vwap,
    Watermark,
    map_async,
)


class Feed(Source):
    outputs = ("late",)

    async def open(self, ctx: SourceContext, position: int | None) -> None:
        self._at = position or 0

    async def read(self) -> Batch | None:
        return Batch([Trade("A", self._at, 0, 1.0, 2.0)], self._at, (), {"late": []})


class Step(Operator):
    accepts = "rows"

    def process(self, frame: Frame) -> Iterable[Frame]:
        yield frame

    def restore(self, state: Mapping[str, bytes], watermark: int = 0) -> None:
        self._state = dict(state)


class Store(Sink):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self._frames: list[Frame] = []

    async def write(self, frames: Sequence[Frame]) -> None:
        self._frames += frames

    async def prepare(self, ended: bool) -> int | None:
        return len(self._frames)

    async def reading(self) -> StoreReading:
        return StoreReading(1, 10, 2)


@dataclass
class Depths:
    """An answer of another package: it has the fields of a ``StoreReading``."""

    queue_depth: int
    high: int
    low: int


class Writes:
    async def reading(self) -> Depths | None:
        return Depths(1, 10, 2)


class Line:
    async def subscribe(self, kind: str, symbols: Sequence[str]) -> None: ...

    async def records(self) -> AsyncIterator[list[Trade]]:
        yield [Trade("A", 1, 0, 1.0, 1.0)]

    def health(self) -> ConnectionHealth:
        return ConnectionHealth(True, 0.0)

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Venue:
    """A provider that inherits nothing."""

    name: str
    kinds = frozenset({"trade"})
    splittable = True
    limits = VenueLimits(per_second=5.0)

    def check(self, symbols: Sequence[str], kinds: Sequence[str]) -> None: ...

    async def connect(self) -> Line:
        return Line()


async def forward(inputs: dict[str, Channel[Any]], outputs: dict[str, Channel[Any]]) -> None:
    await map_async(inputs["a"], outputs["b"], lambda item: item)


def line(output: Path) -> Pipeline:
    return (
        PipelineBuilder("line")
        .source(Feed())
        .options(NodeOptions(on_error="fail", retries=Retries(5, first="500ms", most=timedelta(seconds=3))))
        .key_by("symbol")
        .map(lambda trade: trade)
        .dedupe("symbol", "trade_id", within="10m")
        .bars("1s", late="side_output")
        .options(NodeOptions(channel=ChannelOptions(capacity=256, levels=Watermark(200, 50))))
        .window(Tumble("1m"), {"n": Count(), "vwap": Vwap()}, key=("symbol", "venue"))
        .operator(Step())
        .sink(Store(output))
        .options(NodeOptions(feedback=Writes()))
        .sink(GuardedSink(Store(output), CircuitRule(failure_rate=0.3)))
    )


def graph(output: Path) -> Dag:
    dag = Dag("graph")
    dag.add_node(Node("feed", ProviderSource(Venue("a"), ["A"]), on_error="skip"))
    for route in (Failover(fail_after="1s"), Priority(["a", ["b", "c"]]), RoundRobin(), BySymbol({"*": ["a", "b"]})):
        dag.add_node(Node("routed", SourceRouter([Venue("a"), Venue("b")], ["A"], route=route)))
    dag.add_node(Node("forward", forward))
    dag.add_node(Node("store", Store(output), feedback=Writes()))
    dag.add_edge("feed", "store", key="symbol", channel=ChannelOptions(capacity=64))
    return dag


async def run(output: Path) -> RunResult:
    async with PipelineRuntime(Distributed(workers=2, settings=Settings(partitions=4))) as runtime:
        running = runtime.start(line(output), "one")
        runtime.start("bars.py:pipeline", values={"output": output})
        status: RunStatus = await running.wait()
        print(status.state, runtime.status("one").items_out, runtime.status()["one"].state)
        await runtime.stop("one", timeout="3s")
    await RuntimeOrchestrator(OrchestratorSettings(mode="dag")).run_dag(graph(output))
    async with RateCoordinator("venue", per_second=5) as rate:
        await rate.acquire()
    breaker = CircuitBreaker(CircuitRule(window="10s"))
    if (ticket := breaker.allow(0.0)) is not None:
        breaker.succeeded(ticket, 1.0)
    return await DagRuntime(graph(output), RunConfig()).start()


def wrong() -> None:
    Pipeline("x").source(Discard())  # type: ignore[arg-type]
    Pipeline("x").sink(Synthetic())  # type: ignore[arg-type]
    Pipeline("x").options({"retries": 3})  # type: ignore[arg-type]
    Pipeline("x").operator(lambda item: item)  # type: ignore[arg-type]
    Pipeline("x").bars(late="keep")  # type: ignore[arg-type]
    NodeOptions(on_error="ignore")  # type: ignore[arg-type]
    NodeOptions(retries=3)  # type: ignore[arg-type]
    ChannelOptions(levels=(10, 5))  # type: ignore[arg-type]
    Node("a", Map)  # type: ignore[arg-type]
    Node("a", Discard(), feedback=Venue("a"))  # type: ignore[arg-type]
    Dag().add_edge(Node("a", Feed()), Node("b", Discard()))  # type: ignore[arg-type]
    OrchestratorSettings(mode="dags")  # type: ignore[arg-type]
    Settings(partitions="four")  # type: ignore[arg-type]
    PipelineRuntime("distributed")  # type: ignore[arg-type]
    InProcess(Distributed())  # type: ignore[arg-type]
    Distributed(worker=2)  # type: ignore[call-arg]
    SourceRouter([Line()], ["A"])  # type: ignore[list-item]
    SourceRouter([Venue("a")], ["A"], route="failover")  # type: ignore[arg-type]
