"""Kafka topics in the suite of all sinks. An outage: the broker is there and answers nobody."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from secrets import token_hex
from typing import Any

import orjson

from market_data_pipeline import KafkaTopic, Sink
from tools.broker import shared_broker

_SHORT, _LONG = "2s", "30s"
"""For a broker that is away on purpose, and for one that is only slow because the machine is busy."""


class KafkaTopicCase:
    """A fresh topic of the shared broker. At least once: after a crash messages come again."""

    keyed = False
    exactly_once = False
    transactional = False

    def __init__(self, folder: Path) -> None:
        self._broker = shared_broker()
        self._topic = f"trades-{token_hex(6)}"
        self._broker.create(self._topic, partitions=4)

    def sink(self) -> Sink:
        return KafkaTopic(
            self._broker.servers, self._topic, transactional=self.transactional, timeout=_SHORT
        )  # fmt: skip

    def expression(self) -> str:
        return (
            f"KafkaTopic({self._broker.servers!r}, {self._topic!r}, transactional={self.transactional},"
            f" timeout={_LONG!r})"
        )

    def read(self) -> list[Any]:
        found = [orjson.loads(message.value()) for message in self._broker.read(self._topic)]
        return [(row["symbol"], row["trade_id"], row["price"], row["ts_event"]) for row in found]

    def outage(self) -> AbstractContextManager[None]:
        return self._broker.suspended()

    def spoil(self) -> str | None:
        return None

    def close(self) -> None:
        """The topic goes with the broker."""


class KafkaTransactionsCase(KafkaTopicCase):
    """The same in transactions, read as by consumers that read committed."""

    exactly_once = True
    transactional = True


def make_kafka(folder: Path) -> KafkaTopicCase:
    return KafkaTopicCase(folder)


def make_kafka_transactions(folder: Path) -> KafkaTransactionsCase:
    return KafkaTransactionsCase(folder)
