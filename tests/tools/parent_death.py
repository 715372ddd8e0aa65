"""Servers that tests start do not outlive them, however they end."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """In a child, before it starts its program (Linux): ask for SIGTERM when the parent is gone, however it went. For
    ``preexec_fn`` in a process without threads, where the program runs as a user who may not run this interpreter; else
    ``market_data_pipeline.processes.with_parent`` is the safe way."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
