"""In one process there is no coordinator that makes rates: a source is not read while a store behind it is too full."""

from __future__ import annotations

from collections.abc import Mapping

from market_data_pipeline.clock import Clock
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.plan import Plan
from market_data_pipeline.feedback import StoreFeedback
from market_data_pipeline.runtime.store_poll import Place, StorePoll
from market_data_pipeline.sinks.base import asked_of

_OUTSIDE = -1


def feedback_of(dag: Dag) -> dict[str, StoreFeedback]:
    """Whom each node gives to be asked how its store is."""
    return {name: node.feedback for name, node in dag.nodes.items() if node.feedback is not None}


class StoreHold:
    """From ``high`` on a store holds the sources before it, until it is at ``low`` or says nothing any more."""

    def __init__(self, plan: Plan, dag: Dag, clock: Clock) -> None:
        self._poll = StorePoll(clock)
        self._stores: dict[Place, StoreFeedback] = {
            (name, _OUTSIDE): feedback for name, feedback in feedback_of(dag).items()
        }
        absorbing = dag.absorbing
        self._behind = {node.name: plan.behind(node.name, absorbing) for node in plan.nodes if node.kind == "source"}
        self._full: set[str] = set()

    def opened(self, sinks: Mapping[str, object]) -> None:
        """These sinks can be asked from now on, if they are such."""
        found = {(name, 0): asked for name, sink in sinks.items() if (asked := asked_of(sink)) is not None}
        self._stores.update(found)

    def closed(self, sinks: Mapping[str, object]) -> None:
        """These sinks are asked no more."""
        for name in sinks:
            self._stores.pop((name, 0), None)

    def holds(self, source: str) -> bool:
        """Whether ``source`` is to bring nothing in now."""
        if not self._stores:
            return False
        self._poll.look(self._stores)
        readings = self._poll.readings()
        self._full = {
            node for node, said in readings.items() if said.position > 0 and (node in self._full or said.position >= 1)
        }
        return not self._full.isdisjoint(self._behind[source])

    async def close(self) -> None:
        """Ask nobody any more."""
        await self._poll.close()
