"""``mdp deploy`` as a user with few rights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from market_data_pipeline import Collect, Dag, Pipeline, Synthetic
from market_data_pipeline.dag.change import Choice
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError, StoreUnavailable
from market_data_pipeline.launcher.deploy import deploy
from market_data_pipeline.store.client import connect, connect_blocking
from market_data_pipeline.store.control import find_job, publish
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.rights import OPERATOR


def program(filtered: bool) -> Dag:
    made = Pipeline("rights").source(Synthetic(), name="source")
    made = made.filter(bool, name="filter") if filtered else made
    return made.key_by("symbol").dedupe("symbol", name="dedupe").sink(Collect(), name="sink").build()


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


async def deployed(server: EmbeddedServer, without: str = "") -> str:
    """Publish a job and deploy to it as a user who may do what the role asks for, but not ``without``; its plan then."""
    client = connect(server.url)
    await client.flushall()
    await publish(client, "rights", compile_dag(program(False), 2))
    rule = [word for word in OPERATOR.rule("rights").split() if word != f"+{without.lower()}"]
    with connect_blocking(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", *rule)
    said: list[str] = []
    try:
        url = server.url.replace("redis://", "redis://mdp-rights-operator:OPERATOR-PASSWORD@")
        await deploy(program(True), Choice(), False, 5.0, said.append, redis_url=url, job="rights")
    finally:
        job = await find_job(client, "rights")
        assert job is not None
        for task in compile_dag(program(False), 2).tasks():
            assert await client.hget(job.keys.task(task), "commit"), "no task lost its record"
        await client.aclose()
    return job.fingerprint


async def test_the_role_is_enough(server: EmbeddedServer) -> None:
    assert await deployed(server) == compile_dag(program(True), 2).fingerprint


@pytest.mark.parametrize("command", ["RENAME", "PERSIST", "PEXPIRE", "SADD", "UNLINK"])
async def test_who_lacks_a_right_is_told_before_anything_is_exchanged(server: EmbeddedServer, command: str) -> None:
    """The server stops a script at the refused command, and what it had deleted before would be gone."""
    with pytest.raises(StoreUnavailable, match=f"lacks rights that an operator needs: {command}; see 'mdp acl"):
        await deployed(server, command)


async def test_another_number_of_partitions_is_refused(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan would be compiled with the job's own, found to be the same, and coordinators would then wait for ever."""
    monkeypatch.setenv("MDP_PARTITIONS", "4")
    with pytest.raises(
        ConfigError, match=r"partitions=4 \(MDP_PARTITIONS\): job 'rights' has 2 partitions, and P is fixed for a job"
    ):
        await deployed(server)
    monkeypatch.setenv("MDP_PARTITIONS", "2")
    await deployed(server)
