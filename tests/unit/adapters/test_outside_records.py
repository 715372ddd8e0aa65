"""Records of other packages, of all shapes, as ours and back."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from tools.foreign import BEGIN, BEGIN_NS, TheirBar, TheirQuote, TheirTrade, trade

from market_data_pipeline import Bar, Quote, RecordError, Trade, as_dto, as_fields, record_of, trade_of

GIVEN = {"symbol": "A", "ts": BEGIN, "price": 1.5, "size": 2}


def test_models_dataclasses_tuples_and_mappings_become_records() -> None:
    assert record_of(trade(3)) == Trade("AAPL", BEGIN_NS + 300_000_000, 0, 103.0, 2.0, "buy", 3)
    assert record_of(TheirQuote("A", BEGIN.timestamp(), "1.10", "1.20", None)) == Quote(
        "A", BEGIN_NS, 0, 1.1, 0.0, 1.2, 0.0
    )
    bar = record_of(TheirBar("A", BEGIN, 1, 4, 0.5, 2, 10, "5m"))
    assert bar == Bar("A", BEGIN_NS, BEGIN_NS + 300 * 10**9, 1.0, 4.0, 0.5, 2.0, 10.0, 2.0, 0, BEGIN_NS)
    given = {"instrument": "A", "timestamp": BEGIN_NS, "price": Decimal("1.5"), "volume": "2", "side": "S", "id": "x1"}
    assert record_of(given) == Trade("A", BEGIN_NS, 0, 1.5, 2.0, "sell", "x1")


def test_our_own_records_pass_as_they_are() -> None:
    own = Trade("A", 1, 2, 3.0, 4.0, phase="snapshot")
    assert record_of(own) is own


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"ts": datetime(2026, 1, 2)}, ["ts:", "time zone"]),
        ({"ts": 1_767_364_200}, ["ts:", "not guessed"]),
        ({"ts": 1_767_364_200_000.0}, ["ts:", "not guessed"]),
        ({"ts": True}, ["ts:", "no time"]),
        ({"ts": BEGIN.replace(year=9999)}, ["ts:", "64 bits"]),
        ({"ts": None}, ["ts_event:", "missing", "timestamp"]),
        ({"symbol": None}, ["symbol:", "missing"]),
        ({"symbol": SimpleNamespace(name="A")}, ["symbol:", "no text"]),
        ({"price": float("nan")}, ["price:", "not finite"]),
        ({"price": "1,5"}, ["price:", "no number"]),
        ({"size": True}, ["size:", "no number"]),
        ({"size": None}, ["size:", "volume"]),
        ({"side": "up"}, ["side:", "'up'"]),
    ],
)
def test_what_is_missing_or_wrong_is_named_with_its_object(changed: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(RecordError) as raised:
        trade_of(SimpleNamespace(**{**GIVEN, **changed}))
    assert [word for word in [*words, "SimpleNamespace"] if word not in str(raised.value)] == []


def test_a_property_that_raises_is_the_records_fault() -> None:
    class Broken:
        @property
        def symbol(self) -> str:
            raise OSError("gone")

    with pytest.raises(RecordError, match=r"symbol: reading it raised OSError: gone"):
        trade_of(Broken())


def test_times_keep_what_their_form_can_hold() -> None:
    assert trade_of({**GIVEN, "ts": BEGIN.replace(microsecond=123456)}).ts_event == BEGIN_NS + 123_456_000
    assert trade_of({**GIVEN, "ts": BEGIN_NS + 1}).ts_event == BEGIN_NS + 1
    assert trade_of({**GIVEN, "ts_ns": BEGIN_NS + 7}).ts_event == BEGIN_NS + 7, "exact before coarse"
    assert trade_of({**GIVEN, "ts": BEGIN.timestamp() + 0.25}).ts_event == BEGIN_NS + 250_000_000


def test_a_bar_needs_an_end() -> None:
    prices = {"symbol": "A", "ts": BEGIN, "open": 1, "high": 1, "low": 1, "close": 1}
    with pytest.raises(RecordError, match="ts_close: missing, and there is no resolution"):
        record_of(prices)
    with pytest.raises(RecordError, match="resolution: 60 is no length"):
        record_of({**prices, "interval": 60})
    with pytest.raises(RecordError, match="is not behind"):
        record_of({**prices, "ts_close": BEGIN})


def test_records_go_back_into_models_and_come_again() -> None:
    bar = record_of(TheirBar("A", BEGIN, 1, 4, 0.5, 2, 10, "5m"))
    assert as_dto(bar, TheirBar) == TheirBar("A", BEGIN, 1.0, 4.0, 0.5, 2.0, 10.0, "5m")
    assert record_of(as_fields(bar)) == bar
    exact = Trade("A", BEGIN_NS + 1, 0, 1.5, 2.0, "buy", 7)
    assert trade_of(as_fields(exact)) == exact, "to the nanosecond"


def test_what_a_model_wants_and_a_record_lacks_is_named() -> None:
    with pytest.raises(RecordError, match="instrument: TheirTrade wants it; there are: symbol, "):
        as_dto(Trade("A", BEGIN_NS, 0, 1.0, 1.0), TheirTrade)
    with pytest.raises(RecordError, match="only Trade, Quote and Bar"):
        as_fields({"symbol": "A"})  # type: ignore[arg-type]
