"""Looking at a job from outside: ``mdp status``, ``mdp dlq``, ``mdp remove``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from rich.console import Console

from market_data_pipeline.dag.plan import Plan, plan_from_dict
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.launcher.live_table import render
from market_data_pipeline.packing import unpack
from market_data_pipeline.settings import Settings, load_settings, server_address
from market_data_pipeline.sinks.encoding import json_line, plain
from market_data_pipeline.store.client import Client, connect, explained, text_of
from market_data_pipeline.store.control import Control, JobInfo, find_job, list_jobs, remove_job
from market_data_pipeline.store.rights import OPERATOR, check_rights
from market_data_pipeline.store.status import JobStatus, read_status
from market_data_pipeline.terminal import visible


@asynccontextmanager
async def _server(settings: Settings) -> AsyncIterator[Client]:
    if settings.redis_url is None:
        raise ConfigError("no server: give --redis-url or set MDP_REDIS_URL ('mdp run' prints the address it uses)")
    address = server_address(settings)
    client = connect(address)
    try:
        with explained(address):
            yield client
    finally:
        await client.aclose()


async def _job(client: Client, name: str | None) -> JobInfo:
    """The job of this name, else the only one. Whoever names it needs no right to look for others."""
    if name is not None:
        job = await find_job(client, name)
        if job is None:
            raise ConfigError(await _no_job(client, name))
        return job
    names = await list_jobs(client)
    if names is None:
        raise ConfigError("which job? --job NAME (this user may not look for them)")
    job = await find_job(client, names[0]) if len(names) == 1 else None
    if job is None:
        raise ConfigError(f"which job? --job NAME; there are: {', '.join(names) or 'none'}")
    return job


async def _no_job(client: Client, name: str) -> str:
    names = await list_jobs(client)
    return f"no job {name!r} on this server" + ("" if names is None else f"; there are: {', '.join(names) or 'none'}")


async def _status(client: Client, job: JobInfo, settings: Settings) -> JobStatus:
    plan: Plan = plan_from_dict(json.loads(job.plan))
    return await read_status(client, Control(client, job), job, plan, settings.channel_capacity)


async def status(**flags: str | None) -> JobStatus:
    """The job's state; the only job where neither flag nor setting names one."""
    settings = load_settings(**flags)
    async with _server(settings) as client:
        return await _status(client, await _job(client, settings.job), settings)


async def check(**flags: str | None) -> list[str]:
    """Why the job does not work, one sentence each; a job that is not there is such a reason."""
    settings = load_settings(**flags)
    async with _server(settings) as client:
        if settings.job is not None and await find_job(client, settings.job) is None:
            return [await _no_job(client, settings.job)]
        return (await _status(client, await _job(client, settings.job), settings)).problems()


def print_status(document: JobStatus) -> None:
    """For people."""
    Console().print(render(document, None))
    if document.error:
        Console().print(f"error: {visible(document.error)}", markup=False, highlight=False)


async def dead_letters(limit: int, clear: bool, **flags: str | None) -> list[str]:
    """The oldest dead letters as JSON lines; deleted when ``clear``."""
    settings = load_settings(**flags)
    async with _server(settings) as client:
        found = await _job(client, settings.job)
        stream = found.keys.dead_letters
        entries: list[tuple[bytes, dict[bytes, bytes]]] = cast("Any", await client.xrange(stream, count=limit))
        lines = [
            visible(json_line(_letter(text_of(entry_id), fields)).decode().rstrip("\n")) for entry_id, fields in entries
        ]
        if clear and entries:
            await client.xdel(stream, *(entry_id for entry_id, _ in entries))
        return lines


def _letter(entry_id: str, fields: dict[Any, Any]) -> dict[str, Any]:
    letter = unpack(fields[b"d"])
    return {"id": entry_id, **plain(letter)}


async def remove(name: str, **server: str | None) -> str:
    """Remove a job nobody works on."""
    settings = load_settings(**server)
    async with _server(settings) as client:
        job = await _job(client, name)
        living = await Control(client, job).workers()
        if living:
            raise ConfigError(f"job {name!r} is running, with workers {', '.join(living)}; stop them first")
        await check_rights(client, server_address(settings), OPERATOR, name)
        await remove_job(client, name)
        return f"job {name}: removed"
