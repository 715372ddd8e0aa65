"""The blocking side of :class:`KafkaTopic`: a producer, in the one thread that the sink keeps for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from market_data_pipeline.adapters.kafka import ClientLog, Reach, client_settings, is_item_fault
from market_data_pipeline.dag.partition import partition_of
from market_data_pipeline.errors import SinkError
from market_data_pipeline.extras import extra
from market_data_pipeline.sinks.kafka_messages import SCHEMA, Messages, Outbox, message_id

OWN_SETTINGS = {"enable.idempotence": True, "acks": "all", "delivery.report.only.error": True}
_USUAL: dict[str, Any] = {"linger.ms": 5, "queue.buffering.max.messages": 200_000, "compression.type": "lz4"}
_FULL_SECONDS = 0.05
T = TypeVar("T")


class Producing(NamedTuple):
    """How to produce. ``timeout``: seconds until what was not taken is given up. ``mmh3``: the key's partition is the job's own
    hash modulo the topic's partitions; else murmur2, as Java's clients have it. ``transactional_id``: empty for none."""

    servers: str
    options: Mapping[str, Any]
    timeout: float
    mmh3: bool
    transactional_id: str


class Undelivered(NamedTuple):
    """A message that the servers refused."""

    group: int
    at: int
    error: str
    reason: str


class KafkaProducer:
    """``headers`` go with every message."""

    def __init__(self, node: str, producing: Producing, headers: Sequence[tuple[str, bytes]]) -> None:
        self._kafka = extra("confluent_kafka", "kafka", "KafkaTopic")
        self._producing, self._headers = producing, list(headers)
        self.reach = Reach(f"sink {node}")
        self._failed: list[tuple[Any, Any]] = []
        self._partitions: dict[str, int] = {}
        self._places: dict[tuple[bytes, int], int] = {}
        self._given_up = False
        self._group = ""
        self._producer = make_producer(self._kafka, producing, self.reach)

    def give_up(self) -> None:
        """From another thread: stop waiting, nobody wants the result."""
        self._given_up = True

    def send(self, groups: Sequence[Messages]) -> list[Undelivered]:
        """Deliver all, and wait for it; what the servers (or the client) refuse for good comes back. Raises ``SinkError``."""
        refused: list[Undelivered] = []
        for number, group in enumerate(groups):
            refused += [Undelivered(number, *one) for one in self._produce(group, range(len(group.values)))]
        self._flush()
        failed, self._failed = self._failed, []
        faults = self._faults(groups, failed)
        for number, at in faults:  # one message too large takes its batch with it: each is tried by itself
            group = groups[number]
            refused += [Undelivered(number, *one) for one in self._produce(group, [at])]
            self._flush()
            for error, _ in self._failed:
                self._check_fault(error)
                refused.append(Undelivered(number, at, error.name(), error.str()))
            self._failed = []
        self.reach.heard()
        return refused

    def _produce(self, group: Messages, which: Sequence[int] | range) -> list[tuple[int, str, str]]:
        """Hand messages to the client, waiting while its queue is full; those that it refuses."""
        refused: list[tuple[int, str, str]] = []
        headers = [("mdp-kind", group.kind.encode()), ("mdp-schema", SCHEMA), *self._headers]
        partitions = self.partitions(group.topic) if self._producing.mmh3 else 0
        keys, values, times, produce = group.keys, group.values, group.times, self._producer.produce
        for at in which:
            key, value = keys[at], values[at]
            given = [*headers, ("mdp-id", message_id(value))]
            partition = self._partition(key, partitions) if partitions else -1
            while True:
                try:
                    produce(
                        group.topic, value, key, partition, on_delivery=self._on_failure, timestamp=times[at], headers=given
                    )  # fmt: skip
                except BufferError:
                    self._producer.poll(_FULL_SECONDS)
                    self._check_wanted()
                    continue
                except self._kafka.KafkaException as error:
                    self._check_fault(error.args[0])
                    refused.append((at, error.args[0].name(), error.args[0].str()))
                break
        return refused

    def _partition(self, key: bytes, partitions: int) -> int:
        place = self._places.get((key, partitions))
        if place is None:
            place = self._places[key, partitions] = partition_of(key.decode(), partitions)
        return place

    def _on_failure(self, error: Any, message: Any) -> None:
        self._failed.append((error, message))

    def _check_wanted(self) -> None:
        if self._given_up:
            raise SinkError("kafka: given up")

    def _flush(self) -> None:
        deadline = time.monotonic() + self._producing.timeout + 1.0
        while self._producer.flush(0.2):
            self._check_wanted()
            if time.monotonic() > deadline:
                self._producer.purge()
                self._producer.flush(0.2)
                raise SinkError(f"kafka: nothing delivered within {self._producing.timeout:g} s{self._why()}")

    def _why(self) -> str:
        return f" ({self.reach.why})" if self.reach.why else ""

    def _check_fault(self, error: Any) -> None:
        """Raises ``SinkError`` unless ``error`` is the message's own fault."""
        if not is_item_fault(error.name()):
            raise SinkError(f"kafka: {error.str()}{self._why()}")

    def _faults(self, groups: Sequence[Messages], failed: Sequence[tuple[Any, Any]]) -> list[tuple[int, int]]:
        """Where the messages stand that failed by their own fault. Raises ``SinkError`` when one failed otherwise."""
        if not failed:
            return []
        for error, _ in failed:
            self._check_fault(error)
        wanted = {(message.topic(), message.key(), message.value()) for _, message in failed}
        return [
            (number, at)
            for number, group in enumerate(groups)
            for at, (key, value) in enumerate(zip(group.keys, group.values, strict=True))
            if (group.topic, key, value) in wanted
        ]

    def ask(self, topics: Iterable[str]) -> None:
        """Ask the servers for ``topics``. Raises ``SinkError`` where one is not there, or nobody answers."""
        for topic in topics:
            with self._explained(f"topic {topic}"):
                found = self._producer.list_topics(topic, timeout=self._producing.timeout).topics[topic]
            if found.error is not None or not found.partitions:
                why = found.error.str() if found.error is not None else "it has no partitions"
                raise SinkError(f"kafka {self._producing.servers}: topic {topic}: {why}")
            self._partitions.setdefault(topic, len(found.partitions))

    def partitions(self, topic: str) -> int:
        """How many ``topic`` had when it was first asked for: a key stays where it is. Raises ``SinkError``."""
        if topic not in self._partitions:
            self.ask((topic,))
        return self._partitions[topic]

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """The client's errors inside come out as ``SinkError``: the task waits, opens a new producer and tries again."""
        try:
            yield
        except self._kafka.KafkaException as error:
            raise SinkError(f"kafka: {what}: {error.args[0].str()}{self._why()}") from error

    # --- transactions ---------------------------------------------------------------------------------------------

    def fence(self) -> None:
        """End whatever an older producer of this transactional id has left open; from now on it can commit nothing."""
        with self._explained("beginning with transactions"):
            self._repeated(lambda: self._producer.init_transactions(self._producing.timeout))

    def mark(self, topic: str) -> int | None:
        """The token of the last outbox that was sent by this task and is marked at ``topic``."""
        reader = self._group_member()
        try:
            with self._explained("looking for what was sent"):
                found = reader.committed([self._kafka.TopicPartition(topic, 0)], timeout=self._producing.timeout)[0]
                if found.error is not None:
                    raise SinkError(f"kafka: looking for what was sent: {found.error.str()}")
        finally:
            reader.close()
        return int(found.offset) if found.offset >= 0 else None

    def send_once(self, outbox: Outbox) -> None:
        """All messages of ``outbox`` and its mark in one transaction. Raises ``SinkError``; then nobody knows here whether it
        was committed, which the mark tells the next producer."""
        place = self._kafka.TopicPartition(outbox.marker_topic, 0, outbox.token)
        reader = self._group_member()
        try:
            with self._explained("sending in a transaction"):
                self._producer.begin_transaction()
                refused = self.send(outbox.groups)
                if refused:
                    raise SinkError(f"kafka: {refused[0].reason}; in a transaction nothing can be left out")
                member = reader.consumer_group_metadata()
                timeout = self._producing.timeout
                self._repeated(lambda: self._producer.send_offsets_to_transaction([place], member, timeout))
                self._repeated(lambda: self._producer.commit_transaction(timeout))
        finally:
            reader.close()

    def _repeated(self, step: Callable[[], T]) -> T:
        """``step``, again while the servers say that it may be; at most for the timeout."""
        deadline = time.monotonic() + self._producing.timeout
        while True:
            try:
                return step()
            except self._kafka.KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise
                self._check_wanted()

    def _group_member(self) -> Any:
        """A consumer that joins nothing: it stands for the group that holds the marks."""
        own: dict[str, Any] = {
            "group.id": self._producing.transactional_id,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "error_cb": self.reach.failed,
        }
        shared = {n: v for n, v in self._producing.options.items() if n.startswith(("security.", "sasl.", "ssl."))}
        return self._kafka.Consumer(client_settings(self._producing.servers, shared, own), logger=ClientLog())

    def close(self) -> None:
        """Drop what was not delivered."""
        self._producer.purge()
        self._producer.flush(0.2)


def make_producer(kafka: Any, producing: Producing, reach: Reach) -> Any:
    """A producer; nothing is asked of the servers yet. Raises ``SinkError`` for an option that librdkafka does not take."""
    own: dict[str, Any] = {
        **OWN_SETTINGS,
        "message.timeout.ms": int(producing.timeout * 1000),
        "error_cb": reach.failed,
    }
    if not producing.mmh3:
        own["partitioner"] = "murmur2_random"
    if producing.transactional_id:
        own["transactional.id"] = producing.transactional_id
    try:
        return kafka.Producer(
            client_settings(producing.servers, {**_USUAL, **producing.options}, own), logger=ClientLog()
        )
    except kafka.KafkaException as error:
        raise SinkError(f"kafka options: {error.args[0].str()}") from None
