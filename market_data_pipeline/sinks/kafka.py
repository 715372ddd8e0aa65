"""Kafka topics as a sink: at least once with a stable id on each message, or exactly once in transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from secrets import randbits
from typing import Any, ClassVar, Literal, TypeVar

from market_data_pipeline.adapters.kafka import Option, Reach, checked_options, checked_servers, checked_topic
from market_data_pipeline.adapters.serialization import Format, encoder
from market_data_pipeline.durations import Duration, wall_duration
from market_data_pipeline.errors import ConfigError, SinkError
from market_data_pipeline.extras import extra
from market_data_pipeline.frame import Frame
from market_data_pipeline.sinks.base import Sink, SinkContext
from market_data_pipeline.sinks.kafka_messages import (
    Layout,
    Messages,
    Outbox,
    messages_of,
    next_step,
    outbox_of,
)
from market_data_pipeline.sinks.kafka_producer import OWN_SETTINGS, KafkaProducer, Producing, Undelivered, make_producer

T = TypeVar("T")

OUTBOX_BYTES = 16 * 1024 * 1024
_MESSAGE_BYTES = 1_000_000
"""librdkafka's own limit of a message, where the options name no other."""


class KafkaTopic(Sink):
    """Writes each item as a message to ``topic``; in its name ``{table}`` (the default is just that) becomes ``trades``,
    ``quotes``, ``bars``, ``windows``, ``gaps``, ``events``, or ``items`` for dicts.

    ``servers``: ``host:port``, several with commas or as a list. ``format`` of the values: ``json`` (default) or
    ``msgpack``, as ``docs/wire-format.md`` says (prices and sizes in the venue's own units, times in ns). The message's key
    is the item's field ``key`` ("symbol"), its timestamp ``ts_event`` in ms (a bar's ``ts_open`` where it has no label).
    Headers: ``mdp-kind``, ``mdp-schema``, ``mdp-node``, ``mdp-job``, and ``mdp-id``: 128 bits (MurmurHash3, hex) of the
    value. ``partitioner``: ``mmh3`` (default: the job's own hash of the key, modulo the topic's partitions), or ``murmur2``
    as in Java. ``options``: of librdkafka (``security.protocol``, ``sasl.password``, ``compression.type`` (``lz4``), ...);
    secrets are hidden.

    Guarantee: at least once, by an idempotent producer with ``acks=all`` that is flushed before each commit. After a crash
    messages since the last commit come again, perhaps in other batches, with the same ``mdp-id``: consumers that drop an id
    they know have each record once. Two records that are equal in every field have one id.

    ``transactional=True``: exactly once for consumers that read committed. The messages of a step are part of the job's
    commit (compressed, at most ``outbox_bytes``; a larger step is refused); then they go out in one transaction with a mark
    (an offset of the group ``mdp-<job>-<node>-<partition>``), by which a new owner sees whether they went. Consumers see
    them when the commit is done. Kafka forgets marks of idle groups (``offsets.retention.minutes``, 7 days): a job that
    crashed between commit and transaction and stands still for longer sends its last step again. Older Kafka than 2.5 is
    not supported.

    Retried: everything, by the client for ``timeout`` ("30s"), then by the task, which loads again (``SinkError``: servers
    away, no rights, no such topic); nothing is lost. Dead letters: items without the key, that cannot be encoded, or that
    are larger than ``message.max.bytes``, and those that the servers refuse for what they are (too large, invalid), each of
    which was tried alone; in a transaction the latter is a ``SinkError``. Needs the extra ``kafka``.
    """

    accepts: ClassVar[Literal["any"]] = "any"

    def __init__(  # noqa: PLR0913 - where and how; all but the first two by keyword
        self,
        servers: str | Sequence[str],
        topic: str = "{table}",
        *,
        format: Format = "json",  # noqa: A002 - as in Python's own words
        key: str = "symbol",
        transactional: bool = False,
        partitioner: Literal["mmh3", "murmur2"] = "mmh3",
        timeout: Duration = "30s",
        outbox_bytes: int = OUTBOX_BYTES,
        options: Mapping[str, Option] | None = None,
    ) -> None:
        extra("confluent_kafka", "kafka", "KafkaTopic")
        self.servers, self.topic = checked_servers(servers), topic
        checked_topic(topic.replace("{table}", "trades"))
        self.format, self.key, self.transactional, self.partitioner = format, key, transactional, partitioner
        self.timeout = wall_duration(timeout, "timeout")
        self.outbox_bytes = outbox_bytes
        taken = [*OWN_SETTINGS, "transactional.id", "message.timeout.ms", "delivery.timeout.ms", "partitioner"]
        self.options = checked_options(options, taken)
        if partitioner not in ("mmh3", "murmur2"):
            raise ConfigError(f"partitioner: {partitioner!r} is not allowed; one of: mmh3, murmur2")
        if outbox_bytes < 1:
            raise ConfigError(f"outbox_bytes: {outbox_bytes} must be at least 1")
        self._encoder = encoder(format)
        self._frames: list[Frame] = []
        self._producer: KafkaProducer | None = None
        self._thread: ThreadPoolExecutor | None = None

    def destination(self) -> str:
        return f"kafka {self.servers}, topic {self.topic}"

    def check(self) -> None:
        kafka = extra("confluent_kafka", "kafka", "KafkaTopic")
        reach = Reach("kafka")
        producer = make_producer(kafka, self._producing(""), reach)
        fixed = () if "{table}" in self.topic else (self.topic,)
        try:
            found = producer.list_topics(*fixed, timeout=min(self.timeout / 1e9, 10.0))
        except kafka.KafkaException as error:
            producer.poll(0)
            raise SinkError(f"kafka {self.servers}: {reach.why or error.args[0].str()}") from None
        for name in fixed:
            if found.topics[name].error is not None:
                raise SinkError(f"kafka {self.servers}: topic {name}: {found.topics[name].error.str()}")

    def _producing(self, transactional_id: str) -> Producing:
        return Producing(self.servers, self.options, self.timeout / 1e9, self.partitioner == "mmh3", transactional_id)

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self._ctx = ctx
        self._thread = ThreadPoolExecutor(1, f"kafka-{ctx.node}")
        own = f"mdp-{ctx.job}-{ctx.node}-{ctx.partition}" if self.transactional else ""
        headers = [("mdp-node", ctx.node.encode()), ("mdp-job", ctx.job.encode())]
        self._outbox: Outbox | None = outbox_of(state) if state is not None else None
        self._producer = KafkaProducer(ctx.node, self._producing(own), headers)
        most = int(str(self.options.get("message.max.bytes", _MESSAGE_BYTES)))
        self._layout = Layout(self.topic, self.key, self._encoder, most, ctx.reject)
        if self.transactional:
            await self._in_thread(self._take_over)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """``work`` in the sink's own thread; when nobody waits for it any more, it is told to give up."""
        assert self._thread is not None
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except asyncio.CancelledError:
            if self._producer is not None:
                self._producer.give_up()
            raise

    def _take_over(self) -> None:
        producer, outbox = self._producer, self._outbox
        assert producer is not None
        producer.fence()
        mark = producer.mark(outbox.marker_topic) if outbox is not None and outbox.groups else None
        if outbox is not None and next_step(outbox, mark) == "send":
            producer.send_once(outbox)

    async def write(self, frames: Sequence[Frame]) -> None:
        self._frames += frames

    async def prepare(self, ended: bool) -> Any | None:
        frames, self._frames = self._frames, []
        rejected: list[tuple[Any, str]] = []
        layout = self._layout._replace(reject=lambda item, reason: rejected.append((item, reason)))
        groups = await self._in_thread(lambda: messages_of(frames, layout)) if frames else []
        state: dict[str, Any] | None = None
        if self.transactional:
            state = await self._in_thread(lambda: self._outboxed(groups))
        else:
            await self._delivered(groups)
        for item, reason in rejected:
            self._ctx.reject(item, reason)
        return state

    async def _delivered(self, groups: list[Messages]) -> None:
        producer = self._producer
        assert producer is not None
        if groups:
            for one in await self._in_thread(lambda: producer.send(groups)):
                self._reject(groups[one.group], one)

    def _reject(self, group: Messages, refused: Undelivered) -> None:
        self._ctx.reject(self._shown(group, refused.at), f"topic {group.topic}: {refused.reason}")

    def _shown(self, group: Messages, at: int) -> Any:
        return {"key": group.keys[at].decode(), "value": group.values[at].decode(errors="replace")[:10_000]}

    def _outboxed(self, groups: list[Messages]) -> dict[str, Any]:
        assert self._producer is not None
        self._producer.ask({group.topic for group in groups})  # what is committed must be sent: better refused before
        topic = groups[0].topic if groups else ""
        self._outbox = Outbox(randbits(62), topic, groups)
        state = self._outbox.state()
        if len(state["messages"]) > self.outbox_bytes:
            raise SinkError(
                f"topic {self.topic}: {sum(len(g.values) for g in groups)} messages of one step take"
                f" {len(state['messages'])} bytes in its commit; outbox_bytes allows {self.outbox_bytes}: raise it, or make"
                " steps smaller (MDP_COMMIT_ITEMS)"
            )
        return state

    async def committed(self) -> None:
        outbox, producer = self._outbox, self._producer
        if self.transactional and outbox is not None and outbox.groups:
            assert producer is not None
            await self._in_thread(lambda: producer.send_once(outbox))
            self._outbox = None

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if producer is not None:
            producer.give_up()
            await asyncio.get_running_loop().run_in_executor(thread, producer.close)
        thread.shutdown(wait=False)
