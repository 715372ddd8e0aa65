"""``mdp validate``: what would be run, or all that stands against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from market_data_pipeline.app import load_app, parse_sets
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.dag.worries import worries
from market_data_pipeline.errors import DocumentError, MdpError
from market_data_pipeline.runtime.channel_limits import check_channels
from market_data_pipeline.settings import limits_of, load_settings
from market_data_pipeline.store.keys import job_name


def validated(apps: tuple[str, ...], sets: tuple[str, ...], **flags: Any) -> Iterator[tuple[str, bool | None]]:
    """Lines for each of ``apps``, and whether they are good ones with these settings (``None``: warnings). Raises
    ``ConfigError`` for wrong flags."""
    settings, values = load_settings(**flags), parse_sets(sets)
    for app in apps:
        try:
            dag = load_app(app, values)
            plan = compile_dag(dag, settings.partitions)
            job_name(settings.job, dag.name)
            check_channels(plan, limits_of(settings))
        except DocumentError as error:
            yield from ((mistake, False) for mistake in error.mistakes)
        except MdpError as error:
            message = str(error)
            yield message if app in message else f"{app}: {message}", False
        else:
            yield from ((f"{app}: warning: {text}", None) for text in worries(dag))
            yield f"{app}: ok: {len(dag.nodes)} nodes, {len(dag.edges)} edges, plan {plan.fingerprint}", True
