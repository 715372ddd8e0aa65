"""Parameters and the environment in a document: ``${name}``, ``${env:NAME}``; ``$${`` is a literal ``${``.

A text that is nothing but ``${name}`` becomes the parameter's value with its type; inside a text it is text. Keys are not
filled, and neither is what was filled in: a value that holds ``${`` stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Self

from market_data_pipeline.catalog.text import Place
from market_data_pipeline.hints import nearest

_MARK = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_ENVIRONMENT = "env:"
_SHORTEST_SECRET = 4
_SURE = 20
"""So many letters of a secret are one, where a message was cut behind them."""


class Filled(str):
    """Text that is not from the document itself. ``given``: by ``--set`` or the environment, where all is text, so that it
    becomes what its place wants (``"5"`` a number). ``secret``: of the environment, which no message shows."""

    given: bool
    secret: bool

    def __new__(cls, text: str, given: bool = False, secret: bool = False) -> Self:
        made = super().__new__(cls, text)
        made.given = given
        made.secret = secret
        return made


Told = Callable[[Place, str], None]
"""Takes a place in a document and what is wrong there; nothing, where that was told already."""
MISSING = object()
"""A parameter that should have been given a value."""


@dataclass(frozen=True)
class Filling:
    """What a document is filled with, and whom to tell of what is not there."""

    parameters: Mapping[str, Any]
    environment: Mapping[str, str]
    unfilled: Told
    secrets: set[str] = field(default_factory=set)
    """What was taken from the environment."""

    def filled(self, value: Any, place: Place = ()) -> Any:
        """``value`` with everything filled in; what cannot be stays as it is written, and ``unfilled`` is told of it."""
        if isinstance(value, Mapping):
            return {key: self.filled(item, (*place, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.filled(item, (*place, number)) for number, item in enumerate(value)]
        if isinstance(value, PurePath):
            return str(value)
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            return self._text(value)
        except _NotThere as error:
            self.unfilled(place, str(error))
            return value

    def _text(self, text: str) -> Any:
        whole = _MARK.fullmatch(text)
        if whole is not None and whole[1] is not None:
            return self._value(whole[1])
        secret = False

        def part(match: re.Match[str]) -> str:
            nonlocal secret
            if match[0] == "$${":
                return "${"
            if match[1] is None:
                raise _NotThere("'${' has no '}'; a literal '${' is written '$${'")
            value = self._value(match[1])
            if value is None or isinstance(value, dict | list):
                raise _NotThere(f"${{{match[1]}}} is not text, so it cannot be inside a text")
            secret = secret or (isinstance(value, Filled) and value.secret)
            return str(value).lower() if isinstance(value, bool) else str(value)

        made = _MARK.sub(part, text)
        return Filled(made, secret=True) if secret else made

    def _value(self, name: str) -> Any:
        if name.startswith(_ENVIRONMENT):
            variable = name[len(_ENVIRONMENT) :]
            if variable not in self.environment:
                raise _NotThere(f"the environment has no variable {variable!r}; set it, or write another value here")
            self.secrets.add(self.environment[variable])
            return Filled(self.environment[variable], given=True, secret=True)
        if self.parameters.get(name) is MISSING:
            raise _NotThere
        if name not in self.parameters:
            there = ", ".join(self.parameters) or "none"
            raise _NotThere(f"there is no parameter {name!r:.60}; there are: {there}{nearest(name, self.parameters)}")
        return self.parameters[name]


class _NotThere(Exception):
    """What is to be filled in cannot be."""


def hidden(text: str, secrets: Iterable[str]) -> str:
    """``text`` with ``***`` for each of ``secrets`` of more than three letters: as it is, as ``repr`` writes it, and cut."""
    forms = {form for secret in secrets if len(secret) >= _SHORTEST_SECRET for form in (secret, repr(secret)[1:-1])}
    for form in sorted(forms, key=len, reverse=True):  # one may begin with another
        text = text.replace(form, "***")
    long = [form for form in forms if len(form) > _SURE]
    for form in long:
        while (start := text.find(form[:_SURE])) >= 0:
            shared = max(_shared(other, text[start:]) for other in long)
            text = f"{text[:start]}***{text[start + shared :]}"
    return text


def _shared(one: str, other: str) -> int:
    """How many letters both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
