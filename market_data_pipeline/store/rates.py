"""The rates of sources as the leader publishes them in the job's record, and as a worker takes them from there.

A rate is a promise that somebody watches: the leader says it again each second with another number, and who has not heard a
new number for ten seconds is not limited any more. So times of different machines are never compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from market_data_pipeline.feedback import StoreReading
from market_data_pipeline.store.stores import readings_in

STALE_SECONDS = 10.0


def published(
    number: int,
    rates: Mapping[str, float],
    presses: Mapping[str, Sequence[str]] = {},
    stores: Mapping[str, StoreReading] = {},
) -> str:
    """What goes into the record: items per second by source, for people the nodes whose stores press it, and what the stores
    said that the leader itself asks. Empty where no source is limited and no store was asked."""
    if not rates and not stores:
        return ""
    said: dict[str, object] = {"number": number, "rates": dict(rates)}
    if presses:
        said["presses"] = {source: list(nodes) for source, nodes in presses.items()}
    if stores:
        said["stores"] = stores
    return json.dumps(said, sort_keys=True, separators=(",", ":"))


def rates_in(text: str) -> dict[str, float]:
    """The rates in a record. What is damaged limits nobody."""
    try:
        found = json.loads(text)["rates"] if text else {}
        rates = {str(name): float(rate) for name, rate in found.items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return {}
    return {name: rate for name, rate in rates.items() if rate > 0 and math.isfinite(rate)}


def presses_in(text: str) -> dict[str, list[str]]:
    """The nodes whose stores press each source, in a record; none where it is damaged."""
    try:
        found = json.loads(text).get("presses", {}) if text else {}
        return {str(source): [str(node) for node in nodes] for source, nodes in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def stores_in(text: str) -> dict[str, StoreReading]:
    """What stores said, in a record."""
    try:
        return readings_in(json.loads(text).get("stores", {})) if text else {}
    except (ValueError, AttributeError):
        return {}


class HeardRates:
    """What a worker obeys. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._text = ""
        self._heard_at = 0.0
        self._rates: dict[str, float] = {}

    def hear(self, text: str, now: float) -> None:
        """The record says this now."""
        if text != self._text:
            self._text, self._heard_at, self._rates = text, now, rates_in(text)

    def at(self, now: float) -> dict[str, float]:
        """Items per second by source that holds now; a source that is not in it is not limited."""
        return self._rates if now - self._heard_at < STALE_SECONDS else {}
