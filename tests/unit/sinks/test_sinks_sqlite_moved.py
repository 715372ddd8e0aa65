"""A SQLite file that is removed, moved or replaced under a sink: SQLite writes on, the sink must not say that it is stored."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from market_data_pipeline import CircuitRule, Frame, GuardedSink, Pipeline, Source, SqliteStore, SqliteTable, Trade
from market_data_pipeline.errors import SinkError
from market_data_pipeline.runtime.local import DagRuntime
from market_data_pipeline.sinks.base import Sink, SinkContext
from market_data_pipeline.sources.base import Batch

SINKS: list[Callable[[Path], Sink]] = [SqliteStore, lambda path: SqliteTable(path, "trades", ("symbol", "trade_id"))]
Make = Callable[[Path], Sink]


def trade(at: int) -> Trade:
    return Trade("A", at, 0, 1.0, 1.0, "", at)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "db.sqlite"


@pytest.fixture(params=SINKS, ids=["store", "table"])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def sink(make: Make, path: Path) -> AsyncIterator[Sink]:
    opened = make(path).fresh()
    await opened.open(SinkContext("out"), None)
    await put(opened, trade(1))
    yield opened
    await opened.close()


async def put(sink: Sink, *items: Any) -> None:
    await sink.write([Frame(list(items))])
    await sink.prepare(False)


def stored(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as reader:
        return [int(row[0]) for row in reader.execute("SELECT trade_id FROM trades ORDER BY trade_id")]


async def test_a_folder_that_was_removed_is_an_error(sink: Sink, path: Path) -> None:
    shutil.rmtree(path.parent)
    with pytest.raises(SinkError, match=r"db\.sqlite: the database was removed or moved while it was open"):
        await put(sink, trade(2))


async def test_nothing_gets_into_a_file_that_was_moved(sink: Sink, path: Path, tmp_path: Path) -> None:
    shutil.move(path.parent, tmp_path / "elsewhere")
    with pytest.raises(SinkError, match="removed or moved"):
        await put(sink, trade(2))
    await sink.close()
    assert stored(tmp_path / "elsewhere" / path.name) == [1]


async def test_another_file_at_its_place_is_an_error_and_is_used_when_opened_again(
    sink: Sink, path: Path, make: Make
) -> None:
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    other = make(path).fresh()
    await other.open(SinkContext("out", generation=1), None)
    await put(other, trade(3))
    with pytest.raises(SinkError, match="another file is there than the one that was opened"):
        await put(sink, trade(2))
    await sink.close()
    await put(other, trade(4))
    await other.close()
    assert stored(path) == [3, 4]


async def test_what_was_committed_to_a_file_that_goes_meanwhile_is_not_stored(
    sink: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Removing(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if sql == "COMMIT":
                shutil.rmtree(path.parent)
            return super().execute(sql, *args)

    await sink.close()
    monkeypatch.setattr(
        "market_data_pipeline.sinks.sqlite_file.sqlite3.connect",
        Removing,
    )
    sink.create = False  # the tables are there: no commit at opening
    await sink.open(SinkContext("out"), None)
    with pytest.raises(SinkError, match="removed or moved"):
        await put(sink, trade(2))


async def test_the_circuit_counts_it(make: Make, path: Path) -> None:
    sink = GuardedSink(make(path), CircuitRule(failure_rate=0.5, min_calls=2)).fresh()
    await sink.open(SinkContext("out"), None)
    shutil.rmtree(path.parent)
    for _ in range(2):
        with pytest.raises(SinkError, match="removed or moved"):
            await put(sink, trade(1))
    with pytest.raises(SinkError, match=r"circuit open for 30 s: .*removed or moved"):
        await put(sink, trade(1))
    await sink.close()


class Removed(Source):
    """Trades; before the second batch the folder goes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read = 0

    async def read(self) -> Batch | None:
        self._read += 1
        if self._read == 2:
            shutil.rmtree(self.folder)
        return Batch([trade(self._read)], {}) if self._read < 4 else None


async def test_a_run_in_this_process_fails(make: Make, path: Path) -> None:
    dag = Pipeline("p").source(Removed(path.parent)).sink(make(path)).build()
    with pytest.raises(SinkError, match=r"removed or moved|unable to open|does not exist"):
        await DagRuntime(dag).start()
