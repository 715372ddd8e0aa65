"""Steps of the chaos jobs that misbehave when they are told to, and a join."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from market_data_pipeline import Bar, Frame, JsonLines, Operator, Trade
from market_data_pipeline.frame import END, NO_MARK, to_rows
from market_data_pipeline.packing import pack, unpack

BLOCK, FREEZE, POISON_LOG = "block", "freeze", "poison.log"
"""Files in the control folder: a sink waits, a sink holds the event loop up, and who died of a poisoned item."""


class GatedFiles(JsonLines):
    """JSON lines that are not written while ``control`` holds a file ``block`` (the sink waits) or ``freeze`` (it holds
    the whole process up)."""

    def __init__(self, path: Path, control: Path) -> None:
        super().__init__(path, roll_bytes=30_000, roll_interval="700ms")
        self.control = control

    async def write(self, frames: Sequence[Frame]) -> None:
        while (self.control / BLOCK).exists():  # noqa: ASYNC110 - another process removes it
            await asyncio.sleep(0.05)
        while (self.control / FREEZE).exists():
            time.sleep(0.02)  # noqa: ASYNC251 - the event loop is to stand still
        await super().write(frames)


def check(raises: Collection[int], kills: Collection[int], log: str, trade: Trade) -> Trade:
    """``trade``, unless its id is poison: one kind raises, the other takes the process with it."""
    if trade.trade_id in raises:
        raise ValueError(f"trade {trade.trade_id} is poison")
    if trade.trade_id in kills:
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()}\n")
        os.kill(os.getpid(), signal.SIGKILL)
    return trade


def tagged(branch: str, bar: Bar) -> dict[str, Any]:
    """``bar`` as one half of a pair."""
    return {"symbol": bar.symbol, "branch": branch, "ts_open": bar.ts_open, "bar": list(bar)}


class Pair(Operator):
    """Joins the bars of two branches on symbol and ``ts_open``; emits both sides as one dict when the second one comes.

    What waits for its other half is the state. At the end nothing may wait: whatever does is rejected.
    """

    accepts: ClassVar[Literal["rows"]] = "rows"

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, Any]] = {}
        self._changed: set[str] = set()

    def process(self, frame: Frame) -> Iterable[Frame]:
        joined: list[Any] = []
        for item in to_rows(frame.items):
            key = f"{item['symbol']}@{item['ts_open']}"
            other = self._waiting.pop(key, None)
            self._changed.add(key)
            if other is None:
                self._waiting[key] = item
            elif other["branch"] == item["branch"]:
                self.ctx.reject(item, "this half came twice")
                self._waiting[key] = other
            else:
                sides = {half["branch"]: half["bar"] for half in (other, item)}
                joined.append({"symbol": item["symbol"], "ts_open": item["ts_open"], **sides})
        return (Frame(joined),)

    def advance(self, watermark: int) -> Iterable[Frame]:
        if watermark == END:
            for item in self._waiting.values():
                self.ctx.reject(item, "its other half never came")
        return ()

    def snapshot(self) -> dict[str, bytes | None]:
        delta = {key: pack(self._waiting[key]) if key in self._waiting else None for key in self._changed}
        self._changed.clear()
        return delta

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        self._waiting = {key: unpack(blob) for key, blob in state.items()}
