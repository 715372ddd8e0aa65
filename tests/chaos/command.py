"""The command line of ``scripts/chaos``."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chaos import report
from chaos.invariants import DRAIN_SECONDS
from chaos.rounds import Verdict, run_round
from chaos.schedule import KINDS, SERVERS, TOPOLOGIES, Options, RoundPlan, plan_round
from chaos.takeover import measure

DESCRIPTION = """Break a running job on a seeded schedule and check that nothing is lost and nothing is there twice.

One round by default; --short: a few fixed rounds for CI; --long: at least 1,000 faults, resumable with --keep.
Exit code 1 when an invariant is violated; the evidence then stays in a folder, which is printed.
"""


_SHORT_SEED, _LONG_SEED = 101, 1001
LONG_FAULTS = 1050


@dataclass(frozen=True)
class Series:
    """Rounds in order; where they leave their evidence, and whether it stays."""

    plans: Sequence[RoundPlan]
    folder: Path
    keep: bool
    drain_seconds: float


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--short", action="store_true", help="fixed seeds, at least 60 faults, at most 4 minutes")
    which.add_argument("--long", action="store_true", help="at least 1,000 faults over all kinds")
    which.add_argument("--takeover", type=int, metavar="N", help="how long partitions stand still; N times each way")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the feed lasts")
    parser.add_argument("--every", type=float, default=2.0, help="mean seconds between faults")
    parser.add_argument("--topology", choices=TOPOLOGIES)
    parser.add_argument("--server", choices=SERVERS)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--partitions", type=int)
    parser.add_argument("--faults", default="", help=f"comma-separated kinds out of: {', '.join(KINDS)}")
    parser.add_argument("--round", type=int, help="only this round of --short or --long, from 0")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the evidence here, also when all is well")
    parser.add_argument(
        "--drain",
        type=float,
        default=DRAIN_SECONDS,
        metavar="SECONDS",
        help="by when all must be done behind the last fault",
    )
    parser.add_argument("--plan", action="store_true", help="print the schedule and stop")
    return parser.parse_args(arguments)


def plans(given: argparse.Namespace) -> list[RoundPlan]:
    """The rounds that were asked for."""
    if given.short:
        chosen = short_rounds()
    elif given.long:
        chosen = long_rounds()
    else:
        kinds = tuple(part for part in given.faults.split(",") if part)
        unknown = set(kinds) - set(KINDS)
        if unknown:
            sys.exit(f"--faults: unknown: {', '.join(sorted(unknown))}; there are: {', '.join(KINDS)}")
        options = Options(
            given.seconds, given.every, given.topology, given.server, given.workers, given.partitions, kinds,
            long_faults=given.seconds >= 60,
        )  # fmt: skip
        return [plan_round(given.seed, options)]
    return chosen if given.round is None else [chosen[given.round]]


def short_rounds() -> list[RoundPlan]:
    """Six rounds of 20 s: every topology, both servers, both modes of a replica, 1 and 4 workers, P = 1, 8 and 64."""
    shape = [
        ("linear", "valkey", 4, 8),
        ("diamond", "redis", 4, 8),
        ("fan-in", "valkey", 4, 8),
        ("fan-out", "redis", 4, 8),
        ("linear", "redis", 1, 1),
        ("fan-out", "valkey", 4, 64),
    ]
    rounds: list[RoundPlan] = []
    points = 0
    for number, (topology, server, workers, partitions) in enumerate(shape):
        options = Options(20.0, 1.5, topology, server, workers, partitions, first_point=points)
        rounds.append(plan_round(_SHORT_SEED + number, options))
        points += len(rounds[-1].of_kind("point"))
    return rounds


def long_rounds() -> list[RoundPlan]:
    """Rounds of 60 s from successive seeds, until they hold enough faults; fault points in turn over all rounds."""
    rounds: list[RoundPlan] = []
    faults = points = 0
    while faults < LONG_FAULTS:
        number = len(rounds)
        options = Options(
            60.0, 1.0, TOPOLOGIES[number % 4], SERVERS[number // 4 % 2], long_faults=number % 5 == 0, first_point=points
        )
        plan = plan_round(_LONG_SEED + number, options)
        rounds.append(plan)
        faults += len(plan.faults)
        points += len(plan.of_kind("point"))
    return rounds


def with_what_is_installed(chosen: Sequence[RoundPlan]) -> list[RoundPlan]:
    """Rounds on redis-server run on Valkey where it is not installed."""
    if any(plan.server == "redis" for plan in chosen) and shutil.which("redis-server") is None:
        say("redis-server is not installed: its rounds run on Valkey")
        return [replace(plan, server="valkey") for plan in chosen]
    return list(chosen)


def say(text: str) -> None:
    print(text, flush=True)


def run(series: Series) -> Iterator[Verdict]:
    """Each round's verdict; those that a former run in the same folder has finished are not run again."""
    done = _done(series.folder / "summary.jsonl")
    for plan in series.plans:
        say("\n" + report.describe(plan))
        if plan.digest in done:
            say("  done before")
            yield done[plan.digest]
            continue
        say(report.schedule(plan))
        folder = series.folder / f"seed-{plan.seed}"
        shutil.rmtree(folder, ignore_errors=True)
        result = run_round(plan, folder, say, series.drain_seconds)
        say(report.verdict(result))
        with (series.folder / "summary.jsonl").open("a") as file:
            file.write(json.dumps(result.to_dict()) + "\n")
        if result.violations:
            say(f"evidence: {folder}")
        elif not series.keep:
            shutil.rmtree(folder)
        else:
            shutil.rmtree(folder / "data")  # large, and of no use when all is well
        yield result


def _done(path: Path) -> dict[str, Verdict]:
    lines = path.read_text().splitlines() if path.exists() else []
    found = (Verdict(**json.loads(line)) for line in lines)
    return {result.plan: result for result in found if not result.violations}


def _measure(given: argparse.Namespace, folder: Path) -> int:
    times = measure(given.takeover, given.seed, folder, say)
    say(times.report())
    say("verdict: " + ("as promised" if times.within_limits else f"NOT as promised; logs: {folder}"))
    if times.within_limits and given.keep is None:
        shutil.rmtree(folder)
    return int(not times.within_limits)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; the exit code."""
    given = parse(arguments)
    chosen = with_what_is_installed(plans(given))
    if given.plan:
        for plan in chosen:
            say(report.describe(plan) + "\n" + report.schedule(plan))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # so that everything that was started is ended
    folder = given.keep or Path(tempfile.mkdtemp(prefix="mdp-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    if given.takeover:
        return _measure(given, folder)
    results = list(run(Series(chosen, folder.absolute(), given.keep is not None, given.drain)))
    violated = any(result.violations for result in results)
    if len(results) > 1:
        say("\n" + report.summary(results))
    if not violated and given.keep is None:
        shutil.rmtree(folder)
    return int(violated)
