"""Conditions over the columns of a batch: those of ``where``, and ``answered``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.errors import InvalidInput
from rag.where import Where

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rag.batch import Batch
    from rag.stage import Columns

ANSWERED = "answered"
"""A name that conditions may use as if it were a column: whether the answer says anything."""


def check(condition: Where, have: Columns, place: str) -> None:
    """Whether the columns that ``condition`` compares are there, with types that fit.

    Raises:
        MissingColumn: one is absent.
        InvalidInput: a value does not fit a column's type; the message starts with ``place``.
    """
    have.need(*sorted(_columns(condition)))
    try:
        condition.check({**have.types, ANSWERED: "bool"})
    except InvalidInput as error:
        raise InvalidInput(f"{place}: {str(error).removeprefix('where: ')}") from None


def holds(condition: Where, batch: Batch) -> NDArray[np.bool_]:
    """For which rows the ``condition`` holds, (rows,) bool; null passes no comparison."""
    import pyarrow as pa

    types = {"str": pa.string(), "float": pa.float32(), "bool": pa.bool_(), "null": pa.null()}
    kinds = {"id": "str", **batch.columns}
    columns = {}
    for name in sorted(_columns(condition)):
        if kinds[name] not in types:
            raise InvalidInput(f"column {name!r} is {kinds[name]}, which cannot be compared")
        columns[name] = pa.array(batch[name], types[kinds[name]])
    if ANSWERED in condition.fields():
        said = [answer is not None and bool(answer.strip()) for answer in batch["answer"]]
        columns[ANSWERED] = pa.array(said, pa.bool_())
    mask: NDArray[np.bool_] = condition.mask(pa.table(columns))
    return mask


def _columns(condition: Where) -> set[str]:
    """The columns that a condition reads."""
    return {"answer" if name == ANSWERED else name for name in condition.fields()}
