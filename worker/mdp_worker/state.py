"""Which partitions a worker should run: assignments in, commands out. No clock, no socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from market_data_pipeline.store.control import Owner


@dataclass(frozen=True)
class Start:
    """Run the tasks of ``partition`` under ``epoch``."""

    partition: int
    epoch: int


@dataclass(frozen=True)
class Stop:
    """The partition is not ours any more (or is ours under another epoch): stop its tasks."""

    partition: int


Command = Start | Stop


_FENCED = -1
"""No epoch at all: whatever is assigned next is a new start, also the same epoch after a rollback of the server."""


class HeldPartitions:
    """The partitions of the worker process with ``token``."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._epochs: dict[int, int] = {}

    @property
    def held(self) -> dict[int, int]:
        """Partition -> epoch."""
        return dict(self._epochs)

    def assigned(self, owners: Mapping[int, Owner]) -> list[Command]:
        """The assignment changed (or not)."""
        mine = {p: owner.epoch for p, owner in owners.items() if owner.token == self._token}
        commands: list[Command] = [Stop(p) for p, epoch in sorted(self._epochs.items()) if mine.get(p) != epoch]
        commands += [Start(p, epoch) for p, epoch in sorted(mine.items()) if self._epochs.get(p) != epoch]
        self._epochs = mine
        return commands

    def fenced(self, partition: int, epoch: int) -> list[Command]:
        """A commit under ``epoch`` was refused: stop without waiting for the assignment."""
        if self._epochs.get(partition) != epoch:
            return []
        self._epochs[partition] = _FENCED
        return [Stop(partition)]
