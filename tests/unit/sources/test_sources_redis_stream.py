"""Redis streams as a source, against a real server."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from market_data_pipeline import Columns, Gap, RedisStreamSource, Trade
from market_data_pipeline.adapters.serialization import encoder
from market_data_pipeline.errors import ConfigError, SourceError
from market_data_pipeline.frame import to_rows
from market_data_pipeline.sources.base import Batch, SourceContext
from market_data_pipeline.store.client import connect_blocking
from market_data_pipeline.store.embedded import EmbeddedServer


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Any]:
    with connect_blocking(server.url) as made:
        made.flushall()
        yield made


class Reading:
    """A source that is open, and what it counted."""

    def __init__(self, source: RedisStreamSource) -> None:
        self.source, self.counts = source, Counter[str]()

    async def open(self, position: Any = None) -> Reading:
        def counted(name: str, n: int = 1) -> None:
            self.counts[name] += n

        self.source.check()
        await self.source.open(SourceContext("in", counted=counted), position)
        return self

    async def batches(self) -> list[Batch]:
        """All up to the end."""
        found = []
        while (batch := await self.source.read()) is not None:
            found.append(batch)
        return found


@pytest.fixture
async def opened(server: EmbeddedServer) -> AsyncIterator[Any]:
    readings: list[Reading] = []

    async def make(*streams: str, position: Any = None, **given: Any) -> Reading:
        reading = Reading(RedisStreamSource(server.url, streams, **{"until": "end", **given}))
        readings.append(reading)
        return await reading.open(position)

    yield make
    for reading in readings:
        await reading.source.close()


def trade(i: int) -> Trade:
    return Trade(f"S{i % 3}", i * 1_000_000, 0, 100 + i / 4, 1.0, "buy", f"t{i}")


def add(client: Any, stream: str, *numbers: int, field: str | None = None) -> None:
    for i in numbers:
        fields: dict[str, Any] = {k: v for k, v in trade(i)._asdict().items() if v != ""}
        if field is not None:
            fields = {field: encoder("json").encode(trade(i))}
        client.xadd(stream, fields, id=f"{i + 1}-0")


def rows(batches: list[Batch]) -> list[Any]:
    return [row for batch in batches for row in to_rows(batch.items)]


@pytest.mark.parametrize("field", [None, "data"])
async def test_entries_become_records_in_columns(client: Any, opened: Any, field: str | None) -> None:
    add(client, "s", *range(20), field=field)
    reading = await opened("s", field=field)
    batches = await reading.batches()
    assert batches[0].items == [], "the first batch says where it begins"
    assert isinstance(batches[1].items, Columns)
    assert rows(batches) == [trade(i) for i in range(20)]


async def test_a_resume_at_any_batch_gives_exactly_the_rest(client: Any, opened: Any) -> None:
    add(client, "a", *range(0, 30, 2))
    add(client, "b", *range(1, 30, 2))
    batches = await (await opened("a", "b", batch_items=4)).batches()
    whole = rows(batches)
    assert whole == [trade(i) for i in range(30)], "streams are read in step by event time"
    for at, batch in enumerate(batches):
        rest = await (await opened("a", "b", batch_items=7, position=batch.position)).batches()
        assert rows(batches[: at + 1]) + rows(rest) == whole


async def test_latest_is_where_the_stream_was_when_it_was_first_looked_at(client: Any, opened: Any) -> None:
    add(client, "s", 0, 1)
    reading = await opened("s", start="latest", until=None)
    first = await reading.source.read()
    add(client, "s", 2)
    second = await reading.source.read()
    assert (first.items, rows([second])) == ([], [trade(2)])
    again = await opened("s", start="latest", position=first.position)
    assert rows(await again.batches()) == [trade(2)]


async def test_an_id_to_start_behind(client: Any, opened: Any) -> None:
    add(client, "s", *range(5))
    assert rows(await (await opened("s", start="3-0")).batches()) == [trade(3), trade(4)]


async def test_bad_entries_are_dead_letters(client: Any, opened: Any) -> None:
    add(client, "s", 0)
    client.xadd("s", {"symbol": "A", "ts_event": "soon", "price": 1, "size": 1}, id="5-0")
    client.xadd("s", {"symbol": b"\xff"}, id="6-0")
    client.xadd("s", {"other": 1}, id="7-0")
    add(client, "s", 7)
    batches = await (await opened("s")).batches()
    letters = [letter for batch in batches for letter in batch.rejected]
    assert rows(batches) == [trade(0), trade(7)]
    assert [letter.where for letter in letters] == ["s:5-0", "s:6-0", "s:7-0"]
    assert [letter.reason.split(":")[0] for letter in letters] == ["ts_event", "not UTF-8", "symbol"]
    (missing,) = [x for b in await (await opened("s", field="data")).batches() for x in b.rejected][:1]
    assert missing.reason == "no field 'data'"


async def test_trimmed_entries_end_the_job(client: Any, opened: Any) -> None:
    add(client, "s", *range(10))
    position = (await (await opened("s", batch_items=4)).batches())[1].position
    client.xtrim("s", maxlen=3, approximate=False)
    with pytest.raises(SourceError, match=r"stream s at .*: 3 entries behind 4-0 were trimmed before they were read"):
        await (await opened("s", position=position)).batches()
    reading = await opened("s", position=position, on_lost="skip")
    batches = await reading.batches()
    assert rows(batches) == [trade(7), trade(8), trade(9)]
    assert [gap for batch in batches for gap in batch.outputs.get("gaps", [])] == [Gap("s", 5, 7, 3, 0)]
    assert reading.counts == {"lost": 3}


async def test_a_stream_made_anew(client: Any, opened: Any) -> None:
    add(client, "s", *range(10))
    position = (await (await opened("s")).batches())[-1].position
    client.delete("s")
    add(client, "s", 2)
    with pytest.raises(
        SourceError, match="it was made anew, or its server rolled back: 10-0 was read, its last is 3-0"
    ):
        await (await opened("s", position=position)).batches()
    assert rows(await (await opened("s", position=position, on_lost="skip")).batches()) == [trade(2)]


async def test_a_stream_that_is_not_there_yet_is_waited_for(client: Any, opened: Any) -> None:
    reading = await opened("later", until=None)
    assert (await reading.source.read()).items == []
    add(client, "later", 1)
    assert rows([await reading.source.read()]) == [trade(1)]


async def test_a_server_that_was_away(opened: Any, server: EmbeddedServer, client: Any, caplog: Any) -> None:
    with EmbeddedServer() as other:
        source = RedisStreamSource(other.url, "s")
        await source.open(SourceContext("in"), None)
        assert (await source.read()).items == []  # type: ignore[union-attr]
        other.stop()
        other.start()
        with connect_blocking(other.url) as again:
            add(again, "s", 1)
            assert rows([await source.read()]) == [trade(1)]  # type: ignore[list-item]
        await source.close()


def test_choices(client: Any, server: EmbeddedServer) -> None:
    with pytest.raises(ConfigError, match="start: 'soon' is not allowed"):
        RedisStreamSource(server.url, "s", start="soon")
    with pytest.raises(ConfigError, match="name one at least"):
        RedisStreamSource(server.url, [])
    with pytest.raises(ConfigError, match="cluster"):
        RedisStreamSource("redis+cluster://h", "s")
    client.set("text", "x")
    with pytest.raises(SourceError, match="text is a string, not a stream"):
        RedisStreamSource(server.url, "text").check()
    hidden = RedisStreamSource("redis://:canary@127.0.0.1:1/0", "s")
    assert "canary" not in repr(hidden.config()) + repr(vars(hidden))
    with pytest.raises(SourceError, match="cannot be reached") as away:
        hidden.check()
    assert "canary" not in str(away.value)
