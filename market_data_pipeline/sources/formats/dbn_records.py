"""What DBN's records become: their layout, symbols, and columns. No I/O."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np

from market_data_pipeline.frame import Array, Column, Columns, Dictionary, Items
from market_data_pipeline.records import MAX_TIME, MIN_TIME, SIDE_CODES
from market_data_pipeline.sources.formats.base import Wanted

_SCALE = 1_000_000_000
UNDEFINED_PRICE = 2**63 - 1
_DAY_NS = 86_400 * _SCALE
RUN_RECORDS = 65_536
"""A run of one sequence number that is longer is taken apart, so that memory is bounded."""
_HEADER = [("length", "u1"), ("rtype", "u1"), ("publisher_id", "<u2"), ("instrument_id", "<u4"), ("ts_event", "<u8")]
_EVENT = [
    ("price", "<i8"), ("size", "<u4"), ("action", "S1"), ("side", "S1"), ("flags", "u1"), ("depth", "u1"),
    ("ts_recv", "<u8"), ("ts_in_delta", "<i4"), ("sequence", "<u4"),
]  # fmt: skip
_LEVEL = [
    ("bid_px", "<i8"), ("ask_px", "<i8"), ("bid_sz", "<u4"), ("ask_sz", "<u4"), ("bid_ct", "<u4"), ("ask_ct", "<u4"),
]  # fmt: skip
_TRADE, _TOP = _HEADER + _EVENT, _HEADER + _EVENT + _LEVEL
_OHLCV = _HEADER + [(name, "<i8") for name in ("open", "high", "low", "close")] + [("volume", "<u8")]
_MBP0, _MBP1, _BBO, MAPPING = 0, (1, 197), (195, 196), 22
_PRICES: dict[str, tuple[str, ...]] = {
    "trade": ("price",), "quote": ("bid_px", "ask_px"), "bar": ("open", "high", "low", "close"), "rows": (),
}  # fmt: skip
_NAMED = {"trade": ("price",), "quote": ("bid", "ask"), "bar": _PRICES["bar"]}
_FIXED = {name for names in _PRICES.values() for name in names}
_INTERVALS = {32: _SCALE, 33: 60 * _SCALE, 34: 3600 * _SCALE, 35: _DAY_NS}
LAYOUTS: dict[str, tuple[list[tuple[str, str]], tuple[int, ...]]] = {
    "trades": (_TRADE, (_MBP0,)), "tbbo": (_TOP, _MBP1), "mbp-1": (_TOP, _MBP1),
    "bbo-1s": (_TOP, _BBO), "bbo-1m": (_TOP, _BBO),
    **{f"ohlcv-1{unit}": (_OHLCV, tuple(_INTERVALS)) for unit in "smhd"},
}  # fmt: skip
SCHEMAS = {
    "trade": ("trades", "tbbo", "mbp-1"),
    "quote": ("mbp-1", "tbbo", "bbo-1s", "bbo-1m"),
    "bar": ("ohlcv-1s", "ohlcv-1m", "ohlcv-1h", "ohlcv-1d"),
    "rows": tuple(LAYOUTS),
}


class Symbols:
    """The symbol of an instrument id: by UTC date from the metadata, else the one last said by a message."""

    def __init__(self, metadata: Any) -> None:
        self._dated: dict[int, list[tuple[int, int, str]]] = {}
        self.said: dict[int, str] = {}
        by_id = str(metadata.stype_in) == "instrument_id"
        for name, intervals in metadata.mappings.items():
            for interval in intervals:
                number, symbol = (name, interval["symbol"]) if by_id else (interval["symbol"], name)
                if number.isdecimal() and symbol:
                    days = _day(interval["start_date"]), _day(interval["end_date"])
                    self._dated.setdefault(int(number), []).append((*days, symbol))
        self.has_dates = bool(self._dated)

    def of(self, instrument: int, day: int) -> str:
        """``""`` where there is none."""
        for first, end, symbol in self._dated.get(instrument, ()):
            if first <= day < end:
                return symbol
        return self.said.get(instrument, "")

    def column(self, instruments: Array, times: Array) -> Dictionary:
        pairs, codes = np.unique((times // _DAY_NS) << 32 | instruments.astype(np.int64), return_inverse=True)
        found = [self.of(pair & 0xFFFFFFFF, pair >> 32) for pair in pairs.tolist()]
        encoded = Dictionary.encode(found or [""])
        return Dictionary(encoded.codes[codes], encoded.names)


def _day(value: date) -> int:
    return (value - date(1970, 1, 1)).days


def run_starts(sequence: Array) -> Array:
    """For each record the first one of its run: records in a row with one sequence number, at most so many; 0 is none."""
    index = np.arange(len(sequence))
    new = np.ones(len(sequence), dtype=bool)
    new[1:] = (sequence[1:] != sequence[:-1]) | (sequence[1:] == 0)
    starts = np.maximum.accumulate(np.where(new, index, 0))
    return starts + (index - starts) // RUN_RECORDS * RUN_RECORDS


class Made:
    """Records as columns of the kind that is wanted. ``bad``: which cannot be used."""

    def __init__(self, wanted: Wanted, symbols: Symbols, rows: Array) -> None:
        self._kind, self._exact, self._rows = wanted.kind, wanted.exact, rows
        names = rows.dtype.names or ()
        indexed = rows["ts_recv" if "ts_recv" in names else "ts_event"]
        is_interval = np.isin(rows["rtype"], _BBO)
        times = np.where(is_interval, indexed, rows["ts_event"])
        self._no_time = (times >= MAX_TIME) | (indexed >= MAX_TIME)
        self.times = times.astype(np.int64)
        self.received = indexed.astype(np.int64)
        if wanted.symbol is None:
            self.symbols = symbols.column(rows["instrument_id"], self.received)
        else:
            self.symbols = Dictionary(np.zeros(len(rows), np.uint32), (wanted.symbol,))
        self._no_price = np.zeros(len(rows), dtype=bool)
        for name in _PRICES[wanted.kind]:
            self._no_price |= rows[name] == UNDEFINED_PRICE
        self._no_symbol = np.array([not name for name in self.symbols.names])[self.symbols.codes]
        self.bad = np.zeros(len(rows), dtype=bool)
        if wanted.kind != "rows":
            self.bad |= self._no_price | self._no_time | self._no_symbol

    def reason(self, row: int) -> str:
        if self._no_time[row]:
            return "undefined time"
        if self._no_price[row]:
            names = [name for name in _PRICES[self._kind] if self._rows[name][row] == UNDEFINED_PRICE]
            return f"undefined price: {', '.join(names)}"
        day = np.datetime64(int(self.received[row]), "ns").astype("datetime64[D]")
        return f"instrument_id {self._rows['instrument_id'][row]}: has no symbol on {day}; give one with symbol="

    def plain(self, row: int) -> dict[str, Any]:
        """A record as a dict, its symbol with it. Prices are floats, undefined ones ``None``."""
        values = dict(zip(self._rows.dtype.names or (), self._rows[row].item(), strict=True))
        for name in values.keys() & _FIXED:
            value = values[name]
            values[name] = None if value == UNDEFINED_PRICE else _text(value) if self._exact else value / _SCALE
        texts = {name: value.decode("latin-1") for name, value in values.items() if isinstance(value, bytes)}
        return {"symbol": self.symbols.names[self.symbols.codes[row]], **values, **texts}

    def items(self, good: Array, index: Array, starts: Array) -> tuple[Items, Array]:
        """The records ``good`` as items, and their times. ``index``: the number of each record in the file."""
        if self._kind == "rows":
            rows = [self.plain(row) for row in good.tolist()]
            return rows, np.full(len(rows), MIN_TIME, np.int64)
        data: dict[str, Column] = {"symbol": self.symbols}
        if self._kind == "bar":
            data |= self._bars()
        else:
            data |= {"ts_event": self.times, "ts_recv": self.received}
            data |= self._trades(index, starts) if self._kind == "trade" else self._quotes()
        columns = Columns(self._kind, data).take(good)
        if not self._exact:
            return columns, self.times[good]
        texts = [[_text(v) for v in self._rows[name][good].tolist()] for name in _PRICES[self._kind]]
        records = columns.rows()
        for n, prices in enumerate(zip(*texts, strict=True)):
            records[n] = records[n]._replace(**dict(zip(_NAMED[self._kind], prices, strict=True)))
        return records, self.times[good]

    def _trades(self, index: Array, starts: Array) -> dict[str, Column]:
        rows = self._rows
        sides = np.where(rows["side"] == b"B", SIDE_CODES["buy"], np.where(rows["side"] == b"A", SIDE_CODES["sell"], 0))
        return {
            "price": rows["price"] / _SCALE, "size": rows["size"].astype(np.float64), "side": sides.astype(np.int8),
            "trade_id": _trade_ids(rows["sequence"], rows["instrument_id"], index, starts),
        }  # fmt: skip

    def _quotes(self) -> dict[str, Column]:
        rows = self._rows
        data: dict[str, Column] = {}
        for side in ("bid", "ask"):
            data[side] = rows[f"{side}_px"] / _SCALE
            data[f"{side}_size"] = rows[f"{side}_sz"].astype(np.float64)
        return {**data, "update_id": rows["sequence"].astype(np.int64)}

    def _bars(self) -> dict[str, Column]:
        rows, opened = self._rows, self.times
        lengths = np.zeros(len(rows), np.int64)
        for rtype, length in _INTERVALS.items():
            lengths[rows["rtype"] == rtype] = length
        prices: dict[str, Column] = {name: rows[name] / _SCALE for name in _PRICES["bar"]}
        return {
            "ts_open": opened, "ts_close": opened + lengths, **prices, "volume": rows["volume"].astype(np.float64),
            "vwap": prices["close"], "trade_count": np.zeros(len(rows), np.int64), "ts_event": opened,
        }  # fmt: skip


def _text(price: int) -> str:
    """A fixed price as a decimal number, exactly."""
    whole, fraction = divmod(abs(price), _SCALE)
    digits = f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")
    return f"-{digits}" if price < 0 else digits


def _trade_ids(sequence: Array, instruments: Array, index: Array, starts: Array) -> Array:
    """The sequence number; with an ordinal for further trades of an instrument in the same run, and with the record's number
    in a run that is too long to be held."""
    n = len(sequence)
    order = np.lexsort((np.arange(n), instruments, starts))
    new = np.ones(n, dtype=bool)
    new[1:] = (starts[order][1:] != starts[order][:-1]) | (instruments[order][1:] != instruments[order][:-1])
    ordinal = np.empty(n, dtype=np.int64)
    ordinal[order] = np.arange(n) - np.maximum.accumulate(np.where(new, np.arange(n), 0))
    is_long = np.bincount(starts, minlength=n)[starts] >= RUN_RECORDS
    if not ordinal.any() and not is_long.any() and (sequence != 0).all():
        return sequence.astype(np.int64)
    ids: Array = np.empty(n, dtype=object)
    ids[:] = sequence.tolist()
    ids[sequence == 0] = ""
    for row in np.flatnonzero(ordinal).tolist():
        ids[row] = f"{sequence[row]}.{ordinal[row]}"
    for row in np.flatnonzero(is_long).tolist():
        ids[row] = f"{sequence[row]}#{index[row]}"
    return ids
