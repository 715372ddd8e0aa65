"""What the broker of the tests does and does not, as ``tools/broker.py`` says: where it changes, tests can ask for more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from tools.broker import Broker, read_topic, settings


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as running:
        yield running


def transaction(producer: Producer, topic: str, *values: bytes) -> None:
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(60) == 0


def values(messages: list[Any]) -> list[bytes]:
    return [message.value() for message in messages]


def test_headers_times_and_empty_values_come_back(broker: Broker) -> None:
    broker.create("plain", partitions=2)
    producer = Producer(settings(broker.servers, enable_idempotence=True))
    producer.produce("plain", b"v", b"k", 1, timestamp=1_700_000_000_123, headers=[("a", b"1"), ("a", b"2")])
    producer.produce("plain", None, b"k", 1, timestamp=1_700_000_000_124)
    assert producer.flush(60) == 0
    first, second = read_topic(broker.servers, "plain")
    assert (first.key(), first.partition(), first.timestamp()[1]) == (b"k", 1, 1_700_000_000_123)
    assert first.headers() == [("a", b"1"), ("a", b"2")]
    assert second.value() is None


def test_transactions(broker: Broker) -> None:
    broker.create("tx", partitions=1)
    producer = Producer(settings(broker.servers, transactional_id="one"))
    producer.init_transactions(60)
    transaction(producer, "tx", b"1")
    assert values(read_topic(broker.servers, "tx")) == [], "an open transaction is not seen"
    assert values(read_topic(broker.servers, "tx", "read_uncommitted")) == [b"1"]
    member = Consumer(settings(broker.servers, group_id="one"))
    producer.send_offsets_to_transaction([TopicPartition("tx", 0, 2**61, "text")], member.consumer_group_metadata(), 60)
    producer.commit_transaction(10)
    (found,) = member.committed([TopicPartition("tx", 0)], 60)
    member.close()
    assert (found.offset, found.metadata) == (2**61, None), "the offset is kept, its text is not"
    transaction(producer, "tx", b"2")
    producer.abort_transaction(10)
    assert values(read_topic(broker.servers, "tx")) == [b"1", b"2"], "what was aborted is told to consumers"
    assert values(broker.read("tx")) == [b"1"], "and the log says that it was"
    successor = Producer(settings(broker.servers, transactional_id="one"))
    successor.init_transactions(60)
    producer.begin_transaction()
    producer.produce("tx", b"3", partition=0)
    with pytest.raises(KafkaException, match="fenced"):
        producer.commit_transaction(10)
    assert values(broker.read("tx")) == [b"1"]


def test_what_it_lacks(broker: Broker) -> None:
    broker.create("lacks", partitions=1)
    producer = Producer(settings(broker.servers, linger_ms=50, message_max_bytes=10_000_000))
    for _ in range(10):
        producer.produce("lacks", b"v", timestamp=1_000)
    assert producer.flush(60) == 0
    producer.produce("lacks", b"x" * 3_000_000)
    assert producer.flush(60) == 0, "no message is too large for it"
    reader = Consumer(settings(broker.servers, group_id="one"))
    low, high = reader.get_watermark_offsets(TopicPartition("lacks", 0), timeout=60)
    (at,) = reader.offsets_for_times([TopicPartition("lacks", 0, 500_000)], timeout=60)
    reader.close()
    assert low == 0
    assert high == 11, "right, as the last batch has one message"
    assert at.offset == 0, "a lookup by time finds the beginning"
    assert len(read_topic(broker.servers, "lacks")) == 11
