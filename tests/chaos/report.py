"""What the harness prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from chaos.rounds import Verdict
from chaos.schedule import KINDS, RoundPlan
from market_data_pipeline.faults import POINTS


def describe(plan: RoundPlan) -> str:
    """The round in one line."""
    replica = {"single": "no replica", "lag": "a replica that may lag", "wait": "commits wait for a replica"}[plan.mode]
    return (
        f"seed {plan.seed}: {plan.topology}, {plan.workers} workers, P={plan.partitions}, {plan.server},"
        f" appendfsync {plan.fsync}, {replica}, lease {plan.lease_ms} ms, {plan.rate} items/s for {plan.seconds:g} s"
    )


def schedule(plan: RoundPlan) -> str:
    """All faults, one a line."""
    return "\n".join([f"schedule ({len(plan.faults)} faults):", *(f"  {fault}" for fault in plan.faults)])


def verdict(result: Verdict) -> str:
    """The invariants, each with its answer, and the figures."""
    lines = ["invariants:"]
    for name, wrong in result.wrong.items():
        lines.append(f"  {'VIOLATED' if wrong else 'ok      '}  {name}")
        lines += [f"            {what}" for what in wrong]
    lines.append("figures: " + ", ".join(f"{name} {value}" for name, value in result.figures.items()))
    done = sum(result.performed.values())
    hits = ", ".join(f"{point} {n}" for point, n in sorted(result.hits.items())) or "none"
    lines.append(f"fault points hit: {hits}")
    lines.append(
        f"verdict: {f'{result.violations} INVARIANTS VIOLATED' if result.violations else 'all invariants hold'};"
        f" {done} faults, {result.skipped} skipped, drained {result.drained:.1f} s after the last,"
        f" {result.seconds:.0f} s in all"
    )
    return "\n".join(lines)


def summary(results: Iterable[Verdict]) -> str:
    """Several rounds together."""
    results = list(results)
    kinds: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for result in results:
        kinds.update(result.performed)
        hits.update(result.hits)
    lines = [f"{len(results)} rounds, {sum(kinds.values())} faults:"]
    lines += _columns([f"{kind} {kinds[kind]}" for kind in KINDS])
    lines.append("fault points hit:")
    lines += _columns([f"{point} {hits[point]}" for point in POINTS])
    slowest = max((result.drained for result in results), default=0.0)
    bad = [str(result.seed) for result in results if result.violations]
    lines.append(f"slowest drain: {slowest:.1f} s after the last fault")
    lines.append(f"VIOLATED in the rounds of seeds {', '.join(bad)}" if bad else "all invariants hold in all rounds")
    return "\n".join(lines)


def _columns(cells: list[str], width: int = 24, per_line: int = 4) -> list[str]:
    return [
        "  " + "".join(cell.ljust(width) for cell in cells[i : i + per_line]).rstrip()
        for i in range(0, len(cells), per_line)
    ]
