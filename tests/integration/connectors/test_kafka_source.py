"""Kafka as a source and as a sink against a real broker (and a mock cluster where that one has no retention)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from secrets import token_hex
from typing import Any

import orjson
import pytest
from pydantic import SecretStr
from tools.broker import fill, forgetful_cluster, shared_broker

from market_data_pipeline import Columns, Frame, Gap, KafkaSource, KafkaTopic, Trade
from market_data_pipeline.adapters.serialization import encoder
from market_data_pipeline.dag.partition import partition_of
from market_data_pipeline.errors import SinkError, SourceError
from market_data_pipeline.frame import columns_from_rows, to_rows
from market_data_pipeline.sinks.base import SinkContext
from market_data_pipeline.sinks.kafka_messages import message_id
from market_data_pipeline.sources.base import Batch, SourceContext
from market_data_pipeline.store.embedded import free_port

Counts = Counter[str]


def trade(i: int) -> Trade:
    return Trade(f"S{i % 10}", 1_700_000_000_000_000_000 + i * 1_000_000, 0, 100 + i / 4, 1.0, "buy", i)


def topic(partitions: int = 4) -> str:
    name = f"t-{token_hex(6)}"
    shared_broker().create(name, partitions=partitions)
    return name


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as made:
        yield made


async def source_of(
    stack: AsyncExitStack, source: KafkaSource, position: Any = None, counts: Counts | None = None, **place: int
) -> KafkaSource:
    def counted(name: str, n: int = 1) -> None:
        if counts is not None:
            counts[name] += n

    await source.open(SourceContext("in", counted=counted, **place), position)  # type: ignore[arg-type]
    stack.push_async_callback(source.close)
    return source


async def batches_of(source: KafkaSource) -> list[Batch]:
    found = []
    while (batch := await source.read()) is not None:
        found.append(batch)
    return found


def rows(batches: list[Batch]) -> list[Any]:
    return [row for batch in batches for row in to_rows(batch.items)]


async def write(name: str, items: Any, **given: Any) -> list[Any]:
    """Through the sink, in one step; what it rejected."""
    rejected: list[Any] = []
    sink = KafkaTopic(shared_broker().servers, name, **given)
    await sink.open(SinkContext("out", "job", reject=lambda item, reason: rejected.append((item, reason))), None)
    await sink.write([Frame(items)])
    await sink.prepare(False)
    await sink.committed()
    await sink.close()
    return rejected


@pytest.mark.parametrize("fmt", ["json", "msgpack"])
async def test_what_the_sink_writes_the_source_reads(stack: AsyncExitStack, fmt: Any) -> None:
    name, trades = topic(), [trade(i) for i in range(300)]
    await write(name, columns_from_rows(trades)[0], format=fmt)
    source = KafkaSource(shared_broker().servers, name, format=fmt, until="end")
    source.check()
    batches = await batches_of(await source_of(stack, source))
    assert isinstance(batches[1].items, Columns)
    assert sorted(rows(batches)) == sorted(trades)
    messages = shared_broker().read(name)
    assert {m.partition() for m in messages if m.key() == b"S3"} == {partition_of("S3", 4)}
    headers = dict(messages[0].headers())
    assert headers == {
        "mdp-kind": b"trade", "mdp-schema": b"1", "mdp-node": b"out", "mdp-job": b"job",
        "mdp-id": message_id(messages[0].value()).encode(),
    }  # fmt: skip


async def test_partitions_are_read_in_step_by_event_time(stack: AsyncExitStack) -> None:
    name, trades = topic(), [trade(i) for i in range(5_000)]
    await write(name, trades)
    source = KafkaSource(shared_broker().servers, name, until="end", max_delay=0, batch_items=500)
    assert rows(await batches_of(await source_of(stack, source))) == trades


async def test_a_resume_at_any_batch_gives_exactly_the_rest(stack: AsyncExitStack) -> None:
    name, trades = topic(2), [trade(i) for i in range(200)]
    await write(name, trades)
    source = KafkaSource(shared_broker().servers, name, until="end", batch_items=40)
    batches = await batches_of(await source_of(stack, source.fresh()))
    assert len(batches) >= 6
    for at, batch in enumerate(batches):
        rest = await batches_of(await source_of(stack, source.fresh(), batch.position))
        assert rows(batches[: at + 1]) + rows(rest) == trades


async def test_until_end_stops_where_the_partition_ended(stack: AsyncExitStack) -> None:
    name, trades = topic(1), [trade(i) for i in range(100)]
    await write(name, trades)
    source = KafkaSource(shared_broker().servers, name, until="end", batch_items=10)
    reading = await source_of(stack, source.fresh())
    first = [await reading.read(), await reading.read()]
    await write(name, [trade(1_000)])
    assert rows([batch for batch in first if batch is not None] + await batches_of(reading)) == trades
    again = await source_of(stack, source.fresh(), first[1].position)  # type: ignore[union-attr]
    assert rows(await batches_of(again)) == trades[10:], "the end is part of the position"


async def test_latest_is_committed_before_anything_came(stack: AsyncExitStack) -> None:
    name = topic(1)
    shared_broker().produce(name, [("A", encoder("json").encode(trade(0)))])
    source = KafkaSource(shared_broker().servers, name, start="latest")
    reading = await source_of(stack, source.fresh())
    first = await reading.read()
    assert first is not None
    assert first.position["offsets"] == [[name, 0, 1]]
    shared_broker().produce(name, [("A", encoder("json").encode(trade(1)))])
    again = await source_of(stack, source.fresh(), first.position)
    assert rows([await again.read()]) == [trade(1)]  # type: ignore[list-item]


async def test_a_start_by_time(stack: AsyncExitStack) -> None:
    name, counts = topic(2), Counts()
    await write(name, [trade(i) for i in range(100)])
    source = KafkaSource(shared_broker().servers, name, start=trade(60).ts_event, until="end")
    found = rows(await batches_of(await source_of(stack, source, counts=counts)))
    assert found == [trade(i) for i in range(60, 100)]
    assert counts == {"before_start": 60}


async def test_poison_and_tombstones(stack: AsyncExitStack) -> None:
    name, counts = topic(1), Counts()
    good = encoder("json").encode
    values = [good(trade(0)), None, b"{", good(trade(1)), b'{"kind":"quote"}', good(trade(2))]
    shared_broker().produce(name, [("A", value) for value in values])
    source = KafkaSource(shared_broker().servers, name, until="end")
    batches = await batches_of(await source_of(stack, source, counts=counts))
    letters = [letter for batch in batches for letter in batch.rejected]
    assert rows(batches) == [trade(0), trade(1), trade(2)]
    assert [(letter.where, letter.item) for letter in letters] == [
        (f"{name}/0:2", b"{"),
        (f"{name}/0:4", b'{"kind":"quote"}'),
    ]
    assert counts == {"tombstone": 1}
    assert batches[-1].position["offsets"] == [[name, 0, 6]]


async def test_each_task_reads_its_own_partitions(stack: AsyncExitStack) -> None:
    name, trades = topic(4), [trade(i) for i in range(200)]
    await write(name, trades)
    source = KafkaSource(shared_broker().servers, name, until="end", partitioned="mmh3")
    assert source.splittable
    found = []
    for partition in range(2):
        reading = await source_of(stack, source.fresh(), partition=partition, partitions=2)
        mine = rows(await batches_of(reading))
        assert {partition_of(t.symbol, 2) for t in mine} == {partition}
        found += mine
    assert sorted(found) == sorted(trades)
    with pytest.raises(SourceError, match="has 4 partitions, and the job 3: partitioned='mmh3' needs a multiple"):
        await source_of(stack, source.fresh(), partition=0, partitions=3)


async def test_a_symbol_in_a_foreign_partition_is_a_dead_letter(stack: AsyncExitStack) -> None:
    name = topic(2)
    foreign = 1 - partition_of("S1", 2)
    shared_broker().produce(name, [("S1", encoder("json").encode(trade(1)))], {"S1": foreign})
    source = KafkaSource(shared_broker().servers, name, until="end", partitioned="mmh3")
    batches = await batches_of(await source_of(stack, source, partition=foreign, partitions=2))
    (letter,) = [letter for batch in batches for letter in batch.rejected]
    assert letter.reason == "symbol 'S1' belongs to another partition; was the topic written by KafkaTopic?"


@pytest.mark.parametrize("on_lost", ["fail", "skip"])
async def test_an_offset_that_retention_took(stack: AsyncExitStack, on_lost: Any) -> None:
    with forgetful_cluster() as servers:
        large = b',"note":"' + b"x" * 1_000 + b'"}'
        fill(servers, "old", [encoder("json").encode(trade(i))[:-1] + large for i in range(7_000)])
        ends = [["old", n, 0] for n in (1, 2, 3)]
        position = {"offsets": [["old", 0, 1_000], *ends], "ends": ends}
        counts = Counts()
        source = KafkaSource(servers, "old", until="end", on_lost=on_lost)
        await source_of(stack, source, position, counts)
        if on_lost == "fail":
            with pytest.raises(SourceError, match="old, partition 0: offset 1000 is not there; the servers have 2"):
                await batches_of(source)
            return
        batches = await batches_of(source)
        (gap,) = [gap for batch in batches for gap in batch.outputs.get("gaps", [])]
        found = rows(batches)
        assert gap == Gap("old/0", 1_000, 7_000 - len(found) - 1, 6_000 - len(found), 0)
        assert found == [trade(i) for i in range(7_000 - len(found), 7_000)]
        assert counts == {"lost": gap.missing}


async def test_a_broker_that_does_not_answer_is_waited_for(stack: AsyncExitStack) -> None:
    name = topic(1)
    source = await source_of(stack, KafkaSource(shared_broker().servers, name))
    assert (await source.read()).items == []  # type: ignore[union-attr]
    with shared_broker().suspended():
        reading = asyncio.ensure_future(source.read())
        done, _ = await asyncio.wait({reading}, timeout=1.0)
        assert not done
    await write(name, [trade(1)])
    assert rows([await reading]) == [trade(1)]  # type: ignore[list-item]


def test_what_check_says() -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    secret = {"sasl.password": SecretStr("canary"), "sasl.mechanism": "PLAIN", "security.protocol": "SASL_PLAINTEXT"}
    with pytest.raises(SinkError, match="kafka") as refused:
        KafkaTopic(nowhere, "t", timeout="500ms", options=secret).check()
    assert "canary" not in str(refused.value)
    with pytest.raises(SinkError, match=r'No such configuration property: "lingre\.ms"'):
        KafkaTopic(nowhere, "t", options={"lingre.ms": 1}).check()
    with pytest.raises(SourceError, match=r"topic no-such-topic: .*nknown topic"):
        KafkaSource(shared_broker().servers, "no-such-topic").check()


async def test_a_message_that_is_too_large_costs_its_neighbours_nothing() -> None:
    name = topic(1)
    items = [{"symbol": "A", "v": "x"}, {"symbol": "A", "v": "x" * 3_000}, {"symbol": "A", "v": "y"}]
    for transactional in (False, True):
        given: dict[str, Any] = {"transactional": transactional, "options": {"message.max.bytes": 2_000}}
        ((item, reason),) = await write(name, items, **given)
        assert item == items[1]
        assert "over message.max.bytes, 2000" in reason
    found = [orjson.loads(message.value())["v"] for message in shared_broker().read(name)]
    assert found == ["x", "y"] * 2


async def test_a_full_queue_is_waited_for() -> None:
    name = topic(2)
    trades = [trade(i) for i in range(3_000)]
    await write(name, trades, options={"queue.buffering.max.messages": 100})
    assert len(shared_broker().read(name)) == 3_000


async def test_a_step_that_is_larger_than_the_outbox_is_refused() -> None:
    with pytest.raises(SinkError, match=r"1000 messages of one step take .*; outbox_bytes allows 500"):
        await write(topic(1), [trade(i) for i in range(1_000)], transactional=True, outbox_bytes=500)


async def test_a_zombie_can_send_nothing(stack: AsyncExitStack) -> None:
    name = topic(1)
    sink = KafkaTopic(shared_broker().servers, name, transactional=True)
    zombie, heir = sink.fresh(), sink.fresh()
    for one in (zombie, heir):
        stack.push_async_callback(one.close)
    await zombie.open(SinkContext("out", "job", 0, 1), None)
    await zombie.write([Frame([trade(1)])])
    state = await zombie.prepare(False)  # committed; and then the process stands still
    await heir.open(SinkContext("out", "job", 0, 2), state)
    with pytest.raises(SinkError, match="fenced"):
        await zombie.committed()
    assert [orjson.loads(message.value())["trade_id"] for message in shared_broker().read(name)] == [1]


async def test_servers_that_do_not_answer_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market_data_pipeline.sources.kafka_reader.ANSWER_SECONDS", 1.0)
    servers = f"127.0.0.1:{free_port()}"
    with pytest.raises(SourceError, match=f"^kafka {servers}: topic trades: "):
        await asyncio.to_thread(KafkaSource(servers, "trades").check)
