"""What happens to a feed -> :class:`FeedEvent`, as a pure decision. Quiet is not disconnected.

=============== ==================== ==============================================================
state           what happens         event, and the state then
=============== ==================== ==============================================================
new             could not be made    ``disconnected``; away
new, away       connected            ``connected``; connected
suspended       connected            ``connected``; connected
connected       nothing for so long  ``quiet``; quiet
quiet           something came       ``resumed``; connected
connected       it broke             ``disconnected``; away
quiet           it broke             ``disconnected``; away
new, away       the circuit opened   ``suspended``; suspended
any             refused for good     ``failed``; the feed itself: failed, a symbol: the same
=============== ==================== ==============================================================

Anything else (a further attempt that failed while the feed is away, say) is no transition, and gives no event.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from market_data_pipeline.records import FeedEvent

Condition = Literal["new", "away", "connected", "quiet", "suspended", "failed"]


class Feed(NamedTuple):
    """A connection: its name in events, whose it is, and what it subscribes to."""

    name: str
    provider: str
    symbols: tuple[str, ...]


class FeedHealth:
    """One feed. ``quiet_after``: seconds without any message after which it is quiet. ``now`` is monotonic seconds, ``wall``
    nanoseconds."""

    def __init__(self, feed: str, quiet_after: float) -> None:
        self.feed = feed
        self.condition: Condition = "new"
        self.heard_at = 0.0
        self._quiet_after = quiet_after

    @property
    def is_up(self) -> bool:
        return self.condition in ("connected", "quiet")

    def connected(self, now: float, wall: int, detail: str = "") -> list[FeedEvent]:
        self.heard_at = now
        return self._to("connected", "connected", wall, detail)

    def heard(self, now: float, wall: int) -> list[FeedEvent]:
        """A message came, of any kind, at ``now``."""
        self.heard_at = max(now, self.heard_at)
        return self._to("connected", "resumed", wall) if self.condition == "quiet" else []

    def look(self, now: float, wall: int) -> list[FeedEvent]:
        """Time has gone on; what came up to ``now`` has been read."""
        silence = self.silence(now)
        if self.condition != "connected" or silence < self._quiet_after:
            return []
        return self._to("quiet", "quiet", wall, f"nothing for {silence:.1f} s")

    def silence(self, now: float) -> float:
        """Seconds since something came, 0 where it is not connected."""
        return now - self.heard_at if self.is_up else 0.0

    def disconnected(self, wall: int, detail: str) -> list[FeedEvent]:
        """It broke, or could not be made."""
        return self._to("away", "disconnected", wall, detail) if self.is_up or self.condition == "new" else []

    def suspended(self, wall: int, detail: str) -> list[FeedEvent]:
        return self._to("suspended", "suspended", wall, detail) if self.condition in ("new", "away") else []

    def refused(self, wall: int, kind: str, symbol: str, reason: str) -> list[FeedEvent]:
        """``kind`` of ``symbol`` is refused for good; the feed goes on without it."""
        return [FeedEvent(self.feed, "failed", symbol, wall, f"{kind}: {reason}")]

    def failed(self, wall: int, detail: str) -> list[FeedEvent]:
        """The feed as a whole can never work."""
        return self._to("failed", "failed", wall, detail) if self.condition != "failed" else []

    def _to(self, condition: Condition, event: str, wall: int, detail: str = "") -> list[FeedEvent]:
        self.condition = condition
        return [FeedEvent(self.feed, event, "", wall, detail)]
