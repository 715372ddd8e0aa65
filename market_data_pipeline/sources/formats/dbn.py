"""Databento Binary Encoding: ``.dbn``, ``.dbn.zst``. A place is the byte (of the decompressed file) and number of a record,
and how many wanted records to pass over behind it.

``kind="trade"``: of the schemas trades, tbbo and mbp-1 (its trades); the aggressor's side is ``A`` sell, ``B`` buy, ``N`` none,
as Databento documents it. ``kind="quote"``: of mbp-1 and tbbo (there: before the trade), and of bbo-1s and bbo-1m, whose
``ts_event`` is the end of their interval (DBN's own is the last trade's). ``kind="bar"``: of ohlcv-1s, -1m, -1h, -1d. A file
without a schema (a recorded live stream) gives its trades, mbp-1 or ohlcv records. Other records are passed over.

Symbols come from the file's mappings by the UTC date of the record's index time (``ts_recv``, for bars ``ts_event``), or from
the mapping messages before it. ``trade_id`` is the venue's sequence number; of several trades of one instrument in one message
the further ones are ``"<sequence>.1"``, ``"<sequence>.2"``, so that each is told from the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from market_data_pipeline.errors import SourceError
from market_data_pipeline.extras import extra
from market_data_pipeline.frame import Array
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.sources.formats.base import (
    Chunk,
    Opened,
    Place,
    Wanted,
    is_shorter,
    time_of_first_row,
)
from market_data_pipeline.sources.formats.dbn_records import (
    LAYOUTS,
    MAPPING,
    RUN_RECORDS,
    SCHEMAS,
    Made,
    Symbols,
    run_starts,
)
from market_data_pipeline.sources.formats.streams import DAMAGE, damaged, go_to, open_stream

_READ_BYTES = 1 << 20


class _Head:
    """What stands before a file's records: its metadata, and the layout of the records that are wanted."""

    def __init__(self, dbn: Any, path: Path, file: BinaryIO, kind: str) -> None:
        start = file.read(8)
        if len(start) < 8 or start[:3] != b"DBN":
            raise SourceError(f"{path}: not a DBN file: it does not begin with DBN metadata")
        rest = file.read(int.from_bytes(start[4:], "little"))
        with _decoding(dbn, f"{path}: not a whole DBN file"):
            found = dbn.DBNDecoder().write_and_decode(start + rest)
        if len(found) != 1:
            raise SourceError(f"{path}: not a whole DBN file: its metadata ends early")
        self.metadata = found[0]
        self.bytes = len(start) + len(rest)
        schema = self.metadata.schema
        allowed = SCHEMAS[kind]
        if schema is None and kind == "rows":
            raise SourceError(
                f"{path}: has records of no one schema; kind 'rows' needs a file of one of: {', '.join(allowed)}"
            )
        if schema is not None and str(schema) not in allowed:
            raise SourceError(f"{path}: has the schema {schema}, not a {kind}'s; allowed: {', '.join(allowed)}")
        layout, self.rtypes = LAYOUTS["mbp-1" if schema is None and kind == "quote" else str(schema or allowed[0])]
        self.layout = np.dtype([*layout, *([("ts_out", "<u8")] if self.metadata.ts_out else [])])


def _said(message: Any) -> tuple[int, str]:
    """Which instrument a mapping message is about, and its symbol."""
    return message.instrument_id, message.stype_out_symbol or message.stype_in_symbol


@contextmanager
def _decoding(dbn: Any, what: str) -> Iterator[None]:
    """What the library raises at damaged data, as ``SourceError``. Its panics are no ``Exception``, and known by name only."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, dbn.DBNError | ValueError) and type(error).__name__ != "PanicException":
            raise
        raise SourceError(f"{what}: {error}") from error


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error


class _Found(NamedTuple):
    """Wanted records: their places among those that were decoded, their fields, and for each where its run begins, counted
    among the wanted ones."""

    at: Array
    rows: Array
    starts: Array


class DbnReader:
    """Reads one file; see the module."""

    def __init__(self, dbn: Any, file: Opened, wanted: Wanted, place: Place | None) -> None:
        self._dbn, self._opened, self._wanted = dbn, file, wanted
        self._records: list[Any] = []
        self._ended = False
        self._hungry = True
        self._skip = 0
        with _damage(file.path):
            self._file = open_stream(file.path)
            try:
                self._head = _Head(dbn, file.path, self._file, wanted.kind)
                self._symbols = Symbols(self._head.metadata)
                self._offset, self._index = self._head.bytes, 0
                if place is not None:
                    self._go_on(place)
                else:
                    self._decoder = self._new_decoder()
            except BaseException:
                self._file.close()
                raise

    def _new_decoder(self) -> Any:
        metadata, policy = self._head.metadata, self._dbn.VersionUpgradePolicy.AS_IS
        return self._dbn.DBNDecoder(False, metadata.ts_out, metadata.version, policy)

    def _go_on(self, place: Place) -> None:
        """A file with its symbols in the metadata is read on at the byte; of another all messages before it are heard."""
        offset, index, self._skip = place
        self._decoder = self._new_decoder()
        if self._symbols.has_dates:
            self._file.close()
            self._file = open_stream(self._opened.path)
            go_to(self._file, self._opened.path, offset)
            self._offset, self._index = offset, index
            return
        while self._offset < offset:
            if not self._records and not self._decode():
                raise is_shorter(self._opened.path, f"{self._offset} bytes", f"byte {offset}")
            n = 0
            while n < len(self._records) and self._offset < offset:
                self._offset += bytes(self._records[n])[0] * 4
                n += 1
            self._hear(self._records[:n])
            self._index += n
            self._records = self._records[n:]

    def _decode(self) -> bool:
        """More records; ``False`` at the end."""
        while not self._ended:
            with _damage(self._opened.path):
                data = self._file.read(_READ_BYTES)
            with _decoding(self._dbn, f"{self._opened.path}: behind record {self._index}: cannot be read on"):
                found = self._decoder.write_and_decode(data) if data else []
            self._records += found
            self._ended = not data
            if found:
                return True
        left = len(self._decoder.buffer())
        if left and not self._records:
            raise SourceError(
                f"{self._opened.path}: ends in the middle of a record, {left} bytes behind record {self._index}"
            )
        return False

    def _hear(self, records: list[Any]) -> None:
        for record in records:
            if bytes(record)[1] == MAPPING:
                number, symbol = _said(record)
                self._symbols.said[number] = symbol

    def read(self, limit: int) -> Chunk | None:
        while True:
            more = self._decode() if self._hungry else True
            if not self._records:
                return None
            raws = list(map(bytes, self._records))
            n, found = self._whole(raws, ended=not more)
            if n:
                return self._chunk(raws, n, found)

    def _whole(self, raws: list[bytes], *, ended: bool) -> tuple[int, _Found]:
        """How many records can be used now, and the wanted ones of these: whole runs of a sequence number, and no further than
        a message that gives a symbol's number to another."""
        n = self._until_said(raws)
        self._hungry = n == len(raws)
        ended = ended or not self._hungry
        rtypes = np.fromiter((raw[1] for raw in raws[:n]), np.uint8, n)
        at = np.flatnonzero(np.isin(rtypes, self._head.rtypes))
        self._check_lengths(raws, at)
        rows = np.frombuffer(b"".join([raws[i] for i in at.tolist()]), dtype=self._head.layout)
        if self._wanted.kind != "trade":
            return n, _Found(at, rows, np.arange(len(at)))
        is_trade = rows["action"] == b"T"
        at, rows = at[is_trade], rows[is_trade]
        starts = run_starts(rows["sequence"])
        if len(at) and not ended and rows["sequence"][-1]:
            last = int(starts[-1])
            if len(at) - last < RUN_RECORDS:
                n, at, rows, starts = int(at[last]), at[:last], rows[:last], starts[:last]
        return n, _Found(at, rows, starts)

    def _check_lengths(self, raws: list[bytes], at: Array) -> None:
        size = self._head.layout.itemsize
        for n in at.tolist():
            if len(raws[n]) != size:
                raise SourceError(
                    f"{self._opened.path}: record {self._index + n + 1}: is of {len(raws[n])} bytes, and its type of {size}:"
                    " damaged"
                )

    def _until_said(self, raws: list[bytes]) -> int:
        """How many records stand before the first message that gives a number another symbol than the wanted records before it
        may have; what it says counts behind it."""
        said, wanted = self._symbols.said, False
        for n, raw in enumerate(raws):
            if raw[1] == MAPPING:
                number, symbol = _said(self._records[n])
                if wanted and said.get(number) != symbol:
                    return n
                said[number] = symbol
            elif raw[1] in self._head.rtypes:
                wanted = True
        return len(raws)

    def _chunk(self, raws: list[bytes], n: int, found: _Found) -> Chunk:
        offsets = self._offset + np.concatenate([[0], np.cumsum([raw[0] * 4 for raw in raws[:n]], dtype=np.int64)])
        first = self._index
        places = np.zeros((len(found.at) + 1, 3), np.int64)
        begins = found.at[found.starts]
        places[:-1, 0], places[:-1, 1] = offsets[begins], first + begins
        places[:-1, 2] = np.arange(len(found.at)) - found.starts
        places[-1, :2] = offsets[n], first + n
        self._records = self._records[n:]
        self._offset, self._index = int(offsets[n]), first + n
        done, self._skip = self._skip, 0
        made = Made(self._wanted, self._symbols, found.rows)
        keep = np.arange(len(found.at)) >= done
        good = np.flatnonzero(keep & ~made.bad)
        before = np.concatenate([[0], np.cumsum(keep & ~made.bad)])
        letters: list[tuple[int, DeadLetter]] = []
        for row in np.flatnonzero(keep & made.bad).tolist():
            place = first + int(found.at[row]) + 1
            letters.append((int(before[row]), self._opened.dead(place, made.reason(row), made.plain(row))))
        items, times = made.items(good, first + found.at, found.starts)
        return Chunk(items, times, places[np.append(good, len(found.at))], letters)

    def close(self) -> None:
        self._file.close()


class DbnFormat:
    """``.dbn`` and ``.dbn.zst``."""

    def __init__(self) -> None:
        self._dbn = extra("databento_dbn", "databento", "Replay of .dbn files")

    def open(self, file: Opened, wanted: Wanted, place: Place | None) -> DbnReader:
        return DbnReader(self._dbn, file, wanted, place)

    def first_time(self, file: Opened, wanted: Wanted) -> int:
        return time_of_first_row(self, file, wanted)

    def check(self, path: Path, wanted: Wanted) -> None:
        with _damage(path), open_stream(path) as file:
            _Head(self._dbn, path, file, wanted.kind)
