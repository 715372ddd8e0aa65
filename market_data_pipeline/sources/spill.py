"""Items that memory has no room for, in a file that no name leads to.

The file is an anonymous temporary one: the system takes it back with the process, however that ends. It holds frames of packed
items, each with its length and a CRC32C; what is not a whole frame yet stays in memory. Once all was read, it begins anew.
"""

from __future__ import annotations

import asyncio
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from market_data_pipeline.errors import CodecError, SourceError
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.packing import pack, portable, seal, unpack, unseal

_FRAME_ITEMS = 1024
_LENGTH = struct.Struct(">I")


class SpillFile:
    """Items in order, at most ``limit`` bytes of them in the folder ``path``. Not to be used by two at once. What no frame can
    hold is kept in ``rejected``. Raises ``SourceError`` where the file does not give back what was written."""

    def __init__(self, path: Path, limit: int, node: str) -> None:
        self._node = node
        self._limit = limit
        self._written = self._read = 0
        self._tail: list[Any] = []
        self.rejected: list[DeadLetter] = []
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=path)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise SourceError(f"spill_path: {path}: {error.strerror or error}") from error

    @property
    def pending(self) -> bool:
        """Whether there is something to read."""
        return self._read < self._written or bool(self._tail)

    @property
    def full(self) -> bool:
        return self._written >= self._limit

    async def write(self, items: Sequence[Any]) -> int:
        """Append ``items``, as many as there is room for; says how many. Raises ``OSError`` where the disk refuses and none was
        taken; what was taken before is still there."""
        taken = 0
        while taken < len(items):
            if len(self._tail) >= _FRAME_ITEMS:
                if self.full:
                    break
                try:
                    await self._write_tail()
                except OSError:
                    if taken:
                        break
                    raise
            count = min(_FRAME_ITEMS - len(self._tail), len(items) - taken)
            self._tail += items[taken : taken + count]
            taken += count
        return taken

    async def _write_tail(self) -> None:
        blob = seal(self._packed())
        await asyncio.to_thread(self._append, _LENGTH.pack(len(blob)) + blob)
        self._written += _LENGTH.size + len(blob)
        self._tail = []

    def _packed(self) -> bytes:
        try:
            return pack(self._tail)
        except CodecError:
            self._tail, bad = portable(self._tail)
            self.rejected += [DeadLetter(self._node, f"cannot be spilled: {reason}", item) for item, reason in bad]
            return pack(self._tail)

    def _append(self, data: bytes) -> None:
        self._file.seek(self._written)  # behind the last whole frame: one that was cut short is overwritten
        self._file.write(data)
        self._file.flush()

    async def read(self) -> list[Any]:
        """The next items, those written first; ``[]`` at the end."""
        if self._read >= self._written:
            items, self._tail = self._tail, []
            return items
        items = await asyncio.to_thread(self._next_frame)
        if self._read >= self._written:
            self._read = self._written = 0
            await asyncio.to_thread(self._file.truncate, 0)
        return items

    def _next_frame(self) -> list[Any]:
        try:
            self._file.seek(self._read)
            head = self._file.read(_LENGTH.size)
            (length,) = _LENGTH.unpack(head)
            items: list[Any] = unpack(unseal(self._file.read(length), "spilled frame"))
        except (OSError, struct.error, CodecError) as error:
            raise SourceError(f"spill file, byte {self._read}: cannot be read back: {error}") from error
        self._read += _LENGTH.size + length
        return items

    def close(self) -> None:
        self._file.close()
