"""A file system that is small enough to be filled."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


class SmallDisk:
    """A tmpfs of ``megabytes`` at ``path``. Needs the right to mount; the test skips without it."""

    def __init__(self, path: Path, megabytes: int = 4) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "mdp-test", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("no mount command")
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")

    @contextmanager
    def full(self) -> Iterator[None]:
        """Inside not one more page can be written."""
        filler = self.path / ".filler"
        with filler.open("wb", buffering=0) as file:
            try:
                for size in (1 << 20, 1 << 12):
                    with suppress(OSError):
                        while True:
                            file.write(b"x" * size)
                assert _refuses(self.path), "the disk is not full"
                yield
            finally:
                filler.unlink()

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True)


def _refuses(folder: Path) -> bool:
    probe = folder / ".probe"
    try:
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        return error.errno == errno.ENOSPC
    finally:
        with suppress(OSError):
            probe.unlink()
    return False
