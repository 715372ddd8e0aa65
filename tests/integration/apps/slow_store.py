"""Trades at a steady rate into a PostgreSQL store."""

from market_data_pipeline import Pipeline, PostgresStore, Synthetic


def pipeline(url: str, items: int, rate: float) -> Pipeline:
    source = Synthetic(symbols=20, items=items, rate=rate)
    return Pipeline("slow-store").source(source).key_by("symbol").sink(PostgresStore(url), name="store")
