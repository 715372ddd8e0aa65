"""What is to run: a Dag or Pipeline that somebody holds, or the name of a program or file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from market_data_pipeline.app import load_app
from market_data_pipeline.catalog.dump import dump
from market_data_pipeline.catalog.load import dag_of
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.errors import ConfigError


@dataclass(frozen=True)
class Told:
    """A program as other processes are told it: a name with ``name=value`` for its parameters, and what their environment
    needs; ``document`` is the file's text where the program is none yet. ``dag`` is what they load: what a script that runs
    has defined goes by another name there than here, which makes another plan."""

    dag: Dag
    app: str
    sets: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    document: str | None = None

    def written(self, folder: Path) -> Told:
        """The same with its document as a file in ``folder``, for its owner's eyes alone."""
        if self.document is None:
            return self
        path = folder / self.app
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self.document)
        return Told(self.dag, str(path), self.sets, self.environment)


@dataclass(frozen=True)
class Program:
    """The validated Dag of what is to run; ``name`` and ``values`` say where other processes find it, without a name it must
    be written down for them."""

    dag: Dag
    name: str | None = None
    values: Mapping[str, str] | None = None

    @classmethod
    def of(cls, what: Runnable, values: Mapping[str, object] | None = None) -> Program:
        """``values`` fill the parameters of a program that is given by name, as ``--set`` does. Raises ``ConfigError`` and
        ``DagValidationError``."""
        if isinstance(what, str):
            given = {name: _text(name, value) for name, value in (values or {}).items()}
            return cls(load_app(what, given), what, given)
        if values:
            raise ConfigError(f"values: {', '.join(values)}: only a program that is given by its name takes values")
        if isinstance(what, Program):
            return what
        if isinstance(what, Pipeline):
            return cls(what.build())
        if not isinstance(what, Dag):
            raise ConfigError(
                f"{what!r:.100} cannot be run; needed: a Dag, a Pipeline, or the name of a program ('bars.py:pipeline',"
                " 'bars.yaml')"
            )
        what.validate()
        return cls(what)

    def told(self) -> Told:
        """How other processes learn of it. Raises ``ConfigError`` for a Dag that cannot be written down."""
        if self.name is None:
            dumped = dump(self.dag)
            dag = dag_of(dumped.document, {}, environment={**os.environ, **dumped.environment})
            return Told(dag, "program.json", (), dumped.environment, json.dumps(dumped.document, indent=1))
        sets = tuple(f"{name}={value}" for name, value in (self.values or {}).items())
        found = [str(Path(folder).absolute()) for folder in sys.path if os.pathsep not in folder]
        return Told(self.dag, self.name, sets, {"PYTHONPATH": os.pathsep.join(found)})


Runnable = Dag | Pipeline | str | Program
"""A Dag, a Pipeline, a name (``bars.py``, ``bars.py:pipeline``, ``package.module:dag``, ``bars.yaml``), or a program found
before."""


def _text(name: str, value: object) -> str:
    if not isinstance(value, str | int | float | Path):
        raise ConfigError(
            f"values: {name}={value!r}: a {type(value).__name__} is not allowed; give text, a number, a bool or a Path"
        )
    return str(value)
