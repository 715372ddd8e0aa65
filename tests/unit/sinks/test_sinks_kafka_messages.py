"""Items as Kafka messages, and what of them a new owner sends: no client, no broker."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from market_data_pipeline import Bar, Columns, Frame, Gap, KafkaSource, KafkaTopic, Trade
from market_data_pipeline.adapters.kafka import checked_options, client_settings
from market_data_pipeline.adapters.serialization import decoder, encoder
from market_data_pipeline.errors import ConfigError, CorruptState
from market_data_pipeline.frame import columns_from_rows
from market_data_pipeline.sinks.kafka_messages import (
    Layout,
    Messages,
    Outbox,
    message_id,
    messages_of,
    next_step,
    outbox_of,
)

NS = 1_700_000_000_123_456_789
TRADES = [Trade("A", NS, 0, 1.5, 2.0, "buy", 1), Trade("Bé", NS + 1_000_000, 0, 2.5, 1.0, "", 2)]


def layout(rejected: list[Any], topic: str = "{table}", key: str = "symbol", most: int = 1_000_000) -> Layout:
    return Layout(topic, key, encoder("json"), most, lambda item, reason: rejected.append((item, reason)))


@pytest.mark.parametrize("as_columns", [False, True])
def test_records_are_keyed_timed_and_named_by_table(as_columns: bool) -> None:
    rejected: list[Any] = []
    items: Any = columns_from_rows(TRADES)[0] if as_columns else [TRADES]  # a batcher's list
    (made,) = messages_of([Frame(items)], layout(rejected))
    assert made.topic == "trades"
    assert made.kind == "trade"
    assert made.keys == [b"A", "Bé".encode()]
    assert made.times == [NS // 1_000_000, NS // 1_000_000 + 1]
    assert [decoder("json").decode(value) for value in made.values] == TRADES
    assert rejected == []


def test_rows_and_columns_have_the_same_ids() -> None:
    (rows,), (columns,) = (
        messages_of([Frame(items)], layout([])) for items in (list(TRADES), columns_from_rows(TRADES)[0])
    )
    assert list(map(message_id, rows.values)) == list(map(message_id, columns.values))
    assert len(set(map(message_id, rows.values))) == 2
    assert message_id(b"x") == message_id(b"x") != message_id(b"y")
    assert len(message_id(b"")) == 32


def test_mixed_kinds_keep_their_order() -> None:
    gap = Gap("A", 1, 2, 2, NS)
    made = messages_of([Frame([TRADES[0], gap, TRADES[1]])], layout([]))
    assert [(one.topic, len(one.values)) for one in made] == [("trades", 1), ("gaps", 1), ("trades", 1)]


def test_a_bar_without_a_label_is_timed_by_its_opening() -> None:
    bar = Bar("A", 60_000_000_000, 120_000_000_000, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1)
    for items in ([bar], columns_from_rows([bar])[0]):
        (made,) = messages_of([Frame(items)], layout([]))
        assert made.times == [60_000]


def test_bad_items_are_rejected_and_cost_their_neighbours_nothing() -> None:
    rejected: list[Any] = []
    odd: list[Any] = [{"symbol": "A", "v": 1}, {"v": 2}, {"symbol": "A", "v": {1, 2}}, {"symbol": "A", "v": "x" * 2000}]
    (made,) = messages_of([Frame([*odd, object()])], layout(rejected, topic="any", most=2_000))
    assert [orjson.loads(value) for value in made.values][:1] == [{"symbol": "A", "v": 1}]
    reasons = [reason for _, reason in rejected]
    assert reasons[:2] == ["no field 'symbol' to key the message by"] * 2
    assert any("over message.max.bytes, 2000" in reason for reason in reasons)
    assert messages_of([Frame([{"symbol": "A"}])], layout(rejected))[0].topic == "items"


def test_another_key() -> None:
    for items in (TRADES, columns_from_rows(TRADES)[0]):
        (made,) = messages_of([Frame(items)], layout([], key="trade_id"))
        assert made.keys == [b"1", b"2"]


def test_columns_that_are_no_record() -> None:
    data = columns_from_rows(TRADES)[0].data
    (made,) = messages_of([Frame(Columns("", {"symbol": data["symbol"], "price": data["price"]}))], layout([], "t"))
    assert (made.kind, made.times) == ("", [0, 0])
    assert orjson.loads(made.values[0]) == {"symbol": "A", "price": 1.5}


GROUPS = [Messages("t", "trade", [b"A"], [b"v" * 100], [5])]


def test_an_outbox_comes_back_from_the_commit() -> None:
    for groups in ([], GROUPS):
        outbox = Outbox(2**61 + 1, "t", groups)
        assert outbox_of(outbox.state()) == outbox
    with pytest.raises(CorruptState, match="cannot be read"):
        outbox_of({**Outbox(1, "t", GROUPS).state(), "messages": b"nonsense"})


@pytest.mark.parametrize(
    ("outbox", "mark", "step"),
    [
        (None, None, "nothing"),
        (Outbox(7, "t", []), None, "nothing"),
        (Outbox(7, "t", GROUPS), None, "send"),
        (Outbox(7, "t", GROUPS), 6, "send"),
        (Outbox(7, "t", GROUPS), 8, "send"),  # of a commit that a server which was rolled back does not know
        (Outbox(7, "t", GROUPS), 7, "nothing"),
    ],
)
def test_what_a_new_owner_does(outbox: Outbox | None, mark: int | None, step: str) -> None:
    assert next_step(outbox, mark) == step


def test_secrets_show_nowhere() -> None:
    options: Any = {"sasl.password": "canary", "ssl.key.password": SecretStr("canary"), "sasl.username": "me"}
    for component in (KafkaTopic("b:1", options=options), KafkaSource("b:1", "t", options=options)):
        assert "canary" not in repr(component.config())
        assert "canary" not in repr(vars(component))
        assert component.config()["options"]["sasl.username"] == "me"
    revealed = client_settings("b:1", checked_options(options, []), {"acks": "all"})
    assert revealed["sasl.password"] == revealed["ssl.key.password"] == "canary"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"servers": " , "}, "servers: ' , ' names none"),
        ({"topic": "a b"}, "topic: 'a b' is not allowed"),
        ({"options": {"acks": 1}}, "options: 'acks' is set by the connector itself"),
        ({"options": {"linger.ms": None}}, "options: 'linger.ms': text, a number"),
        ({"partitioner": "crc"}, "partitioner: 'crc' is not allowed"),
        ({"format": "xml"}, "format: 'xml' is not allowed"),
        ({"outbox_bytes": 0}, "outbox_bytes: 0 must be at least 1"),
    ],
)
def test_choices_of_the_sink(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        KafkaTopic(**{"servers": "b:1", **given})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"until": "now"}, "until: 'now' is not allowed"),
        ({"partitioned": "crc"}, "partitioned: 'crc' is not allowed"),
        ({"on_lost": "ignore"}, "on_lost: 'ignore' is not allowed"),
        ({"topics": ["t", "t"]}, "name one at least, and none twice"),
        ({"batch_items": 0}, "batch_items: 0 must be at least 1"),
        ({"start": "soon"}, "start: 'soon' is no time"),
        ({"options": {"isolation.level": "read_uncommitted"}}, "is set by the connector itself"),
    ],
)
def test_choices_of_the_source(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        KafkaSource(**{"servers": "b:1", "topics": "t", **given})
