"""``examples/realtime_bars.py`` as printed, and what it says about an exchange."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tools.jobs import run_mdp

EXAMPLE = "examples/realtime_bars.py"
SECOND = 1_000_000_000


def stored(path: Path) -> Iterator[tuple[str, int, int, float, float, float]]:
    with closing(sqlite3.connect(path)) as connection:
        yield from connection.execute(
            "SELECT symbol, ts_open_ns, trade_count, open, close, volume FROM bars ORDER BY 1, 2"
        )


def test_trades_of_a_live_feed_become_bars_in_a_store(tmp_path: Path) -> None:
    done = run_mdp("run", EXAMPLE, "--set", f"output={tmp_path / 'out'}", "--set", "trades=150", "--json")
    assert done.returncode == 0, done.stderr
    by_symbol: dict[str, list[tuple[str, int, int, float, float, float]]] = {}
    for bar in stored(tmp_path / "out" / "bars.sqlite"):
        by_symbol.setdefault(bar[0], []).append(bar)
    assert sorted(by_symbol) == ["BTC/USD", "ETH/USD", "SOL/USD"]
    for bars in by_symbol.values():
        opens = [bar[1] for bar in bars]
        assert opens == list(range(opens[0], opens[0] + len(opens) * SECOND, SECOND))
        number = 0
        for _, _, count, first, last, volume in bars:  # the n-th trade is at 100 + n % 7, of 0.5
            assert (first, last, volume) == (100.0 + number % 7, 100.0 + (number + count - 1) % 7, count * 0.5)
            number += count
        assert number == 150
    nodes = json.loads(done.stdout)["nodes"]
    assert nodes["dedupe"]["duplicate"] == 3 * 15
    assert 1 <= nodes["source"]["connected"] <= 3, "a connection for each partition that has symbols"


def test_an_exchange_is_asked_for_by_name() -> None:
    done = run_mdp("plan", EXAMPLE, "--set", "output=out", "--set", "exchange=coinbasexchange")
    assert done.returncode == 2
    assert "did you mean 'coinbaseexchange'?" in done.stderr
