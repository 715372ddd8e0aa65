"""The reference join: each item with the version of a slowly changing table that was valid at its time.

================================================ =======================================================================
``ReferenceJoin(["tick"])``                      output
================================================ =======================================================================
row A: tick 1 from 0 s, row A: tick 5 from 10 s  nothing
trades of A at 4 s, 10 s and 12 s; W = 11 s      those at 4 s with ``tick`` 1, at 10 s with ``tick`` 5
row A: deleted from 12 s; then END               the trade at 12 s with ``tick`` None, counted (``unmatched``)
================================================ =======================================================================

Give the table to every partition: ``dag.add_edge("table", "join", broadcast=True, input="reference")``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from market_data_pipeline.frame import Array, Columns, Frame
from market_data_pipeline.operators.field_names import read_by_join
from market_data_pipeline.operators.joins.asof import LatestJoin
from market_data_pipeline.operators.joins.keyed import Chunk, object_array, plain_column
from market_data_pipeline.operators.joins.pairs import Combine, How, check_pairs, value_of
from market_data_pipeline.operators.keys import check_field
from market_data_pipeline.operators.lateness import LatePolicy, check_late_policy

REFERENCE: Final = "reference"
"""The input of the table's rows."""
_GONE = "\0gone"


class ReferenceJoin(LatestJoin):
    """Each item of the usual input with the row of the input ``reference`` that has an equal ``key`` and the largest
    ``ts_event`` (valid from) at or before the item's; of equal times the row that came last.

    A row stands until the next one of its key. A row whose field named by ``deleted`` is true ends it: from then on there is
    none. Results are made as by :class:`~market_data_pipeline.operators.joins.asof.AsofJoin`: ``fields`` of the row beside the
    item's own (``right_prefix`` where a name is taken), or ``combine(item, row)``; without a version ``None`` for them, or with
    ``how="inner"`` nothing; both are counted (``unmatched``).

    Before a version is known an item waits for the table: it comes out when the watermark, merged over both inputs, is above
    its time, by ``ts_event``. So the table's source must give watermarks, end, or be idle (``idle_after``). With
    ``wait=False`` an item is joined at once with what is known by then, in order of arrival; then results depend on how the
    two inputs interleave.

    Rows behind the watermark are counted (``late_right``, on a broadcast edge in every partition) and stand for the items
    that come out later, unless a newer version does. Items behind the watermark are counted (``late``) and dropped, or with
    ``late="side_output"`` sent to ``late``.
    State: the items that wait, the newest version of each key that the watermark has passed (a deleted one too, so that no
    late row brings it back), and all versions later than that. On a broadcast edge every partition holds the whole table.
    """

    right_input = REFERENCE
    inputs = ("", REFERENCE)

    def __init__(
        self,
        fields: Sequence[str] = (),
        key: str = "symbol",
        how: How = "left",
        wait: bool = True,
        deleted: str = "deleted",
        right_prefix: str = "reference_",
        combine: Combine | None = None,
        late: LatePolicy = "drop",
    ) -> None:
        self.fields = check_pairs(fields, how, combine)
        self.key = check_field(key, "key")
        self.how: How = how
        self.wait = wait
        self.deleted = check_field(deleted, "deleted")
        self.right_prefix = check_field(right_prefix, "right_prefix")
        self.combine = combine
        self.late = check_late_policy(late, ("drop", "side_output"))
        self._prepare()

    fields_read = read_by_join

    def _take_left(self, chunk: Chunk) -> Iterable[Frame]:
        if self.wait:
            return super()._take_left(chunk)
        chunk = self._usable(chunk)
        return self._join(chunk, self._right.whole()) if len(chunk.ts) else ()

    def _right_fields(self) -> set[str]:
        return {*super()._right_fields(), self.deleted}

    def _payload(self, chunk: Chunk) -> Chunk:
        made = super()._payload(chunk)
        assert isinstance(made.items, Columns)
        if isinstance(chunk.items, Columns):
            flags = plain_column(chunk.items, self.deleted)
        else:
            flags = object_array((value_of(row, self.deleted) for row in chunk.items), len(chunk.ts))
        return made._replace(items=Columns("", {**made.items.data, _GONE: flags.astype(bool)}))

    def _matches(self, ts: Array, rights: Chunk, at: Array) -> Array:
        assert isinstance(rights.items, Columns)
        return np.logical_not(rights.items.array(_GONE)[at])

    def _late_right(self, chunk: Chunk) -> None:
        self.ctx.count("late_right", len(chunk.ts))
        self._stand(chunk)
