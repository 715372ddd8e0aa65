"""How the stores behind sinks are, on its way: from a worker in its heartbeat to the coordinator, and to whoever asks for the
status. Times of different machines are never compared: what is said again under the same number was not asked anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.feedback import STALE_SECONDS, StoreReading, worst

MOST = 20
"""So many nodes a heartbeat speaks of: those that are highest between their levels."""


class StoreWord(NamedTuple):
    """What a worker says of the stores of its sinks: the worst reading of each node's tasks. ``number`` is another one whenever
    a store has answered."""

    number: int = 0
    readings: Mapping[str, StoreReading] = {}

    @classmethod
    def of(cls, number: int, readings: Mapping[str, StoreReading]) -> Self:
        """Of the nodes that matter most."""
        nodes = sorted(readings, key=lambda node: -readings[node].position)[:MOST]
        return cls(number, {node: readings[node] for node in nodes})

    @classmethod
    def from_plain(cls, said: Any) -> Self:
        """What was written as JSON; nothing where that is damaged."""
        try:
            number, readings = said
            return cls(int(number), readings_in(readings))
        except (ValueError, TypeError, OverflowError):
            return cls()


SAYS_NOTHING = StoreWord()


def readings_in(said: Any) -> dict[str, StoreReading]:
    """Readings by node, read from JSON; one that is damaged is left out, what a later version adds to one, too."""
    found: dict[str, StoreReading] = {}
    if not isinstance(said, Mapping):
        return found
    for node, values in said.items():
        try:
            found[str(node)] = StoreReading(*map(float, values[: len(StoreReading._fields)])).checked()
        except (ConfigError, ValueError, TypeError, LookupError, OverflowError):  # a slice of a mapping is a key
            continue
    return found


def together(said: Iterable[Mapping[str, StoreReading]]) -> dict[str, StoreReading]:
    """What several say of the same nodes: the worst."""
    found: dict[str, list[StoreReading]] = {}
    for readings in said:
        for node, reading in readings.items():
            found.setdefault(node, []).append(reading)
    return {node: most for node in sorted(found) if (most := worst(found[node])) is not None}


class HeardStores:
    """The words of all workers, and how long they are known. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[int, float]] = {}

    def hear(self, words: Mapping[str, StoreWord], now: float) -> dict[str, StoreReading]:
        """What of ``words`` (by the worker's token) is not older than five seconds, together."""
        self._heard = {
            token: self._heard[token] if self._heard.get(token, (0, 0.0))[0] == word.number else (word.number, now)
            for token, word in words.items()
            if word.number
        }
        fresh = [token for token, (_, at) in self._heard.items() if now - at <= STALE_SECONDS]
        return together(words[token].readings for token in fresh)
