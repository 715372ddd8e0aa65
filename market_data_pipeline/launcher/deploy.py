"""``mdp deploy``: another plan for a job that runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from market_data_pipeline.dag.change import Choice, PlanChange
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.plan import Plan
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.runtime.channel_limits import check_channels
from market_data_pipeline.settings import limits_of, load_settings, server_address
from market_data_pipeline.sinks.base import Sink
from market_data_pipeline.sinks.guarded import GuardedSink
from market_data_pipeline.sources.base import Source
from market_data_pipeline.store.client import Client, connect, explained
from market_data_pipeline.store.control import JobInfo, find_job
from market_data_pipeline.store.deploy import Deployment
from market_data_pipeline.store.keys import job_name
from market_data_pipeline.store.rights import OPERATOR, check_rights
from market_data_pipeline.store.url import Address
from market_data_pipeline.terminal import visible


def chosen(keep: Collection[str], reset: Collection[str]) -> Choice:
    """The user's choice about changed nodes."""
    return Choice(frozenset(keep), frozenset(reset))


def stateful(dag: Dag) -> set[str]:
    """The nodes that keep something between steps: sources (a position), and what overrides ``snapshot`` or ``prepare``."""
    return {name for name, node in dag.nodes.items() if _keeps(node.fn)}


def _keeps(fn: object) -> bool:
    if isinstance(fn, GuardedSink):
        return _keeps(fn.sink)
    if isinstance(fn, Operator):
        return type(fn).snapshot is not Operator.snapshot
    return isinstance(fn, Source) or (isinstance(fn, Sink) and type(fn).prepare is not Sink.prepare)


async def exchange(  # noqa: PLR0913 - one call of a job, its program and how
    client: Client,
    address: Address,
    job: JobInfo,
    dag: Dag,
    plan: Plan,
    choice: Choice,
    *,
    lease_ttl_ms: int,
    timeout: float,
    say: Callable[[str], None],
    check: bool = False,
) -> None:
    """Give ``job`` the ``plan`` that ``dag`` compiles to, or with ``check`` only look whether that can be done. ``say`` gets
    lines for people, as things happen. Raises ``ConfigError`` where it is refused: the job goes on as it was."""
    if plan.fingerprint == job.fingerprint:
        say(f"job {job.name}: has this plan already ({job.fingerprint})")
        return
    if job.state in ("finished", "removed"):
        raise ConfigError(f"job {job.name!r} is {job.state}; 'mdp remove {job.name}' makes room for another")
    if not check:  # the exchange, cut short by a command that is refused, would leave a job without records
        await check_rights(client, address, OPERATOR, job.name)
    deployment = Deployment(client, job, plan, choice, stateful(dag), lease_ttl_ms)
    for line in _described(deployment.change, job.fingerprint, plan):
        say(visible(line))
    refused = await deployment.refusals()
    if refused:
        raise ConfigError("; ".join(refused))
    if check:
        say("this can be deployed")
        return
    await deployment.run(timeout, say)
    say(f"job {job.name}: runs plan {plan.fingerprint} now")


async def deploy(
    dag: Dag, choice: Choice, check: bool, timeout: float, say: Callable[[str], None], **flags: str | int | None
) -> None:
    """``mdp deploy``: see :func:`exchange`. A job that is not there yet is no error: its coordinator will make it."""
    settings = load_settings(**flags)
    address = server_address(settings)
    name = job_name(settings.job, dag.name)
    client = connect(address)
    try:
        with explained(address):
            job = await find_job(client, name)
            if job is None:
                say(f"job {name}: not there yet; the coordinator makes it with the plan of its own program")
                return
            if "partitions" in settings.model_fields_set and settings.partitions != job.partitions:
                raise ConfigError(
                    f"partitions={settings.partitions} ({settings.origin('partitions')}): job {name!r} has {job.partitions}"
                    " partitions, and P is fixed for a job; another P is a job under another name"
                )
            plan = compile_dag(dag, job.partitions)
            check_channels(plan, limits_of(settings))
            await exchange(
                client, address, job, dag, plan, choice,
                lease_ttl_ms=settings.lease_ttl_ms, timeout=timeout, say=say, check=check,
            )  # fmt: skip
    finally:
        await client.aclose()


def _described(change: PlanChange, old: str, new: Plan) -> Iterator[str]:
    yield f"plan {old} -> {new.fingerprint}"
    for name in change.same:
        yield f"  same     {name}"
    for name, text in change.changed.items():
        fate = " (forgets its state)" if name in change.choice.reset else ""
        yield f"  changed  {name}{fate}: {text}"
    for name in change.added:
        yield f"  new      {name}"
    for name in change.removed:
        yield f"  gone     {name}"
    for name in (*change.same, *change.changed):
        if new.node[name].kind == "coroutine" and not new.inputs(new.subgraph_of[name]):
            yield f"  {name} is a coroutine without inputs: it starts from its beginning, as after every takeover"
    for name, text in change.resized.items():
        yield f"  channel  {name}: {text}"
    if change.drained:
        yield f"  to be drained first: {', '.join(change.drained)}"
