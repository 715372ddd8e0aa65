"""What ccxt's unified trades, tickers and order books say, as records. Pure.

ccxt gives times in whole milliseconds, ids as strings and prices as floats of the venue's own text (the same double). What
the venue sent stands in ``info``: a finer time and an id that is a number are taken from there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from market_data_pipeline.records import Quote, Trade

_MILLI = 1_000_000
_ISO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{4,9})(?:Z|\+00:00)?")
_NUMBER = re.compile(r"\d{10,19}(?:\.\d{1,9})?")
_NS_DIGITS = 19
_TURNED = {"buy": "sell", "sell": "buy"}
_SEQUENCES = ("sequence", "u")
"""Where tickers have the number of their change: Coinbase Exchange, Binance."""


def trade_of(found: Mapping[str, Any], symbol: str, ts_recv: int, venue: str, phase: str) -> Trade | None:
    """The record of a unified public trade; ``None`` where it has no price or size.

    ccxt gives the taker's side, also where the venue sends the maker's (Coinbase); a trade that ccxt itself calls the maker's
    (``takerOrMaker``) is turned.
    """
    price, size = found.get("price"), found.get("amount")
    if price is None or size is None:
        return None
    side = found.get("side")
    if found.get("takerOrMaker") == "maker":
        side = _TURNED.get(side or "")
    sent = values_of(found.get("info"))
    return Trade(
        symbol=symbol,
        ts_event=event_time(found.get("timestamp"), sent, ts_recv),
        ts_recv=ts_recv,
        price=float(price),
        size=float(size),
        side=side if side in _TURNED else "",
        trade_id=id_as_sent(found.get("id"), sent),
        venue=venue,
        phase=phase,
    )


def quote_of(found: Mapping[str, Any], symbol: str, ts_recv: int, venue: str) -> Quote | None:
    """The record of a unified ticker; ``None`` where a side is missing. A size that the venue does not send is 0."""
    bid, ask = found.get("bid"), found.get("ask")
    if bid is None or ask is None:
        return None
    info = found.get("info")
    sent = values_of(info)
    numbers = [info.get(name) for name in _SEQUENCES] if isinstance(info, Mapping) else []
    return Quote(
        symbol=symbol,
        ts_event=event_time(found.get("timestamp"), sent, ts_recv),
        ts_recv=ts_recv,
        bid=float(bid),
        bid_size=float(found.get("bidVolume") or 0.0),
        ask=float(ask),
        ask_size=float(found.get("askVolume") or 0.0),
        update_id=next((n for n in numbers if type(n) is int), ""),
        venue=venue,
    )


def top_of(book: Mapping[str, Any], symbol: str, ts_recv: int, venue: str) -> Quote | None:
    """The best level of each side of a unified order book; ``None`` where a side is empty."""
    if not book["bids"] or not book["asks"]:
        return None
    bid, ask, nonce = book["bids"][0], book["asks"][0], book.get("nonce")
    return Quote(
        symbol=symbol,
        ts_event=event_time(book.get("timestamp"), (), ts_recv),
        ts_recv=ts_recv,
        bid=float(bid[0]),
        bid_size=float(bid[1]),
        ask=float(ask[0]),
        ask_size=float(ask[1]),
        update_id="" if nonce is None else nonce,
        venue=venue,
    )


def values_of(info: Any) -> tuple[Any, ...]:
    """The values of what the venue sent, one level deep."""
    if isinstance(info, Mapping):
        return tuple(info.values())
    return tuple(info) if isinstance(info, list | tuple) else ()


def event_time(milliseconds: Any, sent: Iterable[Any], ts_recv: int) -> int:
    """Nanoseconds of a unified ``timestamp``: exact where one of the ``sent`` values is a finer time of the same millisecond.
    ``ts_recv`` where the venue sends no time."""
    if milliseconds is None:
        return ts_recv
    rough = int(milliseconds)
    for value in sent:
        fine = _finer(value, rough)
        if fine is not None:
            return fine
    return rough * _MILLI


def _finer(value: Any, milliseconds: int) -> int | None:
    """``value`` in ns if it is the time ``milliseconds``, told more precisely: ISO 8601 in UTC, or a number of seconds, milli-,
    micro- or nanoseconds. An equal millisecond of the present has 13 equal digits: nothing else has them by chance."""
    text = value if isinstance(value, str) else repr(value) if type(value) in {int, float} else ""
    iso = _ISO.fullmatch(text)
    if iso is not None:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
        fraction = iso[2].ljust(9, "0")
        if iso[1] != second or int(fraction[:3]) != milliseconds % 1000:
            return None
        return milliseconds * _MILLI + int(fraction[3:])
    if not _NUMBER.fullmatch(text):
        return None
    digits = text.replace(".", "")
    if not len(str(milliseconds)) < len(digits) <= _NS_DIGITS or not digits.startswith(str(milliseconds)):
        return None
    return int(digits.ljust(_NS_DIGITS, "0"))


def id_as_sent(found: Any, sent: Iterable[Any]) -> int | str:
    """A unified id: an int where the venue sent it as one, else the string; ``""`` where there is none."""
    if found is None:
        return ""
    text = str(found)
    return next((value for value in sent if type(value) is int and str(value) == text), text)


HISTORY: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "coinbaseexchange": lambda message: message.get("type") == "last_match",
    "coinbase": lambda message: any(event.get("type") == "snapshot" for event in message.get("events") or ()),
    "kraken": lambda message: message.get("channel") == "trade" and message.get("type") == "snapshot",
    "hitbtc": lambda message: message.get("ch") == "trades" and "snapshot" in message,
}
"""By exchange, which messages hold trades from before the subscription. It must be known by venue: with others ``snapshot`` is
what every message is called (Bybit)."""


def is_history(exchange: str, message: Any) -> bool:
    """Does this message hold trades from before the subscription?"""
    known = HISTORY.get(exchange)
    return known is not None and isinstance(message, Mapping) and known(message)
