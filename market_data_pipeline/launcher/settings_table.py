"""``mdp settings``: every setting with its effective value and where that comes from; secrets are not shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.settings import Settings, server_address
from market_data_pipeline.settings_tree import Leaf, leaves, unknown_variables, value_at
from market_data_pipeline.store.keys import check_name
from market_data_pipeline.store.url import parse_address
from market_data_pipeline.terminal import visible

_NOT_SETTINGS = ("MDP_ORDINAL", "MDP_PIPELINE_")
"""Names (or how they begin) behind the prefix that the Helm chart and pipelines as files have for themselves."""


class Row(NamedTuple):
    """One setting. ``value`` is None where it is not given and has no default."""

    name: str
    value: Any
    origin: str
    description: str


def rows(settings: Settings) -> list[Row]:
    """All settings, in order of declaration."""
    return [
        Row(
            leaf.name,
            _shown(leaf, value_at(settings, leaf.path)),
            settings.origin(leaf.name),
            leaf.field.description or "",
        )
        for leaf in leaves(Settings)
    ]


def _shown(leaf: Leaf, value: Any) -> Any:
    """What of a value may be seen: the server's address without its password, of other secrets that they are there."""
    if not isinstance(value, SecretStr):
        return value if value is None or isinstance(value, bool | int | float) else str(value)
    secret = value.get_secret_value()
    try:
        return str(parse_address(secret)) if leaf.name == "redis_url" else "***" if secret else ""
    except ConfigError:
        return "***"


def warnings(environment: Mapping[str, str]) -> Iterator[str]:
    """Variables that look like settings and are none. Other programs may have theirs, so nothing else says so."""
    for name, near in unknown_variables(Settings, environment):
        if not name.startswith(_NOT_SETTINGS):
            yield f"{name} is no setting" + (f"; did you mean {near}?" if near else "")


def problems(settings: Settings) -> list[str]:
    """What no type says of a setting and a job would say when it starts, a sentence each."""
    found = []
    checks: dict[str, Callable[[str], object]] = {
        "redis_url": lambda _: server_address(settings),
        "job": lambda what: check_name(what, settings.job or ""),
    }
    for name, check in checks.items():
        origin = settings.origin(name)
        in_file = ":" in origin
        try:
            if getattr(settings, name) is not None:
                check(name if in_file else origin)
        except ConfigError as error:
            found.append(f"{origin}: {error}" if in_file else str(error))
    return found


def document(settings: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """For programs: by name."""
    return {row.name: {"value": row.value, "origin": row.origin, "description": row.description} for row in settings}


def show(settings: Sequence[Row]) -> None:
    """For people: a table on a terminal, elsewhere a line for each."""
    cells = [tuple(visible(str("" if cell is None else cell)) for cell in row) for row in settings]
    if not sys.stdout.isatty():
        widths = [max(len(row[column]) for row in cells) for column in range(3)]
        for name, value, origin, description in cells:
            line = f"{name:{widths[0]}}  {value:{widths[1]}}  {origin:{widths[2]}}  {description}"
            print(line)  # noqa: T201 - this is the output
        return
    table = Table("setting", "value", "origin", "meaning", box=None, pad_edge=False)
    for column in table.columns[:1]:
        column.no_wrap = True
    for name, value, origin, description in cells:
        given = "" if origin == "default" else "bold"
        table.add_row(Text(name, given), Text(value, given), Text(origin, given or "dim"), Text(description))
    Console().print(table)
