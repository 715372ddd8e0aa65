"""What the docs say of the code is what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from mdp_coordinator.cli import main as coordinator
from mdp_worker.cli import main as worker
from prometheus_client import CollectorRegistry

from market_data_pipeline.cli import main as mdp
from market_data_pipeline.codec import encode
from market_data_pipeline.frame import Frame
from market_data_pipeline.metrics import CoordinatorMetrics, WorkerMetrics
from market_data_pipeline.settings import Settings
from market_data_pipeline.settings_tree import leaves

ROOT = Path(__file__).resolve().parents[3]


PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "helm" / "market-data-pipeline" / "README.md",
    *(ROOT / "docs").glob("*.md"),
]


def test_the_settings_table() -> None:
    text = (ROOT / "docs" / "usage.md").read_text()
    section = text.partition("\n## Settings\n")[2].partition("\n## ")[0]
    table = re.findall(r"^\| ([\w.]+) \|([^|]*)\|([^|]*)\|$", section, re.M)
    documented = {name: (default.strip(), meaning.strip()) for name, default, meaning in table if name != "name"}
    actual = {
        leaf.name: ("" if leaf.field.default is None else str(leaf.field.default), leaf.field.description)
        for leaf in leaves(Settings)
    }
    assert documented == actual


def test_the_example_bytes_of_the_wire_format() -> None:
    text = (ROOT / "docs" / "wire-format.md").read_text()
    block = text[text.index("\n97 ") :].split("```")[0]
    shown = "".join(re.findall(r"^((?:[0-9a-f]{2} )+)", block, re.M)).replace(" ", "")
    assert shown == encode("x/0", Frame([{"n": 1}])).hex()


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


@cache
def anchors(page: Path) -> set[str]:
    """Those of the headings, as GitHub makes them: one that comes again has a number behind it."""
    found: set[str] = set()
    times: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.*)$", without_code(page), re.M):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        found.add(f"{name}-{times[name]}" if times[name] else name)
        times[name] += 1
    return found


def test_links_in_the_docs_lead_somewhere() -> None:
    lost = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s:]+)\)", without_code(page)):
            name, _, anchor = target.partition("#")
            led_to = page.parent / name if name else page
            if not led_to.exists() or (anchor and anchor not in anchors(led_to)):
                lost.append(f"{page.name} links to {target}")
    assert not lost


def exposed(registry: CollectorRegistry) -> Iterator[tuple[str, bool]]:
    """Each metric as the docs write it, and whether it is a histogram."""
    for collector in registry._collector_to_names:
        (family,) = collector.describe()
        labels = ",".join(collector._labelnames)  # type: ignore[attr-defined] - nothing public has them before a sample
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield f"{name}{{{labels}}}" if labels else name, family.type == "histogram"


def test_the_metrics_table() -> None:
    text = (ROOT / "docs" / "operations.md").read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    documented = {
        (of, name, bool(histogram))
        for row, by in re.findall(r"^\| (`mdp_.*?) \| ([a-z, ]+) \|", text, re.M)
        for name, histogram in re.findall(r"`(mdp_[^`]+)`( \(histogram\))?", row)
        for of in by.split(", ")
    }
    processes = {"worker": WorkerMetrics().registry, "coordinator": CoordinatorMetrics().registry}
    assert documented == {(of, *metric) for of, registry in processes.items() for metric in exposed(registry)}


def test_the_docs_name_metrics_as_they_are_exposed() -> None:
    known = {"mdp_worker", "mdp_coordinator", "mdp_job", "mdp_generation"}  # packages and columns
    for registry in (WorkerMetrics().registry, CoordinatorMetrics().registry):
        for metric, histogram in exposed(registry):
            name = metric.partition("{")[0]
            known |= {name} | ({f"{name}_{end}" for end in ("bucket", "sum", "count")} if histogram else set())
    said = {(page.name, name) for page in PAGES for name in re.findall(r"\bmdp_[a-z_]*[a-z]\b", page.read_text())}
    assert not {(page, name) for page, name in said if name not in known}


@pytest.mark.parametrize("name", [*mdp.commands, "mdp-worker", "mdp-coordinator"])
def test_every_option_is_told(name: str) -> None:
    command = {**mdp.commands, "mdp-worker": worker, "mdp-coordinator": coordinator}[name]
    usage = (ROOT / "docs" / "usage.md").read_text()
    options = [max(one.opts, key=len) for one in command.params if isinstance(one, click.Option)]
    assert not [one for one in options if one != "--version" and not re.search(rf"{one}(?![\w-])", usage)]


def test_a_light_import_stays_light() -> None:
    """``mdp --help`` must not pay for numpy or the server's client."""
    heavy = ("numpy", "redis", "aiohttp", "rich", "ccxt")
    code = f"import sys, market_data_pipeline.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
