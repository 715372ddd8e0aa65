"""Where the bench of sinks writes to: each makes fresh places one after another, as a context manager."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from market_data_pipeline import (
    CsvFiles,
    JsonLines,
    KafkaTopic,
    ParquetFiles,
    PostgresStore,
    RedisLatest,
    RedisOutput,
    Sink,
    SqliteStore,
)
from market_data_pipeline.store.client import connect_blocking
from market_data_pipeline.store.embedded import EmbeddedServer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from tools.broker import Broker
from tools.postgres import PostgresServer

Place = Callable[[], AbstractContextManager[Sink]]
Places = Callable[[], AbstractContextManager[Place]]


@contextmanager
def postgres() -> Iterator[Place]:
    """A server; each place is a fresh database of it."""
    server = PostgresServer()
    server.start()

    @contextmanager
    def place() -> Iterator[Sink]:
        with server.database() as url:
            yield PostgresStore(url)

    try:
        yield place
    finally:
        server.stop()


def _in_folder(make: Callable[[Path], Sink]) -> Places:
    """A fresh folder each time."""

    @contextmanager
    def places() -> Iterator[Place]:
        @contextmanager
        def place() -> Iterator[Sink]:
            with tempfile.TemporaryDirectory() as folder:
                yield make(Path(folder))

        yield place

    return places


def _on_kafka(**given: object) -> Places:
    """A fresh broker each time."""

    @contextmanager
    def places() -> Iterator[Place]:
        @contextmanager
        def place() -> Iterator[Sink]:
            with Broker() as broker:
                broker.create("trades")
                yield KafkaTopic(broker.servers, "trades", **given)

        yield place

    return places


def _on_redis(make: Callable[[str], Sink]) -> Places:
    @contextmanager
    def places() -> Iterator[Place]:
        with EmbeddedServer() as server:

            @contextmanager
            def place() -> Iterator[Sink]:
                with connect_blocking(server.url) as client:
                    client.flushall()
                yield make(server.url)

            yield place

    return places


PLACES: dict[str, tuple[Places, tuple[str, ...]]] = {
    "postgres": (postgres, ("bars", "trades")),
    "sqlite": (_in_folder(lambda folder: SqliteStore(folder / "store.sqlite")), ("bars", "trades")),
    "parquet": (_in_folder(ParquetFiles), ("bars", "trades")),
    "json-lines": (_in_folder(JsonLines), ("trades",)),
    "csv": (_in_folder(CsvFiles), ("trades",)),
    "kafka": (_on_kafka(), ("trades",)),
    "kafka-msgpack": (_on_kafka(format="msgpack"), ("trades",)),
    "kafka-transactions": (_on_kafka(transactional=True), ("trades",)),
    "redis-output": (_on_redis(RedisOutput), ("trades",)),
    "redis-latest": (_on_redis(RedisLatest), ("trades",)),
}
"""By name: what makes places, and which records are measured."""
