"""Ways in for users: one runtime for pipelines, Dags and files, and what it is used with.

The names below are loaded when first used. The in-process Dag layer is in :mod:`market_data_pipeline.orchestration.dag`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from market_data_pipeline.catalog.registry import Registry, registry
    from market_data_pipeline.circuit import CircuitBreaker, CircuitRule
    from market_data_pipeline.dag.graph import Dag, Edge, Node
    from market_data_pipeline.dag.pipeline import Pipeline, PipelineBuilder
    from market_data_pipeline.feedback import StoreFeedback, StoreReading
    from market_data_pipeline.orchestration.places import Distributed, InProcess
    from market_data_pipeline.orchestration.program import Program
    from market_data_pipeline.orchestration.rate_coordinator import RateCoordinator
    from market_data_pipeline.orchestration.run_status import RunStatus
    from market_data_pipeline.orchestration.running import Running
    from market_data_pipeline.orchestration.runtime import PipelineRuntime
    from market_data_pipeline.orchestration.runtime_orchestrator import RuntimeOrchestrator
    from market_data_pipeline.runtime.local import DagRuntime, RunConfig, RunResult
    from market_data_pipeline.runtime_settings import OrchestratorSettings
    from market_data_pipeline.sources.router import SourceRouter
    from market_data_pipeline.sources.routes import BySymbol, Failover, Priority, RoundRobin

_HOMES = {
    "catalog.registry": ("Registry", "registry"),
    "circuit": ("CircuitBreaker", "CircuitRule"),
    "dag.graph": ("Dag", "Edge", "Node"),
    "dag.pipeline": ("Pipeline", "PipelineBuilder"),
    "feedback": ("StoreFeedback", "StoreReading"),
    "orchestration.places": ("Distributed", "InProcess"),
    "orchestration.program": ("Program",),
    "orchestration.rate_coordinator": ("RateCoordinator",),
    "orchestration.run_status": ("RunStatus",),
    "orchestration.running": ("Running",),
    "orchestration.runtime": ("PipelineRuntime",),
    "orchestration.runtime_orchestrator": ("RuntimeOrchestrator",),
    "runtime.local": ("DagRuntime", "RunConfig", "RunResult"),
    "runtime_settings": ("OrchestratorSettings",),
    "sources.router": ("SourceRouter",),
    "sources.routes": ("BySymbol", "Failover", "Priority", "RoundRobin"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BySymbol",
    "CircuitBreaker",
    "CircuitRule",
    "Dag",
    "DagRuntime",
    "Distributed",
    "Edge",
    "Failover",
    "InProcess",
    "Node",
    "OrchestratorSettings",
    "Pipeline",
    "PipelineBuilder",
    "PipelineRuntime",
    "Priority",
    "Program",
    "RateCoordinator",
    "Registry",
    "RoundRobin",
    "RunConfig",
    "RunResult",
    "RunStatus",
    "Running",
    "RuntimeOrchestrator",
    "SourceRouter",
    "StoreFeedback",
    "StoreReading",
    "registry",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"market_data_pipeline.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
