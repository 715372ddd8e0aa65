"""Asks stores how they are, beside the work: nobody waits for an answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from market_data_pipeline.clock import Clock
from market_data_pipeline.feedback import STALE_SECONDS, StoreFeedback, StoreReading, reading_of, worst

log = logging.getLogger(__name__)

_EVERY_SECONDS = 1.0
_ANSWER_SECONDS = 1.0

Place = tuple[str, int]
"""A node, and the task of it (its partition) that is asked; -1: nobody's."""


@dataclass
class _Asked:
    """One store: when it was asked last and when it answered (monotonic seconds), and what it said."""

    store: StoreFeedback
    asked_at: float
    question: asyncio.Task[None]
    said_at: float = 0.0
    said: StoreReading | None = None


class StorePoll:
    """The stores of one process. ``answers``: how many readings have come in so far."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked: dict[Place, _Asked] = {}
        self._silent: set[Place] = set()
        self.answers = 0

    def look(self, stores: Mapping[Place, StoreFeedback]) -> None:
        """Ask those of ``stores`` that were not asked for a second; what is not in it any more is forgotten. Returns at once,
        and may be called as often as one likes."""
        for place in [place for place, asked in self._asked.items() if stores.get(place) is not asked.store]:
            self._asked.pop(place).question.cancel()
            self._silent.discard(place)
        now = self._clock.monotonic()
        for place, store in stores.items():
            asked = self._asked.get(place)
            if asked is None:
                asked = self._asked[place] = _Asked(store, now, asyncio.create_task(self._ask(place)))
            elif asked.question.done() and now - asked.asked_at >= _EVERY_SECONDS:
                asked.asked_at, asked.question = now, asyncio.create_task(self._ask(place))

    async def _ask(self, place: Place) -> None:
        asked = self._asked[place]
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                said = reading_of(await asked.store.reading())
        except Exception as error:  # whatever a user's code raises: it says nothing
            level = logging.DEBUG if self._is_silent(place[0]) else logging.WARNING
            self._silent.add(place)
            why = str(error) or type(error).__name__
            log.log(level, "node %s: its store does not say how it is (%s)", place[0], why)
            return
        asked.said, asked.said_at = said, self._clock.monotonic()
        self.answers += 1
        if place in self._silent:
            self._silent.discard(place)
            level = logging.DEBUG if self._is_silent(place[0]) else logging.INFO
            log.log(level, "node %s: its store says again how it is", place[0])

    def _is_silent(self, node: str) -> bool:
        return any(place[0] == node for place in self._silent)

    def readings(self) -> dict[str, StoreReading]:
        """What the stores of each node said within the last five seconds, the worst of them."""
        now = self._clock.monotonic()
        found: dict[str, list[StoreReading]] = {}
        for (node, _), asked in self._asked.items():
            if asked.said is not None and now - asked.said_at <= STALE_SECONDS:
                found.setdefault(node, []).append(asked.said)
        return {node: reading for node, said in found.items() if (reading := worst(said)) is not None}

    async def close(self) -> None:
        """Give up the questions that are open. One that goes on all the same, a second later, is left behind: a store that
        hangs must not keep a worker from giving back what it holds."""
        questions = {asked.question: place for place, asked in self._asked.items()}
        self._asked.clear()
        for question in questions:
            question.cancel()
        if questions:
            _, late = await asyncio.wait(questions, timeout=_ANSWER_SECONDS)
            for question in late:
                log.warning("node %s: its store goes on with a question that was given up", questions[question][0])
