"""What a task tells about itself while it works. The default says nothing; metrics implement it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from market_data_pipeline.gauges import GaugeName
from market_data_pipeline.runtime.contract import CommitRequest, Stream


class TaskObserver:
    """Base: ignores everything."""

    def committed(self, request: CommitRequest, lengths: Mapping[Stream, int], seconds: float) -> None:
        """A commit succeeded, taking ``seconds`` with its waiting; ``lengths`` of the output streams behind it."""

    def counted(self, counts: Mapping[str, Counter[str]], watermark: int) -> None:
        """The counters of every node since the job began, and the chain's watermark (ns)."""

    def restored(self, counts: Mapping[str, Counter[str]]) -> None:
        """The counters that the task starts from."""

    def latency(self, nanos: int) -> None:
        """A frame's items reached a sink ``nanos`` after they entered the job."""

    def stored(self, node: str, seconds: float) -> None:
        """The sink ``node`` took so long for one step: its writing, preparing and publishing, without the commit."""

    def gauge(self, node: str, name: GaugeName, of: str, value: float) -> None:
        """A source or sink measured ``value``, of ``of``."""

    def paused(self, seconds: float) -> None:
        """The task has waited for its outputs."""

    def crossed(self, stream: Stream, level: str) -> None:
        """A stream crossed its ``high`` or ``low`` level."""

    def reloaded(self) -> None:
        """The task threw its memory away and loads again."""

    def rests(self) -> None:
        """The task does not run now: it is over, or will be run again here. What its sources and sinks measured holds."""

    def stopped(self) -> None:
        """The task does not run here any more: it has ended, or another process has it."""
