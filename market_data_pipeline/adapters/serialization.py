"""Records as JSON and msgpack, for programs outside: values of Kafka messages, entries of Redis streams, lines of files.

A record is an object with ``kind`` and its fields (:mod:`~market_data_pipeline.adapters.objects`; field by field in
``docs/wire-format.md``). Times are whole nanoseconds, floats the shortest text that gives the same float again (JSON) or
eight bytes (msgpack); a price that is text, or a ``Decimal``, is written as text, digit for digit. JSON has no word for NaN and
the infinities: they are written as ``null``, which is read as NaN; msgpack carries them.

Each codec works on one item (``encode``, ``decode``, which raise ``RecordError``) and on many (``encode_all``, ``decode_all``,
where what cannot be used is handed back with the reason and costs its neighbours nothing). Columns are written column by
column, and records of one kind are read into columns.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple, NoReturn

import msgpack
import numpy as np
import orjson

from market_data_pipeline.adapters.objects import ROW_KINDS, Digits, as_columns, as_item, as_object, column_objects
from market_data_pipeline.decimals import decimal_text
from market_data_pipeline.errors import ConfigError, RecordError
from market_data_pipeline.frame import Columns, Items, compact, to_rows
from market_data_pipeline.packing import check_lengths

Format = Literal["json", "msgpack"]
FORMATS: tuple[Format, ...] = ("json", "msgpack")
MESSAGE_BYTES = 16 * 1024 * 1024
"""A message that is longer is refused before anything is made of it."""
_SMALL = 512
"""So short a message cannot promise lengths that would cost much memory."""


class Refused(NamedTuple):
    """What could not be written or read: its place among the others, the item (or the message), and why."""

    at: int
    item: Any
    reason: str


class EncodedItems(NamedTuple):
    """One message for each item, in order, ``None`` for those that are ``refused``."""

    messages: list[bytes | None]
    refused: list[Refused]


class DecodedItems(NamedTuple):
    """What the messages held, in order, without those that are ``refused``: columns where all are records of one kind."""

    items: Items
    refused: list[Refused]


class Encoder(ABC):
    """Items -> messages. Not to be shared by threads."""

    int_as_text = False

    def encode(self, item: Any) -> bytes:
        """One record, or plain data, as a message. Raises ``RecordError`` naming the field and the value."""
        try:
            return self._dump(as_object(item, self.int_as_text) if type(item) in ROW_KINDS else item)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise _refusal(error) from error

    def encode_all(self, items: Items) -> EncodedItems:
        """A message for each of ``items``."""
        quick = compact(items)
        if isinstance(quick, Columns):
            try:
                return EncodedItems(self._dump_all(column_objects(quick, self.int_as_text)), [])
            except (TypeError, ValueError, OverflowError, RecursionError):
                pass  # one of them cannot be written: which, is found below
        messages: list[bytes | None] = []
        refused: list[Refused] = []
        for at, item in enumerate(to_rows(items)):
            try:
                messages.append(self.encode(item))
            except RecordError as error:
                messages.append(None)
                refused.append(Refused(at, item, str(error)))
        return EncodedItems(messages, refused)

    @abstractmethod
    def _dump(self, value: Any) -> bytes: ...

    @abstractmethod
    def _dump_all(self, objects: list[dict[str, Any]]) -> list[bytes | None]: ...

    def _default(self, value: Any) -> Any:
        """Plain data for what the formats know no word for. Raises ``TypeError``, ``RecordError``."""
        if type(value) in ROW_KINDS:
            return as_object(value, self.int_as_text)
        if isinstance(value, tuple | set | frozenset):
            return list(value)
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, Decimal):
            return decimal_text(str(value))
        if isinstance(value, dict):
            return dict(value)
        if isinstance(value, str):
            return str.__str__(value)
        raise TypeError(f"{type(value).__name__} cannot be written; allowed: plain data and records")


def _refusal(error: BaseException) -> RecordError:
    """What is to be told of ``error``; orjson hides what a default function raised."""
    cause = error.__cause__
    if isinstance(error, RecordError):
        return error
    if cause is not None and not isinstance(error, RecursionError):
        return _refusal(cause)
    return RecordError(f"cannot be written: {error or type(error).__name__}")


_OPTIONS = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS


class JsonEncoder(Encoder):
    """Items as JSON, UTF-8, without spaces or line ends.

    ``int_as_text`` (default false): the whole numbers of records (times, counts, ids) as text, as JavaScript, whose numbers are
    exact up to 2**53, needs them; read back, an id that was an int is then text.
    """

    def __init__(self, int_as_text: bool = False) -> None:
        self.int_as_text = int_as_text

    def _dump(self, value: Any) -> bytes:
        return orjson.dumps(value, default=self._default, option=_OPTIONS)

    def _dump_all(self, objects: list[dict[str, Any]]) -> list[bytes | None]:
        return [orjson.dumps(one, default=self._default, option=_OPTIONS) for one in objects]


class MsgpackEncoder(Encoder):
    """Items as msgpack: text as str, bytes as bin, floats as 64 bits; an int in as few bytes as it needs, so that one from 0
    on is written unsigned."""

    def __init__(self) -> None:
        self._packer = msgpack.Packer(default=self._default, strict_types=True, use_bin_type=True)

    def _dump(self, value: Any) -> bytes:
        packed: bytes = self._packer.pack(value)
        return packed

    def _dump_all(self, objects: list[dict[str, Any]]) -> list[bytes | None]:
        return list(map(self._packer.pack, objects))


_BAD = (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException)
"""What the readers raise for bad messages."""


class Decoder(ABC):
    """Messages -> items.

    ``exact``: prices and sizes are kept as the text that was sent, a number in JSON with the digits as they stand there; so are
    numbers with a fraction or an exponent in what is no record. Else numbers and text of numbers become floats. ``limit``: a
    message of more bytes is refused (default 16 MiB).
    """

    def __init__(self, exact: bool = False, limit: int = MESSAGE_BYTES) -> None:
        if limit < 1:
            raise ConfigError(f"limit: {limit!r} must be at least 1 byte")
        self.exact = exact
        self.limit = limit

    def decode(self, message: bytes) -> Any:
        """The record that ``message`` is, or the plain data. Raises ``RecordError``: not valid, too long, or naming a record's
        field and the value."""
        try:
            return self._item(message, self._load(message))
        except RecordError:
            raise
        except _BAD as error:
            raise RecordError(f"{self._what}: {str(error) or type(error).__name__:.200}") from error

    def decode_all(self, messages: Sequence[bytes]) -> DecodedItems:
        """What ``messages`` hold."""
        quick = None if self.exact else self._columns(messages)
        if quick is not None:
            return DecodedItems(quick, [])
        items: list[Any] = []
        refused: list[Refused] = []
        for at, message in enumerate(messages):
            try:
                items.append(self.decode(message))
            except RecordError as error:
                refused.append(Refused(at, message, str(error)))
        return DecodedItems(items if self.exact else compact(items), refused)

    def _columns(self, messages: Sequence[bytes]) -> Columns | None:
        try:
            objects = list(map(self._load, messages))
        except _BAD:
            return None
        return as_columns(objects) if objects else None

    def _checked(self, message: bytes) -> bytes:
        if len(message) > self.limit:
            raise RecordError(f"a message of {len(message)} bytes is over the limit of {self.limit}")
        return message

    _what: str

    @abstractmethod
    def _load(self, message: bytes) -> Any: ...

    @abstractmethod
    def _item(self, message: bytes, value: Any) -> Any: ...


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _whole(text: str) -> int | Digits:
    return Digits(text) if text == "-0" else int(text)


_DIGITS = json.JSONDecoder(parse_float=Digits, parse_int=_whole, parse_constant=_refuse_constant)
"""Reads numbers that are not whole as the text that they are, and whole ones at any length."""


class JsonDecoder(Decoder):
    """JSON, UTF-8; anything else is refused, also NaN, lone surrogates and what is nested too deeply. Of two equal names in an
    object the last counts. An id over 64 bits becomes text."""

    _what = "not valid JSON"

    def _load(self, message: bytes) -> Any:
        self._checked(message)
        return _digits(message) if self.exact else orjson.loads(message)

    def _item(self, message: bytes, value: Any) -> Any:
        if self.exact:
            return as_item(value, True)
        try:
            item = as_item(value, False)
        except RecordError:  # perhaps for an int over 64 bits, of which a float was made
            return as_item(_digits(message), False)
        return as_item(_digits(message), False) if _may_be_huge(item) else item


def _digits(message: bytes) -> Any:
    text = str(message, "utf-8")
    value = _DIGITS.decode(text)
    if "\\u" in text:  # an escape may make a surrogate, which could not travel
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _may_be_huge(value: Any) -> bool:
    """Whether plain data holds a float that an int over 64 bits may have become."""
    if type(value) is float:
        return not -(2.0**63) < value < 2.0**63
    if type(value) is list:
        return any(map(_may_be_huge, value))
    return type(value) is dict and any(map(_may_be_huge, value.values()))


class MsgpackDecoder(Decoder):
    """One msgpack value; keys are text, extension types (also timestamps) are refused. A float that was sent as one stays one
    with ``exact`` too: no text of it is known."""

    _what = "not valid msgpack"

    def _load(self, message: bytes) -> Any:
        size = len(self._checked(message))
        if size > _SMALL:
            check_lengths(message, size)
        return msgpack.unpackb(
            message, strict_map_key=True, max_ext_len=0, max_str_len=size, max_bin_len=size, max_array_len=size,
            max_map_len=size,
        )  # fmt: skip

    def _item(self, message: bytes, value: Any) -> Any:
        return as_item(value, self.exact)


def encoder(fmt: Format, int_as_text: bool = False) -> Encoder:
    """The encoder of ``fmt``: ``json`` or ``msgpack``. Raises ``ConfigError`` for another, and for ``int_as_text`` with
    msgpack, whose ints have 64 bits in every language."""
    _check_format(fmt)
    if fmt == "json":
        return JsonEncoder(int_as_text)
    if int_as_text:
        raise ConfigError("int_as_text: True is for json only; ints of msgpack have 64 bits")
    return MsgpackEncoder()


def decoder(fmt: Format, exact: bool = False, limit: int = MESSAGE_BYTES) -> Decoder:
    """The decoder of ``fmt``. Raises ``ConfigError`` for one that is neither ``json`` nor ``msgpack``."""
    _check_format(fmt)
    return JsonDecoder(exact, limit) if fmt == "json" else MsgpackDecoder(exact, limit)


def _check_format(fmt: str) -> None:
    if fmt not in FORMATS:
        raise ConfigError(f"format: {fmt!r} is not allowed; one of: {', '.join(FORMATS)}")
