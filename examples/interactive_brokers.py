"""Trades and quotes of Interactive Brokers, tick by tick, into a SQLite file (or PostgreSQL), until Ctrl-C.

    mdp run examples/interactive_brokers.py --set output=OUT --set symbols=AAPL --set port=4001

Needs a running TWS or IB Gateway that allows API connections (port 4001 or 4002 of the gateway, 7496 or 7497 of TWS), and the
extra ``ib``. An account has few tick-by-tick subscriptions: a symbol's trades and its quotes are two.
"""

from pathlib import Path

from market_data_pipeline import InteractiveBrokers, Pipeline, PostgresStore, ProviderSource, SqliteStore


def pipeline(
    output: Path, url: str | None, symbols: str = "AAPL", host: str = "127.0.0.1", port: int = 4001
) -> Pipeline:
    feed = ProviderSource(InteractiveBrokers(host=host, port=port), symbols.split(","), ("trade", "quote"))
    output.mkdir(parents=True, exist_ok=True)
    store = PostgresStore(url) if url else SqliteStore(output / "ticks.sqlite")
    return Pipeline("interactive-brokers").source(feed).key_by("symbol").sink(store, name="store")
