"""Files as streams of bytes: plain, gzip, zstd; and how to go on in the middle of one."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

from market_data_pipeline.errors import SourceError
from market_data_pipeline.extras import extra
from market_data_pipeline.sources.formats.base import is_shorter, must_be_file

DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading a damaged compressed file raises."""
NAMES = {".gz": "gzip", ".zst": "zstd"}
_STEP = 1 << 17


def zstandard(path: Path) -> Any:
    """The library that reads ``path``. Raises ``ConfigError``."""
    return extra("zstandard", "databento", f"Replay of {path.name}")


class _Zstd(io.RawIOBase):
    """A zstd file as a stream, of one frame or several. One that ends in the middle of a frame raises ``EOFError``: the
    library's own stream would end there as if all were well."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        library = zstandard(path)
        self._error: type[Exception] = library.ZstdError
        self._frames = library.ZstdDecompressor()
        self._file = path.open("rb")
        self._frame: Any = None
        self._raw = b""
        self._out = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._out:
            raw = self._raw or self._file.read(_STEP)
            self._raw = b""
            if not raw:
                if self._frame is not None:
                    raise EOFError("it ends in the middle of a frame")
                return 0
            self._frame = self._frame or self._frames.decompressobj()
            try:
                self._out = memoryview(self._frame.decompress(raw))
            except self._error as error:
                raise EOFError(str(error)) from error
            if self._frame.eof:
                self._raw, self._frame = self._frame.unused_data, None
        n = min(len(buffer), len(self._out))
        buffer[:n] = self._out[:n]
        self._out = self._out[n:]
        return n

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()
        super().close()


def open_stream(path: Path) -> BinaryIO:
    """``path`` to read, decompressed. Raises ``SourceError`` where it is no file, ``OSError``."""
    must_be_file(path)
    if path.suffix == ".gz":
        return cast("BinaryIO", gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return cast("BinaryIO", io.BufferedReader(_Zstd(path), _STEP))
    return path.open("rb")


def go_to(file: BinaryIO, path: Path, offset: int) -> None:
    """Go on at byte ``offset`` of a stream that is at its beginning. Raises ``SourceError`` where it ends before."""
    try:
        if path.suffix not in NAMES:
            size = file.seek(0, io.SEEK_END)
            at = file.seek(min(offset, size))
        else:
            at = 0
            while at < offset and (data := file.read(min(offset - at, 1 << 20))):
                at += len(data)
    except DAMAGE as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    if at < offset:
        raise is_shorter(path, f"{at} bytes", f"byte {offset}")


def damaged(path: Path, error: BaseException) -> SourceError:
    return SourceError(f"{path}: not a complete {NAMES.get(path.suffix, 'plain')} file ({error})")
