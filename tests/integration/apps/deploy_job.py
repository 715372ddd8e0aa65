"""A job and the versions of it that are deployed one after another."""

from pathlib import Path

from bars_job import trades

from market_data_pipeline import JsonLines, Pipeline


def _same(row: object) -> bool:
    return True


def _as_it_is(row: object) -> object:
    return row


def _breaks_at(row: dict[str, object]) -> bool:
    if row["trade_id"] == "20000":
        raise ValueError("the first version cannot do this")
    return True


def pipeline(
    output: Path,
    items: int | None = None,
    rate: float | None = None,
    version: str = "plain",
    end: Path | None = None,
) -> Pipeline:
    """``plain``; ``filter``: a node more before the keyed edge; ``boundary``: bars in a subgraph of their own; ``interval``:
    other bars; ``rolled``: the sink with another argument; ``broken`` and ``fixed``: a function that fails, and one that does
    not."""
    job = Pipeline("bars").source(trades(items, rate, end), name="source")
    if version == "filter":
        job = job.filter(_same, name="filter")
    keyed = job.key_by("symbol").dedupe("symbol", "trade_id", name="dedupe")
    if version == "boundary":
        keyed = keyed.boundary().map(_as_it_is, name="map")
    if version in ("broken", "fixed"):
        keyed = keyed.filter(_breaks_at if version == "broken" else _same, name="filter", on_error="fail")
    sink = JsonLines(output, roll_interval="30s" if version == "rolled" else "60s")
    return keyed.bars("2s" if version == "interval" else "1s", name="bars").sink(sink, name="files")
