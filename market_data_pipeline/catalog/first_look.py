"""What is wrong with a document in a file that can be seen before anything of it is made: places, and what is wrong there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from market_data_pipeline.catalog.document import STEPS
from market_data_pipeline.catalog.neighbours import strangers
from market_data_pipeline.catalog.shapes import FUNCTION
from market_data_pipeline.catalog.text import Place, Text


def other_modules(text: Text, folder: Path) -> Iterator[tuple[Place, str]]:
    """Modules that the document names, or that these import, that stand in ``folder`` and are others in this process."""
    found: dict[str, list[str]] = {}
    for place in text.values:
        value = text.at(place)
        if not isinstance(value, str) or FUNCTION.fullmatch(value) is None:
            continue
        name = re.split("[.:]", value)[0]
        if name not in found:
            found[name] = list(strangers([name], folder))
        yield from ((place, why) for why in found[name])


def without_sink(text: Text) -> Iterator[tuple[Place, str]]:
    """That all nodes are sources and operators: of such a job nothing is left. Where a node is none of these, that is the
    mistake."""
    nodes = text.at(("nodes",))
    nodes = nodes if isinstance(nodes, list) else []
    kinds = [entry.keys() & {*STEPS} if isinstance(entry, Mapping) else set() for entry in nodes]
    if kinds and all(kinds) and not any(of & {"sink", "coroutine"} for of in kinds):
        yield ("nodes",), "there is no sink, so nothing is kept; add one ('sink: discard', where that is meant)"
