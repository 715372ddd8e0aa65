"""A feed in a process of its own: ``python feed_server.py PORT START STEP FOLDER NAME``.

Trade ``n`` of each symbol happens ``n * STEP`` ns after ``START`` (wall time, ns), whoever serves it; clients are sent what
happens while they are there. When the file ``FOLDER/end`` is there, the feed is over behind the trade that is named in it. What
is subscribed to and left stands in ``FOLDER/NAME.log``, a line each: ``+A``, ``-A``; and ``end``.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from market_data_pipeline.records import Trade
from tools.line_feed import LineFeed


class LoggedFeed(LineFeed):
    """Writes down what it serves."""

    def __init__(self, port: int, log: Path) -> None:
        super().__init__(port)
        self._log, self._served = log, set[str]()

    async def _change(self, made: int = 0) -> None:
        served = {symbol for client in self.clients for _, symbol in client.symbols}
        for mark, symbols in (("+", served - self._served), ("-", self._served - served)):
            self.write(*(mark + symbol for symbol in sorted(symbols)))
        self._served = served
        await super()._change(made)

    def write(self, *lines: str) -> None:
        with self._log.open("a") as log:
            log.write("".join(f"{line}\n" for line in lines))


async def serve(port: int, start: int, step: int, folder: Path, name: str) -> None:
    async with LoggedFeed(port, folder / f"{name}.log") as feed:
        sent, last = (time.time_ns() - start) // step, sys.maxsize
        while sent < last:
            await asyncio.sleep(0.01)
            if last == sys.maxsize and (folder / "end").exists():
                last = int((folder / "end").read_text())
            due = min((time.time_ns() - start) // step, last)
            symbols = sorted({symbol for client in feed.clients for _, symbol in client.symbols})
            numbers = range(sent + 1, due + 1)
            await feed.send(
                *(Trade(s, start + n * step, 0, 100.0 + n % 7, 1.0, trade_id=n) for n in numbers for s in symbols)
            )
            sent = max(sent, due)
        feed.write("end")
        await feed.say({"end": True})
        await feed.until(lambda: not feed.clients)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5]))
