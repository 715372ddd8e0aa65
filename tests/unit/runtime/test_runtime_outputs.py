"""What a task sends: routed by key, cut into commits, the rest kept in the outbox."""

from __future__ import annotations

from typing import Any

import mmh3
import pytest
from tools.memory_job import CommittedRows, ListSource

from market_data_pipeline.codec import decode
from market_data_pipeline.dag.graph import Dag, Node
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.frame import END, NO_MARK, Columns, to_rows
from market_data_pipeline.records import Trade
from market_data_pipeline.runtime.contract import Limits, Stream
from market_data_pipeline.runtime.outputs import OUTBOX, Outputs

LIMITS = Limits(frame_items=3, frame_bytes=2048, commit_frames=2, mark_interval=1.0)
PARTITIONS = 4


def outputs(kind: str = "keyed", limits: Limits = LIMITS) -> Outputs:
    dag = Dag("o")
    dag.add_node(Node("source", ListSource([])))
    dag.add_node(Node("out", CommittedRows()))
    dag.add_edge("source", "out", key="symbol" if kind == "keyed" else None, broadcast=kind == "broadcast")
    plan = compile_dag(dag, PARTITIONS)
    return Outputs(plan, plan.subgraph_of["source"], 0, "source/0", limits)


def items_of(frames: dict[Stream, list[bytes]]) -> dict[int, list[Any]]:
    return {
        partition: [item for blob in blobs for item in to_rows(decode(blob).frame.items)]
        for (_, partition), blobs in frames.items()
    }


def rows(n: int, symbols: int = 9) -> list[dict[str, Any]]:
    return [{"symbol": f"S{i % symbols}", "n": i} for i in range(n)]


def test_items_go_to_the_partition_of_their_symbol_in_order() -> None:
    out = outputs(limits=LIMITS._replace(commit_frames=100))
    items = rows(60)
    assert out.add({"source.out": [items]}, {"source.out": 5}, 0, 0.0) == []
    frames, delta = out.take()
    expected: dict[int, list[Any]] = {}
    for item in items:
        expected.setdefault(mmh3.hash(item["symbol"], 0, signed=False) % PARTITIONS, []).append(item)
    found = items_of(frames)
    assert {p: part for p, part in found.items() if part} == expected
    assert delta == {}
    assert all(len(decode(blob).frame.items) <= 3 for blobs in frames.values() for blob in blobs)


@pytest.mark.parametrize("price", [1.5, 2])
def test_records_in_rows_travel_as_columns_where_nothing_changes_by_it(price: float) -> None:
    out = outputs(limits=LIMITS._replace(commit_frames=100))
    items = [Trade(f"S{n % 9}", n, n, price, 1.0, "buy", n) for n in range(60)]
    assert out.add({"source.out": [items]}, {}, 0, 0.0) == []
    frames, _ = out.take()
    decoded = [decode(blob).frame.items for blobs in frames.values() for blob in blobs]
    assert {isinstance(part, Columns) for part in decoded} == {isinstance(price, float)}
    assert sorted(item for part in items_of(frames).values() for item in part) == sorted(items)
    assert {type(item.price) for part in decoded for item in to_rows(part)} == {type(price)}


def test_broadcast_goes_everywhere() -> None:
    out = outputs("broadcast")
    out.add({"source.out": [[1, 2]]}, {}, 0, 0.0)
    frames, _ = out.take()
    assert items_of(frames) == {p: [1, 2] for p in range(PARTITIONS)}


def test_the_mark_is_on_the_last_frame_only_and_reaches_every_partition_at_the_end() -> None:
    out = outputs("broadcast", LIMITS._replace(commit_frames=10))
    out.add({"source.out": [list(range(7))]}, {"source.out": 42}, 0, 0.0)
    frames, _ = out.take()
    for blobs in frames.values():
        assert [decode(blob).frame.mark for blob in blobs] == [NO_MARK, NO_MARK, 42]
    out.add({}, {}, 0, 0.0, ended=["source.out"])
    frames, _ = out.take()
    assert {p: [decode(b).frame.mark for b in blobs] for (_, p), blobs in frames.items()} == {
        p: [END] for p in range(PARTITIONS)
    }


def test_marks_alone_are_sent_at_most_once_per_interval() -> None:
    out = outputs()
    assert out.marks_due(0.0) is None
    out.add({}, {"source.out": 1}, 0, 10.0)
    assert sum(map(len, out.take()[0].values())) == PARTITIONS
    out.add({}, {"source.out": 2}, 0, 10.4)
    assert out.take()[0] == {}
    assert out.marks_due(10.4) == pytest.approx(0.6)
    out.add({}, {"source.out": 3}, 0, 11.0)
    frames, _ = out.take()
    assert [decode(b).frame.mark for blobs in frames.values() for b in blobs] == [3] * PARTITIONS
    assert out.marks_due(11.0) is None


def test_what_a_commit_cannot_take_is_kept_and_comes_once_in_order() -> None:
    out = outputs("broadcast")
    out.add({"source.out": [list(range(20))]}, {}, 0, 0.0, ended=["source.out"])
    stored: dict[str, bytes] = {}
    found: dict[int, list[Any]] = {p: [] for p in range(PARTITIONS)}
    commits = 0
    while out.waiting:
        commits += 1
        frames, delta = out.take()
        assert all(len(blobs) <= LIMITS.commit_frames for blobs in frames.values())
        for partition, items in items_of(frames).items():
            found[partition] += items
        for name, blob in delta.items():
            assert name.startswith(OUTBOX)
            if blob is None:
                del stored[name]
            else:
                stored[name] = blob
        assert len(stored) == out.waiting
        if commits % 2:  # a new owner
            out = outputs("broadcast")
            out.restore(stored)
            out.restore_marks({"source.out": END})
            assert out.waiting == len(stored)
    assert found == {p: list(range(20)) for p in range(PARTITIONS)}
    assert commits == 4
    assert stored == {}


def test_items_that_cannot_travel_are_handed_back_and_their_neighbours_go() -> None:
    out = outputs("broadcast", LIMITS._replace(commit_frames=50))
    bad = out.add({"source.out": [[1, object(), 2, 2**70, "x" * 5000, 3]]}, {}, 0, 0.0)
    frames, _ = out.take()
    assert items_of(frames) == {p: [1, 2, 3] for p in range(PARTITIONS)}
    assert len(bad) == 3 * PARTITIONS
    assert all(letter.node == "source" for letter in bad)


def test_items_without_the_key_are_handed_back() -> None:
    out = outputs()
    bad = out.add({"source.out": [[{"n": 1}, {"symbol": "A", "n": 2}]]}, {}, 0, 0.0)
    assert [letter.item for letter in bad] == [{"n": 1}]
    assert sum(map(len, items_of(out.take()[0]).values())) == 1


def test_marks_that_are_restored_are_sent_again() -> None:
    out = outputs()
    out.restore_marks({"source.out": 9, "gone.edge": 5})
    assert out.marks() == {"source.out": 9}
    assert out.marks_due(0.0) == 0.0
    out.add({}, {}, 0, 0.0)
    assert [decode(b).frame.mark for blobs in out.take()[0].values() for b in blobs] == [9] * PARTITIONS


def test_the_last_mark_goes_before_the_end_to_every_partition() -> None:
    out = outputs(limits=LIMITS._replace(commit_frames=100))
    out.add({}, {"source.out": 3}, 0, 0.0)
    out.take()
    out.add({"source.out": [rows(1)]}, {"source.out": 7}, 0, 0.1, ended=["source.out"])
    frames, _ = out.take()
    assert {p: [decode(blob).frame.mark for blob in blobs] for (_, p), blobs in frames.items()} == {
        p: [7, END] for p in range(PARTITIONS)
    }
    out.add({}, {}, 0, 5.0, ended=["source.out"])
    assert out.take()[0] == {}, "once"
