"""Kafka topics as a source: exactly once, because the offsets are part of the job's commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Literal, TypeVar

from market_data_pipeline.adapters.kafka import (
    Option,
    Partition,
    Reach,
    checked_options,
    checked_servers,
    checked_topic,
)
from market_data_pipeline.adapters.serialization import Format
from market_data_pipeline.durations import Duration, parse_duration
from market_data_pipeline.errors import ConfigError, SourceError
from market_data_pipeline.extras import extra
from market_data_pipeline.frame import compact
from market_data_pipeline.records import FieldNames, fields_of
from market_data_pipeline.sources.base import Batch, Source, SourceContext, checked_idleness
from market_data_pipeline.sources.kafka_reader import (
    ANSWER_SECONDS,
    OWN_SETTINGS,
    KafkaReader,
    Read,
    Reading,
    make_consumer,
    topic_partitions,
    watermarks,
)
from market_data_pipeline.sources.messages import Decode, MessageReader, moment_ns

T = TypeVar("T")

GAPS = "gaps"
_LOOK_SECONDS = 30.0
"""How often it is looked whether a topic has got more partitions."""


class KafkaSource(Source):
    """The messages of ``topics`` (a name or several) as records of ``kind``: ``trade``, ``quote``, ``bar``, or ``rows``.

    ``servers``: ``host:port``, several with commas or as a list. ``format``: ``json``, ``msgpack``, or a function that makes a
    record or a mapping of a message's bytes. What :class:`KafkaTopic` wrote needs no more; for others ``columns``,
    ``time_unit`` and ``symbol`` are as for :class:`Replay` (prices and sizes in the venue's own units, times to ns).
    ``start``, where no commit says better: ``earliest``, ``latest``, or a time (ISO text, ns, datetime): messages whose Kafka
    timestamp is before it are left out (counted, ``before_start``). ``until="end"``: stop where each partition ended when it
    was first heard of. ``options``: of librdkafka (``security.protocol``, ``sasl.password``, ...); secrets are hidden.
    ``group``: the name that the servers may want rights for; no group is joined, and no offset is ever committed to Kafka.

    Guarantee: exactly once from the first commit on: offsets live in the commit; of transactions only committed ones are
    read. Within a Kafka partition events may come up to ``max_delay`` out of order ("1s"); partitions are read in step by
    event time, so that one that is behind is not late. Partitions that a topic gets later are read from their beginning.

    One task reads all and feeds a keyed edge. ``partitioned="mmh3"``: the topic was written by :class:`KafkaTopic`, and
    its number of partitions is a multiple of the job's: then each task reads its own (Kafka partition k belongs to task k
    mod P), and no edge needs a key. A symbol that does not belong where it is found is a dead letter.

    Retried: everything while servers are away (logged once). ``SourceError``, which ends the job: no such topic, no rights, and
    an offset that is gone (retention, a topic made anew), unless ``on_lost="skip"``: then reading goes on at the first that is
    there, a :class:`Gap` (symbol ``topic/partition``, offsets as numbers) goes to the output ``gaps``, and ``lost`` counts what
    is missing. Messages that cannot be used are dead letters (``topic/partition:offset``); those without a value are counted
    (``tombstone``). ``idle_after``, ``live``: see :class:`Source`. Needs the extra ``kafka``.
    """

    outputs = (GAPS,)

    def __init__(  # noqa: PLR0913 - where, what, from where to where; all but the first three by keyword
        self,
        servers: str | Sequence[str],
        topics: str | Sequence[str],
        kind: str = "trade",
        *,
        format: Format | Decode = "json",  # noqa: A002 - as in Python's own words
        columns: Mapping[str, str] | None = None,
        time_unit: str = "ns",
        symbol: str | None = None,
        start: str | int | datetime = "earliest",
        until: Literal["end"] | None = None,
        partitioned: Literal["mmh3"] | None = None,
        on_lost: Literal["fail", "skip"] = "fail",
        max_delay: Duration | None = "1s",
        idle_after: Duration | None = None,
        live: bool = False,
        batch_items: int = 8192,
        group: str = "market-data-pipeline",
        options: Mapping[str, Option] | None = None,
    ) -> None:
        extra("confluent_kafka", "kafka", "KafkaSource")
        self.servers = checked_servers(servers)
        self.topics = tuple(map(checked_topic, [topics] if isinstance(topics, str) else topics))
        self.kind, self.format, self.columns = kind, format, columns
        self.time_unit, self.symbol = time_unit, symbol
        self.start, self.until, self.partitioned, self.on_lost = start, until, partitioned, on_lost
        self.max_delay = None if max_delay is None else parse_duration(max_delay, "max_delay")
        self.idle_after, self.live = checked_idleness(idle_after, live), live
        self.batch_items, self.group = batch_items, group
        self.options = checked_options(options, [*OWN_SETTINGS, "group.id"])
        self._check_choices()
        self._since = None if start in ("earliest", "latest") else moment_ns(start, "start") // 1_000_000
        self.splittable = partitioned == "mmh3"
        self._messages = MessageReader(kind, format, columns, time_unit, symbol)
        self._reader: KafkaReader | None = None

    def fields_given(self, output: str = "") -> FieldNames:
        return fields_of("gap" if output == GAPS else self.kind)

    def _check_choices(self) -> None:
        for name, value, allowed in (
            ("until", self.until, ("end", None)),
            ("partitioned", self.partitioned, ("mmh3", None)),
            ("on_lost", self.on_lost, ("fail", "skip")),
        ):
            if value not in allowed:
                raise ConfigError(f"{name}: {value!r} is not allowed; one of: {', '.join(map(repr, allowed))}")
        if not self.topics or len(set(self.topics)) < len(self.topics):
            raise ConfigError(f"topics: {self.topics!r}: name one at least, and none twice")
        if self.batch_items < 1:
            raise ConfigError(f"batch_items: {self.batch_items} must be at least 1")

    def check(self) -> None:
        kafka = extra("confluent_kafka", "kafka", "KafkaSource")
        reach = Reach("kafka")
        consumer = make_consumer(kafka, self._reading(None), reach)
        try:
            topic_partitions(kafka, consumer, self.servers, self.topics, reach)
        finally:
            consumer.close()

    def _reading(self, own: tuple[int, int] | None) -> Reading:
        stop = self.until == "end"
        merge = self.max_delay is not None
        return Reading(
            self.servers, self.options, self.group, self.on_lost, stop, self._since, own, self.batch_items, merge
        )

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        self._ctx = ctx
        self._thread = ThreadPoolExecutor(1, f"kafka-{ctx.node}")
        self._looking: asyncio.Future[Read | None] | None = None
        self._looked_at = ctx.clock.monotonic()
        self._told = position is not None
        await self._in_thread(lambda: self._open(position))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self, position: dict[str, Any] | None) -> None:
        saved = position or {"offsets": [], "ends": []}
        known = {(topic, number): offset for topic, number, offset in saved["offsets"]}
        ends = {(topic, number): offset for topic, number, offset in saved["ends"]}
        own = (self._ctx.partition, self._ctx.partitions) if self.splittable else None
        reading = self._reading(own)
        kafka = extra("confluent_kafka", "kafka", "KafkaSource")
        reach = Reach(f"source {self._ctx.node}")
        consumer = make_consumer(kafka, reading, reach)
        try:
            mine = self._mine(topic_partitions(kafka, consumer, self.servers, self.topics, reach))
            new = [partition for partition in mine if partition not in known]
            self._offsets = {p: known[p] for p in mine if p in known}
            self._offsets |= self._beginnings(kafka, consumer, new, "earliest" if known else self.start)
        finally:
            consumer.close()
        self._reader = KafkaReader(self._ctx.node, reading, self._messages, self._offsets, ends, self._ctx.trouble)

    def _mine(self, found: list[Partition]) -> list[Partition]:
        """Of all partitions those of this task. Raises ``SourceError`` where they cannot be shared out by symbol."""
        if not self.splittable:
            return found
        partitions = self._ctx.partitions
        for topic in self.topics:
            count = sum(1 for name, _ in found if name == topic)
            if count % partitions:
                raise SourceError(
                    f"topic {topic} has {count} partitions, and the job {partitions}: partitioned='mmh3' needs a multiple"
                    " of the job's; leave it out, and feed a keyed edge"
                )
        return [(topic, number) for topic, number in found if number % partitions == self._ctx.partition]

    def _beginnings(
        self, kafka: Any, consumer: Any, partitions: list[Partition], start: str | int | datetime
    ) -> dict[Partition, int]:
        """Where to begin, as offsets: so that the first commit says it, whatever comes meanwhile."""
        places = [kafka.TopicPartition(*partition) for partition in partitions]
        if start in ("earliest", "latest"):
            side = 0 if start == "earliest" else 1
            return {p: watermarks(consumer, place)[side] for p, place in zip(partitions, places, strict=True)}
        wanted = [kafka.TopicPartition(*partition, self._since) for partition in partitions]
        try:
            found = consumer.offsets_for_times(wanted, timeout=ANSWER_SECONDS)
        except kafka.KafkaException as error:
            raise SourceError(f"kafka: looking for the offsets of {self.start}: {error.args[0].str()}") from None
        return {
            (place.topic, place.partition): place.offset if place.offset >= 0 else watermarks(consumer, place)[1]
            for place in found
        }

    async def read(self) -> Batch | None:
        reader = self._reader
        assert reader is not None
        while True:
            if not self._told:
                self._told = True
                return Batch([], self._position())
            if self._looking is None:
                self._looking = asyncio.ensure_future(self._in_thread(self._look))
            read = await asyncio.shield(
                self._looking
            )  # a look that nobody waits for goes on, and the next one takes it
            self._looking = None
            if read is not None:
                return self._batch(read)
            if reader.ended:
                return None

    def _look(self) -> Read | None:
        assert self._reader is not None
        now = self._ctx.clock.monotonic()
        if self.until is None and now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._look_for_partitions(self._reader)
        return self._reader.read()

    def _look_for_partitions(self, reader: KafkaReader) -> None:
        new = [p for p in self._mine(reader.partitions(self.topics)) if p not in self._offsets]
        if new:
            reader.open(dict.fromkeys(new, 0))
            self._offsets |= dict.fromkeys(new, 0)

    def _batch(self, read: Read) -> Batch:
        for name, n in read.counts.items():
            self._ctx.counted(name, n)
        self._offsets.update(read.offsets)
        outputs = {GAPS: list(read.gaps)} if read.gaps else {}
        return Batch(compact(read.items), self._position(), tuple(read.letters), outputs)

    def _position(self) -> dict[str, Any]:
        ends = self._reader.ends if self._reader is not None else {}
        return {
            "offsets": [[*partition, offset] for partition, offset in sorted(self._offsets.items())],
            "ends": [[*partition, offset] for partition, offset in sorted(ends.items())],
        }

    async def close(self) -> None:
        if not hasattr(self, "_thread"):
            return
        reader, self._reader = self._reader, None
        if reader is not None:
            await self._in_thread(reader.close)  # behind a look that is under way
        if self._looking is not None:
            await asyncio.gather(self._looking, return_exceptions=True)
        self._thread.shutdown(wait=False)
