"""Event time through a chain and a job: marks never go back, never overtake data, also across idleness and restarts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.memory_job import CommittedRows, ListSource, MemoryJob, committed_rows
from tools.memory_store import MemoryServer
from tools.oracle import plain_bars

from market_data_pipeline import Dag, Filter, Map, Node, Operator, Trade, TumblingBars, TumblingWindow
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.frame import END, IDLE, NO_MARK, Columns, Dictionary, Frame, to_rows
from market_data_pipeline.packing import unpack
from market_data_pipeline.runtime.chain import Chain, input_key
from market_data_pipeline.runtime.contract import Limits
from market_data_pipeline.runtime.progress import MarkMerger, SourceWatermark

SECOND = 1_000_000_000
INPUTS = "ab"
SIZE = 10
"""Windows' size in the chain below, ns."""


# --- a chain, fed in any order -----------------------------------------------------------------------------------


class Twice(Operator):
    """Every item twice, in a frame of rows and one of columns, which stay apart."""

    def process(self, frame: Frame) -> Iterable[Frame]:
        rows = to_rows(frame.items)
        data: dict[str, Any] = {name: np.array([row[name] for row in rows]) for name in ("ts_event", "n")}
        return Frame(rows), Frame(Columns("", {"symbol": Dictionary.encode([row["symbol"] for row in rows]), **data}))


class Fan:
    """Two streams into a diamond (one branch drops half, one doubles, then windows); killed and restored at will."""

    def __init__(self) -> None:
        self.dag = Dag("fan")
        for name in INPUTS:
            self.dag.add_node(Node(f"source-{name}", ListSource([])))
        self.dag.add_node(Node("pass", Map(lambda item: item)))
        self.dag.add_node(Node("half", Filter(lambda item: item["n"] % 2)))
        self.dag.add_node(Node("twice", Twice()))
        self.dag.add_node(Node("join", Map(lambda item: item)))
        self.dag.add_node(Node("windows", TumblingWindow(SIZE, late="side_output")))
        for name in ("passed", "windowed", "late"):
            self.dag.add_node(Node(name, CommittedRows()))
        for name in INPUTS:
            self.dag.add_edge(f"source-{name}", "pass", key="symbol")
        for src, dst in (
            ("pass", "half"),
            ("pass", "twice"),
            ("half", "join"),
            ("twice", "join"),
            ("twice", "windows"),
        ):
            self.dag.add_edge(src, dst)
        self.dag.add_edge("join", "passed", boundary=True)
        self.dag.add_edge("windows", "windowed", boundary=True)
        self.dag.add_edge("windows", "late", output="late", boundary=True)
        self.plan = compile_dag(self.dag, 1)
        self.keys = {
            edge.src.removeprefix("source-"): input_key(edge, *self.plan.origins(edge, 0))
            for edge in self.plan.channels
            if edge.dst == "pass"
        }
        self.exits = {edge.dst: edge.name for edge in self.plan.channels if edge.dst != "pass"}
        self.chain = self._new()
        self.stored: dict[str, bytes] = {}

    def _new(self) -> Chain:
        return Chain(self.plan, self.plan.subgraph_of["pass"], self.dag, 0)

    def restart(self) -> None:
        for name, blob in self.chain.snapshot().items():
            if blob is None:
                self.stored.pop(name, None)
            else:
                self.stored[name] = blob
        marks, self.chain = self.chain.marks(), self._new()
        self.chain.restore(self.stored, marks, {})

    def feed(self, name: str, frame: Frame) -> tuple[dict[str, list[Any]], dict[str, int], dict[str, bool]]:
        """What came out: items, newest mark and idleness by exit."""
        self.chain.feed("pass", self.keys[name], frame)
        output = self.chain.take()
        items = {
            dst: [item for batch in output.frames.get(edge, []) for item in to_rows(batch)]
            for dst, edge in self.exits.items()
        }
        marks = {dst: output.marks[edge] for dst, edge in self.exits.items() if edge in output.marks}
        marks |= {dst: END for dst, edge in self.exits.items() if edge in output.ended}
        return items, marks, {dst: output.idle[edge] for dst, edge in self.exits.items() if edge in output.idle}


frames = st.tuples(st.sampled_from(INPUTS), st.lists(st.integers(0, 25), max_size=3), st.none() | st.integers(0, 25))
first = [(name, [], 0) for name in INPUTS]
"""Every input says something, so that the watermark moves from the start."""


def histories(*others: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Frames and ``others``, often and long enough that windows close."""
    move = st.one_of(frames, frames, frames, *others)
    return st.lists(move, min_size=15, max_size=40).map(lambda moves: first + moves)


moves = histories(st.just("restart"))
quick = settings(derandomize=True, max_examples=150, deadline=None)


def kept_promises(history: list[Any], marks: dict[str, int]) -> Iterator[Any]:
    """``history`` as frames that hold what their input has promised: times count from its mark, which grows. ``marks`` are
    the inputs' own."""
    number = 0
    for move in history:
        if move == "restart":
            yield None
            continue
        name, ahead, step = move
        base = max(marks[name], -40)
        items = [{"symbol": "A", "ts_event": base + ts, "n": number + n} for n, ts in enumerate(ahead)]
        number += len(items)
        if step is not None:
            marks[name] = base + step
        yield name, Frame(items, NO_MARK if step is None else marks[name])


@given(moves)
@quick
def test_no_item_comes_out_behind_a_mark_that_it_precedes(history: list[Any]) -> None:
    fan, marks = Fan(), dict.fromkeys(INPUTS, NO_MARK)
    out = dict.fromkeys(fan.exits, NO_MARK)
    fed: list[int] = []
    windows: dict[int, list[int]] = {}
    passed: list[int] = []
    ends = [(name, Frame([], END)) for name in INPUTS]
    for move in [*kept_promises(history, marks), *ends]:
        if move is None:
            fan.restart()
            continue
        name, frame = move
        fed += [item["n"] for item in frame.items]
        before = fan.chain.watermark()
        items, new, _ = fan.feed(name, frame)
        assert all(item["ts_event"] >= out["passed"] for item in items["passed"]), "a mark overtook data"
        assert items["late"] == [], "nothing is late where all keep their promises"
        for window in items["windowed"]:
            assert window.ts_open not in windows, "once"
            windows[window.ts_open] = [item["n"] for item in window.items]
            assert before < window.ts_close, "it was open before"
            assert window.ts_close <= new["windowed"], "it has ended"
        for port, mark in new.items():
            assert mark > out[port], "a mark went back"
            out[port] = mark
        passed += [item["n"] for item in items["passed"]]
        assert fan.chain.watermark() >= before
    assert sorted(n for numbers in windows.values() for n in numbers) == sorted([*fed, *fed])
    assert sorted(passed) == sorted([*fed, *fed, *(n for n in fed if n % 2)])
    assert set(out.values()) == {END}
    assert fan.chain.ended


restless = histories(st.just("restart"), st.tuples(st.sampled_from(INPUTS), st.just(IDLE)))


@given(restless)
@quick
def test_with_idle_inputs_only_what_they_missed_is_late(history: list[Any]) -> None:
    """Also: marks never go back, and who follows is told of idleness just when it changes."""
    fan, marks = Fan(), dict.fromkeys(INPUTS, NO_MARK)
    out, idle_out = dict.fromkeys(fan.exits, NO_MARK), dict.fromkeys(fan.exits, False)
    was_idle: set[str] = set()
    idle: set[str] = set()
    for move in history:
        if move == "restart":
            fan.restart()
            continue
        if move[1] == IDLE:
            name, frame = move[0], Frame([], IDLE)
            idle.add(name)
            was_idle.add(name)
        else:
            ((name, frame),) = kept_promises([move], marks)
            idle -= {name} if len(frame.items) or frame.mark != NO_MARK else set()
        items, new, told = fan.feed(name, frame)
        behind = [item for item in items["passed"] if item["ts_event"] < out["passed"]]
        assert not (behind or items["late"]) or name in was_idle, "late, and its input was never idle"
        for port, mark in new.items():
            assert mark > out[port] or (mark == out[port] and idle_out[port]), "a mark went back"
            out[port] = mark
        idle_out.update(told)
        assert set(idle_out.values()) == {idle == set(INPUTS)}


@given(restless, st.randoms(use_true_random=False))
@quick
def test_the_watermark_does_not_depend_on_restarts(history: list[Any], rng: random.Random) -> None:
    steady, moving = Fan(), Fan()
    marks = dict.fromkeys(INPUTS, NO_MARK)
    for move in history:
        if move == "restart":
            continue
        ((name, frame),) = (
            [(move[0], Frame([], IDLE))] if move[1] == IDLE else kept_promises([move], marks)
        )  # one after the other, as marks grow
        assert moving.feed(name, frame) == steady.feed(name, frame)
        assert moving.chain.watermark() == steady.chain.watermark()
        if rng.random() < 0.5:
            moving.restart()
            assert moving.chain.marks() == steady.chain.marks()


# --- the merge and the source, against plain models ---------------------------------------------------------------

steps = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([*range(-5, 20), END, IDLE, IDLE, "items", "restart"])),
    max_size=60,
)


@given(steps)
@quick
def test_a_merger_is_the_plain_one_across_items_idleness_and_restarts(history: list[Any]) -> None:
    merger = MarkMerger("abc")
    best, idle, watermark = dict.fromkeys("abc", NO_MARK), set[str](), NO_MARK
    for key, what in history:
        before = watermark
        if what == "restart":
            saved, merger = merger.saved(), MarkMerger("abc")
            merger.restore(saved)
            continue
        if what == "items":
            merger.came(key)
            idle -= {key}
            assert merger.watermark == watermark, "items alone do not move it"
            continue
        advanced = merger.update(key, what)
        if what == IDLE:
            idle |= {key} - {k for k in "abc" if best[k] == END}
        else:
            idle -= {key}
            best[key] = max(best[key], what)
        alive = [best[k] for k in "abc" if k not in idle and best[k] != END]
        silent = [best[k] for k in idle]
        watermark = max(watermark, min(alive) if alive else max(silent) if silent else END)
        assert merger.watermark == watermark
        assert advanced == (watermark > before)
        assert merger.idle == idle
        assert merger.is_idle == (bool(idle) and not alive)


events = st.lists(
    st.tuples(st.integers(0, 3 * SECOND), st.none() | st.lists(st.integers(0, 100 * SECOND), min_size=1, max_size=3)),
    max_size=40,
)


@given(events, st.integers(0, SECOND), st.sampled_from([None, 1, SECOND, 2 * SECOND]), st.booleans())
@quick
def test_a_source_is_idle_and_active_as_the_plain_model_says(
    history: list[Any], delay: int, idle_after: int | None, live: bool
) -> None:
    """Each step lets time pass; then items come, or the source is asked what it says to the silence."""
    source = SourceWatermark(delay, idle_after, live)
    now, heard, told = 0, 0, False
    mark = NO_MARK
    source.heard(0.0)
    for passed, times in history:
        now += passed
        if times is not None:
            mark = max(mark, max(times) - delay)
            source.heard(now / SECOND)
            assert source.observe([{"ts_event": ts} for ts in times]) == mark
            heard, told = now, False
            continue
        said = source.silence(now / SECOND, now)
        quiet = idle_after is not None and round((now / SECOND - heard / SECOND) * SECOND) >= idle_after
        if not quiet:
            expected = None
        elif live:
            expected = now - delay if now - delay > mark else None
            mark = max(mark, now - delay)
        else:
            expected, told = (None if told else IDLE), True
        assert said == expected
        assert source.mark == mark
        wait = source.patience(now / SECOND)
        assert 0 < wait <= 1.0
    assert source.end() == END
    assert source.silence(now / SECOND + 10, now) is None, "the end is the end"


# --- a whole job, killed anywhere -----------------------------------------------------------------------------------

SMALL = Limits(
    frame_items=16, frame_bytes=4096, commit_items=40, commit_frames=2, channel_capacity=6, channel_bytes=64 * 1024,
    high=4, low=1, linger=0.0, mark_interval=0.0,
)  # fmt: skip


def disordered(n: int, seed: int, delay: int) -> list[Trade]:
    """Trades of 5 symbols, each up to ``delay`` behind its time; prices and sizes are exact in binary."""
    rng = random.Random(seed)
    times = [number * 40_000_000 - SECOND for number in range(n)]
    times.sort(key=lambda ts: ts + rng.randrange(delay))
    return [Trade(f"S{rng.randrange(5)}", ts, 0, rng.randrange(1, 400) / 4, rng.randrange(1, 9)) for ts in times]


class Watched:
    """The committed watermarks of every task; looked at as often as the loop turns, they may only grow."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.last: dict[Any, dict[str, int]] = {}
        self.moved = 0

    def look(self) -> None:
        for task, record in self.server.contents.tasks.items():
            if not record.meta:
                continue
            meta = unpack(record.meta)
            now = {"watermark": meta["watermark"], "source": meta.get("source_mark", NO_MARK)}
            for node, saved in meta["marks"].items():
                now[node] = saved["watermark"]
                now |= {f"{node} {key}": mark for key, mark in saved["marks"].items()}
            now |= {f"out {stream}": mark for stream, mark in _flat(meta.get("out_marks", {}))}
            before = self.last.get(task, {})
            for name, mark in before.items():
                assert now.get(name, NO_MARK) >= mark, f"{task}: {name} went back"
            self.moved += now != before
            self.last[task] = now


def _flat(marks: Any, path: str = "") -> Iterator[tuple[str, int]]:
    for name, value in marks.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name} ")
        else:
            yield f"{path}{name}", value


@pytest.mark.parametrize("seed", range(8))
async def test_a_job_killed_anywhere_gives_the_oracles_bars_and_its_watermarks_only_grow(seed: int) -> None:
    rng = random.Random(seed)
    items = [disordered(300, seed, SECOND), disordered(200, seed + 100, SECOND)]
    dag = Dag("killed")
    for n, trades in enumerate(items):
        dag.add_node(Node(f"source-{n}", ListSource(trades, batch_items=rng.randrange(1, 30), max_delay=SECOND)))
    dag.add_node(Node("pass", Map(lambda trade: trade)))
    dag.add_node(Node("bars", TumblingBars("1s")))
    dag.add_node(Node("out", CommittedRows()))
    for n in range(len(items)):
        dag.add_edge(f"source-{n}", "pass", key="symbol")
    dag.add_edge("pass", "bars", boundary=True)
    dag.add_edge("bars", "out")
    plan = compile_dag(dag, 3)
    server = MemoryServer(plan, SMALL)
    job, watched = MemoryJob(dag, plan, server, SMALL), Watched(server)
    kills = 0
    while not (server.contents.tasks and all(record.ended for record in server.contents.tasks.values())):
        turns = rng.randrange(1, 25)

        def over() -> bool:
            nonlocal turns
            watched.look()
            turns -= 1
            return turns < 0 or all(record.ended for record in server.contents.tasks.values())

        await job.run_until(over)
        for job_task in [running for _, running in job.running.values() if running.done()]:
            job_task.result()
        await job.take_over(rng.randrange(3))
        kills += 1
    await job.stop()
    watched.look()
    assert kills > 3
    assert watched.moved > 20
    expected, _ = plain_bars((trade._asdict() for trades in items for trade in trades), SECOND)
    bars = [bar for rows in committed_rows(server, "out").values() for bar in rows]
    found = {(bar.symbol, bar.ts_open): (bar.high, bar.low, bar.volume, bar.trade_count) for bar in bars}
    assert len(found) == len(bars), "a bar came twice"
    assert found == {key: (b["high"], b["low"], b["volume"], b["trade_count"]) for key, b in expected.items()}
    late = [unpack(record.meta)["counts"].get("bars", {}) for record in server.contents.tasks.values()]
    assert sum(count.get("late", 0) for count in late) == 0
