"""Ending a SQLite connection on which a thread may be at work."""

from __future__ import annotations

import asyncio
import sqlite3
import threading


async def close_when_idle(connection: sqlite3.Connection, at_work: threading.Lock) -> None:
    """Close ``connection`` when nobody holds ``at_work``. A thread goes on when the task that waits for it is cancelled: a
    connection that is closed under its hands ends the process, or holds the event loop for as long as a lock is waited for."""
    connection.interrupt()

    def close() -> None:
        with at_work:
            connection.close()

    await asyncio.to_thread(close)
