"""Windows on event time: aggregations per window and key, and the tumbling window of whole items.

====================================================================== ====================================================
``WindowAggregate(Tumble("1s"), {"n": Count(), "high": Max("price")})`` emitted
====================================================================== ====================================================
A 0.2 s 10.0, A 0.9 s 12.0, A 1.1 s 9.0; W = 1 s                       A ``[0 s, 1 s)`` n = 2, high = 12.0
A 0.5 s 99.0 (late, counted); the end of input                         A ``[1 s, 2 s)`` n = 1, high = 9.0
====================================================================== ====================================================

====================================== =====================================
TumblingWindow("1s"), watermarks       output
====================================== =====================================
items at 0.2 s, 0.9 s, 1.1 s; W = 1 s  ``Window(None, 0 s, 1 s, [0.2, 0.9])``
item at 0.5 s (late, counted); end     ``Window(None, 1 s, 2 s, [1.1])``
====================================== =====================================

How it is built: ``window_input`` reads rows and columns into one form; a ``Book`` (``window_book``, ``session``) knows which
windows are open and when they fire; ``accumulators`` is the table in which the ``aggregations`` stand; ``window_results`` makes
items of what is emitted. ``windows`` are the values that say which windows there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from market_data_pipeline.durations import Duration, positive_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import NO_MARK, Frame, Items
from market_data_pipeline.operators.accumulators import Accumulators
from market_data_pipeline.operators.aggregations import Aggregation, ItemList
from market_data_pipeline.operators.base import Operator, OperatorContext
from market_data_pipeline.operators.fold import Fold
from market_data_pipeline.operators.keys import check_field
from market_data_pipeline.operators.lateness import LATE, Lateness, LatePolicy, check_late_policy
from market_data_pipeline.operators.session import SessionBook
from market_data_pipeline.operators.window_book import Book, CountBook, Emitting, TimeBook
from market_data_pipeline.operators.window_input import Key, WindowInput
from market_data_pipeline.operators.window_results import Emission, FlatItems, Shape, frames
from market_data_pipeline.operators.windows import CountWindow, Hop, Session, Tumble, Windows
from market_data_pipeline.records import FieldNames, Window, fields_of

_RESERVED = ("ts_open", "ts_close", "revision", "is_final", "retracted")


class _Windowed(Operator):
    """Items into a book of windows, and what comes out of it into items."""

    accepts: ClassVar[Literal["any"]] = "any"
    outputs = (LATE,)
    keeps = "open windows"

    def _start(self, book: Book, source: WindowInput, lateness: Lateness, shape: Shape) -> None:
        self._book, self._input, self._lateness, self._shape = book, source, lateness, shape

    def open(self, ctx: OperatorContext) -> None:
        super().open(ctx)
        self._book.ctx = self._book.store.ctx = ctx

    def required_outputs(self) -> tuple[str, ...]:
        return self._lateness.required_outputs

    def process(self, frame: Frame) -> Iterable[Frame]:
        batch = self._input.read(frame.items, self.ctx)
        if not len(batch):
            return ()
        with np.errstate(all="ignore"):  # sums may grow out of the range of floats, and are inf then
            results, late = self._book.add(batch)
            made = frames(results, self._shape)
        if late is not None:
            self.ctx.count("late", int(late.sum()))
            if self._lateness.passes_on:
                made.append(Frame(batch.only(late), port=LATE))
        return made

    def advance(self, watermark: int) -> Iterable[Frame]:
        with np.errstate(all="ignore"):
            return frames(self._book.advance(watermark), self._shape)

    def snapshot(self) -> dict[str, bytes | None]:
        return self._book.snapshot()

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        self._book.restore(state, watermark)


class WindowAggregate(_Windowed):
    """One item per window and ``key`` with the values of ``aggregations`` (name -> what is computed).

    ``windows``: :class:`Tumble`, :class:`Hop`, :class:`Session` or :class:`CountWindow`. ``key``: a field's name, several
    names (a tuple), a function of the item (its result comes out as ``key``) or ``None`` (one group). ``ts``: the field with
    the event time (ns) or a function. Items come out flat: the key's fields, ``ts_open``, ``ts_close``, ``revision`` (0, 1,
    ...), ``is_final``, and each aggregation under its name; with sessions that may be emitted more than once also
    ``retracted`` (see :mod:`~market_data_pipeline.operators.session`). By ``ts_open``, then keys by first arrival.

    ``late`` and ``allowed_lateness``: see :mod:`~market_data_pipeline.operators.lateness`. An item that is late for all its
    windows is counted ``late``; one that is late for some, ``late_partly``; one that falls into the gap of ``Hop`` windows,
    ``outside``. Early emissions, not final: ``early_items`` (n) after each n-th item of a window, ``early_every`` (t) when
    the watermark passes ``ts_open`` + k t for any k >= 1 and the window changed since it was last emitted; both end when the
    window fires. A firing shows only what changed since the last emission, but the final one always comes. Where few keys
    have many items, an early emission by count costs some 50 us. A count window fires at once when it is full, takes no part
    in lateness and has no early emissions.

    Columns are used as they are if key, time and the fields of aggregations are names of plain columns. Items without key or
    time, or whose fields are no finite numbers, go the way of the error policy. State: some 33 bytes a window and key, and the
    aggregations' own (8 to 24 bytes, but for ``ItemList``, ``Fold`` and ``Quantile``), besides the key.
    """

    def __init__(
        self,
        windows: Windows,
        aggregations: Mapping[str, Aggregation],
        key: Key = "symbol",
        ts: str | Callable[[Any], int] = "ts_event",
        late: LatePolicy = "drop",
        allowed_lateness: Duration = 0,
        early_items: int | None = None,
        early_every: Duration | None = None,
    ) -> None:
        if not isinstance(aggregations, Mapping):
            raise ConfigError(f"aggregations: {aggregations!r} is no mapping; write for example {{'n': Count()}}")
        self.windows = windows
        self.aggregations = dict(aggregations)
        self.key, self.ts = key, _checked_ts(ts)
        lateness = Lateness.of(late, allowed_lateness)
        self.late, self.allowed_lateness = lateness.policy, lateness.allowed
        self.early_items = early_items
        self.early_every = None if early_every is None else positive_duration(early_every, "early_every")
        names = _key_names(key)
        _check_windows(windows, lateness, early_items, early_every)
        _check_aggregations(self.aggregations, windows, names)
        used = list(self.aggregations.values())
        emitting = Emitting(lateness, early_items, self.early_every)
        self._start(
            _book(windows, used, emitting),
            WindowInput(ts, key, _fields(one.numbers for one in used), _fields(one.scalars for one in used)),
            lateness,
            FlatItems(names, isinstance(key, tuple), self.aggregations),
        )

    def fields_read(self, input: str = "") -> tuple[str, ...]:  # noqa: A002 - what it is
        used = self.aggregations.values()
        return _named(self.key, self.ts, *_fields([*(one.numbers for one in used), *(one.scalars for one in used)]))

    def fields_given(self, taken: FieldNames, output: str = "") -> FieldNames:
        return taken if output else frozenset((*_key_names(self.key), *self.aggregations, *_RESERVED))


def _fields(parts: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in parts for name in names))


def _named(*fields: Any) -> tuple[str, ...]:
    """Those of ``fields``, or of what they hold, that are names."""
    parts = _fields(one if isinstance(one, tuple) else (one,) for one in fields)
    return tuple(name for name in parts if isinstance(name, str))


def _book(windows: Windows, aggregations: list[Aggregation], emitting: Emitting) -> Book:
    if isinstance(windows, Session):
        return SessionBook(Accumulators(aggregations, spans=True), windows, emitting)
    if isinstance(windows, CountWindow):
        return CountBook(Accumulators(aggregations, spans=True), windows, emitting)
    return TimeBook(Accumulators(aggregations), windows, emitting)


def _key_names(key: Key) -> tuple[str, ...]:
    """The names under which the key comes out."""
    if key is None:
        return ()
    names = (key,) if isinstance(key, str) else ("key",) if callable(key) else key
    if not isinstance(names, tuple) or not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"key: {key!r} is not allowed; a field's name, a tuple of names, a function, or None")
    if len(set(names)) < len(names) or set(names) & set(_RESERVED):
        raise ConfigError(f"key: {key!r} has a name twice or one of: {', '.join(_RESERVED)}")
    return names


def _checked_ts(ts: Any) -> Any:
    return ts if callable(ts) else check_field(ts, "ts")


def _check_windows(windows: Any, lateness: Lateness, early_items: Any, early_every: Any) -> None:
    if not isinstance(windows, Hop | Session | CountWindow):
        raise ConfigError(f"windows: {windows!r} is not allowed; one of: Tumble, Hop, Session, CountWindow")
    if early_items is not None and (type(early_items) is not int or early_items < 1):
        raise ConfigError(f"early_items: {early_items!r} is not allowed; an int of at least 1, or None")
    if not isinstance(windows, CountWindow):
        return
    if lateness.policy != "drop":
        raise ConfigError(f"late: {lateness.policy!r} is not allowed with CountWindow, where no item is late")
    if early_items is not None or early_every is not None:
        raise ConfigError("early_items and early_every are not allowed with CountWindow; take a smaller n")


def _check_aggregations(aggregations: dict[str, Aggregation], windows: Windows, key_names: tuple[str, ...]) -> None:
    if not aggregations:
        raise ConfigError("aggregations: none given; write for example {'n': Count()}")
    for name, aggregation in aggregations.items():
        if not isinstance(aggregation, Aggregation):
            raise ConfigError(f"aggregations: {name!r} is {aggregation!r}; write for example Count(), Sum('size')")
        for field in (*aggregation.numbers, *aggregation.scalars):
            check_field(field, f"aggregations: {name!r}")
        if not isinstance(name, str) or not name or name in (*_RESERVED, *key_names):
            raise ConfigError(
                f"aggregations: {name!r} is not allowed as a name; a text other than: {', '.join((*key_names, *_RESERVED))}"
            )
        if isinstance(windows, Session) and isinstance(aggregation, Fold) and aggregation.merge_states is None:
            raise ConfigError(f"aggregations: {name!r}: a Fold needs merge= with Session, as sessions may become one")


class TumblingWindow(_Windowed):
    """Collects items per window and key, and emits :class:`Window` (as rows) when the watermark passes its end.

    ``ts`` names the time field (ns) or is a function of the item; ``key`` likewise, ``None`` for one group. Windows come
    out by start, keys within a window by first arrival. Late items are counted (``late``) and dropped, or with
    ``late="side_output"`` sent along the edge with ``output="late"``.
    """

    def __init__(
        self,
        size: Duration,
        ts: str | Callable[[Any], int] = "ts_event",
        key: str | Callable[[Any], Any] | None = None,
        align_to: Duration = 0,
        late: LatePolicy = "drop",
    ) -> None:
        windows = Tumble(size, align_to)
        self.size, self.align_to = windows.size, windows.align_to
        self.ts, self.key = _checked_ts(ts), key
        _key_names(key)
        self.late = check_late_policy(late, ("drop", "side_output"))
        lateness = Lateness(self.late)
        self._start(_book(windows, [ItemList()], Emitting(lateness)), WindowInput(ts, key), lateness, _whole)

    def fields_read(self, input: str = "") -> tuple[str, ...]:  # noqa: A002 - what it is
        return _named(self.key, self.ts)

    def fields_given(self, taken: FieldNames, output: str = "") -> FieldNames:
        return taken if output else fields_of("window")

    def time_of(self, item: Any) -> int:
        """The event time of ``item``, ns."""
        return self._input.time_of(item)


def _whole(results: Emission) -> Items:
    columns = (results.keys, results.opens.tolist(), results.closes.tolist(), results.values[0])
    return [Window(*row) for row in zip(*columns, strict=True)]
