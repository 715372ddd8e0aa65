"""The task of a coroutine node: the user's ``async fn(in_ch, out_ch)`` between streams.

The function sees channels of items. An entry counts as consumed when all its items were handed out and the function came
back for more; that is where the task commits: what it put since then, and the entries consumed, in one step. So a function
that reads, computes and puts is exactly-once; what it keeps in local variables is not checkpointed. A function without
inputs starts from the beginning after a takeover; use a Source where that matters.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable
from typing import Any

from market_data_pipeline.channels.base import BaseChannel
from market_data_pipeline.codec import decode
from market_data_pipeline.errors import ChannelClosed, CodecError
from market_data_pipeline.frame import END, Items, to_rows
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.runtime.chain import input_key
from market_data_pipeline.runtime.contract import Consumed, Entry, Meta, Stream
from market_data_pipeline.runtime.outputs import OUTBOX
from market_data_pipeline.runtime.progress import MarkMerger, SourceWatermark
from market_data_pipeline.runtime.task import Task, consumed_of, counts_of


class _Input(BaseChannel[Any]):
    """What the function reads: items of one stream."""

    def __init__(self, task: CoroutineTask, stream: Stream) -> None:
        super().__init__(task.limits.channel_capacity, None, None, None)
        self._task = task
        self.stream = stream
        self.items: deque[Any] = deque()
        self.ended = False

    async def put(self, item: Any) -> None:
        raise ChannelClosed("an input cannot be written")

    async def get_many(self, limit: int) -> list[Any]:
        while not self.items:
            if self.ended:
                raise ChannelClosed("the channel has ended")
            await self._task.turn()
        self._task.count("in", min(limit, len(self.items)))
        return [self.items.popleft() for _ in range(min(limit, len(self.items)))]

    def close(self) -> Awaitable[None]:
        """The function wants no more; its input is drained all the same, or the producer would wait for ever."""
        return asyncio.sleep(0)

    async def length(self) -> int:
        return len(self.items)


class _Output(BaseChannel[Any]):
    """What the function writes: items for one edge."""

    def __init__(self, task: CoroutineTask, edge: str) -> None:
        super().__init__(task.limits.channel_capacity, None, None, None)
        self._task = task
        self.edge = edge
        self.items: list[Any] = []
        self.closed = False
        self.watermark_of = SourceWatermark(0)

    async def put(self, item: Any) -> None:
        if self.closed:
            raise ChannelClosed("put on a closed channel")
        self.items.append(item)
        self._task.count("out", 1)
        await self._task.has_put()

    async def get_many(self, limit: int) -> list[Any]:
        raise ChannelClosed("an output cannot be read")

    def close(self) -> Awaitable[None]:
        self.closed = True
        return asyncio.sleep(0)

    async def length(self) -> int:
        return len(self.items)


class CoroutineTask(Task):
    """Runs one coroutine node."""

    async def _open(self, meta: Meta) -> None:
        self._name = self.subgraph.nodes[0]
        self._counts: Counter[str] = Counter(meta.get("counts", {}).get(self._name, {}))
        self.observer.restored({self._name: self._counts})
        edges = self.inputs.values()
        origins = [input_key(e, origin) for e in edges for origin in self.plan.origins(e, self.id.partition)]
        self._merger = MarkMerger(origins or ["none"])
        self._merger.restore(meta.get("marks", {}).get(self._name, {}))
        self._committed_marks = dict(self._merger.marks)
        self._in = {edge.src: _Input(self, stream) for stream, edge in self.inputs.items()}
        self._out = {edge.dst: _Output(self, edge.name) for edge in self.plan.outputs(self.subgraph)}
        self._handed: dict[Stream, list[Entry]] = {}
        self._letters: list[DeadLetter] = []
        self._turning = asyncio.Lock()
        self.outputs.restore({name: blob for name, blob in self._state.items() if name.startswith(OUTBOX)})
        self._mark_ends()

    async def _work(self) -> bool:
        fn: Any = self.dag.nodes[self._name].fn
        running = asyncio.ensure_future(fn(dict(self._in), dict(self._out)))
        try:
            while not running.done() and not self.stopping:
                await self.interruptible(asyncio.wait({running}, timeout=max(self.limits.linger, 0.001)))
                if not self.inputs and not running.done() and self._pending():
                    await self._commit()
            if running.done():
                running.result()
                return await self._after_return()
            return False
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _after_return(self) -> bool:
        for out in self._out.values():
            out.closed = True
        while not all(channel.ended for channel in self._in.values()):
            if self.stopping:
                return False
            await self.turn()
            for channel in self._in.values():
                channel.items.clear()
        await self._commit()
        await self.finish(self._meta_now())
        return True

    async def _close(self) -> None:
        """Nothing is held outside."""

    def count(self, name: str, n: int) -> None:
        """Add to the node's counters."""
        self._counts[name] += n

    async def has_put(self) -> None:
        """An item was put. Without inputs: commit when there is enough, so that a fast function waits for slow consumers.
        With inputs a commit comes only where the function waits for more; should it be waiting, that is now."""
        if self.inputs:
            self.interrupt()
        elif self._pending() >= self.limits.frame_items:
            await self._commit()

    def _pending(self) -> int:
        return sum(len(out.items) for out in self._out.values())

    async def turn(self) -> None:
        """Commit what the function did with the entries it had, then read more."""
        async with self._turning:
            if any(channel.items for channel in self._in.values()) and not self._handed:
                return
            if self._handed or self._pending() or self._letters:
                await self._commit()
            found = await self.read()
            for stream, entries in found.items():
                self._handed.setdefault(stream, []).extend(entries)
                for entry in entries:
                    self._hand_over(stream, entry)
            self._mark_ends()

    def _hand_over(self, stream: Stream, entry: Entry) -> None:
        edge = self.inputs[stream]
        try:
            origin, frame = decode(entry.blob, 2 * self.limits.frame_bytes)
            key = input_key(edge, origin)
            if key not in self._merger.marks:
                raise CodecError(f"origin {origin!r} does not write to this stream")
        except CodecError as error:
            where = f"{edge.name}/{stream[1]} entry {entry.id}"
            self._letters.append(DeadLetter(edge.dst, f"bad frame: {error}", entry.blob[:10_000], where))
            self.count("dead_letter", 1)
            return
        self._in[edge.src].items.extend(to_rows(frame.items))
        self._merger.update(key, frame.mark)

    def _mark_ends(self) -> None:
        for edge in self.inputs.values():
            keys = [input_key(edge, origin) for origin in self.plan.origins(edge, self.id.partition)]
            self._in[edge.src].ended = all(self._merger.marks[key] == END for key in keys)

    async def _commit(self) -> None:
        """One commit of what was put and of the entries whose items were all handed out."""
        consumed: list[Consumed] = []
        marks = dict(self._merger.marks)
        for stream, entries in list(self._handed.items()):
            if not self._in[self.inputs[stream].src].items:
                consumed += consumed_of({stream: entries})
                del self._handed[stream]
        if self._handed:
            marks = self._committed_marks
        frames: dict[str, list[Items]] = {}
        out_marks: dict[str, int] = {}
        for out in self._out.values():
            items, out.items = out.items, []
            if items:
                frames[out.edge] = [items]
            out_marks[out.edge] = out.watermark_of.end() if out.closed else out.watermark_of.observe(items)
        letters, self._letters = self._letters, []
        letters += self.outputs.add(frames, out_marks, self.clock.time_ns(), self.clock.monotonic())
        self._committed_marks = marks
        await self.commit(self._meta_now(), {}, consumed, letters)
        self.observer.counted({self._name: self._counts}, self._merger.watermark)

    def _meta_now(self) -> Meta:
        return {
            "marks": {self._name: self._committed_marks},
            "counts": counts_of({self._name: self._counts}),
            "watermark": self._merger.watermark,
        }
