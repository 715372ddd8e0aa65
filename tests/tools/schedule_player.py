"""Plays schedules of the model on a real server, many jobs at once in one pipeline, and compares everything after each step.

The scripts and their arguments are the product's own. What is compared: the script's answer, and then all that the job has
on the server (records, state, streams, counters, dead letters), read by one script in the same pipeline. Beside equality
with the model, :class:`Ledger` checks on the server's answers alone that what was appended was consumed once or is queued.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import redis
from redis.exceptions import OutOfMemoryError

from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.packing import unseal
from market_data_pipeline.runtime.contract import CommitRequest, Stream
from market_data_pipeline.store.client import Script
from market_data_pipeline.store.commit_args import CommitArguments, JobRef, pack_dead_letter
from market_data_pipeline.store.commit_args import Lease as StoreLease
from market_data_pipeline.store.keys import Keys, job_key
from tools.model import Accepted, Answer, Contents, Job, Record, check_history
from tools.schedules import (
    FINGERPRINT,
    LIMITS,
    Assign,
    Attempt,
    ClearLetters,
    Commit,
    DeleteEntry,
    DeleteRecord,
    Remember,
    ReplaceJob,
    RollBack,
    Schedule,
    Step,
    schedule_plan,
    streams_of,
)
from tools.wire import DUMP, OBSERVE, RESTORE, Wire


@dataclass
class Ledger:
    """What went into each stream, what its owners said they had consumed, and what left it: from the server's answers."""

    appended: dict[Stream, list[bytes]] = field(default_factory=dict)
    claimed: dict[Stream, list[bytes]] = field(default_factory=dict)
    gone: dict[Stream, list[bytes]] = field(default_factory=dict)
    accepted: list[Accepted] = field(default_factory=list)

    def copy(self) -> Ledger:
        lists = ({s: list(blobs) for s, blobs in part.items()} for part in (self.appended, self.claimed, self.gone))
        appended, claimed, gone = lists
        return Ledger(appended, claimed, gone, list(self.accepted))

    def commit(
        self, step: Commit, status: str, before: dict[Stream, list[bytes]], now: dict[Stream, list[bytes]]
    ) -> None:
        if status not in ("OK", "GAP"):
            assert now == before, f"{status}: a refused commit wrote something"
            return
        request = step.request
        self.accepted.append(Accepted(step.task, request.parent, request.id))
        for stream, frames in request.outputs.items():
            self.appended.setdefault(stream, []).extend(frames)
        for consumed in request.consumed:
            queue = before[consumed.stream]
            removed = queue[: len(queue) - len(now[consumed.stream])]
            self.gone.setdefault(consumed.stream, []).extend(removed)
            claimed = queue[: consumed.entries] if status == "OK" else removed
            self.claimed.setdefault(consumed.stream, []).extend(claimed)

    def delete(self, stream: Stream, blob: bytes) -> None:
        """By hand: it never was."""
        self.appended[stream].remove(blob)

    def check(self, queued: dict[Stream, list[bytes]]) -> None:
        check_history(self.accepted)
        for stream, blobs in self.appended.items():
            gone = self.gone.get(stream, [])
            assert gone == self.claimed.get(stream, []), f"{stream}: what left it is not what was consumed"
            assert blobs == gone + queued[stream], f"{stream}: lost or doubled"


class View(NamedTuple):
    """What is looked at behind a step: all that one task can touch, everything, or only what no task owns."""

    tasks: list[TaskId]
    streams: list[Stream]
    keys: list[str]
    sizes: list[int]


class RealJob:
    """A schedule's job on the server: translates steps to commands, and checks what comes back."""

    def __init__(self, wire: Wire, seed: int) -> None:
        self._wire = wire
        self.schedule = Schedule(seed, f"u{seed}")
        self._name = f"s{seed}"
        plan = schedule_plan()
        self._tasks, self._keys = list(plan.tasks()), Keys(self._name)
        self._arguments: dict[tuple[TaskId, Job], CommitArguments] = {}
        edges = [(edge, p) for edge in plan.channels for p in range(plan.partitions)]
        self._streams: list[Stream] = [(edge.name, p) for edge, p in edges]
        self._key_of = {(edge.name, p): self._keys.stream(edge, p) for edge, p in edges}
        self._stream_of = {key: stream for stream, key in self._key_of.items()}
        self._everything = self._view(self._tasks, self._streams)
        self._nothing = self._view([], [])
        self._views = {task: self._view([task], [s for part in streams_of(task) for s in part]) for task in self._tasks}
        leases = map(self._keys.lease, range(plan.partitions))
        self._all = [job_key(self._name), *leases, *self._everything.keys]
        self._real_id: dict[str, str] = {}
        self._queued: dict[Stream, list[bytes]] = {stream: [] for stream in self._streams}
        self._dumps: dict[int, tuple[list[bytes], Ledger]] = {}
        self._ledger = Ledger()

    def _view(self, tasks: list[TaskId], streams: list[Stream]) -> View:
        keys, partitions = self._keys, sorted({stream[1] for stream in streams})
        observed = [*map(keys.task, tasks), *map(keys.state, tasks), *(self._key_of[stream] for stream in streams)]
        observed += [*map(keys.stream_bytes, partitions), keys.ended, keys.dead_letters]
        return View(tasks, streams, observed, [len(tasks), len(streams), len(partitions)])

    def publish(self) -> int:
        """Add what makes the job; how many answers that will have."""
        fields = ["uid", self.schedule.job.uid, "fingerprint", FINGERPRINT]
        keys = [job_key(self._name), *map(self._keys.task, self._tasks)]
        self._wire.call("publish", keys, ["beginning", *fields])
        for lease in self.schedule.model.leases.values():
            self._wire.add("HSET", self._keys.lease(lease.partition), "epoch", lease.epoch, "token", lease.token)
        return 1 + len(self.schedule.model.leases)

    def send(self, memory_full: bool) -> Step:
        """Decide the next step and add its command and a look at what it can touch: two answers."""
        step = self.schedule.step(memory_full)
        self._add(step)
        match step:
            case Commit(task=task) | Attempt(task=task) | DeleteRecord(task=task):
                self._look(self._views[task])
            case RollBack() | DeleteEntry():
                self._look(self._everything)
            case _:
                self._look(self._nothing)
        return step

    def look(self) -> None:
        """Add a look at everything: one answer."""
        self._look(self._everything)

    def _look(self, view: View) -> None:
        self._seen = view
        self._wire.call("observe", view.keys, view.sizes)

    def _add(self, step: Step) -> None:
        wire, keys = self._wire, self._keys
        match step:
            case Commit(task, lease, job, request):
                arguments = self._arguments.get((task, job))
                if arguments is None:
                    ref = JobRef(self._name, job.uid, job.fingerprint)
                    arguments = CommitArguments(ref, schedule_plan(), task, LIMITS)
                    self._arguments[task, job] = arguments
                script = "ingest" if request.ingest else "commit"
                wire.call(script, *arguments.of(self._translated(request), StoreLease(*lease)))
            case Attempt(task, lease, commit, place):
                what = ["start", ""] if place is None else ["mark", place]
                wire.call("attempt", [keys.task(task)], [keys.lease(task.partition), *lease[1:], commit, *what])
            case Assign(lease):
                wire.add("HSET", keys.lease(lease.partition), "epoch", lease.epoch, "token", lease.token)
            case ReplaceJob(job):
                wire.add("HSET", job_key(self._name), "uid", job.uid, "fingerprint", job.fingerprint)
            case DeleteRecord(task):
                wire.add("DEL", keys.task(task))
            case DeleteEntry(stream, entry):
                wire.add("XDEL", self._key_of[stream], self._real_id[entry])
            case ClearLetters():
                wire.add("DEL", keys.dead_letters)
            case Remember():
                wire.call("dump", self._all, [])
            case RollBack(name):
                wire.call("restore", self._all, self._dumps[name][0])

    def _translated(self, request: CommitRequest) -> CommitRequest:
        """The request with the server's entry ids."""
        if not request.consumed:
            return request
        known = self._real_id
        consumed = [
            c._replace(first=known.get(c.first, c.first), last=known.get(c.last, c.last)) for c in request.consumed
        ]
        return CommitRequest(**{**vars(request), "consumed": consumed})

    def check(self, step: Step, answer: Any, seen: Any) -> None:
        """Raises ``AssertionError`` where the server did anything else than the model."""
        before = dict(self._queued)
        self._compare(seen, self.schedule.model.contents)
        match step:
            case Commit(expected=expected):
                found = self._answer(answer, step.request)
                assert found == expected, f"the server answers {found}"
                self._ledger.commit(step, found.status, before, self._queued)
            case Attempt(expected=expected):
                found = _attempt_answer(answer)
                assert found == expected, f"the server answers {found}"
            case DeleteEntry(stream):
                blob = next(blob for blob in before[stream] if blob not in self._queued[stream])
                self._ledger.delete(stream, blob)
            case Remember(name):
                self._dumps[name] = (answer, self._ledger.copy())
            case RollBack(name):
                self._ledger = self._dumps[name][1].copy()

    def finish(self, seen: Any) -> None:
        """The end of the schedule: invariants over all of it, and checksums."""
        self._compare(seen, self.schedule.model.contents)
        self.schedule.finish()
        self._ledger.check(self._queued)
        count = len(self._tasks)
        for record in seen[:count]:
            if record[1]:
                unseal(record[1], "meta")
        for fields in seen[count : 2 * count]:
            for blob in fields[1::2]:
                unseal(blob, "state")

    def _answer(self, answer: Any, request: CommitRequest) -> Answer:
        if isinstance(answer, OutOfMemoryError):
            return Answer("OOM")
        status, rest = answer[0].decode(), answer[1:]
        if status in ("OK", "DUP"):
            return Answer(status, tuple(rest))
        text = [part.decode() for part in rest]
        if status == "FENCED":
            return _fenced(text)
        if status in ("HEAD", "FULL", "GAP"):
            return Answer(status, tuple(self._stream_of.get(key) for key in text))
        return Answer(status, Job(*text) if status == "JOB" else tuple(text))

    def _compare(self, seen: Any, contents: Contents) -> None:
        tasks, streams, _ = self._seen.sizes
        for task, stored, fields in zip(self._seen.tasks, seen[:tasks], seen[tasks : 2 * tasks], strict=True):
            _compare_record(task, stored, fields, contents.tasks.get(task))
        at = 2 * tasks
        used: dict[bytes, bytes] = {}
        for fields in seen[at + streams : -2]:
            used |= dict(zip(fields[::2], fields[1::2], strict=True))
        for stream, entries in zip(self._seen.streams, seen[at : at + streams], strict=True):
            self._queued[stream] = [entry[1][1] for entry in entries]
            self._compare_stream(stream, entries, contents, int(used.get(self._key_of[stream].encode(), 0)))
        assert set(seen[-2]) == {str(task).encode() for task in contents.ended}
        assert [entry[1][1] for entry in seen[-1]] == [pack_dead_letter(letter) for letter in contents.dead_letters]

    def _compare_stream(self, stream: Stream, entries: Any, contents: Contents, used: int) -> None:
        expected = contents.stream(stream)
        assert [entry[1][1] for entry in entries] == [entry.blob for entry in expected], f"{stream}: entries"
        for real, model in zip(entries, expected, strict=True):
            known = self._real_id.setdefault(model.id, real[0].decode())
            assert known == real[0].decode(), f"{stream}: entry {model.id}"
        assert used == contents.used.get(stream, 0), f"{stream}: {used} bytes counted"
        assert len(entries) <= LIMITS.channel_capacity, f"{stream}: {len(entries)} entries"
        assert used <= LIMITS.channel_bytes, f"{stream}: {used} bytes"


def _fenced(text: list[str]) -> Answer:
    return Answer("FENCED", (int(text[0]) if text[0] else None,))


def _attempt_answer(answer: Any) -> Answer:
    status, *rest = (part.decode() if isinstance(part, bytes) else part for part in answer)
    return _fenced(rest) if status == "FENCED" else Answer(status, tuple(rest))


def _compare_record(task: TaskId, stored: Any, fields: Any, record: Record | None) -> None:
    if record is None:
        assert stored[0] is None
        return
    assert stored[0] == record.commit.encode(), f"{task}: stored commit {stored[0]}, not {record.commit}"
    assert stored[1][4:] == record.meta
    assert stored[2] == (b"1" if record.ended else b"0")
    if record.tried:
        counted = (record.tried, str(record.starts), record.place, record.suspect, str(record.deaths))
        found = tuple(value.decode() for value in stored[3:] if value is not None)
        assert found == counted, f"{task}: attempts {found}, not {counted}"
    state = {name.decode(): blob[4:] for name, blob in zip(fields[::2], fields[1::2], strict=True)}
    assert state == record.state, f"{task}: state"


_Round = tuple[list[tuple[RealJob, Step]], int]
"""A step of each job of a lane, and how many answers are under way."""


class Player:
    """Plays schedules in batches on one server. ``seen`` counts the answers and events over all of them."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._wire = Wire(client)
        for name, text in {
            "commit": Script("commit", "allow-oom").text, "ingest": Script("commit").text,
            "attempt": Script("attempt").text, "publish": Script("publish").text,
            "observe": OBSERVE, "dump": DUMP, "restore": RESTORE,
        }.items():  # fmt: skip
            self._wire.script(name, text)
        self.seen: Counter[str] = Counter()

    def play(self, seeds: range, steps: int, full: range = range(0)) -> None:
        """One schedule for each seed, side by side. In the rounds ``full`` the server's memory is full."""
        self._client.flushall()
        jobs = [RealJob(self._wire, seed) for seed in seeds]
        for job in jobs:
            job.publish()
        self._wire.flush()
        # while the server works on one lane, the other is made and checked; turning its memory off and on needs both at rest
        lanes = [jobs] if full else [jobs[::2], jobs[1::2]]
        under_way = [self._begin(lane, False) for lane in lanes]
        for round_ in range(1, steps + 1):
            if full and round_ in (full.start, full.stop):
                self._finish_rounds(under_way)
                self._client.config_set("maxmemory", int(round_ in full))
                under_way = [self._begin(lane, round_ in full) for lane in lanes]
                continue
            for i, lane in enumerate(lanes):
                self._finish_rounds(under_way[i : i + 1])
                under_way[i] = self._begin(lane, round_ in full)
        self._finish_rounds(under_way)
        for job in jobs:
            job.look()
        for job, seen in zip(jobs, self._wire.flush(), strict=True):
            with _named(job):
                job.finish(seen)
            self.seen += job.schedule.seen

    def _begin(self, jobs: list[RealJob], memory_full: bool) -> _Round:
        steps = [(job, job.send(memory_full)) for job in jobs]
        return steps, self._wire.send()

    def _finish_rounds(self, rounds: list[_Round]) -> None:
        for steps, count in rounds:
            answers = self._wire.receive(count)
            for (job, step), answer, seen in zip(steps, answers[::2], answers[1::2], strict=True):
                with _named(job, step):
                    job.check(step, answer, seen)
            if any(isinstance(step, RollBack) for _, step in steps):
                self._let_time_pass()

    def _let_time_pass(self) -> None:
        """Entry ids are milliseconds. A server that starts anew needs longer than one, so none comes twice; nor here."""
        before = self._millis()
        while self._millis() == before:
            pass

    def _millis(self) -> int:
        seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000


@contextmanager
def _named(job: RealJob, step: Step | None = None) -> Iterator[None]:
    """A failure inside says which schedule it was, and which step."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"schedule {job.schedule.job.uid}, {step or 'at the end'}: {error}") from error
