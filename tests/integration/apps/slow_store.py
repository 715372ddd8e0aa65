"""Trades at a steady rate into a PostgreSQL store, until the file ``end`` is there."""

from pathlib import Path

from market_data_pipeline import Batch, Pipeline, PostgresStore, Synthetic


class UntilTold(Synthetic):
    """So the job runs for as long as a test needs it."""

    def __init__(self, end: Path, rate: float) -> None:
        super().__init__(symbols=20, items=None, rate=rate)
        self.end = end

    async def read(self) -> Batch | None:
        return None if self.end.exists() else await super().read()


def pipeline(url: str, end: Path, rate: float) -> Pipeline:
    source = UntilTold(end, rate)
    return Pipeline("slow-store").source(source, name="source").key_by("symbol").sink(PostgresStore(url), name="store")
