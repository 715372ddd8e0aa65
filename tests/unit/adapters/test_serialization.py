"""JSON and msgpack: what goes in comes out, other readers agree, and what is broken is told by field and value."""

from __future__ import annotations

import io
import json
import math
from decimal import Decimal
from typing import Any

import msgpack
import numpy as np
import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline import JsonDecoder, JsonEncoder, MsgpackDecoder, MsgpackEncoder
from market_data_pipeline.adapters.serialization import FORMATS, Decoder, Encoder, decoder, encoder
from market_data_pipeline.errors import ConfigError, RecordError
from market_data_pipeline.frame import Columns, columns_from_rows, compact, to_rows
from market_data_pipeline.records import MAX_TIME, MIN_TIME, Bar, FeedEvent, Gap, Quote, Trade, Window

FAST = settings(max_examples=60, deadline=None, derandomize=True)
TIMES = st.integers(MIN_TIME, MAX_TIME)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
IDS = st.one_of(st.integers(MIN_TIME, 2**64 - 1), TEXT)
SIDES = st.sampled_from(["", "buy", "sell"])
DECIMALS = st.from_regex(r"\A[+-]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,2})?\Z")
JSON_NUMBERS = st.from_regex(r"\A-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?\Z")
COUNTS = st.integers(0, 2**40)
LAST = (
    st.sampled_from(["", "@"]),
    st.sampled_from(["new", "cancel"]),
    IDS,
    TEXT,
    st.sampled_from(["live", "snapshot"]),
)


def trades(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Trade]:
    return st.builds(Trade, TEXT, TIMES, TIMES, numbers, numbers, SIDES, IDS, *LAST)


def quotes(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Quote]:
    return st.builds(Quote, TEXT, TIMES, TIMES, numbers, numbers, numbers, numbers, IDS, TEXT, LAST[-1])


def bars(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Bar]:
    return st.builds(
        Bar, TEXT, TIMES, TIMES, *[numbers] * 6, COUNTS, TIMES, numbers, numbers, COUNTS, st.booleans(), st.booleans()
    )


GAPS = st.builds(Gap, TEXT, TIMES, TIMES, COUNTS, TIMES)
EVENTS = st.builds(FeedEvent, TEXT, TEXT, TEXT, TIMES, TEXT)
WINDOWS = st.builds(
    Window, st.one_of(TEXT, COUNTS), TIMES, TIMES, st.lists(trades(FLOATS), max_size=3), COUNTS, st.booleans()
)
RECORDS = st.one_of(trades(FLOATS), quotes(FLOATS), bars(FLOATS), GAPS, EVENTS, WINDOWS)
TRADE = Trade("A", 1, 2, 3.5, 4.0, "buy", 7)
PAIRS = [(encoder(name), decoder(name)) for name in FORMATS]
formats = pytest.mark.parametrize(("out", "into"), PAIRS, ids=FORMATS)


@formats
@FAST
@given(items=st.lists(RECORDS, max_size=5))
def test_every_record_comes_back_as_it_was(out: Encoder, into: Decoder, items: list[Any]) -> None:
    messages = [out.encode(item) for item in items]
    back = [into.decode(message) for message in messages]
    assert back == items
    assert [type(item) for item in back] == [type(item) for item in items]
    assert out.encode_all(items) == (messages, [])
    assert to_rows(into.decode_all(messages).items) == items


@formats
@FAST
@given(items=st.one_of(*(st.lists(some(FLOATS), min_size=1, max_size=8) for some in (trades, quotes, bars))))
def test_columns_are_written_as_their_rows_are_and_read_as_columns(
    out: Encoder, into: Decoder, items: list[Any]
) -> None:
    columns, bad = columns_from_rows(items)
    assert not bad
    assert out.encode_all(columns).messages == [out.encode(item) for item in items]
    back = into.decode_all([message for message in out.encode_all(columns).messages if message is not None]).items
    assert back == (columns if isinstance(compact(items), Columns) else items)
    assert to_rows(back) == items


@formats
@FAST
@given(items=st.lists(st.one_of(trades(DECIMALS), quotes(DECIMALS), bars(DECIMALS)), min_size=1, max_size=5))
def test_decimals_stay_the_text_that_was_sent(out: Encoder, into: Decoder, items: list[Any]) -> None:
    exact = type(into)(exact=True)
    messages = [out.encode(item) for item in items]
    back = exact.decode_all(messages).items
    assert isinstance(back, list)
    assert [_with_usual_text(item) for item in back] == [_with_usual_text(item) for item in items]
    for item, floats in zip(items, to_rows(into.decode_all(messages).items), strict=True):
        for value, number in zip(item, floats, strict=True):
            assert value == number or float(value) == number


def _with_usual_text(item: Any) -> Any:
    """Volumes of bars by side that are not in a message are the float 0.0."""
    return tuple(value for name, value in item._asdict().items() if name not in ("buy_volume", "sell_volume") or value)


@FAST
@given(JSON_NUMBERS)
def test_numbers_in_json_keep_the_digits_that_stand_there(number: str) -> None:
    message = f'{{"kind":"trade","symbol":"A","ts_event":1,"ts_recv":2,"price":{number},"size":"{number}"}}'.encode()
    assert JsonDecoder(exact=True).decode(message) == Trade("A", 1, 2, number, number)  # type: ignore[arg-type]
    assert JsonDecoder().decode(message) == Trade("A", 1, 2, float(number), float(number))
    plain = JsonDecoder(exact=True).decode(f'{{"n":[{number}]}}'.encode())["n"][0]
    assert plain == (number if not number.lstrip("-").isdigit() or number == "-0" else int(number))


def test_decimals_are_written_as_given() -> None:
    trade = TRADE._replace(price=Decimal("1.10"), size=Decimal("1E-8"))  # type: ignore[arg-type]
    assert json.loads(JsonEncoder().encode(trade))["price"] == "1.10"
    assert msgpack.unpackb(MsgpackEncoder().encode(trade))["size"] == "1E-8"


@FAST
@given(items=st.lists(trades(FLOATS), min_size=1, max_size=8))
def test_other_readers_read_the_same(items: list[Trade]) -> None:
    by_json = [json.loads(message or b"") for message in JsonEncoder().encode_all(compact(items)).messages]
    by_msgpack = [msgpack.unpackb(message) for message in MsgpackEncoder().encode_all(compact(items)).messages]
    for item, one, other in zip(items, by_json, by_msgpack, strict=True):
        assert one == other
        assert one.pop("kind") == "trade"
        left_out = {name: default for name, default in Trade._field_defaults.items() if name not in one}
        assert {**left_out, **one} == item._asdict()
        assert all(one[name] != default for name, default in Trade._field_defaults.items() if name in one)


def test_polars_reads_the_lines() -> None:
    rng = np.random.default_rng(1)
    items = [
        Trade(f"S{n % 3}", 1_700_000_000_000_000_000 + n, 0, float(rng.normal()), float(rng.random()), "buy", n)
        for n in range(500)
    ]
    lines = b"\n".join(message or b"" for message in JsonEncoder().encode_all(items).messages)
    table = polars.read_ndjson(io.BytesIO(lines))
    names = ["symbol", "ts_event", "ts_recv", "price", "size", "side", "trade_id"]
    assert table.select(names).rows() == [tuple(item[:7]) for item in items]


@formats
def test_plain_data_passes_as_it_is(out: Encoder, into: Decoder) -> None:
    for item in ({"a": 1, "kind": "mine", "deep": {"x": [1.5, None, True]}}, [1, "two"], "text", None, 5, {}):
        assert into.decode(out.encode(item)) == item
    assert into.decode(out.encode([TRADE, {"a": 1}])) == [TRADE, {"a": 1}]
    assert into.decode_all([out.encode({"a": 1})]) == ([{"a": 1}], [])


def test_int_as_text_writes_the_whole_numbers_of_records_as_text() -> None:
    out = JsonEncoder(int_as_text=True)
    items = [TRADE, TRADE._replace(trade_id="x")]
    for message in (out.encode(TRADE), out.encode_all(items).messages[0]):
        made = json.loads(message or b"")
        assert (made["ts_event"], made["ts_recv"], made["trade_id"], made["price"]) == ("1", "2", "7", 3.5)
    assert JsonDecoder().decode(out.encode(TRADE)) == TRADE._replace(trade_id="7")
    gap = Gap("A", 2**60, 2**60 + 1, 2, 5)
    assert json.loads(out.encode(gap))["first"] == str(2**60)
    assert JsonDecoder().decode(out.encode(gap)) == gap
    with pytest.raises(ConfigError, match="int_as_text"):
        encoder("msgpack", int_as_text=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_writes_null_for_what_it_has_no_word_for_and_msgpack_carries_it(value: float) -> None:
    trade = TRADE._replace(price=value)
    for items in ([trade], columns_from_rows([trade])[0]):
        (message,) = JsonEncoder().encode_all(items).messages
        assert b'"price":null' in (message or b"")
        assert math.isnan(JsonDecoder().decode(message or b"").price)
        assert math.isnan(JsonDecoder(exact=True).decode(message or b"").price)
        (packed,) = MsgpackEncoder().encode_all(items).messages
        assert repr(MsgpackDecoder().decode(packed or b"").price) == repr(value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"price": "1_0"}, r"trade\.price: '1_0' is not a finite number"),
        ({"price": Decimal("NaN")}, r"trade\.price: Decimal\('NaN'\)"),
        ({"price": True}, r"trade\.price: True"),
        ({"price": None}, r"trade\.price: None"),
        ({"ts_event": 2**63}, r"trade\.ts_event: 9223372036854775808 is not a whole number of 64 bits"),
        ({"ts_recv": 1.5}, r"trade\.ts_recv: 1\.5"),
        ({"symbol": 5}, r"trade\.symbol: 5 is not text"),
        ({"symbol": "\ud800"}, r"trade\.symbol: '\\ud800'"),
        ({"side": "bid"}, r"trade\.side: 'bid' is not buy, sell or empty"),
        ({"trade_id": 2**64}, r"trade\.trade_id: 18446744073709551616"),
        ({"trade_id": b"x"}, r"trade\.trade_id: b'x'"),
    ],
)
@pytest.mark.parametrize("out", [JsonEncoder(), MsgpackEncoder()])
def test_what_cannot_be_written_is_named_and_costs_nothing_else(
    out: Encoder, changed: dict[str, Any], message: str
) -> None:
    wrong = TRADE._replace(**changed)
    with pytest.raises(RecordError, match=message):
        out.encode(wrong)
    messages, refused = out.encode_all([TRADE, wrong, TRADE])
    assert messages == [out.encode(TRADE), None, out.encode(TRADE)]
    assert [(one.at, one.item) for one in refused] == [(1, wrong)]


@pytest.mark.parametrize("out", [JsonEncoder(), MsgpackEncoder()])
def test_what_is_nested_and_wrong_is_named_too(out: Encoder) -> None:
    with pytest.raises(RecordError, match=r"window\.items: trade\.side: 'bid'"):
        out.encode(Window("A", 0, 1, [TRADE._replace(side="bid")]))
    with pytest.raises(RecordError, match=r"trade\.side: 'bid'"):
        out.encode({"deep": TRADE._replace(side="bid")})
    with pytest.raises(RecordError, match="object cannot be written"):
        out.encode({"x": object()})
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecordError):
        out.encode(deep)


def spoiled(**changed: Any) -> dict[str, Any]:
    good = {"kind": "trade", "symbol": "A", "ts_event": 1, "ts_recv": 2, "price": 3.5, "size": 4.0}
    return {name: value for name, value in {**good, **changed}.items() if value is not ...}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"price": ...}, "trade.price: missing"),
        ({"symbol": None}, "trade.symbol: None is not text"),
        ({"price": "nan"}, "trade.price: 'nan' is not a finite number"),
        ({"price": "1e999"}, "trade.price: '1e999'"),
        ({"price": [1]}, "trade.price: [1]"),
        ({"price": True}, "trade.price: True"),
        ({"ts_event": 1.0}, "trade.ts_event: "),
        ({"ts_event": "1.0"}, "trade.ts_event: '1.0'"),
        ({"ts_event": 2**63}, "trade.ts_event: 9223372036854775808"),
        ({"trade_id": 1.5}, "trade.trade_id: "),
        ({"side": "bid"}, "trade.side: 'bid'"),
        ({"side": {}}, "trade.side: {}"),
        ({"phase": 5}, "trade.phase: 5 is not text"),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_what_cannot_be_read_is_named_and_costs_nothing_else(
    changed: dict[str, Any], message: str, exact: bool
) -> None:
    for into, dump in ((JsonDecoder(exact), lambda x: json.dumps(x).encode()), (MsgpackDecoder(exact), msgpack.packb)):
        wrong, good = dump(spoiled(**changed)), dump(spoiled())
        with pytest.raises(RecordError) as caught:
            into.decode(wrong)
        assert message in str(caught.value)
        items, refused = into.decode_all([good, wrong, good])
        assert to_rows(items) == [into.decode(good)] * 2
        assert [(one.at, one.item) for one in refused] == [(1, wrong)]


def test_fields_that_are_not_known_and_nulls_of_optional_ones_are_passed_over() -> None:
    assert JsonDecoder().decode(json.dumps(spoiled(more=[1], side=None)).encode()) == Trade("A", 1, 2, 3.5, 4.0)


def test_ids_and_plain_numbers_over_64_bits_are_not_rounded() -> None:
    message = json.dumps(spoiled(trade_id=10**25)).encode()
    for into in (JsonDecoder(), JsonDecoder(exact=True)):
        assert into.decode(message).trade_id == str(10**25)
        assert to_rows(into.decode_all([message]).items)[0].trade_id == str(10**25)
        assert into.decode(b'{"n":[1%s]}' % (b"0" * 25)) == {"n": [10**25]}


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{",
        b"nan",
        b"NaN",
        b'{"a":Infinity}',
        b"{} {}",
        b'"\xff"',
        b'"\\ud800"',
        b"[" * 100_000,
        b'{"a":1e999}',
        b"1" * 5000,
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_no_json_is_refused(message: bytes) -> None:
    with pytest.raises(RecordError):
        JsonDecoder().decode(message)
    if b"1e999" not in message:  # text, when read exactly
        with pytest.raises(RecordError):
            JsonDecoder(exact=True).decode(message)
    assert [one.at for one in JsonDecoder().decode_all([message, b"{}"]).refused] == [0]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\xdc\x0f\xff" * 5000,
        b"\xc1",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\x01\x01",
        b"\x81\x01\x01",
        b"\xa1\xff",
        b"\xc6\xff\xff\xff\xff",
    ],
)
def test_what_is_no_msgpack_is_refused(message: bytes) -> None:
    with pytest.raises(RecordError):
        MsgpackDecoder().decode(message)
    assert [one.at for one in MsgpackDecoder().decode_all([message, b"\x80"]).refused] == [0]


@FAST
@given(st.binary(max_size=60))
def test_any_bytes_are_an_item_or_a_record_error(message: bytes) -> None:
    for into in (JsonDecoder(), JsonDecoder(exact=True), MsgpackDecoder(), MsgpackDecoder(exact=True)):
        items, refused = into.decode_all([message])
        assert len(items) + len(refused) == 1


def test_a_message_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(RecordError, match="a message of 21 bytes is over the limit of 20"):
        decoder("json", limit=20).decode(b'"' + b"x" * 19 + b'"')
    assert decoder("json", limit=21).decode(b'"' + b"x" * 19 + b'"') == "x" * 19
    with pytest.raises(ConfigError, match="limit: 0"):
        decoder("msgpack", limit=0)


def test_an_unknown_format_is_named() -> None:
    for make in (encoder, decoder):
        with pytest.raises(ConfigError, match="format: 'xml' is not allowed; one of: json, msgpack"):
            make("xml")  # type: ignore[operator]
