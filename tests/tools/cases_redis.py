"""The output stream in the suite of all sinks, on a real server with an append-only file. In an outage the server is killed.

``RedisLatest`` keeps one trade per symbol, where the suite wants to read them all: its own tests are beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from market_data_pipeline import RedisOutput, Sink
from market_data_pipeline.store.client import connect_blocking
from market_data_pipeline.store.embedded import EmbeddedServer

STREAM = "out:trades"


class RedisOutputCase:
    keyed, exactly_once = False, True

    def __init__(self, folder: Path) -> None:
        self.server = EmbeddedServer(folder / "redis")
        self.server.start()

    def sink(self) -> Sink:
        return RedisOutput(self.server.url)

    def expression(self) -> str:
        return f"RedisOutput({self.server.url!r})"

    def read(self) -> list[Any]:
        with connect_blocking(self.server.url) as client:
            entries = cast("list[Any]", client.xrange(STREAM))
        rows = [json.loads(fields[b"data"]) for _, fields in entries]
        return [(row["symbol"], row["trade_id"], row["price"], row["ts_event"]) for row in rows]

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.server.kill()
        try:
            yield
        finally:
            self.server.start()

    def spoil(self) -> str | None:
        return None

    def close(self) -> None:
        self.server.stop()


def make_redis_output(folder: Path) -> RedisOutputCase:
    return RedisOutputCase(folder)
