"""The PostgreSQL store on a real server: jobs that are broken, zombies, locks, deadlocks, bad rows, tables that are there."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tools.jobs import APPS, PATIENCE, ROOT, Job, generate, job, run_mdp, wait_until
from tools.oracle import plain_bars
from tools.postgres import PostgresServer, lock_table, query, shared_server

from market_data_pipeline import Bar, Frame, Gap, PostgresStore, Quote, Synthetic, Trade
from market_data_pipeline.errors import SinkError
from market_data_pipeline.frame import columns_from_rows
from market_data_pipeline.sinks.base import SinkContext
from market_data_pipeline.store.embedded import EmbeddedServer, free_port

SECOND = 1_000_000_000
START = 1_767_364_200 * SECOND
APP = APPS / "store_job.py"
Open = Callable[..., Awaitable[PostgresStore]]


@pytest.fixture(scope="session")
def postgres() -> PostgresServer:
    return shared_server()


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as made:
        yield made


@pytest.fixture
def rejected() -> list[tuple[Any, str]]:
    return []


@pytest.fixture
async def opened(url: str, rejected: list[tuple[Any, str]]) -> AsyncIterator[Open]:
    """Opens sinks, which are closed afterwards."""
    sinks: list[PostgresStore] = []

    async def opening(generation: int = 1, job: str = "job", where: str = url, **options: Any) -> PostgresStore:
        sink = PostgresStore(where, **options).fresh()
        context = SinkContext(
            "out", job, generation=generation, reject=lambda item, reason: rejected.append((item, reason))
        )
        await sink.open(context, None)
        sinks.append(sink)
        return sink

    yield opening
    for sink in sinks:
        await sink.close()


async def put(sink: PostgresStore, *items: Any) -> None:
    await sink.write([Frame(list(items))])
    assert await sink.prepare(False) is None
    await sink.committed()


def trade(number: int, **more: Any) -> Trade:
    return Trade(f"S{number % 3}", START + number, START, 100 + number / 100, 1.5, "buy", number)._replace(**more)


def bar(revision: int = 0, close: float = 4.0, **more: Any) -> Bar:
    return Bar("A", START, START + SECOND, 1.0, 5.0, 0.5, close, 10.0, 2.0, 3, START, revision=revision)._replace(
        **more
    )


# --- jobs that are broken -------------------------------------------------------------------------------------------


def check_stored(url: str, items: int, rate: float) -> None:
    """The tables hold exactly what a plain loop finds."""
    source = Synthetic(symbols=50, items=items, rate=rate, event_rate=10_000, duplicates=0.05, disorder=0.1, seed=3)
    rows = asyncio.run(generate(source))
    wanted = {(row["symbol"], str(row["trade_id"])): row for row in reversed(rows)}
    assert len(wanted) < len(rows)
    names = ("price", "size", "side", "ts_event", "ts_recv")
    found = query(url, "SELECT symbol, trade_id, price, size, side, ts_event_ns, ts_recv_ns FROM trades")
    assert Counter((s, i, float(p), float(z), *rest) for s, i, p, z, *rest in found) == Counter(
        (*key, *(row[name] for name in names)) for key, row in wanted.items()
    )
    bars, _ = plain_bars(rows, SECOND)
    stored = query(url, 'SELECT symbol, ts_open_ns, "interval", open, high, low, close, volume, trade_count FROM bars')
    assert len(stored) == len(bars)
    for symbol, ts_open, interval, *values in stored:
        expected = bars[symbol, ts_open]
        assert interval == SECOND
        for name, value in zip(("open", "high", "low", "close", "volume", "trade_count"), values, strict=True):
            assert math.isclose(value, expected[name], rel_tol=1e-9), (symbol, ts_open, name)
    assert query(url, "SELECT count(*) FROM trades WHERE ts_event <> to_timestamp(ts_event_ns / 1000 / 1e6)") == [(0,)]


def stored(url: str) -> int:
    return int(query(url, "SELECT count(*) FROM trades")[0][0])


def until_more_is_stored(running: Job, url: str) -> None:
    """Or until there is no more: how much is left when a process has started depends on the machine."""
    before = stored(url)
    wait_until(lambda: stored(url) > before + 5_000 or running.state() == "finished", "the job to go on")


def running_store(running: Job, url: str) -> None:
    running.start("coordinator", "--partitions", "4", "--min-workers", "2")
    for name in ("w0", "w1"):
        running.start(name)
    wait_until(lambda: query(url, "SELECT to_regclass('trades')")[0][0], "the table")
    wait_until(lambda: stored(url) > 5_000, "some trades to be stored")


def test_a_server_killed_in_mid_write_loses_and_doubles_nothing(
    server: EmbeddedServer, postgres: PostgresServer, url: str, logs: Path
) -> None:
    arguments = ["--set", f"url={url}", "--set", "items=60000", "--set", "rate=20000"]
    with job(server.url, APP, logs, *arguments) as running:
        running_store(running, url)
        for _ in range(2):
            before = stored(url)
            postgres.kill()
            postgres.restart()
            wait_until(lambda least=before: stored(url) > least or running.state() == "finished", "the job to go on")
        running.wait()
        assert running.client.xlen(running.keys.dead_letters) == 0
        words = running.log("w0") + running.log("w1")
    assert "nothing is lost, trying again in 1 s" in words
    assert "secret-pw" not in words
    assert "postgresql://postgres:***@127.0.0.1" in words
    check_stored(url, 60_000, 20_000)


def test_killed_and_frozen_workers_lose_and_double_nothing(server: EmbeddedServer, url: str, logs: Path) -> None:
    arguments = ["--set", f"url={url}", "--set", "items=60000", "--set", "rate=20000"]
    with job(server.url, APP, logs, *arguments) as running:
        running_store(running, url)
        running.processes["w1"].kill()
        running.start("w2")
        until_more_is_stored(running, url)
        zombie = running.processes["w0"]
        zombie.send_signal(signal.SIGSTOP)
        running.start("w3")
        until_more_is_stored(running, url)
        zombie.send_signal(signal.SIGCONT)
        running.wait()
        assert running.client.xlen(running.keys.dead_letters) == 0
    check_stored(url, 60_000, 20_000)


async def test_a_zombie_neither_replaces_nor_adds(url: str, opened: Open) -> None:
    zombie, successor = await opened(1), await opened(2)
    await put(zombie, bar(0, 1.0), trade(1))
    await put(zombie, bar(5, 1.5))  # never committed: it cut its frames otherwise
    await put(successor, bar(1, 2.0), trade(1), trade(2))
    await put(zombie, bar(9, 9.0), trade(2, price=9.0))
    assert query(url, "SELECT revision, close FROM bars") == [(1, Decimal("2.0"))]
    assert query(url, "SELECT trade_id, price FROM trades ORDER BY 1") == [
        ("1", Decimal("100.01")),
        ("2", Decimal("100.02")),
    ]


# --- what is stored -------------------------------------------------------------------------------------------------


async def test_bars_are_replaced_by_a_higher_revision_only(url: str, opened: Open) -> None:
    sink = await opened()
    await put(sink, bar(2, 2.0), bar(0, 0.0), bar(1, 1.0), bar(2, 9.0))
    assert query(url, "SELECT revision, close FROM bars") == [(2, Decimal("2.0"))]
    await put(sink, bar(1, 1.0))
    await put(sink, bar(2, 8.0))
    assert query(url, "SELECT revision, close FROM bars") == [(2, Decimal("2.0"))]
    await put(sink, bar(3, 3.0, is_final=False))
    await put(await opened(7, "another job"), bar(0, 7.0))
    assert query(url, "SELECT revision, close, is_final FROM bars") == [(3, Decimal("3.0"), False)]


async def test_values_come_back_as_they_were(url: str, opened: Open, rejected: list[Any]) -> None:
    texts = ["A\tB", "A\nB", "\\N", "\\", "null", "", "é€𝄞", "A'\"; DROP TABLE trades; --", "\r\n", "\\t"]
    floats = [0.1, 1e-300, 1.7976931348623157e308, 5e-324, 123456789.123456789, -0.5, 1e16]
    sink = await opened()
    rows = [trade(i, symbol=text, conditions=text) for i, text in enumerate(texts)]
    rows += [trade(100 + i, symbol="F", price=value) for i, value in enumerate(floats)]
    await put(sink, *rows)
    await sink.write([Frame(columns_from_rows([row._replace(venue="columns") for row in rows])[0])])
    await sink.prepare(False)
    for venue in ("", "columns"):
        found = query(url, "SELECT symbol, conditions, price FROM trades WHERE venue = %s", [venue])
        assert Counter((s, c) for s, c, _ in found if s != "F") == Counter((t, t) for t in texts)
        assert {float(price) for symbol, _, price in found if symbol == "F"} == set(floats)
    await put(sink, trade(7, symbol="E", price="1.10000000000000000000000001", size="2.50", ts_recv=0))
    exact = query(url, "SELECT price::text, size::text, ts_recv, ts_recv_ns FROM trades WHERE symbol = 'E'")
    assert exact == [("1.10000000000000000000000001", "2.50", None, 0)]
    assert rejected == []


async def test_quotes_and_trades_without_ids_stay_apart(url: str, opened: Open) -> None:
    sink = await opened()
    quotes = [
        Quote("A", START + ns, START, 1.0, bid, 2.0, math.nan) for ns, bid in ((0, 1.0), (1, 1.0), (1, 2.0), (1, 2.0))
    ]
    trades = [Trade("A", START, START + ns, 1.5, size, "buy") for ns, size in ((0, 1.0), (1, 1.0), (1, 2.0), (1, 2.0))]
    await put(sink, *quotes, *trades, Gap("A", 5, 7, 3, START), Gap("A", 5, 7, 3, START), Gap("A", 9, 9, 1, 0))
    found = query(url, "SELECT ts_event_ns, bid_size, ask_size FROM quotes ORDER BY 1, 2")
    assert found == [(START, 1, None), (START + 1, 1, None), (START + 1, 2, None)]
    assert query(url, "SELECT trade_id FROM trades ORDER BY ts_recv_ns, size") == [
        (f"~{START}/{START}/1.5/1.0/buy/new/",),
        (f"~{START}/{START + 1}/1.5/1.0/buy/new/",),
        (f"~{START}/{START + 1}/1.5/2.0/buy/new/",),
    ]
    assert query(url, "SELECT first, ts_event IS NULL FROM gaps ORDER BY 1") == [(5, False), (9, True)]


async def test_times_are_exact_over_all_of_64_bits(url: str, opened: Open) -> None:
    times = [-(2**63) + 1000, -1_500, 0, 999, START + 123_456_789, 2**63 - 1]
    sink = await opened()
    await put(sink, *(trade(1, symbol=str(ts), ts_event=ts) for ts in times))
    found = query(url, "SELECT ts_event_ns, extract(epoch FROM ts_event) FROM trades")
    assert {ns: int(epoch * 1_000_000) for ns, epoch in found} == {ns: int(Decimal(ns) / 1000) for ns in times}


async def test_the_interval_may_be_given(url: str, opened: Open) -> None:
    sink = await opened(interval="1d", prefix="daily_", tables=("bars",))
    await put(sink, bar(ts_close=START + 3 * SECOND))
    assert query(url, 'SELECT "interval", ts_close_ns FROM daily_bars') == [(86_400 * SECOND, START + 3 * SECOND)]


# --- bad rows -------------------------------------------------------------------------------------------------------


async def test_bad_rows_are_refused_and_good_ones_stored(url: str, opened: Open, rejected: list[Any]) -> None:
    sink = await opened()
    query(url, "ALTER TABLE trades ADD CONSTRAINT sane CHECK (price < 1000)")
    query(url, "ALTER TABLE trades ALTER COLUMN size TYPE numeric(6, 2)")
    good = [trade(i) for i in range(3_000)]
    bad = [
        trade(5_001, price=2_000.0),
        trade(5_002, size=1e9),
        trade(5_003, symbol="x" * 20_000 + os.urandom(9_000).hex()),
    ]
    await put(sink, *good[:700], bad[0], *good[700:2_000], bad[1], bad[2], *good[2_000:], bar())
    assert stored(url) == len(good)
    assert query(url, "SELECT count(*) FROM bars") == [(1,)]
    assert [item for item, _ in rejected] == bad
    reasons = [reason for _, reason in rejected]
    assert all(reason.startswith("table trades: ") for reason in reasons)
    assert ["sane" in reasons[0], "numeric field overflow" in reasons[1], "index row" in reasons[2]] == [True] * 3
    await put(sink, trade(6_000))
    assert stored(url) == len(good) + 1


# --- others who hold rows -------------------------------------------------------------------------------------------


def waiting(url: str) -> bool:
    """Whether a session waits for a lock."""
    waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(query(url, waits))


async def until_waiting(url: str) -> None:
    await asyncio.to_thread(wait_until, lambda: waiting(url), "somebody to wait for a lock")


async def test_a_lock_slows_and_does_not_fail(url: str, opened: Open) -> None:
    sink = await opened()
    with lock_table(url, "trades"):
        step = asyncio.create_task(put(sink, trade(1)))
        await until_waiting(url)
        assert not step.done()
    await step
    assert stored(url) == 1


async def test_a_step_that_is_given_up_leaves_nothing(url: str, opened: Open) -> None:
    sink = await opened()
    with lock_table(url, "trades"):
        step = asyncio.create_task(put(sink, bar(), trade(1)))
        await until_waiting(url)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        await sink.close()
        assert not waiting(url)
    assert query(url, "SELECT (SELECT count(*) FROM trades), (SELECT count(*) FROM bars)") == [(0, 0)]


async def test_a_step_on_a_frozen_server_can_be_given_up(url: str, opened: Open, postgres: PostgresServer) -> None:
    """A process that is stopped keeps its connections: nothing but patience tells it from a slow one."""
    sink = await opened()
    with lock_table(url, "trades"):
        step = asyncio.create_task(put(sink, trade(1)))
        await until_waiting(url)
        with postgres.frozen():
            step.cancel()
            async with asyncio.timeout(PATIENCE):
                with pytest.raises((asyncio.CancelledError, SinkError)):
                    await step
                await sink.close()
    assert stored(url) == 0


WRITER = """
import asyncio, sys
from market_data_pipeline import Bar, Frame, PostgresStore, Trade
from market_data_pipeline.sinks.base import SinkContext
async def write():
    sink = PostgresStore(sys.argv[1])
    await sink.open(SinkContext("out"), None)
    await sink.write([Frame([Trade("S0", int(ts), 0, 9.0, 9.0, "", number) for number, ts in zip((0, 3), sys.argv[2:])])])
    await sink.prepare(False)
asyncio.run(write())
"""


async def test_a_frozen_zombie_does_not_hold_its_rows_for_ever(url: str, opened: Open) -> None:
    """It is frozen while its INSERT waits, holding a row; the INSERT then ends, and nobody is there to commit."""
    successor = await opened()
    where = f"{url}?options=-c%20idle_in_transaction_session_timeout%3D500ms"
    times = [str(trade(number).ts_event) for number in (0, 3)]
    with psycopg.connect(url) as other:
        insert(other, 3)
        zombie = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, where, *times, cwd=ROOT)
        try:
            await until_waiting(url)
            zombie.send_signal(signal.SIGSTOP)
            other.rollback()
            async with asyncio.timeout(PATIENCE):
                await put(successor, trade(0), trade(3))
        finally:
            zombie.kill()
            await zombie.wait()
    assert query(url, "SELECT trade_id, price FROM trades ORDER BY 1") == [("0", 100), ("3", Decimal("100.03"))]
    assert successor._session is not None
    session = await successor._session._connection.execute("SHOW idle_in_transaction_session_timeout")
    assert await session.fetchall() == [("10s",)], "where the address does not say"


INSERT = """INSERT INTO trades (venue, symbol, trade_id, ts_event, ts_event_ns, ts_recv_ns, price, size, side, conditions,
  action, ref_trade_id, phase)
SELECT '', 'S0', %s, timestamptz 'epoch' + %s * interval '1 microsecond', %s, 0, 1, 1, '', '', 'new', '', 'live'"""


def insert(connection: psycopg.Connection[Any], number: int) -> None:
    ts = trade(number).ts_event
    connection.execute(INSERT, [str(number), ts // 1000, ts])


async def test_a_deadlock_is_tried_again(url: str, opened: Open) -> None:
    sink = await opened(where=f"{url}?options=-c%20deadlock_timeout%3D1s")
    with psycopg.connect(url) as other:
        other.execute("SET deadlock_timeout = '20s'")
        insert(other, 6)  # S0, behind 3 in the order of keys
        step = asyncio.create_task(put(sink, trade(6), trade(3)))
        await until_waiting(url)
        await asyncio.to_thread(insert, other, 3)  # now each waits for the other; the store gives way
        other.commit()
        await step
    assert stored(url) == 2


async def test_a_serialization_failure_is_tried_again(url: str, opened: Open) -> None:
    sink = await opened(where=f"{url}?options=-c%20default_transaction_isolation%3Drepeatable%5C%20read")
    with psycopg.connect(url) as other:
        insert(other, 3)
        step = asyncio.create_task(put(sink, trade(0), trade(3)))
        await until_waiting(url)
        other.commit()
        await step
    assert stored(url) == 2


async def test_many_writers_of_the_same_rows_do_not_fail(url: str, opened: Open) -> None:
    sinks = await asyncio.gather(*(opened(n) for n in range(6)))  # all make the tables
    rows = [trade(i) for i in range(500)]
    orders = [rows[::-1] if n % 2 else rows for n in range(6)]
    await asyncio.gather(*(put(sink, *order) for sink, order in zip(sinks, orders, strict=True)))
    assert stored(url) == 500


# --- tables that are there ------------------------------------------------------------------------------------------

WRONG = [
    ("ALTER TABLE trades DROP COLUMN phase", "table trades: found no column 'phase', wanted one of type text"),
    (
        "ALTER TABLE trades ALTER ts_event TYPE timestamp",
        "column 'ts_event' is of type timestamp without time zone, wanted t",
    ),
    ("ALTER TABLE bars DROP CONSTRAINT bars_pkey", r"table bars: found no unique key on \(symbol, interval, ts_open\)"),
    ("ALTER TABLE trades ADD desk text NOT NULL", "table trades: column 'desk' is NOT NULL without a default"),
    ("DROP TABLE gaps; CREATE VIEW gaps AS SELECT 1", "table gaps: a view or a foreign table has that name"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
async def test_a_table_that_will_not_do_is_refused(url: str, opened: Open, change: str, message: str) -> None:
    await (await opened()).close()
    query(url, change)
    with pytest.raises(SinkError, match=message):
        PostgresStore(url).check()
    with pytest.raises(SinkError, match=message):
        await opened()


async def test_a_table_with_more_columns_and_another_key_is_used(url: str, opened: Open) -> None:
    await (await opened()).close()
    query(url, "ALTER TABLE trades ADD note text DEFAULT 'x', DROP CONSTRAINT trades_pkey, ALTER price TYPE float8")
    query(url, "CREATE UNIQUE INDEX ON trades (ts_event, venue, symbol, trade_id) INCLUDE (price)")
    PostgresStore(url, create=False).check()
    await put(await opened(create=False), trade(1), trade(1))
    assert query(url, "SELECT note, price FROM trades") == [("x", 100.01)]


async def test_what_is_missing_is_told_or_made(url: str, opened: Open) -> None:
    with pytest.raises(SinkError, match="there is no table 'trades' in the schema 'public'; make it, or create=True"):
        PostgresStore(url, create=False).check()
    PostgresStore(url, "market").check()
    assert query(url, "SELECT 1 FROM pg_namespace WHERE nspname = 'market'") == [], "looking makes nothing"
    await put(await opened(schema="market"), trade(1))
    assert query(url, "SELECT count(*) FROM market.trades") == [(1,)]


async def test_missing_rights_are_told(url: str, opened: Open, postgres: PostgresServer) -> None:
    await (await opened()).close()
    query(url, "DROP ROLE IF EXISTS reader")
    query(url, "CREATE ROLE reader LOGIN")
    query(url, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    reader = url.replace("postgres:secret-pw", "reader")
    with pytest.raises(SinkError, match="table trades: this user has no right to INSERT"):
        PostgresStore(reader, tables=("trades",)).check()
    with pytest.raises(SinkError, match="this user may not create tables in the schema 'public'"):
        PostgresStore(reader, prefix="new_").check()
    with pytest.raises(SinkError, match="this user may not create the schema 'other'"):
        PostgresStore(reader, "other").check()
    query(url, "DROP OWNED BY reader; DROP ROLE reader")


def test_a_server_that_is_away_is_told_without_the_password() -> None:
    away = PostgresStore(f"postgresql://me:secret-pw@127.0.0.1:{free_port()}/db")
    with pytest.raises(SinkError, match=r"^postgresql://me:\*\*\*@127.0.0.1:\d+/db: .*refused") as refused:
        away.check()
    assert "secret-pw" not in str(refused.value)


# --- the example ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["sqlite", "postgres"])
def test_the_quotes_example_stores_all_quotes(url: str, tmp_path: Path, to: str) -> None:
    given = ["--set", f"output={tmp_path / 'out'}"] if to == "sqlite" else ["--set", f"url={url}"]
    done = run_mdp("run", "examples/quotes_to_store.py", "--workers", "2", "--set", "items=20000", "--json", *given)
    assert done.returncode == 0, done.stderr
    assert "secret-pw" not in done.stdout + done.stderr
    statement = (
        "SELECT count(*), count(DISTINCT update_id), min(ask - bid), max(ask - bid) FROM quotes WHERE phase = 'live'"
    )
    if to == "postgres":
        found = query(url, statement)
    else:
        with closing(sqlite3.connect(tmp_path / "out" / "quotes.sqlite")) as connection:
            found = connection.execute(statement).fetchall()
    rows, ids, *spreads = found[0]
    assert (rows, ids) == (20_000, 20_000)
    assert all(0 < spread < 1 for spread in spreads)


# --- TimescaleDB ----------------------------------------------------------------------------------------------------

STUB = """CREATE TABLE @extschema@.made (relation text, time_column text);
CREATE FUNCTION @extschema@.create_hypertable(relation regclass, time_column_name name, if_not_exists boolean = false,
  migrate_data boolean = false) RETURNS void LANGUAGE sql
AS $$ INSERT INTO @extschema@.made VALUES (relation::text, time_column_name) $$;
"""


@pytest.fixture
def with_stub() -> Iterator[str]:
    """A database with an extension of TimescaleDB's name, which only notes what it is asked for."""
    server = PostgresServer("fsync=off")
    if server.version < 18:
        server.stop()
        pytest.skip("this PostgreSQL finds extensions in its own folder only")
    folder = server.folder / "share" / "extension"
    folder.mkdir(parents=True)
    (folder / "timescaledb.control").write_text("default_version = '0'\nrelocatable = false\n")
    (folder / "timescaledb--0.sql").write_text(STUB)
    server.set("extension_control_path", f"{folder.parent}:$system")
    server.start()
    try:
        with server.database() as made:
            query(made, "CREATE SCHEMA ts")
            query(made, "CREATE EXTENSION timescaledb SCHEMA ts")
            yield made
    finally:
        server.stop()


async def test_new_tables_become_hypertables(with_stub: str, opened: Open) -> None:
    await put(await opened(where=with_stub), trade(1))
    await opened(where=with_stub)
    found = query(with_stub, "SELECT * FROM ts.made ORDER BY 1")
    assert found == [("bars", "ts_open"), ("quotes", "ts_event"), ("trades", "ts_event")]
