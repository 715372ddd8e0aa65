"""A user's ``async`` function on each item, many at a time: enrichment over the network.

============================================== ========================================================================
``AsyncMap(lookup, concurrency=2)``            output
============================================== ========================================================================
1, 2, 3; the answer to 1 comes last            ``lookup(1), lookup(2), lookup(3)``; 3 was asked when 2 was answered
``ordered=False``                              ``lookup(2), lookup(3), lookup(1)``
2 has no answer in time, three times           ``lookup(1), lookup(3)``; 2 goes to the dead letters
============================================== ========================================================================
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, ClassVar, Literal, TypeVar

from tenacity import AsyncRetrying, RetryCallState, stop_after_attempt, wait_random_exponential

from market_data_pipeline.durations import Duration, wall_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Frame, to_rows
from market_data_pipeline.operators.base import AsyncOperator, OperatorContext

T = TypeVar("T")


class AsyncMap(AsyncOperator):
    """``await fn(item)`` for each item, at most ``concurrency`` at a time in a task.

    ``ordered``: results stand where their items stood; otherwise as they come, but never before or behind those of another
    frame, so a watermark overtakes nothing. An attempt may take ``timeout``; one that takes longer or raises is repeated up to
    ``retries`` times (counted, ``retried``) after a random pause of at most ``backoff``, twice as long each time, up to
    ``backoff_max`` (full jitter: Brooker, "Exponential Backoff And Jitter", AWS 2015). An item that fails at last goes the way
    of the error policy; its neighbours are not harmed. These retries are of one item; :class:`Retries`, which are of a whole
    step, are for sources and sinks and not for this node.

    No state: what was not committed is asked again after a crash or a change of owner, so ``fn`` must be safe to repeat. When
    the task is to stop, what is under way is cancelled.
    """

    accepts: ClassVar[Literal["rows"]] = "rows"

    def __init__(
        self,
        fn: Callable[[Any], Awaitable[Any]],
        concurrency: int = 16,
        ordered: bool = True,
        timeout: Duration = "5s",
        retries: int = 2,
        backoff: Duration = "100ms",
        backoff_max: Duration = "10s",
    ) -> None:
        if not callable(fn):
            raise ConfigError(f"async_map: {fn!r} is not a function")
        if type(concurrency) is not int or concurrency < 1:
            raise ConfigError(f"concurrency: {concurrency!r} is not allowed; a whole number from 1 on")
        if type(retries) is not int or retries < 0:
            raise ConfigError(f"retries: {retries!r} is not allowed; a whole number from 0 on")
        self.fn = fn
        self.concurrency = concurrency
        self.ordered = ordered
        self.timeout = wall_duration(timeout, "timeout")
        self.retries = retries
        self.backoff = wall_duration(backoff, "backoff")
        self.backoff_max = wall_duration(backoff_max, "backoff_max")

    def open(self, ctx: OperatorContext) -> None:
        super().open(ctx)
        self._places = asyncio.Semaphore(self.concurrency)

    async def pause(self, seconds: float) -> None:
        """Between two attempts; tests take no time for it."""
        await asyncio.sleep(seconds)

    async def prepare(self, frame: Frame) -> Frame:
        items = to_rows(frame.items)
        waiting = iter(enumerate(items))
        done: list[tuple[int, Any]] = []
        await all_of([self._work(waiting, done) for _ in range(min(self.concurrency, len(items)))])
        if self.ordered:
            done.sort(key=lambda result: result[0])
        return frame._replace(items=[result for _, result in done])

    async def _work(self, waiting: Iterator[tuple[int, Any]], done: list[tuple[int, Any]]) -> None:
        """Take one item after another until none is left."""
        for place, item in waiting:
            async with self._places:  # several frames may be prepared at once
                try:
                    done.append((place, await self._answer(item)))
                except Exception as error:  # a user's function may raise anything
                    self.ctx.failed(item, error)

    async def _answer(self, item: Any) -> Any:
        """The first attempt is made by itself: preparing to repeat it takes longer than all else here."""
        try:
            return await self._attempt(item)
        except Exception as error:  # a user's function may raise anything
            failed = [error]

        async def attempt() -> Any:
            if failed:
                raise failed.pop()
            return await self._attempt(item)

        return await self._retrying(attempt)

    @property
    def _retrying(self) -> AsyncRetrying:
        return AsyncRetrying(
            sleep=self.pause,
            stop=stop_after_attempt(self.retries + 1),
            wait=wait_random_exponential(multiplier=self.backoff / 1e9, max=self.backoff_max / 1e9),
            before_sleep=self._count_retry,
            reraise=True,
        )

    def _count_retry(self, _: RetryCallState) -> None:
        self.ctx.count("retried")

    async def _attempt(self, item: Any) -> Any:
        try:
            async with asyncio.timeout(self.timeout / 1e9) as scope:
                return await self.fn(item)
        except TimeoutError as error:
            if not scope.expired():  # it is the function's own
                raise
            raise TimeoutError(f"no result within {self.timeout / 1e9:g} s") from error


async def all_of(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of ``jobs``, run side by side. When one raises, or this is cancelled, none is left running."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
