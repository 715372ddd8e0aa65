"""A folder of Parquet trades -> dedupe -> 1-minute bars, JSON lines.

    mdp run examples/replay_parquet.py --workers 2 --set output=OUT
    mdp run examples/replay_parquet.py --workers 2 --set output=OUT --set start=2026-01-02T15:00 --set speed=600

``trades``: a folder of Parquet files with the columns symbol, ts_event (a timestamp, or int ns), price, size and, where there
are any, side, trade_id; each sorted by ts_event. Where the folder is not there, a small one is made: two venues' files for
each of three hours. ``start``, ``end``: only trades in [start, end), ISO 8601. ``speed``: real time x so much; without it, as
fast as possible. Needs the extra parquet.
"""

import os
import random
import shutil
from datetime import UTC, datetime
from pathlib import Path

from market_data_pipeline import JsonLines, Pipeline, Replay
from market_data_pipeline.extras import extra

NAME = "examples/replay_parquet.py"
OPEN = int(datetime(2026, 1, 2, 14, tzinfo=UTC).timestamp()) * 1_000_000_000
HOUR = 3600 * 1_000_000_000
SYMBOLS = ("AAPL", "MSFT", "NVDA")


def make_hour(path: Path, start: int, venue: str, count: int = 2000) -> None:
    """A file of ``count`` trades of an hour: random walks, seeded by the file's name."""
    pa, parquet = (extra(name, "parquet", NAME) for name in ("pyarrow", "pyarrow.parquet"))
    rng = random.Random(path.name)
    prices = dict.fromkeys(SYMBOLS, 100.0)
    times = sorted(rng.randrange(start, start + HOUR) for _ in range(count))
    symbols = [rng.choice(SYMBOLS) for _ in times]
    for symbol in symbols:
        prices[symbol] += rng.choice((-0.01, 0.0, 0.01))
    columns = {
        "symbol": symbols,
        "ts_event": pa.array(times, pa.timestamp("ns", "UTC")),
        "price": [round(prices[symbol] + rng.randrange(-5, 6) / 100, 2) for symbol in symbols],
        "size": [float(rng.randrange(1, 500)) for _ in times],
        "side": [rng.choice(("buy", "sell")) for _ in times],
        "trade_id": [f"{venue}-{start}-{n}" for n in range(count)],
    }
    parquet.write_table(pa.table(columns), path, row_group_size=500)


def make_trades(folder: Path) -> None:
    """Make ``folder``, whole or not at all: every process of the job comes here, perhaps at once."""
    if folder.is_dir():
        return
    extra("pyarrow.parquet", "parquet", NAME)  # told before a folder is made
    staged = folder.with_name(f".{folder.name}-{os.getpid()}")
    staged.mkdir(parents=True)
    for hour in range(3):
        for venue in ("arca", "nasdaq"):
            make_hour(staged / f"{14 + hour}-{venue}.parquet", OPEN + hour * HOUR, venue)
    try:
        staged.rename(folder)
    except OSError:  # another process was faster, with the same files
        shutil.rmtree(staged)
        if not folder.is_dir():
            raise


def pipeline(
    output: Path,
    trades: Path | None = None,
    start: str | None = None,
    end: str | None = None,
    speed: float | None = None,
) -> Pipeline:
    folder = output / "trades" if trades is None else trades
    make_trades(folder)
    return (
        Pipeline("replay-parquet")
        .source(Replay(folder, start=start, end=end, speed=speed))
        .key_by("symbol")
        .dedupe("symbol", "trade_id", within="10m")
        .bars("1m")
        .sink(JsonLines(output / "bars"))
    )
