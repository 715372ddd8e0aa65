"""What sinks refuse, by the policies of their nodes. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from market_data_pipeline.errors import OperatorFailed
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.runtime.chain import Chain


class Refusals:
    """Of the sinks of one chain. A sink refuses items in the midst of its work (a transaction is open, say), where nothing must
    be raised: what the policy ``fail`` wants is raised by :meth:`check`, once the sink is back."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._failure: OperatorFailed | None = None

    def of(self, node: str) -> Callable[[Any, str], None]:
        """The ``reject`` of the sink ``node``."""

        def reject(item: Any, reason: str) -> None:
            try:
                self._chain.reject(node, DeadLetter(node, reason, item))
            except OperatorFailed as error:
                self._failure = self._failure or error

        return reject

    def check(self) -> None:
        """Raises the first ``OperatorFailed``, where a sink refused an item that its node must not lose."""
        if self._failure is not None:
            raise self._failure

    def undo(self, node: str, counts: dict[str, int]) -> None:
        """The step of ``node`` is made once more: nothing was refused since its counters were ``counts``."""
        self._failure = None
        self._chain.undo(node, counts)
