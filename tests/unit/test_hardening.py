"""Odd values, hostile bytes and edited programs: what once went wrong, each item costs at most itself."""

import functools
import random
import struct
import subprocess
import sys
from typing import Any

import msgpack
import numpy as np
import pytest
from tools.frames import encoded

from market_data_pipeline.codec import decode, encode
from market_data_pipeline.component import describe_function
from market_data_pipeline.dag.graph import Dag, Node
from market_data_pipeline.dag.partition import split_by_key
from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.durations import parse_duration
from market_data_pipeline.errors import CodecError, ConfigError, DagValidationError
from market_data_pipeline.frame import END, Columns, Dictionary, Frame, columns_from_rows, join_items, to_rows
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.batch import Batcher
from market_data_pipeline.operators.dedupe import Dedupe
from market_data_pipeline.operators.stateless import Map
from market_data_pipeline.operators.window import TumblingWindow
from market_data_pipeline.packing import crc32c
from market_data_pipeline.records import Trade
from market_data_pipeline.runtime.chain import SOURCE_INPUT, Chain
from market_data_pipeline.sinks.collect import Collect
from market_data_pipeline.sources.synthetic import Synthetic

TRADE = Trade("A", 1, 2, 3.0, 4.0, "buy", 5)


def opened(op: Any) -> Any:
    op.open(OperatorContext("n"))
    return op


def test_validate_fails_again() -> None:
    dag = Dag()
    dag.add_node(Node("m", Map(str)))
    for _ in range(2):
        with pytest.raises(DagValidationError, match="no source"):
            dag.validate()


@pytest.mark.parametrize(
    "bad", [{1: 2}, {"__record__": "x"}, {"__record__": []}, msgpack.Timestamp(1), msgpack.ExtType(1, b"")], ids=repr
)
def test_an_item_that_cannot_be_read_back_is_handed_back_alone(bad: Any) -> None:
    blobs, rejected = encoded("o", ["left", bad, "right"])
    assert [row for blob in blobs for row in to_rows(decode(blob).frame.items)] in (
        ["left", "right"],
        ["left", bad, "right"],
    )
    assert len(rejected) in (0, 1)


@pytest.mark.parametrize("symbol", ["\ud800", 5, None], ids=repr)
def test_a_symbol_that_is_no_text_costs_only_its_own_record(symbol: Any) -> None:
    items = [TRADE, TRADE._replace(symbol=symbol), TRADE]
    made, bad = columns_from_rows(items)
    blobs, rejected = encoded("o", made)
    assert [row for blob in blobs for row in to_rows(decode(blob).frame.items)] == [TRADE, TRADE]
    assert len(bad) + len(rejected) == 1


def test_a_lone_surrogate_does_not_kill_the_process() -> None:
    code = (
        "from market_data_pipeline.dag.partition import split_by_key\n"
        "print(split_by_key([{'symbol': 'A'}, {'symbol': '\\ud800'}], 'symbol', 4)[1] != [])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_long_symbol_costs_only_its_own_record() -> None:
    items = [TRADE._replace(symbol=f"S{i}") for i in range(5)] + [TRADE._replace(symbol="x" * 300_000)]
    blobs, rejected = encoded("o", columns_from_rows(items)[0])
    assert [entry.item for entry in rejected] == items[5:]
    assert len(blobs) >= 1


@pytest.mark.parametrize("dtype", ["<u8", "<i2", "<f2", ">i8", "<U3", "<M8[ns]"])
def test_a_column_type_that_decode_refuses_is_not_written(dtype: str) -> None:
    blobs, rejected = encoded("o", Columns("", {"x": np.array([1, 2], dtype="<i8").astype(dtype)}))
    n = sum(len(decode(blob).frame.items) for blob in blobs)
    assert n + len(rejected) == 2


def test_resealed_mutations_decode_or_raise_codec_error() -> None:
    rng = random.Random(2)
    trades = [Trade(f"S{i % 3}", i, i, i / 7, 1.0, "sell", f"id{i}" if i % 2 else i) for i in range(12)]
    samples = [encode("o", Frame(columns_from_rows(trades)[0], 1)), encode("o", Frame([TRADE, {"a": [1]}], 1))]
    for i in range(20_000):
        data = bytearray(samples[i % 2][:-5])
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            if rng.random() < 0.5:
                data[at] = rng.randrange(256)
            else:
                data[at : at + rng.randint(0, 4)] = rng.randbytes(rng.randint(0, 4))
        try:
            decoded = decode(bytes(data) + b"\xce" + struct.pack(">I", crc32c(bytes(data))))
        except CodecError:
            continue
        assert len(to_rows(decoded.frame.items)) == len(decoded.frame.items)


@pytest.mark.parametrize(
    "payload",
    [
        ["", 1, {"a": [[1], b""]}],
        [[1], 0, {}],
        ["", 1, {"a": ["dict", "|u1", b"\0", 5]}],
        ["", 1, {"a": ["dict", "|u1", b"\0", [1]]}],
        ["", 1, {"a": ["dict", ["x"], b"\0", b"\x91\xa1a"]}],
    ],
    ids=repr,
)
def test_unhashable_or_untyped_parts_of_columns_are_codec_errors(payload: Any) -> None:
    body = msgpack.packb([1, 1, "o", 0, 0, payload, 0])[:-1]
    with pytest.raises(CodecError):
        decode(body + b"\xce" + struct.pack(">I", crc32c(body)))


@pytest.mark.parametrize("columns", [{"side": ["|i1", b"\x07"]}, {"price": ["<f8", bytes(8)]}], ids=repr)
def test_a_frame_of_trades_has_the_fields_of_trades(columns: Any) -> None:
    body = msgpack.packb([1, 1, "o", 0, 0, ["trade", 1, columns], 0])[:-1]
    with pytest.raises(CodecError):
        decode(body + b"\xce" + struct.pack(">I", crc32c(body)))


def test_map_columns_on_dicts_loses_nothing() -> None:
    dag = Pipeline("p").source(Synthetic()).map_columns(lambda c: c, "mc").sink(Collect(), "out").build()
    plan = compile_dag(dag, 1, fuse=True)
    chain = Chain(plan, plan.subgraphs[0], dag, 0)
    chain.feed("source", SOURCE_INPUT, Frame([{"a": 1}, {"a": 2}], 5))
    out = chain.take()
    arrived = sum(len(frame.items) for frame in out.sinks.get("out", []))
    assert arrived + len(out.dead_letters) == 2


def test_side_of_dicts_survives_columns() -> None:
    assert columns_from_rows([{"side": "buy"}], ("side",))[0].rows() == [{"side": "buy"}]


def test_key_by_side_partitions_rows_and_columns_alike() -> None:
    items = [TRADE, TRADE._replace(side="sell")]
    assert sorted(split_by_key(items, "side", 64)[0]) == sorted(
        split_by_key(columns_from_rows(items)[0], "side", 64)[0]
    )


@pytest.mark.parametrize("change", [{"ts_event": 1.7}, {"price": None}, {"price": "2_0"}, {"ts_event": True}], ids=repr)
def test_make_column_raises_on_a_value_of_another_type(change: Any) -> None:
    made, bad = columns_from_rows([TRADE, TRADE._replace(**change)])
    assert (made.rows(), len(bad)) == ([TRADE], 1)


def test_nested_tuple_keys_survive_a_restart() -> None:
    def key(item: Any) -> Any:
        return ((item["a"], 1), 2)

    a, b = opened(TumblingWindow("1s", key=key)), opened(TumblingWindow("1s", key=key))
    list(a.process(Frame([{"a": 1, "ts_event": 5}])))
    b.restore({key: blob for key, blob in a.snapshot().items() if blob is not None})
    assert [frame.items for frame in b.advance(END)] == [frame.items for frame in a.advance(END)]


@pytest.mark.parametrize("item", [{1: 2}, {"__record__": "x"}], ids=repr)
def test_state_that_was_written_can_be_read(item: Any) -> None:
    a, b = opened(Batcher(5)), opened(Batcher(5))
    list(a.process(Frame([item])))
    b.restore({key: blob for key, blob in a.snapshot().items() if blob is not None})
    assert b.waiting == 0
    assert [letter.item for letter in a.ctx.dead_letters] == [item]


@pytest.mark.parametrize("item", [object(), 2**64], ids=["object", "int65"])
def test_an_item_that_cannot_be_stored_does_not_stop_the_task(item: Any) -> None:
    a = opened(Batcher(5))
    list(a.process(Frame([1, item])))
    a.snapshot()
    assert [letter.item for letter in a.ctx.dead_letters] == [item]
    assert [frame.items for frame in a.flush()] == [[[1]]]


@pytest.mark.parametrize("ts", [float("inf"), 10**30], ids=repr)
def test_dedupe_survives_an_impossible_time(ts: Any) -> None:
    a = opened(Dedupe("id"))
    list(a.process(Frame([{"id": 1, "ts_event": ts}])))
    assert len(a.snapshot()) == 1
    assert [frame.items for frame in a.process(Frame([{"id": 1, "ts_event": 5}]))] == [[]]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: sorted(x, key=lambda y: y * 2), lambda x: sorted(x, key=lambda y: y * 3)),
        (lambda x: sum(y * 2 for y in x), lambda x: sum(y * 3 for y in x)),
        (lambda x: x in (1, 2), lambda x: x in (1, 3)),
        (lambda x, k=2: x * k, lambda x, k=3: x * k),
        (lambda x, *, k=2: x * k, lambda x, *, k=3: x * k),
    ],
    ids=["nested lambda", "generator", "tuple constant", "default", "keyword default"],
)
def test_edits_show(one: Any, other: Any) -> None:
    assert describe_function(one).rpartition("#")[2] != describe_function(other).rpartition("#")[2]


def test_recursive_inner_function() -> None:
    def f(x: int) -> int:
        return f(x - 1) if x else 0

    assert describe_function(f)


def test_partial_coroutines_show_their_arguments() -> None:
    async def f(i: Any, o: Any, k: int = 0) -> None: ...

    prints = set()
    for k in (1, 2):
        dag = Dag()
        dag.add_node(Node("a", functools.partial(f, k=k)))
        prints.add(compile_dag(dag, 1).fingerprint)
    assert len(prints) == 2


def test_disjoint_graphs_may_have_cycle_in_a_name() -> None:
    dag = Dag()
    for name in ("cycles", "other"):
        dag.add_node(Node(name, Synthetic()))
        dag.add_node(Node(name + "-out", Collect()))
        dag.add_edge(name, name + "-out")
    assert len(compile_dag(dag, 2).subgraphs) == 2


def test_a_source_that_cannot_be_split_is_not_run_in_every_partition() -> None:
    dag = Dag()
    dag.add_node(Node("a", Synthetic(), singleton=False))
    dag.add_node(Node("b", Collect()))
    dag.add_edge("a", "b")
    with pytest.raises(DagValidationError):
        compile_dag(dag, 3)


def test_joining_a_dictionary_and_an_array_column_loses_nothing() -> None:
    o = np.empty(1, object)
    o[0] = "c"
    a = Columns("", {"k": np.arange(2), "x": Dictionary.encode(["a", "b"])})
    b = Columns("", {"k": np.arange(1), "x": o})
    assert [row for items in join_items([a, b]) for row in to_rows(items)] == a.rows() + b.rows()


def test_a_float_is_a_config_error() -> None:
    with pytest.raises(ConfigError):
        parse_duration(1.5)  # type: ignore[arg-type]
