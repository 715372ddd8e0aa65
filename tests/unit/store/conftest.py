"""A real server for the tests of a module, and a client of it, emptied before each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from market_data_pipeline.store.client import Client, connect
from market_data_pipeline.store.embedded import EmbeddedServer


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


@pytest.fixture
async def client(server: EmbeddedServer) -> AsyncIterator[Client]:
    connection = connect(server.url)
    await connection.flushall()
    yield connection
    await connection.aclose()
