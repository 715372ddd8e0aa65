"""The ways in which a case is played, and the comparison with what it expects."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from market_data_pipeline.frame import NO_MARK, Items
from market_data_pipeline.records import field as field_of

from .bench import Bench
from .case import Case, Step
from .items import Expected, as_columns, surplus

Frames = Literal["given", "single", "joined"]


class Mismatch(AssertionError):
    """The operators did something else than the case expects; the message names file, case, variant and field."""


@dataclass(frozen=True)
class Variant:
    """One way to play a case.

    ``frames``: as given; every item alone; or one frame for all items between two marks, the mark in it. ``columns``: items
    travel as columns where they can. ``shuffle``: seed of a permutation within the allowed disorder. ``partitions``: how many
    instances share the keys. ``restart``: before everything that happens, a new instance goes on from the stored state.
    """

    frames: Frames = "given"
    columns: bool = False
    shuffle: int | None = None
    partitions: int = 1
    restart: bool = False

    def __str__(self) -> str:
        parts = [self.frames, "columns" if self.columns else "rows"]
        parts += [] if self.shuffle is None else [f"shuffled{self.shuffle}"]
        parts += [] if self.partitions == 1 else [f"{self.partitions}partitions"]
        return "-".join([*parts, *(["restarts"] if self.restart else [])])


VARIANTS = (
    *(Variant(frames, columns) for columns in (False, True) for frames in ("given", "single", "joined")),
    *(Variant("joined", columns, shuffle=seed) for seed, columns in ((1, False), (2, True))),
    *(Variant("single", shuffle=seed) for seed in (3, 4)),
    *(Variant("given", columns, partitions=n) for columns in (False, True) for n in (2, 8)),
    *(Variant(frames, columns, restart=True) for columns in (False, True) for frames in ("given", "single", "joined")),
    Variant("single", True, shuffle=5, partitions=2, restart=True),
    Variant("joined", True, shuffle=6, partitions=8, restart=True),
)


def variants_of(case: Case) -> list[Variant]:
    """The ways that make sense for ``case``: no shuffling where order is its meaning, no splitting without a key."""
    return [
        variant
        for variant in VARIANTS
        if not (case.fixed and variant.shuffle is not None) and not (case.key is None and variant.partitions > 1)
    ]


@dataclass(frozen=True)
class _Move:
    """One call: a frame (or only a mark) from an input, or the clock, or pressure."""

    input: str = ""
    items: tuple[Any, ...] = ()
    mark: int = NO_MARK
    now: int | None = None
    pressed: bool | None = None


@dataclass(frozen=True)
class _Stretch:
    """Steps whose results are compared together, and the moves they became."""

    steps: tuple[Step, ...]
    moves: tuple[_Move, ...]


def play(case: Case, variant: Variant) -> None:
    """Play ``case``. Raises :class:`Mismatch`."""
    bench = Bench(case, variant.partitions)
    ordered = case.fixed and variant.partitions == 1
    for stretch in stretches(case, variant):
        for move in stretch.moves:
            if variant.restart:
                bench.restart()
            _make(bench, move, variant.columns)
        _check_stretch(case, variant, stretch.steps, bench, ordered)
    _check_end(case, variant, bench)


def _make(bench: Bench, move: _Move, columns: bool) -> None:
    if move.now is not None:
        bench.tick(move.now)
    elif move.pressed is not None:
        bench.press(move.pressed)
    else:
        items: Items = list(move.items)
        bench.feed(move.input, as_columns(list(move.items)) if columns and items else items, move.mark)


def stretches(case: Case, variant: Variant) -> Iterator[_Stretch]:
    """``case`` cut for comparison: each step by itself as given, else all items between two marks (and that mark, where it
    travels with them) together."""
    if variant.frames == "given" and variant.shuffle is None:
        for step in case.steps:
            yield _Stretch((step,), tuple(_as_given(step)))
        return
    rng = random.Random(variant.shuffle)
    waiting: list[Step] = []
    for step in case.steps:
        waiting.append(step)
        if not step.items or (case.fixed and case.sources):  # there, each frame of the source has a mark of its own
            yield from _cut(case, variant, tuple(waiting), rng)
            waiting = []
    if waiting:
        yield from _cut(case, variant, tuple(waiting), rng)


def _cut(case: Case, variant: Variant, steps: tuple[Step, ...], rng: random.Random) -> Iterator[_Stretch]:
    """Steps of items, and what ends them (a mark, the clock) behind them where something does."""
    pairs = [pair for step in steps for pair in step.items]
    if variant.shuffle is not None:
        pairs = _shuffled(case, pairs, rng)
    if variant.frames == "joined":
        yield _Stretch(steps, tuple(_joined(case, pairs, steps[-1])))
        return
    bringing = tuple(step for step in steps if step.items)
    yield _Stretch(bringing, tuple(_Move(name, (item,)) for name, item in pairs))
    yield from (_Stretch((step,), tuple(_as_given(step))) for step in steps[len(bringing) :])


def _as_given(step: Step) -> Iterator[_Move]:
    if step.now is not None or step.pressed is not None:
        yield _Move(now=step.now, pressed=step.pressed)
    for name, items in _runs(step.items):
        yield _Move(name, items)
    for name, mark in step.marks.items():
        yield _Move(name, mark=mark)


def _runs(pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, tuple[Any, ...]]]:
    """Neighbours from the same input, together."""
    runs: list[tuple[str, tuple[Any, ...]]] = []
    for name, item in pairs:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, (*runs[-1][1], item))
        else:
            runs.append((name, (item,)))
    return runs


def _joined(case: Case, pairs: list[tuple[str, Any]], step: Step) -> Iterator[_Move]:
    """As few frames as the order allows; the last one carries its input's mark."""
    if not case.fixed:
        first = list(dict.fromkeys(name for name, _ in pairs))
        pairs = sorted(pairs, key=lambda pair: first.index(pair[0]))
    runs = _runs(pairs)
    last = runs[-1][0] if runs else ""
    for name, items in runs[:-1]:
        yield _Move(name, items)
    if runs:
        yield _Move(last, runs[-1][1], step.marks.get(last, NO_MARK))
    rest = {name: mark for name, mark in step.marks.items() if name != last}
    yield from _as_given(Step(step.at, marks=rest, now=step.now, pressed=step.pressed))


def _shuffled(case: Case, pairs: list[tuple[str, Any]], rng: random.Random) -> list[tuple[str, Any]]:
    """A permutation within the allowed disorder: any between two marks; where a source makes its own, up to max_delay."""

    def place(pair: tuple[str, Any]) -> tuple[int, float]:
        source = case.sources.get(pair[0])
        if source is None or source.max_delay is None:
            return 0, rng.random()
        return int(field_of(pair[1], "ts_event")) + rng.randint(0, source.max_delay), rng.random()

    if not case.sources:
        return rng.sample(pairs, len(pairs))
    return [pair for _, pair in sorted(((place(pair), pair) for pair in pairs), key=lambda placed: placed[0])]


def _check_stretch(case: Case, variant: Variant, steps: tuple[Step, ...], bench: Bench, ordered: bool) -> None:
    found = bench.take()
    ports = dict.fromkeys([*found, *(port for step in steps for port in step.out)])
    for port in ports:
        expected = [wanted for step in steps for wanted in step.out.get(port, ())]
        where = " + ".join(f"{step.at}.{f'to.{port}' if port else 'out'}" for step in steps)
        _check(case, variant, where, expected, found.get(port, []), ordered)
    for step in steps[-1:]:  # what stands before it in a stretch is not looked at in between
        if step.watermark not in (None, bench.watermark()):
            raise _mismatch(
                case, variant, f"{step.at}.watermark", [f"{step.watermark} expected, is {bench.watermark()}"]
            )
        if step.idle_out not in (None, bench.idle_out()):
            raise _mismatch(case, variant, f"{step.at}.idle_out", [f"{step.idle_out} expected"])


def _check_end(case: Case, variant: Variant, bench: Bench) -> None:
    _check(case, variant, "rejected", case.rejected, bench.rejected, ordered=False)
    letters = {"dead_letter": len(case.rejected)} if case.rejected else {}
    counts: Mapping[str, int] = {**letters, **case.counts}
    for name in dict.fromkeys([*counts, *bench.counts()]):
        if counts.get(name, 0) != bench.counts()[name]:
            text = f"{counts.get(name, 0)} expected, counted {bench.counts()[name]}"
            raise _mismatch(case, variant, f"counts.{name}", [text])
    if case.state not in (None, bench.stored()):
        raise _mismatch(case, variant, "state", [f"{case.state} pieces expected, there are {bench.stored()}"])


def _check(
    case: Case, variant: Variant, where: str, expected: Iterable[Expected], found: list[Any], ordered: bool
) -> None:
    wrong = surplus(list(expected), found, lambda wanted, item: wanted.matches(item, ordered), ordered)
    if wrong:
        raise _mismatch(case, variant, where, [f"{what} {value!r}" for what, value in wrong])


def _mismatch(case: Case, variant: Variant, where: str, lines: list[str]) -> Mismatch:
    return Mismatch("\n  ".join([f"{case} [{variant}]: {where}:", *lines]))
