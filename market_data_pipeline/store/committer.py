"""Group commit: commits of a worker's tasks that come while others are under way go to the server together.

Each is a script of its own, atomic by itself; what they share is the way there: one write, one wake-up of the server and
one answer, which cost more than a small commit does. A commit that comes alone goes at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from market_data_pipeline.store.client import Client, Script, cancel_and_wait
from market_data_pipeline.store.line import Command, Line, size_of

log = logging.getLogger(__name__)

_TOGETHER = 16
"""Commits in one go, at most."""
_TOGETHER_BYTES = 2 * 1024 * 1024
"""Bytes from which on no further one goes with them: what was lost on a slow link must be sent again."""
_COMPANY_SECONDS = 0.003
"""How long a commit waits for tasks that are about to step."""
_WAIT_MS = 1000


class _Call(NamedTuple):
    script: Script
    keys: list[str]
    args: list[Any]
    answer: asyncio.Future[list[Any]]


class Committer:
    """Shared by all tasks of one event loop that commit with so many ``replicas``. ``more``: whether tasks are about to step,
    whose commits may go with those that wait."""

    def __init__(self, client: Client, replicas: int = 0, more: Callable[[], bool] = lambda: False) -> None:
        self._client, self._line = client, Line(client)
        self._replicas, self._more = replicas, more
        self._waiting: list[_Call] = []
        self._hurry = False
        self._job: asyncio.Task[None] | None = None

    async def commit(self, script: Script, keys: list[str], args: list[Any], hurry: bool = False) -> list[Any]:
        """What the script answers, once the replicas have it too. ``hurry``: do not wait for others to come along. Errors come
        out as they are; when the connection was lost, nobody knows whether the commit was made: it must be sent again."""
        call = _Call(script, keys, args, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        self._hurry |= hurry
        if self._job is None or self._job.done():
            self._job = asyncio.create_task(self._run(), name="committer")
        return await call.answer

    async def aclose(self) -> None:
        """Stop; whoever still waits is cancelled."""
        if self._job is not None:
            await cancel_and_wait(self._job)
        await self._line.aclose()
        for call in self._waiting:
            call.answer.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            latest = loop.time() + _COMPANY_SECONDS
            while self._may_wait() and loop.time() < latest:  # noqa: ASYNC110 - each turn of the loop lets one of them step
                await asyncio.sleep(0)
            self._hurry = False
            calls = self._next()
            try:
                answers = await self._send(calls)
            except Exception as error:  # the way there: it concerns all of them
                answers = [error] * len(calls)
            except asyncio.CancelledError:
                for call in calls:
                    call.answer.cancel()
                raise
            for call, answer in zip(calls, answers, strict=True):
                if call.answer.done():  # its task was cancelled
                    continue
                if isinstance(answer, Exception):
                    call.answer.set_exception(answer)
                else:
                    call.answer.set_result(answer)

    def _next(self) -> list[_Call]:
        """Those that go now: some, as long as they are not large."""
        calls: list[_Call] = []
        size = 0
        while self._waiting and len(calls) < _TOGETHER and (not calls or size < _TOGETHER_BYTES):
            calls.append(self._waiting.pop(0))
            size += size_of(calls[-1].args)
        return calls

    def _may_wait(self) -> bool:
        return len(self._waiting) < _TOGETHER and not self._hurry and self._more()

    async def _send(self, calls: list[_Call]) -> list[Any]:
        """Send them, and wait until what was made is on so many replicas that a failover to one of them keeps it. WAIT is
        about the writes of its own connection: when that is lost, all must be sent again, and duplicates write their ids
        again."""
        answers = await self._send_once(calls)
        made = any(isinstance(answer, list) and answer[0] in (b"OK", b"DUP") for answer in answers)
        told = False
        while self._replicas and made:
            (replicas,) = await self._line.ask_again(("WAIT", self._replicas, _WAIT_MS))
            if isinstance(replicas, Exception):
                raise replicas
            if replicas >= self._replicas:
                break
            if not told:
                log.warning("waiting for %d replicas to have the commits", self._replicas)
                told = True
        return answers

    async def _send_once(self, calls: list[_Call]) -> list[Any]:
        commands: list[Command] = [
            ("EVALSHA", await call.script.sha(self._client), len(call.keys), *call.keys, *call.args) for call in calls
        ]
        answers = await self._line.ask(*commands)
        for i, call in enumerate(calls):
            if isinstance(answers[i], NoScriptError):  # flushed, or another server: the text itself cannot be forgotten
                answers[i : i + 1] = await self._line.ask_again(("EVAL", call.script.text, *commands[i][2:]))
        return answers
