"""The tables of a SQL store: which record goes where, under which columns and key. No SQL and no I/O here.

A time becomes two columns: ``ts_event`` for people and for the database's own functions (microseconds), and ``ts_event_ns``,
exact. Two trades with one id and venue are one trade, whatever their nanoseconds; a quote's key has the nanoseconds in it,
because two quotes may well come within one microsecond.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from market_data_pipeline.records import Bar, Gap, Quote, Trade

JOB, GENERATION = "_mdp_job", "_mdp_generation"
"""Who wrote a row that can be replaced."""


class Kind(Enum):
    """What a field holds. ``MAYBE``: a number that may be missing (NaN), ``SEEN``: a time that is 0 where nobody took it."""

    TEXT = "text"
    NUMBER = "number"
    MAYBE = "maybe"
    WHOLE = "whole"
    FLAG = "flag"
    TIME = "time"
    SEEN = "seen"


TIMES = (Kind.TIME, Kind.SEEN)
NUMBERS = (Kind.NUMBER, Kind.MAYBE)


class Field(NamedTuple):
    name: str
    kind: Kind


class Column(NamedTuple):
    """A column of the database; ``type`` in PostgreSQL's words."""

    name: str
    type: str
    required: bool = True


_TYPES = {
    Kind.TEXT: "text",
    Kind.NUMBER: "numeric",
    Kind.MAYBE: "numeric",
    Kind.WHOLE: "bigint",
    Kind.FLAG: "boolean",
}


class Table(NamedTuple):
    """``key``: names of columns. ``made_of``: a text field of the key that is made of other fields where a record has none.
    ``replaced``: a later revision replaces a row; else the first one stays. ``time``: what TimescaleDB cuts the table by."""

    name: str
    record: type[Any]
    fields: tuple[Field, ...]
    key: tuple[str, ...]
    made_of: tuple[str, tuple[str, ...]] | None = None
    replaced: bool = False
    time: str = ""

    def columns(self) -> tuple[Column, ...]:
        """The columns, in the order of the fields."""
        found: list[Column] = []
        for name, kind in self.fields:
            if kind in TIMES:
                found += [Column(name, "timestamptz", kind is Kind.TIME), Column(f"{name}_ns", "bigint")]
            else:
                found.append(Column(name, _TYPES[kind], kind is not Kind.MAYBE))
        if self.replaced:
            found += [Column(JOB, "text", False), Column(GENERATION, "bigint", False)]
        return tuple(found)


def _fields(text: str) -> tuple[Field, ...]:
    pairs = (word.partition(":") for word in text.split())
    return tuple(Field(name, Kind(kind)) for name, _, kind in pairs)


TRADES = Table(
    "trades",
    Trade,
    _fields(
        "venue:text symbol:text trade_id:text ts_event:time ts_recv:seen price:number size:number side:text"
        " conditions:text action:text ref_trade_id:text phase:text"
    ),
    key=("venue", "symbol", "trade_id", "ts_event"),
    made_of=("trade_id", ("ts_event", "ts_recv", "price", "size", "side", "action", "ref_trade_id")),
    time="ts_event",
)
QUOTES = Table(
    "quotes",
    Quote,
    _fields(
        "venue:text symbol:text update_id:text ts_event:time ts_recv:seen bid:maybe bid_size:maybe ask:maybe"
        " ask_size:maybe phase:text"
    ),
    key=("venue", "symbol", "ts_event", "ts_event_ns", "update_id", "ts_recv_ns"),
    made_of=("update_id", ("bid", "bid_size", "ask", "ask_size")),
    time="ts_event",
)
BARS = Table(
    "bars",
    Bar,
    _fields(
        "symbol:text interval:whole ts_open:time ts_close:time open:maybe high:maybe low:maybe close:maybe"
        " volume:number vwap:maybe trade_count:whole ts_event:time buy_volume:number sell_volume:number revision:whole"
        " is_final:flag partial:flag"
    ),
    key=("symbol", "interval", "ts_open"),
    replaced=True,
    time="ts_open",
)
GAPS = Table(
    "gaps",
    Gap,
    _fields("symbol:text first:whole last:whole missing:whole ts_event:seen"),
    key=("symbol", "first", "last", "ts_event_ns"),
)

TABLES = {table.name: table for table in (TRADES, QUOTES, BARS, GAPS)}
