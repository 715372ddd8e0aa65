"""A sink behind a circuit breaker: when its store is left alone, who may try it, and that it is else as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pytest
from tools.fake_clock import FakeClock

from market_data_pipeline import CircuitRule, Collect, Dag, Discard, GuardedSink, JsonLines, Node, Sink, SinkContext
from market_data_pipeline.component import describe
from market_data_pipeline.errors import ConfigError, SinkError
from market_data_pipeline.feedback import StoreFeedback, StoreReading
from market_data_pipeline.frame import Frame
from market_data_pipeline.launcher.deploy import stateful

RULE = CircuitRule(failure_rate=0.5, window="60s", min_calls=4, open_for="12s")
FRAMES = [Frame([1])]


class Store:
    """Outlives the sinks. ``broken``: what each named call raises; ``hangs``: which call never ends."""

    def __init__(self) -> None:
        self.broken: dict[str, BaseException] = {}
        self.hangs = ""
        self.calls: list[str] = []
        self.entered = asyncio.Event()

    async def call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.hangs:
            self.entered.set()
            await asyncio.Event().wait()
        if name in self.broken:
            raise self.broken[name]

    def __deepcopy__(self, memo: Any) -> Store:
        return self


class StoreSink(Sink):
    accepts: ClassVar[Literal["rows"]] = "rows"

    def __init__(self, store: Store, table: str = "trades") -> None:
        self.store, self.table = store, table

    def destination(self) -> str:
        return f"store/{self.table}"

    def others(self) -> list[str]:
        return ["another run"]

    def check(self) -> None:
        raise SinkError("checked")

    def due(self) -> bool:
        return True

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        await self.store.call("open")

    async def write(self, frames: Sequence[Frame]) -> None:
        await self.store.call("write")

    async def prepare(self, ended: bool) -> Any | None:
        await self.store.call("prepare")
        return {"ended": ended}

    async def committed(self) -> None:
        await self.store.call("committed")

    async def close(self) -> None:
        await self.store.call("close")


class Tasks:
    """Tasks of one process, each with a sink of its own, run as a worker runs them."""

    def __init__(self, rule: CircuitRule = RULE) -> None:
        self.store, self.clock = Store(), FakeClock()
        self.template = GuardedSink(StoreSink(self.store), rule, clock=self.clock)
        self.shown: list[float] = []

    def gauge(self, name: str, of: str, value: float) -> None:
        assert (name, of) == ("circuit_state", "sink")
        self.shown.append(value)

    async def opened(self) -> GuardedSink:
        sink = self.template.fresh()
        await sink.open(SinkContext("out", gauge=self.gauge), None)
        return sink

    async def step(self) -> str:
        """A task that opens, makes one step and is dropped: its error, empty where there is none."""
        sink = self.template.fresh()
        try:
            await sink.open(SinkContext("out", gauge=self.gauge), None)
            await sink.write(FRAMES)
            await sink.prepare(False)
            await sink.committed()
        except Exception as error:
            return str(error) or type(error).__name__
        finally:
            await sink.close()
        return ""

    def asked(self) -> list[str]:
        """What the store was asked since the last time."""
        calls, self.store.calls = self.store.calls, []
        return [call for call in calls if call != "close"]

    async def fail(self, times: int = RULE.min_calls, call: str = "write") -> None:
        self.store.broken[call] = SinkError("connection refused")
        for _ in range(times):
            assert await self.step() == "connection refused"
        self.asked()


@pytest.mark.parametrize("call", ["open", "write", "prepare", "committed"])
async def test_a_store_that_fails_too_often_is_not_asked_any_more(call: str) -> None:
    tasks = Tasks(CircuitRule(failure_rate=0.5, min_calls=4, open_for="12s"))
    if call == "committed":  # each with a success before it
        tasks = Tasks(CircuitRule(failure_rate=0.4, min_calls=8, open_for="12s"))
    await tasks.fail(4, call)
    said = "store/trades: circuit open for 12 s: connection refused"
    assert await tasks.step() == said
    tasks.clock.advance(11.9)
    assert await tasks.step() == said, "one text for all of the time, so that it is logged once"
    assert tasks.asked() == []


async def test_a_task_that_is_at_work_is_stopped_at_its_next_step() -> None:
    tasks = Tasks()
    writing, preparing = await tasks.opened(), await tasks.opened()
    await preparing.write(FRAMES)
    await tasks.fail()
    with pytest.raises(SinkError, match="circuit open"):
        await writing.write(FRAMES)
    with pytest.raises(SinkError, match="circuit open"):
        await writing.prepare(True)
    assert tasks.asked() == []
    assert await preparing.prepare(False) == {"ended": False}, "what has begun goes to its end"
    await preparing.committed()
    assert await tasks.step() == "store/trades: circuit open for 12 s: connection refused", "and opens nothing"


async def test_one_step_is_tried_for_all_and_closes_the_circuit() -> None:
    tasks = Tasks()
    await tasks.fail()
    tasks.store.broken.clear()
    tasks.clock.advance(12.0)
    first, second = await tasks.opened(), await tasks.opened()
    await first.write(FRAMES)
    await first.write(FRAMES)
    with pytest.raises(SinkError, match="circuit half-open, another step is being tried: connection refused"):
        await second.write(FRAMES)
    await first.prepare(False)
    await second.write(FRAMES)
    await second.prepare(False)
    assert tasks.asked() == ["open", "open", "write", "write", "prepare", "write", "prepare"]
    assert [value for at, value in enumerate(tasks.shown) if [*tasks.shown[at - 1 : at]] != [value]] == [
        0.0, 2.0, 1.0, 0.0
    ]  # fmt: skip


async def test_a_trial_that_fails_opens_the_circuit_again() -> None:
    tasks = Tasks()
    await tasks.fail()
    tasks.store.broken["write"] = TimeoutError()
    tasks.clock.advance(12.0)
    assert await tasks.step() == "TimeoutError"
    assert tasks.asked() == ["open", "write"]
    assert await tasks.step() == "store/trades: circuit open for 12 s: TimeoutError"
    assert tasks.asked() == []


@pytest.mark.parametrize("error", [OSError("gone"), TimeoutError("slow"), ZeroDivisionError("a mistake")])
async def test_any_error_counts_and_comes_out_as_it_was(error: Exception) -> None:
    tasks = Tasks()
    tasks.store.broken["write"] = error
    for _ in range(RULE.min_calls):
        sink = await tasks.opened()
        with pytest.raises(type(error), match=str(error)):
            await sink.write(FRAMES)
    with pytest.raises(SinkError, match=f"circuit open for 12 s: {error}"):
        await tasks.opened()


async def test_that_it_can_be_opened_says_nothing_of_writing() -> None:
    """Each step that fails is followed by an open that works: they must not keep the circuit closed."""
    tasks = Tasks(CircuitRule(failure_rate=1.0, min_calls=4, open_for="12s"))
    await tasks.fail(4)
    assert "circuit open" in await tasks.step()


async def test_steps_that_work_keep_it_closed() -> None:
    tasks = Tasks()
    for _ in range(5):
        assert await tasks.step() == ""
    await tasks.fail(4)
    assert await tasks.step() == "connection refused", "4 of 9"
    assert "circuit open" in await tasks.step(), "5 of 10"


@pytest.mark.parametrize("call", ["open", "write", "prepare", "committed"])
async def test_what_is_cancelled_says_nothing_and_leaves_the_trial_to_others(call: str) -> None:
    tasks = Tasks()
    await tasks.fail()
    tasks.store.broken.clear()
    tasks.clock.advance(12.0)
    tasks.store.hangs = call
    job = asyncio.create_task(tasks.step())
    await tasks.store.entered.wait()
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    tasks.store.hangs = ""
    assert await tasks.step() == ""


async def test_a_task_that_ends_between_write_and_prepare_leaves_the_trial_to_others() -> None:
    tasks = Tasks()
    await tasks.fail()
    tasks.store.broken.clear()
    tasks.clock.advance(12.0)
    fenced = await tasks.opened()
    await fenced.write(FRAMES)
    await fenced.close()
    assert await tasks.step() == ""


async def test_what_comes_behind_a_commit_leaves_the_trial_to_others() -> None:
    """Of a step that was prepared before the circuit opened, and committed when the store may be tried again."""
    tasks = Tasks()
    late = await tasks.opened()
    await late.write(FRAMES)
    await late.prepare(False)
    await tasks.fail(3)
    tasks.store.broken.clear()
    tasks.clock.advance(12.0)
    await late.committed()
    assert tasks.asked() == ["committed"]
    assert await tasks.step() == ""


async def test_a_step_in_which_nothing_is_written_says_nothing() -> None:
    """Sealing what is there, or leaving, need not ask the store."""
    tasks = Tasks()
    await tasks.fail()
    tasks.clock.advance(12.0)
    leaving = await tasks.opened()
    await leaving.prepare(True)
    assert tasks.shown[-1] == 1.0, "half-open still"
    assert await tasks.step() == "connection refused"
    assert "circuit open" in await tasks.step()
    tasks.clock.advance(12.0)
    tasks.store.broken = {"prepare": SinkError("disk full")}
    leaving = await tasks.opened()
    with pytest.raises(SinkError, match="disk full"):
        await leaving.prepare(True)
    assert "circuit open" in await tasks.step(), "that it fails, does"


async def test_other_nodes_have_circuits_of_their_own() -> None:
    tasks = Tasks()
    other = GuardedSink(StoreSink(tasks.store, "quotes"), RULE, clock=tasks.clock)
    await tasks.fail()
    await other.fresh().open(SinkContext("other"), None)
    assert tasks.asked() == ["open"]


def test_it_is_else_the_sink_that_it_guards() -> None:
    guarded = Tasks().template.fresh()
    assert (guarded.accepts, guarded.destination(), guarded.others(), guarded.due()) == (
        "rows", "store/trades", ["another run"], True
    )  # fmt: skip
    assert GuardedSink(Discard()).accepts == "any"
    with pytest.raises(SinkError, match="checked"):
        guarded.check()
    assert guarded.sink is not Tasks().template.sink
    with pytest.raises(ConfigError, match="needs no other one around it"):
        GuardedSink(guarded)


async def test_a_store_that_can_be_asked_how_full_it_is_still_can() -> None:
    class Full(StoreSink):
        async def reading(self) -> StoreReading:
            return StoreReading(len(self.store.calls), 2.0, 1.0)

    store = Store()
    guarded = GuardedSink(Full(store)).fresh()
    await guarded.sink.close()
    assert isinstance(guarded, StoreFeedback)
    assert await guarded.reading() == StoreReading(1, 2.0, 1.0)


def test_what_it_is_made_with_is_part_of_the_plan_and_its_state_is_not(tmp_path: Any) -> None:
    guarded = GuardedSink(JsonLines(tmp_path))
    before = describe(guarded)
    assert before["sink"] == describe(JsonLines(tmp_path))
    guarded._circuit.why = "something"
    assert describe(guarded.fresh()) == before
    assert set(before) == {"type", "sink", "circuit"}
    assert describe(GuardedSink(JsonLines(tmp_path), CircuitRule(trials=2))) != before
    dag = Dag("kept")
    for name, sink in {"file": guarded, "nothing": GuardedSink(Collect()), "bare": Collect()}.items():
        dag.add_node(Node(name, sink))
    assert stateful(dag) == {"file"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda any_: GuardedSink(any_(Discard)), f"sink: {Discard} is no sink; give an instance"),
        (lambda any_: GuardedSink(any_("sqlite")), "sink: 'sqlite' is no sink"),
        (lambda any_: GuardedSink(Discard(), any_({"trials": 2})), "circuit: {'trials': 2} is no CircuitRule(...)"),
        (lambda any_: CircuitRule(failure_rate=any_("half")), "failure_rate: 'half' is no number"),
        (lambda any_: CircuitRule(trials=any_("2")), "trials: '2' is no whole number"),
    ],
)
def test_a_wrong_type_is_told_at_once(make: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(lambda anything: anything)
    assert str(caught.value) == said
