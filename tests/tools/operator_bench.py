"""An operator with a store behind it, driven by a history of items and watermarks in any form and with any restarts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from market_data_pipeline.frame import END, NO_MARK, Columns, Frame, Items, columns_from_rows, to_rows
from market_data_pipeline.operators.base import Operator, OperatorContext


class Bench:
    """Keeps what comes out (``out``, ``late``), the ``counts`` and the stored ``state``."""

    def __init__(self, template: Operator) -> None:
        self.template = template
        self.state: dict[str, bytes] = {}
        self.ctx = OperatorContext("node")
        self.out: list[Any] = []
        self.late: list[Any] = []
        self.frames: list[Frame] = []
        self.watermark = NO_MARK
        self._started()

    def _started(self) -> None:
        self.operator = self.template.fresh()
        self.operator.open(self.ctx)
        self.operator.restore(self.state, self.watermark)

    def restart(self) -> None:
        """Commit, and go on as another instance."""
        self.commit()
        self._started()

    def commit(self) -> set[str]:
        """Store what changed; returns the keys that were written."""
        delta = self.operator.snapshot()
        for key, blob in delta.items():
            if blob is None:
                del self.state[key]
            else:
                self.state[key] = blob
        return {key for key, blob in delta.items() if blob is not None}

    def _take(self, frames: Iterable[Frame]) -> None:
        for frame in frames:
            self.frames.append(frame)
            (self.late if frame.port == "late" else self.out).extend(to_rows(frame.items))

    def feed(self, items: Items, port: str = "") -> None:
        self._take(self.operator.process(Frame(items, port=port)))

    def advance(self, watermark: int) -> None:
        self.watermark = watermark
        self._take(self.operator.advance(watermark))

    def tick(self, now: int) -> None:
        self._take(self.operator.tick(now))

    def end(self) -> None:
        """The end of input; nothing may be left behind."""
        self.advance(END)
        self.commit()
        assert self.state == {}

    @property
    def counts(self) -> dict[str, int]:
        return {name: n for name, n in Counter(self.ctx.counts).items() if n}


def as_columns(items: list[Any]) -> Columns:
    """Records of one kind as columns."""
    made, bad = columns_from_rows(items)
    assert bad == []
    return made


def play(bench: Bench, history: list[Any], forms: list[str], restarts: list[bool], group: bool) -> None:
    """``history``: watermarks (int) and ``(port, record)``. ``forms`` and ``restarts`` are used in turn; with ``group`` all
    items of a port between two watermarks come in one frame."""
    steps: list[Any] = []
    for move in history:
        if isinstance(move, int):
            steps.append(max([move, *(s for s in steps if isinstance(s, int))]))
            continue
        port, item = move
        waiting = {}
        for step in reversed(steps):
            if isinstance(step, int):
                break
            waiting[step[0]] = step
        if group and port in waiting:
            waiting[port][1].append(item)
        else:
            steps.append((port, [item]))
    for n, step in enumerate(steps):
        if isinstance(step, int):
            bench.advance(step)
        else:
            port, items = step
            bench.feed(as_columns(items) if forms[n % len(forms)] == "columns" else items, port)
        if restarts[n % len(restarts)]:
            bench.restart()
    bench.end()


def accepted(history: list[Any]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """By port the items that are on time and those that are late, in order of arrival: the rule, as a plain loop."""
    watermark = NO_MARK
    on_time: dict[str, list[Any]] = {}
    late: dict[str, list[Any]] = {}
    for move in history:
        if isinstance(move, int):
            watermark = max(watermark, move)
        else:
            port, item = move
            (late if item.ts_event < watermark else on_time).setdefault(port, []).append(item)
    return on_time, late
