"""Saying which file of an index is damaged, where a search came upon it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rag.errors import Damaged
from rag.indexers.postings import Postings

FILES = {-2: "term_offsets", -3: "term_runs", -4: "run_starts", -5: "run_windows", -6: "rows"}
"""The array that each of the ``BAD_`` numbers of ``_kernels_search`` stands for."""


def refuse(part: Postings, found: NDArray[np.int64]) -> None:
    """Raise ``Damaged`` where a term's number says that the index is: see ``lookup``.

    Args:
        part: the mapped arrays of one segment.
        found: (t,) what ``lookup`` wrote for it.
    """
    if len(found) and (worst := int(found.min())) < -1:
        name = FILES[worst]
        file = getattr(getattr(part, name).base, "filename", f"{name}.npy")
        raise Damaged(
            f"{file}: is damaged: what it says of a term lies outside the index; "
            "'rag verify' names all damage, and 'rag index' from the source repairs it"
        )
