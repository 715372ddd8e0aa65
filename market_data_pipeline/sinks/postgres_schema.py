"""Tables in PostgreSQL: the statements that make, look at and fill them, and what is wrong with tables that are there.

No statement is run here. Names become identifiers through ``psycopg.sql``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from psycopg import sql

from market_data_pipeline.sinks.sql_schema import GENERATION, JOB, TIMES, Kind, Table

_ACCEPTED = {
    "text": ("text", "character varying"),
    "numeric": ("numeric", "double precision"),
    "bigint": ("bigint", "numeric"),
    "timestamptz": ("timestamp with time zone",),
    "boolean": ("boolean",),
}
"""Types of columns that will do, in the server's words."""

LOOK = """
SELECT c.relname, c.relkind,
  (SELECT jsonb_object_agg(a.attname, jsonb_build_array(format_type(a.atttypid, NULL),
      a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''))
   FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  (SELECT jsonb_agg((SELECT jsonb_agg(k.attname) FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS u(num, place)
      JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = u.num WHERE u.place <= i.indnkeyatts))
   FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
     AND i.indpred IS NULL AND i.indexprs IS NULL),
  ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) AS p WHERE NOT has_table_privilege(c.oid, p))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
"""The tables that are there: name, kind, {column: [type, must be given]}, unique keys, rights that are missing."""

SCHEMA = """
SELECT has_schema_privilege(n.oid, 'USAGE'), has_schema_privilege(n.oid, 'CREATE')
FROM pg_namespace n WHERE n.nspname = %s
"""

DATABASE = "SELECT has_database_privilege(current_database(), 'CREATE')"

TIMESCALE = """
SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'timescaledb'
"""

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('market-data-pipeline tables', 0))"
"""Several tasks begin at once; without it, two that make the same table would fail."""


class Found(NamedTuple):
    """A row of :data:`LOOK`."""

    name: str
    kind: str
    columns: Mapping[str, tuple[str, bool]]
    keys: Iterable[Iterable[str]] | None
    rights: Iterable[str]


def flaws(found: Found, table: Table) -> Iterator[str]:
    """Why ``found`` cannot be used as ``table``."""
    if found.kind not in ("r", "p"):
        yield f"table {table.name}: a view or a foreign table has that name; an ordinary table is wanted"
        return
    there = found.columns or {}
    wanted = table.columns()
    for column in wanted:
        if column.name not in there:
            yield f"table {table.name}: found no column {column.name!r}, wanted one of type {column.type}"
        elif there[column.name][0] not in _ACCEPTED[column.type]:
            allowed = " or ".join(_ACCEPTED[column.type])
            yield f"table {table.name}: column {column.name!r} is of type {there[column.name][0]}, wanted {allowed}"
    names = {column.name for column in wanted}
    for name, (_, needed) in there.items():
        if needed and name not in names:
            yield f"table {table.name}: column {name!r} is NOT NULL without a default, and nothing is written to it"
    if set(table.key) not in [set(key) for key in found.keys or ()]:
        key = ", ".join(table.key)
        yield f"table {table.name}: found no unique key on ({key}), wanted one, neither partial nor deferrable"
    missing = [right for right in found.rights if right != "UPDATE" or table.replaced]
    if missing:
        yield f"table {table.name}: this user has no right to {', '.join(missing)}"


def _names(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def create(schema: str, table: Table) -> sql.Composed:
    """The table, unless it is there. Text that identifies is compared by its bytes: it is no one's language, and faster."""
    columns = []
    for column in table.columns():
        kind = 'text COLLATE "C"' if column.type == "text" and column.name in table.key else column.type
        null = " NOT NULL" if column.required else ""
        columns.append(sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(kind + null)))
    return sql.SQL("CREATE TABLE IF NOT EXISTS {} ({}, PRIMARY KEY ({}))").format(
        sql.Identifier(schema, table.name), sql.SQL(", ").join(columns), _names(table.key)
    )


def hypertable(extension: str, schema: str, table: Table) -> sql.Composed:
    """Make the table one of TimescaleDB's, which is in the schema ``extension``."""
    name = sql.Identifier(schema, table.name).as_string()
    return sql.SQL("SELECT {}({}::regclass, {}, if_not_exists => true, migrate_data => true)").format(
        sql.Identifier(extension, "create_hypertable"), sql.Literal(name), sql.Literal(table.time)
    )


class Statements(NamedTuple):
    """What a step runs for one table."""

    stage: sql.Composed
    copy: sql.Composed
    upsert: sql.Composed
    empty: sql.Composed

    @classmethod
    def of(cls, schema: str, table: Table) -> Statements:
        staging = sql.Identifier(f"_mdp_{table.name}")
        fields = [(f"{name}_ns" if kind in TIMES else name, kind) for name, kind in table.fields]
        columns = [sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(_STAGED[kind])) for name, kind in fields]
        return cls(
            sql.SQL("CREATE TEMPORARY TABLE IF NOT EXISTS {} ({}) ON COMMIT DELETE ROWS").format(
                staging, sql.SQL(", ").join(columns)
            ),
            sql.SQL("COPY {} ({}) FROM STDIN").format(staging, _names(name for name, _ in fields)),
            _upsert(schema, table, staging),
            sql.SQL("DELETE FROM {}").format(staging),
        )


_STAGED = {
    Kind.TEXT: 'text COLLATE "C"',
    Kind.NUMBER: "numeric",
    Kind.MAYBE: "numeric",
    Kind.WHOLE: "bigint",
    Kind.FLAG: "boolean",
    Kind.TIME: "bigint",
    Kind.SEEN: "bigint",
}

_MOMENT = (
    "timestamptz 'epoch' + {0} / 3600000000000 * interval '1 hour'"
    " + mod({0}, 3600000000000) / 1000 * interval '1 microsecond'"
)
"""Exact over all of 64 bits: the product of an interval is a float, and hours in microseconds have zeros at their end."""


def _upsert(schema: str, table: Table, staging: sql.Identifier) -> sql.Composed:
    """Rows are sorted by their key, so that writers of the same rows lock them in the same order."""
    times = {name for name, kind in table.fields if kind in TIMES}
    seen = {name for name, kind in table.fields if kind is Kind.SEEN}
    picked = [_picked(column.name, times, seen) for column in table.columns()]
    key = [_sorted(name, times) for name in table.key if not (name in times and f"{name}_ns" in table.key)]
    newest = sql.SQL(", revision DESC") if table.replaced else sql.SQL("")
    return sql.SQL(
        "INSERT INTO {} AS present ({}) SELECT DISTINCT ON ({}) {} FROM {} ORDER BY {}{}, ctid ON CONFLICT ({}) DO {}"
    ).format(
        sql.Identifier(schema, table.name), _names(column.name for column in table.columns()),
        sql.SQL(", ").join(key), sql.SQL(", ").join(picked), staging, sql.SQL(", ").join(key), newest,
        _names(table.key), _replacement(table) if table.replaced else sql.SQL("NOTHING"),
    )  # fmt: skip


def _picked(name: str, times: set[str], seen: set[str]) -> sql.Composable:
    if name in (JOB, GENERATION):
        return sql.SQL("%s::text") if name == JOB else sql.SQL("%s::bigint")
    if name not in times:
        return sql.Identifier(name)
    source = sql.Identifier(f"{name}_ns")
    if name in seen:
        source_or_none: sql.Composable = sql.SQL("nullif({}, 0)").format(source)
        return sql.SQL(_MOMENT).format(source_or_none)
    return sql.SQL(_MOMENT).format(source)


def _sorted(name: str, times: set[str]) -> sql.Composable:
    """What is equal exactly where the column will be."""
    return sql.SQL("({} / 1000)").format(sql.Identifier(f"{name}_ns")) if name in times else sql.Identifier(name)


def _replacement(table: Table) -> sql.Composed:
    names = [column.name for column in table.columns() if column.name not in table.key]
    changes = [sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names]
    return sql.SQL(
        "UPDATE SET {} WHERE CASE WHEN present.{job} = excluded.{job} AND present.{generation} <> excluded.{generation}"
        " THEN excluded.{generation} > present.{generation} ELSE excluded.revision > present.revision END"
    ).format(sql.SQL(", ").join(changes), job=sql.Identifier(JOB), generation=sql.Identifier(GENERATION))


def parameters(table: Table, job: str, generation: int) -> list[Any] | None:
    """What :attr:`Statements.upsert` is given."""
    return [job, generation] if table.replaced else None
