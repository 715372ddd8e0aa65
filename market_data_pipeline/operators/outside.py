"""Transforms of other packages, by their method ``process(item)``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from market_data_pipeline.durations import Duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.extras import Given, awaited
from market_data_pipeline.frame import Frame, to_rows
from market_data_pipeline.operators.async_map import AsyncMap
from market_data_pipeline.operators.base import OperatorContext


class OutsideTransform(AsyncMap):
    """``transform``: any object with ``process(item)``, which gives what is to be passed on instead, or ``None`` for nothing,
    at once or as a coroutine; or ``factory``: ``"module:name"`` of a class or a function (``async`` too) without arguments
    that makes one for each task, which is the way for jobs over processes. Nothing has to be inherited.

    ``make``: makes of a record what ``process`` takes; ``convert``: of what it gives, a record (``record_of``); default: both
    as they are. Over processes only plain data and records travel on. By default one item at a time, in order, and no second
    try: such an object may keep something of its own. ``concurrency``, ``timeout``, ``retries`` as :class:`AsyncMap` has them;
    results stay in order.

    What the object keeps is no state of the job: after a restart it begins anew, and what was not committed comes again. An
    item for which it raises goes the way of the error policy. Raises ``ConfigError`` where the object has no ``process``, or
    the package is missing."""

    def __init__(
        self,
        transform: Any = None,
        *,
        factory: str = "",
        make: Callable[[Any], Any] | None = None,
        convert: Callable[[Any], Any] | None = None,
        concurrency: int = 1,
        timeout: Duration = "5s",
        retries: int = 0,
    ) -> None:
        super().__init__(self._processed, concurrency, timeout=timeout, retries=retries)
        self.transform, self.factory, self.make, self.convert = transform, factory, make, convert
        for name, function in (("make", make), ("convert", convert)):
            if function is not None and not callable(function):
                raise ConfigError(f"{name}: {function!r:.100} is not a function")
        self._given = Given("OutsideTransform", transform, factory, ("process",))

    def config(self) -> dict[str, Any]:
        return {**super().config(), "transform": self._given.config()}

    def fresh(self) -> OutsideTransform:
        """Has the object that was given, or will have one of its own."""
        return OutsideTransform(
            self.transform,
            factory=self.factory,
            make=self.make,
            convert=self.convert,
            concurrency=self.concurrency,
            timeout=self.timeout,
            retries=self.retries,
        )

    def open(self, ctx: OperatorContext) -> None:
        super().open(ctx)
        self._object: Any = None
        self._turn = asyncio.Lock()

    async def prepare(self, frame: Frame) -> Frame:
        async with self._turn:  # frames may be prepared side by side, but the object may go by their order
            if self._object is None:
                self._object = await self._given.made()
            made = await super().prepare(frame)
        return made._replace(items=[item for item in to_rows(made.items) if item is not None])

    async def _processed(self, item: Any) -> Any:
        found = await awaited(self._object.process(item if self.make is None else self.make(item)))
        return found if found is None or self.convert is None else self.convert(found)
