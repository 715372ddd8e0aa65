"""Best bid and offer into a SQL store: one row per change, whoever dies on the way.

    mdp run examples/quotes_to_store.py --workers 2 --set output=OUT
    mdp run examples/quotes_to_store.py --workers 2 --set url=postgresql://user:password@host/database

Without ``url`` the quotes go to the SQLite file ``OUT/quotes.sqlite``; with it, to PostgreSQL (extra postgres), whose table
``quotes`` is made if it is missing. A password is better kept out of the command line: libpq also reads PGPASSWORD and
~/.pgpass.
"""

from pathlib import Path

from market_data_pipeline import Pipeline, PostgresStore, SqliteStore, Synthetic
from market_data_pipeline.sinks.base import Sink


def store(url: str | None, output: Path | None) -> Sink:
    """The store that was asked for."""
    if url is not None:
        return PostgresStore(url, tables=("quotes",))
    folder = output or Path()
    folder.mkdir(parents=True, exist_ok=True)
    return SqliteStore(folder / "quotes.sqlite", tables=("quotes",))


def pipeline(output: Path | None, url: str | None, items: int = 200_000) -> Pipeline:
    source = Synthetic(symbols=100, items=items, kinds=("quote",), disorder=0.05, seed=7)
    return Pipeline("quotes").source(source).key_by("symbol").sink(store(url, output), name="store")
