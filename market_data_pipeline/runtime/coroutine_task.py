"""The task of a coroutine node: the user's ``async fn(in_ch, out_ch)`` between streams.

The function sees channels of items. Where it comes back for more, the task commits in one step what it put since then and
what it was handed: whole entries are consumed, and of one that was handed out in part the number of items, so that the next
owner begins behind them. A function that reads an item, computes, and puts what comes of it before it reads on is
exactly-once, from one input or several. What it keeps in local variables is not checkpointed: an item held in a variable
while it waits for another input is gone with its owner. A function without inputs starts from the beginning after a
takeover; use a Source where that matters.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable
from typing import Any, NamedTuple

from market_data_pipeline.channels.base import BaseChannel
from market_data_pipeline.codec import decode
from market_data_pipeline.errors import ChannelClosed, CodecError
from market_data_pipeline.frame import END, NO_MARK, Items, to_rows
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.runtime.chain import input_key, input_keys
from market_data_pipeline.runtime.contract import Consumed, Entry, Meta, Stream, entry_name
from market_data_pipeline.runtime.outputs import OUTBOX
from market_data_pipeline.runtime.progress import MarkMerger, SourceWatermark
from market_data_pipeline.runtime.suspicion import POISON, Range, place_of
from market_data_pipeline.runtime.task import Task, consumed_of, counts_of

_REST_SECONDS = 0.05


class _Input(BaseChannel[Any]):
    """What the function reads: items of one stream.

    ``entries`` are those not consumed yet, each with how many items it has and its mark's input and value; ``handed``
    counts the items of these entries that the function was given.
    """

    def __init__(self, task: CoroutineTask, stream: Stream, skip: int) -> None:
        super().__init__(task.channels[stream[0]].capacity, None, None, None)
        self._task = task
        self.stream = stream
        self.items: deque[Any] = deque()
        self.entries: deque[_Handed] = deque()
        self.handed = 0
        self.skip = skip
        self.ended = False

    def extend(self, handed: _Handed, items: list[Any]) -> None:
        """A new entry; items that an earlier owner committed as handed out are passed over."""
        passed = min(self.skip, len(items))
        self.skip -= passed
        self.handed += passed
        self.entries.append(handed)
        self.items.extend(items[passed:])

    async def put(self, item: Any) -> None:
        raise ChannelClosed("an input cannot be written")

    async def get_many(self, limit: int) -> list[Any]:
        while not self.items or not await self._task.may_hand_out(self):
            if not self.items:
                if self.ended:
                    raise ChannelClosed("the channel has ended")
                await self._task.turn(self)
        if self._task.suspicion.marking:
            limit = 1
        count = min(limit, len(self.items))
        self.handed += count
        self._task.flow.used[self.stream[0]] += count
        self._task.count("in", count)
        return [self.items.popleft() for _ in range(count)]

    def next_place(self) -> tuple[str, Range]:
        """Entry and index of the item that is handed out next."""
        index = self.handed
        for handed in self.entries:
            if index < handed.items:
                return entry_name(self.stream, handed.entry), Range(index, index + 1)
            index -= handed.items
        raise AssertionError("an item of no entry")

    def take_consumed(self) -> list[_Handed]:
        """The entries all of whose items were handed out; they count as consumed from now on."""
        done: list[_Handed] = []
        while self.entries and self.handed >= self.entries[0].items:
            done.append(self.entries.popleft())
            self.handed -= done[-1].items
        return done

    def consumed(self, done: list[_Handed]) -> list[Consumed]:
        """What the commit says: whole entries, and the one behind them that was handed out in part (it must be there)."""
        whole = consumed_of({self.stream: [handed.entry for handed in done]}) if done else []
        if not self.handed:
            return whole
        part = self.entries[0].entry.id
        if whole:
            return [whole[0]._replace(last=part, partial=True)]
        return [Consumed(self.stream, part, part, 0, 0, True)]

    def close(self) -> Awaitable[None]:
        """The function wants no more; its input is drained all the same, or the producer would wait for ever."""
        return asyncio.sleep(0)

    async def length(self) -> int:
        return len(self.items)


class _Output(BaseChannel[Any]):
    """What the function writes: items for one edge."""

    def __init__(self, task: CoroutineTask, edge: str) -> None:
        super().__init__(task.channels[edge].capacity, None, None, None)
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


class _Handed(NamedTuple):
    """An entry: how many items it holds, and the mark that counts once it is consumed."""

    entry: Entry
    items: int
    key: str = ""
    mark: int = NO_MARK


class CoroutineTask(Task):
    """Runs one coroutine node."""

    async def _open(self, meta: Meta) -> None:
        self._name = self.subgraph.nodes[0]
        self._counts: Counter[str] = Counter(meta.get("counts", {}).get(self._name, {}))
        self.observer.restored({self._name: self._counts})
        origins = list(input_keys(self.plan, self._name, self.id.partition))
        self._read_marks, self._merger = MarkMerger(origins or ["none"]), MarkMerger(origins or ["none"])
        for merger in (self._read_marks, self._merger):
            merger.restore(meta.get("marks", {}).get(self._name, {}))
        skip = meta.get("skip", {})
        self._in = {edge.src: _Input(self, stream, skip.get(edge.name, 0)) for stream, edge in self.inputs.items()}
        self._out = {edge.dst: _Output(self, edge.name) for edge in self.plan.outputs(self.subgraph)}
        self._letters: list[DeadLetter] = []
        self._clearing: asyncio.Future[None] | None = None
        self._turning, self._committing = asyncio.Lock(), asyncio.Lock()
        self.outputs.restore({name: blob for name, blob in self._state.items() if name.startswith(OUTBOX)})
        self._mark_ends()

    async def _work(self) -> bool:
        fn: Any = self.dag.nodes[self._name].fn
        running = asyncio.ensure_future(fn(dict(self._in), dict(self._out)))
        try:
            while not running.done() and not self.stopping:
                self.check_reload()
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
        """The function is done: drain what it left unread (counted), commit, and end."""
        for out in self._out.values():
            out.closed = True
        while True:
            for channel in self._in.values():
                self.count("unread", len(channel.items))
                self.flow.used[channel.stream[0]] += len(channel.items)
                channel.handed += len(channel.items)
                channel.items.clear()
            waiting = [channel for channel in self._in.values() if not channel.ended]
            if not waiting:
                break
            if self.stopping:
                return False
            await self.turn(waiting[0])
        await self._commit()
        await self.finish(self._meta_now())
        return True

    async def _close(self) -> None:
        if self._clearing is not None:
            self._clearing.cancel()
            await asyncio.gather(self._clearing, return_exceptions=True)

    def count(self, name: str, n: int) -> None:
        """Add to the node's counters."""
        if n:
            self._counts[name] += n

    async def has_put(self) -> None:
        """An item was put. Without inputs: commit when there is enough, so that a fast function waits for slow consumers.
        With inputs a commit comes only where the function waits for more; should it be waiting, that is now."""
        if self.inputs:
            self.interrupt()
            return
        if self._pending() >= self.limits.frame_items:
            await self._commit()
        while self.resting and not self.stopping:
            await self.interruptible(self.clock.sleep(_REST_SECONDS))

    def _pending(self) -> int:
        return sum(len(out.items) for out in self._out.values())

    async def turn(self, wanting: _Input) -> None:
        """Commit what the function did with what it had, then read more for the inputs that have nothing."""
        async with self._turning:
            if wanting.items or wanting.ended:
                return
            self.flow.come_back()
            if self._pending() or self._letters or any(channel.entries for channel in self._in.values()):
                await self._commit()
            self.flow.end()
            empty = {channel.stream for channel in self._in.values() if not channel.items and not channel.ended}
            found = await self.read(only=empty)
            for stream, entries in found.items():
                for entry in entries:
                    self._hand_over(stream, entry)
            self._mark_ends()
            if found:
                self.flow.begin()
                self.flow.leave()

    async def may_hand_out(self, channel: _Input) -> bool:
        """Whether the next item of ``channel`` may be given to the function. Where processes died it is marked first, and
        one at which too many did goes to the dead letters instead."""
        if not self.suspicion.marking:
            return True
        unit, place = channel.next_place()
        if not self.suspicion.poison(unit, place):
            await self._mark_exclusively(place_of(unit, place))
            return True
        self._letters.append(DeadLetter(self._name, POISON, channel.items.popleft(), f"{unit} item {place.start}"))
        channel.handed += 1
        self.flow.used[channel.stream[0]] += 1
        self._counts.update(("in", "dead_letter"))
        return False

    async def _mark_exclusively(self, place: str) -> None:
        """Until the function, which is given the item next, first waits for something: then the mark is cleared."""
        lock = self.store.marking
        await lock.acquire()
        try:
            await self.mark(place)
        except BaseException:
            lock.release()
            raise
        self._clearing = asyncio.ensure_future(self.mark(""))
        self._clearing.add_done_callback(lambda _: lock.release())

    def _hand_over(self, stream: Stream, entry: Entry) -> None:
        edge = self.inputs[stream]
        channel = self._in[edge.src]
        try:
            origin, frame = decode(entry.blob, 2 * self.limits.frame_bytes)
            key = input_key(edge, origin)
            if key not in self._merger.marks:
                raise CodecError(f"origin {origin!r} does not write to this stream")
        except CodecError as error:
            reason = f"bad frame: {error}"
            self._letters.append(DeadLetter(edge.dst, reason, entry.blob[:10_000], entry_name(stream, entry)))
            self.count("dead_letter", 1)
            channel.extend(_Handed(entry, 0), [])
            return
        channel.extend(_Handed(entry, len(frame.items), key, frame.mark), to_rows(frame.items))
        self._read_marks.update(key, frame.mark)

    def _mark_ends(self) -> None:
        for edge in self.inputs.values():
            keys = [input_key(edge, origin) for origin in self.plan.origins(edge, self.id.partition)]
            self._in[edge.src].ended = all(self._read_marks.marks[key] == END for key in keys)

    async def _commit(self) -> None:
        """One commit of what was put and of what was handed out. One at a time: each names the one before."""
        async with self._committing:
            consumed: list[Consumed] = []
            for channel in self._in.values():
                done = channel.take_consumed()
                consumed += channel.consumed(done)
                for handed in done:
                    if handed.key:
                        self._merger.update(handed.key, handed.mark)
            letters, self._letters = self._letters, []
            unsent = self._queue_outputs()
            self.count("dead_letter", len(unsent))
            letters += unsent
            await self.commit(self._meta_now(), {}, consumed, letters)
            while self.outputs.waiting:
                await self.commit(self._meta_now(), {})
            self.observer.counted({self._name: self._counts}, self._merger.watermark)

    def _queue_outputs(self) -> list[DeadLetter]:
        frames: dict[str, list[Items]] = {}
        marks: dict[str, int] = {}
        ended: set[str] = set()
        for out in self._out.values():
            items, out.items = out.items, []
            if items:
                frames[out.edge] = [items]
            mark = out.watermark_of.observe(items)
            if mark != END:
                marks[out.edge] = mark
            if out.closed:
                out.watermark_of.end()
                ended.add(out.edge)
        return self.outputs.add(frames, marks, self.clock.time_ns(), self.clock.monotonic(), ended=ended)

    def _meta_now(self) -> Meta:
        return {
            "marks": {self._name: self._merger.saved()},
            "skip": {self.inputs[channel.stream].name: channel.handed for channel in self._in.values()},
            "counts": counts_of({self._name: self._counts}),
            "watermark": self._merger.watermark,
        }
