"""KEDA and an HPA, simulated by their documented rules with what the chart renders, start and stop real workers."""

from __future__ import annotations

from pathlib import Path

from tools.scaled_job import BURST, CALM, check_output, quick, scaled_job

from market_data_pipeline.store.embedded import EmbeddedServer

MOST, TARGET = 4, 15


def test_a_burst_scales_up_and_down_again(server: EmbeddedServer, tmp_path: Path) -> None:
    """1 -> 4 -> 1. The phases end when it has happened, not after a time, so a slow machine only takes longer."""
    with scaled_job(server, tmp_path, quick(MOST, TARGET)) as running:
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
