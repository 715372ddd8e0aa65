"""A world of live feeds, drawn from a seed: venues, what goes wrong with them and with the process, and the settings."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

from market_data_pipeline.circuit import CircuitRule
from market_data_pipeline.sources.inbox import Overload
from market_data_pipeline.sources.provider_source import ProviderSource
from market_data_pipeline.sources.reconnect import Reconnect
from market_data_pipeline.sources.router import SourceRouter
from market_data_pipeline.sources.routes import BySymbol, Failover, Priority, RoundRobin, Route
from tests.tools.feed_venue import Venue

SYMBOLS = ("A0", "B0", "A1", "B1")
ROUTES = ("hot", "cold", "shared", "levels", "by symbol")
WAYS = ("one", "merged", *ROUTES)
TAIL = 25.0
"""Seconds at the end in which nothing goes wrong any more."""


class Cut(NamedTuple):
    """A provider's connections (or the first) break at ``at``, and none can be made for ``away``; ``reset``: what they had is
    lost."""

    at: float
    provider: int
    away: float
    reset: bool
    every: bool


class Standstill(NamedTuple):
    at: float
    seconds: float


class Restart(NamedTuple):
    """A partition's process dies; ``polite``: it commits what it has read. It is back after ``away``."""

    at: float
    partition: int
    away: float
    polite: bool


class Refusal(NamedTuple):
    """``late``: only after the subscription was taken."""

    provider: int
    kind: str
    symbol: str
    late: bool


@dataclass(frozen=True)
class Plan:
    seed: int
    way: str
    same_venue: bool
    symbols: tuple[str, ...]
    kinds: tuple[str, ...]
    partitions: int
    lags: tuple[float, ...]
    snapshot: int
    per_connection: int
    per_call: int
    seconds: float
    pace: float
    cuts: tuple[Cut, ...]
    standstills: tuple[Standstill, ...]
    restarts: tuple[Restart, ...]
    refusals: tuple[Refusal, ...]
    job: str
    is_slow: bool
    times: dict[str, str | None]
    """``fail_after``, ``recover_after``, ``stale_after``."""
    settings: dict[str, str | None]
    queue: int
    overload: Overload
    keeps: int
    min_calls: int
    begun: bool

    @property
    def steady(self) -> set[int]:
        """Providers with which nothing goes wrong."""
        harmed = {cut.provider for cut in self.cuts} | {refusal.provider for refusal in self.refusals}
        return set(range(len(self.lags))) - harmed

    def source(self, venues: list[Venue]) -> ProviderSource:
        reconnect = Reconnect(first="10ms", most="500ms", stable_after="5s", seed=self.seed)
        circuit = CircuitRule(min_calls=self.min_calls, open_for="4s")
        settings = {key: value for key, value in self.settings.items() if key != "overlap"}
        if self.way in ("one", "merged"):
            return ProviderSource(
                venues, self.symbols, self.kinds, reconnect=reconnect, circuit=circuit, queue_items=self.queue,
                on_overload=self.overload, **settings,  # type: ignore[arg-type]
            )  # fmt: skip
        return SourceRouter(
            venues, self.symbols, self.kinds, reconnect=reconnect, circuit=circuit, queue_items=self.queue,
            on_overload=self.overload, route=self.route(), overlap_items=self.keeps, overlap=self.settings["overlap"] or 0,
            **settings,  # type: ignore[arg-type]
        )  # fmt: skip

    def labels(self) -> list[str]:
        count = len(self.lags)
        return [f"v#{number + 1}" for number in range(count)] if self.same_venue and count > 1 else list("vwx"[:count])

    def route(self) -> Route:
        first, *others = self.labels()
        times = {key: value for key, value in self.times.items() if value is not None}
        if self.way in ("hot", "cold"):
            return Failover(standby=self.way, **times)  # type: ignore[arg-type]
        if self.way == "shared":
            return RoundRobin(**times)
        if self.way == "levels":
            return Priority([first, others], **times)  # type: ignore[arg-type]
        return BySymbol({"A*": first, "B1": [others[-1], first]}, default=[*others, first], **times)  # type: ignore[arg-type]

    def asked(self, provider: int) -> set[str]:
        """The symbols that a provider may be asked for."""
        if self.way != "by symbol":
            return set(self.symbols)
        label, labels = self.labels()[provider], self.labels()
        ranked = {symbol: self.route().ranking(symbol, labels) for symbol in self.symbols}
        return {symbol for symbol in self.symbols if any(label in level for level in ranked[symbol])}


def plan_of(seed: int, way: str | None = None, short: bool = False) -> Plan:
    """``way``: one of :data:`WAYS`, or any."""
    rng = random.Random(seed)
    drawn = rng.choice(WAYS)
    way = way or drawn
    count = 1 if way == "one" else rng.choice((2, 2, 3))
    seconds = rng.choice((8.0, 12.0)) if short else rng.choice((20.0, 40.0))
    partitions = rng.choice((1, 1, 2, 3))
    symbols = SYMBOLS[: rng.choice((1, 2, 4))]
    kinds = rng.choice((("trade",), ("trade",), ("trade", "quote"), ("quote",)))
    overlap = "500ms" if rng.random() < 0.3 else "2s"
    most_lag = rng.choice((0.0, 0.3, 0.8)) if overlap == "2s" else 0.2
    return Plan(
        seed=seed, way=way, same_venue=rng.random() < 0.5, symbols=symbols, kinds=kinds, partitions=partitions,
        lags=tuple(rng.uniform(0, most_lag) for _ in range(count)),
        snapshot=rng.choice((0, 0, 5, 30)),
        per_connection=rng.choice((0, 0, 2)),
        per_call=rng.choice((1, 2, 50)),
        seconds=seconds,
        pace=rng.choice((0.2, 1.0)) if short else rng.choice((0.05, 0.2, 1.0)),
        cuts=_cuts(rng, count, seconds),
        standstills=_standstills(rng, seconds),
        restarts=_restarts(rng, partitions, seconds),
        refusals=_refusals(rng, count, kinds, symbols) if rng.random() < 0.2 and way != "by symbol" else (),
        job=rng.choice(("fast", "fast", "slow", "stops")),
        is_slow=rng.random() < 0.3,
        times=_times(rng),
        settings=_settings(rng, overlap),
        queue=rng.choice((65536, 65536, 8, 40)),
        overload=rng.choice(("block", "block", "conflate")),
        keeps=rng.choice((4096, 4096, 5)),
        min_calls=rng.choice((1000, 1000, 3)),
        begun=rng.random() < 0.3,
    )  # fmt: skip


def _times(rng: random.Random) -> dict[str, str | None]:
    return {
        "fail_after": rng.choice(("0s", "500ms", "3s")),
        "recover_after": rng.choice(("0s", "1s", "10s")),
        "stale_after": rng.choice((None, None, "1s")),
    }


def _settings(rng: random.Random, overlap: str) -> dict[str, str | None]:
    return {
        "quiet_after": rng.choice(("30s", "2s", "5s")),
        "give_up_after": rng.choice((None, None, "5s")),
        "gap_after": rng.choice(("5s", "500ms", "0s")),
        "overlap": overlap,
    }


def _cuts(rng: random.Random, count: int, seconds: float) -> tuple[Cut, ...]:
    how = rng.choice(("any", "any", "but one", "none"))
    chosen = range(count if how == "any" else count - 1) if how != "none" else range(0)
    if not chosen:
        return ()
    return tuple(
        Cut(
            rng.uniform(3.0, seconds), rng.choice(chosen), rng.choice((0, 0, 0.3, 1.5, 6, 15)), rng.random() < 0.3,
            rng.random() < 0.8,
        )
        for _ in range(rng.choice((1, 4, 12)))
    )  # fmt: skip


def _standstills(rng: random.Random, seconds: float) -> tuple[Standstill, ...]:
    begins = sorted(rng.uniform(0.5, seconds) for _ in range(rng.choice((0, 0, 2, 8))))
    return tuple(Standstill(at, rng.choice((0.2, 0.8, 3.0, 7.0, 20.0))) for at in begins)


def _restarts(rng: random.Random, partitions: int, seconds: float) -> tuple[Restart, ...]:
    return tuple(
        Restart(rng.uniform(0.5, seconds), rng.randrange(partitions), rng.choice((0.0, 0.4, 3.0)), rng.random() < 0.3)
        for _ in range(rng.choice((0, 0, 1, 3)))
    )


def _refusals(rng: random.Random, count: int, kinds: tuple[str, ...], symbols: tuple[str, ...]) -> tuple[Refusal, ...]:
    """Of each kind of a symbol one provider is left, the last."""
    if count == 1:
        return ()
    return tuple(
        Refusal(rng.randrange(count - 1), rng.choice(kinds), rng.choice(symbols), rng.random() < 0.5)
        for _ in range(rng.choice((1, 2)))
    )
