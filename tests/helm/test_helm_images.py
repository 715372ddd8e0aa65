"""What the Dockerfiles promise, read from them."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = {"worker": "mdp-worker", "coordinator": "mdp-coordinator"}
COMMANDS = {"mdp", "mdp-worker", "mdp-coordinator"}
PACKAGES = {"market_data_pipeline", "coordinator/mdp_coordinator", "worker/mdp_worker"}

Instruction = tuple[str, str]


def stages(unit: str) -> list[list[Instruction]]:
    """Instructions before the first FROM, then those of each stage, as (keyword, rest), with lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / unit / "Dockerfile").read_text(), flags=re.M)
    text = text.replace("\\\n", " ")
    found: list[list[Instruction]] = [[]]
    for line in filter(None, map(str.strip, text.splitlines())):
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            found.append([])
        found[-1].append((keyword, rest.strip()))
    return found


def given(stage: list[Instruction], keyword: str) -> list[str]:
    return [rest for found, rest in stage if found == keyword]


@pytest.mark.parametrize("unit", IMAGES)
def test_the_base_is_pinned_by_the_caller(unit: str) -> None:
    before, build, final = stages(unit)
    assert given(before, "ARG") == ["PYTHON_IMAGE"], "no default: nobody here has looked at a digest"
    assert given(build, "FROM") == ["${PYTHON_IMAGE} AS build"]
    assert given(final, "FROM") == ["${PYTHON_IMAGE}"]
    check = given(build, "RUN")[0]
    assert "*@sha256:*) ;;" in check
    assert '[ "$ALLOW_UNPINNED" = 1 ] ||' in check
    assert "exit 1" in check
    assert "ALLOW_UNPINNED=0" in given(build, "ARG")


@pytest.mark.parametrize("unit", IMAGES)
def test_nothing_is_installed_that_was_not_locked(unit: str) -> None:
    _, build, _ = stages(unit)
    installs = [
        step for run in given(build, "RUN") for step in run.split("&&") if "pip install" in step or "pip wheel" in step
    ]
    assert installs
    for step in installs:
        locked = "--require-hashes" in step and "-r /src/requirements/${REQUIREMENTS}.txt" in step
        locked = locked and "--only-binary :all:" in step
        assert locked or "--no-deps" in step, step


@pytest.mark.parametrize("unit", IMAGES)
def test_the_final_stage_has_what_runs_and_no_more(unit: str) -> None:
    _, _, final = stages(unit)
    assert given(final, "RUN") == [], "nothing is installed in it, so neither is a compiler"
    assert given(final, "COPY") == ["--from=build /opt/mdp /opt/mdp"]
    assert given(final, "USER") == ["10001:10001"]
    assert given(final, "STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(given(final, "ENTRYPOINT")[0]) == [IMAGES[unit]]
    assert given(final, "HEALTHCHECK") == given(final, "CMD") == []
    assert {label.split("=")[0] for label in re.findall(r"org\.\S+", given(final, "LABEL")[0])} >= {
        "org.opencontainers.image.title", "org.opencontainers.image.licenses", "org.opencontainers.image.version",
    }  # fmt: skip


def test_both_images_are_the_same_but_for_what_they_start() -> None:
    worker, coordinator = (stages(unit) for unit in IMAGES)
    assert worker[:2] == coordinator[:2]
    started = {"ENTRYPOINT", "LABEL"}
    assert [step for step in worker[2] if step[0] not in started] == [
        step for step in coordinator[2] if step[0] not in started
    ]
    assert f"version={json.dumps(version())}" in given(worker[2], "LABEL")[0]


def version() -> str:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert found is not None
    return found[1]


def test_the_chart_runs_the_images_of_this_version() -> None:
    chart = (ROOT / "helm" / "market-data-pipeline" / "Chart.yaml").read_text()
    assert f"appVersion: {version()}\n" in chart


def test_the_wheel_has_all_commands_and_packages() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    scripts = text[text.index("[project.scripts]") :].split("\n[")[0]
    assert set(re.findall(r"^([\w-]+) = ", scripts, re.M)) == COMMANDS
    assert set(re.findall(r'"([^"]+)"', re.search(r"^packages = (.+)$", text, re.M)[1])) == PACKAGES  # type: ignore[index]


@pytest.mark.parametrize("unit", IMAGES)
def test_what_is_copied_is_let_through(unit: str) -> None:
    """.dockerignore keeps everything out but what the build stage copies."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    _, build, _ = stages(unit)
    copied = {source for rest in given(build, "COPY") for source in rest.split()[:-1]}
    assert copied == allowed
    assert copied >= PACKAGES
    assert all((ROOT / source).exists() for source in copied)
    assert not any(fnmatch(source, pattern) for source in copied for pattern in ("tests*", "scripts*", ".git*"))
