"""Saying which file of an index is damaged, where a search came upon it."""

from __future__ import annotations

from rag.errors import Damaged
from rag.indexers.postings import Postings

ROWS = "rows", "long_runs", "long_starts", "long_highs", "long_lows"
"""The arrays that say of postings in which rows they are."""
FILES = {
    -2: ("terms", "group_texts"),
    -3: ("group_runs", "terms"),
    -4: ("run_starts", "long_starts"),
    -5: ("run_windows",),
    -6: ROWS,
}
"""The arrays, one of them wrong, that each ``BAD_`` number of ``_kernels_terms`` stands for."""


def damaged(part: Postings, fault: int) -> Damaged:
    """The error for a number in place of a term's runs that says that the index is damaged.

    Args:
        part: the mapped arrays of one segment.
        fault: the number, one of ``FILES``.
    """
    return outside(part, *FILES[fault])


def outside(part: Postings, *names: str) -> Damaged:
    """The error for an array, or one of several, whose values point outside the index."""
    arrays = {name: getattr(part, name).base for name in names}
    files = " or ".join(
        str(getattr(array, "filename", f"{name}.npy")) for name, array in arrays.items()
    )
    return Damaged(
        f"{files}: is damaged: what it says of a term lies outside the index; "
        "'rag verify' names all damage, and 'rag index' from the source repairs it"
    )
