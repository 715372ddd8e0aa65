"""Collect, Stdout, Discard, and items as plain data."""

from __future__ import annotations

import json
from typing import Any

import pytest

from market_data_pipeline.frame import Frame, columns_from_rows
from market_data_pipeline.records import Bar, Trade, Window
from market_data_pipeline.sinks.base import SinkContext
from market_data_pipeline.sinks.collect import Collect
from market_data_pipeline.sinks.discard import Discard
from market_data_pipeline.sinks.encoding import plain
from market_data_pipeline.sinks.stdout import Stdout

BAR = {
    "symbol": "A", "ts_open": 0, "ts_close": 1, "open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 3.0,
    "vwap": 1.2, "trade_count": 4, "ts_event": 0, "buy_volume": 1.0, "sell_volume": 2.0, "revision": 1, "is_final": False,
    "partial": True,
}  # fmt: skip
TRADE = Trade("A", 1, 2, 3.0, 4.0, "buy", "x")


async def test_collect_shows_only_what_was_committed() -> None:
    sink = Collect()
    assert sink.fresh() is sink
    await sink.open(SinkContext("out"), None)
    await sink.write([Frame([1, 2]), Frame([3])])
    assert sink.items == []
    await sink.prepare(False)
    await sink.committed()
    assert sink.items == [1, 2, 3]
    await sink.write([Frame([4])])
    await sink.close()
    await sink.committed()
    assert sink.items == [1, 2, 3], "what was not committed is as if it was never written"


async def test_collect_turns_columns_into_records() -> None:
    columns, bad = columns_from_rows([TRADE, TRADE._replace(symbol="B")])
    assert not bad
    sink = Collect()
    await sink.write([Frame(columns)])
    await sink.committed()
    assert sink.items == [TRADE, TRADE._replace(symbol="B")]


async def test_stdout_prints_a_line_of_json_per_item_at_prepare(capsys: pytest.CaptureFixture[str]) -> None:
    sink = Stdout()
    await sink.write([Frame([TRADE, {"k": [TRADE]}, "text"])])
    assert capsys.readouterr().out == ""
    await sink.prepare(False)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [TRADE._asdict(), {"k": [TRADE._asdict()]}, "text"]
    await sink.prepare(True)
    assert capsys.readouterr().out == "", "each line once"


async def test_discard_takes_anything() -> None:
    sink = Discard()
    await sink.open(SinkContext("out"), None)
    await sink.write([Frame([object(), TRADE])])
    assert await sink.prepare(True) is None
    await sink.committed()
    await sink.close()


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (1, 1),
        (None, None),
        ("x", "x"),
        (b"\x00\xff", "00ff"),
        ((1, (2, 3)), [1, [2, 3]]),
        ({1: TRADE, "b": b"a"}, {"1": TRADE._asdict(), "b": "61"}),
        ([TRADE], [TRADE._asdict()]),
        (
            Window("A", 0, 5, [TRADE]),
            {"key": "A", "ts_open": 0, "ts_close": 5, "items": [TRADE._asdict()], "revision": 0, "is_final": True},
        ),
        (Bar(*BAR.values()), BAR),
    ],
)  # fmt: skip
def test_plain(item: Any, expected: Any) -> None:
    assert plain(item) == expected
