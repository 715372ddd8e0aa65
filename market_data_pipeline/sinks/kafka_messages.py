"""Items -> Kafka messages, and what of them is to be sent after a restart. Pure: no client is known here."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import mmh3
import numpy as np

from market_data_pipeline.adapters.serialization import Encoder
from market_data_pipeline.dag.partition import key_text
from market_data_pipeline.errors import CodecError, CorruptState
from market_data_pipeline.frame import Columns, Dictionary, Frame, Items, to_rows
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.records import ROW_RECORDS, field
from market_data_pipeline.sinks.encoding import plain, records

SCHEMA = b"1"
"""Version of the values' layout (``docs/wire-format.md``); a header says it."""
TABLES = {
    "trade": "trades",
    "quote": "quotes",
    "bar": "bars",
    "window": "windows",
    "gap": "gaps",
    "feed": "feed_events",
}
_KINDS = {cls: kind for kind, cls in ROW_RECORDS.items()}
_MS = 1_000_000


class Messages(NamedTuple):
    """Messages for one topic of one kind, column by column: keys, values, and times in ms (0: the client's own clock)."""

    topic: str
    kind: str
    keys: list[bytes]
    values: list[bytes]
    times: list[int]

    def bytes(self) -> int:
        """Of keys and values."""
        return sum(map(len, self.keys)) + sum(map(len, self.values))


class Layout(NamedTuple):
    """How items become messages. ``reject(item, reason)`` takes those that cannot."""

    topic: str
    key: str
    encoder: Encoder
    most_bytes: int
    reject: Callable[[Any, str], None]


def message_id(value: bytes) -> str:
    """What tells a message from all others: 128 bits of its value, in hex. The same record has the same one, however often and
    in whatever batch it is sent; records that differ in any field have different ones."""
    return str(mmh3.mmh3_x64_128_digest(value).hex())


def messages_of(frames: Iterable[Frame], layout: Layout) -> list[Messages]:
    """The items of ``frames``, order kept within each of the results."""
    return [made for items in records(frames) for part in _by_kind(items) if (made := _made(*part, layout)) is not None]


def _by_kind(items: Items) -> Iterator[tuple[str, Items]]:
    if isinstance(items, Columns):
        yield items.kind, items
        return
    start = 0
    kinds = [_KINDS.get(type(item), "") for item in items]
    for at in range(1, len(items) + 1):
        if at == len(items) or kinds[at] != kinds[start]:
            yield kinds[start], items[start:at]
            start = at


def _made(kind: str, items: Items, layout: Layout) -> Messages | None:
    keys, times = _keys_and_times(items, layout.key)
    if keys is None or times is None:
        return _one_by_one(kind, to_rows(items), layout)
    table = TABLES.get(kind, "items")
    encoded = layout.encoder.encode_all(items if kind else [plain(item) for item in to_rows(items)])
    made = Messages(layout.topic.replace("{table}", table), kind, keys, [], times)
    if not encoded.refused and max(map(_size, encoded.messages), default=0) + 512 <= layout.most_bytes:
        return made._replace(values=[value for value in encoded.messages if value is not None])
    refused = {one.at: one.reason for one in encoded.refused}
    rows, good = to_rows(items), []
    for at, (value, key) in enumerate(zip(encoded.messages, keys, strict=True)):
        if value is None:
            layout.reject(rows[at], refused[at])
        elif len(value) + len(key) + 512 > layout.most_bytes:
            layout.reject(rows[at], f"a message of {len(value)} bytes is over message.max.bytes, {layout.most_bytes}")
        else:
            good.append((at, value))
    return made._replace(
        keys=[keys[at] for at, _ in good], values=[value for _, value in good], times=[times[at] for at, _ in good]
    )


def _size(value: bytes | None) -> int:
    return len(value) if value is not None else 0


def _one_by_one(kind: str, rows: Sequence[Any], layout: Layout) -> Messages | None:
    good = []
    for row in rows:
        if _key(row, layout.key) is None:
            layout.reject(row, f"no field {layout.key!r} to key the message by")
        else:
            good.append(row)
    return _made(kind, good, layout) if good else None


def _key(item: Any, name: str) -> bytes | None:
    try:
        return key_text(field(item, name)).encode()
    except (KeyError, AttributeError, TypeError, UnicodeEncodeError):
        return None


def _keys_and_times(items: Items, name: str) -> tuple[list[bytes] | None, list[int] | None]:
    if not isinstance(items, Columns):
        keys = [_key(item, name) for item in items]
        known = [key for key in keys if key is not None]
        return (known, [_ms(item) for item in items]) if len(known) == len(keys) else (None, None)
    column = items.data.get(name)
    if not isinstance(column, Dictionary):
        keys = [_key(item, name) for item in items.rows()]
        column_keys = [key for key in keys if key is not None]
        if len(column_keys) < len(keys):
            return None, None
    else:
        try:
            names = [text.encode() for text in column.names]
        except UnicodeEncodeError:
            return None, None
        column_keys = [names[code] for code in column.codes.tolist()]
    return column_keys, _column_ms(items)


def _column_ms(items: Columns) -> list[int]:
    """The events' times; a bar without a label of its own is timed by its opening."""
    times = items.data.get("ts_event")
    opens = items.data.get("ts_open")
    if not isinstance(times, np.ndarray):
        times = opens
    if not isinstance(times, np.ndarray) or times.dtype.kind != "i":
        return [0] * len(items)
    if isinstance(opens, np.ndarray):
        times = np.where(times == 0, opens, times)
    found: list[int] = np.maximum(times // _MS, 0).tolist()
    return found


def _ms(item: Any) -> int:
    for name in ("ts_event", "ts_open"):
        try:
            value = field(item, name)
        except (KeyError, AttributeError, TypeError):
            continue
        if type(value) is int and 0 < value < 2**63:
            return value // _MS
    return 0


class Outbox(NamedTuple):
    """What a commit says is to be sent: ``token`` (random, 62 bits) names this outbox alone, ``marker_topic`` is where the mark
    of it is looked for."""

    token: int
    marker_topic: str
    groups: list[Messages]

    def state(self) -> dict[str, Any]:
        """As part of the commit; the messages are compressed."""
        blob = zlib.compress(pack([list(group) for group in self.groups]), 1) if self.groups else b""
        return {"token": self.token, "topic": self.marker_topic, "messages": blob}


def outbox_of(state: dict[str, Any]) -> Outbox:
    """The reverse of :meth:`Outbox.state`. Raises ``CorruptState``."""
    try:
        groups = unpack(zlib.decompress(state["messages"])) if state["messages"] else []
        return Outbox(state["token"], state["topic"], [Messages(*group) for group in groups])
    except (KeyError, TypeError, zlib.error, CodecError) as error:
        raise CorruptState(f"the messages that the commit holds for Kafka cannot be read: {error}") from error


def next_step(outbox: Outbox | None, mark: int | None) -> Literal["send", "nothing"]:
    """What a new owner does with the last committed ``outbox`` (``None``: there is none), of which the servers say ``mark``.

    Messages and mark are one transaction: the outbox was sent if and only if the mark is its own token. Any other mark is
    that of an outbox before it, or, when the job's server was rolled back, of one that no commit knows any more.
    """
    return "send" if outbox is not None and outbox.groups and mark != outbox.token else "nothing"
