"""Which partitions a worker asks for, before it is known how many there are. No I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.store.keys import check_name

_FORM = re.compile(r"(\d+)(?:([-/])(\d+))?", re.ASCII)
_NAME_LENGTH = 40
_POD_NAME = re.compile(r"[a-z0-9.-]{1,253}")


@dataclass(frozen=True)
class Pins:
    """What ``--partition`` said: ranges (first, last), and slices (i, n), the i-th (from 0) of n parts of all partitions."""

    ranges: tuple[tuple[int, int], ...] = ()
    slices: tuple[tuple[int, int], ...] = ()

    def of(self, partitions: int) -> tuple[int, ...]:
        """Those of ``partitions`` that are asked for, sorted. Raises ``ConfigError`` for one that does not exist."""
        wanted: set[int] = set()
        for first, last in self.ranges:
            if last >= partitions:
                raise ConfigError(f"--partition {last}: the job has partitions 0 to {partitions - 1}")
            wanted.update(range(first, last + 1))
        for i, n in self.slices:
            if n > partitions:
                raise ConfigError(f"--partition {i}/{n}: the job has {partitions} partitions, too few for {n} slices")
            wanted.update(range(i * partitions // n, (i + 1) * partitions // n))
        return tuple(sorted(wanted))


def parse_pins(values: Sequence[str]) -> Pins:
    """``("0", "2-4", "1/3")``: partition 0, partitions 2 to 4, the second third of all. Raises ``ConfigError``."""
    ranges, slices = [], []
    for value in values:
        match = _FORM.fullmatch(value)
        if match is None:
            raise ConfigError(f"--partition {value!r}: write a number, a range such as 0-3, or a slice such as 0/4")
        first, second = int(match[1]), int(match[3] or match[1])
        if match[2] != "/":
            if second < first:
                raise ConfigError(f"--partition {value!r}: a range goes from the smaller number to the larger")
            ranges.append((first, second))
        elif first >= second:
            raise ConfigError(f"--partition {value!r}: of N slices the first is 0/N and the last N-1/N")
        else:
            slices.append((first, second))
    return Pins(tuple(ranges), tuple(slices))


def legal_name(what: str, name: str) -> str:
    """``name``, or what stands for it in keys when it is a pod's name, with dots or too long: its beginning and end with some
    digits of its hash between them. Raises ``ConfigError`` naming ``what`` for other characters."""
    if ("." not in name and len(name) <= _NAME_LENGTH) or not _POD_NAME.fullmatch(name):
        return check_name(what, name)
    digits = hashlib.sha256(name.encode()).hexdigest()[:8]
    plain = name.replace(".", "-")
    if len(plain) + len(digits) + 1 <= _NAME_LENGTH:
        return f"{plain}-{digits}"
    return f"{plain[:14]}-{digits}-{plain[-16:]}"
