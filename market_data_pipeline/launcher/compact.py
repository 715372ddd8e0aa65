"""``mdp compact``: merging small Parquet files, with a bar on a terminal and lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

from market_data_pipeline.durations import parse_duration
from market_data_pipeline.errors import ConfigError, SinkError
from market_data_pipeline.sinks.compaction import Compaction, Limits, Merge, Merged, plan, younger
from market_data_pipeline.sinks.parquet import sweep_done
from market_data_pipeline.sinks.parquet_format import TABLES, check_extra
from market_data_pipeline.sinks.staging import STAGING

_OLD_ROWS = 3600.0
"""Seconds after which the rows of finished files that jobs left in staging are deleted."""

Say = Callable[[str], None]


def limits_of(target_bytes: int, min_age: str, before: str | None) -> Limits:
    """The limits that options mean. Raises ``ConfigError``."""
    age = parse_duration(min_age, "--min-age") / 1e9
    return Limits(target_bytes, age, parse_day("--before", before) if before else datetime.now(UTC).date())


def parse_day(what: str, text: str) -> date:
    """``YYYY-MM-DD``. Raises ``ConfigError`` naming ``what``."""
    try:
        if len(text) == 10:
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ConfigError(f"{what} {text!r}: not a date; write YYYY-MM-DD")


def compact(
    folder: Path, limits: Limits, table: str | None, day: str | None, *, dry_run: bool, plain: bool, say: Say
) -> None:
    """Merge what there is to merge below ``folder``; with ``dry_run`` only say it. A date that cannot be merged does not keep
    others from it. Raises ``SinkError`` behind the last one."""
    check_extra("compaction")
    if table is not None and table not in TABLES:
        raise ConfigError(f"--table {table!r} is not allowed; choose from {', '.join(TABLES)}")
    if day is not None:
        parse_day("--date", day)
    merges = list(plan(folder, limits, table, day))
    if dry_run:
        for merge in merges:
            say(f"{_name(merge)}: {merge.files} files, {sized(merge.size)} -> {len(merge.groups)}")
        if not merges:
            say(_nothing(younger(folder, limits, table, day), limits))
        return
    with Compaction(folder) as compaction:
        sweep_done(folder / STAGING, _OLD_ROWS)
        merges = list(plan(folder, limits, table, day))  # once more: what was cut off has been brought to its end
        failed = _run(compaction, merges, plain, say)
    if failed:
        raise SinkError(f"{len(failed)} of {len(merges)} dates were left as they are: {'; '.join(failed)}")
    if not merges:
        say(_nothing(younger(folder, limits, table, day), limits))


def _nothing(young: int, limits: Limits) -> str:
    parts = "1 part of a finished date is" if young == 1 else f"{young:,} parts of finished dates are"
    why = f": {parts} younger than --min-age ({limits.min_age:g} s)" if young else ""
    return f"nothing to merge{why}"


def _run(compaction: Compaction, merges: list[Merge], plain: bool, say: Say) -> list[str]:
    """What went wrong, of each date where something did."""
    failed: list[str] = []
    with _progress(sum(merge.size for merge in merges), plain, say) as advance:
        for merge in merges:
            try:
                done = compaction.run(merge)
            except SinkError as error:
                failed.append(str(error))
                continue
            advance(merge, done)
    return failed


def sized(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"


def _name(merge: Merge) -> str:
    return f"{merge.table.name} {merge.day}"


def _line(merge: Merge, done: Merged) -> str:
    after = f"{done.files_after} file{'s' if done.files_after > 1 else ''}, {sized(done.size_after)}"
    return f"{_name(merge)}: {done.files} files, {sized(done.size)} -> {after}, {done.rows:,} rows"


@contextmanager
def _progress(total: int, plain: bool, say: Say) -> Iterator[Callable[[Merge, Merged], None]]:
    """A bar above which the lines stay, on a terminal; else the lines alone."""
    if plain or not sys.stderr.isatty():
        yield lambda merge, done: say(_line(merge, done))
        return
    from rich.console import Console  # noqa: PLC0415 - rich only where it draws
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("merging", total=total)

        def advance(merge: Merge, done: Merged) -> None:
            progress.console.print(_line(merge, done), markup=False, highlight=False)
            progress.update(bar, advance=merge.size, description=_name(merge))

        yield advance
