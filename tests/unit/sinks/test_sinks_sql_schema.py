"""The tables of the SQL stores: as the page prints them, and one schema for both."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from market_data_pipeline.sinks.postgres_schema import Found, Statements, create, flaws
from market_data_pipeline.sinks.sql_schema import TABLES, Table
from market_data_pipeline.sinks.sqlite_store import SqliteStore

PAGE = Path(__file__).resolve().parents[3] / "docs" / "connectors.md"
TYPES = {
    "text": "text",
    "numeric": "numeric",
    "bigint": "bigint",
    "timestamptz": "timestamp with time zone",
    "boolean": "boolean",
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_the_page_prints_the_tables(table: Table) -> None:
    statement = create("public", table).as_string().replace('"public".', "").replace("IF NOT EXISTS ", "")
    printed = re.sub(r"\s+", " ", PAGE.read_text()).replace("( ", "(").replace(" )", ")")
    assert f"{statement};" in printed


def test_names_are_quoted() -> None:
    odd = TABLES["bars"]._replace(name='x"; DROP TABLE y; --')
    for statement in (create('s"', odd), *Statements.of('s"', odd)):
        assert 'x"";' in statement.as_string()
        assert 'x";' not in statement.as_string().replace('x"";', "")


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
async def test_both_stores_have_the_same_columns_and_keys(table: Table, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "x.db")
    store._set_up().close()
    with closing(sqlite3.connect(store.path)) as connection:
        found = connection.execute('SELECT name, "notnull", pk FROM pragma_table_info(?)', (table.name,)).fetchall()
    assert [(name, bool(needed)) for name, needed, _ in found] == [(c.name, c.required) for c in table.columns()]
    assert [name for name, _, pk in sorted(found, key=lambda row: row[2]) if pk] == list(table.key)


def test_every_flaw_is_told() -> None:
    table = TABLES["gaps"]
    there = {column.name: (TYPES[column.type], False) for column in table.columns()}
    good = Found("gaps", "r", there, [["id"], list(table.key)[::-1]], [])
    assert list(flaws(good, table)) == []
    assert list(flaws(good._replace(rights=["UPDATE"]), table)) == [], "gaps are never updated"
    bad = good._replace(
        columns={**there, "first": ("integer", False), "id": ("bigint", True)}, keys=None, rights=["INSERT"]
    )
    assert list(flaws(bad, table)) == [
        "table gaps: column 'first' is of type integer, wanted bigint or numeric",
        "table gaps: column 'id' is NOT NULL without a default, and nothing is written to it",
        "table gaps: found no unique key on (symbol, first, last, ts_event_ns), wanted one, neither partial nor deferrable",
        "table gaps: this user has no right to INSERT",
    ]
