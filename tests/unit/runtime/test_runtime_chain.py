"""The fused subgraph: frames in, frames out, marks behind items, state that goes on exactly."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from tools.memory_job import CommittedRows, ListSource

from market_data_pipeline.dag.graph import Dag, Node
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import OperatorFailed
from market_data_pipeline.frame import END, IDLE, NO_MARK, Frame, columns_from_rows, to_rows
from market_data_pipeline.operators.bars import TumblingBars
from market_data_pipeline.operators.base import OnError, Operator
from market_data_pipeline.operators.dedupe import Dedupe
from market_data_pipeline.operators.stateless import Filter, FlatMap, Map
from market_data_pipeline.records import Trade
from market_data_pipeline.runtime.chain import SOURCE_INPUT, Chain, input_key


def chain_of(nodes: Mapping[str, Any], edges: Iterable[tuple[str, str]], on_error: OnError = "dead_letter") -> Chain:
    dag = Dag("chain")
    dag.add_node(Node("source", ListSource([])))
    for name, fn in nodes.items():
        dag.add_node(Node(name, fn, on_error=on_error))
    for src, dst in edges:
        dag.add_edge(src, dst)
    plan = compile_dag(dag, 1, fuse=True)
    assert len(plan.subgraphs) == 1, "all fused"
    return Chain(plan, plan.subgraphs[0], dag, 0)


def feed(chain: Chain, items: list[Any], mark: int = NO_MARK, born: int = 0) -> None:
    chain.feed("source", SOURCE_INPUT, Frame(items, mark, born))


def sink_rows(chain: Chain, name: str = "out") -> list[Any]:
    return [item for frame in chain.take().sinks.get(name, []) for item in to_rows(frame.items)]


def test_operators_call_each_other_and_count() -> None:
    chain = chain_of(
        {
            "twice": FlatMap(lambda n: [n, n]), "odd": Filter(lambda n: n % 2), "neg": Map(lambda n: -n),
            "out": CommittedRows(),
        },
        [("source", "twice"), ("twice", "odd"), ("odd", "neg"), ("neg", "out")],
    )  # fmt: skip
    feed(chain, [1, 2, 3])
    assert sink_rows(chain) == [-1, -1, -3, -3]
    counts = {name: (count["in"], count["out"]) for name, count in chain.counts().items()}
    assert counts == {"source": (3, 3), "twice": (3, 6), "odd": (6, 4), "neg": (4, 4), "out": (4, 0)}
    assert chain.take().sinks == {}, "taken once"


def test_marks_pass_a_filter_that_drops_everything() -> None:
    chain = chain_of({"none": Filter(lambda n: False), "out": CommittedRows()}, [("source", "none"), ("none", "out")])
    feed(chain, [1, 2], 77)
    assert chain.watermark() == 77
    assert chain.marks()["out"]["marks"] == {"none": 77}
    assert sink_rows(chain) == []
    assert not chain.ended
    feed(chain, [], END)
    assert chain.ended


def test_a_fan_in_takes_the_smallest_mark_of_its_branches() -> None:
    class Hold(Map):
        """Passes items at once."""

    chain = chain_of(
        {"a": Filter(lambda n: n > 0), "b": Hold(lambda n: n), "join": Map(lambda n: n), "out": CommittedRows()},
        [("source", "a"), ("source", "b"), ("a", "join"), ("b", "join"), ("join", "out")],
    )
    feed(chain, [-1, 1], 10)
    assert sorted(sink_rows(chain)) == [-1, 1, 1]
    assert chain.marks()["join"]["marks"] == {"a": 10, "b": 10}
    feed(chain, [], 5)
    assert chain.watermark() == 10, "it never goes back"


def test_windows_close_behind_the_items_of_the_same_frame() -> None:
    chain = chain_of({"bars": TumblingBars("1s"), "out": CommittedRows()}, [("source", "bars"), ("bars", "out")])
    feed(chain, [Trade("A", 900_000_000, 0, 5.0, 1.0), Trade("A", 1_000_000_000, 0, 6.0, 1.0)], 1_000_000_000)
    (bar,) = sink_rows(chain)
    assert (bar.ts_open, bar.close, bar.trade_count) == (0, 5.0, 1)
    feed(chain, [], END)
    (bar,) = sink_rows(chain)
    assert (bar.ts_open, bar.close) == (1_000_000_000, 6.0)


def test_rows_and_columns_give_the_same() -> None:
    trades = [Trade("AB"[n % 2], n * 300_000_000, 0, float(n), 1.0) for n in range(20)]
    results = []
    for items in (trades, columns_from_rows(trades)[0]):
        chain = chain_of({"bars": TumblingBars("1s"), "out": CommittedRows()}, [("source", "bars"), ("bars", "out")])
        chain.feed("source", SOURCE_INPUT, Frame(items, END))
        results.append(sink_rows(chain))
    assert results[0] == results[1]
    assert sum(bar.trade_count for bar in results[0]) == 20


def test_rows_that_are_no_trades_are_dead_letters_before_bars() -> None:
    chain = chain_of({"bars": TumblingBars("1s"), "out": CommittedRows()}, [("source", "bars"), ("bars", "out")])
    feed(chain, [{"symbol": "A"}, Trade("A", 1, 0, 2.0, 1.0), 7], END)
    output = chain.take()
    assert [letter.item for letter in output.dead_letters] == [{"symbol": "A"}, 7]
    assert all(letter.node == "bars" for letter in output.dead_letters)
    assert [bar.trade_count for frame in output.sinks["out"] for bar in to_rows(frame.items)] == [1]


@pytest.mark.parametrize(("policy", "letters", "skipped"), [("dead_letter", 2, 0), ("skip", 0, 2)])
def test_policies_let_the_neighbours_go_on(policy: OnError, letters: int, skipped: int) -> None:
    chain = chain_of(
        {"div": Map(lambda n: 6 // n), "out": CommittedRows()}, [("source", "div"), ("div", "out")], policy
    )
    feed(chain, [1, 0, 2, 0, 3])
    output = chain.take()
    assert [item for frame in output.sinks["out"] for item in to_rows(frame.items)] == [6, 3, 2]
    assert len(output.dead_letters) == letters
    assert chain.counts()["div"]["skipped"] == skipped
    assert all("ZeroDivisionError" in letter.traceback for letter in output.dead_letters)


def test_policy_fail_raises() -> None:
    chain = chain_of(
        {"div": Map(lambda n: 6 // n), "out": CommittedRows()}, [("source", "div"), ("div", "out")], "fail"
    )
    with pytest.raises(OperatorFailed, match="'div'"):
        feed(chain, [1, 0])


def test_an_operator_that_raises_rejects_its_whole_frame_and_no_other() -> None:
    class Odd(Operator):
        def process(self, frame: Frame) -> Iterable[Frame]:
            if 13 in to_rows(frame.items):
                raise RuntimeError("unlucky")
            return (frame,)

    chain = chain_of({"odd": Odd(), "out": CommittedRows()}, [("source", "odd"), ("odd", "out")])
    feed(chain, [1, 2])
    feed(chain, [12, 13])
    feed(chain, [3], 9)
    output = chain.take()
    assert [item for frame in output.sinks["out"] for item in to_rows(frame.items)] == [1, 2, 3]
    assert [letter.item for letter in output.dead_letters] == [12, 13]
    assert chain.watermark() == 9


def test_born_is_the_oldest_since_the_last_take() -> None:
    chain = chain_of({"out": CommittedRows()}, [("source", "out")])
    for born in (50, 0, 30, 40):
        feed(chain, [1], born=born)
    assert chain.take().born == 30
    assert chain.take().born == 0


@pytest.mark.parametrize("seed", range(12))
def test_restoring_from_deltas_anywhere_changes_nothing(seed: int) -> None:
    """State is collected as the store does; a new chain that goes on from it gives what one that runs on gives."""
    rng = random.Random(seed)

    def nodes() -> dict[str, Any]:
        return {"dedupe": Dedupe("symbol", "trade_id"), "bars": TumblingBars("1s"), "out": CommittedRows()}

    edges = [("source", "dedupe"), ("dedupe", "bars"), ("bars", "out")]
    steady, moving = chain_of(nodes(), edges), chain_of(nodes(), edges)
    stored: dict[str, bytes] = {}
    newest = 0
    for step in range(60):
        items = []
        for _ in range(rng.randrange(6)):
            newest = max(newest, ts := newest + rng.randrange(-400_000_000, 500_000_000))
            items.append(
                Trade(rng.choice("ABC"), max(ts, 0), 0, float(rng.randrange(100)), 1.0, "", rng.randrange(step * 3 + 2))
            )
        mark = max(newest - 400_000_000, 0) if step < 59 else END
        for chain in (steady, moving):
            feed(chain, list(items), mark)
        assert sink_rows(moving) == sink_rows(steady)
        for name, blob in moving.snapshot().items():
            if blob is None:
                stored.pop(name, None)
            else:
                stored[name] = blob
        if rng.random() < 0.3:
            marks, counts = moving.marks(), {name: dict(count) for name, count in moving.counts().items()}
            moving = chain_of(nodes(), edges)
            moving.restore(stored, marks, counts)
            assert moving.marks() == steady.marks()
    assert moving.ended
    assert {n: +c for n, c in moving.counts().items()} == {n: +c for n, c in steady.counts().items()}


def test_a_stream_input_merges_the_marks_of_all_its_writers() -> None:
    dag = Dag("keyed")
    dag.add_node(Node("a", ListSource([])))
    dag.add_node(Node("b", ListSource([])))
    dag.add_node(Node("out", CommittedRows()))
    dag.add_edge("a", "out", key="symbol")
    dag.add_edge("b", "out", key="symbol")
    plan = compile_dag(dag, 2)
    chain = Chain(plan, plan.subgraph_of["out"], dag, 1)
    keys = [input_key(edge, origin) for edge in plan.channels for origin in plan.origins(edge, 1)]
    assert len(keys) == 2
    chain.feed("out", keys[0], Frame([1], 10))
    assert chain.watermark() == NO_MARK
    chain.feed("out", keys[1], Frame([2], 4))
    assert chain.watermark() == 4
    chain.feed("out", keys[0], Frame([], END))
    assert chain.watermark() == 4
    assert not chain.ended
    chain.feed("out", keys[1], Frame([], END))
    assert chain.ended


class Heard(Operator):
    """Writes down the watermarks it is told."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def process(self, frame: Frame) -> Iterable[Frame]:
        return (frame,)

    def advance(self, watermark: int) -> Iterable[Frame]:
        self.told.append(watermark)
        return (Frame([watermark]),)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("order", [("a5", "b9", "aE", "bE"), ("b9", "bE", "a5", "aE"), ("b9", "a5", "bE", "aE")])
def test_the_largest_mark_is_heard_before_the_end_whoever_ends_first(order: tuple[str, ...], restart: bool) -> None:
    def made() -> Chain:
        dag = Dag("two")
        for name in ("a", "b"):
            dag.add_node(Node(name, ListSource([])))
        dag.add_node(Node("heard", Heard()))
        dag.add_node(Node("out", CommittedRows()))
        for name in ("a", "b"):
            dag.add_edge(name, "heard", boundary=True)
        dag.add_edge("heard", "out")
        plan = compile_dag(dag, 1)
        return Chain(plan, plan.subgraph_of["heard"], dag, 0)

    chain, heard = made(), []
    keys = dict(zip("ab", chain.marks()["heard"]["marks"], strict=True))
    for who, mark in order:
        chain.feed("heard", keys[who], Frame([], END if mark == "E" else int(mark)))
        heard += sink_rows(chain)
        if restart:
            marks = chain.marks()
            chain = made()
            chain.restore({}, marks, {})
    assert heard[-2:] == [9, END]
    assert heard == sorted(set(heard))
    assert chain.ended


class SplitSource(ListSource):
    splittable = True


class Batches(Operator):
    """Hands on what it gets, and remembers how it came."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def process(self, frame: Frame) -> Iterable[Frame]:
        self.calls.append(to_rows(frame.items))
        return [Frame(frame.items)]

    def advance(self, watermark: int) -> Iterable[Frame]:
        self.calls.append(watermark)
        return ()


def joined_chain(dag_partitions: int = 2) -> tuple[Chain, list[str], Batches]:
    """The chain behind a keyed edge from a source that runs in every partition, its inputs, and the operator in it."""
    dag = Dag("chain")
    dag.add_node(Node("source", SplitSource([])))
    dag.add_node(Node("batches", Batches()))
    dag.add_node(Node("out", CommittedRows()))
    dag.add_edge("source", "batches", key="symbol")
    dag.add_edge("batches", "out")
    plan = compile_dag(dag, dag_partitions)
    subgraph = plan.subgraph_of["batches"]
    (edge,) = plan.inputs(subgraph)
    chain = Chain(plan, subgraph, dag, 0)
    operator = chain._stages["batches"].operator
    assert isinstance(operator, Batches)
    return chain, [input_key(edge, origin) for origin in plan.origins(edge, 0)], operator


def test_frames_fed_together_are_joined_and_their_marks_follow() -> None:
    chain, (one, two), operator = joined_chain()
    first = [(one, Frame(["a"], 5, 30)), (two, Frame(["b"], NO_MARK, 20))]
    chain.feed_together("batches", [*first, (one, Frame(["c"], 9)), (two, Frame(["d"], 7))])
    assert operator.calls == [["a", "b", "c", "d"], 7]
    output = chain.take()
    assert [item for frame in output.sinks["out"] for item in to_rows(frame.items)] == ["a", "b", "c", "d"]
    assert output.born == 20


def test_a_lower_mark_that_is_sent_again_takes_nothing_back() -> None:
    chain, (one, two), operator = joined_chain()
    chain.feed_together("batches", [(one, Frame(["a"], 9)), (one, Frame([], 4)), (two, Frame([], 8))])
    assert operator.calls == [["a"], 8]


def test_frames_of_different_shape_keep_their_order() -> None:
    chain, (one, two), operator = joined_chain()
    trade = Trade("A", 3, 3, 1.0, 1.0, "buy", 1)
    columns, _ = columns_from_rows([trade])
    chain.feed_together("batches", [(one, Frame([1], 5)), (two, Frame(columns, 6)), (one, Frame([2, 3], 7))])
    assert operator.calls == [[1], [trade], [2, 3], 6]


def test_inputs_that_were_idle_are_woken_by_their_own_frames() -> None:
    chain, (one, two), operator = joined_chain()
    chain.feed("batches", one, Frame([], 5))
    chain.feed("batches", two, Frame([], IDLE))
    assert operator.calls == [5], "the idle one is left out"
    chain.feed_together("batches", [(one, Frame(["a"], 6)), (two, Frame(["b"], NO_MARK)), (one, Frame(["c"], 9))])
    assert operator.calls == [5, ["a"], 6, ["b"], ["c"]], "the second is awake again and has promised nothing more"
