"""Codec: what goes in comes out; what is broken is a CodecError; what cannot travel is handed back alone."""

import random
import struct
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.frames import encoded

from market_data_pipeline.codec import FRAME_BYTES, VERSION, decode, encode, with_mark
from market_data_pipeline.errors import CodecError
from market_data_pipeline.frame import END, NO_MARK, Columns, Dictionary, Frame, Items, columns_from_rows, to_rows
from market_data_pipeline.packing import crc32c
from market_data_pipeline.records import Bar, Quote, Trade, Window

FAST = settings(max_examples=80, deadline=None, derandomize=True)
TIMES = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
IDS = st.one_of(st.integers(-(2**63), 2**63 - 1), TEXT)
SIDES = st.sampled_from(["", "buy", "sell"])
CONDITIONS, ACTIONS = st.sampled_from(["", "@ F"]), st.sampled_from(["new", "new", "cancel"])
TRADES = st.builds(
    Trade, TEXT, TIMES, TIMES, FLOATS, FLOATS, SIDES, IDS, CONDITIONS, ACTIONS, st.one_of(st.just(""), IDS), TEXT, TEXT
)
QUOTES = st.builds(Quote, TEXT, TIMES, TIMES, FLOATS, FLOATS, FLOATS, FLOATS, IDS, TEXT, TEXT)
REVISIONS = st.integers(0, 2**40)
BARS = st.builds(
    Bar,
    TEXT,
    TIMES,
    TIMES,
    *[FLOATS] * 6,
    st.integers(0, 2**40),
    TIMES,
    FLOATS,
    FLOATS,
    REVISIONS,
    st.booleans(),
    st.booleans(),
)
KEYS = TEXT.filter(lambda key: key != "__record__")
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), FLOATS, TEXT, st.binary(max_size=8), TRADES, QUOTES
)
ITEMS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
        st.builds(Window, TEXT, TIMES, TIMES, st.lists(inner, max_size=3), REVISIONS, st.booleans()),
    ),
    max_leaves=8,
)
TRADE = Trade("A", 1, 2, 3.0, 4.0, "buy", 5)


def columns(items: list[Any]) -> Columns:
    made, bad = columns_from_rows(items)
    assert bad == []
    return made


def sealed(body: list[Any]) -> bytes:
    """An entry with a right checksum around whatever ``body`` is."""
    blob = bytes(msgpack.packb([*body, 0]))[:-1]
    return blob + b"\xce" + struct.pack(">I", crc32c(blob))


def resealed(blob: bytes) -> bytes:
    return blob[:-4] + struct.pack(">I", crc32c(blob[:-5]))


@FAST
@given(st.lists(ITEMS, max_size=8), TIMES, TIMES, TEXT)
def test_rows_survive_the_round_trip(items: list[Any], mark: int, born: int, origin: str) -> None:
    assert decode(encode(origin, Frame(items, mark, born))) == (origin, Frame(items, mark, born))


@FAST
@given(st.one_of(*(st.lists(records, min_size=1, max_size=20) for records in (TRADES, QUOTES, BARS))), TIMES)
def test_columns_survive_the_round_trip(items: list[Any], mark: int) -> None:
    frame = decode(encode("task/0", Frame(columns(items), mark))).frame
    assert isinstance(frame.items, Columns)
    assert frame.items.rows() == items
    assert [type(row) for row in frame.items.rows()] == [type(item) for item in items]
    assert frame.mark == mark


def test_nested_records_come_back_as_records() -> None:
    window = Window("A", 0, 10, [TRADE, {"best": Quote("A", 1, 2, 3.0, 4.0, 5.0, 6.0)}])
    (back,) = to_rows(decode(encode("o", Frame([window]))).frame.items)
    assert type(back) is Window
    assert type(back.items[0]) is Trade
    assert type(back.items[1]["best"]) is Quote
    assert back == window


def test_tuples_sets_and_numpy_scalars_travel_as_plain_data() -> None:
    items = [(1, (2, 3)), frozenset({4}), np.float64(1.5), np.int32(7), np.bool_(True)]
    assert to_rows(decode(encode("o", Frame(items))).frame.items) == [[1, [2, 3]], [4], 1.5, 7, True]


def test_nan_travels_bit_by_bit() -> None:
    made = columns([TRADE._replace(price=float("nan"))])
    back = decode(encode("o", Frame(made))).frame.items
    assert isinstance(back, Columns)
    assert back.array("price").tobytes() == made.array("price").tobytes()


@pytest.mark.parametrize("count", [1, 16, 17, 255, 256, 300, 65_535, 65_536])
def test_any_number_of_symbols(count: int) -> None:
    codes = np.arange(count - 1, -1, -1, dtype=np.uint32)
    names = tuple(f"S{i}" for i in range(count))
    made = Columns("", {"symbol": Dictionary(codes, names)})
    back = decode(encode("o", Frame(made)), 2**24).frame.items
    assert isinstance(back, Columns)
    assert back.dictionary("symbol").tolist() == [f"S{i}" for i in range(count - 1, -1, -1)]


def test_names_that_no_row_uses_stay_at_home() -> None:
    names = tuple(f"symbol-{i:06d}" for i in range(5000))
    blob = encode("o", Frame(Columns("", {"symbol": Dictionary(np.array([4999, 7, 4999], np.uint32), names)})))
    assert len(blob) < 200
    assert to_rows(decode(blob).frame.items) == [{"symbol": names[4999]}, {"symbol": names[7]}, {"symbol": names[4999]}]


@pytest.mark.parametrize("dtype", ["<i8", "<f8", "|i1", "<u4", "<u2", "|u1", "|b1", "<i4", "<f4"])
def test_every_allowed_column_type_travels(dtype: str) -> None:
    array = np.array([0, 1, 1, 0], dtype=dtype)
    back = decode(encode("o", Frame(Columns("", {"x": array})))).frame.items
    assert isinstance(back, Columns)
    assert back.array("x").dtype == np.dtype(dtype)
    assert back.array("x").tolist() == array.tolist()


@pytest.mark.parametrize("mark", [NO_MARK, -1, 0, 1, END])
def test_a_mark_travels_alone(mark: int) -> None:
    assert decode(with_mark("bars/3", mark, 9)) == ("bars/3", Frame([], mark, 9))


def samples() -> list[bytes]:
    trades = [Trade(f"S{i % 3}", i, i, i / 7, 1.0, "sell", f"id{i}" if i % 2 else i) for i in range(12)]
    mixed = [TRADE, {"a": [1, None, b"x"], "b": {"c": "é"}}, Window("k", 0, 5, [TRADE]), -1.5]
    batches: list[Items] = [columns(trades), mixed, [], columns([Bar("A", 0, 5, 1.0, 2.0, 0.5, 1.5, 9.0, 1.2, 4)])]
    return [encode("task/1", Frame(items, i, i)) for i, items in enumerate(batches)]


def mutate(rng: random.Random, blob: bytes) -> bytes:
    data = bytearray(blob)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(5):
            case 0 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at] = rng.randrange(256)
            case 2:
                del data[at : at + rng.randint(1, 8)]
            case 3:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case _:
                data = data[:at]
    return bytes(data)


def test_mutated_frames_never_pass_the_checksum() -> None:
    rng = random.Random(1)
    blobs = samples()
    for i in range(3000):
        original = blobs[i % len(blobs)]
        blob = mutate(rng, original)
        if blob != original:
            with pytest.raises(CodecError):
                decode(blob)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=64))
def test_random_bytes_are_a_codec_error_even_with_a_right_checksum(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode(data)
    with pytest.raises(CodecError):
        decode(resealed(data + b"\xce" + bytes(4)))


def test_every_single_flipped_bit_is_found() -> None:
    for blob in samples():
        for bit in range(len(blob) * 8):
            data = bytearray(blob)
            data[bit // 8] ^= 1 << bit % 8
            with pytest.raises(CodecError, match="checksum"):
                decode(bytes(data))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([VERSION + 1, 0, "o", 0, 0, []], f"frame version {VERSION + 1}; this program reads {VERSION}"),
        ([VERSION, 7, "o", 0, 0, []], "unknown payload kind 7"),
        ([VERSION, 0, "o", 0, 0, {}], "unknown payload kind 0"),
        ([VERSION, 0, "o", 0.5, 0, []], "wrong type"),
        ([VERSION, 0, "o", True, 0, []], "wrong type"),
        ([VERSION, 0, "o", 0, None, []], "wrong type"),
        ([VERSION, 0, 5, 0, 0, []], "wrong type"),
        ([VERSION, 0, "o", 0, 0], "not a list of 7"),
        ([VERSION, 0, "o", 0, 0, [], 1], "not a list of 7"),
        ([VERSION, 1, "o", 0, 0, ["trade", 1]], "unknown payload kind 1"),
        ([VERSION, 1, "o", 0, 0, ["nope", 0, {}]], "known record kind"),
        ([VERSION, 1, "o", 0, 0, ["", -1, {}]], "known record kind"),
        ([VERSION, 1, "o", 0, 0, ["", 1, {}]], "known record kind"),
        ([VERSION, 1, "o", 0, 0, ["", 1, []]], "known record kind"),
        ([VERSION, 1, "o", 0, 0, ["", 1, {"x": 5}]], "column 'x' is not a list"),
        ([VERSION, 1, "o", 0, 0, ["", 1, {"x": []}]], "column 'x' is not a list"),
        ([VERSION, 1, "o", 0, 0, ["", 1, {"x": ["<f8"]}]], "unknown layout"),
        ([VERSION, 1, "o", 0, 0, ["", 1, {"x": ["|O", b"12345678"]}]], "type '|O' is not allowed"),
        ([VERSION, 1, "o", 0, 0, ["", 1, {"x": ["<f8", b"1234567"]}]], "7 bytes are not 1 values"),
        ([VERSION, 1, "o", 0, 0, ["", 2, {"x": ["<f8", b"12345678"]}]], "8 bytes are not 2 values"),
        ([VERSION, 1, "o", 0, 0, ["", 1, {"x": ["<f8", "12345678"]}]], "is not allowed"),
        ([VERSION, 1, "o", 0, 0, ["", 2, {"x": ["any", [1]]}]], "unknown layout|is not allowed"),
        ([VERSION, 1, "o", 0, 0, ["", 1, {"x": ["dict", "|u1", b"\x02", msgpack.packb(["a", "b"])]}]], "outside its 2"),
        ([VERSION, 1, "o", 0, 0, ["", 1, {"x": ["dict", "|i1", b"\x00", msgpack.packb(["a"])]}]], "outside its 1"),
        ([VERSION, 1, "o", 0, 0, ["", 1, {"x": ["dict", "|u1", b"\x00", msgpack.packb([1])]}]], "list of strings"),
        ([VERSION, 1, "o", 0, 0, ["", 1, {"x": ["dict", "|u1", b"\x00", b"\xc1"]}]], "not valid msgpack"),
        ([VERSION, 0, "o", 0, 0, [{1: 2}]], "not valid msgpack"),
        ([VERSION, 0, "o", 0, 0, [{"__record__": "trade", "symbol": "A"}]], "fields are not those of Trade"),
        ([VERSION, 0, "o", 0, 0, [{"__record__": "nope"}]], "not those of any record"),
        ([VERSION, 0, "o", 0, 0, [msgpack.Timestamp(1)]], "not valid msgpack"),
        ([VERSION, 0, "o", 0, 0, [msgpack.ExtType(5, b"x")]], "not valid msgpack"),
    ],
)
def test_a_sealed_but_wrong_entry_says_what_is_wrong(body: list[Any], message: str) -> None:
    with pytest.raises(CodecError, match=message.replace("|O", r"\|O") if "|O" in message else message):
        decode(sealed(body))


def test_the_length_is_checked_before_anything_else() -> None:
    blob = encode("o", Frame(["x" * 100]))
    assert decode(blob, len(blob)).origin == "o"
    with pytest.raises(CodecError, match=f"entry of {len(blob)} bytes is over the limit of {len(blob) - 1}"):
        decode(blob, len(blob) - 1)


@pytest.mark.parametrize("blob", [b"", b"\xce", b"\xce\0\0\0\0", b"\x90" * 4])
def test_entries_too_short_to_hold_a_checksum(blob: bytes) -> None:
    with pytest.raises(CodecError, match="checksum does not match"):
        decode(blob)


def test_a_header_that_claims_a_huge_array_costs_nothing() -> None:
    body = b"\xdd\xff\xff\xff\xff"
    with pytest.raises(CodecError, match="not valid msgpack"):
        decode(body + b"\xce" + struct.pack(">I", crc32c(body)))


def symbols(n: int, codes: Any, width: int = 6) -> Columns:
    names = tuple(f"{i:0{width}d}" for i in range(n))
    return Columns("", {"symbol": Dictionary(np.array(codes, np.uint32), names), "n": np.arange(len(codes))})


def test_a_list_of_names_that_is_small_beside_the_rows_travels_whole_and_is_known_again() -> None:
    first, second = symbols(200, [7, 8] * 2000), symbols(200, [9, 199] * 2000)
    frames = [decode(encode("o", Frame(items))).frame.items for items in (first, second)]
    assert frames == [first, second]
    lists = [frame.dictionary("symbol").names for frame in frames if isinstance(frame, Columns)]
    assert lists[0] is lists[1]
    assert len(lists[0]) == 200


def test_of_a_list_of_names_that_is_large_beside_the_rows_those_in_use_travel() -> None:
    items = symbols(5000, [4999, 7, 4999])
    frame = decode(encode("o", Frame(items))).frame.items
    assert isinstance(frame, Columns)
    assert frame == items
    assert sorted(frame.dictionary("symbol").names) == ["000007", "004999"]


@pytest.mark.parametrize("bad", [None, "\ud800"])
def test_a_name_that_cannot_travel_costs_only_the_items_that_use_it(bad: Any) -> None:
    items = Columns("", {"symbol": Dictionary(np.array([0, 1, 0, 2], np.uint32), ("A", bad, "B")), "n": np.arange(4)})
    blobs, rejected = encoded("o", items)
    assert [item["n"] for item, _ in rejected] == [1]
    assert [row["n"] for row in rows_of(blobs)] == [0, 2, 3]
    unused = Columns("", {"symbol": Dictionary(np.array([0, 2], np.uint32), ("A", bad, "B"))})
    assert encoded("o", unused)[1] == []


def test_the_smallest_frames_hold_an_item_whatever_else_its_list_names() -> None:
    items = symbols(250, [1, 2, 3])
    blobs, rejected = encoded("o", items, frame_bytes=1024)
    assert rejected == []
    assert max(map(len, blobs)) <= 1024
    assert rows_of(blobs) == items.rows()


@FAST
@given(st.integers(1, 3000), st.lists(st.integers(0, 10_000), min_size=1, max_size=400), st.integers(2000, 20_000))
def test_names_and_rows_together_keep_to_the_size_of_a_frame(n: int, codes: list[int], frame_bytes: int) -> None:
    items = symbols(n, [code % n for code in codes], width=40)
    blobs, rejected = encoded("o", items, frame_bytes=frame_bytes)
    assert rejected == []
    assert max(map(len, blobs)) <= frame_bytes
    assert rows_of(blobs) == items.rows()


def opened(blobs: list[bytes]) -> list[Frame]:
    return [decode(blob).frame for blob in blobs]


def rows_of(blobs: list[bytes]) -> list[Any]:
    return [row for frame in opened(blobs) for row in to_rows(frame.items)]


@FAST
@given(
    n=st.integers(0, 40), frame_items=st.integers(1, 12), as_columns=st.booleans(), mark=st.sampled_from([NO_MARK, 5])
)
def test_entries_hold_at_most_frame_items_and_the_last_has_the_mark(
    n: int, frame_items: int, as_columns: bool, mark: int
) -> None:
    items = [TRADE._replace(ts_event=i) for i in range(n)]
    blobs, rejected = encoded("o", columns(items) if as_columns and items else items, mark, 3, frame_items=frame_items)
    frames = opened(blobs)
    assert rejected == []
    assert rows_of(blobs) == items
    assert len(frames) == max(1, -(-n // frame_items)), "as few as can be"
    assert max(len(frame.items) for frame in frames) <= frame_items
    assert [frame.mark for frame in frames] == [NO_MARK] * (len(frames) - 1) + [mark]
    assert {frame.born for frame in frames} == {3}


@FAST
@given(
    st.lists(st.integers(0, 900), min_size=1, max_size=30),
    st.integers(600, 3000),
    st.sampled_from(["rows", "columns", "ids"]),
)
def test_frames_over_the_byte_limit_are_cut(sizes: list[int], frame_bytes: int, form: str) -> None:
    limit = max(sizes) + frame_bytes
    items: list[Any] = ["x" * size for size in sizes]
    batch: Items = items
    if form != "rows":
        items = [TRADE._replace(ts_event=i, trade_id="x" * size) for i, size in enumerate(sizes)]
        batch = columns(items) if form == "columns" else items
    blobs, rejected = encoded("o", batch, 7, frame_bytes=limit)
    assert rejected == []
    assert max(map(len, blobs)) <= limit
    assert rows_of(blobs) == items
    assert [frame.mark for frame in opened(blobs)] == [NO_MARK] * (len(blobs) - 1) + [7]


def test_the_default_limits_hold_for_a_large_batch() -> None:
    n = 50_000
    symbols = Dictionary(np.arange(n, dtype=np.uint32) % 997, tuple(f"SYM{i}" for i in range(997)))
    made = Columns("", {"symbol": symbols, "ts_event": np.arange(n, dtype=np.int64)})
    blobs, rejected = encoded("o", made, 1)
    assert rejected == []
    assert max(map(len, blobs)) <= FRAME_BYTES
    assert max(len(frame.items) for frame in opened(blobs)) <= 8192
    assert [row["ts_event"] for row in rows_of(blobs)] == list(range(n))
    assert [row["symbol"] for row in rows_of(blobs)] == [f"SYM{i % 997}" for i in range(n)]


@FAST
@given(st.lists(st.sampled_from([1, "ok", "bad", "big"]), min_size=1, max_size=25), st.sampled_from([NO_MARK, 9, END]))
def test_only_the_item_that_cannot_travel_is_handed_back(kinds: list[Any], mark: int) -> None:
    lost = {"bad": object(), "big": "x" * 2000}
    items = [lost.get(kind, kind) for kind in kinds]
    blobs, rejected = encoded("o", items, mark, 4, frame_bytes=1000)
    assert rows_of(blobs) == [kind for kind in kinds if kind not in lost]
    assert [entry.item for entry in rejected] == [lost[kind] for kind in kinds if kind in lost]
    frames = opened(blobs)
    assert [frame.mark for frame in frames if frame.mark != NO_MARK] == ([mark] if mark != NO_MARK else [])
    assert mark == NO_MARK or frames[-1].mark == mark


def test_the_reason_says_why_an_item_cannot_travel() -> None:
    _, rejected = encoded("o", [object(), 2**64, "x" * 5000], frame_bytes=1000)
    assert "object cannot travel; allowed: None, bool" in rejected[0].reason
    assert rejected[1].item == 2**64
    assert "over the frame limit of 1000" in rejected[2].reason


def test_the_mark_survives_even_if_no_item_does() -> None:
    blobs, rejected = encoded("o", [object(), object()], 42, 6)
    assert len(rejected) == 2
    assert opened(blobs) == [Frame([], 42, 6)]


def test_a_row_of_columns_that_cannot_travel_is_handed_back_as_a_record() -> None:
    items = [TRADE._replace(trade_id=identity) for identity in ("a", "x" * 3000, "b")]
    blobs, rejected = encoded("o", columns(items), 8, frame_bytes=1500)
    assert rows_of(blobs) == [items[0], items[2]]
    assert [entry.item for entry in rejected] == [items[1]]
    assert opened(blobs)[-1].mark == 8
