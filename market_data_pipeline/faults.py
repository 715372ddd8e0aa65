"""Fault points: places where a harness can make this process die. Off unless ``MDP_FAULT_POINTS`` names a folder.

A process that reaches the point ``P`` and finds the file ``<folder>/P`` removes it, notes ``P pid`` in ``<folder>/hits.log``
and kills itself: of several processes only the one that removed the file dies. ``note_commit`` keeps a trail of accepted
commits for the harness to judge.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Final

POINTS: Final = (
    "before-read",
    "after-process",
    "before-sink-write",
    "after-sink-write",
    "before-sink-prepare",
    "after-sink-prepare",
    "before-commit",
    "after-commit",
    "before-publish",
    "after-publish",
)
"""In the order in which one step passes them."""

_NAME = "MDP_FAULT_POINTS"
_folder: Path | None = Path(os.environ[_NAME]) if os.environ.get(_NAME) else None


def fault_point(point: str) -> None:
    """Die here when the harness has armed ``point``."""
    if _folder is None:
        return
    try:
        (_folder / point).unlink()
    except FileNotFoundError:
        return
    _append(_folder / "hits.log", f"{point} {os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGKILL)


def note_commit(task: str, parent: str, commit: str) -> None:
    """Leave a trail of an accepted commit: ``{"task", "parent", "id", "t"}``, ``t`` in seconds of wall time."""
    if _folder is None:
        return
    line = json.dumps({"task": task, "parent": parent, "id": commit, "t": time.time()})
    _append(_folder / f"commits-{os.getpid()}.jsonl", line + "\n")


def _append(path: Path, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)
