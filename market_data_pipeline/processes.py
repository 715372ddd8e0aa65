"""Child processes that do not outlive their parent."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
_FIRST = f"""\
import ctypes, os, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGTERM)})
if os.getppid() != int(sys.argv[1]): sys.exit("its parent is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def with_parent(command: Sequence[str]) -> list[str]:
    """``command`` as a child of this process that gets SIGTERM when the thread that started it is gone, however it went (Linux;
    elsewhere as it is). A small interpreter asks for that and becomes the command (8 ms): unlike a function between fork and
    exec it is safe where there are threads, and the parent is not copied. Start it from a thread that stays, so never from
    one of a pool."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _FIRST, str(os.getpid()), *command]
