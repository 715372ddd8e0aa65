"""``mdp-worker APP [--partition N ...]``."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import secrets
import socket
from typing import Any

import click

from market_data_pipeline.app import load_app, parse_sets
from market_data_pipeline.dag.worries import check_processes, worries
from market_data_pipeline.options import SERVER, SERVICE, one_line_errors, options, set_up_logging
from market_data_pipeline.settings import load_settings, server_address
from market_data_pipeline.store.keys import job_name
from mdp_worker.pins import legal_name, parse_pins

log = logging.getLogger(__name__)

_ROWS_BETWEEN_COLLECTIONS = 50_000
"""A commit's rows are tens of thousands of tuples that live for one step. At Python's 700, looking through them again and again
took a third of the time of a job on rows."""


def default_name() -> str:
    """``<host>-<pid>`` in the characters that names allow."""
    host = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")[:28]
    return f"{host or 'worker'}-{os.getpid()}"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="market-data-pipeline")
@click.argument("app")
@click.option(
    "--partition", "partition", multiple=True, metavar="N", help="Partition to ask for; repeatable; 0-3; 0/4."
)
@click.option("--name", metavar="NAME", help="Name of this worker (MDP_WORKER_NAME) [host-pid].")
@options(*SERVER, "job", "sets", "await_plan", *SERVICE)
@one_line_errors
def main(
    app: str, partition: tuple[str, ...], name: str | None, sets: tuple[str, ...], debug: bool, **flags: Any
) -> None:
    """Run partitions of APP (path.py[:attr], module[:attr] or a file) until its job ends."""
    settings = load_settings(worker_name=name, **flags)
    set_up_logging(settings.log_level)
    address = server_address(settings)
    pins = parse_pins(partition)
    worker = legal_name("--name" if name else settings.origin("worker_name"), settings.worker_name or default_name())
    from market_data_pipeline.store.control import Heartbeat  # noqa: PLC0415 - after the flags were found good
    from mdp_worker.service import Worker  # noqa: PLC0415

    dag = load_app(app, parse_sets(sets))
    check_processes(dag)
    for warning in worries(dag):
        log.warning(warning)
    job = job_name(settings.job, dag.name)
    service = Worker(dag, job, settings, address, Heartbeat(worker, secrets.token_hex(16)), pins)
    gc.set_threshold(_ROWS_BETWEEN_COLLECTIONS)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(service.run())


def _loop_factory() -> Any:
    """uvloop's where it is there."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    main()
