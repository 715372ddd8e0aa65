"""Places for Parquet and Redis in the bench of sinks: each makes fresh places one after another, as a context manager.

``PLACES`` goes beside the bench's own: name -> (what makes places, which records are measured).
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from market_data_pipeline import ParquetFiles, RedisLatest, RedisOutput, Sink
from market_data_pipeline.store.client import connect_blocking
from market_data_pipeline.store.embedded import EmbeddedServer

Place = Callable[[], AbstractContextManager[Sink]]


@contextmanager
def parquet() -> Iterator[Place]:
    """A fresh folder each time. Staging and sorting count: the last step ends the files."""

    @contextmanager
    def place() -> Iterator[Sink]:
        with tempfile.TemporaryDirectory() as folder:
            yield ParquetFiles(folder)

    yield place


def _on_redis(make: Callable[[str], Sink]) -> Callable[[], AbstractContextManager[Place]]:
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


PLACES = {
    "parquet": (parquet, ("bars", "trades")),
    "redis-output": (_on_redis(RedisOutput), ("trades",)),
    "redis-latest": (_on_redis(RedisLatest), ("trades",)),
}
