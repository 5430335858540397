"""For those who write stages: passages in memory, and the conformance test of a stage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rag.batch import Batch
from rag.errors import NotFound
from rag.nesting import as_mapping, as_stage
from rag.ranking import Ranking
from rag.run import Cancel, Run
from rag.stage import Columns, Context, Stage


class MemorySnapshot:
    """A snapshot of a few passages: rows of ``id``, ``title`` and ``text``, numbered from 0."""

    def __init__(self, passages: Sequence[Mapping[str, Any]]) -> None:
        """Hold the passages; a missing title is empty, a missing id is the row number."""
        rows = [
            {"id": str(number), "document": str(passage.get("id", number)), "title": "", **passage}
            for number, passage in enumerate(passages)
        ]
        empty = {name: pa.array([], pa.string()) for name in ("id", "document", "title", "text")}
        self._table = pa.Table.from_pylist(rows) if rows else pa.table(empty)
        self._numbers = {row["id"]: number for number, row in enumerate(rows)}
        digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
        self.identity = f"memory-{digest[:12]}"

    def rows(self, numbers: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """The ``columns`` of the passages with these ``numbers``, in this order."""
        return self._table.select(list(columns)).take(pa.array(numbers, pa.int64()))

    def numbers(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The number of each id, (n,) int64; ``NotFound`` names one that is absent."""
        for name in ids:
            if name not in self._numbers:
                raise NotFound(f"{self.identity}: no passage {name!r}")
        return np.array([self._numbers[name] for name in ids], np.int64)


def check_stage(stage: Stage, batch: Batch, *, context: Context | None = None) -> Batch:
    """Run ``stage`` on ``batch`` and assert that it keeps the contract of ``rag.stage``.

    The settings survive JSON, the columns that the stage announces are the ones it writes, rows
    keep their ids and order (cancelled ones, too), a batch of one gives what the whole batch
    gives, no rows at all do no harm, and rows that fail are reported by ``run.fail``.

    Returns:
        The batch after the stage.

    Raises:
        AssertionError: a clause does not hold; the message says which.
    """
    again = type(stage).model_validate_json(stage.model_dump_json())
    assert again == stage, f"{stage.label}: the settings do not survive JSON"
    if stage.kind:
        inside = as_stage(as_mapping(stage))
        assert inside == stage, f"{stage.label}: the settings do not survive in another stage"
    have = Columns({"id": "str", **batch.columns}).at(stage.label)
    promised = stage.columns(have).types
    step = stage.open(context or Context())
    try:
        run = Run()
        after = step(batch, run)
        assert after.ids == batch.ids, f"{stage.label}: the rows or their order changed"
        assert after["question"] == batch["question"], f"{stage.label}: question was overwritten"
        written: dict[str, str] = {"id": "str", **after.columns}
        assert set(written) == set(promised), (
            f"{stage.label}: announces {sorted(promised)} and writes {sorted(written)}"
        )
        for name, kind in written.items():
            if _fits(after[name], promised[name]):
                kind = promised[name]  # its values are of no type of their own
            assert kind == promised[name], (
                f"{stage.label}: announces {name} as {promised[name]} and writes {kind}"
            )
        for row in range(len(batch)):
            if row not in run.failed:
                alone = step(batch.take([row]), Run())
                _assert_same(stage.label, alone, after.take([row]))
        assert len(step(batch.take([]), Run())) == 0, f"{stage.label}: fails without rows"
        cancel = Cancel()
        cancel.all()
        unwanted = step(batch, Run(cancel=cancel, rows=range(len(batch))))
        assert unwanted.ids == batch.ids, f"{stage.label}: loses rows that are cancelled"
    finally:
        close = getattr(step, "close", None)
        if close is not None:
            close()
    return after


def _fits(column: Any, kind: str) -> bool:
    """Whether a column holds only nulls, or only nulls and empty lists where lists go."""
    empty = ((), None) if kind in ("texts", "citations") else (None,)
    return not isinstance(column, Ranking) and all(value in empty for value in column)


def _assert_same(label: str, alone: Batch, together: Batch) -> None:
    for name in together.columns:
        assert name in alone, f"{label}: a row alone has no column {name}"
        left, right = alone[name], together[name]
        if isinstance(left, Ranking) and isinstance(right, Ranking):
            same = np.array_equal(left.docs, right.docs)
            same = same and np.allclose(left.scores, right.scores, equal_nan=True)
        else:  # as batches, in which NaN equals NaN
            same = Batch(alone.ids, {name: left}) == Batch(alone.ids, {name: right})
        assert same, f"{label}: a row alone gives another {name} than in a batch"
