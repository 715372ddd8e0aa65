"""Plain data and records <-> msgpack bytes, bounded: the values that frames, state and files are made of; and a checksum.

A record travels as a map with the extra key ``"__record__"``. Reading walks over the bytes first, so that no length can promise
more than is there. Anything wrong is a ``CodecError``.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import google_crc32c
import msgpack
import numpy as np

from market_data_pipeline.errors import CodecError
from market_data_pipeline.records import OPTIONAL, ROW_RECORDS

_RECORD_KEY = "__record__"
_ROW_KINDS = {cls: kind for kind, cls in ROW_RECORDS.items()}


class Rejected(NamedTuple):
    """An item that could not travel, and why."""

    item: Any
    reason: str


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C (Castagnoli, RFC 3720) of ``data``."""
    return int(google_crc32c.value(bytes(data)))


def _fields_in_use(record: Any, optional: int) -> dict[str, Any]:
    """The fields of ``record``, without those of the last ``optional`` that have their defaults."""
    fields: dict[str, Any] = record._asdict()
    for name in record._fields[len(fields) - optional :]:
        if fields[name] == record._field_defaults[name]:
            del fields[name]
    return fields


def _default(value: Any) -> Any:
    kind = _ROW_KINDS.get(type(value))
    if kind is not None:
        return {_RECORD_KEY: kind, **_fields_in_use(value, OPTIONAL[kind])}
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(
        f"{type(value).__name__} cannot travel; allowed: None, bool, int, float, str, bytes, list, dict, records"
    )


def pack(value: Any) -> bytes:
    """msgpack of plain data and records. Raises ``CodecError``."""
    try:
        return bytes(msgpack.packb(value, default=_default, strict_types=True))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CodecError(str(error)) from error


def unpack(data: bytes | memoryview, limit: int = 512 * 1024 * 1024) -> Any:
    """The reverse of :func:`pack`, bounded by ``limit`` bytes; tuples come back as lists. Raises ``CodecError``."""
    size = len(data)
    if size > limit:
        raise CodecError(f"{size} bytes are over the limit of {limit}")
    try:
        check_lengths(data, size)
        return msgpack.unpackb(
            data, strict_map_key=True, timestamp=0, max_ext_len=0, max_str_len=size, max_bin_len=size,
            max_array_len=size, max_map_len=size, object_hook=_revive,
        )  # fmt: skip
    except Exception as error:  # msgpack raises half a dozen kinds for bad bytes
        raise CodecError(f"not valid msgpack: {type(error).__name__}: {error}") from error


def check_lengths(data: bytes | memoryview, size: int) -> None:
    """Walk over ``data``, of ``size`` bytes, without making anything of it: a length that promises more than is there ends the
    walk (raises), before it could make the unpacker reserve room for it (at every depth anew)."""
    walker = msgpack.Unpacker(None, max_buffer_size=size or 1, read_size=size or 1)
    walker.feed(data)
    walker.skip()


def portable(items: list[Any]) -> tuple[list[Any], list[Rejected]]:
    """``items`` that can be packed and read back, and the others with the reason."""
    good: list[Any] = []
    bad: list[Rejected] = []
    for item in items:
        try:
            unpack(pack(item))
            good.append(item)
        except CodecError as error:
            bad.append(Rejected(item, str(error)))
    return good, bad


def seal(blob: bytes) -> bytes:
    """``blob`` with its CRC32C in front, as state is stored."""
    return struct.pack(">I", crc32c(blob)) + blob


def unseal(data: bytes, where: str) -> bytes:
    """The reverse of :func:`seal`. Raises ``CodecError`` naming ``where``."""
    if len(data) < 4 or struct.unpack(">I", data[:4])[0] != crc32c(data[4:]):
        raise CodecError(f"{where}: checksum does not match")
    return data[4:]


def _missing(kind: str, fields: dict[str, Any]) -> set[str]:
    """The fields that a record of ``kind`` must have and that are not among ``fields``."""
    cls = ROW_RECORDS[kind]
    return set(cls._fields[: len(cls._fields) - OPTIONAL[kind]]) - fields.keys()


def _revive(fields: dict[str, Any]) -> Any:
    kind = fields.pop(_RECORD_KEY, None)
    if kind is None:
        return fields
    cls = ROW_RECORDS.get(kind)
    if cls is None or not fields.keys() <= set(cls._fields) or _missing(kind, fields):
        raise CodecError(f"a record's fields are not those of {cls.__name__ if cls else 'any record'}")
    return cls(**fields)
