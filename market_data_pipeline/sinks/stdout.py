"""A sink that prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from market_data_pipeline.frame import Frame, to_rows
from market_data_pipeline.sinks.base import Sink
from market_data_pipeline.sinks.encoding import json_line, plain
from market_data_pipeline.terminal import visible


class Stdout(Sink):
    """One JSON line per item on standard output. At least once: a line printed just before a crash is printed again."""

    accepts: ClassVar[Literal["rows"]] = "rows"

    def __init__(self) -> None:
        self._lines: list[bytes] = []

    async def write(self, frames: Sequence[Frame]) -> None:
        self._lines += [json_line(plain(item)) for frame in frames for item in to_rows(frame.items)]

    async def prepare(self, ended: bool) -> Any | None:
        if self._lines:
            text = b"".join(self._lines).decode()
            sys.stdout.write(visible(text, lines=True) if sys.stdout.isatty() else text)
            sys.stdout.flush()
            self._lines = []
        return None
