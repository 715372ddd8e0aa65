"""The standard records: Trade, Quote, Bar, and how each looks as columns.

Times are int nanoseconds since the epoch, UTC. Prices and sizes are floats in the venue's own units. A record is a
``NamedTuple``: immutable, cheap, equal by value.
"""

from typing import Any, NamedTuple

MIN_TIME = -(2**63)
MAX_TIME = 2**63 - 1


class Trade(NamedTuple):
    """One execution.

    ``side`` is the aggressor's: ``"buy"``, ``"sell"`` or ``""`` (unknown). ``trade_id`` is the venue's id as it sends it,
    an int or a string, ``""`` where it sends none. ``ts_recv`` is 0 where nobody recorded it.
    """

    symbol: str
    ts_event: int
    ts_recv: int
    price: float
    size: float
    side: str = ""
    trade_id: int | str = ""


class Quote(NamedTuple):
    """Best bid and offer."""

    symbol: str
    ts_event: int
    ts_recv: int
    bid: float
    bid_size: float
    ask: float
    ask_size: float


class Bar(NamedTuple):
    """OHLCV over the half-open window ``[ts_open, ts_close)``; ``vwap`` is notional / volume (close when volume is 0)."""

    symbol: str
    ts_open: int
    ts_close: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    vwap: float
    trade_count: int


class Window(NamedTuple):
    """The items of one key in one window ``[ts_open, ts_close)``, in order of arrival."""

    key: Any
    ts_open: int
    ts_close: int
    items: list[Any]


class Gap(NamedTuple):
    """Sequence numbers ``first`` to ``last`` of ``symbol`` (``missing`` of them) did not come; ``ts_event`` of the item behind
    them, 0 where it has none."""

    symbol: str
    first: int
    last: int
    missing: int
    ts_event: int


Record = Trade | Quote | Bar

SIDES = ("", "buy", "sell")
"""Sides by their code in a column."""
SIDE_CODES = {name: code for code, name in enumerate(SIDES)}

INT, FLOAT, SIDE, SYMBOL, ANY = "<i8", "<f8", "|i1", "dict", "any"
"""Column types: numpy type strings, a dictionary-encoded string, or a list of ints and strings."""

COLUMN_TYPES: dict[str, str] = {
    "symbol": SYMBOL, "side": SIDE, "trade_id": ANY, "trade_count": INT,
    "ts_event": INT, "ts_recv": INT, "ts_open": INT, "ts_close": INT,
    "price": FLOAT, "size": FLOAT, "volume": FLOAT, "vwap": FLOAT,
    "open": FLOAT, "high": FLOAT, "low": FLOAT, "close": FLOAT,
    "bid": FLOAT, "bid_size": FLOAT, "ask": FLOAT, "ask_size": FLOAT,
}  # fmt: skip
"""The type of every standard field as a column."""

RECORDS: dict[str, type[Any]] = {"trade": Trade, "quote": Quote, "bar": Bar}
"""Records that may stand in columns, by kind."""
KINDS: dict[type[Any], str] = {cls: kind for kind, cls in RECORDS.items()}
ROW_RECORDS: dict[str, type[Any]] = {**RECORDS, "window": Window, "gap": Gap}
"""Records that may travel as rows, by kind."""


def field(item: Any, name: str) -> Any:
    """A field of a record (attribute) or of a mapping (key); raises ``KeyError`` or ``AttributeError`` when absent."""
    return item[name] if isinstance(item, dict) else getattr(item, name)
