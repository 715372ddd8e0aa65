"""A SQLite file that a sink writes to: looking at its place, connecting, errors, committing, and ending a connection at work.

SQLite goes on writing to a file that was removed or moved away, and says nothing: what is committed then is nowhere. So a sink
remembers which file it has open, and commits by :func:`commit`.
"""

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


FileId = tuple[int, int]
"""Device and inode. No other file gets them while this one is open."""


def file_at(path: Path) -> FileId:
    """The file that is at ``path`` now. Raises ``FileNotFoundError`` and other ``OSError``."""
    found = path.stat()
    return found.st_dev, found.st_ino


def commit(connection: sqlite3.Connection, path: Path, opened: FileId) -> None:
    """End the transaction, if ``opened`` is the file at ``path`` still. Looks before it, so that nothing gets into a file that
    was moved, and behind it, so that nothing counts as stored that went to a file that is gone. Raises ``SinkError``."""
    _check_there(path, opened)
    connection.execute("COMMIT")
    _check_there(path, opened)


def _check_there(path: Path, opened: FileId) -> None:
    try:
        there = file_at(path)
    except FileNotFoundError:
        raise SinkError(f"{path}: the database was removed or moved while it was open") from None
    if there != opened:
        raise SinkError(
            f"{path}: another file is there than the one that was opened; the database was moved or replaced"
        )


async def close_when_idle(connection: sqlite3.Connection, at_work: threading.Lock) -> None:
    """Close ``connection`` when nobody holds ``at_work``. A thread goes on when the task that waits for it is cancelled: a
    connection that is closed under its hands ends the process, or holds the event loop for as long as a lock is waited for."""
    connection.interrupt()

    def close() -> None:
        with at_work:
            connection.close()

    await asyncio.to_thread(close)
