"""Frame <-> bytes: versioned, bounded, with a CRC32C; items and names are packed by :mod:`market_data_pipeline.packing`.

An entry is the msgpack array ``[version, kind, origin, mark, born, payload, crc]``. ``origin`` names the task that wrote
it. ``crc`` is always written as a 5-byte uint32 and covers every byte before it. The payload is

* rows (kind 0): a list of items; a record travels as a map with the extra key ``"__record__"``;
* columns (kind 1): ``[record kind, n, {name: column}]`` where a column is ``[numpy type, bytes]``,
  ``["dict", numpy type of the codes, codes, names]`` (``names``: a msgpack list, packed once more, so that equal lists
  are recognised by their bytes) or ``["any", list of ints and strings]``.

Decoding checks the length first, then the CRC, then unpacks with explicit bounds. Anything wrong is a ``CodecError``.
Items that cannot be written (a type msgpack has no word for, an int over 64 bits, an item over the frame's size) are
handed back with the reason; they never cost their neighbours anything.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np

from market_data_pipeline.errors import CodecError
from market_data_pipeline.frame import (
    NO_MARK,
    Array,
    Column,
    Columns,
    Dictionary,
    Frame,
    Items,
    cut_items,
    to_rows,
)
from market_data_pipeline.names import Names, PerNames
from market_data_pipeline.packing import Rejected, crc32c, pack, unpack
from market_data_pipeline.records import COLUMN_TYPES, MAX_TIME, MIN_TIME, RECORDS, SIDES, SYMBOL

VERSION = 1
ROWS, COLUMNS = 0, 1
FRAME_ITEMS = 8192
FRAME_BYTES = 256 * 1024
_CRC_BYTES = 5
_OVERHEAD = 256
_SMALL_NAMES = 2048
"""So many bytes of names travel with any frame: it takes longer to find out which are in use."""
_LARGE_ROW = 256
"""Bytes of a row that is larger than most: so many rows fit into a frame for sure, or it is cut when it turns out too large."""
_NAME_BYTES = 8
"""What the names in use add to each row of a frame, about."""
_TYPES = {kind: np.dtype(kind) for kind in ("<i8", "<f8", "|i1", "<u4", "<u2", "|u1", "|b1", "<i4", "<f4")}
_ANY_TYPES = {type(None), bool, int, float, str}


class Encoded(NamedTuple):
    """A frame as bytes, and how many items it holds."""

    blob: bytes
    items: int


class Decoded(NamedTuple):
    origin: str
    frame: Frame


def _pack_names(names: Names) -> bytes:
    try:
        "".join(names)
    except TypeError:
        wrong = next(name for name in names if not isinstance(name, str))
        raise CodecError(f"a symbol is {wrong!r:.100}, not text") from None
    return pack(names)


def _packed_or_nothing(names: Names) -> bytes:
    try:
        return _pack_names(names)
    except CodecError:  # one of them cannot travel: those in use go by themselves, and only the items of that one stay
        return b""


_whole_list = PerNames(_packed_or_nothing)


class _NamesCache:
    """Lists of names by their bytes, those used last, up to so many bytes of them: as strings they are 20 times as large."""

    LIMIT = 2 * 1024 * 1024

    def __init__(self) -> None:
        self._lists: OrderedDict[tuple[int, int], tuple[bytes, Names]] = OrderedDict()
        self._size = 0

    def get(self, blob: bytes) -> Names:
        """``blob`` unpacked; the same tuple for the same bytes. Raises ``CodecError``."""
        key = len(blob), crc32c(blob)  # ten times as quick as Python's own hash of bytes
        found = self._lists.get(key)
        if found is not None and found[0] == blob:
            self._lists.move_to_end(key)
            return found[1]
        names = unpack(blob)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CodecError("a dictionary column's names are not a list of strings")
        made = tuple(names)
        self._size += len(blob) if found is None else 0
        self._lists[key] = (blob, made)
        while self._size > self.LIMIT:
            (size, _), _ = self._lists.popitem(last=False)
            self._size -= size
        return made


_names_of = _NamesCache().get


def _compact(column: Dictionary) -> Dictionary:
    """The same with only the names in use."""
    used = np.zeros(len(column.names), np.bool_)
    used[column.codes] = True
    kept = np.flatnonzero(used)
    codes = np.empty(len(used), np.uint32)
    codes[kept] = np.arange(len(kept), dtype=np.uint32)
    return Dictionary(codes[column.codes], tuple(map(column.names.__getitem__, kept.tolist())))


def _pack_dictionary(column: Dictionary, room: int) -> list[Any]:
    """With its whole list of names where that takes no more than ``room`` bytes: it is then packed once, and the reader
    knows it again. Else, and for one item that may have to be as small as can be, with those in use."""
    names = b""
    room = max(room, _SMALL_NAMES) if len(column) > 1 else 0
    if len(column.names) <= room:
        names = _whole_list(column.names)
    if not names or len(names) > room:
        column = _compact(column)
        names = _pack_names(column.names)
    kind = "|u1" if len(column.names) <= 0xFF else "<u2" if len(column.names) <= 0xFFFF else "<u4"
    return ["dict", kind, column.codes.astype(kind, copy=False).tobytes(), names]


def _pack_column(column: Array) -> list[Any]:
    if column.dtype == object:
        values = column.tolist()
        if not set(map(type, values)) <= _ANY_TYPES:
            raise CodecError("a column of objects may hold only None, bool, int, float and str")
        return ["any", values]
    if column.dtype.str not in _TYPES:
        wide = {"i": "<i8", "u": "<i8", "f": "<f8"}.get(column.dtype.kind)
        if wide is None or column.dtype == np.uint64:
            raise CodecError(f"a column of type {column.dtype} cannot travel; allowed: {', '.join(sorted(_TYPES))}")
        column = column.astype(wide)
    return [column.dtype.str, column.tobytes()]


def _unpack_column(name: str, n: int, parts: Any) -> Column:
    if not isinstance(parts, list) or not parts:
        raise CodecError(f"column {name!r} is not a list")
    if parts[0] == "dict" and len(parts) == 4 and isinstance(parts[3], bytes):
        names = _names_of(parts[3])
        codes = _unpack_array(name, n, parts[1], parts[2])
        if codes.dtype.kind != "u" or (n and int(np.maximum.reduce(codes)) >= len(names)):
            raise CodecError(f"column {name!r}: a code is outside its {len(names)} names")
        return Dictionary(codes, names)
    if parts[0] == "any" and len(parts) == 2 and isinstance(parts[1], list) and len(parts[1]) == n:
        column = np.empty(n, dtype=object)
        column[:] = parts[1]
        return column
    if len(parts) == 2:
        return _unpack_array(name, n, parts[0], parts[1])
    raise CodecError(f"column {name!r} has an unknown layout")


def _unpack_array(name: str, n: int, kind: Any, data: Any) -> Array:
    dtype = _TYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None or not isinstance(data, bytes):
        raise CodecError(f"column {name!r}: type {kind!r} is not allowed")
    if len(data) != n * dtype.itemsize:
        raise CodecError(f"column {name!r}: {len(data)} bytes are not {n} values of {kind}")
    if kind == "|b1" and data.translate(None, b"\0\1"):
        raise CodecError(f"column {name!r}: a truth value is neither 0 nor 1")
    return np.frombuffer(data, dtype)


def encode(origin: str, frame: Frame) -> bytes:
    """One frame as one entry. Raises ``CodecError`` where an item cannot be written."""
    items = frame.items
    payload: Any
    if isinstance(items, Columns):
        room = items.n * _bytes_per_row(items)
        columns = {
            name: _pack_dictionary(column, room) if isinstance(column, Dictionary) else _pack_column(column)
            for name, column in items.data.items()
        }
        kind, payload = COLUMNS, [items.kind, items.n, columns]
    else:
        kind, payload = ROWS, items
        unpack(pack(items))  # what the reader could not read must not cost its neighbours anything
    body = pack([VERSION, kind, origin, frame.mark, frame.born, payload, 0])[:-1]
    return body + b"\xce" + struct.pack(">I", crc32c(body))


def decode(blob: bytes, limit: int = 2 * FRAME_BYTES) -> Decoded:
    """The reverse of :func:`encode`. Raises ``CodecError`` saying what is wrong with the entry."""
    if len(blob) > limit:
        raise CodecError(f"entry of {len(blob)} bytes is over the limit of {limit}")
    cut = len(blob) - _CRC_BYTES
    if cut < 1 or blob[cut] != 0xCE or struct.unpack(">I", blob[cut + 1 :])[0] != crc32c(memoryview(blob)[:cut]):
        raise CodecError(f"entry of {len(blob)} bytes: checksum does not match")
    parts = unpack(blob, limit)
    if not isinstance(parts, list) or len(parts) != 7:
        raise CodecError("entry is not a list of 7")
    version, kind, origin, mark, born, payload, _crc = parts
    if type(version) is not int or version != VERSION:
        raise CodecError(f"frame version {version!r}; this program reads {VERSION}")
    if (
        type(mark) is not int
        or not MIN_TIME <= mark <= MAX_TIME
        or type(born) is not int
        or not isinstance(origin, str)
    ):
        raise CodecError("origin, mark or born has a wrong type")
    return Decoded(origin, Frame(_items(kind, payload), mark, born))


def _items(kind: Any, payload: Any) -> Items:
    if kind == ROWS and isinstance(payload, list):
        return payload
    if kind == COLUMNS and isinstance(payload, list) and len(payload) == 3:
        record, n, columns = payload
        known = isinstance(record, str) and (record in RECORDS or record == "")
        if not known or type(n) is not int or n < 0 or not isinstance(columns, dict) or (n and not columns):
            raise CodecError("a columns payload needs a known record kind, a count and columns")
        unpacked = Columns(record, {name: _unpack_column(name, n, column) for name, column in columns.items()})
        _check_record(record, unpacked)
        return unpacked
    raise CodecError(f"unknown payload kind {kind!r}")


def _check_record(record: str, columns: Columns) -> None:
    """Columns that say they are a record's must have its fields, of its types."""
    if columns.kind != record:
        raise CodecError(f"columns of a {record} must be: {', '.join(RECORDS[record]._fields)}")
    for name, column in columns.data.items():
        if record and isinstance(column, Dictionary) != (COLUMN_TYPES[name] == SYMBOL):
            raise CodecError(f"column {name!r} of a {record} has a wrong type")
    sides = columns.data.get("side")
    coded = isinstance(sides, np.ndarray) and sides.dtype == np.int8 and len(sides)
    if coded and int(np.maximum.reduce(sides.view(np.uint8))) >= len(SIDES):  # type: ignore[union-attr] # below 0 is over 127
        raise CodecError("column 'side': a code is not 0, 1 or 2")


def _bytes_per_row(columns: Columns) -> int:
    total = 0
    for column in columns.data.values():
        array = column.codes if isinstance(column, Dictionary) else column
        total += 24 if array.dtype == object else array.dtype.itemsize
    return max(total, 1)


def _rows_within(columns: Columns, size: int) -> int:
    """About how many rows fit into ``size`` bytes, with the names that travel with each frame: all, or those in use."""
    per_row = _bytes_per_row(columns)
    whole = 0
    for column in columns.data.values():
        if isinstance(column, Dictionary):
            names = len(_whole_list(column.names)) if len(column.names) <= size // 2 else 0
            if 0 < names <= size // 2:
                whole += names
            else:
                per_row += _NAME_BYTES
    return max(1, (size - min(whole, size // 2)) // per_row)


def encode_items(
    origin: str,
    items: Items,
    mark: int = NO_MARK,
    born: int = 0,
    frame_items: int = FRAME_ITEMS,
    frame_bytes: int = FRAME_BYTES,
) -> tuple[list[Encoded], list[Rejected]]:
    """``items`` as entries of at most ``frame_items`` items and ``frame_bytes`` bytes, in order, the last of them with
    ``mark``; and the items that cannot travel."""
    encoded: list[Encoded] = []
    rejected: list[Rejected] = []
    if isinstance(items, Columns) and len(items) > frame_bytes // _LARGE_ROW:
        frame_items = min(frame_items, _rows_within(items, frame_bytes - _OVERHEAD))
    frames = -(-len(items) // frame_items) or 1
    todo = [Frame(part, NO_MARK, born) for part in reversed(cut_items(items, -(-len(items) // frames)))]
    todo[0] = todo[0]._replace(mark=mark)
    while todo:
        frame = todo.pop()
        blob, reason = _try_encode(origin, frame, frame_bytes)
        if not reason:
            encoded.append(Encoded(blob, len(frame.items)))
        elif len(frame.items) > 1:
            left, *right = cut_items(frame.items, (len(frame.items) + 1) // 2)
            todo += [frame._replace(items=right[0]), Frame(left, NO_MARK, born)]
        else:
            rejected.append(Rejected(to_rows(frame.items)[0], reason))
            if frame.mark != NO_MARK:
                todo.append(frame._replace(items=[]))
    return encoded, rejected


def _try_encode(origin: str, frame: Frame, limit: int) -> tuple[bytes, str]:
    try:
        blob = encode(origin, frame)
    except CodecError as error:
        return b"", str(error)
    return blob, f"{len(blob)} bytes are over the frame limit of {limit}" if len(blob) > limit else ""


def with_mark(origin: str, mark: int, born: int = 0) -> bytes:
    """A frame that carries only a mark."""
    return encode(origin, Frame([], mark, born))
