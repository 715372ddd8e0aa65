"""PipelineRuntime in one process: what comes out, what is told, how a run ends."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from tools.memory_job import ListSource, until

from market_data_pipeline import (
    Collect,
    Dag,
    InProcess,
    Node,
    Pipeline,
    PipelineRuntime,
    RunConfig,
    RunStatus,
)
from market_data_pipeline.dag.graph import NodeFn
from market_data_pipeline.errors import ConfigError, DagValidationError
from market_data_pipeline.sources.base import Batch, Source, SourceContext

Channels = dict[str, Any]


class Boom(Exception):
    """Raised by nodes here."""


class Endless(Source):
    """Numbers, ten at a time, without end."""

    max_delay = 0

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        self._at = 0

    async def read(self) -> Batch:
        await asyncio.sleep(0)
        self._at += 10
        return Batch(list(range(self._at - 10, self._at)), self._at)


def numbers(n: int, out: Collect, name: str = "numbers") -> Pipeline:
    return Pipeline(name).source(ListSource(range(n))).map(lambda item: item + 1, name="add").sink(out, name="out")


def endless(out: Collect, name: str = "endless") -> Pipeline:
    return Pipeline(name).source(Endless()).sink(out, name="out")


def coroutines(fn: NodeFn, then: NodeFn, name: str = "two") -> Dag:
    dag = Dag(name)
    dag.add_node(Node("first", fn))
    dag.add_node(Node("second", then))
    dag.add_edge("first", "second")
    return dag


async def stubborn(in_ch: Channels, out_ch: Channels) -> None:
    """Has inputs, and does not end when they do."""
    for channel in in_ch.values():
        async for _ in channel:
            pass
    await asyncio.Event().wait()


async def taking(in_ch: Channels, out_ch: Channels) -> None:
    for channel in in_ch.values():
        async for _ in channel:
            pass


def never_ending() -> Dag:
    dag = Dag("stubborn")
    dag.add_node(Node("source", ListSource(range(20))))
    dag.add_node(Node("stubborn", stubborn))
    dag.add_edge("source", "stubborn")
    return dag


class Waiting:
    """A node that waits for something that never comes. Cancelled, it cleans up, which takes until ``go``."""

    def __init__(self) -> None:
        self.begun, self.cleaning, self.go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.clean = False

    async def node(self, in_ch: Channels, out_ch: Channels) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cleaning.set()
            await self.go.wait()
            self.clean = True

    def dag(self) -> Dag:
        return coroutines(self.node, taking, "waiting")


# --- what a run tells -------------------------------------------------------------------------------------------


async def test_a_pipeline_runs_to_its_end_and_tells_its_counts() -> None:
    out = Collect()
    status = await PipelineRuntime().run_pipeline(numbers(100, out))
    assert out.items == list(range(1, 101))
    assert status == RunStatus(
        "numbers",
        "in process",
        "finished",
        nodes={"source": {"in": 100, "out": 100}, "add": {"in": 100, "out": 100}, "out": {"in": 100}},
        items_in=100,
        items_out=100,
    )


async def test_coroutine_nodes_are_counted_and_their_channels_shown_while_they_run() -> None:
    go = asyncio.Event()

    async def put(in_ch: Channels, out_ch: Channels) -> None:
        for n in range(50):
            await out_ch["second"].put(n)

    async def take(in_ch: Channels, out_ch: Channels) -> None:
        await in_ch["first"].get()
        await go.wait()
        async for _ in in_ch["first"]:
            pass

    runtime = PipelineRuntime(InProcess(RunConfig(channel_capacity=8)))
    running = runtime.start(coroutines(put, take))
    await until(lambda: running.status().channels == {"first.second": 8})
    status = running.status()
    assert (status.state, status.nodes) == ("running", {"first": {"out": 9}, "second": {"in": 1}})
    go.set()
    done = await running.wait()
    assert done.nodes == {"first": {"out": 50}, "second": {"in": 50}}
    assert (done.state, done.items_in, done.channels) == ("finished", 50, {"first.second": 0})


def inverse(n: int) -> int:
    return 2 // n


async def test_dead_letters_are_counted_and_the_first_is_told() -> None:
    pipeline = Pipeline("d").source(ListSource([1, 0, 2])).map(inverse, name="div").sink(Collect())
    status = await PipelineRuntime().run_pipeline(pipeline)
    assert (status.dead_letters, status.nodes["div"]["dead_letter"], status.items_out) == (1, 1, 2)
    line = inverse.__code__.co_firstlineno + 1
    at = f"div at {Path(__file__).name}:{line}"
    assert status.first_dead_letter == f"{at}: ZeroDivisionError: integer division or modulo by zero", (
        "which item is at fault, and where"
    )


async def test_the_status_counts_dead_letters_that_are_not_kept_too() -> None:
    pipeline = Pipeline("d").source(ListSource([0] * 10_001)).map(inverse, name="div").sink(Collect())
    assert (await PipelineRuntime().run_pipeline(pipeline)).dead_letters == 10_001


async def test_what_a_node_raises_comes_out_as_it_is_and_stands_in_the_status() -> None:
    error = Boom("as raised")

    async def fail(in_ch: Channels, out_ch: Channels) -> None:
        raise error

    runtime = PipelineRuntime()
    with pytest.raises(Boom) as caught:
        await runtime.run_dag(coroutines(fail, stubborn, "fails"))
    assert caught.value is error
    assert (runtime.status("fails").state, runtime.status("fails").error) == ("failed", "Boom: as raised")


async def test_a_failure_that_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(in_ch: Channels, out_ch: Channels) -> None:
        raise Boom("unheard")

    runtime = PipelineRuntime()
    with caplog.at_level(logging.WARNING):
        runtime.start(coroutines(fail, stubborn, "alone"))
        await until(lambda: runtime.status("alone").state == "failed")
        await asyncio.sleep(0)
        assert [record.getMessage() for record in caplog.records] == [
            "run 'alone' failed before anybody waited for it: Boom: unheard"
        ]
        caplog.clear()
        with pytest.raises(Boom):
            await runtime.start(coroutines(fail, stubborn, "waited")).wait()
        assert not caplog.records


# --- names ------------------------------------------------------------------------------------------------------


async def test_runs_side_by_side_have_names_and_a_taken_one_is_refused() -> None:
    runtime, one, two = PipelineRuntime(), Collect(), Collect()
    first, second = runtime.start(endless(one)), runtime.start(endless(two), "other")
    with pytest.raises(ConfigError, match=r"^name 'other': a run of this name is under way; wait for it or stop it"):
        runtime.start(numbers(3, Collect()), "other")
    await until(lambda: min(len(one.items), len(two.items)) >= 50)
    assert {name: status.state for name, status in runtime.status().items()} == {
        "endless": "running",
        "other": "running",
    }
    assert list(await runtime.stop("endless")) == ["endless"]
    assert (first.status().state, second.status().state) == ("stopped", "running")
    assert set(runtime.running) == {"other"}
    await runtime.stop()
    assert second.status().state == "stopped"


async def test_a_name_is_free_again_when_its_run_is_over() -> None:
    runtime, out = PipelineRuntime(), Collect()
    await runtime.run_pipeline(numbers(5, out), "again")
    status = await runtime.run_pipeline(numbers(7, out), "again")
    assert status.items_in == 7
    assert runtime.status() == {"again": status}
    assert await runtime.stop("again") == {"again": status}, "it is over: nothing to do"


async def test_an_end_that_is_told_late_leaves_the_next_run_of_its_name() -> None:
    """A run is over before those who are called then are: the name is free in between."""
    runtime, out = PipelineRuntime(), Collect()
    first = runtime.start(numbers(5, Collect()), "again")
    await until(lambda: first.done)
    second = runtime.start(endless(out), "again")
    await until(lambda: len(out.items) >= 30)
    assert runtime.running == {"again": second}
    assert (await runtime.stop())["again"].state == second.status().state == "stopped"


async def test_an_unknown_name_is_refused_with_those_that_are_there() -> None:
    runtime = PipelineRuntime()
    with pytest.raises(ConfigError, match=r"^no run 'x'; there are: none$"):
        runtime.status("x")
    await runtime.run_pipeline(numbers(1, Collect()))
    with pytest.raises(ConfigError, match=r"^no run 'x'; there are: numbers$"):
        await runtime.stop("x")


async def test_only_the_last_hundred_that_are_over_are_remembered() -> None:
    runtime = PipelineRuntime()
    for n in range(103):
        await runtime.run_pipeline(numbers(1, Collect()), f"n{n}")
    assert list(runtime.status()) == [f"n{n}" for n in range(3, 103)]


# --- how it ends ------------------------------------------------------------------------------------------------


async def test_stop_lets_what_was_read_be_worked_off() -> None:
    runtime, out = PipelineRuntime(), Collect()
    running = runtime.start(endless(out))
    await until(lambda: len(out.items) >= 100)
    status = (await runtime.stop())["endless"]
    assert out.items == list(range(len(out.items)))
    assert (status.state, status.error) == ("stopped", "")
    assert status.items_in == status.items_out == len(out.items)
    assert await running.wait() == status, "being stopped is no failure"


async def test_a_run_that_is_over_when_it_is_stopped_has_finished() -> None:
    out = Collect()
    running = PipelineRuntime().start(numbers(5, out))
    await until(lambda: running.done)
    assert (await running.stop()).state == "finished"


async def test_what_does_not_end_in_time_is_cancelled_and_the_status_says_so() -> None:
    runtime = PipelineRuntime()
    running = runtime.start(never_ending())
    status = (await runtime.stop(timeout="20ms"))["stubborn"]
    assert (status.state, status.error) == ("stopped", "cut short: it had not ended 20ms after it was asked to stop")
    assert running.done
    with pytest.raises(ConfigError, match="timeout: '0s' must be greater than zero"):
        await runtime.start(never_ending()).stop("0s")
    await runtime.stop(timeout="1ms")


@pytest.mark.parametrize("error", [None, Boom])
async def test_leaving_the_block_stops_what_runs(error: type[Exception] | None) -> None:
    out, again = Collect(), Collect()
    runtime = PipelineRuntime()

    async def block() -> None:
        async with runtime as same:
            assert same is runtime
            runtime.start(endless(out))
            await until(lambda: len(out.items) >= 30)
            if error is not None:
                raise error

    if error is None:
        await block()
    else:
        with pytest.raises(error):
            await block()
    assert runtime.status("endless").state == "stopped"
    assert out.items == list(range(len(out.items)))
    async with runtime:
        assert (await runtime.run_pipeline(numbers(4, again))).state == "finished"


async def test_being_cancelled_while_the_block_is_left_ends_what_runs_at_once() -> None:
    runtime, left = PipelineRuntime(), asyncio.Event()

    async def block() -> None:
        async with runtime:
            runtime.start(never_ending())
            left.set()

    leaving = asyncio.create_task(block())
    await left.wait()
    running = runtime.running["stubborn"]
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    for _ in range(1000):
        await asyncio.sleep(0)
    cut = running.done
    await running.cancel()
    assert cut, "nobody is there any more to stop it"


async def test_cancelling_who_waits_leaves_the_run_and_cancelling_run_dag_ends_it() -> None:
    runtime = PipelineRuntime()
    running = runtime.start(never_ending())
    waiting = asyncio.create_task(running.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not running.done
    assert (await running.cancel()).error == "cut short: it was cancelled"
    whole = asyncio.create_task(runtime.run_dag(never_ending(), "whole"))
    await until(lambda: "whole" in runtime.running)
    whole.cancel()
    with pytest.raises(asyncio.CancelledError):
        await whole
    assert runtime.status("whole").state == "stopped"


async def test_another_event_loop_is_told_how_to_stop_a_run_and_no_run_is_cut_short_for_it() -> None:
    runtime, loop = PipelineRuntime(), asyncio.get_running_loop()
    node = Waiting()
    node.go.set()
    running = runtime.start(node.dag())
    for elsewhere in (runtime.stop, running.stop, running.wait, running.cancel):
        with pytest.raises(
            ConfigError, match=r"^run 'waiting' belongs to the event loop that started it.*run_coroutine"
        ):
            await asyncio.to_thread(asyncio.run, elsewhere())
    assert running.status().state == "running"

    def stop() -> RunStatus:
        return asyncio.run_coroutine_threadsafe(runtime.stop(), loop).result(20)["waiting"]

    status = await asyncio.to_thread(stop)
    assert (status.state, status.error) == ("stopped", "")
    assert await asyncio.to_thread(asyncio.run, running.wait()) == status, "it is over: nobody waits"


@pytest.mark.parametrize(("end", "error"), [("interrupt", ""), ("cut", "cut short: it was cancelled")])
async def test_a_run_is_ended_from_another_thread_without_waiting(end: str, error: str) -> None:
    asyncio.get_running_loop().set_debug(True)  # it raises in the thread that does not wake it
    node = Waiting()
    node.go.set()
    running = PipelineRuntime().start(node.dag())
    await node.begun.wait()
    await asyncio.to_thread(getattr(running, end))
    status = await running.wait()
    assert (status.state, status.error) == ("stopped", error)
    getattr(running, end)()
    assert running.status() == status


async def test_who_cleans_up_is_not_cancelled_a_second_time() -> None:
    node = Waiting()
    running = PipelineRuntime().start(node.dag())
    await node.begun.wait()
    ends = [asyncio.create_task(running.cancel()) for _ in range(2)]
    await node.cleaning.wait()
    ends += [asyncio.create_task(end) for end in (running.cancel(), running.stop("1ms"))]
    running.cut()
    await asyncio.wait(ends, timeout=0.02)
    node.go.set()
    await asyncio.gather(*ends)
    assert node.clean


async def test_unless_somebody_insists() -> None:
    node = Waiting()
    running = PipelineRuntime().start(node.dag())
    await node.begun.wait()
    running.cut()
    await node.cleaning.wait()
    for _ in range(2):
        running.interrupt()
    assert (await running.wait()).state == "stopped", "it would have waited for ever"
    assert not node.clean


def test_a_run_that_the_end_of_its_loop_cancels_cleans_up() -> None:
    """In whichever order its tasks are told."""
    for _ in range(20):
        node = Waiting()

        async def main(node: Waiting = node) -> None:
            PipelineRuntime().start(node.dag())
            await node.begun.wait()
            asyncio.get_running_loop().call_later(0.01, node.go.set)

        asyncio.run(main())
        assert node.clean


# --- without an event loop --------------------------------------------------------------------------------------


def test_run_needs_no_event_loop() -> None:
    out = Collect()
    runtime = PipelineRuntime()
    before = signal.getsignal(signal.SIGINT)
    assert runtime.run(numbers(10, out)).state == "finished"
    assert runtime.run(numbers(10, out)).items_out == 10
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(
        ConfigError, match=r"^start\(\) needs a running event loop, and there is none: use run\(\.\.\.\)$"
    ):
        runtime.start(numbers(1, out))


async def test_run_within_an_event_loop_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^run\(\) makes an event loop of its own, and one is running here already"):
        PipelineRuntime().run(numbers(1, Collect()))


def test_run_in_another_thread_leaves_the_signals_alone() -> None:
    out = Collect()
    thread = threading.Thread(target=lambda: PipelineRuntime().run(numbers(10, out)))
    thread.start()
    thread.join()
    assert len(out.items) == 10


def test_ctrl_c_ends_run_politely() -> None:
    out = Collect()

    def interrupt(n: int) -> int:
        if n == 95:
            signal.raise_signal(signal.SIGINT)
        return n

    pipeline = Pipeline("c").source(Endless()).map(interrupt).sink(out)
    status = PipelineRuntime().run(pipeline)
    assert (status.state, status.error) == ("stopped", "")
    assert out.items == list(range(len(out.items)))
    assert len(out.items) >= 100


def test_a_second_ctrl_c_ends_run_at_once() -> None:
    async def interrupt(in_ch: Channels, out_ch: Channels) -> None:
        async for _ in in_ch["first"]:
            pass
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    async def put(in_ch: Channels, out_ch: Channels) -> None:
        await out_ch["second"].put(1)

    status = PipelineRuntime().run(coroutines(put, interrupt))
    assert (status.state, status.error) == ("stopped", "cut short: it was cancelled")


# --- what can be run --------------------------------------------------------------------------------------------

PROGRAM = """
from market_data_pipeline import Discard, Pipeline, Synthetic

def pipeline(items: int, symbols: int = 3) -> Pipeline:
    return Pipeline("program").source(Synthetic(symbols=symbols, items=items)).sink(Discard())
"""


async def test_a_program_is_run_by_its_name(tmp_path: Path) -> None:
    app = tmp_path / "program_of_test.py"
    app.write_text(PROGRAM)
    status = await PipelineRuntime().run_pipeline(f"{app}:pipeline", values={"items": 500})
    assert (status.name, status.items_in) == ("program", 500)
    with pytest.raises(ConfigError, match="has no such parameter; did you mean 'symbols'"):
        await PipelineRuntime().run_pipeline(str(app), values={"items": 1, "symbol": 2})
    with pytest.raises(ConfigError, match=r"^values: items=\[1\]: a list is not allowed; give text, a number"):
        await PipelineRuntime().run_pipeline(str(app), values={"items": [1]})


async def test_what_cannot_be_run_is_refused_before_anything_starts() -> None:
    runtime = PipelineRuntime()
    with pytest.raises(ConfigError, match=r"^42 cannot be run; needed: a Dag, a Pipeline, or the name of a program"):
        runtime.start(42)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^values: items: only a program that is given by its name takes values$"):
        runtime.start(numbers(1, Collect()), values={"items": 1})
    with pytest.raises(DagValidationError, match="has no nodes"):
        runtime.start(runtime.create_dag("empty"))
    assert runtime.status() == {}
