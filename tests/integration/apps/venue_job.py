"""A live feed of a splittable venue, over all partitions; and a store that is not there before the file ``there`` is."""

from collections.abc import Sequence
from pathlib import Path

from tools.line_feed import LineProvider

from market_data_pipeline import CircuitRule, Discard, Frame, GuardedSink, Pipeline, ProviderSource, VenueLimits
from market_data_pipeline.errors import SinkError


class Store(Discard):
    """Cannot be reached at first; ``asked`` counts how often it was tried."""

    def __init__(self, there: Path) -> None:
        self.there = there

    async def write(self, frames: Sequence[Frame]) -> None:
        with self.there.with_name("asked").open("ab") as asked:
            asked.write(b".")
        if not self.there.exists():
            raise SinkError("store: connection refused")


def pipeline(port: int, symbols: int, per_second: float, there: Path) -> Pipeline:
    venue = LineProvider(port, "Venue", VenueLimits(per_second, symbols_per_call=1))
    source = ProviderSource(venue, [f"S{number}" for number in range(symbols)])
    store = GuardedSink(Store(there), CircuitRule(min_calls=2, open_for="2500ms"))
    return Pipeline("venue").source(source).key_by("symbol").sink(store, name="store")
