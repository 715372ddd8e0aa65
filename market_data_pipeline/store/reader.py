"""One blocking XREAD for all tasks of a worker.

Tasks ask for entries behind their cursors; all that are waiting share one ``XREAD BLOCK``. A task that asks while the
command is already blocked interrupts it with ``CLIENT UNBLOCK``, so that its streams join the next one. Reading has no side
effects: whatever is not committed can be read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from market_data_pipeline.runtime.contract import MAX_ENTRIES, Entry
from market_data_pipeline.store.client import cancel_and_wait, until_done
from market_data_pipeline.store.committer import Committer
from market_data_pipeline.store.line import Line

log = logging.getLogger(__name__)

_BLOCK_MS = 1000
_REPLY_BYTES = 32 * 1024 * 1024
"""How large the answer to one command should be, about."""
_ENTRY_BYTES = 64 * 1024
"""What an entry is taken to weigh at least: small ones may be followed by larger ones."""


class _Waiter:
    __slots__ = ("cursors", "future")

    def __init__(self, cursors: Mapping[str, str]) -> None:
        self.cursors = cursors
        self.future: asyncio.Future[dict[str, list[Entry]]] = asyncio.get_running_loop().create_future()


class StreamReader:
    """Shared by all tasks of one event loop, and with it the lock ``marking`` (see ``TaskStore``) and the ``committer``, which
    waits for so many ``replicas``. Use as an async context manager."""

    def __init__(self, client: redis.asyncio.Redis, replicas: int = 0) -> None:
        self.marking = asyncio.Lock()
        self.committer = Committer(client, replicas, lambda: self._served > 0)
        self._reading, self._bell = Line(client), Line(client)  # the one that blocks, and what unblocks it
        self._ringing = asyncio.Lock()
        self._waiters: list[_Waiter] = []
        self._wanted = asyncio.Event()
        self._client_id: int | None = None
        self._blocked = False
        self._job: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._entry_bytes = float(_ENTRY_BYTES)
        self._turn, self._served = asyncio.Lock(), 0

    async def __aenter__(self) -> StreamReader:
        self._job = asyncio.create_task(self._run(), name="stream-reader")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._job is not None:
            await cancel_and_wait(self._job)
        await self.committer.aclose()
        await self._reading.aclose()
        await self._bell.aclose()
        for waiter in self._waiters:
            waiter.future.cancel()

    async def read(self, cursors: Mapping[str, str], timeout: float) -> dict[str, list[Entry]]:
        """Entries behind ``cursors`` (stream key -> id), up to 16 a stream; empty after ``timeout`` seconds.

        Readers that are served together go on one by one, with a look at the sockets between them: else a source whose commit
        was answered would wait for a step of each of them, and with many partitions their frames would become few and small.
        """
        if self._error is not None:
            raise self._error
        waiter = _Waiter(cursors)
        self._waiters.append(waiter)
        self._wanted.set()
        if self._blocked:
            await self._interrupt()
        try:
            async with asyncio.timeout(timeout):
                found = await waiter.future
        except TimeoutError:
            return {}
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        self._served += 1
        try:
            async with self._turn:
                await asyncio.sleep(0)
        finally:
            self._served -= 1
        return found

    async def _interrupt(self) -> None:
        self._blocked = False
        try:
            async with self._ringing:
                if self._client_id is not None:  # else the read that was blocked has failed while this waited its turn
                    await self._bell.ask(("CLIENT", "UNBLOCK", self._client_id))
        except (RedisError, OSError, RuntimeError) as error:
            log.debug("unblock: %s", error)  # the blocked read ends by itself within a second

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            if not self._waiters:
                self._wanted.clear()
                continue
            try:
                found = await until_done(self._xread, "reading streams")
            except Exception as error:  # no right to read, say: every reader must hear of it
                self._error = error
                for waiter in self._waiters:
                    waiter.future.set_exception(error)
                return
            for waiter in list(self._waiters):
                mine = {key: found[key] for key in waiter.cursors if key in found}
                if mine and not waiter.future.done():
                    self._waiters.remove(waiter)
                    waiter.future.set_result(mine)

    def _cursors(self) -> dict[str, str]:
        return {key: cursor for waiter in self._waiters for key, cursor in waiter.cursors.items()}

    async def _xread(self) -> dict[str, list[Entry]]:
        try:
            if self._client_id is None:
                self._client_id = int(await self._asked("CLIENT", "ID"))
            cursors = self._cursors()
            if not cursors:  # those who waited gave up meanwhile
                return {}
            count = max(1, min(MAX_ENTRIES, int(_REPLY_BYTES / (self._entry_bytes * len(cursors)))))
            self._blocked = True
            reply = await self._asked(
                "XREAD", "COUNT", count, "BLOCK", _BLOCK_MS, "STREAMS", *cursors, *cursors.values()
            )
        except Exception:
            self._client_id = None
            # perhaps the answer was too large for its time
            self._entry_bytes = min(2 * self._entry_bytes, _REPLY_BYTES)
            raise
        finally:
            self._blocked = False
        found = _entries(reply)
        self._weigh([len(entry.blob) for entries in found.values() for entry in entries])
        return found

    async def _asked(self, *command: Any) -> Any:
        (answer,) = await self._reading.ask(command)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _weigh(self, sizes: list[int]) -> None:
        """What an entry may weigh: as much as the largest, which is forgotten slowly."""
        self._entry_bytes = max(_ENTRY_BYTES, *sizes, 0.9 * self._entry_bytes) if sizes else self._entry_bytes


def _entries(reply: Any) -> dict[str, list[Entry]]:
    """From the answer in RESP2: ``[[key, [[id, [field, value]], ...]], ...]``."""
    return {
        key.decode(): [Entry(entry_id.decode(), fields[1]) for entry_id, fields in entries]
        for key, entries in reply or ()
    }
