"""The blocking side of :class:`KafkaSource`: a consumer that is assigned partitions, and what its messages are.

Everything here runs in the one thread that the source keeps for it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from market_data_pipeline.adapters.kafka import (
    CAUGHT_UP,
    LOST,
    ClientLog,
    Partition,
    Reach,
    client_settings,
    is_source_fault,
)
from market_data_pipeline.dag.partition import partition_of
from market_data_pipeline.errors import RecordError, SourceError
from market_data_pipeline.extras import extra
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.records import Gap, field
from market_data_pipeline.sources.lanes import Lanes
from market_data_pipeline.sources.messages import MessageReader, time_of

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
_POLL_SECONDS = 0.2
_LANE_ITEMS = 4
"""A partition that is ahead of others keeps so many batches, then it is paused."""
OWN_SETTINGS = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
}
USUAL_SETTINGS = {"queued.max.messages.kbytes": 16 * 1024}
"""What the client reads ahead, in place of 64 MiB; may be overridden."""


class Skipped(NamedTuple):
    """A message that is nothing to hand out; ``why`` is the counter."""

    why: str


class Lost(NamedTuple):
    """What is not there any more."""

    gap: Gap


class Read(NamedTuple):
    """What one look brought. ``offsets``: where to go on in each partition that gave something."""

    items: list[Any]
    letters: list[DeadLetter]
    gaps: list[Gap]
    counts: Counter[str]
    offsets: dict[Partition, int]


class Reading(NamedTuple):
    """What the reader is to do. ``stop_at_end``: a partition is done where it ended when it was first heard of. ``since``:
    messages of before this (ms) are left out. ``own``: partition and number of partitions whose symbols alone may come."""

    servers: str
    options: Mapping[str, Any]
    group: str
    on_lost: Literal["fail", "skip"]
    stop_at_end: bool
    since: int | None
    own: tuple[int, int] | None
    batch_items: int
    merge: bool


class KafkaReader:
    """Reads ``offsets`` on. ``ends``: where partitions are done that were heard of before. ``trouble`` hears why servers are
    away."""

    def __init__(
        self, node: str, reading: Reading, messages: MessageReader, offsets: Mapping[Partition, int],
        ends: Mapping[Partition, int], trouble: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self._kafka = extra("confluent_kafka", "kafka", "KafkaSource")
        self._node, self._reading, self._messages = node, reading, messages
        self.ends = dict(ends)
        self._next = dict(offsets)
        self._done: set[Partition] = set()
        self._paused: set[Partition] = set()
        self._owners: dict[str, bool] = {}
        self._more = False
        self._lanes: Lanes[Partition] = Lanes(offsets, reading.merge, _LANE_ITEMS * reading.batch_items)
        self.reach = Reach(f"source {node}", trouble)
        self._consumer = make_consumer(self._kafka, reading, self.reach)
        self._consumer.assign([self._place(*item) for item in offsets.items()])
        for partition, offset in offsets.items():
            self._finish_if(partition, offset)

    def _place(self, partition: Partition, offset: int = 0) -> Any:
        return self._kafka.TopicPartition(*partition, offset)

    @property
    def ended(self) -> bool:
        """Whether all is read that is to be read."""
        return self._reading.stop_at_end and len(self._done) == len(self._next) and self._lanes.empty

    def partitions(self, topics: Iterable[str]) -> list[Partition]:
        """All that ``topics`` have now; those known before while no server answers."""
        try:
            return topic_partitions(self._kafka, self._consumer, self._reading.servers, topics, self.reach)
        except SourceError as error:
            log.debug("%s", error)
            return list(self._next)

    def open(self, offsets: Mapping[Partition, int]) -> None:
        """Read these partitions too."""
        for partition, offset in offsets.items():
            self._next[partition] = offset
            self._lanes.open(partition)
        self._consumer.incremental_assign([self._place(*item) for item in offsets.items()])

    def read(self) -> Read | None:
        """What is at hand, waiting a moment for the first of it; ``None`` when nothing came. Raises ``SourceError``."""
        found: dict[Partition, list[Any]] = {}
        for message in self._polled():
            error = message.error()
            if error is None:
                self.reach.heard()
                found.setdefault((message.topic(), message.partition()), []).append(message)
                continue
            self._add(found)  # what came before it, first
            found = {}
            self._event(error, message)
        self._add(found)
        self._pace()
        return self._taken()

    def _polled(self) -> list[Any]:
        first = self._consumer.poll(0.0 if self._more else _POLL_SECONDS)
        if first is None:
            return []
        return [first, *self._consumer.consume(self._reading.batch_items - 1, 0.0)]

    def _event(self, error: Any, message: Any) -> None:
        partition = (message.topic(), message.partition())
        name = error.name()
        if name == CAUGHT_UP:
            self.reach.heard()
            if partition in self._next:
                if self._reading.stop_at_end:
                    self.ends.setdefault(partition, message.offset())
                self._lanes.caught_up(partition)
                self._finish_if(partition, message.offset())
        elif name == LOST:
            self._lost(partition)
        elif error.fatal() or is_source_fault(name):
            raise SourceError(f"topic {message.topic()}, partition {message.partition()}: {error.str()}")
        else:
            self.reach.failed(error)

    def _heard(self, partition: Partition, last: int) -> None:
        """The first answer with messages of ``partition``, here up to ``last``, says where it ends now."""
        if self._reading.stop_at_end and partition not in self.ends:
            _, end = self._consumer.get_watermark_offsets(self._place(partition), cached=True)
            if end > last:
                self.ends[partition] = end

    def _finish_if(self, partition: Partition, offset: int) -> None:
        if self._reading.stop_at_end and partition not in self._done and offset >= self.ends.get(partition, 2**63):
            self._done.add(partition)
            self._lanes.caught_up(partition)
            self._consumer.incremental_unassign([self._place(partition)])

    def _add(self, found: dict[Partition, list[Any]]) -> None:
        for partition, messages in found.items():
            self._heard(partition, messages[-1].offset())
            end = self.ends.get(partition, 2**63) if self._reading.stop_at_end else 2**63
            # a partition that was paused may tell again what it told before
            new = [m for m in messages if self._next[partition] <= m.offset() < end and partition not in self._done]
            self._add_messages(partition, new)
            self._finish_if(partition, self._next[partition])

    def _add_messages(self, partition: Partition, messages: list[Any]) -> None:
        items: list[Any] = [Skipped("tombstone") if m.value() is None else None for m in messages]
        for at, message in enumerate(messages):
            if items[at] is None and self._too_early(message):
                items[at] = Skipped("before_start")
        wanted = [at for at, item in enumerate(items) if item is None]
        for at, item in zip(wanted, self._messages.read([messages[at].value() for at in wanted]), strict=True):
            reason = str(item) if isinstance(item, RecordError) else self._foreign(item)
            items[at] = self._letter(messages[at], reason) if reason else item
        for message, item in zip(messages, items, strict=True):
            self._next[partition] = message.offset() + 1
            self._lanes.add(partition, item, message.offset() + 1, time_of(item))

    def _too_early(self, message: Any) -> bool:
        kind, at = message.timestamp()
        since = self._reading.since
        return since is not None and kind != self._kafka.TIMESTAMP_NOT_AVAILABLE and bool(at < since)

    def _foreign(self, item: Any) -> str:
        """Why ``item`` must not come from here; empty when it may."""
        if self._reading.own is None:
            return ""
        try:
            symbol = field(item, "symbol")
        except (KeyError, AttributeError):
            return "no field 'symbol', which partitioned='mmh3' needs"
        partition, partitions = self._reading.own
        if not isinstance(symbol, str):
            return f"symbol {symbol!r:.100} is not text"
        mine = self._owners.get(symbol)
        if mine is None:
            mine = self._owners[symbol] = partition_of(symbol, partitions) == partition
        return (
            "" if mine else f"symbol {symbol!r:.100} belongs to another partition; was the topic written by KafkaTopic?"
        )

    def _letter(self, message: Any, reason: str) -> DeadLetter:
        where = f"{message.topic()}/{message.partition()}:{message.offset()}"
        return DeadLetter(self._node, reason, message.value()[:10_000], where)

    def _lost(self, partition: Partition) -> None:
        topic, number = partition
        wanted = self._next[partition]
        low, high = watermarks(self._consumer, self._place(partition))
        what = f"topic {topic}, partition {number}: offset {wanted} is not there; the servers have {low} to {high}"
        if self._reading.on_lost == "fail":
            why = "deleted by retention before they were read?" if wanted < low else "was the topic made anew?"
            raise SourceError(f"{what}: {why} on_lost='skip' goes on at {low}")
        log.warning("%s; going on at %d", what, low)
        gap = Gap(f"{topic}/{number}", wanted, max(wanted, low - 1), max(0, low - wanted), 0)
        self._next[partition] = low
        self._lanes.add(partition, Lost(gap), low, None)
        self._consumer.incremental_unassign([self._place(partition)])
        self._consumer.incremental_assign([self._place(partition, low)])

    def _pace(self) -> None:
        """Pause what is far ahead of others; read on what is not any more."""
        full = {p for p in self._next if p not in self._done and self._lanes.full(p)}
        if full - self._paused:
            self._consumer.pause([self._place(p) for p in full - self._paused])
        gone_on = self._paused - full - self._done
        if gone_on:
            self._consumer.resume([self._place(p) for p in gone_on])
        self._paused = full

    def _taken(self) -> Read | None:
        taken = self._lanes.take(self._reading.batch_items)
        self._more = len(taken.items) == self._reading.batch_items
        if not taken.items:
            return None
        read = Read([], [], [], Counter(), taken.places)
        for item in taken.items:
            if isinstance(item, DeadLetter):
                read.letters.append(item)
            elif isinstance(item, Skipped):
                read.counts[item.why] += 1
            elif isinstance(item, Lost):
                read.gaps.append(item.gap)
                read.counts["lost"] += item.gap.missing
            else:
                read.items.append(item)
        return read

    def close(self) -> None:
        """Let the consumer go. Nothing is told to Kafka."""
        self._consumer.close()


def make_consumer(kafka: Any, reading: Reading, reach: Reach) -> Any:
    """A consumer; nothing is asked of the servers yet. Raises ``SourceError`` for an option that librdkafka does not take."""
    own = {**OWN_SETTINGS, "group.id": reading.group, "error_cb": reach.failed}
    settings = client_settings(reading.servers, {**USUAL_SETTINGS, **reading.options}, own)
    try:
        return kafka.Consumer(settings, logger=ClientLog())
    except kafka.KafkaException as error:
        raise SourceError(f"kafka options: {error.args[0].str()}") from None


def topic_partitions(kafka: Any, consumer: Any, servers: str, topics: Iterable[str], reach: Reach) -> list[Partition]:
    """All partitions of ``topics``. Raises ``SourceError`` for one that is not there, or when no server answers."""
    found: list[Partition] = []
    for topic in topics:
        try:
            listed = consumer.list_topics(topic, timeout=ANSWER_SECONDS).topics[topic]
        except kafka.KafkaException as error:
            raise SourceError(f"kafka {servers}: topic {topic}: {reach.why or error.args[0].str()}") from None
        if listed.error is not None or not listed.partitions:
            reason = listed.error.str() if listed.error is not None else "it has no partitions"
            raise SourceError(f"kafka {servers}: topic {topic}: {reason}")
        found += [(topic, number) for number in sorted(listed.partitions)]
    return found


def watermarks(consumer: Any, place: Any) -> tuple[int, int]:
    """The first offset that is there and the one behind the last. Raises ``SourceError``."""
    try:
        low, high = consumer.get_watermark_offsets(place, timeout=ANSWER_SECONDS)
    except Exception as error:
        raise SourceError(f"kafka: topic {place.topic}, partition {place.partition}: {error}") from error
    return low, high
