"""Merging the small parts of finished dates into larger sorted ones, while jobs write and others read.

For one date of one table: the merged files are made beside the folder, read back, and compared with what they are made of
(number of rows, checksum of their content). Files that stay are linked beside them. Then a manifest says what is meant,
and the two folders change places in one system call: a reader that lists the folder sees the old parts or the merged ones,
never both, and never none. After that, parts that a job published into the old folder meanwhile are moved over, and what was
merged is deleted. Who dies in between leaves a work folder in ``.compacting/``: without a manifest, or with the folders not
exchanged yet, it is thrown away; else the rest is done. Both happen when the next compaction begins.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from market_data_pipeline.errors import ConfigError, SinkError
from market_data_pipeline.sinks.parquet_format import SCHEMA_KEY, SCHEMA_VERSION, TABLE_KEY, TABLES, Table, parquet
from market_data_pipeline.sinks.parquet_merge import Content, content_of, merge_files
from market_data_pipeline.sinks.staging import sync_folder

log = logging.getLogger(__name__)

COMPACTING = ".compacting"
_MANIFEST = "manifest.json"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)

Step = Callable[[str], None]
"""Told of each step that is done."""


class Merge(NamedTuple):
    """What is to be done with one date of one table: each group becomes one file. ``size``: bytes of all of them."""

    table: Table
    day: str
    groups: list[list[Path]]
    size: int

    @property
    def files(self) -> int:
        return sum(map(len, self.groups))


class Merged(NamedTuple):
    """What was done: files and bytes before and after, rows."""

    files: int
    size: int
    files_after: int
    size_after: int
    rows: int


class Limits(NamedTuple):
    """``target_bytes``: how large a merged file gets, at most; parts of more than half of it stay. ``min_age``: seconds since a
    part was published, so that a job's server that comes back without its last commits finds it under its name. ``before``:
    dates from this one on are not finished."""

    target_bytes: int
    min_age: float
    before: date


def plan(folder: Path, limits: Limits, table: str | None = None, day: str | None = None) -> Iterator[Merge]:
    """What there is to merge below ``folder``. Raises ``SinkError`` where it cannot be read."""
    for name, written, place in _finished(folder, limits, table, day):
        files = [path for path in sorted(place.glob("part-*.parquet")) if _is_small(path, TABLES[name], limits)]
        groups = _groups(files, limits.target_bytes)
        if groups:
            size = sum(path.stat().st_size for group in groups for path in group)
            yield Merge(TABLES[name], written, groups, size)


def younger(folder: Path, limits: Limits, table: str | None = None, day: str | None = None) -> int:
    """How many parts of finished dates are left alone because of ``min_age`` alone. Raises ``SinkError`` as :func:`plan`."""
    aged = limits._replace(min_age=float("-inf"))
    return sum(
        _is_young(path, limits) and _is_small(path, TABLES[name], aged)
        for name, _, place in _finished(folder, limits, table, day)
        for path in place.glob("part-*.parquet")
    )


def _finished(folder: Path, limits: Limits, table: str | None, day: str | None) -> Iterator[tuple[str, str, Path]]:
    """The folders of finished dates with their table and date."""
    if not folder.is_dir():
        raise SinkError(f"{folder}: {'is not a folder' if folder.exists() else 'no such folder'}")
    for place in (folder.absolute(), *folder.absolute().parents):
        if place.name.startswith("table="):
            raise SinkError(f"{folder}: is a part of the store; give the folder above, {place.parent}")
    for place in sorted(folder.glob(f"table={table or '*'}/date={day or '*'}")):
        name, written = place.parent.name.removeprefix("table="), place.name.removeprefix("date=")
        if name in TABLES and _is_finished(written, limits.before):
            yield name, written, place


def _is_young(path: Path, limits: Limits) -> bool:
    return time.time() - path.stat().st_mtime < limits.min_age


def _is_finished(day: str, before: date) -> bool:
    try:
        return date.fromisoformat(day) < before
    except ValueError:
        return False


def _is_small(path: Path, table: Table, limits: Limits) -> bool:
    """Whether this is a part of ours that is to be merged."""
    if path.stat().st_size > limits.target_bytes // 2 or _is_young(path, limits):
        return False
    try:
        said = parquet().read_metadata(path.absolute()).metadata or {}
    except (OSError, ValueError) as error:
        log.warning("%s is left alone: %s", path, error)
        return False
    return bool(said.get(SCHEMA_KEY) == SCHEMA_VERSION.encode() and said.get(TABLE_KEY) == table.name.encode())


def _groups(files: Sequence[Path], target: int) -> list[list[Path]]:
    groups: list[list[Path]] = []
    room = 0
    for path in files:
        size = path.stat().st_size
        if not groups or size > room:
            groups.append([])
            room = target
        groups[-1].append(path)
        room -= size
    return [group for group in groups if len(group) > 1]


class Compaction:
    """Works below ``folder``; only one at a time may. Use as a context manager: entering it brings to an end what another
    one, that died, has left. ``step`` is told of each step."""

    def __init__(self, folder: Path, compression: str = "zstd", step: Step = lambda name: None) -> None:
        self.folder = folder
        self.work = folder / COMPACTING
        self.compression = compression
        self._step = step
        self._lock: Any = None

    def __enter__(self) -> Compaction:
        with _explained(self.folder):
            self.work.mkdir(exist_ok=True)
            self._lock = (self.work / "lock").open("a")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                raise ConfigError(f"{self.folder}: another compaction is at work") from None
            for left in sorted(path for path in self.work.iterdir() if path.is_dir()):
                self._recover(left)
        return self

    def __exit__(self, *exc: object) -> None:
        self._lock.close()

    def run(self, merge: Merge) -> Merged:
        """Do it. Raises ``SinkError`` where the disk is full or a merged file holds not what it must: nothing is changed."""
        live = self.folder / f"table={merge.table.name}" / f"date={merge.day}"
        work = self.work / f"{merge.table.name}.{merge.day}"
        with _explained(live):
            try:
                return self._run(merge, live, work)
            except BaseException:
                if not (work / _MANIFEST).exists():
                    shutil.rmtree(work, ignore_errors=True)
                raise

    def _run(self, merge: Merge, live: Path, work: Path) -> Merged:
        new = work / "new"
        new.mkdir(parents=True)
        self._step("begun")
        inputs = {path.name: _mark(path) for group in merge.groups for path in group}
        outputs: list[str] = []
        rows = 0
        for group in merge.groups:
            target = new / f"part-compact-{secrets.token_hex(8)}.parquet"
            rows += self._merge_group(merge.table, group, target).rows
            outputs.append(target.name)
        size = sum((new / name).stat().st_size for name in outputs)
        for path in live.iterdir():
            if path.name not in inputs:
                _link(path, new / path.name)
        sync_folder(new)
        self._step("linked")
        _write_manifest(work, {"table": merge.table.name, "date": merge.day, "inputs": inputs, "outputs": outputs})
        self._step("noted")
        _exchange(live, new, work / "old", self._step)
        self._finish(live, work, inputs)
        return Merged(merge.files, merge.size, len(outputs), size, rows)

    def _merge_group(self, table: Table, group: list[Path], target: Path) -> Content:
        wanted = Content.sum(content_of(table, path) for path in group)
        merge_files(table, group, target, self.compression)
        with target.open("rb") as file:
            os.fsync(file.fileno())
        self._step("written")
        found = content_of(table, target)
        if found != wanted:
            raise SinkError(f"{target}: holds {found}, and was made of {wanted}; nothing was changed")
        self._step("compared")
        return found

    def _recover(self, work: Path) -> None:
        """Bring a work folder to an end, whatever step it was left at."""
        old, new = work / "old", work / "new"
        if not (work / _MANIFEST).exists():
            shutil.rmtree(work)
            return
        said = json.loads((work / _MANIFEST).read_text())
        live = self.folder / f"table={said['table']}" / f"date={said['date']}"
        if old.exists() and new.exists():  # a file system that cannot exchange folders
            _install(new, live)
        elif new.exists() and not all((live / name).exists() for name in said["outputs"]):
            shutil.rmtree(work)
            return
        elif new.exists():
            new.rename(old)
        log.warning("%s: a compaction that was cut off is brought to its end", live)
        self._finish(live, work, said["inputs"])

    def _finish(self, live: Path, work: Path, inputs: dict[str, list[int]]) -> None:
        """The merged files are in place: move over what came meanwhile, delete the rest."""
        old = work / "old"
        while old.exists():
            for path in sorted(old.iterdir()):
                if inputs.get(path.name) == _mark(path) or _is_same(path, live / path.name):
                    path.unlink()
                    self._step("deleted")
                else:
                    live.mkdir(parents=True, exist_ok=True)
                    path.replace(live / path.name)
                    self._step("moved")
            try:
                old.rmdir()  # not when a job, which had looked the old folder up, put something into it just now
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
        self._step("emptied")
        sync_folder(live)
        shutil.rmtree(work)
        self._step("done")


def _mark(path: Path) -> list[int]:
    """What tells a file from another one of its name."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _is_same(path: Path, other: Path) -> bool:
    if not other.exists():
        return False
    return path.samefile(other) or _mark(path) == _mark(other)


def _link(path: Path, to: Path) -> None:
    if path.is_dir():
        raise SinkError(f"{path}: a folder; a date holds files only: it is left alone")
    try:
        to.hardlink_to(path)
    except FileNotFoundError:
        pass  # taken away by whoever reads the folder
    except OSError:
        shutil.copy2(path, to)


def _write_manifest(work: Path, content: dict[str, Any]) -> None:
    draft = work / "draft"
    with draft.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(work / _MANIFEST)
    sync_folder(work)


def _exchange(live: Path, new: Path, old: Path, step: Step) -> None:
    """Put ``new`` in the place of ``live``, and that to ``old``; in one call where the file system can."""
    if exchange_folders(live, new):
        step("exchanged")
        new.rename(old)
    else:
        live.rename(old)
        step("taken away")
        _install(new, live)
    sync_folder(live.parent)
    step("in place")


def exchange_folders(a: Path, b: Path) -> bool:
    """Let two folders change their places at once. False where the system or the file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(a))


def _install(new: Path, live: Path) -> None:
    """Without an exchange: for a moment the date is not there, or not all of it."""
    try:
        new.rename(live)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        for path in new.iterdir():  # a job made the folder again meanwhile
            path.replace(live / path.name)
        new.rmdir()


@contextmanager
def _explained(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SinkError(f"{where}: {error.strerror or error}") from error
