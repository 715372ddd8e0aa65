"""RuntimeOrchestrator: the :class:`PipelineRuntime` behind settings, for programs whose operator decides where they run.

>>> await RuntimeOrchestrator(OrchestratorSettings(mode="distributed")).run_dag(dag)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.durations import Duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.given import check_given
from market_data_pipeline.orchestration.places import Distributed, InProcess
from market_data_pipeline.orchestration.program import Program, Runnable
from market_data_pipeline.orchestration.run_status import RunStatus
from market_data_pipeline.orchestration.running import STOP_TIMEOUT
from market_data_pipeline.orchestration.runtime import PipelineRuntime
from market_data_pipeline.runtime.local import RunConfig
from market_data_pipeline.runtime_settings import OrchestratorSettings
from market_data_pipeline.settings import load_settings

__all__ = ["OrchestratorSettings", "RuntimeOrchestrator"]

_CHANNELS = ("channel_capacity", "high_watermark_pct", "low_watermark_pct")


class RuntimeOrchestrator:
    """Runs Dags and pipelines as ``settings`` say (``None``: the group ``orchestrator`` of :func:`load_settings`). ``mode``:

    * ``dag``: in this process, whatever the graph is;
    * ``pipeline``: in this process, and only a line: one source, then one step behind the other, and any number of sinks;
    * ``distributed``: over worker processes, as ``distributed`` says (default: two). Its streams have the channels' capacity
      and levels where ``settings`` give them, in frames; what they do not give is as the settings of streams say.

    A Dag of more than ``max_concurrency`` nodes is refused in each mode: they wait for each other, so all must run at once.
    Raises ``ConfigError``."""

    def __init__(
        self,
        settings: OrchestratorSettings | None = None,
        distributed: Distributed | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_given(settings, OrchestratorSettings | None, "settings", "OrchestratorSettings(...)")
        check_given(distributed, Distributed | None, "distributed", "Distributed(...)")
        self.settings = load_settings().orchestrator if settings is None else settings
        if distributed is not None and self.settings.mode != "distributed":
            raise ConfigError(
                f"distributed: mode {self.settings.mode!r} runs in this process; it needs mode 'distributed'"
            )
        self.runtime = PipelineRuntime(self._place(distributed or Distributed()), clock)

    async def run_dag(
        self, dag: Dag | str | Program, name: str | None = None, *, values: Mapping[str, object] | None = None
    ) -> RunStatus:
        """Until it ends; see :meth:`PipelineRuntime.run_dag`. Raises ``ConfigError`` for what ``mode`` does not run."""
        return await self.runtime.run_dag(self._checked(dag, values), name)

    async def run_pipeline(
        self, pipeline: Pipeline | str | Program, name: str | None = None, *, values: Mapping[str, object] | None = None
    ) -> RunStatus:
        """Until it ends; see :meth:`PipelineRuntime.run_pipeline`. Raises as :meth:`run_dag`."""
        return await self.runtime.run_pipeline(self._checked(pipeline, values), name)

    async def stop(self, name: str | None = None, timeout: Duration = STOP_TIMEOUT) -> dict[str, RunStatus]:
        """See :meth:`PipelineRuntime.stop`."""
        return await self.runtime.stop(name, timeout)

    def status(self) -> dict[str, RunStatus]:
        """By name; see :meth:`PipelineRuntime.status`."""
        return self.runtime.status()

    def _place(self, distributed: Distributed) -> InProcess | Distributed:
        settings = self.settings
        if settings.mode != "distributed":
            return InProcess(RunConfig(**settings.model_dump(exclude={"mode"})))
        given = settings.model_dump(include=settings.model_fields_set.intersection(_CHANNELS))
        return replace(distributed, settings=distributed.effective_settings(given)) if given else distributed

    def _checked(self, what: Runnable, values: Mapping[str, object] | None) -> Program:
        program = Program.of(what, values)
        if self.settings.mode == "distributed":
            _check_nodes(program.dag, self.settings.max_concurrency)
        if self.settings.mode == "pipeline":
            _check_line(program.dag)
        return program


def _check_nodes(dag: Dag, most: int) -> None:
    """As a DagRuntime does in one process."""
    if len(dag.nodes) > most:
        raise ConfigError(f"dag {dag.name!r} has {len(dag.nodes)} nodes, max_concurrency is {most}: raise it")


def _check_line(dag: Dag) -> None:
    """One node without inputs, and behind each node one step beside sinks. Raises ``ConfigError``."""
    problems = []
    first = [name for name in dag.nodes if not dag.upstream(name)]
    if len(first) > 1:
        problems.append(f"{len(first)} nodes begin it ({', '.join(first)})")
    for name in dag.nodes:
        before = dag.upstream(name)
        behind = [other for other in dag.downstream(name) if dag.nodes[other].kind != "sink"]
        if len(before) > 1:
            problems.append(f"{name!r} has {len(before)} inputs ({', '.join(before)})")
        if len(behind) > 1:
            problems.append(f"{len(behind)} steps follow {name!r} ({', '.join(behind)})")
    if problems:
        raise ConfigError(
            f"dag {dag.name!r} is no line, and mode is 'pipeline': {problems[0]}; mode 'dag' runs any graph"
        )
