"""Which parts of an operator's state a commit must write."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Changes:
    """Which keys of a state changed since the last snapshot, and which the store holds."""

    def __init__(self) -> None:
        self._changed: set[int] = set()
        self._stored: set[int] = set()

    def touch(self, keys: Iterable[int]) -> None:
        self._changed.update(keys)

    def restored(self, keys: Iterable[int]) -> None:
        self._stored.update(keys)

    def take(self, blob_of: Callable[[int], bytes | None]) -> dict[str, bytes | None]:
        """The delta: for each changed key its blob, or ``None`` where ``blob_of`` says it is gone and it was stored."""
        delta: dict[str, bytes | None] = {}
        for key in self._changed:
            blob = blob_of(key)
            if blob is not None:
                self._stored.add(key)
                delta[str(key)] = blob
            elif key in self._stored:
                self._stored.discard(key)
                delta[str(key)] = None
        self._changed.clear()
        return delta
