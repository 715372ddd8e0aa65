"""What a sink brings to the suite of all sinks (``tests/contract/test_sinks.py`` and ``test_sinks_killed.py``).

A case stands for one place in the outside: a folder, a table, a topic. Each test makes a fresh one and closes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from market_data_pipeline.sinks.base import Sink


class SinkCase(Protocol):
    """``keyed``: an item that comes twice, in two commits, stands there once. ``exactly_once``: nothing stands there twice
    after a crash between write and commit."""

    keyed: bool
    exactly_once: bool

    def sink(self) -> Sink:
        """A new sink that writes to the place. Of any number of them, in any process, all write to the same one."""
        ...

    def expression(self) -> str:
        """Python source of :meth:`sink`, which needs only ``from market_data_pipeline import *``: for worker processes."""
        ...

    def read(self) -> Sequence[Any]:
        """What a reader finds there now: per trade ``(symbol, trade_id, price, ts_event)``, in any order."""
        ...

    def outage(self) -> AbstractContextManager[None]:
        """The place cannot be reached or written to inside; afterwards all that was there is there again. Raises
        ``pytest.skip`` where this machine cannot do it."""
        ...

    def spoil(self) -> str | None:
        """Make the place one that this sink must refuse (another schema, not a folder); a word that the message must hold.
        ``None`` where there is no such thing."""
        ...

    def close(self) -> None: ...
