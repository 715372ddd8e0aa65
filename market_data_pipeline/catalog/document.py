"""The parts of a document, as pydantic models; see ``docs/usage.md``, Pipelines as files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from market_data_pipeline.catalog.nested import one_of
from market_data_pipeline.catalog.parameters import shape_of
from market_data_pipeline.catalog.shapes import Fixed, Name, Nothing, Number, Raw, Words
from market_data_pipeline.dag.graph import NODE_NAME, NodeKind
from market_data_pipeline.dag.options import ChannelOptions, Retries
from market_data_pipeline.feedback import StoreFeedback
from market_data_pipeline.operators.base import ON_ERROR, OnError

STEPS: tuple[NodeKind, ...] = ("source", "operator", "sink", "coroutine")
"""The keys of which each node has one."""
EDGE_KEYS = ("key", "boundary", "broadcast", "output", "input", "channel")

_STRICT = ConfigDict(extra="forbid", frozen=True)
_TEXT = one_of([Words(), Nothing()])
_YES = Number(bool)
_NAMES = Raw((Mapping, type(None)), "a mapping of names and values")


@dataclass(frozen=True)
class From:
    """One edge into a node; see :class:`~market_data_pipeline.dag.graph.Edge`."""

    node: str
    key: str | None = None
    boundary: bool = False
    broadcast: bool = False
    output: str = ""
    input: str = ""
    channel: ChannelOptions | None = None


class Step(BaseModel):
    """One node: what it is, what it is made with, and what leads to it."""

    model_config = _STRICT

    source: Annotated[str | None, Words()] = Field(None, description="A source: its name, or module:Class.")
    operator: Annotated[str | None, Words()] = Field(None, description="An operator: its name, or module:Class.")
    sink: Annotated[str | None, Words()] = Field(None, description="A sink: its name, or module:Class.")
    coroutine: Annotated[str | None, Words()] = Field(None, description="A coroutine node: module:function.")
    name: Annotated[str | None, one_of([Name(NODE_NAME), Nothing()])] = Field(
        None, description="Its name; by default its class's in lower case."
    )
    arguments: Annotated[Mapping[str, Any] | None, _NAMES] = Field(
        None, alias="with", description="Its arguments by name."
    )
    origins: Annotated[Any, shape_of(str | From | list[str | From] | None)] = Field(
        None,
        alias="from",
        description="What leads to it: a node's name, a mapping, or a list of these [the one before it].",
    )
    key: Annotated[str | None, _TEXT] = Field(None, description="The edge into it is by hash of this field.")
    boundary: Annotated[bool, _YES] = Field(False, description="The edge into it crosses a stream.")
    broadcast: Annotated[bool, _YES] = Field(False, description="The edge into it leads to all partitions.")
    output: Annotated[str, Words()] = Field("", description="Which output of the node before it.")
    input: Annotated[str, Words()] = Field("", description="Which of its inputs.")
    channel: Annotated[ChannelOptions | None, shape_of(ChannelOptions | None)] = Field(
        None, description="Capacity and levels of the channel into it."
    )
    on_error: Annotated[OnError, Fixed(ON_ERROR)] = Field("dead_letter", description="What happens to a bad item.")
    singleton: Annotated[bool | None, shape_of(bool | None)] = Field(
        None, description="Whether it runs once in the job."
    )
    retries: Annotated[Retries | None, shape_of(Retries | None)] = Field(None, description="When its outside fails.")
    feedback: Annotated[StoreFeedback | None, shape_of(StoreFeedback | None)] = Field(
        None, description="Whom to ask how its store is."
    )


class Document(BaseModel):
    """A whole file. ``nodes`` are checked one by one, as :class:`Step`."""

    model_config = _STRICT

    name: Annotated[str, Words()] = Field(description="The name of the Dag.")
    parameters: Annotated[Mapping[str, Any] | None, _NAMES] = Field(None, description="Values by name.")
    nodes: Annotated[list[Any], Raw((list,), "a list of nodes")] = Field(description="The nodes, in order.")
