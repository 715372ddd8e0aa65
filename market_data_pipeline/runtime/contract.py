"""What a task needs of its store: values and a protocol, so that the task knows nothing of the server behind it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from market_data_pipeline.operators.base import DeadLetter

Stream = tuple[str, int]
"""A stream by its channel (edge name) and partition."""


class Entry(NamedTuple):
    """One entry read from a stream."""

    id: str
    blob: bytes


def entry_name(stream: Stream, entry: Entry) -> str:
    """Where an entry stands, for people and for marks."""
    return f"{stream[0]}/{stream[1]} entry {entry.id}"


class Consumed(NamedTuple):
    """A contiguous prefix of an input stream: first and last entry id, how many entries and bytes.

    ``partial``: the entry ``last`` was used in part. It must be there, and stays; ``entries`` and ``bytes`` are of those
    before it.
    """

    stream: Stream
    first: str
    last: str
    entries: int
    bytes: int
    partial: bool = False


@dataclass(frozen=True)
class CommitRequest:
    """One commit: everything or nothing of it becomes durable. ``parent`` is the commit id this task wrote last."""

    parent: str
    id: str
    meta: bytes
    ended: bool = False
    consumed: Sequence[Consumed] = ()
    outputs: Mapping[Stream, Sequence[bytes]] = field(default_factory=dict)
    state: Mapping[str, bytes | None] = field(default_factory=dict)
    dead_letters: Sequence[DeadLetter] = ()
    ingest: bool = False
    """Whether this commit brings new data into the job (a source's): it is refused when the server's memory is full."""
    idle: bool = False
    """Whether it used no input (it sends marks, or what was left over): the input at which processes died is still the next."""


class TaskRecord(NamedTuple):
    """What the store holds of a task. ``meta`` is empty at the beginning of a job.

    ``loaded_at`` is the server's time of this loading, microseconds since the epoch. Only the owner can load, so of two
    loadings the later one is the newer owner's, also when the server was rolled back in between.
    """

    commit: str
    meta: bytes
    ended: bool
    state: dict[str, bytes]
    loaded_at: int = 0


class Attempts(NamedTuple):
    """How often a task has begun to work at its present commit, and where the process died while it did.

    ``suspect``: the :meth:`TaskStore.mark` of the last death, ``""`` where there was none; ``deaths``: how many in a row were
    there.
    """

    starts: int = 1
    suspect: str = ""
    deaths: int = 0


class StreamsFull(Exception):
    """The commit found no room and changed nothing. ``streams`` may contain the dead letters, as ``None``; it is empty when
    the server's whole memory is full."""

    def __init__(self, streams: list[Stream | None]) -> None:
        super().__init__(streams)
        self.streams = streams


MAX_ENTRIES = 16
"""Entries of one stream that :meth:`TaskStore.read` returns, at most."""


class TaskStore(Protocol):
    """The store as one task sees it. Every call waits while the server is away.

    ``marking`` is shared by the tasks of one process and held while one of them is marked: of those that die together, only
    the one that was at work is suspected.
    """

    marking: asyncio.Lock

    async def load(self) -> TaskRecord:
        """The task's record. Raises ``Fenced`` when another owns the partition, ``LostTask``, ``CorruptState``."""
        ...

    def lease_held(self) -> bool:
        """Whether the lease cannot have run out yet. If not, another owner may be at work: write nothing outside."""
        ...

    async def attempt(self, commit: str) -> Attempts:
        """Count a start at ``commit``. Raises ``Fenced``, ``StaleTask``, ``LostTask``."""
        ...

    async def mark(self, commit: str, place: str) -> None:
        """Note where the task is at work, for the one who finds it dead; ``""``: nowhere. Raises as ``attempt`` does."""
        ...

    async def read(self, cursors: Mapping[Stream, str], timeout: float) -> dict[Stream, list[Entry]]:
        """Entries behind the cursors (``"0-0"``: from the head), as soon as there are any; empty after ``timeout`` s."""
        ...

    async def commit(self, request: CommitRequest) -> dict[Stream, int]:
        """Make it durable; the lengths of its output streams. Safe to repeat with the same request.

        Raises ``StreamsFull``, ``Fenced``, ``StaleTask``, ``LostTask``, ``JobChanged``.
        """
        ...

    async def lengths(self, streams: Sequence[Stream]) -> dict[Stream, int]:
        """How many frames wait in each stream."""
        ...


def new_commit_id() -> str:
    """128 random bits: never a counter, which would repeat itself after a rollback of the server."""
    return secrets.token_hex(16)


class Limits(NamedTuple):
    """Sizes of frames, commits and streams; see ``settings.py`` for what each means. ``high`` and ``low``: levels of a stream
    of ``channel_capacity`` frames; the two shares are for channels with a capacity of their own."""

    frame_items: int = 8192
    frame_bytes: int = 256 * 1024
    commit_items: int = 65536
    commit_frames: int = 16
    channel_capacity: int = 64
    channel_bytes: int = 32 * 1024 * 1024
    high: int = 48
    low: int = 16
    linger: float = 0.002
    mark_interval: float = 0.02
    dead_letter_capacity: int = 100_000
    high_watermark_pct: float = 0.75
    low_watermark_pct: float = 0.25

    @property
    def commit_bytes(self) -> int:
        """Bytes that one commit appends to one stream, at most."""
        return self.commit_frames * self.frame_bytes


Meta = dict[str, Any]
