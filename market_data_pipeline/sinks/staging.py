"""Files that become visible with a commit, once, whoever dies in between: what sinks that write files share.

A task writes to files of its own below ``.staging/``; their names hold the owner. The commit says how many bytes of an
unfinished file count, and holds a manifest "staged -> final" of the finished ones; the renames follow. A new owner repeats
the renames, copies the committed bytes of unfinished files to files of its own, and goes on. A zombie can only write to a
file that nobody will read. Nothing is deleted before the first commit of one's own, which tells that one is no zombie.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from market_data_pipeline.errors import CorruptState, SinkError
from market_data_pipeline.sinks.base import SinkContext

log = logging.getLogger(__name__)

STAGING = ".staging"
DONE = "done-"
"""Begins the name of a staging file whose rows are published: anybody may delete it when it is old."""


class Staging:
    """The files of one task below ``path``. ``stem`` begins the names of all of them: ``<node>-<job>-p<partition>``."""

    def __init__(self, path: Path, fsync: bool) -> None:
        self.path = path
        self.fsync = fsync
        self.folder = path / STAGING
        self.stem = ""
        self._owner = ""
        self._stale: list[Path] = []

    def check(self) -> None:
        """Raises ``SinkError`` where files cannot be made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(f"output folder {self.path}: {error.strerror or error}") from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise SinkError(f"output folder {self.path}: permission denied")

    def others(self, published: Iterable[Path]) -> list[str]:
        """What other runs have in this folder, a sentence each: files that are ``published``, and staged ones."""
        finished = sum(path.is_file() for path in published)
        staged = sum(not path.name.startswith(DONE) for path in self.folder.glob("*"))
        found = []
        if finished:
            found.append(f"holds {_files(finished)} of other runs already; they stay beside the new ones")
        if staged:
            found.append(f"holds {_files(staged)} unfinished by another run, which was killed or writes there now")
        return [f"output folder {self.path} {what}" for what in found]

    def begin(self, ctx: SinkContext) -> None:
        """Whose files these are."""
        self.check()
        self.stem = f"{ctx.node}-{ctx.job[:8]}-p{ctx.partition:04d}"
        self._owner = f"e{ctx.epoch}-{ctx.owner[:8]}"

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Errors of the file system inside come out as ``SinkError``: the task waits and tries again."""
        try:
            yield
        except OSError as error:
            raise SinkError(f"{self.path}: {error.strerror or error}") from error

    def staged(self, name: str) -> Path:
        """Our own staging file for ``name``."""
        return self.folder / f"{name}.{self._owner}"

    def publish(self, sealed: Sequence[Sequence[Any]]) -> None:
        """Rename what a commit names: ``[staged name, final path below the folder, size]``. May be repeated."""
        folders = {self.path}
        for staged, final, size in sealed:
            source, target = self.folder / staged, self.path / final
            if source.exists():
                check_size(source, size)
            try:
                _rename(source, target)
            except FileNotFoundError:
                if target.exists():
                    check_size(target, size)
                else:  # published before, most likely, and taken away by whoever reads the folder
                    log.warning("%s was committed, and is neither staged nor there any more", target)
            folders.add(target.parent)
        if sealed and self.fsync:
            for folder in folders:
                sync_folder(folder)

    def adopt(self, name: str, staged: str, size: int, also: Sequence[Path] = ()) -> Path:
        """Our own staging file for ``name`` with the ``size`` committed bytes of the former owner's file ``staged``; ``also``:
        where else they may be. Raises ``CorruptState`` where they are gone."""
        source, own = self._where_it_is(name, staged, size, also), self.staged(name)
        check_size(source, size)
        if own == source:
            os.truncate(source, size)
        else:
            with source.open("rb") as old, own.open("wb") as new:
                shutil.copyfileobj(_Limited(old, size), new)
        return own

    def _where_it_is(self, name: str, staged: str, size: int, also: Sequence[Path]) -> Path:
        """The file that begins with the committed bytes. After a rollback of the server that may be one that is finished, or
        the copy of an owner that the server does not know any more: it adopted these bytes, and added to them."""
        named = self.folder / staged
        later = [
            p
            for p in self.folder.glob(f"{name}.e*")
            if _epoch(p.name) > _epoch(named.name) and p.stat().st_size >= size
        ]
        places = [named, *also, *sorted(later, key=lambda path: _epoch(path.name))]
        return next((place for place in places if place.exists()), named)

    def find_stale(self, published: Iterable[Path], number: int, known: Collection[str], own: Collection[Path]) -> None:
        """Note what no commit knows: staged files but our ``own``, and of the ``published`` ones (``<stem>-<number>.<suffix>``)
        those with a ``number`` that is not given out yet, or with a name that is ``known`` to be unfinished. Nothing is
        deleted yet: we may be a zombie, which only a commit can tell."""
        self._stale = [path for path in self.folder.glob(f"{self.stem}-*") if path not in own]
        for path in published:
            given = path.stem.rpartition("-")[2]
            if path.name in known or (given.isdigit() and int(given) >= number):
                self._stale.append(path)  # from commits that a server which was rolled back does not know

    def sweep(self, mine: Collection[Path], retire: Callable[[Path], bool] = lambda path: False) -> None:
        """Delete what was found stale, but for ``mine``: a task that loads again under the same epoch uses the same names
        again. To be called when a commit was ours to make, so that what it does not know is nobody's. ``retire`` says of a
        path whether it has been put away otherwise."""
        for path in self._stale:
            if path not in mine and not retire(path):
                path.unlink(missing_ok=True)
        self._stale = []


def _files(count: int) -> str:
    return f"{count:,} file{'s' if count != 1 else ''}"


def _rename(source: Path, target: Path) -> None:
    """Also where the target's folder is not there, or is taken away meanwhile."""
    for _ in range(3):
        try:
            source.replace(target)
            return
        except FileNotFoundError:
            if not source.exists():
                raise
            target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def check_size(path: Path, size: int) -> None:
    """Raises ``CorruptState`` unless ``path`` has the committed ``size`` at least."""
    found = path.stat().st_size if path.exists() else None
    if found is None or found < size:
        raise CorruptState(
            f"{path}: {size} bytes were committed, {'the file is gone' if found is None else f'{found} are there'};"
            " was it deleted, or did the machine lose power with fsync=False?"
        )


def append(path: Path, at: int, data: bytes, fsync: bool) -> None:
    """Write ``data`` at the offset ``at``, which is where the committed bytes end: what is behind was never committed."""
    with path.open("r+b" if at else "wb") as file:
        file.seek(at)
        file.write(data)
        file.flush()
        if fsync:
            os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in ``path`` are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _epoch(staged: str) -> int:
    """The epoch in a staging file's name, ``<name>.e<epoch>-<owner>``."""
    digits = staged.rpartition(".e")[2].partition("-")[0]
    return int(digits) if digits.isdigit() else 0


class _Limited(io.RawIOBase):
    """The first ``size`` bytes of a file."""

    def __init__(self, file: io.BufferedReader, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data
