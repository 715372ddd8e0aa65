"""Redis: the latest value per symbol as a hash, and output streams."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
from pydantic import SecretStr

from market_data_pipeline.adapters.serialization import Encoder, JsonEncoder, MsgpackEncoder
from market_data_pipeline.durations import Duration, positive_duration
from market_data_pipeline.errors import ConfigError, CorruptState, RecordError, SinkError
from market_data_pipeline.frame import Array, Columns, Frame, Items, to_rows
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.records import MAX_TIME, MIN_TIME, RECORDS, Bar
from market_data_pipeline.sinks.base import SinkContext
from market_data_pipeline.sinks.encoding import records
from market_data_pipeline.sinks.redis_place import TABLE_OF, RedisSink, Template
from market_data_pipeline.store.client import Script, check_output_server, text_of

log = logging.getLogger(__name__)

_HASHES_PER_CALL = 256
_MOST_FIELDS = 1000
"""Of a hash: a script cannot pass on more than some 4,000, and would fail behind its first write."""
STATE_BYTES = 4 * 1024 * 1024
"""What a commit holds of output at most; more is staged at the server."""
_PART_BYTES, _PART_ENTRIES = 512 * 1024, 2048
_MARKER_MS = 30 * 86_400_000
_STAGED_SECONDS = 7 * 86_400
_CLEAR_AFTER = 1.0
"""Seconds after which a commit gets rid of output that was sent."""
_OFFSET = 2**63


# --- the latest value -------------------------------------------------------------------------------------------


class _Latest(NamedTuple):
    """``order`` is compared first; what is equal is replaced."""

    order: tuple[int, int]
    item: Any
    words: list[bytes]


class RedisLatest(RedisSink):
    """Keeps the latest record per symbol as a hash, with the record's fields as text, ``kind``, and ``_order``, which says how
    new it is. Times are nanoseconds, prices and sizes in the venue's units.

    ``url`` as for the job's server (``redis://``, ``rediss://``, ``unix://``, Sentinel; no cluster); ``ca``, ``cert``,
    ``cert_key``: PEM files for TLS. ``key``: with the places ``{table}`` (``trades``, ``quotes``, ``bars``, ...), ``{symbol}``,
    ``{venue}``. ``ttl``: a hash that nobody replaces for so long goes away; default: never.

    A record replaces one with an earlier ``ts_event``; of equal ones the trade's id, the quote's ``update_id`` (where they are
    ints) or the later opening of the task decides. Of bars it is ``ts_open``, then ``revision``. The server compares, so a late
    record, a replay or a zombie never puts back an older value.

    Guarantee: exactly once by key; values are there before the commit. What the server loses comes again with the symbol's
    next record. The server being away, full, or refusing is a ``SinkError``: the task waits and goes on from its last commit.
    Dicts need ``symbol`` (as the key says) and ``ts_event``. What lacks these, has a field ``_order`` or more than 1,000
    fields, and what belongs under a key that holds something else, goes to the dead letters. Counts ``older``: values that
    were not the latest at the server.
    """

    def __init__(
        self,
        url: SecretStr | str,
        key: str = "latest:{table}:{symbol}",
        *,
        ttl: Duration | None = None,
        ca: Path | str | None = None,
        cert: Path | str | None = None,
        cert_key: Path | str | None = None,
    ) -> None:
        super().__init__(url, ca, cert, cert_key)
        self.key = key
        self.ttl = None if ttl is None else positive_duration(ttl, "ttl")
        self._template = Template("key", key)
        self._latest: dict[str, _Latest] = {}
        self._script = Script("sink_latest")

    def destination(self) -> str:
        return f"{self._address}, hashes {self.key}"

    async def write(self, frames: Sequence[Frame]) -> None:
        for items in records(frames):
            for item in _candidates(items, self._template):
                try:
                    key, order = self._template.of(item), _order(item)
                    if key in self._latest and self._latest[key].order > order:
                        continue
                    key.encode()
                    self._latest[key] = _Latest(order, item, _words(item))
                except (RecordError, UnicodeEncodeError, TypeError) as error:
                    self._ctx.reject(item, str(error))

    async def prepare(self, ended: bool) -> Any | None:
        latest, self._latest = self._latest, {}
        with self._explained():
            todo = iter(latest.items())
            while group := list(islice(todo, _HASHES_PER_CALL)):
                await self._store(group)
        return None

    async def _store(self, group: list[tuple[str, _Latest]]) -> None:
        assert self._client is not None
        args: list[Any] = [max(1, self.ttl // 1_000_000) if self.ttl else 0]
        for _, value in group:
            order = "".join(f"{part + _OFFSET:020d}" for part in (*value.order, self._ctx.generation))
            args += [order, len(value.words), *value.words]
        replaced, *wrong = await self._script.call(self._client, [key for key, _ in group], args)
        for place in wrong:
            key, value = group[place - 1]
            self._ctx.reject(value.item, f"key {key!r} holds something that is no hash")
        if replaced + len(wrong) < len(group):
            self._ctx.counted("older", len(group) - replaced - len(wrong))


def _candidates(items: Items, template: Template) -> list[Any]:
    """The rows that can be the latest: of columns, the last of each symbol."""
    known = isinstance(items, Columns) and items.kind and "venue" not in template.places
    if not known or not len(items):
        return to_rows(items)
    assert isinstance(items, Columns)
    symbol = items.dictionary("symbol").codes
    time_field = "ts_open" if items.kind == "bar" else "ts_event"
    index = np.lexsort((_ranks(items), items.array(time_field), symbol))
    ordered = symbol[index]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    return items.take(index[last]).rows()


def _ranks(columns: Columns) -> Array:
    field = {"trade": "trade_id", "quote": "update_id", "bar": "revision"}[columns.kind]
    if field not in columns.data:
        return np.zeros(len(columns), np.int64)
    values = columns.array(field)
    if values.dtype == object:
        return np.array([_rank(value) for value in values.tolist()], np.int64)
    return values


def _rank(value: Any) -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return int(value) if whole and MIN_TIME <= value <= MAX_TIME else 0


def _order(item: Any) -> tuple[int, int]:
    """How new an item is. Raises ``RecordError`` where it does not say."""
    fields = item if isinstance(item, dict) else getattr(item, "_asdict", dict)()
    of_bar = isinstance(item, Bar) or "ts_event" not in fields
    at = fields.get("ts_open" if of_bar else "ts_event")
    if isinstance(at, bool) or not isinstance(at, int | np.integer) or not MIN_TIME <= at <= MAX_TIME:
        raise RecordError("the item has no ts_event in nanoseconds")
    return int(at), _rank(next((fields[name] for name in ("revision", "update_id", "trade_id") if name in fields), 0))


def _words(item: Any) -> list[bytes]:
    """Field, value, field, value, ...: of a record with its kind. Raises ``RecordError`` where they cannot be a hash."""
    fields = dict(item) if isinstance(item, dict) else item._asdict()
    kind = next((name for name, cls in RECORDS.items() if type(item) is cls), "")
    words = {"kind": kind, **fields} if kind else fields
    if len(words) > _MOST_FIELDS or "_order" in words:
        raise RecordError(
            f"the item has {len(words)} fields; {_MOST_FIELDS} at most are allowed, and none named _order"
        )
    return [_text(part) for pair in words.items() for part in pair]


def _text(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if value is None:
        return b""
    if isinstance(value, bool | np.bool_):
        return b"1" if value else b"0"
    if isinstance(value, list | dict | tuple):
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY, default=str)
    return (repr(float(value)) if isinstance(value, float) else str(value)).encode()


# --- output streams ---------------------------------------------------------------------------------------------


class RedisOutput(RedisSink):
    """Appends each item to a stream, as an entry with one field ``data``: JSON or msgpack as in ``docs/wire-format.md``.

    ``url``, ``ca``, ``cert``, ``cert_key``: as for :class:`RedisLatest`. ``stream``: the stream's key, with the places
    ``{table}`` (``trades``, ``quotes``, ``bars``, ...), ``{symbol}``, ``{venue}``. ``format``: ``"json"`` or ``"msgpack"``.
    ``maxlen``: about how many entries a stream keeps, the oldest go; default: all, and then somebody else must trim it.

    Guarantee: exactly once. What is to be sent is part of the commit; after it a script appends a part of at most 2,048
    entries and notes in the task's marker (``mdp:sent:{...}``) that it did, in one. A new owner sends what the marker does not
    know. A step of more than 4 MiB is staged at the server before the commit (``mdp:staged:{...}``, for seven days) and moved
    after it. Entries come right after their commit, in order; those of several tasks are mixed.

    Three things are not covered. A job's server, if it is another one, that comes back without its last commits: what those
    had sent is sent again. An output server that comes back without its last writes: entries that it lost stay lost, but for
    those of the last commit. A step staged at such a server and lost there: ``CorruptState``. With the job on the same server
    there is no such case.

    The server being away, full, or refusing is a ``SinkError``: the task waits, loads again and sends what is
    left. Items that cannot be written in the format, or that lack a field that ``stream`` names, go to the dead letters.
    """

    def __init__(
        self,
        url: SecretStr | str,
        stream: str = "out:{table}",
        *,
        format: Literal["json", "msgpack"] = "json",  # noqa: A002 - the word that says it
        maxlen: int | None = None,
        ca: Path | str | None = None,
        cert: Path | str | None = None,
        cert_key: Path | str | None = None,
    ) -> None:
        super().__init__(url, ca, cert, cert_key)
        self.stream, self.format, self.maxlen = stream, format, maxlen
        self._template = Template("stream", stream)
        if format not in ("json", "msgpack"):
            raise ConfigError(f"format: {format!r} is not allowed; choose json or msgpack")
        if maxlen is not None and maxlen < 1:
            raise ConfigError(f"maxlen: {maxlen} must be at least 1")
        self._entries: list[tuple[str, bytes]] = []
        self._script = Script("sink_send")
        self._pending: dict[str, Any] | None = None
        self._sent_at: float | None = None

    def destination(self) -> str:
        return f"{self._address}, stream {self.stream}"

    def check(self) -> None:
        with self._explained():
            policy = check_output_server(self._address)
        if policy != "noeviction":  # also of keys with a time to live alone: markers and staged parts have one
            log.warning(
                "%s: maxmemory-policy is %s: it may evict streams, and what makes them exact", self._address, policy
            )

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        await super().open(ctx, state)
        self._task = f"{ctx.node}-{ctx.job[:8]}-p{ctx.partition:04d}"
        self._marker = f"mdp:sent:{{{self._task}}}"
        self._encoder: Encoder = JsonEncoder() if self.format == "json" else MsgpackEncoder()
        if state is None:
            return
        try:
            with self._explained():
                await self._check_generation()
                await self._send(state)
        except BaseException:
            await self.close()
            raise

    async def _check_generation(self) -> None:
        """A zombie ends here. Should we be the owner all the same, then the job's server's clock went back: what we send
        would be taken for a zombie's, and lost."""
        if await self._is_outrun():
            raise SinkError(
                f"{self._address}: a later opening than generation {self._ctx.generation} has sent;"
                " did the clock of the job's server go back?"
            )

    async def write(self, frames: Sequence[Frame]) -> None:
        for items in records(frames):
            messages, refused = self._encoder.encode_all(items)
            for bad in refused:
                self._ctx.reject(bad.item, bad.reason)
            if set(self._template.places) <= {"table"} and isinstance(items, Columns) and items.kind:
                key = self._template.text.replace("{table}", TABLE_OF[RECORDS[items.kind]])
                self._entries += [(key, message) for message in messages if message is not None]
                continue
            for item, message in zip(to_rows(items), messages, strict=True):
                if message is not None:
                    self._add(item, message)

    def _add(self, item: Any, message: bytes) -> None:
        try:
            key = self._template.of(item)
            key.encode()
            self._entries.append((key, message))
        except (RecordError, UnicodeEncodeError) as error:
            self._ctx.reject(item, str(error))

    async def prepare(self, ended: bool) -> Any | None:
        entries, self._entries = self._entries, []
        self._pending = self._sent_at = None
        if not entries:
            return None
        with self._explained():  # nothing is committed while the server is away
            await self._check_generation()
        name, parts = secrets.token_hex(16), [pack(part) for part in _parts(entries)]
        if sum(map(len, parts)) <= STATE_BYTES:
            self._pending = {"id": name, "parts": parts, "staged": []}
        else:
            self._pending = {"id": name, "parts": [], "staged": await self._stage(name, parts)}
        return self._pending

    async def _stage(self, name: str, parts: list[bytes]) -> list[str]:
        """Leave the parts at the server; the keys under which they are."""
        assert self._client is not None
        keys = [f"mdp:staged:{{{self._task}}}:{name}:{number}" for number in range(len(parts))]
        with self._explained():
            try:
                for key, part in zip(keys, parts, strict=True):
                    await self._client.set(key, part, ex=_STAGED_SECONDS)
            except BaseException:  # a full server would be fuller by each attempt
                with suppress(SinkError), self._explained():
                    await self._client.unlink(*keys)
                raise
        return keys

    def due(self) -> bool:
        return self._sent_at is not None and time.monotonic() - self._sent_at >= _CLEAR_AFTER

    async def committed(self) -> None:
        if self._pending is not None:
            with self._explained():
                await self._send(self._pending)

    async def _send(self, state: dict[str, Any]) -> None:
        """Send what a commit holds, as far as it was not sent."""
        assert self._client is not None
        keys = state["staged"]
        for number in range(await self._next(state), len(keys) or len(state["parts"])):
            part: Any = await self._client.get(keys[number]) if keys else state["parts"][number]
            if part is None:
                if await self._next(state) > number:
                    break  # another opening has sent it just now
                raise CorruptState(
                    f"{self._address}: {keys[number]} was committed, and is gone; did the server lose data?"
                )
            streams, places, messages = unpack(part)
            args = [f"{self._ctx.generation:020d}", state["id"], number, self.maxlen or "", _MARKER_MS, "data"]
            args += [word for pair in zip(places, messages, strict=True) for word in pair]
            said, *more = await self._script.call(self._client, [self._marker, *streams], args)
            if text_of(said) == "TYPE":
                raise SinkError(f"{self._address}: key {text_of(more[0])!r} holds something that is no stream")
        if keys and not await self._is_outrun():
            await self._client.unlink(*keys)
        self._sent_at = time.monotonic()

    async def _is_outrun(self) -> bool:
        """Whether a later opening has begun to send: it needs what is staged, and takes it away itself."""
        assert self._client is not None
        found: Any = await self._client.hmget(self._marker, ["generation"])
        return found[0] is not None and int(found[0]) > self._ctx.generation

    async def _next(self, state: dict[str, Any]) -> int:
        """The first part that was not sent: by us, or by a later opening, which has begun with what we are about to send."""
        assert self._client is not None
        found: Any = await self._client.hmget(self._marker, ["generation", "id", "next"])
        generation, name, following = (None if value is None else text_of(value) for value in found)
        if generation is not None and int(generation) > self._ctx.generation:
            return len(state["staged"]) or len(state["parts"])
        return int(following) if following is not None and name == state["id"] else 0


def _parts(entries: list[tuple[str, bytes]]) -> Iterator[tuple[list[str], list[int], list[bytes]]]:
    """Entries by the script call: the streams' keys, and for each entry the place of its stream (from 1) and its message."""
    streams: dict[str, int] = {}
    places: list[int] = []
    messages: list[bytes] = []
    size = 0
    for key, message in entries:
        if messages and (size + len(message) > _PART_BYTES or len(messages) >= _PART_ENTRIES):
            yield list(streams), places, messages
            streams, places, messages, size = {}, [], [], 0
        places.append(streams.setdefault(key, len(streams) + 1))
        messages.append(message)
        size += len(message)
    if messages:
        yield list(streams), places, messages
