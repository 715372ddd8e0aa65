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
    an int or a string, ``""`` where it sends none. ``ts_recv`` is 0 where nobody recorded it. ``conditions`` are the venue's
    sale conditions as it sends them. ``action`` is ``"new"``, or ``"correct"`` or ``"cancel"`` of the trade ``ref_trade_id``.
    ``venue`` is where it was made, ``""`` where there is but one. ``phase`` is ``"live"``, or ``"snapshot"`` for history that a
    feed sends when it is subscribed to.
    """

    symbol: str
    ts_event: int
    ts_recv: int
    price: float
    size: float
    side: str = ""
    trade_id: int | str = ""
    conditions: str = ""
    action: str = "new"
    ref_trade_id: int | str = ""
    venue: str = ""
    phase: str = "live"


class Quote(NamedTuple):
    """Best bid and offer. ``update_id`` is the venue's number of this change, ``""`` where it sends none; ``venue`` and
    ``phase`` as for :class:`Trade`."""

    symbol: str
    ts_event: int
    ts_recv: int
    bid: float
    bid_size: float
    ask: float
    ask_size: float
    update_id: int | str = ""
    venue: str = ""
    phase: str = "live"


class Bar(NamedTuple):
    """OHLCV over the half-open window ``[ts_open, ts_close)``; ``vwap`` is notional / volume (close when volume is 0).

    ``ts_event`` is the bar's label: ``ts_open``, or ``ts_close`` where the labels are chosen right. ``buy_volume`` and
    ``sell_volume`` are by the aggressor's side; what is left of ``volume`` has none. ``revision`` counts how often this bar
    was emitted before; ``is_final`` is true when it will not be again. ``partial``: trades of the window may be missing,
    because the job began, or data was missing, inside it.
    """

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
    ts_event: int = 0
    buy_volume: float = 0.0
    sell_volume: float = 0.0
    revision: int = 0
    is_final: bool = True
    partial: bool = False


class Window(NamedTuple):
    """The items of one key in one window ``[ts_open, ts_close)``, in order of arrival; ``revision`` and ``is_final`` as for
    :class:`Bar`."""

    key: Any
    ts_open: int
    ts_close: int
    items: list[Any]
    revision: int = 0
    is_final: bool = True


class Gap(NamedTuple):
    """Sequence numbers ``first`` to ``last`` of ``symbol`` (``missing`` of them) did not come; ``ts_event`` of the item behind
    them, 0 where it has none. ``missing`` is 0 where nobody knows how many, or whether any: a feed was away."""

    symbol: str
    first: int
    last: int
    missing: int
    ts_event: int


class FeedEvent(NamedTuple):
    """What happened to a feed at ``ts_event`` (wall time): ``event`` is one of :data:`FEED_EVENTS`, ``symbol`` is ``""`` where
    it is about all of them, ``detail`` is for people. Of ``switched``, ``feed`` is the provider that has the symbol from now
    on, and ``detail`` says which had it, and why it moved: ``"binance -> coinbase: disconnected"``."""

    feed: str
    event: str
    symbol: str
    ts_event: int
    detail: str = ""


FEED_EVENTS = ("connected", "disconnected", "quiet", "resumed", "suspended", "failed", "switched")
"""``quiet``: connected, and nothing came for longer than is usual; ``resumed``: something came again. ``suspended``: it failed
so often that it is left alone for a while. ``failed``: a symbol or kind was refused for good. ``switched``: another provider
has a symbol, or all symbols of one, from now on."""

PHASES = ("live", "snapshot")

Record = Trade | Quote | Bar

SIDES = ("", "buy", "sell")
"""Sides by their code in a column."""
SIDE_CODES = {name: code for code, name in enumerate(SIDES)}

ACTIONS = ("new", "correct", "cancel")
"""What a trade can be."""

INT, FLOAT, SIDE, FLAG, SYMBOL, ANY = "<i8", "<f8", "|i1", "|b1", "dict", "any"
"""Column types: numpy type strings, a dictionary-encoded string, or a list of ints and strings."""

COLUMN_TYPES: dict[str, str] = {
    "symbol": SYMBOL, "side": SIDE, "trade_id": ANY, "trade_count": INT,
    "ts_event": INT, "ts_recv": INT, "ts_open": INT, "ts_close": INT,
    "price": FLOAT, "size": FLOAT, "volume": FLOAT, "vwap": FLOAT,
    "open": FLOAT, "high": FLOAT, "low": FLOAT, "close": FLOAT,
    "buy_volume": FLOAT, "sell_volume": FLOAT, "revision": INT, "is_final": FLAG, "partial": FLAG,
    "conditions": SYMBOL, "action": SYMBOL, "ref_trade_id": ANY,
    "bid": FLOAT, "bid_size": FLOAT, "ask": FLOAT, "ask_size": FLOAT, "update_id": ANY,
    "venue": SYMBOL, "phase": SYMBOL,
}  # fmt: skip
"""The type of every standard field as a column."""

USUAL: dict[str, dict[str, Any]] = {
    "trade": {"ts_recv": 0, **Trade._field_defaults},
    "quote": {"ts_recv": 0, **Quote._field_defaults},
    "bar": {"volume": 0.0, "trade_count": 0, **Bar._field_defaults},
}
"""By kind, what fields have where data does not say."""
SAME_AS: dict[str, dict[str, str]] = {"bar": {"vwap": "close", "ts_event": "ts_open"}}
"""By kind, fields that are then equal to another one before them."""
RECORDS: dict[str, type[Any]] = {"trade": Trade, "quote": Quote, "bar": Bar}
"""Records that may stand in columns, by kind."""
KINDS: dict[type[Any], str] = {cls: kind for kind, cls in RECORDS.items()}
OPTIONAL: dict[str, int] = {"trade": 5, "quote": 3, "bar": 5, "window": 2, "gap": 0, "feed": 1}
"""How many of a record's last fields its columns, and rows on the wire, may leave out; they have their defaults then."""
ROW_RECORDS: dict[str, type[Any]] = {**RECORDS, "window": Window, "gap": Gap, "feed": FeedEvent}
"""Records that may travel as rows, by kind."""


FieldNames = frozenset[str] | None
"""The names of all fields that items may have; ``None`` where nobody can say."""


def fields_of(*kinds: str) -> FieldNames:
    """The fields of the records of these kinds (``"trade"``, ``"gap"``); ``None`` with one that is no record (``"rows"``)."""
    if not ROW_RECORDS.keys() >= {*kinds}:
        return None
    return frozenset[str]().union(*(ROW_RECORDS[kind]._fields for kind in kinds))


def field(item: Any, name: str) -> Any:
    """A field of a record (attribute) or of a mapping (key); raises ``KeyError`` or ``AttributeError`` when absent."""
    return item[name] if isinstance(item, dict) else getattr(item, name)
