"""Redis streams as a source: exactly once, because the ids are part of the job's commit."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import SecretStr

from market_data_pipeline.adapters.serialization import Format
from market_data_pipeline.durations import Duration, parse_duration
from market_data_pipeline.errors import ConfigError, RecordError, SourceError, StoreUnavailable
from market_data_pipeline.frame import compact
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.records import FieldNames, Gap, fields_of
from market_data_pipeline.sources.base import Batch, Source, SourceContext, checked_idleness
from market_data_pipeline.sources.lanes import Lanes
from market_data_pipeline.sources.messages import Decode, MessageReader, time_of
from market_data_pipeline.sources.stream_places import (
    NO_STREAM,
    START,
    Loss,
    Place,
    StreamState,
    beginning,
    behind,
    known,
    loss,
    parsed_id,
    stream_state,
)
from market_data_pipeline.store.client import connect, connect_blocking, explained, until_done
from market_data_pipeline.store.url import Tls, address_of_argument

log = logging.getLogger(__name__)

GAPS = "gaps"
_BLOCK_MS = 500
_LANE_ITEMS = 4
_ABSENT = "no such key"

Fields = Mapping[bytes, bytes]


class _Lost(NamedTuple):
    gap: Gap


class RedisStreamSource(Source):
    """The entries of ``streams`` (a key or several) as records of ``kind``: ``trade``, ``quote``, ``bar``, or ``rows``.

    ``url``: as for the job's own server (``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://``; no cluster); its
    password is never shown; ``ca``, ``cert``, ``cert_key``: PEM files for TLS. An entry's own fields (``symbol``,
    ``price``, ...) are the record's, as text; with ``field`` that one field holds a whole message in ``format``: ``json``,
    ``msgpack``, or a function of its bytes. ``columns``, ``time_unit``, ``symbol``: as for :class:`Replay`; prices and
    sizes in the venue's own units, times to ns. ``start``, where no commit says better: ``earliest``, ``latest``, or an id
    (the entries behind it). ``until="end"``: stop where each stream ended when the job began. Events may come up to
    ``max_delay`` ("1s") out of order within a stream; streams are read in step by event time. A stream that is not there
    yet is waited for.

    Guarantee: exactly once from the first commit on: the ids live in the commit; no consumer group is made, nothing is
    written. Retried: everything while the server is away (logged once). ``SourceError``, which ends the job: no rights, a
    key that is no stream, and entries that were trimmed (or the stream made anew) before they were read, unless
    ``on_lost="skip"``: then reading goes on at the first entry that is there, a :class:`Gap` (symbol: the stream; entries
    counted from its beginning) goes to the output ``gaps``, and ``lost`` counts what is missing. After a ``start`` at an id
    this is noticed once the source was at the end. Entries that cannot be used are dead letters (``stream:id``).
    ``idle_after``, ``live``: see :class:`Source`. The server must count entries (Redis 7.0, Valkey 7.2).
    """

    outputs = (GAPS,)

    def __init__(  # noqa: PLR0913 - where, what, from where to where; all but the first three by keyword
        self,
        url: str | SecretStr,
        streams: str | Sequence[str],
        kind: str = "trade",
        *,
        field: str | None = None,
        format: Format | Decode = "json",  # noqa: A002 - as in Python's own words
        columns: Mapping[str, str] | None = None,
        time_unit: str = "ns",
        symbol: str | None = None,
        start: str = "earliest",
        until: Literal["end"] | None = None,
        on_lost: Literal["fail", "skip"] = "fail",
        max_delay: Duration | None = "1s",
        idle_after: Duration | None = None,
        live: bool = False,
        batch_items: int = 8192,
        ca: Path | str | None = None,
        cert: Path | str | None = None,
        cert_key: Path | str | None = None,
    ) -> None:
        self.ca, self.cert, self.cert_key = (None if path is None else Path(path) for path in (ca, cert, cert_key))
        self.url = url if isinstance(url, SecretStr) else SecretStr(url)
        self._address = address_of_argument(url, Tls(self.ca, self.cert, self.cert_key))
        self.streams = (streams,) if isinstance(streams, str) else tuple(streams)
        self.kind, self.field, self.format, self.columns = kind, field, format, columns
        self.time_unit, self.symbol = time_unit, symbol
        self.start, self.until, self.on_lost = start, until, on_lost
        self.max_delay = None if max_delay is None else parse_duration(max_delay, "max_delay")
        self.idle_after, self.live = checked_idleness(idle_after, live), live
        self.batch_items = batch_items
        self._check_choices()
        self._messages = MessageReader(kind, format, columns, time_unit, symbol)

    def fields_given(self, output: str = "") -> FieldNames:
        return fields_of("gap" if output == GAPS else self.kind)

    def _check_choices(self) -> None:
        for name, value, allowed in (
            ("until", self.until, ("end", None)),
            ("on_lost", self.on_lost, ("fail", "skip")),
        ):
            if value not in allowed:
                raise ConfigError(f"{name}: {value!r} is not allowed; one of: {', '.join(map(repr, allowed))}")
        if not self.streams or len(set(self.streams)) < len(self.streams):
            raise ConfigError(f"streams: {self.streams!r}: name one at least, and none twice")
        if self.batch_items < 1:
            raise ConfigError(f"batch_items: {self.batch_items} must be at least 1")
        if self.start not in ("earliest", "latest"):
            try:
                parsed_id(self.start)
            except ValueError:
                raise ConfigError(f"start: {self.start!r} is not allowed; earliest, latest, or an entry's id") from None

    def config(self) -> dict[str, Any]:
        return {**super().config(), "url": str(self._address)}

    def check(self) -> None:
        address = self._address
        try:
            with explained(address), connect_blocking(address, timeout=5.0) as client:
                for name in self.streams:
                    found = client.type(name)
                    if found not in (b"stream", b"none"):
                        raise SourceError(f"server {address}: {name} is a {found.decode()}, not a stream")
        except StoreUnavailable as error:
            raise SourceError(str(error)) from error

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        self._ctx = ctx
        self._client = connect(self._address)
        self._lanes: Lanes[str] = Lanes(self.streams, self.max_delay is not None, _LANE_ITEMS * self.batch_items)
        saved = position or {"places": [], "ends": []}
        self._read_to = {name: Place(at, passed) for name, at, passed in saved["places"] if name in self.streams}
        self._given_to = dict(self._read_to)
        self._ends: dict[str, str] = {name: at for name, at in saved["ends"] if name in self.streams}
        self._done: set[str] = set()
        self._told = position is not None

    async def read(self) -> Batch | None:
        while True:
            if self._told:
                taken = self._lanes.take(self.batch_items)
                if taken.items:
                    self._given_to.update(self._read_to if self._lanes.empty else taken.places)
                    return self._batch(taken.items)
                if len(self._done) == len(self.streams) and self._lanes.empty:
                    return None
            await self._fetch()
            if not self._told:  # where it begins is committed before anything, whatever comes meanwhile
                self._told = True
                return Batch([], self._position())

    async def _fetch(self) -> None:
        wanted = [name for name in self.streams if name not in self._done and not self._lanes.full(name)]
        what = f"source {self._ctx.node}: server {self._address}"
        try:
            with explained(self._address):
                answers = await until_done(lambda: self._asked(wanted), what, self._ctx.clock)
                came = [self._take(name, *answer) for name, answer in zip(wanted, answers, strict=True)]
                if wanted and not any(came) and len(self._done) < len(self.streams) and self._told:
                    await until_done(lambda: self._wait(wanted), what, self._ctx.clock)
        except StoreUnavailable as error:
            raise SourceError(f"source {self._ctx.node}: {error}") from error

    async def _asked(self, wanted: list[str]) -> list[tuple[StreamState, list[tuple[str, Fields]]]]:
        """The state of each stream and the entries behind what was read, both of one moment."""
        if not wanted:
            return []
        async with self._client.pipeline(transaction=True) as pipeline:
            for name in wanted:
                pipeline.xinfo_stream(name)
                pipeline.xread({name: self._place(name).id}, count=self.batch_items)
            answers = await pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception) and _ABSENT not in str(answer):
                raise answer
        infos, found = answers[::2], answers[1::2]
        return [
            (NO_STREAM if isinstance(info, Exception) else self._state(info), list(_entries(entries)))
            for info, entries in zip(infos, found, strict=True)
        ]

    def _state(self, info: Mapping[str, Any]) -> StreamState:
        try:
            return stream_state(info)
        except KeyError as error:
            raise SourceError(
                f"server {self._address}: does not count a stream's entries ({error}); Redis 7.0 or Valkey 7.2 is needed"
            ) from error

    def _place(self, name: str) -> Place:
        start = self.start if self.start not in ("earliest", "latest") else START
        return self._read_to.get(name, Place(start, None))

    async def _wait(self, wanted: list[str]) -> None:
        """Until one of the streams has something, or a moment."""
        await self._client.xread({name: self._place(name).id for name in wanted}, count=1, block=_BLOCK_MS)

    def _take(self, name: str, state: StreamState, entries: list[tuple[str, Fields]]) -> bool:
        """Note what came from ``name``; whether anything did."""
        if name not in self._read_to:
            self._read_to[name] = self._given_to[name] = beginning(state, self.start)
            if self.start == "latest":
                entries = []
        if self.until == "end":
            self._ends.setdefault(name, state.last)
        lost = loss(self._read_to[name], state)
        if lost is not None:
            self._lost(name, lost, state)
            if lost.anew:
                return True  # what it has now stands before where we read
        entries = self._before_end(name, entries)
        self._add(name, entries)
        if len(entries) < self.batch_items:
            self._lanes.caught_up(name)
        self._read_to[name] = known(self._read_to[name], state)
        if self.until == "end" and parsed_id(self._read_to[name].id) >= parsed_id(self._ends[name]):
            self._done.add(name)
            self._lanes.caught_up(name)
        return bool(entries)

    def _before_end(self, name: str, entries: list[tuple[str, Fields]]) -> list[tuple[str, Fields]]:
        if name not in self._ends:
            return entries
        end = parsed_id(self._ends[name])
        return [entry for entry in entries if parsed_id(entry[0]) <= end]

    def _lost(self, name: str, lost: Loss, state: StreamState) -> None:
        at = self._read_to[name].id
        what = (
            f"stream {name} at {self._address}: it was made anew, or its server rolled back: {at} was read, its last is"
            f" {state.last}"
            if lost.anew
            else f"stream {name} at {self._address}: {lost.missing} entries behind {at} were trimmed before they were read"
        )
        if self.on_lost == "fail":
            raise SourceError(f"{what}; on_lost='skip' goes on at {state.first or 'the next entry'}")
        log.warning("%s; going on at %s", what, state.first or "the next entry")
        place = self._read_to[name] = behind(lost, state)
        if lost.anew and self.until == "end":
            self._ends[name] = state.last
        self._lanes.add(name, _Lost(Gap(name, lost.first, lost.last, lost.missing, 0)), place, None)

    def _add(self, name: str, entries: list[tuple[str, Fields]]) -> None:
        for (entry_id, fields), item in zip(entries, self._items([fields for _, fields in entries]), strict=True):
            passed = self._read_to[name].passed
            place = self._read_to[name] = Place(entry_id, None if passed is None else passed + 1)
            if isinstance(item, RecordError):
                letter = DeadLetter(self._ctx.node, str(item), _shown(fields), f"{name}:{entry_id}")
                self._lanes.add(name, letter, place, None)
            else:
                self._lanes.add(name, item, place, time_of(item))

    def _items(self, entries: list[Fields]) -> list[Any]:
        if self.field is None:
            return [self._of_fields(fields) for fields in entries]
        name = self.field.encode()
        found = iter(self._messages.read([fields[name] for fields in entries if name in fields]))
        return [next(found) if name in fields else RecordError(f"no field {self.field!r}") for fields in entries]

    def _of_fields(self, fields: Fields) -> Any:
        try:
            return self._messages.read_fields({name.decode(): value.decode() for name, value in fields.items()})
        except UnicodeDecodeError:
            return RecordError("not UTF-8")

    def _batch(self, taken: list[Any]) -> Batch:
        letters = tuple(item for item in taken if isinstance(item, DeadLetter))
        gaps = [item.gap for item in taken if isinstance(item, _Lost)]
        counts = Counter({"lost": sum(gap.missing for gap in gaps)})
        for name, n in (+counts).items():
            self._ctx.counted(name, n)
        items = [item for item in taken if not isinstance(item, DeadLetter | _Lost)]
        return Batch(compact(items), self._position(), letters, {GAPS: list(gaps)} if gaps else {})

    def _position(self) -> dict[str, Any]:
        return {
            "places": [[name, *place] for name, place in sorted(self._given_to.items())],
            "ends": [[name, at] for name, at in sorted(self._ends.items())],
        }

    async def close(self) -> None:
        if hasattr(self, "_client"):
            await self._client.aclose()


def _entries(reply: Any) -> Iterator[tuple[str, Fields]]:
    """Of one stream: RESP2 answers with a list of streams, RESP3 with a map."""
    for _, entries in reply.items() if isinstance(reply, dict) else reply or ():
        for entry in entries[0] if entries and isinstance(entries[0], list) else entries:
            entry_id, fields = entry
            yield entry_id.decode(), fields or {}


def _shown(fields: Fields) -> dict[str, str]:
    return {name.decode(errors="replace"): value.decode(errors="replace")[:10_000] for name, value in fields.items()}
