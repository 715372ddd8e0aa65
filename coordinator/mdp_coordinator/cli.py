"""``mdp-coordinator APP``."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import click

from market_data_pipeline.app import load_app, parse_sets
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.dag.worries import check_processes, worries
from market_data_pipeline.options import SERVER, SERVICE, one_line_errors, options, set_up_logging
from market_data_pipeline.runtime.channel_limits import check_channels
from market_data_pipeline.settings import limits_of, load_settings, server_address
from market_data_pipeline.store.keys import job_name

log = logging.getLogger(__name__)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="market-data-pipeline")
@click.argument("app")
@options(*SERVER, "job", "partitions", "sets", "await_plan", *SERVICE)
@click.option("--min-workers", type=int, metavar="N", help="Workers to wait for before the first assignment [1].")
@one_line_errors
def main(app: str, sets: tuple[str, ...], debug: bool, **flags: Any) -> None:
    """Compile APP (path.py[:attr], module[:attr], a file), publish its plan, and assign partitions to workers until it ends."""
    settings = load_settings(**flags)
    set_up_logging(settings.log_level)
    address = server_address(settings)
    from market_data_pipeline.runtime.store_hold import feedback_of  # noqa: PLC0415 - after the flags were found good
    from mdp_coordinator.service import Coordinator  # noqa: PLC0415

    dag = load_app(app, parse_sets(sets))
    check_processes(dag)
    for warning in worries(dag):
        log.warning(warning)
    plan = compile_dag(dag, settings.partitions)
    check_channels(plan, limits_of(settings))
    job = job_name(settings.job, dag.name)
    service = Coordinator(plan, job, settings, address, absorbing=dag.absorbing, feedback=feedback_of(dag))
    asyncio.run(service.run())


if __name__ == "__main__":
    main()
