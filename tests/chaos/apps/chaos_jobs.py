"""The jobs that the chaos rounds run: one function per topology."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from chaos_feed import Feed
from chaos_parts import POISON_LOG, GatedFiles, Pair, check, tagged

from market_data_pipeline import Dag, Dedupe, Map, Node, Sink, SqliteTable, TumblingBars

INTERVAL = "5s"
DATABASE, TABLE = "bars.db", "bars"
SLOW_SHARE = 10
"""In ``fan_in`` one feed brings one item for every nine of the other."""


def _ids(text: str) -> frozenset[int]:
    return frozenset(int(part) for part in text.split(",") if part)


def _feed(control: Path, items: int, rate: float, seed: int, hot: str, first_id: int = 0, late: bool = True) -> Feed:
    hot_from, _, hot_to = hot.partition("-")
    return Feed(
        control / "begin", items, rate, seed=seed, hot_from=int(hot_from or 0), hot_to=int(hot_to or 0),
        first_id=first_id, offset=37 if first_id else 0, late=late,
    )  # fmt: skip


def _deduped(graph: Dag, control: Path, raises: str, kills: str) -> str:
    """Dedupe, and the step that items may be poison to (only where some are); the name of the last node."""
    graph.add_node(Node("dedupe", Dedupe("symbol", "trade_id")))
    if not raises and not kills:
        return "dedupe"
    graph.add_node(Node("check", Map(partial(check, _ids(raises), _ids(kills), str(control / POISON_LOG)))))
    graph.add_edge("dedupe", "check")
    return "check"


def _add(graph: Dag, after: str, name: str, sink: Sink, boundary: bool = False) -> None:
    graph.add_node(Node(name, sink))
    graph.add_edge(after, name, boundary=boundary)


def linear(
    output: Path, control: Path, items: int, rate: float, seed: int, hot: str = "", raises: str = "", kills: str = ""
) -> Dag:
    """source -> keyed -> dedupe -> bars -> JSON lines."""
    graph = Dag("linear")
    graph.add_node(Node("source", _feed(control, items, rate, seed, hot)))
    graph.add_edge("source", "dedupe", key="symbol")
    last = _deduped(graph, control, raises, kills)
    graph.add_node(Node("bars", TumblingBars(INTERVAL)))
    graph.add_edge(last, "bars")
    _add(graph, "bars", "files", GatedFiles(output / "bars", control))
    return graph


def fan_in(
    output: Path, control: Path, items: int, rate: float, seed: int, hot: str = "", raises: str = "", kills: str = ""
) -> Dag:
    """A fast and a slow source into one keyed node. Nothing is late: what is would depend on how far one is ahead."""
    graph = Dag("fan-in")
    slow = items // SLOW_SHARE
    fast_feed = _feed(control, items - slow, rate * (SLOW_SHARE - 1) / SLOW_SHARE, seed, hot, late=False)
    graph.add_node(Node("source", fast_feed))
    graph.add_node(Node("slow", _feed(control, slow, rate / SLOW_SHARE, seed + 1, "", 10**9, late=False)))
    graph.add_edge("source", "dedupe", key="symbol")
    graph.add_edge("slow", "dedupe", key="symbol")
    last = _deduped(graph, control, raises, kills)
    graph.add_node(Node("bars", TumblingBars(INTERVAL)))
    graph.add_edge(last, "bars")
    _add(graph, "bars", "files", GatedFiles(output / "bars", control))
    return graph


def diamond(
    output: Path, control: Path, items: int, rate: float, seed: int, hot: str = "", raises: str = "", kills: str = ""
) -> Dag:
    """Two branches that make the same bars, one behind a stream of its own, and meet again in a keyed join. Nothing is late:
    a task that works off a backlog sends a step's items with one mark, so a branch may still take what the other did not."""
    graph = Dag("diamond")
    graph.add_node(Node("source", _feed(control, items, rate, seed, hot, late=False)))
    graph.add_edge("source", "dedupe", key="symbol")
    last = _deduped(graph, control, raises, kills)
    for branch, boundary in (("left", False), ("right", True)):
        graph.add_node(Node(branch, TumblingBars(INTERVAL)))
        graph.add_node(Node(f"tag-{branch}", Map(partial(tagged, branch))))
        graph.add_edge(last, branch, boundary=boundary)
        graph.add_edge(branch, f"tag-{branch}")
        graph.add_edge(f"tag-{branch}", "join", key="symbol")
    graph.add_node(Node("join", Pair()))
    _add(graph, "join", "files", GatedFiles(output / "bars", control))
    return graph


def fan_out(
    output: Path, control: Path, items: int, rate: float, seed: int, hot: str = "", raises: str = "", kills: str = ""
) -> Dag:
    """Bars to files and to a SQLite table, and the deduped trades forwarded through a stream to a third."""
    graph = Dag("fan-out")
    graph.add_node(Node("source", _feed(control, items, rate, seed, hot)))
    graph.add_edge("source", "dedupe", key="symbol")
    last = _deduped(graph, control, raises, kills)
    graph.add_node(Node("bars", TumblingBars(INTERVAL)))
    graph.add_edge(last, "bars")
    _add(graph, "bars", "files", GatedFiles(output / "bars", control))
    _add(graph, "bars", "table", SqliteTable(output / DATABASE, TABLE))
    _add(graph, last, "trades", GatedFiles(output / "trades", control), boundary=True)
    return graph
