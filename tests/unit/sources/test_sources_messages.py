"""Messages of a bus as records, and why some are none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgpack
import orjson
import pytest

from market_data_pipeline import Quote, Trade
from market_data_pipeline.adapters.serialization import encoder
from market_data_pipeline.errors import ConfigError, RecordError
from market_data_pipeline.sources.messages import MessageReader, moment_ns, time_of

TRADE = Trade("A", 1_000, 7, 1.5, 2.0, "buy", 9)


def reader(kind: str = "trade", format: Any = "json", **given: Any) -> MessageReader:  # noqa: A002 - as the parameter
    return MessageReader(kind, format, given.get("columns"), given.get("time_unit", "ns"), given.get("symbol"))


@pytest.mark.parametrize("fmt", ["json", "msgpack"])
def test_what_our_encoders_write(fmt: Any) -> None:
    messages = [encoder(fmt).encode(trade) for trade in (TRADE, TRADE._replace(side="", trade_id="x"))]
    assert reader(format=fmt).read(messages) == [TRADE, TRADE._replace(side="", trade_id="x")]
    assert reader("rows", fmt).read(messages[:1]) == [TRADE], "rows: whatever the messages hold"


@pytest.mark.parametrize(("fmt", "dump"), [("json", orjson.dumps), ("msgpack", msgpack.packb)])
def test_objects_of_others_are_mapped(fmt: Any, dump: Any) -> None:
    given = dump({"T": 5, "p": "1.25", "q": 2, "kind": "trade"})
    columns = {"ts_event": "T", "price": "p", "size": "q"}
    (found,) = reader(format=fmt, columns=columns, time_unit="ms", symbol="XY").read([given])
    assert found == Trade("XY", 5_000_000, 0, 1.25, 2.0)


def test_bad_messages_cost_their_neighbours_nothing() -> None:
    good = encoder("json").encode(TRADE)
    quote = encoder("json").encode(Quote("A", 1, 2, 1.0, 1.0, 2.0, 1.0))
    found = reader().read([good, b"{", quote, b"[1]", b'{"kind": "trade", "symbol": "A"}', b'{"symbol": "A"}', good])
    assert found[0] == found[-1] == TRADE
    reasons = [str(one) for one in found[1:-1]]
    assert all(isinstance(one, RecordError) for one in found[1:-1])
    assert "not valid JSON" in reasons[0]
    assert reasons[1] == "a quote, not a trade"
    assert reasons[2] == "a list, not a trade"
    assert "ts_event" in reasons[3]
    assert reasons[4] == "ts_event: missing"


def test_a_function_decodes() -> None:
    def split(message: bytes) -> Any:
        symbol, price = message.decode().split(",")
        return {"symbol": symbol, "ts_event": 1, "price": price, "size": 1}

    found = reader(format=split).read([b"A,2.5", b"nonsense"])
    assert found[0] == Trade("A", 1, 0, 2.5, 1.0)
    assert str(found[1]).startswith("ValueError: not enough values")


def test_bad_bytes_in_msgpack() -> None:
    found = reader(format="msgpack", symbol="A").read([b"\xc1", b"\xdd\xff\xff\xff\xff", b""])
    assert all(isinstance(one, RecordError) for one in found)


def test_choices() -> None:
    with pytest.raises(ConfigError, match="format: 'xml' is not allowed; one of: json, msgpack, or a function"):
        reader(format="xml")
    with pytest.raises(ConfigError, match="kind: 'tick'"):
        reader("tick")


@pytest.mark.parametrize(
    ("given", "ns"),
    [
        ("2024-01-02T00:00:00", 1_704_153_600_000_000_000),
        ("2024-01-02T01:00:00+01:00", 1_704_153_600_000_000_000),
        (datetime(2024, 1, 2, tzinfo=UTC), 1_704_153_600_000_000_000),
        (5, 5),
    ],
)
def test_moments(given: Any, ns: int) -> None:
    assert moment_ns(given, "start") == ns


def test_a_moment_that_is_none() -> None:
    with pytest.raises(ConfigError, match="start: 'yesterday' is no time"):
        moment_ns("yesterday", "start")


def test_times_of_items() -> None:
    assert time_of(TRADE) == 1_000
    assert time_of({"ts_event": 3}) == 3
    assert time_of({"ts_event": "3"}) is None
    assert time_of("text") is None
