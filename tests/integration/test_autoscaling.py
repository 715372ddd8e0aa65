"""KEDA and an HPA, simulated by their documented rules on a real server, start and stop real workers through a burst."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.scaled_job import BURST, CALM, WORK, check_output, scaled_job, scaled_object

from market_data_pipeline.store.embedded import EmbeddedServer

MOST, TARGET = 4, 20


def by_streams(address: str, streams: list[str]) -> Mapping[str, Any]:
    assert len(streams) == 8
    return scaled_object(address, streams, TARGET, MOST, polling=1, up=0, down=3)


def test_a_burst_scales_up_and_down_again(server: EmbeddedServer, tmp_path: Path) -> None:
    """1 -> 4 -> 1. The phases end when it has happened, not after a time, so a slow machine only takes longer."""
    with scaled_job(server, tmp_path, WORK, by_streams) as running:
        running.pace(CALM)
        calm = running.run(lambda seen: running.items() >= 3 * CALM, "the job to run", 30)
        assert calm.replicas == 1
        running.pace(BURST)
        burst = running.run(lambda seen: seen.replicas == MOST, "four workers", 40)
        assert burst.backlog > TARGET * (MOST - 1) * 0.9
        running.pace(CALM)
        running.run(lambda seen: seen.replicas == 1, "one worker again", 60)
        assert {sample.replicas for sample in running.samples} <= {1, 2, 3, 4}
        assert len(running.workers.leaving) >= MOST - 1
        check_output(tmp_path, running.finish())
