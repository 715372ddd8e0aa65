"""The source and the sink of one's own in docs/usage.md run as printed, and are exactly once as it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from market_data_pipeline.app import load_app
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import SinkError, SourceError
from market_data_pipeline.frame import Frame
from market_data_pipeline.orchestration.runtime import PipelineRuntime
from market_data_pipeline.sinks.base import SinkContext
from market_data_pipeline.sources.base import SourceContext

PAGE = Path(__file__).resolve().parents[3] / "docs" / "usage.md"
ROWS = [{"symbol": f"S{n % 3}", "ts_event": n, "price": n / 2} for n in range(5000)]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    found = re.search(
        r"<!-- run by tests/\S+test_own_components\.py -->\n\n```python\n(.*?)```", PAGE.read_text(), re.S
    )
    assert found is not None
    path = tmp_path / "own_components_of_the_page.py"
    path.write_text(found[1])
    return path


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.csv"
    lines = ["{symbol},{ts_event},{price}".format(**row) for row in ROWS]
    path.write_text("\n".join([*lines[:10], "no price", *lines[10:]]) + "\n")
    return path


def parts(program: Path, prices: Path, out: Path) -> list[Any]:
    """The source and the sink, as a task has them."""
    dag = load_app(str(program), {"input": str(prices), "output": str(out)})
    return [node.fn.fresh() for node in dag.nodes.values()]  # type: ignore[union-attr]


def stored(folder: Path) -> list[Any]:
    return [row for path in sorted(folder.glob("*.json")) for row in json.loads(path.read_text())]


async def test_the_program_of_the_page_runs(program: Path, prices: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status = await PipelineRuntime().run_pipeline(str(program), values={"input": prices, "output": out})
    assert (status.state, status.dead_letters) == ("finished", 1)
    assert stored(out) == ROWS
    assert [path for path in out.iterdir() if path.suffix != ".json"] == []


async def test_its_source_goes_on_behind_what_is_committed(program: Path, prices: Path, tmp_path: Path) -> None:
    first, second = (parts(program, prices, tmp_path)[0] for _ in range(2))
    await first.open(SourceContext("source"), None)
    batch = await first.read()
    assert 0 < len(batch.items) < len(ROWS)
    assert [(letter.node, letter.item) for letter in batch.rejected] == [("source", "no price\n")]
    await second.open(SourceContext("source"), batch.position)
    items = list(batch.items)
    while (more := await second.read()) is not None:
        items += more.items
    assert items == ROWS
    prices.unlink()
    with pytest.raises(SourceError, match="no such file"):
        first.check()


@pytest.mark.parametrize("committed", [True, False])
async def test_its_sink_shows_what_is_committed_and_nothing_else(
    program: Path, prices: Path, tmp_path: Path, committed: bool
) -> None:
    out = tmp_path / "out"
    first, second = (parts(program, prices, out)[1] for _ in range(2))
    await first.open(SinkContext("sink", generation=1), None)
    await first.write([Frame([1, 2])])
    state = await first.prepare(False)
    assert stored(out) == []  # it dies before or behind the commit
    await second.open(SinkContext("sink", generation=2), state if committed else None)
    assert stored(out) == ([1, 2] if committed else [])
    await second.write([Frame([3] if committed else [1, 2, 3])])
    await second.prepare(True)
    await second.committed()
    assert stored(out) == [1, 2, 3]


async def test_its_sink_waits_for_a_folder_that_cannot_be_written(program: Path, prices: Path, tmp_path: Path) -> None:
    sink = parts(program, prices, prices)[1]  # a file
    await sink.open(SinkContext("sink"), None)
    await sink.write([Frame([1])])
    with pytest.raises(SinkError, match=r"prices\.csv"):
        await sink.prepare(True)


def test_other_arguments_are_another_plan(program: Path, prices: Path, tmp_path: Path) -> None:
    plans = [
        compile_dag(load_app(str(program), {"input": str(prices), "output": name}), 2).fingerprint for name in "aba"
    ]
    assert plans[0] == plans[2] != plans[1]
