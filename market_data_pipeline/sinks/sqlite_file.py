"""A SQLite file that a sink writes to: looking at its place, connecting, errors, and ending a connection at work."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from market_data_pipeline.errors import SinkError


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Errors of the database or file system inside come out as ``SinkError``: the task waits and tries again."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise SinkError(f"{path}: {error}") from error


def check_place(path: Path) -> None:
    """Raises ``SinkError`` where no database file can be at ``path``."""
    if path.is_dir():
        raise SinkError(f"{path}: is a folder; give a file in it")
    if not path.parent.is_dir():
        raise SinkError(f"{path}: the folder {path.parent} does not exist")


def connect(path: Path, fsync: bool, busy_seconds: float) -> sqlite3.Connection:
    """A connection in WAL mode, for whichever thread. ``fsync``: a commit waits for the disk. A lock is waited for up to
    ``busy_seconds``."""
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
    except BaseException:
        connection.close()
        raise
    return connection


async def close_when_idle(connection: sqlite3.Connection, at_work: threading.Lock) -> None:
    """Close ``connection`` when nobody holds ``at_work``. A thread goes on when the task that waits for it is cancelled: a
    connection that is closed under its hands ends the process, or holds the event loop for as long as a lock is waited for."""
    connection.interrupt()

    def close() -> None:
        with at_work:
            connection.close()

    await asyncio.to_thread(close)
