"""What the orchestrator is told: a group of the settings' tree, and an argument of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.settings_tree import no_such_setting
from market_data_pipeline.wrong_values import why


class OrchestratorSettings(BaseModel):
    """How a ``RuntimeOrchestrator`` runs what it is given; in the settings' tree the group ``orchestrator``. Raises
    ``ConfigError``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["dag", "pipeline", "distributed"] = Field(
        default="dag", description="dag or pipeline: what runs in this process; distributed: either, over processes"
    )
    channel_capacity: int = Field(default=2048, ge=1, description="capacity of a channel in this process, in items")
    high_watermark_pct: float = Field(default=0.75, gt=0, le=1, description="share of that at which a producer pauses")
    low_watermark_pct: float = Field(default=0.25, ge=0, lt=1, description="share of that at which it goes on")
    max_concurrency: int = Field(default=64, ge=1, description="nodes that run at once in this process, at most")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.low_watermark_pct >= self.high_watermark_pct:
            raise ValueError(
                f"low_watermark_pct={self.low_watermark_pct} must be below high_watermark_pct={self.high_watermark_pct}"
            )
        return self

    if not TYPE_CHECKING:  # the fields are its signature

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ConfigError("; ".join(_problem(each) for each in error.errors())) from None

        __init__.__pydantic_base_init__ = True  # as part of the tree it is validated with it, which knows its origins


def _problem(error: ErrorDetails) -> str:
    """A mistake that pydantic found, in one sentence."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{name}: {no_such_setting(OrchestratorSettings, name)}"
    return f"{name}: {error['input']!r:.100}: {why(error)}" if name else why(error)
