"""What was missed while nobody served a symbol, as a pure decision.

============================================================ =================================================================
trades of A (ids are numbers that grow by one)               gives, in front of the first live record behind the hole
============================================================ =================================================================
... 50, away, 53                                             ``Gap(A, 51, 52, 2, ts of 53)``
... 50, away, 51                                             nothing: none is missing
... 50, away, snapshot 51, snapshot 52, 53                   nothing; 51 and 52 are passed on as ``live``: they are not history
... 50, away, snapshot 51, away, snapshot 51, 52             nothing; 51 is ``live`` the first time
... 50, away, snapshot 52, 53                                ``Gap(A, 51, 51, 1, ts of 53)``
... 50, away, 48, 49, 50, 51                                 nothing; what was there before passes (``dedupe`` drops it)
... 50, away, 3 (later than 50)                              ``Gap(A, 0, 0, 0, ts of 3)``: the ids began anew
ids that are no numbers, or do not grow by one; or quotes    ``Gap(A, 0, 0, 0, ts)``: nobody knows
============================================================ =================================================================

Gaps within a connection are not looked for here; :class:`GapDetector` does that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from market_data_pipeline.records import Gap, Quote, Trade


class _Line:
    """What is known of one symbol: the largest number and its time, and whether numbers are a counter."""

    __slots__ = ("away_since", "come", "jumps", "last", "steps", "told", "ts")

    def __init__(self) -> None:
        self.last: int | None = None
        self.ts = 0
        self.steps = self.jumps = 0
        self.away_since: float | None = None  # a gap record is owed
        self.told = False  # that the symbol is away, and nobody knows what is missing
        self.come: set[int] = set()

    @property
    def counts(self) -> bool:
        """Numbers that jump more often than they grow by one are no counter (they are given out for several symbols, say)."""
        return self.last is not None and self.steps >= self.jumps

    def holes(self, upto: int) -> Iterator[tuple[int, int]]:
        """First and last number of each hole between the last number and ``upto``."""
        assert self.last is not None
        begin = self.last + 1
        for number in (*sorted(number for number in self.come if number < upto), upto):
            if number > begin:
                yield begin, number - 1
            begin = number + 1


class FeedGaps:
    """Which symbols are served by which feeds, and the gap records that are owed. ``kind``: whose records tell of gaps:
    ``trade``, or ``quote`` where no trades are subscribed to."""

    def __init__(self, kind: str) -> None:
        self._type: type[Any] = Trade if kind == "trade" else Quote
        self._lines: dict[str, _Line] = {}
        self._served: dict[str, set[str]] = {}
        self._refused: set[tuple[str, str]] = set()
        self.kind = kind

    def restarted(self, symbols: Iterable[str], now: float) -> None:
        """The process began anew, so nobody knows what came before: each of ``symbols`` owes a gap."""
        for symbol in symbols:
            self._lines[symbol] = line = _Line()
            line.away_since, line.told = now, True

    def served(self, feed: str, symbols: Iterable[str]) -> None:
        """``feed`` brings ``symbols`` from now on."""
        for symbol in symbols:
            if (feed, symbol) not in self._refused:
                self._served.setdefault(symbol, set()).add(feed)

    def refused(self, feed: str, kind: str, symbol: str, now: float) -> None:
        """``feed`` brings no ``kind`` of ``symbol``, though it may have taken the subscription, and brought some."""
        if kind != self.kind:
            return
        self._refused.add((feed, symbol))
        if feed in self._served.get(symbol, ()):
            self._unserved(feed, symbol, now)

    def lost(self, feed: str, now: float) -> None:
        """``feed`` brings nothing any more. Symbols that no other feed brings owe a gap if they had data."""
        self._refused = {(other, symbol) for other, symbol in self._refused if other != feed}
        for symbol, feeds in self._served.items():
            if feed in feeds:
                self._unserved(feed, symbol, now)

    def missed(self, symbol: str, now: float) -> None:
        """Something of ``symbol`` came and was not kept: it owes a gap if it had data."""
        line = self._lines.get(symbol)
        if line is not None and line.away_since is None:
            line.away_since, line.told = now, False

    def renumbered(self, symbol: str) -> None:
        """The next ids of ``symbol`` may count something else."""
        line = self._lines.get(symbol)
        if line is not None:
            line.last, line.steps, line.jumps = None, 0, 0

    def _unserved(self, feed: str, symbol: str, now: float) -> None:
        feeds = self._served[symbol]
        feeds.discard(feed)
        line = self._lines.get(symbol)
        if not feeds and line is not None and line.away_since is None:
            line.away_since, line.told = now, False

    def away(self, before: float) -> list[Gap]:
        """For each symbol that has been away since ``before`` and was not told of yet: a gap of unknown size at its last
        record, because bars may close now; what is missing is told when it is known."""
        gaps: list[Gap] = []
        for symbol, line in self._lines.items():
            if line.away_since is not None and not line.told and line.away_since <= before:
                line.told = True
                gaps.append(Gap(symbol, 0, 0, 0, line.ts))
        return gaps

    @property
    def untold(self) -> bool:
        """Whether there is a symbol that :meth:`away` would tell of later."""
        return any(line.away_since is not None and not line.told for line in self._lines.values())

    def see(self, record: Trade | Quote, feed: str) -> tuple[list[Gap], Trade | Quote]:
        """``record`` has come from ``feed``, which so serves its symbol (``""``: nobody does now): the gaps in front of it, and
        the record as it is to be passed on."""
        if type(record) is not self._type:
            return [], record
        line = self._lines.get(record.symbol)
        if line is None:
            line = self._lines[record.symbol] = _Line()
        if feed and feed not in self._served.get(record.symbol, ()):
            self._refused.discard((feed, record.symbol))
            self.served(feed, [record.symbol])  # data may be here before the call that asked for it has returned
        number = number_of(record)
        if line.away_since is None:
            self._note(line, record, number)
            return [], record
        if record.phase != "live":
            return [], self._snapshot(line, record, number)
        if number is not None and line.last is not None and number <= line.last and record.ts_event <= line.ts:
            return [], record  # it was there before the gap
        return self._resolve(line, record, number), record

    def _note(self, line: _Line, record: Trade | Quote, number: int | None) -> None:
        if number is None:
            line.last = None
        elif line.last is None:
            line.last = number
        elif number > line.last:
            if number == line.last + 1:
                line.steps += 1
            elif record.phase == "live":
                line.jumps += 1
            line.last = number
        line.ts = max(line.ts, record.ts_event)

    def _snapshot(self, line: _Line, record: Trade | Quote, number: int | None) -> Trade | Quote:
        if number is None or line.last is None or number <= line.last or not line.counts:
            return record
        if number in line.come:  # it came before the connection broke once more
            return record
        line.come.add(number)
        return record._replace(phase="live")

    def _resolve(self, line: _Line, record: Trade | Quote, number: int | None) -> list[Gap]:
        symbol, ts = record.symbol, record.ts_event
        if number is not None and line.last is not None and number > line.last and line.counts:
            gaps = [Gap(symbol, first, last, last - first + 1, ts) for first, last in line.holes(number)]
            line.last = max(number, *line.come) if line.come else number
        else:
            gaps = [Gap(symbol, 0, 0, 0, ts)]
            line.last, line.steps, line.jumps = number, 0, 0
        line.away_since, line.come, line.ts = None, set(), max(line.ts, ts)
        return gaps


def number_of(record: Trade | Quote | Gap) -> int | None:
    """A trade's id where that is a number, or digits."""
    if not isinstance(record, Trade):
        return None
    trade_id = record.trade_id
    if isinstance(trade_id, str):
        return int(trade_id) if trade_id.isascii() and trade_id.isdigit() and len(trade_id) <= 18 else None
    return trade_id
