"""What a task knows of its symbols: their codes, and what bars without a trade need of those before them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat

import numpy as np

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Array, Dictionary
from market_data_pipeline.names import Names, PerNames
from market_data_pipeline.operators.bar_table import MAX_SYMBOLS
from market_data_pipeline.operators.changes import Changes
from market_data_pipeline.packing import pack, unpack

_BLOCK = 256
_NEVER = -1
_KNOWN_NAMES = 1 << 15
"""Names of which the codes are remembered, list by list: per task, so not many."""
_NAMES, _FACTS = "names:", "symbols:"


class BarSymbols:
    """Symbols by code, in order of first appearance, and per code (arrays of one capacity):

    ``started``: whether a bar of it came out; ``run``: how many buckets ago its last bar with a trade was, -1 before the first;
    ``close``: the last close among the bars that are closed, NaN before the first.
    """

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._names: tuple[str, ...] = ()
        self._names_stored = 0
        self._codes_of = PerNames(self._known, _KNOWN_NAMES)
        self.started: Array = np.zeros(0, bool)
        self.run: Array = np.zeros(0, np.int32)
        self.close: Array = np.zeros(0, np.float64)
        self._changes = Changes()

    def intern(self, symbols: Dictionary) -> Array:
        """The code of each row's symbol, int64. Only symbols that a row has get one: a frame may name those of all partitions.
        Raises ``ConfigError`` when there are too many."""
        known = self._codes_of(symbols.names)
        codes = known.take(symbols.codes)
        if len(codes) and codes.min() < 0:
            try:
                for at in np.unique(symbols.codes[codes < 0]).tolist():
                    known[at] = self._code_of(symbols.names[at])
            finally:
                self._grow()
            codes = known.take(symbols.codes)
        return codes

    def _known(self, names: Names) -> Array:
        """The code of each name, -1 where it has none yet."""
        return np.fromiter(map(self._codes.get, names, repeat(-1)), np.int64, len(names))

    def code_of(self, name: str) -> int:
        """The code of one symbol."""
        code = self._code_of(name)
        self._grow()
        return code

    def _code_of(self, name: str) -> int:
        if name not in self._codes and len(self._codes) == MAX_SYMBOLS:
            raise ConfigError(f"more than {MAX_SYMBOLS} symbols in one partition; use more partitions")
        return self._codes.setdefault(name, len(self._codes))

    def _grow(self) -> None:
        n = len(self._codes)
        more = max(n, 2 * len(self.started)) - len(self.started)
        if n > len(self.started):
            self.started = np.append(self.started, np.zeros(more, bool))
            self.run = np.append(self.run, np.full(more, _NEVER, np.int32))
            self.close = np.append(self.close, np.full(more, np.nan))

    @property
    def names(self) -> tuple[str, ...]:
        """All symbols, by code."""
        if len(self._names) < len(self._codes):
            self._names = tuple(self._codes)
        return self._names

    def start(self, codes: Array) -> Array | None:
        """Where those of ``codes`` that had no bar before stand first; ``None``: there are none. They have started now."""
        fresh = np.flatnonzero(~self.started[codes])
        if not len(fresh):
            return None
        first = fresh[np.unique(codes[fresh], return_index=True)[1]]
        self.started[codes[fresh]] = True
        self.touch(codes[fresh])
        return first

    def step(self, traded: Array, limit: int) -> Array:
        """The next bucket, in which ``traded`` codes traded: the codes that need an empty bar, not after ``limit`` in a row."""
        known = np.flatnonzero(self.run >= 0)
        self.run[known] += self.run[known] <= limit
        self.run[traded] = 0
        self.touch(known)
        self.touch(traded)
        missing: Array = np.flatnonzero((self.run > 0) & (self.run <= limit))
        return missing

    def waiting(self, limit: int) -> Array:
        """Codes for which the bucket behind the last :meth:`step` may need an empty bar."""
        found: Array = np.flatnonzero((self.run >= 0) & (self.run < limit))
        return found

    def know(self, code: int, run: int) -> None:
        """``code`` has had its first bar ``run`` buckets ago, unless it was known already."""
        if self.run[code] == _NEVER:
            self.run[code] = run
            self.touch(np.array([code]))

    def touch(self, codes: Array) -> None:
        """What is known of ``codes`` changed."""
        self._changes.touch(np.unique(codes // _BLOCK).tolist())

    def snapshot(self) -> dict[str, bytes | None]:
        delta = {f"{_FACTS}{key}": blob for key, blob in self._changes.take(self._facts).items()}
        if len(self._codes) > self._names_stored:
            delta[f"{_NAMES}{self._names_stored}"] = pack(list(self.names[self._names_stored :]))
            self._names_stored = len(self._codes)
        return delta

    def _facts(self, block: int) -> bytes:
        rows = slice(block * _BLOCK, (block + 1) * _BLOCK)
        return pack([self.started[rows].tobytes(), self.run[rows].tobytes(), self.close[rows].tobytes()])

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Continue from what is its own in ``state``."""
        chunks = sorted(int(key.removeprefix(_NAMES)) for key in state if key.startswith(_NAMES))
        for chunk in chunks:
            for name in unpack(state[f"{_NAMES}{chunk}"]):
                self._code_of(name)
        self._grow()
        self._names_stored = len(self._codes)
        blocks = sorted(int(key.removeprefix(_FACTS)) for key in state if key.startswith(_FACTS))
        for block in blocks:
            started, run, close = unpack(state[f"{_FACTS}{block}"])
            rows = slice(block * _BLOCK, block * _BLOCK + len(started))
            room = len(self.started[rows])
            self.started[rows] = np.frombuffer(started, bool)[:room]
            self.run[rows] = np.frombuffer(run, np.int32)[:room]
            self.close[rows] = np.frombuffer(close, np.float64)[:room]
        self._changes.restored(blocks)
