"""Looks at the server all the time, from a thread of its own: bounds, marks and the account of items, while faults go on.

Each look is one transaction on one connection, so what it sees stood together on one server at one moment. A server that
was restarted or replaced (another ``run_id``) may stand at an earlier point: what must never go back starts anew there.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis

from market_data_pipeline.codec import decode
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.packing import unpack, unseal
from market_data_pipeline.runtime.outputs import OUTBOX
from market_data_pipeline.store.keys import Keys, job_key

_EVERY_SECONDS = 0.05
_ACCOUNT_EVERY = 20
"""Every so many looks also the items in the streams are counted."""
_MAX_FRAME = 64 * 1024 * 1024
_MOST_KEPT = 50


@dataclass
class Seen:
    """What all looks together found. ``broken``: by invariant, what was wrong (the first few)."""

    looks: int = 0
    accounts: int = 0
    servers: int = 0
    longest: int = 0
    largest: int = 0
    broken: dict[str, list[str]] = field(default_factory=dict)

    def violated(self, invariant: str, what: str) -> None:
        found = self.broken.setdefault(invariant, [])
        if len(found) < _MOST_KEPT:
            found.append(what)


class Books:
    """The keys of one job, and what one look at them says."""

    def __init__(self, plan: Plan, job: str, capacity: int, capacity_bytes: int) -> None:
        self.plan, self.keys = plan, Keys(job)
        self._capacity, self._capacity_bytes = capacity, capacity_bytes
        self.tasks: list[TaskId] = list(plan.tasks())
        self.streams: dict[str, tuple[str, int]] = {}
        for edge in plan.channels:
            for partition in plan.readers(edge):
                self.streams[self.keys.stream(edge, partition)] = (edge.name, partition)
        self.partitions = sorted({partition for _, partition in self.streams.values()})

    def look(self, client: redis.Redis, deep: bool) -> Look:
        """One transaction."""
        pipe = client.pipeline(transaction=True)
        pipe.info("server")
        for task in self.tasks:
            pipe.hmget(self.keys.task(task), ["commit", "meta"])
        for partition in self.partitions:
            pipe.hgetall(self.keys.stream_bytes(partition))
        for stream in self.streams:
            pipe.xlen(stream)
        for stream in self.streams if deep else ():
            pipe.xrange(stream)
        for task in self.tasks if deep else ():
            pipe.hkeys(self.keys.state(task))
        replies = iter(pipe.execute())
        run_id = str(next(replies)["run_id"])
        records = {task: next(replies) for task in self.tasks}
        used: dict[str, int] = {}
        for _ in self.partitions:
            used |= {key.decode(): int(value) for key, value in next(replies).items()}
        lengths = {stream: int(next(replies)) for stream in self.streams}
        entries = {stream: next(replies) for stream in self.streams} if deep else {}
        outbox = any(name.startswith(OUTBOX.encode()) for _ in self.tasks for name in next(replies)) if deep else False
        return Look(run_id, records, used, lengths, entries, outbox)

    def check_bounds(self, look: Look, seen: Seen) -> None:
        for stream, length in look.lengths.items():
            used = look.used.get(stream, 0)
            seen.longest, seen.largest = max(seen.longest, length), max(seen.largest, used)
            if length > self._capacity:
                seen.violated("capacity", f"{stream}: {length} frames, capacity {self._capacity}")
            if used > self._capacity_bytes:
                seen.violated("capacity", f"{stream}: {used} bytes, capacity {self._capacity_bytes}")

    def check_account(self, look: Look, seen: Seen) -> None:
        """Every item that a node sent was taken by the next one or waits in a stream; and bytes are counted right."""
        queued: Counter[str] = Counter()
        for stream, entries in look.entries.items():
            blobs = [fields[b"f"] for _, fields in entries]
            size = sum(map(len, blobs))
            if size != look.used.get(stream, 0):
                seen.violated("accounted", f"{stream}: holds {size} bytes, counted {look.used.get(stream, 0)}")
            queued[self.streams[stream][0]] += sum(len(decode(blob, _MAX_FRAME)[1].items) for blob in blobs)
        if look.outbox:
            return  # frames between a node and its stream: the next look will do
        seen.accounts += 1
        counts = look.counts()
        for node in self.plan.nodes:
            incoming = [edge for edge in self.plan.edges if edge.dst == node.name]
            sent = sum(counts.get(edge.src, Counter())["out"] for edge in incoming)
            waiting = sum(queued[edge.name] for edge in incoming)
            taken = counts.get(node.name, Counter())["in"]
            if incoming and sent != taken + waiting:
                seen.violated("accounted", f"{node.name}: {sent} were sent to it, it took {taken}, {waiting} wait")


@dataclass
class Look:
    """What stood on the server at one moment."""

    run_id: str
    records: dict[TaskId, list[bytes | None]]
    used: dict[str, int]
    lengths: dict[str, int]
    entries: dict[str, list[tuple[bytes, dict[bytes, bytes]]]]
    outbox: bool

    def meta(self, task: TaskId) -> dict[str, Any]:
        blob = self.records[task][1]
        return dict(unpack(unseal(blob, "meta"))) if blob else {}

    def counts(self) -> dict[str, Counter[str]]:
        """Committed counters by node."""
        nodes: dict[str, Counter[str]] = {}
        for task in self.records:
            for name, counts in self.meta(task).get("counts", {}).items():
                nodes.setdefault(name, Counter()).update(counts)
        return nodes


class Watch:
    """The thread. ``port`` says where the master is now."""

    def __init__(self, port: Callable[[], int], job: str, plan: Plan, capacity: int, capacity_bytes: int) -> None:
        self._port, self._job, self._plan = port, job, plan
        self._bounds = (capacity, capacity_bytes)
        self.seen = Seen()
        self._run_id = ""
        self._commits: dict[TaskId, bytes | None] = {}
        self._marks: dict[TaskId, dict[str, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        client: Any = None
        books: Books | None = None
        try:
            while not self._stop.wait(_EVERY_SECONDS):
                port = self._port()
                if client is None or client.get_connection_kwargs()["port"] != port:
                    client = redis.Redis(port=port, socket_timeout=5.0, protocol=2)
                try:
                    if books is None:
                        uid = client.hget(job_key(self._job), "uid")
                        books = Books(self._plan, self._job, *self._bounds) if uid else None
                    else:
                        self._look(client, books)
                except redis.exceptions.RedisError:
                    time.sleep(_EVERY_SECONDS)  # the server is away: that is what the round is about
        except BaseException as error:
            self.failure = error
        finally:
            if client is not None:
                client.close()

    def _look(self, client: redis.Redis, books: Books) -> None:
        deep = self.seen.looks % _ACCOUNT_EVERY == 0
        look = books.look(client, deep)
        self.seen.looks += 1
        if look.run_id != self._run_id:
            self._run_id = look.run_id
            self._marks.clear()
            self.seen.servers += 1
        books.check_bounds(look, self.seen)
        if deep:
            books.check_account(look, self.seen)
        for task, (commit, _) in look.records.items():
            if commit is None:
                self.seen.violated("accounted", f"task {task} has no record")
            elif commit != self._commits.get(task):
                self._commits[task] = commit
                self._check_marks(task, look.meta(task))

    def _check_marks(self, task: TaskId, meta: dict[str, Any]) -> None:
        marks = {"watermark": meta.get("watermark"), "source": meta.get("source_mark"), **meta.get("out_marks", {})}
        for node, merged in meta.get("marks", {}).items():
            marks |= {f"{node} from {key}": mark for key, mark in merged["marks"].items()}
            marks[f"{node} merged"] = merged["watermark"]
        now = {name: mark for name, mark in marks.items() if mark is not None}
        for name, before in self._marks.get(task, {}).items():
            if now.get(name, before) < before:
                self.seen.violated("watermarks", f"task {task}, {name}: {now[name]} after {before}")
        self._marks[task] = now
